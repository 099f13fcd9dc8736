"""The outbox's file: windows that wait, events, and the accounts of their boots, in SQLite.

A mechanism without opinions: what is written, when, and what is given up is
`node.delivery.outbox`'s. Changes gather in one transaction until `commit`; what is read shows them
already. After `commit` they last, also when the power goes (a write-ahead log, and every commit
waits for the disk).

It belongs to one thread at a time.
"""

import logging
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final

import msgspec

from contract.errors import EarshotError
from node.delivery.accounts import BootAccount
from node.whole_file import sync_folder

logger = logging.getLogger(__name__)

_FORMAT: Final = 1
"""Stands in the file's `user_version`; a file of another format is moved aside, not guessed at: so
it stays 1 for as long as its windows are to be delivered. What is new goes into the payloads and
accounts, which grow as messages do (see `contract.messages`), or into a column that may be empty.
"""
_CACHE_KB: Final = 512
"""Pages that SQLite keeps in memory; its own default is four times that."""
_LOG_BYTES: Final = 1024 * 1024
"""The write-ahead log shrinks to this size once its pages are in the file."""
_SMALL_BYTES: Final = 256 * 1024
"""An empty file below this is not worth the writes of making it smaller."""

_LOCKED_SECONDS: Final = 1.0
"""How long to wait for somebody who looks at the file; live windows wait meanwhile."""

_SCHEMA: Final = """
CREATE TABLE boots (id INTEGER PRIMARY KEY, boot TEXT NOT NULL UNIQUE, account BLOB NOT NULL);
CREATE TABLE windows (
    boot INTEGER NOT NULL,
    seq INTEGER NOT NULL,
    expendable INTEGER NOT NULL,
    added_s REAL NOT NULL,
    payload BLOB NOT NULL,
    PRIMARY KEY (boot, seq)
) WITHOUT ROWID;
CREATE INDEX expendable ON windows (expendable);
CREATE TABLE events (id INTEGER PRIMARY KEY, payload BLOB NOT NULL);
CREATE TABLE kept (name TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;
"""

_DAMAGE: Final = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})
_LAST_START: Final = "last_start_us"


class OutboxFileError(EarshotError):
    """The file cannot be used now; nothing of the transaction was kept."""

    def __init__(self, text: str, *, damaged: bool) -> None:
        self.damaged = damaged
        """Whether it will never do: its content is not what we wrote."""
        super().__init__(text)


class WindowRow(msgspec.Struct, frozen=True):
    """A window as it is in the file."""

    seq: int
    expendable: bool
    added_s: float
    """When it came in, on the monotonic clock of the process that wrote it."""
    payload: bytes


class StoredBoot(msgspec.Struct, frozen=True):
    """A boot of which something is in the file."""

    id: int
    """Rises from boot to boot, whatever the clock said when they began."""
    boot: str
    account: BootAccount
    windows: int
    first_seq: int
    last_seq: int


class Stored(msgspec.Struct, frozen=True):
    """All that is in the file; of windows, how many."""

    boots: tuple[StoredBoot, ...] = ()
    events: tuple[tuple[int, bytes], ...] = ()
    """Id and payload of every event, oldest first."""
    last_start_us: int | None = None
    """The last time stamp that was given to a window, as far as it was kept."""


