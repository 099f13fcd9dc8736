"""Reading and cutting sound."""

from pathlib import Path

import numpy as np
import pytest

from contract.features import FeatureParams, Float32Array
from tests.training.conftest import RATE_HZ, WriteWav, hiss
from training.dataset import Clip, find_dataset
from training.errors import DataError
from training.recordings import Tally, cut, read_recording, read_windows, refuse_unusable

PARAMS = FeatureParams()
NAME = "train/section_00_source_train_normal_{:04d}.wav"


def clips_of(folder: Path) -> tuple[Clip, ...]:
    """List what the tests wrote."""
    return find_dataset(folder).train


@pytest.mark.parametrize(
    ("subtype", "tolerance"), [("PCM_16", 2**-15), ("PCM_24", 2**-23), ("FLOAT", 0)]
)
def test_reads_common_encodings(
    tmp_path: Path, write_wav: WriteWav, subtype: str, tolerance: float
) -> None:
    """16-bit, 24-bit and float samples come out as float32 of the same size."""
    sound = hiss(0.5)

    recording = read_recording(
        write_wav(tmp_path / "a.wav", sound, subtype=subtype), sample_rate_hz=RATE_HZ
    )

    assert recording.samples.dtype == np.float32
    np.testing.assert_allclose(recording.samples, sound, rtol=0, atol=tolerance)


def test_channels_are_mixed(tmp_path: Path, write_wav: WriteWav) -> None:
    """Several channels are mixed, as a node does unless it is told otherwise."""
    first, second = hiss(0.5, seed=1), hiss(0.5, seed=2)
    path = write_wav(tmp_path / "a.wav", np.stack([first, second], axis=1), subtype="FLOAT")

    recording = read_recording(path, sample_rate_hz=RATE_HZ)

    np.testing.assert_allclose(recording.samples, (first + second) / 2, atol=1e-7)
    assert recording.file_channels == 2


def test_resamples(tmp_path: Path, write_wav: WriteWav) -> None:
    """A tone in a 48 kHz file is the same tone at 16 kHz."""

    def tone(rate_hz: int) -> Float32Array:
        seconds = np.arange(rate_hz) / rate_hz
        return (0.5 * np.sin(2 * np.pi * 440 * seconds)).astype(np.float32)

    path = write_wav(tmp_path / "a.wav", tone(48_000), rate_hz=48_000)

    recording = read_recording(path, sample_rate_hz=RATE_HZ)

    assert recording.file_rate_hz == 48_000
    inner = slice(1000, -1000)
    np.testing.assert_allclose(recording.samples[inner], tone(RATE_HZ)[inner], atol=1e-3)


def test_no_file(tmp_path: Path) -> None:
    """A file that is not there is named."""
    with pytest.raises(DataError, match=r"a\.wav: cannot be read: No such file"):
        read_recording(tmp_path / "a.wav", sample_rate_hz=RATE_HZ)


def test_empty_file(tmp_path: Path) -> None:
    """A file of 0 bytes is refused."""
    (tmp_path / "a.wav").touch()

    with pytest.raises(DataError, match=r"a\.wav: expected sound, got an empty file"):
        read_recording(tmp_path / "a.wav", sample_rate_hz=RATE_HZ)


def test_no_samples(tmp_path: Path, write_wav: WriteWav) -> None:
    """A header without samples is refused."""
    path = write_wav(tmp_path / "a.wav", np.empty(0, np.float32))

    with pytest.raises(DataError, match=r"a\.wav: expected sound, got a file without samples"):
        read_recording(path, sample_rate_hz=RATE_HZ)


@pytest.mark.parametrize("size_bytes", [20, 40, 1000])
def test_truncated_file(tmp_path: Path, write_wav: WriteWav, size_bytes: int) -> None:
    """A WAV that ends before its header says is refused."""
    path = write_wav(tmp_path / "a.wav")
    path.write_bytes(path.read_bytes()[:size_bytes])

    with pytest.raises(DataError, match=r"a\.wav: (truncated|not a sound file)"):
        read_recording(path, sample_rate_hz=RATE_HZ)


