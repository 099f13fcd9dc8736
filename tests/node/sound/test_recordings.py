"""Recordings: formats that are read, files that are refused, and the time they are given."""

import os
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from node.sound.errors import SourceError
from node.sound.recordings import (
    Recording,
    RecordingSource,
    find_recordings,
    open_recording,
    read_mono,
)
from node.sound.source import Block, EndOfSound

RATE_HZ = 16_000

Samples = npt.NDArray[np.float64]


def sines(seconds: float = 0.6, *, rate_hz: int = RATE_HZ, channels: int = 1) -> Samples:
    """Shape (frames, channels): a sine in each channel, an octave above the one before."""
    at = np.arange(round(seconds * rate_hz)) / rate_hz
    return np.stack([0.5 * np.sin(2 * np.pi * 50 * 2**c * at) for c in range(channels)], axis=1)


def write(
    path: Path, samples: Samples, *, rate_hz: int = RATE_HZ, subtype: str | None = None
) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, samples, rate_hz, subtype=subtype)
    return path


def heard(path: Path, channel: int | None = None) -> npt.NDArray[np.float32]:
    (recording,) = find_recordings(path).recordings
    return np.concatenate(list(read_mono(recording, channel)))


def play(source: RecordingSource) -> list[tuple[Block, int]]:
    """All blocks, each with the rate that the source gave for it."""
    found: list[tuple[Block, int]] = []
    with source:
        while True:
            try:
                block = source.read(1.0)
            except EndOfSound:
                return found
            if block is not None:
                found.append((block, source.sample_rate_hz))


@pytest.mark.parametrize(
    ("suffix", "subtype", "tolerance"),
    [
        ("wav", "PCM_U8", 2.0**-7),
        ("wav", "PCM_16", 2.0**-15),
        ("wav", "PCM_24", 2.0**-23),
        ("wav", "PCM_32", 1e-7),
        ("wav", "FLOAT", 1e-7),
        ("wav", "DOUBLE", 1e-7),
        ("wav", "ULAW", 0.02),
        ("flac", "PCM_16", 2.0**-15),
        ("flac", "PCM_24", 2.0**-23),
        ("ogg", "VORBIS", 0.05),
    ],
)
def test_format_is_read(tmp_path: Path, suffix: str, subtype: str, tolerance: float) -> None:
    """What was written is heard, to the steps of the format, in single precision."""
    path = write(tmp_path / f"a.{suffix}", sines(), subtype=subtype)

    samples = heard(path)

    assert samples.dtype == np.float32
    np.testing.assert_allclose(samples, sines()[:, 0], rtol=0, atol=tolerance)


@pytest.mark.parametrize("channel", range(8))
def test_one_of_eight_channels_is_heard(tmp_path: Path, channel: int) -> None:
    """A channel is heard alone, counted from 0."""
    path = write(tmp_path / "array.wav", sines(channels=8), subtype="FLOAT")

    np.testing.assert_allclose(heard(path, channel), sines(channels=8)[:, channel], atol=1e-6)


def test_channels_are_mixed(tmp_path: Path) -> None:
    """Without a channel the mean of all is heard, which cannot clip."""
    path = write(tmp_path / "array.wav", sines(channels=8), subtype="FLOAT")

    np.testing.assert_allclose(heard(path), sines(channels=8).mean(axis=1), atol=1e-6)


@pytest.mark.parametrize("rate_hz", [8_000, 44_100, 96_000])
def test_rate_is_the_files_own(tmp_path: Path, rate_hz: int) -> None:
    """A file is given at its own rate; resampling is not the source's."""
    path = write(tmp_path / "a.wav", sines(rate_hz=rate_hz), rate_hz=rate_hz, subtype="FLOAT")

    found = play(RecordingSource(find_recordings(path).recordings, channel=None, fast=True))

    assert {rate for _, rate in found} == {rate_hz}
    together = np.concatenate([block.samples for block, _ in found])
    np.testing.assert_allclose(together, sines(rate_hz=rate_hz)[:, 0], atol=1e-6)


