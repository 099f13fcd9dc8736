"""The table says each node's condition in a word and a colour."""

import io

import pytest
from rich.console import Console

from collector.watch.fleet_table import line, render, sparkline
from collector.watch.fleet_view import FleetView
from contract.messages import Message
from contract.states import PresenceReason
from tests.rig.examples import START_US, status, window

NOW_US = START_US + 1_000_000


def view_of(*messages: Message) -> FleetView:
    view = FleetView()
    for message in messages:
        view.take(message, now_us=NOW_US)
    return view


def drawn(
    view: FleetView,
    now_us: int = NOW_US,
    *,
    color: bool = False,
    width: int = 160,
    is_terminal: bool = True,
) -> str:
    console = Console(
        file=io.StringIO(),
        width=width,
        force_terminal=is_terminal,
        color_system="standard" if color else None,
        legacy_windows=False,
    )
    console.print(render(view, now_us, console))
    file = console.file
    assert isinstance(file, io.StringIO)
    return file.getvalue()


def test_table_has_a_row_per_node() -> None:
    """With MSE, threshold, score, model, level and age."""
    text = drawn(
        view_of(window(node="a"), window(node="b", mse=90.0, score=2.0, anomaly=True)),
        NOW_US + 7_000_000,
    )

    (a,) = [row for row in text.splitlines() if " a " in row]
    (b,) = [row for row in text.splitlines() if " b " in row]
    for part in ("healthy", "31", "45", "0.689", "fan@17", "-31 dBFS", "7 s ago"):
        assert part in a
    assert "anomalous" in b


@pytest.mark.parametrize("width", [60, 80, 100, 110, 120, 150])
def test_narrow_terminal_still_shows_what_matters(width: int) -> None:
    """Node, word, score and the newest scores are whole at any usual width; nothing is cut off."""
    scores = [0.1] * 40 + [2.0, 2.0, 2.0]
    view = view_of(
        *(
            window(node="press-line-07", seq=n, mse=31.0, score=score, anomaly=score > 1)
            for n, score in enumerate(scores)
        )
    )

    text = drawn(view, width=width)

    (row,) = [row for row in text.splitlines() if "press-line-07" in row]
    assert "anomalous" in row
    assert " 2 " in row
    assert "▁▁███" in row
    assert "…" not in text


@pytest.mark.parametrize(
    ("message", "code"),
    [
        (window(), "\x1b[32mhealthy"),
        (window(anomaly=True), "\x1b[1;31manomalous"),
        (status(PresenceReason.LOST), "\x1b[2moffline"),
    ],
)
def test_word_has_a_colour(message: Message, code: str) -> None:
    """Green, red, dim."""
    assert code in drawn(view_of(message), color=True)


def test_in_a_pipe_there_are_words_in_columns_alone() -> None:
    """For other programs: neither lines around them nor a title."""
    names, row = drawn(view_of(window(node="a")), is_terminal=False).splitlines()

    assert names.split()[:4] == ["node", "is", "MSE", "threshold"]
    assert row.split()[:4] == ["a", "healthy", "31", "45"]


def test_empty_fleet_is_an_empty_table() -> None:
    """Before the first message."""
    assert "node" in drawn(FleetView())


def test_sparkline_is_half_high_at_the_threshold() -> None:
    """It ends at twice the threshold; a missing score is a dot, a negative one the lowest bar."""
    assert sparkline((0.0, 0.99, 1.0, 2.0, 1e9, None, -1.0)) == "▁▄▅██·▁"


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0 s"), (119, "119 s"), (600, "10 min"), (8000, "2 h")]
)
def test_age_has_a_fitting_unit(seconds: int, text: str) -> None:
    """Days and hours are not told in seconds."""
    now_us = NOW_US + seconds * 1_000_000
    (row,) = view_of(window()).rows(now_us=now_us)

    assert line(row, now_us).endswith(f"heard {text} ago")


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0"),
        (1.9424e-130, "2e-130"),
        (9.6e-6, "1e-05"),
        (0.000123, "0.0001"),
        (0.00999, "0.01"),
        (0.01234, "0.0123"),
        (0.6889, "0.689"),
        (1.0, "1"),
        (45.678, "45.7"),
        (999.49, "999"),
        (999.5, "1000"),
        (12345.6, "12346"),
        (999_999.4, "999999"),
        (999_999.5, "1e+06"),
        (1.9424e130, "2e+130"),
    ],
)
def test_number_has_six_characters_at_most(value: float, text: str) -> None:
    """MSE, threshold and score of any size fit their columns, also in the narrowest table."""
    view = view_of(window(mse=value, statistic=value, score=value, threshold=max(value, 1e-12)))
    (row,) = view.rows(now_us=NOW_US)

    assert len(text) <= 6
    assert f"mse {text} threshold" in line(row, NOW_US)
    assert f"score {text} machine" in line(row, NOW_US)
    for width in (60, 80, 120):
        table = drawn(view, width=width)
        assert f" {text} " in table
        assert "…" not in table


def test_line_says_as_much_as_a_row() -> None:
    """For logs and pipes."""
    (row,) = view_of(window()).rows(now_us=NOW_US)

    assert line(row, NOW_US) == (
        "press-07 healthy: mse 31 threshold 45 score 0.689 machine normal microphone -"
        " model fan@17 windows 1 heard 0 s ago"
    )
