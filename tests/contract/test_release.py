"""Releases: the manifest as released, and every one that must not be used."""

import hashlib
import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from contract.errors import ReleaseError
from contract.feature_params import FeatureParams
from contract.release import (
    MAX_FILE_BYTES,
    MAX_MANIFEST_BYTES,
    Calibration,
    LogNormals,
    Manifest,
    Model,
    ReleaseFile,
    Threshold,
    Training,
    check_file,
    decode_manifest,
    describe_file,
    encode_manifest,
    squeezed,
)

FOLDER = Path(__file__).parents[1] / "data/golden/format-1"
GOLDEN = FOLDER / "manifest.json"
GOLDEN_SEVERAL = FOLDER / "manifest-several.json"

MANIFEST = Manifest(
    name="fan",
    version=17,
    created_us=1_795_358_112_500_000,
    description="Fan of press 7, winter",
    features=FeatureParams(),
    window_hop_samples=16_000,
    files=(
        ReleaseFile(
            name="model.tflite",
            sha256="ba1f52b38ec3c012c9951dca750fc175fd5cf135e9cf0ee9d3531c2549d38ae2",
            size_bytes=550_968,
        ),
    ),
    models=(
        Model(
            file="model.tflite",
            input_shape=(1, 40, 64, 1),
            output_shape=(1, 40, 64, 1),
            output="reconstruction",
            error="mse",
            log_error=None,
            parameters=512_345,
            quantisation="float16",
            runtimes=("ai-edge-litert 2.1.0",),
        ),
    ),
    statistic="error",
    threshold=Threshold(
        value=45.0, method="held_out", false_alarm_rate=0.001, calibration_windows=5400
    ),
    calibration=Calibration(log_statistic=LogNormals(mean=3.25, sd=0.125), sessions=None),
    training=Training(
        command="python -m training train recordings/fan",
        recipe="reference",
        data="recordings/fan",
        files=120,
        windows=21_600,
        seed=7,
        epochs=50,
    ),
)


SEVERAL = Manifest(
    name="pump-2",
    version=1,
    created_us=1_795_358_112_500_000,
    description="",
    features=FeatureParams(kind="logmel", n_mels=128, window_samples=32_000, frames=64),
    window_hop_samples=32_000,
    files=(
        ReleaseFile(
            name="shape.tflite",
            sha256="ba1f52b38ec3c012c9951dca750fc175fd5cf135e9cf0ee9d3531c2549d38ae2",
            size_bytes=550_968,
        ),
        ReleaseFile(
            name="spectrum.tflite",
            sha256="4d967a30111bf29f0eba01c448b375c1629b2fed01cdfcc3aed91f1b57d5dd5e",
            size_bytes=81_032,
        ),
    ),
    models=(
        Model(
            file="shape.tflite",
            input_shape=(1, 128, 64),
            output_shape=(1, 128, 64),
            output="reconstruction",
            error="mse",
            log_error=LogNormals(mean=2.5, sd=0.25),
            parameters=386_529,
            quantisation="int8",
            runtimes=("ai-edge-litert", "tflite-runtime"),
        ),
        Model(
            file="spectrum.tflite",
            input_shape=(1, 128, 64),
            output_shape=(1, 640, 12),
            output="residual",
            error="time_mean_mse",
            log_error=LogNormals(mean=-4.0, sd=0.5),
            parameters=None,
            runtimes=("tflite-runtime",),
        ),
    ),
    statistic="exp_sum_log_z",
    threshold=Threshold(
        value=1e130,
        method="sessions_left_out",
        false_alarm_rate=0.001,
        calibration_windows=21_600,
    ),
    calibration=Calibration(
        block_seconds=30,
        false_alarms_per_week=0.5,
        log_statistic=LogNormals(mean=0.0, sd=1.5),
        sessions=4,
    ),
    training=Training(
        command="python -m training train recordings/pump",
        recipe="ensemble",
        data="recordings/pump",
        files=120,
        windows=21_600,
        seed=7,
        epochs=50,
    ),
)

