"""The microphone's health, by its sound."""

import tracemalloc
from collections.abc import Callable, Iterator

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from contract.states import MicrophoneState, Problem
from node.sound.microphone_health import MicrophoneHealth

Samples = npt.NDArray[np.float32]
Sound = Callable[[int], Samples]
"""So many samples of a sound."""

RATE_HZ = 16_000
OK, QUIET, SILENT = MicrophoneState.OK, MicrophoneState.QUIET, MicrophoneState.SILENT
STUCK, CLIPPED = MicrophoneState.STUCK, MicrophoneState.CLIPPED
OFFSET, GONE = MicrophoneState.OFFSET, MicrophoneState.GONE
UNKNOWN = MicrophoneState.UNKNOWN


def room(count: int, *, rms: float = 0.02, offset: float = 0.0, seed: int = 7) -> Samples:
    """What a microphone beside a machine hears, roughly: noise at -34 dBFS."""
    noise = rms * np.random.default_rng(seed).standard_normal(count) + offset
    return np.clip(noise, -1.0, 1.0).astype(np.float32)


def dbfs(level: float) -> float:
    return float(10 ** (level / 20))


def constant(value: float) -> Sound:
    return lambda count: np.full(count, value, np.float32)


def noise(*, rms: float, offset: float = 0.0) -> Sound:
    return lambda count: room(count, rms=rms, offset=offset)


def repeating(period: int, *, rms: float = 0.02) -> Sound:
    return lambda count: np.resize(room(period, rms=rms), count)


def clipping(share: float) -> Sound:
    def sound(count: int) -> Samples:
        samples = room(count)
        # In pairs of both signs, so that there is no offset.
        each = round(count * share / 2)
        samples[: 2 * each : 2] = 1.0
        samples[1 : 2 * each : 2] = -1.0
        return samples

    return sound


def states(
    health: MicrophoneHealth, sound: Sound, seconds: int, *, rate_hz: int = RATE_HZ
) -> list[MicrophoneState]:
    """The state after each second of a sound."""
    return [health.hear(sound(rate_hz), rate_hz) for _ in range(seconds)]


def healthy() -> MicrophoneHealth:
    health = MicrophoneHealth()
    states(health, room, 2)
    assert health.state is OK
    return health


def test_microphone_is_unknown_until_it_was_heard() -> None:
    """Before the first verdict nothing is wrong, and nothing is said to be right."""
    health = MicrophoneHealth()

    assert (health.state, health.note, health.problem) == (UNKNOWN, None, None)
    assert states(health, room, 3) == [UNKNOWN, OK, OK]
    assert _says(health) == (None, None)


