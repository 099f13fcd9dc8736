"""Points: how each message is stored."""

from enum import StrEnum

import msgspec
import pytest

from contract.messages import Backlog, Message, decode
from contract.points import Point, columns, points
from contract.records import STORED
from contract.states import PresenceReason, UpdatePhase
from tests.rig.examples import (
    ACCOUNT,
    AT_US,
    BACKLOG,
    BIRTH,
    BOOT,
    COLLECTOR_STATUS,
    EVENT,
    EXAMPLES,
    HEALTH,
    LEDGER,
    MADE_BY_COLLECTORS,
    NODE,
    PIPELINE,
    STATE,
    STATUS,
    UNSCORED,
    UPDATE,
    WINDOW,
)

ARRIVED_US = AT_US + 20_000_000

EXPECTED: dict[str, Point] = {
    "window": Point(
        "window",
        {"node": NODE, "model": "fan@17"},
        {
            "boot": BOOT,
            "seq": 184_467,
            "duration_us": 2_000_000,
            "mse": 31.2,
            "statistic": 31.2,
            "threshold": 45.0,
            "score": 0.693,
            "anomaly": 0,
            "state": "normal",
            "state_code": 3,
            "level_dbfs": -31.25,
            "clipped": 0.0,
            "overruns": 0,
            "clock": "synced",
            "clock_code": 1,
            "latency_ms": 4.125,
        },
        AT_US,
    ),
    "window-unscored": Point(
        "window",
        {"node": NODE, "model": "fan@17"},
        {
            "boot": BOOT,
            "seq": 184_468,
            "duration_us": 2_000_000,
            "threshold": 45.0,
            "state": "unknown",
            "state_code": 0,
            "problem": "mic_silent",
            "problem_code": 0,
            "clipped": 0.0,
            "overruns": 3,
            "clock": "unsynced",
            "clock_code": 0,
        },
        AT_US + 1_000_000,
    ),
    "status": Point(
        "status",
        {"node": NODE},
        {
            "boot": BOOT,
            "state": "offline",
            "state_code": 0,
            "reason": "lost",
            "reason_code": 0,
        },
        ARRIVED_US,
    ),
    "birth": Point(
        "birth",
        {"node": NODE},
        {
            "boot": BOOT,
            "software": "earshot 0.1.0",
            "python": "3.11.2",
            "board": "Raspberry Pi 4 Model B Rev 1.4",
            "operating_system": "Debian GNU/Linux 12 (bookworm)",
            "runtime": "ai-edge-litert",
            "runtime_version": "2.1.0",
            "source": "usb:0d8c:0014:Prüfstand-µ7",
            "source_rate_hz": 48_000,
            "group_id": "line-2",
            "model": "fan@17",
            "model_sha256": BIRTH.model_sha256,
            "threshold": 45.0,
            "threshold_source": "release",
            "threshold_source_code": 0,
            "window_us": 2_000_000,
            "hop_us": 1_000_000,
            "capabilities": "identify,calibrate",
            "trusted_keys": "5f" * 32,
        },
        AT_US,
    ),
    "state": Point(
        "state",
        {"node": NODE},
        {
            "boot": BOOT,
            "machine": "alarm",
            "machine_code": 5,
            "microphone": "ok",
            "microphone_code": 1,
            "model": "fan@17",
            "threshold": 45.0,
            "threshold_source": "site",
            "threshold_source_code": 1,
            "microphone_note": "clips at times; lower its gain",
            "calibration": "verifying",
            "calibration_code": 3,
            "calibration_progress": 0.75,
            "calibration_blocks": 60,
            "calibration_note": "0 of 15 blocks above the limit so far",
        },
        AT_US,
    ),
    "event": Point(
        "event",
        {"node": NODE},
        {
            "boot": BOOT,
            "episode_id": "press-07-184467",
            "phase": "closed",
            "phase_code": 2,
            "state": "normal",
            "state_code": 3,
            "opened_us": AT_US - 60_000_000,
            "rule": "block",
            "rule_code": 1,
            "peak_score": 3.5,
            "windows": 60,
            "bands_hz": "1425.5,3120.0,212.25",
            "model": "fan@17",
        },
        AT_US,
    ),
    "health": Point(
        "health",
        {"node": NODE},
        {
            "discarded_full": 0,
            "discarded_expired": 2,
            "discarded_refused": 1,
            "discarded_damaged": 0,
            "discarded_unsaved": 3,
            "boot": BOOT,
            "uptime_s": 86_400.5,
            "windows": 86_398,
            "outbox_windows": 2,
            "outbox_oldest_s": 1.75,
            "outbox_disk_bytes": 4096,
            "reconnects": 4,
            "overruns": 0,
            "microphone": "ok",
            "microphone_code": 1,
            "reopened": 2,
            "level_dbfs": -31.25,
            "clipped": 0.0005,
            "latency_p50_ms": 4.125,
            "latency_p95_ms": 6.5,
            "cpu_temperature_c": 48.7,
            "throttled": 1,
            "memory_rss_bytes": 96_468_992,
            "memory_available_bytes": 3_221_225_472,
            "disk_free_bytes": 17_179_869_184,
            "clock": "synced",
            "clock_code": 1,
        },
        AT_US,
    ),
    "update": Point(
        "update",
        {"node": NODE},
        {
            "boot": BOOT,
            "running": "fan@17",
            "wanted": "fan@18",
            "phase": "rolled_back",
            "phase_code": 7,
            "progress": 0.625,
            "reason": "latency p95 of 612 ms is over half a hop",
            "previous": "fan@16",
            "obeying": "group:line-2",
            "serial": 1_795_358_112_500_000,
            "threshold": 48.5,
            "trial_windows": 30,
            "trial_flagged": 2,
            "running_flagged": 1,
            "trial_score": 0.71,
            "trial_latency_p95_ms": 612.0,
        },
        AT_US,
    ),
    "collector": Point(
        "collector",
        {"id": "main"},
        {"state": "online", "state_code": 1, "reason": "connected", "reason_code": 2},
        AT_US,
    ),
    "ledger": Point(
        "ledger",
        {"node": NODE},
        {
            "discarded_full": 5,
            "discarded_expired": 4,
            "discarded_refused": 3,
            "discarded_damaged": 1,
            "discarded_unsaved": 0,
            "boot": BOOT,
            "produced": 184_469,
            "stored": 184_436,
            "waiting": 2,
            "rejected": 1,
            "in_transit": 4,
            "missing": 10,
            "lost_tail": 3,
            "tail_windows": 5,
            "end": "lost",
            "end_code": 2,
        },
        AT_US,
    ),
    "pipeline": Point(
        "pipeline",
        {"id": "main"},
        {
            "uptime_s": 86_400.5,
            "received": 184_500,
            "stored_points": 184_490,
            "stored_windows": 184_440,
            "batches": 86_000,
            "write_errors": 3,
            "dead_letters": 1,
            "dropped": 20,
            "receipts": 86_000,
            "waiting_messages": 7,
            "reconnects": 2,
            "connected": 1,
            "storing": 0,
            "lag_p50_s": 0.625,
            "lag_p95_s": 1.125,
            "missing_windows": 10,
            "memory_rss_bytes": 62_914_560,
        },
        AT_US,
    ),
    "window-hour": Point(
        "window_hour",
        {"node": NODE, "model": "fan@17"},
        {
            "windows": 3600,
            "scored": 3590,
            "flagged": 12,
            "score_mean": 0.6875,
            "score_max": 1.5,
            "mse_mean": 31.0,
            "level_mean_dbfs": -31.5,
        },
        1_795_356_000_000_000,
    ),
}

