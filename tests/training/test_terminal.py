"""Tables for a terminal, and for a pipe."""

from training.terminal import table_rows

HEADS = ("rule", "rings a day", "95 %")
ROWS = [("calibrated 60 min", "1.23", "0.025..12.3"), ("[red]", "-", "-")]


def test_pipe_gets_one_line_for_each_row() -> None:
    """Words begin at the left and numbers end at the right; nothing is a command for colours."""
    assert table_rows(HEADS, ROWS, indent=2) == [
        "  rule               rings a day         95 %",
        "  calibrated 60 min         1.23  0.025..12.3",
        "  [red]                        -            -",
    ]


def test_narrow_terminal_gets_words_below_each_other_and_whole_numbers() -> None:
    """What does not fit goes on in the next line of its column."""
    found = table_rows(HEADS, ROWS, width=28)

    assert all(len(line) <= 28 for line in found)
    assert found[-3:] == ["calibrated  1.23 0.025..12.3", "60 min", "[red]          -           -"]


def test_numbers_are_not_cut_where_nothing_fits() -> None:
    """The lines are then wider than was asked for."""
    found = table_rows(HEADS, ROWS, width=5)

    assert any("0.025..12.3" in line for line in found)
