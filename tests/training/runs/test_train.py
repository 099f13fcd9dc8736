"""From a data set to a release."""

import errno
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from contract.errors import EarshotError
from node.scoring.release_store import read_release
from node.scoring.runtime import find_runtime
from node.scoring.scorer import Scorer
from tests.training.conftest import ROOT, Run, RunTraining, WriteWav, hiss
from training.detector.outcome import Outcome
from training.errors import DataError
from training.progress import silent
from training.recipes import read_recipe, with_epochs
from training.runs.train import TrainRequest, train_release
from training.sound.feature_cache import FeatureCache

NAME = "train/section_00_source_train_normal_{:04d}.wav"
Train = Callable[..., tuple[Outcome, list[str]]]


@pytest.fixture
def train(tmp_path: Path) -> Train:
    """Train `profile` in this process into `tmp_path/out`; give the outcome and the notes."""

    def run(data: Path, **changes: Any) -> tuple[Outcome, list[str]]:
        settings: dict[str, Any] = {
            "data": data,
            "machine": None,
            "recipe": with_epochs(read_recipe("profile"), 2),
            "out": tmp_path / "out",
            "name": "fan",
            "version": 1,
            "description": None,
            "seed": 42,
            "seeds": 1,
            "false_alarm_rate": 0.1,
            "threshold_from": "held_out",
            "folds": 0,
            "quantisation": "float16",
            "variants": False,
            "unreadable": "refuse",
            "channel": None,
            "cache": FeatureCache(None),
            "tflite_python": None,
            "overwrite": False,
            "command": "earshot training train",
        }
        notes: list[str] = []
        outcome = train_release(
            TrainRequest(**{**settings, **changes}), note=notes.append, progress=silent
        )
        return outcome, notes

    return run


def metrics_of(run: Run) -> Any:
    """Read what a training has measured."""
    return json.loads((run.out / "metrics.json").read_text())


def test_default_recipe_gives_a_release_of_one_small_network(profile_run: Run) -> None:
    """One model, whose error is the statistic, and a threshold from sessions it has not heard."""
    assert profile_run.done.returncode == 0, profile_run.done.stderr
    manifest = read_release(profile_run.out).manifest

    assert manifest.label == "small-profile@1"
    assert [model.file for model in manifest.models] == ["profile.tflite"]
    assert manifest.statistic == "error"
    assert manifest.threshold.method == "sessions_left_out"
    assert (manifest.training.recipe, manifest.training.epochs) == ("profile", 2)
    assert Scorer(read_release(profile_run.out), find_runtime()).score(hiss(2)).mse is not None


def test_two_networks_give_a_release_with_all_variants(duo_run: Run) -> None:
    """Two models, one statistic, a threshold from held-out files, and every quantisation beside."""
    assert duo_run.done.returncode == 0, duo_run.done.stderr
    manifest = read_release(duo_run.out).manifest

    assert manifest.label == "small-duo@1"
    assert [model.file for model in manifest.models] == ["conv.tflite", "profile.tflite"]
    assert manifest.statistic == "exp_sum_log_z"
    assert (manifest.threshold.method, manifest.threshold.calibration_windows) == ("held_out", 6)
    assert manifest.calibration is not None
    assert manifest.calibration.sessions == 3
    assert (manifest.training.files, manifest.training.windows) == (11, 22)
    assert (manifest.training.recipe, manifest.training.epochs) == ("duo", 2)
    variants = duo_run.out / "variants"
    assert sorted(path.name for path in variants.iterdir()) == [
        "dynamic",
        "float16",
        "float32",
        "int8",
    ]
    for folder in variants.iterdir():
        found = read_release(folder).manifest
        assert {model.quantisation for model in found.models} == {folder.name}
    assert Scorer(read_release(duo_run.out), find_runtime()).score(hiss(2)).statistic is not None


def test_nothing_but_our_own_notes(duo_run: Run, profile_run: Run) -> None:
    """Standard error has none of TensorFlow's lines; too few sessions are noted."""
    for run in (duo_run, profile_run):
        lines = run.done.stderr.splitlines()
        assert all(line.startswith("earshot training: ") for line in lines)
        assert any("3 sessions of normal sound, expected at least 5" in line for line in lines)


def test_paths_of_this_machine_stay_here(duo_run: Run, small_data: Path) -> None:
    """Neither the release nor what is beside it names a folder of this machine."""
    for path in duo_run.out.rglob("*.json"):
        text = path.read_text()
        assert str(small_data.parent) not in text
        assert str(duo_run.out.parent) not in text


