"""From sound to judged windows, with microphones that fail in every way."""

import time
from collections.abc import Callable, Iterable, Iterator
from itertools import pairwise, repeat
from types import TracebackType
from typing import NamedTuple, Self

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from contract.states import MachineState, MicrophoneState, Problem
from node.ear import Ear, JudgedWindow
from node.machine.machine_watch import MachineWatch
from node.scoring.scorer import Scorer
from node.sound.source import Block, EndOfSound
from tests.rig.fake_inference import FEATURES, RUNTIME, release
from tests.rig.waiting import wait_until

Samples = npt.NDArray[np.float32]

RATE_HZ = 16_000
HOP = RATE_HZ // 10
HOP_NS = 100_000_000
WINDOW = FEATURES.window_samples
SECOND_NS = 1_000_000_000
HOUR_NS = 3600 * SECOND_NS
GONE = "the microphone is gone: plug it in again"


class Step(NamedTuple):
    """One answer of a source: a block, or nothing, for a reason or without one."""

    samples: Samples | None
    at_ns: int = 0
    lost: bool = False
    rate_hz: int = RATE_HZ
    outage: str | None = None


class Script:
    """A source that answers as it is told, then ends."""

    def __init__(self, steps: Iterable[Step]) -> None:
        self.overruns = 0
        self.reopened = 0
        self.outage: str | None = None
        self.identity = "script"
        self.sample_rate_hz = RATE_HZ
        self._steps = iter(steps)

    def read(self, timeout_seconds: float) -> Block | None:
        step = next(self._steps, None)
        if step is None:
            raise EndOfSound
        self.outage = step.outage
        if step.samples is None:
            return None
        self.sample_rate_hz = step.rate_hz
        return Block(
            samples=step.samples,
            captured_monotonic_ns=step.at_ns,
            continuous=not step.lost,
            lost=step.lost,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        pass


def noise(seconds: float, *, rate_hz: int = RATE_HZ) -> Samples:
    count = round(seconds * rate_hz)
    return (0.05 * np.random.default_rng(3).standard_normal(count)).astype(np.float32)


def steps(samples: Samples, at_ns: int, *, lost: bool = False) -> list[Step]:
    """Sound in blocks of a quarter of a second."""
    size = RATE_HZ // 4
    return [
        Step(
            samples[start : start + size],
            at_ns + start * SECOND_NS // RATE_HZ,
            lost=lost and start == 0,
        )
        for start in range(0, len(samples), size)
    ]


def ear(script: Iterable[Step], *, add: float = 1.0) -> Ear:
    """Of a release whose every window has the error `add` squared; its threshold is 2."""
    scorer = Scorer(release(add=add), RUNTIME)
    return Ear(Script(script), scorer, MachineWatch(scorer.manifest))


def hear_all(hears: Ear) -> Iterator[JudgedWindow]:
    try:
        while True:
            yield from hears.hear(0.5)
    except EndOfSound:
        yield from hears.finish()


def heard(script: Iterable[Step], *, add: float = 1.0) -> list[JudgedWindow]:
    return list(hear_all(ear(script, add=add)))


def far() -> int:
    """A time that an outage does not reach while a test runs: its windows come when it ends."""
    return time.monotonic_ns() + HOUR_NS


def spacings_ns(windows: list[JudgedWindow]) -> set[int]:
    """Distances between their starts, to a microsecond."""
    starts = [window.start_monotonic_ns for window in windows]
    return {round(int(gap), -3) for gap in np.diff(starts)}


def test_windows_come_out_scored_with_their_judgement() -> None:
    """Once the microphone is known to be well, a window has a score and the machine a state."""
    windows = heard(steps(noise(4), far()))

    last = windows[-1]
    assert len(windows) == (4 * RATE_HZ - WINDOW) // HOP + 1
    assert spacings_ns(windows) == {HOP_NS}
    assert last.figures.mse == pytest.approx(1.0)
    assert last.judgement.score == pytest.approx(0.5)
    assert last.judgement.anomaly is False
    assert last.judgement.state is MachineState.NORMAL
    assert last.problem is None
    assert last.threshold == 2.0
    assert last.figures.level_dbfs == pytest.approx(20 * np.log10(0.05), abs=0.5)
    assert last.evidence is not None
    assert last.latency_ms is not None


def test_machine_is_unknown_until_the_microphone_has_shown_itself() -> None:
    """Its first seconds are scored, yet nobody says that the machine is normal."""
    windows = heard(steps(noise(4), far()))

    early = [w for w in windows if w.microphone is MicrophoneState.UNKNOWN]
    assert early
    assert all(window.judgement.score is not None for window in early)
    assert {window.judgement.state for window in early} == {MachineState.UNKNOWN}


def test_fault_of_the_machine_is_heard() -> None:
    """Windows above the threshold are flagged and become an alarm."""
    windows = heard(steps(noise(4), far()), add=2.0)

    assert windows[-1].judgement.anomaly is True
    assert windows[-1].judgement.state is MachineState.ALARM


SICK: dict[MicrophoneState, tuple[Problem, Callable[[int], Samples]]] = {
    MicrophoneState.SILENT: (Problem.MIC_SILENT, lambda n: np.zeros(n, np.float32)),
    MicrophoneState.STUCK: (Problem.MIC_STUCK, lambda n: np.resize(noise(0.1), n)),
    MicrophoneState.CLIPPED: (Problem.MIC_CLIPPED, lambda n: np.clip(60 * _some(n), -1, 1)),
    MicrophoneState.OFFSET: (Problem.MIC_OFFSET, lambda n: np.float32(0.5) + 0.1 * _some(n)),
    MicrophoneState.QUIET: (Problem.MIC_QUIET, lambda n: 1e-4 * _some(n)),
}


def _some(count: int) -> Samples:
    return noise(count / RATE_HZ)


@pytest.mark.parametrize("state", SICK)
def test_sick_microphone_is_no_healthy_machine(state: MicrophoneState) -> None:
    """Its windows have its problem and no score, the machine is unknown; and normal after it."""
    problem, sound = SICK[state]
    sick = np.concatenate((noise(5), sound(14 * RATE_HZ), noise(16)))
    windows = heard(steps(sick, far()))

    during = [window for window in windows if window.microphone is state]
    assert len(during) > 20
    assert {window.problem for window in during} == {problem}
    assert {window.judgement.state for window in during} == {MachineState.UNKNOWN}
    for window in during:
        assert (window.figures.mse, window.evidence, window.judgement.statistic) == (
            None,
            None,
            None,
        )
        assert (window.judgement.score, window.judgement.anomaly) == (None, None)
        assert window.figures.level_dbfs is not None
    assert windows[40].judgement.state is MachineState.NORMAL
    assert windows[-1].judgement.state is MachineState.NORMAL
    assert windows[-1].figures.mse is not None
    assert spacings_ns(windows) == {HOP_NS}


def test_sick_microphone_raises_no_alarm_either() -> None:
    """A clipped microphone in front of a machine in alarm makes it unknown, not worse."""
    clipped = np.clip(60 * noise(14), -1, 1)
    windows = heard(steps(np.concatenate((noise(5), clipped)), far()), add=2.0)

    assert windows[40].judgement.state is MachineState.ALARM
    assert windows[-1].judgement.state is MachineState.UNKNOWN


def test_digital_zeros_have_a_problem_from_the_first_window_on() -> None:
    """A window of zeros is not scored, also before the microphone is known to be silent."""
    windows = heard(steps(np.concatenate((noise(5), np.zeros(RATE_HZ, np.float32))), far()))

    assert windows[-1].problem is Problem.MIC_SILENT
    assert windows[-1].microphone is MicrophoneState.OK
    assert windows[-1].judgement.anomaly is None


def test_outage_comes_out_as_windows_while_it_lasts() -> None:
    """Each hop of it is a window that says so, at once and once, however often one asks."""
    start_ns = time.monotonic_ns() - 20 * SECOND_NS
    nothing = Step(None, outage=GONE)
    hears = ear([*steps(noise(5), start_ns), nothing, nothing])
    before = [window for _ in range(20) for window in hears.hear(0.5)]

    first = list(hears.hear(0.5))
    again = list(hears.hear(0.5))

    assert {window.problem for window in before} == {None}
    assert len(first) >= 10 * 15 - 2
    # The computer may have been busy with others for a hop or more; they are new ones all the same.
    assert spacings_ns(before + first + again) == {HOP_NS}
    for window in first + again:
        assert window.problem is Problem.MIC_GONE
        assert window.microphone is MicrophoneState.GONE
        assert window.judgement.state is MachineState.UNKNOWN
        assert (window.figures.mse, window.figures.level_dbfs, window.latency_ms) == (
            None,
            None,
            None,
        )
    assert hears.microphone.note == GONE


def test_outage_is_whole_in_the_sequence_when_it_ends() -> None:
    """Windows go on one a hop across it, and the machine is normal a little later."""
    start_ns = far()
    back_ns = start_ns + 65 * SECOND_NS
    outage = [Step(None, outage=GONE)] * 3
    windows = heard([*steps(noise(5), start_ns), *outage, *steps(noise(5), back_ns, lost=True)])

    unheard = [window for window in windows if window.figures.level_dbfs is None]
    assert spacings_ns(windows) == {HOP_NS}
    # From the first that was not full before it to the last that began before it ended.
    assert len(unheard) == 600 + WINDOW // HOP - 1
    assert {window.problem for window in unheard} == {Problem.MIC_GONE}
    assert {window.judgement.state for window in unheard} == {MachineState.UNKNOWN}
    settling = windows[windows.index(unheard[-1]) + 1]
    assert settling.problem is Problem.MIC_GONE
    assert settling.judgement.state is MachineState.UNKNOWN
    assert windows[-1].judgement.state is MachineState.NORMAL


def test_machine_is_unknown_when_there_never_was_a_microphone() -> None:
    """A node that boots without one numbers windows from the first moment on."""
    hears = ear(repeat(Step(None, outage=GONE)))
    windows = list(hears.hear(0.5))

    def three_have_passed() -> bool:
        windows.extend(hears.hear(0.0))
        return len(windows) >= 3

    wait_until(three_have_passed, "three hops")

    assert spacings_ns(windows) == {HOP_NS}
    assert {window.problem for window in windows} == {Problem.MIC_GONE}
    assert {window.judgement.state for window in windows} == {MachineState.UNKNOWN}


def test_read_that_brings_nothing_says_nothing() -> None:
    """A source that is only slow has no outage: no window, and the microphone stays well."""
    start_ns = far()
    sound = steps(noise(4), start_ns)
    hears = ear([*sound[:12], Step(None), *sound[12:]])
    before = [window for _ in range(12) for window in hears.hear(0.5)]

    nothing = list(hears.hear(0.5))
    after = list(hear_all(hears))

    assert nothing == []
    assert hears.microphone.state is MicrophoneState.OK
    assert spacings_ns(before + after) == {HOP_NS}
    assert {window.problem for window in before + after} == {None}


def test_lost_blocks_come_out_as_overruns() -> None:
    """Sound that the node was too slow for is numbered and unscored; the microphone stays well."""
    start_ns = far()
    sound = steps(noise(9), start_ns)
    lost = sound[20:24]
    after = [sound[24]._replace(lost=True), *sound[25:]]
    windows = heard([*sound[:20], *after])

    unheard = [window for window in windows if window.figures.level_dbfs is None]
    assert spacings_ns(windows) == {HOP_NS}
    assert len(unheard) == len(lost) * RATE_HZ // 4 // HOP + WINDOW // HOP - 1
    assert {window.problem for window in unheard} == {Problem.OVERRUN}
    assert {window.microphone for window in windows[-30:]} == {MicrophoneState.OK}
    assert windows[-1].judgement.state is MachineState.NORMAL


def test_tail_before_an_outage_comes_out_once() -> None:
    """What the resampler still holds when the microphone goes is a window, not two and not none."""
    rate_hz = 48_000
    start_ns = far()
    samples = noise(3, rate_hz=rate_hz)
    back_ns = start_ns + 8 * SECOND_NS
    windows = heard(
        [
            Step(samples, start_ns, rate_hz=rate_hz),
            Step(None, outage=GONE),
            Step(samples, back_ns, lost=True, rate_hz=rate_hz),
        ]
    )

    assert spacings_ns(windows) == {HOP_NS}
    assert windows[0].start_monotonic_ns == start_ns
    assert windows[-1].start_monotonic_ns == back_ns + 3 * SECOND_NS - 2 * HOP_NS
    assert len(windows) == 110 - WINDOW // HOP + 1


def test_end_of_the_sound_gives_what_was_held_back() -> None:
    """The last full window is heard, though the resampler had its end."""
    rate_hz = 48_000
    hears = ear([Step(noise(3, rate_hz=rate_hz), far(), rate_hz=rate_hz)])
    before = list(hears.hear(0.5))

    with pytest.raises(EndOfSound):
        list(hears.hear(0.5))
    held_back = list(hears.finish())

    assert len(before + held_back) == (3 * RATE_HZ - WINDOW) // HOP + 1
    assert held_back
    assert all(window.figures.mse is not None for window in held_back)


class Happening(NamedTuple):
    """A piece of a microphone's life."""

    what: str
    tenths: int
    """Of a second."""
    rate_hz: int


HAPPENINGS = st.lists(
    st.builds(
        Happening,
        st.sampled_from(["sound", "sound", "silent", "clipped", "outage", "lost", "nothing"]),
        st.integers(1, 35),
        st.sampled_from([RATE_HZ, 44_100]),
    ),
    min_size=1,
    max_size=8,
)


def life(happenings: list[Happening], start_ns: int, block_seconds: float) -> Iterator[Step]:
    """What a source would answer; time goes on whatever happens."""
    at_ns, lost, rate_hz = start_ns, False, RATE_HZ
    for happening in happenings:
        length_ns = happening.tenths * SECOND_NS // 10
        if happening.what == "nothing":
            yield Step(None)
            continue
        if happening.what == "outage":
            yield from [Step(None, outage=GONE)] * 3
        if happening.what in ("outage", "lost"):
            lost, rate_hz = True, happening.rate_hz
            at_ns += length_ns
            continue
        samples = noise(happening.tenths / 10, rate_hz=rate_hz)
        samples *= {"sound": 1, "silent": 0, "clipped": 100}[happening.what]
        np.clip(samples, -1, 1, out=samples)
        size = round(block_seconds * rate_hz)
        for start in range(0, len(samples), size):
            block_ns = at_ns + start * SECOND_NS // rate_hz
            yield Step(samples[start : start + size], block_ns, lost=lost, rate_hz=rate_hz)
            lost = False
        at_ns += length_ns


@given(HAPPENINGS, st.integers(-20, 20), st.sampled_from([0.01, 0.25, 1.0]))
@settings(max_examples=60, deadline=None, database=None)
def test_every_window_is_told_of_once_and_none_is_normal_by_mistake(
    happenings: list[Happening], start_seconds: int, block_seconds: float
) -> None:
    """Whatever happens: one window a hop, scored or with its problem, no "normal" while sick."""
    start_ns = time.monotonic_ns() + start_seconds * SECOND_NS
    windows = heard(life(happenings, start_ns, block_seconds))

    starts = [window.start_monotonic_ns for window in windows]
    assert all(later > earlier for earlier, later in pairwise(starts))
    # A sample of the window's rate and one of the source's, to which starts are rounded.
    assert all(abs(gap - HOP_NS) < 2 * SECOND_NS / RATE_HZ for gap in np.diff(starts))
    for window in windows:
        is_scored = window.problem is None
        assert (window.figures.mse is not None) is is_scored
        assert (window.judgement.score is not None) is is_scored
        assert (window.judgement.anomaly is not None) is is_scored
        if window.microphone is not MicrophoneState.OK:
            assert window.judgement.state is MachineState.UNKNOWN
