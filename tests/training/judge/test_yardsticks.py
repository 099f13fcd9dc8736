"""What a detector has to be better than."""

from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from scipy.stats import multivariate_normal
from sklearn.neighbors import NearestNeighbors

from contract.feature_params import FeatureParams
from contract.features import FeatureExtractor
from training.errors import DataError, TrainingError
from training.judge.metrics import auc
from training.judge.yardsticks import (
    by_section,
    gmm_scores,
    level_oracle,
    nearest_neighbour_scores,
    pool,
    random_scores,
)
from training.sound.dataset import Clip


def sections(*names: str) -> list[Clip]:
    """Make a clip of each section named."""
    return [
        Clip(
            path=Path(f"{index}.wav"),
            section=name,
            domain="source",
            split="test",
            label="normal",
            session=None,
        )
        for index, name in enumerate(names)
    ]


def spectra(clips: int, *, seed: int, bands: int = 128) -> npt.NDArray[np.float64]:
    """Make pooled spectra of a machine with two states, in dB."""
    rng = np.random.default_rng(seed)
    shapes = -40 + 5 * np.random.default_rng(99).normal(size=(2, bands))
    found: npt.NDArray[np.float64] = shapes[np.arange(clips) % 2] + rng.normal(size=(clips, bands))
    return found


def test_random_scores_are_chance_and_seeded() -> None:
    """Random scores have an AUC of one half, the same for the same seed."""
    labels = np.arange(20_000) % 2 == 0

    assert auc(labels, random_scores(20_000, seed=0)) == pytest.approx(0.5, abs=0.02)
    assert (random_scores(9, seed=1) == random_scores(9, seed=1)).all()
    assert (random_scores(9, seed=1) != random_scores(9, seed=2)).any()


@pytest.mark.parametrize(
    ("levels", "direction", "area"),
    [
        ([-30.0, -20.0, -25.0, -10.0], "louder", 0.75),
        ([-20.0, -30.0, -40.0, -25.0], "quieter", 0.75),
        ([-20.0, -20.0, -20.0, -20.0], "louder", 0.5),
    ],
)
def test_level_in_the_better_direction(levels: list[float], direction: str, area: float) -> None:
    """The level is used in whichever direction tells the labels apart better, and says which."""
    labels = np.array([False, False, True, True])

    found = level_oracle(labels, np.array(levels))

    assert found.direction == direction
    assert auc(labels, found.scores) == area


def test_level_without_both_labels() -> None:
    """With nothing to choose a direction by, it is the level itself."""
    found = level_oracle(np.array([False, False]), np.array([-30.0, -20.0]))

    assert (found.direction, found.scores.tolist()) == ("louder", [-30.0, -20.0])


@pytest.mark.parametrize(
    ("r", "wanted"),
    [
        (1.0, [2.5, -2.5]),
        # Sorted 4 3 2 1 with weights 1, 1/2, 1/4, 1/8 of 15/8.
        (0.5, [(4 + 3 / 2 + 2 / 4 + 1 / 8) / (15 / 8), (-1 - 2 / 2 - 3 / 4 - 4 / 8) / (15 / 8)]),
        (0.0, [4.0, -1.0]),
    ],
)
def test_pooling_by_hand(r: float, wanted: list[float]) -> None:
    """Each band is sorted over all windows: r = 1 is the mean, 0 the maximum, padding no sound."""
    padding = 0.0
    windows = np.array(
        [[[1, 4, padding], [-1, -4, padding]], [[3, 2, padding], [-3, -2, padding]]], np.float32
    )

    assert pool(windows, sound_frames=2, r=r) == pytest.approx(wanted)


def test_pooling_of_real_features() -> None:
    """Of a steady noise the pooled spectrum is near each window's, the padding not in it."""
    params = FeatureParams(kind="logmel", n_fft=1024)
    sound = np.random.default_rng(0).normal(0, 0.05, 48_000).astype(np.float32)
    extract = FeatureExtractor(params)
    windows = np.stack([extract(sound[:32_000]), extract(sound[16_000:])])
    assert params.sound_frames < params.frames

    found = pool(windows, sound_frames=params.sound_frames)

    assert found.shape == (128,)
    assert found == pytest.approx(windows[:, :, : params.sound_frames].mean(axis=(0, 2)), abs=1e-4)


