"""From trained networks to a release."""

from collections.abc import Callable
from typing import Any

import msgspec
import numpy as np
import pytest

from contract.features import Float32Array
from contract.release import LogNormals
from node.scoring.detector import Detector
from node.scoring.runtime import LoadedModel, find_runtime
from tests.training.conftest import EPOCHS, SmallNetwork
from training.errors import TrainingError
from training.judge.metrics import Float64Array
from training.judge.scoring import stacked
from training.judge.thresholds import conformal_quantile
from training.recipes import QUANTISATIONS, NetworkName, Quantisation, read_recipe
from training.release.runtime_trial import statistics
from training.sound.feature_cache import ClipFeatures

Networks = dict[NetworkName, SmallNetwork]
RATE = 0.2


def assembled(
    networks: list[SmallNetwork],
    recipe_name: str,
    *,
    held_out: list[ClipFeatures],
    quantisation: Quantisation = "float32",
    trained: list[Any] | None = None,
    false_alarm_rate: float = RATE,
) -> Any:
    """Assemble networks that are trained already."""
    from training.detector.assemble import Identity, assemble

    manifest = networks[0].assembled["float32"].release.manifest
    identity = Identity(
        name="several",
        version=3,
        created_us=5,
        description="for a test",
        window_hop_samples=16_000,
        training=manifest.training,
    )
    return assemble(
        identity,
        read_recipe(recipe_name),
        trained or [network.trained for network in networks],
        quantisation,
        normal=networks[0].train,
        held_out=held_out,
        sessions=2,
        false_alarm_rate=false_alarm_rate,
        runtime=find_runtime(),
    )


@pytest.fixture(scope="module")
def duo(small_networks: Networks) -> Any:
    """Make one release of `conv` and `profile`."""
    networks = [small_networks["conv"], small_networks["profile"]]
    return assembled(networks, "duo", held_out=networks[0].held_out)


def errors_by_hand(release: Any, windows: Float32Array) -> Float64Array:
    """Run both exported graphs of a duo; what counts of conv is its mean over time."""
    errors = []
    for model in release.manifest.models:
        loaded = LoadedModel(release.content(model), find_runtime())
        residuals = np.stack([loaded(window) for window in windows]).astype(np.float64)
        if model.file == "conv.tflite":
            residuals = residuals.mean(axis=2)
        errors.append(np.square(residuals).mean(axis=1))
    return np.stack(errors, axis=1)


def test_log_errors_are_those_of_the_held_out_windows(small_networks: Networks, duo: Any) -> None:
    """Each model carries mean and standard deviation of its log errors there, computed by hand."""
    windows = stacked(small_networks["conv"].held_out)
    logs = np.log(errors_by_hand(duo.release, windows))

    for index, model in enumerate(duo.release.manifest.models):
        assert model.log_error.mean == pytest.approx(logs[:, index].mean(), abs=1e-4)
        assert model.log_error.sd == pytest.approx(logs[:, index].std(), rel=1e-3)


def test_statistic_is_one_where_all_is_as_usual(small_networks: Networks, duo: Any) -> None:
    """The log of the statistic is the sum of z-scores; its mean over held-out windows is 0."""
    windows = stacked(small_networks["conv"].held_out)
    logs = np.log(errors_by_hand(duo.release, windows))
    wanted = ((logs - logs.mean(axis=0)) / logs.std(axis=0)).sum(axis=1)

    found = np.log(np.concatenate([clip.statistics for clip in duo.held_out]))

    assert duo.release.manifest.statistic == "exp_sum_log_z"
    np.testing.assert_allclose(found, wanted, atol=1e-3)
    assert found.mean() == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("name", EPOCHS)
def test_single_model_is_judged_by_its_error(small_networks: Networks, name: NetworkName) -> None:
    """One model's statistic is its error, and needs no log error."""
    manifest = small_networks[name].assembled["float32"].release.manifest

    assert manifest.statistic == "error"
    assert [model.log_error for model in manifest.models] == [None]


@pytest.mark.parametrize("quantisation", QUANTISATIONS)
def test_threshold_comes_from_the_exported_files(
    small_networks: Networks, quantisation: Quantisation
) -> None:
    """Each quantisation has the quantile of its own statistics, not of another's."""
    network = small_networks["profile"]
    found = network.assembled[quantisation]
    of_windows = statistics(Detector(found.release, find_runtime()), stacked(network.held_out))

    threshold = found.release.manifest.threshold

    assert threshold.value == conformal_quantile(of_windows, false_alarm_rate=RATE).value
    assert threshold.value in of_windows
    assert (threshold.method, threshold.false_alarm_rate) == ("held_out", RATE)
    assert threshold.calibration_windows == len(of_windows) == 8
    assert found.threshold.value == threshold.value


