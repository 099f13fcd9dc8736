"""Half an hour of a fleet in which everything goes wrong once: what its messages would have been.

Messages only, of a fixed half hour, for tests that read what a collector has stored of them. Each
node is named for what is the matter with it at the end.
"""

from collections.abc import Iterable, Iterator
from typing import Any

from contract.messages import (
    Birth,
    CollectorStatus,
    Event,
    Health,
    Message,
    State,
    Status,
    Update,
    Window,
)
from contract.points import Point, points
from contract.records import LedgerEntry, Pipeline
from contract.states import (
    AlarmRule,
    BootEnd,
    CalibrationPhase,
    Clock,
    EpisodePhase,
    MachineState,
    MicrophoneState,
    Presence,
    PresenceReason,
    Problem,
    ThresholdSource,
    UpdatePhase,
)

SECOND_US = 1_000_000
MINUTE_US = 60 * SECOND_US
BEGIN_US = 1_795_357_800_000_000
"""2026-11-22T14:30:00Z."""
END_US = BEGIN_US + 30 * MINUTE_US

HEALTHY = "healthy-1"
UPDATED = "healthy-2"
"""Committed fan@18 in minute 12."""
ALARM = "alarm"
"""Since minute 18; the episode is open."""
WARNING = "warning"
RECOVERED = "recovered"
"""An episode from minute 5 to minute 9."""
LEARNING = "learning"
STOPPED = "stopped"
"""Of no group."""
DEAF = "deaf"
"""Its microphone has been silent since minute 15."""
OFFLINE = "offline"
"""Its last will came in minute 20."""
MUTE = "mute"
"""Nothing has come since minute 20, and no last will either."""
BACKLOG = "backlog"
"""Its outbox grows."""
CLOCKLESS = "clockless"
HOT = "hot"
FAILED = "failed-update"
"""Rolled back in minute 12."""
UPDATING = "updating"
HOLE = "hole"
"""25 windows are missing since minute 14."""
REBOOTED = "rebooted"
"""Its boot before this one ended without a goodbye, and a tail of at most 5."""

NODES = (
    HEALTHY,
    UPDATED,
    ALARM,
    WARNING,
    RECOVERED,
    LEARNING,
    STOPPED,
    DEAF,
    OFFLINE,
    MUTE,
    BACKLOG,
    CLOCKLESS,
    HOT,
    FAILED,
    UPDATING,
    HOLE,
    REBOOTED,
)
LINE_1 = (HEALTHY, ALARM, OFFLINE)
"""The nodes of group line-1; all others are of line-2, but for the stopped one."""
COLLECTOR = "main"
SPARE_COLLECTOR = "spare"
"""Has said nothing since minute 20."""

EPISODE = f"{ALARM}-540"
BANDS_HZ = (1425.5, 3120.0, 212.25)
FAILURE = "does not know this sound: median score 0.396, expected at most 0.001"

_WINDOW_SECONDS = 2
_GONE_MINUTE = 20
_BOOT = "01JD0000000000000000000000"
_BOOT_BEFORE = "01JC0000000000000000000000"
_KEYS = ("5f" * 32,)


