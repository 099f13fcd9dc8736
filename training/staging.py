"""Folders that appear on disk whole or not at all."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from training.errors import DestinationError


@contextmanager
def staged_folder(destination: Path) -> Iterator[Path]:
    """Give an empty folder to fill; when the block ends well, it becomes `destination`.

    It is a hidden neighbour of the destination, so that the last step is a rename. What was at the
    destination before is replaced; whether it may be is the caller's to decide. When the block
    fails or is interrupted, the destination stays as it was.

    Raises:
        DestinationError: the disk does not let it happen.
    """
    parent = destination.absolute().parent
    staging = parent / f".{destination.name}.{os.getpid()}.part"
    try:
        parent.mkdir(parents=True, exist_ok=True)
        # Of a process with this number that was killed: in a container it is often the same.
        shutil.rmtree(staging, ignore_errors=True)
        staging.mkdir()
    except OSError as error:
        raise DestinationError(f"cannot write into {parent}: {error.strerror}") from error
    try:
        yield staging
        _sync_tree(staging)
        _replace(staging, destination)
        _sync(parent)
    except OSError as error:
        raise DestinationError(f"cannot write {destination}: {error.strerror or error}") from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def refuse_unwritable(destination: Path) -> None:
    """Find out before the work, not after it, that a folder cannot be made there.

    Raises:
        DestinationError: it cannot.
    """
    parent = next(path for path in destination.absolute().parents if path.exists())
    if not parent.is_dir():
        raise DestinationError(f"{destination}: {parent} is not a folder")
    if not os.access(parent, os.W_OK | os.X_OK):
        raise DestinationError(f"{destination}: may not write into {parent}")


def is_free(destination: Path) -> bool:
    """Whether nothing, or only an empty folder, is there."""
    if destination.is_dir():
        return not any(destination.iterdir())
    return not (destination.exists() or destination.is_symlink())


def _replace(staging: Path, destination: Path) -> None:
    if is_free(destination):
        # POSIX renames a folder onto an empty one.
        staging.rename(destination)
        return
    # There is no portable exchange of two folders: the old one steps aside for a moment.
    aside = staging.with_suffix(".old")
    destination.rename(aside)
    try:
        staging.rename(destination)
    except BaseException:
        aside.rename(destination)
        raise
    shutil.rmtree(aside, ignore_errors=True)


def _sync_tree(folder: Path) -> None:
    for path in folder.rglob("*"):
        _sync(path)
    _sync(folder)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
