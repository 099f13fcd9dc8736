"""An inference library whose models do arithmetic, and releases to run in it.

The file of such a model is JSON: `{"add": 2}` reconstructs its input plus 2. `Interpreter` has what
ai-edge-litert and tflite-runtime have in common and `node.runtime` uses.
"""

import json
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from contract.features import FeatureParams
from contract.release import Manifest, Model, Threshold, Training, describe_file
from node.release_store import Release
from node.runtime import Runtime

FEATURES = FeatureParams(
    window_samples=3200, n_fft=512, frame_hop_samples=256, n_mels=32, n_mfcc=13, frames=16
)


class Interpreter:
    """Runs one model of JSON.

    Its keys: `add` (to the input), `input_shapes`, `output_shapes`, `dtype`, and `fails`, a text to
    fail with.
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
        output = (self._input + np.float32(self._model["add"])).astype(np.float32)
        return np.resize(output, self._outputs[0])

    def _detail(self, index: int, shape: list[int]) -> dict[str, Any]:
        dtype = np.dtype(self._model["dtype"]).type
        return {"index": index, "shape": np.array(shape, np.int32), "dtype": dtype}


RUNTIME = Runtime("fake-inference", "1.0", Interpreter)


def model_content(**keys: Any) -> bytes:
    """The file of a model with these keys."""
    return json.dumps(keys).encode()


def release(
    *, threshold: float = 2.0, features: FeatureParams = FEATURES, hop: int = 1600, **keys: Any
) -> Release:
    """A release whose model has these keys."""
    shape = (1, *features.shape, 1)
    content = model_content(**({"input_shapes": [shape], "output_shapes": [shape]} | keys))
    manifest = Manifest(
        name="fake",
        version=1,
        created_us=0,
        description="",
        features=features,
        window_hop_samples=hop,
        files=(describe_file("model.tflite", content),),
        model=Model(
            file="model.tflite", input_shape=shape, output_shape=shape, parameters=0, runtimes=()
        ),
        statistic="mse",
        threshold=Threshold(
            value=threshold, method="given", false_alarm_rate=None, calibration_windows=0
        ),
        training=Training(command="", data="", files=0, windows=0, seed=None, epochs=None),
    )
    return Release(manifest, {"model.tflite": content})


def with_threshold(given: Release, threshold: float) -> Release:
    """The same release, but for its threshold."""
    value = msgspec.structs.replace(given.manifest.threshold, value=threshold)
    return Release(msgspec.structs.replace(given.manifest, threshold=value), given.files)
