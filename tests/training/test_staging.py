"""Folders whole or not at all."""

from pathlib import Path

import pytest

from training.errors import DestinationError
from training.staging import refuse_unwritable, staged_folder


def test_appears_when_it_is_whole(tmp_path: Path) -> None:
    """The destination is not there while it is filled, and complete afterwards."""
    out = tmp_path / "a" / "b"

    with staged_folder(out) as staging:
        (staging / "deep").mkdir()
        (staging / "deep" / "x").write_text("1")
        assert not out.exists()

    assert (out / "deep" / "x").read_text() == "1"
    assert [path.name for path in out.parent.iterdir()] == ["b"]


def test_replaces_what_was_there(tmp_path: Path) -> None:
    """What was at the destination is gone, not mixed with the new."""
    out = tmp_path / "out"
    out.mkdir()
    (out / "old").touch()

    with staged_folder(out) as staging:
        (staging / "new").touch()

    assert [path.name for path in tmp_path.rglob("*")] == ["out", "new"]


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
def test_failure_leaves_no_trace(tmp_path: Path, error: type[BaseException]) -> None:
    """When filling fails or is interrupted, what was there before stays."""
    out = tmp_path / "out"
    out.mkdir()
    (out / "old").touch()

    def fill() -> None:
        with staged_folder(out) as staging:
            (staging / "new").touch()
            raise error

    with pytest.raises(error):
        fill()

    assert [path.name for path in tmp_path.rglob("*")] == ["out", "old"]


def test_disk_says_no(tmp_path: Path) -> None:
    """A file in the way is one clear error, before the work and when writing."""
    (tmp_path / "file").touch()
    out = tmp_path / "file" / "out"

    with pytest.raises(DestinationError, match="is not a folder"):
        refuse_unwritable(out)
    with pytest.raises(DestinationError, match="cannot write into"), staged_folder(out):
        pass
