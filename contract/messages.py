"""What is said on the topics: one frozen struct per message, JSON on the wire.

Every key is a word that explains itself and every number carries its unit. `schema` is the version
of this vocabulary. To change it: add keys freely (readers ignore what they do not know); a key
that changes its meaning or goes away means `SCHEMA` + 1, a reader for the old version that is no
laxer than the new one, and a golden file of both in `tests/data/golden`.

NaN and infinity are never sent, every text is bounded, and a message's size is checked before it
is parsed. Nothing here knows a socket or a clock.
"""

import math
from enum import StrEnum
from typing import Annotated, Any, ClassVar, Literal

import msgspec

from contract import topics
from contract.errors import MessageError, TopicError
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
"""In hex; of a public key it is the key's id, see `contract.signature.key_id`."""
Positive = Annotated[float, msgspec.Meta(ge=1e-12)]
"""A divisor: not so small that a score would be infinite."""


class MachineState(StrEnum):
    """What the machine does, as far as its sound tells."""

    UNKNOWN = "unknown"
    STOPPED = "stopped"
    LEARNING = "learning"
    NORMAL = "normal"
    WARNING = "warning"
    ALARM = "alarm"


class MicrophoneState(StrEnum):
    """Whether the sound can be believed; a dead microphone is never a healthy machine."""

    UNKNOWN = "unknown"
    OK = "ok"
    QUIET = "quiet"
    SILENT = "silent"
    STUCK = "stuck"
    CLIPPED = "clipped"
    OFFSET = "offset"
    GONE = "gone"


class Problem(StrEnum):
    """Why a window has no score."""

    MIC_SILENT = "mic_silent"
    MIC_CLIPPED = "mic_clipped"
    MIC_GONE = "mic_gone"
    OVERRUN = "overrun"
    ERROR = "error"
    MIC_STUCK = "mic_stuck"
    MIC_QUIET = "mic_quiet"
    MIC_OFFSET = "mic_offset"


class Clock(StrEnum):
    """How far a time stamp can be trusted."""

    UNSYNCED = "unsynced"
    SYNCED = "synced"
    SIMULATED = "simulated"


class Presence(StrEnum):
    """Whether somebody is connected."""

    OFFLINE = "offline"
    ONLINE = "online"


class PresenceReason(StrEnum):
    """How that came about; `lost` is what a last will says."""

    LOST = "lost"
    STOPPED = "stopped"
    CONNECTED = "connected"


class ThresholdSource(StrEnum):
    """Which threshold is in force; a later one in this list beats an earlier one."""

    RELEASE = "release"
    SITE = "site"
    OVERRIDE = "override"


class CalibrationPhase(StrEnum):
    """How far a node is with learning what is normal where it hangs."""

    NONE = "none"
    SETTLING = "settling"
    CALIBRATING = "calibrating"
    VERIFYING = "verifying"
    ARMED = "armed"
    REFUSED = "refused"


class AlarmRule(StrEnum):
    """What opened an episode."""

    VOTE = "vote"
    """Of the last windows, on a node that was not calibrated where it hangs."""
    BLOCK = "block"
    """The mean of a block of windows is above its prediction limit."""
    FAST = "fast"
    """Several single windows are far above what calibration has heard."""


class EpisodePhase(StrEnum):
    """Where in an episode of abnormal sound an event stands."""

    OPENED = "opened"
    CONTINUED = "continued"
    CLOSED = "closed"


class UpdatePhase(StrEnum):
    """Where a node is on its way to another release."""

    IDLE = "idle"
    DOWNLOADING = "downloading"
    VERIFIED = "verified"
    TESTING = "testing"
    TRIAL = "trial"
    COMMITTED = "committed"
    REJECTED = "rejected"
    ROLLED_BACK = "rolled_back"


class BootEnd(StrEnum):
    """How a start of a node ended; `lost`: the next one began without a goodbye of this one."""

    RUNNING = "running"
    GOODBYE = "goodbye"
    LOST = "lost"


