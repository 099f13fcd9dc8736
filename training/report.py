"""What a training has made, as one page for those who must decide whether to trust it.

The page is a single file of HTML, CSS and SVG: it needs no network and no script, and the same
outcome gives the same bytes. Nothing is measured here but the residual of two windows.
"""

import base64
import html
import math
import struct
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Literal

import msgspec
import numpy as np
import numpy.typing as npt
from sklearn.metrics import roc_curve

from contract.features import FeatureParams, Float32Array
from contract.release import squeezed
from node.detector import Detector
from node.release_store import Release
from node.runtime import LoadedModel, Runtime
from training.dataset import Clip, Dataset, Domain
from training.evaluate import ClipRow, Line, Report
from training.feature_cache import ClipFeatures
from training.intervals import Spread
from training.metrics import MAX_FPR, Decision, Figures, Interval
from training.results import Environment
from training.runtime_trial import statistics
from training.scoring import stacked
from training.thresholds import SessionCheck

if TYPE_CHECKING:
    from training.autoencoders import Epoch
    from training.train import Outcome

Float64Array = npt.NDArray[np.float64]

_CHANCE = 0.5
_CRIES_WOLF = 0.1
"""Of normal clips flagged: whoever is called by more than these stops listening."""
_NO_BETTER = 0.02
"""Of F1 above that of flagging everything: less is worth nothing."""
_LOG_AXIS_FROM = 50.0
"""Largest number over the smallest, from which on a linear axis hides the small ones."""
_BINS = 28
_SHOWN_SESSIONS = 40


class ShownWindow(msgspec.Struct, frozen=True, kw_only=True):
    """One window, as the models see it and as they fail to repeat it."""

    clip: Clip
    number: int
    """Among the windows of the clip, from 1."""
    statistic: float
    features: Float32Array
    """Shape (coefficients, frames)."""
    residuals: tuple[Float32Array, ...]
    """Of each model, in the shape of its output without dimensions of one."""


def extreme_windows(
    release: Release, runtime: Runtime, clips: Sequence[ClipFeatures]
) -> tuple[ShownWindow, ...]:
    """The least and the most anomalous window, or the only one.

    Args:
        release: that judges.
        runtime: inference library.
        clips: with features of the release, of one window or more.
    """
    of_windows = statistics(Detector(release, runtime), stacked(clips))
    owners = [(clip, index) for clip in clips for index in range(len(clip.features))]
    rows = dict.fromkeys((int(np.argmin(of_windows)), int(np.argmax(of_windows))))
    shown = []
    for row in rows:
        clip, index = owners[row]
        features = clip.features[index]
        shown.append(
            ShownWindow(
                clip=clip.clip,
                number=index + 1,
                statistic=float(of_windows[row]),
                features=features,
                residuals=_residuals(release, runtime, features),
            )
        )
    return tuple(shown)


def _residuals(
    release: Release, runtime: Runtime, features: Float32Array
) -> tuple[Float32Array, ...]:
    found = []
    for model in release.manifest.models:
        output = LoadedModel(release.content(model), runtime)(features)
        if model.output == "reconstruction":
            output = features - output.reshape(features.shape)
        found.append(output.reshape(squeezed(output.shape)))
    return tuple(found)


def report_html(
    outcome: "Outcome",
    dataset: Dataset,
    *,
    windows: Sequence[ShownWindow],
    notes: Sequence[str],
    environment: Environment,
) -> str:
    """The page.

    Args:
        outcome: of the training.
        dataset: that it was trained and judged on.
        windows: least anomalous first; of test clips, or of held-out ones where there are none.
        notes: warnings that the training gave.
        environment: where it ran.
    """
    manifest = outcome.manifest
    report = outcome.report
    sections: list[_Markup | None] = [_verdict(outcome, dataset, notes)]
    if report is not None:
        sections += [_figures(report), _scores(report), _rocs(report)]
    sections += [_threshold(outcome), _held_out(outcome)]
    if report is not None:
        sections.append(_alarms(report))
    sections += [
        _windows(windows, outcome),
        _losses(outcome.losses),
        _models(outcome, environment),
        _seeds(outcome),
        _data(outcome, dataset),
        _recipe(outcome, environment),
    ]
    page = _tag(
        "html",
        _tag(
            "head",
            _tag("meta", charset="utf-8"),
            _tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
            _tag(
                "meta",
                http_equiv="Content-Security-Policy",
                content="default-src 'none'; img-src data:; style-src 'unsafe-inline'",
            ),
            _tag("title", f"{manifest.label}: what it can do and what not"),
            _tag("style", _Markup(_STYLE)),
        ),
        _tag("body", _tag("main", *filter(None, sections))),
        lang="en",
    )
    return f"<!DOCTYPE html>\n{page}\n"


def _verdict(outcome: "Outcome", dataset: Dataset, notes: Sequence[str]) -> "_Markup":
    manifest = outcome.manifest
    created = datetime.fromtimestamp(manifest.created_us / 1e6, UTC)
    report = outcome.report
    lead = _lead_without_faults(outcome) if report is None else _lead(report)
    remarks = [] if report is None else [_beside_yardsticks(report), *_at_threshold(report)]
    if outcome.session_check is not None:
        remarks.append(_sessions_remark(outcome.session_check))
    remarks.append(
        "It says how unlike the normal sound of its training a sound is, not what is broken, and"
        " only for this machine, microphone and place."
    )
    warnings = dict.fromkeys((*notes, *(() if report is None else report.warnings)))
    return _tag(
        "header",
        _tag("h1", manifest.label),
        _tag(
            "p",
            f"{dataset.machine} · {outcome.recipe.name} · {created:%Y-%m-%d %H:%M} UTC",
            class_="faint",
        ),
        _tag("p", lead, class_="verdict"),
        _tag("ul", *(_tag("li", text) for text in remarks)),
        *(
            [
                _tag(
                    "section",
                    _tag("h2", "Mind this"),
                    _tag("ul", *(_tag("li", text) for text in warnings)),
                    class_="warning",
                )
            ]
            if warnings
            else []
        ),
    )


def _lead_without_faults(outcome: "Outcome") -> str:
    return (
        "Nothing is known of how well it finds faults: there were no recordings labelled normal"
        " and anomaly to test it with. It has learned the normal sound of"
        f" {_count(outcome.train_files, 'recording')}, and can say no more than that a sound is"
        " unlike it."
    )


def _lead(report: Report) -> str:
    at_release = report.thresholds["release"].overall
    flagged = (
        f"at its threshold it flags {_of(at_release.tpr, at_release.anomaly_clips)} anomalous and"
        f" {_of(at_release.fpr, at_release.normal_clips)} normal recordings"
    )
    words, good = _separation(report.official, report.official_interval)
    cries_wolf = (at_release.fpr or 0.0) > _CRIES_WOLF
    misses = (at_release.tpr or 0.0) < _CHANCE
    but = "but" if good and (cries_wolf or misses) else "and"
    return f"Its scores {words}, {but} {flagged}."


