"""From blocks of any length and rate to windows of the model's own: pure, with state carried over.

A stretch of sound without a gap is resampled as one stream (soxr), so that no window hears the
borders of blocks. After a gap everything starts anew: no window ever contains two stretches.
"""

from collections.abc import Iterator

import msgspec
import numpy as np
import soxr

from contract.features import Float32Array
from node.sources.sound import Block


class FramedWindow(msgspec.Struct, frozen=True, eq=False):
    """One window of sound at the model's rate."""

    samples: Float32Array
    """Shape (window_samples,), -1..1."""
    start_monotonic_ns: int
    """When its first sample was captured."""


class Framer:
    """Cuts a stream into windows: window k is samples `k * hop : k * hop + length`.

    Args:
        sample_rate_hz: the windows' rate.
        window_samples: their length.
        hop_samples: distance between their starts.
    """

    def __init__(self, *, sample_rate_hz: int, window_samples: int, hop_samples: int) -> None:
        self._rate_hz = sample_rate_hz
        self._length = window_samples
        self._hop = hop_samples
        self._start_over(sample_rate_hz)

    def _start_over(self, source_rate_hz: int) -> None:
        self._source_rate_hz = source_rate_hz
        self._resampler: soxr.ResampleStream | None = (
            None
            if source_rate_hz == self._rate_hz
            else soxr.ResampleStream(source_rate_hz, self._rate_hz, 1, dtype="float32")
        )
        self._held: Float32Array = np.zeros(0, np.float32)
        # Position of `_held[0]` in the stretch, at the windows' rate.
        self._first_sample = 0
        self._source_samples = 0
        self._anchor_sample = 0
        self._anchor_ns = 0

    def push(self, block: Block, source_rate_hz: int) -> Iterator[FramedWindow]:
        """Take in a block; gives the windows that it completes.

        Args:
            block: sound at `source_rate_hz`.
            source_rate_hz: may only change with a block that is not continuous.
        """
        if not block.continuous or source_rate_hz != self._source_rate_hz:
            yield from self.finish()
            self._start_over(source_rate_hz)
        # Each block's stamp is believed anew, so that a sound card's drift does not add up.
        self._anchor_sample = self._source_samples * self._rate_hz // source_rate_hz
        self._anchor_ns = block.captured_monotonic_ns
        self._source_samples += len(block.samples)
        samples = block.samples
        if self._resampler is not None:
            samples = self._resampler.resample_chunk(samples)
        yield from self._cut(samples)

    def finish(self) -> Iterator[FramedWindow]:
        """The windows that the resampler still held back: the stretch has ended.

        The next block begins a new stretch, whether it says so or not.
        """
        if self._resampler is not None:
            yield from self._cut(self._resampler.resample_chunk(np.zeros(0, np.float32), last=True))
        self._start_over(self._source_rate_hz)

    def _cut(self, samples: Float32Array) -> Iterator[FramedWindow]:
        self._held = np.concatenate((self._held, samples))
        while len(self._held) >= self._length:
            window = self._held[: self._length].copy()
            yield FramedWindow(window, self._captured_ns(self._first_sample))
            self._held = self._held[self._hop :]
            self._first_sample += self._hop

    def _captured_ns(self, sample: int) -> int:
        since_anchor = sample - self._anchor_sample
        return self._anchor_ns + since_anchor * 1_000_000_000 // self._rate_hz
