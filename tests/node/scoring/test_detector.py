"""Statistics: of one model and of several, against what is computed by hand."""

import json
import math
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from contract.errors import ReleaseError
from contract.features import Float32Array
from contract.release import LogNormals, Model
from node.scoring.detector import Detector, Judged, exp_sum_log_z
from node.scoring.release_store import Release, read_release
from node.scoring.runtime import find_runtime
from tests.rig.fake_inference import (
    FEATURES,
    RUNTIME,
    FakeModel,
    recording_runtime,
    release,
    release_of,
)

FAN = Path(__file__).parents[3] / "models/fan-synthetic"

COUNTED: Float32Array = np.arange(np.prod(FEATURES.shape), dtype=np.float32).reshape(FEATURES.shape)
"""Small integers, so that adding to them and taking them away again is exact."""

RESIDUAL = [[[1.0, 2.0, 6.0], [4.0, 5.0, 9.0]]]
"""Mean square: 163 / 6. Means over time, the last dimension: 3 and 6; their mean square: 45 / 2."""

STANDARD = LogNormals(mean=0.0, sd=1.0)
"""With this a model's error is its own share of the statistic."""


def residual(
    answer: Any, log_error: LogNormals | None = None, error: Any = "mse", **keys: Any
) -> FakeModel:
    """A model that leaves this over, whatever comes in."""
    shape = np.array(answer).shape
    return FakeModel({"answer": answer} | keys, log_error, error, shape)


def judged(*models: FakeModel, features: Float32Array = COUNTED) -> Judged:
    return Detector(release_of(*models), RUNTIME)(features)


def test_error_of_a_reconstruction_is_its_mean_square() -> None:
    """A model that is off by 3 everywhere has an error of 9, which is the statistic as well."""
    assert judged(FakeModel({"add": 3})) == Judged(mse=9.0, statistic=9.0, errors=(9.0,))


