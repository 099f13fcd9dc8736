"""One window's whole way, from a block of sound as a microphone gives it to the flag."""

import time

import numpy as np

from contract.features import Float32Array
from node.scoring.release_store import Release
from node.scoring.runtime import Runtime
from node.scoring.scorer import Scored, Scorer
from node.sound.framing import Framer
from node.sound.source import Block


class WindowPath:
    """The node's own code on one window after another, each a stretch of sound by itself.

    A running node resamples a stretch as one stream and pays for each second of sound once; here
    every window pays for all of its sound, as the reference design's does.
    """

    def __init__(self, release: Release, runtime: Runtime, *, threads: int = 1) -> None:
        self._manifest = release.manifest
        self._scorer = Scorer(release, runtime, threads=threads)

    def __call__(self, sound: Float32Array, sample_rate_hz: int) -> Scored:
        """Resample, compute features, run the models, decide.

        Args:
            sound: float32 of as many seconds as a window has, shape (n,), -1..1.
            sample_rate_hz: its rate.
        """
        return self._scorer.score(self.resampled(sound, sample_rate_hz))

    def resampled(self, sound: Float32Array, sample_rate_hz: int) -> Float32Array:
        """The window that the sound makes at the release's rate."""
        params = self._manifest.features
        framer = Framer(
            sample_rate_hz=params.sample_rate_hz,
            window_samples=params.window_samples,
            hop_samples=params.window_samples,
        )
        block = Block(samples=sound, captured_monotonic_ns=time.monotonic_ns(), continuous=False)
        # What the resampler holds back comes at the stretch's end.
        windows = [*framer.push(block, sample_rate_hz), *framer.finish()]
        (window,) = [framed.samples for framed in windows if framed.samples is not None]
        return window


def block_samples(release: Release, sample_rate_hz: int) -> int:
    """How many samples at that rate make one window."""
    params = release.manifest.features
    # Rounded up: half a sample less, and the last one of the window would be missing.
    return -(-params.window_samples * sample_rate_hz // params.sample_rate_hz)


def machine_sound(release: Release, sample_rate_hz: int, *, windows: int) -> Float32Array:
    """Calculated sound of a healthy fan, shape (windows, samples of one window)."""
    from node.sound.synthetic import MachineSound, Synthesizer

    samples = block_samples(release, sample_rate_hz)
    sound = Synthesizer(MachineSound(), sample_rate_hz=sample_rate_hz).read(windows * samples)
    return np.ascontiguousarray(sound.reshape(windows, samples), np.float32)
