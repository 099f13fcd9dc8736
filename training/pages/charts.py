"""Drawings for a page by matplotlib: numbers in, SVG out, the same for the same numbers.

Colours are the page's own (CSS variables), so that a drawing is light or dark as the page is. What
is told in words around them, and which numbers are worth drawing, is not decided here.
"""

import hashlib
import html
import io
import logging
import math
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal

import matplotlib as mpl
import msgspec
import numpy as np
import numpy.typing as npt
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter, NullLocator
from sklearn.metrics import roc_curve

from contract.features import Float32Array
from training.pages.blocks import Drawing

# It tells that it looks for the computer's fonts, once; the page brings its own.
logging.getLogger("matplotlib").setLevel(logging.ERROR)

Float64Array = npt.NDArray[np.float64]
Point = tuple[float, float]

# Each stands for a variable of the page's style sheet, which takes its place in the SVG.
_INK, _FAINT, _RULE, _PAPER = "#010101", "#020202", "#030303", "#040404"
_NORMAL, _ANOMALY, _PARTIAL = "#050505", "#060606", "#070707"
_VARIABLES = {
    _INK: "ink",
    _FAINT: "faint",
    _RULE: "rule",
    _PAPER: "paper",
    _NORMAL: "normal",
    _ANOMALY: "anomaly",
    _PARTIAL: "partial",
}
_STYLE: dict[Any, object] = {
    "svg.fonttype": "none",
    "text.parse_math": False,
    "font.size": 12,
    "text.color": _INK,
    "axes.edgecolor": _FAINT,
    "axes.facecolor": "none",
    "axes.labelcolor": _FAINT,
    "axes.labelsize": 12,
    "axes.titlesize": 12,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": _RULE,
    "grid.linewidth": 1,
    "xtick.color": _FAINT,
    "ytick.color": _FAINT,
    "xtick.labelcolor": _INK,
    "ytick.labelcolor": _INK,
    "xtick.labelsize": 12,
    "ytick.labelsize": 12,
    "legend.frameon": False,
    "legend.fontsize": 12,
    "legend.borderpad": 0,
    "legend.borderaxespad": 0,
    "legend.handlelength": 2,
}
_WIDTH = 360
"""Width of every drawing, in units that are pixels on a phone."""
_PIXELS_PER_INCH = 72
_LEFT, _RIGHT = 50.0, _WIDTH - 14.0
_BINS = 28
_LOG_SCALE_FROM = 50.0
"""Largest number over the smallest, from which on a linear axis hides the small ones."""
_LINES: tuple[dict[str, Any], ...] = (
    {"color": _NORMAL},
    {"color": _ANOMALY, "linestyle": (0, (3, 1.5))},
)
_SUPERSCRIPT = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")

# Told apart by all kinds of colour vision: ColorBrewer's PuOr with blue for purple, and viridis.
_DIVERGING = LinearSegmentedColormap.from_list(
    "diverging", ["#053061", "#4393c3", "#f7f7f7", "#e08214", "#7f3b08"]
)
_SEQUENTIAL = mpl.colormaps["viridis"]


class AxisRange(msgspec.Struct, frozen=True, kw_only=True):
    """From where to where an axis goes."""

    low: float
    high: float
    log: bool = False

    @property
    def edges(self) -> Float64Array:
        """Of the bins of a histogram, shape (bins + 1,)."""
        spaced = np.geomspace if self.log else np.linspace
        return spaced(self.low, self.high, _BINS + 1)


def range_of(values: Sequence[float]) -> AxisRange:
    """A range with room for all values, logarithmic where they are positive and far apart."""
    low, high = min(values), max(values)
    if low > 0 and high / low >= _LOG_SCALE_FROM:
        return AxisRange(low=low / 1.2, high=high * 1.2, log=True)
    margin = (high - low) * 0.04 or abs(high) * 0.1 or 1.0
    lowest = max(low - margin, 0.0) if low >= 0 else low - margin
    return AxisRange(low=lowest, high=high + margin)


