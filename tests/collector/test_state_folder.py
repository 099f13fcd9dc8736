"""The state folder is one program's at a time."""

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
