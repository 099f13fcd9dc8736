"""Reading and cutting sound."""

from pathlib import Path

import numpy as np
import pytest

from contract.feature_params import FeatureParams
from contract.features import Float32Array
from tests.training.conftest import RATE_HZ, WriteWav, hiss
from training.errors import DataError
from training.sound.recordings import ReadingTally, cut, read_recording

PARAMS = FeatureParams()


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


@pytest.mark.parametrize("channel", [0, 1])
def test_one_channel_is_chosen(tmp_path: Path, write_wav: WriteWav, channel: int) -> None:
    """The channel that was asked for comes out alone."""
    channels = [hiss(0.5, seed=1), hiss(0.5, seed=2)]
    path = write_wav(tmp_path / "a.wav", np.stack(channels, axis=1), subtype="FLOAT")

    recording = read_recording(path, sample_rate_hz=RATE_HZ, channel=channel)

    np.testing.assert_array_equal(recording.samples, channels[channel])


@pytest.mark.parametrize("channel", [-1, 2])
def test_channel_that_is_not_there(tmp_path: Path, write_wav: WriteWav, channel: int) -> None:
    """A channel that the file does not have is refused, and so is counting from the end."""
    path = write_wav(tmp_path / "a.wav", np.stack([hiss(0.5)] * 2, axis=1))

    with pytest.raises(DataError, match=rf"a\.wav: expected channel {channel} .* got 2 channels"):
        read_recording(path, sample_rate_hz=RATE_HZ, channel=channel)


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


@pytest.mark.parametrize(("seconds", "count"), [(2, 1), (2.9, 1), (3, 2), (10, 9)])
def test_windows_of_a_clip(seconds: float, count: int) -> None:
    """Windows of 2 s start each second and never reach past the end."""
    sound = hiss(seconds)

    windows = cut(sound, PARAMS, hop_samples=RATE_HZ)

    assert windows.shape == (count, 2 * RATE_HZ)
    np.testing.assert_array_equal(windows[-1], sound[(count - 1) * RATE_HZ :][: 2 * RATE_HZ])


@pytest.mark.parametrize("count", [0, 1, 2 * RATE_HZ - 1])
def test_no_windows_of_a_short_clip(count: int) -> None:
    """A sound shorter than a window has none."""
    assert cut(hiss(2)[:count], PARAMS, hop_samples=RATE_HZ).shape == (0, 2 * RATE_HZ)


def test_ordinary_files_are_not_spoken_of() -> None:
    """Nothing is said of files that are as expected."""
    tally = ReadingTally()

    taken_down(tally, "a.wav")

    assert tally.lines(PARAMS) == []


def test_what_was_changed_or_left_out_is_said() -> None:
    """Each thing is one line, with its count and the first file as an example."""
    tally = ReadingTally()
    for name in ("a.wav", "b.wav"):
        taken_down(tally, name, file_rate_hz=8000)
        taken_down(tally, f"stereo {name}", mixed_channels=2)
        taken_down(tally, f"short {name}", windows=0)
        taken_down(tally, f"silent {name}", silent_windows=9)
        taken_down(tally, f"half silent {name}", silent_windows=4)
    tally.unusable = ["w.wav", "x.wav", "y.wav", "z.wav"]
    tally.unusable_reason = "w.wav: not a sound file"
    tally.cache_problem = "cache: No space left on device"

    assert tally.lines(PARAMS) == [
        "2 files resampled to 16000 Hz, such as a.wav (8000 Hz)",
        "2 files have several channels, which are mixed, such as stereo a.wav (2)",
        "2 files skipped, shorter than one window of 2 s, such as short a.wav",
        "2 files skipped, digitally silent throughout, such as silent a.wav",
        "26 windows skipped, digitally silent",
        "4 files skipped, not usable: w.wav, x.wav, y.wav and 1 more; of the first: w.wav: not a"
        " sound file",
        "features are not kept for the next time: cache: No space left on device",
    ]


def taken_down(
    tally: ReadingTally,
    name: str,
    *,
    file_rate_hz: int = RATE_HZ,
    mixed_channels: int = 1,
    windows: int = 9,
    silent_windows: int = 0,
) -> None:
    """Count a file that is ordinary but for what is given."""
    tally.count(
        name,
        file_rate_hz=file_rate_hz,
        sample_rate_hz=RATE_HZ,
        mixed_channels=mixed_channels,
        windows=windows,
        silent_windows=silent_windows,
    )