GOLDENS = pytest.mark.parametrize(
    ("manifest", "golden"),
    [(MANIFEST, GOLDEN), (SEVERAL, GOLDEN_SEVERAL)],
    ids=["one model", "several"],
)


def golden_object(golden: Path = GOLDEN) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(golden.read_bytes())
    return found


def changed(path: str, value: object, golden: Path = GOLDEN) -> bytes:
    """A golden manifest with one value replaced, for example `files.0.sha256`."""
    document = golden_object(golden)
    place: Any = document
    *parents, last = [int(part) if part.isdigit() else part for part in path.split(".")]
    for part in parents:
        place = place[part]
    place[last] = value
    return json.dumps(document).encode()


@GOLDENS
def test_manifest_is_written_as_released(manifest: Manifest, golden: Path) -> None:
    """A manifest of format 1 is the same bytes as ever."""
    assert encode_manifest(manifest) == golden.read_bytes()


@GOLDENS
def test_manifest_is_read_as_released(manifest: Manifest, golden: Path) -> None:
    """The bytes of format 1 give back the manifest."""
    assert decode_manifest(golden.read_bytes()) == manifest


def test_bytes_are_canonical() -> None:
    """Keys are sorted at every level and nothing is spaced, however the bytes came."""
    shuffled = json.dumps(dict(reversed(golden_object().items())), indent=2).encode()

    text = encode_manifest(decode_manifest(shuffled))

    assert text == json.dumps(golden_object(), sort_keys=True, separators=(",", ":")).encode()


def test_label_and_hop() -> None:
    """The label is what messages carry; the hop is also given as time."""
    assert MANIFEST.label == "fan@17"
    assert MANIFEST.hop_us == 1_000_000


def test_unknown_keys_are_ignored() -> None:
    """A newer writer's further keys change nothing."""
    document = golden_object() | {"signature": {"k": 1}}
    document["features"]["window_function"] = "hann"

    assert decode_manifest(json.dumps(document).encode()) == MANIFEST


OPTIONAL = {"format", "self_test", "not_after_us", "quantisation", "operators"}


@pytest.mark.parametrize("key", sorted(golden_object().keys() - OPTIONAL))
def test_missing_key_is_refused(key: str) -> None:
    """A manifest without one of its parts is not used."""
    document = golden_object()
    del document[key]

    with pytest.raises(ReleaseError, match=f"missing required field `{key}`"):
        decode_manifest(json.dumps(document).encode())


@pytest.mark.parametrize(
    "path",
    [
        *(f"models.0.{key}" for key in sorted(golden_object()["models"][0].keys() - OPTIONAL)),
        *(f"threshold.{key}" for key in golden_object()["threshold"]),
        *(f"training.{key}" for key in golden_object()["training"]),
        "calibration.log_statistic",
        "calibration.sessions",
    ],
)
def test_missing_key_of_a_part_is_refused(path: str) -> None:
    """What may be null must still be said."""
    document = golden_object()
    place: Any = document
    *parents, last = [int(part) if part.isdigit() else part for part in path.split(".")]
    for part in parents:
        place = place[part]
    del place[last]

    with pytest.raises(ReleaseError, match=f"missing required field `{last}`"):
        decode_manifest(json.dumps(document).encode())


