"""Framing: windows of the model's rate out of blocks of any length and rate."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pytest
import soxr
from hypothesis import given, settings
from hypothesis import strategies as st

from node.sound.framing import FramedWindow, Framer
from node.sound.source import Block

Samples = npt.NDArray[np.float32]

RATE_HZ = 16_000
START_NS = 5_000_000_000_000


class Shape(NamedTuple):
    """Window length and hop, in samples."""

    window: int
    hop: int


def noise(count: int) -> Samples:
    return (0.1 * np.random.default_rng(7).standard_normal(count)).astype(np.float32)


def framer(shape: Shape) -> Framer:
    return Framer(sample_rate_hz=RATE_HZ, window_samples=shape.window, hop_samples=shape.hop)


def blocks(samples: Samples, sizes: Sequence[int], rate_hz: int) -> list[Block]:
    """Cut as a source would: stamped with the time of the first sample, the first one a start."""
    found: list[Block] = []
    position = 0
    while position < len(samples):
        size = sizes[len(found) % len(sizes)]
        found.append(
            Block(
                samples=samples[position : position + size],
                captured_monotonic_ns=START_NS + position * 1_000_000_000 // rate_hz,
                continuous=position > 0,
            )
        )
        position += size
    return found


def push_all(into: Framer, given_blocks: list[Block], rate_hz: int) -> list[FramedWindow]:
    return [window for block in given_blocks for window in into.push(block, rate_hz)]


SIZES = st.lists(st.integers(1, 700), min_size=1, max_size=8)
SHAPES = st.integers(1, 300).flatmap(
    lambda window: st.builds(Shape, st.just(window), st.integers(1, window))
)


@given(SHAPES, SIZES, st.integers(0, 1500))
@settings(max_examples=200, deadline=None, database=None)
def test_windows_are_slices(shape: Shape, sizes: list[int], count: int) -> None:
    """Window k is `samples[k * hop : k * hop + length]`, and all that fit are given."""
    samples = noise(count)

    windows = push_all(framer(shape), blocks(samples, sizes, RATE_HZ), RATE_HZ)

    expected = max(0, (count - shape.window) // shape.hop + 1)
    assert len(windows) == expected
    for k, window in enumerate(windows):
        np.testing.assert_array_equal(
            window.samples, samples[k * shape.hop : k * shape.hop + shape.window]
        )


@given(SHAPES, SIZES)
@settings(max_examples=100, deadline=None, database=None)
def test_window_is_stamped_with_its_first_sample(shape: Shape, sizes: list[int]) -> None:
    """A window's time is that of its first sample, within one sample period."""
    windows = push_all(framer(shape), blocks(noise(1500), sizes, RATE_HZ), RATE_HZ)

    for k, window in enumerate(windows):
        due_ns = START_NS + k * shape.hop * 1_000_000_000 // RATE_HZ
        assert abs(window.start_monotonic_ns - due_ns) <= 1_000_000_000 / RATE_HZ


def test_window_comes_with_the_block_that_completes_it() -> None:
    """A window is given at once, and one sample before it is complete it is not."""
    into = framer(Shape(100, 50))
    first, last = blocks(noise(100), [99, 1], RATE_HZ)

    assert list(into.push(first, RATE_HZ)) == []
    assert len(list(into.push(last, RATE_HZ))) == 1


def test_windows_are_copies() -> None:
    """Writing into a window changes neither the source's block nor the windows after it."""
    samples = noise(200)
    kept = samples.copy()

    windows = []
    for window in framer(Shape(100, 50)).push(blocks(samples, [200], RATE_HZ)[0], RATE_HZ):
        assert window.samples is not None
        windows.append(window.samples.copy())
        window.samples.fill(9.0)

    np.testing.assert_array_equal(samples, kept)
    np.testing.assert_array_equal(windows, [kept[:100], kept[50:150], kept[100:]])


def test_gap_starts_anew() -> None:
    """No window holds sound from both sides of a gap; the first after it starts right there."""
    into = framer(Shape(100, 50))
    before, after = noise(149), np.ones(120, np.float32)
    gap_ns = START_NS + 60_000_000_000

    first = push_all(into, blocks(before, [40], RATE_HZ), RATE_HZ)
    second = list(
        into.push(Block(samples=after, captured_monotonic_ns=gap_ns, continuous=False), RATE_HZ)
    )

    assert len(first) == 1
    assert [window.start_monotonic_ns for window in second] == [gap_ns]
    np.testing.assert_array_equal(second[0].samples, np.ones(100))


