"""The network, its training and its export; the only module that imports TensorFlow.

TensorFlow has no types and takes seconds to load: what leaves this module are arrays and bytes.
"""

import io
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from importlib import import_module
from typing import Any, Literal

import msgspec
import numpy as np

from contract.features import Float32Array
from training.errors import TrainingError

REFERENCE_PARAMETERS = 386_529
"""Of the reference design. Another number is another network, and none of its figures hold."""

Weights = Literal["float32", "float16"]


@contextmanager
def _native_stderr_held() -> Iterator[None]:
    """Keep the chatter of C++ libraries off the terminal, unless the block fails."""
    sys.stderr.flush()
    terminal = os.dup(2)
    with tempfile.TemporaryFile() as held:
        os.dup2(held.fileno(), 2)
        try:
            yield
        except BaseException:
            held.seek(0)
            os.write(terminal, held.read())
            raise
        finally:
            os.dup2(terminal, 2)
            os.close(terminal)


# Read when the library loads; 3 leaves only fatal errors.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
with _native_stderr_held():
    tf: Any = import_module("tensorflow")

# Its Python side warns about its own deprecations, which our users can do nothing about.
tf.get_logger().setLevel("ERROR")


class Epoch(msgspec.Struct, frozen=True):
    """Mean squared errors at the end of one pass over the data."""

    number: int
    train_loss: float
    held_out_loss: float


class Autoencoder:
    """A network and its weights."""

    def __init__(self, network: Any) -> None:
        self.network = network

    @property
    def parameters(self) -> int:
        """Trainable parameters."""
        return sum(int(np.prod(weight.shape)) for weight in self.network.trainable_weights)

    def reconstruct(self, features: Float32Array) -> Float32Array:
        """What the network makes of features, shape (n, coefficients, frames)."""
        output: Float32Array = self.network.predict(features[..., None], batch_size=64, verbose=0)
        return output[..., 0]

    def to_tflite(self, weights: Weights) -> bytes:
        """The network as a TFLite graph with a fixed batch of one.

        With a batch that is open, XNNPACK leaves the graph alone and it takes 25 to 100 times as
        long. Float16 weights are widened when the graph is loaded: half the size, same speed.
        """
        fixed = tf.keras.Input(batch_shape=(1, *self.network.input_shape[1:]))
        # Keras prints the path of a temporary export, not worth anybody's attention.
        with _native_stderr_held(), redirect_stdout(io.StringIO()):
            converter = tf.lite.TFLiteConverter.from_keras_model(
                tf.keras.Model(fixed, self.network(fixed))
            )
            if weights == "float16":
                converter.optimizations = [tf.lite.Optimize.DEFAULT]
                converter.target_spec.supported_types = [tf.float16]
            return bytes(converter.convert())


def reference_network() -> Autoencoder:
    """The reference design's network, untrained: features (40, 64) in, their reconstruction out.

    Raises:
        TrainingError: it does not have its number of parameters.
    """
    layers = tf.keras.layers

    def conv(layer: Any, filters: int, stride: int, activation: str = "relu") -> Any:
        return layer(filters, 3, strides=stride, padding="same", activation=activation)

    network = Autoencoder(
        tf.keras.Sequential(
            [
                tf.keras.Input((40, 64, 1)),
                conv(layers.Conv2D, 16, 2),
                conv(layers.Conv2D, 32, 2),
                conv(layers.Conv2D, 64, 1),
                layers.GlobalAveragePooling2D(),
                layers.Dense(32, activation="relu"),
                layers.Dense(10 * 16 * 64, activation="relu"),
                layers.Reshape((10, 16, 64)),
                conv(layers.Conv2DTranspose, 32, 2),
                conv(layers.Conv2DTranspose, 16, 2),
                conv(layers.Conv2D, 1, 1, "linear"),
            ]
        )
    )
    if network.parameters != REFERENCE_PARAMETERS:
        raise TrainingError(
            f"Expected {REFERENCE_PARAMETERS} trainable parameters in the reference network,"
            f" got {network.parameters}"
        )
    return network


def train_reference(
    train: Float32Array,
    held_out: Float32Array,
    *,
    seed: int,
    epochs: int,
    batch_size: int,
    on_epoch: Callable[[Epoch], None],
) -> Autoencoder:
    """Train the reference network with Adam on the mean squared error.

    The same data and seed give the same weights on the same machine and library versions.

    Args:
        train: features, shape (n, 40, 64).
        held_out: features, same shape; only their loss is watched, no weight ever sees them.
        seed: of initial weights and of the order of windows.
        epochs: passes over `train`.
        batch_size: windows per step.
        on_epoch: called after each pass.

    Raises:
        TrainingError: the loss became NaN or infinite.
    """
    tf.keras.utils.set_random_seed(seed)
    tf.config.experimental.enable_op_determinism()
    autoencoder = reference_network()
    network = autoencoder.network
    network.compile(optimizer="adam", loss="mse")

    def report(number: int, logs: Any) -> None:
        epoch = Epoch(number + 1, float(logs["loss"]), float(logs["val_loss"]))
        if not np.isfinite(epoch.train_loss):
            raise TrainingError(
                f"the loss became {epoch.train_loss} in epoch {epoch.number}; expected a number"
            )
        on_epoch(epoch)

    train, held_out = train[..., None], held_out[..., None]
    network.fit(
        train,
        train,
        validation_data=(held_out, held_out),
        epochs=epochs,
        batch_size=batch_size,
        verbose=0,
        callbacks=[tf.keras.callbacks.LambdaCallback(on_epoch_end=report)],
    )
    return autoencoder