REFUSED: list[tuple[str, object, str]] = [
    (
        "files",
        [golden_object()["files"][0]] * 2,
        "fan@17: expected each file once, got model.tflite twice",
    ),
    ("files.0.name", "manifest.json", "fan@17: expected each file once, got manifest.json twice"),
    ("format", 2, r"Expected a manifest of format 1: Invalid enum value 2 - at `\$\.format`"),
    ("format", "1", r"at `\$\.format`"),
    ("name", "Fan", r"at `\$\.name`"),
    ("name", "", r"at `\$\.name`"),
    ("name", "../fan", r"at `\$\.name`"),
    ("version", 0, r"at `\$\.version`"),
    ("version", 1_000_000_000, r"at `\$\.version`"),
    ("description", "x" * 201, r"at `\$\.description`"),
    ("statistic", "median", r"at `\$\.statistic`"),
    ("statistic", "mse", r"at `\$\.statistic`"),
    (
        "statistic",
        "exp_sum_log_z",
        "fan@17: expected one model for the statistic `error` and several for `exp_sum_log_z`,"
        " got 1 for `exp_sum_log_z`",
    ),
    ("files", [], r"at `\$\.files`"),
    ("files.0.name", "../model.tflite", r"at `\$\.files\[0\]\.name`"),
    ("files.0.name", "/etc/passwd", r"at `\$\.files\[0\]\.name`"),
    ("files.0.name", ".hidden", r"at `\$\.files\[0\]\.name`"),
    ("files.0.sha256", "ba1f", r"at `\$\.files\[0\]\.sha256`"),
    ("files.0.sha256", "BA1F" + "0" * 60, r"at `\$\.files\[0\]\.sha256`"),
    ("files.0.size_bytes", 0, r"at `\$\.files\[0\]\.size_bytes`"),
    ("files.0.size_bytes", MAX_FILE_BYTES + 1, r"at `\$\.files\[0\]\.size_bytes`"),
    ("models", [], r"at `\$\.models`"),
    ("models", [golden_object()["models"][0]] * 5, r"at `\$\.models`"),
    (
        "models.0.file",
        "other.tflite",
        "fan@17: other.tflite is not among the files of the manifest",
    ),
    ("models.0.input_shape", [], r"at `\$\.models\[0\]\.input_shape`"),
    ("models.0.input_shape", [1, 40, -1, 1], r"at `\$\.models\[0\]\.input_shape\[2\]`"),
    ("models.0.input_shape", [1] * 7, r"at `\$\.models\[0\]\.input_shape`"),
    (
        "models.0.input_shape",
        [1, 64, 40, 1],
        r"fan@17: input of model\.tflite is \(1, 64, 40, 1\), its features are \(40, 64\)",
    ),
    (
        "models.0.output_shape",
        [1, 2560],
        r"fan@17: output of model\.tflite is \(1, 2560\), its features are \(40, 64\)",
    ),
    ("models.0.output", "code", r"at `\$\.models\[0\]\.output`"),
    ("models.0.quantisation", "int4", r"at `\$\.models\[0\]\.quantisation`"),
    ("models.0.error", "mae", r"at `\$\.models\[0\]\.error`"),
    ("models.0.log_error", {"mean": 0.0, "sd": 0}, r"at `\$\.models\[0\]\.log_error\.sd`"),
    ("models.0.log_error", {"sd": 1.0}, r"missing required field `mean`"),
    (
        "features.n_mfcc",
        20,
        r"fan@17: input of model\.tflite is \(1, 40, 64, 1\), its features are \(20, 64\)",
    ),
    ("features.frames", 62, "manifest: feature parameters: frames must be 63 to 65536, got 62"),
    ("features.kind", "wavelet", r"at `\$\.features\.kind`"),
    (
        "window_hop_samples",
        32_001,
        r"fan@17: expected a window hop of at most 32000 samples \(one window\), got 32001",
    ),
    ("window_hop_samples", 0, r"at `\$\.window_hop_samples`"),
    ("threshold.value", 0, r"at `\$\.threshold\.value`"),
    ("threshold.value", -1.0, r"at `\$\.threshold\.value`"),
    ("threshold.method", "guessed", r"at `\$\.threshold\.method`"),
    ("threshold.method", "quantile", r"at `\$\.threshold\.method`"),
    ("threshold.false_alarm_rate", 1, r"at `\$\.threshold\.false_alarm_rate`"),
    ("calibration.method", "quantile", r"at `\$\.calibration\.method`"),
    ("calibration.block_seconds", 0, r"at `\$\.calibration\.block_seconds`"),
    ("calibration.block_seconds", 3601, r"at `\$\.calibration\.block_seconds`"),
    ("calibration.false_alarms_per_week", 0, r"at `\$\.calibration\.false_alarms_per_week`"),
    ("calibration.log_statistic.sd", 0, r"at `\$\.calibration\.log_statistic\.sd`"),
    ("calibration.sessions", -1, r"at `\$\.calibration\.sessions`"),
]


