"""The embedded store: one SQLite file, one table per measurement.

Tables: `window`, `status`, `birth`, `state`, `event`, `health`, `update`, `collector`, `ledger`,
`pipeline` and `window_hour`, one for each message in `contract.messages.STORED`. Columns: the
message's tags (text, never null), then `time_us` (microseconds since 1970, UTC), then every field
of `contract.points.columns`, null where the message had no value. Booleans are 0 or 1; a state is
there as text and as `<name>_code`. The primary key is tags and time, so that writing a point twice
changes nothing; an index `<table>_by_time` serves questions about the whole fleet. `update` and
`window` are words of SQL: quote them. `schema_sql()` gives the statements themselves.

    SELECT datetime(time_us / 1e6, 'unixepoch'), mse, threshold FROM "window"
    WHERE node = 'press-07' ORDER BY time_us DESC LIMIT 10;

Versions: `PRAGMA user_version` is `SCHEMA_VERSION`, `PRAGMA application_id` tells our files from
others. A file that lacks columns of today gets them (null in old rows). A column that changes its
meaning or goes away means `SCHEMA_VERSION` + 1 and a migration in `_prepare`; a file of a newer
version is refused.

Durability: WAL, so that readers never wait, with `synchronous = FULL`. In WAL mode NORMAL does not
sync at a commit: a power cut may take back the last batches, which the broker has forgotten by
then because we acknowledged them. FULL adds one fsync per batch. Measured with SQLite 3.40 on a
virtual disk that syncs in 0.16 ms: 500 windows in 3.4 ms (NORMAL 2.9 ms), a single one in 0.17 ms
(NORMAL 0.016 ms). A slow disk adds its own sync time to each batch, of which there is one a second
unless more than 500 points a second come.
"""

import contextlib
import sqlite3
from collections import defaultdict
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from collector.sinks.hour_figures import HOUR_US, window_hour
from collector.sinks.sink import PointsRejectedError, SinkSetupError, SinkUnavailableError
from contract.messages import Message
from contract.points import FieldValue, Point, columns
from contract.ranges import Ranges
from contract.records import STORED, WindowHour

SCHEMA_VERSION = 1
APPLICATION_ID = 0x65617273
"""`ears` in ASCII."""

# STRICT tables refuse a value of the wrong type instead of keeping it as it is.
_SQLITE_WITH_STRICT = (3, 37)

_SQL_TYPES: dict[type[FieldValue], str] = {int: "INTEGER", float: "REAL", str: "TEXT"}

_REJECTIONS = (
    sqlite3.IntegrityError,
    sqlite3.DataError,
    sqlite3.InterfaceError,
    sqlite3.ProgrammingError,
    OverflowError,
    UnicodeEncodeError,
)
"""What SQLite or its module says of values rather than of the file."""

# Numbers without a gap between them have one distance to their rank.
_STORED_SEQS = """
SELECT min(seq), max(seq) FROM (
  SELECT seq, seq - dense_rank() OVER (ORDER BY seq) AS island FROM "window"
  WHERE node = ? AND boot = ? AND seq IS NOT NULL
) GROUP BY island ORDER BY 1
"""

# The key is node, model and time: with a node's models found one after the other in it, an hour is
# a few pieces of the table, however many nodes there are (measured: 2.4 ms; 94 ms by the index of
# times with 30 nodes).
_HOURS = """
WITH RECURSIVE models (model) AS (
  SELECT min(model) FROM "window" WHERE node = ?1
  UNION ALL
  SELECT (SELECT min(model) FROM "window" WHERE node = ?1 AND model > models.model)
  FROM models WHERE models.model IS NOT NULL
)
SELECT heard.model, count(*), count(score), sum(anomaly),
  avg(score), max(score), avg(mse), avg(level_dbfs)
FROM models CROSS JOIN "window" AS heard ON heard.model = models.model
WHERE node = ?1 AND time_us >= ?2 AND time_us < ?3 GROUP BY heard.model ORDER BY heard.model
"""


def schema_sql() -> str:
    """The statements that make an empty store."""
    return "\n".join(statement for kind in STORED for statement in _table_sql(kind)) + "\n"


