"""Drawings for a page: numbers in, SVG text out, the same for the same numbers.

What is told in words around them, and which numbers are worth drawing, is
`training.pages.report`'s.
"""

import base64
import html
import math
import struct
import zlib
from collections.abc import Iterable, Sequence
from typing import Literal

import msgspec
import numpy as np
import numpy.typing as npt
from sklearn.metrics import roc_curve

from contract.features import Float32Array

Float64Array = npt.NDArray[np.float64]
Point = tuple[float, float]

STYLE = """
svg{display:block;width:100%;height:auto;font-size:12px}
text{fill:var(--ink)}
text.faint{fill:var(--faint)}
.start{text-anchor:start}.middle{text-anchor:middle}.end{text-anchor:end}.strong{font-weight:700}
.of-normal{fill:var(--normal)}.of-anomaly{fill:var(--anomaly)}
.line{fill:none;stroke:var(--ink);stroke-width:1.5;stroke-linejoin:round}
.line.grid{stroke:var(--rule);stroke-width:1}
.line.axis,.line.thin{stroke:var(--faint);stroke-width:1}
.line.limit,.line.chance{stroke-dasharray:5 3}
.line.chance{stroke:var(--faint)}
.line.dotted{stroke:var(--faint);stroke-dasharray:1.5 4}
.line.whisker{stroke:var(--faint);stroke-width:2}
.line.first{stroke:var(--normal);stroke-width:2}
.line.second{stroke:var(--anomaly);stroke-width:2;stroke-dasharray:6 3}
rect.normal,rect.own{fill:var(--normal)}rect.anomaly{fill:var(--anomaly)}
rect.partial{fill:var(--partial)}
circle.yardstick,circle.other{fill:var(--paper);stroke:var(--ink);stroke-width:1.5}
circle.other{stroke:var(--normal)}
circle.first,circle.second{fill:var(--normal);stroke:var(--paper)}
circle.second{fill:var(--anomaly)}
image{image-rendering:pixelated}
"""
"""For the colours that the page names: ink, faint, rule, paper, normal, anomaly, partial."""

_WIDTH = 360
"""Of every drawing, in units that are pixels on a phone."""
_LEFT, _RIGHT = 50.0, _WIDTH - 14.0
_BINS = 28
_LOG_AXIS_FROM = 50.0
"""Largest number over the smallest, from which on a linear axis hides the small ones."""
_KINDS = ("first", "second")
_SUPERSCRIPT = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


class Markup(str):
    """Text that is HTML already; all other text is escaped."""

    __slots__ = ()


def tag(element: str, /, *children: str, **attributes: str | int) -> Markup:
    """An element; `class_` is class, and other underscores are hyphens."""
    given = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{html.escape(str(value))}"'
        for key, value in attributes.items()
    )
    content = "".join(
        child if isinstance(child, Markup) else html.escape(child) for child in children
    )
    if element == "meta":
        return Markup(f"<meta{given}>")
    if element in {"rect", "circle", "polyline", "image"}:
        return Markup(f"<{element}{given}/>")
    return Markup(f"<{element}{given}>{content}</{element}>")


class Axis(msgspec.Struct, frozen=True, kw_only=True):
    """From values to places in a drawing."""

    low: float
    high: float
    start: float = _LEFT
    end: float = _RIGHT
    log: bool = False

    def at(self, value: float) -> float:
        """Where a value lies."""
        low, high = self.low, self.high
        if self.log:
            low, high, value = math.log10(low), math.log10(high), math.log10(max(value, low))
        return self.start + (value - low) / ((high - low) or 1.0) * (self.end - self.start)

    def ticks(self) -> list[float]:
        """Round values from end to end, a handful of them."""
        if self.log:
            first, last = math.ceil(math.log10(self.low)), math.floor(math.log10(self.high))
            if last - first < 1:
                powers = [10.0**power for power in range(first - 1, last + 1)]
                found = [factor * power for power in powers for factor in (1, 2, 5)]
                return [tick for tick in found if self.low <= tick <= self.high]
            every = max(1, math.ceil((last - first + 1) / 6))
            return [10.0**power for power in range(first, last + 1, every)]
        span = (self.high - self.low) or 1.0
        step = 10.0 ** math.floor(math.log10(span / 4))
        step = next(each for each in (step, 2 * step, 5 * step, 10 * step) if span / each <= 5.001)
        lowest = math.ceil(self.low / step - 1e-9)
        count = math.floor(self.high / step + 1e-9) - lowest + 1
        return [(lowest + index) * step for index in range(count)]

    def label(self, tick: float) -> str:
        """How a value is written beside the axis."""
        if self.log and not 1e-3 <= tick < 1e5:
            power = math.floor(math.log10(tick) + 1e-9)
            factor = round(tick / 10.0**power)
            return ("" if factor == 1 else f"{factor}·") + f"10{str(power).translate(_SUPERSCRIPT)}"
        return f"{tick:.6g}".replace("-", "\N{MINUS SIGN}")