@pytest.mark.parametrize(("path", "value", "message"), REFUSED)
def test_manifest_that_cannot_be_is_refused(path: str, value: object, message: str) -> None:
    """A manifest whose parts are wrong or do not fit is refused, with the reason."""
    with pytest.raises(ReleaseError, match=message):
        decode_manifest(changed(path, value))


REFUSED_OF_SEVERAL: list[tuple[str, object, str]] = [
    (
        "statistic",
        "error",
        "pump-2@1: expected one model for the statistic `error` and several for `exp_sum_log_z`,"
        " got 2 for `error`",
    ),
    (
        "models.0.log_error",
        None,
        r"pump-2@1: expected the log_error of each of several models, shape\.tflite has none",
    ),
    (
        "models.1.log_error",
        None,
        r"pump-2@1: expected the log_error of each of several models, spectrum\.tflite has none",
    ),
    ("models.1.file", "other.tflite", r"pump-2@1: other\.tflite is not among the files"),
    (
        "models.1.input_shape",
        [1, 640, 12],
        r"pump-2@1: input of spectrum\.tflite is \(1, 640, 12\), its features are \(128, 64\)",
    ),
    (
        "models.1.output",
        "reconstruction",
        r"pump-2@1: output of spectrum\.tflite is \(1, 640, 12\), its features are \(128, 64\)",
    ),
    *(
        (
            "models.1.output_shape",
            shape,
            r"pump-2@1: expected the last dimension of spectrum\.tflite's output to be time, got ",
        )
        for shape in ([1], [1, 64, 128, 1])
    ),
]


@pytest.mark.parametrize(("path", "value", "message"), REFUSED_OF_SEVERAL)
def test_several_models_that_cannot_be_are_refused(path: str, value: object, message: str) -> None:
    """Each of several models is checked, and named."""
    with pytest.raises(ReleaseError, match=message):
        decode_manifest(changed(path, value, GOLDEN_SEVERAL))


@pytest.mark.parametrize("shape", [[1], [1, 640, 12], [1, 64, 128], [3, 3, 3, 3, 3, 3]])
def test_residual_may_have_any_shape(shape: list[int]) -> None:
    """What a graph left over is in units of its own, and in its own shape."""
    document = golden_object(GOLDEN_SEVERAL)
    document["models"][1] |= {"error": "mse", "output_shape": shape}

    manifest = decode_manifest(json.dumps(document).encode())

    assert manifest.models[1].output_shape == tuple(shape)


@pytest.mark.parametrize("shape", [[1, 640, 12], [1, 64, 128], [3, 3, 3, 3, 3, 3]])
def test_mean_over_time_may_be_of_any_shape_with_time(shape: list[int]) -> None:
    """Time is the last dimension, whatever comes before it."""
    manifest = decode_manifest(changed("models.1.output_shape", shape, GOLDEN_SEVERAL))

    assert manifest.models[1].error == "time_mean_mse"
    assert manifest.models[1].output_shape == tuple(shape)


def test_single_model_may_tell_its_log_error() -> None:
    """It is of no use there, and does no harm."""
    manifest = decode_manifest(changed("models.0.log_error", {"mean": 3.0, "sd": 0.5}))

    assert manifest.models[0].log_error == LogNormals(mean=3.0, sd=0.5)


@pytest.mark.parametrize("path", ["calibration", "training.recipe", "threshold.false_alarm_rate"])
def test_what_is_not_known_is_null(path: str) -> None:
    """A model from elsewhere has no recipe, and nothing to calibrate with."""
    manifest = decode_manifest(changed(path, None))

    value: Any = manifest
    for part in path.split("."):
        value = getattr(value, part)
    assert value is None


def test_quantisation_may_be_left_out() -> None:
    """It tells where a model comes from; a node does not need it to run."""
    document = golden_object()
    del document["models"][0]["quantisation"]

    assert decode_manifest(json.dumps(document).encode()).models[0].quantisation is None


