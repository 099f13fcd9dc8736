"""The inference library, whichever is installed: ai-edge-litert, else tflite-runtime.

A model is loaded from bytes that were checked before, with a fixed batch of one and one thread:
a graph of 10 million multiplications gains nothing from more, and the Pi has other work.
"""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import msgspec
import numpy as np

from contract.errors import ReleaseError
from contract.features import Float32Array
from contract.release import squeezed

# Preferred first. (distribution, module); TensorFlow itself is never tried: 500 MB for nothing.
_RUNTIMES = (
    ("ai-edge-litert", "ai_edge_litert.interpreter"),
    ("tflite-runtime", "tflite_runtime.interpreter"),
)


class Runtime(msgspec.Struct, frozen=True):
    """An installed inference library: its name and its version."""

    name: str
    version: str
    interpreter: Any
    """Its Interpreter class; both libraries have the same one."""


def find_runtime() -> Runtime:
    """The preferred inference library among those installed.

    Raises:
        ReleaseError: none is.
    """
    missing = []
    for name, module in _RUNTIMES:
        if name == "tflite-runtime" and (conflict := _conflict_with_numpy()) is not None:
            missing.append(conflict)
            continue
        try:
            interpreter = import_module(module).Interpreter
        except ImportError as error:
            missing.append(f"{name} ({error})")
            continue
        return Runtime(name, version(name), interpreter)
    raise ReleaseError(
        f"No inference library: {', '.join(missing)}; install requirements/node.txt,"
        " or requirements/node-tflite.txt on Python 3.11"
    )


def _conflict_with_numpy() -> str | None:
    """Why tflite-runtime must not even be imported: beside NumPy 2 it fails with a page of text."""
    try:
        installed = version("tflite-runtime")
    except PackageNotFoundError:
        return None
    if int(np.__version__.partition(".")[0]) < 2:
        return None
    return f"tflite-runtime {installed} needs numpy 1, and numpy {np.__version__} is installed"


class LoadedModel:
    """A TFLite graph that is loaded and ready to run.

    Args:
        content: the `.tflite` file's bytes.
        runtime: the library to run it in.
        threads: how many the library may use.

    Raises:
        ReleaseError: the library cannot load it, or it takes or gives something else than one
            float32 array.
    """

    def __init__(self, content: bytes, runtime: Runtime, *, threads: int = 1) -> None:
        try:
            with _native_chatter_silenced():
                self._interpreter = runtime.interpreter(model_content=content, num_threads=threads)
                self._interpreter.allocate_tensors()
        except (ValueError, RuntimeError) as error:
            reason = str(error).strip().splitlines()[0] if str(error).strip() else "no reason given"
            raise ReleaseError(
                f"{runtime.name} {runtime.version} cannot load this model: {reason[:200]}"
            ) from error
        inputs, outputs = (
            self._interpreter.get_input_details(),
            self._interpreter.get_output_details(),
        )
        for what, details in (("input", inputs), ("output", outputs)):
            if len(details) != 1 or details[0]["dtype"] is not np.float32:
                found = ", ".join(np.dtype(d["dtype"]).name for d in details)
                raise ReleaseError(f"Expected a model with one float32 {what}, got {found}")
        self._input, self._output = inputs[0]["index"], outputs[0]["index"]
        self.input_shape: tuple[int, ...] = tuple(int(n) for n in inputs[0]["shape"])
        self.output_shape: tuple[int, ...] = tuple(int(n) for n in outputs[0]["shape"])

    def __call__(self, features: Float32Array) -> Float32Array:
        """The graph's answer to one feature array.

        Args:
            features: float32, of the input's shape but for dimensions of one.

        Returns:
            float32 of the graph's own output shape without its first dimension, which is the batch
            of one.

        Raises:
            ReleaseError: the shapes do not fit.
        """
        if squeezed(features.shape) != squeezed(self.input_shape):
            raise ReleaseError(
                f"Expected features that fit the model's input {self.input_shape},"
                f" got {features.shape}"
            )
        self._interpreter.set_tensor(self._input, features.reshape(self.input_shape))
        self._interpreter.invoke()
        output: Float32Array = self._interpreter.get_tensor(self._output)
        return output[0] if len(output.shape) > 1 and output.shape[0] == 1 else output

    @property
    def operators(self) -> frozenset[str]:
        """The kinds of operators in the graph, each once."""
        # The only way to ask either library. DELEGATE is what XNNPACK has taken over, not a kind.
        found = {str(operator["op_name"]) for operator in self._interpreter._get_ops_details()}
        return frozenset(found - {"DELEGATE"})


@contextmanager
def _native_chatter_silenced() -> Iterator[None]:
    """Keeps the C++ library's own lines (delegates, op lists) off standard error.

    What it has to say about a model that fails is in the exception, too.
    """
    sys.stderr.flush()
    kept = os.dup(2)
    nothing = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nothing, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nothing)
