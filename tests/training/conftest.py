"""Recordings and releases to test with, made where they are needed."""

import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import msgspec
import numpy as np
import pytest
import soundfile

from contract.feature_params import FeatureParams
from contract.features import Float32Array
from contract.release import Manifest, Model, Threshold, Training, describe_file
from node.scoring.runtime import find_runtime
from node.sound.synthetic import FAULTS, MachineSound
from training.judge.scoring import stacked
from training.made.synthesize import generate
from training.progress import silent
from training.recipes import (
    QUANTISATIONS,
    NetworkName,
    Quantisation,
    Recipe,
    read_recipe,
    with_epochs,
)
from training.release.release_folder import put_release
from training.sound.dataset import find_dataset
from training.sound.feature_cache import ClipFeatures, FeatureCache, read_features
from training.sound.recordings import ReadingTally

if TYPE_CHECKING:
    from training.detector.assemble import Assembled
    from training.detector.autoencoders import Epoch, Trained

ROOT = Path(__file__).parents[2]
RATE_HZ = 16_000
# Each network is one recipe's only model. With fewer epochs the error is still so large that
# rounding does not show in it.
EPOCHS: dict[NetworkName, int] = {
    "reference": 15,
    "repaired": 15,
    "conv": 15,
    "profile": 60,
    "dense": 15,
}

WriteWav = Callable[..., Path]
RunTraining = Callable[..., "subprocess.CompletedProcess[str]"]
MakeManifest = Callable[[bytes], Manifest]


def hiss(seconds: float, *, rate_hz: int = RATE_HZ, seed: int = 0) -> Float32Array:
    """Soft noise, shape (n,)."""
    rng = np.random.default_rng(seed)
    return rng.normal(0, 0.05, round(seconds * rate_hz)).astype(np.float32)


@pytest.fixture
def write_wav() -> WriteWav:
    """Write a WAV, its folder included, and return its path."""

    def write(
        path: Path,
        samples: Float32Array | None = None,
        *,
        rate_hz: int = RATE_HZ,
        subtype: str = "PCM_16",
    ) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        sound = hiss(2.0, rate_hz=rate_hz) if samples is None else samples
        soundfile.write(path, sound, rate_hz, subtype=subtype)
        return path

    return write


@pytest.fixture(scope="session")
def training_environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Environment variables for `earshot training`; features are kept for this test run alone."""
    cache = str(tmp_path_factory.mktemp("cache"))
    return {**os.environ, "PYTHONWARNINGS": "", "XDG_CACHE_HOME": cache}


@pytest.fixture(scope="session")
def run_training(training_environment: dict[str, str]) -> RunTraining:
    """Run `earshot training` with these arguments."""

    def run(arguments: Sequence[str | Path]) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [sys.executable, "-m", "training", *map(str, arguments)],
            cwd=ROOT,
            env=training_environment,
            capture_output=True,
            text=True,
            timeout=400,
            check=False,
        )

    return run


@pytest.fixture
def make_manifest() -> MakeManifest:
    """Make a manifest for these bytes as `model.tflite`."""

    def make(content: bytes) -> Manifest:
        return Manifest(
            name="fan",
            version=1,
            created_us=0,
            description="for a test",
            features=FeatureParams(),
            window_hop_samples=16_000,
            files=(describe_file("model.tflite", content),),
            models=(
                Model(
                    file="model.tflite",
                    input_shape=(1, 40, 64, 1),
                    output_shape=(1, 40, 64, 1),
                    output="reconstruction",
                    error="mse",
                    log_error=None,
                    parameters=None,
                    runtimes=(),
                ),
            ),
            statistic="error",
            threshold=Threshold(
                value=1.0, method="given", false_alarm_rate=None, calibration_windows=0
            ),
            calibration=None,
            training=Training(
                command="none",
                recipe=None,
                data="none",
                files=0,
                windows=0,
                seed=None,
                epochs=None,
            ),
        )

    return make


@pytest.fixture(scope="session")
def small_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write a fan in the layout of DCASE 2021, its folder named so, and return the folder above.

    Clips of 3 s, two windows each. Two sections, two domains, three sessions of normal sound of
    5, 5 and 4 clips; 3 normal and 3 anomalous test clips of each section and domain.
    """
    folder = tmp_path_factory.mktemp("recordings") / "small"
    for section, domain, day, clips in (
        (0, "source", 1, 5),
        (1, "source", 1, 5),
        (0, "target", 2, 4),
    ):
        for index in range(clips):
            name = f"section_{section:02d}_{domain}_train_normal_{index:04d}_day_{day}.wav"
            _write_fan(folder / "fan" / "train" / name, section, domain, seed=index)
    for section in (0, 1):
        for domain in ("source", "target"):
            for index in range(6):
                label, fault = ("normal", None) if index < 3 else ("anomaly", FAULTS[index % 3])
                name = f"section_{section:02d}_{domain}_test_{label}_{index:04d}.wav"
                path = folder / "fan" / f"{domain}_test" / name
                _write_fan(path, section, domain, seed=100 + index, fault=fault)
    return folder


def _write_fan(path: Path, unit: int, domain: str, *, seed: int, fault: str | None = None) -> None:
    sound = MachineSound(
        unit=unit,
        seed=seed,
        fault=fault,
        seconds=3.0,
        speed=1.0 if domain == "source" else 1.1,
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, generate(sound), RATE_HZ, subtype="PCM_16")


class SmallFeatures(NamedTuple):
    """The small data set's normal sound as one recipe hears it."""

    recipe: Recipe
    train: list[ClipFeatures]
    held_out: list[ClipFeatures]


