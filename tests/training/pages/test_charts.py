"""Drawings: what lies where, and what is told to those who do not see it."""

import base64
import io
import math
import re

import numpy as np
import pytest
from matplotlib import image as mpl_image

from training.pages.blocks import Drawing
from training.pages.charts import (
    AxisRange,
    ColourScale,
    RocLine,
    curves,
    forest,
    histogram,
    picture,
    range_of,
    roc,
)

Point = tuple[float, float]


def paths(drawing: Drawing, name: str) -> list[list[Point]]:
    """Places of every path of a class."""
    groups = re.findall(rf'<g class="{name}">(.*?)</g>', drawing.svg)
    return [
        [(float(x), float(y)) for x, y in re.findall(r"[ML] ([-.0-9]+) ([-.0-9]+)", path)]
        for group in groups
        for path in re.findall(r' d="([^"]*)" clip-path', group)
    ]


def markers(drawing: Drawing, name: str) -> list[Point]:
    """Places of every marker of a class."""
    groups = re.findall(rf'<g class="{name}">(.*?)</g></g>', drawing.svg)
    return [
        (float(x), float(y))
        for group in groups
        for x, y in re.findall(r'<use [^>]*x="([-.0-9]+)" y="([-.0-9]+)"', group)
    ]


def texts(drawing: Drawing) -> list[str]:
    """All that can be read in a drawing."""
    return re.findall(r"<text [^>]*>([^<]*)</text>", drawing.svg)


def height(bar: list[Point]) -> float:
    """How far it reaches upwards or downwards."""
    places = [y for _, y in bar]
    return max(places) - min(places)


def line_of_losses(told: str = "t") -> Drawing:
    """Two losses after two epochs."""
    return curves("t", [("trained", [3.0, 2.0])], what="epoch", first=1, told=told)


def test_drawing_is_a_part_of_any_page() -> None:
    """The same numbers give the same text, which names no file, address or day of its own."""
    drawing, other = line_of_losses().svg, line_of_losses("u").svg

    assert drawing == line_of_losses().svg
    assert not re.search(r"://|<metadata|<style|<\?xml|font-family| id=\"[A-Za-z]+_", drawing)
    names, others = (set(re.findall(r' id="([^"]*)"', each)) for each in (drawing, other))
    assert names
    assert not names & others
    assert set(re.findall(r'(?:href="|url\()#([a-z0-9]+)', drawing)) <= names


def test_colours_are_those_of_the_page() -> None:
    """A drawing has none of its own, so that it is dark where the page is."""
    assert not re.search(r"#[0-9a-f]{6}[^0-9a-f]", line_of_losses().svg)
    assert "stroke: var(--normal)" in line_of_losses().svg


def test_texts_are_escaped_and_taken_as_they_are() -> None:
    """Neither an element nor a formula can come in by a name."""
    evil = '<b>"$x$&'

    drawing = curves(evil, [(evil, [1.0, 2.0])], what="epoch", first=1, told=evil)

    assert "<b>" not in drawing.svg
    assert drawing.svg.count("&lt;b&gt;") == 4
    assert texts(drawing).count('&lt;b&gt;"$x$&amp;') == 2


@pytest.mark.parametrize(
    ("values", "log"),
    [
        ([1.0, 49.0], False),
        ([1.0, 50.0], True),
        ([0.0, 1e6], False),
        ([-5.0, 5.0], False),
        ([7.0, 7.0], False),
        ([0.0], False),
    ],
)
def test_range_has_room_for_all_values(values: list[float], log: bool) -> None:
    """Also for one, and logarithmic only where all are positive and far apart."""
    found = range_of(values)

    assert found.log is log
    assert all(found.low <= value < found.high for value in values)
    assert (np.diff(found.edges) > 0).all()


def test_histogram_tells_and_draws_what_is_flagged() -> None:
    """Bars are shares of their own kind, normal ones up, anomalous ones down."""
    drawing = histogram(
        "source", [1.0, 1.0, 1.0, 9.0], [9.0, 9.0], 5.0, AxisRange(low=0, high=10), what="score"
    )

    assert "source: 1 of 4 normal above the threshold 5, 2 of 2 anomalous" in drawing.svg
    up, down = paths(drawing, "bars-normal"), paths(drawing, "bars-anomalous")
    low, high = sorted(map(height, up))
    (all_of_them,) = map(height, down)
    assert high == pytest.approx(3 * low, abs=0.1)
    assert all_of_them == pytest.approx(4 * low, abs=0.1)
    assert max(y for bar in up for _, y in bar) == min(y for bar in down for _, y in bar)


