"""How sure a figure is: the bootstrap over recordings, and the spread over seeds.

Clips are drawn with replacement, as many as there are, within each section, domain and label, so
that no resample loses a class (Efron and Tibshirani, 1993, stratified percentile interval). Windows
are never drawn: those of one clip are one recording. What a bootstrap cannot say: a set that is
told apart perfectly has the interval 1 to 1, for there is nothing to vary.
"""

import math
from collections.abc import Callable, Sequence
from typing import Final

import msgspec
import numpy as np
import numpy.typing as npt

from training.errors import DataError, TrainingError
from training.judge.metrics import (
    ClipScore,
    DcaseRule,
    Figure,
    Float64Array,
    ScoredClip,
    percentile_interval,
    resampled_figure,
)
from training.sound.dataset import Clip

GroupOf = Callable[[Clip], str]
"""Names the recording that a clip belongs to; clips of one name are drawn together."""

Runs = Sequence[Sequence[ScoredClip]]
"""The same clips as scored by one or more trainings of a detector."""

RESAMPLES: Final = 1000


class Difference(msgspec.Struct, frozen=True, kw_only=True):
    """By how much the first detector is better than the second, on the same clips."""

    point: float
    low: float
    """The lower end of the 95 % percentile interval."""
    high: float
    share_above_zero: float
    """Share of the resamples in which the first is better."""


class Spread(msgspec.Struct, frozen=True, kw_only=True):
    """The mean and the standard deviation of a figure over seeds."""

    mean: float
    sd: float | None
    """Sample standard deviation (n - 1); None of a single value."""
    count: int


def draw_resamples(
    clips: Sequence[Clip], *, seed: int, count: int = RESAMPLES, group: GroupOf | None = None
) -> Float64Array:
    """How often each resample holds each clip.

    The order of the clips does not matter: a clip is drawn by its name. Groups are drawn among
    those that have clips of the same sections, domains and labels.

    Args:
        clips: of one machine; names are their paths.
        seed: of the draws.
        count: resamples.
        group: None draws each clip by itself.

    Returns:
        float64 array of whole numbers, shape (count, clips).
    """
    names = [str(clip.path) if group is None else group(clip) for clip in clips]
    contents: dict[str, set[tuple[str, str, str]]] = {}
    for name, clip in zip(names, clips, strict=True):
        contents.setdefault(name, set()).add((clip.section, clip.domain, str(clip.label)))
    strata: dict[tuple[tuple[str, str, str], ...], list[str]] = {}
    for name in sorted(contents):
        strata.setdefault(tuple(sorted(contents[name])), []).append(name)

    rng = np.random.default_rng(seed)
    drawn: dict[str, npt.NDArray[np.int64]] = {}
    for _, members in sorted(strata.items()):
        times = rng.multinomial(len(members), [1 / len(members)] * len(members), size=count)
        drawn.update(zip(members, times.T, strict=True))
    return np.array([drawn[name] for name in names], dtype=np.float64).reshape(-1, count).T


def paired_difference_over_sets(
    pairs: Sequence[tuple[Runs, Runs]],
    *,
    figure: Figure = "official",
    how: tuple[ClipScore, ClipScore] = ("mean", "mean"),
    rule: DcaseRule | None = None,
    seed: int,
    count: int = RESAMPLES,
    group: GroupOf | None = None,
) -> Difference | None:
    """Figure of the first detector minus that of the second, mean over data sets.

    Both are resampled alike, each data set by itself; clips are matched by path.

    Args:
        pairs: for each data set the clips as scored by the first and by the second detector. A
            detector may have several runs, trained with different seeds: its figure is their mean,
            each resample the same for all.
        figure: overall figure to compare.
        how: each detector's score of a clip.
        rule: official rule; None chooses for each set as `evaluate_scores` does.
        seed: of the draws.
        count: resamples of each set.
        group: which clips of a set are one recording.

    Returns:
        None if there is no set, or one lacks a label.

    Raises:
        DataError: the runs have not scored the same clips.
    """
    differences = []
    for index, runs in enumerate(pairs):
        ordered = [[_by_path(clips) for clips in detector] for detector in runs]
        everyone = [clips for detector in ordered for clips in detector]
        for clips in everyone[1:]:
            _refuse_other_clips(everyone[0], clips)
        # A seed for each set: the same one would draw the clips of two sets in step.
        resamples = draw_resamples(
            [clip.clip for clip in everyone[0]],
            seed=_seed_of_set(seed, index),
            count=count,
            group=group,
        )
        values = [
            [
                resampled_figure(clips, figure, how=score, rule=rule, resamples=resamples)
                for clips in detector
            ]
            for detector, score in zip(ordered, how, strict=True)
        ]
        known = [[found for found in detector if found is not None] for detector in values]
        if not all(known):
            return None
        differences.append(np.mean(known[0], axis=0) - np.mean(known[1], axis=0))
    if not differences:
        return None
    mean = np.mean(differences, axis=0)
    low, high = percentile_interval(mean[1:])
    return Difference(
        point=float(mean[0]),
        low=low,
        high=high,
        share_above_zero=float(np.mean(mean[1:] > 0)),
    )


def mean_and_spread(values: Sequence[float]) -> Spread:
    """Mean and sample standard deviation of a figure over seeds.

    Raises:
        TrainingError: there is no value, or one is not a finite number.
    """
    if not values or not all(math.isfinite(value) for value in values):
        raise TrainingError(f"expected a finite figure for each seed, got {list(values)}")
    return Spread(
        mean=float(np.mean(values)),
        sd=float(np.std(values, ddof=1)) if len(values) > 1 else None,
        count=len(values),
    )


def _by_path(clips: Sequence[ScoredClip]) -> list[ScoredClip]:
    return sorted(clips, key=lambda clip: clip.clip.path)


def _refuse_other_clips(first: Sequence[ScoredClip], second: Sequence[ScoredClip]) -> None:
    of_first, of_second = [clip.clip for clip in first], [clip.clip for clip in second]
    if of_first == of_second:
        return
    only = [clip for clip in of_first if clip not in of_second]
    only += [clip for clip in of_second if clip not in of_first]
    raise DataError(
        f"expected the same clips of both detectors, got {len(of_first)} and {len(of_second)}"
        + (f"; only one has {only[0].path.name}" if only else "; one has a clip twice")
    )


def _seed_of_set(seed: int, index: int) -> int:
    return int(np.random.SeedSequence([seed, index]).generate_state(1)[0])
