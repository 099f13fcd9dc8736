"""What a training has made, as one page for those who must decide whether to trust it.

The page is a single file of HTML, CSS and SVG: it needs no network and no script, and the same
outcome gives the same bytes. Nothing is measured here but the residual of two windows.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Literal

import msgspec
import numpy as np

from contract.feature_params import FeatureParams
from contract.features import Float32Array
from contract.release import Threshold, squeezed
from node.scoring.detector import Detector
from node.scoring.release_store import Release
from node.scoring.runtime import Runtime
from training.judge.disturbances import FALSE_ALARM_RATE, Disturbance
from training.judge.evaluation_report import DetectorFigures, EvaluationReport, ThresholdReport
from training.judge.intervals import Spread
from training.judge.metrics import MAX_FPR, Interval, ThresholdFigures
from training.judge.scoring import stacked
from training.judge.thresholds import SessionCheck
from training.pages import charts
from training.pages.charts import Markup, tag
from training.pages.results import Environment
from training.release.runtime_trial import statistics
from training.sound.dataset import Clip, Dataset, Domain
from training.sound.feature_cache import ClipFeatures

if TYPE_CHECKING:
    from training.detector.autoencoders import Epoch
    from training.detector.outcome import Outcome

_CHANCE = 0.5
_CRIES_WOLF = 0.1
"""Of normal clips flagged: whoever is called by more than these stops listening."""
_NO_BETTER = 0.02
"""Of F1 above that of flagging everything: less is worth nothing."""
_SHOWN_SESSIONS = 40
_MFCC_SPREADS = 3.0
_NUMERIC = "0123456789+-"
"""What a number begins with, and what stands for one that is not known."""
_THRESHOLD_SOUND = {
    "held_out": "sound like the held-out recordings",
    "sessions_left_out": "windows of sessions that the model has not heard",
    "given": "unknown sound",
}
_THRESHOLDS = {
    "held_out": "from held-out windows",
    "sessions_left_out": "from sessions left out",
    "given": "given by a person",
    "conformal_0.10": "held-out recordings, conformal, 10 %",
    "percentile_95": "held-out recordings, 95th percentile",
    "gamma_90": "held-out recordings, gamma fit, 90 %",
}
_YARDSTICKS = {
    "random": "random numbers",
    "level": "loudness alone",
    "mean_gmm": "Gaussian mixture",
    "twfr_gmm": "TWFR-GMM",
    "knn": "nearest neighbour",
}


class ShownWindow(msgspec.Struct, frozen=True, kw_only=True):
    """One window, as the models see it and as they fail to repeat it."""

    clip: Clip
    number: int
    """Among the windows of the clip, from 1."""
    statistic: float
    features: Float32Array
    """Shape (coefficients, frames)."""
    residuals: tuple[Float32Array, ...]
    """Of each model, see `node.scoring.detector.Detector.residuals`."""


def extreme_windows(
    release: Release, runtime: Runtime, clips: Sequence[ClipFeatures]
) -> tuple[ShownWindow, ...]:
    """The least and the most anomalous window, or the only one.

    Args:
        release: that judges.
        runtime: inference library.
        clips: with features of the release, of one window or more.
    """
    detector = Detector(release, runtime)
    of_windows = statistics(detector, stacked(clips))
    owners = [(clip, index) for clip in clips for index in range(len(clip.features))]
    shown = []
    for row in dict.fromkeys((int(np.argmin(of_windows)), int(np.argmax(of_windows)))):
        clip, index = owners[row]
        shown.append(
            ShownWindow(
                clip=clip.clip,
                number=index + 1,
                statistic=float(of_windows[row]),
                features=clip.features[index],
                residuals=detector.residuals(clip.features[index]),
            )
        )
    return tuple(shown)


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
    report = outcome.report
    sections = [_verdict(outcome, dataset, notes)]
    if report is not None:
        sections += [_figures(report), _scores(report), _rocs(report)]
    sections += [_threshold(outcome), _held_out(outcome)]
    if report is not None:
        sections += [_alarms(report), _room_noise(report.room_noise)]
    sections += [
        _windows(windows, outcome),
        _losses(outcome),
        _models(outcome, environment),
        _seeds(outcome),
        _data(outcome, dataset),
        _recipe(outcome, environment),
    ]
    policy = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    page = tag(
        "html",
        tag(
            "head",
            tag("meta", charset="utf-8"),
            tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
            tag("meta", http_equiv="Content-Security-Policy", content=policy),
            tag("title", f"{outcome.manifest.label}: what it can do and what not"),
            tag("style", Markup(_STYLE + charts.STYLE)),
        ),
        tag("body", tag("main", *sections)),
        lang="en",
    )
    return f"<!DOCTYPE html>\n{page}\n"


def _verdict(outcome: "Outcome", dataset: Dataset, notes: Sequence[str]) -> Markup:
    manifest, report = outcome.manifest, outcome.report
    lead = _lead_without_faults(outcome) if report is None else _lead(report)
    created = datetime.fromtimestamp(manifest.created_us / 1e6, UTC)
    remarks = [] if report is None else [_beside_yardsticks(report), *_at_threshold(report)]
    if outcome.session_check is not None:
        remarks.append(_sessions_remark(outcome.session_check, outcome))
    remarks.append(
        "It says how unlike the normal sound of its training a sound is, not what is broken, and"
        " only for this machine, microphone and place."
    )
    warnings = dict.fromkeys((*notes, *(() if report is None else report.warnings)))
    mind = tag("section", tag("h2", "Mind this"), _list(warnings), class_="warning")
    return tag(
        "header",
        tag("h1", manifest.label),
        tag(
            "p",
            f"{dataset.machine} · {outcome.recipe.name} · {created:%Y-%m-%d %H:%M} UTC",
            class_="faint",
        ),
        tag("p", lead, class_="verdict"),
        _list(remarks),
        mind if warnings else "",
    )


def _lead_without_faults(outcome: "Outcome") -> str:
    return (
        "Nothing is known of how well it finds faults: there were no recordings labelled normal"
        " and anomaly to test it with. It has learned the normal sound of"
        f" {_count(outcome.train_files, 'recording')}, and can say no more than that a sound is"
        " unlike it."
    )


def _lead(report: EvaluationReport) -> str:
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


def _beside_yardsticks(report: EvaluationReport) -> str:
    own = (
        f"Official score {_number(report.official, report.official_interval)};"
        f" chance gives {_CHANCE}."
    )
    found = _best_yardstick(report)
    if report.official is None or found is None:
        return own
    name, best = found
    against = f"{_yardstick(name)} ({_number(best.official, best.official_interval)})"
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


def _best_yardstick(report: EvaluationReport) -> tuple[str, DetectorFigures] | None:
    """By official score; random numbers are none."""
    known = [
        (name, line)
        for name, line in report.yardsticks.items()
        if line.official is not None and name != "random"
    ]
    return max(known, key=lambda item: item[1].official or 0.0, default=None)


def _at_threshold(report: EvaluationReport) -> list[str]:
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


def _sessions_remark(check: SessionCheck, outcome: "Outcome") -> str:
    one_by_one = len(check.sessions) == len(outcome.sessions)
    who = "each session" if one_by_one else f"each of {len(check.sessions)} groups of sessions"
    remark = (
        f"With {who} of normal sound left out of the training in turn, the threshold of the others"
        f" flags {_percent(check.mean_share_above)} of the unheard windows in the mean and"
        f" {_percent(check.worst_share_above)} in the worst case."
    )
    if outcome.manifest.threshold.method != "sessions_left_out":
        return f"{remark} Expect the like of the next place."
    return (
        f"{remark} Hence the release's threshold: {_percent(check.threshold.false_alarm_rate)} of"
        " all unheard windows cross it. Another place may differ by more."
    )


def _figures(report: EvaluationReport) -> Markup:
    lines: list[tuple[str, DetectorFigures, Literal["own", "other", "yardstick"]]] = [
        ("this release", report.clip_scores[report.clip_score], "own"),
        *(
            (f"clips by {how}", line, "other")
            for how, line in report.clip_scores.items()
            if how != report.clip_score
        ),
        *((_yardstick(name), line, "yardstick") for name, line in report.yardsticks.items()),
    ]
    return _section(
        "How well it tells faults from normal sound",
        "AUC: how often an anomalous recording scores higher than a normal one. pAUC: the same"
        f" where at most {_percent(MAX_FPR)} of the normal ones are flagged. Official: their"
        f" harmonic mean by DCASE's rule of {report.rule}. All are {_CHANCE} by chance and 1 at"
        " best; brackets hold 95 % intervals over recordings. The windows of a recording speak"
        f" for it by their {report.clip_score}; what else was tried, and the yardsticks, which"
        " need no network, stand below.",
        _plots(
            charts.forest(
                [(name, line.official, line.official_interval, kind) for name, line, kind in lines],
                what="official score",
                chance=_CHANCE,
                told="Official score of the release (square) and of the yardsticks (rings), with"
                " 95 % intervals; the dashed line is chance",
            )
        ),
        _table(
            "Figures beside their yardsticks",
            [
                {
                    "": name,
                    "official": _number(line.official, line.official_interval),
                    "AUC": _number(line.auc),
                    "pAUC": _number(line.pauc),
                    "AUC source": _number(line.domains.get("source")),
                    "AUC target": _number(line.domains.get("target")),
                    "remark": line.remark,
                }
                for name, line, _ in lines
            ],
            own_first=True,
        ),
        _table("By section and domain (rule of 2021, chance 0.5)", _group_rows(report)),
        f"Without both labels, and in no mean: {', '.join(report.left_out)}."
        if report.left_out
        else "",
    )


def _group_rows(report: EvaluationReport) -> list[dict[str, str]]:
    groups = [("all", report.overall, _best_auc(report, None))]
    groups += [
        (domain, figures, _best_auc(report, domain)) for domain, figures in report.domains.items()
    ]
    if len(report.sections) > 1:
        groups += [
            (f"section {name}, {domain}", figures, "-")
            for name, section in report.sections.items()
            for domain, figures in section.domains.items()
        ]
    return [
        {
            "": name,
            "normal": str(figures.normal_clips),
            "anomalous": str(figures.anomaly_clips),
            "AUC": _number(figures.auc, figures.auc_interval),
            "pAUC": _number(figures.pauc),
            "official": _number(figures.official, figures.official_interval),
            "best yardstick's AUC": best,
        }
        for name, figures, best in groups
    ]


def _best_auc(report: EvaluationReport, domain: Domain | None) -> str:
    found = [
        (auc, name)
        for name, line in report.yardsticks.items()
        if (auc := line.domains.get(domain) if domain else line.auc) is not None
    ]
    if not found:
        return "-"
    auc, name = max(found)
    return f"{auc:.3f} ({_yardstick(name)})"


def _scores(report: EvaluationReport) -> Markup:
    threshold = report.thresholds["release"].value
    across = charts.axis_of([*(row.score for row in report.clips), threshold])
    plots = []
    for domain in sorted({row.domain for row in report.clips}):
        normal, anomalous = (
            [row.score for row in report.clips if (row.domain, row.label) == (domain, label)]
            for label in ("normal", "anomaly")
        )
        what = "score of a recording"
        plots.append(charts.histogram(domain, normal, anomalous, threshold, across, what=what))
    return _section(
        "Scores of the test recordings",
        "Normal recordings upwards, anomalous ones downwards, as shares of each. Right of the"
        " dashed line is flagged: good is all of the lower half there, and nothing of the upper.",
        _plots(*plots),
    )


def _rocs(report: EvaluationReport) -> Markup:
    labels = np.array([row.label == "anomaly" for row in report.clips])
    scores = np.array([row.score for row in report.clips])
    lines = []
    thin = ""
    best = _best_yardstick(report)
    if best is not None and best[0] in report.yardstick_scores:
        of_best = np.array(report.yardstick_scores[best[0]])
        lines.append(charts.RocLine(name=None, labels=labels, scores=of_best))
        thin = f", the thin line is the best yardstick, {_yardstick(best[0])}, on all recordings"
    for domain in sorted(report.domains):
        own = np.array([row.domain == domain for row in report.clips])
        if len(set(labels[own].tolist())) < 2:
            continue
        dot = None
        decision = report.thresholds["release"].domains.get(domain)
        if decision is not None and decision.fpr is not None:
            dot = (decision.fpr, decision.tpr or 0.0)
        lines.append(charts.RocLine(name=domain, labels=labels[own], scores=scores[own], dot=dot))
    areas = "; ".join(
        f"{domain}: AUC {_number(figures.auc)}, pAUC {_number(figures.pauc)}"
        for domain, figures in report.domains.items()
    )
    corner = _percent(MAX_FPR)
    plots = [
        charts.roc(title, lines, end=end, partial=MAX_FPR, told=f"{areas}; chance is {_CHANCE}")
        for title, end in (("all thresholds", 1.0), (f"FPR up to {corner}", MAX_FPR))
    ]
    return _section(
        "Flagged anomalies against false alarms",
        "Each point of a line is one threshold; dots are the release's. To the right, the corner"
        f" that counts in a plant: at most {corner} of the normal recordings flagged, which is what"
        f" pAUC is measured on. Along the dotted line is chance{thin}.",
        _plots(*plots),
    )


def _threshold(outcome: "Outcome") -> Markup:
    threshold, report, check = outcome.manifest.threshold, outcome.report, outcome.session_check
    rate = threshold.false_alarm_rate
    origin = (
        "given by a person."
        if rate is None
        else f"chosen from {_count(threshold.calibration_windows, 'normal window')} so that"
        f" {_percent(rate)} of {_THRESHOLD_SOUND[threshold.method]} cross it."
    )
    return _section(
        "Where it draws the line",
        f"The release flags a window whose statistic is above {threshold.value:.4g}. It was"
        f" {origin}",
        *([] if report is None else _decisions(report)),
        *([] if check is None else _left_out(check, threshold)),
    )


def _decisions(report: EvaluationReport) -> list[str]:
    release = report.thresholds["release"]
    method = _THRESHOLDS.get(release.method, release.method)
    names = {**_THRESHOLDS, "release": f"the release's, {method}"}
    overall, counts = release.overall, _counts(release.overall)
    return [
        _table(
            "Recordings at the release's threshold",
            [
                {
                    "": "anomalous",
                    "flagged": f"{counts['found']} found",
                    "not flagged": f"{counts['missed']} missed",
                    "flagged if all were": str(overall.anomaly_clips),
                },
                {
                    "": "normal",
                    "flagged": f"{counts['false']} false alarms",
                    "not flagged": f"{counts['passed']} left alone",
                    "flagged if all were": str(overall.normal_clips),
                },
            ],
        ),
        _table(
            "Thresholds on the score of a recording, each beside flagging everything",
            [
                {
                    "": names.get(name, name),
                    "value": f"{each.value:.4g}",
                    "F1": _number(each.overall.f1),
                    "flag-all F1": _number(each.overall.flag_all_f1),
                    **_counts(each.overall),
                    "TPR": _number(each.overall.tpr),
                    "FPR": _number(each.overall.fpr),
                    "FPR source": _fpr(each, "source"),
                    "FPR target": _fpr(each, "target"),
                    "MCC": _number(each.overall.mcc),
                    "chosen from": str(each.count),
                }
                for name, each in report.thresholds.items()
            ],
            own_first=True,
        ),
    ]


def _fpr(found: ThresholdReport, domain: Domain) -> str:
    return _number(found.domains[domain].fpr) if domain in found.domains else "-"


def _counts(decision: ThresholdFigures) -> dict[str, str]:
    """Anomalies found and missed, normals flagged and not."""
    found = round((decision.tpr or 0.0) * decision.anomaly_clips)
    false = round((decision.fpr or 0.0) * decision.normal_clips)
    return {
        "found": str(found),
        "missed": str(decision.anomaly_clips - found),
        "false": str(false),
        "passed": str(decision.normal_clips - false),
    }


def _left_out(check: SessionCheck, threshold: Threshold) -> list[str]:
    choice = check.threshold
    rows = [
        {
            "session": each.session,
            "windows": str(each.windows),
            "threshold of the others": f"{each.threshold.value:.4g}",
            "asked": _percent(each.threshold.false_alarm_rate),
            "flagged": _percent(each.share_above),
        }
        for each in check.sessions[:_SHOWN_SESSIONS]
    ]
    return [
        _table("Sessions left out of the training in turn", rows),
        f"The release's threshold is chosen from all these {choice.count} windows."
        if threshold.method == "sessions_left_out"
        else f"Chosen from all {choice.count} windows of sessions left out, the threshold would be"
        f" {choice.value:.4g} for {_percent(choice.false_alarm_rate)} of them.",
    ]


def _held_out(outcome: "Outcome") -> Markup:
    values = [value for of_clip in outcome.held_out.values() for value in of_clip]
    if not values:
        return Markup()
    threshold = outcome.manifest.threshold.value
    across = charts.axis_of([*values, threshold])
    what = "statistic of a window"
    return _section(
        "Windows of the held-out recordings",
        f"{_count(len(values), 'window')} of {_count(outcome.held_out_files, 'recording')} of"
        " normal sound that no weight was fitted to. They come from the sessions that were trained"
        " on: the next session may lie further right.",
        _plots(charts.histogram("held out", values, None, threshold, across, what=what)),
    )


def _alarms(report: EvaluationReport) -> Markup:
    if not report.votes:
        # Of one window of each recording there is nothing to vote on.
        return Markup()
    facts = {}
    if (alarms := report.false_alarms) is not None:
        low, high = map(_rounded, alarms.per_day_interval)
        facts["False alarms a day"] = (
            f"{_rounded(alarms.per_day)} (95 %: {low} to {high}), reckoned from {alarms.episodes}"
            f" in {alarms.hours:.2f} h of normal test recordings, one after another. An alarm that"
            " lasts counts once: flagging everything would be one."
        )
    if (delays := report.delays) is not None and delays.splices:
        facts["Delay to the alarm"] = (
            f"median {_seconds(delays.median_seconds)}, 90th percentile"
            f" {_seconds(delays.p90_seconds)}; {_percent(delays.never_detected)} of"
            f" {_count(delays.splices, 'splice')} of a normal recording with an anomalous one"
            f" raised none. {delays.ringing_before} more rang before the anomaly began."
        )
    rows = [
        {
            "": "all" if name == "overall" else name,
            "normal clips": _percent(vote.normal_clips_alarmed),
            "anomalous clips": _percent(vote.anomaly_clips_alarmed),
            "normal windows": _percent(vote.normal_windows_alarmed),
            "anomalous windows": _percent(vote.anomaly_windows_alarmed),
        }
        for name, vote in report.votes.items()
    ]
    return _section(
        "Alarms as a node raises them, without calibration on site",
        _table("After the node's vote over consecutive windows", rows),
        _facts(facts),
    )


def _room_noise(found: Sequence[Disturbance]) -> Markup:
    if not found:
        return Markup()
    rows = [
        {
            "noise": each.kind,
            "dB": "-" if each.ratio_db is None else f"{each.ratio_db:g}",
            "clips": str(each.clips),
            "windows flagged": _percent(each.windows_flagged),
            "clips flagged": _percent(each.clips_flagged),
            "clips after the vote": _percent(each.clips_alarmed),
        }
        for each in found
    ]
    return _section(
        "Room noise that is no fault",
        "Held-out normal recordings with the sound of a room mixed in. Each has a threshold for"
        f" {_percent(FALSE_ALARM_RATE)} of the windows of its session's other recordings, as"
        " calibration on site would set it: what is flagged beyond the clean sound, the row of no"
        " noise, is the noise's doing, and none of it should be.",
        _table("By kind of noise, and by how much louder the machine is", rows, own_first=True),
    )


def _windows(windows: Sequence[ShownWindow], outcome: "Outcome") -> Markup:
    if not windows:
        return Markup()
    params = outcome.manifest.features
    features = [window.features for window in windows]
    names = ("least anomalous", "most anomalous")[: len(windows)]
    heads = [name.capitalize() for name in names]
    full = [
        f"{head}: {_where(window)}, statistic {window.statistic:.4g}"
        for head, window in zip(heads, windows, strict=True)
    ]
    rows = [_pictures("features", full, _as_features(features, features, params), params)]
    profiles = []
    for index, model in enumerate(outcome.manifest.models):
        raw = [window.residuals[index] for window in windows]
        if model.output == "reconstruction":
            rebuilt = [heard - residual for heard, residual in zip(features, raw, strict=True)]
            shown = _as_features(rebuilt, features, params)
            rows.append(_pictures(f"reconstruction by {model.file}", heads, shown, params))
        residuals = [residual.reshape(squeezed(residual.shape)) for residual in raw]
        title = f"residual of {model.file}"
        flat = residuals[0].ndim != 2
        if not flat:
            rows.append(_pictures(title, heads, _about_zero(residuals), params))
        if flat or model.error == "time_mean_mse":
            profiles.append(
                _profile(
                    title if flat else f"{title}, mean over time",
                    names,
                    [each.ravel() if flat else each.mean(axis=-1) for each in residuals],
                )
            )
    where = "held-out" if outcome.report is None else "test"
    return _section(
        f"The least and the most anomalous {where} window",
        "What a model cannot repeat is left over as its residual. Both windows share one scale, so"
        " a pale picture is a small residual.",
        *rows,
        _plots(*profiles),
    )


def _where(window: ShownWindow) -> str:
    clip = window.clip
    label = "not labelled" if clip.label is None else clip.label
    return f"{clip.path.name}, window {window.number} ({label}, {clip.domain})"


class _Shown(msgspec.Struct, frozen=True):
    """Arrays to show as pictures on one scale."""

    arrays: Sequence[Float32Array]
    scale: charts.Scale
    note: str


def _as_features(
    arrays: Sequence[Float32Array], features: Sequence[Float32Array], params: FeatureParams
) -> _Shown:
    """Features, or what a model makes of them, on the scale of the features."""
    heard = np.stack(features)
    if params.kind == "mfcc":
        # The first coefficients are a hundred times the last: only differences can be seen.
        centre = heard.mean(axis=(0, 2))[:, np.newaxis]
        spread = heard.std(axis=(0, 2))[:, np.newaxis] + 1e-9
        return _Shown(
            [(each - centre) / spread for each in arrays],
            charts.Scale(low=-_MFCC_SPREADS, high=_MFCC_SPREADS, diverging=True),
            "each coefficient about its mean over both windows,"
            f" ±{_MFCC_SPREADS:g} standard deviations",
        )
    low, high = float(heard.min()), float(heard.max())
    scale = charts.Scale(low=low, high=high, diverging=False)
    return _Shown(arrays, scale, f"{low:.0f} to {high:.0f} dB")


def _about_zero(arrays: Sequence[Float32Array]) -> _Shown:
    limit = float(np.percentile(np.abs(np.concatenate(arrays, axis=None)), 99)) or 1.0
    scale = charts.Scale(low=-limit, high=limit, diverging=True)
    return _Shown(arrays, scale, f"±{limit:.3g}")


def _pictures(title: str, captions: Sequence[str], shown: _Shown, params: FeatureParams) -> Markup:
    figures = []
    for caption, array in zip(captions, shown.arrays, strict=True):
        rows, what, columns = "Row", "column", float(array.shape[1])
        if array.shape == params.shape:
            rows = "Coefficient" if params.kind == "mfcc" else "Mel band"
            what = "seconds"
            columns *= params.frame_hop_samples / params.sample_rate_hz
        plot = charts.picture(
            title,
            array,
            shown.scale,
            columns=columns,
            what=what,
            told=f"{title}, {caption}; colours: {shown.note}",
        )
        legend = f"{caption}. {rows} upwards; {shown.note}."
        figures.append(tag("figure", plot, tag("figcaption", legend)))
    return _plots(*figures)


def _profile(title: str, names: Sequence[str], profiles: Sequence[Float32Array]) -> Markup:
    largest = ", ".join(f"{float(np.abs(profile).max()):.3g}" for profile in profiles)
    return charts.curves(
        title,
        [(name, profile.tolist()) for name, profile in zip(names, profiles, strict=True)],
        what="coefficient or band",
        first=0,
        around_zero=True,
        told=f"{title}; largest of the least and the most anomalous window: {largest}",
    )


def _losses(outcome: "Outcome") -> Markup:
    plots = [_loss(network, epochs) for network, epochs in outcome.losses.items() if epochs]
    if not plots:
        return Markup()
    return _section(
        "How the training went",
        "Mean squared error after each pass over the data. Held-out sound that stays far above the"
        " trained, or climbs, means that the network learned the recordings by heart.",
        _plots(*plots),
    )


def _loss(network: str, epochs: Sequence["Epoch"]) -> Markup:
    last = epochs[-1]
    return charts.curves(
        network,
        [
            (f"trained {last.train_loss:.3g}", [epoch.train_loss for epoch in epochs]),
            (f"held out {last.held_out_loss:.3g}", [epoch.held_out_loss for epoch in epochs]),
        ],
        what="epoch",
        first=1,
        told=f"Loss of {network}: {last.train_loss:.4g} trained, {last.held_out_loss:.4g} held out"
        f" after {_count(len(epochs), 'epoch')}",
    )


def _models(outcome: "Outcome", environment: Environment) -> Markup:
    manifest, report = outcome.manifest, outcome.report
    rows = [
        {
            "file": model.file,
            "kB": f"{manifest.file(model.file).size_bytes / 1e3:.1f}",
            "parameters": "-" if model.parameters is None else str(model.parameters),
            "quantisation": model.quantisation or "-",
            "runs in": ", ".join(model.runtimes) or "-",
        }
        for model in manifest.models
    ]
    return _section(
        "Size, speed, and what can run it",
        _table("Models of the release", rows),
        *([] if report is None or not report.variants else _variants(report, environment)),
    )


def _variants(report: EvaluationReport, environment: Environment) -> list[str]:
    rows = []
    reasons: dict[str, list[str]] = {}
    for name, variant in report.variants.items():
        for library, trial in variant.runtimes.items():
            known = f"{library} {trial.version or ''}".strip()
            latency, difference = trial.latency_ms, trial.auc_difference
            if trial.outcome != "ran":
                known += f": {trial.outcome}"
                reasons.setdefault(f"{known}: {trial.reason or 'no reason given'}", []).append(name)
            rows.append(
                {
                    "": f"{name} (released)" if variant.released else name,
                    "kB": f"{variant.size_bytes / 1e3:.1f}",
                    "library": known,
                    "AUC": _number(trial.auc),
                    "to float32": "-" if difference is None else f"{difference:+.4f}",
                    "official": _number(trial.official),
                    "p50 ms": _number(None if latency is None else latency.p50),
                    "p95 ms": _number(None if latency is None else latency.p95),
                }
            )
    time = f"time from features to statistic on {environment.device}, one thread"
    operators = {
        name: ", ".join(variant.operators) or "not known"
        for name, variant in report.variants.items()
    }
    return [
        _table(f"Variants; {time}", rows),
        *(f"{why} ({', '.join(names)})" for why, names in reasons.items()),
        tag("h3", "Operators"),
        _facts(operators),
    ]


def _seeds(outcome: "Outcome") -> Markup:
    seeds = outcome.seeds
    if seeds is None:
        return Markup()
    if seeds.official.count < 2:
        return _section(
            "Other seeds",
            "Trained with one seed only: how much the first random numbers matter is not known."
            " --seeds 5 shows it.",
        )
    columns = ("seed", "official", "AUC", "pAUC")
    rows = [("mean ± sd", *map(_spread, (seeds.official, seeds.auc, seeds.pauc)))]
    for each in seeds.each:
        found = each.figures
        rows.append((str(each.seed), *map(_number, (found.official, found.auc, found.pauc))))
    return _section(
        "Other seeds",
        f"The same training with {seeds.official.count} seeds; the first is released. Chance is"
        f" {_CHANCE}; the yardsticks above need no seed.",
        _table(
            "Figures by seed",
            [dict(zip(columns, row, strict=True)) for row in rows],
            own_first=True,
        ),
    )


def _data(outcome: "Outcome", dataset: Dataset) -> Markup:
    params, sessions = outcome.manifest.features, outcome.sessions
    named = f"{len(sessions)}: {', '.join(sessions[:_SHOWN_SESSIONS])}"
    if len(sessions) > _SHOWN_SESSIONS:
        named += " …"
    windows = "the first" if outcome.recipe.windows == "first" else "all"
    facts = {
        "Data set": outcome.manifest.training.data,
        "Machine": dataset.machine,
        "Layout of the folder": dataset.layout,
        "Split": f"{outcome.train_files} recordings ({outcome.train_windows} windows) to train on,"
        f" {outcome.held_out_files} held out to choose the threshold from, by recording",
        "Sessions": named if sessions else "the names do not say",
        "Windows": f"{params.window_us / 1e6:g} s, every {outcome.manifest.hop_us / 1e6:g} s;"
        f" {windows} of a recording; digitally silent ones left out",
        "Score of a recording": f"by {outcome.recipe.clip_score} of its windows",
    }
    if dataset.unlabelled:
        facts["Not used"] = f"{len(dataset.unlabelled)} test recordings without a label"
    clips = (*dataset.train, *dataset.test)
    counts = Counter((clip.section, clip.domain, clip.split, clip.label) for clip in clips)
    found = [
        {
            "section": section,
            "domain": domain,
            "to train": str(counts[section, domain, "train", "normal"]),
            "test, normal": str(counts[section, domain, "test", "normal"]),
            "test, anomalous": str(counts[section, domain, "test", "anomaly"]),
        }
        for section, domain in sorted({(clip.section, clip.domain) for clip in clips})
    ]
    features = [
        {"parameter": name, "value": str(value)}
        for name, value in msgspec.structs.asdict(params).items()
    ]
    return _section(
        "The data", _facts(facts), _table("Recordings found", found), _table("Features", features)
    )


def _recipe(outcome: "Outcome", environment: Environment) -> Markup:
    recipe, manifest = outcome.recipe, outcome.manifest
    facts = {
        "Recipe": f"{recipe.name}: {recipe.description}",
        "Statistic": manifest.statistic,
        "Seed": str(manifest.training.seed),
        "Quantisation": recipe.quantisation,
        "Windows, clip score": f"{recipe.windows}, {recipe.clip_score}",
        "Versions": ", ".join(f"{name} {number}" for name, number in environment.versions.items()),
        "Commit": environment.git_hash or "not known",
        "Computer": f"{environment.device}; {environment.platform}",
        "Seconds": ", ".join(f"{what} {took:.1f}" for what, took in outcome.seconds.items()),
    }
    networks = [
        {
            "network": model.network,
            "what counts": model.error,
            "epochs": str(model.epochs),
            "batch": str(model.batch_size),
            "learning rate": f"{model.learning_rate:g}",
        }
        for model in recipe.models
    ]
    return _section(
        "How to make it again",
        tag("pre", tag("code", manifest.training.command), tabindex=0),
        _facts(facts),
        _table("Networks: Adam on the mean squared error", networks),
    )


def _section(title: str, *children: str) -> Markup:
    """With plain text as paragraphs, and nothing where a child is empty."""
    parts = (each if isinstance(each, Markup) else tag("p", each) for each in children if each)
    return tag("section", tag("h2", title), *parts)


def _plots(*plots: Markup) -> Markup:
    return tag("div", *plots, class_="plots") if plots else Markup()


def _list(texts: Iterable[str]) -> Markup:
    return tag("ul", *(tag("li", text) for text in texts))


def _facts(texts: Mapping[str, str]) -> Markup:
    parts = (part for name, text in texts.items() for part in (tag("dt", name), tag("dd", text)))
    return tag("dl", *parts) if texts else Markup()


def _table(caption: str, rows: Sequence[Mapping[str, str]], *, own_first: bool = False) -> Markup:
    """Rows with the same keys, which are the heads; the first row is bold where it is our own."""
    kinds = {
        head: "number" if index and all(row[head][:1] in _NUMERIC for row in rows) else "words"
        for index, head in enumerate(rows[0])
    }
    heads = (tag("th", head, scope="col", class_=kind) for head, kind in kinds.items())
    body = []
    for number, row in enumerate(rows):
        cells = (
            tag("td" if column else "th", row[head], class_=kind)
            for column, (head, kind) in enumerate(kinds.items())
        )
        body.append(tag("tr", *cells, class_="own" if own_first and not number else "other"))
    table = tag("table", tag("thead", tag("tr", *heads)), tag("tbody", *body), aria_label=caption)
    # The caption is outside of what scrolls, so that it can be read whole on a phone.
    return tag(
        "div",
        tag("p", caption, class_="caption"),
        tag("div", table, class_="scroll", tabindex=0, role="region", aria_label=caption),
    )


def _yardstick(name: str) -> str:
    return _YARDSTICKS.get(name, name)


def _number(value: float | None, interval: Interval | None = None) -> str:
    if value is None:
        return "-"
    return f"{value:.3f}" + (f" [{interval[0]:.3f}, {interval[1]:.3f}]" if interval else "")


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
@media print{main{max-width:none;padding:0}.scroll{overflow:visible}
svg,figure,tr,.warning{break-inside:avoid}h2,h3{break-after:avoid}
rect{-webkit-print-color-adjust:exact;print-color-adjust:exact}th,td{padding-right:.4rem}
table{font-size:.7rem}}
"""
