"""Which frequency bands carry a window's error, so that a person knows where to listen.

Each group of neighbouring mel bands is in turn put back to where it lies in normal sound, the
features are judged again, and the groups that lower the statistic most are the answer. That works
for every release, whatever is inside its graph, and costs some inferences, so it is done once when
an episode opens and not for every window. MFCC are taken to mel bands by the transposed DCT: what
40 coefficients of 128 bands leave is smooth, hence groups of bands. Pure.
"""

from collections.abc import Callable

import numpy as np

from contract.feature_params import FeatureParams
from contract.features import Float32Array, dct_matrix, mel_edges_hz

STRONGEST = 3
_GROUPS = 16
# Twenty minutes of windows, two seconds each.
_MEMORY_WINDOWS = 600


class UsualFeatures:
    """What normal windows sound like on the mean, where no calibration has said it."""

    def __init__(self) -> None:
        self.mean: Float32Array | None = None
        """Mean of the features over time and windows, float32 of shape `(params.shape[0],)`;
        None before the first window."""
        self._windows = 0

    def hear(self, mean_features: Float32Array) -> None:
        """Take in the mean over time of a normal window's features, of the shape of `mean`.

        The newest windows count for most: what is older than some 600 windows fades.
        """
        if self.mean is None:
            self.mean = mean_features.copy()
        self._windows = min(self._windows + 1, _MEMORY_WINDOWS)
        self.mean += (mean_features - self.mean) / self._windows


def strongest_bands_hz(
    params: FeatureParams,
    features: Float32Array,
    normal_features: Float32Array,
    statistic: Callable[[Float32Array], float],
) -> tuple[float, ...]:
    """Centres of the groups of bands that carry most of the error, the strongest first.

    Args:
        params: what the features are.
        features: of the window, float32 of shape `params.shape`.
        normal_features: mean over time of normal windows, shape `(params.shape[0],)`.
        statistic: judges features of that shape.

    Returns:
        Up to three frequencies in Hz; fewer where fewer groups lower the statistic.
    """
    frames = params.sound_frames
    difference = normal_features - features[:, :frames].mean(axis=1)
    dct = dct_matrix(params) if params.kind == "mfcc" else None
    bands_db = difference if dct is None else dct.T @ difference
    edges_hz = mel_edges_hz(params)
    whole = statistic(features)
    found = []
    for group in np.array_split(np.arange(params.n_mels), min(_GROUPS, params.n_mels)):
        only = np.zeros(params.n_mels, np.float32)
        only[group] = bands_db[group]
        repaired = features.copy()
        repaired[:, :frames] += (only if dct is None else dct @ only)[:, None]
        # Band b spans edges b to b + 2; a group's middle is between its outer edges.
        middle_hz = float((edges_hz[group[0]] + edges_hz[group[-1] + 2]) / 2)
        found.append((whole - statistic(repaired), middle_hz))
    found.sort(reverse=True)
    return tuple(round(hz, 1) for gain, hz in found[:STRONGEST] if gain > 0)