def _separation(official: float | None, interval: Interval | None) -> tuple[str, bool]:
    """What an official score means, and whether that is good."""
    if official is None:
        return "cannot be judged on these recordings", False
    if (official if interval is None else interval[0]) <= _CHANCE:
        return "have not been shown to tell faults from normal sound better than chance", False
    for least, words in (
        (0.98, "tell faults from normal sound almost without a mistake"),
        (0.9, "tell most faults from normal sound"),
        (0.75, "tell faults from normal sound more often than not, with many mistakes"),
    ):
        if official >= least:
            return words, True
    return "tell faults from normal sound only a little better than chance", False


def _beside_yardsticks(report: Report) -> str:
    own = (
        f"Official score {_with_interval(report.official, report.official_interval)};"
        f" chance gives {_CHANCE}."
    )
    found = _best_yardstick(report)
    if report.official is None or found is None:
        return own
    name, best = found
    against = f"{_yardstick(name)} ({_with_interval(best.official, best.official_interval)})"
    if (best.official or 0.0) >= report.official:
        return (
            f"{own} What needs no network is as good or better: {against}. On these recordings the"
            " network earns nothing."
        )
    low = None if report.official_interval is None else report.official_interval[0]
    high = None if best.official_interval is None else best.official_interval[1]
    if low is None or high is None or low <= high:
        return (
            f"{own} The best that needs no network is {against}: the 95 % intervals overlap, so"
            " these recordings do not show that the network is better."
        )
    return f"{own} That is above all that needs no network, of which the best is {against}."


def _best_yardstick(report: Report) -> tuple[str, Line] | None:
    """By official score; random numbers are none."""
    known = [
        (name, line)
        for name, line in report.yardsticks.items()
        if line.official is not None and name != "random"
    ]
    return max(known, key=lambda item: item[1].official or 0.0, default=None)


def _at_threshold(report: Report) -> list[str]:
    found = report.thresholds["release"]
    decision = found.overall
    remarks = []
    asked = found.false_alarm_rate
    if decision.fpr is not None and decision.fpr > max(_CRIES_WOLF, asked or 0.0):
        rate = "" if asked is None else f" instead of the {_percent(asked)} asked for"
        remarks.append(
            f"It flags {_percent(decision.fpr)} of the normal test recordings{rate}: their sound"
            " differs from that of the training. Do not rely on its alarms before it has been"
            " calibrated where it hangs."
        )
    if decision.f1 is not None and decision.flag_all_f1 is not None:
        better = decision.f1 > decision.flag_all_f1 + _NO_BETTER
        remarks.append(
            f"F1 at the threshold is {decision.f1:.3f}; flagging every recording gives"
            f" {decision.flag_all_f1:.3f}, so by F1 the threshold is worth"
            f" {f'{decision.f1 - decision.flag_all_f1:.3f}' if better else 'nothing'}."
        )
    return remarks


def _sessions_remark(check: SessionCheck) -> str:
    return (
        "With each session of normal sound left out of the training in turn, its threshold flags"
        f" {_percent(check.mean_share_above)} of that session's windows in the mean and"
        f" {_percent(check.worst_share_above)} in the worst case. Expect the like"
        " of the next place."
    )


def _figures(report: Report) -> "_Markup":
    own = report.clip_scores[report.clip_score]
    lines = [
        ("this release", own, "own"),
        *(
            (f"clips by {how}", line, "other")
            for how, line in report.clip_scores.items()
            if how != report.clip_score
        ),
        *((_yardstick(name), line, "yardstick") for name, line in report.yardsticks.items()),
    ]
    return _section(
        "How well it tells faults from normal sound",
        _tag(
            "p",
            "AUC: how often an anomalous recording scores higher than a normal one. pAUC: the same"
            f" where at most {_percent(MAX_FPR)} of the normal ones are flagged. Official: their"
            f" harmonic mean by DCASE's rule of {report.rule}. All are {_CHANCE} by chance and 1 at"
            " best; brackets hold 95 % intervals over recordings. The windows of a recording speak"
            f" for it by their {report.clip_score}; what else was tried, and the yardsticks, which"
            " need no network, stand below.",
        ),
        _tag("div", _forest(lines), class_="plots wide"),
        _table(
            "Figures beside their yardsticks",
            ("", "official", "AUC", "pAUC", "AUC source", "AUC target", "remark"),
            [
                (
                    name,
                    _with_interval(line.official, line.official_interval),
                    _number(line.auc),
                    _number(line.pauc),
                    _number(line.domains.get("source")),
                    _number(line.domains.get("target")),
                    line.remark,
                )
                for name, line, _ in lines
            ],
            emphasised=0,
        ),
        _table(
            "By section and domain (rule of 2021, chance 0.5)",
            (
                "",
                "normal",
                "anomalous",
                "AUC",
                "pAUC",
                "official",
                "best yardstick's AUC",
            ),
            _group_rows(report),
        ),
        *(
            [_tag("p", f"Without both labels, and in no mean: {', '.join(report.left_out)}.")]
            if report.left_out
            else []
        ),
    )


def _group_rows(report: Report) -> list[tuple[str, ...]]:
    groups: list[tuple[str, Figures, str]] = [
        ("all", report.overall, _best_auc(report, lambda line: line.auc))
    ]
    for domain, figures in report.domains.items():
        best = _best_auc(report, lambda line, domain=domain: line.domains.get(domain))  # type: ignore[misc]
        groups.append((domain, figures, best))
    if len(report.sections) > 1:
        groups += [
            (f"section {name}, {domain}", figures, "-")
            for name, section in report.sections.items()
            for domain, figures in section.domains.items()
        ]
    return [
        (
            name,
            str(figures.normal_clips),
            str(figures.anomaly_clips),
            _with_interval(figures.auc, figures.auc_interval),
            _number(figures.pauc),
            _with_interval(figures.official, figures.official_interval),
            best,
        )
        for name, figures, best in groups
    ]


def _best_auc(report: Report, of: Callable[[Line], float | None]) -> str:
    found = {name: value for name, line in report.yardsticks.items() if (value := of(line))}
    if not found:
        return "-"
    name = max(found, key=lambda each: found[each])
    return f"{found[name]:.3f} ({_yardstick(name)})"


def _forest(lines: Sequence[tuple[str, Line, str]]) -> "_Markup":
    height = 48 + 22 * len(lines)
    across = _Axis(low=0, high=1, start=140, end=_WIDTH - 14)
    bottom = height - 38
    parts = [_grid(across, 8, bottom), *_x_labels(across, bottom, "official score")]
    parts.append(_line([(across.at(_CHANCE), 8), (across.at(_CHANCE), bottom)], "chance"))
    for row, (name, line, kind) in enumerate(lines):
        y = 20.0 + 22 * row
        parts.append(_text(132, y + 4, name, "end strong" if kind == "own" else "end"))
        if line.official_interval is not None:
            ends = [(across.at(value), y) for value in line.official_interval]
            parts.append(_line(ends, "whisker"))
        if line.official is not None:
            x = across.at(line.official)
            parts.append(
                _tag("rect", x=_n(x - 5), y=_n(y - 5), width=10, height=10, class_="own")
                if kind == "own"
                else _tag("circle", cx=_n(x), cy=_n(y), r=4, class_=kind)
            )
    return _plot(
        "Official score of the release (square) and of the yardsticks (rings), with 95 % intervals;"
        " the dashed line is chance",
        height,
        parts,
    )


