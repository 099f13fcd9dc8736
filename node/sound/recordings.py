"""Sound from files: WAV, FLAC or OGG, one file or all of a folder, in the order of their names."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

import msgspec
import numpy as np
import numpy.typing as npt
import soundfile

from node.sound.errors import SourceError
from node.sound.source import Block, EndOfSound, Pace

SUFFIXES = (".wav", ".flac", ".ogg")

# Small enough to stop quickly, large enough that reading costs nothing beside the scoring.
_BLOCK_SECONDS = 0.25


class Recording(msgspec.Struct, frozen=True):
    """A sound file that can be read, described by its header."""

    path: Path
    sample_rate_hz: int
    channels: int
    frames: int

    @property
    def seconds(self) -> float:
        """The length of the recording, in seconds."""
        return self.frames / self.sample_rate_hz


def find_recordings(path: Path) -> list[Recording]:
    """The sound files at a path: itself, or all below it when it is a folder.

    Raises:
        SourceError: there are none, or one of them cannot be read; named.
    """
    if path.is_dir():
        paths = sorted(p for p in path.rglob("*") if p.suffix.lower() in SUFFIXES and p.is_file())
        if not paths:
            raise SourceError("no_sound", f"{path}: expected {', '.join(SUFFIXES)} files, got none")
        return [open_recording(p) for p in paths]
    if not path.exists():
        raise SourceError("no_sound", f"{path}: no such file or folder")
    return [open_recording(path)]


class RecordingSource:
    """Plays recordings one after the other, once.

    Args:
        recordings: what to play; at least one.
        channel: which channel to hear, from 0; None mixes all of them.
        fast: as fast as the sound is asked for, instead of in real time.

    Raises:
        SourceError: a recording does not have the channel.
    """

    def __init__(self, recordings: Sequence[Recording], *, channel: int | None, fast: bool) -> None:
        check_channel(recordings, channel)
        self.overruns = 0
        self.reopened = 0
        self._recordings = tuple(recordings)
        self._channel = channel
        self._fast = fast
        self._rate_hz = recordings[0].sample_rate_hz
        self._blocks: Iterator[Block] | None = None
        self._waiting: Block | None = None
        self._pace = Pace(fast=fast)
        self._played_seconds = 0.0

    @property
    def outage(self) -> str | None:
        """None: a recording is always there to be heard."""
        return None

    @property
    def identity(self) -> str:
        """The file's name, or the folder's with the number of its files."""
        first = self._recordings[0].path
        if len(self._recordings) == 1:
            return f"file:{first.name}"
        return f"folder:{first.parent.name} ({len(self._recordings)} files)"

    @property
    def sample_rate_hz(self) -> int:
        """Rate of the file whose block was given last (at first: of the first file)."""
        return self._rate_hz

    def read(self, timeout_seconds: float) -> Block | None:
        """The next block; never one across the border of two files."""
        if self._waiting is None:
            assert self._blocks is not None, "a source is read while entered"
            self._waiting = next(self._blocks, None)
            if self._waiting is None:
                raise EndOfSound
        ends = self._played_seconds + len(self._waiting.samples) / self._rate_hz
        if not self._pace.wait_until(ends, timeout_seconds):
            return None
        block, self._waiting = self._waiting, None
        self._played_seconds = ends
        return block

    def __enter__(self) -> Self:
        total = sum(recording.seconds for recording in self._recordings)
        self._pace = Pace(fast=self._fast, total_seconds=total)
        self._blocks = self._read_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._blocks = None

    def _read_all(self) -> Iterator[Block]:
        for recording in self._recordings:
            self._rate_hz = recording.sample_rate_hz
            continuous = False
            for samples in read_mono(recording, self._channel):
                yield Block(
                    samples=samples,
                    captured_monotonic_ns=self._pace.captured_ns(self._played_seconds),
                    continuous=continuous,
                )
                continuous = True


def check_channel(recordings: Sequence[Recording], channel: int | None) -> None:
    """Raises SourceError when a recording does not have the channel (None: all are mixed)."""
    for recording in recordings:
        if channel is not None and not 0 <= channel < recording.channels:
            raise SourceError(
                "bad_format",
                f"{recording.path}: expected channel {channel} (counted from 0),"
                f" got {recording.channels} channels; choose another one, or none to mix them",
            )


def open_recording(path: Path) -> Recording:
    """The recording that a file holds, described by its header.

    Raises:
        SourceError: it cannot be read as sound, or holds none, or less than its header says.
    """
    try:
        if path.stat().st_size == 0:
            raise SourceError("no_sound", f"{path}: expected sound, got an empty file")
        info = soundfile.info(path)
    except OSError as error:
        reason = error.strerror or str(error)
        raise SourceError("bad_format", f"{path}: cannot be read: {reason}") from error
    except UnicodeEncodeError as error:
        # libsndfile's binding takes no other names.
        raise SourceError(
            "bad_format", f"{path}: cannot be read: its name is not UTF-8; rename it"
        ) from error
    except soundfile.LibsndfileError as error:
        reason = error.error_string.rstrip(".")
        raise SourceError("bad_format", f"{path}: not a sound file: {reason}") from error
    if info.frames < 1:
        raise SourceError("no_sound", f"{path}: expected sound, got a file without samples")
    missing = _wav_data_bytes_missing(path)
    if missing:
        raise SourceError(
            "bad_format", f"{path}: truncated: {missing} bytes of its sound are missing"
        )
    return Recording(path, info.samplerate, info.channels, info.frames)


def read_mono(recording: Recording, channel: int | None) -> Iterator[npt.NDArray[np.float32]]:
    """Blocks of one recording as float32 of shape (n,), -1..1: one channel, or the mean of all.

    Raises:
        SourceError: the file breaks off before its header says.
    """
    frames = max(1, int(recording.sample_rate_hz * _BLOCK_SECONDS))
    given = 0
    try:
        with soundfile.SoundFile(recording.path) as file:
            for block in file.blocks(blocksize=frames, dtype="float32", always_2d=True):
                given += len(block)
                mono = block.mean(axis=1) if channel is None else block[:, channel]
                yield mono.astype(np.float32)
    except (soundfile.SoundFileError, OSError) as error:
        raise SourceError("bad_format", f"{recording.path}: cannot be read: {error}") from error
    if given < recording.frames:
        raise SourceError(
            "bad_format",
            f"{recording.path}: truncated: expected {recording.frames} samples, got {given}",
        )


def _wav_data_bytes_missing(path: Path) -> int:
    """How much shorter a WAV's data is than its header says.

    libsndfile reads what there is and calls that the length, so that a broken copy would pass for a
    short recording. Writers to pipes leave a length of 0, or one near 2**32: unknown, not missing.
    """
    with path.open("rb") as file:
        if file.read(4) != b"RIFF":
            return 0
        file.seek(12)
        size = path.stat().st_size
        while len(header := file.read(8)) == 8:
            length = int.from_bytes(header[4:], "little")
            if header[:4] == b"data":
                unknown = length == 0 or length >= 0xFFFF_FF00
                return 0 if unknown else max(0, file.tell() + length - size)
            file.seek(length + length % 2, 1)
    return 0
