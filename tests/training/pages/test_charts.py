"""Drawings: what lies where, and what is told to those who do not see it."""

import base64
import math
import re
import struct
import zlib

import numpy as np
import pytest

from training.pages.charts import (
    Axis,
    Markup,
    RocLine,
    Scale,
    axis_of,
    curves,
    forest,
    histogram,
    picture,
    roc,
    tag,
)


def points(drawing: str, kind: str) -> list[list[tuple[float, float]]]:
    """Places of every line of a kind."""
    return [
        [(float(x), float(y)) for x, y in (place.split(",") for place in places.split())]
        for places in re.findall(rf'points="([^"]*)" class="line {kind}"', drawing)
    ]


def test_text_and_attributes_are_escaped() -> None:
    """Only what is markup already is left as it is."""
    found = tag("p", "<&", Markup("<b/>"), aria_label='"<')

    assert found == '<p aria-label="&quot;&lt;">&lt;&amp;<b/></p>'


@pytest.mark.parametrize(
    ("axis", "labels"),
    [
        (Axis(low=0, high=1), ["0", "0.2", "0.4", "0.6", "0.8", "1"]),
        (Axis(low=-0.3, high=0.3), ["\N{MINUS SIGN}0.2", "0", "0.2"]),
        (Axis(low=0.5, high=2e6, log=True), ["1", "100", "10000", "10⁶"]),
        (Axis(low=12, high=60, log=True), ["20", "50"]),
        (Axis(low=3e-6, high=6e-6, log=True), ["5·10⁻⁶"]),
    ],
)
def test_ticks_are_round_numbers_within_the_axis(axis: Axis, labels: list[str]) -> None:
    """Few, from low to high, short to read."""
    ticks = axis.ticks()

    assert [axis.label(tick) for tick in ticks] == labels
    assert all(axis.low <= tick <= axis.high for tick in ticks)


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
def test_axis_has_room_for_all_values(values: list[float], log: bool) -> None:
    """Also for one, and logarithmic only where all are positive and far apart."""
    axis = axis_of(values, start=10, end=110)

    assert axis.log is log
    assert all(10 <= axis.at(value) < 110 for value in values)


def test_histogram_tells_and_draws_what_is_flagged() -> None:
    """Bars are shares of their own kind, normal ones up, anomalous ones down."""
    drawing = histogram(
        "source",
        [1.0, 1.0, 1.0, 9.0],
        [9.0, 9.0],
        5.0,
        Axis(low=0, high=10),
        what="score",
    )

    assert "source: 1 of 4 normal above the threshold 5, 2 of 2 anomalous" in drawing
    bars = re.findall(r'y="([\d.]+)" width="[\d.]+" height="([\d.]+)" class="(\w+)"', drawing)
    ((_, axis_y), _) = points(drawing, "axis")[0]
    heights = {(kind, float(height)) for _, height, kind in bars}
    assert heights == {("normal", 52.5), ("normal", 17.5), ("anomaly", 70.0)}
    assert all(
        float(y) + float(height) == axis_y if kind == "normal" else float(y) == axis_y
        for y, height, kind in bars
    )


def test_histogram_of_normal_sound_alone_says_nothing_of_anomalies() -> None:
    """It has all the height to itself, and no second legend."""
    drawing = histogram("held out", [1.0], None, 5.0, Axis(low=0, high=10), what="statistic")

    assert "anomal" not in drawing
    assert 'height="144.0" class="normal"' in drawing


def test_roc_ends_at_the_edge_and_keeps_its_dot_inside() -> None:
    """A line cut off keeps its rate there; a dot further right is not drawn."""
    line = RocLine(
        name="source",
        labels=np.array([False, False, True, True]),
        scores=np.array([1.0, 3.0, 2.0, 4.0]),
        dot=(0.5, 0.5),
    )
    cut, whole = (roc("t", [line], end=end, partial=0.1, told="AUC 0.75") for end in (0.1, 1.0))

    assert points(cut, "first")[0][-1] == (346.0, 135.0)
    assert points(whole, "first")[0][-1] == (346.0, 26.0)
    assert "<circle" not in cut
    assert 'cx="198.0" cy="135.0"' in whole
    assert "<title>ROC, t. AUC 0.75</title>" in whole


def test_best_of_the_yardsticks_is_thin_and_has_no_legend() -> None:
    """Kinds go to the lines that have a name, in their order."""
    labels, scores = np.array([False, True]), np.array([0.0, 1.0])
    names = (None, "source", "target")
    lines = [RocLine(name=name, labels=labels, scores=scores) for name in names]

    drawing = roc("t", lines, end=1.0, partial=0.1, told="")

    assert [len(points(drawing, kind)) for kind in ("thin", "first", "second")] == [1, 2, 2]


def test_interval_of_a_figure_lies_about_it() -> None:
    """Our own is a square, a yardstick a ring, and what is not known is left out."""
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

    assert points(drawing, "whisker") == [[(191.5, 20.0), (294.5, 20.0)]]
    assert '<rect x="238.0" y="15.0"' in drawing
    assert re.findall(r'cx="([\d.]+)"', drawing) == ["294.5"]


def test_curve_about_zero_has_zero_in_the_middle() -> None:
    """Both lines share one scale; a single value is a dot."""
    drawing = curves(
        "t",
        [("least", [0.0, 0.5, -0.5]), ("most", [2.0])],
        what="band",
        first=0,
        around_zero=True,
        told="t",
    )

    line, _ = points(drawing, "first")
    assert line == [(50.0, 102.0), (198.0, 87.5), (346.0, 116.5)]
    assert 'cx="50.0" cy="44.0"' in drawing


def test_curve_of_losses_counts_from_one() -> None:
    """The first epoch is at the left end and the last at the right."""
    drawing = curves("t", [("trained", [3.0, 2.0])], what="epoch", first=1, told="t")

    line, _ = points(drawing, "first")
    assert [x for x, _ in line] == [50.0, 346.0]


def test_picture_holds_each_number_as_its_share_of_the_scale() -> None:
    """The first row is at the bottom; what is beyond the scale, or no number, has its end."""
    array = np.array([[0.0, 1.0, 2.0], [-9.0, 9.0, math.nan]], np.float32)
    scale = Scale(low=0.0, high=2.0, diverging=False)

    drawing = picture("t", array, scale, columns=3, what="column", told="t")

    encoded = re.search(r'href="data:image/png;base64,([^"]+)"', drawing)
    assert encoded
    content = base64.b64decode(encoded[1])
    assert struct.unpack(">II", content[16:24]) == (3, 2)
    start = content.index(b"IDAT")
    (length,) = struct.unpack(">I", content[start - 4 : start])
    rows = zlib.decompress(content[start + 4 : start + 4 + length])
    assert rows == bytes([0, 0, 255, 0, 0, 0, 128, 255])
