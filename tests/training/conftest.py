"""Recordings and releases to test with, made where they are needed."""

import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import soundfile

from contract.features import FeatureParams, Float32Array
from contract.release import Manifest, Model, Threshold, Training, describe_file

ROOT = Path(__file__).parents[2]
RATE_HZ = 16_000

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
def run_training() -> RunTraining:
    """Run `python -m training` with these arguments."""

    def run(arguments: Sequence[str | Path]) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [sys.executable, "-m", "training", *map(str, arguments)],
            cwd=ROOT,
            env={**os.environ, "PYTHONWARNINGS": ""},
            capture_output=True,
            text=True,
            timeout=120,
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
