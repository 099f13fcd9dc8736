"""The networks, their training, and the graph around each core."""

import json
import subprocess
import sys
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pytest

from contract.features import Float32Array
from node.scoring.runtime import LoadedModel, find_runtime
from tests.training.conftest import EPOCHS, ROOT, SmallFeatures, SmallNetwork
from training.errors import TrainingError
from training.judge.scoring import stacked
from training.recipes import ModelRecipe, NetworkName, read_recipe, with_epochs

Networks = dict[NetworkName, SmallNetwork]
# Keras and LiteRT add up in another order.
_ROUNDING = 1e-4


class Keras(NamedTuple):
    """What is looked at here of TensorFlow and of the module that needs it."""

    train: Callable[..., Any]
    networks: dict[str, Any]
    prepare_frames: Callable[[Float32Array], Any]
    sequential: type


@pytest.fixture(scope="module")
def keras() -> Keras:
    """Import TensorFlow when the first test needs it."""
    from training.detector import autoencoders
    from training.tf import tf

    return Keras(
        autoencoders.train,
        {str(name): network for name, network in autoencoders._NETWORKS.items()},
        autoencoders.prepare_frames,
        tf.keras.Sequential,
    )


def core_of(network: SmallNetwork, keras: Keras) -> Any:
    """Find the trained part inside the graph."""
    (core,) = [
        layer for layer in network.trained.graph.layers if isinstance(layer, keras.sequential)
    ]
    return core


def exported(network: SmallNetwork, features: Float32Array) -> Float32Array:
    """Run the float32 graph as a node does."""
    release = network.assembled["float32"].release
    model = LoadedModel(release.content(release.manifest.models[0]), find_runtime())
    return np.stack([model(window) for window in features])


def prepared_by_hand(train: Float32Array, features: Float32Array) -> Float32Array:
    """Mean per coefficient of the training windows taken away, all divided by one number."""
    train = train.astype(np.float64)
    centre = train.mean(axis=(0, 2)).reshape(1, -1, 1)
    scale = np.sqrt(((train - centre) ** 2).mean())
    prepared: Float32Array = ((features - centre) / scale).astype(np.float32)
    return prepared


def model_of(name: str, *, epochs: int = 1, learning_rate: float | None = None) -> ModelRecipe:
    """Give a bundled recipe's only model, trained for less."""
    (model,) = with_epochs(read_recipe(name), epochs).models
    if learning_rate is None:
        return model
    return ModelRecipe(
        network=model.network,
        error=model.error,
        epochs=epochs,
        batch_size=model.batch_size,
        learning_rate=learning_rate,
    )


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("reference", 386_529),
        ("repaired", 386_529),
        ("conv", 48_713),
        ("profile", 6_320),
        # The official baseline's: 265,864 of its dense layers and 2,064 of its normalisation.
        ("dense", 267_928),
    ],
)
def test_number_of_parameters(small_networks: Networks, name: NetworkName, parameters: int) -> None:
    """Each network has the trainable parameters that its design gives, and the manifest says so."""
    network = small_networks[name]
    (model,) = network.assembled["float32"].release.manifest.models

    assert network.trained.parameters == model.parameters == parameters


def test_dense_is_the_baselines_network(small_networks: Networks, keras: Keras) -> None:
    """640-128x4-8-128x4-640 with normalisation: 269,992 numbers, running means and so on too."""
    core = core_of(small_networks["dense"], keras)

    units = [layer.units for layer in core.layers if hasattr(layer, "units")]
    kinds = [type(layer).__name__ for layer in core.layers]
    assert core.count_params() == 269_992
    assert units == [128, 128, 128, 128, 8, 128, 128, 128, 128, 640]
    assert kinds == ["Dense", "BatchNormalization", "Activation"] * 9 + ["Dense"]


@pytest.mark.parametrize("name", EPOCHS)
def test_training_reports_and_learns(small_networks: Networks, name: NetworkName) -> None:
    """Each epoch is reported in turn with finite losses, and the loss falls."""
    epochs = small_networks[name].epochs

    assert [epoch.number for epoch in epochs] == list(range(1, EPOCHS[name] + 1))
    assert epochs[-1].train_loss < epochs[0].train_loss
    assert np.isfinite([epoch.held_out_loss for epoch in epochs]).all()


