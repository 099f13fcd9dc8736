"""Scores: the reconstruction error of the features, and what cannot be scored."""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from contract.errors import FeatureError, ReleaseError
from contract.features import FeatureExtractor
from contract.release import LogNormals
from contract.states import Problem
from node.scoring.release_store import read_release
from node.scoring.runtime import LoadedModel, find_runtime
from node.scoring.scorer import SILENCE_DBFS, Scorer, level_dbfs
from tests.rig.fake_inference import (
    FEATURES,
    RUNTIME,
    FakeModel,
    recording_runtime,
    release,
    release_of,
    with_threshold,
)

FAN = Path(__file__).parents[3] / "models/fan-synthetic"
COUNT = FEATURES.window_samples

Samples = npt.NDArray[np.float32]


def noise(count: int = COUNT, seed: int = 0) -> Samples:
    return (0.1 * np.random.default_rng(seed).standard_normal(count)).astype(np.float32)


def scorer(**keys: Any) -> Scorer:
    return Scorer(release(**keys), RUNTIME)


@pytest.mark.parametrize("seed", range(3))
def test_mse_is_that_of_numpy(seed: int) -> None:
    """The error of the released model is the mean square of what its graph leaves over."""
    given = read_release(FAN)
    window = noise(given.manifest.features.window_samples, seed)
    features = FeatureExtractor(given.manifest.features)(window)
    (model,) = given.manifest.models
    assert (model.output, model.error) == ("residual", "mse")
    residual = LoadedModel(given.content(model), find_runtime())(features).astype(np.float64)

    scored = Scorer(given, find_runtime()).score(window)

    assert scored.mse == pytest.approx(np.mean(residual**2), rel=1e-5)
    assert scored.statistic == scored.mse


@pytest.mark.parametrize("seed", range(3))
def test_mse_of_a_reconstruction_is_that_of_numpy(seed: int) -> None:
    """The error is the mean of the squared difference of features and reconstruction."""
    window = noise(seed=seed)
    features = FeatureExtractor(FEATURES)(window).astype(np.float64)
    output = np.random.default_rng(seed).normal(0, 20, FEATURES.shape).astype(np.float32)

    scored = scorer(answer=output.tolist()).score(window)

    assert scored.mse == pytest.approx(np.mean((features - output) ** 2), rel=1e-5)
    assert scored.statistic == scored.mse


def test_score_is_the_same_each_time() -> None:
    """A window's score does not depend on what was scored before it."""
    given = read_release(FAN)
    fan = Scorer(given, find_runtime())
    count = given.manifest.features.window_samples

    first = fan.score(noise(count)).mse
    fan.score(noise(count, 1))

    assert fan.score(noise(count)).mse == first


def test_mse_is_published_and_the_statistic_decides() -> None:
    """Where something else than the MSE counts, the score is of that, and the MSE is told."""
    answer = [[[1, 2, 3], [4, 5, 6]]]
    model = FakeModel({"answer": answer}, error="time_mean_mse", residual_shape=(1, 2, 3))

    scored = Scorer(release_of(model, threshold=29.0), RUNTIME).score(noise())

    assert scored.mse == pytest.approx(91 / 6)
    assert scored.statistic == pytest.approx(14.5)
    assert scored.score == pytest.approx(0.5)
    assert scored.anomaly is False


def test_score_of_several_models_is_of_all() -> None:
    """The statistic of several models is compared with the threshold; the MSE is the first's."""
    given = release_of(
        FakeModel({"answer": [[2.0]]}, LogNormals(mean=0.0, sd=1.0), residual_shape=(1, 1)),
        FakeModel({"answer": [[3.0]]}, LogNormals(mean=0.0, sd=1.0), residual_shape=(1, 1)),
        threshold=18.0,
    )

    scored = Scorer(given, RUNTIME).score(noise())

    assert scored.mse == pytest.approx(4.0)
    assert scored.statistic == pytest.approx(36.0)
    assert scored.score == pytest.approx(2.0)
    assert scored.anomaly is True


@pytest.mark.parametrize("broken", [0, 1])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_one_of_several_models_without_a_number_is_an_error(broken: int, value: float) -> None:
    """Not the others' word alone: the window is not scored, and has no MSE either."""
    answers = [[[1.0]], [[1.0]]]
    answers[broken] = [[value]]
    normal = LogNormals(mean=0.0, sd=1.0)
    given = release_of(
        *(FakeModel({"answer": answer}, normal, residual_shape=(1, 1)) for answer in answers)
    )

    scored = Scorer(given, RUNTIME).score(noise())

    assert scored.problem is Problem.ERROR
    assert (scored.mse, scored.statistic, scored.score, scored.anomaly) == (None,) * 4


def test_score_is_the_statistic_over_the_threshold() -> None:
    """A reconstruction that is off by 3 everywhere has an error of 9, and 9 / 4 as its score."""
    scored = scorer(add=3, threshold=4.0).score(noise())

    assert scored.mse == pytest.approx(9.0, rel=1e-5)
    assert scored.score == pytest.approx(2.25, rel=1e-5)
    assert scored.anomaly is True
    assert scored.problem is None


def test_anomaly_is_above_the_threshold_and_not_at_it() -> None:
    """A statistic equal to the threshold is normal; the next number above is not."""
    given = release(add=3)
    mse = Scorer(given, RUNTIME).score(noise()).mse
    assert mse is not None

    at = Scorer(with_threshold(given, mse), RUNTIME).score(noise())
    above = Scorer(with_threshold(given, float(np.nextafter(mse, 0.0))), RUNTIME).score(noise())

    assert (at.score, at.anomaly) == (1.0, False)
    assert above.anomaly is True


