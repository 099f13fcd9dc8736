"""Thresholds, and what a session that was never heard makes of them."""

import numpy as np
import pytest
from scipy.optimize import brentq
from scipy.special import digamma
from scipy.stats import gamma

from training.errors import TrainingError
from training.judge.thresholds import (
    Fold,
    conformal_quantile,
    gamma_threshold,
    leave_one_session_out,
    percentile_threshold,
)


@pytest.mark.parametrize(
    ("n", "rate", "value"),
    [
        # k = ceil((n + 1)(1 - rate)); the scores are 1..n, so the value is k.
        (99, 0.05, 95),
        (99, 0.01, 99),
        (100, 0.05, 96),
        (9, 0.5, 5),
        (10, 0.5, 6),
        (999, 0.001, 999),
        (19, 0.1, 18),
        (249, 0.172, 207),
    ],
)
def test_hand_computed_ranks(n: int, rate: float, value: float) -> None:
    """The threshold is the ceil((n + 1)(1 - rate))-th smallest score, in any order."""
    scores = np.random.default_rng(0).permutation(np.arange(1.0, n + 1))

    found = conformal_quantile(scores, false_alarm_rate=rate)

    assert (found.method, found.value) == ("conformal", value)
    assert (found.false_alarm_rate, found.count) == (rate, n)


def test_too_few_scores_promise_less() -> None:
    """With 9 scores a rate of 1 % cannot be shown: it is the largest score, and 10 %."""
    found = conformal_quantile(np.arange(1.0, 10.0), false_alarm_rate=0.01)

    assert found.value == 9.0
    assert found.false_alarm_rate == pytest.approx(0.1)


def test_new_scores_cross_as_often_as_promised() -> None:
    """Over many draws, new normal scores are above the threshold at the promised rate."""
    rng = np.random.default_rng(1)
    crossed = [
        np.mean(
            rng.gamma(5, size=200)
            > conformal_quantile(rng.gamma(5, size=99), false_alarm_rate=0.1).value
        )
        for _ in range(500)
    ]

    assert np.mean(crossed) == pytest.approx(0.1, abs=0.01)


@pytest.mark.parametrize(
    ("scores", "why"),
    [
        ([], "no held-out windows"),
        ([1.0, np.nan], "got nan"),
        ([1.0, np.inf], "got inf"),
        ([0.0, 1.0], r"got 0\.0"),
    ],
)
def test_no_usable_scores(scores: list[float], why: str) -> None:
    """No scores, or such that are no positive numbers, give no threshold of any method."""
    with pytest.raises(TrainingError, match=why):
        conformal_quantile(np.array(scores), false_alarm_rate=0.1)
    with pytest.raises(TrainingError, match=why):
        percentile_threshold(np.array(scores))
    with pytest.raises(TrainingError, match=why):
        gamma_threshold(np.array(scores))


def test_percentile() -> None:
    """The percentile is interpolated, and says what it lets through of the scores it has seen."""
    found = percentile_threshold(np.arange(1.0, 12.0), 95)

    # Between the scores 10 and 11 of 11, half way: 1 + 0.95 * 10.
    assert found.value == pytest.approx(10.5)
    assert (found.method, found.count) == ("percentile", 11)
    assert found.false_alarm_rate == 0.05


@pytest.mark.parametrize("quantile", [0.9, 0.99])
def test_gamma_finds_the_distribution_it_was_drawn_from(quantile: float) -> None:
    """Fitted to many gamma-distributed scores, the threshold is that distribution's quantile."""
    scores = np.random.default_rng(0).gamma(4.0, 2.5, 20_000)

    found = gamma_threshold(scores, quantile)

    assert found.value == pytest.approx(gamma.ppf(quantile, 4.0, scale=2.5), rel=0.02)
    assert (found.method, found.count) == ("gamma", 20_000)
    assert found.false_alarm_rate == pytest.approx(1 - quantile)


def test_gamma_scales_with_the_scores() -> None:
    """Scores a thousand times as large have a threshold a thousand times as high."""
    scores = np.random.default_rng(0).gamma(3.0, 1.0, 60)

    assert gamma_threshold(1000 * scores).value == pytest.approx(
        1000 * gamma_threshold(scores).value
    )


def test_gamma_starts_at_zero() -> None:
    """The fit is the likeliest gamma distribution from 0 on, even where another start fits better.

    Its shape k solves log k - digamma(k) = log mean(s) - mean(log s), its scale is mean(s) / k.
    """
    scores = 10 + np.random.default_rng(0).gamma(0.5, 1.0, 200)

    found = gamma_threshold(scores)

    spread = np.log(scores.mean()) - np.log(scores).mean()
    shape = brentq(lambda k: np.log(k) - digamma(k) - spread, 1e-3, 1e9)
    wanted = gamma.ppf(0.9, shape, scale=scores.mean() / shape)
    assert found.value == pytest.approx(wanted, rel=1e-6)
    free = gamma.ppf(0.9, *gamma.fit(scores))
    assert abs(free - wanted) > 0.01


@pytest.mark.parametrize("scores", [[2.0], [2.0, 2.0, 2.0], [2.0, 2.0 + 1e-9]])
def test_gamma_of_equal_scores_is_that_score(scores: list[float]) -> None:
    """Where nothing varies, every quantile is the score itself."""
    assert gamma_threshold(np.array(scores)).value == pytest.approx(2.0)


def test_session_left_out_by_hand() -> None:
    """Each session is held against the threshold of the others, and of all a threshold is made."""
    ramp = np.arange(1.0, 100.0)  # threshold at 10 %: the 90th, 90
    found = leave_one_session_out(
        [
            Fold(session="monday", others=ramp, left_out=np.array([89.0, 90.0, 91.0, 92.0])),
            Fold(session="tuesday", others=2 * ramp, left_out=np.array([179.0, 180.0])),
        ],
        false_alarm_rate=0.1,
    )

    assert found is not None
    monday, tuesday = found.sessions
    assert (monday.session, monday.threshold.value, monday.windows) == ("monday", 90, 4)
    assert (monday.share_above, tuesday.share_above) == (0.5, 0)
    assert tuesday.threshold.value == 180
    assert (found.worst_share_above, found.mean_share_above) == (0.5, 0.25)
    # Six scores show 1/7 at best: the largest.
    assert (found.threshold.value, found.threshold.count) == (180, 6)
    assert found.threshold.false_alarm_rate == pytest.approx(0.1428571)


@pytest.mark.parametrize("sessions", [0, 1])
def test_one_session_cannot_be_left_out(sessions: int) -> None:
    """With less than two sessions there is nothing to say of a new one."""
    folds = [Fold(session="monday", others=np.ones(9), left_out=np.ones(9))] * sessions

    assert leave_one_session_out(folds, false_alarm_rate=0.1) is None


def test_folds_that_cannot_be_used() -> None:
    """A session twice, or one without scores, is refused in one line."""
    fold = Fold(session="monday", others=np.ones(9), left_out=np.ones(9))
    empty = Fold(session="tuesday", others=np.ones(9), left_out=np.empty(0))

    with pytest.raises(TrainingError, match="one fold for each session, got monday, monday"):
        leave_one_session_out([fold, fold], false_alarm_rate=0.1)
    with pytest.raises(TrainingError, match="no held-out windows"):
        leave_one_session_out([fold, empty], false_alarm_rate=0.1)