def _scores(report: Report) -> "_Markup":
    threshold = report.thresholds["release"].value
    across = _values_axis([*(row.score for row in report.clips), threshold])
    domains = list(dict.fromkeys(row.domain for row in report.clips))
    return _section(
        "Scores of the test recordings",
        _tag(
            "p",
            "Normal recordings upwards, anomalous ones downwards, as shares of each. Right of the"
            " dashed line is flagged: good is all of the lower half there, and nothing of the"
            " upper.",
        ),
        _tag(
            "div",
            *(
                _histogram(
                    domain,
                    [_labelled(report.clips, domain, label) for label in ("normal", "anomaly")],
                    across,
                    threshold,
                    names=("normal", "anomalous"),
                    what="score of a recording",
                )
                for domain in sorted(domains)
            ),
            class_="plots",
        ),
    )


def _labelled(rows: Iterable[ClipRow], domain: Domain, label: str) -> list[float]:
    return [row.score for row in rows if row.domain == domain and row.label == label]


def _held_out(outcome: "Outcome") -> "_Markup | None":
    values = [value for of_clip in outcome.held_out.values() for value in of_clip]
    if not values:
        return None
    threshold = outcome.manifest.threshold.value
    return _section(
        "Windows of the held-out recordings",
        _tag(
            "p",
            f"{_count(len(values), 'window')} of {_count(outcome.held_out_files, 'recording')} of"
            " normal sound that no weight was fitted to. They come from the sessions that were"
            " trained on: the next session may lie further right.",
        ),
        _tag(
            "div",
            _histogram(
                "held out",
                [values, []],
                _values_axis([*values, threshold]),
                threshold,
                names=("normal", ""),
                what="statistic of a window",
            ),
            class_="plots",
        ),
    )


def _histogram(
    title: str,
    groups: Sequence[Sequence[float]],
    across: "_Axis",
    threshold: float,
    *,
    names: tuple[str, str],
    what: str,
) -> "_Markup":
    bottom, top = 190.0, 42.0
    both = bool(groups[1])
    middle = (top + bottom) / 2 if both else bottom
    parts = [_grid(across, top, bottom), *_x_labels(across, bottom, what)]
    edges = np.linspace(across.start, across.end, _BINS + 1)
    shares = []
    for values in groups:
        places = [min(max(across.at(value), edges[0]), edges[-1]) for value in values]
        counts = np.histogram(places, edges)[0]
        shares.append(counts / max(len(values), 1))
    largest = max((float(share.max()) for share in shares), default=0.0) or 1.0
    for direction, kind, share in ((-1, "normal", shares[0]), (1, "anomaly", shares[1])):
        for left, right, part in zip(edges, edges[1:], share, strict=False):
            if not part:
                continue
            length = float(part) / largest * ((middle - top - 4) if both else (bottom - top - 4))
            parts.append(
                _tag(
                    "rect",
                    x=_n(float(left) + 0.5),
                    y=_n(middle - length if direction < 0 else middle),
                    width=_n(float(right - left) - 1),
                    height=_n(length),
                    class_=kind,
                )
            )
    parts.append(_line([(across.start, middle), (across.end, middle)], "axis"))
    x = across.at(threshold)
    parts.append(_line([(x, top - 6), (x, bottom)], "limit"))
    side = "end" if x > (across.start + across.end) / 2 else "start"
    parts.append(
        _text(x + (-5 if side == "end" else 5), top - 2, f"threshold {threshold:.4g}", side)
    )
    parts.append(_text(across.start, 14, title, "start strong"))
    parts.append(_text(across.start - 6, top + 12, f"{largest:.0%}", "end"))
    told_normal = f"▲ {names[0]} ({len(groups[0])})"
    if both:
        parts.append(_text(across.end - 128, 14, told_normal, "end of-normal"))
        parts.append(_text(across.end, 14, f"▼ {names[1]} ({len(groups[1])})", "end of-anomaly"))
    else:
        parts.append(_text(across.end, 14, told_normal, "end of-normal"))
    above = [sum(value > threshold for value in values) for values in groups]
    told = f"{title}: {above[0]} of {len(groups[0])} normal above the threshold {threshold:.4g}"
    if both:
        told += f", {above[1]} of {len(groups[1])} anomalous"
    return _plot(told, 228, parts)


def _rocs(report: Report) -> "_Markup":
    best = _best_yardstick(report)
    thin = "."
    if best is not None and best[0] in report.yardstick_scores:
        thin = f", the thin line is the best yardstick, {_yardstick(best[0])}, on all recordings."
    return _section(
        "Flagged anomalies against false alarms",
        _tag(
            "p",
            "Each point of a line is one threshold; dots are the release's. To the right, the"
            f" corner that counts in a plant: at most {_percent(MAX_FPR)} of the normal recordings"
            " flagged, which is what pAUC is measured on. Along the dotted line is chance" + thin,
        ),
        _tag("div", _roc(report, 1.0), _roc(report, MAX_FPR), class_="plots"),
    )


def _roc(report: Report, end: float) -> "_Markup":
    across = _Axis(low=0, high=end, start=44, end=_WIDTH - 14)
    up = _Axis(low=0, high=1, start=244, end=26)
    parts = [
        _tag(
            "rect",
            x=_n(across.start),
            y=_n(up.end),
            width=_n(across.at(min(MAX_FPR, end)) - across.start),
            height=_n(up.start - up.end),
            class_="partial",
        ),
        _grid(across, up.end, up.start),
        *_x_labels(across, up.start, "false-positive rate"),
        *_y_labels(up, across),
        _line([(across.at(0), up.at(0)), (across.at(end), up.at(end))], "dotted"),
    ]
    labels = np.array([row.label == "anomaly" for row in report.clips])
    scores = np.array([row.score for row in report.clips])
    best = _best_yardstick(report)
    if best is not None and best[0] in report.yardstick_scores:
        of_best = np.array(report.yardstick_scores[best[0]])
        parts.append(_roc_line(labels, of_best, across, up, "thin"))
    names = sorted(report.domains)
    for index, domain in enumerate(names):
        of_domain = np.array([row.domain == domain for row in report.clips])
        if len(set(labels[of_domain].tolist())) < 2:
            continue
        parts.append(_roc_line(labels[of_domain], scores[of_domain], across, up, domain))
        decision = report.thresholds["release"].domains.get(domain)
        if decision is not None and decision.fpr is not None and decision.fpr <= end:
            parts.append(
                _tag(
                    "circle",
                    cx=_n(across.at(decision.fpr)),
                    cy=_n(up.at(decision.tpr or 0.0)),
                    r=5,
                    class_=f"dot-{domain}",
                )
            )
        x = across.end - 80 * (len(names) - index)
        parts.append(_line([(x, 10), (x + 28, 10)], domain))
        parts.append(_text(x + 34, 14, domain, "start"))
    title = "all thresholds" if end >= 1 else f"FPR up to {_percent(end)}"
    parts.append(_text(across.start, 14, title, "start strong"))
    if end >= 1:
        parts.append(_text(across.at(MAX_FPR) + 4, up.start - 6, "◂ pAUC", "start"))
    told = "; ".join(
        f"{domain}: AUC {_number(figures.auc)}, pAUC {_number(figures.pauc)}"
        for domain, figures in report.domains.items()
    )
    return _plot(f"ROC, {title}. {told}; chance is {_CHANCE}", 284, parts)


