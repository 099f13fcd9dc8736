"""Limits: what normal sounds like where a node hangs, in numbers, and how they come from its sound.

The mean of each model's residual is the *centre* of this installation; it is taken off before
errors are squared. The limits come from the log of the statistic that is left, by window and by
block.

A block's limit is the prediction limit of Student's t for the next block mean (Hahn, 1969), so
that the correlation of neighbouring windows is inside the spread that is measured, and a short
calibration is paid for with a wider limit. Block means with heavy tails are taken over twice as
long blocks. The limit for single, very loud windows is extrapolated from the tail of the windows
(peaks over threshold: generalised Pareto distribution, fitted by probability-weighted moments,
Hosking and Wallis, 1987).

Pure: knows no clock, file or device; time is counted in windows.
"""

import math
from collections.abc import Sequence
from statistics import NormalDist
from typing import Annotated

import msgspec
import numpy as np
import numpy.typing as npt

from contract.errors import EarshotError
from contract.features import Float32Array
from contract.messages import Positive
from contract.release import Manifest, Model, squeezed
from node.machine.student_t import upper_quantile
from node.scoring.detector import statistic
from node.scoring.scorer import Evidence

Float64Array = npt.NDArray[np.float64]

STOPPED_DB = 11.0
"""A machine that is so much quieter than it was while calibrating rests,"""
QUIET_WINDOWS = 3
"""if so many windows in a row say so: these are not judged;"""
STOPPED_SECONDS = 30.0
"""and it has stopped when it rests for so long: longer than a microphone that dies takes to be told
from it, and than a press takes for a stroke."""
# Below this many blocks Student's t is so wide that nothing would ever be above it.
_FEWEST_BLOCKS = 6
_SECONDS_PER_WEEK = 604_800.0
# A residual larger than this is kept as its mean over time, its last dimension.
_LARGEST_SUMMARY = 512
# A block counts when at least this share of its windows could be scored.
BLOCK_SCORED_SHARE = 0.5
SCORED_SHARE = 2 / 3
_STOPPED_SHARE = 0.1
# Of a normal distribution's blocks the excess kurtosis is 0; some need a number to be told from it.
_HEAVY_TAIL_KURTOSIS = 1.0
_KURTOSIS_BLOCKS = 30
# The tail that the fast limit is extrapolated from, how far, and how wild it may be.
_TAIL_SHARE = 0.02
_TAIL_WINDOWS = 30
_FAST_PROBABILITY = 1e-6
_SHAPE_BOUND = 0.25
# The tail of an hour is short where the sound wanders for minutes; the spread between blocks knows.
_FAST_OVER_BLOCK = 2.0
# How far back down a block must come, between the mean and the limit, to count as normal again.
_RELEASE_SHARE = 0.7
# Exact reconstructions have no logarithm; this is below any real error.
_SMALLEST = 1e-30
_LOWEST_LOG = math.log(2 * _SMALLEST)
# A machine that repeats itself exactly, as only calculated sound does, still gets a limit.
_LEAST_SD = 1e-3


class CalibrationRefusedError(EarshotError):
    """What was heard gives no limits; the text says why and what to do."""


class Observation(msgspec.Struct, frozen=True, eq=False):
    """What a calibration keeps of one scored window."""

    errors: tuple[float, ...]
    """The mean squared residual of each model."""
    summaries: tuple[Float32Array, ...]
    """Of each model's residual: itself, or its mean over time where it is large."""
    mean_features: Float32Array
    """Mean of the features over time, shape (coefficients,)."""
    level_dbfs: float


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """What a calibration comes to. `log` is the natural logarithm of the centred statistic."""

    centres: tuple[tuple[float, ...], ...]
    """Of each model: what is taken off its residual, flat."""
    mean_features: tuple[float, ...]
    """Mean of the features over time and windows: where the sound of this place lies."""
    threshold: Positive
    """Above which centred statistic a single window is flagged."""
    log_mean: float
    log_sd: Positive
    """Standard deviation of the logarithm over single windows."""
    block_seconds: Annotated[int, msgspec.Meta(ge=1, le=7200)]
    blocks: Annotated[int, msgspec.Meta(ge=2)]
    block_mean: float
    block_sd: Positive
    block_limit: float
    """Prediction limit: a block mean above it is a finding."""
    block_release: float
    """A block whose mean is below this is normal again."""
    fast_limit: float
    """Several single windows above it are a finding at once."""
    level_dbfs: float
    """Median level of the windows heard in the calibration."""
    false_alarms_per_week: Positive
    """The rate of false alarms that the block limit is set for."""
    quick: bool
    """Made of two minutes, or little more: wide, and not what they are set for."""

    @property
    def block_rate(self) -> float:
        """Share of normal blocks that the limit is set to let through as false alarms."""
        return min(0.5, self.false_alarms_per_week * self.block_seconds / _SECONDS_PER_WEEK)


