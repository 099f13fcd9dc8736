"""Messages for tests: one of every kind, as released, and of a small fleet as many as needed.

`tests/data/golden/schema-1` holds the bytes of the former.
"""

from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from contract import topics
from contract.messages import (
    Account,
    Backlog,
    Birth,
    CollectorStatus,
    Command,
    DeadLetter,
    Event,
    Health,
    Message,
    Receipt,
    Result,
    State,
    Status,
    Update,
    Window,
    encode,
)
from contract.points import Point, points
from contract.records import LedgerEntry, Pipeline, WindowHour
from contract.session import Received
from contract.states import (
    AlarmRule,
    BootEnd,
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

GOLDEN = Path(__file__).parents[1] / "data/golden/schema-1"

NODE = "press-07"
BOOT = "01JD8Z6W3M9K4T2Q5R7V1X0YBC"
NEXT_BOOT = "01JD8Z6W3M9K4T2Q5R7V1X0YBD"
AT_US = 1_795_358_112_500_000
START_US = 1_795_358_112_000_000
"""When the windows of `window` begin."""
SECOND_US = 1_000_000


class Example(NamedTuple):
    """A message and the topic that it is published on."""

    topic: str
    message: Message

    def golden(self, name: str) -> bytes:
        """Its bytes as released."""
        return (GOLDEN / f"{name}.json").read_bytes()


WINDOW = Window(
    node=NODE,
    boot=BOOT,
    seq=184_467,
    start_us=AT_US,
    duration_us=2_000_000,
    mse=31.2,
    statistic=31.2,
    threshold=45.0,
    score=0.693,
    anomaly=False,
    state=MachineState.NORMAL,
    problem=None,
    model="fan@17",
    level_dbfs=-31.25,
    clipped=0.0,
    overruns=0,
    clock=Clock.SYNCED,
    latency_ms=4.125,
)
UNSCORED = Window(
    node=NODE,
    boot=BOOT,
    seq=184_468,
    start_us=AT_US + 1_000_000,
    duration_us=2_000_000,
    mse=None,
    statistic=None,
    threshold=45.0,
    score=None,
    anomaly=None,
    state=MachineState.UNKNOWN,
    problem=Problem.MIC_SILENT,
    model="fan@17",
    level_dbfs=None,
    clipped=0.0,
    overruns=3,
    clock=Clock.UNSYNCED,
    latency_ms=None,
)
STATUS = Status(
    node=NODE,
    boot=BOOT,
    at_us=AT_US,
    state=Presence.OFFLINE,
    reason=PresenceReason.LOST,
)
BIRTH = Birth(
    node=NODE,
    boot=BOOT,
    at_us=AT_US,
    software="earshot 0.1.0",
    python="3.11.2",
    board="Raspberry Pi 4 Model B Rev 1.4",
    operating_system="Debian GNU/Linux 12 (bookworm)",
    runtime="ai-edge-litert",
    runtime_version="2.1.0",
    source="usb:0d8c:0014:Prüfstand-µ7",
    source_rate_hz=48_000,
    group_id="line-2",
    model="fan@17",
    model_sha256="ba1f52b38ec3c012c9951dca750fc175fd5cf135e9cf0ee9d3531c2549d38ae2",
    threshold=45.0,
    threshold_source=ThresholdSource.RELEASE,
    window_us=2_000_000,
    hop_us=1_000_000,
    capabilities=("identify", "calibrate"),
    trusted_keys=("5f" * 32,),
)
STATE = State(
    node=NODE,
    boot=BOOT,
    at_us=AT_US,
    machine=MachineState.ALARM,
    microphone=MicrophoneState.OK,
    model="fan@17",
    threshold=45.0,
    threshold_source=ThresholdSource.SITE,
    microphone_note="clips at times; lower its gain",
    calibration=CalibrationPhase.VERIFYING,
    calibration_progress=0.75,
    calibration_blocks=60,
    calibration_note="0 of 15 blocks above the limit so far",
)
EVENT = Event(
    node=NODE,
    boot=BOOT,
    at_us=AT_US,
    episode_id="press-07-184467",
    phase=EpisodePhase.CLOSED,
    state=MachineState.NORMAL,
    opened_us=AT_US - 60_000_000,
    rule=AlarmRule.BLOCK,
    peak_score=3.5,
    windows=60,
    bands_hz=(1425.5, 3120.0, 212.25),
    model="fan@17",
)
HEALTH = Health(
    node=NODE,
    boot=BOOT,
    at_us=AT_US,
    uptime_s=86_400.5,
    windows=86_398,
    outbox_windows=2,
    outbox_oldest_s=1.75,
    outbox_disk_bytes=4096,
    discarded_full=0,
    discarded_expired=2,
    discarded_refused=1,
    discarded_damaged=0,
    discarded_unsaved=3,
    reconnects=4,
    overruns=0,
    microphone=MicrophoneState.OK,
    reopened=2,
    level_dbfs=-31.25,
    clipped=0.0005,
    latency_p50_ms=4.125,
    latency_p95_ms=6.5,
    cpu_temperature_c=48.7,
    throttled=True,
    memory_rss_bytes=96_468_992,
    memory_available_bytes=3_221_225_472,
    disk_free_bytes=17_179_869_184,
    clock=Clock.SYNCED,
)
UPDATE = Update(
    node=NODE,
    boot=BOOT,
    at_us=AT_US,
    running="fan@17",
    previous="fan@16",
    wanted="fan@18",
    phase=UpdatePhase.ROLLED_BACK,
    progress=0.625,
    reason="latency p95 of 612 ms is over half a hop",
    obeying="group:line-2",
    serial=1_795_358_112_500_000,
    threshold=48.5,
    trial_windows=30,
    trial_flagged=2,
    running_flagged=1,
    trial_score=0.71,
    trial_latency_p95_ms=612.0,
)
COLLECTOR_STATUS = CollectorStatus(
    id="main",
    at_us=AT_US,
    state=Presence.ONLINE,
    reason=PresenceReason.CONNECTED,
)
BACKLOG = Backlog(node=NODE, boot=BOOT, windows=(WINDOW, UNSCORED))
ACCOUNT = Account(
    node=NODE,
    boot=BOOT,
    at_us=AT_US,
    produced=184_469,
    waiting=2,
    discarded_full=5,
    discarded_expired=4,
    discarded_refused=3,
    discarded_damaged=1,
    discarded_unsaved=0,
    tail_windows=5,
    ended=False,
)
RECEIPT = Receipt(
    node=NODE,
    boot=BOOT,
    at_us=AT_US,
    stored_from=10,
    stored_up_to=184_467,
    holes=((17, 17), (40, 99)),
)
COMMAND = Command(node=NODE, at_us=AT_US, minutes=60.0)
RESULT = Result(
    node=NODE,
    boot=BOOT,
    at_us=AT_US,
    verb="calibrate",
    done=True,
    note="calibrating for 60 minutes",
)
DEAD_LETTER = DeadLetter(
    at_us=AT_US,
    collector="main",
    topic="earshot/1/n/press-07/window",
    reason="malformed",
    detail="Expected a window message: Object missing required field `seq`",
    payload_bytes=2,
    payload_start="{}",
)

LEDGER = LedgerEntry(
    node=NODE,
    boot=BOOT,
    at_us=AT_US,
    produced=184_469,
    stored=184_436,
    waiting=2,
    rejected=1,
    in_transit=4,
    missing=10,
    lost_tail=3,
    discarded_full=5,
    discarded_expired=4,
    discarded_refused=3,
    discarded_damaged=1,
    discarded_unsaved=0,
    tail_windows=5,
    end=BootEnd.LOST,
)
PIPELINE = Pipeline(
    id="main",
    at_us=AT_US,
    uptime_s=86_400.5,
    received=184_500,
    stored_points=184_490,
    stored_windows=184_440,
    batches=86_000,
    write_errors=3,
    dead_letters=1,
    dropped=20,
    receipts=86_000,
    waiting_messages=7,
    reconnects=2,
    connected=True,
    storing=False,
    lag_p50_s=0.625,
    lag_p95_s=1.125,
    missing_windows=10,
    memory_rss_bytes=62_914_560,
)
WINDOW_HOUR = WindowHour(
    node=NODE,
    model="fan@17",
    start_us=1_795_356_000_000_000,
    windows=3600,
    scored=3590,
    flagged=12,
    score_mean=0.6875,
    score_max=1.5,
    mse_mean=31.0,
    level_mean_dbfs=-31.5,
)

EXAMPLES = {
    "window": Example("earshot/1/n/press-07/window", WINDOW),
    "window-unscored": Example("earshot/1/n/press-07/window", UNSCORED),
    "backlog": Example("earshot/1/n/press-07/backlog", BACKLOG),
    "status": Example("earshot/1/n/press-07/status", STATUS),
    "birth": Example("earshot/1/n/press-07/birth", BIRTH),
    "state": Example("earshot/1/n/press-07/state", STATE),
    "event": Example("earshot/1/n/press-07/event", EVENT),
    "health": Example("earshot/1/n/press-07/health", HEALTH),
    "update": Example("earshot/1/n/press-07/update", UPDATE),
    "account": Example("earshot/1/n/press-07/account", ACCOUNT),
    "receipt": Example("earshot/1/n/press-07/receipt", RECEIPT),
    "command": Example("earshot/1/n/press-07/cmd/calibrate", COMMAND),
    "result": Example("earshot/1/n/press-07/result", RESULT),
    "collector": Example("earshot/1/collector/main/status", COLLECTOR_STATUS),
    "deadletter": Example("earshot/1/deadletter", DEAD_LETTER),
}
"""By the name of the golden file."""

MADE_BY_COLLECTORS = {"ledger": LEDGER, "pipeline": PIPELINE, "window-hour": WINDOW_HOUR}
"""Stored, and never on the wire."""


def window(seq: int = 0, **changed: Any) -> Window:
    """A healthy window, one second after the one before."""
    values = {"mse": 31.0, "statistic": 31.0, "score": 31.0 / 45.0} | changed
    start_us = START_US + seq * SECOND_US
    return msgspec.structs.replace(WINDOW, **{"seq": seq, "start_us": start_us, **values})


def backlog(*seqs: int, node: str = NODE, boot: str = BOOT) -> Backlog:
    """Late windows."""
    windows = tuple(window(seq, node=node, boot=boot) for seq in seqs)
    return Backlog(node=node, boot=boot, windows=windows)


def account(produced: int, **changed: Any) -> Account:
    """A node's side of a ledger: nothing waits, nothing was given up."""
    nothing = {f"discarded_{reason}": 0 for reason in DiscardReason} | {"waiting": 0}
    values = {"at_us": START_US, "produced": produced, "tail_windows": 0, **nothing, **changed}
    return msgspec.structs.replace(ACCOUNT, **values)


def status(
    reason: PresenceReason, *, node: str = NODE, at_us: int = START_US, boot: str = BOOT
) -> Status:
    """A node comes or goes."""
    online = reason is PresenceReason.CONNECTED
    state = Presence.ONLINE if online else Presence.OFFLINE
    return Status(node=node, boot=boot, at_us=at_us, state=state, reason=reason)


def state(
    machine: MachineState = MachineState.NORMAL,
    microphone: MicrophoneState = MicrophoneState.OK,
    *,
    node: str = NODE,
) -> State:
    """How machine and microphone are, on a node that was never calibrated."""
    return msgspec.structs.replace(
        STATE,
        node=node,
        at_us=START_US,
        machine=machine,
        microphone=microphone,
        threshold_source=ThresholdSource.RELEASE,
        microphone_note=None,
        calibration=CalibrationPhase.NONE,
        calibration_progress=0.0,
        calibration_blocks=0,
        calibration_note=None,
    )


def topic_of(message: Message) -> str:
    """Where a node's message belongs."""
    return topics.node(getattr(message, "node"), message.KIND)  # noqa: B009 - not all have one


def received(
    message: Message | bytes,
    topic: str | None = None,
    *,
    generation: int = 1,
    packet_id: int = 1,
    qos: int = 1,
    retained: bool = False,
) -> Received:
    """A message as the session gives it."""
    payload = message if isinstance(message, bytes) else encode(message)
    if topic is None:
        topic = EXAMPLES["window"].topic if isinstance(message, bytes) else topic_of(message)
    return Received(generation, packet_id, topic, payload, qos, retained)


def window_points(*seqs: int) -> list[Point]:
    """The points of windows."""
    return [point for seq in seqs for point in points(window(seq), arrived_us=0)]
