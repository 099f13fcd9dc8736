"""The publisher against brokers of a few lines: what it sends unasked, and how it fails."""

import socket
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from contract.messages import Birth
from contract.session import Session, SessionEvent, SessionOptions
from contract.settings import MqttSettings
from node.outbox import MemoryOutbox
from node.publisher import Publisher
from tests.contract import examples
from tests.servers import wait_until

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


def _publisher(server: socket.socket, birth: Callable[[], Birth]) -> Publisher:
    return Publisher(
        _settings(server),
        MemoryOutbox(max_windows=100),
        birth,
        node=examples.WINDOW.node,
        boot=examples.WINDOW.boot,
        hop_seconds=1.0,
        now_us=lambda: 0,
    )


def test_no_more_is_unconfirmed_than_the_broker_takes(listening: socket.socket) -> None:
    """Words about the node count, too: a broker that allows one publication gets one."""
    publisher = _publisher(listening, lambda: examples.BIRTH)
    publisher.give(examples.WINDOW)
    publisher.give(examples.HEALTH)
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
    assert left == 1


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
        wait_until(lambda: "it is not said" in caplog.text, "the warning")
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
    assert left == 1


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