def _roc_line(
    labels: npt.NDArray[np.bool_], scores: Float64Array, across: "_Axis", up: "_Axis", kind: str
) -> "_Markup":
    fpr, tpr, _ = roc_curve(labels, scores)
    # What lies right of a cut-off axis ends at its edge.
    end = across.high
    kept = fpr <= end
    tpr_at_end = float(np.interp(end, fpr, tpr))
    points = [*zip(fpr[kept].tolist(), tpr[kept].tolist(), strict=True), (end, tpr_at_end)]
    return _line([(across.at(x), up.at(y)) for x, y in points], kind)


def _threshold(outcome: "Outcome") -> "_Markup":
    threshold = outcome.manifest.threshold
    rate = threshold.false_alarm_rate
    parts: list[_Markup] = [
        _tag(
            "p",
            f"The release flags a window whose statistic is above {threshold.value:.4g}. It was "
            + (
                "given by a person."
                if rate is None
                else f"chosen from {_count(threshold.calibration_windows, 'normal window')} so that"
                f" {_percent(rate)} of {_THRESHOLD_SOUND[threshold.method]} cross it."
            ),
        )
    ]
    report = outcome.report
    if report is not None:
        parts.append(_confusion(report.thresholds["release"].overall))
        parts.append(
            _table(
                "Thresholds on the score of a recording, each beside flagging everything",
                (
                    "",
                    "value",
                    "F1",
                    "flag-all F1",
                    "found",
                    "missed",
                    "false",
                    "passed",
                    "TPR",
                    "FPR",
                    "FPR source",
                    "FPR target",
                    "MCC",
                    "chosen from",
                ),
                [
                    (
                        _THRESHOLDS.get(name, name),
                        f"{found.value:.4g}",
                        _number(found.overall.f1),
                        _number(found.overall.flag_all_f1),
                        *map(str, _counts(found.overall)),
                        _number(found.overall.tpr),
                        _number(found.overall.fpr),
                        *(
                            _number(found.domains[domain].fpr) if domain in found.domains else "-"
                            for domain in _DOMAINS
                        ),
                        _number(found.overall.mcc),
                        str(found.count),
                    )
                    for name, found in report.thresholds.items()
                ],
                emphasised=0,
            )
        )
    if outcome.session_check is not None:
        parts += _left_out(outcome.session_check)
    return _section("Where it draws the line", *parts)


def _confusion(decision: Decision) -> "_Markup":
    found, missed, false, peace = _counts(decision)
    return _table(
        "Recordings at the release's threshold",
        ("", "flagged", "not flagged", "flagged if all were"),
        [
            ("anomalous", f"{found} found", f"{missed} missed", str(decision.anomaly_clips)),
            ("normal", f"{false} false alarms", f"{peace} left alone", str(decision.normal_clips)),
        ],
    )


def _left_out(check: SessionCheck) -> list["_Markup"]:
    table = _table(
        "Sessions left out of the training in turn",
        ("session", "windows", "threshold of the others", "asked", "flagged"),
        [
            (
                each.session,
                str(each.windows),
                f"{each.threshold.value:.4g}",
                _percent(each.threshold.false_alarm_rate),
                _percent(each.share_above),
            )
            for each in check.sessions[:_SHOWN_SESSIONS]
        ],
    )
    choice = check.threshold
    return [
        table,
        _tag(
            "p",
            f"Chosen from all {choice.count} windows of sessions left out, the threshold would be"
            f" {choice.value:.4g} for {_percent(choice.false_alarm_rate)} of them.",
        ),
    ]


def _counts(decision: Decision) -> tuple[int, int, int, int]:
    """Anomalies found and missed, normals flagged and not."""
    found = round((decision.tpr or 0.0) * decision.anomaly_clips)
    false = round((decision.fpr or 0.0) * decision.normal_clips)
    return found, decision.anomaly_clips - found, false, decision.normal_clips - false


def _alarms(report: Report) -> "_Markup":
    parts: list[_Markup] = [
        _table(
            "After the node's vote over consecutive windows",
            ("", "normal clips", "anomalous clips", "normal windows", "anomalous windows"),
            [
                (
                    "all" if name == "overall" else name,
                    _percent(vote.normal_clips_alarmed),
                    _percent(vote.anomaly_clips_alarmed),
                    _percent(vote.normal_windows_alarmed),
                    _percent(vote.anomaly_windows_alarmed),
                )
                for name, vote in report.votes.items()
            ],
        )
    ]
    rows = []
    if (alarms := report.false_alarms) is not None:
        low, high = alarms.per_day_interval
        rows.append(
            (
                "False alarms a day",
                f"{_rounded(alarms.per_day)} (95 %: {_rounded(low)} to {_rounded(high)}), reckoned"
                f" from {alarms.episodes} in {alarms.hours:.2f} h of normal test recordings, one"
                " after another. An alarm that lasts counts once: flagging everything would be"
                " one.",
            )
        )
    if (delays := report.delays) is not None and delays.splices:
        rows.append(
            (
                "Delay to the alarm",
                f"median {_seconds(delays.median_seconds)}, 90th percentile"
                f" {_seconds(delays.p90_seconds)};"
                f" {_percent(delays.never_detected)} of"
                f" {_count(delays.splices, 'splice')} of a normal recording with an anomalous one"
                f" raised none. {delays.ringing_before} more rang before the anomaly began.",
            )
        )
    if rows:
        parts.append(_facts(rows))
    return _section("Alarms as a node raises them, without calibration on site", *parts)


def _windows(windows: Sequence[ShownWindow], outcome: "Outcome") -> "_Markup | None":
    if not windows:
        return None
    params = outcome.manifest.features
    heads = ("Least anomalous", "Most anomalous")
    captions = [
        f"{head}: {_where(window)}, statistic {window.statistic:.4g}"
        for head, window in zip(heads, windows, strict=False)
    ]
    blocks = [_pictures(captions, _shown_features(windows, params), "features", params)]
    lines: list[_Markup] = []
    for index, model in enumerate(outcome.manifest.models):
        residuals = [window.residuals[index] for window in windows]
        if model.output == "reconstruction":
            rebuilt = [window.features - window.residuals[index] for window in windows]
            blocks.append(
                _pictures(
                    heads,
                    _shown_features(windows, params, rebuilt),
                    f"reconstruction by {model.file}",
                    params,
                )
            )
        if residuals[0].ndim == 2:
            blocks.append(
                _pictures(heads, _diverging(residuals), f"residual of {model.file}", params)
            )
        if residuals[0].ndim != 2 or model.error == "time_mean_mse":
            over_time = residuals[0].ndim == 2
            profiles = [
                residual.mean(axis=-1) if over_time else residual.ravel() for residual in residuals
            ]
            told = f"residual of {model.file}" + (", mean over time" if over_time else "")
            lines.append(_profiles(profiles, told))
    where = "test" if outcome.report is not None else "held-out"
    return _section(
        f"The least and the most anomalous {where} window",
        _tag(
            "p",
            "What a model cannot repeat is left over as its residual. Both windows share one scale,"
            " so a pale picture is a small residual.",
        ),
        *blocks,
        *([_tag("div", *lines, class_="plots")] if lines else []),
    )