def test_recording_is_described(tmp_path: Path) -> None:
    """Rate, channels and length are known before anything is read."""
    path = write(tmp_path / "a.flac", sines(0.5, channels=2))

    assert find_recordings(path).recordings == (Recording(path, RATE_HZ, 2, 8000),)
    assert find_recordings(path).recordings[0].seconds == 0.5


def test_folder_is_played_in_the_order_of_names(tmp_path: Path) -> None:
    """All sound below a folder is found, in order, with suffixes of any case; nothing else."""
    for name in ("b.wav", "a.flac", "sub/c.ogg", "c.WAV"):
        write(tmp_path / f"day/{name}".lower(), sines()).rename(tmp_path / "day" / name)
    (tmp_path / "day/notes.txt").write_text("windy")
    (tmp_path / "day/x.wav").mkdir()

    found = find_recordings(tmp_path / "day").recordings

    assert [str(r.path.relative_to(tmp_path / "day")) for r in found] == [
        "a.flac",
        "b.wav",
        "c.WAV",
        "sub/c.ogg",
    ]


def test_blocks_do_not_cross_files(tmp_path: Path) -> None:
    """Each file begins with a block that is not continuous, at that file's rate."""
    first = write(tmp_path / "1.wav", sines(0.6), subtype="FLOAT")
    write(tmp_path / "2.wav", sines(0.3, rate_hz=48_000), rate_hz=48_000, subtype="FLOAT")

    found = play(RecordingSource(find_recordings(tmp_path).recordings, channel=None, fast=True))

    assert [(block.continuous, len(block.samples), rate) for block, rate in found] == [
        (False, 4000, RATE_HZ),
        (True, 4000, RATE_HZ),
        (True, 1600, RATE_HZ),
        (False, 12_000, 48_000),
        (True, 2400, 48_000),
    ]
    assert not any(block.lost for block, _ in found)
    np.testing.assert_array_equal(
        np.concatenate([block.samples for block, _ in found[:3]]), heard(first)
    )


def test_identity_names_file_or_folder(tmp_path: Path) -> None:
    """A file is named; a folder is named with the number of its files."""
    one = write(tmp_path / "day/a.wav", sines(0.1))
    write(tmp_path / "day/b.wav", sines(0.1))

    def identity(path: Path) -> str:
        return RecordingSource(find_recordings(path).recordings, channel=None, fast=True).identity

    assert identity(one) == "file:a.wav"
    assert identity(tmp_path / "day") == "folder:day (2 files)"


def test_sound_ends_and_can_be_played_again(tmp_path: Path) -> None:
    """After the last block there is none, however often one asks; entering starts over."""
    path = write(tmp_path / "a.wav", sines(0.1))
    source = RecordingSource(find_recordings(path).recordings, channel=None, fast=True)

    with source:
        assert source.read(0.0) is not None
        for _ in range(2):
            with pytest.raises(EndOfSound):
                source.read(0.0)

    with source:
        assert source.read(0.0) is not None
    assert source.overruns == 0


def test_fast_sound_ends_now(tmp_path: Path) -> None:
    """Fast sound is stamped as if it had just been heard: without gaps, its end at the start."""
    for name in ("1.wav", "2.wav"):
        write(tmp_path / name, sines(0.6))

    before_ns = time.monotonic_ns()
    found = [
        b
        for b, _ in play(
            RecordingSource(find_recordings(tmp_path).recordings, channel=None, fast=True)
        )
    ]
    after_ns = time.monotonic_ns()

    ends_ns = [b.captured_monotonic_ns + len(b.samples) * 10**9 // RATE_HZ for b in found]
    starts_ns = [b.captured_monotonic_ns for b in found]
    assert before_ns - 1000 <= ends_ns[-1] <= after_ns
    np.testing.assert_allclose(starts_ns[1:], ends_ns[:-1], rtol=0, atol=1000)


def test_real_time_is_waited_for(tmp_path: Path) -> None:
    """A block is given when a microphone would have heard it, stamped with its first sample."""
    path = write(tmp_path / "a.wav", sines(0.05))
    source = RecordingSource(find_recordings(path).recordings, channel=None, fast=False)

    before = time.monotonic_ns()
    ((block, _),) = play(source)
    after = time.monotonic_ns()

    assert after - before >= 50_000_000
    assert before <= block.captured_monotonic_ns <= after - 50_000_000


def test_real_time_is_not_waited_for_too_long(tmp_path: Path) -> None:
    """Where the block is not due in time there is none, and nothing of it is lost."""
    path = write(tmp_path / "a.wav", sines(0.05))

    with RecordingSource(find_recordings(path).recordings, channel=None, fast=False) as source:
        early = source.read(0.001)
        block = source.read(5.0)

    assert early is None
    assert block is not None
    np.testing.assert_array_equal(block.samples, heard(path))


def cut(path: Path, share: float) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])


