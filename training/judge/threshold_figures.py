"""What a threshold does to labelled clips: found, missed, false alarms, and after the vote.

F1 never stands alone: flagging everything has an F1 too.
"""

import math
from collections.abc import Sequence

import msgspec
import numpy as np

from training.judge.metrics import (
    DOMAINS,
    BoolArray,
    ClipScore,
    Group,
    ScoredClip,
    clip_scores,
)
from training.judge.stream import alarms


class ThresholdFigures(msgspec.Struct, frozen=True, kw_only=True):
    """What flagging all clips above a threshold gives; None where a label is missing."""

    threshold: float
    normal_clips: int
    anomaly_clips: int
    precision: float | None
    """0 if nothing is flagged."""
    recall: float | None
    """Share of the anomalous clips that are flagged, which is `tpr`."""
    f1: float | None
    flag_all_f1: float | None
    """F1 of flagging every clip: one below it is worth nothing."""
    fpr: float | None
    """Share of the normal clips that are flagged."""
    tpr: float | None
    """Share of the anomalous clips that are flagged."""
    mcc: float | None
    """Matthews correlation; 0 if all clips or none are flagged."""
    balanced_accuracy: float | None
    normal_windows_flagged: float | None
    """Share of the normal clips' windows above the threshold."""
    anomaly_windows_flagged: float | None


class Vote(msgspec.Struct, frozen=True, kw_only=True):
    """What is left of a threshold after the node's vote over each clip's consecutive windows."""

    normal_windows_alarmed: float | None
    """Share of the normal clips' windows after which the node is in alarm."""
    anomaly_windows_alarmed: float | None
    normal_clips_alarmed: float | None
    """Share of the normal clips with such a window."""
    anomaly_clips_alarmed: float | None


def flag_all_f1(*, normal_clips: int, anomaly_clips: int) -> float | None:
    """F1 of calling every clip an anomaly; None if a label is missing."""
    if not (normal_clips and anomaly_clips):
        return None
    return 2 * anomaly_clips / (2 * anomaly_clips + normal_clips)


def decisions(
    clips: Sequence[ScoredClip], *, threshold: float, how: ClipScore
) -> dict[Group, ThresholdFigures]:
    """Decisions over all clips and over each domain that has clips.

    A clip is flagged when its score is above the threshold, a window when its statistic is.
    """
    return {
        group: _threshold_figures(members, threshold=threshold, how=how)
        for group, members in _groups(clips).items()
    }


def votes(clips: Sequence[ScoredClip], *, threshold: float) -> dict[Group, Vote]:
    """The node's vote over all clips and over each domain that has clips.

    Each clip begins with an empty vote, as a node does that has just started: a clip of another
    label before it would lend it its flags.
    """
    return {group: _vote(members, threshold=threshold) for group, members in _groups(clips).items()}


def _groups(clips: Sequence[ScoredClip]) -> dict[Group, list[ScoredClip]]:
    groups: dict[Group, list[ScoredClip]] = {"overall": list(clips)}
    for domain in DOMAINS:
        members = [clip for clip in clips if clip.clip.domain == domain]
        if members:
            groups[domain] = members
    return groups


def _threshold_figures(
    clips: Sequence[ScoredClip], *, threshold: float, how: ClipScore
) -> ThresholdFigures:
    labels = np.array([clip.is_anomaly for clip in clips], dtype=np.bool_)
    flagged = clip_scores(clips, how) > threshold
    hits, misses = int(np.sum(labels & flagged)), int(np.sum(labels & ~flagged))
    false, rests = int(np.sum(~labels & flagged)), int(np.sum(~labels & ~flagged))
    anomaly, normal = hits + misses, false + rests
    both = bool(anomaly and normal)
    tpr = hits / anomaly if anomaly else None
    fpr = false / normal if normal else None
    return ThresholdFigures(
        threshold=threshold,
        normal_clips=normal,
        anomaly_clips=anomaly,
        precision=hits / max(hits + false, 1) if both else None,
        recall=tpr,
        f1=2 * hits / (2 * hits + false + misses) if both else None,
        flag_all_f1=flag_all_f1(normal_clips=normal, anomaly_clips=anomaly),
        fpr=fpr,
        tpr=tpr,
        mcc=_matthews(hits, misses, false, rests) if both else None,
        balanced_accuracy=None if tpr is None or fpr is None else (tpr + 1 - fpr) / 2,
        normal_windows_flagged=_share(_above(threshold, clips, anomaly=False)),
        anomaly_windows_flagged=_share(_above(threshold, clips, anomaly=True)),
    )


def _matthews(hits: int, misses: int, false: int, rests: int) -> float:
    margins = (hits + false) * (hits + misses) * (rests + false) * (rests + misses)
    return (hits * rests - false * misses) / math.sqrt(margins) if margins else 0.0


def _vote(clips: Sequence[ScoredClip], *, threshold: float) -> Vote:
    normal = [alarms(flags) for flags in _above(threshold, clips, anomaly=False)]
    anomaly = [alarms(flags) for flags in _above(threshold, clips, anomaly=True)]
    return Vote(
        normal_windows_alarmed=_share(normal),
        anomaly_windows_alarmed=_share(anomaly),
        normal_clips_alarmed=_share([np.array([states.any()]) for states in normal]),
        anomaly_clips_alarmed=_share([np.array([states.any()]) for states in anomaly]),
    )


def _above(threshold: float, clips: Sequence[ScoredClip], *, anomaly: bool) -> list[BoolArray]:
    """For each clip of this label, which of its windows are above the threshold."""
    return [clip.statistics > threshold for clip in clips if clip.is_anomaly == anomaly]


def _share(flags: Sequence[BoolArray]) -> float | None:
    return float(np.mean(np.concatenate(flags))) if flags else None