# Two processes, since nothing of the first training may decide what the second does.
_DIGESTS = """
import hashlib, json, sys
import numpy as np
from training.detector.autoencoders import train
from training.detector.quantize import to_tflite
from training.recipes import read_recipe, with_epochs

features = (20 * np.random.default_rng(0).standard_normal((40, 40, 64))).astype(np.float32)
found = []
for seed, name in zip(map(int, sys.argv[1::2]), sys.argv[2::2]):
    recipe = with_epochs(read_recipe(name), 2)
    normal = features[..., : recipe.features.frames]
    for model in recipe.models:
        network = train(model, normal[:32], normal[32:], seed=seed, on_epoch=lambda epoch: None)
        content = to_tflite(network, recipe.quantisation, normal[:32])
        found.append((model.network, seed, hashlib.sha256(content).hexdigest()))
print(json.dumps(found))
"""


def test_training_is_repeatable() -> None:
    """One seed gives one file, bit for bit, in another process too; another seed gives another."""
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", _DIGESTS, "1", "reference", "1", "duo", *more],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for more in ([], ["2", "reference"])
    ]
    outputs = [process.communicate(timeout=400) for process in processes]
    # TensorFlow has nothing to say, not even that there is no GPU.
    assert [stderr for _, stderr in outputs] == ["", ""]
    first, second = (json.loads(stdout) for stdout, _ in outputs)

    assert [network for network, _, _ in first] == ["reference", "conv", "profile"]
    assert second[:3] == first
    assert second[3][0] == "reference"
    assert second[3][2] != first[0][2]


@pytest.mark.parametrize("part", ["train", "held_out"])
def test_nan_gives_no_model(
    small_features: Callable[[str], SmallFeatures], keras: Keras, part: str
) -> None:
    """A feature that is no number ends the training, in whichever part it is."""
    _, train, held_out = small_features("profile")
    features, unheard = stacked(train), stacked(held_out)
    (features if part == "train" else unheard)[0, 3, 5] = np.nan

    with pytest.raises(TrainingError, match="the loss became nan in epoch 1; expected a number"):
        keras.train(model_of("profile"), features, unheard, seed=1, on_epoch=lambda epoch: None)


def test_loss_that_runs_away_gives_no_model(
    small_features: Callable[[str], SmallFeatures], keras: Keras
) -> None:
    """A loss that grows beyond all numbers ends the training in the epoch where it does."""
    _, train, held_out = small_features("profile")
    model = model_of("profile", learning_rate=1.0, epochs=3)
    loud = stacked(train)
    loud[0] = 1e38

    with pytest.raises(TrainingError, match="the loss became"), np.errstate(all="ignore"):
        keras.train(model, loud, stacked(held_out), seed=1, on_epoch=lambda epoch: None)


@pytest.mark.parametrize("shape", [(40, 63), (128, 64)])
def test_reference_takes_its_own_features_alone(keras: Keras, shape: tuple[int, int]) -> None:
    """The reference network for other features would be another network, and is refused."""
    features = np.zeros((4, *shape), np.float32)

    with pytest.raises(TrainingError, match="Expected 40 coefficients and 64 frames"):
        keras.train(model_of("reference"), features, features, seed=1, on_epoch=lambda epoch: None)


def test_held_out_windows_change_nothing(
    small_features: Callable[[str], SmallFeatures], keras: Keras
) -> None:
    """Centre, scale and weights come from training windows alone."""
    _, train, held_out = small_features("profile")
    features, unheard = stacked(train), stacked(held_out)

    one, other = (
        keras.train(model_of("profile"), features, held, seed=3, on_epoch=lambda epoch: None)(
            unheard[:2]
        )
        for held in (unheard, 1000 + 50 * unheard)
    )

    np.testing.assert_array_equal(one, other)


def test_preparation(keras: Keras) -> None:
    """One centre for each coefficient, one scale for all of them."""
    rng = np.random.default_rng(0)
    features = (rng.normal(size=(6, 3, 5)) * [[1], [10], [100]] + [[5], [0], [-7]]).astype(
        np.float32
    )

    found = keras.prepare_frames(features)

    assert found.centre.shape == (3, 1)
    assert found.centre.dtype == np.float32
    assert found.centre[:, 0] == pytest.approx(features.mean(axis=(0, 2)), rel=1e-5)
    deviations = features - features.mean(axis=(0, 2), keepdims=True)
    assert found.scale == pytest.approx(np.sqrt((deviations**2).mean()), rel=1e-5)


def test_preparation_of_sound_that_never_changes(keras: Keras) -> None:
    """Where nothing deviates, nothing is divided by zero."""
    found = keras.prepare_frames(np.full((2, 3, 4), 7, np.float32))

    assert found.scale > 0


def test_reference_graph(small_networks: Networks, keras: Keras) -> None:
    """It takes raw features and gives their reconstruction."""
    network = small_networks["reference"]
    windows = stacked(network.held_out)[:4]
    (model,) = network.assembled["float32"].release.manifest.models

    wanted = core_of(network, keras)(windows[..., None]).numpy()[..., 0]

    assert model.output == "reconstruction"
    np.testing.assert_allclose(
        exported(network, windows), wanted, atol=_ROUNDING * np.abs(wanted).max()
    )


