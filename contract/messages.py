"""What is said on the topics: one frozen struct per message, JSON on the wire.

Every key is a word that explains itself and every number carries its unit. NaN and infinity are
never sent, every text is bounded, and a message's size is checked before it is parsed. Nothing here
knows a socket or a clock.

How this vocabulary grows
-------------------------
The parts of a fleet are upgraded one at a time, in any order, and nodes send late what they kept on
their disks months ago. So there is one rule, for messages and for what lies on disks alike:

    A reader takes what an older version wrote, and what a newer version will write. What was not
    there yet has a default, what it does not know is ignored, and a word that it does not know is
    `UNKNOWN`. The message is kept.

`tests/contract/test_growth.py` holds it for every message, `tests/test_upgrades.py` for files.

To add a key: give its field a default that means "not said" (None, mostly; 0 for a count that
nobody kept). Never make required what the golden files of a published version do not have. That is
all: stores make the column, see `contract.records`. Do not let the new key change what an old one
means, since an older reader goes by the old one alone.

To add a word to a state: append it to its enum in `contract.states`, as the last one, since its
place is its stored code; give it a colour in `collector.grafana.looks`. An older reader stores it
as `unknown` until it is upgraded. A state of a new kind is an `OpenEnum`, with a line in `CODES`.

To take a key away, make it required, narrow its bounds or change its meaning: `SCHEMA` + 1, a
reader for the old version that is no laxer than the new one, and golden files of both in
`tests/data/golden`. Each of those that were published stays there and is read for ever.
"""

import math
from typing import Annotated, ClassVar, Literal

import msgspec

from contract import topics
from contract.errors import MessageError, TopicError
from contract.states import (
    AlarmRule,
    CalibrationPhase,
    Clock,
    DiscardReason,
    EpisodePhase,
    MachineState,
    MicrophoneState,
    Presence,
    PresenceReason,
    Problem,
    ThresholdSource,
    UpdatePhase,
)
from contract.topics import Kind

SCHEMA = 1
CONTENT_TYPE = "application/json"

MAX_MESSAGE_BYTES = 8 * 1024
"""Bound for every message but a backlog; the largest real one (birth) is near 1 KiB."""
MAX_BACKLOG_BYTES = 32 * 1024
"""Half of the smallest limit among managed brokers (Event Grid: 64 KiB)."""
MAX_BACKLOG_WINDOWS = 50

Text = Annotated[str, msgspec.Meta(max_length=200)]
NodeId = Annotated[
    str,
    msgspec.Meta(
        pattern=topics.NODE_ID_PATTERN,
        description="1 to 32 lower case letters, digits or hyphens, a letter or digit first",
    ),
]
BootId = Annotated[str, msgspec.Meta(pattern=r"^[0-9A-HJKMNP-TV-Z]{26}\Z")]
"""A ULID, made once when a node starts."""
TimeUs = Annotated[int, msgspec.Meta(ge=0, le=2**53)]
"""Microseconds since 1970 in UTC; 2**53 (the year 2255) stays exact in every JSON reader."""
Count = Annotated[int, msgspec.Meta(ge=0, le=2**53)]
Share = Annotated[float, msgspec.Meta(ge=0.0, le=1.0)]
ModelLabel = Annotated[str, msgspec.Meta(pattern=r"^[a-z0-9][a-z0-9-]{0,31}@[1-9][0-9]{0,8}\Z")]
"""A release as `name@version`."""
Sha256 = Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{64}\Z")]
"""A SHA-256 in hex; that of a public key is the key's id, see `contract.signature.key_id`."""
Positive = Annotated[float, msgspec.Meta(ge=1e-12)]
"""A divisor: not so small that a score would be infinite."""


class Message(msgspec.Struct, frozen=True, kw_only=True):
    """What all messages share.

    Raises:
        MessageError: a number is not finite.
    """

    KIND: ClassVar[Kind]
    TIME: ClassVar[str] = "at_us"
    """Name of the field that is the message's own time."""
    TAGS: ClassVar[tuple[str, ...]] = ("node",)
    """Names of the fields that identify the series, beside the time."""

    schema: Literal[1] = 1

    def __post_init__(self) -> None:
        # All values at once: `getattr` for each takes longer than all the rest of decoding.
        for name, value in zip(self.__struct_fields__, msgspec.structs.astuple(self), strict=True):
            if isinstance(value, float) and not math.isfinite(value):
                raise MessageError("malformed", f"Expected {name} to be finite, got {value}")