def _where(window: ShownWindow) -> str:
    clip = window.clip
    label = "not labelled" if clip.label is None else clip.label
    return f"{clip.path.name}, window {window.number} ({label}, {clip.domain})"


class _Picture(msgspec.Struct, frozen=True):
    """Numbers as shares of a colour scale."""

    levels: npt.NDArray[np.uint8]
    """Shape (rows, columns), the lowest row first."""
    palette: Literal["sequential", "diverging"]
    scale: str


def _shown_features(
    windows: Sequence[ShownWindow],
    params: FeatureParams,
    arrays: Sequence[Float32Array] | None = None,
) -> list[_Picture]:
    """Features, or what a model makes of them, on the scale of the features."""
    features = np.stack([window.features for window in windows])
    shown = features if arrays is None else np.stack(arrays)
    if params.kind == "mfcc":
        # The first coefficients are a hundred times the last: only differences can be seen.
        centre = features.mean(axis=(0, 2), keepdims=True)
        spread = features.std(axis=(0, 2), keepdims=True) + 1e-9
        limit = 3.0
        scaled = np.clip((shown - centre) / spread, -limit, limit)
        note = "each coefficient about its mean over both windows, ±3 standard deviations"
        return [_Picture(_levels(each, -limit, limit), "diverging", note) for each in scaled]
    low, high = float(features.min()), float(features.max())
    return [
        _Picture(_levels(each, low, high), "sequential", f"{low:.0f} to {high:.0f} dB")
        for each in shown
    ]


def _diverging(arrays: Sequence[Float32Array]) -> list[_Picture]:
    limit = float(np.percentile(np.abs(np.concatenate(arrays, axis=None)), 99)) or 1.0
    return [_Picture(_levels(each, -limit, limit), "diverging", f"±{limit:.3g}") for each in arrays]


def _levels(array: Float32Array, low: float, high: float) -> npt.NDArray[np.uint8]:
    share = np.nan_to_num((array.astype(np.float64) - low) / ((high - low) or 1.0))
    return np.round(np.clip(share, 0, 1) * 255).astype(np.uint8)


def _pictures(
    captions: Sequence[str], pictures: Sequence[_Picture], what: str, params: FeatureParams
) -> "_Markup":
    unit = "Coefficient" if params.kind == "mfcc" else "Mel band"
    figures = []
    for caption, picture in zip(captions, pictures, strict=False):
        rows, columns = picture.levels.shape
        as_features = (rows, columns) == params.shape
        seconds = columns * params.frame_hop_samples / params.sample_rate_hz
        across = _Axis(low=0, high=seconds if as_features else columns, start=44, end=_WIDTH - 14)
        up = _Axis(low=0, high=rows, start=160, end=26)
        parts = [
            _text(across.start, 14, what, "start strong"),
            _tag(
                "image",
                x=_n(across.start),
                y=_n(up.end),
                width=_n(across.end - across.start),
                height=_n(up.start - up.end),
                preserveAspectRatio="none",
                href=_png(picture.levels[::-1], _PALETTES[picture.palette]),
            ),
            *_x_labels(across, up.start, "seconds" if as_features else "column"),
            *_y_labels(up, across, lines=False),
        ]
        plot = _plot(f"{what}, {caption}; colours: {picture.scale}", 198, parts)
        legend = f"{caption}. {unit if as_features else 'Row'} upwards; {picture.scale}."
        figures.append(_tag("figure", plot, _tag("figcaption", legend)))
    return _tag("div", *figures, class_="plots")


def _profiles(profiles: Sequence[Float32Array], told: str) -> "_Markup":
    longest = max(len(profile) for profile in profiles)
    extent = max(float(np.abs(profile).max()) for profile in profiles) or 1.0
    across = _Axis(low=0, high=max(longest - 1, 1), start=50, end=_WIDTH - 14)
    up = _Axis(low=-extent, high=extent, start=160, end=40)
    parts = [
        _text(across.start, 14, told, "start strong"),
        *_x_labels(across, up.start, "coefficient or band"),
        *_y_labels(up, across),
    ]
    x = across.start
    for profile, kind, name in zip(
        profiles, ("source", "target"), ("least anomalous", "most anomalous"), strict=False
    ):
        points = [(across.at(i), up.at(float(v))) for i, v in enumerate(profile)]
        parts.append(_line(points, kind))
        parts.append(_line([(x, 27), (x + 26, 27)], kind))
        parts.append(_text(x + 32, 31, name, "start"))
        x += 150
    largest = ", ".join(f"{float(np.abs(profile).max()):.3g}" for profile in profiles)
    return _plot(
        f"{told}; largest of the least and the most anomalous window: {largest}", 198, parts
    )


def _losses(losses: Mapping[str, Sequence["Epoch"]]) -> "_Markup | None":
    plots = [_loss(network, epochs) for network, epochs in losses.items() if epochs]
    if not plots:
        return None
    return _section(
        "How the training went",
        _tag(
            "p",
            "Mean squared error after each pass over the data. Held-out sound that stays far above"
            " the trained, or climbs, means that the network learned the recordings by heart.",
        ),
        _tag("div", *plots, class_="plots"),
    )


def _loss(network: str, epochs: Sequence["Epoch"]) -> "_Markup":
    trained = [epoch.train_loss for epoch in epochs]
    held_out = [epoch.held_out_loss for epoch in epochs]
    across = _Axis(low=1, high=max(len(epochs), 2), start=50, end=_WIDTH - 14)
    up = _values_axis([*trained, *held_out], start=160, end=44)
    parts = [
        _text(across.start, 14, network, "start strong"),
        *_x_labels(across, up.start, "epoch"),
        *_y_labels(up, across),
    ]
    for kind, name, values, x in (
        ("source", "trained", trained, across.start),
        ("target", "held out", held_out, across.start + 150),
    ):
        points = [(across.at(i), up.at(value)) for i, value in enumerate(values, 1)]
        parts.append(_line(points, kind))
        if len(points) == 1:
            parts.append(
                _tag("circle", cx=_n(points[0][0]), cy=_n(points[0][1]), r=4, class_=f"dot-{kind}")
            )
        parts.append(_line([(x, 27), (x + 26, 27)], kind))
        parts.append(_text(x + 32, 31, f"{name} {values[-1]:.3g}", "start"))
    return _plot(
        f"Loss of {network}: {trained[-1]:.4g} trained, {held_out[-1]:.4g} held out after"
        f" {_count(len(epochs), 'epoch')}",
        198,
        parts,
    )


