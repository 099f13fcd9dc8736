"""Recordings of a room's noise, drawn and mixed in."""

from pathlib import Path

import numpy as np
import pytest

from contract.features import Float32Array
from tests.training.conftest import RATE_HZ, WriteWav, hiss
from training.errors import DataError
from training.made.room_noise import Half, NoiseLibrary, at_ratio, looped, mix


def tone(hz: float, seconds: float, *, rate_hz: int = RATE_HZ) -> Float32Array:
    time = np.arange(round(seconds * rate_hz)) / rate_hz
    return (0.2 * np.sin(2 * np.pi * hz * time)).astype(np.float32)


def strongest_hz(sound: Float32Array) -> float:
    amplitude = np.abs(np.fft.rfft(sound * np.hanning(sound.size)))
    return float(np.argmax(amplitude) * RATE_HZ / sound.size)


def rms(sound: Float32Array) -> float:
    return float(np.sqrt(np.mean(np.square(sound, dtype=np.float64))))


@pytest.fixture
def folder(tmp_path: Path, write_wav: WriteWav) -> Path:
    """Write two kinds: `hum` at 100, 200 .. 500 Hz, and `whistle` at 3000 .. 3300 Hz in FLAC."""
    for index in range(5):
        write_wav(tmp_path / f"noise/hum/{index}.wav", tone(100 * (index + 1), 1))
    for index in range(4):
        sound = tone(3000 + 100 * index, 3, rate_hz=44_100)
        write_wav(tmp_path / f"noise/whistle/{index}.flac", sound, rate_hz=44_100)
    (tmp_path / "noise/LICENSE").touch()
    (tmp_path / "noise/whistle/notes.txt").touch()
    return tmp_path / "noise"


@pytest.mark.parametrize("ratio_db", [10, 0, -6])
def test_ratio_is_what_was_asked_for(ratio_db: float) -> None:
    """What was added is as far below the sound as the ratio says, whatever its own level."""
    clean, noise = hiss(3, seed=1), 7 * tone(500, 3)

    added = mix(clean, noise, ratio_db=ratio_db) - clean

    assert 20 * np.log10(rms(clean) / rms(added)) == pytest.approx(ratio_db, abs=0.05)
    assert np.corrcoef(added, noise)[0, 1] > 0.999


def test_mix_is_the_sum_of_sound_and_scaled_noise() -> None:
    """The noise alone can be had too, to be added to another copy of the sound."""
    clean, noise = hiss(1), tone(500, 1)

    mixed = mix(clean, noise, ratio_db=3)

    assert mixed.dtype == np.float32
    assert np.array_equal(mixed, clean + at_ratio(noise, clean, ratio_db=3))


def test_silence_stays_silent() -> None:
    """No ratio to silence can be kept but no noise at all."""
    silence = np.zeros(16_000, np.float32)

    assert not mix(silence, tone(500, 1), ratio_db=0).any()


@pytest.mark.parametrize(
    ("noise", "ratio_db", "expected"),
    [
        (tone(500, 2), 0, "noise of shape"),
        (np.zeros(16_000, np.float32), 0, "got silence"),
        (tone(500, 1), float("inf"), "finite ratio, got inf"),
        (tone(500, 1), float("nan"), "finite ratio, got nan"),
    ],
)
def test_mix_refuses(noise: Float32Array, ratio_db: float, expected: str) -> None:
    """What cannot be mixed says why."""
    with pytest.raises(ValueError, match=expected):
        mix(hiss(1), noise, ratio_db=ratio_db)


def test_halves_are_disjoint_and_ordered_by_name(folder: Path) -> None:
    """The first half of each kind, by name, is for training, the second for testing."""
    library = NoiseLibrary(folder)

    names = {
        (kind, half): [path.name for path in library.half(half, kind)]
        for kind in library.kinds
        for half in ("train", "test")
    }

    assert library.kinds == ("hum", "whistle")
    assert names["hum", "train"] == ["0.wav", "1.wav", "2.wav"]
    assert names["hum", "test"] == ["3.wav", "4.wav"]
    assert names["whistle", "train"] == ["0.flac", "1.flac"]
    assert names["whistle", "test"] == ["2.flac", "3.flac"]


@pytest.mark.parametrize(("half", "expected"), [("train", {100, 200, 300}), ("test", {400, 500})])
def test_only_recordings_of_the_half_are_heard(
    folder: Path, half: Half, expected: set[int]
) -> None:
    """What sounds is what the sources say, and every recording of the half comes up."""
    library, rng = NoiseLibrary(folder), np.random.default_rng(0)

    heard = set()
    for _ in range(40):
        noise = library.draw(rng, "hum", half=half, samples=8000, sample_rate_hz=RATE_HZ)
        (source,) = noise.sources
        number = int(source.removeprefix("hum/").removesuffix(".wav"))
        assert strongest_hz(noise.samples) == pytest.approx(100 * (number + 1), abs=3)
        heard.add(100 * (number + 1))

    assert heard == expected


