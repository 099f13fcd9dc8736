"""Chunks of a file: in any order, over any interruption, whole or not at all."""

import errno
import os
import random
import resource
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from contract.release import CHUNK_BYTES, ReleaseFile, describe_file
from node.updates.download import MAX_AHEAD, ChunkError, Download
from node.updates.release_folders import UpdateStoreError
from tests.node.updates import packed
from tests.node.updates.power_cut import Disk, PowerCut

CONTENT = random.Random(5).randbytes(20 * CHUNK_BYTES + 1234)
FILE = describe_file("model.tflite", CONTENT)


def chunk_of(content: bytes, number: int) -> bytes:
    return content[number * CHUNK_BYTES : (number + 1) * CHUNK_BYTES]


def chunk(number: int) -> bytes:
    return chunk_of(CONTENT, number)


def download(folder: Path, *chunks: int) -> Download:
    found = Download(folder, FILE)
    for number in chunks:
        assert found.add(number, chunk(number))
    return found


def complete(found: Download) -> Path:
    while not found.done:
        (number,) = found.next_chunks(1)
        assert found.add(number, chunk(number))
    return found.finish()


@pytest.mark.parametrize("size", [1, CHUNK_BYTES - 1, CHUNK_BYTES, CHUNK_BYTES + 1])
def test_file_comes_in_chunks(tmp_path: Path, size: int) -> None:
    """Of any size, also one that ends with a whole chunk."""
    file = describe_file("m", CONTENT[:size])
    found = Download(tmp_path / "downloads", file)

    for number in range(file.chunks):
        assert not found.done
        assert found.add(number, chunk_of(CONTENT[:size], number))

    assert found.done
    assert found.progress == 1.0
    assert found.next_chunks(4) == []
    assert found.finish().read_bytes() == CONTENT[:size]


def test_chunks_are_asked_for_in_order(tmp_path: Path) -> None:
    """Those that are missing next, no more than asked for, none that is here."""
    found = download(tmp_path, 0, 1)

    assert found.next_chunks(3) == [2, 3, 4]
    assert found.add(4, chunk(4))
    assert found.next_chunks(3) == [2, 3, 5]
    assert found.progress == 2 / FILE.chunks


def test_chunks_in_any_order_make_the_file(tmp_path: Path) -> None:
    """Some that come before their turn are kept; each is of use once."""
    found = Download(tmp_path, FILE)
    chance = random.Random(1)
    while not found.done:
        for number in chance.sample(wanted := found.next_chunks(MAX_AHEAD), len(wanted)):
            assert found.add(number, chunk(number))
            assert not found.add(number, chunk(number))

    assert found.finish().read_bytes() == CONTENT


def test_what_comes_too_early_or_is_none_is_ignored(tmp_path: Path) -> None:
    """Memory for chunks is bounded, whatever a broker sends."""
    found = download(tmp_path, 0)

    assert not found.add(0, chunk(0))
    assert not found.add(0, b"of another size")
    assert not found.add(MAX_AHEAD + 2, chunk(MAX_AHEAD + 2))
    assert not found.add(FILE.chunks, b"")
    assert not found.add(-1, chunk(0))
    assert found.add(MAX_AHEAD + 1, chunk(MAX_AHEAD + 1))
    assert complete(found).read_bytes() == CONTENT


@pytest.mark.parametrize("size", [0, 1, CHUNK_BYTES - 1, CHUNK_BYTES + 1])
def test_chunk_of_the_wrong_size_is_refused(tmp_path: Path, size: int) -> None:
    """With expectation and fact; the download is as it was."""
    found = download(tmp_path, 0)

    with pytest.raises(ChunkError, match=f"expected {CHUNK_BYTES} bytes in chunk 1, got {size}"):
        found.add(1, bytes(size))
    with pytest.raises(ChunkError, match=f"expected {CHUNK_BYTES} bytes in chunk 3, got {size}"):
        found.add(3, bytes(size))

    assert found.next_chunks(1) == [1]
    assert complete(found).read_bytes() == CONTENT


def test_download_goes_on_where_it_ended(tmp_path: Path) -> None:
    """After any restart no chunk that is on the disk is asked for again."""
    for number in range(FILE.chunks):
        found = Download(tmp_path, FILE)
        assert found.next_chunks(1) == [number]
        assert found.add(number, chunk(number))

    assert Download(tmp_path, FILE).done
    assert Download(tmp_path, FILE).finish().read_bytes() == CONTENT