def test_windows_that_cannot_be_pooled() -> None:
    """A clip without windows, or with numbers that are not finite, is refused."""
    with pytest.raises(TrainingError, match=r"got shape \(0, 128, 64\)$"):
        pool(np.zeros((0, 128, 64), np.float32), sound_frames=63)
    with pytest.raises(TrainingError, match="not finite"):
        pool(np.full((1, 128, 64), np.nan, np.float32), sound_frames=63)


def test_gmm_of_one_component_is_a_gaussian() -> None:
    """With one component the score is the negative log density of the clips' own Gaussian."""
    train, test = spectra(400, seed=0, bands=5)[::2], spectra(10, seed=1, bands=5)

    found = gmm_scores(train, test, components=1)

    gaussian = multivariate_normal(
        train.mean(axis=0), np.cov(train, rowvar=False, bias=True) + 1e-3 * np.eye(5)
    )
    assert found == pytest.approx(-gaussian.logpdf(test), rel=1e-6)


def test_gmm_knows_both_states() -> None:
    """A clip of either state is normal; what lies between the states is not."""
    train = spectra(200, seed=0, bands=8)
    between = train[:2].mean(axis=0, keepdims=True)

    found = gmm_scores(train, np.concatenate([spectra(20, seed=1, bands=8), between]))

    assert found[-1] > found[:-1].max()


@pytest.mark.parametrize("clips", [2, 3, 61])
def test_gmm_of_fewer_clips_than_bands(clips: int) -> None:
    """Fewer clips than bands still give finite scores, higher for a changed spectrum."""
    train, test = spectra(clips, seed=0), spectra(20, seed=1)
    changed = test.copy()
    changed[:, 30:40] += 6.0

    normal, anomalous = np.split(gmm_scores(train, np.concatenate([test, changed])), 2)

    assert np.isfinite(normal).all()
    assert (anomalous > normal).all()


def test_gmm_of_clips_that_are_all_the_same() -> None:
    """Copies of one clip give a score all the same, lowest for that clip."""
    train = np.repeat(spectra(1, seed=0), 10, axis=0)

    found = gmm_scores(train, np.concatenate([train[:1], spectra(4, seed=1)]))

    assert np.isfinite(found).all()
    assert found.argmin() == 0


def test_gmm_is_seeded() -> None:
    """The same seed gives the same scores; where there is no structure to find, another differs."""
    rng = np.random.default_rng(0)
    train, test = rng.normal(size=(60, 20)), rng.normal(size=(9, 20))

    found = gmm_scores(train, test, seed=3)

    assert (gmm_scores(train, test, seed=3) == found).all()
    assert any((gmm_scores(train, test, seed=seed) != found).any() for seed in range(3))


def test_nearest_neighbour_is_that_of_scikit_learn() -> None:
    """The score is the distance to the nearest normal clip, and 0 for one that was there."""
    train, test = spectra(30, seed=0), spectra(9, seed=1)

    found = nearest_neighbour_scores(train, np.concatenate([test, train[:1]]))

    distances, _ = NearestNeighbors(n_neighbors=1).fit(train).kneighbors(test)
    assert found[:-1] == pytest.approx(distances[:, 0])
    assert found[-1] == 0


def test_sections_are_compared_with_their_own() -> None:
    """A test clip is held against the normal clips of its section, in any order of clips."""
    train = np.array([[0.0], [10.0], [1.0]])
    test = np.array([[10.0], [10.0], [2.0]])

    found = by_section(
        nearest_neighbour_scores,
        train,
        sections("00", "01", "00"),
        test,
        sections("01", "00", "00"),
    )

    assert found.tolist() == [0, 9, 1]


def test_section_without_train_clips_is_refused() -> None:
    """A section that nothing was learned of is named."""
    with pytest.raises(DataError, match="got none of section 02"):
        by_section(
            partial(gmm_scores, seed=1),
            spectra(2, seed=0),
            sections("00", "00"),
            spectra(2, seed=1),
            sections("00", "02"),
        )


def test_spectra_that_cannot_be_compared() -> None:
    """Too few normal clips, or numbers that are not finite, are refused in one line."""
    good = spectra(4, seed=0)
    bad = good.copy()
    bad[2, 5] = np.nan

    with pytest.raises(TrainingError, match=r"at least 2 normal clips .* got 1"):
        gmm_scores(good[:1], good)
    with pytest.raises(TrainingError, match=r"at least 1 normal clips .* got 0"):
        nearest_neighbour_scores(good[:0], good)
    with pytest.raises(TrainingError, match="other numbers in train clip 2"):
        gmm_scores(bad, good)
    with pytest.raises(TrainingError, match="other numbers in test clip 2"):
        nearest_neighbour_scores(good, bad)
