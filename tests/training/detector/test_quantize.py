"""What conversion does to a network's answers, size and operators."""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest

from contract.features import Float32Array
from contract.release import Model
from node.scoring.detector import Detector
from node.scoring.release_store import Release
from node.scoring.runtime import LoadedModel, find_runtime
from tests.training.conftest import EPOCHS, SmallNetwork
from training.judge.scoring import stacked
from training.recipes import QUANTISATIONS, NetworkName, Quantisation
from training.release.runtime_trial import statistics

Networks = dict[NetworkName, SmallNetwork]
ALL = [(name, quantisation) for name in EPOCHS for quantisation in QUANTISATIONS]

# How far the error of a held-out window may move, relative to the same window's error in the
# network itself: two to four times what was measured.
BOUNDS: dict[NetworkName, dict[Quantisation, float]] = {
    "reference": {"float32": 1e-4, "float16": 0.005, "dynamic": 0.01, "int8": 0.02},
    "repaired": {"float32": 1e-4, "float16": 0.005, "dynamic": 0.005, "int8": 0.01},
    "conv": {"float32": 1e-4, "float16": 0.01, "dynamic": 0.01, "int8": 0.05},
    "profile": {"float32": 1e-4, "float16": 0.03, "dynamic": 0.15, "int8": 0.15},
    "dense": {"float32": 1e-4, "float16": 0.001, "dynamic": 0.001, "int8": 0.04},
}
MAX_BYTES: dict[NetworkName, dict[Quantisation, int]] = {
    "reference": {"float32": 1_600_000, "float16": 800_000, "dynamic": 450_000, "int8": 450_000},
    "repaired": {"float32": 1_600_000, "float16": 800_000, "dynamic": 450_000, "int8": 450_000},
    "conv": {"float32": 220_000, "float16": 120_000, "dynamic": 75_000, "int8": 75_000},
    "profile": {"float32": 32_000, "float16": 20_000, "dynamic": 16_000, "int8": 14_000},
    "dense": {"float32": 1_100_000, "float16": 560_000, "dynamic": 290_000, "int8": 290_000},
}


def model_of(network: SmallNetwork, quantisation: Quantisation) -> tuple[Model, LoadedModel]:
    """Load an exported graph."""
    release = network.assembled[quantisation].release
    (model,) = release.manifest.models
    return model, LoadedModel(release.content(model), find_runtime())


def errors_of_network(network: SmallNetwork, windows: Float32Array) -> npt.NDArray[np.float64]:
    """The error of each window as the network itself makes it, by hand."""
    answers = network.trained(windows).astype(np.float64)
    (model,) = network.recipe.models
    residual = windows - answers if network.trained.output == "reconstruction" else answers
    if model.error == "time_mean_mse":
        residual = residual.mean(axis=-1)
    errors: npt.NDArray[np.float64] = np.square(residual).reshape(len(windows), -1).mean(axis=1)
    return errors


@pytest.mark.parametrize(("name", "quantisation"), ALL)
def test_errors_stay_near_the_networks(
    small_networks: Networks, name: NetworkName, quantisation: Quantisation
) -> None:
    """A held-out window's error moves by no more than the bound of its quantisation."""
    network = small_networks[name]
    windows = stacked(network.held_out)
    release: Release = network.assembled[quantisation].release

    wanted = errors_of_network(network, windows)
    found = statistics(Detector(release, find_runtime()), windows)

    moved = np.abs(found / wanted - 1).max()
    assert moved < BOUNDS[name][quantisation]
    # It was quantised at all.
    assert quantisation == "float32" or moved > 1e-7


@pytest.mark.parametrize(("name", "quantisation"), ALL)
def test_one_window_at_a_time(
    small_networks: Networks, name: NetworkName, quantisation: Quantisation
) -> None:
    """Every graph has a fixed batch of one and takes and gives float32."""
    model, loaded = model_of(small_networks[name], quantisation)
    (given,) = loaded._interpreter.get_input_details()
    (made,) = loaded._interpreter.get_output_details()

    assert given["shape"][0] == made["shape"][0] == 1
    assert given["shape_signature"].tolist() == list(model.input_shape)
    assert made["shape_signature"].tolist() == list(model.output_shape)
    assert given["dtype"] is made["dtype"] is np.float32


