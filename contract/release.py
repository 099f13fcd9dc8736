"""A release: the manifest that says what a model is, how it hears, and when it speaks up.

A release is a folder: `manifest.json` and the files that it lists by SHA-256. The manifest carries
everything a node must know to score with the model as it was trained (feature parameters, window
hop, statistic, threshold); a node that cannot honour all of it must not run the model.

Reading and writing the folder is done elsewhere; here bytes become checked objects. A manifest
grows as a message does (`contract.messages`): a new key has a default that means "as before", and
an older node ignores it. But its words are no states: a node that does not know how a model is to
be run must refuse it, and goes on with what it has. So a key that every node must honour, like any
other change, raises `FORMAT`; the reader of the old one stays, no laxer than the new.
"""

import hashlib
from typing import Annotated, Literal

import msgspec

from contract.errors import FeatureError, ReleaseError
from contract.feature_params import FeatureParams
from contract.messages import Positive, Sha256, Text, TimeUs
from contract.topics import RELEASE_NAME_PATTERN

FORMAT = 1
MANIFEST_NAME = "manifest.json"
ENVELOPE_NAME = "manifest.dsse.json"
"""The signed manifest, beside it."""
MAX_MANIFEST_BYTES = 5632
"""Signed, and so in base 64, it fits into an envelope (8 KiB)."""
MAX_FILE_BYTES = 16 * 1024 * 1024
"""A model that a Pi scores in time is far below; the bound is there so that reading has one."""

CHUNK_BYTES = 32 * 1024
"""Of a file as it is published: below the smallest limit of managed brokers (Event Grid keeps
64 KiB), and small enough that a slow link gets through between two keep-alives."""

MAX_COMMAND = 1000
"""Letters of the command that made a release; who writes one cuts a longer one off there."""

FileName = Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}\Z")]
Dimension = Annotated[int, msgspec.Meta(ge=1, le=1_000_000)]
Shape = Annotated[tuple[Dimension, ...], msgspec.Meta(min_length=1, max_length=6)]