def forest(
    rows: Sequence[tuple[str, float | None, Point | None, Literal["own", "other", "yardstick"]]],
    *,
    what: str,
    chance: float,
    told: str,
) -> Drawing:
    """Figures from 0 to 1 below one another, each with its interval; our own is a square."""
    height = 48 + 22 * len(rows)
    with _drawn(height, told, left=140, top=8, bottom=height - 38) as (axes, svg):
        axes.set_xlim(0, 1)
        axes.set_ylim(len(rows) - 0.5, -0.5)
        axes.set_xlabel(what)
        axes.yaxis.grid(visible=False)
        axes.axvline(chance, color=_FAINT, linestyle=(0, (5, 3)), gid="chance")
        markers = {"own": ("s", _NORMAL), "other": ("o", _NORMAL), "yardstick": ("o", _INK)}
        for row, (_, value, interval, kind) in enumerate(rows):
            if interval is not None:
                axes.hlines(row, *interval, color=_FAINT, linewidth=2, gid="whisker")
            if value is not None:
                shape, colour = markers[kind]
                face = colour if kind == "own" else _PAPER
                axes.plot(value, row, shape, color=colour, markerfacecolor=face, gid=kind)
        axes.set_yticks(range(len(rows)), [name for name, *_ in rows])
        axes.tick_params(axis="y", length=0)
        for label, (_, _, _, kind) in zip(axes.get_yticklabels(), rows, strict=True):
            label.set_fontweight("bold" if kind == "own" else "normal")
    return svg[0]


def histogram(
    title: str,
    normal: Sequence[float],
    anomalous: Sequence[float] | None,
    threshold: float,
    across: AxisRange,
    *,
    what: str,
) -> Drawing:
    """Normal values upwards and anomalous ones downwards, as shares of each; None draws none."""
    sides = [("normal", _NORMAL, normal, 1)]
    if anomalous is not None:
        sides.append(("anomalous", _ANOMALY, anomalous, -1))
    counts = [
        f"{sum(value > threshold for value in values)} of {len(values)} {name}"
        for name, _, values, _ in sides
    ]
    first, *others = counts
    told = ", ".join([f"{title}: {first} above the threshold {threshold:.4g}", *others])
    edges = across.edges
    shares = [
        np.histogram(np.clip(values, edges[0], edges[-1]), edges)[0] / max(len(values), 1)
        for _, _, values, _ in sides
    ]
    largest = max(float(share.max()) for share in shares) or 1.0
    with _drawn(228, told, top=42, bottom=190) as (axes, svg):
        _scale(axes, "x", across)
        axes.set_xlabel(what)
        axes.yaxis.grid(visible=False)
        axes.set_ylim(0 if anomalous is None else -1.05 * largest, 1.05 * largest)
        for (name, colour, _, direction), share in zip(sides, shares, strict=True):
            axes.bar(
                edges[:-1][share > 0],
                direction * share[share > 0],
                width=np.diff(edges)[share > 0],
                align="edge",
                color=colour,
                gid=f"bars-{name}",
            )
        axes.axhline(0, color=_FAINT, linewidth=1)
        axes.axvline(threshold, color=_INK, linestyle=(0, (5, 3)), gid="limit")
        axes.set_yticks([largest], [f"{largest:.0%}"])
        x = _share_across(across, threshold)
        side: Literal["left", "right"] = "right" if x > 0.5 else "left"
        axes.annotate(
            f"threshold {threshold:.4g}",
            (x, 1),
            (-5 if side == "right" else 5, 3),
            xycoords="axes fraction",
            textcoords="offset points",
            ha=side,
        )
        axes.set_title(title, y=1, pad=19)
        arrows = {"normal": "▲", "anomalous": "▼"}
        for index, (name, colour, values, _) in enumerate(reversed(sides)):
            axes.annotate(
                f"{arrows[name]} {name} ({len(values)})",
                (1, 1),
                (-128 * index, 19),
                xycoords="axes fraction",
                textcoords="offset points",
                ha="right",
                color=colour,
            )
    return svg[0]


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


