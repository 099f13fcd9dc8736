"""Release folders as `training release` packs them, of bytes that are no model."""

import random
from pathlib import Path

from contract.feature_params import FeatureParams
from contract.release import (
    ENVELOPE_NAME,
    MANIFEST_NAME,
    Manifest,
    Model,
    Threshold,
    Training,
    describe_file,
    encode_manifest,
)
from contract.signature import Signer
from contract.signed_manifest import sign_manifest
from tests.rig.signers import SIGNER

MODEL_NAME = "model.tflite"


def content(size_bytes: int = 100_000, *, seed: int = 0) -> bytes:
    """Bytes of a file; the same for the same seed."""
    return random.Random(seed).randbytes(size_bytes)


def manifest(
    file: bytes,
    *,
    name: str = "fan",
    version: int = 2,
    runtimes: tuple[str, ...] = (),
    not_after_us: int | None = None,
) -> Manifest:
    """For these bytes."""
    return Manifest(
        name=name,
        version=version,
        created_us=0,
        description="for a test",
        features=FeatureParams(),
        window_hop_samples=16_000,
        files=(describe_file(MODEL_NAME, file),),
        models=(
            Model(
                file=MODEL_NAME,
                input_shape=(1, 40, 64, 1),
                output_shape=(1, 40, 64, 1),
                output="reconstruction",
                error="mse",
                log_error=None,
                parameters=None,
                runtimes=runtimes,
            ),
        ),
        statistic="error",
        threshold=Threshold(
            value=1.0, method="given", false_alarm_rate=None, calibration_windows=0
        ),
        calibration=None,
        training=Training(
            command="none", recipe=None, data="none", files=0, windows=0, seed=None, epochs=None
        ),
        not_after_us=not_after_us,
    )


def packed(
    folder: Path, made: Manifest, file: bytes, *, signer: Signer = SIGNER, name: str | None = None
) -> Path:
    """Write a packed release below a folder, and return where it is."""
    folder = folder / (name or made.label)
    folder.mkdir(parents=True)
    (folder / MODEL_NAME).write_bytes(file)
    (folder / MANIFEST_NAME).write_bytes(encode_manifest(made))
    (folder / ENVELOPE_NAME).write_bytes(sign_manifest(made, signer))
    return folder


def release(folder: Path, version: int = 2) -> Path:
    """A packed release of 100 kB, other ones for each version."""
    file = content(seed=version)
    return packed(folder, manifest(file, version=version), file)
