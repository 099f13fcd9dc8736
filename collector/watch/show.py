"""The fleet in the terminal, from any broker: one row per node, no store and no other program.

`render` draws a `FleetView`; the rest keeps one fed and on the screen. Where standard output is no
terminal, plain lines come instead of a table that redraws itself.
"""

import logging
import math
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import Enum
from types import FrameType
from typing import Literal

import msgspec
from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from collector.watch.fleet_view import SPARKLINE_SCORES, Condition, FleetView, Row
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
# A pipe has no width, and rich would cut lines at 80.
_PIPE_WIDTH = 200

STYLES = {
    Condition.HEALTHY: "green",
    Condition.ANOMALOUS: "bold red",
    Condition.WARNING: "yellow",
    Condition.LEARNING: "yellow",
    Condition.DEAF: "magenta",
    Condition.SILENT: "yellow",
    Condition.WAITING: "dim",
    Condition.STOPPED: "dim",
    Condition.OFFLINE: "dim",
}

_BARS = "▁▂▃▄▅▆▇█"
_NO_SCORE = "·"
# The threshold, score 1, is the middle of a bar's range; from twice that on all bars are full.
_FULL_SCORE = 2.0


class _Column(msgspec.Struct, frozen=True):
    name: str
    width: int
    """What its content usually takes."""
    from_width: int = 0
    """Shown in tables of at least this width: what tells most comes first."""
    justify: Literal["left", "right"] = "left"


_SCORES = "last scores"
_BORDER = 3
_FEWEST_BARS = 8
_COLUMNS = (
    _Column("node", 12),
    _Column("is", 9),
    _Column("MSE", 6, 78, "right"),
    _Column("threshold", 9, 120, "right"),
    _Column("score", 6, 0, "right"),
    _Column(_SCORES, SPARKLINE_SCORES),
    _Column("machine", 8, 110),
    _Column("microphone", 10, 110),
    _Column("model", 18, 150),
    _Column("level", 9, 150, "right"),
    _Column("windows", 7, 150, "right"),
    _Column("heard", 9, 68, "right"),
)


class Mode(Enum):
    """What is shown, and when."""

    LIVE = "live"
    """A table that redraws itself."""
    LINES = "lines"
    """A line per node every few seconds."""
    ONCE = "once"
    """One table at the end."""


def render(view: FleetView, now_us: int, *, width: int = _PIPE_WIDTH) -> Table:
    """The fleet as a table of at most so many characters; a narrow one has fewer columns."""
    chosen = [column for column in _COLUMNS if width >= column.from_width]
    taken = sum(column.width + _BORDER for column in chosen if column.name != _SCORES) + 1
    bars = max(_FEWEST_BARS, min(SPARKLINE_SCORES, width - taken - _BORDER))
    table = Table(title="earshot fleet", title_justify="left")
    for column in chosen:
        table.add_column(column.name, justify=column.justify, no_wrap=True)
    for row in view.rows(now_us=now_us):
        cells = _cells(row, now_us, bars)
        table.add_row(
            *(cells[column.name] for column in chosen),
            style="dim" if row.condition is Condition.OFFLINE else "",
        )
    return table


def line(row: Row, now_us: int) -> str:
    """One node in one line of plain text."""
    return (
        f"{row.node} {row.condition}: mse {_number(row.mse)} threshold {_number(row.threshold)}"
        f" score {_number(row.score)} machine {row.machine or '-'}"
        f" microphone {row.microphone or '-'} model {row.model or '-'}"
        f" windows {row.windows} heard {_ago(row, now_us)}"
    )


def sparkline(scores: tuple[float | None, ...]) -> str:
    """A bar per score, half as high as it can be at the threshold; a dot where there is none."""
    return "".join(_NO_SCORE if score is None else _bar(score) for score in scores)


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
            logger.warning("nothing from %s: %s", event.topic_filter, event.reason)
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
    console = Console(width=None if sys.stdout.isatty() else _PIPE_WIDTH)
    deadline = time.monotonic() + seconds
    if mode is Mode.ONCE:
        _feed(talk, seconds)
        console.print(render(view, _now_us(), width=console.width))
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
        return render(view, _now_us(), width=console.width)

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


def _cells(row: Row, now_us: int, bars: int) -> dict[str, Text]:
    style = STYLES[row.condition]
    level = "-" if row.level_dbfs is None else f"{row.level_dbfs:.0f} dBFS"
    return {
        "node": Text(row.node),
        "is": Text(row.condition, style),
        "MSE": Text(_number(row.mse), style),
        "threshold": Text(_number(row.threshold)),
        "score": Text(_number(row.score), style),
        _SCORES: _colored_sparkline(row.scores[-bars:]),
        "machine": Text(row.machine or "-"),
        "microphone": Text(row.microphone or "-"),
        "model": Text(row.model or "-"),
        "level": Text(level),
        "windows": Text(str(row.windows)),
        "heard": Text(_ago(row, now_us)),
    }


def _colored_sparkline(scores: tuple[float | None, ...]) -> Text:
    text = Text()
    for score, bar in zip(scores, sparkline(scores), strict=True):
        anomalous = score is not None and score > 1.0
        text.append(bar, "red" if anomalous else "dim" if score is None else "green")
    return text


def _bar(score: float) -> str:
    share = max(0.0, min(score / _FULL_SCORE, 1.0))
    return _BARS[min(int(share * len(_BARS)), len(_BARS) - 1)]


def _number(value: float | None) -> str:
    """In at most six characters: scores of several models may be 1e130, or its inverse."""
    if value is None:
        return "-"
    if 999.5 <= value < 999_999.5:
        return f"{value:.0f}"
    return f"{value:.3g}" if 0.01 <= value < 999.5 else f"{value:.1g}"


def _ago(row: Row, now_us: int) -> str:
    if row.heard_us is None:
        return "-"
    seconds = max(0, now_us - row.heard_us) // 1_000_000
    for unit, size in (("d", 86_400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds // size} {unit} ago"
    return f"{seconds} s ago"


def _now_us() -> int:
    return time.time_ns() // 1000
