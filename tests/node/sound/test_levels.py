"""Levels, and what they say of the gain."""

import math

import numpy as np
import pytest

from contract.features import Float32Array
from node.findings import Grade
from node.sound.levels import FLOOR_DBFS, Level, Levels, clipped_share, dbfs, level_findings
from node.sound.source import Block


def tone(amplitude: float, *, offset: float = 0.0) -> Float32Array:
    """Whole periods of a sine, cut off at full scale."""
    wave = amplitude * np.sin(np.arange(16_000) * (2 * math.pi / 160)) + offset
    return np.asarray(np.clip(wave, -1.0, 1.0), np.float32)


def level_of(samples: Float32Array) -> Level:
    levels = Levels()
    for part in np.array_split(samples, 7):
        block = Block(samples=part, captured_monotonic_ns=0)
        levels.hear(part, clipped=clipped_share(block))
    assert levels.level is not None
    return levels.level


def test_level_of_a_tone_is_known() -> None:
    """RMS is the amplitude over the root of two, the peak is the amplitude, without the offset."""
    level = level_of(tone(0.1, offset=0.02))

    assert level.rms_dbfs == pytest.approx(-20 - 3.01, abs=0.01)
    assert level.peak_dbfs == pytest.approx(dbfs(0.12), abs=0.01)
    assert level.offset == pytest.approx(0.02, abs=1e-4)
    assert level.clipped == 0.0


def test_nothing_heard_has_no_level() -> None:
    """Before the first sample there is no level, and an empty block is none."""
    levels = Levels()
    levels.hear(np.zeros(0, np.float32), clipped=0.0)

    assert levels.level is None


def test_silence_is_the_floor() -> None:
    """Digital silence has the lowest level, and is told as constant."""
    level = level_of(np.zeros(1000, np.float32))

    assert (level.rms_dbfs, level.peak_dbfs, level.constant) == (FLOOR_DBFS, FLOOR_DBFS, True)


def test_worst_channel_counts_for_clipping() -> None:
    """What the source says of its channels beats what their mix shows."""
    block = Block(samples=tone(0.5), captured_monotonic_ns=0, clipped=0.25)

    assert clipped_share(block) == 0.25


@pytest.mark.parametrize(
    ("samples", "grade", "words"),
    [
        (tone(0.2), Grade.OK, "-17.0 dBFS"),
        (tone(0.9), Grade.WARNING, "lower the gain by about 10 dB"),
        (tone(2.0), Grade.PROBLEM, "lower the gain by at least 10 dB"),
        (tone(0.001), Grade.WARNING, "raise the gain by about 28 dB"),
        (tone(0.00005), Grade.PROBLEM, "too quiet"),
        (np.zeros(100, np.float32), Grade.PROBLEM, "digital silence"),
        (np.full(100, 0.3, np.float32), Grade.PROBLEM, "constant 0.3000"),
    ],
    ids=["good", "loud", "clipped", "quiet", "faint", "silent", "stuck"],
)
def test_advice_on_gain(samples: Float32Array, grade: Grade, words: str) -> None:
    """Each fault of the level is told with the change in dB that cures it."""
    findings = level_findings(level_of(samples))

    assert [finding.grade for finding in findings] == [grade]
    assert words in f"{findings[0].found} {findings[0].advice}"


def test_knocks_leave_no_room_for_gain() -> None:
    """Quiet sound with single loud peaks is not told to be amplified into clipping."""
    samples = np.tile(tone(0.0005), 40)
    samples[5000] = 0.5

    (finding,) = level_findings(level_of(samples))

    assert finding.advice is not None
    assert "no room for more gain" in finding.advice


@pytest.mark.parametrize(
    ("offset", "grades"),
    [
        (0.03, [Grade.OK]),
        (0.07, [Grade.OK, Grade.WARNING]),
        (0.3, [Grade.OK, Grade.PROBLEM]),
    ],
)
def test_offset_is_told_beside_the_level(offset: float, grades: list[Grade]) -> None:
    """A small steady offset is by design, a large one is a fault of the microphone."""
    findings = level_findings(level_of(tone(0.1, offset=offset)))

    assert [finding.grade for finding in findings] == grades
