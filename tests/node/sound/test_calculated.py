"""Calculated sound, played like a microphone's."""

import time

import numpy as np
import pytest

from node.sound.calculated import CalculatedSource
from node.sound.source import Block, EndOfSound
from node.sound.synthetic import MachineSound, Synthesizer

RATE_HZ = 16_000


def source(seconds: float | None, *, fast: bool = True, rate_hz: int = RATE_HZ) -> CalculatedSource:
    sound = MachineSound(machine="fan", unit=3, seed=5, seconds=seconds)
    return CalculatedSource(sound, sample_rate_hz=rate_hz, fast=fast)


def play(given: CalculatedSource) -> list[Block]:
    found: list[Block] = []
    with given:
        while True:
            try:
                block = given.read(1.0)
            except EndOfSound:
                return found
            if block is not None:
                found.append(block)


@pytest.mark.parametrize(("seconds", "count"), [(0.1, 1600), (0.25, 4000), (1.1, 17_600)])
def test_sound_is_the_synthesizers(seconds: float, count: int) -> None:
    """The blocks together are the machine's sound, exactly as long as asked for."""
    samples = np.concatenate([block.samples for block in play(source(seconds))])

    expected = Synthesizer(MachineSound(machine="fan", unit=3, seed=5), sample_rate_hz=RATE_HZ)
    np.testing.assert_array_equal(samples, expected.read(count))


def test_blocks_follow_each_other() -> None:
    """Calculated sound has no gaps: neither in what the blocks say nor in their times."""
    blocks = play(source(1.1))

    starts_ns = [block.captured_monotonic_ns for block in blocks]
    assert all(block.continuous for block in blocks)
    assert [len(block.samples) for block in blocks] == [4000] * 4 + [1600]
    np.testing.assert_allclose(np.diff(starts_ns), 0.25e9, rtol=0, atol=1000)


def test_fast_sound_ends_now() -> None:
    """Fast sound is stamped as if it had just been heard."""
    before_ns = time.monotonic_ns()
    blocks = play(source(60.0))
    after_ns = time.monotonic_ns()

    assert before_ns - 1000 <= blocks[0].captured_monotonic_ns + 60 * 10**9 <= after_ns


def test_real_time_is_waited_for() -> None:
    """A block is given when a microphone would have heard it, stamped with its first sample."""
    before_ns = time.monotonic_ns()
    (block,) = play(source(0.1, fast=False))
    after_ns = time.monotonic_ns()

    assert after_ns - before_ns >= 100_000_000
    assert before_ns <= block.captured_monotonic_ns <= after_ns - 100_000_000


def test_real_time_is_not_waited_for_too_long() -> None:
    """Where the block is not due in time there is none, and nothing of it is lost."""
    with source(0.1, fast=False) as given:
        early = given.read(0.001)
        block = given.read(5.0)

    assert early is None
    assert block is not None
    assert len(block.samples) == 1600


def test_sound_without_an_end_goes_on() -> None:
    """Without a length there is always a next block."""
    with source(None, fast=True) as given:
        blocks = [given.read(0.0) for _ in range(50)]

    assert all(block is not None and len(block.samples) == 4000 for block in blocks)


def test_sound_that_has_ended_stays_ended() -> None:
    """After the last block there is none, however often one asks."""
    with source(0.1) as given:
        given.read(0.0)
        for _ in range(2):
            with pytest.raises(EndOfSound):
                given.read(0.0)


def test_identity_and_rate() -> None:
    """The machine is named by kind, unit and take; the rate is the one asked for."""
    given = source(1.0, rate_hz=48_000)

    assert given.identity == "synthetic:fan?unit=3&seed=5"
    assert given.sample_rate_hz == 48_000
    assert (given.overruns, given.reopened, given.outage) == (0, 0, None)