class SqliteSink:
    """A store in one file, made if absent.

    Args:
        path: the file; its folder must exist.
        busy_seconds: how long to wait for another program that has the file locked.

    Raises:
        SinkSetupError: the file cannot be used; it is as it was.
    """

    def __init__(self, path: str | Path, *, busy_seconds: float = 5.0) -> None:
        self._path = Path(path)
        self._busy_seconds = busy_seconds
        self._connection = self._open()
        self._identity: tuple[int, int] | None = self._file_identity()

    def write(self, points: Sequence[Point]) -> None:
        """Store points in one transaction.

        Raises:
            SinkUnavailableError: the file is locked, the disk is full or fails.
            PointsRejectedError: a point does not fit its table; none of them is stored.
        """
        self._reopen_if_replaced()
        rows = defaultdict(list)
        for point in points:
            rows[point.measurement].append(_row(point))
        try:
            self._connection.execute("BEGIN IMMEDIATE")
            for measurement, values in rows.items():
                self._connection.executemany(_upsert_sql(measurement), values)
            self._connection.execute("COMMIT")
        except _REJECTIONS as error:
            self._roll_back()
            raise PointsRejectedError(f"SQLite: {error}") from error
        except sqlite3.Error as error:
            self._roll_back()
            raise SinkUnavailableError(f"{self._path}: {error}") from error

    def stored_seqs(self, node: str, boot: str) -> Ranges:
        """Numbers of the windows of one boot; reads all that is stored of the node.

        Raises:
            SinkUnavailableError: the file is locked or fails.
        """
        self._reopen_if_replaced()
        try:
            return Ranges(self._connection.execute(_STORED_SEQS, (node, boot)))
        except sqlite3.Error as error:
            raise SinkUnavailableError(f"{self._path}: {error}") from error

    def hours(self, node: str, hour_us: int) -> list[WindowHour]:
        """Figures of one hour of a node, for each model.

        Raises:
            SinkUnavailableError: the file is locked or fails.
        """
        self._reopen_if_replaced()
        try:
            rows = self._connection.execute(_HOURS, (node, hour_us, hour_us + HOUR_US)).fetchall()
        except sqlite3.Error as error:
            raise SinkUnavailableError(f"{self._path}: {error}") from error
        return [window_hour(node, hour_us, model, row) for model, *row in rows]

    def close(self) -> None:
        """Close the file; nothing is left to write."""
        self._connection.close()

    def _roll_back(self) -> None:
        # Some errors, a full disk among them, have rolled back by themselves; where even this
        # fails, SQLite does it when it next opens the file.
        if self._connection.in_transaction:
            with contextlib.suppress(sqlite3.Error):
                self._connection.execute("ROLLBACK")

    def _reopen_if_replaced(self) -> None:
        """Without this, points would go on into a file that somebody has deleted or moved."""
        if self._identity is not None and self._file_identity() == self._identity:
            return
        self._connection.close()
        self._identity = None
        try:
            self._connection = self._open()
        except SinkSetupError as error:
            raise SinkUnavailableError(str(error)) from error
        self._identity = self._file_identity()

    def _file_identity(self) -> tuple[int, int] | None:
        try:
            status = self._path.stat()
        except OSError:
            return None
        return status.st_dev, status.st_ino

    def _open(self) -> sqlite3.Connection:
        if sqlite3.sqlite_version_info < _SQLITE_WITH_STRICT:
            raise SinkSetupError(f"Expected SQLite 3.37 or later, got {sqlite3.sqlite_version}")
        if not self._path.parent.is_dir():
            raise SinkSetupError(f"{self._path}: its folder does not exist; make it first")
        try:
            connection = sqlite3.connect(
                self._path, timeout=self._busy_seconds, isolation_level=None
            )
        except sqlite3.Error as error:
            raise SinkSetupError(f"{self._path}: {_advice(error)}") from error
        try:
            _prepare(connection, self._path)
        except sqlite3.Error as error:
            connection.close()
            raise SinkSetupError(f"{self._path}: {_advice(error)}") from error
        except SinkSetupError:
            connection.close()
            raise
        return connection


