"""`python -m training`, as a person runs it."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from node.release_store import read_release
from node.runtime import find_runtime
from node.scorer import Scorer
from tests.training.conftest import ROOT, RunTraining, WriteWav, hiss

TRAIN = "train/section_00_source_train_normal_{:04d}.wav"


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory, run_training: RunTraining) -> Path:
    """Generate a small data set."""
    folder = tmp_path_factory.mktemp("data") / "fans"
    arguments = ["--units", "0", "--train-clips", "8", "--test-clips", "4", "--seconds", "4"]
    done = run_training(["synthesize", "--out", folder, *arguments])
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"19 clips of 4 s in {folder / 'fan'}\n"
    return folder


@pytest.fixture(scope="module")
def trained(
    data: Path, tmp_path_factory: pytest.TempPathFactory, run_training: RunTraining
) -> tuple[Path, "subprocess.CompletedProcess[str]"]:
    """Train on it, briefly."""
    out = tmp_path_factory.mktemp("models") / "small-fan"
    return out, run_training(["train", "--data", data, "--out", out, "--epochs", "2"])


def test_train_writes_a_release(
    trained: tuple[Path, "subprocess.CompletedProcess[str]"], data: Path
) -> None:
    """The release can be scored with, and says where it comes from without naming paths."""
    out, done = trained
    assert done.returncode == 0, done.stderr

    release = read_release(out)
    manifest = release.manifest
    assert manifest.model.parameters == 386_529
    assert manifest.model.input_shape == (1, 40, 64, 1)
    assert manifest.window_hop_samples == 16_000
    # 11 clips of 3 windows, of which 3 are held out; 9 windows show 10 % at best.
    assert (manifest.training.files, manifest.training.windows) == (8, 24)
    assert manifest.threshold.calibration_windows == 9
    assert manifest.threshold.false_alarm_rate == pytest.approx(0.1)
    assert "cannot show a false-alarm rate of 0.01" in done.stderr
    assert str(data.parent) not in (out / "manifest.json").read_text()
    assert str(data.parent) not in (out / "metrics.json").read_text()
    assert Scorer(release, find_runtime()).score(hiss(2)).mse is not None


def test_train_prints_figures_beside_yardsticks(
    trained: tuple[Path, "subprocess.CompletedProcess[str]"],
) -> None:
    """The summary has AUC and F1 per domain, never without level and flag-all; so has the file."""
    out, done = trained
    metrics = json.loads((out / "metrics.json").read_text())

    for word in ("386529 parameters", "AUC", "level AUC", "flag-all F1", "source", "target"):
        assert word in done.stdout
    assert set(metrics["test"]) == {"source", "target", "overall"}
    assert metrics["test"]["overall"]["flag_all_f1"] == pytest.approx(2 / 3)
    assert metrics["held_out_windows"] == 9
    assert [loss["number"] for loss in metrics["losses"]] == [1, 2]


def test_train_does_not_chatter(
    trained: tuple[Path, "subprocess.CompletedProcess[str]"],
) -> None:
    """Standard error has our own lines and none of TensorFlow's."""
    assert all(line.startswith("earshot training: ") for line in trained[1].stderr.splitlines())


def test_train_keeps_a_release_that_is_there(
    trained: tuple[Path, "subprocess.CompletedProcess[str]"], data: Path, run_training: RunTraining
) -> None:
    """Training into a release again is refused at once."""
    out, _ = trained
    before = (out / "manifest.json").read_bytes()

    done = run_training(["train", "--data", data, "--out", out])

    assert done.returncode == 2
    problem = f"{out}: is a release already; --overwrite replaces it"
    assert done.stderr == f"earshot training: {problem}\n"
    assert (out / "manifest.json").read_bytes() == before