def test_held_out_clips_decide(small_networks: Networks, duo: Any) -> None:
    """Other held-out clips give another threshold and other log errors with the same files."""
    networks = [small_networks["conv"], small_networks["profile"]]
    other = assembled(networks, "duo", held_out=networks[0].held_out[:2])
    ours, theirs = duo.release.manifest, other.release.manifest

    assert theirs.files == ours.files
    assert theirs.threshold.value != ours.threshold.value
    assert theirs.threshold.calibration_windows == 4
    for one, another in zip(ours.models, theirs.models, strict=True):
        assert one.log_error != another.log_error


def test_rate_that_few_windows_cannot_show(small_networks: Networks) -> None:
    """The threshold is the largest statistic, and the rate is what so many windows can show."""
    network = small_networks["profile"]

    found = assembled([network], "profile", held_out=network.held_out, false_alarm_rate=0.001)

    of_windows = np.concatenate([clip.statistics for clip in found.held_out])
    assert found.release.manifest.threshold.value == of_windows.max()
    assert found.release.manifest.threshold.false_alarm_rate == pytest.approx(1 / 9)


def test_calibration_says_what_to_expect(small_networks: Networks) -> None:
    """Mean and standard deviation of the log statistic over held-out windows, and the sessions."""
    found = small_networks["conv"].assembled["float16"]
    logs = np.log(np.concatenate([clip.statistics for clip in found.held_out]))

    calibration = found.release.manifest.calibration

    assert calibration is not None
    assert calibration.sessions == 3
    assert calibration.log_statistic.mean == pytest.approx(logs.mean())
    assert calibration.log_statistic.sd == pytest.approx(logs.std())


def test_windows_that_are_all_alike_have_a_spread(small_networks: Networks) -> None:
    """A standard deviation of zero would put every other window infinitely far out."""
    network = small_networks["profile"]
    (clip, *_) = network.held_out
    alike = msgspec.structs.replace(
        clip, features=np.repeat(clip.features[:1], 3, axis=0), level_dbfs=np.zeros(3)
    )

    found = assembled([network], "profile", held_out=[alike])

    calibration = found.release.manifest.calibration
    assert isinstance(calibration.log_statistic, LogNormals)
    assert calibration.log_statistic.sd > 0


def test_what_each_clip_got(small_networks: Networks) -> None:
    """Held-out clips come back in their order with one statistic for each of their windows."""
    network = small_networks["conv"]
    found = network.assembled["float32"]
    of_windows = statistics(Detector(found.release, find_runtime()), stacked(network.held_out))

    assert [clip.clip for clip in found.held_out] == [clip.clip for clip in network.held_out]
    assert np.concatenate([clip.statistics for clip in found.held_out]).tolist() == list(of_windows)
    assert found.held_out[1].level_dbfs == pytest.approx(network.held_out[1].level_dbfs.mean())


def test_manifest_describes_the_files(small_networks: Networks, duo: Any) -> None:
    """Files are named by network; the runtime that ran them is named; the identity is kept."""
    manifest = duo.release.manifest

    assert manifest.label == "several@3"
    assert [model.file for model in manifest.models] == ["conv.tflite", "profile.tflite"]
    assert [model.error for model in manifest.models] == ["time_mean_mse", "mse"]
    assert [model.parameters for model in manifest.models] == [48_713, 6_320]
    assert manifest.runtimes == (find_runtime().name,)
    assert set(duo.release.files) == {"conv.tflite", "profile.tflite"}


def test_graph_that_is_not_the_network_is_refused(small_networks: Networks) -> None:
    """An export that answers otherwise than what was trained gives no release."""
    from training.detector.autoencoders import Trained

    class Otherwise(Trained, frozen=True):
        def __call__(self, features: Float32Array) -> Float32Array:
            answer: Float32Array = super().__call__(features)
            return answer * np.float32(1.01)

    network = small_networks["profile"]
    other = Otherwise(**msgspec.structs.asdict(network.trained))

    with pytest.raises(TrainingError, match="the exported model differs from the trained one"):
        assembled([network], "profile", held_out=network.held_out, trained=[other])


@pytest.fixture
def lopsided(small_features: Callable[[str], Any]) -> list[ClipFeatures]:
    """Give held-out clips of which one window is so loud that its error is no number."""
    _, _, held_out = small_features("profile")
    features = held_out[0].features.copy()
    features[0] = 1e30
    return [msgspec.structs.replace(held_out[0], features=features), *held_out[1:]]


@pytest.mark.parametrize("recipe", ["profile", "duo"])
def test_error_that_is_no_number(
    small_networks: Networks, lopsided: list[ClipFeatures], recipe: str
) -> None:
    """A model that answers a held-out window with infinity gives no release."""
    networks = [small_networks["conv"], small_networks["profile"]]
    if recipe == "profile":
        networks = networks[1:]

    with pytest.raises(TrainingError, match="gave no"):
        assembled(networks, recipe, held_out=lopsided, quantisation="float16")
