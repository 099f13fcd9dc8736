"""The ledger on disk: `ledger.db` in the state folder, a SQLite file that anybody may read.

Tables: `node` (which boot of a node runs), `boot` (one account each), `stored` (the numbers of its
stored windows, as ranges), `rejected` (of those that the store refuses, likewise) and `dirty_hour`
(hours of which windows are stored and not counted yet). Times are microseconds since 1970, UTC.

    SELECT node, boot, sum(last - first + 1) AS stored FROM stored GROUP BY node, boot;

It is written after the store and before the broker is told that it may forget a message: the ledger
is never ahead of the store, and a crash in between means that the messages come again. WAL and
`synchronous = FULL`, for the reasons given in `collector.sinks.sqlite`.

`PRAGMA user_version` is the file's version. A file that lacks columns of today gets them, empty in
its rows; one that has more is used as it is. It is no cache: a ledger that was lost asks the store
what it has, but what nodes have said of boots before is gone.
"""

import contextlib
import json
import sqlite3
from collections.abc import Iterable
from operator import attrgetter
from pathlib import Path

from collector.ledger.boot import Boot, Key, Patience, RunningBoot
from collector.ledger.hours import Hour
from collector.sinks.sink import SinkUnavailableError
from collector.state_folder import LEDGER, CollectorStateError
from contract.ranges import Ranges
from contract.states import DiscardReason

VERSION = 1
APPLICATION_ID = 0x6561726C
"""`earl` in ASCII."""

_COLUMNS = (
    "first_us",
    "heard_us",
    "asked",
    "produced",
    "waiting",
    "tail_windows",
    "account_us",
    "goodbye",
    "evaluated_us",
    "missing",
    "open",
)
_values_of = attrgetter(*_COLUMNS)
_REASONS = tuple(DiscardReason)
_DISCARDED = tuple(f"discarded_{reason}" for reason in _REASONS)
_ALL_COLUMNS = ("node", "boot", *_COLUMNS, *_DISCARDED, "patience")

# Of both tables' rows.
_HEARD_PLACE = 3
_HEARD_GRAIN_US = 10_000_000

_OF_RANGES = ("stored", "rejected")

_SCHEMA = (
    "CREATE TABLE IF NOT EXISTS node (node TEXT PRIMARY KEY, boot TEXT NOT NULL,"
    " since_us INTEGER NOT NULL, heard_us INTEGER NOT NULL) STRICT, WITHOUT ROWID",
    "CREATE TABLE IF NOT EXISTS boot (node TEXT NOT NULL, boot TEXT NOT NULL, "
    + ", ".join(f"{name} INTEGER" for name in (*_COLUMNS, *_DISCARDED))
    + ", patience TEXT NOT NULL, PRIMARY KEY (node, boot)) STRICT, WITHOUT ROWID",
    *(
        f"CREATE TABLE IF NOT EXISTS {table} (node TEXT NOT NULL, boot TEXT NOT NULL,"
        " first INTEGER NOT NULL, last INTEGER NOT NULL, PRIMARY KEY (node, boot, first))"
        " STRICT, WITHOUT ROWID"
        for table in _OF_RANGES
    ),
    "CREATE INDEX IF NOT EXISTS boot_by_heard ON boot (heard_us)",
    "CREATE TABLE IF NOT EXISTS dirty_hour (node TEXT NOT NULL, hour_us INTEGER NOT NULL,"
    " PRIMARY KEY (node, hour_us)) STRICT, WITHOUT ROWID",
)
_Row = tuple[object, ...]

# By the columns' names: a newer collector may have added some, which then stay empty.
_SAVE_NODE = "INSERT OR REPLACE INTO node (node, boot, since_us, heard_us) VALUES (?, ?, ?, ?)"
_SAVE_BOOT = (
    f"INSERT OR REPLACE INTO boot ({', '.join(_ALL_COLUMNS)})"  # noqa: S608 - names of ours
    f" VALUES ({', '.join('?' * len(_ALL_COLUMNS))})"
)


