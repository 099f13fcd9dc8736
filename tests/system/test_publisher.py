"""The publisher against brokers of a few lines: what it sends unasked, and how it fails."""

import logging
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple, Self

import msgspec
import pytest

from contract import topics
from contract.messages import Birth, Health, Receipt, encode
from contract.session import NO_MATCHING_SUBSCRIBERS, Session, SessionEvent, SessionOptions
from contract.settings import MqttSettings
from contract.topics import Kind
from node.delivery.outbox import Outbox, OutboxFigures
from node.delivery.outbox_file import OutboxFile
from node.delivery.outbox_rules import OutboxRules
from node.delivery.publisher import Answer, Publisher
from tests.rig import examples
from tests.rig.waiting import wait_until

_HOST = "127.0.0.1"


@pytest.fixture
def listening() -> Iterator[socket.socket]:
    """A socket that takes connections and says nothing by itself."""
    with socket.create_server((_HOST, 0)) as server:
        yield server


def _settings(server: socket.socket) -> MqttSettings:
    return MqttSettings(host=_HOST, port=server.getsockname()[1])


def _connack(*, receive_maximum: int = 20, maximum_packet_bytes: int = 65_536) -> bytes:
    properties = b"\x21" + receive_maximum.to_bytes(2, "big")
    properties += b"\x27" + maximum_packet_bytes.to_bytes(4, "big")
    body = b"\x00\x00" + bytes([len(properties)]) + properties
    return b"\x20" + bytes([len(body)]) + body


def _publications(connection: socket.socket) -> bytes:
    """The first bytes that are no subscription: that one comes first, maybe in a packet apart."""
    data = connection.recv(65_536)
    assert data[0] >> 4 == 8, "a SUBSCRIBE comes first"
    return data[2 + data[1] :] or connection.recv(65_536)


def _outbox(*, rules: OutboxRules | None = None, file: OutboxFile | None = None) -> Outbox:
    """By default in memory, where the broker's word lets go of a window."""
    return Outbox(
        examples.WINDOW.boot,
        node=examples.WINDOW.node,
        hop_seconds=1.0,
        file=file,
        rules=rules or OutboxRules(receipts="broker", max_windows=100),
    )


def _publisher(
    server: socket.socket, birth: Callable[[], Birth], *, outbox: Outbox | None = None
) -> Publisher:
    return Publisher(
        _settings(server),
        outbox or _outbox(),
        birth,
        node=examples.WINDOW.node,
        boot=examples.WINDOW.boot,
        now_us=lambda: 0,
    )


def _health(outbox: OutboxFigures) -> Health:
    return msgspec.structs.replace(examples.HEALTH, **msgspec.structs.asdict(outbox))


class _Publication(NamedTuple):
    """What the node has published, as it came."""

    at: float
    topic: str
    rest: bytes
    """Properties and payload."""


_QUOTA_EXCEEDED = 0x97