def axis_of(values: Sequence[float], *, start: float = _LEFT, end: float = _RIGHT) -> Axis:
    """An axis with room for all values, logarithmic where they are positive and far apart."""
    low, high = min(values), max(values)
    if low > 0 and high / low >= _LOG_AXIS_FROM:
        return Axis(low=low / 1.2, high=high * 1.2, start=start, end=end, log=True)
    margin = (high - low) * 0.04 or abs(high) * 0.1 or 1.0
    lowest = max(low - margin, 0.0) if low >= 0 else low - margin
    return Axis(low=lowest, high=high + margin, start=start, end=end)


def forest(
    rows: Sequence[tuple[str, float | None, Point | None, Literal["own", "other", "yardstick"]]],
    *,
    what: str,
    chance: float,
    told: str,
) -> Markup:
    """Figures from 0 to 1 below one another, each with its interval; our own is a square."""
    height = 48 + 22 * len(rows)
    across, bottom = Axis(low=0, high=1, start=140), height - 38
    parts = _across(across, 8, bottom, what)
    parts.append(_line([(across.at(chance), 8), (across.at(chance), bottom)], "chance"))
    for index, (name, value, interval, kind) in enumerate(rows):
        y = 20.0 + 22 * index
        parts.append(_text(132, y + 4, name, "end strong" if kind == "own" else "end"))
        if interval is not None:
            parts.append(_line([(across.at(limit), y) for limit in interval], "whisker"))
        if value is not None:
            x = across.at(value)
            square = _box((x - 5, y - 5), (x + 5, y + 5), kind)
            parts.append(square if kind == "own" else _dot((x, y), kind, radius=4))
    return _drawing(told, height, parts)


def histogram(
    title: str,
    normal: Sequence[float],
    anomalous: Sequence[float] | None,
    threshold: float,
    across: Axis,
    *,
    what: str,
) -> Markup:
    """Normal values upwards and anomalous ones downwards, as shares of each; None draws none."""
    top, bottom = 42.0, 190.0
    sides = [("normal", normal, -1, "▲ normal")]
    if anomalous is not None:
        sides.append(("anomaly", anomalous, 1, "▼ anomalous"))
    middle = bottom if anomalous is None else (top + bottom) / 2
    edges = np.linspace(across.start, across.end, _BINS + 1)
    shares = [_shares(values, across, edges) for _, values, _, _ in sides]
    largest = max(float(share.max()) for share in shares) or 1.0

    parts = _across(across, top, bottom, what)
    for (kind, _, direction, _), share in zip(sides, shares, strict=True):
        for left, right, part in zip(edges[:-1], edges[1:], share, strict=True):
            if part:
                far = middle + direction * float(part) / largest * (middle - top - 4)
                ends = sorted((middle, far))
                parts.append(_box((left + 0.5, ends[0]), (right - 0.5, ends[1]), kind))
    parts.append(_line([(across.start, middle), (across.end, middle)], "axis"))
    x = across.at(threshold)
    parts.append(_line([(x, top - 6), (x, bottom)], "limit"))
    past_middle = x > (across.start + across.end) / 2
    beside, side = (x - 5, "end") if past_middle else (x + 5, "start")
    parts.append(_text(beside, top - 2, f"threshold {threshold:.4g}", side))
    parts.append(_text(across.start, 14, title, "start strong"))
    parts.append(_text(across.start - 6, top + 12, f"{largest:.0%}", "end"))
    for index, (kind, values, _, name) in enumerate(reversed(sides)):
        legend = f"{name} ({len(values)})"
        parts.append(_text(across.end - 128 * index, 14, legend, f"end of-{kind}"))

    counts = [
        f"{sum(value > threshold for value in values)} of {len(values)} {name[2:]}"
        for _, values, _, name in sides
    ]
    first, *others = counts
    told = ", ".join([f"{title}: {first} above the threshold {threshold:.4g}", *others])
    return _drawing(told, 228, parts)


