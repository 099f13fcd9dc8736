"""Checks of what a node needs to take updates: whose word counts, and room for releases."""

import os
import shlex
import shutil
import stat
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final

from contract.errors import KeyFileError
from node.findings import Finding, ok, problem, warning
from node.settings import UpdateSection
from node.updates.trusted_keys import read_keys_file

_SHOWN_DIGITS: Final = 12
_FOLDERS: Final = ("releases", "downloads")


def update_findings(update: UpdateSection, state_folder: Path) -> Iterator[Finding]:
    """Whose releases the node takes, and whether there is room for them.

    Args:
        update: what the settings say.
        state_folder: of this node; releases lie below it.
    """
    if update.keys_file is None:
        yield ok(
            "updates",
            "takes none: no [update] keys_file names whose releases to trust"
            " (`earshot fleet keys show` prints public keys for it)",
        )
        return
    path = Path(update.keys_file)
    try:
        keys = read_keys_file(path)
    except KeyFileError as error:
        yield problem(
            "updates",
            str(error),
            "`earshot fleet keys show` prints public keys; the node's user must be able to"
            " read them",
        )
        return
    if _others_may_write(path):
        yield problem(
            "updates",
            f"{path}: every user of this computer can say whose releases are trusted",
            f"chmod o-w {shlex.quote(str(path.absolute()))}",
        )
    else:
        whose = " or ".join(sorted(key_id[:_SHOWN_DIGITS] for key_id in keys))
        yield ok("updates", f"takes releases and orders signed by {whose}")
    yield _room_finding(update, state_folder)


def _room_finding(update: UpdateSection, state_folder: Path) -> Finding:
    used = sum(_bytes_below(state_folder / name) for name in _FOLDERS)
    free = shutil.disk_usage(_nearest(state_folder)).free
    wanted = update.disk_bytes - used
    told = f"{_mb(used)} of {_mb(update.disk_bytes)} MB used by releases"
    if free < wanted:
        return warning(
            "update room",
            f"{told}, and {_mb(free)} MB left on the disk: an update may not fit",
            "delete what is not needed, or lower [update] disk_mb",
        )
    return ok("update room", f"{told}, and the disk has room for the rest")


def _others_may_write(path: Path) -> bool:
    return bool(path.stat().st_mode & stat.S_IWOTH)


def _bytes_below(folder: Path) -> int:
    size = 0
    for place, _, names in os.walk(folder):
        for name in names:
            with suppress(OSError):  # gone since it was listed
                size += Path(place, name).lstat().st_size
    return size


def _nearest(folder: Path) -> Path:
    """The folder, or the nearest above it that is there and may be seen."""
    here = folder.absolute()
    return next((place for place in (here, *here.parents) if os.access(place, os.F_OK)), Path("/"))


def _mb(size_bytes: int) -> str:
    return f"{size_bytes / 1024 / 1024:.0f}"