def test_metrics(duo_run: Run) -> None:
    """Facts of the training and figures of the evaluation are in one document."""
    metrics = metrics_of(duo_run)

    assert metrics["release"] == "small-duo@1"
    assert (metrics["recipe"], metrics["recipe_settings"]["name"]) == ("duo", "duo")
    assert metrics["clip_score"] == "mean"
    assert metrics["windows"] == "all"
    assert (metrics["train_files"], metrics["train_windows"]) == (11, 22)
    assert metrics["held_out_files"] == len(metrics["held_out"]) == 3
    assert {len(of_windows) for of_windows in metrics["held_out"].values()} == {2}
    assert metrics["sessions"] == ["00/source/day_1", "00/target/day_2", "01/source/day_1"]
    assert metrics["session_check"] is None
    assert {name: len(epochs) for name, epochs in metrics["losses"].items()} == {
        "conv": 2,
        "profile": 2,
    }
    for epochs in metrics["losses"].values():
        assert epochs[1]["train_loss"] < epochs[0]["train_loss"]
    assert {"features", "training", "export", "seeds", "evaluation"} <= set(metrics["seconds"])
    assert len(metrics["clips"]) == 24


def test_two_seeds(duo_run: Run) -> None:
    """The second training differs in its seed alone; the first one's figures are the release's."""
    metrics = metrics_of(duo_run)
    first, second = metrics["seeds"]["each"]

    assert (first["seed"], second["seed"]) == (42, 43)
    assert metrics["seeds"]["official"]["count"] == 2
    assert metrics["seeds"]["official"]["mean"] == pytest.approx(
        (first["figures"]["official"] + second["figures"]["official"]) / 2
    )
    assert first["scores"] == pytest.approx([clip["score"] for clip in metrics["clips"]])
    assert second["scores"] != pytest.approx(first["scores"])
    assert first["figures"]["official"] == pytest.approx(metrics["official"])


def test_each_session_is_left_out_once(profile_run: Run) -> None:
    """Three sessions make three folds, and the threshold comes from what they left out."""
    assert profile_run.done.returncode == 0, profile_run.done.stderr
    check = metrics_of(profile_run)["session_check"]
    threshold = read_release(profile_run.out).manifest.threshold

    assert [(fold["session"], fold["windows"]) for fold in check["sessions"]] == [
        ("00/source/day_1", 10),
        ("00/target/day_2", 8),
        ("01/source/day_1", 10),
    ]
    shares = [fold["share_above"] for fold in check["sessions"]]
    assert check["worst_share_above"] == max(shares)
    assert check["mean_share_above"] == pytest.approx(np.mean(shares))
    assert threshold.method == "sessions_left_out"
    assert threshold.value == check["threshold"]["value"]
    assert threshold.calibration_windows == check["threshold"]["count"] == 28


def test_without_variants(profile_run: Run) -> None:
    """`--no-variants` writes the release alone."""
    assert not (profile_run.out / "variants").exists()
    assert list(metrics_of(profile_run)["variants"]) == ["float16"]


@pytest.mark.parametrize(("sessions", "method"), [(4, "held_out"), (5, "sessions_left_out")])
def test_threshold_comes_from_sessions_where_there_are_enough(
    train: Train, tmp_path: Path, write_wav: WriteWav, sessions: int, method: str
) -> None:
    """Left to itself, a training takes the threshold of sessions left out from five on."""
    for session in range(sessions):
        for index in range(2):
            seed = 2 * session + index
            write_wav(tmp_path / f"fan/normal/{session}/{index}.wav", hiss(2, seed=seed))

    outcome, _ = train(tmp_path / "fan", threshold_from="auto", folds=2)

    check = outcome.session_check
    assert check is not None
    threshold = outcome.manifest.threshold
    assert threshold.method == method
    assert (threshold.value == check.threshold.value) == (method == "sessions_left_out")


def test_threshold_of_sessions_left_out_where_there_are_none(
    train: Train, tmp_path: Path, write_wav: WriteWav
) -> None:
    """It is refused before a training that would take hours."""
    for index in range(4):
        write_wav(tmp_path / "fan" / NAME.format(index))
    long = with_epochs(read_recipe("profile"), 100_000)

    with pytest.raises(DataError, match="needs at least 2 sessions of normal sound"):
        train(tmp_path / "fan", threshold_from="sessions_left_out", folds=5, recipe=long)

    assert not (tmp_path / "out").exists()


