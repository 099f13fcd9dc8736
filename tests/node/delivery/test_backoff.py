"""When what has failed is tried again."""

import pytest

from node.delivery.backoff import Backoff


def test_waits_grow_up_to_the_longest() -> None:
    """Each failure doubles the next wait, until none becomes longer."""
    backoff = Backoff(first_seconds=5.0, most_seconds=30.0)
    waits = []
    for now in (0.0, 100.0, 200.0, 300.0, 400.0):
        backoff.begin(now)
        waits.append(backoff.until - now)

    assert waits == [5.0, 10.0, 20.0, 30.0, 30.0]


@pytest.mark.parametrize(("now", "over"), [(14.9, False), (15.0, True), (99.0, True)])
def test_it_is_time_to_try_when_the_wait_is_over(now: float, over: bool) -> None:
    """A wait ends on the second."""
    backoff = Backoff(first_seconds=5.0, most_seconds=30.0)
    backoff.begin(10.0)

    assert backoff.is_over(now) is over


def test_first_try_need_not_wait() -> None:
    """Nothing has failed yet."""
    assert Backoff(first_seconds=5.0, most_seconds=30.0).is_over(0.0)


def test_wait_that_does_not_grow_stays_what_it_was() -> None:
    """A no that is expected to last a short time is asked about as often as before."""
    backoff = Backoff(first_seconds=5.0, most_seconds=30.0)
    backoff.begin(0.0, grows=False)
    backoff.begin(10.0, grows=False)

    assert backoff.until == 15.0


def test_success_makes_the_next_failure_a_first_one() -> None:
    """Unlike a change that may help: that only ends the wait."""
    backoff = Backoff(first_seconds=5.0, most_seconds=30.0)
    backoff.begin(0.0)
    backoff.forget()
    forgotten = backoff.is_over(0.0)
    backoff.begin(0.0)
    second = backoff.until
    backoff.end()
    ended = backoff.is_over(0.0)
    backoff.begin(0.0)

    assert (forgotten, ended) == (True, True)
    assert (second, backoff.until) == (10.0, 5.0)
