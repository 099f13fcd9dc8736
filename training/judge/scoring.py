"""Between clips and the windows that a detector judges."""

from collections.abc import Sequence
from typing import Literal

import msgspec
import numpy as np

from contract.features import Float32Array
from training.errors import TrainingError
from training.judge.metrics import Float64Array, ScoredClip
from training.sound.feature_cache import ClipFeatures

WindowChoice = Literal["first", "all"]


def chosen(clips: Sequence[ClipFeatures], windows: WindowChoice) -> list[ClipFeatures]:
    """The clips with the windows that a recipe looks at."""
    if windows == "all":
        return list(clips)
    return [
        msgspec.structs.replace(clip, features=clip.features[:1], level_dbfs=clip.level_dbfs[:1])
        for clip in clips
    ]


def stacked(clips: Sequence[ClipFeatures]) -> Float32Array:
    """Features of all windows, shape (n, coefficients, frames)."""
    return np.concatenate([clip.features for clip in clips])


def scored(clips: Sequence[ClipFeatures], of_windows: Float64Array) -> list[ScoredClip]:
    """Labelled clips with the statistics of their windows, shape (windows of all clips,).

    Raises:
        TrainingError: a statistic is no number.
    """
    ends = np.cumsum([len(clip.features) for clip in clips])
    parts = np.split(of_windows, ends[:-1])
    for clip, part in zip(clips, parts, strict=True):
        if not np.isfinite(part).all():
            raise TrainingError(f"{clip.clip.path.name}: the model gave no number for a window")
    return [
        ScoredClip(clip.clip, part, float(clip.level_dbfs.mean()))
        for clip, part in zip(clips, parts, strict=True)
    ]