def messages() -> Iterator[Message]:
    """All that nodes have sent and collectors have made, node by node."""
    for node in NODES:
        yield _birth(node)
        yield Status(
            node=node,
            boot=_BOOT,
            at_us=BEGIN_US,
            state=Presence.ONLINE,
            reason=PresenceReason.CONNECTED,
        )
        for minute in range(0, 30, 5):
            if _is_heard(node, minute):
                yield _state(node, minute)
        yield from _events(node)
        yield from _updates(node)
        for second in range(0, 30 * 60, _WINDOW_SECONDS):
            if _is_heard(node, second // 60):
                yield _window(node, second)
        for minute in range(30):
            if _is_heard(node, minute):
                yield _health(node, minute)
            yield from _ledger(node, minute)
    for minute in range(30):
        yield _pipeline(COLLECTOR, minute)
        if minute < _GONE_MINUTE:
            yield _pipeline(SPARE_COLLECTOR, minute)
    yield _collector_status(COLLECTOR, Presence.ONLINE, PresenceReason.CONNECTED, 0)
    yield _collector_status(SPARE_COLLECTOR, Presence.ONLINE, PresenceReason.CONNECTED, 0)


def stored_points() -> list[Point]:
    """What a collector has stored of it."""
    gone_us = BEGIN_US + _GONE_MINUTE * MINUTE_US
    wills: Iterable[Message] = (
        Status(
            node=OFFLINE,
            boot=_BOOT,
            at_us=BEGIN_US,
            state=Presence.OFFLINE,
            reason=PresenceReason.LOST,
        ),
    )
    found = [point for message in messages() for point in points(message, arrived_us=0)]
    found += [point for will in wills for point in points(will, arrived_us=gone_us)]
    return found


def _is_heard(node: str, minute: int) -> bool:
    return node not in (OFFLINE, MUTE) or minute < _GONE_MINUTE


def _model(node: str, minute: int) -> str:
    return "fan@18" if node == UPDATED and minute >= 12 else "fan@17"


def _machine(node: str, minute: int) -> MachineState:
    match node:
        case "alarm" if minute >= 18:
            return MachineState.ALARM
        case "warning" if minute >= 25:
            return MachineState.WARNING
        case "recovered" if 5 <= minute < 9:
            return MachineState.WARNING
        case "learning":
            return MachineState.LEARNING
        case "stopped":
            return MachineState.STOPPED
        case "deaf" if minute >= 15:
            return MachineState.UNKNOWN
    return MachineState.NORMAL


def _microphone(node: str, minute: int) -> MicrophoneState:
    is_dead = node == DEAF and minute >= 15
    return MicrophoneState.SILENT if is_dead else MicrophoneState.OK


def _birth(node: str) -> Birth:
    group = None if node == STOPPED else "line-1" if node in LINE_1 else "line-2"
    return Birth(
        node=node,
        boot=_BOOT,
        at_us=BEGIN_US,
        software="earshot 0.1.0",
        python="3.11.2",
        board="Raspberry Pi 4 Model B Rev 1.4",
        operating_system="Debian GNU/Linux 12 (bookworm)",
        runtime="ai-edge-litert",
        runtime_version="2.1.0",
        source="usb:0d8c:0014",
        source_rate_hz=48_000,
        group_id=group,
        model="fan@17",
        model_sha256="ba" * 32,
        threshold=45.0,
        threshold_source=ThresholdSource.RELEASE,
        window_us=2 * SECOND_US,
        hop_us=_WINDOW_SECONDS * SECOND_US,
        capabilities=("calibrate",),
        trusted_keys=_KEYS,
    )


def _state(node: str, minute: int) -> State:
    microphone = _microphone(node, minute)
    learns = node == LEARNING
    return State(
        node=node,
        boot=_BOOT,
        at_us=BEGIN_US + minute * MINUTE_US,
        machine=_machine(node, minute),
        microphone=microphone,
        model=_model(node, minute),
        threshold=45.0,
        threshold_source=ThresholdSource.SITE,
        microphone_note=None if microphone is MicrophoneState.OK else "silent; see to its plug",
        calibration=CalibrationPhase.CALIBRATING if learns else CalibrationPhase.ARMED,
        calibration_progress=minute / 60 if learns else 1.0,
        calibration_blocks=0 if learns else 60,
        calibration_note=None,
    )


def _events(node: str) -> Iterator[Event]:
    told: dict[str, list[tuple[int, EpisodePhase, MachineState]]] = {
        ALARM: [
            (18, EpisodePhase.OPENED, MachineState.WARNING),
            (19, EpisodePhase.CONTINUED, MachineState.ALARM),
        ],
        WARNING: [(25, EpisodePhase.OPENED, MachineState.WARNING)],
        RECOVERED: [
            (5, EpisodePhase.OPENED, MachineState.WARNING),
            (9, EpisodePhase.CLOSED, MachineState.NORMAL),
        ],
    }
    found = told.get(node, [])
    for minute, phase, state in found:
        opened = found[0][0]
        yield Event(
            node=node,
            boot=_BOOT,
            at_us=BEGIN_US + minute * MINUTE_US,
            episode_id=f"{node}-{opened * 60 // _WINDOW_SECONDS}",
            phase=phase,
            state=state,
            opened_us=BEGIN_US + opened * MINUTE_US,
            rule=AlarmRule.BLOCK,
            peak_score=3.5,
            windows=(minute - opened) * 30,
            bands_hz=BANDS_HZ,
            model="fan@17",
        )


def _updates(node: str) -> Iterator[Update]:
    ordered = {
        UPDATED: [(11, UpdatePhase.DOWNLOADING), (12, UpdatePhase.COMMITTED)],
        FAILED: [(11, UpdatePhase.TRIAL), (12, UpdatePhase.ROLLED_BACK)],
        UPDATING: [(28, UpdatePhase.DOWNLOADING)],
    }
    values: dict[str, Any] = {
        "node": node,
        "boot": _BOOT,
        "previous": "fan@16",
        "reason": None,
        "obeying": None,
        "serial": None,
        "threshold": None,
        "trial_windows": 0,
        "trial_flagged": 0,
        "running_flagged": 0,
        "trial_score": None,
        "trial_latency_p95_ms": None,
        "running": "fan@17",
        "wanted": None,
        "phase": UpdatePhase.IDLE,
        "progress": 0.0,
    }
    yield Update(**values, at_us=BEGIN_US)
    for minute, phase in ordered.get(node, []):
        values |= {"phase": phase, "wanted": "fan@18", "obeying": "all", "progress": 0.5}
        values |= {"running": _model(node, minute), "serial": BEGIN_US}
        if phase is UpdatePhase.ROLLED_BACK:
            values |= {"reason": FAILURE, "trial_windows": 30, "trial_flagged": 28}
            values |= {"trial_score": 0.396, "trial_latency_p95_ms": 12.5}
        yield Update(**values, at_us=BEGIN_US + minute * MINUTE_US)


def _window(node: str, second: int) -> Window:
    minute, machine = second // 60, _machine(node, second // 60)
    deaf = _microphone(node, minute) is not MicrophoneState.OK
    abnormal = machine in (MachineState.WARNING, MachineState.ALARM)
    score = None if deaf else (2.5 if abnormal else 0.6) + second % 10 / 50
    return Window(
        node=node,
        boot=_BOOT,
        seq=second // _WINDOW_SECONDS,
        start_us=BEGIN_US + second * SECOND_US,
        duration_us=2 * SECOND_US,
        mse=None if score is None else 45.0 * score,
        statistic=None if score is None else 45.0 * score,
        threshold=45.0,
        score=score,
        anomaly=None if score is None else score > 1,
        state=machine,
        problem=Problem.MIC_SILENT if deaf else None,
        model=_model(node, minute),
        level_dbfs=-90.0 if deaf else -31.0,
        clipped=0.0,
        overruns=0,
        clock=Clock.UNSYNCED if node == CLOCKLESS else Clock.SYNCED,
        latency_ms=None if deaf else 4.0,
    )


def _health(node: str, minute: int) -> Health:
    deaf = _microphone(node, minute) is not MicrophoneState.OK
    waits = minute * 40 if node == BACKLOG else 0
    return Health(
        node=node,
        boot=_BOOT,
        at_us=BEGIN_US + minute * MINUTE_US + 5 * SECOND_US,
        uptime_s=minute * 60.0 + 5.0,
        windows=(minute * 60 + 5) // _WINDOW_SECONDS,
        outbox_windows=waits,
        outbox_oldest_s=waits * 2.0,
        outbox_disk_bytes=waits * 400,
        discarded_full=0,
        discarded_expired=0,
        discarded_refused=0,
        discarded_damaged=0,
        discarded_unsaved=0,
        reconnects=minute // 3 if node == BACKLOG else 0,
        overruns=0,
        microphone=_microphone(node, minute),
        reopened=0,
        level_dbfs=-90.0 if deaf else -31.0,
        clipped=0.0,
        latency_p50_ms=4.0,
        latency_p95_ms=6.5,
        cpu_temperature_c=84.5 if node == HOT else 48.7,
        throttled=node == HOT,
        memory_rss_bytes=96_468_992,
        memory_available_bytes=3_221_225_472,
        disk_free_bytes=17_179_869_184,
        clock=Clock.UNSYNCED if node == CLOCKLESS else Clock.SYNCED,
    )


def _ledger(node: str, minute: int) -> Iterator[LedgerEntry]:
    produced = (min(minute, _GONE_MINUTE) if not _is_heard(node, minute) else minute) * 30
    waiting = minute * 40 // 2 if node == BACKLOG else 0
    missing = 25 if node == HOLE and minute >= 14 else 0
    values: dict[str, Any] = {
        "node": node,
        "in_transit": 1 if produced else 0,
        "lost_tail": 0,
        "rejected": 1 if node == HOLE and minute >= 14 else 0,
        "tail_windows": 0,
        "end": BootEnd.RUNNING,
        "discarded_full": 4 if node == BACKLOG else 0,
        "discarded_expired": 0,
        "discarded_refused": 0,
        "discarded_damaged": 0,
        "discarded_unsaved": 0,
    }
    at_us = BEGIN_US + minute * MINUTE_US + NODES.index(node) + 1
    explained = waiting + missing
    explained += sum(values[name] for name in ("in_transit", "rejected", "discarded_full"))
    yield LedgerEntry(
        **values,
        boot=_BOOT,
        at_us=at_us,
        produced=produced,
        stored=max(0, produced - explained),
        waiting=waiting,
        missing=missing,
    )
    if node == REBOOTED and minute == 1:
        values |= {"end": BootEnd.LOST, "lost_tail": 3, "tail_windows": 5, "in_transit": 0}
        yield LedgerEntry(
            **values,
            boot=_BOOT_BEFORE,
            at_us=at_us + 1000,
            produced=900,
            stored=897,
            waiting=0,
            missing=0,
        )


def _pipeline(collector: str, minute: int) -> Pipeline:
    seconds = minute * 60 + 30
    return Pipeline(
        id=collector,
        at_us=BEGIN_US + seconds * SECOND_US,
        uptime_s=float(seconds),
        received=seconds * 9,
        stored_points=seconds * 9,
        stored_windows=seconds * 8,
        batches=seconds,
        write_errors=2 if minute >= 8 else 0,
        dead_letters=3 if minute >= 10 else 0,
        dropped=0,
        receipts=seconds,
        waiting_messages=7,
        reconnects=1,
        connected=True,
        storing=True,
        lag_p50_s=0.6,
        lag_p95_s=1.1,
        missing_windows=25 if minute >= 14 else 0,
        memory_rss_bytes=62_914_560,
    )


def _collector_status(
    collector: str, state: Presence, reason: PresenceReason, minute: int
) -> CollectorStatus:
    return CollectorStatus(
        id=collector, at_us=BEGIN_US + minute * MINUTE_US, state=state, reason=reason
    )
