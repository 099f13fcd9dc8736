"""What needs no network, to stand beside every figure of one that does.

A detector is worth its cost by what it adds to these: chance, the level alone, a Gaussian mixture
and the nearest neighbour on time-pooled log-mel spectra. (Flagging everything has an F1 and no
scores: `metrics.flag_all_f1`.) All take arrays and give one score for each test clip, higher for
stranger; `metrics.rescored` makes clips of them that `metrics.evaluate_scores` reads.
"""

import warnings
from collections.abc import Callable, Sequence
from typing import Literal

import msgspec
import numpy as np
from scipy.spatial.distance import cdist
from sklearn.exceptions import ConvergenceWarning
from sklearn.mixture import GaussianMixture

from contract.features import Float32Array
from training.errors import DataError, TrainingError
from training.judge.metrics import BoolArray, Float64Array, auc
from training.sound.dataset import Clip

Yardstick = Callable[[Float64Array, Float64Array], Float64Array]
"""Gives scores, shape (m,), for pooled train and test vectors of shapes (n, bands), (m, bands)."""

# In dB^2, added to the variance of each band. The published recipe adds 1e-6, for 1000 clips a
# section. With fewer clips than bands the covariance is singular and this is all the variance that
# some directions have: 1e-6 of it brings float rounding near; 1e-3 is still far below what a band
# of real sound varies by, and ranks clips alike.
_REGULARISATION = 1e-3
_TOLERANCE = 1e-6
_COMPONENTS = 2


class LevelOracle(msgspec.Struct, frozen=True, kw_only=True):
    """The RMS level as a detector, in the direction that the test labels favour."""

    direction: Literal["louder", "quieter"]
    """Which clips it calls anomalous. Chosen with the labels in hand: no real detector may."""
    scores: Float64Array
    """Shape (n,): the level, or its negative."""


def random_scores(clips: int, *, seed: int) -> Float64Array:
    """Uniform on 0 to 1, shape (clips,)."""
    return np.random.default_rng(seed).random(clips)


def level_oracle(labels: BoolArray, level_dbfs: Float64Array) -> LevelOracle:
    """Level in whichever direction has the larger AUC over all clips; louder where it is even.

    If this comes near a detector's figure, that detector may be a level meter, or the recordings
    may be told apart by their gain.

    Args:
        labels: True for anomalies, shape (n,).
        level_dbfs: of each clip, shape (n,).
    """
    louder = auc(labels, level_dbfs)
    if louder is None or louder >= 0.5:
        return LevelOracle(direction="louder", scores=level_dbfs)
    return LevelOracle(direction="quieter", scores=-level_dbfs)


def pool(features: Float32Array, *, sound_frames: int, r: float = 1.0) -> Float64Array:
    """One spectrum for a clip: each band's values sorted over time and averaged with weights.

    Sorted descending, the k-th value weighs `r^k`, divided by the sum of weights (time-weighted
    frequency-domain representation, Guan et al., arXiv 2305.03328). r = 1 is the mean, r = 0 the
    maximum. Frames that two windows share count twice.

    Args:
        features: log-mel of a clip's windows in dB, shape (windows, bands, frames).
        sound_frames: `FeatureParams.sound_frames`; the columns beyond are padding, and their zeros
            would be louder than any sound.
        r: 0 to 1.

    Returns:
        float64 array of shape (bands,).

    Raises:
        TrainingError: there is no window, or a number is not finite.

    Example:
        >>> pool(np.array([[[1.0, 4.0, 0.0]], [[2.0, 3.0, 0.0]]], np.float32), sound_frames=2)
        array([2.5])
    """
    if features.shape[0] == 0 or not np.isfinite(features).all():
        raise TrainingError(
            f"expected finite log-mel windows of a clip, got shape {features.shape}"
            + ("" if features.shape[0] == 0 else " with numbers that are not finite")
        )
    sound = features[:, :, :sound_frames].astype(np.float64)
    bands = np.moveaxis(sound, 1, 0).reshape(features.shape[1], -1)
    weights = np.power(float(r), np.arange(bands.shape[1]))
    pooled: Float64Array = -np.sort(-bands, axis=1) @ (weights / weights.sum())
    return pooled


