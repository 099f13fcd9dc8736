"""The two other programs of `bench.pipeline`: virtual nodes, and a subscriber that counts.

    python -m bench.pipeline_processes nodes --port 1883 --count FILE --messages 20000
    python -m bench.pipeline_processes subscriber --port 1883 --count FILE

Each keeps its count in a file, for others to look at while it runs. The nodes write packets that
were made before, up to a hundred at once, over one connection: paho's `publish` would use up as
much of the machine as what is measured.
"""

import argparse
import mmap
import socket
import struct
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

import msgspec
from paho.mqtt.client import Client, MQTTMessage
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.subscribeoptions import SubscribeOptions

from collector.link.presence import SESSION_EXPIRY_SECONDS, session_options
from collector.settings import CollectorSection
from contract import topics
from contract.messages import CONTENT_TYPE, Backlog, Window, encode
from contract.topics import Kind
from tests.rig.examples import BOOT, WINDOW
from tests.rig.ports import HOST

SUBSCRIBER_ID: Final = "bare-subscriber"
NODES: Final = 50
_HOP_US: Final = 1_000_000
_IN_FLIGHT: Final = 100
"""At most so many unconfirmed, which is what the broker allows (`tests.rig.brokers`)."""
_PAUSE_SECONDS: Final = 0.01
_WORD: Final = struct.Struct("<Q")


class SharedCount:
    """A number in a file, which one program sets and another reads."""

    def __init__(self, path: Path) -> None:
        with path.open("r+b" if path.exists() else "w+b") as file:
            file.truncate(_WORD.size)
            self._memory = mmap.mmap(file.fileno(), _WORD.size)

    @property
    def value(self) -> int:
        """What was set last."""
        return int(_WORD.unpack_from(self._memory)[0])

    @value.setter
    def value(self, value: int) -> None:
        _WORD.pack_into(self._memory, 0, value)


def main(arguments: Sequence[str] | None = None) -> None:
    """Be one of the two."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.pipeline_processes",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("role", choices=("nodes", "subscriber"))
    parser.add_argument("--port", type=int, required=True, help="the broker's, on this machine")
    parser.add_argument("--count", type=Path, required=True, metavar="FILE")
    parser.add_argument("--messages", type=int, default=0, help="of all nodes together")
    parser.add_argument("--windows", type=int, default=1, help="in a message; above 1: backlogs")
    parser.add_argument("--rate", type=float, help="messages per second; none: all at once")
    options = parser.parse_args(arguments)
    shared = SharedCount(options.count)
    if options.role == "subscriber":
        count_messages(options.port, shared)
    else:
        packets = list(_packets(options.messages, windows=options.windows))
        publish(options.port, packets, shared, rate=options.rate)


def count_messages(port: int, shared: SharedCount) -> None:
    """Subscribe to what a collector does, as it does, and count until killed."""
    wanted = session_options(CollectorSection())
    counted = 0

    def on_message(client: Client, userdata: object, message: MQTTMessage) -> None:
        nonlocal counted
        counted += 1
        shared.value = counted

    def on_connect(client: Client, *_: object) -> None:
        client.subscribe(
            [(each.topic_filter, SubscribeOptions(qos=each.qos)) for each in wanted.subscriptions]
        )

    client = Client(
        CallbackAPIVersion.VERSION2,
        client_id=SUBSCRIBER_ID,
        protocol=MQTTProtocolVersion.MQTTv5,
    )
    client.on_message = on_message
    client.on_connect = on_connect
    properties = Properties(PacketTypes.CONNECT)
    properties.SessionExpiryInterval = SESSION_EXPIRY_SECONDS
    properties.ReceiveMaximum = wanted.receive_maximum
    client.connect(HOST, port, clean_start=False, properties=properties)
    client.loop_forever()


def publish(
    port: int, packets: Sequence[bytes], shared: SharedCount, *, rate: float | None
) -> None:
    """Publish, and wait for the broker to confirm each; no faster than `rate` packets a second."""
    with socket.create_connection((HOST, port)) as connection:
        connection.settimeout(30.0)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.sendall(_connect_packet("virtual-nodes"))
        answer = connection.recv(1024)
        if answer[:1] != b"\x20" or answer[3] != 0:
            raise SystemExit(f"Expected CONNACK with success, got {answer!r}")
        began = time.monotonic()
        done = 0
        while done < len(packets):
            due = len(packets)
            if rate is not None:
                due = min(due, int((time.monotonic() - began) * rate))
            some = packets[done : min(due, done + _IN_FLIGHT)]
            if not some:
                time.sleep(_PAUSE_SECONDS)
                continue
            connection.sendall(b"".join(some))
            expected = b"".join(_confirmation(done + k) for k in range(len(some)))
            answer = b""
            while len(answer) < len(expected):
                # Else the broker's next small packet waits 40 ms for our delayed acknowledgement.
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)
                if not (part := connection.recv(65536)):
                    break
                answer += part
            if answer != expected:
                raise SystemExit(f"Expected {len(some)} plain PUBACKs, got {answer[:40]!r}")
            done += len(some)
            shared.value = done


def _packets(messages: int, *, windows: int) -> Iterator[bytes]:
    """PUBLISH packets of the nodes in turn, each window of a node a hop after the one before."""
    for number in range(messages):
        turn, index = divmod(number, NODES)
        node = f"node-{index:02}"
        some = tuple(_window(node, index, turn * windows + k) for k in range(windows))
        message = Backlog(node=node, boot=BOOT, windows=some) if windows > 1 else some[0]
        kind = Kind.BACKLOG if windows > 1 else Kind.WINDOW
        yield _publish_packet(topics.node(node, kind), encode(message), packet_id=_id(number))


def _window(node: str, index: int, seq: int) -> Window:
    # Nodes hear at moments of their own; the errors have as many digits as real ones.
    start_us = WINDOW.start_us + seq * _HOP_US + index * (_HOP_US // NODES)
    mse = 30.0 + (seq * 7919 + index * 104_729) % 1_000_003 / 100_000.7
    return msgspec.structs.replace(
        WINDOW,
        node=node,
        seq=seq,
        start_us=start_us,
        mse=mse,
        statistic=mse,
        score=mse / WINDOW.threshold,
    )


def _id(number: int) -> int:
    return number % 65_535 + 1


def _connect_packet(client_id: str) -> bytes:
    clean_start, keepalive_seconds, no_properties = 0x02, 60, 0
    body = _text("MQTT") + struct.pack(">BBHB", 5, clean_start, keepalive_seconds, no_properties)
    return _packet(0x10, body + _text(client_id))


def _publish_packet(topic: str, payload: bytes, *, packet_id: int) -> bytes:
    properties = Properties(PacketTypes.PUBLISH)
    properties.ContentType = CONTENT_TYPE
    return _packet(0x32, _text(topic) + struct.pack(">H", packet_id) + properties.pack() + payload)


def _confirmation(number: int) -> bytes:
    return struct.pack(">BBH", 0x40, 2, _id(number))


def _packet(first: int, body: bytes) -> bytes:
    length, left = bytearray(), len(body)
    while True:
        left, digit = divmod(left, 128)
        length.append(digit | (0x80 if left else 0))
        if not left:
            return bytes([first]) + bytes(length) + body


def _text(text: str) -> bytes:
    encoded = text.encode()
    return struct.pack(">H", len(encoded)) + encoded


if __name__ == "__main__":
    main()