@pytest.mark.parametrize(("name", "quantisation"), ALL)
def test_size(small_networks: Networks, name: NetworkName, quantisation: Quantisation) -> None:
    """Weights take the bytes that their quantisation says, scales per channel would show."""
    model, _ = model_of(small_networks[name], quantisation)
    size = len(small_networks[name].assembled[quantisation].release.files[model.file])

    assert size < MAX_BYTES[name][quantisation]
    assert model.quantisation == quantisation


@pytest.mark.parametrize(("name", "quantisation"), ALL)
def test_transposed_convolution_only_in_the_reference(
    small_networks: Networks, name: NetworkName, quantisation: Quantisation
) -> None:
    """The operator that costs most is in one network alone."""
    _, loaded = model_of(small_networks[name], quantisation)

    assert ("TRANSPOSE_CONV" in loaded.operators) == (name == "reference")


class Graph:
    """The operators of a graph as its file has them."""

    def __init__(self, network: SmallNetwork, quantisation: Quantisation) -> None:
        release = network.assembled[quantisation].release
        content = release.content(release.manifest.models[0])
        # Not allocated: a library that gets ready to run repeats one scale for every channel.
        interpreter = find_runtime().interpreter(model_content=content)
        self._arrays = {array["index"]: array for array in interpreter.get_tensor_details()}
        self._operators = interpreter._get_ops_details()
        (self._output,) = [array["index"] for array in interpreter.get_output_details()]

    def types(self, kind: str) -> set[str]:
        """The types of all numbers that operators of a kind take and give."""
        return {
            np.dtype(self._arrays[index]["dtype"]).name
            for op in self._operators
            if op["op_name"] == kind
            for index in (op["inputs"][0], op["outputs"][0])
        }

    def weight_scales(self, kind: str) -> list[int]:
        """How many scales the weights of each operator of a kind have."""
        return [
            len(self._arrays[op["inputs"][1]]["quantization_parameters"]["scales"])
            for op in self._operators
            if op["op_name"] == kind
        ]

    def residual(self) -> tuple[set[str], set[str], set[str]]:
        """Kinds of operators after the last subtraction, and those that made its two operands."""
        (subtraction,) = [op for op in self._operators if op["op_name"] == "SUB"][-1:]
        after = self._makers(self._output, until=subtraction["outputs"][0])
        first, second = subtraction["inputs"]
        return after, self._makers(first), self._makers(second)

    def _makers(self, index: int, until: int | None = None) -> set[str]:
        if index == until:
            return set()
        made = [op for op in self._operators if index in op["outputs"]]
        return {op["op_name"] for op in made}.union(
            *(self._makers(given, until) for op in made for given in op["inputs"] if given >= 0)
        )


@pytest.mark.parametrize(
    ("name", "core"),
    [
        ("repaired", "CONV_2D"),
        ("conv", "CONV_2D"),
        ("dense", "FULLY_CONNECTED"),
    ],
)
def test_int8_rounds_inside_the_core_alone(
    small_networks: Networks, name: NetworkName, core: str
) -> None:
    """What is prepared reaches the subtraction unrounded, and the difference reaches the end so."""
    graph = Graph(small_networks[name], "int8")

    after, prepared, answer = graph.residual()

    assert graph.types(core) == {"int8"}
    assert graph.types("SUB") == {"float32"}
    assert {"QUANTIZE", "DEQUANTIZE", core}.isdisjoint(after | prepared)
    assert {"QUANTIZE", "DEQUANTIZE", core} <= answer
    assert ("MUL" in prepared) == (name != "dense")