def test_perfect_reconstruction_is_normal() -> None:
    """An error of zero is a score of zero."""
    scored = scorer(add=0).score(noise())

    assert (scored.mse, scored.score, scored.anomaly) == (0.0, 0.0, False)


def test_digital_silence_is_a_dead_microphone() -> None:
    """Nothing but zeros is no healthy machine: it has no score and says why."""
    scored = scorer().score(np.zeros(COUNT, np.float32))

    assert scored.problem is Problem.MIC_SILENT
    assert (scored.mse, scored.statistic, scored.score, scored.anomaly) == (None,) * 4
    assert (scored.level_dbfs, scored.clipped) == (SILENCE_DBFS, 0.0)


def test_quiet_is_not_silent() -> None:
    """One step of a 24-bit converter in one sample is sound, and is scored."""
    window = np.zeros(COUNT, np.float32)
    window[100] = 2.0**-23

    scored = scorer().score(window)

    assert scored.problem is None
    assert scored.mse is not None


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_sample_that_is_no_number_is_an_error(value: float) -> None:
    """One broken sample leaves the window unscored; level and clipping are still finite."""
    window = noise()
    window[7] = value

    scored = scorer().score(window)

    assert scored.problem is Problem.ERROR
    assert (scored.mse, scored.score, scored.anomaly) == (None, None, None)
    assert np.isfinite(scored.level_dbfs)
    assert scored.clipped == (0.0 if np.isnan(value) else 1 / COUNT)


def test_broken_sample_is_not_repaired_in_the_callers_array() -> None:
    """The window given stays as it is."""
    window = noise()
    window[7] = np.nan

    scorer().score(window)

    assert np.isnan(window[7])


@pytest.mark.parametrize("add", [float("nan"), float("inf")])
def test_reconstruction_that_is_no_number_is_an_error(add: float) -> None:
    """A model that gives NaN or infinity is not believed."""
    scored = scorer(add=add).score(noise())

    assert scored.problem is Problem.ERROR
    assert (scored.mse, scored.statistic, scored.score, scored.anomaly) == (None,) * 4


@pytest.mark.parametrize(
    ("window", "expected"),
    [
        (np.ones(COUNT, np.float32), 0.0),
        (np.tile(np.array([1, -1], np.float32), COUNT // 2), 0.0),
        (np.sin(2 * np.pi * np.arange(COUNT) / 16).astype(np.float32), -3.0103),
        (np.full(COUNT, 0.1, np.float32), -20.0),
        (np.full(COUNT, 1e-30, np.float32), SILENCE_DBFS),
        (np.zeros(COUNT, np.float32), SILENCE_DBFS),
    ],
    ids=["full scale", "square", "sine", "tenth", "beyond silence", "silence"],
)
def test_level_is_rms_re_full_scale(window: Samples, expected: float) -> None:
    """0 dBFS is a full-scale square wave; nothing is below the floor."""
    assert level_dbfs(window) == pytest.approx(expected, abs=1e-3)
    assert scorer().score(window).level_dbfs == pytest.approx(expected, abs=1e-3)


def test_clipped_is_the_share_at_full_scale() -> None:
    """Samples at either end of a 16-bit converter count, the steps next to them do not."""
    window = noise()
    window[:100] = 1.0
    window[100:200] = -1.0
    window[200:300] = 32767 / 32768
    window[300:400] = -32767 / 32768
    window[400:800] = 32766 / 32768

    assert scorer().score(window).clipped == pytest.approx(400 / COUNT)


def test_mse_that_is_no_number_is_an_error() -> None:
    """Even where the statistic is one: what is published is always finite."""
    model = FakeModel({"answer": [[3e38, -3e38]]}, error="time_mean_mse", residual_shape=(1, 2))

    scored = Scorer(release_of(model), RUNTIME).score(noise())

    assert scored.problem is Problem.ERROR
    assert (scored.mse, scored.statistic, scored.score, scored.anomaly) == (None,) * 4


def test_threads_are_passed_on() -> None:
    """The library may use as many as the settings allow."""
    runtime, made = recording_runtime()

    Scorer(release(), runtime, threads=2)

    assert [each.num_threads for each in made] == [2]


def test_time_taken_is_told() -> None:
    """What the scoring took is positive, and not absurd."""
    assert 0 < scorer().score(noise()).seconds < 10


@pytest.mark.parametrize("shape", [(COUNT - 1,), (COUNT, 1), (1, COUNT), (1,)])
def test_window_of_another_shape_is_refused(shape: tuple[int, ...]) -> None:
    """A window that does not fit the release is the caller's mistake, not a problem of sound."""
    with pytest.raises(FeatureError, match="Expected a window of 3200 samples"):
        scorer().score(np.full(shape, 0.5, np.float32))


@pytest.mark.parametrize("which", ["input", "output"])
def test_model_that_is_not_as_its_manifest_says_is_refused(which: str) -> None:
    """A graph of another shape than the features is refused before the first window."""
    refusal = rf"fake@1: {which} of model\.tflite is \(1, 16, 13\), the manifest says \(1, 13, 16"
    with pytest.raises(ReleaseError, match=refusal):
        scorer(**{f"{which}_shapes": [[1, 16, 13]]})


def test_model_that_does_not_load_is_refused() -> None:
    """A release whose model the library rejects is refused."""
    with pytest.raises(ReleaseError, match=r"fake-inference 1\.0 cannot load this model: broken"):
        scorer(fails="broken")
