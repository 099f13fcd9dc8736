"""The state of the machine: by a vote of the last five windows, and by calibrated blocks."""

from itertools import product

import pytest

from contract.messages import AlarmRule, MachineState
from node.calibration import Limits
from node.machine import VOTES, CalibratedMachine, MachineVote
from tests.node.observations import calibrated, correlated

FLAGS = {"x": True, ".": False, "?": None}
STATES = {
    MachineState.UNKNOWN: "u",
    MachineState.NORMAL: "n",
    MachineState.WARNING: "w",
    MachineState.ALARM: "A",
}


def heard(flags: str) -> str:
    vote = MachineVote()
    return "".join(STATES[vote.hear(FLAGS[flag])] for flag in flags)


@pytest.mark.parametrize(
    ("flags", "states"),
    [
        ("......", "nnnnnn"),
        ("x.....", "nnnnnn"),
        ("xx....", "nwwwwn"),
        ("x.x...", "nnwwwn"),
        ("x...x.", "nnnnwn"),
        ("x....x", "nnnnnn"),
        ("xxx......", "nwAAAAnnn"),
        ("x.x.x.....", "nnwwAAAnnn"),
        ("xxxxx.....", "nwAAAAAAnn"),
        # A score around the threshold: an alarm that is on stays on at two of five.
        ("xxx..xx..x", "nwAAAAAAAA"),
        # ... but two of five alone do not ring it.
        ("xx...xx...xx", "nwwwwwwwwwww"),
        # Once it is over, it takes three again.
        ("xxx....xx.", "nwAAAAnnww"),
        # What could not be scored is no vote, and pushes old votes out.
        ("?", "u"),
        ("?????", "uuuuu"),
        ("???.", "uuun"),
        ("?x?x?x", "unnwwA"),
        ("xxx?????", "nwAAAAAu"),
        ("x????x", "nnnnnn"),
        ("..?????.", "nnnnnnun"),
    ],
)
def test_state_follows_the_flags(flags: str, states: str) -> None:
    """Each window's state, for windows above (x), below (.) the threshold and unscored (?)."""
    assert heard(flags) == states


def test_nothing_heard_is_unknown() -> None:
    """A machine nobody has listened to is neither healthy nor ill."""
    assert MachineVote().state is MachineState.UNKNOWN


@pytest.mark.parametrize("flags", ["".join(flags) for flags in product("x.?", repeat=VOTES)])
def test_every_start_agrees_with_the_count(flags: str) -> None:
    """Of the first five windows three ring, two warn, and none scored is unknown."""
    flagged, scored = flags.count("x"), VOTES - flags.count("?")

    expected = "u" if not scored else "A" if flagged >= 3 else "w" if flagged == 2 else "n"
    assert heard(flags)[-1] == expected


def test_state_is_kept_for_who_asks_later() -> None:
    """The state given is the state kept."""
    vote = MachineVote()

    given = [vote.hear(True) for _ in range(3)]

    assert given[-1] is vote.state is MachineState.ALARM


def test_alarm_ends_when_the_microphone_dies() -> None:
    """With nothing scored in five windows the alarm is not kept: what is unknown is unknown."""
    assert heard("xxx" + "?" * VOTES)[-1] == "u"


NOTHING = (None, None)
HOUR = 3600


def machine(limits: Limits) -> CalibratedMachine:
    return CalibratedMachine(limits, hop_seconds=1.0, window_seconds=2.0)


def blocks(limits: Limits, *deviations: float) -> str:
    """States after each block whose mean lies so far up from the mean (0) to the limit (1)."""
    judge, states = machine(limits), ""
    reach = limits.block_limit - limits.block_mean
    for deviation in deviations:
        for _ in range(limits.block_seconds):
            judge.hear(limits.block_mean + deviation * reach, limits.level_dbfs)
        states += STATES[judge.state]
    return states


@pytest.fixture(scope="module")
def limits() -> Limits:
    return calibrated(60)[1]


@pytest.mark.parametrize(
    ("deviations", "states"),
    [
        ([0, 0, 0], "nnn"),
        ([0, 0.99, 0.99], "nnn"),
        ([0, 1.1, 0, 0, 0], "nwwwn"),
        ([0, 1.1, 0, 1.1, 0, 0, 0], "nwwAAAn"),
        ([0, 1.1, 0, 0, 1.1, 0, 0, 0], "nwwwwwwn"),
        ([0, 1.1, 1.1, 0.9, 0.9, 0.9, 0.9], "nwAAAAA"),
        ([0, 1.1, 1.1, 0.6, 0.6, 0.9, 0.6, 0.6, 0.6], "nwAAAAAAn"),
        ([1.1], "w"),
        ([0, 1.1, 1.1, 0, 0, 0, 1.1], "nwAAAnw"),
    ],
)
def test_blocks_make_the_state(limits: Limits, deviations: list[float], states: str) -> None:
    """One block above is a warning, two of three an alarm, three good ones in a row the end."""
    assert blocks(limits, *deviations) == states