def not_sound(path: Path) -> None:
    path.write_text("This is a text about sound.\n" * 200)


def without_samples(path: Path) -> None:
    soundfile.write(path, np.zeros((0, 1)), RATE_HZ, format="WAV")


BROKEN: dict[str, tuple[Callable[[Path], object], str]] = {
    "empty": (lambda path: path.write_bytes(b""), "expected sound, got an empty file"),
    "not sound": (not_sound, "not a sound file: .*(Format not recognised|unknown format)"),
    "only a header": (lambda path: cut(path, 0.001), "not a sound file: "),
    "half": (lambda path: cut(path, 0.5), r"truncated: \d+ bytes of its sound are missing"),
    "nearly all": (lambda path: cut(path, 0.999), r"truncated: \d+ bytes of its sound are missing"),
    "no samples": (without_samples, "expected sound, got a file without samples"),
    "missing": (lambda path: path.unlink(), "no such file or folder"),
}


@pytest.mark.parametrize("broken", BROKEN)
def test_broken_file_is_refused_by_name(tmp_path: Path, broken: str) -> None:
    """A file that is not what it should be is one error in one line, which names it."""
    path = write(tmp_path / "broken.wav", sines())
    damage, problem = BROKEN[broken]
    damage(path)

    with pytest.raises(SourceError, match=f"^{path}: {problem}") as error:
        find_recordings(path)

    assert "\n" not in str(error.value)
    assert error.value.reason in ("bad_format", "no_sound")


def test_broken_file_in_a_folder_is_named(tmp_path: Path) -> None:
    """Bad copies among good ones are named, and the others are there to be played."""
    good = write(tmp_path / "a.wav", sines())
    cut(write(tmp_path / "b.wav", sines()), 0.5)
    (tmp_path / "c.mp3").write_bytes(b"ID3")

    found = find_recordings(tmp_path)

    assert [recording.path for recording in found.recordings] == [good]
    truncated, mp3 = map(str, found.unreadable)
    assert truncated.startswith(f"{tmp_path}/b.wav: truncated: ")
    assert mp3.startswith(f"{tmp_path}/c.mp3: mp3 files are not read; make a WAV file of it: ")


def test_folder_of_broken_files_is_refused(tmp_path: Path) -> None:
    """Where nothing can be read, the first file says why."""
    cut(write(tmp_path / "a.wav", sines()), 0.5)
    (tmp_path / "b.m4a").write_bytes(b"ftyp")

    with pytest.raises(
        SourceError, match=rf"none of its 2 sound files can be read; .*: {tmp_path}/a\.wav: trunc"
    ):
        find_recordings(tmp_path)


@pytest.mark.parametrize("name", ["._a.wav", "day/._b.flac", "._.wav"])
def test_attributes_that_macos_leaves_are_no_recordings(tmp_path: Path, name: str) -> None:
    """On a stick with exFAT, macOS keeps a file's attributes in another, named like it."""
    good = write(tmp_path / "a.wav", sines())
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_bytes(b"\x00\x05\x16\x07" + bytes(4092))

    found = find_recordings(tmp_path)

    assert [recording.path for recording in found.recordings] == [good]
    assert not found.unreadable