def test_unknown_length(tmp_path: Path, write_wav: WriteWav) -> None:
    """A recorder that streamed and never wrote the length is believed."""
    path = write_wav(tmp_path / "a.wav")
    content = bytearray(path.read_bytes())
    at = content.index(b"data")
    content[at + 4 : at + 8] = b"\xff\xff\xff\xff"
    path.write_bytes(content)

    assert len(read_recording(path, sample_rate_hz=RATE_HZ).samples) == 2 * RATE_HZ


def test_no_sound_file(tmp_path: Path) -> None:
    """Text that is called .wav is refused."""
    (tmp_path / "a.wav").write_text("hello, I am no sound at all")

    with pytest.raises(DataError, match=r"a\.wav: not a sound file"):
        read_recording(tmp_path / "a.wav", sample_rate_hz=RATE_HZ)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_no_number(tmp_path: Path, write_wav: WriteWav, bad: float) -> None:
    """NaN and infinity in a float WAV are refused."""
    sound = hiss(0.5)
    sound[7] = bad

    path = write_wav(tmp_path / "a.wav", sound, subtype="FLOAT")

    with pytest.raises(DataError, match=r"a\.wav: expected numbers"):
        read_recording(path, sample_rate_hz=RATE_HZ)


def test_all_bad_files_are_counted(tmp_path: Path, write_wav: WriteWav) -> None:
    """The first bad file is named, the others are counted."""
    write_wav(tmp_path / NAME.format(0))
    for index in (1, 2, 3):
        (tmp_path / NAME.format(index)).touch()

    with pytest.raises(DataError, match=r"normal_0001\.wav: .* \(and 2 more\)"):
        refuse_unusable(clips_of(tmp_path), sample_rate_hz=RATE_HZ)


@pytest.mark.parametrize(("seconds", "count"), [(2, 1), (2.9, 1), (3, 2), (10, 9)])
def test_windows_of_a_clip(seconds: float, count: int) -> None:
    """Windows of 2 s start each second and never reach past the end."""
    sound = hiss(seconds)

    windows = cut(sound, PARAMS, hop_samples=RATE_HZ)

    assert windows.shape == (count, 2 * RATE_HZ)
    np.testing.assert_array_equal(windows[-1], sound[(count - 1) * RATE_HZ :][: 2 * RATE_HZ])


def test_short_clips_and_silence_are_left_out(tmp_path: Path, write_wav: WriteWav) -> None:
    """Clips shorter than a window and windows of digital silence are skipped and counted."""
    write_wav(tmp_path / NAME.format(0), hiss(1.9))
    write_wav(tmp_path / NAME.format(1), np.concatenate([hiss(2), np.zeros(3 * RATE_HZ)]))
    tally = Tally()

    found = list(read_windows(clips_of(tmp_path), PARAMS, hop_samples=RATE_HZ, tally=tally))

    assert [(len(clip.windows), clip.silent) for clip in found] == [(2, 2)]
    assert tally.lines(PARAMS) == [
        "1 files skipped, shorter than one window of 2 s, such as"
        " section_00_source_train_normal_0000.wav",
        "2 windows skipped, digitally silent",
    ]


def test_what_was_changed_is_said(tmp_path: Path, write_wav: WriteWav) -> None:
    """Other rates and channels are told in one line each, with an example."""
    stereo = np.stack([hiss(2, rate_hz=8000)] * 2, axis=1)
    write_wav(tmp_path / NAME.format(0), stereo, rate_hz=8000)
    write_wav(tmp_path / NAME.format(1))
    tally = Tally()

    list(read_windows(clips_of(tmp_path), PARAMS, hop_samples=RATE_HZ, tally=tally))

    name = Path(NAME.format(0)).name
    assert tally.lines(PARAMS) == [
        f"1 files resampled to 16000 Hz, such as {name} (8000 Hz)",
        f"1 files have several channels, which are mixed, such as {name} (2)",
    ]
