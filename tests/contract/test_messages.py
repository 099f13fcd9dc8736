"""Messages: as released, in both directions, and strict with whatever else comes."""

import json
from contextlib import suppress
from enum import StrEnum
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from contract.errors import MessageError
from contract.messages import (
    MAX_BACKLOG_BYTES,
    MAX_BACKLOG_WINDOWS,
    MAX_MESSAGE_BYTES,
    Backlog,
    Message,
    decode,
    encode,
)
from contract.states import CODES
from contract.topics import Kind
from tests.rig.examples import (
    BACKLOG,
    BIRTH,
    BOOT,
    EXAMPLES,
    GOLDEN,
    MADE_BY_COLLECTORS,
    STATUS,
    WINDOW,
    Example,
)
from tests.rig.grown import as_published

WINDOW_TOPIC = "earshot/1/n/press-07/window"
STATUS_TOPIC = "earshot/1/n/press-07/status"
BACKLOG_TOPIC = "earshot/1/n/press-07/backlog"


def golden_object(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(EXAMPLES[name].golden(name))
    return found


def reason_for(topic: str, payload: bytes) -> str:
    with pytest.raises(MessageError) as error:
        decode(topic, payload)

    return error.value.reason


@pytest.mark.parametrize("name", EXAMPLES)
def test_message_is_written_as_released(name: str) -> None:
    """A message of schema 1 is the same bytes as ever, but for keys that came later."""
    golden = EXAMPLES[name].golden(name)
    written = as_published(msgspec.json.decode(encode(EXAMPLES[name].message)), json.loads(golden))

    assert msgspec.json.encode(written) == golden


@pytest.mark.parametrize("name", EXAMPLES)
def test_message_is_read_as_released(name: str) -> None:
    """The bytes of schema 1 give back the message."""
    example = EXAMPLES[name]

    assert decode(example.topic, example.golden(name)) == example.message


def test_every_kind_has_a_golden_file() -> None:
    """Nothing crosses the wire without its bytes in a file, and no file is left over."""
    kinds = {example.message.KIND for example in EXAMPLES.values()}

    signed_or_raw = {Kind.DESIRED, Kind.RELEASE, Kind.BLOB}
    never_sent = {Kind.LEDGER, Kind.PIPELINE, Kind.WINDOW_HOUR}
    assert kinds == set(Kind) - signed_or_raw - never_sent
    assert {file.stem for file in GOLDEN.iterdir()} == set(EXAMPLES)


@pytest.mark.parametrize(
    "topic",
    ["earshot/1/all/desired", "earshot/1/release/fan/17", f"earshot/1/blob/{'0' * 64}/0"],
)
def test_what_is_signed_or_raw_is_no_plain_message(topic: str) -> None:
    """Orders and releases are opened with keys, elsewhere."""
    assert reason_for(topic, encode(STATUS)) == "wrong_topic"


def test_codes_never_change() -> None:
    """Each state is stored as the integer that it always had: a line may be added, at an end."""
    table = {
        kind.__name__: {str(value): code for code, value in enumerate(values)}
        for kind, values in CODES.items()
    }

    assert table == {
        "MachineState": {
            "unknown": 0,
            "stopped": 1,
            "learning": 2,
            "normal": 3,
            "warning": 4,
            "alarm": 5,
        },
        "MicrophoneState": {
            "unknown": 0,
            "ok": 1,
            "quiet": 2,
            "silent": 3,
            "stuck": 4,
            "clipped": 5,
            "offset": 6,
            "gone": 7,
        },
        "Problem": {
            "mic_silent": 0,
            "mic_clipped": 1,
            "mic_gone": 2,
            "overrun": 3,
            "error": 4,
            "mic_stuck": 5,
            "mic_quiet": 6,
            "mic_offset": 7,
            "unknown": 8,
        },
        "Clock": {"unsynced": 0, "synced": 1, "simulated": 2, "unknown": 3},
        "Presence": {"offline": 0, "online": 1, "unknown": 2},
        "PresenceReason": {"lost": 0, "stopped": 1, "connected": 2, "unknown": 3},
        "ThresholdSource": {"release": 0, "site": 1, "override": 2, "unknown": 3},
        "CalibrationPhase": {
            "none": 0,
            "settling": 1,
            "calibrating": 2,
            "verifying": 3,
            "armed": 4,
            "refused": 5,
            "unknown": 6,
        },
        "AlarmRule": {"vote": 0, "block": 1, "fast": 2, "unknown": 3},
        "EpisodePhase": {"opened": 0, "continued": 1, "closed": 2, "unknown": 3},
        "UpdatePhase": {
            "idle": 0,
            "downloading": 1,
            "verified": 2,
            "testing": 3,
            "trial": 4,
            "committed": 5,
            "rejected": 6,
            "rolled_back": 7,
            "unknown": 8,
        },
        "BootEnd": {"running": 0, "goodbye": 1, "lost": 2},
    }


def test_every_state_in_a_message_has_codes() -> None:
    """No message carries a state that could not be stored as an integer."""
    used = {
        type(value)
        for message in (*(e.message for e in EXAMPLES.values()), *MADE_BY_COLLECTORS.values())
        for value in msgspec.structs.asdict(message).values()
        if isinstance(value, StrEnum)
    }

    assert used == set(CODES)


@pytest.mark.parametrize("name", EXAMPLES)
def test_unknown_keys_are_ignored(name: str) -> None:
    """A newer sender's further keys, however shaped, change nothing."""
    extended = golden_object(name) | {"added_later": {"deep": [1, {"er": None}]}, "Schema": 2}

    assert decode(EXAMPLES[name].topic, json.dumps(extended).encode()) == EXAMPLES[name].message


@pytest.mark.parametrize(
    ("name", "key"), [(name, key) for name in EXAMPLES for key in golden_object(name)]
)
def test_missing_key_is_malformed(name: str, key: str) -> None:
    """Every key that schema 1 was published with is needed, also those that may be null."""
    incomplete = golden_object(name)
    del incomplete[key]

    assert reason_for(EXAMPLES[name].topic, json.dumps(incomplete).encode()) == "malformed"


@pytest.mark.parametrize(
    ("name", "key"), [(name, key) for name in EXAMPLES for key in golden_object(name)]
)
def test_wrong_type_is_malformed(name: str, key: str) -> None:
    """No key takes an object where it says something else."""
    wrong = golden_object(name) | {key: {"not": "this"}}

    assert reason_for(EXAMPLES[name].topic, json.dumps(wrong).encode()) == "malformed"


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("seq", -1),
        ("seq", 2**53 + 1),
        ("seq", 1.5),
        ("seq", "1"),
        ("seq", True),
        ("start_us", -1),
        ("start_us", 2**64),
        ("mse", "31.2"),
        ("threshold", 0),
        ("threshold", -45.0),
        ("threshold", None),
        ("anomaly", 0),
        ("state", 3),
        ("clipped", 1.0001),
        ("clipped", -0.1),
        ("model", "fan"),
        ("model", "fan@"),
        ("model", "Fan@1"),
        ("model", "fan@1234567890"),
        ("model", "fan@1,node=other value=1"),
        ("boot", BOOT.lower()),
        ("boot", BOOT + "0"),
        ("boot", "I" + BOOT[1:]),
        ("node", "Press-07"),
    ],
)
def test_value_out_of_bounds_is_malformed(key: str, value: object) -> None:
    """A value that its key cannot have is refused, not stored."""
    wrong = golden_object("window") | {key: value}

    assert reason_for(WINDOW_TOPIC, json.dumps(wrong).encode()) == "malformed"