class DiscardReason(StrEnum):
    """Why a node gave up a window; each has a counter `discarded_...` in what a node says."""

    FULL = "full"
    """No room: the outbox had reached its size."""
    EXPIRED = "expired"
    """It had waited for longer than anybody wants to hear of it."""
    REFUSED = "refused"
    """The broker refused it for good."""
    DAMAGED = "damaged"
    """It was on the disk and cannot be read any more."""
    UNSAVED = "unsaved"
    """The node was stopped and could neither deliver nor save it."""


CODES: dict[type[StrEnum], tuple[StrEnum, ...]] = {
    MachineState: tuple(MachineState),
    MicrophoneState: tuple(MicrophoneState),
    Problem: tuple(Problem),
    Clock: tuple(Clock),
    Presence: tuple(Presence),
    PresenceReason: tuple(PresenceReason),
    ThresholdSource: tuple(ThresholdSource),
    CalibrationPhase: tuple(CalibrationPhase),
    AlarmRule: tuple(AlarmRule),
    EpisodePhase: tuple(EpisodePhase),
    UpdatePhase: tuple(UpdatePhase),
    BootEnd: tuple(BootEnd),
}
"""The stored integer of each state is its place in this tuple: append only, never reorder."""


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


class _Discards(Message, frozen=True, kw_only=True):
    """Windows that a node has given up, by reason."""

    discarded_full: Count
    discarded_expired: Count
    discarded_refused: Count
    discarded_damaged: Count
    discarded_unsaved: Count

    @property
    def discarded(self) -> int:
        """All of them."""
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
    """In the statistic's unit."""
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
    """From the window's last sample being there to its score."""


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
    """Of the newest calibration; an earlier one stays in force until this one has armed."""
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
    """Of the machine after this event."""
    opened_us: TimeUs
    rule: AlarmRule
    peak_score: float
    """The highest score of a window so far."""
    windows: Count
    """Windows that were scored since it opened."""
    bands_hz: Annotated[tuple[float, ...], msgspec.Meta(max_length=3)]
    """Centres of the frequency bands that carry most of the error, the strongest first."""
    model: ModelLabel


class Health(_Discards, frozen=True, kw_only=True):
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
    """Of the outbox's file; it grows only while windows are not confirmed in time."""
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
    """Why it was rejected or rolled back, or what the phase waits for."""
    obeying: Text | None
    """Whose order is followed: `all`, `group:line-2` or `node:press-07`; None if there is none."""
    serial: Count | None
    """Of that order."""
    threshold: Positive | None
    """That the order gives in place of the release's and the site's; None if it gives none."""
    trial_windows: Count
    """Windows that both models have scored in the trial."""
    trial_flagged: Count
    """Of these, how many the new model flags by its release's threshold."""
    running_flagged: Count
    """Of these, how many the running model flags by the limits in force."""
    trial_score: float | None
    """Median score of the new model in the trial; 1 is its release's threshold."""
    trial_latency_p95_ms: float | None
    """Of the new model in the trial."""


class Account(_Discards, frozen=True, kw_only=True):
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


class LedgerEntry(_Discards, frozen=True, kw_only=True):
    """The account of one boot beside what is stored of it; made by the collector, never sent."""

    KIND: ClassVar[Kind] = Kind.LEDGER

    node: NodeId
    boot: BootId
    at_us: TimeUs
    """Strictly increasing, so that two boots of one node are two points."""
    produced: Count
    stored: Count
    waiting: Count
    rejected: Count
    """Refused by the store itself: they are among the dead letters, with its reason."""
    in_transit: Count
    """Neither stored nor accounted for, and not for long: still on its way, as far as is known."""
    missing: Count
    """Neither stored nor accounted for, for longer than a node takes to send again."""
    lost_tail: Count
    """Of a boot that was lost: windows that went with its memory, as far as they are known."""
    tail_windows: Count
    """Of a boot that was lost: so many, at most, went with its memory, known or not."""
    end: BootEnd