@pytest.mark.parametrize("rate_hz", [RATE_HZ, 48_000])
def test_sound_after_a_gap_is_as_from_the_start(rate_hz: int) -> None:
    """Nothing of the stretch before, not even a filter's memory, is heard after a gap."""
    shape = Shape(1600, 800)
    used, fresh = framer(shape), framer(shape)
    push_all(used, blocks(noise(9000), [1000], rate_hz), rate_hz)
    stretch = blocks(noise(12_000), [700], rate_hz)

    after_gap = push_all(used, stretch, rate_hz)
    from_start = push_all(fresh, stretch, rate_hz)

    assert len(after_gap) == len(from_start) > 0
    for one, other in zip(after_gap, from_start, strict=True):
        np.testing.assert_array_equal(one.samples, other.samples)
        assert one.start_monotonic_ns == other.start_monotonic_ns


def test_clock_drift_does_not_add_up() -> None:
    """A sound card that runs slow is followed: stamps stay with the blocks', not with a count."""
    drift = 1.001
    into, shape = framer(Shape(1600, 1600)), Shape(1600, 1600)
    slow = [
        Block(
            samples=block.samples,
            captured_monotonic_ns=round(
                START_NS + (block.captured_monotonic_ns - START_NS) * drift
            ),
            continuous=block.continuous,
        )
        for block in blocks(noise(60 * RATE_HZ), [1600], RATE_HZ)
    ]

    windows = push_all(into, slow, RATE_HZ)

    due_ns = START_NS + (len(windows) - 1) * shape.hop / RATE_HZ * 1e9 * drift
    assert windows[-1].start_monotonic_ns == pytest.approx(due_ns, abs=1e9 / RATE_HZ)


RATES_HZ = [8_000, 22_050, 44_100, 48_000, 96_000]


def resampled(rate_hz: int, sizes: Sequence[int], samples: Samples) -> Samples:
    """What the framer hears: windows without overlap, put together again."""
    windows = push_all(framer(Shape(160, 160)), blocks(samples, sizes, rate_hz), rate_hz)
    return np.concatenate([window.samples for window in windows])


