"""Sound from files: read, checked, made mono and resampled; cut into windows.

A recording that cannot be trusted is refused by name, since a model trained on the rest would look
as good. What is changed on the way (rate, channels) or left out (too short) is counted and said.
"""

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import msgspec
import numpy as np
import soxr

from contract.features import FeatureParams, Float32Array
from node.sources.errors import SourceError
from node.sources.recordings import open_recording, read_mono
from training.dataset import Clip, and_more
from training.errors import DataError


class Recording(msgspec.Struct, frozen=True):
    """The sound of one file."""

    samples: Float32Array
    """Shape (n,), full scale is -1 to 1, at the rate that was asked for."""
    file_rate_hz: int
    file_channels: int


class Windows(msgspec.Struct, frozen=True):
    """The windows of one clip."""

    clip: Clip
    windows: Float32Array
    """Shape (count, window_samples); those that are digitally silent are left out."""
    silent: int
    """How many were left out. A node does not score silence, it reports the microphone."""


class Tally(msgspec.Struct):
    """What was changed or left out while reading."""

    resampled: int = 0
    resampled_example: str = ""
    mixed: int = 0
    mixed_example: str = ""
    short: int = 0
    short_example: str = ""
    silent_windows: int = 0

    def lines(self, params: FeatureParams) -> list[str]:
        """One line for each thing to know; none if all files were as expected."""
        seconds = params.window_samples / params.sample_rate_hz
        return [
            line
            for count, line in (
                (
                    self.resampled,
                    f"{self.resampled} files resampled to {params.sample_rate_hz} Hz, such as"
                    f" {self.resampled_example}",
                ),
                (
                    self.mixed,
                    f"{self.mixed} files have several channels, which are mixed, such as"
                    f" {self.mixed_example}",
                ),
                (
                    self.short,
                    f"{self.short} files skipped, shorter than one window of {seconds:g} s, such as"
                    f" {self.short_example}",
                ),
                (self.silent_windows, f"{self.silent_windows} windows skipped, digitally silent"),
            )
            if count
        ]


def read_recording(path: Path, *, sample_rate_hz: int) -> Recording:
    """Read one file as the node does: all channels mixed, resampled.

    Raises:
        DataError: it cannot be read, or is empty, cut short, or holds NaN or infinity.
    """
    try:
        found = open_recording(path)
        mono: Float32Array = np.concatenate(list(read_mono(found, channel=None)))
    except SourceError as error:
        raise DataError(str(error)) from error
    if not np.isfinite(mono).all():
        raise DataError(f"{path}: expected numbers, got NaN or infinity among the samples")
    if found.sample_rate_hz != sample_rate_hz:
        mono = np.asarray(soxr.resample(mono, found.sample_rate_hz, sample_rate_hz), np.float32)
    return Recording(mono, found.sample_rate_hz, found.channels)


def read_windows(
    clips: Iterable[Clip], params: FeatureParams, *, hop_samples: int, tally: Tally
) -> Iterator[Windows]:
    """The windows of every clip that has at least one.

    Raises:
        DataError: a recording is refused; see `read_recording`.
    """
    for clip in clips:
        recording = read_recording(clip.path, sample_rate_hz=params.sample_rate_hz)
        _count(recording, clip, params, tally)
        if len(recording.samples) < params.window_samples:
            continue
        windows = cut(recording.samples, params, hop_samples=hop_samples)
        heard = windows.any(axis=1)
        silent = int(np.count_nonzero(~heard))
        tally.silent_windows += silent
        yield Windows(clip, windows[heard], silent)


def cut(samples: Float32Array, params: FeatureParams, *, hop_samples: int) -> Float32Array:
    """Windows of a longer sound: row i is `samples[i * hop : i * hop + window_samples]`.

    Returns:
        View of shape `(1 + (n - window_samples) // hop_samples, window_samples)`.
    """
    every = np.lib.stride_tricks.sliding_window_view(samples, params.window_samples)
    return every[::hop_samples]


def refuse_unusable(clips: Iterable[Clip], *, sample_rate_hz: int) -> None:
    """Read every clip once, so that a bad one is named before hours of training, not after.

    Raises:
        DataError: naming the first bad one, and how many more there are.
    """
    problems: list[tuple[Path, str]] = []
    for clip in clips:
        try:
            read_recording(clip.path, sample_rate_hz=sample_rate_hz)
        except DataError as error:
            problems.append((clip.path, str(error)))
    if problems:
        raise DataError(problems[0][1] + and_more([path for path, _ in problems]))


def _count(recording: Recording, clip: Clip, params: FeatureParams, tally: Tally) -> None:
    name = clip.path.name
    if recording.file_rate_hz != params.sample_rate_hz:
        tally.resampled += 1
        tally.resampled_example = tally.resampled_example or f"{name} ({recording.file_rate_hz} Hz)"
    if recording.file_channels > 1:
        tally.mixed += 1
        tally.mixed_example = tally.mixed_example or f"{name} ({recording.file_channels})"
    if len(recording.samples) < params.window_samples:
        tally.short += 1
        tally.short_example = tally.short_example or name


Note = Callable[[str], None]
"""Takes one line for the person who waits."""