class _Broker:
    """A broker of one connection that answers every publication with a code of its choice.

    Args:
        server: listens.
        code: reason code by topic and by how often there was an answer on it; None hangs up.
    """

    def __init__(self, server: socket.socket, code: Callable[[str, int], int | None]) -> None:
        self.has_hung_up = False
        self._connection, _ = server.accept()
        self._stream = self._connection.makefile("rb")
        self._code = code
        self._lock = threading.Lock()
        self._heard: list[_Publication] = []
        assert self._packet()[0] >> 4 == 1  # CONNECT
        self._connection.sendall(_connack())
        self._thread = threading.Thread(target=self._serve, name="broker", daemon=True)
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(OSError):  # It has hung up.
            self._connection.shutdown(socket.SHUT_RDWR)
        self._thread.join(10)
        self._stream.close()
        self._connection.close()

    def on(self, kind: str) -> list[_Publication]:
        """Publications of that kind so far."""
        with self._lock:
            return [heard for heard in self._heard if heard.topic.endswith(f"/{kind}")]

    def publish(self, topic: str, payload: bytes, *, packet_id: int) -> None:
        body = len(topic).to_bytes(2, "big") + topic.encode() + packet_id.to_bytes(2, "big")
        body += b"\x00" + payload
        assert len(body) < 128 * 128
        size = bytes([len(body) % 128 | 0x80, len(body) // 128])
        self._connection.sendall(b"\x32" + size + body)

    def _packet(self) -> tuple[int, bytes]:
        first = self._stream.read(1)
        if not first:
            return 0, b""
        size = shift = 0
        while True:
            (byte,) = self._stream.read(1)
            size |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return first[0], self._stream.read(size)

    def _serve(self) -> None:
        try:
            while True:
                first, body = self._packet()
                match first >> 4:
                    case 0:
                        return
                    case 3:
                        self._take(body)
                    case 8:
                        self._connection.sendall(b"\x90\x04" + body[:2] + b"\x00\x01")
                    case 12:
                        self._connection.sendall(b"\xd0\x00")
        except OSError:
            return  # The test is over.

    def _take(self, body: bytes) -> None:
        size = int.from_bytes(body[:2], "big")
        topic = body[2 : 2 + size].decode()
        packet_id, rest = body[2 + size : 4 + size], body[4 + size :]
        with self._lock:
            before = sum(heard.topic == topic for heard in self._heard)
            self._heard.append(_Publication(time.monotonic(), topic, rest))
        code = self._code(topic, before)
        if code is None:
            self._connection.shutdown(socket.SHUT_RDWR)
            self.has_hung_up = True
            return
        self._connection.sendall(b"\x40\x03" + packet_id + bytes([code]))


def _takes_all(topic: str, before: int) -> int:
    return 0


def test_no_more_is_unconfirmed_than_the_broker_takes(listening: socket.socket) -> None:
    """Words about the node count, too: a broker that allows one publication gets one."""
    publisher = _publisher(listening, lambda: examples.BIRTH)
    publisher.give(examples.WINDOW)
    publisher.give_health(_health)
    publisher.start()
    connection, _ = listening.accept()
    with connection:
        connection.recv(4096)
        connection.sendall(_connack(receive_maximum=1))
        connection.settimeout(1.0)
        first = _publications(connection)
        with pytest.raises(TimeoutError):
            connection.recv(65_536)
    left = publisher.stop(drain_seconds=0.1)

    assert first[0] >> 4 == 3  # PUBLISH
    assert b"/status" in first
    assert b"/birth" not in first
    assert left.lost == 1


def test_word_too_large_for_the_broker_is_left_out(
    listening: socket.socket, caplog: pytest.LogCaptureFixture
) -> None:
    """A broker that takes no message of a birth's size still hears that the node is there."""
    publisher = _publisher(listening, lambda: examples.BIRTH)
    publisher.start()
    connection, _ = listening.accept()
    with connection:
        connection.recv(4096)
        connection.sendall(_connack(maximum_packet_bytes=800))
        first = _publications(connection)
        wait_until(lambda: "it is not sent" in caplog.text, "the warning")
    publisher.stop(drain_seconds=0.1)

    assert b"/status" in first
    assert b"/birth" not in first
    assert publisher.failure is None


def test_failed_publisher_is_noticed_and_its_windows_are_counted(
    listening: socket.socket,
) -> None:
    """A defect in the publisher's thread is no silence, and no window is taken for delivered."""

    def birth() -> Birth:
        raise RuntimeError("a defect")

    publisher = _publisher(listening, birth)
    publisher.start()
    connection, _ = listening.accept()
    with connection:
        connection.recv(4096)
        connection.sendall(_connack())
        wait_until(lambda: publisher.failure is not None, "the failure")
        publisher.give(examples.WINDOW)
        left = publisher.stop(drain_seconds=0.1)

    assert "a defect" in str(publisher.failure)
    assert left.lost == 1


def test_session_stops_soon_while_a_broker_does_not_answer(listening: socket.socket) -> None:
    """A broker that takes the connection and never answers does not keep the session alive."""
    threads = set(threading.enumerate())
    events: list[SessionEvent] = []
    session = Session(
        _settings(listening), SessionOptions(client_id="x", expiry_seconds=0), events.append
    )
    session.start()
    connection, _ = listening.accept()
    with connection:
        connection.recv(4096)
        began = time.monotonic()
        session.stop()

        assert time.monotonic() - began < 3.0
        assert set(threading.enumerate()) <= threads
        assert not events


def test_events_that_nobody_takes_are_told_at_the_end(
    listening: socket.socket, caplog: pytest.LogCaptureFixture
) -> None:
    """They wait where nobody subscribes, and the log has their number when the node ends."""

    def code(topic: str, before: int) -> int:
        return NO_MATCHING_SUBSCRIBERS if topic.endswith("/event") else 0

    publisher = _publisher(listening, lambda: examples.BIRTH)
    for _ in range(3):
        publisher.give(examples.EVENT)
    publisher.start()
    with _Broker(listening, code) as broker:
        wait_until(lambda: len(broker.on("event")) == 3, "three events")
        waiting = publisher.queue_lengths
        left = publisher.stop(drain_seconds=0.2)

    assert (waiting.events, waiting.windows, waiting.asked) == (3, 0, 0)
    assert left.lost == 0
    assert "3 events were not delivered and are lost" in caplog.text
    assert len(broker.on("event")) == 3


def test_event_that_the_broker_cannot_take_now_is_sent_again(listening: socket.socket) -> None:
    """A quota that is exceeded passes; meanwhile windows go out, and the event comes once more."""

    def code(topic: str, before: int) -> int:
        return _QUOTA_EXCEEDED if topic.endswith("/event") and not before else 0

    publisher = _publisher(listening, lambda: examples.BIRTH)
    publisher.give(examples.EVENT)
    publisher.start()
    with _Broker(listening, code) as broker:
        wait_until(lambda: len(broker.on("event")) == 1, "the event")
        publisher.give(examples.WINDOW)
        wait_until(lambda: bool(broker.on("window")), "a window")
        only = len(broker.on("event"))
        wait_until(lambda: len(broker.on("event")) == 2, "the event once more", seconds=20)
        left = publisher.stop(drain_seconds=2.0)
        first, again = broker.on("event")

    assert only == 1
    assert left.lost == 0
    assert first.rest == again.rest
    assert encode(examples.EVENT) in first.rest
    assert again.at - first.at > 1.0


def test_message_upon_which_the_broker_hangs_up_is_given_up(
    listening: socket.socket, caplog: pytest.LogCaptureFixture
) -> None:
    """Three times alone on its way as the connection ends: it is not sent a fourth time."""
    publisher = _publisher(listening, lambda: examples.BIRTH)
    publisher.start()

    def code(topic: str, before: int) -> int | None:
        return None if topic.endswith(("/window", "/backlog")) else 0

    heard = 0
    for attempt in range(3):
        with _Broker(listening, code) as broker:
            if not attempt:
                wait_until(lambda: bool(broker.on("birth")), "the birth")
                publisher.give(examples.WINDOW)
            wait_until(lambda: broker.has_hung_up, "the broker hangs up", seconds=20)
            heard += len(broker.on("window")) + len(broker.on("backlog"))
    wait_until(lambda: "which is given up" in caplog.text, "the line in the log")
    left = publisher.stop(drain_seconds=0.1)

    assert heard == 3
    assert (left.saved, left.lost) == (0, 0)
    assert publisher.backlog == 0


def test_link_that_breaks_is_not_the_messages_fault(listening: socket.socket) -> None:
    """Where the broker confirms nothing at all, the window waits, however often that happens."""
    publisher = _publisher(listening, lambda: examples.BIRTH)
    publisher.give(examples.WINDOW)
    publisher.start()
    for _ in range(3):
        with _Broker(listening, lambda topic, before: None) as broker:
            wait_until(lambda: broker.has_hung_up, "the broker hangs up", seconds=20)
    left = publisher.stop(drain_seconds=0.1)

    assert left.lost == 1


def test_health_says_how_full_the_outbox_is(listening: socket.socket) -> None:
    """As the outbox is then, whatever the node thought before; and so does the account."""
    publisher = _publisher(listening, lambda: examples.BIRTH)
    publisher.start()

    def code(topic: str, before: int) -> int:
        return _QUOTA_EXCEEDED if topic.endswith(("/window", "/backlog")) else 0

    with _Broker(listening, code) as broker:
        publisher.give(examples.WINDOW)
        publisher.give(examples.UNSCORED)
        publisher.give_health(_health)
        wait_until(lambda: bool(broker.on("health")), "the health")
        wait_until(lambda: b'"waiting":2' in broker.on("account")[-1].rest, "the account")
        publisher.stop(drain_seconds=0.1)
        (health,) = broker.on("health")
        last = broker.on("account")[-1]

    assert b'"outbox_windows":2,' in health.rest
    assert b'"discarded_unsaved":0' in health.rest
    assert b'"waiting":0,' in last.rest
    assert b'"discarded_unsaved":2' in last.rest
    assert b'"ended":true' in last.rest


def test_earlier_boots_account_for_themselves_for_as_long_as_they_wait(
    listening: socket.socket, tmp_path: Path
) -> None:
    """With each health, as this boot does: a ledger takes what is not repeated for gone."""
    earlier_boot = "01JD8Z6W3M9K4T2Q5R7V1X0YBA"
    path = tmp_path / "outbox.db"
    earlier = Outbox(
        earlier_boot, node=examples.WINDOW.node, hop_seconds=1.0, file=OutboxFile(path)
    )
    earlier.add(msgspec.structs.replace(examples.WINDOW, boot=earlier_boot, seq=0), 0.0)
    earlier.end(1.0)
    earlier.close()
    outbox = _outbox(rules=OutboxRules(), file=OutboxFile(path))
    publisher = _publisher(listening, lambda: examples.BIRTH, outbox=outbox)
    publisher.start()
    with _Broker(listening, _takes_all) as broker:

        def told() -> int:
            return sum(earlier_boot.encode() in account.rest for account in broker.on("account"))

        wait_until(lambda: told() == 1, "the account at the connection")
        publisher.give_health(_health)
        wait_until(lambda: told() == 2, "the account with the health")
        publisher.give_health(_health)
        wait_until(lambda: told() == 3, "the account with the next health")
        publisher.stop(drain_seconds=0.1)


def test_no_more_of_a_long_outbox_is_with_the_broker_than_on_credit(
    listening: socket.socket, tmp_path: Path
) -> None:
    """A collector stores what the broker has for it; then, and not before, it gets the rest."""
    boot = examples.WINDOW.boot
    outbox = _outbox(rules=OutboxRules(), file=OutboxFile(tmp_path / "outbox.db"))
    for seq in range(3000):
        outbox.add(msgspec.structs.replace(examples.WINDOW, seq=seq), -1000.0)
    publisher = _publisher(listening, lambda: examples.BIRTH, outbox=outbox)
    publisher.start()

    def code(topic: str, before: int) -> int:
        if topic.endswith("/backlog") and before == 0:
            receipt_of(0, 0)
        return 0

    def receipt_of(first: int, last: int) -> None:
        receipt = Receipt(
            node=examples.WINDOW.node,
            boot=boot,
            at_us=0,
            stored_from=first,
            stored_up_to=last,
            holes=(),
        )
        topic = topics.node(examples.WINDOW.node, Kind.RECEIPT)
        broker.publish(topic, encode(receipt), packet_id=last + 1)

    with _Broker(listening, code) as broker:
        wait_until(lambda: len(broker.on("backlog")) >= 20, "as much as is lent")
        # What comes in after its answer was handled comes too late for more.
        for _ in range(2):
            healths = len(broker.on("health"))
            publisher.give_health(_health)
            wait_until(lambda: len(broker.on("health")) > healths, "the publisher to turn")  # noqa: B023
        lent = len(broker.on("backlog"))
        receipt_of(0, 999)
        wait_until(lambda: len(broker.on("backlog")) > lent + 15, "more after a receipt")
        publisher.stop(drain_seconds=0.1)

    assert 20 <= lent <= 22


def test_every_answer_goes_out(listening: socket.socket) -> None:
    """Two who ask at once are both answered, each with what it sent to know its answer by."""
    publisher = _publisher(listening, lambda: examples.BIRTH)
    publisher.start()
    with _Broker(listening, _takes_all) as broker:
        wait_until(lambda: bool(broker.on("birth")), "the birth")
        for name in (b"first", b"second"):
            note = f"for {name.decode()}"
            result = msgspec.structs.replace(examples.RESULT, note=note)
            publisher.give(Answer(result, name))
        wait_until(lambda: len(broker.on("result")) == 2, "two answers")
        publisher.stop(drain_seconds=1.0)

    for name, heard in zip((b"first", b"second"), broker.on("result"), strict=True):
        assert heard.rest.count(b"\x09" + len(name).to_bytes(2, "big") + name) == 1
        assert b"for " + name in heard.rest


def test_commands_at_once_are_bounded(
    listening: socket.socket, caplog: pytest.LogCaptureFixture
) -> None:
    """Twenty wait for the node to obey them; what a flood brings beyond is refused, and told."""
    publisher = _publisher(listening, lambda: examples.BIRTH)
    publisher.start()
    topic = f"earshot/1/n/{examples.COMMAND.node}/cmd/calibrate"
    with _Broker(listening, _takes_all) as broker, caplog.at_level(logging.DEBUG):
        wait_until(lambda: bool(broker.on("birth")), "the birth")
        for number in range(1, 31):
            command = msgspec.structs.replace(examples.COMMAND, at_us=number)
            broker.publish(topic, encode(command), packet_id=number)
        refusal = "more than 20 commands at once"
        wait_until(lambda: caplog.text.count(refusal) == 10, "ten refusals")
        publisher.stop(drain_seconds=1.0)
    levels = [record.levelno for record in caplog.records if refusal in record.message]
    asked = [publisher.asked.get_nowait() for _ in range(publisher.asked.qsize())]

    assert [each.command.at_us for each in asked] == list(range(1, 21))
    assert {each.verb for each in asked} == {"calibrate"}
    assert levels == [logging.WARNING] + [logging.DEBUG] * 9
