"""A model from elsewhere, described so that a node can run it."""

import time
from pathlib import Path

import msgspec
import numpy as np

from contract.errors import ReleaseError
from contract.feature_params import FeatureParams
from contract.features import FeatureExtractor
from contract.release import (
    MAX_COMMAND,
    MAX_FILE_BYTES,
    Manifest,
    Model,
    Threshold,
    Training,
    describe_file,
)
from node.scoring.release_store import Release
from node.scoring.runtime import LoadedModel, find_runtime
from training.release.release_folder import MODEL_NAME, check_destination, write_release


class ImportRequest(msgspec.Struct, frozen=True, kw_only=True):
    """Which model, and what to say of it."""

    file: Path
    threshold: float
    out: Path
    name: str
    version: int
    description: str | None
    overwrite: bool
    command: str
    """The command that does this, without paths of this machine."""


def import_model(request: ImportRequest, *, hop_seconds: float = 1.0) -> Manifest:
    """Write a release around a TFLite file, with the reference design's features.

    Raises:
        ReleaseError: the file is no model that fits these features and runs here.
        DestinationError: the release may not or cannot be written.
    """
    check_destination(request.out, overwrite=request.overwrite)
    content = _read(request.file)
    runtime = find_runtime()
    params = FeatureParams()
    model = LoadedModel(content, runtime)
    manifest = Manifest(
        name=request.name,
        version=request.version,
        created_us=time.time_ns() // 1000,
        description=request.description or f"Imported from {request.file.name}",
        features=params,
        window_hop_samples=round(hop_seconds * params.sample_rate_hz),
        files=(describe_file(MODEL_NAME, content),),
        models=(
            Model(
                file=MODEL_NAME,
                input_shape=model.input_shape,
                output_shape=model.output_shape,
                output="reconstruction",
                error="mse",
                log_error=None,
                parameters=None,
                runtimes=(runtime.name,),
            ),
        ),
        statistic="error",
        threshold=Threshold(
            value=request.threshold, method="given", false_alarm_rate=None, calibration_windows=0
        ),
        calibration=None,
        training=Training(
            command=request.command[:MAX_COMMAND],
            recipe=None,
            data="not known: trained elsewhere",
            files=0,
            windows=0,
            seed=None,
            epochs=None,
        ),
    )
    _try_out(model, params)
    write_release(
        request.out, Release(manifest, {MODEL_NAME: content}), overwrite=request.overwrite
    )
    return manifest


def _try_out(model: LoadedModel, params: FeatureParams) -> None:
    noise = np.random.default_rng(0).normal(0, 0.05, params.window_samples).astype(np.float32)
    if not np.isfinite(model(FeatureExtractor(params)(noise))).all():
        raise ReleaseError("the model answers noise with NaN or infinity")


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as stream:
            content = stream.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise ReleaseError(f"{path}: cannot read: {error.strerror}") from error
    if not 1 <= len(content) <= MAX_FILE_BYTES:
        raise ReleaseError(f"{path}: expected a model of 1 to {MAX_FILE_BYTES} bytes")
    return content
