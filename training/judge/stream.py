"""Clips joined as a stream: how often a node would ring for nothing, and how soon for something.

What comes in is one array of ratios `statistic / threshold` for each clip; a window is flagged
above 1. The clips' own windows are put one after another: windows across a join, half one clip and
half the next, are not scored here, because no machine ever made that sound. The alarm is the
node's (`node.machine.alarm_state`): three of the last five windows, and it stays until one of five
is left.
"""

from collections.abc import Sequence

import msgspec
import numpy as np
import numpy.typing as npt
from scipy.stats import chi2

from contract.states import MachineState
from node.machine.alarm_state import MachineVote
from training.errors import TrainingError

Float64Array = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]

_SECONDS_PER_DAY = 86_400
_CONFIDENCE = 0.95


class FalseAlarms(msgspec.Struct, frozen=True, kw_only=True):
    """What a stream of normal clips rings for."""

    episodes: int
    """Alarms that began; one that lasts is one."""
    hours: float
    """Normal sound that this rests on: one hop for each window."""
    per_day: float
    per_day_interval: tuple[float, float]
    """Exact 95 % interval of Garwood (1936), as if episodes came independently (Poisson)."""


class Delays(msgspec.Struct, frozen=True, kw_only=True):
    """How long after a splice, normal sound before and an anomaly behind, the alarm begins."""

    splices: int
    """Splices that were quiet when the anomaly began: only these can show a delay."""
    ringing_before: int
    """Splices left out: the normal clip had already raised the alarm."""
    median_seconds: float | None
    """Median over all quiet splices, where never detected is endless; None is an endless median."""
    p90_seconds: float | None
    never_detected: float | None
    """Share of the quiet splices; None if there is none."""


def alarms(flags: Sequence[bool] | BoolArray) -> BoolArray:
    """Whether the node's state is alarm after each window, for a node that has just started.

    Args:
        flags: of consecutive windows, shape (n,).

    Returns:
        bool array of shape (n,).

    Example:
        >>> alarms([True, True, False, True, False, False, False]).tolist()
        [False, False, False, True, True, True, False]
    """
    vote = MachineVote()
    states = [vote.hear(bool(flag)) is MachineState.ALARM for flag in flags]
    return np.array(states, dtype=np.bool_)


def false_alarms(normals: Sequence[Float64Array], *, hop_seconds: float) -> FalseAlarms | None:
    """False alarms of normal clips, joined in the order given.

    Windows that share sound are counted by their hop, as on a node that decides once a hop; the
    sound is a little longer, so that the rate is rather too high than too low.

    Args:
        normals: ratios of each clip's windows, shape (windows,) each.
        hop_seconds: between the starts of two windows.

    Returns:
        None if there is no window.

    Raises:
        TrainingError: a ratio is not a finite number.
    """
    joined = _joined(normals)
    if joined.size == 0:
        return None
    episodes = _episodes(alarms(joined > 1))
    days = joined.size * hop_seconds / _SECONDS_PER_DAY
    low, high = poisson_interval(episodes)
    return FalseAlarms(
        episodes=episodes,
        hours=days * 24,
        per_day=episodes / days,
        per_day_interval=(low / days, high / days),
    )


def detection_delays(
    normals: Sequence[Float64Array],
    anomalies: Sequence[Float64Array],
    *,
    hop_seconds: float,
    window_seconds: float,
) -> Delays | None:
    """Delay from the start of an anomaly to the alarm, over one splice for each anomalous clip.

    Each anomalous clip follows a normal one; when these are used up they start again. The first
    window of the anomaly ends `window_seconds` after the splice, each further one a hop later. A
    node also scores the windows across the splice, and may be sooner by that.

    Args:
        normals: ratios of each normal clip's windows, shape (windows,) each.
        anomalies: the same of the anomalous clips.
        hop_seconds: between the starts of two windows.
        window_seconds: length of a window.

    Returns:
        None if there are no normal or no anomalous clips.

    Raises:
        TrainingError: a ratio is not a finite number.
    """
    if not (len(normals) and len(anomalies)):
        return None
    delays: list[float] = []
    ringing_before = 0
    for index, anomaly in enumerate(anomalies):
        normal = normals[index % len(normals)]
        ringing = alarms(_joined([normal, anomaly]) > 1)
        before, after = ringing[: len(normal)], ringing[len(normal) :]
        if before.size and before[-1]:
            ringing_before += 1
        elif after.any():
            delays.append(window_seconds + int(np.argmax(after)) * hop_seconds)
        else:
            delays.append(float("inf"))
    return Delays(
        splices=len(delays),
        ringing_before=ringing_before,
        median_seconds=_finite_quantile(delays, 0.5),
        p90_seconds=_finite_quantile(delays, 0.9),
        never_detected=float(np.mean(np.isinf(delays))) if delays else None,
    )


def poisson_interval(events: int) -> tuple[float, float]:
    """Exact 95 % interval of the mean of a Poisson variable that was seen once (Garwood, 1936).

    Example:
        >>> [round(edge, 3) for edge in poisson_interval(0)]
        [0.0, 3.689]
    """
    tail = (1 - _CONFIDENCE) / 2
    low = float(chi2.ppf(tail, 2 * events)) / 2 if events else 0.0
    return low, float(chi2.ppf(1 - tail, 2 * events + 2)) / 2


def _joined(clips: Sequence[Float64Array]) -> Float64Array:
    joined = np.concatenate([np.empty(0), *clips])
    if not np.isfinite(joined).all():
        raise TrainingError(
            "expected a finite statistic / threshold for each window of the stream, got"
            f" {joined[~np.isfinite(joined)][0]}"
        )
    return joined


def _episodes(ringing: BoolArray) -> int:
    # None begins with the first window: the vote needs three.
    return int(np.sum(ringing[1:] & ~ringing[:-1]))


def _finite_quantile(delays: Sequence[float], share: float) -> float | None:
    """The smallest delay that at least this share reaches; None if no finite one does."""
    if not delays:
        return None
    found = float(np.quantile(delays, share, method="inverted_cdf"))
    return found if np.isfinite(found) else None
