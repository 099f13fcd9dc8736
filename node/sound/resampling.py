"""From a source's sample rate to the model's: one stream, so that no block's border is heard."""

import numpy as np
import soxr

from contract.features import Float32Array


class Resampler:
    """Resamples a stretch of sound that comes in blocks, by soxr in its high quality.

    Args:
        source_rate_hz: the rate of the blocks.
        rate_hz: the rate to resample to; where both are equal, sound passes as it is.
    """

    def __init__(self, source_rate_hz: int, rate_hz: int) -> None:
        self._stream: soxr.ResampleStream | None = (
            None
            if source_rate_hz == rate_hz
            else soxr.ResampleStream(source_rate_hz, rate_hz, 1, dtype="float32")
        )

    def push(self, samples: Float32Array) -> Float32Array:
        """Resample the next block, float32 of shape (n,); some of it may be held back."""
        return samples if self._stream is None else self._stream.resample_chunk(samples)

    def finish(self) -> Float32Array:
        """What was held back, float32 of shape (n,): the stretch has ended."""
        nothing = np.zeros(0, np.float32)
        return nothing if self._stream is None else self._stream.resample_chunk(nothing, last=True)