def test_folder_without_sound_is_refused(tmp_path: Path) -> None:
    """An empty folder, or one with other files alone, is named with what was expected."""
    (tmp_path / "notes.txt").write_text("windy")

    with pytest.raises(
        SourceError, match=rf"^{tmp_path}: expected \.wav, \.flac, \.ogg, .* files, got"
    ):
        find_recordings(tmp_path)


@pytest.mark.parametrize("share", [0.3, 0.9])
def test_truncated_flac_is_refused_by_name(tmp_path: Path, share: float) -> None:
    """A FLAC that breaks off is found when it is read, at the latest."""
    noise = np.random.default_rng(0).uniform(-0.5, 0.5, (3 * RATE_HZ, 1))
    path = write(tmp_path / "a.flac", noise)
    cut(path, share)

    with pytest.raises(SourceError, match=f"^{path}: ") as error:
        heard(path)

    assert "\n" not in str(error.value)


def test_file_that_shrinks_is_refused_by_name(tmp_path: Path) -> None:
    """A file that is shorter when it is read than when it was found is refused."""
    path = write(tmp_path / "a.wav", sines())
    (recording,) = find_recordings(path).recordings
    cut(path, 0.5)

    with pytest.raises(SourceError, match=rf"^{path}: truncated: expected 9600 samples, got \d+"):
        list(read_mono(recording, None))


def test_file_that_vanishes_is_refused_by_name(tmp_path: Path) -> None:
    """A file that is gone when it is to be read is refused."""
    path = write(tmp_path / "a.wav", sines())
    (recording,) = find_recordings(path).recordings
    path.unlink()

    with pytest.raises(SourceError, match=f"^{path}: "):
        list(read_mono(recording, None))


OPEN_ENDED = {
    "SoX to a pipe": 0x7FFF_F000,
    "the same, less its header": 0x7FFF_F000 - 36,
    "arecord": 0x8000_0000,
    "arecord, frames of 6 bytes": 0x7FFF_FFFE,
    "the largest signed": 0x7FFF_FFFF,
    "ffmpeg to a pipe": 0xFFFF_FFFF,
    "ffmpeg, less its header": 0xFFFF_FFFF - 44,
    "never filled in": 0,
}


@pytest.mark.parametrize("length", OPEN_ENDED.values(), ids=OPEN_ENDED.keys())
@pytest.mark.parametrize("before", [b"", b"LIST\x04\x00\x00\x00abcd"], ids=["", "after a note"])
def test_length_that_is_left_open_goes_to_the_end(
    tmp_path: Path, length: int, before: bytes
) -> None:
    """A WAV whose writer could not go back to fill in the length is read to its end."""
    path = write(tmp_path / "a.wav", sines(), subtype="PCM_16")
    content = path.read_bytes()
    size = length.to_bytes(4, "little")
    riff = min(length + 36, 0xFFFF_FFFF).to_bytes(4, "little")
    path.write_bytes(content[:4] + riff + content[8:36] + before + b"data" + size + content[44:])

    (recording,) = find_recordings(path).recordings

    assert recording == Recording(path, RATE_HZ, 1, 9600)
    np.testing.assert_allclose(heard(path), sines()[:, 0], atol=2.0**-15)


def test_half_a_frame_at_the_end_is_no_sound(tmp_path: Path) -> None:
    """A recorder that was killed may leave a part of a sample."""
    path = write(tmp_path / "a.wav", sines(), subtype="PCM_16")
    content = bytearray(path.read_bytes())
    content[40:44] = (0x8000_0000).to_bytes(4, "little")
    path.write_bytes(content + b"\x01")

    assert len(heard(path)) == 9600


def stated(path: Path, content: bytes, length: int) -> None:
    """Write a WAV of one-channel PCM whose header states another length."""
    size = length.to_bytes(4, "little")
    path.write_bytes(content[:40] + size + content[44:])


