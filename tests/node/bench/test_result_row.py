"""A table of results that only ever grows."""

import csv
from collections.abc import Callable
from pathlib import Path

import pytest

from node.bench.result_row import COLUMNS, ResultsFileError, append_row, check_results_file

ROW = {"model_name": "fan@1", "latency_ms_p50": "0.5", "notes": 'a "quoted", note'}


def rows(path: Path) -> list[dict[str, str]]:
    """What a reader of CSV finds."""
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file, strict=True))


def test_new_table_begins_with_its_heads(tmp_path: Path) -> None:
    """The first row makes the file; cells that nobody filled are empty."""
    path = tmp_path / "results.csv"

    append_row(path, ROW)

    assert path.read_text().splitlines()[0] == ",".join(COLUMNS)
    assert rows(path) == [dict.fromkeys(COLUMNS, "") | ROW]


@pytest.mark.parametrize("line_end", ["\r\n", "\n"])
@pytest.mark.parametrize("last", ["whole", "cut off"])
def test_rows_are_added_behind_what_is_there(tmp_path: Path, line_end: str, last: str) -> None:
    """No byte that was there changes, and a last line without an end is not run into."""
    path = tmp_path / "results.csv"
    lines = ["\ufeff" + ",".join(COLUMNS), ",".join("x" * len(COLUMNS))]
    before = line_end.join(lines) + (line_end if last == "whole" else "")
    path.write_bytes(before.encode())

    append_row(path, ROW)

    content = path.read_bytes()
    assert content.startswith(before.encode())
    assert content.count(b"\n") == content.count(line_end.encode()) == 3
    assert [row["model_name"] for row in rows(path)] == ["x", "fan@1"]


def test_empty_file_becomes_a_table(tmp_path: Path) -> None:
    """As `touch` leaves it."""
    path = tmp_path / "results.csv"
    path.touch()

    check_results_file(path)
    append_row(path, ROW)

    assert len(rows(path)) == 1


@pytest.mark.parametrize(
    "content",
    [
        b"timestamp,git_hash\n1,2\n",
        ",".join(COLUMNS).replace("ttfi_ms", "tffi_ms").encode() + b"\n",
        b"\n",
        b"\xff\xfe\x00binary",
    ],
)
def test_foreign_file_is_left_alone(tmp_path: Path, content: bytes) -> None:
    """A file with other heads is refused in one line, before and after measuring."""
    path = tmp_path / "results.csv"
    path.write_bytes(content)

    refusals: list[Callable[[], None]] = [
        lambda: check_results_file(path),
        lambda: append_row(path, ROW),
    ]
    for refuse in refusals:
        with pytest.raises(ResultsFileError, match="name another file") as caught:
            refuse()
        assert "\n" not in str(caught.value)
    assert path.read_bytes() == content


def test_place_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    """A folder that is not there is told before anything is measured."""
    path = tmp_path / "nowhere" / "results.csv"

    with pytest.raises(ResultsFileError, match="existing folder"):
        check_results_file(path)
    with pytest.raises(ResultsFileError, match="cannot be written"):
        append_row(path, ROW)
