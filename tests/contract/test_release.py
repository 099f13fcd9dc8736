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
from contract.features import FeatureParams
from contract.release import (
    MAX_FILE_BYTES,
    MAX_MANIFEST_BYTES,
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

GOLDEN = Path(__file__).parents[1] / "data/golden/format-1/manifest.json"

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
    model=Model(
        file="model.tflite",
        input_shape=(1, 40, 64, 1),
        output_shape=(1, 40, 64, 1),
        parameters=512_345,
        runtimes=("ai-edge-litert 2.1.0",),
    ),
    statistic="mse",
    threshold=Threshold(
        value=45.0, method="quantile", false_alarm_rate=0.001, calibration_windows=5400
    ),
    training=Training(
        command="python -m training train recordings/fan",
        data="recordings/fan",
        files=120,
        windows=21_600,
        seed=7,
        epochs=50,
    ),
)


def golden_object() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(GOLDEN.read_bytes())
    return found


def changed(path: str, value: object) -> bytes:
    """The golden manifest with one value replaced, for example `files.0.sha256`."""
    document = golden_object()
    place: Any = document
    *parents, last = [int(part) if part.isdigit() else part for part in path.split(".")]
    for part in parents:
        place = place[part]
    place[last] = value
    return json.dumps(document).encode()


def test_manifest_is_written_as_released() -> None:
    """A manifest of format 1 is the same bytes as ever."""
    assert encode_manifest(MANIFEST) == GOLDEN.read_bytes()


def test_manifest_is_read_as_released() -> None:
    """The bytes of format 1 give back the manifest."""
    assert decode_manifest(GOLDEN.read_bytes()) == MANIFEST


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


@pytest.mark.parametrize("key", [key for key in golden_object() if key != "format"])
def test_missing_key_is_refused(key: str) -> None:
    """A manifest without one of its parts is not used."""
    document = golden_object()
    del document[key]

    with pytest.raises(ReleaseError, match=f"missing required field `{key}`"):
        decode_manifest(json.dumps(document).encode())


REFUSED: list[tuple[str, object, str]] = [
    ("format", 2, r"Expected a manifest of format 1: Invalid enum value 2 - at `\$\.format`"),
    ("format", "1", r"at `\$\.format`"),
    ("name", "Fan", r"at `\$\.name`"),
    ("name", "", r"at `\$\.name`"),
    ("name", "../fan", r"at `\$\.name`"),
    ("version", 0, r"at `\$\.version`"),
    ("version", 1_000_000_000, r"at `\$\.version`"),
    ("description", "x" * 201, r"at `\$\.description`"),
    ("statistic", "median", r"at `\$\.statistic`"),
    ("files", [], r"at `\$\.files`"),
    ("files.0.name", "../model.tflite", r"at `\$\.files\[0\]\.name`"),
    ("files.0.name", "/etc/passwd", r"at `\$\.files\[0\]\.name`"),
    ("files.0.name", ".hidden", r"at `\$\.files\[0\]\.name`"),
    ("files.0.sha256", "ba1f", r"at `\$\.files\[0\]\.sha256`"),
    ("files.0.sha256", "BA1F" + "0" * 60, r"at `\$\.files\[0\]\.sha256`"),
    ("files.0.size_bytes", 0, r"at `\$\.files\[0\]\.size_bytes`"),
    ("files.0.size_bytes", MAX_FILE_BYTES + 1, r"at `\$\.files\[0\]\.size_bytes`"),
    ("model.file", "other.tflite", "fan@17: other.tflite is not among the files of the manifest"),
    ("model.input_shape", [], r"at `\$\.model\.input_shape`"),
    ("model.input_shape", [1, 40, -1, 1], r"at `\$\.model\.input_shape\[2\]`"),
    ("model.input_shape", [1] * 7, r"at `\$\.model\.input_shape`"),
    (
        "model.input_shape",
        [1, 64, 40, 1],
        r"fan@17: the model's input is \(1, 64, 40, 1\), its features are \(40, 64\)",
    ),
    (
        "model.output_shape",
        [1, 2560],
        r"fan@17: the model's output is \(1, 2560\), its features are \(40, 64\)",
    ),
    (
        "features.n_mfcc",
        20,
        r"fan@17: the model's input is \(1, 40, 64, 1\), its features are \(20, 64\)",
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
    ("threshold.false_alarm_rate", 1, r"at `\$\.threshold\.false_alarm_rate`"),
]


@pytest.mark.parametrize(("path", "value", "message"), REFUSED)
def test_manifest_that_cannot_be_is_refused(path: str, value: object, message: str) -> None:
    """A manifest whose parts are wrong or do not fit is refused, with the reason."""
    with pytest.raises(ReleaseError, match=message):
        decode_manifest(changed(path, value))


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
    """A manifest of 8 KiB is read; with one byte more nobody looks inside."""
    largest = GOLDEN.read_bytes().ljust(MAX_MANIFEST_BYTES)

    assert decode_manifest(largest) == MANIFEST
    with pytest.raises(ReleaseError, match="at most 8192 bytes, got 8193"):
        decode_manifest(largest + b" ")


def test_oversize_manifest_is_not_written() -> None:
    """What every node would refuse is refused where it is made."""
    training = msgspec.structs.replace(MANIFEST.training, command="x" * MAX_MANIFEST_BYTES)

    with pytest.raises(ReleaseError, match=r"at most 8192 bytes, got \d+"):
        encode_manifest(msgspec.structs.replace(MANIFEST, training=training))


@pytest.mark.parametrize(
    "text", [b"", b"{}", b"[]", b"null", b"\xff", b"{" * 4000, b"[" * 8000, b'{"format":2}']
)
def test_what_is_no_manifest_is_refused(text: bytes) -> None:
    """Anything else than a manifest is refused, without another error."""
    with pytest.raises(ReleaseError, match="Expected a manifest of format 1"):
        decode_manifest(text)


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
    changes: list[tuple[int, int, bytes]],
) -> None:
    """A manifest with parts cut out and others put in raises nothing but `ReleaseError`."""
    text = GOLDEN.read_bytes()
    for place, length, fragment in changes:
        start = place % (len(text) + 1)
        text = text[:start] + fragment + text[start + length :]

    try:
        manifest = decode_manifest(text)
    except ReleaseError:
        return
    assert decode_manifest(encode_manifest(manifest)) == manifest


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