@pytest.mark.parametrize(
    ("bad", "expected"),
    [
        ("nothing", "no such folder"),
        ("empty", "no normal recordings"),
        ("anomaly", "expected only normal sound in train/"),
        ("truncated", "0003.wav: truncated"),
        ("bad_test", "source_test_normal_0000.wav: not a sound file"),
        ("short", "expected at least 2 train clips of one window or more"),
        ("silent", "expected at least 2 train clips of one window or more"),
        ("name", "Expected a release name of lower-case letters"),
        ("destination", "is not a folder"),
    ],
)
def test_bad_input(
    tmp_path: Path, write_wav: WriteWav, run_training: RunTraining, bad: str, expected: str
) -> None:
    """Each thing wrong with the input is one line on standard error; nothing is written."""
    fan, out = tmp_path / "fan", tmp_path / "models" / "fan"
    seconds = 1 if bad == "short" else 2
    sound = np.zeros(32_000, np.float32) if bad == "silent" else hiss(seconds)
    if bad == "empty":
        (fan / "train").mkdir(parents=True)
    elif bad != "nothing":
        for index in range(4):
            write_wav(fan / TRAIN.format(index), sound)
    if bad == "anomaly":
        write_wav(fan / "train/section_00_source_train_anomaly_0000.wav")
    if bad == "truncated":
        path = fan / TRAIN.format(3)
        path.write_bytes(path.read_bytes()[:9000])
    if bad == "bad_test":
        (fan / "source_test").mkdir()
        (fan / "source_test/section_00_source_test_normal_0000.wav").write_text("x" * 100)
    if bad == "name":
        out = out.with_name("Fan 1")
    if bad == "destination":
        out.parent.touch()

    done = run_training(["train", "--data", fan, "--out", out])

    lines = done.stderr.splitlines()
    assert (done.returncode, done.stdout) == (2, "")
    assert lines[-1].startswith("earshot training: ")
    assert expected in lines[-1]
    assert all(line.startswith("earshot training: ") for line in lines)
    assert not out.exists()
    assert not list(tmp_path.rglob(".*"))


def test_a_file_that_sets_the_threshold_alone_is_named(
    tmp_path: Path, write_wav: WriteWav, run_training: RunTraining
) -> None:
    """A held-out file unlike all others is named, with the threshold that is had without it."""
    for index in range(20):
        write_wav(tmp_path / "fan" / TRAIN.format(index), hiss(2, seed=index))
    # With seed 42 and 20 files, the first is held out.
    click = np.zeros(32_000, np.float32)
    click[::4000] = 0.9
    write_wav(tmp_path / "fan" / TRAIN.format(0), click)

    done = run_training(
        ["train", "--data", tmp_path / "fan", "--out", tmp_path / "m", "--epochs", "9"]
    )

    assert done.returncode == 0
    assert f"rests on {Path(TRAIN.format(0)).name} alone; without it" in done.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["train", "--data", "x", "--out", "y", "--epochs", "0"],
        ["train", "--data", "x", "--out", "y", "--false-alarm-rate", "1"],
        ["train", "--data", "x", "--out", "y", "--seed", "-1"],
        ["synthesize", "--out", "y", "--units", "3-1"],
        ["synthesize", "--out", "y", "--machine", "toaster"],
        ["import", "x.tflite", "--out", "y", "--threshold", "nan"],
        ["import", "x.tflite", "--out", "y", "--threshold", "0"],
    ],
)
def test_arguments_out_of_range(run_training: RunTraining, arguments: list[str]) -> None:
    """Arguments that cannot be are refused with the usage."""
    done = run_training(arguments)

    assert done.returncode == 2
    assert "usage: python -m training" in done.stderr
    assert "Traceback" not in done.stderr


def test_synthesize_refuses_what_cannot_be(tmp_path: Path, run_training: RunTraining) -> None:
    """A fault that there is not is one line with those that there are."""
    done = run_training(["synthesize", "--out", tmp_path / "x", "--faults", "rust"])

    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert "bearing, imbalance, rubbing" in done.stderr
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted(tmp_path: Path, number: signal.Signals) -> None:
    """Stopped half-way, it takes away what it began and says so."""
    arguments = ["synthesize", "--out", str(tmp_path / "data"), "--train-clips", "9999"]
    process = subprocess.Popen(
        [sys.executable, "-m", "training", *arguments],
        cwd=ROOT,
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 30
    while not list(tmp_path.rglob("*.wav")):
        assert time.monotonic() < deadline
        assert process.poll() is None

    process.send_signal(number)
    _, stderr = process.communicate(timeout=30)

    assert process.returncode == 130
    assert stderr == "earshot training: interrupted; nothing was written\n"
    assert list(tmp_path.iterdir()) == []


def test_help_is_quick_and_light(tmp_path: Path) -> None:
    """Neither `--help` nor `synthesize` loads TensorFlow, scikit-learn or librosa."""
    code = (
        "import sys; from training.__main__ import main;"
        f"main(['synthesize', '--out', {str(tmp_path / 'x')!r}, '--units', '0', '--train-clips',"
        " '1', '--target-clips', '0', '--test-clips', '0', '--seconds', '1']);"
        "heavy = {'tensorflow', 'keras', 'sklearn', 'scipy', 'librosa', 'numba'};"
        "print(sorted(heavy & set(sys.modules)))"
    )

    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )

    assert done.stdout.splitlines()[-1] == "[]"
