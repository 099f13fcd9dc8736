"""The ledger's file gives back what was put in, and only whole."""

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from collector.ledger.boot import Boot, Patience, RunningBoot
from collector.ledger.ledger_file import LedgerFile
from collector.sinks.sink import SinkUnavailableError
from collector.state_folder import LEDGER, CollectorStateError
from contract.ranges import Ranges
from contract.states import DiscardReason
from tests.rig.examples import BOOT, NEXT_BOOT

KEY = ("press-07", BOOT)
NOW_US = 1_800_000_000_000_000


def test_account_comes_back_as_it_was(tmp_path: Path) -> None:
    """Every field of it, also after the file was closed."""
    boot = Boot(
        *KEY,
        first_us=1,
        heard_us=2,
        stored=Ranges([(0, 5), (9, 9)]),
        asked=True,
        produced=20,
        waiting=3,
        tail_windows=4,
        account_us=5,
        goodbye=True,
        discarded={reason: n for n, reason in enumerate(DiscardReason)},
        patience=Patience([(7, 1), (8, 2)]),
        evaluated_us=6,
        missing=1,
        open=False,
    )
    node = RunningBoot(BOOT, 3, 4)

    with closing(LedgerFile(tmp_path)) as file:
        file.save([boot], [("press-07", node)], [(KEY, boot.stored)])

    with closing(LedgerFile(tmp_path)) as file:
        assert file.boot(KEY) == boot
        assert file.running() == {"press-07": node}
        assert file.missing() == 1
        assert file.open_boots() == []
        assert file.boot(("press-07", NEXT_BOOT)) is None


def test_row_that_cannot_be_read_is_told_in_one_line(tmp_path: Path) -> None:
    """Damage that SQLite does not see is none of its errors."""
    with closing(LedgerFile(tmp_path)) as file:
        file.save([Boot(*KEY, 1, 2)])
        with closing(sqlite3.connect(tmp_path / LEDGER, isolation_level=None)) as other:
            other.execute("UPDATE boot SET patience = '[[1'")

        with pytest.raises(SinkUnavailableError, match=r"ledger\.db: "):
            file.open_boots()


def test_reader_sees_the_ledger_while_it_is_written(tmp_path: Path) -> None:
    """And cannot change it."""
    with (
        closing(LedgerFile(tmp_path)) as file,
        closing(LedgerFile(tmp_path, read_only=True)) as reader,
    ):
        file.save([Boot(*KEY, 1, NOW_US)], [], [(KEY, Ranges([(0, 0)]))])

        assert [boot.key for boot in reader.all_boots()] == [KEY]
        assert reader.all_boots(node="fan-1") == []
        assert reader.all_boots(heard_since_us=NOW_US + 1) == []
        with pytest.raises(SinkUnavailableError):
            reader.save([Boot(*KEY, 0, 0)])


def test_reader_of_a_ledger_that_is_not_there_is_told_so(tmp_path: Path) -> None:
    """And makes none."""
    with pytest.raises(CollectorStateError, match="no ledger yet"):
        LedgerFile(tmp_path, read_only=True)

    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("statement", "text"),
    [
        ("CREATE TABLE other (a)", "another program"),
        ("PRAGMA user_version = 99", "newer earshot"),
    ],
)
def test_file_of_another_kind_is_left_alone(tmp_path: Path, statement: str, text: str) -> None:
    """One line says what to do."""
    with closing(sqlite3.connect(tmp_path / LEDGER)) as other:
        other.execute(statement)
        other.commit()
    before = (tmp_path / LEDGER).read_bytes()

    with pytest.raises(CollectorStateError, match=text):
        LedgerFile(tmp_path)

    assert (tmp_path / LEDGER).read_bytes() == before


def test_file_that_is_no_database_is_one_line(tmp_path: Path) -> None:
    """It may be somebody's."""
    (tmp_path / LEDGER).write_text("not a database, and long enough to be looked at" * 50)

    with pytest.raises(CollectorStateError, match="not a database"):
        LedgerFile(tmp_path)


def test_ledger_from_before_hours_were_counted_gets_their_table(tmp_path: Path) -> None:
    """And keeps what it has."""
    with closing(LedgerFile(tmp_path)) as file:
        file.save([Boot(*KEY, 0, 0)])
    with closing(sqlite3.connect(tmp_path / LEDGER)) as old:
        old.execute("DROP TABLE dirty_hour")

    with closing(LedgerFile(tmp_path)) as file:
        file.save([], hours=[("press-07", 0), ("press-07", 0)])

        assert file.dirty_hours() == [("press-07", 0)]
        assert file.boot(KEY) is not None