class LedgerFile:
    """The file; `Boot`s and `RunningBoot`s in and out.

    Args:
        folder: the state folder, which exists.
        read_only: for a look while a collector writes; the file must exist.
        busy_seconds: how long to wait for another program that has the file locked.

    Raises:
        CollectorStateError: the file cannot be used; it is as it was.
    """

    def __init__(self, folder: Path, *, read_only: bool = False, busy_seconds: float = 5.0) -> None:
        self._path = folder / LEDGER
        self._busy_seconds = busy_seconds
        try:
            self._connection = self._open(read_only=read_only)
            self._select = _select_boots(self._connection)
        except sqlite3.Error as error:
            raise CollectorStateError(f"{self._path}: {error}") from error

    def save(
        self,
        boots: Iterable[Boot],
        running: Iterable[tuple[str, RunningBoot]] = (),
        stored: Iterable[tuple[Key, Ranges]] = (),
        rejected: Iterable[tuple[Key, Ranges]] = (),
        hours: Iterable[Hour] = (),
    ) -> None:
        """Write accounts, the ranges that have grown and hours to be counted, in one transaction.

        Raises:
            SinkUnavailableError: the file cannot be written now; nothing is written.
        """
        rows: list[tuple[RunningBoot | Boot, str, _Row]] = [
            (boot, _SAVE_NODE, (node, boot.boot, boot.since_us, boot.heard_us))
            for node, boot in running
        ]
        rows += [(boot, _SAVE_BOOT, _row(boot)) for boot in boots]
        changed = [
            (thing, statement, row, mark)
            for thing, statement, row in rows
            if thing.saved != (mark := _mark(row))
        ]
        try:
            self._connection.execute("BEGIN IMMEDIATE")
            for _, statement, row, _ in changed:
                self._connection.execute(statement, row)
            for table, grown in zip(_OF_RANGES, (stored, rejected), strict=True):
                self._put_ranges(table, [(*key, *r) for key, ranges in grown for r in ranges])
            self._connection.executemany(
                "INSERT OR IGNORE INTO dirty_hour (node, hour_us) VALUES (?, ?)", hours
            )
            self._connection.execute("COMMIT")
        except sqlite3.Error as error:
            self._roll_back()
            raise SinkUnavailableError(f"{self._path}: {error}") from error
        for thing, _, _, mark in changed:
            thing.saved = mark

    def boot(self, key: Key) -> Boot | None:
        """One account; None when there is none.

        Raises:
            SinkUnavailableError: the file is locked, damaged or cannot be read.
        """
        found = self._boots("WHERE node = ? AND boot = ?", key)
        return found[0] if found else None

    def open_boots(self) -> list[Boot]:
        """Those whose figures may change with the time alone.

        Raises:
            SinkUnavailableError: the file is locked, damaged or cannot be read.
        """
        return self._boots("WHERE open")

    def all_boots(self, *, node: str | None = None, heard_since_us: int = 0) -> list[Boot]:
        """Accounts, by node and in the order in which they began.

        Raises:
            SinkUnavailableError: the file is locked, damaged or cannot be read.
        """
        where, values = "WHERE heard_us >= ?", (heard_since_us,)
        if node is None:
            return self._boots(f"{where} ORDER BY node, first_us, boot", values)
        return self._boots(f"{where} AND node = ? ORDER BY first_us, boot", (*values, node))

    def running(self) -> dict[str, RunningBoot]:
        """Which boot of each node runs.

        Raises:
            SinkUnavailableError: the file is locked, damaged or cannot be read.
        """
        try:
            rows = self._connection.execute("SELECT node, boot, since_us, heard_us FROM node")
            return {node: RunningBoot(*values) for node, *values in rows}
        except sqlite3.Error as error:
            raise SinkUnavailableError(f"{self._path}: {error}") from error

    def dirty_hours(self) -> list[Hour]:
        """Hours that wait to be counted.

        Raises:
            SinkUnavailableError: the file is locked, damaged or cannot be read.
        """
        try:
            return self._connection.execute("SELECT node, hour_us FROM dirty_hour").fetchall()
        except sqlite3.Error as error:
            raise SinkUnavailableError(f"{self._path}: {error}") from error

    def forget_hour(self, hour: Hour) -> None:
        """It is counted.

        Raises:
            SinkUnavailableError: the file is locked, damaged or cannot be read.
        """
        try:
            self._connection.execute("DELETE FROM dirty_hour WHERE node = ? AND hour_us = ?", hour)
        except sqlite3.Error as error:
            raise SinkUnavailableError(f"{self._path}: {error}") from error

    def missing(self) -> int:
        """Windows that are missing, over all accounts.

        Raises:
            SinkUnavailableError: the file is locked, damaged or cannot be read.
        """
        try:
            (count,) = self._connection.execute("SELECT total(missing) FROM boot").fetchone()
        except sqlite3.Error as error:
            raise SinkUnavailableError(f"{self._path}: {error}") from error
        return int(count)

    def prune(self, *, heard_before_us: int) -> list[Key]:
        """Forget boots that have ended and have not been heard of for long.

        Raises:
            SinkUnavailableError: the file cannot be written now; nothing is forgotten.
        """
        try:
            self._connection.execute("BEGIN IMMEDIATE")
            gone: list[Key] = self._connection.execute(
                "DELETE FROM boot WHERE heard_us < ? AND NOT open RETURNING node, boot",
                (heard_before_us,),
            ).fetchall()
            for table in _OF_RANGES:
                self._connection.executemany(
                    f"DELETE FROM {table} WHERE node = ? AND boot = ?",  # noqa: S608 - names of ours
                    gone,
                )
            self._connection.execute("COMMIT")
        except sqlite3.Error as error:
            self._roll_back()
            raise SinkUnavailableError(f"{self._path}: {error}") from error
        return gone

    def close(self) -> None:
        """Close the file; nothing is left to write."""
        self._connection.close()

    def _boots(self, where: str, values: tuple[object, ...] = ()) -> list[Boot]:
        try:
            # One transaction: accounts and ranges of one moment.
            self._connection.execute("BEGIN")
            found = [
                _boot(row) for row in self._connection.execute(f"{self._select} {where}", values)
            ]
            for boot in found:
                boot.stored, boot.rejected = (self._ranges(t, boot.key) for t in _OF_RANGES)
            self._connection.execute("COMMIT")
        except (sqlite3.Error, ValueError, TypeError) as error:
            # The latter two: a row that is not as we wrote it.
            self._roll_back()
            raise SinkUnavailableError(f"{self._path}: {error}") from error
        return found

    def _ranges(self, table: str, key: Key) -> Ranges:
        return Ranges(
            self._connection.execute(
                f"SELECT first, last FROM {table}"  # noqa: S608 - names of ours
                " WHERE node = ? AND boot = ? ORDER BY first",
                key,
            )
        )

    def _put_ranges(self, table: str, grown: list[tuple[str, str, int, int]]) -> None:
        """What a range has swallowed goes, and it is put in its place."""
        self._connection.executemany(
            f"DELETE FROM {table}"  # noqa: S608 - names of ours
            " WHERE node = ? AND boot = ? AND first BETWEEN ? AND ?",
            grown,
        )
        self._connection.executemany(
            f"INSERT INTO {table} (node, boot, first, last)"  # noqa: S608 - names of ours
            " VALUES (?, ?, ?, ?)",
            grown,
        )

    def _roll_back(self) -> None:
        if self._connection.in_transaction:
            with contextlib.suppress(sqlite3.Error):
                self._connection.execute("ROLLBACK")

    def _open(self, *, read_only: bool) -> sqlite3.Connection:
        if read_only and not self._path.exists():
            raise CollectorStateError(
                f"{self._path}: there is no ledger yet; has a collector with this"
                " [collector] state_folder run?"
            )
        connection = sqlite3.connect(self._path, timeout=self._busy_seconds, isolation_level=None)
        try:
            _check(connection, self._path)
            if read_only:
                # By a pragma and not by the open mode: the last reader of a WAL may have to tidy.
                connection.execute("PRAGMA query_only = ON")
            else:
                _prepare(connection)
        except (sqlite3.Error, CollectorStateError):
            connection.close()
            raise
        return connection


