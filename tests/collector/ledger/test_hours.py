"""An hour is due once it has ended and has been quiet, and again whenever a window comes late."""

from hypothesis import given
from hypothesis import strategies as st

from collector.ledger.hours import Hours
from collector.sinks.hour_figures import HOUR_US, hour_of
from tests.rig.examples import START_US

BEGIN_US = hour_of(START_US)
END_US = BEGIN_US + HOUR_US
HOUR = ("press-07", BEGIN_US)
MINUTE_US = 60_000_000


def test_hour_is_due_when_it_has_ended_and_was_quiet() -> None:
    """Ten minutes after its last window, and not before its end, however quiet it is."""
    hours = Hours()
    hours.hear(HOUR, now_us=BEGIN_US + 5 * MINUTE_US)
    hours.hear(("fan-1", BEGIN_US), now_us=END_US + MINUTE_US)

    assert hours.due(now_us=END_US - 1) is None
    assert hours.due(now_us=END_US) == HOUR
    hours.done(HOUR)
    assert hours.due(now_us=END_US + 11 * MINUTE_US - 1) is None
    assert hours.due(now_us=END_US + 11 * MINUTE_US) == ("fan-1", BEGIN_US)


def test_hour_that_goes_on_getting_windows_is_not_due() -> None:
    """Each one begins its ten minutes anew."""
    hours = Hours()
    for minute in range(60):
        hours.hear(HOUR, now_us=END_US + minute * MINUTE_US)
        assert hours.due(now_us=END_US + minute * MINUTE_US) is None

    assert hours.due(now_us=END_US + 69 * MINUTE_US) == HOUR


def test_late_window_makes_an_hour_due_once_more() -> None:
    """An hour that was counted is as new."""
    hours = Hours()
    hours.hear(HOUR, now_us=END_US)
    later_us = END_US + 24 * HOUR_US
    assert hours.due(now_us=later_us) == HOUR
    hours.done(HOUR)
    assert HOUR not in hours

    hours.hear(HOUR, now_us=later_us)

    assert HOUR in hours
    assert hours.due(now_us=later_us + 9 * MINUTE_US) is None
    assert hours.due(now_us=later_us + 10 * MINUTE_US) == HOUR


@given(
    st.lists(
        st.tuples(st.sampled_from("abc"), st.integers(0, 3), st.integers(0, 90 * MINUTE_US)),
        max_size=30,
    )
)
def test_each_hour_is_due_at_its_time_and_once(heard: list[tuple[str, int, int]]) -> None:
    """Whatever came when: nothing is forgotten, nothing comes early and nothing twice."""
    hours = Hours()
    last_us: dict[tuple[str, int], int] = {}
    now_us, counted = 0, []
    for node, number, ago_us in heard:
        now_us += ago_us
        hour = (node, number * HOUR_US)
        hours.hear(hour, now_us=now_us)
        last_us[hour] = now_us
        while (due := hours.due(now_us=now_us)) is not None:
            counted.append((due, now_us))
            assert now_us >= max(due[1] + HOUR_US, last_us.pop(due) + 10 * MINUTE_US)
            hours.done(due)
    end_us = now_us + 10 * HOUR_US
    while (due := hours.due(now_us=end_us)) is not None:
        del last_us[due]
        hours.done(due)

    assert last_us == {}
    assert len(counted) == len(set(counted))
