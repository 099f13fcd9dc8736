"""Messages become points or dead letters."""

import msgspec
import pytest

from collector.storing.intake import Intake
from contract.messages import MAX_MESSAGE_BYTES, encode
from contract.states import PresenceReason
from tests.rig.examples import START_US, backlog, received, state, status, window

ARRIVED_US = START_US + 5_000_000


def test_window_becomes_one_point() -> None:
    """A good message has points and no letter."""
    item = Intake("collector").take(received(window(3)), arrived_us=ARRIVED_US)

    assert [point.fields["seq"] for point in item.points()] == [3]
    assert item.letter is None


def test_backlog_becomes_a_point_per_window() -> None:
    """Late windows are stored like live ones."""
    item = Intake("collector").take(received(backlog(3, 4, 9)), arrived_us=ARRIVED_US)

    assert [point.fields["seq"] for point in item.points()] == [3, 4, 9]
    assert {point.measurement for point in item.points()} == {"window"}


_FUTURE = msgspec.json.encode(msgspec.to_builtins(window()) | {"schema": 2})


@pytest.mark.parametrize(
    ("topic", "payload", "reason"),
    [
        ("earshot/1/n/press-07/window", b'{"schema":1', "malformed"),
        ("earshot/1/n/press-07/window", b"\xff\xfe", "malformed"),
        ("earshot/1/n/press-07/window", b"[" * 5000, "malformed"),
        ("earshot/1/n/press-07/window", _FUTURE, "schema"),
        ("earshot/1/n/press-07/window", b" " * (MAX_MESSAGE_BYTES + 1), "oversize"),
        ("earshot/1/n/press-08/window", encode(window()), "wrong_topic"),
        ("earshot/1/n/Press 07/window", encode(window()), "wrong_topic"),
    ],
)
def test_unstorable_message_becomes_a_letter(topic: str, payload: bytes, reason: str) -> None:
    """What can never be stored is told with its reason and has no points."""
    item = Intake("collector").take(received(payload, topic), arrived_us=ARRIVED_US)

    assert list(item.points()) == []
    assert item.letter is not None
    assert item.letter.reason == reason
    assert item.letter.topic == topic
    assert item.letter.payload_bytes == len(payload)


def test_letter_of_the_worst_message_can_be_sent() -> None:
    """However long topic and payload are, and whatever they hold, the letter keeps its bound."""
    topic = "earshot/1/n/" + "\x01" * 60_000
    payload = b"\x00" * 1_000_000

    letter = Intake("collector").take(received(payload, topic), arrived_us=ARRIVED_US).letter

    assert letter is not None
    assert len(encode(letter)) <= MAX_MESSAGE_BYTES


def test_payload_is_not_kept() -> None:
    """While an item waits, it holds the payload's start alone."""
    item = Intake("collector").take(received(b"x" * 1_000_000), arrived_us=ARRIVED_US)

    assert item.received is not None
    assert len(item.received.payload) == 400
    assert item.payload_bytes == 1_000_000


def test_last_will_that_comes_again_is_not_stored_again() -> None:
    """Stamped on arrival, it would otherwise be a second, later loss."""
    intake = Intake("collector")
    will = received(status(PresenceReason.LOST))

    first = intake.take(will, arrived_us=ARRIVED_US)
    second = intake.take(will, arrived_us=ARRIVED_US + 60_000_000)

    assert [point.time_us for point in first.points()] == [ARRIVED_US]
    assert list(second.points()) == []
    assert second.letter is None


def test_last_will_of_a_new_boot_is_stored() -> None:
    """Another time in the will makes it another loss."""
    intake = Intake("collector")
    intake.take(received(status(PresenceReason.LOST)), arrived_us=ARRIVED_US)

    item = intake.take(
        received(status(PresenceReason.LOST, at_us=START_US + 1)), arrived_us=ARRIVED_US + 1
    )

    assert len(list(item.points())) == 1


def test_last_will_with_the_time_of_its_connect_is_stored() -> None:
    """A will frozen in the same microsecond as `online` is no repetition of it."""
    intake = Intake("collector")
    intake.take(received(status(PresenceReason.CONNECTED)), arrived_us=ARRIVED_US)

    item = intake.take(received(status(PresenceReason.LOST)), arrived_us=ARRIVED_US + 1)

    assert len(list(item.points())) == 1


def test_windows_are_never_taken_for_known() -> None:
    """Only what brokers retain is compared: windows cost no memory."""
    intake = Intake("collector")

    items = [intake.take(received(window(1)), arrived_us=ARRIVED_US) for _ in range(2)]

    assert [len(list(item.points())) for item in items] == [1, 1]


def test_forgotten_message_is_new_again() -> None:
    """What was given up before it was stored is stored when it comes again."""
    intake = Intake("collector")
    first = intake.take(received(state()), arrived_us=ARRIVED_US)

    intake.forget(first)

    again = intake.take(received(state()), arrived_us=ARRIVED_US)
    assert list(again.points()) == list(first.points()) != []
