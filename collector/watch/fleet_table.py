"""Draws the fleet: a table with a row per node, as wide as it may be, or a line per node. Pure."""

from typing import Literal

import msgspec
from rich.console import Console
from rich.table import Table
from rich.text import Text

from collector.tables import new_table
from collector.watch.fleet_view import SPARKLINE_SCORES, Condition, FleetView, NodeRow

_STYLES = {
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


def render(view: FleetView, now_us: int, console: Console) -> Table:
    """The fleet as a table that fits a console; a narrow one has fewer columns."""
    width = console.width
    chosen = [column for column in _COLUMNS if width >= column.from_width]
    taken = sum(column.width + _BORDER for column in chosen if column.name != _SCORES) + 1
    bars = max(_FEWEST_BARS, min(SPARKLINE_SCORES, width - taken - _BORDER))
    table = new_table(console, "earshot fleet")
    for column in chosen:
        table.add_column(column.name, justify=column.justify, no_wrap=True)
    for row in view.rows(now_us=now_us):
        cells = _cells(row, now_us, bars)
        table.add_row(
            *(cells[column.name] for column in chosen),
            style="dim" if row.condition is Condition.OFFLINE else "",
        )
    return table


def line(row: NodeRow, now_us: int) -> str:
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


def _cells(row: NodeRow, now_us: int, bars: int) -> dict[str, Text]:
    style = _STYLES[row.condition]
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


def _ago(row: NodeRow, now_us: int) -> str:
    if row.heard_us is None:
        return "-"
    seconds = max(0, now_us - row.heard_us) // 1_000_000
    for unit, size in (("d", 86_400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds // size} {unit} ago"
    return f"{seconds} s ago"