def test_state_is_unknown_until_a_block_is_whole(limits: Limits) -> None:
    """Nobody says normal before there was a minute to hear."""
    judge = machine(limits)

    states = [judge.hear(limits.block_mean, limits.level_dbfs) for _ in range(60)]

    assert states == [MachineState.UNKNOWN] * 59 + [MachineState.NORMAL]


def test_loud_fault_rings_within_seconds(limits: Limits) -> None:
    """Windows far beyond all that was heard need no block: six of eight, by sound of their own."""
    judge = machine(limits)
    for _ in range(60):
        judge.hear(limits.block_mean, limits.level_dbfs)
    loud = [judge.hear(limits.fast_limit + 1, limits.level_dbfs) for _ in range(12)]

    assert loud == [MachineState.NORMAL] * 11 + [MachineState.ALARM]
    assert judge.rule is AlarmRule.FAST


def test_one_bang_does_not_ring(limits: Limits) -> None:
    """A bang is heard by the windows that overlap, and by no more."""
    judge = machine(limits)
    states = set()
    for second in range(600):
        bang = second % 20 in (0, 1, 2)
        mean = limits.block_mean
        states.add(judge.hear(limits.fast_limit + 0.1 if bang else mean, limits.level_dbfs))

    assert MachineState.ALARM not in states or judge.rule is AlarmRule.BLOCK


def test_machine_that_stops_has_a_state_of_its_own(limits: Limits) -> None:
    """Half a minute 11 dB below its level is a stop; it runs again through a settling minute."""
    judge = machine(limits)
    for _ in range(60):
        judge.hear(limits.block_mean, limits.level_dbfs)
    quiet = [judge.hear(limits.fast_limit + 1, limits.level_dbfs - 12) for _ in range(90)]
    still = judge.hear(limits.fast_limit + 1, limits.level_dbfs - 9)
    loud = [judge.hear(limits.fast_limit + 1, limits.level_dbfs) for _ in range(63)]
    running = [judge.hear(limits.block_mean, limits.level_dbfs) for _ in range(60)]

    assert quiet.index(MachineState.STOPPED) == 29
    assert set(quiet[:29]) == {MachineState.NORMAL}
    assert still is MachineState.STOPPED
    assert loud[:2] == [MachineState.STOPPED] * 2
    assert set(loud[2:]) == {MachineState.UNKNOWN}
    assert running[-1] is MachineState.NORMAL


def test_machine_that_pauses_is_judged_while_it_runs(limits: Limits) -> None:
    """Ten seconds of rest each minute and a half are no stop, no sound of it, and no excuse."""
    judge = machine(limits)
    states: dict[str, set[MachineState]] = {"healthy": set(), "faulty": set()}
    for cycle in range(20):
        phase = "healthy" if cycle < 10 else "faulty"
        log = limits.block_mean if phase == "healthy" else limits.block_limit + 0.1
        for second in range(90):
            resting = second < 10
            level_dbfs = limits.level_dbfs - (20 if resting else 0)
            state = judge.hear(limits.fast_limit + 3 if resting else log, level_dbfs)
            if cycle not in (0, 1, 10, 11, 12):
                states[phase].add(state)

    assert states == {"healthy": {MachineState.NORMAL}, "faulty": {MachineState.ALARM}}


def test_alarm_goes_on_after_a_restart(limits: Limits) -> None:
    """It ends by three good blocks, not by the first one after the node was started again."""
    judge = CalibratedMachine(limits, hop_seconds=1.0, window_seconds=2.0, state=MachineState.ALARM)
    states = ""
    for _ in range(3):
        for _ in range(60):
            judge.hear(limits.block_mean, limits.level_dbfs)
        states += STATES[judge.state]

    assert states == "AAn"
    vote = MachineVote(MachineState.ALARM)
    assert [vote.hear(False) for _ in range(3)] == [MachineState.ALARM] * 2 + [MachineState.NORMAL]


def test_windows_that_nobody_scored_are_no_health(limits: Limits) -> None:
    """Half a block without scores ends a normal state, and never an alarm."""
    normal, ringing = machine(limits), machine(limits)
    for _ in range(60):
        normal.hear(limits.block_mean, limits.level_dbfs)
    for _ in range(120):
        ringing.hear(limits.block_limit + 0.1, limits.level_dbfs)
    for _ in range(60):
        normal.hear(*NOTHING)
        ringing.hear(*NOTHING)

    assert normal.state is MachineState.UNKNOWN
    assert ringing.state is MachineState.ALARM


def test_real_day_of_normal_sound_rings_as_rarely_as_stated() -> None:
    """Ten nodes for a day each, set for one a week: about one and a half in all."""
    episodes = 0
    for seed in range(10):
        _, made = calibrated(60, seed=seed, rho=0.5)
        judge, before = machine(made), MachineState.UNKNOWN
        for log in correlated(24 * HOUR, seed=500 + seed, rho=0.5):
            state = judge.hear(float(log), made.level_dbfs)
            ringing = {MachineState.WARNING, MachineState.ALARM}
            episodes += state in ringing and before not in ringing
            before = state

    assert episodes <= 6
