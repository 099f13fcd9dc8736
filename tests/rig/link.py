"""A network link that can be slow, late, deaf or cut: a TCP proxy in front of a server on loopback.

    with Link(mosquitto, bytes_per_second=20_000) as link:
        ...  # a program is given link.host and link.port in place of the broker's
        link.cut()

All bytes that pass arrive unchanged and in order. Each direction has the given rate, shared by all
connections, as a line has; segments are those of an Ethernet and buffers small, so that whoever
sends is held up by the link and does not leave everything to the kernel.

Not here: loss and reordering of packets (TCP hides them as delay), and names (it looks up none).
"""

import asyncio
import socket
import struct
import threading
from collections.abc import Callable, Coroutine, Iterable
from contextlib import suppress
from typing import Any, Final, Protocol, Self, TypeVar

from tests.rig.ports import HOST, free_port

_PIECE_BYTES: Final = 1024
"""What passes at once: 50 ms of a link of 20 KB/s."""
_BUFFER_BYTES: Final = 8 * 1024
"""Of each socket of ours, asked of the kernel (which doubles it)."""
_SEGMENT_BYTES: Final = 1460
"""Loopback's own are 64 KiB: one of them would be more than all that a slow link has on its way,
and a window that is smaller than a segment makes the sender wait for timers of its own."""
_WAITING_PIECES: Final = 1024
"""On their way at once in one direction: a link of 1 MB/s with a delay of a second."""
_ANSWER_SECONDS: Final = 10.0
_RESET: Final = struct.pack("ii", 1, 0)
"""SO_LINGER: a close says RST at once, as if the other end had gone."""

Answer = TypeVar("Answer")


class Server(Protocol):
    """What is at the other end."""

    host: str
    port: int


