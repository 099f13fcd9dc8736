"""The sound of files as they lie there: level, length, format, and what tells copies apart.

What of it is wrong is not said here; see `training.sound.data_findings`.
"""

import hashlib
import math
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec
import numpy as np
import soundfile

from node.sound.errors import SourceError
from node.sound.recordings import open_recording, open_sound
from training.progress import Progress
from training.sound.dataset import (
    Clip,
)

# One step of 16 bits below full scale: what a converter gives at its stop.
_FULL_SCALE = 1 - 1.5 / 32_768


class Measured(msgspec.Struct, frozen=True, kw_only=True):
    """The sound of one file; with several channels, the worst of them."""

    seconds: float
    sample_rate_hz: int
    channels: int
    sha256: str
    """Hash of the samples as float32, so that the same sound is found in WAV and in FLAC."""
    level_dbfs: float
    """RMS of the loudest channel; minus infinity for zeros."""
    full_scale_share: float
    """Share of samples at full scale."""
    dc_offset: float
    """Mean, 1 is full scale."""
    finite: bool
    """Whether there is neither NaN nor infinity."""


def measure(path: Path) -> Measured:
    """Read one file, in blocks.

    Raises:
        SourceError: it cannot be read, or is empty, or cut short.
    """
    found = open_recording(path)
    digest = hashlib.sha256(found.channels.to_bytes(4, "little"))
    total, power = np.zeros(found.channels), np.zeros(found.channels)
    full_scale = np.zeros(found.channels, dtype=np.int64)
    finite, frames = True, 0
    try:
        with open_sound(path) as file:
            # A file with many channels is no larger in memory than one with few.
            size = max(1, 2**18 // found.channels)
            for block in file.blocks(blocksize=size, dtype="float32", always_2d=True):
                frames += len(block)
                digest.update(np.ascontiguousarray(block).data)
                if not np.isfinite(block).all():
                    finite = False
                    continue
                total += block.sum(axis=0, dtype=np.float64)
                power += np.square(block, dtype=np.float64).sum(axis=0)
                full_scale += np.count_nonzero(np.abs(block) >= _FULL_SCALE, axis=0)
    except (soundfile.SoundFileError, OSError) as error:
        raise SourceError("bad_format", f"{path}: cannot be read: {error}") from error
    if frames < found.frames:
        raise SourceError(
            "bad_format",
            f"{path}: truncated: expected {found.frames} samples, got {frames}",
        )
    loudest = float(power.max()) / frames
    return Measured(
        seconds=found.seconds,
        sample_rate_hz=found.sample_rate_hz,
        channels=found.channels,
        sha256=digest.hexdigest(),
        level_dbfs=10 * math.log10(loudest) if loudest > 0 else -math.inf,
        full_scale_share=int(full_scale.max()) / frames,
        dc_offset=float(np.abs(total).max()) / frames,
        finite=finite,
    )


def measure_all(clips: Sequence[Clip], progress: Progress) -> Iterator[Measured | str]:
    """Measure clips, several at a time, in their order; in place of one that cannot be, say why."""

    def attempt(clip: Clip) -> Measured | str:
        try:
            return measure(clip.path)
        except SourceError as error:
            return str(error).removeprefix(f"{clip.path}: ")
        except Exception as error:
            # Whatever a broken file does to the decoder, the other 2999 are to be read.
            return f"cannot be read: {type(error).__name__}: {error}"

    # Threads: reading, hashing and NumPy all let go of the interpreter.
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        try:
            yield from progress(pool.map(attempt, clips), "reading", total=len(clips))
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
