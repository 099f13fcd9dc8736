"""The collector's state folder: made if absent, and one program's at a time."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from contract.errors import EarshotError

LEDGER = "ledger.db"
DEAD_LETTERS = "dead-letters.jsonl"
_LOCK = "collector.lock"


class CollectorStateError(EarshotError):
    """The state folder cannot be used."""


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the folder for one program.

    Raises:
        CollectorStateError: it cannot be made or written to, or another program holds it.
    """
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        # Not the lock file alone: the ledger makes files beside it.
        probe = folder / f".probe-{os.getpid()}"
        probe.touch()
        probe.unlink()
        # Only this user may open it: whoever can, can lock it.
        file = os.fdopen(os.open(folder / _LOCK, os.O_WRONLY | os.O_CREAT, 0o600), "w")
    except OSError as error:
        raise CollectorStateError(
            f"{folder}: expected a folder that this user may write to, got: {error.strerror};"
            " set [collector] state_folder"
        ) from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise CollectorStateError(
                f"{folder}: a collector already runs on this folder; stop it, or set another"
                " [collector] state_folder"
            ) from error
        except OSError as error:
            raise CollectorStateError(f"{folder}: cannot be locked: {error.strerror}") from error
        yield
