"""From scores of normal sound to a threshold, and what a session that was never heard makes of it.

Only the conformal quantile promises anything of new windows, and only of such as come from the
sessions that were heard. The percentile and the gamma fit are there to compare with others, who
use them.
"""

import math
from collections.abc import Sequence
from typing import Literal

import msgspec
import numpy as np
import numpy.typing as npt
from scipy.stats import gamma

from training.errors import TrainingError

Float64Array = npt.NDArray[np.float64]

# Below this spread, relative to the mean, the likelihood's only curved term is rounding.
_LEAST_SPREAD = 1e-6


class ThresholdChoice(msgspec.Struct, frozen=True, kw_only=True):
    """A threshold, and how it was chosen."""

    method: Literal["conformal", "percentile", "gamma"]
    value: float
    false_alarm_rate: float
    """As asked; of the conformal quantile what this many scores can show at best."""
    count: int
    """Scores that it was chosen from."""


class Fold(msgspec.Struct, frozen=True, kw_only=True):
    """Scores from models that never heard one session; all of normal windows held out."""

    session: str
    """The one left out."""
    others: Float64Array
    """Shape (n,): windows of the other sessions, not trained on either."""
    left_out: Float64Array
    """Shape (m,): windows of the session left out."""


class SessionShare(msgspec.Struct, frozen=True, kw_only=True):
    """What the threshold of the other sessions does to one session."""

    session: str
    threshold: ThresholdChoice
    windows: int
    share_above: float
    """Share of its windows above that threshold; all of them are false alarms."""


class SessionCheck(msgspec.Struct, frozen=True, kw_only=True):
    """Whether a threshold holds for a session that was never heard."""

    sessions: tuple[SessionShare, ...]
    """The sessions left out, in the order given."""
    worst_share_above: float
    mean_share_above: float
    """Over sessions, each counted once."""
    threshold: ThresholdChoice
    """Conformal, of all left-out scores together."""


def conformal_quantile(scores: Float64Array, *, false_alarm_rate: float) -> ThresholdChoice:
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
    _refuse_unusable(scores)
    n = scores.size
    # Without rounding, (249 + 1)(1 - 0.172) is a little above 207 and the rank one too high.
    rank = math.ceil(round((n + 1) * (1 - false_alarm_rate), 9))
    value = scores.max() if rank > n else np.partition(scores, rank - 1)[rank - 1]
    return ThresholdChoice(
        method="conformal",
        value=float(value),
        false_alarm_rate=1 / (n + 1) if rank > n else false_alarm_rate,
        count=n,
    )


def percentile_threshold(scores: Float64Array, percentile: float = 95) -> ThresholdChoice:
    """A percentile of normal scores, interpolated linearly; it promises nothing of new ones.

    Args:
        scores: of normal sound, shape (n,).
        percentile: 0 to 100, both excluded.

    Raises:
        TrainingError: there is no score, or one is not a positive number.
    """
    _refuse_unusable(scores)
    return ThresholdChoice(
        method="percentile",
        value=float(np.percentile(scores, percentile)),
        false_alarm_rate=(100 - percentile) / 100,
        count=scores.size,
    )


def gamma_threshold(scores: Float64Array, quantile: float = 0.9) -> ThresholdChoice:
    """A quantile of a gamma distribution fitted to normal scores, as DCASE's baselines choose it.

    They let the location free, and the fit then collapses on some scores (shape near 0, a threshold
    that nothing or everything passes); here it is 0. For rare alarms it is of no use: a few strange
    scores among those fitted move its far end by much.

    Args:
        scores: of normal clips, shape (n,).
        quantile: 0 to 1, both excluded.

    Raises:
        TrainingError: there is no score, or one is not a positive number.
    """
    _refuse_unusable(scores)
    mean = float(scores.mean())
    if scores.std() <= _LEAST_SPREAD * mean:
        value = mean
    else:
        shape, location, scale = gamma.fit(scores, floc=0)
        value = float(gamma.ppf(quantile, shape, loc=location, scale=scale))
    return ThresholdChoice(
        method="gamma", value=value, false_alarm_rate=round(1 - quantile, 9), count=scores.size
    )


def leave_one_session_out(folds: Sequence[Fold], *, false_alarm_rate: float) -> SessionCheck | None:
    """For each session, how many of its windows cross the threshold that the others give.

    Windows of one session are alike, so a threshold holds for them better than for the next
    installation; the share above it here is what that next one would have seen.

    Args:
        folds: one for each session, each scored by a model that never heard it.
        false_alarm_rate: asked of each threshold.

    Returns:
        None with less than two sessions: there is then no other to learn from.

    Raises:
        TrainingError: two folds leave out the same session, a fold has no scores, or one is not a
            positive number.
    """
    if len(folds) < 2:
        return None
    names = [fold.session for fold in folds]
    if len(set(names)) < len(names):
        raise TrainingError(f"expected one fold for each session, got {', '.join(names)}")
    sessions = tuple(_share_above(fold, false_alarm_rate) for fold in folds)
    shares = [session.share_above for session in sessions]
    return SessionCheck(
        sessions=sessions,
        worst_share_above=max(shares),
        mean_share_above=float(np.mean(shares)),
        threshold=conformal_quantile(
            np.concatenate([fold.left_out for fold in folds]), false_alarm_rate=false_alarm_rate
        ),
    )


def _share_above(fold: Fold, false_alarm_rate: float) -> SessionShare:
    _refuse_unusable(fold.left_out)
    threshold = conformal_quantile(fold.others, false_alarm_rate=false_alarm_rate)
    return SessionShare(
        session=fold.session,
        threshold=threshold,
        windows=fold.left_out.size,
        share_above=float(np.mean(fold.left_out > threshold.value)),
    )


def _refuse_unusable(scores: Float64Array) -> None:
    if scores.size == 0:
        raise TrainingError("no held-out windows to choose a threshold from")
    if not (np.isfinite(scores).all() and scores.min() > 0):
        raise TrainingError(
            "expected positive scores of the held-out windows, got"
            f" {scores[~(np.isfinite(scores) & (scores > 0))][0]}"
        )
