"""From scores of normal sound to a threshold that a stated share of it crosses."""

import math

import msgspec
import numpy as np
import numpy.typing as npt

from training.errors import TrainingError


class Quantile(msgspec.Struct, frozen=True):
    """A threshold and what may be promised of it."""

    value: float
    false_alarm_rate: float
    """As asked, or what this many windows can show at best."""
    windows: int


def conformal_quantile(scores: npt.NDArray[np.float64], *, false_alarm_rate: float) -> Quantile:
    """The score that a new normal window exceeds with at most the stated probability.

    The k-th smallest of n scores with `k = ceil((n + 1)(1 - rate))` has this property for windows
    that are exchangeable with the n (Vovk, Gammerman and Shafer, 2005). A rate below
    `1 / (n + 1)` cannot be shown with n windows: then it is the largest score and that rate.

    Args:
        scores: of held-out normal windows, shape (n,).
        false_alarm_rate: share of normal windows above the threshold, 0 to 1, both excluded.

    Example:
        >>> conformal_quantile(np.arange(1.0, 100.0), false_alarm_rate=0.05).value
        95.0

    Raises:
        TrainingError: there is no score, or one is not a positive number.
    """
    n = scores.size
    if n == 0:
        raise TrainingError("no held-out windows to choose a threshold from")
    if not (np.isfinite(scores).all() and scores.min() > 0):
        raise TrainingError("expected positive reconstruction errors of the held-out windows")
    # Without rounding, (n + 1)(1 - 0.05) of 99 is 95.00000000000001 and the rank one too high.
    rank = math.ceil(round((n + 1) * (1 - false_alarm_rate), 9))
    if rank > n:
        return Quantile(float(scores.max()), 1 / (n + 1), n)
    return Quantile(float(np.partition(scores, rank - 1)[rank - 1]), false_alarm_rate, n)
