"""Sound to disk, for training: WAV files, each whole or not there.

This is the only place in earshot that writes sound, and only the `record` command uses it.

Files are 24-bit PCM at the device's own rate, mono. Not 16-bit: an I2S microphone delivers 24-bit
words, and of a quiet machine's sound the lowest 8 bits are not noise alone; the live node hears
them, so the training must. Not float: it would cost a third more and hold nothing more. At 48 kHz
that is 144 kB/s, 259 MB for half an hour.

No file holds a gap: what was begun is thrown away where sound is lost, since the click of the joint
would be learnt as normal.
"""

import io
import threading
import time
import wave
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final, Literal

import msgspec
import numpy as np

from contract.errors import EarshotError
from contract.features import Float32Array
from node.sound.errors import SourceError
from node.sound.levels import Level, Levels, clipped_share
from node.sound.microphone import MicrophoneSource
from node.sound.source import AudioSource, Block, EndOfSound
from node.whole_file import write_whole

SAMPLE_BYTES: Final = 3
FACTS_NAME: Final = "session.json"
_HEADER_BYTES: Final = 44
_FULL_SCALE: Final = 2**23
_READ_SECONDS: Final = 0.5
_SILENT_SECONDS: Final = 10.0
"""A capture program that lives and gives nothing for so long gives nothing any more."""
_SHORTEST_SECONDS: Final = 2
"""A window: a shorter file trains nothing."""
_ROUNDING_SECONDS: Final = 1e-6
"""Less than a sample of any rate; sums of blocks' lengths are off by less."""

Ending = Literal["complete", "stopped", "sound_ended", "lost", "disk"]
Watch = Callable[[Block, int, float], None]
"""Gets each block, its rate, and how many seconds were heard before it."""


class RecordError(EarshotError):
    """Sound cannot be recorded (any further) like this."""


class Recorded(msgspec.Struct, frozen=True, kw_only=True):
    """What a recording came to: its files, their level, and how it ended."""

    files: int
    seconds: int
    """Seconds of sound in those files."""
    level: Level | None
    """Level of the sound in the files; None if there is none."""
    overruns: int
    discarded_seconds: float
    """Heard, but in no file: before a gap, or too short for a whole file."""
    ending: Ending
    fault: EarshotError | None
    """Why it ended early, if somebody has to do something about it."""


def planned_seconds(minutes: float, file_seconds: int) -> tuple[int, ...]:
    """How long each file is of a recording of so many minutes, which are rounded to a second.

    The last one has what is left over; where that is less than a window, it goes to the one before.
    """
    count, rest = divmod(max(1, round(minutes * 60)), file_seconds)
    lengths = [file_seconds] * count
    if rest and lengths and rest < _SHORTEST_SECONDS:
        lengths[-1] += rest
    elif rest:
        lengths.append(rest)
    return tuple(lengths)


def planned_bytes(lengths_seconds: Sequence[int], *, sample_rate_hz: int) -> int:
    """How many bytes files of these lengths take on disk."""
    sound = sum(lengths_seconds) * sample_rate_hz * SAMPLE_BYTES
    return len(lengths_seconds) * _HEADER_BYTES + sound


def record(
    source: AudioSource | MicrophoneSource,
    folder: Path,
    *,
    lengths_seconds: Sequence[int],
    stop: threading.Event,
    watch: Watch,
    clock: Callable[[], float] = time.monotonic,
) -> Recorded:
    """Write `0000.wav`, `0001.wav`, ... until there are enough, or something ends it.

    Args:
        source: entered.
        folder: a new one, which this recording has for itself.
        lengths_seconds: how long each file is to be; fewer come of it when sound is lost on the
            way.
        stop: ends it, the whole files kept.
        watch: shows each block to the user.
        clock: seconds.
    """
    levels = Levels()
    held: list[Float32Array] = []
    held_samples, held_clipped, rate_hz = 0, 0.0, source.sample_rate_hz
    kept, heard_seconds = 0, 0.0
    ending: Ending = "complete"
    fault: EarshotError | None = None
    last_heard_s = clock()
    total_seconds = sum(lengths_seconds)
    while heard_seconds < total_seconds - _ROUNDING_SECONDS:
        if stop.is_set():
            ending = "stopped"
            break
        try:
            block = source.read(_READ_SECONDS)
        except EndOfSound:
            ending = "sound_ended"
            break
        except SourceError as error:
            ending, fault = "lost", error
            break
        if block is None:
            if clock() - last_heard_s > _SILENT_SECONDS:
                ending, fault = "lost", _no_sound(source.identity)
                break
            continue
        last_heard_s = clock()
        if not block.continuous or source.sample_rate_hz != rate_hz:
            held, held_samples, held_clipped = [], 0, 0.0
            rate_hz = source.sample_rate_hz
        watch(block, rate_hz, heard_seconds)
        heard_seconds += len(block.samples) / rate_hz
        held.append(block.samples)
        held_samples += len(block.samples)
        held_clipped += clipped_share(block) * len(block.samples)
        if held_samples < lengths_seconds[kept] * rate_hz:
            continue
        samples = np.concatenate(held)
        try:
            while kept < len(lengths_seconds) and len(samples) >= lengths_seconds[kept] * rate_hz:
                whole, samples = np.split(samples, [lengths_seconds[kept] * rate_hz])
                _write(folder / f"{kept:04d}.wav", wav_bytes(whole, rate_hz))
                levels.hear(whole, clipped=held_clipped / held_samples)
                kept += 1
        except RecordError as error:
            ending, fault = "disk", error
            break
        held_clipped *= len(samples) / held_samples
        held, held_samples = [samples], len(samples)
    return Recorded(
        files=kept,
        seconds=sum(lengths_seconds[:kept]),
        level=levels.level,
        overruns=source.overruns,
        discarded_seconds=max(0.0, round(heard_seconds - sum(lengths_seconds[:kept]), 3)),
        ending=ending,
        fault=fault,
    )


def _no_sound(identity: str) -> SourceError:
    return SourceError(
        "no_answer",
        f"{identity}: expected sound, got none for {_SILENT_SECONDS:g} s: check its plug and its"
        " power, then record another session",
    )


def wav_bytes(samples: Float32Array, sample_rate_hz: int) -> bytes:
    """A WAV file of mono 24-bit PCM: round, clip, cast.

    Args:
        samples: float32 of shape (n,), -1..1.
        sample_rate_hz: their rate.
    """
    scaled = np.round(samples.astype(np.float64) * _FULL_SCALE)
    words = np.clip(scaled, -_FULL_SCALE, _FULL_SCALE - 1).astype("<i4")
    stream = io.BytesIO()
    with wave.open(stream, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(SAMPLE_BYTES)
        file.setframerate(sample_rate_hz)
        # Little-endian words of four bytes, without the highest.
        file.writeframes(words.view(np.uint8).reshape(-1, 4)[:, :SAMPLE_BYTES].tobytes())
    return stream.getvalue()


def write_facts(folder: Path, facts: dict[str, object]) -> None:
    """Says in `session.json` when, with what and how a session was recorded.

    Raises:
        RecordError: it cannot be written.
    """
    text = msgspec.json.format(msgspec.json.encode(facts), indent=1)
    _write(folder / FACTS_NAME, text + b"\n")


def _write(path: Path, content: bytes) -> None:
    try:
        write_whole(path, content)
    except OSError as error:
        raise RecordError(f"{path}: cannot be written: {error.strerror}") from error
