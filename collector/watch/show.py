"""The fleet in the terminal, from any broker: keeps a view of it fed, and the view on the screen.

Where standard output is no terminal, plain lines come instead of a table that redraws itself. What
is drawn is told in `collector.watch.fleet_table`.
"""

import logging
import math
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import Enum
from types import FrameType

from rich.console import Console
from rich.live import Live
from rich.table import Table

from collector.tables import output
from collector.watch.fleet_table import line, render
from collector.watch.fleet_view import FleetView
from contract import topics
from contract.errors import MessageError
from contract.messages import decode
from contract.session import (
    ConnectFailed,
    Disconnected,
    Received,
    SessionEvent,
    SubscribeRefused,
)
from contract.settings import MqttSettings
from contract.talk import Conversation, passing
from contract.topics import Kind

logger = logging.getLogger(__name__)

CONNECT_SECONDS = 5.0

_KINDS = (Kind.STATUS, Kind.BIRTH, Kind.STATE, Kind.WINDOW, Kind.BACKLOG)
_REDRAW_SECONDS = 0.5


class Mode(Enum):
    """What is shown, and when."""

    LIVE = "live"
    """A table is drawn again whenever something may have changed."""
    LINES = "lines"
    """A line per node is printed every few seconds."""
    ONCE = "once"
    """One table is printed at the end."""


def run(
    settings: MqttSettings,
    mode: Mode,
    *,
    seconds: float | None,
    every: float,
    connect_seconds: float = CONNECT_SECONDS,
) -> None:
    """Show the fleet until Ctrl-C, or for so many seconds.

    Raises:
        ConnectionRefusedByBrokerError: the broker says no.
        BrokerUnreachableError: it cannot be reached.
    """
    view = FleetView()
    # QoS 0: a viewer that is too slow should miss windows rather than hold them up.
    options = passing("watch", *(topics.every_node(kind) for kind in _KINDS), qos=0)
    talk = Conversation(settings, options, see=lambda event: _see(event, settings, view))
    with _waking(talk), talk:
        if talk.open(seconds=connect_seconds):
            _show(talk, view, mode, math.inf if seconds is None else seconds, every)


def _see(event: SessionEvent, settings: MqttSettings, view: FleetView) -> None:
    match event:
        case Received():
            _receive(event, view)
        case ConnectFailed() | Disconnected():
            logger.info("no connection to %s: %s", settings.address, event.reason)
        case SubscribeRefused():
            logger.warning(
                "the broker refuses the subscription to %s: %s", event.topic_filter, event.reason
            )
        case _:
            pass


def _receive(received: Received, view: FleetView) -> None:
    try:
        message = decode(received.topic, received.payload)
    except MessageError as error:
        logger.debug("%r: %s", received.topic, error)
        return
    view.take(message, now_us=_now_us(), retained=received.retained)


def _show(talk: Conversation, view: FleetView, mode: Mode, seconds: float, every: float) -> None:
    console = output()
    deadline = time.monotonic() + seconds
    if mode is Mode.ONCE:
        _feed(talk, seconds)
        console.print(render(view, _now_us(), console))
        return
    step = _REDRAW_SECONDS if mode is Mode.LIVE else every
    with _screen(console, view, mode) as draw:
        while not talk.woken and (left := deadline - time.monotonic()) > 0.0:
            _feed(talk, min(step, left))
            draw()


def _feed(talk: Conversation, seconds: float) -> None:
    for _ in talk.events(seconds):
        pass  # `_see` has given it to the view


@contextmanager
def _screen(console: Console, view: FleetView, mode: Mode) -> Iterator[Callable[[], None]]:
    """What to call each time that something may have changed."""
    if mode is Mode.LINES:
        yield lambda: _print_lines(view)
        return

    def table() -> Table:
        return render(view, _now_us(), console)

    with Live(table(), console=console, auto_refresh=False) as live:
        yield lambda: live.update(table(), refresh=True)


def _print_lines(view: FleetView) -> None:
    now_us = _now_us()
    stamp = time.strftime("%H:%M:%S")
    rows = view.rows(now_us=now_us)
    for text in [line(row, now_us) for row in rows] or ["no nodes yet"]:
        print(stamp, text, flush=True)  # noqa: T201 - this is the output


@contextmanager
def _waking(talk: Conversation) -> Iterator[None]:
    """Ctrl-C and SIGTERM end the show in good order."""

    def wake(_number: int, _frame: FrameType | None) -> None:
        talk.wake()

    before = {n: signal.signal(n, wake) for n in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _now_us() -> int:
    return time.time_ns() // 1000
