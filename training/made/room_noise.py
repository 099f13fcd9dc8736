"""What a room adds to a machine's sound: recordings of noise, mixed in at a stated ratio.

    <folder>/dog_bark/*.wav .flac .ogg
    <folder>/rain/...

One folder per kind, of any sample rate. Of each kind the files, in order of name, are split into
two halves: the first is mixed into what is trained on, the second into what is tested with, so that
no noise is heard in both. Each file counts as one source; two cuts of one original under different
names would be heard in both halves, which only whoever fills the folder can see to.
"""

import math
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Literal

import msgspec
import numpy as np
import numpy.typing as npt

from contract.features import Float32Array
from node.sound.recordings import SUFFIXES, is_sound_file
from training.errors import DataError
from training.sound.recordings import read_recording

Half = Literal["train", "test"]

_FADE_SECONDS = 0.02

# Relative to the whole recording. What lies lower is a pause between two barks, and scaling it up
# to the ratio would mix in the recording's own hiss under the name of a dog.
_PAUSE_DB = -30.0
_DRAWS = 100

# About 80 MB of recordings of 5 s; reading and resampling them again would take most of the time.
_KEPT_RECORDINGS = 256


class Noise(msgspec.Struct, frozen=True):
    """A stretch of one recording of noise."""

    samples: Float32Array
    """Shape (n,), of rms 1."""
    sources: tuple[str, ...]
    """The recording's name, such as `rain/rain_03.ogg`."""


class NoiseLibrary:
    """The recordings of a folder with one folder per kind of noise.

    Raises:
        DataError: there are no kinds, or one has a single recording, which cannot be split.
    """

    def __init__(self, folder: Path) -> None:
        if not folder.is_dir():
            raise DataError(f"{folder}: no such folder")
        self.folder = folder
        self._recordings = _recordings(folder)
        self._read = lru_cache(maxsize=_KEPT_RECORDINGS)(_read)

    @property
    def kinds(self) -> tuple[str, ...]:
        """The names of the kinds, sorted."""
        return tuple(self._recordings)

    def half(self, half: Half, kind: str) -> tuple[Path, ...]:
        """The recordings of one kind that belong to training or to testing.

        Of an odd number, training has one more.

        Raises:
            DataError: there is no such kind.
        """
        if kind not in self._recordings:
            raise DataError(
                f"{self.folder}: expected a kind of noise out of {', '.join(self.kinds)};"
                f" got {kind!r}"
            )
        paths = self._recordings[kind]
        middle = (len(paths) + 1) // 2
        return paths[:middle] if half == "train" else paths[middle:]

    def draw(
        self,
        rng: np.random.Generator,
        kinds: str | Sequence[str] | None = None,
        *,
        half: Half,
        samples: int,
        sample_rate_hz: int,
        recordings: int = 1,
    ) -> Noise:
        """Cut a stretch out of one recording, or of several that are heard at once.

        A kind is drawn first, then one of its recordings, then where the stretch begins. A
        recording that is too short is looped. Several are of different kinds, while there are as
        many; each has the same rms. A stretch of silence or of a pause is drawn again.

        Args:
            rng: decides all that is drawn.
            kinds: out of these; None is all there are.
            half: out of the recordings for training or for testing.
            samples: length of the stretch.
            sample_rate_hz: of the stretch; recordings are resampled.
            recordings: how many are heard at once.

        Raises:
            DataError: a recording cannot be read, or no draw gave a sound.
        """
        names = [kinds] if isinstance(kinds, str) else list(self.kinds if kinds is None else kinds)
        several = recordings <= len(names)
        drawn = rng.choice(len(names), size=recordings, replace=not several)
        mixed = np.zeros(samples)
        sources: list[str] = []
        for kind in (names[index] for index in drawn):
            cut, path = self._draw_one(rng, self.half(half, kind), samples, sample_rate_hz)
            mixed += cut
            sources.append(f"{kind}/{path.name}")
        mixed /= _rms(mixed)
        return Noise(mixed.astype(np.float32), tuple(sources))

    def _draw_one(
        self,
        rng: np.random.Generator,
        paths: tuple[Path, ...],
        samples: int,
        sample_rate_hz: int,
    ) -> tuple[npt.NDArray[np.float64], Path]:
        for _ in range(_DRAWS):
            path = paths[int(rng.integers(len(paths)))]
            whole = self._read(path, sample_rate_hz)
            cut = _stretch(rng, whole, samples, sample_rate_hz).astype(np.float64)
            loudness = _rms(cut)
            if loudness > 0 and loudness >= _rms(whole) * 10 ** (_PAUSE_DB / 20):
                return cut / loudness, path
        raise DataError(f"{paths[0].parent}: expected noise, got silence in {_DRAWS} draws")