def test_mean_over_time_is_taken_before_the_square() -> None:
    """What is as often above as below counts in the MSE and not in `time_mean_mse`."""
    wobble = COUNTED + np.tile(np.array([2, -2], np.float32), FEATURES.frames // 2)
    still = COUNTED + np.float32(1)
    model = FakeModel({"answer": COUNTED.tolist()}, error="time_mean_mse", channels=False)

    assert judged(model, features=wobble) == Judged(4.0, 0.0, (0.0,))
    assert judged(model, features=still) == Judged(1.0, 1.0, (1.0,))


def test_time_is_the_last_dimension() -> None:
    """Each band keeps its own mean over time."""
    given = residual(RESIDUAL, error="time_mean_mse")

    found = judged(given)

    assert found.statistic == pytest.approx(45 / 2)
    assert found.mse == pytest.approx(163 / 6)


@pytest.mark.parametrize("shape", [(1, 2, 3), (1, 6), (1, 3, 2, 1), (6,), (2, 3)])
def test_residual_may_have_any_shape(shape: tuple[int, ...]) -> None:
    """A residual is what the graph gives, in its own shape, not the difference to the features."""
    found = judged(residual(np.reshape(RESIDUAL, shape).tolist()))

    assert found.mse == found.statistic == pytest.approx(163 / 6)


def test_residual_in_the_features_shape_is_not_subtracted() -> None:
    """Also where it would fit."""
    found = judged(residual(np.full((1, *FEATURES.shape), 2.0).tolist()))

    assert (found.mse, found.statistic) == (4.0, 4.0)


def test_residuals_are_those_of_each_model() -> None:
    """A reconstruction is taken from the features, what is a residual already is left as it is."""
    detector = Detector(
        release_of(FakeModel({"add": 3}, STANDARD), residual(RESIDUAL, STANDARD)), RUNTIME
    )

    rebuilt, given = detector.residuals(COUNTED)

    assert rebuilt.tolist() == np.full(FEATURES.shape, -3.0).tolist()
    assert given.tolist() == RESIDUAL[0]


def test_several_models_by_hand() -> None:
    """Errors 4 and 9; z scores 2 * (ln 4 - 1) and 4 * (ln 9 - 2); exp of both: 16 * 6561 / e^10."""
    found = judged(
        FakeModel({"add": 2}, LogNormals(mean=1.0, sd=0.5)),
        FakeModel({"add": 3}, LogNormals(mean=2.0, sd=0.25)),
    )

    assert found.mse == 4.0
    assert found.errors == (4.0, 9.0)
    assert found.statistic == pytest.approx(16 * 6561 * math.exp(-10), rel=1e-9)


def test_models_of_different_kinds_by_hand() -> None:
    """A reconstruction, a residual and a mean over time are each taken for what they are."""
    found = judged(
        residual(RESIDUAL, LogNormals(mean=0.0, sd=2.0), "time_mean_mse"),
        FakeModel({"add": 3}, STANDARD),
        residual([[3.0, 4.0]], STANDARD),
    )

    assert found.mse == pytest.approx(163 / 6)
    assert found.errors == pytest.approx((22.5, 9.0, 12.5))
    assert found.statistic == pytest.approx(math.sqrt(22.5) * 9.0 * 12.5, rel=1e-6)


def test_errors_as_for_normal_windows_are_one() -> None:
    """Where each log error is its mean the statistic is 1, however wide they spread."""
    found = judged(
        FakeModel({"add": 2}, LogNormals(mean=math.log(4), sd=0.001)),
        FakeModel({"add": 3}, LogNormals(mean=math.log(9), sd=50.0)),
    )

    assert found.statistic == pytest.approx(1.0, rel=1e-9)


def test_exact_reconstruction() -> None:
    """Alone it is an error of 0; beside others its logarithm is that of 1e-30."""
    assert judged(FakeModel({})) == Judged(0.0, 0.0, (0.0,))

    found = judged(FakeModel({}, LogNormals(mean=0.0, sd=2.0)), residual([[2.0]], STANDARD))

    assert (found.mse, found.errors) == (0.0, (0.0, 4.0))
    assert found.statistic == pytest.approx(1e-15 * 4, rel=1e-9, abs=0.0)


@pytest.mark.parametrize("error", [0.0, 1e-45, 9e-31])
def test_errors_below_the_smallest_are_the_smallest(error: float) -> None:
    """From 1e-30 down they are all the same, and not added to it."""
    models = (_entry(STANDARD), _entry(STANDARD))

    smallest = exp_sum_log_z(models, (1e-30, 1.0))

    assert smallest == pytest.approx(1e-30, rel=1e-9, abs=0.0)
    assert exp_sum_log_z(models, (error, 1.0)) == smallest
    assert exp_sum_log_z(models, (2e-30, 1.0)) == pytest.approx(2e-30, rel=1e-9, abs=0.0)


@pytest.mark.parametrize("error", ["mse", "time_mean_mse"])
@pytest.mark.parametrize(
    "answer",
    [
        [[1.0, math.nan]],
        [[1.0, math.inf]],
        [[-math.inf, 1.0]],
        [[math.inf, -math.inf]],
        [[3e38, 3e38]],
    ],
)
def test_model_without_a_number_has_no_statistic(answer: Any, error: str) -> None:
    """NaN, infinity and what is infinite when squared are passed on, and nothing warns."""
    alone = judged(residual(answer, error=error))
    first = judged(residual(answer, STANDARD, error), residual([[1.0]], STANDARD))
    second = judged(residual([[1.0]], STANDARD), residual(answer, STANDARD, error))

    assert not math.isfinite(alone.mse)
    assert not math.isfinite(alone.statistic)
    assert not math.isfinite(first.mse)
    assert math.isnan(first.statistic)
    assert second.mse == 1.0
    assert math.isnan(second.statistic)


@pytest.mark.parametrize(("answer", "log"), [(1e10, 300.0), (1e-10, -300.0)])
def test_sum_is_kept_within_300(answer: float, log: float) -> None:
    """However narrow the normal windows, the statistic is a number that everybody can hold."""
    narrow = LogNormals(mean=0.0, sd=1e-12)

    found = judged(residual([[answer]], narrow), residual([[answer]], narrow))

    assert found.statistic == math.exp(log)
    assert 0.0 < found.statistic < math.inf


def test_sum_is_kept_and_not_its_parts() -> None:
    """A model that finds a window extremely normal outweighs one that finds it very odd."""
    models = (
        _entry(LogNormals(mean=0.0, sd=1 / 500)),
        _entry(LogNormals(mean=0.0, sd=1 / 450)),
    )

    assert exp_sum_log_z(models, (math.e, 1 / math.e)) == pytest.approx(
        math.exp(50), rel=1e-9, abs=0.0
    )
    assert exp_sum_log_z(models, (1 / math.e, math.e)) == pytest.approx(
        math.exp(-50), rel=1e-9, abs=0.0
    )


@given(
    st.lists(
        st.tuples(
            st.floats(min_value=0.0, max_value=3.4e38),
            st.floats(min_value=-1e3, max_value=1e3),
            st.floats(min_value=1e-12, max_value=1e6),
        ),
        min_size=2,
        max_size=4,
    )
)
@settings(max_examples=300, deadline=None, database=None)
def test_statistic_is_always_finite_and_positive(cases: list[tuple[float, float, float]]) -> None:
    """So that JSON can carry it and a log can be taken of it."""
    models = tuple(_entry(LogNormals(mean=mean, sd=sd)) for _, mean, sd in cases)

    found = exp_sum_log_z(models, tuple(error for error, _, _ in cases))

    assert math.exp(-300) <= found <= math.exp(300)


def test_one_more_error_is_a_mistake_of_the_caller() -> None:
    """Errors and models are as many."""
    with pytest.raises(ValueError, match="zip"):
        exp_sum_log_z((_entry(STANDARD),), (1.0, 1.0))


def test_window_does_not_depend_on_the_one_before() -> None:
    """The same features give the same answer whatever came between."""
    detector = Detector(release_of(FakeModel({"add": 1e-3})), RUNTIME)
    first = detector(COUNTED)

    detector(COUNTED * 100)

    assert detector(COUNTED) == first


@pytest.mark.parametrize(
    ("model", "refusal"),
    [
        (
            FakeModel({"input_shapes": [[1, 16, 13]]}, STANDARD),
            r"input of model-1\.tflite is \(1, 16, 13\), the manifest says \(1, 13, 16, 1\)",
        ),
        (
            FakeModel({"output_shapes": [[1, 16, 13]]}, STANDARD),
            r"output of model-1\.tflite is \(1, 16, 13\), the manifest says \(1, 13, 16, 1\)",
        ),
        (
            residual([[1.0, 2.0]], STANDARD, output_shapes=[[1, 3]]),
            r"output of model-1\.tflite is \(1, 3\), the manifest says \(1, 2\)",
        ),
    ],
)
def test_model_that_is_not_as_listed_is_refused(model: FakeModel, refusal: str) -> None:
    """A graph of another shape than its entry is named before the first window."""
    with pytest.raises(ReleaseError, match=f"^fake@1: {refusal}$"):
        judged(FakeModel({}, STANDARD), model)


def test_dimensions_of_one_make_no_difference() -> None:
    """Keras and its converter do not agree on them."""
    found = judged(
        FakeModel({"add": 3, "input_shapes": [[13, 16]], "output_shapes": [[1, 1, 13, 16]]})
    )

    assert found.mse == 9.0


@pytest.mark.parametrize("broken", [0, 1, 2])
def test_model_that_does_not_load_is_named(broken: int) -> None:
    """Of several models the one is named that the library rejects."""
    keys: list[dict[str, Any]] = [{}, {}, {}]
    keys[broken] = {"fails": "broken op"}
    name = ["model", "model-1", "model-2"][broken]

    with pytest.raises(ReleaseError) as error:
        judged(*(FakeModel(each, STANDARD) for each in keys))

    assert str(error.value) == (
        f"fake@1: {name}.tflite: fake-inference 1.0 cannot load this model: broken op"
    )


def test_features_of_one_column_are_not_mixed() -> None:
    """A dimension of one that is the features' own stays."""
    features = msgspec.structs.replace(FEATURES, frame_hop_samples=4000, frames=1)
    column = np.arange(13, dtype=np.float32).reshape(13, 1)

    found = Detector(release_of(FakeModel({"add": 3}), features=features), RUNTIME)(column)

    assert found.mse == 9.0


def test_every_model_gets_the_threads() -> None:
    """As many as the settings allow, and one where they say nothing."""
    two = release_of(FakeModel({}, STANDARD), FakeModel({}, STANDARD))
    runtime, made = recording_runtime()

    Detector(two, runtime, threads=3)
    Detector(release(), runtime)

    assert [each.num_threads for each in made] == [3, 3, 1]


def test_operators_are_those_of_all_models() -> None:
    """Each kind once, in alphabetical order."""
    two = release_of(
        FakeModel({"operators": ["MUL", "CONV_2D"]}, STANDARD),
        FakeModel({"operators": ["ADD", "MUL"]}, STANDARD),
    )

    assert Detector(two, RUNTIME).operators == ("ADD", "CONV_2D", "MUL")


def test_released_model_twice() -> None:
    """Two real graphs side by side give the product of what each gives alone."""
    single = read_release(FAN)
    alone = Detector(single, find_runtime())
    features = np.random.default_rng(0).normal(0, 20, single.manifest.features.shape)
    mse = alone(features.astype(np.float32)).mse
    log = math.log(mse)

    both = Detector(
        _doubled(single, LogNormals(mean=log - 1, sd=0.5), LogNormals(mean=log + 1, sd=0.25)),
        find_runtime(),
    )(features.astype(np.float32))

    assert both.mse == mse
    assert both.errors == (mse, mse)
    assert both.statistic == pytest.approx(math.exp(1 / 0.5 - 1 / 0.25), rel=1e-9)


def test_manifest_of_the_release_is_at_hand() -> None:
    """For those who hold the detector alone."""
    found = release()

    assert Detector(found, RUNTIME).manifest is found.manifest
    assert json.loads(found.content(found.manifest.models[0]))


def _entry(log_error: LogNormals) -> Model:
    (entry,) = release().manifest.models
    return msgspec.structs.replace(entry, log_error=log_error)


def _doubled(single: Release, *log_errors: LogNormals) -> Release:
    (entry,) = single.manifest.models
    manifest = msgspec.structs.replace(
        single.manifest,
        models=tuple(msgspec.structs.replace(entry, log_error=each) for each in log_errors),
        statistic="exp_sum_log_z",
    )
    return Release(manifest, single.files)