def _shares(values: Sequence[float], across: Axis, edges: Float64Array) -> Float64Array:
    places = [min(max(across.at(value), edges[0]), edges[-1]) for value in values]
    shares: Float64Array = np.histogram(places, edges)[0] / max(len(values), 1)
    return shares


class RocLine(msgspec.Struct, frozen=True, kw_only=True):
    """Scores to tell apart at every threshold."""

    name: str | None
    """None is a thin line without a legend."""
    labels: npt.NDArray[np.bool_]
    """Shape (n,), of both kinds; True is an anomaly."""
    scores: Float64Array
    """Shape (n,)."""
    dot: Point | None = None
    """False- and true-positive rate at the threshold in use."""


def roc(title: str, lines: Sequence[RocLine], *, end: float, partial: float, told: str) -> Markup:
    """Rate of anomalies found over that of false alarms, drawn up to `end`, shaded to `partial`.

    At most two lines have a name.
    """
    across, up = Axis(low=0, high=end), Axis(low=0, high=1, start=244, end=26)
    parts = [
        _text(across.start, 14, title, "start strong"),
        _box((across.start, up.end), (across.at(min(partial, end)), up.start), "partial"),
        *_across(across, up.end, up.start, "false-positive rate"),
        *_upwards(up, across),
        _line([(across.at(0), up.at(0)), (across.at(end), up.at(end))], "dotted"),
    ]
    named = [line for line in lines if line.name is not None]
    for line in lines:
        kind = "thin" if line.name is None else _KINDS[named.index(line)]
        fpr, tpr, _ = roc_curve(line.labels, line.scores)
        # What lies right of a cut-off axis ends at its edge.
        kept = fpr <= end
        points = [*zip(fpr[kept], tpr[kept], strict=True), (end, np.interp(end, fpr, tpr))]
        parts.append(_line([(across.at(x), up.at(y)) for x, y in points], kind))
        if line.dot is not None and line.dot[0] <= end:
            parts.append(_dot((across.at(line.dot[0]), up.at(line.dot[1])), kind, radius=5))
        if line.name is not None:
            x = across.end - 80 * (len(named) - named.index(line))
            parts += _legend(x, 10, line.name, kind)
    if partial < end:
        parts.append(_text(across.at(partial) + 4, up.start - 6, "◂ pAUC", "start"))
    return _drawing(f"ROC, {title}. {told}", 284, parts)


def curves(
    title: str,
    lines: Sequence[tuple[str, Sequence[float]]],
    *,
    what: str,
    first: int,
    around_zero: bool = False,
    told: str,
) -> Markup:
    """One or two rows of numbers with their names, as lines on one scale.

    Args:
        title: above the drawing.
        lines: from left to right.
        what: is counted from `first` along the axis below.
        first: number of the value at the left.
        around_zero: show as much below 0 as above it.
        told: for those who do not see the drawing.
    """
    values = [value for _, line in lines for value in line]
    across = Axis(low=first, high=first + max(max(len(line) for _, line in lines) - 1, 1))
    up = axis_of(values, start=160, end=44)
    if around_zero:
        extent = max(map(abs, values)) or 1.0
        up = Axis(low=-extent, high=extent, start=up.start, end=up.end)
    parts = [
        _text(across.start, 14, title, "start strong"),
        *_across(across, None, up.start, what),
        *_upwards(up, across),
    ]
    for index, ((name, line), kind) in enumerate(zip(lines, _KINDS, strict=False)):
        points = [(across.at(number), up.at(value)) for number, value in enumerate(line, first)]
        parts.append(_line(points, kind) if len(points) > 1 else _dot(points[0], kind, radius=4))
        parts += _legend(across.start + 150 * index, 27, name, kind)
    return _drawing(told, 198, parts)


class Scale(msgspec.Struct, frozen=True, kw_only=True):
    """Which numbers the ends of a colour scale stand for."""

    low: float
    high: float
    diverging: bool
    """Pale in the middle."""


