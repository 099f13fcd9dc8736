"""The broker that nodes are measured against, asked byte by byte."""

import socket
from collections.abc import Iterator

import pytest

from node.bench.broker import BenchBroker
from tests.rig.waiting import wait_until

CONNECT = bytes.fromhex("101000044d5154540502003c000003656172")
SUBSCRIBE_TWO = bytes.fromhex("820b000700" + "00016101" + "00016201")
PINGREQ = bytes.fromhex("c000")


def publish(topic: bytes, *, packet_id: int, payload: bytes) -> bytes:
    """A PUBLISH with QoS 1 and no properties."""
    body = len(topic).to_bytes(2, "big") + topic + packet_id.to_bytes(2, "big") + b"\0" + payload
    size = (
        bytes((len(body) & 0x7F | 0x80, len(body) >> 7)) if len(body) > 127 else bytes((len(body),))
    )
    return b"\x32" + size + body


@pytest.fixture
def broker() -> Iterator[BenchBroker]:
    """A broker that listens."""
    with BenchBroker() as listening:
        yield listening


def answers(client: socket.socket, packet: bytes, count: int) -> bytes:
    """What comes back for a packet, of so many bytes."""
    client.sendall(packet)
    return client.makefile("rb").read(count)


def test_each_packet_is_answered(broker: BenchBroker) -> None:
    """A client gets in, is granted each filter, is confirmed each publication, and stays."""
    with socket.create_connection(("127.0.0.1", broker.port), timeout=10) as client:
        assert answers(client, CONNECT, 5) == bytes.fromhex("2003000000")
        assert answers(client, SUBSCRIBE_TWO, 7) == bytes.fromhex("90050007000101")
        health = publish(b"earshot/1/n/bench/health", packet_id=8, payload=b"{}")
        assert answers(client, health, 4) == bytes.fromhex("40020008")
        assert answers(client, PINGREQ, 2) == bytes.fromhex("d000")

    assert broker.windows == 0


def test_live_windows_are_counted(broker: BenchBroker) -> None:
    """Also those whose size takes two bytes, and over a second connection."""
    window = publish(b"earshot/1/n/bench/window", packet_id=1, payload=b"x" * 300)
    for _ in range(2):
        with socket.create_connection(("127.0.0.1", broker.port), timeout=10) as client:
            answers(client, CONNECT, 5)
            assert answers(client, window, 4) == bytes.fromhex("40020001")

    wait_until(lambda: broker.windows == 2, "two windows")
    assert broker.first_window_monotonic_ns is not None
