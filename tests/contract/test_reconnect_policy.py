"""How long a session waits before it connects again."""

import random

from contract.session import ReconnectPolicy


def test_waits_longer_after_each_failure_up_to_a_bound() -> None:
    """The bound of the random wait doubles with each failure and ends at the cap."""
    policy = ReconnectPolicy(_Highest())

    delays = [policy.delay_seconds(lasted_seconds=0.0, refused=False) for _ in range(8)]

    assert delays == [1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0, 30.0]


def test_waits_a_random_time_below_the_bound() -> None:
    """Two nodes that lose the broker together do not come back together."""
    first = ReconnectPolicy(random.Random(1))
    second = ReconnectPolicy(random.Random(2))

    delays = [
        [policy.delay_seconds(lasted_seconds=0.0, refused=False) for _ in range(6)]
        for policy in (first, second)
    ]

    assert all(
        0.0 <= wait <= bound
        for waits in delays
        for wait, bound in zip(waits, (1, 2, 4, 8, 16, 30), strict=True)
    )
    assert delays[0] != delays[1]


def test_starts_over_after_a_connection_that_lasted() -> None:
    """A connection that has stood for a while resets the bound."""
    policy = ReconnectPolicy(_Highest())
    for _ in range(5):
        policy.delay_seconds(lasted_seconds=0.0, refused=False)

    delay = policy.delay_seconds(lasted_seconds=ReconnectPolicy.STABLE_SECONDS, refused=False)

    assert delay == 1.0


def test_does_not_start_over_after_a_connection_that_did_not_last() -> None:
    """Being let in and thrown out at once, again and again, still makes the waits longer."""
    policy = ReconnectPolicy(_Highest())

    delays = [policy.delay_seconds(lasted_seconds=0.5, refused=False) for _ in range(4)]

    assert delays == [1.0, 2.0, 4.0, 8.0]


def test_waits_long_after_a_refusal() -> None:
    """A broker that says no is not asked again within a minute."""
    policy = ReconnectPolicy(random.Random(3))

    delay = policy.delay_seconds(lasted_seconds=0.0, refused=True)

    assert ReconnectPolicy.REFUSED_SECONDS <= delay <= 2 * ReconnectPolicy.REFUSED_SECONDS


class _Highest(random.Random):
    """Chance that always picks the upper end."""

    def uniform(self, a: float, b: float) -> float:
        return b
