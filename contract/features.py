"""From one window of sound to the array that a model sees: MFCC or log-mel, in NumPy alone.

What is computed is said by `contract.feature_params`. The matrices (window function, mel filters,
DCT) are computed once and kept; a window then costs one FFT call and two matrix products.

The formulas are those of `librosa.feature.mfcc` (Hann window, centred frames, zero padding, power
spectrum, Slaney mel scale and area normalisation, 10 log10, `top_db` clip, orthonormal DCT-II),
which is the oracle in the tests. One difference is deliberate: the clip `top_db` below the maximum
is taken from the window alone, never from the longer recording that it was cut from.
"""

from functools import cached_property

import numpy as np
import numpy.typing as npt

from contract.errors import FeatureError
from contract.feature_params import FeatureParams

Float32Array = npt.NDArray[np.float32]

# Below this power (an amplitude of 1e-5, -100 dB) a band counts as silent, as in librosa.
_POWER_FLOOR = 1e-10

# So few that their arrays stay in a processor's cache.
_FRAMES_AT_ONCE = 8
_BANDS_AT_ONCE = 16

# Slaney's mel scale (Auditory Toolbox, 1998): linear up to 1 kHz, logarithmic above.
_HZ_PER_LINEAR_MEL = 200.0 / 3.0
_LOG_REGION_START_HZ = 1000.0
_LOG_REGION_START_MEL = _LOG_REGION_START_HZ / _HZ_PER_LINEAR_MEL
_LOG_STEP = np.log(6.4) / 27.0


