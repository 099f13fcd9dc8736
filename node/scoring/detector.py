"""From the features of a window to the number that decides: models run, errors made one statistic.

What is computed is written in the release's manifest, and nothing else is known here: see
`contract.release.Model` and `contract.release.Manifest.statistic`.
"""

import math

import msgspec
import numpy as np

from contract.errors import ReleaseError
from contract.features import Float32Array
from contract.release import Manifest, Model, squeezed
from node.scoring.release_store import Release
from node.scoring.runtime import LoadedModel, Runtime

# As the manifest's `exp_sum_log_z` says: exp(300) and its inverse are numbers that JSON, InfluxDB
# and float64 all hold. A reconstruction that is exact has no logarithm; this is below any real one.
_LARGEST_LOG = 300.0
_SMALLEST_ERROR = 1e-30


class Judged(msgspec.Struct, frozen=True):
    """What the models make of one window; NaN or infinity where they gave no number."""

    mse: float
    """The mean squared residual of the release's first model."""
    statistic: float
    errors: tuple[float, ...]
    """Of each model, what its manifest entry says counts."""


class Detector:
    """Runs all models of a release on the features of one window after another.

    Args:
        release: whose models and statistic to use.
        runtime: inference library.
        threads: how many that may use.

    Raises:
        ReleaseError: the runtime cannot load a model, or its shapes are not the manifest's.
    """

    def __init__(self, release: Release, runtime: Runtime, *, threads: int = 1) -> None:
        self.manifest = release.manifest
        self._models = [
            (model, _load(release, model, runtime, threads)) for model in self.manifest.models
        ]

    def __call__(self, features: Float32Array) -> Judged:
        """Judge one window.

        Args:
            features: float32 of the shape that the manifest's feature parameters give.
        """
        return self.judge(self.residuals(features))

    def judge(self, residuals: tuple[Float32Array, ...]) -> Judged:
        """What the residuals of one window come to, as `residuals` gives them."""
        # A model that answers with infinity is told by the scorer, and needs no warning of NumPy's.
        with np.errstate(over="ignore", invalid="ignore"):
            errors = tuple(
                _error(model, residual)
                for (model, _), residual in zip(self._models, residuals, strict=True)
            )
            mse = _mean_square(residuals[0])
        return Judged(mse, statistic(self.manifest, errors), errors)

    def residuals(self, features: Float32Array) -> tuple[Float32Array, ...]:
        """What each model leaves over of one window.

        Args:
            features: float32 of the shape that the manifest's feature parameters give.

        Returns:
            The features less their reconstruction, in their shape, or the output of a model that
            gives a residual, in its own.
        """
        with np.errstate(over="ignore", invalid="ignore"):
            return tuple(_residual(model, loaded, features) for model, loaded in self._models)

    @property
    def operators(self) -> tuple[str, ...]:
        """Kinds of TFLite operators in the models, in alphabetical order."""
        return tuple(sorted({kind for _, model in self._models for kind in model.operators}))


def statistic(manifest: Manifest, errors: tuple[float, ...]) -> float:
    """What the release decides on, from the error of each of its models; NaN if one has none."""
    if manifest.statistic == "error":
        return errors[0]
    if not all(map(math.isfinite, errors)):
        return math.nan
    return exp_sum_log_z(manifest.models, errors)


def exp_sum_log_z(models: tuple[Model, ...], errors: tuple[float, ...]) -> float:
    """Several models' errors as one positive number, 1 where all are as for normal windows.

    Args:
        models: each with the mean and the sd of its log error over normal windows.
        errors: of one window, one per model.
    """
    total = 0.0
    for model, error in zip(models, errors, strict=True):
        assert model.log_error is not None
        log_error = math.log(max(error, _SMALLEST_ERROR))
        total += (log_error - model.log_error.mean) / model.log_error.sd
    return math.exp(min(max(total, -_LARGEST_LOG), _LARGEST_LOG))


def _load(release: Release, model: Model, runtime: Runtime, threads: int) -> LoadedModel:
    try:
        loaded = LoadedModel(release.content(model), runtime, threads=threads)
    except ReleaseError as error:
        raise ReleaseError(f"{release.manifest.label}: {model.file}: {error}") from error
    _check_shapes(release.manifest, model, loaded)
    return loaded


def _residual(model: Model, loaded: LoadedModel, features: Float32Array) -> Float32Array:
    output = loaded(features)
    if model.output == "residual":
        return output
    return features - output.reshape(features.shape)


def _error(model: Model, residual: Float32Array) -> float:
    if model.error == "time_mean_mse":
        residual = np.mean(residual, axis=-1)
    return _mean_square(residual)


def _mean_square(residual: Float32Array) -> float:
    return float(np.mean(np.square(residual), dtype=np.float32))


def _check_shapes(manifest: Manifest, model: Model, loaded: LoadedModel) -> None:
    for what, found, listed in (
        ("input", loaded.input_shape, model.input_shape),
        ("output", loaded.output_shape, model.output_shape),
    ):
        if squeezed(found) != squeezed(listed):
            raise ReleaseError(
                f"{manifest.label}: {what} of {model.file} is {found}, the manifest says {listed}"
            )