def gmm_scores(
    train: Float64Array, test: Float64Array, *, seed: int = 0, components: int = _COMPONENTS
) -> Float64Array:
    """Negative log density of the likeliest component of a Gaussian mixture (TWFR-GMM).

    Two components of full covariance on pooled spectra, without the components' weights, as in
    github.com/liuyoude/TWFR-GMM; with `pool(r=1)` it is that work's mean-GMM. The variance added
    to every band is 1e-3 where they add 1e-6, so that few clips give a covariance at all.

    Args:
        train: pooled spectra of normal clips, shape (n, bands), n >= 2.
        test: shape (m, bands).
        seed: of the first guess.
        components: at most n.

    Returns:
        float64 array of shape (m,).

    Raises:
        TrainingError: fewer than 2 train clips, or a number is not finite.
    """
    _refuse_unusable(train, test, at_least=2)
    mixture = GaussianMixture(
        min(components, len(train)),
        covariance_type="full",
        tol=_TOLERANCE,
        reg_covar=_REGULARISATION,
        max_iter=1000,
        random_state=seed,
    )
    with warnings.catch_warnings():
        # Of clips that are all the same; the components then fall together, which is right.
        warnings.simplefilter("ignore", ConvergenceWarning)
        mixture.fit(train)
    assert mixture.means_ is not None
    log_densities = [
        np.sum(np.log(np.diag(root))) - np.sum(np.square((test - mean) @ root), axis=1) / 2
        for mean, root in zip(mixture.means_, mixture.precisions_cholesky_, strict=True)
    ]
    normalisation = train.shape[1] * np.log(2 * np.pi) / 2
    scores: Float64Array = normalisation - np.max(log_densities, axis=0)
    return scores


def nearest_neighbour_scores(train: Float64Array, test: Float64Array) -> Float64Array:
    """Euclidean distance to the nearest normal clip, in dB over all bands, shape (m,).

    Args:
        train: pooled spectra of normal clips, shape (n, bands).
        test: shape (m, bands).

    Raises:
        TrainingError: there is no train clip, or a number is not finite.
    """
    _refuse_unusable(train, test, at_least=1)
    nearest: Float64Array = cdist(test, train).min(axis=1)
    return nearest


def by_section(
    yardstick: Yardstick,
    train: Float64Array,
    train_clips: Sequence[Clip],
    test: Float64Array,
    test_clips: Sequence[Clip],
) -> Float64Array:
    """Scores of test clips, each section compared with its own normal clips, domains together.

    Args:
        yardstick: `gmm_scores` or `nearest_neighbour_scores`.
        train: shape (n, bands), row by row those of `train_clips`.
        train_clips: normal.
        test: shape (m, bands), row by row those of `test_clips`.
        test_clips: in any order.

    Returns:
        float64 array of shape (m,).

    Raises:
        DataError: a section is tested that no train clip is of.
        TrainingError: as the yardstick.
    """
    train_sections = np.array([clip.section for clip in train_clips], dtype=np.str_)
    test_sections = np.array([clip.section for clip in test_clips], dtype=np.str_)
    missing = sorted(set(test_sections.tolist()) - set(train_sections.tolist()))
    if missing:
        raise DataError(
            f"expected train clips of each section that is tested, got none of section {missing[0]}"
        )
    scores = np.empty(len(test_clips))
    for section in np.unique(test_sections):
        own = test_sections == section
        scores[own] = yardstick(train[train_sections == section], test[own])
    return scores


def _refuse_unusable(train: Float64Array, test: Float64Array, *, at_least: int) -> None:
    if len(train) < at_least:
        raise TrainingError(
            f"expected at least {at_least} normal clips to compare with, got {len(train)}"
        )
    for name, vectors in (("train", train), ("test", test)):
        if not np.isfinite(vectors).all():
            row = int(np.flatnonzero(~np.isfinite(vectors).all(axis=1))[0])
            raise TrainingError(f"expected finite spectra, got other numbers in {name} clip {row}")
