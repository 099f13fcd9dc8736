"""The networks of the recipes and their training.

A network has a core, which is trained on prepared arrays (centred, scaled, averaged, stacked), and
a graph around it, which takes the features as a node computes them and does the same preparation
inside. What leaves the graph is the reconstruction (reference network) or the residual, in units of
the prepared array.

Preparation is a mean per coefficient or band and ONE scale for all: on MFCC a scale of its own for
each coefficient makes the noise of the high ones as loud as the spectrum's shape.
"""

from collections.abc import Callable, Iterator
from typing import Any, Literal

import msgspec
import numpy as np

from contract.features import Float32Array
from training.errors import TrainingError
from training.recipes import ModelRecipe, NetworkName
from training.tf import tf

REFERENCE_PARAMETERS = 386_529
"""The reference design's number. Another one is another network, and none of its figures hold."""

# The dense baseline sees five neighbouring frames at once.
_STACKED_FRAMES = 5
_SMALLEST_SCALE = 1e-6


class Epoch(msgspec.Struct, frozen=True):
    """Mean squared errors at the end of one pass over the data, in units of the prepared array."""

    number: int
    train_loss: float
    held_out_loss: float


class Preparation(msgspec.Struct, frozen=True):
    """What is done to features before the core sees them: `(x - centre) / scale`."""

    centre: Float32Array
    """Shape (coefficients, 1)."""
    scale: float


class Trained(msgspec.Struct, frozen=True):
    """A trained network, ready to export."""

    graph: Any
    """Keras model: features (1, coefficients, frames) in, `output` out."""
    output: Literal["reconstruction", "residual"]
    parameters: int
    """How many numbers the training fits."""
    float_operators: tuple[str, ...]
    """Operators before and after the core, which stay in float32 when the core is quantised."""
    activations: Literal["int8", "int16"]
    """The least loss for an int8 variant: a network must err by more than the steps of int8 do."""

    def __call__(self, features: Float32Array) -> Float32Array:
        """What the graph gives for features of shape (n, coefficients, frames)."""
        # One by one: the graph is made for a batch of one, as it is on a node.
        return np.stack(
            [self.graph(window[None], training=False).numpy()[0] for window in features]
        )


def train(
    recipe: ModelRecipe,
    features: Float32Array,
    held_out: Float32Array,
    *,
    seed: int,
    on_epoch: Callable[[Epoch], None],
) -> Trained:
    """Train a recipe's network with Adam on the mean squared error.

    The same data and seed give the same weights on the same machine and library versions.

    Args:
        recipe: network and hyper-parameters.
        features: of normal windows, float32, shape (n, coefficients, frames).
        held_out: the same of others; only their loss is watched, no weight ever sees them.
        seed: of initial weights and of the order of windows.
        on_epoch: called after each pass.

    Raises:
        TrainingError: the loss became NaN or infinite.
    """
    # Models of earlier trainings would stay in memory.
    tf.keras.backend.clear_session()
    tf.keras.utils.set_random_seed(seed)
    tf.config.experimental.enable_op_determinism()
    network = _NETWORKS[recipe.network](features)
    core = network.core()
    for epoch in _passes(network, core, recipe, features, held_out, seed=seed):
        for loss in (epoch.train_loss, epoch.held_out_loss):
            if not np.isfinite(loss):
                raise TrainingError(
                    f"the loss became {loss} in epoch {epoch.number}; expected a number"
                )
        on_epoch(epoch)
    given = tf.keras.Input(batch_shape=(1, *features.shape[1:]))
    return Trained(
        graph=tf.keras.Model(given, network.graph(given, core)),
        output=network.output,
        parameters=sum(int(np.prod(weight.shape)) for weight in core.trainable_weights),
        float_operators=network.float_operators,
        activations=network.activations,
    )