MESSAGES: dict[str, Message] = {
    **{name: example.message for name, example in EXAMPLES.items()},
    **MADE_BY_COLLECTORS,
}


def stored(message: Message) -> Point:
    (point,) = points(message, arrived_us=ARRIVED_US)
    return point


def typed(fields: dict[str, str | int | float]) -> dict[str, tuple[type, object]]:
    """Fields with their exact types: 1, 1.0, True and a `StrEnum` are four things to a database."""
    return {name: (type(value), value) for name, value in fields.items()}


@pytest.mark.parametrize("name", EXPECTED)
def test_message_is_stored_as_ever(name: str) -> None:
    """A message becomes the same point as ever, to the type of each field."""
    point = stored(MESSAGES[name])

    assert point == EXPECTED[name]
    assert typed(point.fields) == typed(EXPECTED[name].fields)


def test_every_stored_kind_is_expected_here() -> None:
    """No measurement is without its table above."""
    assert {type(MESSAGES[name]) for name in EXPECTED} == set(STORED)


def test_backlog_is_stored_as_its_windows() -> None:
    """A late window is the same point as a live one."""
    found = list(points(BACKLOG, arrived_us=ARRIVED_US))

    assert found == [EXPECTED["window"], EXPECTED["window-unscored"]]


def test_last_will_is_stamped_on_arrival() -> None:
    """A last will, frozen when the node connected, is stored when it was heard."""
    assert stored(STATUS).time_us == ARRIVED_US