def test_calibration_has_defaults() -> None:
    """Blocks of a minute and one false alarm a week, where nothing else is said."""
    assert MANIFEST.calibration is not None
    assert MANIFEST.calibration.method == "block_mean_t"
    assert MANIFEST.calibration.block_seconds == 60
    assert MANIFEST.calibration.false_alarms_per_week == 1.0


@pytest.mark.parametrize("value", [1e-12, 1e130, 1.9e130])
def test_threshold_may_be_very_small_or_large(value: float) -> None:
    """The statistic of several models has no scale."""
    manifest = decode_manifest(changed("threshold.value", value, GOLDEN_SEVERAL))

    assert decode_manifest(encode_manifest(manifest)).threshold.value == value


def test_single_model_is_told_by_its_own_digest() -> None:
    """So that `sha256sum model.tflite` says the same."""
    assert MANIFEST.models_sha256 == MANIFEST.files[0].sha256


def test_several_models_are_told_by_the_digest_of_theirs() -> None:
    """In the order of the models, not of the files; another order is another set."""
    first, second = (file.sha256 for file in SEVERAL.files)
    other_files = msgspec.structs.replace(SEVERAL, files=SEVERAL.files[::-1])
    other_models = msgspec.structs.replace(SEVERAL, models=SEVERAL.models[::-1])

    expected = hashlib.sha256(first.encode("ascii") + second.encode("ascii")).hexdigest()
    assert SEVERAL.models_sha256 == expected
    assert other_files.models_sha256 == expected
    assert other_models.models_sha256 != expected


def test_models_bytes_are_those_of_all_models() -> None:
    """A file that is no model does not count."""
    note = ReleaseFile(name="note.txt", sha256="0" * 64, size_bytes=7)

    assert MANIFEST.models_bytes == 550_968
    assert SEVERAL.models_bytes == 550_968 + 81_032
    assert msgspec.structs.replace(SEVERAL, files=(*SEVERAL.files, note)).models_bytes == 632_000


@pytest.mark.parametrize(
    ("first", "second", "both"),
    [
        (("a", "b"), ("b",), ("b",)),
        (("b",), ("a", "b"), ("b",)),
        (("a", "b"), ("b", "a"), ("a", "b")),
        (("a",), ("b",), ()),
        ((), ("b",), ()),
    ],
)
def test_runtimes_are_those_that_ran_every_model(
    first: tuple[str, ...], second: tuple[str, ...], both: tuple[str, ...]
) -> None:
    """In the order of the first model."""
    models = tuple(
        msgspec.structs.replace(model, runtimes=runtimes)
        for model, runtimes in zip(SEVERAL.models, (first, second), strict=True)
    )

    assert msgspec.structs.replace(SEVERAL, models=models).runtimes == both
    assert MANIFEST.runtimes == ("ai-edge-litert 2.1.0",)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("name", MANIFEST.name),
        ("files.0.name", MANIFEST.files[0].name),
        ("files.0.sha256", MANIFEST.files[0].sha256),
    ],
)
def test_line_break_after_a_name_is_refused(path: str, value: str) -> None:
    """A name with a line break at its end is no name."""
    with pytest.raises(ReleaseError, match="at `"):
        decode_manifest(changed(path, value + "\n"))


@pytest.mark.parametrize("number", [b"NaN", b"Infinity", b"1e999"])
def test_threshold_that_is_not_finite_is_refused(number: bytes) -> None:
    """A threshold that nothing exceeds would silence a node; it is refused."""
    with pytest.raises(ReleaseError, match="Expected a manifest of format 1"):
        decode_manifest(GOLDEN.read_bytes().replace(b'"value":45.0', b'"value":' + number))


def test_longest_hop_is_a_window() -> None:
    """Windows may follow each other without overlap."""
    assert decode_manifest(changed("window_hop_samples", 32_000)).hop_us == 2_000_000


