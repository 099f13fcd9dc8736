"""`earshot training`, as a person runs it."""

import json
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from node.scoring.release_store import read_release
from tests.rig.programs import start
from tests.rig.waiting import wait_until
from tests.training.conftest import ROOT, Run, RunTraining


def test_synthesize_says_what_it_wrote(tmp_path: Path, run_training: RunTraining) -> None:
    """One line with the number of clips and where they are, and nothing else."""
    arguments = ["--units", "0", "--train-clips", "2", "--test-clips", "2", "--seconds", "1"]

    done = run_training(["synthesize", "--out", tmp_path / "fans", *arguments])

    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"9 clips of 1 s in {tmp_path / 'fans' / 'fan'}\n"


def test_evaluate_prints_and_writes_figures(
    profile_run: Run, small_data: Path, tmp_path: Path, run_training: RunTraining
) -> None:
    """Figures beside yardsticks on standard output, all of them in the JSON, no path in either."""
    figures = tmp_path / "figures.json"

    done = run_training(["evaluate", profile_run.out, "--data", small_data, "--json", figures])

    (warning,) = done.stderr.splitlines()
    assert done.returncode == 0
    assert warning.startswith("earshot training: few test clips, so that figures are rough: ")
    for word in ("small-profile@1, profile, on small (fan, DCASE 2021)", "level", "flag-all"):
        assert word in done.stdout
    document = json.loads(figures.read_text())
    assert document["command"] == (
        "earshot training evaluate small-profile --data small --json figures.json"
    )
    assert str(small_data.parent) not in figures.read_text()


def test_quantize_takes_a_variant_out(
    duo_run: Run, tmp_path: Path, run_training: RunTraining
) -> None:
    """It becomes a release of its own, with its own name, as the run's variant was."""
    out = tmp_path / "fan-int8"

    done = run_training(["quantize", duo_run.out, "--to", "int8", "--out", out, "--version", "4"])

    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(f"fan-int8@4 in {out}: int8, ")
    found, variant = read_release(out), read_release(duo_run.out / "variants/int8")
    assert found.files == variant.files
    assert found.manifest.label == "fan-int8@4"
    assert found.manifest.threshold == variant.manifest.threshold


def test_compare_tells_two_runs_apart(
    duo_run: Run, profile_run: Run, run_training: RunTraining
) -> None:
    """Both are named, each with its figures, and the difference of each figure has an interval."""
    done = run_training(["compare", duo_run.out, profile_run.out])

    assert (done.returncode, done.stderr) == (0, "")
    assert "small-duo@1" in done.stdout
    assert "small-profile@1" in done.stdout
    for figure in ("official", "auc", "pauc"):
        assert re.search(rf"^{figure} .*\d\.\d", done.stdout, re.MULTILINE | re.IGNORECASE)


def test_reproduce_makes_a_table_once(
    small_data: Path, tmp_path: Path, run_training: RunTraining
) -> None:
    """Recipes stand beside yardsticks in it; a second time, nothing is trained again."""
    out = tmp_path / "table"
    arguments = ["reproduce", "--data", small_data, "--recipes", "profile", "--out", out]
    arguments += ["--epochs", "1", "--seeds", "1", "--no-variants"]

    done = run_training(arguments)

    assert done.returncode == 0, done.stderr
    assert all(line.startswith("earshot training: ") for line in done.stderr.splitlines())
    table = json.loads((out / "table.json").read_text())
    kinds = {row["name"]: row["kind"] for row in table["rows"]}
    assert kinds["profile"] == "recipe"
    assert kinds["knn"] == "yardstick"
    assert str(small_data.parent) not in (out / "table.json").read_text()
    (manifest,) = out.rglob("manifest.json")
    before = manifest.read_bytes()
    again = run_training(arguments)
    assert (again.returncode, again.stdout) == (0, done.stdout)
    assert manifest.read_bytes() == before


def test_train_keeps_a_release_that_is_there(
    profile_run: Run, small_data: Path, run_training: RunTraining
) -> None:
    """Training into a release again is refused at once."""
    out = profile_run.out
    before = (out / "manifest.json").read_bytes()

    done = run_training(["train", "--data", small_data, "--out", out])

    assert done.returncode == 2
    problem = f"{out}: is a release already; --overwrite replaces it"
    assert done.stderr == f"earshot training: {problem}\n"
    assert (out / "manifest.json").read_bytes() == before


def test_manifest_has_the_command(profile_run: Run) -> None:
    """It is what was typed, each option of it, with names for paths."""
    command = read_release(profile_run.out).manifest.training.command

    assert command == (
        "earshot training train --data small --out small-profile --epochs 2 --seeds 1"
        " --no-variants --threshold-from sessions-left-out"
    )


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["train", "--data", "x", "--out", "y", "--recipe", "duet"], "Expected a recipe out of"),
        (["train", "--data", "x", "--out", "y", "--recipe", "no.toml"], "no.toml: cannot read"),
        (["train", "--data", "x", "--out", "Y 1"], "Expected a release name of lower-case"),
        (["train", "--data", "no-such-data", "--out", "y"], "no-such-data: no such folder"),
        (["evaluate", "no-such-release", "--data", "x"], "expected a release folder"),
        (["synthesize", "--out", "y", "--machine", "toaster"], "got 'toaster'"),
    ],
)
def test_one_line_for_what_is_wrong(
    run_training: RunTraining, arguments: list[str], expected: str
) -> None:
    """Exit code 2 and one line on standard error."""
    done = run_training(arguments)

    (line,) = done.stderr.splitlines()
    assert (done.returncode, done.stdout) == (2, "")
    assert line.startswith("earshot training: ")
    assert expected in line


@pytest.mark.parametrize(
    "arguments",
    [
        ["train", "--data", "x", "--out", "y", "--epochs", "0"],
        ["train", "--data", "x", "--out", "y", "--false-alarm-rate", "1"],
        ["train", "--data", "x", "--out", "y", "--seed", "-1"],
        ["train", "--data", "x", "--out", "y", "--seeds", "0"],
        ["train", "--data", "x", "--out", "y", "--folds", "-1"],
        ["train", "--data", "x", "--out", "y", "--quantisation", "int4"],
        ["train", "--data", "x", "--out", "y", "--threshold-from", "hope"],
        ["train", "--data", "x", "--out", "y", "--unreadable", "guess"],
        ["train", "--out", "y"],
        ["evaluate", "--data", "x"],
        ["synthesize", "--out", "y", "--units", "3-1"],
        ["import", "x.tflite", "--out", "y", "--threshold", "nan"],
        ["import", "x.tflite", "--out", "y", "--threshold", "0"],
    ],
)
def test_arguments_out_of_range(run_training: RunTraining, arguments: list[str]) -> None:
    """Arguments that cannot be are refused with the usage."""
    done = run_training(arguments)

    assert done.returncode == 2
    assert f"earshot training {arguments[0]} [-h]" in " ".join(done.stderr.split())
    assert "Traceback" not in done.stderr


def test_nothing_asked_for_is_the_whole_help(run_training: RunTraining) -> None:
    """The operator's commands are listed with those that train."""
    done = run_training([])

    assert done.returncode == 0
    for command in ("train ", "import ", "push "):
        assert f"    {command}" in done.stdout


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
    with start("training", *arguments, settings={}) as process:
        wait_until(lambda: bool(list(tmp_path.rglob("*.wav"))), "a clip", seconds=120)

        process.send_signal(number)
        _, stderr = process.communicate(timeout=120)

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