@pytest.mark.parametrize("torn", [1, CHUNK_BYTES // 2, CHUNK_BYTES - 1])
def test_torn_chunk_is_cut_off(tmp_path: Path, torn: int) -> None:
    """Of a chunk that a power cut has halved nothing is believed."""
    (tmp_path / f"{FILE.sha256}.part").write_bytes(CONTENT[: 3 * CHUNK_BYTES + torn])

    found = Download(tmp_path, FILE)

    assert found.next_chunks(1) == [3]
    assert complete(found).read_bytes() == CONTENT


def test_part_that_is_too_long_is_begun_anew(tmp_path: Path) -> None:
    """It is none of ours."""
    (tmp_path / f"{FILE.sha256}.part").write_bytes(CONTENT + b"x")

    assert Download(tmp_path, FILE).next_chunks(1) == [0]


def test_spoilt_part_is_told_from_a_wrong_chunk(tmp_path: Path) -> None:
    """What an earlier run has left may be spoilt, and another attempt makes sense."""
    part = tmp_path / f"{FILE.sha256}.part"
    part.write_bytes(bytes(CHUNK_BYTES))
    found = Download(tmp_path, FILE)
    with pytest.raises(ChunkError, match=r"model.tflite: expected \d+ bytes with SHA-256") as error:
        complete(found)
    assert not error.value.fresh
    assert not part.exists()

    # The same object is ready for the second attempt.
    assert found.next_chunks(1) == [0]
    found.add(0, bytes(CHUNK_BYTES))
    with pytest.raises(ChunkError) as error:
        complete(found)
    assert error.value.fresh
    assert complete(found).read_bytes() == CONTENT


def test_file_is_checked_also_when_nothing_was_fetched(tmp_path: Path) -> None:
    """A part of the right size is not yet the right file."""
    (tmp_path / f"{FILE.sha256}.part").write_bytes(bytes(FILE.size_bytes))
    found = Download(tmp_path, FILE)

    assert found.done
    with pytest.raises(ChunkError):
        found.finish()


def test_discarded_download_leaves_nothing(tmp_path: Path) -> None:
    """And may begin anew."""
    found = download(tmp_path, 0, 1, 3)

    found.discard()

    assert list(tmp_path.iterdir()) == []
    assert found.next_chunks(2) == [0, 1]
    assert found.progress == 0.0


@contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("room", [2 * CHUNK_BYTES, 2 * CHUNK_BYTES + 1, 3 * CHUNK_BYTES - 1])
def test_full_disk_leaves_the_part_as_it_was(tmp_path: Path, room: int) -> None:
    """A chunk that got there by half is cut off again; with room it goes on."""
    found = download(tmp_path, 0, 1)
    found.add(3, chunk(3))

    with (
        files_of_at_most(room),
        pytest.raises(UpdateStoreError, match=r"File too large.*cannot be stored"),
    ):
        found.add(2, chunk(2))

    assert (tmp_path / f"{FILE.sha256}.part").read_bytes() == CONTENT[: 2 * CHUNK_BYTES]
    assert found.next_chunks(2) == [2, 4]
    assert complete(found).read_bytes() == CONTENT


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 200 kB."""
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=200k", "tmpfs", str(tmp_path)],
        check=False,
        capture_output=True,
    )
    if mounted.returncode:
        pytest.skip("needs to be allowed to mount (root)")
    try:
        yield tmp_path
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)


def test_real_full_disk_is_named(small_disk: Path) -> None:
    """With what is free; what came before stays, and goes on when there is room."""
    (small_disk / "other").write_bytes(bytes(60_000))
    found = Download(small_disk / "downloads", FILE)

    with pytest.raises(
        UpdateStoreError, match=r"No space left .* MB free\): model.tflite cannot be stored"
    ):
        complete(found)

    (number,) = found.next_chunks(1)
    assert 2 <= number <= 6
    (small_disk / "other").unlink()
    assert found.add(number, chunk(number))
    assert Download(small_disk / "downloads", FILE).next_chunks(1) == [number + 1]


def test_folder_that_cannot_be_made_is_an_error(tmp_path: Path) -> None:
    """In one line."""
    (tmp_path / "downloads").write_text("")

    with pytest.raises(
        UpdateStoreError, match=r"(File exists|Not a directory): .* cannot be stored"
    ):
        Download(tmp_path / "downloads", FILE)


def test_part_that_vanishes_is_an_error(tmp_path: Path) -> None:
    """Somebody has cleared the folder: no file is given."""
    found = download(tmp_path, *range(FILE.chunks))
    (tmp_path / f"{FILE.sha256}.part").unlink()

    with pytest.raises(UpdateStoreError, match="No such file"):
        found.finish()


@pytest.mark.parametrize("seed", range(20))
def test_power_cut_at_any_call_costs_no_chunk_that_was_told(tmp_path: Path, seed: int) -> None:
    """What `add` has taken is there at the next start, and the file gets whole."""
    chance = random.Random(seed)
    content = CONTENT[: 4 * CHUNK_BYTES + 99]
    small = describe_file("m", content)
    for cut_before in range(1000):
        root = tmp_path / f"before-{cut_before}"
        root.mkdir()
        taken = 0
        with pytest.MonkeyPatch.context() as patched:
            disk = Disk(root, patched, cut_before=cut_before)
            try:
                taken = _fetch(root, small)
                break
            except PowerCut:
                taken = _taken(root, small)
        after = tmp_path / f"after-{cut_before}"
        disk.aftermath(after, chance)

        found = Download(after / "downloads", small)

        first = found.next_chunks(1)[0] if not found.done else small.chunks
        assert first >= taken, f"call {cut_before}"
        # A chunk that was being written may be there in length, and not in content.
        assert packed.complete(found, content).read_bytes() == content
    assert taken == small.chunks
    assert cut_before > 5, "expected to cut in several places"


def _fetch(root: Path, file: ReleaseFile) -> int:
    found = Download(root / "downloads", file)
    for number in range(file.chunks):
        found.add(number, chunk_of(CONTENT[: file.size_bytes], number))
        (root / "told").write_text(str(number + 1))
    found.finish()
    return file.chunks


def _taken(root: Path, file: ReleaseFile) -> int:
    told = root / "told"
    return int(told.read_text()) if told.exists() else 0


def test_every_error_of_the_disk_is_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever a disk says, the caller sees one kind of error."""
    found = download(tmp_path, 0)
    kept = os.fsync

    def failing(descriptor: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "fsync", failing)
    with pytest.raises(UpdateStoreError, match="Input/output error"):
        found.add(1, chunk(1))
    monkeypatch.setattr(os, "fsync", kept)

    assert complete(found).read_bytes() == CONTENT
