"""The conformal quantile."""

import numpy as np
import pytest

from training.errors import TrainingError
from training.thresholds import conformal_quantile


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
    ],
)
def test_hand_computed_ranks(n: int, rate: float, value: float) -> None:
    """The threshold is the ceil((n + 1)(1 - rate))-th smallest score, in any order."""
    scores = np.random.default_rng(0).permutation(np.arange(1.0, n + 1))

    found = conformal_quantile(scores, false_alarm_rate=rate)

    assert (found.value, found.false_alarm_rate, found.windows) == (value, rate, n)


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


@pytest.mark.parametrize("scores", [[], [1.0, np.nan], [1.0, np.inf], [0.0, 1.0]])
def test_no_usable_scores(scores: list[float]) -> None:
    """No scores, or such that are no positive numbers, give no threshold."""
    with pytest.raises(TrainingError):
        conformal_quantile(np.array(scores), false_alarm_rate=0.1)
