"""The sound that a release is tried with."""

import hashlib
import math
import struct

import numpy as np
import pytest

from contract.feature_params import FeatureParams
from contract.features import FeatureExtractor
from node.scoring.probe import probe

# Of the samples as 16-bit numbers: a last bit that another sine rounds elsewhere does not show.
DIGESTS = {
    256: "e3822bfd47469d0aa542756e174643148d05f0e08ba08fce0c6dae25ad9698e9",
    32_000: "3ba678bf76cc55459ec3bfc81206d24cd99b4f0f04a9b4435d2cfbb3a85aac76",
}


@pytest.mark.parametrize("samples", DIGESTS)
def test_never_changes(samples: int) -> None:
    """Released self-tests rest on these very samples."""
    sound = probe(FeatureParams(window_samples=samples))

    assert sound.dtype == np.float32
    assert sound.shape == (samples,)
    steps = np.rint(sound * 32_768).astype("<i2")
    assert hashlib.sha256(steps.tobytes()).hexdigest() == DIGESTS[samples]


def test_is_the_formula() -> None:
    """Each sample is what the formula gives when it is calculated one by one in plain Python."""
    samples = 1000
    sound = probe(FeatureParams(window_samples=samples))

    expected = [
        0.3 * math.sin(2 * math.pi * (n / 64 + 27 / 128 * n * n / samples)) + 0.1 * _hash(n)
        for n in range(samples)
    ]
    np.testing.assert_allclose(sound, expected, rtol=0, atol=1e-7)


def _hash(n: int) -> float:
    x = n + 1
    for shift, factor in ((16, 0x7FEB352D), (15, 0x846CA68B), (16, 1)):
        x = (x ^ x >> shift) * factor % 2**32
    (bits,) = struct.unpack("<I", struct.pack("<I", x))
    return float(bits) / 2**31 - 1


def test_longest_window() -> None:
    """Nothing overflows in the longest window that features can have."""
    sound = probe(FeatureParams(window_samples=4_000_000, frames=8_000))

    assert 0.39 < np.abs(sound).max() <= 0.4
    quarter = sound[3_000_000:3_032_768]
    peak = np.abs(np.fft.rfft(quarter)).argmax() / len(quarter)
    assert peak == pytest.approx(1 / 64 + 27 / 64 * 0.754, abs=0.002)


def test_every_band_hears_it() -> None:
    """No mel band is at the clip all the time, and the loudest one rises with the chirp."""
    params = FeatureParams(kind="logmel", n_mels=64, frames=63)

    bands = FeatureExtractor(params)(probe(params))

    assert (bands.max(axis=1) > bands.max() - 40).all()
    loudest = bands.argmax(axis=0)
    assert (np.diff(loudest[2:-2]) >= 0).all()
    assert loudest[-3] - loudest[2] > 40
