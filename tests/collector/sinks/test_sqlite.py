"""Points are in the file once written, whatever was in the file before."""

import resource
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec
import pytest

from collector.sinks.sink import PointsRejectedError, SinkSetupError, SinkUnavailableError
from collector.sinks.sqlite import SCHEMA_VERSION, SqliteSink, schema_sql
from contract.points import points
from contract.records import STORED
from contract.states import PresenceReason, Problem
from tests.rig.examples import START_US, status, window, window_points


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "earshot.db"


@pytest.fixture
def sink(path: Path) -> Iterator[SqliteSink]:
    with closing(SqliteSink(path, busy_seconds=0.05)) as opened:
        yield opened


def rows(path: Path, sql: str) -> list[tuple[Any, ...]]:
    with closing(sqlite3.connect(path)) as connection:
        return connection.execute(sql).fetchall()


def test_empty_store_has_a_table_per_measurement(sink: SqliteSink, path: Path) -> None:
    """And an index by time for each."""
    tables = {name for (name,) in rows(path, "SELECT name FROM sqlite_schema WHERE type='table'")}

    assert tables == {str(kind.KIND) for kind in STORED}


def test_schema_sql_makes_the_same_tables(sink: SqliteSink, path: Path, tmp_path: Path) -> None:
    """The documented statements are those that are run."""
    with closing(sqlite3.connect(tmp_path / "other.db")) as other:
        other.executescript(schema_sql())
        made = other.execute("SELECT sql FROM sqlite_schema ORDER BY name").fetchall()

    assert made == rows(path, "SELECT sql FROM sqlite_schema ORDER BY name")


def test_window_is_stored_with_its_types(sink: SqliteSink, path: Path) -> None:
    """Tags, time, floats, booleans as integers, states as text and code, missing as null."""
    unscored = window(
        1, mse=None, statistic=None, score=None, anomaly=None, problem=Problem.MIC_GONE
    )
    sink.write([*window_points(0), *points(unscored, arrived_us=0)])

    names = "node, model, time_us, seq, mse, threshold, anomaly, state, state_code, problem_code"
    assert rows(path, f'SELECT {names} FROM "window" ORDER BY seq') == [
        ("press-07", "fan@17", START_US, 0, 31.0, 45.0, 0, "normal", 3, None),
        ("press-07", "fan@17", START_US + 1_000_000, 1, None, 45.0, None, "normal", 3, 2),
    ]
    assert rows(path, 'SELECT DISTINCT typeof(threshold), typeof(anomaly) FROM "window"')[0] == (
        "real",
        "integer",
    )


def test_every_measurement_can_be_written(sink: SqliteSink, path: Path) -> None:
    """A status has other tags and columns than a window."""
    sink.write([*window_points(0), *points(status(PresenceReason.LOST), arrived_us=START_US + 5)])

    assert rows(path, "SELECT node, time_us, reason FROM status") == [
        ("press-07", START_US + 5, "lost")
    ]


def test_writing_twice_changes_nothing(sink: SqliteSink, path: Path) -> None:
    """A redelivered batch leaves the file's content as it was."""
    sink.write(window_points(*range(10)))
    before = rows(path, 'SELECT * FROM "window"')

    sink.write(window_points(*range(5, 10)))
    sink.write(window_points(3))

    assert rows(path, 'SELECT * FROM "window"') == before


def test_reopening_keeps_what_is_there(path: Path) -> None:
    """A second start on the same file is no new store."""
    for seq in range(2):
        with closing(SqliteSink(path)) as sink:
            sink.write(window_points(seq))

    assert rows(path, 'SELECT seq FROM "window"') == [(0,), (1,)]


def test_readers_do_not_hold_up_the_writer(sink: SqliteSink, path: Path) -> None:
    """A dashboard in the middle of a read is what WAL is for."""
    sink.write(window_points(0))
    with closing(sqlite3.connect(path, isolation_level=None)) as reader:
        reader.execute("BEGIN")
        reader.execute('SELECT count(*) FROM "window"').fetchone()

        sink.write(window_points(1))

    assert rows(path, 'SELECT count(*) FROM "window"') == [(2,)]


def test_missing_columns_are_added(path: Path) -> None:
    """A file of an earlier version gets today's columns; old rows have no value there."""
    with closing(SqliteSink(path)) as sink:
        sink.write(window_points(0))
    with closing(sqlite3.connect(path)) as old:
        old.execute('ALTER TABLE "window" DROP COLUMN latency_ms')
        old.execute('DROP TABLE "health"')

    with closing(SqliteSink(path)) as sink:
        sink.write(window_points(1))

    assert rows(path, 'SELECT latency_ms FROM "window" ORDER BY seq') == [(None,), (4.125,)]
    assert rows(path, "SELECT count(*) FROM health") == [(0,)]


