"""Messages of a small fleet, for tests."""

from typing import Any

from contract import topics
from contract.messages import Account, Backlog, Message, State, Status, Window, encode
from contract.points import Point, points
from contract.session import Received
from contract.states import (
    CalibrationPhase,
    Clock,
    MachineState,
    MicrophoneState,
    Presence,
    PresenceReason,
    ThresholdSource,
)

BOOT = "01JD0000000000000000000000"
NEXT_BOOT = "01JD0000000000000000000001"
START_US = 1_795_358_112_000_000
SECOND_US = 1_000_000


def window(seq: int = 0, *, node: str = "press-07", **changed: Any) -> Window:
    """A healthy window, one second after the one before."""
    values: dict[str, Any] = {
        "node": node,
        "boot": BOOT,
        "seq": seq,
        "start_us": START_US + seq * SECOND_US,
        "duration_us": 2_000_000,
        "mse": 31.0,
        "statistic": 31.0,
        "threshold": 45.0,
        "score": 31.0 / 45.0,
        "anomaly": False,
        "state": MachineState.NORMAL,
        "problem": None,
        "model": "fan@17",
        "level_dbfs": -31.0,
        "clipped": 0.0,
        "overruns": 0,
        "clock": Clock.SYNCED,
        "latency_ms": 4.0,
    }
    return Window(**values | changed)


def backlog(*seqs: int, node: str = "press-07", boot: str = BOOT) -> Backlog:
    """Late windows."""
    windows = tuple(window(seq, node=node, boot=boot) for seq in seqs)
    return Backlog(node=node, boot=boot, windows=windows)


def account(produced: int, *, boot: str = BOOT, **changed: Any) -> Account:
    """A node's side of a ledger: nothing waits, nothing was given up."""
    values: dict[str, Any] = {
        "node": "press-07",
        "boot": boot,
        "at_us": START_US,
        "produced": produced,
        "waiting": 0,
        "tail_windows": 0,
        "ended": False,
        "discarded_full": 0,
        "discarded_expired": 0,
        "discarded_refused": 0,
        "discarded_damaged": 0,
        "discarded_unsaved": 0,
    }
    return Account(**values | changed)


def status(
    reason: PresenceReason, *, node: str = "press-07", at_us: int = START_US, boot: str = BOOT
) -> Status:
    """A node comes or goes."""
    online = reason is PresenceReason.CONNECTED
    state = Presence.ONLINE if online else Presence.OFFLINE
    return Status(node=node, boot=boot, at_us=at_us, state=state, reason=reason)


def state(
    machine: MachineState = MachineState.NORMAL,
    microphone: MicrophoneState = MicrophoneState.OK,
    *,
    node: str = "press-07",
) -> State:
    """How machine and microphone are."""
    return State(
        node=node,
        boot=BOOT,
        at_us=START_US,
        machine=machine,
        microphone=microphone,
        model="fan@17",
        threshold=45.0,
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
        topic = "earshot/1/n/press-07/window" if isinstance(message, bytes) else topic_of(message)
    return Received(generation, packet_id, topic, payload, qos, retained)


def window_points(*seqs: int) -> list[Point]:
    """The points of windows."""
    return [point for seq in seqs for point in points(window(seq), arrived_us=0)]