def _check(connection: sqlite3.Connection, path: Path) -> None:
    (tables,) = connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()
    (application,) = connection.execute("PRAGMA application_id").fetchone()
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if tables and application != APPLICATION_ID:
        raise CollectorStateError(f"{path}: is the database of another program; move it away")
    if version > VERSION:
        raise CollectorStateError(
            f"{path}: Expected ledger version {VERSION}, got {version};"
            " a newer earshot wrote it, upgrade this one"
        )


def _prepare(connection: sqlite3.Connection) -> None:
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("BEGIN IMMEDIATE")
    for statement in _SCHEMA:
        connection.execute(statement)
    found = _boot_columns(connection)
    for name in (*_COLUMNS, *_DISCARDED):
        if name not in found:
            connection.execute(f"ALTER TABLE boot ADD COLUMN {name} INTEGER")
    connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
    connection.execute(f"PRAGMA user_version = {VERSION}")
    connection.execute("COMMIT")


def _boot_columns(connection: sqlite3.Connection) -> set[str]:
    return {row[1] for row in connection.execute("PRAGMA table_info(boot)")}


def _select_boots(connection: sqlite3.Connection) -> str:
    """The accounts; a file that is only looked at may be an older version's, without a column."""
    found = _boot_columns(connection)
    names = ", ".join(n if n in found else f"NULL AS {n}" for n in _ALL_COLUMNS)
    return f"SELECT {names} FROM boot"  # noqa: S608 - names of ours


def _mark(row: _Row) -> _Row:
    """What has to differ for a row to be written: when it was heard of is not kept to the second.

    In a stream of windows it is all that changes, and a row costs more than a range that grows.
    """
    *before, heard_us = row[: _HEARD_PLACE + 1]
    assert isinstance(heard_us, int)
    return (*before, heard_us // _HEARD_GRAIN_US, *row[_HEARD_PLACE + 1 :])


def _row(boot: Boot) -> _Row:
    return (
        boot.node,
        boot.boot,
        *_values_of(boot),
        *(boot.discarded.get(reason, 0) for reason in _REASONS),
        json.dumps(boot.patience.steps),
    )


def _boot(row: _Row) -> Boot:
    values = dict(zip(_ALL_COLUMNS, row, strict=True))
    patience = values.pop("patience")
    discarded = {reason: values.pop(f"discarded_{reason}") or 0 for reason in DiscardReason}
    # Empty is what was written before there was this column.
    values = {name: value for name, value in values.items() if value is not None}
    for name in ("asked", "goodbye", "open"):
        values[name] = bool(values[name])
    steps = [(since, count) for since, count in json.loads(str(patience))]
    return Boot(**values, discarded=discarded, patience=Patience(steps))  # type: ignore[arg-type] # rows of ours