class Discards(Message, frozen=True, kw_only=True):
    """Windows that a node has given up, by reason."""

    discarded_full: Count
    discarded_expired: Count
    discarded_refused: Count
    discarded_damaged: Count
    discarded_unsaved: Count

    @property
    def discarded(self) -> int:
        """How many windows were given up for any reason."""
        return sum(getattr(self, f"discarded_{reason}") for reason in DiscardReason)


class Window(Message, frozen=True, kw_only=True):
    """One scored window of sound, or one that could not be scored and why."""

    KIND: ClassVar[Kind] = Kind.WINDOW
    TIME: ClassVar[str] = "start_us"
    TAGS: ClassVar[tuple[str, ...]] = ("node", "model")

    node: NodeId
    boot: BootId
    seq: Count
    """Counts every window of a boot from 0, also those that could not be scored."""
    start_us: TimeUs
    """When the window's first sample was heard; strictly increasing per node, unless it was
    more than an hour ahead of a clock that is synchronised since."""
    duration_us: Count
    mse: float | None
    """Mean squared reconstruction error of the features."""
    statistic: float | None
    """What the release decides on."""
    threshold: Positive
    """The limit that is in force, in the statistic's unit."""
    score: float | None
    """`statistic / threshold`: above 1 is an anomaly."""
    anomaly: bool | None
    state: MachineState
    problem: Problem | None
    model: ModelLabel
    level_dbfs: float | None
    """RMS level of the window; 0 is a full-scale square wave."""
    clipped: Share
    """Share of samples at full scale."""
    overruns: Count
    """Blocks of sound that the capture has lost since the boot."""
    clock: Clock
    latency_ms: float | None
    """Time from the window's last sample being there to its score."""


class Backlog(Message, frozen=True, kw_only=True):
    """Windows that could not be sent live."""

    KIND: ClassVar[Kind] = Kind.BACKLOG

    node: NodeId
    boot: BootId
    windows: Annotated[
        tuple[Window, ...], msgspec.Meta(min_length=1, max_length=MAX_BACKLOG_WINDOWS)
    ]

    def __post_init__(self) -> None:
        if any((window.node, window.boot) != (self.node, self.boot) for window in self.windows):
            raise MessageError(
                "malformed", f"Expected only windows of {self.node} in its backlog, of one boot"
            )


class Status(Message, frozen=True, kw_only=True):
    """A node comes and goes; `lost` is its last will, frozen when it connected."""

    KIND: ClassVar[Kind] = Kind.STATUS

    node: NodeId
    boot: BootId
    at_us: TimeUs
    state: Presence
    reason: PresenceReason


class Birth(Message, frozen=True, kw_only=True):
    """What a node is; published once per connection."""

    KIND: ClassVar[Kind] = Kind.BIRTH

    node: NodeId
    boot: BootId
    at_us: TimeUs
    software: Text
    python: Text
    board: Text
    operating_system: Text
    runtime: Text
    """The inference library: ai-edge-litert or tflite-runtime."""
    runtime_version: Text
    source: Text
    """Identity of the microphone, or where else the sound comes from."""
    source_rate_hz: Count
    group_id: NodeId | None
    model: ModelLabel
    model_sha256: Sha256
    threshold: Positive
    threshold_source: ThresholdSource
    window_us: Count
    hop_us: Count
    capabilities: Annotated[tuple[Text, ...], msgspec.Meta(max_length=32)]
    trusted_keys: Annotated[tuple[Sha256, ...], msgspec.Meta(max_length=8)]
    """Whose releases and orders the node obeys; none if it takes no updates."""


class State(Message, frozen=True, kw_only=True):
    """How machine and microphone are now; retained, for those who come late."""

    KIND: ClassVar[Kind] = Kind.STATE

    node: NodeId
    boot: BootId
    at_us: TimeUs
    machine: MachineState
    microphone: MicrophoneState
    model: ModelLabel
    threshold: Positive
    threshold_source: ThresholdSource
    microphone_note: Text | None
    """What is wrong with the sound and what to do about it; None while it is fine."""
    calibration: CalibrationPhase
    """How far the newest calibration is; an earlier one is in force until this one has armed."""
    calibration_progress: Share
    calibration_blocks: Count
    """Blocks of normal sound behind the limits in force; 0 if they are the release's."""
    calibration_note: Text | None
    """What the limits in force are worth, or why a calibration was refused."""


