"""From a trained network to a TFLite graph: float32, float16, dynamic range or int8 weights.

Every graph has a batch of one: with a batch that is open, XNNPACK leaves the graph alone and it
takes 25 to 100 times as long. Every graph takes and gives float32.
"""

from collections.abc import Iterator
from importlib import import_module
from typing import Any

import numpy as np

from contract.features import Float32Array
from training.detector.autoencoders import Trained
from training.recipes import Quantisation
from training.tf import quietly, tf

# Windows from which the converter takes the range of every array inside.
_REPRESENTATIVE_WINDOWS = 200


def to_tflite(network: Trained, quantisation: Quantisation, normal: Float32Array) -> bytes:
    """The network as the content of a `.tflite` file.

    - `float32`: as trained. `float16`: weights halved, widened again when the graph is loaded.
    - `dynamic`: int8 weights, activations quantised while running, from their own range.
    - `int8`: int8 weights and activations inside the core; preparation and residual stay in
      float32, so that a quiet coefficient is not rounded by the range of the loudest. Networks
      whose error is finer than 8 bits resolve have int16 activations, all through the graph.

    Dense weights have one scale per tensor: with one per channel the graph is up to half as large
    again, and tflite-runtime 2.14 refuses the dynamic one (FULLY_CONNECTED version 12).

    Args:
        network: what to convert.
        quantisation: how.
        normal: features of normal windows, shape (n, coefficients, frames); int8 takes its ranges
            from some of them, every second one widened (see `widened`).
    """
    with quietly():
        converter = tf.lite.TFLiteConverter.from_keras_model(network.graph)
        converter._experimental_disable_per_channel_quantization_for_dense_layers = True
        if quantisation != "float32":
            converter.optimizations = [tf.lite.Optimize.DEFAULT]
        if quantisation == "float16":
            converter.target_spec.supported_types = [tf.float16]
        if quantisation != "int8":
            return bytes(converter.convert())
        return _int8(converter, network, widened(normal, count=_REPRESENTATIVE_WINDOWS))


def widened(normal: Float32Array, *, count: int) -> Float32Array:
    """Windows to take ranges from: normal ones, and as many that are louder and stranger.

    Ranges of normal sound alone would clip what an anomaly makes of the graph, and with it the
    very error that should give it away.

    Args:
        normal: features of normal windows, shape (n, coefficients, frames).
        count: how many to give; drawn evenly from `normal`.

    Returns:
        float32, shape (count, coefficients, frames). Every second one is moved by noise of 0.25 to
        1 standard deviations of its coefficient over frames, and by an offset of as many of its
        mean over windows. Wider, and normal sound has too few of the 255 steps: with 0.5 to 4, the
        error of normal windows was 1.1 to 2 times that of float32; with nothing, strange windows
        saturated (rank correlation with float32 .976 for one network).
    """
    rng = np.random.default_rng(0)
    rows = np.linspace(0, len(normal) - 1, count).round().astype(int)
    chosen: Float32Array = normal[rows].copy()
    of_frames = normal.std(axis=(0, 2), dtype=np.float64)[:, None]
    of_means = normal.mean(axis=2, dtype=np.float64).std(axis=0)[:, None]
    for index in range(1, count, 2):
        noise = of_frames * rng.normal(size=chosen[index].shape)
        offset = of_means * rng.normal(size=of_means.shape)
        chosen[index] += (rng.uniform(0.25, 1.0) * (noise + offset)).astype(np.float32)
    return chosen


def _int8(converter: Any, network: Trained, representative: Float32Array) -> bytes:
    def windows() -> Iterator[list[Float32Array]]:
        for window in representative:
            yield [window[None]]

    converter.representative_dataset = windows
    if network.activations == "int16":
        ops = tf.lite.OpsSet
        converter.target_spec.supported_ops = [
            ops.EXPERIMENTAL_TFLITE_BUILTINS_ACTIVATIONS_INT16_WEIGHTS_INT8
        ]
        return bytes(converter.convert())
    # `convert()` would quantise all operators; in two steps, some can be told to stay in float.
    converter._experimental_calibrate_only = True
    quantise = import_module("tensorflow.lite.python.convert").mlir_quantize
    return bytes(
        quantise(
            converter.convert(),
            disable_per_channel_for_dense_layers=True,
            denylisted_ops=list(network.float_operators),
        )
    )
