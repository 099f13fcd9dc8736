"""A sound that is calculated alike everywhere: what a release is tried with before it is trusted.

    x[n] = 0.3 sin(2 pi c[n]) + 0.1 r[n],   n = 0 .. N - 1

c[n] = n / 64 + (27 / 128) n^2 / N are the cycles of a linear chirp that sweeps from 1/64 to 28/64
of the sample rate; r[n], in -1 to 1, is a hash of n. The chirp makes every band loud in its time,
the noise keeps the others above the `top_db` clip.

A release's manifest holds what its models make of this sound: another formula would fail every
release there is, so it stays.
"""

import numpy as np
import numpy.typing as npt

from contract.feature_params import FeatureParams
from contract.features import Float32Array


def probe(features: FeatureParams) -> Float32Array:
    """One window of the probe, the same on every machine to the last bit or the one before.

    Args:
        features: whose window it fills.

    Returns:
        float32 array of shape `(window_samples,)`, within -0.4 to 0.4.
    """
    sound: Float32Array = (
        0.3 * np.sin(2.0 * np.pi * _cycles(features.window_samples))
        + 0.1 * _noise(features.window_samples)
    ).astype(np.float32)
    return sound


def _cycles(samples: int) -> npt.NDArray[np.float64]:
    # Whole cycles are taken off in integers: what is left for the sine is small and exact. At most
    # 29 (4 million)^2, far below 2^63.
    n = np.arange(samples, dtype=np.int64)
    whole = 128 * samples
    return (2 * samples * n + 27 * n * n) % whole / whole


def _noise(samples: int) -> npt.NDArray[np.float64]:
    # Chris Wellons' lowbias32 (nullprogram.com/blog/2018/07/31), on 1, 2, ...: it maps 0 to 0.
    x = np.arange(1, samples + 1, dtype=np.uint32)
    x ^= x >> np.uint32(16)
    x *= np.uint32(0x7FEB352D)
    x ^= x >> np.uint32(15)
    x *= np.uint32(0x846CA68B)
    x ^= x >> np.uint32(16)
    return x / 2.0**31 - 1.0
