"""A level meter on one line."""

import io

import numpy as np

from node.sound.level_meter import LevelMeter, meter_line
from node.sound.source import Block

RATE_HZ = 8000


def block(amplitude: float, seconds: float = 0.1, clipped: float | None = None) -> Block:
    samples = np.full(round(seconds * RATE_HZ), amplitude, np.float32)
    samples[::2] *= -1
    return Block(samples=samples, captured_monotonic_ns=0, clipped=clipped)


def drawn(*blocks: Block) -> list[str]:
    stream = io.StringIO()
    meter = LevelMeter(stream)
    for each in blocks:
        meter.hear(each, RATE_HZ, "0:09")
    return stream.getvalue().split("\r")[1:]


def test_bar_grows_with_the_level() -> None:
    """Full scale fills the bar, half of the range in dB half of it, the floor nothing."""
    assert meter_line(0.0, 0.0, 0).count("#") == 35  # and the mark of the peak
    assert meter_line(-36.0, 0.0, 0).count("#") == 18
    assert meter_line(-144.0, -144.0, 0).count("#") == 0


def test_line_fits_a_terminal() -> None:
    """With every number at its widest the line is no longer than 80 columns."""
    assert len(meter_line(-144.0, -144.0, 0, "1440:00")) < 80
    assert len(meter_line(-31.2, -10.0, 99_999, "")) < 80


def test_peak_is_held_then_let_go() -> None:
    """A knock is seen for a second after it, and forgotten later."""
    lines = drawn(block(0.5), *[block(0.01)] * 20)

    assert "peak   -6.0" in lines[5]
    assert "peak  -40.0" in lines[-1]


def test_clipped_samples_are_counted() -> None:
    """What is at full scale adds up, and stays told."""
    lines = drawn(block(1.0, 0.1), block(0.1), block(0.1, clipped=0.5))

    assert "CLIPPED 800 " in lines[1]
    assert "CLIPPED 1200 " in lines[2]


def test_line_is_wiped() -> None:
    """Text after the meter begins on an empty line; a meter that drew nothing wipes nothing."""
    stream = io.StringIO()
    meter = LevelMeter(stream)
    meter.finish()
    assert not stream.getvalue()

    meter.hear(block(0.1), RATE_HZ)
    meter.finish()

    _, line, blanks, rest = stream.getvalue().split("\r")
    assert (len(line), blanks.strip(), rest) == (len(blanks), "", "")