def _models(outcome: "Outcome", environment: Environment) -> "_Markup":
    manifest = outcome.manifest
    parts: list[_Markup] = [
        _table(
            "Models of the release",
            ("file", "kB", "parameters", "quantisation", "runs in"),
            [
                (
                    model.file,
                    f"{manifest.file(model.file).size_bytes / 1e3:.1f}",
                    "-" if model.parameters is None else str(model.parameters),
                    model.quantisation or "-",
                    ", ".join(model.runtimes) or "-",
                )
                for model in manifest.models
            ],
        )
    ]
    report = outcome.report
    if report is not None and report.variants:
        rows, reasons = _variant_rows(report)
        parts.append(
            _table(
                f"Variants; time from features to statistic on {environment.device}, one thread",
                ("", "kB", "library", "AUC", "to float32", "official", "p50 ms", "p95 ms"),
                rows,
            )
        )
        parts += [_tag("p", reason) for reason in reasons]
        operators = {
            name: ", ".join(variant.operators) or "not known"
            for name, variant in report.variants.items()
        }
        parts.append(_tag("h3", "Operators"))
        parts.append(_facts(list(operators.items())))
    return _section("Size, speed, and what can run it", *parts)


def _variant_rows(report: Report) -> tuple[list[tuple[str, ...]], list[str]]:
    rows: list[tuple[str, ...]] = []
    reasons: dict[str, list[str]] = {}
    for name, variant in report.variants.items():
        shown = f"{name} (released)" if variant.released else name
        size = f"{variant.size_bytes / 1e3:.1f}"
        for library, trial in variant.runtimes.items():
            known = f"{library} {trial.version or ''}".strip()
            latency = trial.latency_ms
            if trial.outcome != "ran":
                known += f": {trial.outcome}"
                reasons.setdefault(f"{known}: {trial.reason or 'no reason given'}", []).append(name)
            rows.append(
                (
                    shown,
                    size,
                    known,
                    _number(trial.auc),
                    "-" if trial.auc_difference is None else f"{trial.auc_difference:+.4f}",
                    _number(trial.official),
                    "-" if latency is None else f"{latency.p50:.3f}",
                    "-" if latency is None else f"{latency.p95:.3f}",
                )
            )
    return rows, [f"{why} ({', '.join(names)})" for why, names in reasons.items()]


def _seeds(outcome: "Outcome") -> "_Markup | None":
    seeds = outcome.seeds
    if seeds is None:
        return None
    if seeds.official.count < 2:
        text = (
            "Trained with one seed only: how much the first random numbers matter is not known."
            " --seeds 5 shows it."
        )
        return _section("Other seeds", _tag("p", text))
    return _section(
        "Other seeds",
        _tag(
            "p",
            f"The same training with {seeds.official.count} seeds; the first is released. Chance is"
            f" {_CHANCE}; the yardsticks above need no seed.",
        ),
        _table(
            "Figures by seed",
            ("seed", "official", "AUC", "pAUC"),
            [
                (
                    "mean ± sd",
                    *(_spread(each) for each in (seeds.official, seeds.auc, seeds.pauc)),
                ),
                *(
                    (
                        str(each.seed),
                        _number(each.figures.official),
                        _number(each.figures.auc),
                        _number(each.figures.pauc),
                    )
                    for each in seeds.each
                ),
            ],
            emphasised=0,
        ),
    )


def _data(outcome: "Outcome", dataset: Dataset) -> "_Markup":
    params = outcome.manifest.features
    report = outcome.report
    sessions = outcome.sessions
    rows = [
        ("Data set", outcome.manifest.training.data),
        ("Machine", dataset.machine),
        ("Layout of the folder", dataset.layout),
        (
            "Split",
            f"{outcome.train_files} recordings ({outcome.train_windows} windows) to train on,"
            f" {outcome.held_out_files} held out to choose the threshold from, by recording",
        ),
        (
            "Sessions",
            "the names do not say"
            if not sessions
            else f"{len(sessions)}: {', '.join(sessions[:_SHOWN_SESSIONS])}"
            + (" …" if len(sessions) > _SHOWN_SESSIONS else ""),
        ),
        (
            "Windows",
            f"{params.window_us / 1e6:g} s, every {outcome.manifest.hop_us / 1e6:g} s;"
            f" {'the first' if outcome.recipe.windows == 'first' else 'all'} of a recording;"
            " digitally silent ones left out",
        ),
    ]
    if dataset.unlabelled:
        rows.append(("Not used", f"{len(dataset.unlabelled)} test recordings without a label"))
    if report is not None:
        rows.append(("Score of a recording", f"by {report.clip_score} of its windows"))
    clips = (*dataset.train, *dataset.test)
    groups = sorted({(clip.section, clip.domain) for clip in clips})
    kinds = (("train", "normal"), ("test", "normal"), ("test", "anomaly"))
    return _section(
        "The data",
        _facts(rows),
        _table(
            "Recordings found",
            ("section", "domain", "to train", "test, normal", "test, anomalous"),
            [
                (
                    section,
                    domain,
                    *(
                        str(
                            sum(
                                (clip.section, clip.domain, clip.split, clip.label)
                                == (section, domain, split, label)
                                for clip in clips
                            )
                        )
                        for split, label in kinds
                    ),
                )
                for section, domain in groups
            ],
        ),
        _table(
            "Features",
            ("parameter", "value"),
            [(name, str(value)) for name, value in msgspec.structs.asdict(params).items()],
        ),
    )


def _recipe(outcome: "Outcome", environment: Environment) -> "_Markup":
    recipe, manifest = outcome.recipe, outcome.manifest
    versions = dict(environment.versions)
    return _section(
        "How to make it again",
        _tag("pre", _tag("code", manifest.training.command), tabindex=0),
        _facts(
            [
                ("Recipe", f"{recipe.name}: {recipe.description}"),
                ("Statistic", manifest.statistic),
                ("Seed", str(manifest.training.seed)),
                ("Quantisation", recipe.quantisation),
                ("Windows, clip score", f"{recipe.windows}, {recipe.clip_score}"),
                ("Versions", ", ".join(f"{name} {number}" for name, number in versions.items())),
                ("Commit", environment.git_hash or "not known"),
                ("Computer", f"{environment.device}; {environment.platform}"),
                (
                    "Seconds",
                    ", ".join(f"{what} {took:.1f}" for what, took in outcome.seconds.items()),
                ),
            ]
        ),
        _table(
            "Networks: Adam on the mean squared error",
            ("network", "what counts", "epochs", "batch", "learning rate"),
            [
                (
                    model.network,
                    model.error,
                    str(model.epochs),
                    str(model.batch_size),
                    f"{model.learning_rate:g}",
                )
                for model in recipe.models
            ],
        ),
    )