def picture(
    title: str, array: Float32Array, scale: Scale, *, columns: float, what: str, told: str
) -> Markup:
    """An array of shape (rows, columns) as colours, the first row at the bottom.

    The axis below counts up to `columns`.
    """
    across, up = Axis(low=0, high=columns), Axis(low=0, high=len(array), start=160, end=26)
    share = (array.astype(np.float64) - scale.low) / ((scale.high - scale.low) or 1.0)
    levels = np.round(np.clip(np.nan_to_num(share), 0, 1) * 255).astype(np.uint8)
    image = tag(
        "image",
        x=_n(across.start),
        y=_n(up.end),
        width=_n(across.end - across.start),
        height=_n(up.start - up.end),
        preserveAspectRatio="none",
        href=_png(levels[::-1], _DIVERGING if scale.diverging else _SEQUENTIAL),
    )
    parts = [
        _text(across.start, 14, title, "start strong"),
        image,
        *_across(across, None, up.start, what),
        *_upwards(up, None),
    ]
    return _drawing(told, 198, parts)


def _png(levels: npt.NDArray[np.uint8], palette: bytes) -> str:
    """A picture as a data URL: one byte for each pixel, colours from the palette."""
    rows, columns = levels.shape
    pixels = b"".join(b"\0" + row.tobytes() for row in levels)
    chunks = (
        (b"IHDR", struct.pack(">IIBBBBB", columns, rows, 8, 3, 0, 0, 0)),
        (b"PLTE", palette),
        (b"IDAT", zlib.compress(pixels, 9)),
        (b"IEND", b""),
    )
    content = b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in chunks
    )
    return "data:image/png;base64," + base64.b64encode(content).decode("ascii")


def _palette(colours: str) -> bytes:
    """256 colours between those given, in hexadecimal."""
    stops = np.array([list(bytes.fromhex(colour)) for colour in colours.split()], np.float64)
    places = np.linspace(0, len(stops) - 1, 256)
    channels = [np.interp(places, np.arange(len(stops)), channel) for channel in stops.T]
    return np.stack(channels, axis=1).round().astype(np.uint8).tobytes()


# Told apart by all kinds of colour vision: ColorBrewer's PuOr with blue for purple, and viridis.
_DIVERGING = _palette("053061 4393c3 f7f7f7 e08214 7f3b08")
_SEQUENTIAL = _palette("440154 3b528b 21918c 5ec962 fde725")


def _drawing(told: str, height: int, parts: Iterable[str]) -> Markup:
    return tag(
        "svg",
        tag("title", told),
        *parts,
        viewBox=f"0 0 {_WIDTH} {height}",
        role="img",
        aria_label=told,
    )


def _across(axis: Axis, top: float | None, bottom: float, name: str) -> list[Markup]:
    """The axis below; with lines up to the top unless that is None."""
    parts = []
    for tick in axis.ticks():
        x = axis.at(tick)
        if top is not None:
            parts.append(_line([(x, top), (x, bottom)], "grid"))
        parts.append(_text(x, bottom + 14, axis.label(tick), "middle"))
    middle = (axis.start + axis.end) / 2
    return [*parts, _text(middle, bottom + 29, name, "middle faint")]


def _upwards(axis: Axis, across: Axis | None) -> list[Markup]:
    """The axis at the left; with lines across unless that is None."""
    parts = []
    for tick in axis.ticks():
        y = axis.at(tick)
        if across is not None:
            parts.append(_line([(across.start, y), (across.end, y)], "grid"))
        parts.append(_text(_LEFT - 6, y + 4, axis.label(tick), "end"))
    return parts


def _legend(x: float, y: float, name: str, kind: str) -> list[Markup]:
    return [_line([(x, y), (x + 26, y)], kind), _text(x + 32, y + 4, name, "start")]


def _line(points: Sequence[Point], kind: str) -> Markup:
    places = " ".join(f"{_n(x)},{_n(y)}" for x, y in points)
    return tag("polyline", points=places, class_=f"line {kind}")


def _box(corner: Point, opposite: Point, kind: str) -> Markup:
    width, height = opposite[0] - corner[0], opposite[1] - corner[1]
    at = {"x": corner[0], "y": corner[1], "width": width, "height": height}
    return tag("rect", **{name: _n(value) for name, value in at.items()}, class_=kind)


def _dot(at: Point, kind: str, *, radius: int) -> Markup:
    return tag("circle", cx=_n(at[0]), cy=_n(at[1]), r=radius, class_=kind)


def _text(x: float, y: float, text: str, kind: str) -> Markup:
    return tag("text", text, x=_n(x), y=_n(y), class_=kind)


def _n(value: float) -> str:
    return f"{value:.1f}"