def observe(manifest: Manifest, evidence: Evidence, *, level_dbfs: float) -> Observation:
    """What to keep of a window that was scored."""
    frames = manifest.features.sound_frames
    return Observation(
        errors=evidence.errors,
        summaries=tuple(
            _summary(model, residual)
            for model, residual in zip(manifest.models, evidence.residuals, strict=True)
        ),
        mean_features=evidence.features[:, :frames].mean(axis=1),
        level_dbfs=level_dbfs,
    )


def centred_statistic(
    manifest: Manifest, observation: Observation, centres: Sequence[Sequence[float]]
) -> float:
    """The release's statistic with each model's residual taken from its centre.

    With residual r and a centre c that is constant over time, `mean((r - c)^2)` is
    `mean(r^2) - 2 mean(s c) + mean(c^2)` for the summary s of r, which is all that is kept.
    """
    return statistic(
        manifest,
        tuple(
            _centred_error(error, summary, np.asarray(centre))
            for error, summary, centre in zip(
                observation.errors, observation.summaries, centres, strict=True
            )
        ),
    )


def fits(manifest: Manifest, limits: Limits) -> bool:
    """Whether limits can be used with a release: as many centres as models, of their widths."""
    params = manifest.features
    widths = []
    for model in manifest.models:
        shape = params.shape if model.output == "reconstruction" else squeezed(model.output_shape)
        size = math.prod(shape)
        widths.append(size // shape[-1] if _is_averaged(model, shape) else size)
    numbers = [*limits.mean_features, *(value for centre in limits.centres for value in centre)]
    return (
        [len(centre) for centre in limits.centres] == widths
        and len(limits.mean_features) == params.shape[0]
        and all(map(math.isfinite, numbers))
    )


def find_limits(
    manifest: Manifest,
    heard: Sequence[Observation | None],
    *,
    hop_seconds: float,
    block_seconds: int,
    false_alarms_per_week: float,
    quick: bool,
) -> Limits:
    """Limits from the sound of a healthy machine.

    Args:
        manifest: of the release that has scored it.
        heard: consecutive windows; None where one could not be scored.
        hop_seconds: between two windows.
        block_seconds: length of a block; doubled where block means have heavy tails.
        false_alarms_per_week: what the block limit is set for.
        quick: what to call them.

    Raises:
        CalibrationRefusedError: too little, or not one healthy machine that runs.
    """
    known = [observation for observation in heard if observation is not None]
    if len(known) < SCORED_SHARE * len(heard) or len(known) < 2:
        raise CalibrationRefusedError(
            f"only {len(known)} of {len(heard)} windows could be scored: look at the microphone,"
            " and calibrate while the machine runs"
        )
    _check_running(known, hop_seconds=hop_seconds)
    level_dbfs = float(np.median([observation.level_dbfs for observation in known]))
    heard = _without_pauses(heard, below_dbfs=level_dbfs - STOPPED_DB)
    known = [observation for observation in heard if observation is not None]
    per_block = max(1, round(block_seconds / hop_seconds))
    logs = _cross_centred_logs(manifest, heard, per_block)
    means = np.array([m for m in block_means(logs, windows_per_block=per_block) if m is not None])
    if len(means) >= _KURTOSIS_BLOCKS and _excess_kurtosis(means) > _HEAVY_TAIL_KURTOSIS:
        block_seconds, per_block = 2 * block_seconds, 2 * per_block
        doubled = block_means(logs, windows_per_block=per_block)
        means = np.array([m for m in doubled if m is not None])
    if len(means) < _FEWEST_BLOCKS:
        raise CalibrationRefusedError(
            f"expected at least {_FEWEST_BLOCKS} blocks of {block_seconds} s that can be scored,"
            f" got {len(means)}: calibrate for longer"
        )
    windows = np.array([log for log in logs if log is not None])
    if float(np.mean(windows <= _LOWEST_LOG)) > 1 - SCORED_SHARE:
        raise CalibrationRefusedError(
            "what the model leaves over hardly varies here, next to how much it is: this release"
            " does not fit this machine; train one with its sound"
        )
    log_mean, log_sd = float(windows.mean()), max(_LEAST_SD, float(windows.std(ddof=1)))
    block_mean, block_sd = float(means.mean()), max(_LEAST_SD, float(means.std(ddof=1)))
    tail = false_alarms_per_week * block_seconds / _SECONDS_PER_WEEK
    t = upper_quantile(min(0.5, tail), len(means) - 1)
    block_limit = block_mean + t * block_sd * math.sqrt(1 + 1 / len(means))
    rate = manifest.threshold.false_alarm_rate or 0.001
    log_threshold = max(
        log_mean + NormalDist().inv_cdf(1 - rate) * log_sd,
        float(np.quantile(windows, 1 - rate, method="higher")),
    )
    return Limits(
        centres=tuple(
            tuple(np.array([o.summaries[model] for o in known], np.float64).mean(axis=0).tolist())
            for model in range(len(manifest.models))
        ),
        mean_features=tuple(
            np.array([o.mean_features for o in known], np.float64).mean(axis=0).tolist()
        ),
        threshold=math.exp(log_threshold),
        log_mean=log_mean,
        log_sd=log_sd,
        block_seconds=block_seconds,
        blocks=len(means),
        block_mean=block_mean,
        block_sd=block_sd,
        block_limit=block_limit,
        block_release=block_mean + _RELEASE_SHARE * (block_limit - block_mean),
        fast_limit=max(
            fast_limit(windows), block_mean + _FAST_OVER_BLOCK * (block_limit - block_mean)
        ),
        level_dbfs=level_dbfs,
        false_alarms_per_week=false_alarms_per_week,
        quick=quick,
    )


def block_means(logs: Sequence[float | None], *, windows_per_block: int) -> list[float | None]:
    """Means of consecutive whole blocks; None where too few of a block's windows could be scored.

    Example:
        >>> block_means([1.0, 3.0, None, 5.0, None, None, 7.0], windows_per_block=2)
        [2.0, 5.0, None]
    """
    means: list[float | None] = []
    for start in range(0, len(logs) - windows_per_block + 1, windows_per_block):
        block = [log for log in logs[start : start + windows_per_block] if log is not None]
        enough = len(block) >= BLOCK_SCORED_SHARE * windows_per_block
        means.append(math.fsum(block) / len(block) if enough and block else None)
    return means


def fast_limit(logs: Float64Array) -> float:
    """The log statistic that one window in a million would exceed, by the tail of those heard.

    Never below the largest of them. With fewer than 1500 windows there is no tail to speak of, and
    the normal distribution has to do.

    Args:
        logs: shape (windows,).
    """
    largest, sd = float(logs.max()), max(_LEAST_SD, float(logs.std()))
    start = float(np.quantile(logs, 1 - _TAIL_SHARE))
    excesses = np.sort(logs[logs > start] - start)
    if len(excesses) < _TAIL_WINDOWS:
        normal = float(logs.mean()) + NormalDist().inv_cdf(1 - _FAST_PROBABILITY) * sd
        return max(normal, largest + sd)
    shape, scale = _fit_pareto(excesses)
    ratio = _FAST_PROBABILITY * len(logs) / len(excesses)
    stretch = -math.log(ratio) if abs(shape) < 1e-6 else (ratio**-shape - 1) / shape
    return max(start + scale * stretch, largest)


def _fit_pareto(excesses: Float64Array) -> tuple[float, float]:
    """Shape and scale of a generalised Pareto distribution; positive shapes have heavy tails."""
    n = len(excesses)
    plotting = (np.arange(1, n + 1) - 0.35) / n
    first = float(excesses.mean())
    second = float(np.mean((1 - plotting) * excesses))
    shape = 2.0 - first / max(first - 2 * second, 1e-12)
    shape = min(max(shape, -_SHAPE_BOUND), _SHAPE_BOUND)
    # The scale that gives the mean with that shape: scale / (1 - shape).
    return shape, first * (1 - shape)


def _check_running(known: Sequence[Observation], *, hop_seconds: float) -> None:
    levels = np.array([observation.level_dbfs for observation in known])
    # A high quantile, so that a machine that rests most of the time is noticed, too.
    quiet = levels < float(np.quantile(levels, 0.9)) - STOPPED_DB
    # A press is loud for a moment and quiet for some seconds; that is how it runs.
    long = max(1, round(STOPPED_SECONDS / hop_seconds))
    stopped = sum(end - start for start, end in _runs(quiet) if end - start >= long) / len(levels)
    if stopped > _STOPPED_SHARE:
        raise CalibrationRefusedError(
            f"the machine stopped for {stopped:.0%} of the time (more than {STOPPED_DB:g} dB"
            " quieter): calibrate while it runs"
        )


def _without_pauses(
    heard: Sequence[Observation | None], *, below_dbfs: float
) -> list[Observation | None]:
    """The same windows without those that would not be judged either."""
    kept = list(heard)
    quiet = np.array([o is not None and o.level_dbfs < below_dbfs for o in heard])
    for start, end in _runs(quiet):
        if end - start >= QUIET_WINDOWS:
            kept[start:end] = [None] * (end - start)
    return kept


def _runs(flags: npt.NDArray[np.bool_]) -> list[tuple[int, int]]:
    """Where the flags are set: starts and ends of the stretches."""
    edges = np.flatnonzero(np.diff(flags, prepend=False, append=False))
    return [(int(start), int(end)) for start, end in edges.reshape(-1, 2)]


def _cross_centred_logs(
    manifest: Manifest, heard: Sequence[Observation | None], per_block: int
) -> list[float | None]:
    """Log statistic of each window, centred by the blocks that it is not among.

    A centre makes the errors of the very windows that it was made of too small. So every other
    block makes the centre for the blocks between.
    """
    halves: list[list[list[Float32Array]]] = [[], []]
    for number, observation in enumerate(heard):
        if observation is not None:
            halves[number // per_block % 2].append(list(observation.summaries))
    if not all(halves):
        raise CalibrationRefusedError("expected more than one block of sound: calibrate for longer")
    centres = [
        [np.mean([summaries[model] for summaries in half], axis=0) for model in range(len(half[0]))]
        for half in halves
    ]
    return [
        None
        if observation is None
        else math.log(
            max(
                _SMALLEST,
                centred_statistic(manifest, observation, centres[1 - number // per_block % 2]),
            )
        )
        for number, observation in enumerate(heard)
    ]


def _summary(model: Model, residual: Float32Array) -> Float32Array:
    if _is_averaged(model, residual.shape):
        residual = residual.mean(axis=-1)
    return residual.ravel()


def _is_averaged(model: Model, shape: tuple[int, ...]) -> bool:
    """Whether a model's residual is kept as its mean over time."""
    return model.error == "time_mean_mse" or math.prod(shape) > _LARGEST_SUMMARY


def _centred_error(error: float, summary: Float32Array, centre: Float64Array) -> float:
    crossed = float(np.mean(summary * centre))
    return max(_SMALLEST, error - 2.0 * crossed + float(np.mean(np.square(centre))))


def _excess_kurtosis(values: Float64Array) -> float:
    deviations = values - values.mean()
    variance = float(np.mean(deviations**2))
    return float(np.mean(deviations**4)) / max(variance**2, 1e-300) - 3.0