class ReleaseFile(msgspec.Struct, frozen=True, kw_only=True):
    """A file of the release, named by its content."""

    name: FileName
    sha256: Sha256
    size_bytes: Annotated[int, msgspec.Meta(ge=1, le=MAX_FILE_BYTES)]

    @property
    def chunks(self) -> int:
        """The number of messages in which it is published."""
        return -(-self.size_bytes // CHUNK_BYTES)

    def chunk_bytes(self, chunk: int) -> int:
        """Size of a chunk; all but the last are `CHUNK_BYTES`."""
        return min(CHUNK_BYTES, self.size_bytes - chunk * CHUNK_BYTES)


class LogNormals(msgspec.Struct, frozen=True, kw_only=True):
    """Mean and standard deviation of the natural logarithm of a number over normal windows."""

    mean: float
    sd: Positive


class Model(msgspec.Struct, frozen=True, kw_only=True):
    """One TFLite graph: features in, their reconstruction or what it left over out."""

    file: FileName
    input_shape: Shape
    output_shape: Shape
    output: Literal["reconstruction", "residual"]
    """`reconstruction`: of the features, in their shape and unit; `residual`: the difference, of
    any shape and unit, of what the graph makes of the features and its reconstruction of that."""
    error: Literal["mse", "time_mean_mse"]
    """What of the residual counts: `mse`, its mean square; `time_mean_mse`, the mean square of its
    mean over time, which is its last dimension."""
    log_error: LogNormals | None
    """Makes the errors of several models comparable; None with a single model."""
    parameters: Annotated[int, msgspec.Meta(ge=0)] | None
    """Trainable parameters; None where the graph came from elsewhere."""
    quantisation: Literal["float32", "float16", "dynamic", "int8"] | None = None
    """How weights are stored, with `int8` activations too; None where it is not known."""
    runtimes: Annotated[tuple[Text, ...], msgspec.Meta(max_length=8)]
    """Inference libraries that have loaded and run it."""
    operators: Annotated[tuple[Text, ...], msgspec.Meta(max_length=32)] = ()
    """Kinds of TFLite operators with the version that each has here: `FULLY_CONNECTED@12`."""


class Threshold(msgspec.Struct, frozen=True, kw_only=True):
    """Above which statistic a window is an anomaly, and how that was chosen."""

    value: Positive
    method: Literal["held_out", "sessions_left_out", "given"]
    """`held_out`: quantile of the statistic over normal windows of files that the model has not
    heard; `sessions_left_out`: over windows of sessions that models of the same recipe, trained on
    the other sessions, have not heard; `given`: by a person."""
    false_alarm_rate: Annotated[float, msgspec.Meta(gt=0, lt=1)] | None
    """Share of such windows that the quantile lets through; None when given."""
    calibration_windows: Annotated[int, msgspec.Meta(ge=0)]
    """Normal windows that it was chosen from."""


class Calibration(msgspec.Struct, frozen=True, kw_only=True):
    """What a node needs to find limits of its own where it hangs.

    The log of the statistic is averaged over blocks; a block whose mean is above a prediction limit
    (Student's t) of the blocks heard while calibrating is an alarm.
    """

    method: Literal["block_mean_t"] = "block_mean_t"
    block_seconds: Annotated[int, msgspec.Meta(ge=1, le=3600)] = 60
    false_alarms_per_week: Positive = 1.0
    """What the limit is set for."""
    log_statistic: LogNormals
    """Over the held-out normal windows of training: what to expect, and no more."""
    sessions: Annotated[int, msgspec.Meta(ge=0)] | None
    """Sessions of normal sound that training has heard; None where the data do not say."""


class SelfTest(msgspec.Struct, frozen=True, kw_only=True):
    """What a node must get for a sound that can be calculated anywhere, before it trusts itself."""

    probe: Literal["chirp_and_noise"] = "chirp_and_noise"
    """See `node.scoring.probe`."""
    statistic: Positive
    relative_tolerance: Annotated[float, msgspec.Meta(gt=0, le=0.5)]
    """Between inference libraries, processors and their rounding."""


class Training(msgspec.Struct, frozen=True, kw_only=True):
    """Where the model comes from."""

    command: Annotated[str, msgspec.Meta(max_length=MAX_COMMAND)]
    recipe: Text | None
    """None where the model comes from elsewhere."""
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
    models: Annotated[tuple[Model, ...], msgspec.Meta(min_length=1, max_length=4)]
    """All hear the same features. The first one's mean squared error is what nodes publish."""
    statistic: Literal["error", "exp_sum_log_z"]
    """`error`: the single model's error; `exp_sum_log_z`: `exp` of the sum over all models of
    `(log(error) - log_error.mean) / log_error.sd`, the sum kept within -300 to 300."""
    threshold: Threshold
    calibration: Calibration | None
    """None where no normal sound was at hand, as with an imported model."""
    training: Training
    self_test: SelfTest | None = None
    """None in a release that was never packed for a fleet."""
    not_after_us: TimeUs | None = None
    """When it is too old to be taken on; a node that runs it goes on. None is never."""

    def __post_init__(self) -> None:
        if self.window_hop_samples > self.features.window_samples:
            raise ReleaseError(
                f"{self.label}: expected a window hop of at most {self.features.window_samples}"
                f" samples (one window), got {self.window_hop_samples}"
            )
        if (self.statistic == "error") != (len(self.models) == 1):
            raise ReleaseError(
                f"{self.label}: expected one model for the statistic `error` and several for"
                f" `exp_sum_log_z`, got {len(self.models)} for `{self.statistic}`"
            )
        names = [MANIFEST_NAME, ENVELOPE_NAME, *(file.name for file in self.files)]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ReleaseError(f"{self.label}: expected each file once, got {twice[0]} twice")
        for model in self.models:
            self._check_model(model)

    def _check_model(self, model: Model) -> None:
        self.file(model.file)
        if self.statistic != "error" and model.log_error is None:
            raise ReleaseError(
                f"{self.label}: expected the log_error of each of several models, {model.file} has"
                " none"
            )
        if model.error == "time_mean_mse" and model.output_shape[-1] == 1:
            raise ReleaseError(
                f"{self.label}: expected the last dimension of {model.file}'s output to be time,"
                f" got {model.output_shape}"
            )
        shapes = [("input", model.input_shape)]
        if model.output == "reconstruction":
            shapes.append(("output", model.output_shape))
        for what, shape in shapes:
            if squeezed(shape) != squeezed(self.features.shape):
                raise ReleaseError(
                    f"{self.label}: {what} of {model.file} is {shape},"
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

    @property
    def models_bytes(self) -> int:
        """Size of all models together."""
        return sum(self.file(model.file).size_bytes for model in self.models)

    @property
    def models_sha256(self) -> str:
        """What tells one set of models from another.

        Of a single model it is its own SHA-256, of several the SHA-256 of theirs, joined as text.
        """
        digests = [self.file(model.file).sha256 for model in self.models]
        if len(digests) == 1:
            return digests[0]
        return hashlib.sha256("".join(digests).encode()).hexdigest()

    @property
    def runtimes(self) -> tuple[str, ...]:
        """Inference libraries that have run every model."""
        return tuple(
            name
            for name in self.models[0].runtimes
            if all(name in model.runtimes for model in self.models)
        )

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