class SmallNetwork(NamedTuple):
    """A network of one recipe, trained for a moment on the small data set, and its releases."""

    recipe: Recipe
    train: Float32Array
    held_out: list[ClipFeatures]
    trained: "Trained"
    epochs: list["Epoch"]
    assembled: "dict[Quantisation, Assembled]"
    folders: dict[Quantisation, Path]


@pytest.fixture(scope="session")
def small_features(small_data: Path) -> Callable[[str], SmallFeatures]:
    """Compute features of the small data set for a recipe; every fourth clip is held out."""

    def compute(name: str) -> SmallFeatures:
        recipe = read_recipe(name)
        clips = read_features(
            find_dataset(small_data).train,
            recipe.features,
            hop_samples=RATE_HZ,
            cache=FeatureCache(None),
            unreadable="refuse",
            tally=ReadingTally(),
            progress=silent,
        )
        train = [clip for index, clip in enumerate(clips) if index % 4]
        return SmallFeatures(recipe, train, clips[::4])

    return compute


@pytest.fixture(scope="session")
def small_networks(
    small_features: Callable[[str], SmallFeatures], tmp_path_factory: pytest.TempPathFactory
) -> dict[NetworkName, SmallNetwork]:
    """Train each network in this process and write it as a release of each quantisation."""
    from training.detector.assemble import Identity, assemble
    from training.detector.autoencoders import train

    root = tmp_path_factory.mktemp("networks")

    def make(name: NetworkName, epochs: int) -> SmallNetwork:
        recipe, clips, held_out = small_features(name)
        recipe = with_epochs(recipe, epochs)
        losses: list[Epoch] = []
        normal = stacked(clips)
        trained = train(recipe.models[0], normal, stacked(held_out), seed=7, on_epoch=losses.append)
        identity = Identity(
            name=name,
            version=1,
            created_us=0,
            description="for a test",
            window_hop_samples=RATE_HZ,
            training=Training(
                command="none",
                recipe=name,
                data="small",
                files=len(clips),
                windows=len(normal),
                seed=7,
                epochs=epochs,
            ),
        )
        assembled = {
            quantisation: assemble(
                identity,
                recipe,
                [trained],
                quantisation,
                normal=normal,
                held_out=held_out,
                sessions=3,
                false_alarm_rate=0.2,
                runtime=find_runtime(),
            )
            for quantisation in QUANTISATIONS
        }
        folders = {quantisation: root / name / quantisation for quantisation in QUANTISATIONS}
        for quantisation, folder in folders.items():
            put_release(folder, assembled[quantisation].release)
        return SmallNetwork(recipe, normal, held_out, trained, losses, assembled, folders)

    return {name: make(name, epochs) for name, epochs in EPOCHS.items()}


class Run(NamedTuple):
    """A training that a person started."""

    out: Path
    done: "subprocess.CompletedProcess[str]"


@pytest.fixture(scope="session")
def elsewhere(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Export the reference design's network, hardly trained, as a `.tflite` without a release.

    It takes and gives the one channel of a picture, as Keras asks of who trains it elsewhere.
    """
    from training.detector.autoencoders import train
    from training.detector.quantize import to_tflite
    from training.tf import tf

    recipe = with_epochs(read_recipe("reference"), 1)
    noise = np.random.default_rng(0).normal(size=(16, *recipe.features.shape)).astype(np.float32)
    trained = train(recipe.models[0], noise, noise, seed=0, on_epoch=lambda epoch: None)
    (core,) = [each for each in trained.graph.layers if isinstance(each, tf.keras.Sequential)]
    given = tf.keras.Input(batch_shape=(1, *recipe.features.shape, 1))
    trained = msgspec.structs.replace(trained, graph=tf.keras.Model(given, core(given)))
    file = tmp_path_factory.mktemp("elsewhere") / "model.tflite"
    file.write_bytes(to_tflite(trained, "float16", noise))
    return file


@pytest.fixture(scope="session")
def duo_run(
    small_data: Path, tmp_path_factory: pytest.TempPathFactory, run_training: RunTraining
) -> Run:
    """Train the recipe `duo` for a moment, with two seeds and all variants."""
    out = tmp_path_factory.mktemp("models") / "small-duo"
    arguments = ["--recipe", "duo", "--epochs", "2", "--seeds", "2", "--folds", "0"]
    return Run(out, run_training(["train", "--data", small_data, "--out", out, *arguments]))


@pytest.fixture(scope="session")
def profile_run(
    small_data: Path, tmp_path_factory: pytest.TempPathFactory, run_training: RunTraining
) -> Run:
    """Train the default recipe, `profile`, for a moment, leaving out each session in turn."""
    out = tmp_path_factory.mktemp("models") / "small-profile"
    arguments = ["--epochs", "2", "--seeds", "1", "--no-variants"]
    arguments += ["--threshold-from", "sessions-left-out"]
    return Run(out, run_training(["train", "--data", small_data, "--out", out, *arguments]))


@pytest.fixture
def tflite_python() -> Path:
    """Python of the environment with tflite-runtime; a test without it is skipped, in CI fails."""
    if sys.version_info >= (3, 12):
        pytest.skip("tflite-runtime has no wheel for Python 3.12 and later")
    python = ROOT / ".venv-tflite" / "bin" / "python"
    if not python.exists():
        missing = f"{python.relative_to(ROOT)} is missing: run `make test`"
        if os.environ.get("EARSHOT_TESTS_REQUIRE_SERVERS") == "1":
            pytest.fail(missing)
        pytest.skip(missing)
    return python
