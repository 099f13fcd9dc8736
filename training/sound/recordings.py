"""Sound from files: read, checked, made mono and resampled; cut into windows.

A recording that cannot be trusted is refused by name, since a model trained on the rest would look
as good. What is changed on the way (rate, channels) or left out (too short) is counted and said.
"""

from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
import soxr

from contract.feature_params import FeatureParams
from contract.features import Float32Array
from node.sound.errors import SourceError
from node.sound.recordings import check_channel, open_recording, read_mono
from training.errors import DataError


class ReadSound(msgspec.Struct, frozen=True):
    """The sound of one file."""

    samples: Float32Array
    """Shape (n,), full scale is -1 to 1, at the rate that was asked for."""
    file_rate_hz: int
    file_channels: int


class ReadingTally(msgspec.Struct):
    """What was changed or left out while reading."""

    resampled: int = 0
    resampled_example: str = ""
    mixed: int = 0
    mixed_example: str = ""
    short: int = 0
    short_example: str = ""
    silent: int = 0
    silent_example: str = ""
    silent_windows: int = 0
    """How many windows were left out as silent, those of the silent files included."""
    unusable: list[str] = msgspec.field(default_factory=list)
    """Names of the files that were left out because they cannot be trusted."""
    unusable_reason: str = ""
    """Why the first of them cannot be trusted."""
    cache_problem: str = ""
    """Why features are not kept for the next time."""

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
                (
                    self.silent,
                    f"{self.silent} files skipped, digitally silent throughout, such as"
                    f" {self.silent_example}",
                ),
                (self.silent_windows, f"{self.silent_windows} windows skipped, digitally silent"),
                (
                    len(self.unusable),
                    f"{len(self.unusable)} files skipped, not usable:"
                    f" {_first_names(self.unusable)}; of the first: {self.unusable_reason}",
                ),
                (
                    len(self.cache_problem),
                    f"features are not kept for the next time: {self.cache_problem}",
                ),
            )
            if count
        ]

    def count(
        self,
        name: str,
        *,
        file_rate_hz: int,
        sample_rate_hz: int,
        mixed_channels: int,
        windows: int,
        silent_windows: int,
    ) -> None:
        """Take down what happened to one file.

        Args:
            name: to give as an example.
            file_rate_hz: what the file has.
            sample_rate_hz: what was asked for.
            mixed_channels: how many were mixed; 1 if one was all there was, or was chosen.
            windows: how many fit into it; 0 if it is too short.
            silent_windows: how many of them were left out.
        """
        if file_rate_hz != sample_rate_hz:
            self.resampled += 1
            self.resampled_example = self.resampled_example or f"{name} ({file_rate_hz} Hz)"
        if mixed_channels > 1:
            self.mixed += 1
            self.mixed_example = self.mixed_example or f"{name} ({mixed_channels})"
        if windows == 0:
            self.short += 1
            self.short_example = self.short_example or name
        elif windows == silent_windows:
            self.silent += 1
            self.silent_example = self.silent_example or name
        self.silent_windows += silent_windows


def read_recording(path: Path, *, sample_rate_hz: int, channel: int | None = None) -> ReadSound:
    """Read one file as the node does: made mono, resampled.

    Args:
        path: WAV, FLAC or OGG.
        sample_rate_hz: what to resample to.
        channel: which channel to hear, from 0; None mixes all of them.

    Raises:
        DataError: it cannot be read, or is empty, cut short, or holds NaN or infinity, or does not
            have the channel.
    """
    try:
        found = open_recording(path)
        check_channel([found], channel)
        mono: Float32Array = np.concatenate(list(read_mono(found, channel)))
    except SourceError as error:
        raise DataError(str(error)) from error
    if not np.isfinite(mono).all():
        raise DataError(f"{path}: expected numbers, got NaN or infinity among the samples")
    if found.sample_rate_hz != sample_rate_hz:
        mono = np.asarray(soxr.resample(mono, found.sample_rate_hz, sample_rate_hz), np.float32)
    return ReadSound(mono, found.sample_rate_hz, found.channels)


def cut(samples: Float32Array, params: FeatureParams, *, hop_samples: int) -> Float32Array:
    """Windows of a longer sound: row i is `samples[i * hop : i * hop + window_samples]`.

    Returns:
        View of shape `(1 + (n - window_samples) // hop_samples, window_samples)`; of shape
        `(0, window_samples)` if the sound is shorter than a window.
    """
    if len(samples) < params.window_samples:
        return np.empty((0, params.window_samples), np.float32)
    every = np.lib.stride_tricks.sliding_window_view(samples, params.window_samples)
    return every[::hop_samples]


def _first_names(names: list[str]) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more


Note = Callable[[str], None]
"""Takes one line for the person who waits."""
