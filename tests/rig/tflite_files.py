"""TFLite files changed for tests: graphs that a library refuses, or that give no number."""

from typing import Any

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema

_FILE_IDENTIFIER = b"TFL3"
# Code that was generated without types.
_SCHEMA: Any = schema
_FLATBUFFERS: Any = flatbuffers


def with_operator_version(content: bytes, operator: int, version: int) -> bytes:
    """The graph with another version of an operator, as newer converters write it.

    Args:
        content: of a `.tflite` file.
        operator: its builtin code, for example `schema.BuiltinOperator.FULLY_CONNECTED`.
        version: to ask the library for.
    """
    model = _unpacked(content)
    for code in model.operatorCodes:
        if code.builtinCode == operator:
            code.version = version
    return _packed(model)


def answering_nan(content: bytes) -> bytes:
    """The graph with every float32 weight NaN."""
    model = _unpacked(content)
    for tensor in model.subgraphs[0].tensors:
        data = model.buffers[tensor.buffer].data
        if tensor.type == schema.TensorType.FLOAT32 and data is not None and len(data):
            nan = np.full(len(data) // 4, np.nan, np.float32)
            model.buffers[tensor.buffer].data = np.frombuffer(nan.tobytes(), np.uint8)
    return _packed(model)


def _unpacked(content: bytes) -> Any:
    return _SCHEMA.ModelT.InitFromObj(_SCHEMA.Model.GetRootAsModel(content, 0))


def _packed(model: Any) -> bytes:
    builder = _FLATBUFFERS.Builder(1024)
    builder.Finish(model.Pack(builder), file_identifier=_FILE_IDENTIFIER)
    return bytes(builder.Output())