def test_held_out_files_of_the_same_name(train: Train, tmp_path: Path, write_wav: WriteWav) -> None:
    """Files of several sessions may be named alike; each keeps its statistics."""
    for session in ("a", "b", "c", "d", "e"):
        for index in range(2):
            write_wav(tmp_path / f"fan/normal/{session}/{index}.wav", hiss(2, seed=index))

    outcome, _ = train(tmp_path / "fan", seed=1)

    assert outcome.held_out_files == len(outcome.held_out) == 2
    assert all(name.startswith("normal/") for name in outcome.held_out)


def test_no_test_clips(train: Train, tmp_path: Path, write_wav: WriteWav) -> None:
    """Without labelled test clips there is a release and no figure."""
    for index in range(6):
        write_wav(tmp_path / "fan" / NAME.format(index), hiss(2, seed=index))

    outcome, notes = train(tmp_path / "fan", seeds=3)

    metrics = json.loads((tmp_path / "out/metrics.json").read_text())
    assert (outcome.report, outcome.seeds) == (None, None)
    assert "official" not in metrics
    assert metrics["held_out_files"] == 2
    assert any("do not say which were made in one go" in note for note in notes)
    assert read_release(tmp_path / "out").manifest.calibration is not None


def test_unreadable_file_is_skipped_when_told(
    train: Train, tmp_path: Path, write_wav: WriteWav
) -> None:
    """A file that is no sound is refused by name, or left out and noted."""
    for index in range(4):
        write_wav(tmp_path / "fan" / NAME.format(index), hiss(2, seed=index))
    (tmp_path / "fan" / NAME.format(9)).write_text("x" * 100)

    with pytest.raises(DataError, match=r"0009\.wav: not a sound file"):
        train(tmp_path / "fan")
    assert not (tmp_path / "out").exists()

    outcome, notes = train(tmp_path / "fan", unreadable="skip")
    assert outcome.train_files + outcome.held_out_files == 4
    assert any("1 files skipped, not usable" in note and "0009.wav" in note for note in notes)


@pytest.mark.parametrize(
    ("bad", "expected"),
    [
        ("nothing", "no such folder"),
        ("empty", "no normal recordings"),
        ("anomaly", "expected only normal sound in train/"),
        ("truncated", "0003.wav: truncated"),
        ("one", "expected at least 2 train clips of one window or more"),
        ("short", "expected at least 2 train clips of one window or more"),
        ("silent", "expected at least 2 train clips of one window or more"),
        ("destination", "is not a folder"),
        ("network", "Expected 40 coefficients and 64 frames for the reference network"),
    ],
)
def test_bad_input(
    train: Train, tmp_path: Path, write_wav: WriteWav, bad: str, expected: str
) -> None:
    """Each thing wrong with the input is told in one line; nothing is written."""
    fan, out = tmp_path / "fan", tmp_path / "models" / "fan"
    sound = np.zeros(32_000, np.float32) if bad == "silent" else hiss(1 if bad == "short" else 2)
    recipe = with_epochs(read_recipe("profile"), 2)
    if bad == "empty":
        (fan / "train").mkdir(parents=True)
    elif bad != "nothing":
        for index in range(1 if bad == "one" else 4):
            write_wav(fan / NAME.format(index), sound)
    if bad == "anomaly":
        write_wav(fan / "train/section_00_source_train_anomaly_0000.wav")
    if bad == "truncated":
        path = fan / NAME.format(3)
        path.write_bytes(path.read_bytes()[:9000])
    if bad == "destination":
        out.parent.touch()
    if bad == "network":
        own = (ROOT / "training/recipes/reference.toml").read_text().replace("= 64", "= 63")
        (tmp_path / "own.toml").write_text(own)
        recipe = read_recipe(str(tmp_path / "own.toml"))

    with pytest.raises(EarshotError, match=expected) as caught:
        train(fan, out=out, recipe=recipe)

    assert "\n" not in str(caught.value)
    assert not out.exists()
    assert not list(tmp_path.rglob(".*"))