def _passes(
    network: Any,
    core: Any,
    recipe: ModelRecipe,
    features: Float32Array,
    held_out: Float32Array,
    *,
    seed: int,
) -> Iterator[Epoch]:
    """Train one pass after another.

    A pass is one call into TensorFlow. With `fit()`, which comes back to Python for each batch,
    networks this small take two to ten times as long.
    """
    optimizer = tf.keras.optimizers.Adam(recipe.learning_rate)
    optimizer.build(core.trainable_variables)
    size = recipe.batch_size

    def error(batch: Any, *, training: bool) -> Any:
        return tf.reduce_mean(tf.square(core(batch, training=training) - batch))

    @tf.function  # type: ignore[untyped-decorator]
    def train_once(arrays: Any, order: Any) -> Any:
        total = 0.0
        for start in tf.range(0, len(order), size):
            rows = order[start : start + size]
            batch = network.take(arrays, rows)
            with tf.GradientTape() as tape:
                loss = error(batch, training=True)
            gradients = tape.gradient(loss, core.trainable_variables)
            optimizer.apply_gradients(zip(gradients, core.trainable_variables, strict=True))
            total += loss * tf.cast(len(rows), tf.float32)
        return total / tf.cast(len(order), tf.float32)

    @tf.function  # type: ignore[untyped-decorator]
    def judge(arrays: Any, order: Any) -> Any:
        total = 0.0
        for start in tf.range(0, len(order), size):
            rows = order[start : start + size]
            loss = error(network.take(arrays, rows), training=False)
            total += loss * tf.cast(len(rows), tf.float32)
        return total / tf.cast(len(order), tf.float32)

    heard, unheard = (tf.constant(network.prepared(part)) for part in (features, held_out))
    order, in_turn = (
        np.arange(network.examples(part), dtype=np.int32) for part in (heard, unheard)
    )
    rng = np.random.default_rng(seed)
    for number in range(1, recipe.epochs + 1):
        rng.shuffle(order)
        train_loss = float(train_once(heard, tf.constant(order)))
        yield Epoch(number, train_loss, float(judge(unheard, tf.constant(in_turn))))


class _Network:
    """What all networks have; a subclass says what the core is and what is around it."""

    output: Literal["reconstruction", "residual"] = "residual"
    float_operators: tuple[str, ...] = ("SUB", "MUL")
    activations: Literal["int8", "int16"] = "int8"

    def core(self) -> Any:
        """What is trained: an array in, one of the same shape out."""
        raise NotImplementedError

    def prepared(self, features: Float32Array) -> Float32Array:
        """What the core sees of features, shape (n, coefficients, frames), or is taken from."""
        raise NotImplementedError

    def examples(self, arrays: Any) -> int:
        """How many the prepared arrays hold."""
        return len(arrays)

    def take(self, arrays: Any, rows: Any) -> Any:
        """A batch of them; runs inside TensorFlow's graph."""
        return tf.gather(arrays, rows)

    def graph(self, given: Any, core: Any) -> Any:
        """What goes onto a node: features (1, coefficients, frames) in, `output` out."""
        raise NotImplementedError


class _Reference(_Network):
    """The reference design's network: raw MFCC in, their reconstruction out."""

    output = "reconstruction"
    float_operators = ()

    def __init__(self, features: Float32Array) -> None:
        if features.shape[1:] != (40, 64):
            raise TrainingError(
                "Expected 40 coefficients and 64 frames for the reference network,"
                f" got {features.shape[1:]}"
            )

    def core(self) -> Any:
        layers = tf.keras.layers
        core = tf.keras.Sequential(
            [
                tf.keras.Input((40, 64, 1)),
                _conv(16, stride=2),
                _conv(32, stride=2),
                _conv(64),
                layers.GlobalAveragePooling2D(),
                layers.Dense(32, activation="relu"),
                layers.Dense(10 * 16 * 64, activation="relu"),
                layers.Reshape((10, 16, 64)),
                _conv(32, stride=2, layer=layers.Conv2DTranspose),
                _conv(16, stride=2, layer=layers.Conv2DTranspose),
                _conv(1, activation="linear"),
            ]
        )
        _check_reference(core)
        return core

    def prepared(self, features: Float32Array) -> Float32Array:
        return features[..., None]

    def graph(self, given: Any, core: Any) -> Any:
        return core(given[..., None])[..., 0]


