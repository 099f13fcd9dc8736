"""An hour is due once it has ended and has been quiet, and again whenever a window comes late."""

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from collector.ledger.hours import HOUR_US, Hours, hour_of
from collector.ledger.ledger_cache import Books
from collector.ledger.ledger_file import LedgerFile
from collector.sinks.sink import PointsRejectedError, SinkUnavailableError
from collector.state_folder import LEDGER
from contract.messages import Backlog, Window
from contract.points import points
from tests.collector.examples import START_US, backlog, window
from tests.collector.fakes import MemorySink

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


def store(
    books: Books, sink: MemorySink, *messages: Window | Backlog, now_us: int = END_US
) -> None:
    """As the service does it: first the store, then the books."""
    for message in messages:
        windows = message.windows if isinstance(message, Backlog) else (message,)
        sink.write(list(points(message, arrived_us=0)))
        books.enter([(message, tuple(w.seq for w in windows))], now_us=now_us)


def books_on(file: LedgerFile, sink: MemorySink, *, now_us: int = BEGIN_US) -> Books:
    return Books(file, sink, gap_seconds=600.0, now_us=now_us)


def stored_hours(sink: MemorySink) -> dict[tuple[str, int], object]:
    """How many windows are counted, by model and hour."""
    return {
        (p.tags["model"], p.time_us): p.fields["windows"]
        for p in sink.points.values()
        if p.measurement == "window_hour"
    }


def test_hour_is_counted_by_model_and_overwritten(tmp_path: Path) -> None:
    """Windows that come late, in a backlog over two hours, are in the second count."""
    sink = MemorySink()
    next_us = (END_US - START_US) // 1_000_000
    with closing(LedgerFile(tmp_path)) as file:
        books = books_on(file, sink)
        store(books, sink, window(0), window(1), window(2, model="fan@18"))
        due_us = END_US + 10 * MINUTE_US
        assert books.hour_due(now_us=due_us) == HOUR
        books.count_hour(HOUR)
        assert books.hour_due(now_us=due_us) is None
        assert stored_hours(sink) == {("fan@17", BEGIN_US): 2, ("fan@18", BEGIN_US): 1}
        assert file.dirty_hours() == []

        store(books, sink, backlog(3, next_us), now_us=due_us)
        later_us = due_us + 2 * HOUR_US
        while (hour := books.hour_due(now_us=later_us)) is not None:
            books.count_hour(hour)

    assert stored_hours(sink) == {
        ("fan@17", BEGIN_US): 3,
        ("fan@18", BEGIN_US): 1,
        ("fan@17", END_US): 1,
    }


def test_hours_outlive_a_restart(tmp_path: Path) -> None:
    """The file has them with the windows that made them due; they are quiet anew after it."""
    sink = MemorySink()
    with closing(LedgerFile(tmp_path)) as file:
        store(books_on(file, sink), sink, window(0), window(0, node="fan-1"))

    after_us = END_US + 24 * HOUR_US
    with closing(LedgerFile(tmp_path)) as file:
        assert file.dirty_hours() == [("fan-1", BEGIN_US), HOUR]
        books = books_on(file, sink, now_us=after_us)
        assert books.hour_due(now_us=after_us) is None
        books.count_hour(("fan-1", BEGIN_US))
        assert books.hour_due(now_us=after_us + 10 * MINUTE_US) == HOUR

    with closing(LedgerFile(tmp_path)) as file:
        assert file.dirty_hours() == [HOUR]


def test_hour_is_written_down_with_its_window_or_not_at_all(tmp_path: Path) -> None:
    """A ledger that cannot be written makes no hour due on disk, and the next try does."""
    sink = MemorySink()
    with (
        closing(LedgerFile(tmp_path, busy_seconds=0.05)) as file,
        closing(sqlite3.connect(tmp_path / LEDGER, isolation_level=None)) as other,
    ):
        books = books_on(file, sink)
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(SinkUnavailableError, match="locked"):
            store(books, sink, window(0))
        other.execute("ROLLBACK")
        assert file.dirty_hours() == []

        store(books, sink, window(0))

        assert file.dirty_hours() == [HOUR]


def test_store_that_is_away_leaves_the_hour_due(tmp_path: Path) -> None:
    """Also on disk."""
    sink = MemorySink()
    due_us = END_US + 10 * MINUTE_US
    with closing(LedgerFile(tmp_path)) as file:
        books = books_on(file, sink)
        store(books, sink, window(0))
        sink.failure = SinkUnavailableError("away")
        with pytest.raises(SinkUnavailableError):
            books.count_hour(HOUR)
        assert books.hour_due(now_us=due_us) == HOUR
        assert file.dirty_hours() == [HOUR]

        books.put_off_hour(HOUR, now_us=due_us)

        assert books.hour_due(now_us=due_us + 9 * MINUTE_US) is None
        assert books.hour_due(now_us=due_us + 10 * MINUTE_US) == HOUR


def test_refused_figures_are_given_up_until_the_next_window(tmp_path: Path) -> None:
    """A store that wants no such point is not asked for ever."""
    sink = MemorySink()
    sink.refuses = lambda point: point.measurement == "window_hour"
    with closing(LedgerFile(tmp_path)) as file:
        books = books_on(file, sink)
        store(books, sink, window(0))
        with pytest.raises(PointsRejectedError):
            books.count_hour(HOUR)

        books.give_up_hour(HOUR)

        assert file.dirty_hours() == []
        assert books.hour_due(now_us=END_US + HOUR_US) is None
        store(books, sink, window(1))
        assert file.dirty_hours() == [HOUR]


def test_only_stored_windows_make_an_hour_due(tmp_path: Path) -> None:
    """One that the store has refused is in no count."""
    sink = MemorySink()
    with closing(LedgerFile(tmp_path)) as file:
        books_on(file, sink).enter(
            [(window(0), ())], now_us=END_US, rejected={(window(0).node, window(0).boot): [0]}
        )

        assert file.dirty_hours() == []