def roc(title: str, lines: Sequence[RocLine], *, end: float, partial: float, told: str) -> Drawing:
    """Rate of anomalies found over that of false alarms, drawn up to `end`, shaded to `partial`.

    At most two lines have a name.
    """
    with _drawn(284, f"ROC, {title}. {told}", top=26, bottom=244) as (axes, svg):
        axes.set_xlim(0, end)
        axes.set_ylim(0, 1)
        axes.set_xlabel("false-positive rate")
        axes.set_title(title)
        axes.axvspan(0, min(partial, end), color=_PARTIAL, linewidth=0)
        axes.plot([0, end], [0, end], color=_FAINT, linestyle=(0, (1, 3)), gid="chance")
        named = [line for line in lines if line.name is not None]
        for line in lines:
            style: dict[str, Any] = {"color": _FAINT, "linewidth": 1}
            if line.name is not None:
                style = {**_LINES[named.index(line)], "linewidth": 2, "label": line.name}
            fpr, tpr, _ = roc_curve(line.labels, line.scores)
            # What lies right of a cut-off axis ends at its edge.
            kept = fpr <= end
            x, y = [*fpr[kept], end], [*tpr[kept], np.interp(end, fpr, tpr)]
            axes.plot(x, y, gid="thin" if line.name is None else f"line-{line.name}", **style)
            if line.dot is not None and line.dot[0] <= end:
                axes.plot(
                    *line.dot,
                    "o",
                    markersize=10,
                    color=style["color"],
                    markeredgecolor=_PAPER,
                    clip_on=False,
                    gid=f"dot-{line.name}",
                )
        if partial < end:
            axes.annotate("◂ pAUC", (partial, 0), (4, 6), textcoords="offset points")
        if named:
            axes.legend(loc="lower right", bbox_to_anchor=(1, 1.02), ncols=2, columnspacing=1)
    return svg[0]


def curves(
    title: str,
    lines: Sequence[tuple[str, Sequence[float]]],
    *,
    what: str,
    first: int,
    around_zero: bool = False,
    told: str,
) -> Drawing:
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
    up = range_of(values)
    if around_zero:
        extent = max(map(abs, values)) or 1.0
        up = AxisRange(low=-extent, high=extent)
    with _drawn(198, told, top=44, bottom=160) as (axes, svg):
        axes.set_xlim(first, first + max(max(len(line) for _, line in lines) - 1, 1))
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True, steps=[1, 2, 5, 10]))
        axes.set_xlabel(what)
        _scale(axes, "y", up)
        axes.set_title(title, y=1, pad=21)
        for (name, line), style in zip(lines, _LINES, strict=False):
            numbers = range(first, first + len(line))
            marker = "" if len(line) > 1 else "o"
            axes.plot(numbers, line, marker=marker, linewidth=2, label=name, clip_on=False, **style)
        axes.legend(loc="lower left", bbox_to_anchor=(0, 1.03), ncols=2, columnspacing=1)
    return svg[0]


class ColourScale(msgspec.Struct, frozen=True, kw_only=True):
    """Which numbers the ends of a colour scale stand for."""

    low: float
    high: float
    diverging: bool
    """Pale in the middle."""


def picture(
    title: str, array: Float32Array, scale: ColourScale, *, columns: float, what: str, told: str
) -> Drawing:
    """An array of shape (rows, columns) as colours, the first row at the bottom.

    The axis below counts up to `columns`. What is no number has the colour of the lowest.
    """
    with _drawn(198, told, top=26, bottom=160) as (axes, svg):
        axes.imshow(
            np.nan_to_num(array.astype(np.float64), nan=scale.low),
            cmap=_DIVERGING if scale.diverging else _SEQUENTIAL,
            vmin=scale.low,
            vmax=scale.high if scale.high > scale.low else scale.low + 1,
            extent=(0, columns, 0, len(array)),
            origin="lower",
            aspect="auto",
            interpolation="none",
        )
        axes.grid(visible=False)
        axes.xaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
        axes.yaxis.set_major_locator(MaxNLocator(5, integer=True, steps=[1, 2, 5, 10]))
        axes.set_xlabel(what)
        axes.set_title(title)
    return svg[0]