def _prepare(connection: sqlite3.Connection, path: Path) -> None:
    """Look before touching, then bring the file to today's schema in one transaction."""
    version = _pragma(connection, "user_version")
    tables = connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0]
    if tables and _pragma(connection, "application_id") != APPLICATION_ID:
        raise SinkSetupError(f"{path}: is the database of another program; name another file")
    if version > SCHEMA_VERSION:
        raise SinkSetupError(
            f"{path}: Expected schema version {SCHEMA_VERSION}, got {version};"
            " a newer earshot wrote it, upgrade this one"
        )
    # A lock first, so that a file that cannot be written is not half converted.
    connection.execute("BEGIN IMMEDIATE")
    connection.execute("ROLLBACK")
    mode = connection.execute("PRAGMA journal_mode = WAL").fetchone()[0]
    if mode != "wal":
        raise SinkSetupError(f"{path}: is on a file system without shared memory; use a local disk")
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("BEGIN IMMEDIATE")
    for kind in STORED:
        for statement in _table_sql(kind):
            connection.execute(statement)
        _add_missing_columns(connection, kind)
    connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
    connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
    connection.execute("COMMIT")


def _add_missing_columns(connection: sqlite3.Connection, kind: type[Message]) -> None:
    found = {row[1] for row in connection.execute(f'PRAGMA table_info("{kind.KIND}")')}
    for name, python_type in columns(kind).items():
        if name not in found:
            connection.execute(
                f'ALTER TABLE "{kind.KIND}" ADD COLUMN "{name}" {_SQL_TYPES[python_type]}'
            )


def _table_sql(kind: type[Message]) -> tuple[str, str]:
    tags = [f'  "{tag}" TEXT NOT NULL' for tag in kind.TAGS]
    fields = [f'  "{name}" {_SQL_TYPES[python]}' for name, python in columns(kind).items()]
    key = ", ".join(f'"{name}"' for name in (*kind.TAGS, "time_us"))
    lines = [*tags, '  "time_us" INTEGER NOT NULL', *fields, f"  PRIMARY KEY ({key})"]
    body = ",\n".join(lines)
    return (
        f'CREATE TABLE IF NOT EXISTS "{kind.KIND}" (\n{body}\n) STRICT, WITHOUT ROWID;',
        f'CREATE INDEX IF NOT EXISTS "{kind.KIND}_by_time" ON "{kind.KIND}" ("time_us");',
    )


@cache
def _stored(measurement: str) -> type[Message]:
    return next(kind for kind in STORED if str(kind.KIND) == measurement)


@cache
def _upsert_sql(measurement: str) -> str:
    kind = _stored(measurement)
    key = (*kind.TAGS, "time_us")
    names = (*key, *columns(kind))
    return (
        f'INSERT INTO "{measurement}" ({", ".join(_quoted(names))})'  # noqa: S608 - names of ours
        f" VALUES ({', '.join('?' * len(names))})"
        f" ON CONFLICT ({', '.join(_quoted(key))}) DO UPDATE SET "
        + ", ".join(f'"{name}" = excluded."{name}"' for name in columns(kind))
    )


def _quoted(names: Sequence[str]) -> list[str]:
    return [f'"{name}"' for name in names]


def _row(point: Point) -> tuple[FieldValue | None, ...]:
    kind = _stored(point.measurement)
    tags = (point.tags[tag] for tag in kind.TAGS)
    return (*tags, point.time_us, *map(point.fields.get, columns(kind)))


def _pragma(connection: sqlite3.Connection, name: str) -> int:
    return int(connection.execute(f"PRAGMA {name}").fetchone()[0])


def _advice(error: sqlite3.Error) -> str:
    match getattr(error, "sqlite_errorcode", None):
        case sqlite3.SQLITE_NOTADB | sqlite3.SQLITE_CORRUPT:
            return f"{error}; move it away or name another file"
        case sqlite3.SQLITE_READONLY | sqlite3.SQLITE_CANTOPEN:
            return f"{error}; let this user write the file and its folder"
        case sqlite3.SQLITE_BUSY | sqlite3.SQLITE_LOCKED:
            return f"{error}; another program holds it"
    return str(error)