class Link:
    """Listens on a port of its own while it is entered, and passes bytes on to a server.

    Args:
        server: may come and go; a connection to a server that is away is closed at once.
        bytes_per_second: in each direction; None is as fast as it goes.
        delay_seconds: that each byte takes, in each direction.
    """

    def __init__(
        self, server: Server, *, bytes_per_second: float | None = None, delay_seconds: float = 0.0
    ) -> None:
        self.host = HOST
        self.port = free_port()
        self.accepted = 0
        """Connections so far; one that a program lost and made again counts twice."""
        self.to_client_bytes = 0
        """That have come out at the client's end."""
        self.to_server_bytes = 0
        self._server = server
        self._delay_seconds = delay_seconds
        self._to_client = _Meter(bytes_per_second)
        self._to_server = _Meter(bytes_per_second)
        self._passing = asyncio.Event()
        self._passing.set()
        self._connections: dict[asyncio.Task[None], tuple[socket.socket, ...]] = {}
        self._listening = False
        self._listener = socket.socket()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="link", daemon=True)

    def __enter__(self) -> Self:
        self._listener.setblocking(False)
        self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        # What is accepted inherits these.
        _make_small(self._listener)
        self._listener.bind((self.host, self.port))
        self._thread.start()
        self._ask(self._listen())
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self._ask(self._refuse())
            self._ask(self._cut())
        finally:
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join(_ANSWER_SECONDS)
            self._listener.close()
            self._loop.close()

    def limit(self, bytes_per_second: float | None) -> None:
        """Another rate from now on; None is as fast as it goes."""
        self._to_client.bytes_per_second = bytes_per_second
        self._to_server.bytes_per_second = bytes_per_second

    def delay(self, seconds: float) -> None:
        """Another delay for what comes in from now on."""
        self._delay_seconds = seconds

    def cut(self) -> None:
        """Reset all connections, at both ends; what was on its way is lost. New ones may come."""
        self._ask(self._cut())

    def refuse(self) -> None:
        """Refuse new connections until `resume`; those that stand, stand."""
        self._ask(self._refuse())

    def hold(self) -> None:
        """Pass nothing until `resume`, without a word to anybody: a cable out of its socket."""
        self._ask(self._hold())

    def resume(self) -> None:
        """End `refuse` and `hold`."""
        self._ask(self._listen())

    def _ask(self, what: Coroutine[Any, Any, Answer]) -> Answer:
        return asyncio.run_coroutine_threadsafe(what, self._loop).result(_ANSWER_SECONDS)

    async def _listen(self) -> None:
        self._passing.set()
        if not self._listening:
            self._listener.listen(100)
            self._loop.add_reader(self._listener, self._accept)
            self._listening = True

    async def _refuse(self) -> None:
        if self._listening:
            self._loop.remove_reader(self._listener)
            # Linux: it listens no more, keeps its port, and can listen again.
            self._listener.shutdown(socket.SHUT_RD)
            self._listening = False

    async def _hold(self) -> None:
        self._passing.clear()

    async def _cut(self) -> None:
        for task, ends in tuple(self._connections.items()):
            # One of them may have ended while the one before was.
            if task in self._connections:
                _reset_when_closed(ends)
                task.cancel()
                with suppress(asyncio.CancelledError):
                    await task
                self._forget(task)

    def _accept(self) -> None:
        try:
            client, _ = self._listener.accept()
        except (BlockingIOError, ConnectionAbortedError):
            return
        self.accepted += 1
        server = socket.socket()
        task = self._loop.create_task(self._connect(client, server))
        self._connections[task] = (client, server)
        task.add_done_callback(self._forget)

    def _forget(self, task: asyncio.Task[None]) -> None:
        # Closed here: a task that is cancelled before its first step has not come to anything.
        for end in self._connections.pop(task, ()):
            end.close()

    async def _connect(self, client: socket.socket, server: socket.socket) -> None:
        _make_small(server)
        for end in (client, server):
            end.setblocking(False)
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            await self._loop.sock_connect(server, (self._server.host, self._server.port))
            async with asyncio.TaskGroup() as ways:
                ways.create_task(self._pass(client, server, self._to_server, self._up))
                ways.create_task(self._pass(server, client, self._to_client, self._down))
        except* OSError:
            # One end has gone: so has the connection, for the other one too.
            _reset_when_closed((client, server))

    async def _pass(
        self,
        source: socket.socket,
        target: socket.socket,
        meter: "_Meter",
        count: Callable[[int], None],
    ) -> None:
        """One direction, until the source says that it has no more."""
        on_their_way: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(_WAITING_PIECES)

        async def take_in() -> None:
            while piece := await self._loop.sock_recv(source, _PIECE_BYTES):
                await meter.wait_for_turn(len(piece))
                await on_their_way.put((self._loop.time() + self._delay_seconds, piece))
            await on_their_way.put((0.0, b""))

        async def give_out() -> None:
            while True:
                due, piece = await on_their_way.get()
                await asyncio.sleep(due - self._loop.time())
                await self._passing.wait()
                if not piece:
                    target.shutdown(socket.SHUT_WR)
                    return
                await self._loop.sock_sendall(target, piece)
                count(len(piece))

        async with asyncio.TaskGroup() as both:
            both.create_task(take_in())
            both.create_task(give_out())

    def _up(self, count: int) -> None:
        self.to_server_bytes += count

    def _down(self, count: int) -> None:
        self.to_client_bytes += count


class _Meter:
    """Lets so many bytes a second through, in the order of asking."""

    def __init__(self, bytes_per_second: float | None) -> None:
        self.bytes_per_second = bytes_per_second
        self._free_at = 0.0

    async def wait_for_turn(self, count: int) -> None:
        """Until the link has carried what came before, and this."""
        if self.bytes_per_second is None:
            return
        now = asyncio.get_running_loop().time()
        self._free_at = max(now, self._free_at) + count / self.bytes_per_second
        await asyncio.sleep(self._free_at - now)


def _make_small(end: socket.socket) -> None:
    end.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BUFFER_BYTES)
    end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _BUFFER_BYTES)
    end.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, _SEGMENT_BYTES)


def _reset_when_closed(ends: Iterable[socket.socket]) -> None:
    for end in ends:
        end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
