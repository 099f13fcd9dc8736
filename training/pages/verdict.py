"""The first lines of a report: whether a release can be trusted, in words."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from training.judge.evaluation_report import DetectorFigures, EvaluationReport
from training.judge.metrics import Interval
from training.judge.thresholds import SessionCheck
from training.pages.blocks import (
    Header,
)
from training.pages.wording import (
    CHANCE,
    count_text,
    figure_text,
    percent_text,
    share_text,
    yardstick_name,
)
from training.sound.dataset import Dataset

if TYPE_CHECKING:
    from training.detector.outcome import Outcome


_CRIES_WOLF = 0.1
"""Share of normal clips flagged: whoever is called more often than this stops listening."""

_NO_BETTER = 0.02
"""Least gain in F1 over flagging everything: less is worth nothing."""


def make_header(outcome: "Outcome", dataset: Dataset, notes: Sequence[str]) -> Header:
    """The verdict in words, what to know beside it, and what to mind."""
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
    return Header(
        title=manifest.label,
        subtitle=f"{dataset.machine} · {outcome.recipe.name} · {created:%Y-%m-%d %H:%M} UTC",
        lead=lead,
        remarks=remarks,
        warnings=list(warnings),
    )


def _lead_without_faults(outcome: "Outcome") -> str:
    return (
        "Nothing is known of how well it finds faults: there were no recordings labelled normal"
        " and anomaly to test it with. It has learned the normal sound of"
        f" {count_text(outcome.train_files, 'recording')}, and can say no more than that a sound is"
        " unlike it."
    )


def _lead(report: EvaluationReport) -> str:
    at_release = report.thresholds["release"].overall
    flagged = (
        "at its threshold it flags"
        f" {share_text(at_release.tpr, at_release.anomaly_clips)} anomalous and"
        f" {share_text(at_release.fpr, at_release.normal_clips)} normal recordings"
    )
    words, good = _separation(report.official, report.official_interval)
    cries_wolf = (at_release.fpr or 0.0) > _CRIES_WOLF
    misses = (at_release.tpr or 0.0) < CHANCE
    but = "but" if good and (cries_wolf or misses) else "and"
    return f"Its scores {words}, {but} {flagged}."


def _separation(official: float | None, interval: Interval | None) -> tuple[str, bool]:
    """What an official score means, and whether that is good."""
    if official is None:
        return "cannot be judged on these recordings", False
    if (official if interval is None else interval[0]) <= CHANCE:
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
        f"Official score {figure_text(report.official, report.official_interval)};"
        f" chance gives {CHANCE}."
    )
    found = best_yardstick(report)
    if report.official is None or found is None:
        return own
    name, best = found
    against = f"{yardstick_name(name)} ({figure_text(best.official, best.official_interval)})"
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


def best_yardstick(report: EvaluationReport) -> tuple[str, DetectorFigures] | None:
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
        rate = "" if asked is None else f" instead of the {percent_text(asked)} asked for"
        remarks.append(
            f"It flags {percent_text(decision.fpr)} of the normal test recordings{rate}: their"
            " sound differs from that of the training. Do not rely on its alarms before it has been"
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
        f" flags {percent_text(check.mean_share_above)} of the unheard windows in the mean and"
        f" {percent_text(check.worst_share_above)} in the worst case."
    )
    if outcome.manifest.threshold.method != "sessions_left_out":
        return f"{remark} Expect the like of the next place."
    return (
        f"{remark} Hence the release's threshold: {percent_text(check.threshold.false_alarm_rate)}"
        " of all unheard windows cross it. Another place may differ by more."
    )
