"""The smallest MQTT 5 broker that a node can be measured against: takes everything, keeps nothing.

A node that is benched must not speak to the fleet's broker, and without any broker its outbox would
grow. One client, on the loopback, without TLS; only for `earshot node bench` and tests.
"""

import io
import os
import socket
import threading
import time
from contextlib import suppress
from types import TracebackType
from typing import BinaryIO, Self

_CONNECT, _PUBLISH, _SUBSCRIBE, _UNSUBSCRIBE, _PINGREQ = 1, 3, 8, 10, 12
_CONNACK = bytes((0x20, 3, 0, 0, 0))
_PINGRESP = bytes((0xD0, 0))
_END_SECONDS = 5.0


class BenchBroker:
    """While entered, answers one client and counts the windows that it publishes."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._thread = threading.Thread(target=self._serve, name="bench-broker", daemon=True)
        self._client: socket.socket | None = None
        self.windows = 0
        """Live windows so far."""
        self.first_window_monotonic_ns: int | None = None

    @property
    def port(self) -> int:
        """The port on which the broker listens, on 127.0.0.1."""
        return int(self._listener.getsockname()[1])

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for open_socket in (self._listener, self._client):
            if open_socket is not None:
                with suppress(OSError):
                    # Closing alone does not wake a thread that waits in accept or recv.
                    open_socket.shutdown(socket.SHUT_RDWR)
                open_socket.close()
        self._thread.join(_END_SECONDS)

    def _serve(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            self._client = client
            # A node that was killed, or a bench that ends.
            with client, suppress(OSError, EOFError):
                self._converse(client)

    def _converse(self, client: socket.socket) -> None:
        with client.makefile("rb") as stream:
            while True:
                first = _exactly(stream.read(1), 1)[0]
                body = _exactly(stream.read(size := _size(stream)), size)
                answer = self._answer(first >> 4, (first >> 1) & 3, body)
                if answer:
                    client.sendall(answer)

    def _answer(self, kind: int, qos: int, body: bytes) -> bytes:
        if kind == _CONNECT:
            return _CONNACK
        if kind == _PINGREQ:
            return _PINGRESP
        if kind in {_SUBSCRIBE, _UNSUBSCRIBE}:
            # Each filter is granted QoS 1, or is gone.
            outcome = b"\1" if kind == _SUBSCRIBE else b"\0"
            outcomes = outcome * _filters(body, options=kind == _SUBSCRIBE)
            answer = body[:2] + b"\0" + outcomes
            return bytes(((kind + 1) << 4, len(answer))) + answer
        if kind != _PUBLISH:
            return b""
        end = 2 + int.from_bytes(body[:2], "big")
        if body[2:end].endswith(b"/window"):
            self.windows += 1
            if self.first_window_monotonic_ns is None:
                self.first_window_monotonic_ns = time.monotonic_ns()
        return bytes((0x40, 2)) + body[end : end + 2] if qos else b""


def _filters(body: bytes, *, options: bool) -> int:
    """How many topic filters a (UN)SUBSCRIBE holds, behind its packet id and properties."""
    rest = io.BytesIO(body[2:])
    rest.seek(_size(rest), os.SEEK_CUR)
    count = 0
    while length := rest.read(2):
        rest.seek(int.from_bytes(length, "big") + options, os.SEEK_CUR)
        count += 1
    return count


def _size(stream: BinaryIO) -> int:
    size = shift = 0
    while True:
        byte = _exactly(stream.read(1), 1)[0]
        size |= (byte & 0x7F) << shift
        if not byte & 0x80:
            return size
        shift += 7


def _exactly(data: bytes, count: int) -> bytes:
    if len(data) != count:
        raise EOFError
    return data