class _Pictures(_Network):
    """What the convolutional networks share: MFCC as a picture, centred, scaled, padded inside."""

    def __init__(self, features: Float32Array) -> None:
        self._shape = features.shape[1:]
        self._preparation = prepare_frames(features)

    def layers(self) -> list[Any]:
        """From a padded picture to one of the same size."""
        raise NotImplementedError

    def core(self) -> Any:
        rows, columns = self._shape
        # Three layers halve; what they cannot halve is padded with zeros, the mean of normal sound.
        below, right = -rows % 8, -columns % 8
        return tf.keras.Sequential(
            [
                tf.keras.Input((rows, columns, 1)),
                tf.keras.layers.ZeroPadding2D(((0, below), (0, right))),
                *self.layers(),
                tf.keras.layers.Cropping2D(((0, below), (0, right))),
            ]
        )

    def prepared(self, features: Float32Array) -> Float32Array:
        pictures: Float32Array = _prepared(features, self._preparation)[..., None]
        return pictures

    def graph(self, given: Any, core: Any) -> Any:
        prepared = _prepared(given, self._preparation)
        return prepared - core(prepared[..., None])[..., 0]


class _Repaired(_Pictures):
    """The reference network with resize and convolution in place of transposed convolution."""

    def layers(self) -> list[Any]:
        rows, columns = (-(-size // 8) * 8 // 4 for size in self._shape)
        layers = tf.keras.layers
        return [
            _conv(16, stride=2),
            _conv(32, stride=2),
            _conv(64),
            layers.GlobalAveragePooling2D(),
            layers.Dense(32, activation="relu"),
            layers.Dense(rows * columns * 64, activation="relu"),
            layers.Reshape((rows, columns, 64)),
            layers.UpSampling2D(),
            _conv(32),
            layers.UpSampling2D(),
            _conv(16),
            _conv(1, activation="linear"),
        ]

    def core(self) -> Any:
        core = super().core()
        if self._shape == (40, 63):
            _check_reference(core)
        return core


class _Conv(_Pictures):
    """Convolutions all the way: each place of the bottleneck keeps its time and frequency."""

    def layers(self) -> list[Any]:
        layers = tf.keras.layers
        decoder = [
            step for filters in (32, 16, 8) for step in (layers.UpSampling2D(), _conv(filters))
        ]
        return [
            _conv(16, stride=2),
            _conv(32, stride=2),
            _conv(64, stride=2),
            layers.Conv2D(8, 1),
            layers.Conv2D(64, 1, activation="relu"),
            *decoder,
            _conv(1, activation="linear"),
        ]


class _Profile(_Network):
    """A dense autoencoder on the mean over time of a window's features."""

    # A mean over time is reconstructed so well that int8 activations lost .11 AUC on one set.
    activations = "int16"

    def __init__(self, features: Float32Array) -> None:
        self._preparation = prepare_frames(features.mean(axis=2, keepdims=True))

    def core(self) -> Any:
        size = len(self._preparation.centre)

        def dense(units: int, activation: str) -> Any:
            # Glorot's initial weights, Keras's own, lose .03 AUC and more here.
            return tf.keras.layers.Dense(
                units, activation=activation, kernel_initializer="he_normal"
            )

        return tf.keras.Sequential(
            [
                tf.keras.Input((size,)),
                dense(64, "relu"),
                dense(8, "linear"),
                dense(64, "relu"),
                dense(size, "linear"),
            ]
        )

    def prepared(self, features: Float32Array) -> Float32Array:
        means: Float32Array = _prepared(features.mean(axis=2, keepdims=True), self._preparation)[
            ..., 0
        ]
        return means

    def graph(self, given: Any, core: Any) -> Any:
        means = tf.keras.ops.mean(given, axis=2, keepdims=True)
        prepared = _prepared(means, self._preparation)[..., 0]
        return prepared - core(prepared)


class _Dense(_Network):
    """The official baseline of DCASE 2021 Task 2 (autoencoder): five frames in, five frames out.

    As there, nothing is centred or scaled. Source: y-kawagu/dcase2021_task2_baseline_ae.
    """

    float_operators = ("TRANSPOSE", "RESHAPE", "SLICE", "CONCATENATION", "SUB")

    def __init__(self, features: Float32Array) -> None:
        _, self._bands, self._frames = features.shape
        self._vectors = self._frames - _STACKED_FRAMES + 1
        if self._vectors < 1:
            raise TrainingError(
                f"Expected features of {_STACKED_FRAMES} frames or more, got {self._frames}"
            )

    def core(self) -> Any:
        layers = tf.keras.layers
        size = _STACKED_FRAMES * self._bands
        hidden = [
            layer
            for units in (128, 128, 128, 128, 8, 128, 128, 128, 128)
            for layer in (
                layers.Dense(units),
                layers.BatchNormalization(),
                layers.Activation("relu"),
            )
        ]
        return tf.keras.Sequential([tf.keras.Input((size,)), *hidden, layers.Dense(size)])

    def prepared(self, features: Float32Array) -> Float32Array:
        return np.ascontiguousarray(features.transpose(0, 2, 1))

    def examples(self, frames: Any) -> int:
        return len(frames) * int(self._vectors)

    def take(self, frames: Any, rows: Any) -> Any:
        # Five times the memory, were all of them stacked before.
        windows, first = rows // self._vectors, rows % self._vectors
        stacked = [
            tf.gather_nd(frames, tf.stack([windows, first + step], axis=1))
            for step in range(_STACKED_FRAMES)
        ]
        return tf.concat(stacked, axis=1)

    def graph(self, given: Any, core: Any) -> Any:
        ops = tf.keras.ops
        frames = ops.reshape(ops.transpose(given, (0, 2, 1)), (self._frames, self._bands))
        size = (self._vectors, self._bands)
        stacked = ops.concatenate(
            [ops.slice(frames, (first, 0), size) for first in range(_STACKED_FRAMES)], axis=1
        )
        return ops.expand_dims(stacked - core(stacked), 0)


def prepare_frames(features: Float32Array) -> Preparation:
    """Mean of each coefficient over windows and frames; root mean square of their deviations.

    Args:
        features: shape (n, coefficients, frames).
    """
    centre = features.mean(axis=(0, 2), dtype=np.float64)[:, None].astype(np.float32)
    scale = float(np.sqrt(np.mean(np.square(features - centre), dtype=np.float64)))
    return Preparation(centre, max(scale, _SMALLEST_SCALE))


def _prepared(features: Any, preparation: Preparation) -> Any:
    return (features - preparation.centre) * np.float32(1 / preparation.scale)


def _conv(filters: int, *, stride: int = 1, activation: str = "relu", layer: Any = None) -> Any:
    kind = tf.keras.layers.Conv2D if layer is None else layer
    return kind(filters, 3, strides=stride, padding="same", activation=activation)


def _check_reference(core: Any) -> None:
    found = sum(int(np.prod(weight.shape)) for weight in core.trainable_weights)
    if found != REFERENCE_PARAMETERS:
        raise TrainingError(
            f"Expected {REFERENCE_PARAMETERS} trainable parameters in the reference network,"
            f" got {found}"
        )


_NETWORKS: dict[NetworkName, Any] = {
    "reference": _Reference,
    "repaired": _Repaired,
    "conv": _Conv,
    "profile": _Profile,
    "dense": _Dense,
}