@pytest.mark.parametrize("key", ["node", "boot", "model"])
def test_line_break_after_an_id_is_malformed(key: str) -> None:
    """An id with a line break would break a point's line in two; it is refused."""
    wrong = golden_object("window")
    wrong[key] += "\n"

    assert reason_for(WINDOW_TOPIC, json.dumps(wrong).encode()) == "malformed"


@pytest.mark.parametrize("number", [b"NaN", b"Infinity", b"-Infinity", b"1e999", b"-1e999"])
@pytest.mark.parametrize("key", ["mse", "threshold", "level_dbfs"])
def test_number_that_is_not_finite_is_malformed(key: str, number: bytes) -> None:
    """Neither JavaScript's words nor an overflow become a number."""
    payload = json.dumps(golden_object("window") | {key: "HERE"}).encode()

    assert reason_for(WINDOW_TOPIC, payload.replace(b'"HERE"', number)) == "malformed"


@pytest.mark.parametrize("number", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("key", ["mse", "statistic", "score", "level_dbfs", "latency_ms"])
def test_number_that_is_not_finite_makes_no_message(key: str, number: float) -> None:
    """A sender's own NaN is found where the message is made, not by its readers."""
    with pytest.raises(MessageError, match=f"Expected {key} to be finite, got") as error:
        msgspec.structs.replace(WINDOW, **{key: number})

    assert error.value.reason == "malformed"


def test_number_of_many_digits_is_malformed() -> None:
    """An integer beyond Python's own limit on digits is refused like any other."""
    payload = json.dumps(golden_object("window") | {"seq": "HERE"}).encode()

    assert reason_for(WINDOW_TOPIC, payload.replace(b'"HERE"', b"9" * 5000)) == "malformed"


@pytest.mark.parametrize("name", EXAMPLES)
@pytest.mark.parametrize("schema", [0, 2, -1, 2**80])
def test_other_schema_is_told_from_malformed(name: str, schema: int) -> None:
    """A message of another schema is named as such, whatever else is in it."""
    other = json.dumps({"schema": schema, "surprise": name}).encode()

    assert reason_for(EXAMPLES[name].topic, other) == "schema"


@pytest.mark.parametrize("schema", [None, "1", True, 1.5, [1]])
def test_schema_that_is_no_number_is_malformed(schema: object) -> None:
    """A schema that is no whole number is no schema."""
    payload = json.dumps(golden_object("status") | {"schema": schema}).encode()

    assert reason_for(STATUS_TOPIC, payload) == "malformed"


@pytest.mark.parametrize("name", [n for n, example in EXAMPLES.items() if "/n/" in example.topic])
def test_message_of_another_node_is_on_the_wrong_topic(name: str) -> None:
    """A node cannot speak for another one."""
    topic = EXAMPLES[name].topic.replace("press-07", "press-08")

    assert reason_for(topic, EXAMPLES[name].golden(name)) == "wrong_topic"


def test_status_of_another_collector_is_on_the_wrong_topic() -> None:
    """A collector cannot speak for another one."""
    golden = EXAMPLES["collector"].golden("collector")

    assert reason_for("earshot/1/collector/second/status", golden) == "wrong_topic"


@pytest.mark.parametrize("topic", ["", "earshot/2/n/press-07/window", "earshot/1/n/+/window"])
def test_message_on_a_foreign_topic_is_on_the_wrong_topic(topic: str) -> None:
    """A topic outside the contract carries no message of it."""
    assert reason_for(topic, EXAMPLES["window"].golden("window")) == "wrong_topic"


def test_message_of_another_kind_is_malformed() -> None:
    """The topic says what a message is; a status is no window."""
    assert reason_for(WINDOW_TOPIC, EXAMPLES["status"].golden("status")) == "malformed"


@pytest.mark.parametrize(
    ("name", "bound"), [("window", MAX_MESSAGE_BYTES), ("backlog", MAX_BACKLOG_BYTES)]
)
def test_size_is_bounded_before_parsing(name: str, bound: int) -> None:
    """A message of the largest size is read; with one byte more nobody looks inside."""
    example = EXAMPLES[name]
    largest = example.golden(name).ljust(bound)

    assert decode(example.topic, largest) == example.message
    assert reason_for(example.topic, largest + b" ") == "oversize"
    assert reason_for(example.topic, b"\xff" * (bound + 1)) == "oversize"


def test_oversize_message_is_not_sent() -> None:
    """What every reader would refuse is refused where it is made."""
    with pytest.raises(MessageError, match=r"at most 8192 bytes for birth, got \d+") as error:
        encode(msgspec.structs.replace(BIRTH, capabilities=("x" * 200,) * 41))

    assert error.value.reason == "oversize"


def test_text_is_bounded() -> None:
    """A text of 200 characters passes and one more does not."""
    longest = golden_object("birth") | {"board": "µ" * 200}
    longer = golden_object("birth") | {"board": "µ" * 201}

    assert decode(EXAMPLES["birth"].topic, json.dumps(longest).encode())
    assert reason_for(EXAMPLES["birth"].topic, json.dumps(longer).encode()) == "malformed"


def test_list_is_bounded() -> None:
    """More capabilities or holes than a node or collector names are refused."""
    many = golden_object("birth") | {"capabilities": ["x"] * 33}
    holes = golden_object("receipt") | {"holes": [[1, 2]] * 101}

    assert reason_for(EXAMPLES["birth"].topic, json.dumps(many).encode()) == "malformed"
    assert reason_for(EXAMPLES["receipt"].topic, json.dumps(holes).encode()) == "malformed"


@pytest.mark.parametrize(
    "statistic", [1e130, 1.9424263952412558e130, 1e-130, 5.148200222412013e-131]
)
@pytest.mark.parametrize("threshold", [1e-12, 45.0, 1e130])
def test_statistic_of_several_models_may_be_of_any_size(statistic: float, threshold: float) -> None:
    """Statistic, score and threshold of 1e130 or its inverse come back as they were given."""
    window = msgspec.structs.replace(
        WINDOW, statistic=statistic, score=statistic / threshold, threshold=threshold
    )
    birth = msgspec.structs.replace(EXAMPLES["birth"].message, threshold=threshold)
    event = msgspec.structs.replace(EXAMPLES["event"].message, peak_score=statistic / threshold)

    assert decode(EXAMPLES["window"].topic, encode(window)) == window
    assert decode(EXAMPLES["birth"].topic, encode(birth)) == birth
    assert decode(EXAMPLES["event"].topic, encode(event)) == event


@pytest.mark.parametrize("threshold", [9e-13, 0.0, -1.0])
def test_threshold_that_is_no_divisor_is_malformed(threshold: float) -> None:
    """Below 1e-12 a score could be infinite."""
    text = json.dumps(golden_object("window") | {"threshold": threshold}).encode()

    assert reason_for(EXAMPLES["window"].topic, text) == "malformed"


@pytest.mark.parametrize("count", [1, MAX_BACKLOG_WINDOWS])
def test_backlog_holds_up_to_fifty_windows(count: int) -> None:
    """One to fifty windows come back as they were given, also when every text is the longest."""
    window = msgspec.structs.replace(
        WINDOW,
        node="n" * 32,
        model="m" * 32 + "@999999999",
        seq=2**53,
        start_us=2**53,
        mse=-1.2345678901234567e-300,
        statistic=-1.2345678901234567e-300,
        score=-1.2345678901234567e-300,
    )
    backlog = Backlog(node=window.node, boot=BOOT, windows=(window,) * count)

    assert decode(f"earshot/1/n/{window.node}/backlog", encode(backlog)) == backlog


@pytest.mark.parametrize("count", [0, MAX_BACKLOG_WINDOWS + 1])
def test_backlog_of_other_length_is_malformed(count: int) -> None:
    """Neither an empty backlog nor one of more than fifty windows is read."""
    # Fewer digits, so that it is the count and not the size that is too much.
    window = golden_object("window") | {"mse": 1, "statistic": 1, "score": 1}
    payload = golden_object("backlog") | {"windows": [window] * count}

    text = json.dumps(payload, separators=(",", ":")).encode()

    assert reason_for(BACKLOG_TOPIC, text) == "malformed"


def test_backlog_with_a_window_of_another_node_is_malformed() -> None:
    """Nobody smuggles another node's window in, neither as reader nor as sender."""
    payload = golden_object("backlog")
    payload["windows"][1]["node"] = "press-08"

    assert reason_for(BACKLOG_TOPIC, json.dumps(payload).encode()) == "malformed"
    with pytest.raises(MessageError, match="Expected only windows of press-07"):
        msgspec.structs.replace(
            BACKLOG, windows=(msgspec.structs.replace(WINDOW, node="press-08"),)
        )


@pytest.mark.parametrize("bracket", [b"[]", b'{"a":}'])
def test_deeply_nested_value_is_malformed(bracket: bytes) -> None:
    """Nesting that would exhaust the stack is refused, even under a key nobody knows."""
    opening, closing = bracket[:-1], bracket[-1:]
    depth = MAX_MESSAGE_BYTES // 8
    deep = opening * depth + b"1" + closing * depth
    payload = EXAMPLES["status"].golden("status")[:-1] + b',"added_later":' + deep + b"}"

    assert reason_for(STATUS_TOPIC, payload) == "malformed"


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b" ",
        b"null",
        b"1",
        b"[]",
        b"{}",
        b'"window"',
        b"{",
        b'{"schema":1',
        b'{"schema":1}',
        b"\x00" * 40,
        b"\xff\xfe{\x00",
        b"\xef\xbb\xbf" + EXAMPLES["status"].golden("status"),
        EXAMPLES["status"].golden("status") + b"{}",
        EXAMPLES["status"].golden("status").replace(b"press-07", b"press\xff07"),
        EXAMPLES["status"].golden("status").replace(b"press-07", b"press\\ud80007"),
        EXAMPLES["status"].golden("status").decode().encode("utf-16"),
    ],
)
def test_what_is_no_json_object_in_utf8_is_malformed(payload: bytes) -> None:
    """Anything but one JSON object in UTF-8 is malformed."""
    assert reason_for(STATUS_TOPIC, payload) == "malformed"