def test_size_is_bounded_before_parsing() -> None:
    """A manifest of 5.5 KiB is read; with one byte more nobody looks inside."""
    largest = GOLDEN.read_bytes().ljust(MAX_MANIFEST_BYTES)

    assert decode_manifest(largest) == MANIFEST
    with pytest.raises(ReleaseError, match="at most 5632 bytes, got 5633"):
        decode_manifest(largest + b" ")


def test_oversize_manifest_is_not_written() -> None:
    """What every node would refuse is refused where it is made."""
    training = msgspec.structs.replace(MANIFEST.training, command="x" * MAX_MANIFEST_BYTES)

    with pytest.raises(ReleaseError, match=r"at most 5632 bytes, got \d+"):
        encode_manifest(msgspec.structs.replace(MANIFEST, training=training))


@pytest.mark.parametrize(
    "text", [b"", b"{}", b"[]", b"null", b"\xff", b"{" * 4000, b"[" * 5000, b'{"format":2}']
)
def test_what_is_no_manifest_is_refused(text: bytes) -> None:
    """Anything else than a manifest is refused, without another error."""
    with pytest.raises(ReleaseError, match="Expected a manifest of format 1"):
        decode_manifest(text)


@GOLDENS
@given(
    st.lists(
        st.tuples(
            st.integers(0, 10**6),
            st.integers(0, 12),
            st.sampled_from([b"-1", b"null", b"1e999", b"[" * 600, b'"', b"9" * 5000])
            | st.binary(max_size=4),
        ),
        min_size=1,
        max_size=4,
    )
)
@settings(max_examples=300, deadline=None, database=None)
def test_changed_manifest_never_escapes_as_another_error(
    manifest: Manifest, golden: Path, changes: list[tuple[int, int, bytes]]
) -> None:
    """A manifest with parts cut out and others put in raises nothing but `ReleaseError`."""
    text = golden.read_bytes()
    for place, length, fragment in changes:
        start = place % (len(text) + 1)
        text = text[:start] + fragment + text[start + length :]

    try:
        found = decode_manifest(text)
    except ReleaseError:
        return
    assert decode_manifest(encode_manifest(found)) == found


def test_file_is_described_and_checked() -> None:
    """A file passes against its own entry."""
    content = b"weights" * 1000
    file = describe_file("model.tflite", content)

    check_file(file, content)
    assert file == ReleaseFile(
        name="model.tflite", sha256=hashlib.sha256(content).hexdigest(), size_bytes=7000
    )


def test_changed_file_is_refused() -> None:
    """One flipped bit, or one byte more or less, is another file."""
    content = b"weights" * 1000
    file = describe_file("model.tflite", content)

    with pytest.raises(ReleaseError, match=r"model\.tflite: expected 7000 bytes, got 6999"):
        check_file(file, content[:-1])
    with pytest.raises(ReleaseError, match=r"model\.tflite: expected 7000 bytes, got 7001"):
        check_file(file, content + b"\x00")
    with pytest.raises(ReleaseError, match=r"model\.tflite: expected SHA-256 \w{12}\.\.\., got"):
        check_file(file, b"Weights" + content[7:])


def test_listed_file_is_found_and_no_other() -> None:
    """A file is found by its name; one that is not listed is refused."""
    assert MANIFEST.file("model.tflite") == MANIFEST.files[0]
    with pytest.raises(ReleaseError, match=r"fan@17: Model\.tflite is not among the files"):
        MANIFEST.file("Model.tflite")


@pytest.mark.parametrize(
    ("shape", "without_ones"),
    [
        ((40, 64), (40, 64)),
        ((1, 40, 64, 1), (40, 64)),
        ((1, 1, 40, 1, 64), (40, 64)),
        ((64, 40), (64, 40)),
        ((1,), ()),
        ((), ()),
    ],
)
def test_squeezed_leaves_out_ones_and_no_order(
    shape: tuple[int, ...], without_ones: tuple[int, ...]
) -> None:
    """Dimensions of one go; the others keep their order."""
    assert squeezed(shape) == without_ones