def test_other_rates_are_resampled(folder: Path) -> None:
    """A whistle from a 44.1 kHz file keeps its pitch at 16 kHz."""
    library, rng = NoiseLibrary(folder), np.random.default_rng(0)

    noise = library.draw(rng, "whistle", half="train", samples=16_000, sample_rate_hz=RATE_HZ)

    pitch_hz = 3000 + 100 * int(noise.sources[0][8])
    assert strongest_hz(noise.samples) == pytest.approx(pitch_hz, abs=2)


def test_short_recording_is_looped(folder: Path) -> None:
    """Five seconds out of a recording of one: sound all through, and no clicks at the seams."""
    library, rng = NoiseLibrary(folder), np.random.default_rng(0)

    noise = library.draw(rng, "hum", half="test", samples=80_000, sample_rate_hz=RATE_HZ).samples

    assert noise.shape == (80_000,)
    assert noise.dtype == np.float32
    assert rms(noise) == pytest.approx(1, abs=1e-3)
    assert min(rms(part) for part in noise.reshape(50, -1)) > 0.5
    # The steepest slope of 500 Hz and rms 1 is 0.28 per sample.
    assert abs(np.diff(noise)).max() < 0.4


def test_two_recordings_are_of_two_kinds_and_equally_loud(folder: Path) -> None:
    """Both are heard, each with half of the power."""
    library, rng = NoiseLibrary(folder), np.random.default_rng(0)

    noise = library.draw(rng, half="train", samples=16_000, sample_rate_hz=RATE_HZ, recordings=2)
    spectrum = np.square(np.abs(np.fft.rfft(noise.samples)))

    assert {source.split("/")[0] for source in noise.sources} == {"hum", "whistle"}
    assert rms(noise.samples) == pytest.approx(1, abs=1e-3)
    assert spectrum[:1000].sum() / spectrum.sum() == pytest.approx(0.5, abs=0.02)


def test_two_recordings_of_the_only_kind(folder: Path) -> None:
    """Where there is one kind, both are of it."""
    library, rng = NoiseLibrary(folder), np.random.default_rng(0)

    noise = library.draw(
        rng, ["hum"], half="train", samples=8000, sample_rate_hz=RATE_HZ, recordings=2
    )

    assert [source.split("/")[0] for source in noise.sources] == ["hum", "hum"]


def test_draws_follow_from_the_random_numbers(folder: Path) -> None:
    """The same seed draws the same noise; another one does not."""
    first, again, other = (
        NoiseLibrary(folder).draw(
            np.random.default_rng(seed), half="test", samples=8000, sample_rate_hz=RATE_HZ
        )
        for seed in (5, 5, 6)
    )

    assert np.array_equal(first.samples, again.samples)
    assert first.sources == again.sources
    assert not np.array_equal(first.samples, other.samples)


def test_pauses_are_drawn_again(tmp_path: Path, write_wav: WriteWav) -> None:
    """A bark in a minute of faint hiss: each stretch has the bark, or a part of it."""
    sound = 1e-4 * hiss(60)
    sound[400_000:404_000] += 10 * hiss(0.25)
    for name in "ab":
        write_wav(tmp_path / f"dog_bark/{name}.wav", sound, subtype="FLOAT")
    library, rng = NoiseLibrary(tmp_path), np.random.default_rng(0)

    for _ in range(5):
        noise = library.draw(rng, half="train", samples=160_000, sample_rate_hz=RATE_HZ).samples
        assert abs(noise).max() > 5, "hiss alone would stay below"


def test_silent_recordings_are_refused(tmp_path: Path, write_wav: WriteWav) -> None:
    """Where nothing can be heard the folder is named."""
    for name in "ab":
        write_wav(tmp_path / f"rain/{name}.wav", np.zeros(16_000, np.float32))
    rng = np.random.default_rng(0)

    with pytest.raises(DataError, match=r"rain: expected noise, got silence"):
        NoiseLibrary(tmp_path).draw(rng, half="train", samples=8000, sample_rate_hz=RATE_HZ)


def test_folders_that_are_no_library(tmp_path: Path, write_wav: WriteWav) -> None:
    """No folder, no kinds and a kind that cannot be split are each said in one line."""
    with pytest.raises(DataError, match="no such folder"):
        NoiseLibrary(tmp_path / "none")

    write_wav(tmp_path / "loose/rain.wav")
    with pytest.raises(DataError, match="expected one folder per kind"):
        NoiseLibrary(tmp_path / "loose")

    write_wav(tmp_path / "single/rain/1.wav")
    with pytest.raises(DataError, match="expected at least 2 recordings"):
        NoiseLibrary(tmp_path / "single")


def test_unknown_kind(folder: Path) -> None:
    """The message lists the kinds that there are."""
    with pytest.raises(DataError, match="hum, whistle; got 'snow'"):
        NoiseLibrary(folder).half("train", "snow")


def test_loop_keeps_loudness_at_its_seams() -> None:
    """Noise that fades into itself is as loud there as elsewhere."""
    loop = looped(hiss(1), 160_000, sample_rate_hz=RATE_HZ)

    loudness = [rms(part) for part in loop.reshape(-1, 320)]
    assert min(loudness) > 0.8 * rms(loop)
    assert np.array_equal(loop[:15_680], hiss(1)[:15_680])