@pytest.mark.parametrize("name", ["repaired", "conv"])
def test_picture_graph(small_networks: Networks, keras: Keras, name: NetworkName) -> None:
    """It gives `(x - centre) / scale - core(...)` of every coefficient and frame."""
    network = small_networks[name]
    windows = stacked(network.held_out)[:4]
    (model,) = network.assembled["float32"].release.manifest.models
    prepared = prepared_by_hand(network.train, windows)

    wanted = prepared - core_of(network, keras)(prepared[..., None]).numpy()[..., 0]
    found = exported(network, windows)

    assert (model.output, found.shape) == ("residual", (4, 40, 63))
    np.testing.assert_allclose(found, wanted, atol=_ROUNDING * np.abs(wanted).max())


def test_profile_graph(small_networks: Networks, keras: Keras) -> None:
    """It averages over time before anything else; four dense layers follow, by hand here."""
    network = small_networks["profile"]
    windows = stacked(network.held_out)[:4]
    prepared = prepared_by_hand(
        network.train.mean(axis=2, keepdims=True), windows.mean(axis=2, keepdims=True)
    )[..., 0]

    answer = prepared.astype(np.float64)
    weights = [weight.numpy() for weight in core_of(network, keras).weights]
    for layer, (kernel, bias) in enumerate(zip(weights[::2], weights[1::2], strict=True)):
        answer = answer @ kernel + bias
        if layer in (0, 2):
            answer = np.maximum(answer, 0)
    wanted = prepared - answer

    assert [kernel.shape for kernel in weights[::2]] == [(40, 64), (64, 8), (8, 64), (64, 40)]
    np.testing.assert_allclose(
        exported(network, windows), wanted, atol=_ROUNDING * np.abs(wanted).max()
    )


def stacked_by_hand(window: Float32Array) -> Float32Array:
    """Five neighbouring frames, the first frame's bands first, as the official baseline does."""
    frames = window.T
    return np.stack([np.concatenate(frames[row : row + 5]) for row in range(len(frames) - 4)])


def test_dense_graph(small_networks: Networks, keras: Keras) -> None:
    """It stacks five frames in the order of the official baseline; nothing is centred or scaled."""
    network = small_networks["dense"]
    windows = stacked(network.held_out)[:3]
    vectors = np.stack([stacked_by_hand(window) for window in windows])

    core = core_of(network, keras)
    wanted = np.stack([each - core(each, training=False).numpy() for each in vectors])
    found = exported(network, windows)

    assert found.shape == (3, 59, 640)
    np.testing.assert_allclose(found, wanted, atol=_ROUNDING * np.abs(wanted).max())


def test_dense_trains_on_frames_as_its_graph_stacks_them(keras: Keras) -> None:
    """What the core is trained on is each stack of each window, once."""
    features = np.random.default_rng(0).normal(size=(3, 4, 7)).astype(np.float32)
    network = keras.networks["dense"](features)

    frames = network.prepared(features)
    found = network.take(frames, np.arange(network.examples(frames))).numpy()

    np.testing.assert_array_equal(
        found, np.concatenate([stacked_by_hand(window) for window in features])
    )


def test_dense_normalises_as_it_has_learned(small_networks: Networks, keras: Keras) -> None:
    """Batches move the running means and variances of its normalisation, which the graph uses."""
    core = core_of(small_networks["dense"], keras)

    statistics = [weight.numpy() for weight in core.non_trainable_weights if weight.ndim]

    assert sum(map(len, statistics)) == 2_064
    for learned, initial in zip(statistics, [0, 1] * 9, strict=False):
        assert (learned != initial).all()


@pytest.mark.parametrize("name", EPOCHS)
def test_held_out_loss(small_networks: Networks, keras: Keras, name: NetworkName) -> None:
    """It is the mean squared error of what the core gives back, in the prepared array's units."""
    network = small_networks[name]
    unheard = stacked(network.held_out)
    if name == "dense":
        given = np.concatenate([stacked_by_hand(window) for window in unheard])
    elif name == "profile":
        given = prepared_by_hand(
            network.train.mean(axis=2, keepdims=True), unheard.mean(axis=2, keepdims=True)
        )[..., 0]
    elif name == "reference":
        given = unheard[..., None]
    else:
        given = prepared_by_hand(network.train, unheard)[..., None]

    found = np.square(core_of(network, keras)(given, training=False).numpy() - given).mean()

    assert network.epochs[-1].held_out_loss == pytest.approx(found, rel=1e-3)