class Event(Message, frozen=True, kw_only=True):
    """An episode of abnormal sound opens, goes on, or closes."""

    KIND: ClassVar[Kind] = Kind.EVENT

    node: NodeId
    boot: BootId
    at_us: TimeUs
    episode_id: Text
    """The same in every event of the episode, also when one is sent again."""
    phase: EpisodePhase
    state: MachineState
    """What the machine does after this event."""
    opened_us: TimeUs
    rule: AlarmRule
    peak_score: float
    """The highest score of a window so far."""
    windows: Count
    """Windows that were scored since it opened."""
    bands_hz: Annotated[tuple[float, ...], msgspec.Meta(max_length=3)]
    """Centres of the frequency bands that carry most of the error, the strongest first."""
    model: ModelLabel


class Health(Discards, frozen=True, kw_only=True):
    """How the node itself is, each minute. Windows discarded: since this boot, of any boot."""

    KIND: ClassVar[Kind] = Kind.HEALTH

    node: NodeId
    boot: BootId
    at_us: TimeUs
    uptime_s: float
    windows: Count
    """Windows numbered since the boot."""
    outbox_windows: Count
    """Windows that are not known to be stored, of this boot and those before it."""
    outbox_oldest_s: float
    """Age of the oldest of them."""
    outbox_disk_bytes: Count
    """Size of the outbox's file; it grows only while windows are not confirmed in time."""
    reconnects: Count
    overruns: Count
    microphone: MicrophoneState
    reopened: Count
    """How often the microphone had to be opened again since the boot."""
    level_dbfs: float | None
    clipped: Share
    latency_p50_ms: float | None
    latency_p95_ms: float | None
    cpu_temperature_c: float | None
    throttled: bool | None
    """Whether the board is slowed down now by heat or low voltage; None where it cannot tell."""
    memory_rss_bytes: Count
    memory_available_bytes: Count
    disk_free_bytes: Count
    clock: Clock


class Update(Message, frozen=True, kw_only=True):
    """Where a node is on its way to the release that is wanted of it."""

    KIND: ClassVar[Kind] = Kind.UPDATE

    node: NodeId
    boot: BootId
    at_us: TimeUs
    running: ModelLabel
    previous: ModelLabel | None
    """What a roll-back goes to."""
    wanted: ModelLabel | None
    phase: UpdatePhase
    progress: Share
    """Within the phase."""
    reason: Text | None
    """Tells why it was rejected or rolled back, or what the phase waits for."""
    obeying: Text | None
    """Whose order is followed: `all`, `group:line-2` or `node:press-07`; None if there is none."""
    serial: Count | None
    """The serial number of that order."""
    threshold: Positive | None
    """That the order gives in place of the release's and the site's; None if it gives none."""
    trial_windows: Count
    """Windows that both models have scored in the trial."""
    trial_flagged: Count
    """How many of these the new model flags by its release's threshold."""
    running_flagged: Count
    """How many of these the running model flags by the limits in force."""
    trial_score: float | None
    """Median score of the new model in the trial; 1 is its release's threshold."""
    trial_latency_p95_ms: float | None
    """95th percentile of the new model's latency in the trial."""


class Account(Discards, frozen=True, kw_only=True):
    """What became of the windows of one boot, as the node knows it; counts since that boot.

    produced = stored + waiting + discarded: whoever stores knows the rest. Said at each connection
    for every boot of which windows wait, then each minute, and at the end.
    """

    KIND: ClassVar[Kind] = Kind.ACCOUNT

    node: NodeId
    boot: BootId
    at_us: TimeUs
    produced: Count
    """Windows numbered so far. Of a boot that ended without a goodbye, as far as is known."""
    waiting: Count
    """Windows that the node still holds: not known to be stored, and not given up."""
    tail_windows: Count
    """So many windows at most exist in memory alone, and are lost if the node is killed now."""
    ended: bool
    """Whether the boot has ended in good order: then `produced` is final."""


class Receipt(Message, frozen=True, kw_only=True):
    """Collector to node: what of one boot is stored, from one number to another."""

    KIND: ClassVar[Kind] = Kind.RECEIPT

    node: NodeId
    boot: BootId
    at_us: TimeUs
    stored_from: Count
    """Nothing is said of windows with a lower `seq`."""
    stored_up_to: Count
    """All windows from there to this `seq`, both included, are stored, but for the holes."""
    holes: Annotated[tuple[tuple[Count, Count], ...], msgspec.Meta(max_length=100)]
    """Ranges of `seq`, both ends included, that are missing."""