class Pipeline(Message, frozen=True, kw_only=True):
    """How a collector itself is; made by the collector, never sent. Counts since its start."""

    KIND: ClassVar[Kind] = Kind.PIPELINE
    TAGS: ClassVar[tuple[str, ...]] = ("id",)

    id: NodeId
    at_us: TimeUs
    uptime_s: float
    received: Count
    """Messages."""
    stored_points: Count
    stored_windows: Count
    """Windows written, those included that came again."""
    batches: Count
    write_errors: Count
    """Writes that failed and were tried again."""
    dead_letters: Count
    dropped: Count
    """Messages given up that the broker, or the node, sends again."""
    receipts: Count
    waiting_messages: Count
    """Received and not yet stored."""
    reconnects: Count
    connected: bool
    storing: bool
    """Whether the last write has worked."""
    lag_p50_s: float | None
    """From the end of a live window to its being stored, since the last figures."""
    lag_p95_s: float | None
    missing_windows: Count
    """Over all ledgers, now."""
    memory_rss_bytes: Count


class WindowHour(Message, frozen=True, kw_only=True):
    """All stored windows of one node and model that began within one hour, in a few figures.

    Made by the collector, never sent; for comparisons over years, when the windows are long gone.
    """

    KIND: ClassVar[Kind] = Kind.WINDOW_HOUR
    TIME: ClassVar[str] = "start_us"
    TAGS: ClassVar[tuple[str, ...]] = ("node", "model")

    node: NodeId
    model: ModelLabel
    start_us: TimeUs
    """The hour's beginning, in UTC."""
    windows: Count
    scored: Count
    """Of these; the others could not be judged."""
    flagged: Count
    """Of these, anomalies."""
    score_mean: float | None
    score_max: float | None
    mse_mean: float | None
    level_mean_dbfs: float | None
    """Mean of the windows' levels, each in dB."""


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
    reason: Literal["oversize", "malformed", "schema", "wrong_topic", "rejected"]
    detail: Annotated[str, msgspec.Meta(max_length=400)]
    payload_bytes: Count
    payload_start: Annotated[str, msgspec.Meta(max_length=400)]
    """The payload's first bytes as text, what is not UTF-8 replaced."""


STORED: tuple[type[Message], ...] = (
    Window,
    Status,
    Birth,
    State,
    Event,
    Health,
    Update,
    CollectorStatus,
    LedgerEntry,
    Pipeline,
    WindowHour,
)
"""Messages with a measurement of their own; a backlog is stored as its windows."""

_ALL: tuple[type[Message], ...] = (
    *STORED,
    Backlog,
    Account,
    Receipt,
    Command,
    Result,
    DeadLetter,
)
_BY_KIND = {message.KIND: message for message in _ALL}
_DECODERS = {kind: msgspec.json.Decoder(message) for kind, message in _BY_KIND.items()}
_ENCODER = msgspec.json.Encoder()


class _Envelope(msgspec.Struct, frozen=True):
    """The one key that is read before anything else is believed."""

    schema: int


_ENVELOPE = msgspec.json.Decoder(_Envelope)


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
        envelope = _ENVELOPE.decode(payload)
        if envelope.schema != SCHEMA:
            raise MessageError("schema", f"Expected schema {SCHEMA}, got {envelope.schema}")
        message = _DECODERS[where.kind].decode(payload)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise MessageError("malformed", f"Expected a {where.kind} message: {error}") from error
    sender = getattr(message, "node", getattr(message, "id", None))
    if sender is not None and sender != where.owner:
        raise MessageError("wrong_topic", f"Expected a message of {where.owner}, got {sender}'s")
    return message


def stored_fields(message: type[Message]) -> dict[str, Any]:
    """Names and types of the fields that are stored, without the time and the schema."""
    return {
        field.name: field.type
        for field in msgspec.structs.fields(message)
        if field.name not in ("schema", message.TIME)
    }


def _check_size(kind: Kind, size: int) -> None:
    bound = MAX_BACKLOG_BYTES if kind is Kind.BACKLOG else MAX_MESSAGE_BYTES
    if size > bound:
        raise MessageError("oversize", f"Expected at most {bound} bytes for {kind}, got {size}")