def test_locked_file_is_waited_for(sink: SqliteSink, path: Path) -> None:
    """The error says to try again, and then it works."""
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(SinkUnavailableError, match="locked"):
            sink.write(window_points(0))
        other.execute("ROLLBACK")

    sink.write(window_points(0))

    assert rows(path, 'SELECT count(*) FROM "window"') == [(1,)]


def test_full_disk_is_waited_for(sink: SqliteSink, path: Path) -> None:
    """Nothing of the batch is stored; when there is room again, all of it is."""
    sink.write(window_points(0))
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    # The kernel refuses to let any file grow beyond this, as a full disk would.
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, limits[1]))
    try:
        with pytest.raises(SinkUnavailableError):
            sink.write(window_points(*range(5000)))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    between = rows(path, 'SELECT count(*) FROM "window"')

    sink.write(window_points(*range(5000)))

    assert between == [(1,)]
    assert rows(path, 'SELECT count(*) FROM "window"') == [(5000,)]


def test_deleted_file_is_made_again(sink: SqliteSink, path: Path) -> None:
    """Otherwise points would go into a file that nobody can see any more."""
    sink.write(window_points(0))
    for file in path.parent.glob("earshot.db*"):
        file.unlink()

    sink.write(window_points(1))

    assert rows(path, 'SELECT seq FROM "window"') == [(1,)]


def test_folder_that_goes_and_comes_back_is_waited_for(tmp_path: Path) -> None:
    """An unplugged disk stops the store, and loses nothing once it is back."""
    folder, away = tmp_path / "disk", tmp_path / "away"
    folder.mkdir()
    with closing(SqliteSink(folder / "earshot.db")) as sink:
        sink.write(window_points(0))
        folder.rename(away)
        for _ in range(2):
            with pytest.raises(SinkUnavailableError, match="folder"):
                sink.write(window_points(1))
        away.rename(folder)

        sink.write(window_points(1))

    assert rows(folder / "earshot.db", 'SELECT seq FROM "window"') == [(0,), (1,)]


@pytest.mark.parametrize("value", ["text", 2**70, "\ud800"])
def test_point_that_does_not_fit_is_rejected_with_its_batch(
    sink: SqliteSink, path: Path, value: str | int
) -> None:
    """The caller halves the batch; none of it is stored until it does."""
    good, other = window_points(0, 1)
    bad = msgspec.structs.replace(other, fields=other.fields | {"seq": value})

    with pytest.raises(PointsRejectedError):
        sink.write([good, bad])
    sink.write([good])

    assert rows(path, 'SELECT seq FROM "window"') == [(0,)]


def test_missing_folder_is_told(tmp_path: Path) -> None:
    """The folder is not made: a mount point that is not mounted looks the same."""
    with pytest.raises(SinkSetupError, match="folder does not exist"):
        SqliteSink(tmp_path / "none" / "earshot.db")


def test_other_file_is_left_as_it_was(path: Path) -> None:
    """A file that is no database is not overwritten."""
    path.write_bytes(b"something else entirely" * 100)
    before = path.read_bytes()

    with pytest.raises(SinkSetupError, match="not a database"):
        SqliteSink(path)
    assert path.read_bytes() == before


def test_database_of_another_program_is_left_as_it_was(path: Path) -> None:
    """Its tables are nobody's business here."""
    with closing(sqlite3.connect(path)) as other:
        other.execute("CREATE TABLE t (x)")
    before = path.read_bytes()

    with pytest.raises(SinkSetupError, match="another program"):
        SqliteSink(path)
    assert path.read_bytes() == before


def test_newer_file_is_left_as_it_was(path: Path) -> None:
    """An older program does not write into a schema that it does not know."""
    SqliteSink(path).close()
    with closing(sqlite3.connect(path)) as newer:
        newer.execute(f"PRAGMA user_version = {SCHEMA_VERSION + 1}")
    before = path.read_bytes()

    with pytest.raises(SinkSetupError, match="upgrade"):
        SqliteSink(path)
    assert path.read_bytes() == before


def test_file_that_cannot_be_written_is_told() -> None:
    """Not even root can make a file there."""
    with pytest.raises(SinkSetupError, match="unable to open"):
        SqliteSink("/proc/earshot.db")


def test_commits_are_synced(path: Path) -> None:
    """An acknowledged batch survives a power cut: FULL is 2, and the log is a WAL."""
    with closing(SqliteSink(path)) as sink:
        connection = sink._connection

        assert connection.execute("PRAGMA synchronous").fetchone() == (2,)
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
