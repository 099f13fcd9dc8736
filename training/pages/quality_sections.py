"""What a report says of how well faults are told from normal sound."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np

from contract.release import Threshold
from training.judge.disturbances import FALSE_ALARM_RATE, Disturbance
from training.judge.evaluation_report import DetectorFigures, EvaluationReport, ThresholdReport
from training.judge.metrics import MAX_FPR
from training.judge.threshold_figures import ThresholdFigures
from training.judge.thresholds import SessionCheck
from training.pages import charts
from training.pages.blocks import (
    Block,
    Drawings,
    Facts,
    Section,
    Table,
    section,
)
from training.pages.verdict import best_yardstick
from training.pages.wording import (
    CHANCE,
    count_text,
    figure_text,
    percent_text,
    rounded_text,
    seconds_text,
    yardstick_name,
)
from training.sound.dataset import Domain

if TYPE_CHECKING:
    from training.detector.outcome import Outcome


SHOWN_SESSIONS = 40

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


def figures_section(report: EvaluationReport) -> Section | None:
    """AUC, pAUC and official scores, beside the yardsticks and by section and domain."""
    lines: list[tuple[str, DetectorFigures, Literal["own", "other", "yardstick"]]] = [
        ("this release", report.clip_scores[report.clip_score], "own"),
        *(
            (f"clips by {how}", line, "other")
            for how, line in report.clip_scores.items()
            if how != report.clip_score
        ),
        *((yardstick_name(name), line, "yardstick") for name, line in report.yardsticks.items()),
    ]
    return section(
        "How well it tells faults from normal sound",
        "AUC: how often an anomalous recording scores higher than a normal one. pAUC: the same"
        f" where at most {percent_text(MAX_FPR)} of the normal ones are flagged. Official: their"
        f" harmonic mean by DCASE's rule of {report.rule}. All are {CHANCE} by chance and 1 at"
        " best; brackets hold 95 % intervals over recordings. The windows of a recording speak"
        f" for it by their {report.clip_score}; what else was tried, and the yardsticks, which"
        " need no network, stand below.",
        Drawings(
            [
                charts.forest(
                    [
                        (name, line.official, line.official_interval, kind)
                        for name, line, kind in lines
                    ],
                    what="official score",
                    chance=CHANCE,
                    told="Official score of the release (square) and of the yardsticks (rings),"
                    " with 95 % intervals; the dashed line is chance",
                )
            ]
        ),
        Table(
            "Figures beside their yardsticks",
            [
                {
                    "": name,
                    "official": figure_text(line.official, line.official_interval),
                    "AUC": figure_text(line.auc),
                    "pAUC": figure_text(line.pauc),
                    "AUC source": figure_text(line.domains.get("source")),
                    "AUC target": figure_text(line.domains.get("target")),
                    "remark": line.remark,
                }
                for name, line, _ in lines
            ],
            own_first=True,
        ),
        Table("By section and domain (rule of 2021, chance 0.5)", _group_rows(report)),
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
            "AUC": figure_text(figures.auc, figures.auc_interval),
            "pAUC": figure_text(figures.pauc),
            "official": figure_text(figures.official, figures.official_interval),
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
    return f"{auc:.3f} ({yardstick_name(name)})"


def scores_section(report: EvaluationReport) -> Section | None:
    """Histograms of the test recordings' scores."""
    threshold = report.thresholds["release"].value
    across = charts.range_of([*(row.score for row in report.clips), threshold])
    plots = []
    for domain in sorted({row.domain for row in report.clips}):
        normal, anomalous = (
            [row.score for row in report.clips if (row.domain, row.label) == (domain, label)]
            for label in ("normal", "anomaly")
        )
        what = "score of a recording"
        plots.append(charts.histogram(domain, normal, anomalous, threshold, across, what=what))
    return section(
        "Scores of the test recordings",
        "Normal recordings upwards, anomalous ones downwards, as shares of each. Right of the"
        " dashed line is flagged: good is all of the lower half there, and nothing of the upper.",
        Drawings(plots),
    )


def roc_section(report: EvaluationReport) -> Section | None:
    """ROC curves, whole and in the corner that pAUC is measured on."""
    labels = np.array([row.label == "anomaly" for row in report.clips])
    scores = np.array([row.score for row in report.clips])
    lines = []
    thin = ""
    best = best_yardstick(report)
    if best is not None and best[0] in report.yardstick_scores:
        of_best = np.array(report.yardstick_scores[best[0]])
        lines.append(charts.RocLine(name=None, labels=labels, scores=of_best))
        thin = (
            f", the thin line is the best yardstick, {yardstick_name(best[0])}, on all recordings"
        )
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
        f"{domain}: AUC {figure_text(figures.auc)}, pAUC {figure_text(figures.pauc)}"
        for domain, figures in report.domains.items()
    )
    corner = percent_text(MAX_FPR)
    plots = [
        charts.roc(title, lines, end=end, partial=MAX_FPR, told=f"{areas}; chance is {CHANCE}")
        for title, end in (("all thresholds", 1.0), (f"FPR up to {corner}", MAX_FPR))
    ]
    return section(
        "Flagged anomalies against false alarms",
        "Each point of a line is one threshold; dots are the release's. To the right, the corner"
        f" that counts in a plant: at most {corner} of the normal recordings flagged, which is what"
        f" pAUC is measured on. Along the dotted line is chance{thin}.",
        Drawings(plots),
    )