class FeatureExtractor:
    """Computes the features of one window after another, with matrices made once.

    Example:
        >>> extractor = FeatureExtractor(FeatureParams())
        >>> extractor(np.zeros(32_000, np.float32)).shape
        (40, 64)
    """

    def __init__(self, params: FeatureParams) -> None:
        self.params = params

    def __call__(self, window: Float32Array) -> Float32Array:
        """Features of one window.

        Args:
            window: float32 sound of shape `(window_samples,)`, full scale is -1 to 1.

        Returns:
            float32 array of shape `params.shape`: MFCC, or mel bands in dB re full scale.

        Raises:
            FeatureError: the window has another shape.
        """
        params = self.params
        if window.shape != (params.window_samples,):
            raise FeatureError(
                f"Expected a window of {params.window_samples} samples, got shape {window.shape}"
            )
        bands_db = self._bands_db(window)
        features = self._dct @ bands_db if params.kind == "mfcc" else bands_db
        padded = np.zeros(params.shape, np.float32)
        padded[:, : features.shape[1]] = features
        return padded

    def _bands_db(self, window: Float32Array) -> Float32Array:
        params = self.params
        centred = np.pad(window, params.n_fft // 2)
        frames = np.lib.stride_tricks.sliding_window_view(centred, params.n_fft)
        frames = frames[:: params.frame_hop_samples]
        power = np.empty((len(frames), params.n_fft // 2 + 1), np.float32)
        # A float recording may hold anything; a power beyond float32 becomes infinite, is told by
        # the scorer as an error, and needs no warning of NumPy's.
        with np.errstate(over="ignore", invalid="ignore"):
            # A few frames at a time stay in the cache; all at once cost a page fault for each
            # page of each temporary array.
            for start in range(0, len(frames), _FRAMES_AT_ONCE):
                some = slice(start, start + _FRAMES_AT_ONCE)
                spectrum = np.fft.rfft(frames[some] * self._hann)
                power[some] = np.square(spectrum.real) + np.square(spectrum.imag)
            bands = self._mel_bands(power)
        bands_db = 10.0 * np.log10(np.maximum(bands, _POWER_FLOOR))
        clipped: Float32Array = np.maximum(bands_db, bands_db.max() - params.top_db)
        return clipped

    def _mel_bands(self, power: Float32Array) -> Float32Array:
        """Filtered power: (frames, frequencies) in, (bands, frames) out."""
        bands = np.empty((self.params.n_mels, len(power)), np.float32)
        for rows, columns, filters in self._mel_blocks:
            np.matmul(filters, power[:, columns].T, out=bands[rows])
        return bands

    @cached_property
    def _mel_blocks(self) -> list[tuple[slice, slice, Float32Array]]:
        """The filters without most of their zeros: neighbours share a few frequencies."""
        filters = mel_filters(self.params)
        blocks = []
        for start in range(0, len(filters), _BANDS_AT_ONCE):
            rows = slice(start, start + _BANDS_AT_ONCE)
            heard = np.flatnonzero(filters[rows].any(axis=0))
            columns = slice(heard[0], heard[-1] + 1) if len(heard) else slice(0, 1)
            blocks.append((rows, columns, np.ascontiguousarray(filters[rows, columns])))
        return blocks

    @cached_property
    def _hann(self) -> Float32Array:
        # Periodic, as for spectra; np.hanning is the symmetric one.
        phase = 2.0 * np.pi * np.arange(self.params.n_fft) / self.params.n_fft
        return (0.5 - 0.5 * np.cos(phase)).astype(np.float32)

    @cached_property
    def _dct(self) -> Float32Array:
        return dct_matrix(self.params)


def dct_matrix(params: FeatureParams) -> Float32Array:
    """Type-2 orthonormal DCT: row k is sqrt(2/N) cos(pi k (2n + 1) / 2N), row 0 / sqrt(2).

    Returns:
        float32 array of shape `(n_mfcc, n_mels)`; its transpose takes MFCC back to mel bands,
        smoothed.
    """
    n = params.n_mels
    k = np.arange(params.n_mfcc)[:, None]
    matrix = np.sqrt(2.0 / n) * np.cos(np.pi * k * (2 * np.arange(n) + 1) / (2 * n))
    matrix[0] /= np.sqrt(2.0)
    rows: Float32Array = matrix.astype(np.float32)
    return rows


def mel_filters(params: FeatureParams) -> Float32Array:
    """Triangular mel filters with Slaney's scale and area normalisation.

    Returns:
        float32 array of shape `(n_mels, n_fft // 2 + 1)`; a filter over a power spectrum.
    """
    fft_hz = np.fft.rfftfreq(params.n_fft, 1.0 / params.sample_rate_hz)
    edges_hz = mel_edges_hz(params)
    widths_hz = np.diff(edges_hz)
    distance = edges_hz[:, None] - fft_hz[None, :]
    rising = -distance[:-2] / widths_hz[:-1, None]
    falling = distance[2:] / widths_hz[1:, None]
    triangles = np.maximum(0.0, np.minimum(rising, falling))
    areas = 2.0 / (edges_hz[2:] - edges_hz[:-2])
    filters: Float32Array = (triangles * areas[:, None]).astype(np.float32)
    return filters


def mel_edges_hz(params: FeatureParams) -> npt.NDArray[np.float64]:
    """Edges of the mel filters in Hz, shape `(n_mels + 2,)`: band b spans edges b to b + 2."""
    low, high = _hz_to_mel(np.array([params.fmin_hz, params.top_frequency_hz]))
    return _mel_to_hz(np.linspace(low, high, params.n_mels + 2))


def _hz_to_mel(hz: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    linear = hz / _HZ_PER_LINEAR_MEL
    ratio = np.maximum(hz, _LOG_REGION_START_HZ) / _LOG_REGION_START_HZ
    return np.where(
        hz < _LOG_REGION_START_HZ, linear, _LOG_REGION_START_MEL + np.log(ratio) / _LOG_STEP
    )


def _mel_to_hz(mel: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    above = np.maximum(mel - _LOG_REGION_START_MEL, 0.0)
    return np.where(
        mel < _LOG_REGION_START_MEL,
        mel * _HZ_PER_LINEAR_MEL,
        _LOG_REGION_START_HZ * np.exp(_LOG_STEP * above),
    )
