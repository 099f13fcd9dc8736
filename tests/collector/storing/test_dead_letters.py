"""Dead letters are kept whole, in a file of bounded size."""

import base64
import json
import logging
import resource
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from collector.state_folder import DEAD_LETTERS
from collector.storing.dead_letters import DeadLetterFile
from collector.storing.intake import Intake
from contract.messages import DeadLetter
from tests.rig.examples import received


def letter(payload: bytes) -> DeadLetter:
    found = Intake("collector").take(received(payload), arrived_us=7).letter
    assert found is not None
    return found


def lines(path: Path) -> list[Any]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_letter_is_there_with_the_whole_payload(tmp_path: Path) -> None:
    """Bytes that are no text, too."""
    payload = b"\xff\x00{" * 1000
    with closing(DeadLetterFile(tmp_path, megabytes=1.0)) as file:
        file.append(letter(payload), payload)
        file.sync()

    (found,) = lines(tmp_path / DEAD_LETTERS)
    assert base64.b64decode(found.pop("payload")) == payload
    detail = found.pop("detail")
    assert detail.startswith("Expected a window message")
    assert found == {
        "at_us": 7,
        "collector": "collector",
        "topic": "earshot/1/n/press-07/window",
        "reason": "malformed",
        "payload_bytes": 3000,
    }


def test_letter_is_one_line_whatever_its_topic_holds(tmp_path: Path) -> None:
    """What some programs take for line ends, and what terminals obey, is written as escapes."""
    topic = "a\x85b\u2028c\x9b2J\x1b\n"
    odd = Intake("collector").take(received(b"{", topic), arrived_us=7).letter
    assert odd is not None
    with closing(DeadLetterFile(tmp_path, megabytes=1.0)) as file:
        file.append(odd, b"{")

    text = (tmp_path / DEAD_LETTERS).read_text()
    assert text.isascii()
    assert text[:-1].isprintable()
    assert [entry["topic"] for entry in lines(tmp_path / DEAD_LETTERS)] == [topic]


def test_letters_of_two_runs_are_in_one_file(tmp_path: Path) -> None:
    """In the order in which they came."""
    for payload in (b"1", b"2"):
        with closing(DeadLetterFile(tmp_path, megabytes=1.0)) as file:
            file.append(letter(payload), payload)

    assert [base64.b64decode(x["payload"]) for x in lines(tmp_path / DEAD_LETTERS)] == [b"1", b"2"]


def test_nothing_to_keep_makes_no_file(tmp_path: Path) -> None:
    """A fleet that is well leaves none."""
    with closing(DeadLetterFile(tmp_path, megabytes=1.0)) as file:
        file.sync()

    assert list(tmp_path.iterdir()) == []


def test_file_is_put_aside_when_it_is_full(tmp_path: Path) -> None:
    """Two of them are kept, the newest letters in full."""
    bound = 20_000
    with closing(DeadLetterFile(tmp_path, megabytes=bound / 1024**2)) as file:
        for number in range(300):
            payload = f"{number} ".encode().ljust(500, b"x")
            file.append(letter(payload), payload)

    paths = [tmp_path / f"{DEAD_LETTERS}.1", tmp_path / DEAD_LETTERS]
    assert sorted(tmp_path.iterdir()) == sorted(paths)
    assert all(path.stat().st_size <= bound for path in paths)
    kept = [int(base64.b64decode(x["payload"]).split()[0]) for p in paths for x in lines(p)]
    assert kept == list(range(kept[0], 300))


def test_letter_larger_than_the_file_is_kept_alone(tmp_path: Path) -> None:
    """The bound is one of files, not of letters."""
    payload = b"x" * 50_000
    with closing(DeadLetterFile(tmp_path, megabytes=0.01)) as file:
        file.append(letter(b"{"), b"{")
        file.append(letter(payload), payload)

    assert [x["payload_bytes"] for x in lines(tmp_path / DEAD_LETTERS)] == [50_000]


def test_half_a_line_does_not_spoil_the_next(tmp_path: Path) -> None:
    """A crash may leave one."""
    (tmp_path / DEAD_LETTERS).write_text('{"at_us":1,"coll')
    with closing(DeadLetterFile(tmp_path, megabytes=1.0)) as file:
        file.append(letter(b"{"), b"{")

    half, whole = (tmp_path / DEAD_LETTERS).read_text().splitlines()
    assert half == '{"at_us":1,"coll'
    assert json.loads(whole)["payload_bytes"] == 1


@contextmanager
def full_disk(size: int) -> Iterator[None]:
    """No file may grow beyond this size."""
    # Python ignores SIGXFSZ, so that a write beyond it is an OSError.
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_full_disk_is_one_line_and_no_error(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """With room again, letters are kept again."""
    caplog.set_level(logging.ERROR)
    payload = b"x" * 5000
    with closing(DeadLetterFile(tmp_path, megabytes=1.0)) as file:
        with full_disk(1000):
            for _ in range(3):
                file.append(letter(payload), payload)
                file.sync()
        file.append(letter(b"{"), b"{")

    (record,) = caplog.records
    assert "dead letters are published, but cannot be kept here" in record.getMessage()
    last = (tmp_path / DEAD_LETTERS).read_text().splitlines()[-1]
    assert json.loads(last)["payload_bytes"] == 1