class _Markup(str):
    """Text that is HTML already; all other text is escaped."""

    __slots__ = ()


_VOID = {"meta", "rect", "circle", "line", "polyline", "image"}


def _tag(element: str, /, *children: str, **attributes: str | int) -> _Markup:
    """An element; `class_` is class, and other underscores are hyphens."""
    given = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{html.escape(str(value))}"'
        for key, value in attributes.items()
    )
    content = "".join(
        child if isinstance(child, _Markup) else html.escape(child) for child in children
    )
    if element in _VOID:
        return _Markup(f"<{element}{given}>" if element == "meta" else f"<{element}{given}/>")
    return _Markup(f"<{element}{given}>{content}</{element}>")


def _section(title: str, *children: str) -> _Markup:
    return _tag("section", _tag("h2", title), *children)


def _table(
    caption: str,
    heads: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    emphasised: int | None = None,
) -> _Markup:
    kinds = [
        _kind([row[column] for row in rows]) if column else "words" for column in range(len(heads))
    ]
    body = []
    for index, row in enumerate(rows):
        cells = [
            _tag("td" if column else "th", cell, class_=kind)
            for column, (cell, kind) in enumerate(zip(row, kinds, strict=True))
        ]
        body.append(_tag("tr", *cells, class_="own" if index == emphasised else "other"))
    table = _tag(
        "table",
        _tag(
            "thead",
            _tag(
                "tr",
                *(
                    _tag("th", head, scope="col", class_=kind)
                    for head, kind in zip(heads, kinds, strict=True)
                ),
            ),
        ),
        _tag("tbody", *body),
        aria_label=caption,
    )
    # Outside of what scrolls, so that it can be read whole on a phone.
    return _tag(
        "div",
        _tag("p", caption, class_="caption"),
        _tag("div", table, class_="scroll", tabindex=0, role="region", aria_label=caption),
    )


def _kind(cells: Sequence[str]) -> Literal["number", "words"]:
    """How a column is aligned."""
    return "number" if all(cell[:1] in "0123456789+-" for cell in cells) else "words"


def _facts(rows: Sequence[tuple[str, str]]) -> _Markup:
    return _tag(
        "dl", *(part for name, text in rows for part in (_tag("dt", name), _tag("dd", text)))
    )


_WIDTH = 360
"""Of every plot, in units that are pixels on a phone."""