def examine(topic: str, payload: bytes) -> None:
    """Whatever comes, it is a message of the topic or a `MessageError`."""
    with suppress(MessageError):
        message = decode(topic, payload)
        assert isinstance(message, Message)
        assert decode(topic, encode(message)) == message


TOPICS = st.sampled_from(sorted({example.topic for example in EXAMPLES.values()}))
FRAGMENTS = st.sampled_from(
    [
        *(b"NaN", b"1e999", b"-1", b"null", b"true", b"{", b"}", b"[", b"]", b'"', b",", b":"),
        *(b"\\u0000", b"\\ud800", b"\xff", b"9" * 400, b"[" * 600, b'"schema":2,', b"\n"),
    ]
) | st.binary(max_size=4)
CHANGES = st.lists(
    st.tuples(st.integers(0, 10**6), st.integers(0, 12), FRAGMENTS), min_size=1, max_size=4
)


@given(TOPICS | st.text(max_size=40), st.binary(max_size=200))
@settings(max_examples=300, deadline=None, database=None)
def test_random_bytes_never_escape_as_another_error(topic: str, payload: bytes) -> None:
    """Random bytes raise nothing but `MessageError`."""
    examine(topic, payload)


@given(st.sampled_from([(n, e) for n, e in EXAMPLES.items()]), CHANGES)
@settings(max_examples=1000, deadline=None, database=None)
def test_changed_message_never_escapes_as_another_error(
    named: tuple[str, Example], changes: list[tuple[int, int, bytes]]
) -> None:
    """A message with parts cut out and others put in raises nothing but `MessageError`."""
    name, example = named
    payload = example.golden(name)
    for place, length, fragment in changes:
        start = place % (len(payload) + 1)
        payload = payload[:start] + fragment + payload[start + length :]

    examine(example.topic, payload)


def test_error_says_what_was_expected() -> None:
    """The text names kind, key and fact, for whoever reads the dead letter."""
    wrong = golden_object("window") | {"seq": "one"}

    with pytest.raises(
        MessageError, match=r"Expected a window message: Expected `int`, got `str` - at `\$\.seq`"
    ):
        decode(WINDOW_TOPIC, json.dumps(wrong).encode())


def test_last_will_is_a_status() -> None:
    """A node's last will is a status that says it was lost."""
    assert decode(STATUS_TOPIC, encode(STATUS)) == STATUS