def threshold_section(outcome: "Outcome") -> Section | None:
    """Where the threshold is from, and what it does to recordings and sessions."""
    threshold, report, check = outcome.manifest.threshold, outcome.report, outcome.session_check
    rate = threshold.false_alarm_rate
    origin = (
        "given by a person."
        if rate is None
        else f"chosen from {count_text(threshold.calibration_windows, 'normal window')} so that"
        f" {percent_text(rate)} of {_THRESHOLD_SOUND[threshold.method]} cross it."
    )
    return section(
        "Where it draws the line",
        f"The release flags a window whose statistic is above {threshold.value:.4g}. It was"
        f" {origin}",
        *([] if report is None else _decisions(report)),
        *([] if check is None else _left_out(check, threshold)),
    )


def _decisions(report: EvaluationReport) -> list[Block]:
    release = report.thresholds["release"]
    method = _THRESHOLDS.get(release.method, release.method)
    names = {**_THRESHOLDS, "release": f"the release's, {method}"}
    overall, counts = release.overall, _counts(release.overall)
    return [
        Table(
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
        Table(
            "Thresholds on the score of a recording, each beside flagging everything",
            [
                {
                    "": names.get(name, name),
                    "value": f"{each.value:.4g}",
                    "F1": figure_text(each.overall.f1),
                    "flag-all F1": figure_text(each.overall.flag_all_f1),
                    **_counts(each.overall),
                    "TPR": figure_text(each.overall.tpr),
                    "FPR": figure_text(each.overall.fpr),
                    "FPR source": _fpr(each, "source"),
                    "FPR target": _fpr(each, "target"),
                    "MCC": figure_text(each.overall.mcc),
                    "chosen from": str(each.count),
                }
                for name, each in report.thresholds.items()
            ],
            own_first=True,
        ),
    ]


def _fpr(found: ThresholdReport, domain: Domain) -> str:
    return figure_text(found.domains[domain].fpr) if domain in found.domains else "-"


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


def _left_out(check: SessionCheck, threshold: Threshold) -> list[Block]:
    choice = check.threshold
    rows = [
        {
            "session": each.session,
            "windows": str(each.windows),
            "threshold of the others": f"{each.threshold.value:.4g}",
            "asked": percent_text(each.threshold.false_alarm_rate),
            "flagged": percent_text(each.share_above),
        }
        for each in check.sessions[:SHOWN_SESSIONS]
    ]
    return [
        Table("Sessions left out of the training in turn", rows),
        f"The release's threshold is chosen from all these {choice.count} windows."
        if threshold.method == "sessions_left_out"
        else f"Chosen from all {choice.count} windows of sessions left out, the threshold would be"
        f" {choice.value:.4g} for {percent_text(choice.false_alarm_rate)} of them.",
    ]


def held_out_section(outcome: "Outcome") -> Section | None:
    """A histogram of held-out windows; None where none is known."""
    values = [value for of_clip in outcome.held_out.values() for value in of_clip]
    if not values:
        return None
    threshold = outcome.manifest.threshold.value
    across = charts.range_of([*values, threshold])
    what = "statistic of a window"
    recordings = count_text(outcome.held_out_files, "recording")
    return section(
        "Windows of the held-out recordings",
        f"{count_text(len(values), 'window')} of {recordings} of normal sound that no weight was"
        " fitted to. They come from the sessions that were trained on: the next session may lie"
        " further right.",
        Drawings([charts.histogram("held out", values, None, threshold, across, what=what)]),
    )


def alarms_section(report: EvaluationReport) -> Section | None:
    """What is left after the node's vote; None where there is nothing to vote on."""
    if not report.votes:
        # Of one window of each recording there is nothing to vote on.
        return None
    facts = {}
    if (alarms := report.false_alarms) is not None:
        low, high = map(rounded_text, alarms.per_day_interval)
        facts["False alarms a day"] = (
            f"{rounded_text(alarms.per_day)} (95 %: {low} to {high}), reckoned from"
            f" {alarms.episodes} in {alarms.hours:.2f} h of normal test recordings, one after"
            " another. An alarm that lasts counts once: flagging everything would be one."
        )
    if (delays := report.delays) is not None and delays.splices:
        facts["Delay to the alarm"] = (
            f"median {seconds_text(delays.median_seconds)}, 90th percentile"
            f" {seconds_text(delays.p90_seconds)}; {percent_text(delays.never_detected)} of"
            f" {count_text(delays.splices, 'splice')} of a normal recording with an anomalous one"
            f" raised none. {delays.ringing_before} more rang before the anomaly began."
        )
    rows = [
        {
            "": "all" if name == "overall" else name,
            "normal clips": percent_text(vote.normal_clips_alarmed),
            "anomalous clips": percent_text(vote.anomaly_clips_alarmed),
            "normal windows": percent_text(vote.normal_windows_alarmed),
            "anomalous windows": percent_text(vote.anomaly_windows_alarmed),
        }
        for name, vote in report.votes.items()
    ]
    return section(
        "Alarms as a node raises them, without calibration on site",
        Table("After the node's vote over consecutive windows", rows),
        Facts(facts),
    )


def room_noise_section(found: Sequence[Disturbance]) -> Section | None:
    """What room noise does to normal recordings; None where it was not tried."""
    if not found:
        return None
    rows = [
        {
            "noise": each.kind,
            "dB": "-" if each.ratio_db is None else f"{each.ratio_db:g}",
            "clips": str(each.clips),
            "windows flagged": percent_text(each.windows_flagged),
            "clips flagged": percent_text(each.clips_flagged),
            "clips after the vote": percent_text(each.clips_alarmed),
        }
        for each in found
    ]
    return section(
        "Room noise that is no fault",
        "Held-out normal recordings with the sound of a room mixed in. Each has a threshold for"
        f" {percent_text(FALSE_ALARM_RATE)} of the windows of its session's other recordings, as"
        " calibration on site would set it: what is flagged beyond the clean sound, the row of no"
        " noise, is the noise's doing, and none of it should be.",
        Table("By kind of noise, and by how much louder the machine is", rows, own_first=True),
    )
