"""The state folder is one program's at a time."""

import os
import stat
from pathlib import Path

import pytest

from collector.state_folder import CollectorStateError, locked


def test_folder_belongs_to_one_program(tmp_path: Path) -> None:
    """And to the next one afterwards."""
    with (
        locked(tmp_path / "new"),
        pytest.raises(CollectorStateError, match="already runs on this folder"),
        locked(tmp_path / "new"),
    ):
        pass
    with locked(tmp_path / "new"):
        pass


def test_folder_that_cannot_be_made_is_one_line(tmp_path: Path) -> None:
    """With the name of the setting."""
    (tmp_path / "file").touch()

    with (
        pytest.raises(CollectorStateError, match=r"set \[collector\] state_folder"),
        locked(tmp_path / "file"),
    ):
        pass


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077])
def test_folder_and_lock_are_nobody_elses(tmp_path: Path, umask: int) -> None:
    """Whoever could open the lock could keep the program from starting."""
    folder = tmp_path / "state"
    before = os.umask(umask)
    try:
        with locked(folder):
            modes = [
                stat.S_IMODE(path.stat().st_mode) for path in (folder, folder / "collector.lock")
            ]
    finally:
        os.umask(before)

    assert modes == [0o700, 0o600]