def test_bars_beyond_the_threshold_lie_right_of_its_line() -> None:
    """So does an axis that counts in powers of ten."""
    drawing = histogram(
        "t", [0.1, 2.0], [90.0], 10.0, AxisRange(low=0.05, high=200, log=True), what="score"
    )

    ((x, _), _) = paths(drawing, "limit")[0]
    assert all(point[0] < x for bar in paths(drawing, "bars-normal") for point in bar)
    assert all(point[0] > x for bar in paths(drawing, "bars-anomalous") for point in bar)


def test_histogram_of_normal_sound_alone_says_nothing_of_anomalies() -> None:
    """It has all the height to itself, and no second legend."""
    drawing = histogram("held out", [1.0], None, 5.0, AxisRange(low=0, high=10), what="statistic")

    assert "anomal" not in drawing.svg
    assert max(y for _, y in paths(drawing, "bars-normal")[0]) == 190


def test_roc_ends_at_the_edge_and_keeps_its_dot_inside() -> None:
    """A line cut off keeps its rate there; a dot further right is not drawn."""
    line = RocLine(
        name="source",
        labels=np.array([False, False, True, True]),
        scores=np.array([1.0, 3.0, 2.0, 4.0]),
        dot=(0.5, 0.5),
    )
    cut, whole = (roc("t", [line], end=end, partial=0.1, told="AUC 0.75") for end in (0.1, 1.0))

    assert paths(cut, "line-source")[0][-1] == (346, 135)
    assert paths(whole, "line-source")[0][-1] == (346, 26)
    assert markers(cut, "dot-source") == []
    assert markers(whole, "dot-source") == [(198, 135)]
    assert "<title>ROC, t. AUC 0.75</title>" in whole.svg


def test_best_of_the_yardsticks_is_thin_and_has_no_legend() -> None:
    """Those that have a name are in the legend, in their order."""
    labels, scores = np.array([False, True]), np.array([0.0, 1.0])
    names = (None, "source", "target")
    lines = [RocLine(name=name, labels=labels, scores=scores) for name in names]

    drawing = roc("t", lines, end=1.0, partial=0.1, told="")

    assert [len(paths(drawing, name)) for name in ("thin", "line-source", "line-target")] == [1] * 3
    assert [text for text in texts(drawing) if text in names] == ["source", "target"]


def test_interval_of_a_figure_lies_about_it() -> None:
    """What is not known is left out; its name stands there all the same."""
    drawing = forest(
        [
            ("own", 0.5, (0.25, 0.75), "own"),
            ("knn", 0.75, None, "yardstick"),
            ("none", None, None, "yardstick"),
        ],
        what="score",
        chance=0.5,
        told="t",
    )

    ((left, y), (right, _)) = paths(drawing, "whisker")[0]
    ((x, own_y),) = markers(drawing, "own")
    assert (left + right) / 2 == pytest.approx(x)
    assert y == own_y
    assert x == paths(drawing, "chance")[0][0][0]
    assert [place for place, _ in markers(drawing, "yardstick")] == [right]
    assert {"own", "knn", "none"} <= set(texts(drawing))


def test_curve_of_losses_counts_from_one() -> None:
    """The first epoch is at the left end and the last at the right."""
    assert {"1", "2"} <= set(texts(line_of_losses()))
    assert "trained" in texts(line_of_losses())


def test_curve_about_zero_has_zero_in_the_middle() -> None:
    """As much is shown below 0 as above it."""
    lines = [("least", [0.0, 0.5, -0.5]), ("most", [2.0])]

    drawing = curves("t", lines, what="band", first=0, around_zero=True, told="t")

    found = texts(drawing)
    assert {"\N{MINUS SIGN}2", "0", "2"} <= set(found)


def test_picture_holds_each_number_as_its_share_of_the_scale() -> None:
    """The first row is at the bottom; what is beyond the scale, or no number, has its end."""
    array = np.array([[0.0, 1.0, 2.0], [-9.0, 9.0, math.nan]], np.float32)
    scale = ColourScale(low=0.0, high=2.0, diverging=False)

    drawing = picture("t", array, scale, columns=3, what="column", told="t")

    encoded = re.search(r'href="data:image/png;base64,([^"]+)"', drawing.svg)
    assert encoded
    pixels = mpl_image.imread(io.BytesIO(base64.b64decode(encoded[1])), format="png")
    assert pixels.shape[:2] == (2, 3)
    # Upwards from the axis: the first row of pixels is the lowest.
    assert re.search(r'transform="matrix\([0-9.]+ 0 0 -[0-9.]+ 50 160\)"', drawing.svg)
    low, middle, high = pixels[0]
    assert not np.array_equal(low, middle)
    assert not np.array_equal(middle, high)
    np.testing.assert_array_equal(pixels[1], [low, high, low])