@pytest.mark.parametrize("length", [9600, 15_000, 0x1_0000_0000 % 19_200 + 2])
def test_header_that_ends_too_early_is_named(tmp_path: Path, length: int) -> None:
    """What lies after the stated end is not left out in silence."""
    path = write(tmp_path / "a.wav", sines(2.0), subtype="PCM_16")
    content = path.read_bytes()
    length -= length % 2
    stated(path, content, length)

    (recording,) = find_recordings(path).recordings

    assert recording.frames == length // 2
    assert recording.note is not None
    assert f"the {len(content) - 44 - length} bytes after that are left out" in recording.note
    assert "sox --ignore-length a.wav" in recording.note


@pytest.mark.parametrize("after", [b"", bytes(512), b"TAG" + bytes(125)], ids=len)
def test_padding_after_the_sound_is_no_sound(tmp_path: Path, after: bytes) -> None:
    """A sector's rest or a player's tag is nothing to be told of."""
    path = write(tmp_path / "a.wav", sines(), subtype="PCM_16")
    path.write_bytes(path.read_bytes() + after)

    (recording,) = find_recordings(path).recordings

    assert recording.note is None


def test_sound_of_nothing_before_a_note_is_refused(tmp_path: Path) -> None:
    """A length of 0 is believed where a chunk follows at once, and nothing else does."""
    path = write(tmp_path / "a.wav", sines(), subtype="PCM_16")
    note = b"LIST\x04\x00\x00\x00abcd"
    path.write_bytes(path.read_bytes()[:40] + bytes(4) + note)

    with pytest.raises(SourceError, match="a file without samples"):
        find_recordings(path)


def test_chunks_before_and_after_the_sound_are_passed_over(tmp_path: Path) -> None:
    """Notes of other programs in a WAV, also of odd length, are neither sound nor truncation."""
    path = write(tmp_path / "a.wav", sines(), subtype="PCM_16")
    content = path.read_bytes()
    note = b"LIST" + (3).to_bytes(4, "little") + b"abc\x00"
    path.write_bytes(content[:36] + note + content[36:] + note)

    np.testing.assert_allclose(heard(path), sines()[:, 0], atol=2.0**-15)


@pytest.mark.parametrize(
    "channel",
    [
        2,
        255,
        -1,
    ],
)
def test_channel_that_a_file_lacks_is_refused_by_name(tmp_path: Path, channel: int) -> None:
    """The first file without the channel is named before anything is played."""
    write(tmp_path / "1.wav", sines(channels=4)[:, :4])
    write(tmp_path / "2.wav", sines(channels=2))
    recordings = find_recordings(tmp_path).recordings

    with pytest.raises(SourceError, match=rf"\.wav: expected channel {channel} \(counted from 0\)"):
        RecordingSource(recordings, channel=channel, fast=True)


@given(
    st.lists(st.tuples(st.integers(0, 43), st.integers(0, 255)), min_size=1, max_size=4),
    st.integers(44, 200),
)
@settings(max_examples=150, deadline=None, database=None)
def test_changed_header_never_escapes_as_another_error(
    tmp_path_factory: pytest.TempPathFactory, changes: list[tuple[int, int]], length: int
) -> None:
    """Whatever stands in a WAV's header, it is read or refused in one line."""
    path = tmp_path_factory.getbasetemp() / f"header-{os.getpid()}.wav"
    content = bytearray(write(path, sines(0.005), subtype="PCM_16").read_bytes())
    for place, value in changes:
        content[place] = value
    path.write_bytes(content[:length])

    try:
        samples = heard(path)
    except SourceError as error:
        text = str(error)
        assert text.startswith(f"{path}: ")
        assert "\n" not in text
    else:
        assert samples.ndim == 1


def test_name_that_is_not_utf8_is_refused_in_one_line(tmp_path: Path) -> None:
    """A file named in another encoding is named with its bytes, and nothing else breaks."""
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/l\xe4rm.wav"))
    path.write_bytes(b"RIFF")

    with pytest.raises(SourceError, match=r"rm\.wav: .*its name is not UTF-8"):
        open_recording(path)
