"""The inference library: models that load, and models that are refused in one line."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from contract.errors import ReleaseError
from contract.release import squeezed
from node.scoring.release_store import read_release
from node.scoring.runtime import LoadedModel, find_runtime
from tests.rig.fake_inference import FEATURES, RUNTIME, model_content

FAN = Path(__file__).parents[3] / "models/fan-synthetic"


def fan_content() -> bytes:
    release = read_release(FAN)
    (listed,) = release.manifest.models
    return release.content(listed)


def features() -> Any:
    return np.arange(np.prod(FEATURES.shape), dtype=np.float32).reshape(FEATURES.shape)


def test_preferred_library_is_found() -> None:
    """Where ai-edge-litert is installed it is taken, with its version."""
    runtime = find_runtime()

    assert runtime.name == "ai-edge-litert"
    assert runtime.version[0].isdigit()


def test_released_model_runs() -> None:
    """The model that comes with earshot loads, has its manifest's shapes, and gives numbers."""
    release = read_release(FAN)
    manifest = release.manifest
    (listed,) = manifest.models

    model = LoadedModel(release.content(listed), find_runtime())

    assert model.input_shape == listed.input_shape
    assert model.output_shape == listed.output_shape
    assert squeezed(model.input_shape) == squeezed(manifest.features.shape)
    output = model(np.zeros(manifest.features.shape, np.float32))
    assert output.shape == listed.output_shape[1:]
    assert output.dtype == np.float32
    assert np.isfinite(output).all()


def test_model_keeps_nothing_of_an_input() -> None:
    """The same features give the same answer, whatever came between; an answer is not rewritten."""
    release = read_release(FAN)
    model = LoadedModel(fan_content(), find_runtime())
    chance = np.random.default_rng(0)
    one, other = chance.normal(0, 20, (2, *release.manifest.features.shape)).astype(np.float32)

    first = model(one)
    kept = first.copy()
    second = model(other)

    np.testing.assert_array_equal(first, kept)
    assert (second != kept).any()
    np.testing.assert_array_equal(model(one), kept)


def damaged(kind: str) -> bytes:
    content = fan_content()
    return {
        "empty": b"",
        "text": b"not a model\n" * 100,
        "zeros": bytes(4096),
        "only its mark": content[:8],
        "mark and noise": content[:8] + np.random.default_rng(0).bytes(4096),
        "half of it": content[: len(content) // 2],
        "all but the end": content[:-100],
        "pickle": b"\x80\x04\x95" + bytes(100),
    }[kind]


@pytest.mark.parametrize(
    "kind",
    [
        "empty",
        "text",
        "zeros",
        "only its mark",
        "mark and noise",
        "half of it",
        "all but the end",
        "pickle",
    ],
)
def test_garbage_is_refused_in_one_line(kind: str, capfd: pytest.CaptureFixture[str]) -> None:
    """What is no model, or a piece of one, is refused; the C++ library adds no lines of its own."""
    with pytest.raises(ReleaseError, match=r"^ai-edge-litert \S+ cannot load this model: .") as e:
        LoadedModel(damaged(kind), find_runtime())

    assert "\n" not in str(e.value)
    assert len(str(e.value)) < 300
    assert capfd.readouterr() == ("", "")


def test_loading_is_quiet(capfd: pytest.CaptureFixture[str]) -> None:
    """A model that loads does so without a word, and standard error works afterwards."""
    LoadedModel(fan_content(), find_runtime())

    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("keys", "problem"),
    [
        ({"input_shapes": [[1, 4], [1, 4]]}, "one float32 input, got float32, float32"),
        ({"output_shapes": [[1, 4], [1, 4]]}, "one float32 output, got float32, float32"),
        ({"input_shapes": []}, "one float32 input, got "),
        ({"dtype": "int8"}, "one float32 input, got int8"),
    ],
)
def test_model_of_another_signature_is_refused(keys: dict[str, Any], problem: str) -> None:
    """A classifier, a quantised input or several outputs are not what earshot runs."""
    with pytest.raises(ReleaseError, match=f"Expected a model with {problem}"):
        LoadedModel(model_content(**keys), RUNTIME)


def test_first_line_of_a_failure_is_told() -> None:
    """Of a library's long story its first line is given, cut to a length."""
    long_story = "\n  op CUSTOM is unknown " + "x" * 500 + "\nat 0x7f\n"

    with pytest.raises(ReleaseError) as error:
        LoadedModel(model_content(fails=long_story), RUNTIME)

    assert str(error.value).startswith(
        "fake-inference 1.0 cannot load this model: op CUSTOM is unknown xxx"
    )
    assert len(str(error.value)) < 300
    assert "\n" not in str(error.value)


def test_failure_without_words_is_told() -> None:
    """An empty message still leaves a sentence."""
    with pytest.raises(ReleaseError, match="cannot load this model: no reason given"):
        LoadedModel(model_content(fails=" \n"), RUNTIME)


def test_features_need_no_dimensions_of_one() -> None:
    """Batch and channel, which the graph asks for, are put to the features on the way in."""
    model = LoadedModel(model_content(add=2), RUNTIME)

    np.testing.assert_array_equal(model(features()), features()[..., np.newaxis] + 2)
    assert model.input_shape == (1, *FEATURES.shape, 1)


def test_kinds_of_operators_are_told() -> None:
    """Each kind once; what a delegate has taken over is still told, the delegate is not."""
    model = LoadedModel(model_content(operators=["ADD", "MUL", "ADD", "DELEGATE"]), RUNTIME)
    released = LoadedModel(fan_content(), find_runtime())

    assert model.operators == {"ADD", "MUL"}
    assert "FULLY_CONNECTED" in released.operators
    assert "DELEGATE" not in released.operators


def test_features_of_another_shape_are_refused() -> None:
    """Transposed or cut features are not poured into the graph."""
    model = LoadedModel(model_content(), RUNTIME)

    for wrong in (features().T, features()[:-1], features().ravel()):
        with pytest.raises(ReleaseError, match="Expected features that fit the model's input"):
            model(wrong)


@pytest.mark.parametrize(
    ("given", "shape"),
    [
        ([1, 13, 16, 1], (13, 16, 1)),
        ([1, 8], (8,)),
        ([1, 1, 8], (1, 8)),
        ([4, 13, 8], (4, 13, 8)),
        ([1], (1,)),
    ],
)
def test_answer_has_the_graphs_own_shape(given: list[int], shape: tuple[int, ...]) -> None:
    """Of an output the batch of one goes, and nothing else: it may be of any size."""
    model = LoadedModel(model_content(output_shapes=[given]), RUNTIME)

    assert model(features()).shape == shape
