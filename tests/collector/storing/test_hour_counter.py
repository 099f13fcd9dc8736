"""Hours are counted when they are over, kept with their windows, and hold nothing else up."""

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from collector.ledger.ledger_cache import LedgerCache
from collector.ledger.ledger_file import LedgerFile
from collector.metrics import Metrics
from collector.sinks.hour_figures import HOUR_US, hour_of
from collector.sinks.sink import SinkUnavailableError
from collector.state_folder import LEDGER
from collector.storing.hour_counter import HourCounter
from collector.storing.store_retry import RetryPolicy
from contract.messages import Backlog, Window
from contract.points import points
from tests.collector.fakes import MemorySink
from tests.rig.examples import START_US, backlog, window

BEGIN_US = hour_of(START_US)
END_US = BEGIN_US + HOUR_US
HOUR = ("press-07", BEGIN_US)
MINUTE_US = 60_000_000
DUE_US = END_US + 10 * MINUTE_US


class Story:
    """Windows that are stored and written down, by a clock that stands still."""

    def __init__(self, file: LedgerFile, sink: MemorySink, *, now_us: int = BEGIN_US) -> None:
        self.metrics = Metrics()
        self.seconds = 0.0
        self._sink = sink
        self._ledger = LedgerCache(file, sink, gap_seconds=600.0, now_us=now_us)
        self._hours = HourCounter(
            file, sink, RetryPolicy(), self.metrics, now_us=now_us, monotonic=lambda: self.seconds
        )

    def store(self, *messages: Window | Backlog, now_us: int = END_US) -> None:
        """As the service does it: first the store, then the ledger."""
        for message in messages:
            windows = message.windows if isinstance(message, Backlog) else (message,)
            self._sink.write(list(points(message, arrived_us=0)))
            self._hours.hear(message, now_us=now_us)
            self._ledger.enter(
                [(message, tuple(w.seq for w in windows))],
                now_us=now_us,
                hours=self._hours.unsaved,
            )
            self._hours.unsaved.clear()

    def advance(self, seconds: float) -> None:
        """Let time pass for the rests between two hours."""
        self.seconds += seconds

    def count(self, now_us: int) -> int:
        """Count what is due; how many hours were tried."""
        tried = 0
        while self._hours.count_one(now_us=now_us):
            tried += 1
        return tried


@pytest.fixture
def sink() -> MemorySink:
    return MemorySink()


@pytest.fixture
def file(tmp_path: Path) -> Iterator[LedgerFile]:
    with closing(LedgerFile(tmp_path, busy_seconds=0.05)) as file:
        yield file


def stored_hours(sink: MemorySink) -> dict[tuple[str, int], object]:
    """How many windows are counted, by model and hour."""
    return {
        (p.tags["model"], p.time_us): p.fields["windows"]
        for p in sink.points.values()
        if p.measurement == "window_hour"
    }


def test_hour_is_counted_by_model_and_overwritten(file: LedgerFile, sink: MemorySink) -> None:
    """Windows that come late, in a backlog over two hours, are in the second count."""
    next_seq = (END_US - START_US) // 1_000_000
    story = Story(file, sink)
    story.store(window(0), window(1), window(2, model="fan@18"))
    assert story.count(DUE_US - 1) == 0
    assert story.count(DUE_US) == 1
    assert stored_hours(sink) == {("fan@17", BEGIN_US): 2, ("fan@18", BEGIN_US): 1}
    assert file.dirty_hours() == []

    story.store(backlog(3, next_seq), now_us=DUE_US)
    story.count(DUE_US + 2 * HOUR_US)

    assert stored_hours(sink) == {
        ("fan@17", BEGIN_US): 3,
        ("fan@18", BEGIN_US): 1,
        ("fan@17", END_US): 1,
    }
    assert story.metrics.counts["hours"] == 3


def test_hours_outlive_a_restart(tmp_path: Path, sink: MemorySink) -> None:
    """The file has them with the windows that made them due; they are quiet anew after it."""
    with closing(LedgerFile(tmp_path)) as file:
        Story(file, sink).store(window(0), window(0, node="fan-1"))

    after_us = END_US + 24 * HOUR_US
    with closing(LedgerFile(tmp_path)) as file:
        assert file.dirty_hours() == [("fan-1", BEGIN_US), HOUR]
        story = Story(file, sink, now_us=after_us)
        assert story.count(after_us) == 0
        assert story.count(after_us + 10 * MINUTE_US) == 2

        assert file.dirty_hours() == []


def test_hour_is_written_down_with_its_window_or_not_at_all(
    tmp_path: Path, file: LedgerFile, sink: MemorySink
) -> None:
    """A ledger that cannot be written makes no hour due on disk, and the next try does."""
    with closing(sqlite3.connect(tmp_path / LEDGER, isolation_level=None)) as other:
        story = Story(file, sink)
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(SinkUnavailableError, match="locked"):
            story.store(window(0))
        other.execute("ROLLBACK")
        assert file.dirty_hours() == []

        story.store(window(0))

    assert file.dirty_hours() == [HOUR]


def test_store_that_is_away_leaves_the_hour_due(
    file: LedgerFile, sink: MemorySink, caplog: pytest.LogCaptureFixture
) -> None:
    """Also on disk; it is tried again after a rest, and when the hour was quiet for its time."""
    story = Story(file, sink)
    story.store(window(0))
    sink.failure = SinkUnavailableError("away", retry_after_seconds=45.0)
    assert story.count(DUE_US) == 1
    assert file.dirty_hours() == [HOUR]
    sink.failure = None
    assert story.count(DUE_US + 10 * MINUTE_US) == 0

    story.advance(45.0)

    assert story.count(DUE_US + 9 * MINUTE_US) == 0
    assert story.count(DUE_US + 10 * MINUTE_US) == 1
    assert stored_hours(sink) == {("fan@17", BEGIN_US): 1}
    assert "hourly figures are stored again after 1 failures" in caplog.text


def test_counting_rests_four_times_as_long_as_it_took(file: LedgerFile, sink: MemorySink) -> None:
    """So windows have the store for most of the time, however slow it is."""
    story = Story(file, sink)
    story.store(window(0), window(0, node="fan-1"))
    sink.on_hours = lambda: story.advance(2.0)

    assert story.count(DUE_US) == 1
    story.advance(7.9)
    assert story.count(DUE_US) == 0
    story.advance(0.2)
    assert story.count(DUE_US) == 1


def test_refused_figures_are_given_up_until_the_next_window(
    file: LedgerFile, sink: MemorySink
) -> None:
    """A store that wants no such point is not asked for ever."""
    sink.refuses = lambda point: point.measurement == "window_hour"
    story = Story(file, sink)
    story.store(window(0))

    assert story.count(DUE_US) == 1
    assert file.dirty_hours() == []
    assert story.count(END_US + HOUR_US) == 0
    assert story.metrics.counts["hours"] == 0
    story.store(window(1))
    assert file.dirty_hours() == [HOUR]
