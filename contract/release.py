"""A release: the manifest that says what a model is, how it hears, and when it speaks up.

A release is a folder: `manifest.json` and the files that it lists by SHA-256. The manifest carries
everything a node must know to score with the model as it was trained (feature parameters, window
hop, statistic, threshold); a node that cannot honour all of it must not run the model.

Reading and writing the folder is done elsewhere; here bytes become checked objects. To change the
format: raise `FORMAT`, keep the reader of the old one, and make it no laxer than the new.
"""

import hashlib
from typing import Annotated, Literal

import msgspec

from contract.errors import FeatureError, ReleaseError
from contract.features import FeatureParams
from contract.messages import Positive, Text, TimeUs
from contract.topics import RELEASE_NAME_PATTERN

FORMAT = 1
MANIFEST_NAME = "manifest.json"
MAX_MANIFEST_BYTES = 8 * 1024
MAX_FILE_BYTES = 16 * 1024 * 1024
"""A model that a Pi scores in time is far below; the bound is there so that reading has one."""

FileName = Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}\Z")]
Sha256 = Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{64}\Z")]
Dimension = Annotated[int, msgspec.Meta(ge=1, le=1_000_000)]
Shape = Annotated[tuple[Dimension, ...], msgspec.Meta(min_length=1, max_length=6)]


class ReleaseFile(msgspec.Struct, frozen=True, kw_only=True):
    """A file of the release, named by its content."""

    name: FileName
    sha256: Sha256
    size_bytes: Annotated[int, msgspec.Meta(ge=1, le=MAX_FILE_BYTES)]


class Model(msgspec.Struct, frozen=True, kw_only=True):
    """One TFLite graph: features in, reconstruction out."""

    file: FileName
    input_shape: Shape
    output_shape: Shape
    parameters: Annotated[int, msgspec.Meta(ge=0)] | None
    """Trainable parameters; None where the graph came from elsewhere."""
    runtimes: Annotated[tuple[Text, ...], msgspec.Meta(max_length=8)]
    """Inference libraries that have loaded and run it."""


class Threshold(msgspec.Struct, frozen=True, kw_only=True):
    """Above which statistic a window is an anomaly, and how that was chosen."""

    value: Positive
    method: Literal["quantile", "given"]
    """`quantile`: of the statistic over held-out normal windows; `given`: by a person."""
    false_alarm_rate: Annotated[float, msgspec.Meta(gt=0, lt=1)] | None
    """Share of held-out normal windows that the quantile lets through; None when given."""
    calibration_windows: Annotated[int, msgspec.Meta(ge=0)]
    """Held-out normal windows that it was chosen from."""


class Training(msgspec.Struct, frozen=True, kw_only=True):
    """Where the model comes from."""

    command: Annotated[str, msgspec.Meta(max_length=1000)]
    data: Text
    files: int
    windows: int
    seed: int | None
    epochs: int | None


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """What a release is.

    Raises:
        ReleaseError: its parts do not fit together.
    """

    format: Literal[1] = 1
    name: Annotated[str, msgspec.Meta(pattern=RELEASE_NAME_PATTERN)]
    version: Annotated[int, msgspec.Meta(ge=1, le=999_999_999)]
    created_us: TimeUs
    description: Text
    features: FeatureParams
    window_hop_samples: Annotated[int, msgspec.Meta(ge=1)]
    """Distance between the starts of two windows, at the features' sample rate."""
    files: Annotated[tuple[ReleaseFile, ...], msgspec.Meta(min_length=1, max_length=8)]
    model: Model
    statistic: Literal["mse"]
    """`mse`: mean over all features of the squared difference of input and output, in float32."""
    threshold: Threshold
    training: Training

    def __post_init__(self) -> None:
        if self.window_hop_samples > self.features.window_samples:
            raise ReleaseError(
                f"{self.label}: expected a window hop of at most {self.features.window_samples}"
                f" samples (one window), got {self.window_hop_samples}"
            )
        self.file(self.model.file)
        for what, shape in (
            ("input", self.model.input_shape),
            ("output", self.model.output_shape),
        ):
            if squeezed(shape) != squeezed(self.features.shape):
                raise ReleaseError(
                    f"{self.label}: the model's {what} is {shape},"
                    f" its features are {self.features.shape}"
                )

    @property
    def label(self) -> str:
        """Name and version, as messages carry it: `fan@17`."""
        return f"{self.name}@{self.version}"

    @property
    def hop_us(self) -> int:
        """Distance between the starts of two windows in microseconds."""
        return self.window_hop_samples * 1_000_000 // self.features.sample_rate_hz

    def file(self, name: str) -> ReleaseFile:
        """The listed file of that name.

        Raises:
            ReleaseError: it is not listed.
        """
        for file in self.files:
            if file.name == name:
                return file
        raise ReleaseError(f"{self.label}: {name} is not among the files of the manifest")


def decode_manifest(text: bytes) -> Manifest:
    """The manifest that these bytes hold.

    Raises:
        ReleaseError: they hold none, or one whose parts do not fit together.
    """
    if len(text) > MAX_MANIFEST_BYTES:
        raise ReleaseError(
            f"Expected a manifest of at most {MAX_MANIFEST_BYTES} bytes, got {len(text)}"
        )
    try:
        return _DECODER.decode(text)
    except FeatureError as error:
        raise ReleaseError(f"manifest: {error}") from error
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise ReleaseError(f"Expected a manifest of format {FORMAT}: {error}") from error


def encode_manifest(manifest: Manifest) -> bytes:
    """Canonical bytes of a manifest: sorted keys, no white space, UTF-8.

    Raises:
        ReleaseError: it is larger than a reader accepts.
    """
    text = msgspec.json.encode(manifest, order="sorted")
    if len(text) > MAX_MANIFEST_BYTES:
        raise ReleaseError(
            f"Expected a manifest of at most {MAX_MANIFEST_BYTES} bytes, got {len(text)}"
        )
    return text


def describe_file(name: str, content: bytes) -> ReleaseFile:
    """The manifest's entry for a file."""
    return ReleaseFile(
        name=name, sha256=hashlib.sha256(content).hexdigest(), size_bytes=len(content)
    )


def check_file(file: ReleaseFile, content: bytes) -> None:
    """Check a file against its entry.

    Raises:
        ReleaseError: size or SHA-256 differ.
    """
    if len(content) != file.size_bytes:
        raise ReleaseError(f"{file.name}: expected {file.size_bytes} bytes, got {len(content)}")
    found = hashlib.sha256(content).hexdigest()
    if found != file.sha256:
        raise ReleaseError(
            f"{file.name}: expected SHA-256 {file.sha256[:12]}..., got {found[:12]}..."
        )


def squeezed(shape: tuple[int, ...]) -> tuple[int, ...]:
    """A shape without its ones: (1, 40, 64, 1) and (40, 64) hold the same array."""
    return tuple(size for size in shape if size != 1)


_DECODER = msgspec.json.Decoder(Manifest)
