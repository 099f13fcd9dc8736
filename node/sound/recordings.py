"""Sound from files: one, or all of a folder in the order of their names.

Which kinds of files: those that libsndfile reads well (`SUFFIXES`). Other sound files
(`OTHER_SUFFIXES`) are named, so that none is silently absent.
"""

import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import msgspec
import numpy as np
import numpy.typing as npt
import soundfile

from node.sound.errors import SourceError
from node.sound.source import Block, EndOfSound, Pace
from node.sound.wav_header import WavData, read_wav_data

SUFFIXES: Final = (
    ".wav",
    ".flac",
    ".ogg",
    ".oga",
    ".opus",
    ".aiff",
    ".aif",
    ".aifc",
    ".au",
    ".caf",
    ".w64",
)
OTHER_SUFFIXES: Final = (
    ".mp3",
    ".m4a",
    ".aac",
    ".mp4",
    ".wma",
    ".amr",
    ".3gp",
    ".webm",
    ".mka",
    ".ape",
    ".wv",
)
"""Sound that is not read. libsndfile reads mp3, but with its encoder's silence before the sound and
with complaints on standard error."""

# Small enough to stop quickly, large enough that reading costs nothing beside the scoring.
_BLOCK_SECONDS = 0.25


class Recording(msgspec.Struct, frozen=True):
    """A sound file that can be read, described by its header."""

    path: Path
    sample_rate_hz: int
    channels: int
    frames: int
    note: str | None = None
    """What to know of the file before its figures are believed; None if there is nothing."""

    @property
    def seconds(self) -> float:
        """The length of the recording, in seconds."""
        return self.frames / self.sample_rate_hz


class Found(msgspec.Struct, frozen=True):
    """What was found at a path."""

    recordings: tuple[Recording, ...]
    """At least one, in the order of their names."""
    unreadable: tuple[SourceError, ...] = ()
    """Why the other sound files of the folder cannot be read; each text names its file."""


def find_recordings(path: Path) -> Found:
    """The sound files at a path: itself, or all below it when it is a folder.

    Raises:
        SourceError: there is none that can be read.
    """
    if not path.is_dir():
        if not path.exists():
            raise SourceError("no_sound", f"{path}: no such file or folder")
        return Found((open_recording(path),))
    recordings, unreadable = [], []
    for file in sorted(path.rglob("*")):
        if not is_sound_file(file):
            continue
        try:
            recordings.append(open_recording(file))
        except SourceError as error:
            unreadable.append(error)
    if not recordings:
        if unreadable:
            raise SourceError(
                unreadable[0].reason,
                f"{path}: none of its {len(unreadable)} sound files can be read; the first:"
                f" {unreadable[0]}",
            )
        raise SourceError("no_sound", f"{path}: expected {', '.join(SUFFIXES)} files, got none")
    return Found(tuple(recordings), tuple(unreadable))


def is_sound_file(path: Path) -> bool:
    """Whether a path is a sound file by its name, whether or not it can be read.

    Hidden files are none: on disks without a place for a file's attributes, macOS keeps them in a
    `._a.wav` beside each `a.wav`. A link that leads nowhere is one, so that reading it says so; a
    pipe is not, since reading it may wait for ever.
    """
    return (
        path.suffix.lower() in (*SUFFIXES, *OTHER_SUFFIXES)
        and not path.name.startswith(".")
        and (path.is_file() or not path.exists())
    )


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
    if path.suffix.lower() in OTHER_SUFFIXES:
        raise SourceError(
            "bad_format",
            f"{path}: {path.suffix[1:].lower()} files are not read; make a WAV file of it:"
            f" ffmpeg -i {path.name} {path.stem}.wav",
        )
    try:
        if path.stat().st_size == 0:
            raise SourceError("no_sound", f"{path}: expected sound, got an empty file")
        data = read_wav_data(path)
        with _opened(path, data) as file:
            rate_hz, channels, frames = file.samplerate, file.channels, file.frames
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
    if frames < 1:
        raise SourceError("no_sound", f"{path}: expected sound, got a file without samples")
    if data is not None and data.missing:
        raise SourceError(
            "bad_format", f"{path}: truncated: {data.missing} bytes of its sound are missing"
        )
    note = None
    if data is not None and data.left_out:
        note = (
            f"its header ends the sound after {frames / rate_hz:.4g} s, and the {data.left_out}"
            " bytes after that are left out; if they are sound, as after a recorder that was"
            f" killed: sox --ignore-length {path.name} whole.wav"
        )
    return Recording(path, rate_hz, channels, frames, note)


@contextmanager
def open_sound(path: Path) -> Iterator[soundfile.SoundFile]:
    """The samples of a sound file, to its end where its header leaves the length open.

    Raises:
        OSError, soundfile.SoundFileError: it cannot be read.
    """
    with _opened(path, read_wav_data(path)) as file:
        yield file


@contextmanager
def _opened(path: Path, data: WavData | None) -> Iterator[soundfile.SoundFile]:
    if data is None or not data.is_open_ended:
        with soundfile.SoundFile(path) as file:
            yield file
        return
    with _EndedWav(path, data) as raw, soundfile.SoundFile(raw) as file:
        yield file


class _EndedWav(io.FileIO):
    """A WAV file as it would be if its header said how long the sound is."""

    def __init__(self, path: Path, data: WavData) -> None:
        super().__init__(path, "rb")
        self._size_at = data.size_at
        self._size = min(data.to_the_end, 0xFFFF_FFFF).to_bytes(4, "little")

    def readinto(self, buffer: Any) -> int:
        """Read bytes into a buffer; those of the size are the right ones."""
        place = self.tell()
        count = super().readinto(buffer) or 0
        view = memoryview(buffer).cast("B")
        for offset, byte in enumerate(self._size):
            at = self._size_at + offset - place
            if 0 <= at < count:
                view[at] = byte
        return count


def read_mono(recording: Recording, channel: int | None) -> Iterator[npt.NDArray[np.float32]]:
    """Blocks of one recording as float32 of shape (n,), -1..1: one channel, or the mean of all.

    Raises:
        SourceError: the file breaks off before its header says.
    """
    frames = max(1, int(recording.sample_rate_hz * _BLOCK_SECONDS))
    given = 0
    try:
        with open_sound(recording.path) as file:
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
