"""Files that are there whole or not at all."""

import stat
from pathlib import Path

import pytest

from node.whole_file import write_whole


def test_content_takes_the_place_of_what_was_there(tmp_path: Path) -> None:
    """The file has the new bytes and the asked permissions, and nothing else is left."""
    path = tmp_path / "node.toml"
    path.write_bytes(b"before")

    write_whole(path, b"after", mode=0o600)

    assert path.read_bytes() == b"after"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [file.name for file in tmp_path.iterdir()] == ["node.toml"]


def test_failed_write_leaves_no_half_file(tmp_path: Path) -> None:
    """A place that cannot be taken stays as it was, without a temporary file beside it."""
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "inside").touch()

    with pytest.raises(OSError, match="taken"):
        write_whole(tmp_path / "taken", b"after")

    assert [file.name for file in tmp_path.iterdir()] == ["taken"]