class _Axis(msgspec.Struct, frozen=True, kw_only=True):
    """From values to places on the page."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def at(self, value: float) -> float:
        low, high = self.low, self.high
        if self.log:
            low, high, value = math.log10(low), math.log10(high), math.log10(max(value, low))
        return self.start + (value - low) / ((high - low) or 1.0) * (self.end - self.start)

    def ticks(self) -> list[float]:
        if self.log:
            first, last = math.ceil(math.log10(self.low)), math.floor(math.log10(self.high))
            if last - first < 1:
                powers = [10.0**power for power in range(first - 1, last + 1)]
                found = [factor * power for power in powers for factor in (1, 2, 5)]
                return [tick for tick in found if self.low <= tick <= self.high]
            every = max(1, math.ceil((last - first + 1) / 6))
            return [10.0**power for power in range(first, last + 1, every)]
        span = (self.high - self.low) or 1.0
        step = 10.0 ** math.floor(math.log10(span / 4))
        step = next(each for each in (step, 2 * step, 5 * step, 10 * step) if span / each <= 5.001)
        lowest = math.ceil(self.low / step - 1e-9)
        count = math.floor(self.high / step + 1e-9) - lowest + 1
        return [(lowest + index) * step for index in range(count)]


def _values_axis(values: Sequence[float], *, start: float = 44, end: float = _WIDTH - 14) -> _Axis:
    low, high = min(values), max(values)
    if low > 0 and high / low >= _LOG_AXIS_FROM:
        return _Axis(low=low / 1.2, high=high * 1.2, start=start, end=end, log=True)
    margin = (high - low) * 0.04 or abs(high) * 0.1 or 1.0
    return _Axis(
        low=max(low - margin, 0.0) if low >= 0 else low - margin,
        high=high + margin,
        start=start,
        end=end,
    )


def _plot(told: str, height: int, parts: Iterable[str]) -> _Markup:
    return _tag(
        "svg",
        _tag("title", told),
        *parts,
        viewBox=f"0 0 {_WIDTH} {height}",
        role="img",
        aria_label=told,
    )


def _grid(across: _Axis, top: float, bottom: float) -> _Markup:
    lines = [
        _line([(across.at(tick), top), (across.at(tick), bottom)], "grid")
        for tick in across.ticks()
    ]
    return _Markup("".join(lines))


def _x_labels(across: _Axis, bottom: float, name: str) -> list[_Markup]:
    ticks = [
        _text(across.at(tick), bottom + 14, _tick(tick, log=across.log), "middle")
        for tick in across.ticks()
    ]
    middle = (across.start + across.end) / 2
    return [*ticks, _text(middle, bottom + 29, name, "middle faint")]


def _y_labels(up: _Axis, across: _Axis, *, lines: bool = True) -> list[_Markup]:
    parts = []
    for tick in up.ticks():
        y = up.at(tick)
        if lines:
            parts.append(_line([(across.start, y), (across.end, y)], "grid"))
        parts.append(_text(across.start - 6, y + 4, _tick(tick, log=up.log), "end"))
    return parts


def _line(points: Sequence[tuple[float, float]], kind: str) -> _Markup:
    places = " ".join(f"{_n(x)},{_n(y)}" for x, y in points)
    return _tag("polyline", points=places, class_=f"line {kind}")


def _text(x: float, y: float, text: str, kind: str) -> _Markup:
    return _tag("text", text, x=_n(x), y=_n(y), class_=kind)


def _tick(value: float, *, log: bool) -> str:
    if log and not 1e-3 <= value < 1e5:
        power = math.floor(math.log10(value) + 1e-9)
        factor = round(value / 10.0**power)
        return ("" if factor == 1 else f"{factor}·") + f"10{str(power).translate(_SUPERSCRIPT)}"
    return f"{value:.6g}".replace("-", "\N{MINUS SIGN}")


def _n(value: float) -> str:
    return f"{value:.1f}"


_SUPERSCRIPT = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def _png(levels: npt.NDArray[np.uint8], palette: bytes) -> str:
    """A picture as a data URL: one byte for each pixel, colours from the palette."""
    rows, columns = levels.shape
    pixels = b"".join(b"\0" + row.tobytes() for row in levels)
    chunks = (
        (b"IHDR", struct.pack(">IIBBBBB", columns, rows, 8, 3, 0, 0, 0)),
        (b"PLTE", palette),
        (b"IDAT", zlib.compress(pixels, 9)),
        (b"IEND", b""),
    )
    content = b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in chunks
    )
    return "data:image/png;base64," + base64.b64encode(content).decode("ascii")


def _palette(colours: str) -> bytes:
    """256 colours between those given, in hexadecimal."""
    stops = np.array([list(bytes.fromhex(colour)) for colour in colours.split()], np.float64)
    places = np.linspace(0, len(stops) - 1, 256)
    channels = [np.interp(places, np.arange(len(stops)), channel) for channel in stops.T]
    return np.stack(channels, axis=1).round().astype(np.uint8).tobytes()


# Told apart by all kinds of colour vision: ColorBrewer's PuOr with blue for purple, and viridis.
_PALETTES = {
    "diverging": _palette("053061 4393c3 f7f7f7 e08214 7f3b08"),
    "sequential": _palette("440154 3b528b 21918c 5ec962 fde725"),
}


_DOMAINS: tuple[Domain, ...] = ("source", "target")
_THRESHOLD_SOUND = {
    "held_out": "sound like the held-out recordings",
    "sessions_left_out": "windows of sessions that the model has not heard",
    "given": "unknown sound",
}
_THRESHOLDS = {
    "release": "the release's",
    "percentile_95": "95th percentile",
    "gamma_90": "gamma fit, 90 %",
    "conformal_0.10": "conformal, 10 %",
    "held_out": "from held-out windows",
    "sessions_left_out": "from sessions left out",
}
_YARDSTICKS = {
    "random": "random numbers",
    "level": "loudness alone",
    "mean_gmm": "Gaussian mixture",
    "twfr_gmm": "TWFR-GMM",
    "knn": "nearest neighbour",
}


def _yardstick(name: str) -> str:
    return _YARDSTICKS.get(name, name)


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _with_interval(value: float | None, interval: Interval | None) -> str:
    if value is None or interval is None:
        return _number(value)
    return f"{value:.3f} [{interval[0]:.3f}, {interval[1]:.3f}]"


def _percent(share: float | None) -> str:
    if share is None:
        return "-"
    return f"{share * 100:.2g} %" if share < 0.1 else f"{share * 100:.0f} %"


def _of(share: float | None, count: int) -> str:
    return f"{round((share or 0.0) * count)} of {count}"


def _count(count: int, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 's'}"


def _rounded(value: float) -> str:
    return f"{value:.0f}" if value >= 10 else f"{value:.2g}"


def _seconds(value: float | None) -> str:
    return "endless" if value is None else f"{value:.0f} s"


def _spread(spread: Spread) -> str:
    return f"{spread.mean:.3f}" + ("" if spread.sd is None else f" ± {spread.sd:.3f}")


_STYLE = """
:root{color-scheme:light dark;--paper:#fff;--ink:#1a1c20;--faint:#5c6370;--rule:#d5d9e0;
--box:#f4f6f9;--normal:#0072b2;--anomaly:#c14f00;--warn:#fff4d6;--warn-rule:#b07d00;
--partial:#0072b21a}
@media screen and (prefers-color-scheme:dark){:root{--paper:#15171b;--ink:#e6e8ec;--faint:#a2a9b5;
--rule:#363b45;--box:#1e2127;--normal:#56b4e9;--anomaly:#f0a04b;--warn:#33290f;--warn-rule:#d9a520;
--partial:#56b4e926}}
*{box-sizing:border-box}
body{margin:0;background:var(--paper);color:var(--ink);
font:16px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,sans-serif}
main{max-width:68rem;margin:0 auto;padding:1.25rem 1rem 4rem;overflow-wrap:anywhere}
h1{font-size:1.6rem;line-height:1.2;margin:0}
h2{font-size:1.2rem;line-height:1.3;margin:2.5rem 0 .5rem}
h3{font-size:1rem;margin:1.5rem 0 .25rem}
p,ul,dl{max-width:44rem;margin:.5rem 0}
ul{padding-left:1.25rem}
.verdict{font-size:1.2rem;line-height:1.4;font-weight:600;margin:1rem 0}
.faint{color:var(--faint);margin:.25rem 0}
.warning{background:var(--warn);border-left:4px solid var(--warn-rule);padding:.5rem 1rem;
margin:1.25rem 0;max-width:46rem}
.warning h2{font-size:1rem;margin:.25rem 0}
.scroll{overflow-x:auto;margin:0 0 1rem;overflow-wrap:normal}
.scroll:focus-visible,pre:focus-visible{outline:2px solid var(--normal)}
table{border-collapse:collapse;font-size:.875rem;font-variant-numeric:tabular-nums}
.caption{font-size:.9rem;font-weight:600;margin:1.25rem 0 .25rem}
th,td{padding:.3rem .85rem .3rem 0;text-align:left;white-space:nowrap;
border-bottom:1px solid var(--rule);font-weight:400;vertical-align:bottom}
thead th{color:var(--faint)}
.number{text-align:right}
tr.own>*{font-weight:700}
dl{display:grid;grid-template-columns:minmax(7rem,max-content) 1fr;gap:.3rem 1rem;font-size:.9rem;
max-width:54rem}
dt{color:var(--faint)}
dd{margin:0}
pre{background:var(--box);padding:.75rem;margin:.75rem 0;white-space:pre-wrap;font-size:.85rem}
.plots{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,20rem),1fr));
gap:1rem 1.5rem;margin:1rem 0;max-width:64rem}
.plots>*{max-width:34rem}
figure{margin:0}
figcaption{font-size:.8rem;color:var(--faint)}
svg{display:block;width:100%;height:auto;font-size:12px}
text{fill:var(--ink)}
text.faint{fill:var(--faint)}
.start{text-anchor:start}.middle{text-anchor:middle}.end{text-anchor:end}.strong{font-weight:700}
.of-normal{fill:var(--normal)}.of-anomaly{fill:var(--anomaly)}
.line{fill:none;stroke:var(--ink);stroke-width:1.5;stroke-linejoin:round}
.line.grid{stroke:var(--rule);stroke-width:1}
.line.axis{stroke:var(--faint);stroke-width:1}
.line.limit,.line.chance{stroke-dasharray:5 3}
.line.chance{stroke:var(--faint)}
.line.dotted{stroke:var(--faint);stroke-dasharray:1.5 4}
.line.thin{stroke:var(--faint);stroke-width:1}
.line.whisker{stroke:var(--faint);stroke-width:2}
.line.source{stroke:var(--normal);stroke-width:2}
.line.target{stroke:var(--anomaly);stroke-width:2;stroke-dasharray:6 3}
rect.normal{fill:var(--normal)}rect.anomaly{fill:var(--anomaly)}
rect.own{fill:var(--normal)}
rect.partial{fill:var(--partial)}
circle.yardstick,circle.other{fill:var(--paper);stroke:var(--ink);stroke-width:1.5}
circle.other{stroke:var(--normal)}
circle.dot-source{fill:var(--normal);stroke:var(--paper)}
circle.dot-target{fill:var(--anomaly);stroke:var(--paper)}
image{image-rendering:pixelated}
@media print{main{max-width:none;padding:0}.scroll{overflow:visible}
svg,figure,tr,.warning{break-inside:avoid}h2,h3{break-after:avoid}
rect{-webkit-print-color-adjust:exact;print-color-adjust:exact}th,td{padding-right:.4rem}
table{font-size:.7rem}}
"""