@pytest.mark.parametrize("rate_hz", RATES_HZ)
def test_resampled_sound_is_that_of_the_whole(rate_hz: int) -> None:
    """Resampling a stream by blocks gives what resampling it at once does, to 1e-4."""
    samples = noise(2 * rate_hz)
    whole = soxr.resample(samples, rate_hz, RATE_HZ)

    heard = resampled(rate_hz, [rate_hz // 4], samples)

    assert len(heard) > 0.9 * len(whole)
    edge = RATE_HZ // 20
    np.testing.assert_allclose(
        heard[edge:-edge], whole[edge : len(heard) - edge], rtol=0, atol=1e-4
    )


@given(st.sampled_from(RATES_HZ), st.lists(st.integers(1, 9000), min_size=1, max_size=6))
@settings(max_examples=40, deadline=None, database=None)
def test_block_sizes_are_not_heard(rate_hz: int, sizes: list[int]) -> None:
    """However a stream is cut into blocks, the windows are the same."""
    samples = noise(rate_hz // 2)
    at_once = resampled(rate_hz, [len(samples)], samples)

    in_pieces = resampled(rate_hz, sizes, samples)

    count = min(len(at_once), len(in_pieces))
    assert count > 0.8 * RATE_HZ / 2
    np.testing.assert_allclose(in_pieces[:count], at_once[:count], rtol=0, atol=1e-6)


@pytest.mark.parametrize("rate_hz", RATES_HZ)
def test_resampled_window_is_stamped_with_its_first_sample(rate_hz: int) -> None:
    """A click lies where a window's time stamp says, within one sample period."""
    shape = Shape(1600, 800)
    samples = np.zeros(rate_hz, np.float32)
    samples[rate_hz // 2] = 1.0

    windows = push_all(framer(shape), blocks(samples, [rate_hz // 7], rate_hz), rate_hz)

    heard = [
        (window.start_monotonic_ns, np.abs(window.samples))
        for window in windows
        if window.samples is not None
    ]
    hits = [(start_ns, loudness) for start_ns, loudness in heard if loudness.max() > 0.05]
    assert len(heard) == len(windows)
    assert hits
    for start_ns, loudness in hits:
        click_ns = start_ns + loudness.argmax() * 1e9 / RATE_HZ
        assert click_ns - START_NS == pytest.approx(0.5e9, abs=1.01e9 / RATE_HZ)
    starts_ns = [window.start_monotonic_ns for window in windows]
    np.testing.assert_allclose(np.diff(starts_ns), 0.05e9, atol=1.01e9 / RATE_HZ)


def test_other_rate_starts_anew() -> None:
    """When a source's rate changes, windows start anew and are right at the new rate."""
    shape = Shape(1600, 1600)
    into = framer(shape)
    push_all(into, blocks(noise(1000), [1000], RATE_HZ), RATE_HZ)
    faster = blocks(noise(48_000), [4800], 48_000)

    windows = push_all(into, faster, 48_000)

    alone = push_all(framer(shape), faster, 48_000)
    assert windows[0].start_monotonic_ns == START_NS
    for one, other in zip(windows, alone, strict=True):
        np.testing.assert_array_equal(one.samples, other.samples)


def test_rate_that_goes_back_is_not_resampled() -> None:
    """After a stretch at another rate, sound at the model's own is passed on as it is."""
    into = framer(Shape(100, 100))
    push_all(into, blocks(noise(4800), [4800], 48_000), 48_000)
    samples = noise(200)

    windows = push_all(into, blocks(samples, [60], RATE_HZ), RATE_HZ)

    # What the resampler held of the stretch before may come first.
    np.testing.assert_array_equal(np.concatenate([w.samples for w in windows[-2:]]), samples)


def test_empty_block_changes_nothing() -> None:
    """A block without samples is taken and gives nothing."""
    into = framer(Shape(100, 50))
    empty = Block(samples=np.zeros(0, np.float32), captured_monotonic_ns=START_NS)

    assert list(into.push(empty, RATE_HZ)) == []
    assert len(push_all(into, blocks(noise(100), [100], RATE_HZ), RATE_HZ)) == 1


NS_PER_SAMPLE = 1_000_000_000 // RATE_HZ
"""Exact at 16 kHz."""


def stamp(sample: int) -> int:
    return START_NS + sample * NS_PER_SAMPLE


def heard_block(samples: Samples, first: int, last: int, *, lost: bool) -> Block:
    """Part of a long sound, stamped with its place in it."""
    return Block(
        samples=samples[first:last],
        captured_monotonic_ns=stamp(first),
        continuous=not lost,
        lost=lost,
    )


def starts(windows: Sequence[FramedWindow]) -> list[float]:
    """In samples of the long sound."""
    return [(window.start_monotonic_ns - START_NS) / NS_PER_SAMPLE for window in windows]


def is_missed(windows: Sequence[FramedWindow]) -> list[bool]:
    return [window.samples is None for window in windows]


def test_lost_sound_is_missed_window_by_window() -> None:
    """After lost sound its windows come first, without samples, and the grid goes on after them."""
    samples, into = noise(1000), framer(Shape(100, 50))

    before = list(into.push(heard_block(samples, 0, 130, lost=False), RATE_HZ))
    after = list(into.push(heard_block(samples, 333, 500, lost=True), RATE_HZ))

    assert (starts(before), is_missed(before)) == ([0], [False])
    assert starts(after) == [50, 100, 150, 200, 250, 300, 350, 400]
    assert is_missed(after) == [True] * 6 + [False] * 2
    np.testing.assert_array_equal(after[-2].samples, samples[350:450])


def test_short_loss_costs_the_windows_that_it_touches() -> None:
    """An overrun inside a window makes that window missed; the next on the grid is heard."""
    samples, into = noise(400), framer(Shape(100, 100))

    windows = list(into.push(heard_block(samples, 0, 150, lost=False), RATE_HZ))
    windows += into.push(heard_block(samples, 160, 300, lost=True), RATE_HZ)

    assert (starts(windows), is_missed(windows)) == ([0, 100, 200], [False, True, False])


def test_border_of_recordings_is_no_loss() -> None:
    """Where nothing was there to be heard nothing is missed, and the sound is heard at once."""
    into = framer(Shape(100, 100))
    first, second = noise(150), noise(120)

    list(into.push(Block(samples=first, captured_monotonic_ns=stamp(0)), RATE_HZ))
    windows = list(
        into.push(
            Block(samples=second, captured_monotonic_ns=stamp(990), continuous=False), RATE_HZ
        )
    )

    assert (starts(windows), is_missed(windows)) == ([990], [False])


def test_outage_is_missed_while_it_lasts() -> None:
    """Windows of an outage are given when they would be complete, and never again."""
    samples, into = noise(1000), framer(Shape(100, 50))
    list(into.push(heard_block(samples, 0, 130, lost=False), RATE_HZ))

    assert starts(list(into.skip_until(stamp(149)))) == []
    assert starts(list(into.skip_until(stamp(150)))) == [50]
    assert starts(list(into.skip_until(stamp(150)))) == []
    assert starts(list(into.skip_until(stamp(333)))) == [100, 150, 200]
    windows = list(into.push(heard_block(samples, 340, 460, lost=True), RATE_HZ))

    assert (starts(windows), is_missed(windows)) == ([250, 300, 350], [True, True, False])


def test_outage_before_any_sound_starts_the_grid() -> None:
    """A node whose microphone is not there at boot misses windows from its first look on."""
    samples, into = noise(1000), framer(Shape(100, 100))

    assert list(into.skip_until(stamp(10))) == []
    missed = list(into.skip_until(stamp(250)))
    windows = list(into.push(heard_block(samples, 260, 460, lost=True), RATE_HZ))

    assert (starts(missed), is_missed(missed)) == ([10, 110], [True, True])
    assert (starts(windows), is_missed(windows)) == ([210, 310], [True, False])
    np.testing.assert_array_equal(windows[-1].samples, samples[310:410])


def test_sound_after_an_outage_need_not_say_so() -> None:
    """A first block that calls itself continuous still joins the grid of the missed windows."""
    samples, into = noise(1000), framer(Shape(100, 100))
    list(into.skip_until(stamp(0)))
    list(into.skip_until(stamp(220)))

    windows = list(into.push(heard_block(samples, 190, 420, lost=False), RATE_HZ))

    assert (starts(windows), is_missed(windows)) == ([200, 300], [False, False])


def test_loss_before_the_grid_is_reached_moves_nothing() -> None:
    """When sound is lost again before the next start, that start is missed, and the grid stays."""
    samples, into = noise(1000), framer(Shape(100, 100))
    list(into.push(heard_block(samples, 0, 120, lost=False), RATE_HZ))
    list(into.push(heard_block(samples, 130, 150, lost=True), RATE_HZ))

    windows = list(into.push(heard_block(samples, 210, 450, lost=True), RATE_HZ))

    assert (starts(windows), is_missed(windows)) == ([200, 300], [True, False])


class Step(NamedTuple):
    """A stretch of time: heard, or lost, and in the end told to the framer or not."""

    length: int
    heard: bool
    told: bool
    late: int
    """How far into the next stretch the framer is told that nothing was heard."""


STEPS = st.lists(
    st.builds(Step, st.integers(1, 400), st.booleans(), st.booleans(), st.integers(0, 150)),
    min_size=1,
    max_size=12,
)


@given(SHAPES, STEPS)
@settings(max_examples=300, deadline=None, database=None)
def test_grid_is_given_once_and_in_order(shape: Shape, steps: list[Step]) -> None:
    """Whatever is lost: every window once, in order, missed or with the very sound of its time."""
    samples, into = noise(400 * 12), framer(shape)
    windows: list[FramedWindow] = []
    position, lost = 0, False
    told_samples = 0
    for step in [Step(1, heard=True, told=False, late=0), *steps]:
        end = position + step.length
        if step.heard:
            windows += into.push(heard_block(samples, position, end, lost=lost), RATE_HZ)
            lost = False
        else:
            lost = True
            if step.told:
                told_samples = end + step.late
                windows += into.skip_until(stamp(told_samples))
        position = end
    windows += into.skip_until(stamp(max(position, told_samples)))

    reached = max(position, told_samples)
    count = max(0, (reached - shape.window) // shape.hop + 1)
    assert starts(windows)[:count] == [k * shape.hop for k in range(count)]
    for first, window in zip(starts(windows), windows, strict=True):
        if window.samples is not None:
            expected = samples[int(first) : int(first) + shape.window]
            np.testing.assert_array_equal(window.samples, expected)


@pytest.mark.parametrize("rate_hz", RATES_HZ)
def test_grid_goes_on_at_another_rate(rate_hz: int) -> None:
    """After a re-plug at another rate windows are the model's, on the grid, within two samples."""
    shape = Shape(1600, 800)
    into = framer(shape)
    windows = push_all(into, blocks(noise(RATE_HZ), [1600], RATE_HZ), RATE_HZ)
    back_ns = START_NS + 2_012_345_678
    sound = blocks(noise(rate_hz), [rate_hz // 20], rate_hz)
    moved = [
        Block(
            samples=block.samples,
            captured_monotonic_ns=block.captured_monotonic_ns - START_NS + back_ns,
            continuous=block.continuous,
            lost=not block.continuous,
        )
        for block in sound
    ]

    windows += push_all(into, moved, rate_hz)

    grid_ns = START_NS + np.arange(len(windows)) * shape.hop * NS_PER_SAMPLE
    starts_ns = np.array([window.start_monotonic_ns for window in windows])
    np.testing.assert_allclose(starts_ns, grid_ns, rtol=0, atol=2e9 / min(rate_hz, RATE_HZ))
    missed = [start for start, m in zip(grid_ns, is_missed(windows), strict=True) if m]
    assert missed[-1] < back_ns <= missed[-1] + shape.hop * NS_PER_SAMPLE
    assert all(w.samples is None or w.samples.shape == (shape.window,) for w in windows)
    assert not any(is_missed(windows[-10:]))