def mix(clean: Float32Array, noise: Float32Array, *, ratio_db: float) -> Float32Array:
    """Add noise to a sound, `ratio_db` below it (above, if negative).

    Args:
        clean: float32 sound of shape `(n,)`; a silent one stays silent.
        noise: float32 noise of shape `(n,)`, at any level.
        ratio_db: 20 log10(rms of clean / rms of the noise in the sum), over all n samples.

    Returns:
        float32 sound of shape `(n,)`: `clean + at_ratio(noise, clean, ratio_db=ratio_db)`. Peaks
        may lie above full scale.

    Raises:
        ValueError: the shapes differ, the noise is silent, or the ratio is not finite.
    """
    return clean + at_ratio(noise, clean, ratio_db=ratio_db)


def at_ratio(noise: Float32Array, clean: Float32Array, *, ratio_db: float) -> Float32Array:
    """The noise alone as `mix` adds it, float32 of shape `(n,)`; arguments and errors as there."""
    if noise.shape != clean.shape:
        raise ValueError(f"Expected noise of shape {clean.shape}, got {noise.shape}")
    if not math.isfinite(ratio_db):
        raise ValueError(f"Expected a finite ratio, got {ratio_db}")
    loudness = _rms(noise)
    if loudness == 0:
        raise ValueError("Expected noise, got silence")
    gain = _rms(clean) / loudness * 10 ** (-ratio_db / 20)
    return (noise * np.float64(gain)).astype(np.float32)


def looped(
    sound: npt.NDArray[np.floating], samples: int, *, sample_rate_hz: int, start: int = 0
) -> npt.NDArray[np.floating]:
    """Repeat a sound to a length; its end fades into its beginning within 20 ms.

    Args:
        sound: shape `(n,)`.
        samples: length to reach.
        sample_rate_hz: of the sound.
        start: where in the sound to begin; 0 is its own beginning, which has no fade before it.

    Returns:
        Shape `(samples,)`, of the same dtype.
    """
    fade = min(round(_FADE_SECONDS * sample_rate_hz), sound.size // 2)
    # Two unrelated stretches of noise: their powers add up, not their amplitudes.
    rising = np.sin(np.linspace(0, np.pi / 2, fade)).astype(sound.dtype)
    seam = sound[:fade] * rising + sound[sound.size - fade :] * rising[::-1]
    loop = np.concatenate([seam, sound[fade : sound.size - fade]])
    head = sound[start : sound.size - fade]
    rounds = math.ceil(max(0, samples - head.size) / loop.size)
    return np.concatenate([head, *[loop] * rounds])[:samples]


def _recordings(folder: Path) -> dict[str, tuple[Path, ...]]:
    kinds: dict[str, tuple[Path, ...]] = {}
    for kind in sorted(path for path in folder.iterdir() if path.is_dir()):
        paths = sorted(path for path in kind.iterdir() if is_sound_file(path))
        if len(paths) == 1:
            raise DataError(
                f"{kind}: expected at least 2 recordings, one half to train with and one to test"
                " with, got 1"
            )
        if paths:
            kinds[kind.name] = tuple(paths)
    if not kinds:
        raise DataError(
            f"{folder}: expected one folder per kind of noise with {', '.join(SUFFIXES)} files in"
            " it, such as rain/, got none"
        )
    return kinds


def _read(path: Path, sample_rate_hz: int) -> Float32Array:
    samples = read_recording(path, sample_rate_hz=sample_rate_hz).samples
    # Kept and given out many times.
    samples.flags.writeable = False
    return samples


def _stretch(
    rng: np.random.Generator, whole: Float32Array, samples: int, sample_rate_hz: int
) -> Float32Array:
    if whole.size >= samples:
        start = int(rng.integers(whole.size - samples + 1))
        return whole[start : start + samples]
    start = int(rng.integers(whole.size))
    return np.asarray(
        looped(whole, samples, sample_rate_hz=sample_rate_hz, start=start), np.float32
    )


def _rms(samples: npt.NDArray[np.floating]) -> float:
    return math.sqrt(np.mean(np.square(samples, dtype=np.float64)))
