"""Memory and disk are one ledger, and the store is asked for what neither knows."""

import gc
import sqlite3
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from collector.ledger.boot import Boot
from collector.ledger.ledger_cache import LedgerCache
from collector.ledger.ledger_file import LedgerFile
from collector.sinks.sink import SinkUnavailableError
from collector.state_folder import LEDGER
from contract.points import points
from contract.ranges import Ranges
from contract.states import PresenceReason
from tests.collector.fakes import MemorySink
from tests.rig.examples import BOOT, account, backlog, status, window

KEY = ("press-07", BOOT)
NOW_US = 1_800_000_000_000_000
DAY_US = 24 * 3600 * 1_000_000


def cache_on(file: LedgerFile, sink: MemorySink | None = None) -> LedgerCache:
    return LedgerCache(file, sink or MemorySink(), gap_seconds=600.0, now_us=NOW_US)


SEQS = st.lists(st.integers(0, 60), min_size=1, max_size=12)


# Each batch waits for the disk: no deadline.
@given(st.lists(SEQS, max_size=8))
@settings(deadline=None)
def test_ranges_on_disk_are_those_in_memory(batches: list[list[int]]) -> None:
    """Whatever grows together: each batch writes what it has touched alone."""
    with TemporaryDirectory() as folder, closing(LedgerFile(Path(folder))) as file:
        ledger = cache_on(file)
        for seqs in batches:
            ledger.enter([(backlog(*seqs), tuple(seqs))], now_us=NOW_US)

        kept = file.boot(KEY)
    assert (Ranges() if kept is None else kept.stored) == Ranges(
        (seq, seq) for seqs in batches for seq in seqs
    )


def test_ledger_that_was_not_closed_is_there_after_a_crash(tmp_path: Path) -> None:
    """A copy of the files, as a power cut would leave them, has all that was entered."""
    with closing(LedgerFile(tmp_path)) as file:
        ledger = cache_on(file)
        ledger.enter([(window(seq), (seq,)) for seq in range(5)], now_us=NOW_US)
        ledger.enter([(account(9, waiting=2), ())], now_us=NOW_US + 1)
        after = tmp_path / "after"
        after.mkdir()
        for path in tmp_path.glob(f"{LEDGER}*"):
            (after / path.name).write_bytes(path.read_bytes())

    with closing(LedgerFile(after)) as file:
        boot = file.boot(KEY)
    assert boot is not None
    assert (list(boot.stored), boot.produced, boot.waiting) == ([(0, 4)], 9, 2)
    assert (boot.first_us, boot.heard_us) == (NOW_US, NOW_US + 1)


def test_file_that_is_locked_is_waited_for_and_nothing_is_entered_twice(tmp_path: Path) -> None:
    """The same once more, after the error, gives the same."""
    heard = [(window(seq), (seq,)) for seq in (0, 1, 2)]
    with (
        closing(LedgerFile(tmp_path, busy_seconds=0.05)) as file,
        closing(sqlite3.connect(tmp_path / LEDGER, isolation_level=None)) as other,
    ):
        ledger = cache_on(file)
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(SinkUnavailableError, match="locked"):
            ledger.enter(heard, now_us=NOW_US)
        other.execute("ROLLBACK")

        assert ledger.enter(heard, now_us=NOW_US) == {KEY: Ranges([(0, 2)])}
        boot = file.boot(KEY)
        assert boot is not None
        assert list(boot.stored) == [(0, 2)]


def test_store_is_asked_once_about_a_boot_that_began_before(tmp_path: Path) -> None:
    """A ledger that was lost, or never was, takes up what the store has."""
    sink = MemorySink()
    for seq in range(8):
        sink.write(list(points(window(seq), arrived_us=0)))
    with closing(LedgerFile(tmp_path)) as file:
        ledger = cache_on(file, sink)

        touched = ledger.enter([(window(7), (7,))], now_us=NOW_US)
        ledger.enter([(window(8), (8,))], now_us=NOW_US)

        assert touched == {KEY: Ranges([(0, 7)])}
        assert sink.asked == [KEY]
        boot = file.boot(KEY)
        assert boot is not None
        assert list(boot.stored) == [(0, 8)]