@contextmanager
def _drawn(
    height: int, told: str, *, left: float = _LEFT, top: float, bottom: float
) -> Iterator[tuple[Axes, list[Drawing]]]:
    """Axes to draw on; what was drawn is then in the list."""
    # By what is told: the names within a drawing are its own on a page with several.
    salt = hashlib.sha256(told.encode()).hexdigest()
    drawn: list[Drawing] = []
    with mpl.rc_context({**_STYLE, "svg.hashsalt": salt}):
        size = _WIDTH / _PIXELS_PER_INCH, height / _PIXELS_PER_INCH
        figure = Figure(figsize=size, dpi=_PIXELS_PER_INCH, facecolor="none")
        at = (left / _WIDTH, 1 - bottom / height)
        axes = figure.add_axes(
            (*at, (_RIGHT - left) / _WIDTH, (bottom - top) / height),
        )
        yield axes, drawn
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_minor_locator(NullLocator())
        text = io.StringIO()
        figure.savefig(text, format="svg", metadata={"Date": None})
    drawn.append(Drawing(_page_svg(text.getvalue(), height, told)))


def _page_svg(written: str, height: int, told: str) -> Markup:
    """What matplotlib has written, as a part of a page, and as short as it can be."""
    inner = written[written.index("<g ") : written.rindex("</svg>")]
    inner = re.sub(
        r"<!--.*?-->|<metadata>.*?</metadata>|<style.*?</style>", "", inner, flags=re.DOTALL
    )
    # The page has a font of its own.
    inner = re.sub(r'font-family: [^;"]*;? ?', "", inner)
    # Names that nothing refers to would be there once for each drawing; ours are its classes.
    inner = re.sub(r' id="[A-Za-z][A-Za-z0-9.]*_\d+"', "", inner)
    inner = re.sub(r' id="((?!image)[a-z]+(?:-[a-z ]+)?)"', r' class="\1"', inner)
    inner = re.sub(
        r' (d|x|y|width|height|transform|points|style)="([^"]*)"',
        lambda found: f' {found[1]}="{_shortened(found[2])}"',
        inner,
    )
    for colour, variable in _VARIABLES.items():
        inner = inner.replace(colour, f"var(--{variable})")
    inner = re.sub(r">\s+<", "><", inner).strip()
    words = html.escape(told)
    return Markup(  # noqa: S704 - matplotlib escapes the texts that it was given
        f'<svg viewBox="0 0 {_WIDTH} {height}" role="img" aria-label="{words}">'
        f"<title>{words}</title>{inner}</svg>"
    )


def _shortened(value: str) -> str:
    numbers = re.sub(r"(\.\d\d)\d+", r"\1", value)
    return re.sub(r"\s+", " ", numbers).strip()


def _scale(axes: Axes, which: Literal["x", "y"], across: AxisRange) -> None:
    axis = axes.xaxis if which == "x" else axes.yaxis
    (axes.set_xlim if which == "x" else axes.set_ylim)(across.low, across.high)
    if not across.log:
        axis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
        axis.set_major_formatter(FuncFormatter(lambda value, _: _label(value)))
        return
    (axes.set_xscale if which == "x" else axes.set_yscale)("log")
    decades = math.log10(across.high / across.low)
    axis.set_major_locator(LogLocator(subs=(1, 2, 5) if decades < 2 else (1,), numticks=6))
    axis.set_major_formatter(FuncFormatter(lambda value, _: _label(value)))
    axis.set_minor_formatter(NullFormatter())


def _label(value: float) -> str:
    """How a value is written beside an axis."""
    if value and not 1e-3 <= abs(value) < 1e5:
        power = math.floor(math.log10(abs(value)) + 1e-9)
        factor = f"{value / 10.0**power:.3g}"
        tens = f"10{str(power).translate(_SUPERSCRIPT)}"
        text = tens if factor == "1" else f"{factor}·{tens}"
    else:
        text = f"{value:.6g}"
    return text.replace("-", "\N{MINUS SIGN}")


def _share_across(across: AxisRange, value: float) -> float:
    """Where a value lies, 0 at the left end and 1 at the right."""
    low, high = across.low, across.high
    if across.log:
        low, high, value = math.log10(low), math.log10(high), math.log10(max(value, low))
    return (value - low) / ((high - low) or 1.0)
