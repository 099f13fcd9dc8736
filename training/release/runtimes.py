"""Releases run in every inference library at hand: the one installed here, and tflite-runtime.

tflite-runtime 2.14 needs NumPy 1 and Python 3.11 and so has a virtual environment of its own, in
which `training.release.runtime_trial` runs as a child process.
"""

import os
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from contract.features import Float32Array
from training.release.runtime_trial import RuntimeTrial, read_trial, try_release

TFLITE_RUNTIME = "tflite-runtime"

_ROOT = Path(__file__).parents[2]
_CHILD_SECONDS = 3600


def find_tflite_python() -> Path | None:
    """Python of the environment with tflite-runtime: `make test` makes one beside the packages."""
    python = _ROOT / ".venv-tflite" / "bin" / "python"
    return python if python.exists() else None


def try_runtimes(
    folders: Sequence[Path], features: Float32Array, *, tflite_python: Path | None
) -> list[list[RuntimeTrial]]:
    """Run releases in the library installed here and in tflite-runtime.

    Args:
        folders: of releases.
        features: of the windows to judge, shape (n, coefficients, frames), n >= 1.
        tflite_python: Python of the environment that has tflite-runtime; None skips it by name.

    Returns:
        for each folder one trial of each library.
    """
    here = [try_release(folder, features) for folder in folders]
    if here and here[0].runtime == TFLITE_RUNTIME:
        return [[trial] for trial in here]
    there = _in_tflite_runtime(folders, features, tflite_python)
    return [[first, second] for first, second in zip(here, there, strict=True)]


def _in_tflite_runtime(
    folders: Sequence[Path], features: Float32Array, python: Path | None
) -> list[RuntimeTrial]:
    if python is None:
        reason = "no virtual environment that has it (`make test` makes one, on Python 3.11)"
        return [_skipped(reason)] * len(folders)
    with tempfile.TemporaryDirectory() as scratch:
        given, taken = Path(scratch) / "features.npy", Path(scratch) / "trials"
        np.save(given, features)
        command = [str(python), "-m", "training.release.runtime_trial", str(given), str(taken)]
        try:
            child = subprocess.run(
                [*command, *map(str, (folder.absolute() for folder in folders))],
                cwd=_ROOT,
                env={**os.environ, "PYTHONPATH": str(_ROOT)},
                capture_output=True,
                text=True,
                timeout=_CHILD_SECONDS,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            return [_skipped(f"cannot be run: {error}")] * len(folders)
        if child.returncode != 0:
            last = (child.stderr.strip().splitlines() or ["no reason given"])[-1]
            return [_skipped(f"its environment does not work: {last}")] * len(folders)
        return [read_trial(taken, index) for index in range(len(folders))]


def _skipped(reason: str) -> RuntimeTrial:
    return RuntimeTrial(
        runtime=TFLITE_RUNTIME,
        version=None,
        outcome="skipped",
        reason=reason[:300],
        operators=(),
        latency_ms=None,
        statistics=None,
    )
