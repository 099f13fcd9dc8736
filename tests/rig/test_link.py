"""The slow, late or broken link that system tests put before a broker: it does what it says."""

import random
import socket
import socketserver
import threading
import time
from collections.abc import Iterator
from contextlib import closing, suppress
from typing import Self

import pytest

from tests.rig.link import Link
from tests.rig.ports import HOST
from tests.rig.waiting import wait_until


class EchoServer:
    """Sends back what it gets, as fast as it is taken; counts what it could get rid of."""

    def __init__(self) -> None:
        self.sent_bytes = 0
        self.resets = 0
        echo = self

        class Handler(socketserver.BaseRequestHandler):
            def handle(self) -> None:
                try:
                    while data := self.request.recv(4096):
                        self.request.sendall(data)
                        echo.sent_bytes += len(data)
                except ConnectionResetError:
                    echo.resets += 1

        self._server = socketserver.ThreadingTCPServer((HOST, 0), Handler)
        self._server.daemon_threads = True
        self.host, self.port = HOST, self._server.server_address[1]
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(0.01,), daemon=True
        )

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def echo() -> Iterator[EchoServer]:
    with EchoServer() as server:
        yield server


@pytest.fixture
def link(echo: EchoServer) -> Iterator[Link]:
    with Link(echo) as opened:
        yield opened


def connected(link: Link) -> "closing[socket.socket]":
    return closing(socket.create_connection((link.host, link.port), timeout=20))


def read_exactly(connection: socket.socket, count: int) -> bytes:
    found = b""
    while len(found) < count:
        piece = connection.recv(count - len(found))
        assert piece, f"the connection ended after {len(found)} of {count} bytes"
        found += piece
    return found


def send_in_background(connection: socket.socket, content: bytes) -> threading.Thread:
    def send() -> None:
        # A test that has seen enough leaves.
        with suppress(OSError):
            connection.sendall(content)

    thread = threading.Thread(target=send, daemon=True)
    thread.start()
    return thread


def test_bytes_pass_unchanged_in_both_directions(link: Link) -> None:
    """Half a megabyte, on two connections at once, and every byte is counted."""
    contents = [random.Random(seed).randbytes(500_000) for seed in range(2)]
    with connected(link) as one, connected(link) as other:
        for connection, content in zip((one, other), contents, strict=True):
            send_in_background(connection, content)
        echoed = [read_exactly(one, 500_000), read_exactly(other, 500_000)]

    assert echoed == contents
    assert link.accepted == 2
    # A byte is counted by the link's own thread, after whoever reads may have it.
    wait_until(
        lambda: link.to_client_bytes == link.to_server_bytes == 1_000_000, "every byte counted"
    )


def test_end_of_what_is_sent_passes_on(link: Link) -> None:
    """A client that has said all still hears the answer."""
    with connected(link) as connection:
        connection.sendall(b"all")
        connection.shutdown(socket.SHUT_WR)

        assert read_exactly(connection, 3) == b"all"
        assert connection.recv(1) == b""


def test_limit_holds_bytes_up(link: Link) -> None:
    """All of them come, not before their time, on two connections together."""
    link.limit(40_000)
    with connected(link) as one, connected(link) as other:
        began = time.monotonic()
        for connection in (one, other):
            send_in_background(connection, bytes(20_000))
        for connection in (one, other):
            read_exactly(connection, 20_000)
        seconds = time.monotonic() - began

    # No longer than that, too, on a computer that has nothing else to do; that is not asserted.
    assert seconds >= 1.0


def test_limit_is_felt_by_whoever_sends(echo: EchoServer, link: Link) -> None:
    """The server cannot get rid of its answer long before it arrives."""
    link.limit(50_000)
    with connected(link) as connection:
        send_in_background(connection, bytes(10_000_000))
        read_exactly(connection, 50_000)

        assert echo.sent_bytes < 50_000 + 100_000


def test_limit_can_be_lifted(link: Link) -> None:
    """What waits comes at once."""
    link.limit(2_000)
    with connected(link) as connection:
        send_in_background(connection, bytes(1_000_000))
        read_exactly(connection, 1)
        link.limit(None)

        assert read_exactly(connection, 999_999) == bytes(999_999)


def test_delay_is_a_delay_each_way(link: Link) -> None:
    """And no limit: the second byte is not later than the first."""
    link.delay(0.2)
    with connected(link) as connection:
        began = time.monotonic()
        connection.sendall(b"x")
        read_exactly(connection, 1)
        seconds = time.monotonic() - began

    assert seconds >= 0.4


def test_cut_resets_both_ends_and_new_connections_may_come(echo: EchoServer, link: Link) -> None:
    """The client sees it, the server sees it, and the next connection works."""
    with connected(link) as connection:
        connection.sendall(b"x")
        read_exactly(connection, 1)
        link.cut()

        with pytest.raises(ConnectionResetError):
            connection.recv(1)
        wait_until(lambda: echo.resets == 1, "a reset at the server")
    with connected(link) as connection:
        connection.sendall(b"y")
        assert read_exactly(connection, 1) == b"y"
    assert link.accepted == 2


def test_refusing_leaves_standing_connections_alone(link: Link) -> None:
    """New ones are refused until it resumes, on the same port."""
    with connected(link) as connection:
        connection.sendall(b"x")
        read_exactly(connection, 1)
        for _ in range(2):
            link.refuse()
            link.refuse()
            with pytest.raises(ConnectionRefusedError):
                socket.create_connection((link.host, link.port), timeout=5)
            connection.sendall(b"y")
            assert read_exactly(connection, 1) == b"y"
            link.resume()
            with connected(link) as another:
                another.sendall(b"z")
                assert read_exactly(another, 1) == b"z"


def test_held_link_says_nothing_and_loses_nothing(link: Link) -> None:
    """Neither bytes nor an end come through until it resumes."""
    with connected(link) as connection:
        connection.sendall(b"x")
        read_exactly(connection, 1)
        link.hold()
        connection.sendall(b"held")
        connection.shutdown(socket.SHUT_WR)
        connection.settimeout(0.3)
        with pytest.raises(TimeoutError):
            connection.recv(1)
        connection.settimeout(20)
        link.resume()

        assert read_exactly(connection, 4) == b"held"
        assert connection.recv(1) == b""


def test_server_that_is_away_is_seen_as_such(echo: EchoServer) -> None:
    """The connection ends at once, instead of hanging."""
    with EchoServer() as gone:
        link = Link(gone)
    # Be it while it connects or afterwards.
    with link, pytest.raises(ConnectionResetError), connected(link) as connection:
        connection.recv(1)