class OutboxFile:
    """One file, opened when it is first needed.

    Args:
        path: in a folder that exists, or will.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._connection: sqlite3.Connection | None = None
        self._deleted: list[tuple[int, int, int]] = []
        """Boot, first and last of what is deleted but not committed: a transaction may fail."""

    @property
    def is_open(self) -> bool:
        """Whether something has been read or written since it was closed."""
        return self._connection is not None

    @property
    def size_bytes(self) -> int:
        """Size of the file and its log on the disk."""
        return sum(_size(self.path.with_name(self.path.name + suffix)) for suffix in ("", "-wal"))

    @property
    def used_bytes(self) -> int:
        """Size of the pages that hold something, also of those that are not committed yet.

        Raises:
            OutboxFileError: it cannot be read.
        """
        with self._opened() as db:
            (size,) = db.execute("PRAGMA page_size").fetchone()
            (pages,) = db.execute("PRAGMA page_count").fetchone()
            (free,) = db.execute("PRAGMA freelist_count").fetchone()
        return int(size) * (int(pages) - int(free))

    def load(self) -> Stored:
        """What an earlier start has left; makes no file.

        Raises:
            OutboxFileError: it cannot be read.
        """
        with self._translated():
            if not self.path.exists():
                return Stored()
        with self._opened() as db:
            counts = {
                boot: (windows, first, last)
                for boot, windows, first, last in db.execute(
                    "SELECT boot, COUNT(*), MIN(seq), MAX(seq) FROM windows GROUP BY boot"
                )
            }
            boots = tuple(
                StoredBoot(row, boot, _account(account), *counts.get(row, (0, 0, -1)))
                for row, boot, account in db.execute(
                    "SELECT id, boot, account FROM boots ORDER BY id"
                )
            )
            events = db.execute("SELECT id, payload FROM events ORDER BY id").fetchall()
            last = db.execute("SELECT value FROM kept WHERE name = ?", (_LAST_START,)).fetchone()
        return Stored(boots, tuple(events), None if last is None else int(last[0]))

    def boot_id(self, boot: str) -> int:
        """The number of a boot; makes one where there is none."""
        with self._changing() as db:
            db.execute(
                "INSERT OR IGNORE INTO boots (boot, account) VALUES (?, ?)",
                (boot, msgspec.json.encode(BootAccount())),
            )
            (found,) = db.execute("SELECT id FROM boots WHERE boot = ?", (boot,)).fetchone()
        return int(found)

    def put_accounts(self, accounts: Mapping[int, BootAccount]) -> None:
        """Replace the accounts of these boots."""
        if not accounts:
            return
        with self._changing() as db:
            db.executemany(
                "UPDATE boots SET account = ? WHERE id = ?",
                [(msgspec.json.encode(account), boot) for boot, account in accounts.items()],
            )

    def forget_boot(self, boot: int) -> None:
        """Drop the account of a boot."""
        with self._changing() as db:
            db.execute("DELETE FROM boots WHERE id = ?", (boot,))

    def put(self, boot: int, rows: Sequence[WindowRow]) -> None:
        """Write windows of a boot, in place of those that may be there."""
        with self._changing() as db:
            db.executemany(
                "INSERT OR REPLACE INTO windows (boot, seq, expendable, added_s, payload)"
                " VALUES (?, ?, ?, ?, ?)",
                [(boot, row.seq, row.expendable, row.added_s, row.payload) for row in rows],
            )

    def read(self, boot: int, first: int, last: int, limit: int) -> list[WindowRow]:
        """Up to so many windows of a boot between two numbers, both included, in order."""
        with self._opened() as db:
            return [
                WindowRow(seq, bool(expendable), added_s, payload)
                for seq, expendable, added_s, payload in db.execute(
                    "SELECT seq, expendable, added_s, payload FROM windows"
                    " WHERE boot = ? AND seq BETWEEN ? AND ? ORDER BY seq LIMIT ?",
                    (boot, first, last, limit),
                )
            ]

    def delete(self, boot: int, first: int, last: int) -> int:
        """Delete the windows of a boot between two numbers, both included; gives how many."""
        with self._changing() as db:
            deleted = db.execute(_DELETE, (boot, first, last)).rowcount
        if deleted:
            self._deleted.append((boot, first, last))
        return deleted

    def first_to_go(self, limit: int) -> list[tuple[int, int]]:
        """Boot and number of up to so many windows that are given up before all others.

        Those that were put as expendable, oldest first; where there are none, the oldest ones.
        """
        with self._opened() as db:
            expendable = db.execute(
                "SELECT boot, seq FROM windows WHERE expendable = 1 ORDER BY boot, seq LIMIT ?",
                (limit,),
            ).fetchall()
            return (
                expendable
                or db.execute(
                    "SELECT boot, seq FROM windows ORDER BY boot, seq LIMIT ?", (limit,)
                ).fetchall()
            )

    def put_event(self, event: int, payload: bytes) -> None:
        """Write an event, in place of the one that may be there."""
        with self._changing() as db:
            db.execute(
                "INSERT OR REPLACE INTO events (id, payload) VALUES (?, ?)", (event, payload)
            )

    def delete_event(self, event: int) -> None:
        """Delete an event, if it is there."""
        with self._changing() as db:
            db.execute("DELETE FROM events WHERE id = ?", (event,))

    def keep_last_start(self, start_us: int) -> None:
        """Remember the last time stamp that was given to a window."""
        with self._changing() as db:
            db.execute(
                "INSERT OR REPLACE INTO kept (name, value) VALUES (?, ?)", (_LAST_START, start_us)
            )

    def commit(self) -> None:
        """Make all changes last.

        Raises:
            OutboxFileError: it cannot be written; the changes are undone, but for deletions, which
                are tried again with the next ones.
        """
        with self._changing() as db:
            db.execute("COMMIT")
        self._deleted.clear()

    def rest(self) -> None:
        """Close it until it is needed again, small and without a log, if it is (nearly) empty."""
        if self._connection is None:
            return
        if self._connection.in_transaction or self._deleted:
            self.commit()
        if self.used_bytes < _SMALL_BYTES < self.size_bytes:
            with self._opened() as db:
                db.execute("VACUUM")
        self.close()

    def close(self) -> None:
        """Let go of the file; what is not committed is undone."""
        connection, self._connection = self._connection, None
        self._deleted.clear()
        if connection is not None:
            # The last one to leave puts the log's pages into the file and deletes the log.
            with suppress(sqlite3.Error):
                connection.close()

    def move_aside(self) -> str:
        """Let go of a file that cannot be used, and keep it; gives a text that says where."""
        self.close()
        aside = self.path.with_suffix(".broken")
        try:
            for suffix in ("-wal", "-shm"):
                # They belong to the file, and would be taken for those of the next one.
                self.path.with_name(self.path.name + suffix).unlink(missing_ok=True)
            self.path.replace(aside)
        except OSError as error:
            return f"cannot be moved aside: {error.strerror}"
        return f"is now {aside.name}"

    @contextmanager
    def _opened(self) -> Iterator[sqlite3.Connection]:
        with self._translated():
            if self._connection is None:
                self._connection = self._connect()
            yield self._connection

    @contextmanager
    def _changing(self) -> Iterator[sqlite3.Connection]:
        with self._opened() as db:
            if not db.in_transaction:
                db.execute("BEGIN IMMEDIATE")
                # What was deleted in a transaction that failed.
                db.executemany(_DELETE, self._deleted)
            yield db

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            self._undo()
            code = getattr(error, "sqlite_errorcode", 0) & 0xFF
            raise OutboxFileError(f"{self.path}: {error}", damaged=code in _DAMAGE) from error
        except (OSError, msgspec.MsgspecError) as error:
            self._undo()
            damaged = not isinstance(error, OSError)
            raise OutboxFileError(f"{self.path}: {error}", damaged=damaged) from error

    def _undo(self) -> None:
        connection = self._connection
        if connection is not None and connection.in_transaction:
            with suppress(sqlite3.Error):
                connection.execute("ROLLBACK")

    def _connect(self) -> sqlite3.Connection:
        is_new = not self.path.exists()
        # From the thread that loads it over to the publisher's; never two at once.
        db = sqlite3.connect(
            self.path, timeout=_LOCKED_SECONDS, isolation_level=None, check_same_thread=False
        )
        try:
            db.execute(f"PRAGMA cache_size = -{_CACHE_KB}")
            db.execute("PRAGMA synchronous = FULL")
            db.execute("PRAGMA journal_mode = WAL")
            db.execute(f"PRAGMA journal_size_limit = {_LOG_BYTES}")
            (found,) = db.execute("PRAGMA user_version").fetchone()
            (tables,) = db.execute("SELECT COUNT(*) FROM sqlite_schema").fetchone()
            if not tables:
                db.executescript(f"BEGIN; {_SCHEMA} PRAGMA user_version = {_FORMAT}; COMMIT;")
            elif found != _FORMAT:
                raise OutboxFileError(
                    f"{self.path}: expected an outbox of format {_FORMAT}, got {found}",
                    damaged=True,
                )
        except BaseException:
            db.close()
            raise
        if is_new:
            sync_folder(self.path.parent)
        return db


_DELETE: Final = "DELETE FROM windows WHERE boot = ? AND seq BETWEEN ? AND ?"


def _account(payload: Any) -> BootAccount:
    """One that cannot be read, of another version maybe, costs a count and no windows."""
    try:
        return msgspec.json.decode(payload, type=BootAccount)
    except (msgspec.MsgspecError, TypeError, UnicodeDecodeError) as error:
        logger.warning("an account in the outbox begins anew: %s", error)
        return BootAccount()


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0
