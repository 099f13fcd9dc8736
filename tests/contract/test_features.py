"""Features: the same as librosa's, window by window."""

from collections.abc import Callable
from typing import Any

import librosa
import numpy as np
import numpy.typing as npt
import pytest

from contract.errors import FeatureError
from contract.feature_params import FeatureParams
from contract.features import FeatureExtractor, mel_edges_hz, mel_filters

Samples = npt.NDArray[np.float32]

TOLERANCE = 1e-4
"""Of the largest value in the array; both sides compute in single precision."""


def noise(count: int, seed: int = 0) -> Samples:
    return np.random.default_rng(seed).standard_normal(count).astype(np.float32)


def tone(count: int, frequency: float) -> Samples:
    """A sine; the frequency is in turns per sample."""
    samples: Samples = np.sin(2 * np.pi * frequency * np.arange(count)).astype(np.float32)
    return samples


def click(count: int) -> Samples:
    samples = np.zeros(count, np.float32)
    samples[count // 3] = 1.0
    return samples


SOUNDS: dict[str, Callable[[int], Samples]] = {
    "noise": lambda count: 0.1 * noise(count),
    "loud noise": lambda count: np.clip(noise(count), -1, 1),
    "quiet noise": lambda count: 1e-4 * noise(count),
    "nearly silent": lambda count: 1e-7 * noise(count),
    "silence": lambda count: np.zeros(count, np.float32),
    "tone": lambda count: 0.5 * tone(count, 0.0625),
    "tones over noise": lambda count: (
        0.3 * tone(count, 0.0131) + 0.2 * tone(count, 0.21) + 1e-3 * noise(count)
    ),
    "click": click,
    "half silent": lambda count: 0.1 * noise(count) * (np.arange(count) < count // 2),
    "offset": lambda count: 0.25 + 0.01 * noise(count),
}

PARAMS = {
    "defaults": FeatureParams(),
    "fewer bands": FeatureParams(n_mels=64, n_mfcc=20),
    "all coefficients": FeatureParams(n_mels=40, n_mfcc=40),
    "short spectra": FeatureParams(n_fft=1024, frame_hop_samples=256, n_mels=64, frames=128),
    "hop beyond spectrum": FeatureParams(n_fft=512, frame_hop_samples=800, n_mels=40, n_mfcc=13),
    "odd": FeatureParams(window_samples=31_999, n_fft=2000, frame_hop_samples=333, frames=97),
    "band limited": FeatureParams(n_mels=64, n_mfcc=20, fmin_hz=50.0, fmax_hz=7600.0),
    "other rate": FeatureParams(sample_rate_hz=44_100, window_samples=44_100, frames=96),
    "tight clip": FeatureParams(top_db=40.0),
    "spectrum beyond window": FeatureParams(window_samples=1500, frames=4),
}


def librosa_bands_db(window: Samples, params: FeatureParams) -> npt.NDArray[np.float32]:
    bands = librosa.feature.melspectrogram(
        y=window,
        sr=params.sample_rate_hz,
        n_fft=params.n_fft,
        hop_length=params.frame_hop_samples,
        n_mels=params.n_mels,
        fmin=params.fmin_hz,
        fmax=params.fmax_hz,
    )
    return np.asarray(librosa.power_to_db(bands, ref=1.0, top_db=params.top_db), np.float32)


def librosa_features(window: Samples, params: FeatureParams) -> npt.NDArray[np.float32]:
    if params.kind == "logmel":
        return librosa_bands_db(window, params)
    if params.top_db == 80.0:
        # The one call that everybody knows, for all parameters that it can express.
        return np.asarray(
            librosa.feature.mfcc(
                y=window,
                sr=params.sample_rate_hz,
                n_mfcc=params.n_mfcc,
                n_fft=params.n_fft,
                hop_length=params.frame_hop_samples,
                n_mels=params.n_mels,
                fmin=params.fmin_hz,
                fmax=params.fmax_hz,
            ),
            np.float32,
        )
    bands_db = librosa_bands_db(window, params)
    return np.asarray(librosa.feature.mfcc(S=bands_db, n_mfcc=params.n_mfcc), np.float32)


def replaced(params: FeatureParams, **values: Any) -> FeatureParams:
    fields = {name: getattr(params, name) for name in params.__struct_fields__}
    return FeatureParams(**(fields | values))


@pytest.mark.parametrize("sound", SOUNDS)
@pytest.mark.parametrize("named", PARAMS)
@pytest.mark.parametrize("kind", ["mfcc", "logmel"])
# librosa says so of the window that is deliberately shorter than a spectrum.
@pytest.mark.filterwarnings("ignore:n_fft=2048 is too large:UserWarning")
def test_features_are_librosas(kind: str, named: str, sound: str) -> None:
    """MFCC and mel bands are librosa's, within 1e-4 of the largest."""
    params = replaced(PARAMS[named], kind=kind)
    window = SOUNDS[sound](params.window_samples).astype(np.float32)
    expected = librosa_features(window, params)

    features = FeatureExtractor(params)(window)

    heard = features[:, : expected.shape[1]]
    assert expected.shape[1] == params.sound_frames
    assert np.abs(heard - expected).max() <= TOLERANCE * np.abs(expected).max()


def test_clip_is_of_the_window_alone() -> None:
    """A quiet window has the same features beside a loud one as alone, unlike librosa's slice."""
    params = FeatureParams(kind="logmel")
    count, hop = params.window_samples, params.frame_hop_samples
    quiet, loud = 1e-5 * noise(count), 0.5 * noise(count, seed=1)
    recording = np.concatenate([quiet, loud])

    features = FeatureExtractor(params)(recording[:count])[:, : params.sound_frames]

    alone = librosa_bands_db(quiet, params)
    of_recording = librosa_bands_db(recording, params)
    inner = slice(2, count // hop - 2)
    assert np.abs(features - alone).max() <= TOLERANCE * np.abs(alone).max()
    assert np.abs(features - of_recording[:, : params.sound_frames])[:, inner].max() > 5


@pytest.mark.parametrize("top_db", [10.0, 80.0])
def test_nothing_is_further_below_the_maximum_than_the_clip(top_db: float) -> None:
    """The clip is `top_db` below the window's own maximum, and the maximum stays."""
    params = FeatureParams(kind="logmel", top_db=top_db)
    window = 0.5 * tone(params.window_samples, 0.0625) + 1e-6 * noise(params.window_samples)

    bands_db = FeatureExtractor(params)(window)[:, : params.sound_frames]

    assert bands_db.max() - bands_db.min() == pytest.approx(top_db, abs=1e-4)


def test_silence_is_the_floor() -> None:
    """Digital silence is -100 dB in every band, not minus infinity."""
    params = FeatureParams(kind="logmel")

    bands_db = FeatureExtractor(params)(np.zeros(params.window_samples, np.float32))

    assert bands_db[:, : params.sound_frames] == pytest.approx(-100.0)


@pytest.mark.parametrize("kind", ["mfcc", "logmel"])
def test_columns_beyond_the_sound_are_zero(kind: Any) -> None:
    """Spectra end where the window does; the columns after them are exactly zero."""
    params = FeatureParams(kind=kind, frames=70)

    features = FeatureExtractor(params)(0.1 * noise(params.window_samples))

    assert features.shape == params.shape == ({"mfcc": 40, "logmel": 128}[kind], 70)
    assert features.dtype == np.float32
    assert params.sound_frames == 63
    assert not features[:, 63:].any()
    assert features[:, :63].any(axis=0).all()


def test_transform_is_orthonormal() -> None:
    """All coefficients hold what the bands hold: lengths and angles between columns stay."""
    params = FeatureParams(n_mels=64, n_mfcc=64)
    window = 0.1 * noise(params.window_samples)
    bands_db = FeatureExtractor(replaced(params, kind="logmel"))(window).astype(np.float64)

    mfcc = FeatureExtractor(params)(window).astype(np.float64)

    np.testing.assert_allclose(mfcc.T @ mfcc, bands_db.T @ bands_db, rtol=1e-5, atol=1e-2)
    np.testing.assert_allclose(
        mfcc, librosa.feature.mfcc(S=bands_db, n_mfcc=64), rtol=1e-5, atol=1e-3
    )


def test_fewer_coefficients_are_the_first_ones() -> None:
    """Leaving out coefficients does not change those that stay."""
    window = 0.1 * noise(32_000)

    few, many = (FeatureExtractor(FeatureParams(n_mfcc=n))(window) for n in (13, 40))

    np.testing.assert_allclose(few, many[:13], rtol=1e-5, atol=1e-4)


def test_extractor_keeps_nothing_of_a_window() -> None:
    """The same window gives the same array, whatever came between, and is not written to."""
    extractor = FeatureExtractor(FeatureParams())
    window = 0.1 * noise(32_000)
    kept = window.copy()

    first = extractor(window)
    extractor(0.9 * noise(32_000, seed=2))

    np.testing.assert_array_equal(extractor(window), first)
    np.testing.assert_array_equal(window, kept)


@pytest.mark.parametrize("named", PARAMS)
def test_mel_filters_are_librosas(named: str) -> None:
    """The filters are librosa's: Slaney's scale and norm, to the rounding of single precision."""
    params = PARAMS[named]
    expected = librosa.filters.mel(
        sr=params.sample_rate_hz,
        n_fft=params.n_fft,
        n_mels=params.n_mels,
        fmin=params.fmin_hz,
        fmax=params.fmax_hz,
    )

    filters = mel_filters(params)

    assert filters.dtype == np.float32
    np.testing.assert_allclose(filters, expected, rtol=1e-4, atol=1e-6 * expected.max())


def test_mel_edges_span_the_band() -> None:
    """The edges rise from the lowest to the highest frequency, evenly up to 1 kHz."""
    params = FeatureParams(fmin_hz=100.0, fmax_hz=7000.0)

    edges_hz = mel_edges_hz(params)

    assert edges_hz.shape == (params.n_mels + 2,)
    assert edges_hz[[0, -1]] == pytest.approx([100.0, 7000.0])
    widths_hz = np.diff(edges_hz)
    low = edges_hz[1:] < 1000
    assert widths_hz[low] == pytest.approx(widths_hz[0])
    assert (np.diff(widths_hz[~low][1:]) > 0).all()


@pytest.mark.parametrize(
    "shape", [(31_999,), (32_001,), (0,), (), (1, 32_000), (32_000, 1), (2, 16_000)]
)
def test_window_of_another_shape_is_refused(shape: tuple[int, ...]) -> None:
    """A window that is not one channel of the agreed length is refused, not cut or padded."""
    extractor = FeatureExtractor(FeatureParams())

    with pytest.raises(FeatureError, match="Expected a window of 32000 samples, got shape"):
        extractor(np.zeros(shape, np.float32))


def test_every_bad_parameter_is_named() -> None:
    """All problems are told at once, each with its range and value."""
    with pytest.raises(FeatureError) as error:
        FeatureParams(
            sample_rate_hz=999,
            window_samples=255,
            n_fft=63,
            frame_hop_samples=0,
            n_mels=3,
            n_mfcc=4,
            fmin_hz=-1.0,
            fmax_hz=500.0,
            top_db=0.5,
            frames=1,
        )

    assert str(error.value) == (
        "feature parameters: "
        "sample_rate_hz must be 1000 to 192000, got 999; "
        "window_samples must be 256 to 4000000, got 255; "
        "n_fft must be 64 to 65536, got 63; "
        "frame_hop_samples must be 16 to 65536, got 0; "
        "n_mels must be 4 to 512, got 3; "
        "n_mfcc must be 1 to 3, got 4; "
        "fmin_hz must be 0 to 499.5, got -1.0; "
        "fmax_hz must be 0.0 to 499.5, got 500.0; "
        "top_db must be 1 to 200, got 0.5; "
        "frames must be 256 to 65536, got 1"
    )


@pytest.mark.parametrize(
    "values",
    [
        {"sample_rate_hz": 192_001},
        {"window_samples": 4_000_001},
        {"n_fft": 65_537},
        {"frame_hop_samples": 15},
        {"frame_hop_samples": -1},
        {"n_mels": 513},
        {"n_mfcc": 0},
        {"n_mfcc": 129},
        {"fmin_hz": 8000.1},
        {"fmin_hz": 4000.0, "fmax_hz": 4000.5},
        {"fmin_hz": 4000.0, "fmax_hz": 1000.0},
        {"fmax_hz": 8000.1},
        {"fmax_hz": 0.0},
        {"top_db": 201.0},
        {"frames": 62},
        {"frames": 65_537},
        {"fmin_hz": float("nan")},
        {"fmax_hz": float("nan")},
        {"top_db": float("nan")},
        {"top_db": float("inf")},
    ],
)
def test_bad_parameter_is_refused(values: dict[str, Any]) -> None:
    """A parameter outside its range, or one that contradicts another, is refused by name."""
    with pytest.raises(FeatureError, match=f"{list(values)[-1]} must be "):
        FeatureParams(**values)


def test_mel_bands_alone_do_not_ask_for_coefficients() -> None:
    """Log-mel with fewer bands than the default coefficients is taken."""
    assert FeatureParams(kind="logmel", n_mels=32).shape == (32, 64)


def test_derived_values() -> None:
    """Length in time, top frequency and spectra per window follow from the parameters."""
    params = FeatureParams()
    narrow = FeatureParams(fmax_hz=6000.0, sample_rate_hz=44_100, window_samples=88_200, frames=200)

    assert (params.window_us, params.top_frequency_hz, params.sound_frames) == (2_000_000, 8000, 63)
    assert (narrow.window_us, narrow.top_frequency_hz, narrow.sound_frames) == (
        2_000_000,
        6000.0,
        173,
    )