@pytest.mark.parametrize("reason", [PresenceReason.CONNECTED, PresenceReason.STOPPED])
def test_spoken_status_is_not_stamped_on_arrival(reason: PresenceReason) -> None:
    """A status that the node itself sends has the node's time."""
    assert stored(msgspec.structs.replace(STATUS, reason=reason)).time_us == AT_US


@pytest.mark.parametrize("name", [name for name in EXPECTED if name != "status"])
def test_time_of_arrival_does_not_matter(name: str) -> None:
    """The same message stored again, later, is the same point."""
    message = MESSAGES[name]

    again = list(points(message, arrived_us=ARRIVED_US + 600_000_000))

    assert again == list(points(message, arrived_us=ARRIVED_US))


def test_whole_number_is_stored_as_float_where_one_is_due() -> None:
    """A threshold that came as 45 is stored as 45.0: a field's type is fixed by its first point."""
    payload = EXAMPLES["window"].golden("window").replace(b"45.0", b"45").replace(b"31.2", b"31")
    built_of_ints = msgspec.structs.replace(WINDOW, threshold=45, clipped=0, mse=31, statistic=31)

    for message in (decode(EXAMPLES["window"].topic, payload), built_of_ints):
        fields = stored(message).fields
        assert [type(fields[name]) for name in ("threshold", "mse", "statistic", "clipped")] == [
            float
        ] * 4


def test_booleans_are_stored_as_integers() -> None:
    """True is 1, False is 0, and unknown is left out."""

    def anomaly(value: bool | None) -> object:
        return typed(stored(msgspec.structs.replace(WINDOW, anomaly=value)).fields).get("anomaly")

    assert anomaly(True) == (int, 1)
    assert anomaly(False) == (int, 0)
    assert anomaly(None) is None


def test_missing_state_has_no_code() -> None:
    """Without a problem there is neither its text nor its code."""
    assert not {"problem", "problem_code"} & stored(WINDOW).fields.keys()


@pytest.mark.parametrize("phase", UpdatePhase)
def test_state_is_stored_twice(phase: UpdatePhase) -> None:
    """A state is stored as text and as its code, for each of its values."""
    fields = stored(msgspec.structs.replace(UPDATE, phase=phase)).fields

    assert (fields["phase"], fields["phase_code"]) == (str(phase), list(UpdatePhase).index(phase))
    assert not isinstance(fields["phase"], StrEnum)


@pytest.mark.parametrize(
    "message",
    [
        msgspec.structs.replace(
            WINDOW, problem=UNSCORED.problem
        ),  # not a real one, but with every value
        STATUS,
        BIRTH,
        STATE,
        EVENT,
        HEALTH,
        UPDATE,
        COLLECTOR_STATUS,
        LEDGER,
        PIPELINE,
    ],
    ids=lambda message: str(message.KIND),
)
def test_columns_are_the_fields_of_a_full_message(message: Message) -> None:
    """A table's columns are a full message's fields, in order and by type; others came later."""
    fields = stored(message).fields
    optional = {f.name for f in msgspec.structs.fields(type(message)) if not f.required}
    found = {n: kind for n, kind in columns(type(message)).items() if n not in optional}

    assert found == {name: type(value) for name, value in fields.items()}
    assert list(found) == list(fields)


@pytest.mark.parametrize("kind", STORED, ids=lambda kind: kind.__name__)
def test_no_column_is_a_tag_or_the_time(kind: type[Message]) -> None:
    """What identifies a point is not stored a second time in its fields."""
    assert not {*kind.TAGS, kind.TIME, "schema", "time"} & columns(kind).keys()


def test_shared_column_has_one_type() -> None:
    """The names that several measurements share have one type in all of them."""
    types: dict[str, set[type]] = {}
    for kind in STORED:
        for name, column in columns(kind).items():
            types.setdefault(name, set()).add(column)

    assert {name: found for name, found in types.items() if len(found) > 1} == {}


def test_account_has_no_point_of_its_own() -> None:
    """It is one side of a ledger, and stored as part of that."""
    assert list(points(ACCOUNT, arrived_us=0)) == []


def test_backlog_has_no_point_of_its_own() -> None:
    """A backlog gives one point for each window and none of its own."""
    backlog = Backlog(node=NODE, boot=BOOT, windows=(WINDOW,))

    assert [point.measurement for point in points(backlog, arrived_us=0)] == ["window"]
