"""An inference library whose models do arithmetic, and releases to run in it.

The file of such a model is JSON: `{"add": 2}` reconstructs its input plus 2. `Interpreter` has what
ai-edge-litert and tflite-runtime have in common and `node.scoring.runtime` uses.
"""

import json
from typing import Any, Literal, NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt

from contract.feature_params import FeatureParams
from contract.release import LogNormals, Manifest, Model, Threshold, Training, describe_file
from node.scoring.release_store import Release
from node.scoring.runtime import Runtime

FEATURES = FeatureParams(
    window_samples=3200, n_fft=512, frame_hop_samples=256, n_mels=32, n_mfcc=13, frames=16
)


class Interpreter:
    """Runs one model of JSON.

    Its keys: `add` (to the input) or `answer` (the output, whatever comes in), `input_shapes`,
    `output_shapes`, `dtype`, `operators` (their kinds), and `fails`, a text to fail with.
    """

    def __init__(self, *, model_content: bytes, num_threads: int) -> None:
        self.num_threads = num_threads
        self._model: dict[str, Any] = {"add": 0.0, "dtype": "float32"} | json.loads(model_content)
        shape = [1, *FEATURES.shape, 1]
        self._inputs = self._model.get("input_shapes", [shape])
        self._outputs = self._model.get("output_shapes", [shape])
        self._input = np.zeros(0, np.float32)

    def allocate_tensors(self) -> None:
        if "fails" in self._model:
            raise RuntimeError(self._model["fails"])

    def get_input_details(self) -> list[dict[str, Any]]:
        return [self._detail(index, shape) for index, shape in enumerate(self._inputs)]

    def get_output_details(self) -> list[dict[str, Any]]:
        return [self._detail(100 + index, shape) for index, shape in enumerate(self._outputs)]

    def set_tensor(self, index: int, value: npt.NDArray[np.float32]) -> None:
        assert index == 0
        assert value.dtype == np.float32
        assert list(value.shape) == self._inputs[0]
        self._input = value.copy()

    def invoke(self) -> None:
        pass

    def get_tensor(self, index: int) -> npt.NDArray[np.float32]:
        assert index == 100
        output = self._model.get("answer", self._input + np.float32(self._model["add"]))
        return np.resize(np.array(output, np.float32), self._outputs[0])

    def _get_ops_details(self) -> list[dict[str, Any]]:
        kinds = self._model.get("operators", [])
        return [{"index": index, "op_name": kind} for index, kind in enumerate(kinds)]

    def _detail(self, index: int, shape: list[int]) -> dict[str, Any]:
        dtype = np.dtype(self._model["dtype"]).type
        return {"index": index, "shape": np.array(shape, np.int32), "dtype": dtype}


RUNTIME = Runtime("fake-inference", "1.0", Interpreter)


def recording_runtime() -> tuple[Runtime, list[Interpreter]]:
    """The same library, and what it has been asked to run."""
    made: list[Interpreter] = []

    def interpreter(*, model_content: bytes, num_threads: int) -> Interpreter:
        made.append(Interpreter(model_content=model_content, num_threads=num_threads))
        return made[-1]

    return Runtime(RUNTIME.name, RUNTIME.version, interpreter), made


def model_content(**keys: Any) -> bytes:
    """The file of a model with these keys."""
    return json.dumps(keys).encode()


class FakeModel(NamedTuple):
    """A model of JSON and what the manifest says of it."""

    keys: dict[str, Any]
    """Of its file; where it does not say, its shapes are those that the manifest lists."""
    log_error: LogNormals | None = None
    error: Literal["mse", "time_mean_mse"] = "mse"
    residual_shape: tuple[int, ...] | None = None
    """Of its output, batch included; None when that is a reconstruction."""
    channels: bool = True
    """Whether a reconstruction has a last dimension of one, as the input has."""


def release(
    *, threshold: float = 2.0, features: FeatureParams = FEATURES, hop: int = 1600, **keys: Any
) -> Release:
    """A release whose model has these keys."""
    return release_of(FakeModel(keys), threshold=threshold, features=features, hop=hop)


def release_of(
    *models: FakeModel,
    threshold: float = 2.0,
    features: FeatureParams = FEATURES,
    hop: int = 1600,
) -> Release:
    """A release of these models: `model.tflite`, `model-1.tflite` and so on."""
    names = ["model.tflite", *(f"model-{number}.tflite" for number in range(1, len(models)))]
    entries = [_entry(name, m, features) for name, m in zip(names, models, strict=True)]
    files = {
        entry.file: model_content(
            **(
                {"input_shapes": [entry.input_shape], "output_shapes": [entry.output_shape]}
                | m.keys
            )
        )
        for entry, m in zip(entries, models, strict=True)
    }
    manifest = Manifest(
        name="fake",
        version=1,
        created_us=0,
        description="",
        features=features,
        window_hop_samples=hop,
        files=tuple(describe_file(name, content) for name, content in files.items()),
        models=tuple(entries),
        statistic="error" if len(models) == 1 else "exp_sum_log_z",
        threshold=Threshold(
            value=threshold, method="given", false_alarm_rate=None, calibration_windows=0
        ),
        calibration=None,
        training=Training(
            command="", recipe=None, data="", files=0, windows=0, seed=None, epochs=None
        ),
    )
    return Release(manifest, files)


def with_threshold(given: Release, threshold: float) -> Release:
    """The same release, but for its threshold."""
    value = msgspec.structs.replace(given.manifest.threshold, value=threshold)
    return Release(msgspec.structs.replace(given.manifest, threshold=value), given.files)


def _entry(name: str, model: FakeModel, features: FeatureParams) -> Model:
    shape = (1, *features.shape, 1)
    reconstruction = shape if model.channels else shape[:-1]
    return Model(
        file=name,
        input_shape=shape,
        output_shape=model.residual_shape or reconstruction,
        output="residual" if model.residual_shape else "reconstruction",
        error=model.error,
        log_error=model.log_error,
        parameters=0,
        runtimes=(),
    )