def test_a_file_that_sets_the_threshold_alone_is_named(
    train: Train, tmp_path: Path, write_wav: WriteWav
) -> None:
    """A held-out file unlike all others is named, with the threshold that is had without it."""
    for index in range(20):
        write_wav(tmp_path / "fan" / NAME.format(index), hiss(2, seed=index))
    # With seed 42 and 20 files, the first is held out.
    click = np.zeros(32_000, np.float32)
    click[::4000] = 0.9
    write_wav(tmp_path / "fan" / NAME.format(0), click)

    _, notes = train(tmp_path / "fan")

    assert any(f"rests on {Path(NAME.format(0)).name} alone; without it" in note for note in notes)


class Training:
    """A training in a process of its own, watched through its destination."""

    def __init__(self, data: Path, out: Path, environment: dict[str, str]) -> None:
        self.out = out
        arguments = ["--recipe", "profile", "--epochs", "2", "--seeds", "1", "--folds", "0"]
        self.process = subprocess.Popen(
            [
                *(sys.executable, "-m", "training", "train"),
                *("--data", str(data), "--out", str(out), "--overwrite", *arguments),
            ],
            cwd=ROOT,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    @property
    def parts(self) -> list[Path]:
        """What is half done at the destination."""
        return [path for path in self.out.parent.iterdir() if path.name.startswith(".")]

    def wait_until_it_writes(self) -> None:
        """Return while the release is put together."""
        deadline = time.monotonic() + 300
        while not any((part / "manifest.json").exists() for part in self.parts):
            assert time.monotonic() < deadline
            assert self.process.poll() is None, self.process.stderr and self.process.stderr.read()
            time.sleep(0.002)

    def end(self) -> tuple[int, list[str]]:
        """Wait; return the exit code and the lines on standard error."""
        _, stderr = self.process.communicate(timeout=400)
        return self.process.returncode, stderr.splitlines()


@pytest.fixture
def occupied(profile_run: Run, tmp_path: Path) -> Path:
    """Give a destination that has a release already."""
    return Path(shutil.copytree(profile_run.out, tmp_path / "models" / "fan"))


def content(folder: Path) -> dict[str, bytes]:
    """Every file below a folder."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted(
    small_data: Path,
    occupied: Path,
    training_environment: dict[str, str],
    number: signal.Signals,
) -> None:
    """Stopped while it writes, it takes away what it began; what was there before stays."""
    before = content(occupied)
    training = Training(small_data, occupied, training_environment)
    training.wait_until_it_writes()

    training.process.send_signal(number)

    code, said = training.end()
    assert code == 130
    # The last line: where the signal meets a destructor, Python has its own say before it.
    assert said[-1] == "earshot training: interrupted; nothing was written"
    assert training.parts == []
    assert content(occupied) == before


def test_killed(small_data: Path, occupied: Path, training_environment: dict[str, str]) -> None:
    """Killed while it writes, what was there before stays, and the next training replaces it."""
    before = content(occupied)
    training = Training(small_data, occupied, training_environment)
    training.wait_until_it_writes()

    training.process.kill()

    assert training.end()[0] == -signal.SIGKILL
    assert content(occupied) == before
    again = Training(small_data, occupied, training_environment)
    code, said = again.end()
    assert code == 0
    assert [line for line in said if not line.startswith("earshot training: ")] == []
    assert read_release(occupied).manifest.label == "fan@1"


def test_disk_full(small_data: Path, occupied: Path, training_environment: dict[str, str]) -> None:
    """Where the disk takes no more, one line says so; what was there before stays."""
    before = content(occupied)
    training = Training(small_data, occupied, training_environment)
    training.wait_until_it_writes()

    resource.prlimit(training.process.pid, resource.RLIMIT_FSIZE, (100, 100))

    code, said = training.end()
    assert code == 2
    reason = os.strerror(errno.EFBIG)
    assert said[-1] == f"earshot training: cannot write {occupied}: {reason}"
    assert training.parts == []
    assert content(occupied) == before


@pytest.mark.parametrize("recipe", ["reference", "repaired", "conv", "dense"])
def test_every_recipe_goes_from_recordings_to_a_report(
    small_data: Path, tmp_path: Path, run_training: RunTraining, recipe: str
) -> None:
    """Those that no other test trains as a whole end well too, figures and page included."""
    out = tmp_path / f"small-{recipe}"
    arguments = ["--recipe", recipe, "--epochs", "1", "--seeds", "1", "--folds", "0"]

    done = run_training(["train", "--data", small_data, "--out", out, *arguments, "--no-variants"])

    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    assert read_release(out).manifest.training.recipe == recipe
    assert {"metrics.json", "report.html", "results.csv"} <= {path.name for path in out.iterdir()}
