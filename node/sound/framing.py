"""From blocks of any length and rate to windows of the model's own: pure, with state carried over.

A stretch of sound without a gap is resampled as one stream (`node.sound.resampling`), so that no
window hears the borders of blocks. After a gap everything starts anew: no window ever contains two
stretches.

Sound that was lost does not hide. The windows that it would have filled are given without samples,
one a hop, and the sound after it is heard from the next hop on, so that the windows of a microphone
stay on one grid whatever happens to it.
"""

from collections.abc import Iterator

import msgspec
import numpy as np

from contract.features import Float32Array
from contract.release import Manifest
from node.sound.resampling import Resampler
from node.sound.source import Block

_NS = 1_000_000_000


class FramedWindow(msgspec.Struct, frozen=True, eq=False):
    """One window of sound at the model's rate."""

    samples: Float32Array | None
    """Shape (window_samples,), -1..1; None: it was missed, nobody heard it."""
    start_monotonic_ns: int
    """When its first sample was captured, or should have been."""


class Framer:
    """Cuts a stream into windows: window k is samples `k * hop : k * hop + length`.

    Missed windows lie on the same grid: starts increase, by a hop or more, as far as the blocks'
    time stamps do.

    Args:
        sample_rate_hz: the windows' rate.
        window_samples: their length.
        hop_samples: distance between their starts.
    """

    def __init__(self, *, sample_rate_hz: int, window_samples: int, hop_samples: int) -> None:
        self._rate_hz = sample_rate_hz
        self._length = window_samples
        self._hop = hop_samples
        self._hop_ns = hop_samples * _NS // sample_rate_hz
        self._length_ns = window_samples * _NS // sample_rate_hz
        # Between stretches: where the grid goes on. None: no grid yet, or a stretch is being heard.
        self._due_ns: int | None = None
        self._skipping = False
        self._start_over(sample_rate_hz)

    def _start_over(self, source_rate_hz: int) -> None:
        self._source_rate_hz = source_rate_hz
        self._resampler = Resampler(source_rate_hz, self._rate_hz)
        # Sound that waits for its window to be whole; joined once, not for every block.
        self._parts: list[Float32Array] = []
        self._held_samples = 0
        # Position of its first sample in the stretch, at the windows' rate.
        self._first_sample = 0
        self._source_samples = 0
        self._anchor_sample = 0
        self._anchor_ns: int | None = None
        # How much sound, at the source's rate, lies before the next start on the grid.
        self._early_samples = 0

    def push(self, block: Block, source_rate_hz: int) -> Iterator[FramedWindow]:
        """Take in a block; gives the windows that it completes, and before them those it missed.

        Args:
            block: sound at `source_rate_hz`.
            source_rate_hz: may only change with a block that is not continuous.
        """
        if not block.continuous or block.lost or source_rate_hz != self._source_rate_hz:
            yield from self.finish()
        if self._anchor_ns is None:
            self._start_over(source_rate_hz)
            if self._due_ns is not None and (block.lost or self._skipping):
                yield from self._missed(before_ns=block.captured_monotonic_ns)
                early_ns = self._due_ns - block.captured_monotonic_ns
                self._early_samples = -(-early_ns * source_rate_hz // _NS)
            self._skipping = False
            self._due_ns = None
        early = min(self._early_samples, len(block.samples))
        self._early_samples -= early
        samples = block.samples[early:]
        # Each block's stamp is believed anew, so that a sound card's drift does not add up.
        self._anchor_sample = self._source_samples * self._rate_hz // source_rate_hz
        self._anchor_ns = block.captured_monotonic_ns + early * _NS // source_rate_hz
        self._source_samples += len(samples)
        yield from self._cut(self._resampler.push(samples))

    def skip_until(self, now_monotonic_ns: int) -> Iterator[FramedWindow]:
        """The missed windows that would be complete by now, each once.

        For as long as the source has an outage: what was heard before it ends here, as in `finish`.
        Before any sound was heard, the grid starts with the first call.
        """
        yield from self.finish()
        if self._due_ns is None:
            self._due_ns = now_monotonic_ns
        self._skipping = True
        yield from self._missed(before_ns=now_monotonic_ns - self._length_ns + 1)

    def finish(self) -> Iterator[FramedWindow]:
        """The windows that the resampler still held back: the stretch has ended.

        The next block begins a new stretch, whether it says so or not.
        """
        if self._anchor_ns is None:
            return
        yield from self._cut(self._resampler.finish())
        early_ns = self._early_samples * _NS // self._source_rate_hz
        self._due_ns = self._captured_ns(self._first_sample) + early_ns
        self._start_over(self._source_rate_hz)

    def _cut(self, samples: Float32Array) -> Iterator[FramedWindow]:
        self._parts.append(samples)
        self._held_samples += len(samples)
        if self._held_samples < self._length:
            return
        held = np.concatenate(self._parts)
        while len(held) >= self._length:
            window = held[: self._length].copy()
            start_ns = self._captured_ns(self._first_sample)
            held = held[self._hop :]
            self._first_sample += self._hop
            # What is left is known before the window is given: whoever takes it may stop there.
            self._parts, self._held_samples = [held], len(held)
            yield FramedWindow(window, start_ns)

    def _missed(self, *, before_ns: int) -> Iterator[FramedWindow]:
        """Those on the grid whose start lies before a time."""
        assert self._due_ns is not None, "there is a grid"
        while self._due_ns < before_ns:
            start_ns, self._due_ns = self._due_ns, self._due_ns + self._hop_ns
            yield FramedWindow(None, start_ns)

    def _captured_ns(self, sample: int) -> int:
        assert self._anchor_ns is not None, "a stretch has begun"
        since_anchor = sample - self._anchor_sample
        return self._anchor_ns + since_anchor * _NS // self._rate_hz


def framer_for(manifest: Manifest) -> Framer:
    """A framer that cuts sound into the windows which a release wants."""
    return Framer(
        sample_rate_hz=manifest.features.sample_rate_hz,
        window_samples=manifest.features.window_samples,
        hop_samples=manifest.window_hop_samples,
    )