class Command(Message, frozen=True, kw_only=True):
    """Operator to one node: do something once. The verb is the topic's last level.

    Never retained: a node refuses a command that the broker kept for it. Correlation data, if it
    carries any, comes back with the result. The answer comes on the node's own topic for results,
    which the response topic names; a node publishes nowhere else, whatever that says.
    """

    KIND: ClassVar[Kind] = Kind.COMMAND

    node: NodeId
    at_us: TimeUs
    minutes: Annotated[float, msgspec.Meta(ge=0, le=10_080)] | None
    """For `calibrate`: how long to listen for (None: an hour); 0 ends a calibration."""


class Result(Message, frozen=True, kw_only=True):
    """What became of a command."""

    KIND: ClassVar[Kind] = Kind.RESULT

    node: NodeId
    boot: BootId
    at_us: TimeUs
    verb: Text
    done: bool
    note: Text


class CollectorStatus(Message, frozen=True, kw_only=True):
    """Whether anybody stores what the nodes say."""

    KIND: ClassVar[Kind] = Kind.COLLECTOR_STATUS
    TAGS: ClassVar[tuple[str, ...]] = ("id",)

    id: NodeId
    at_us: TimeUs
    state: Presence
    reason: PresenceReason


class DeadLetter(Message, frozen=True, kw_only=True):
    """A message that could not be stored, and why."""

    KIND: ClassVar[Kind] = Kind.DEAD_LETTER
    TAGS: ClassVar[tuple[str, ...]] = ()

    at_us: TimeUs
    collector: NodeId
    topic: Annotated[str, msgspec.Meta(max_length=400)]
    reason: Text
    """`oversize`, `malformed`, `schema` or `wrong_topic` (see `contract.errors.MessageFault`), or
    `rejected` by the store itself."""
    detail: Annotated[str, msgspec.Meta(max_length=400)]
    payload_bytes: Count
    payload_start: Annotated[str, msgspec.Meta(max_length=400)]
    """The payload's first bytes as text, what is not UTF-8 replaced."""


TRAVELLING: tuple[type[Message], ...] = (
    Window,
    Status,
    Birth,
    State,
    Event,
    Health,
    Update,
    CollectorStatus,
    Backlog,
    Account,
    Receipt,
    Command,
    Result,
    DeadLetter,
)
"""Every message that somebody publishes as it is; orders and releases are signed."""

_DECODERS = {message.KIND: msgspec.json.Decoder(message) for message in TRAVELLING}
_ENCODER = msgspec.json.Encoder()


class _SchemaAlone(msgspec.Struct, frozen=True):
    """The one key that is read before anything else is believed."""

    schema: int


_SCHEMA_ALONE = msgspec.json.Decoder(_SchemaAlone)


def encode(message: Message) -> bytes:
    """The message's bytes on the wire: compact JSON in UTF-8.

    Raises:
        MessageError: it is larger than its kind allows.
    """
    payload = _ENCODER.encode(message)
    _check_size(message.KIND, len(payload))
    return payload


def decode(topic: str, payload: bytes) -> Message:
    """The message that came on a topic.

    Raises:
        MessageError: it is none, or another than the topic says; `reason` tells which.
    """
    try:
        where = topics.parse(topic)
    except TopicError as error:
        raise MessageError("wrong_topic", str(error)) from error
    if where.kind not in _DECODERS:
        raise MessageError("wrong_topic", f"Expected a plain message, got a {where.kind}'s topic")
    _check_size(where.kind, len(payload))
    try:
        found = _SCHEMA_ALONE.decode(payload)
        if found.schema != SCHEMA:
            raise MessageError("schema", f"Expected schema {SCHEMA}, got {found.schema}")
        message = _DECODERS[where.kind].decode(payload)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise MessageError("malformed", f"Expected a {where.kind} message: {error}") from error
    sender = getattr(message, "node", getattr(message, "id", None))
    if sender is not None and sender != where.owner:
        raise MessageError("wrong_topic", f"Expected a message of {where.owner}, got {sender}'s")
    return message


def _check_size(kind: Kind, size: int) -> None:
    bound = MAX_BACKLOG_BYTES if kind is Kind.BACKLOG else MAX_MESSAGE_BYTES
    if size > bound:
        raise MessageError("oversize", f"Expected at most {bound} bytes for {kind}, got {size}")
