"""Releases in both inference libraries."""

import sys
from pathlib import Path

import msgspec
import numpy as np
import pytest

from contract.release import describe_file, encode_manifest
from node.scoring.runtime import find_runtime
from tests.training.conftest import EPOCHS, SmallNetwork
from training.judge.scoring import stacked
from training.recipes import QUANTISATIONS, NetworkName, Quantisation
from training.release.runtime_trial import RuntimeTrial, try_release
from training.release.runtimes import TFLITE_RUNTIME, try_runtimes

Networks = dict[NetworkName, SmallNetwork]
TOLERANCE: dict[Quantisation, float] = {
    "float32": 1e-3,
    "float16": 1e-3,
    "dynamic": 1e-3,
    # Each library rounds in its own way.
    "int8": 0.03,
}
# Its error is so small that a step of its int8 output is a good part of it.
TOLERANCE_PROFILE_INT8 = 0.6
REFUSED = [("reference", "dynamic")]


@pytest.fixture(scope="module")
def trials(small_networks: Networks) -> dict[tuple[NetworkName, Quantisation], list[RuntimeTrial]]:
    """Run every network in every quantisation in both libraries."""
    python = Path(__file__).parents[3] / ".venv-tflite" / "bin" / "python"
    found: dict[tuple[NetworkName, Quantisation], list[RuntimeTrial]] = {}
    for name, network in small_networks.items():
        each = try_runtimes(
            [network.folders[quantisation] for quantisation in QUANTISATIONS],
            stacked(network.held_out),
            tflite_python=python if python.exists() else None,
        )
        found |= {(name, q): both for q, both in zip(QUANTISATIONS, each, strict=True)}
    return found


@pytest.mark.parametrize("quantisation", QUANTISATIONS)
@pytest.mark.parametrize("name", EPOCHS)
def test_both_libraries_agree(
    tflite_python: Path,
    trials: dict[tuple[NetworkName, Quantisation], list[RuntimeTrial]],
    name: NetworkName,
    quantisation: Quantisation,
) -> None:
    """tflite-runtime 2.14 gives the same statistics; what it refuses is refused with its reason."""
    here, there = trials[name, quantisation]
    assert (here.runtime, there.runtime) == (find_runtime().name, TFLITE_RUNTIME)
    assert (here.outcome, there.version) == ("ran", "2.14.0")
    if (name, quantisation) in REFUSED:
        assert there.outcome == "refused"
        assert "tflite-runtime 2.14.0 cannot load this model" in str(there.reason)
        assert (there.statistics, there.latency_ms, there.operators) == (None, None, ())
        return

    assert (there.outcome, there.reason) == ("ran", None)
    assert here.statistics is not None
    assert there.statistics is not None
    tolerance = TOLERANCE[quantisation]
    if (name, quantisation) == ("profile", "int8"):
        tolerance = TOLERANCE_PROFILE_INT8
    np.testing.assert_allclose(there.statistics, here.statistics, rtol=tolerance)
    assert there.operators == here.operators
    assert there.latency_ms is not None
    assert 0 < there.latency_ms.p50 <= there.latency_ms.p95


def test_missing_environment_is_said(small_networks: Networks) -> None:
    """Without the other environment each release has a trial that says why there is nothing."""
    network = small_networks["profile"]
    folders = [network.folders["float32"], network.folders["int8"]]

    found = try_runtimes(folders, stacked(network.held_out)[:1], tflite_python=None)

    assert [[trial.outcome for trial in each] for each in found] == [["ran", "skipped"]] * 2
    for _, skipped in found:
        assert skipped.runtime == TFLITE_RUNTIME
        assert "no virtual environment that has it" in str(skipped.reason)
        assert (skipped.statistics, skipped.version) == (None, None)


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        (None, "cannot be run: "),
        ("#!/bin/sh\necho 'ModuleNotFoundError: no msgspec' >&2; exit 1\n", "no msgspec"),
        ("#!/bin/sh\nexit 3\n", "its environment does not work: no reason given"),
        ("not a program", "cannot be run: "),
    ],
)
def test_broken_environment_is_said(
    small_networks: Networks, tmp_path: Path, script: str | None, reason: str
) -> None:
    """Whatever is wrong with the other environment is the reason of a skipped trial."""
    python = tmp_path / "python"
    if script is not None:
        python.write_text(script)
        python.chmod(0o755)
    network = small_networks["profile"]

    ((ran, skipped),) = try_runtimes(
        [network.folders["float32"]], stacked(network.held_out)[:1], tflite_python=python
    )

    assert (ran.outcome, skipped.outcome) == ("ran", "skipped")
    assert reason in str(skipped.reason)


def test_the_child_gives_what_this_process_does(small_networks: Networks) -> None:
    """Numbers come back from the other process bit for bit, here with the same library in it."""
    network = small_networks["profile"]
    windows = stacked(network.held_out)

    ((here, there),) = try_runtimes(
        [network.folders["float16"]], windows, tflite_python=Path(sys.executable)
    )

    assert here.statistics is not None
    assert there.statistics is not None
    assert there.statistics.tolist() == here.statistics.tolist()
    assert (there.runtime, there.version) == (here.runtime, here.version)
    assert there.operators == here.operators
    assert there.latency_ms is not None
    assert there.latency_ms.windows == 200


def test_release_that_the_library_refuses(small_networks: Networks, tmp_path: Path) -> None:
    """A file that is no graph is refused with what the library says, in one line."""
    network = small_networks["profile"]
    manifest = network.assembled["float32"].release.manifest
    content = b"\x1c\0\0\0TFL3" + bytes(100)
    broken = msgspec.structs.replace(manifest, files=(describe_file("profile.tflite", content),))
    (tmp_path / "manifest.json").write_bytes(encode_manifest(broken))
    (tmp_path / "profile.tflite").write_bytes(content)

    trial = try_release(tmp_path, stacked(network.held_out)[:1])

    assert trial.outcome == "refused"
    assert "cannot load this model" in str(trial.reason)
    assert "\n" not in str(trial.reason)