def test_store_is_not_asked_about_a_boot_that_begins(tmp_path: Path) -> None:
    """Nor after a restart about one that the file knows."""
    sink = MemorySink()
    with closing(LedgerFile(tmp_path)) as file:
        cache_on(file, sink).enter([(window(0), (0,))], now_us=NOW_US)
        cache_on(file, sink).enter([(window(5), (5,))], now_us=NOW_US)

    assert sink.asked == []


def test_store_that_cannot_be_asked_holds_nobody_up(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A token that may only write, or a question that takes too long: asked again, now and then."""
    sink = MemorySink()
    for seq in range(7):
        sink.write(list(points(window(seq), arrived_us=0)))
    sink.failure = SinkUnavailableError("the token may not read")
    with closing(LedgerFile(tmp_path)) as file:
        ledger = cache_on(file, sink)
        for seq in range(7, 127):
            ledger.enter([(window(seq), (seq,))], now_us=NOW_US + seq * 1_000_000)
        unknown = file.boot(KEY)
        questions = len(sink.asked)

        sink.failure = None
        touched = ledger.enter([(window(127), (127,))], now_us=NOW_US + 200_000_000)
        known = file.boot(KEY)

    assert unknown is not None
    assert list(unknown.stored) == [(7, 126)]
    assert questions == 2
    assert caplog.text.count("may not read") == 1
    assert touched == {KEY: Ranges([(0, 127)])}
    assert known is not None
    assert list(known.stored) == [(0, 127)]


def test_store_is_asked_so_often_about_one_node_and_no_more(tmp_path: Path) -> None:
    """Each question may read all that is stored of it: nobody else must wait for hundreds."""
    sink = MemorySink()
    heard = [(window(5, boot=f"{BOOT[:-3]}{number:03d}"), (5,)) for number in range(500)]
    with closing(LedgerFile(tmp_path)) as file:
        ledger = cache_on(file, sink)

        ledger.enter(heard, now_us=NOW_US)
        ledger.enter([(window(5, node="fan-1"), (5,))], now_us=NOW_US)
        of_one = [node for node, _ in sink.asked if node == "press-07"]
        ledger.enter(heard, now_us=NOW_US + DAY_US)

    assert len(of_one) == 10
    assert len(sink.asked) == 21


def test_windows_that_another_collector_has_stored_are_not_missing(tmp_path: Path) -> None:
    """The store is asked before anything is called missing; what is not there either, is."""
    sink = MemorySink()
    with closing(LedgerFile(tmp_path)) as file:
        ledger = cache_on(file, sink)
        ledger.enter([(window(0), (0,)), (account(6), ())], now_us=NOW_US)
        ledger.evaluate(now_us=NOW_US)
        # Its node sends them no more, for the other one has receipted them.
        for seq in (1, 2, 3, 5):
            sink.write(list(points(window(seq), arrived_us=0)))

        later_us = NOW_US + DAY_US
        (entry,) = ledger.evaluate(now_us=later_us)
        ledger.save_evaluated(now_us=later_us)
        ledger.evaluate(now_us=later_us + 1)

        assert (entry.stored, entry.missing) == (5, 1)
        assert sink.asked == [KEY]
        boot = file.boot(KEY)
        assert boot is not None
        assert list(boot.stored) == [(0, 3), (5, 5)]


def test_boot_that_is_over_is_forgotten_after_a_month(tmp_path: Path) -> None:
    """One that may still run is not, nor one that was heard of lately."""
    gone = status(PresenceReason.STOPPED)
    with closing(LedgerFile(tmp_path)) as file:
        ledger = cache_on(file)
        heard = [(window(0), (0,)), (gone, ()), (window(0, node="fan-1"), (0,))]
        ledger.enter(heard, now_us=NOW_US)
        ledger.evaluate(now_us=NOW_US)
        ledger.save_evaluated(now_us=NOW_US)

        for days, left in ((29, 2), (31, 1)):
            now_us = NOW_US + days * DAY_US
            ledger.evaluate(now_us=now_us)
            ledger.save_evaluated(now_us=now_us)
            assert len(file.all_boots()) == left

        assert [boot.node for boot in file.all_boots()] == ["fan-1"]
        # What comes of it all the same is asked for, and not taken for the beginning.
        ledger.enter([(backlog(3), (3,))], now_us=now_us)
        boot = file.boot(KEY)
        assert boot is not None
        assert list(boot.stored) == [(3, 3)]


def test_what_was_on_its_way_at_a_stop_gets_its_time_anew(tmp_path: Path) -> None:
    """A collector that was away for hours raises no alarm before it has heard anybody."""
    with closing(LedgerFile(tmp_path)) as file:
        ledger = cache_on(file)
        ledger.enter([(window(0), (0,)), (window(5), (5,))], now_us=NOW_US)
        ledger.evaluate(now_us=NOW_US)
        ledger.save_evaluated(now_us=NOW_US)
        later_us = NOW_US + DAY_US

        after = LedgerCache(file, MemorySink(), gap_seconds=600.0, now_us=later_us)

        (entry,) = after.evaluate(now_us=later_us + 1)
        assert (entry.in_transit, entry.missing) == (4, 0)


def test_refused_windows_are_kept_apart_from_stored_ones(tmp_path: Path) -> None:
    """Both need not be sent again, also after a restart; the count of what is stored is exact."""
    with closing(LedgerFile(tmp_path)) as file:
        ledger = cache_on(file)
        touched = ledger.enter([(backlog(0, 1, 2), (0, 2))], now_us=NOW_US, rejected={KEY: [1]})
        assert touched == {KEY: Ranges([(0, 2)])}

    with closing(LedgerFile(tmp_path)) as file:
        ledger = cache_on(file)
        assert ledger.settled(KEY) == Ranges([(0, 2)])
        (boot,) = file.all_boots()
        balance = boot.balance(None, gap_us=1)
        assert (balance.produced, balance.stored, balance.rejected) == (3, 2, 1)


def boots_in_memory() -> int:
    gc.collect()
    return sum(isinstance(thing, Boot) for thing in gc.get_objects())


def test_boots_that_are_over_are_read_again_when_they_are_heard_of(tmp_path: Path) -> None:
    """Memory holds a bounded number of them, and nothing of them is lost."""
    nodes = [f"press-{number}" for number in range(10)]
    before = boots_in_memory()
    with closing(LedgerFile(tmp_path)) as file:
        ledger = LedgerCache(file, MemorySink(), gap_seconds=600.0, now_us=NOW_US, kept_boots=3)
        for seq in range(3):
            for name in nodes:
                gone = status(PresenceReason.STOPPED, node=name)
                ledger.enter([(window(seq, node=name), (seq,)), (gone, ())], now_us=NOW_US)
                ledger.evaluate(now_us=NOW_US)
                ledger.save_evaluated(now_us=NOW_US)
            assert boots_in_memory() - before <= 4

        assert [list(boot.stored) for boot in file.all_boots()] == [[(0, 2)]] * 10
        assert ledger.settled(("press-0", BOOT)) == Ranges([(0, 2)])
        assert ledger.settled(("press-99", BOOT)) is None


def test_judgement_that_could_not_be_kept_is_kept_the_next_time(tmp_path: Path) -> None:
    """Even if nothing has changed since."""
    with (
        closing(LedgerFile(tmp_path, busy_seconds=0.05)) as file,
        closing(sqlite3.connect(tmp_path / LEDGER, isolation_level=None)) as other,
    ):
        ledger = cache_on(file)
        ledger.enter([(window(0), (0,)), (status(PresenceReason.STOPPED), ())], now_us=NOW_US)
        ledger.evaluate(now_us=NOW_US)
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(SinkUnavailableError, match="locked"):
            ledger.save_evaluated(now_us=NOW_US)
        other.execute("ROLLBACK")
        assert len(file.open_boots()) == 1

        assert ledger.evaluate(now_us=NOW_US + 1) == []
        ledger.save_evaluated(now_us=NOW_US + 1)

        assert file.open_boots() == []