FAULTS = [
    pytest.param(constant(0.0), SILENT, 2, 2, id="zeros"),
    pytest.param(constant(0.25), STUCK, 2, 2, id="constant"),
    pytest.param(constant(1.0), STUCK, 2, 2, id="constant at full scale"),
    pytest.param(repeating(800), STUCK, 2, 2, id="repeating buffer of 50 ms"),
    pytest.param(repeating(RATE_HZ // 2), STUCK, 2, 2, id="repeating buffer of half a second"),
    pytest.param(clipping(2e-3), CLIPPED, 3, 10, id="clipped"),
    pytest.param(noise(rms=1.5), CLIPPED, 3, 10, id="far too loud"),
    pytest.param(noise(rms=dbfs(-84)), QUIET, 10, 5, id="too quiet"),
    pytest.param(noise(rms=dbfs(-95), offset=0.03), QUIET, 10, 5, id="quiet on an offset"),
    pytest.param(noise(rms=0.02, offset=-0.3), OFFSET, 10, 5, id="offset"),
    pytest.param(noise(rms=dbfs(-90), offset=0.5), OFFSET, 10, 5, id="offset and quiet"),
]


@pytest.mark.parametrize(("sound", "fault", "enter_seconds", "leave_seconds"), FAULTS)
def test_fault_comes_and_goes_with_hysteresis(
    sound: Sound, fault: MicrophoneState, enter_seconds: int, leave_seconds: int
) -> None:
    """A fault begins after its seconds of it, not one earlier, and ends after those without it."""
    health = healthy()

    assert states(health, sound, enter_seconds) == [OK] * (enter_seconds - 1) + [fault]
    assert states(health, sound, 20) == [fault] * 20
    assert states(health, room, leave_seconds) == [fault] * (leave_seconds - 1) + [OK]
    assert states(health, room, 20) == [OK] * 20


@pytest.mark.parametrize(("sound", "fault", "enter_seconds", "leave_seconds"), FAULTS)
def test_note_says_what_to_do(
    sound: Sound, fault: MicrophoneState, enter_seconds: int, leave_seconds: int
) -> None:
    """A fault has one plain line and a problem for the windows; when it is over, neither."""
    health = MicrophoneHealth()

    states(health, sound, 12)

    assert health.problem is Problem(f"mic_{fault.value}")
    assert health.note is not None
    assert "\n" not in health.note
    assert len(health.note) < 250
    assert ": " in health.note
    states(health, room, 12)
    assert _says(health) == (None, None)


def test_note_does_not_change_while_the_fault_lasts() -> None:
    """A louder or quieter second of the same fault is no news."""
    health = healthy()
    states(health, noise(rms=dbfs(-84)), 10)
    note = health.note

    states(health, noise(rms=dbfs(-88)), 5)

    assert note is not None
    assert "-84 dBFS" in note
    assert health.note == note


@pytest.mark.parametrize(
    "sound",
    [
        pytest.param(noise(rms=dbfs(-76)), id="a silent room at night"),
        pytest.param(noise(rms=dbfs(-60), offset=-0.027), id="SPH0645's own offset"),
        pytest.param(noise(rms=dbfs(-74), offset=0.005), id="INMP441's own offset"),
        pytest.param(noise(rms=0.25), id="loud, with peaks at full scale now and then"),
        pytest.param(noise(rms=0.2, offset=0.15), id="more sound than offset"),
        pytest.param(clipping(5e-4), id="a few clipped samples"),
        pytest.param(
            lambda count: np.round(room(count, rms=2.0**-13) * 2**15).astype(np.float32) / 2**15,
            id="the last bits of a 16-bit converter",
        ),
        pytest.param(
            lambda count: (
                (0.5 * np.sin(np.arange(count) * 0.3)).astype(np.float32) + room(count, rms=1e-4)
            ),
            id="a tone in a little noise",
        ),
    ],
)
def test_sound_that_is_fit_to_score_is_ok(sound: Sound) -> None:
    """What real microphones do is no fault."""
    health = MicrophoneHealth()

    assert states(health, sound, 15)[1:] == [OK] * 14


@pytest.mark.parametrize("fault", [SILENT, STUCK, OFFSET, CLIPPED, QUIET])
def test_fault_from_the_start_is_never_ok(fault: MicrophoneState) -> None:
    """A microphone that is bad from the first second goes from unknown to its fault."""
    sound = next(p.values[0] for p in FAULTS if p.values[1] is fault)
    health = MicrophoneHealth()

    assert set(states(health, sound, 12)) == {UNKNOWN, fault}  # type: ignore[arg-type]


def test_bangs_are_no_clipping() -> None:
    """A second with a bang in every ten, as of a press, changes nothing."""
    health = healthy()

    heard = [
        state
        for _ in range(30)
        for state in states(health, clipping(0.01), 1) + states(health, room, 9)
    ]

    assert set(heard) == {OK}


def test_clipping_every_other_second_is_seen() -> None:
    """A fault that comes and goes is one: the state does not flap with it."""
    health = healthy()

    heard = [
        state
        for _ in range(20)
        for state in states(health, clipping(0.01), 1) + states(health, room, 1)
    ]

    first = heard.index(CLIPPED)
    assert heard == [OK] * first + [CLIPPED] * (len(heard) - first)
    assert first < 10


def test_clipping_before_the_mix_is_seen() -> None:
    """A source that mixes channels says how much the worst of them clipped."""
    health = healthy()

    for part in cuts([800], room(3 * RATE_HZ)):
        health.hear(part, RATE_HZ, clipped=0.01)

    assert health.state is CLIPPED


def test_silence_between_quiet_sounds_is_not_ok() -> None:
    """Zeros say nothing about the gain: a quiet microphone that also drops out stays quiet."""
    health = MicrophoneHealth()

    for _ in range(20):
        states(health, noise(rms=dbfs(-90)), 1)
        states(health, constant(0.0), 1)

    assert health.state is QUIET


def test_offset_explains_the_clipping_that_it_makes() -> None:
    """Clipping is noticed first; when the offset is certain, it is told as the cause."""
    health = healthy()

    heard = states(health, noise(rms=0.02, offset=0.99), 12)

    assert heard == [OK] * 2 + [CLIPPED] * 7 + [OFFSET] * 3


def test_silence_comes_before_the_fault_that_it_hides() -> None:
    """Of two faults the one is told that explains what is heard now; the other is not forgotten."""
    health = healthy()
    states(health, clipping(0.01), 3)

    assert states(health, constant(0.0), 4)[-1] is SILENT
    assert states(health, clipping(0.01), 3)[-1] is CLIPPED


def test_microphone_that_is_gone() -> None:
    """The source's word holds at once; sound must be good for two seconds to be believed again."""
    health = healthy()

    assert health.gone("Microphone is gone: plug it in") is GONE
    assert health.problem is Problem.MIC_GONE
    assert health.note == "Microphone is gone: plug it in"
    assert health.gone("Microphone is gone for 1 min: plug it in") is GONE
    assert health.note == "Microphone is gone for 1 min: plug it in"
    assert states(health, room, 3) == [GONE, OK, OK]
    assert _says(health) == (None, None)


def test_microphone_that_comes_back_silent_is_never_ok() -> None:
    """From gone to silent, without a moment in which windows could be normal."""
    health = healthy()
    health.gone("Microphone is gone: plug it in")

    assert states(health, constant(0.0), 3) == [GONE, SILENT, SILENT]


def test_faults_of_before_an_outage_are_forgotten() -> None:
    """Whoever plugs a microphone in again may have turned its gain down."""
    health = healthy()
    states(health, clipping(0.01), 5)
    health.gone("Microphone is gone: plug it in")

    assert states(health, room, 2) == [GONE, OK]


@pytest.mark.parametrize("rate_hz", [8_000, 44_100, 48_000, 96_000])
@pytest.mark.parametrize(
    ("sound", "fault", "enter_seconds", "leave_seconds"), FAULTS[:1] + FAULTS[5:9]
)
def test_any_rate_is_judged(
    sound: Sound, fault: MicrophoneState, enter_seconds: int, leave_seconds: int, rate_hz: int
) -> None:
    """Seconds are seconds at every rate."""
    health = MicrophoneHealth()

    assert states(health, room, 2, rate_hz=rate_hz)[-1] is OK
    assert states(health, sound, enter_seconds, rate_hz=rate_hz)[-1] is fault


def test_other_rate_starts_a_new_second() -> None:
    """After a re-plug at another rate no second is put together from both."""
    health = healthy()
    health.hear(constant(0.0)(RATE_HZ - 1), RATE_HZ)

    health.hear(constant(0.0)(48_000), 48_000)

    assert health.state is OK
    assert states(health, constant(0.0), 1, rate_hz=48_000) == [SILENT]


def cuts(sizes: list[int], samples: Samples) -> Iterator[Samples]:
    position, turn = 0, 0
    while position < len(samples):
        size = sizes[turn % len(sizes)]
        yield samples[position : position + size]
        position, turn = position + size, turn + 1


@given(st.lists(st.integers(1, 100_000), min_size=1, max_size=5), st.sampled_from(FAULTS))
@settings(max_examples=30, deadline=None, database=None)
def test_block_sizes_are_not_heard(sizes: list[int], fault: object) -> None:
    """However sound is cut into blocks, the state after it is the same."""
    sound: Sound = fault.values[0]  # type: ignore[attr-defined]
    seconds = [room(2 * RATE_HZ), *[sound(RATE_HZ)] * 11, room(4 * RATE_HZ)]
    samples = np.concatenate(seconds)
    at_once, in_pieces = MicrophoneHealth(), MicrophoneHealth()

    at_once.hear(samples, RATE_HZ)
    # Single samples would be the same, only slower.
    for part in cuts([max(size, 50) for size in sizes], samples):
        in_pieces.hear(part, RATE_HZ)

    assert (in_pieces.state, in_pieces.note) == (at_once.state, at_once.note)


def test_empty_block_changes_nothing() -> None:
    """A block without samples is no second."""
    health = MicrophoneHealth()

    assert health.hear(np.zeros(0, np.float32), RATE_HZ) is UNKNOWN


def test_sound_that_is_not_a_number_does_no_harm() -> None:
    """Values that are no sound are taken as zero and full scale, and counted as such."""
    health = healthy()
    samples = room(4 * RATE_HZ)
    samples[::100] = np.nan
    samples[50::100] = np.inf

    health.hear(samples, RATE_HZ)

    assert health.state is CLIPPED


def test_sound_is_not_kept() -> None:
    """However long it hears, it holds a second of sound."""
    health = MicrophoneHealth()
    second = room(48_000)
    health.hear(second, 48_000)

    tracemalloc.start()
    for _ in range(60):
        health.hear(second, 48_000)
    kept_bytes, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert kept_bytes < second.nbytes


def _says(health: MicrophoneHealth) -> tuple[str | None, Problem | None]:
    return health.note, health.problem
