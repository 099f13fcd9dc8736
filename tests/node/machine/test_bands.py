"""Which bands carry an error: a planted one is found, in Hz."""

from pathlib import Path

import msgspec
import numpy as np
import pytest

from contract.feature_params import FeatureParams
from contract.features import FeatureExtractor, Float32Array
from node.machine.bands import strongest_bands_hz
from node.scoring.detector import Detector
from node.scoring.release_store import read_release
from node.scoring.runtime import find_runtime
from node.sound.synthetic import MachineSound, Synthesizer

FAN = Path(__file__).parents[3] / "models/fan-synthetic"
MFCC = FeatureParams()
LOGMEL = msgspec.structs.replace(MFCC, kind="logmel", frames=63)


def noise(seed: int) -> Float32Array:
    sound = 0.05 * np.random.default_rng(seed).standard_normal(MFCC.window_samples)
    return sound.astype(np.float32)


def tone(hz: float) -> Float32Array:
    seconds = np.arange(MFCC.window_samples) / MFCC.sample_rate_hz
    return (0.05 * np.sin(2 * np.pi * hz * seconds)).astype(np.float32)


def mean_over_time(extract: FeatureExtractor, windows: list[Float32Array]) -> Float32Array:
    frames = extract.params.sound_frames
    means = [extract(window)[:, :frames].mean(axis=1) for window in windows]
    mean: Float32Array = np.mean(means, axis=0).astype(np.float32)
    return mean


@pytest.mark.parametrize("params", [MFCC, LOGMEL], ids=["mfcc", "logmel"])
@pytest.mark.parametrize("hz", [300.0, 1000.0, 3000.0, 6000.0])
def test_planted_tone_is_found(params: FeatureParams, hz: float) -> None:
    """The strongest group of bands is the one that the tone is in."""
    extract = FeatureExtractor(params)
    normal = mean_over_time(extract, [noise(seed) for seed in range(8)])

    def distance(features: Float32Array) -> float:
        mean = features[:, : params.sound_frames].mean(axis=1)
        return float(np.mean(np.square(mean - normal)))

    found = strongest_bands_hz(params, extract(noise(9) + tone(hz)), normal, distance)

    assert 1 <= len(found) <= 3
    assert found[0] == pytest.approx(hz, rel=0.35)


def test_normal_features_carry_nothing() -> None:
    """Where no band lowers the error there is nothing to tell."""
    extract = FeatureExtractor(MFCC)
    features = extract(noise(1))
    normal = features[:, : MFCC.sound_frames].mean(axis=1)

    assert strongest_bands_hz(MFCC, features, normal, lambda f: float(np.var(f))) == ()


def test_planted_tone_is_found_through_the_released_model() -> None:
    """The default detector, whatever is in its graph, is asked by changing what it hears."""
    release = read_release(FAN)
    params = release.manifest.features
    extract = FeatureExtractor(params)
    detector = Detector(release, find_runtime())
    healthy = Synthesizer(MachineSound(), sample_rate_hz=params.sample_rate_hz)
    windows = [healthy.read(params.window_samples) for _ in range(8)]
    normal = mean_over_time(extract, windows[:7])

    found = strongest_bands_hz(
        params, extract(windows[7] + tone(5000.0)), normal, lambda f: detector(f).statistic
    )

    assert any(hz == pytest.approx(5000.0, rel=0.3) for hz in found), found