def test_int8_of_profile_has_activations_of_16_bits(small_networks: Networks) -> None:
    """Its error is finer than 255 steps resolve."""
    graph = Graph(small_networks["profile"], "int8")

    assert graph.types("FULLY_CONNECTED") == {"int16"}


@pytest.mark.parametrize("quantisation", ["dynamic", "int8"])
@pytest.mark.parametrize("name", EPOCHS)
def test_dense_weights_have_one_scale(
    small_networks: Networks, name: NetworkName, quantisation: Quantisation
) -> None:
    """Quantised weights of FULLY_CONNECTED have one scale: older libraries know no other."""
    scales = Graph(small_networks[name], quantisation).weight_scales("FULLY_CONNECTED")

    # Dynamic leaves weights as they are where there are few.
    allowed = {1} if quantisation == "int8" else {0, 1}
    assert set(scales) <= allowed
    assert bool(scales) == (name != "conv")


@pytest.fixture(scope="module")
def widened() -> Callable[..., Float32Array]:
    """Import what needs TensorFlow."""
    from training.detector import quantize

    return quantize.widened


def test_every_second_window_is_widened(widened: Callable[..., Float32Array]) -> None:
    """Half of them are windows as they are, evenly from all; the others are further out."""
    rng = np.random.default_rng(0)
    normal = rng.normal(size=(30, 4, 5)).astype(np.float32) * np.float32(3)
    before = normal.copy()

    found = widened(normal, count=20)

    assert found.shape == (20, 4, 5)
    assert found.dtype == np.float32
    rows = [int(np.flatnonzero((normal == window).all(axis=(1, 2)))[0]) for window in found[::2]]
    assert rows == sorted(rows)
    assert (rows[0], rows[-1]) == (0, 27)
    for window in found[1::2]:
        assert not (normal == window).all(axis=(1, 2)).any()
    assert found[1::2].std() > 1.2 * normal.std()
    np.testing.assert_array_equal(normal, before)


def test_widened_by_a_quarter_to_one_standard_deviation(
    widened: Callable[..., Float32Array],
) -> None:
    """Frames are moved by that much of their spread, whole windows by that much of their means'."""
    rng = np.random.default_rng(0)
    levels = rng.normal(0, 3, size=(2, 300, 1))
    normal = (levels + rng.normal(size=(2, 300, 200))).astype(np.float32)
    of_frames = normal.std(axis=(0, 2))
    of_means = normal.mean(axis=2).std(axis=0)

    shares = []
    for window in widened(normal, count=40)[1::2]:
        moved = min((window - original for original in normal), key=lambda by: np.square(by).sum())
        offset = moved.mean(axis=1) / of_means
        noise = (moved - moved.mean(axis=1, keepdims=True)).std(axis=1) / of_frames
        shares.append((np.median(np.abs(offset)) / 0.6745, noise.mean()))

    of_offset, of_noise = np.array(shares).T
    assert 0.2 < of_noise.min() < 0.4
    assert 0.85 < of_noise.max() < 1.05
    np.testing.assert_allclose(of_offset, of_noise, rtol=0.25)


def test_widened_by_the_spread_of_each_coefficient(widened: Callable[..., Float32Array]) -> None:
    """A coefficient that never changes stays; one that varies more is moved more."""
    rng = np.random.default_rng(0)
    normal = rng.normal(size=(30, 3, 5)).astype(np.float32)
    normal *= np.array([[0], [1], [100]], np.float32)

    moved = np.abs(widened(normal, count=200)[1::2]).mean(axis=(0, 2))

    assert moved[0] == 0
    assert 50 < moved[2] / moved[1] < 200


def test_fewer_windows_than_wanted(widened: Callable[..., Float32Array]) -> None:
    """A single normal window is taken again and again, and the same each time."""
    normal = np.random.default_rng(0).normal(size=(1, 3, 5)).astype(np.float32)

    found = widened(normal, count=6)

    assert found.shape == (6, 3, 5)
    np.testing.assert_array_equal(found[::2], np.repeat(normal, 3, axis=0))
    np.testing.assert_array_equal(found, widened(normal, count=6))
