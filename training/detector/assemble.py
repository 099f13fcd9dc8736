"""From trained networks to a release: graphs exported, errors made one statistic, threshold set.

All numbers come from the exported files, run by the node's own code over normal windows that no
network was trained on: what is measured here is what a node will do.
"""

from collections.abc import Sequence

import msgspec
import numpy as np

from contract.features import Float32Array
from contract.release import (
    Calibration,
    LogNormals,
    Manifest,
    Model,
    Threshold,
    Training,
    describe_file,
)
from node.scoring.detector import Detector
from node.scoring.release_store import Release
from node.scoring.runtime import LoadedModel, Runtime
from training.detector.autoencoders import Trained
from training.detector.quantize import to_tflite
from training.errors import TrainingError
from training.judge.metrics import Float64Array, ScoredClip
from training.judge.scoring import scored, stacked
from training.judge.thresholds import ThresholdChoice, conformal_quantile
from training.recipes import ModelRecipe, Quantisation, Recipe
from training.release.runtime_trial import statistics
from training.sound.feature_cache import ClipFeatures

# What a float32 graph may differ from the network, relative to the largest number that it gives.
_EXPORT_TOLERANCE = 1e-3
_COMPARED_WINDOWS = 16
# The spread of log errors that are all alike; smaller, and every window would be far out.
_SMALLEST_SD = 1e-3


class Identity(msgspec.Struct, frozen=True, kw_only=True):
    """What a manifest says that does not depend on the exported models."""

    name: str
    version: int
    created_us: int
    description: str
    window_hop_samples: int
    training: Training


class Assembled(msgspec.Struct, frozen=True):
    """A release, and what it says of the held-out clips."""

    release: Release
    held_out: list[ScoredClip]
    threshold: ThresholdChoice


def assemble(
    identity: Identity,
    recipe: Recipe,
    networks: Sequence[Trained],
    quantisation: Quantisation,
    *,
    normal: Float32Array,
    held_out: Sequence[ClipFeatures],
    sessions: int | None,
    false_alarm_rate: float,
    runtime: Runtime,
) -> Assembled:
    """Make the release of one quantisation.

    Args:
        identity: name, version and origin.
        recipe: of the networks.
        networks: trained, one for each model of the recipe.
        quantisation: of all models.
        normal: features of training windows; int8 takes its ranges from them.
        held_out: normal clips that no network was trained on.
        sessions: how many sessions of normal sound training has heard; None if unknown.
        false_alarm_rate: share of held-out windows that the threshold lets through.
        runtime: inference library.

    Raises:
        TrainingError: an exported graph does not do what its network does, or gives no number.
    """
    exported = [
        _Exported(model, network, quantisation, to_tflite(network, quantisation, normal))
        for model, network in zip(recipe.models, networks, strict=True)
    ]
    if quantisation == "float32":
        for part in exported:
            _check_export(part, runtime, stacked(held_out)[:_COMPARED_WINDOWS])
    release = _release(identity, recipe, exported, runtime)
    features = stacked(held_out)
    if len(networks) > 1:
        release = _with_log_errors(release, Detector(release, runtime), features)
    of_windows = statistics(Detector(release, runtime), features)
    held_out_scored = scored(held_out, of_windows)
    choice = conformal_quantile(of_windows, false_alarm_rate=false_alarm_rate)
    manifest = msgspec.structs.replace(
        release.manifest,
        threshold=Threshold(
            value=choice.value,
            method="held_out",
            false_alarm_rate=choice.false_alarm_rate,
            calibration_windows=choice.count,
        ),
        calibration=Calibration(log_statistic=_log_normals(of_windows), sessions=sessions),
    )
    return Assembled(Release(manifest, release.files), held_out_scored, choice)


class _Exported(msgspec.Struct, frozen=True):
    recipe: ModelRecipe
    network: Trained
    quantisation: Quantisation
    content: bytes

    @property
    def file(self) -> str:
        return f"{self.recipe.network}.tflite"


def _release(
    identity: Identity, recipe: Recipe, exported: Sequence[_Exported], runtime: Runtime
) -> Release:
    files = {part.file: part.content for part in exported}
    # Until the models have judged normal windows.
    threshold = Threshold(value=1.0, method="given", false_alarm_rate=None, calibration_windows=0)
    log_error = LogNormals(mean=0.0, sd=1.0) if len(exported) > 1 else None
    manifest = Manifest(
        name=identity.name,
        version=identity.version,
        created_us=identity.created_us,
        description=identity.description,
        features=recipe.features,
        window_hop_samples=identity.window_hop_samples,
        files=tuple(describe_file(name, content) for name, content in files.items()),
        models=tuple(_model(part, log_error, runtime) for part in exported),
        statistic="exp_sum_log_z" if len(exported) > 1 else "error",
        threshold=threshold,
        calibration=None,
        training=identity.training,
    )
    return Release(manifest, files)


def _model(part: _Exported, log_error: LogNormals | None, runtime: Runtime) -> Model:
    loaded = LoadedModel(part.content, runtime)
    if loaded.input_shape[0] != 1:
        raise TrainingError(f"Expected a graph with a batch of 1, got {loaded.input_shape}")
    return Model(
        file=part.file,
        input_shape=loaded.input_shape,
        output_shape=loaded.output_shape,
        output=part.network.output,
        error=part.recipe.error,
        log_error=log_error,
        parameters=part.network.parameters,
        quantisation=part.quantisation,
        runtimes=(runtime.name,),
    )


def _with_log_errors(release: Release, detector: Detector, features: Float32Array) -> Release:
    """The release with what each model's errors are on normal windows."""
    errors = np.array([detector(window).errors for window in features], np.float64)
    if not (np.isfinite(errors).all() and errors.min() > 0):
        raise TrainingError("a model gave no positive error for a held-out window")
    models = tuple(
        msgspec.structs.replace(model, log_error=_log_normals(errors[:, index]))
        for index, model in enumerate(release.manifest.models)
    )
    return Release(msgspec.structs.replace(release.manifest, models=models), release.files)


def _log_normals(values: Float64Array) -> LogNormals:
    logs = np.log(values)
    return LogNormals(mean=float(logs.mean()), sd=max(float(logs.std()), _SMALLEST_SD))


def _check_export(part: _Exported, runtime: Runtime, features: Float32Array) -> None:
    """Raise `TrainingError` if the exported graph does not do what the network does."""
    exported = LoadedModel(part.content, runtime)
    wanted = part.network(features)
    found = np.stack([exported(window) for window in features])
    difference = float(np.abs(found - wanted).max())
    if not difference <= _EXPORT_TOLERANCE * max(1.0, float(np.abs(wanted).max())):
        raise TrainingError(
            f"the exported model differs from the trained one: by {difference:.3g} where the"
            f" largest number is {np.abs(wanted).max():.3g}"
        )
