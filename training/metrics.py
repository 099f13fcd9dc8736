"""How well clips are told apart, and the yardsticks that stand beside every figure.

A clip's score is the mean of its windows' reconstruction errors; it is flagged when that is above
the threshold. F1 and AUC never stand alone: flagging everything has an F1 too, and so may the
level alone tell the clips apart.
"""

from collections.abc import Sequence
from typing import Literal

import msgspec
import numpy as np
from sklearn.metrics import f1_score, roc_auc_score

from training.dataset import Clip, Domain


class ScoredClip(msgspec.Struct, frozen=True):
    """A labelled clip with what the node's scorer says of its windows."""

    clip: Clip
    errors: tuple[float, ...]
    """Reconstruction error of each window; at least one."""
    level_dbfs: float
    """RMS level, mean over the windows."""

    @property
    def score(self) -> float:
        """Mean reconstruction error."""
        return float(np.mean(self.errors))

    @property
    def is_anomaly(self) -> bool:
        """What its name says."""
        return self.clip.name.label == "anomaly"


class Figures(msgspec.Struct, frozen=True, kw_only=True):
    """What a set of labelled clips says about a detector; None where a label is missing."""

    normal_clips: int
    anomalous_clips: int
    auc: float | None
    """Of the clips' scores: the chance that an anomaly scores above a normal clip."""
    level_auc: float | None
    """The same for the RMS level alone, in whichever direction tells the clips apart better."""
    level_direction: Literal["louder", "quieter"] | None
    """Which clips that calls anomalous."""
    f1: float | None
    """Of clips whose score is above the threshold."""
    flag_all_f1: float | None
    """What flagging every clip gives."""
    normal_windows_flagged: float | None
    """Share of the normal clips' windows above the threshold."""
    anomalous_windows_flagged: float | None


def figures_by_domain(
    clips: Sequence[ScoredClip], *, threshold: float
) -> dict[Domain | Literal["overall"], Figures]:
    """Figures of each domain that has clips, and of all together."""
    domains: tuple[Domain, ...] = ("source", "target")
    groups: dict[Domain | Literal["overall"], list[ScoredClip]] = {
        domain: [clip for clip in clips if clip.clip.name.domain == domain] for domain in domains
    }
    groups["overall"] = list(clips)
    return {
        domain: figures(group, threshold=threshold) for domain, group in groups.items() if group
    }


def figures(clips: Sequence[ScoredClip], *, threshold: float) -> Figures:
    """Figures of a set of clips."""
    labels = np.array([clip.is_anomaly for clip in clips])
    scores = np.array([clip.score for clip in clips])
    normal, anomalous = int(np.sum(~labels)), int(np.sum(labels))
    both = bool(normal and anomalous)
    louder = float(roc_auc_score(labels, [clip.level_dbfs for clip in clips])) if both else 0.5
    return Figures(
        normal_clips=normal,
        anomalous_clips=anomalous,
        auc=float(roc_auc_score(labels, scores)) if both else None,
        level_auc=max(louder, 1 - louder) if both else None,
        level_direction=("louder" if louder >= 0.5 else "quieter") if both else None,
        f1=float(f1_score(labels, scores > threshold, zero_division=0)) if both else None,
        flag_all_f1=2 * anomalous / (2 * anomalous + normal) if both else None,
        normal_windows_flagged=_share_above(threshold, [c for c in clips if not c.is_anomaly]),
        anomalous_windows_flagged=_share_above(threshold, [c for c in clips if c.is_anomaly]),
    )


def _share_above(threshold: float, clips: Sequence[ScoredClip]) -> float | None:
    errors = [error for clip in clips for error in clip.errors]
    return float(np.mean(np.array(errors) > threshold)) if errors else None
