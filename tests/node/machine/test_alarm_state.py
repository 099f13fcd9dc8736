"""The state of the machine: by a vote of the last five windows, and by calibrated blocks."""

from itertools import product

import pytest

from contract.states import AlarmRule, MachineState
from node.machine.alarm_state import VOTES, CalibratedMachine, MachineVote
from node.machine.limits import Limits
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


@pytest.mark.parametrize("windows", [1, 3, 4])
@pytest.mark.parametrize("above", [0.1, 3.0, 20.0])
def test_one_bang_does_not_ring(limits: Limits, windows: int, above: float) -> None:
    """A bang is heard by the windows that overlap, and by no more, wherever in a block it falls."""
    for began in range(60, 120):
        judge, states = machine(limits), set()
        for second in range(300):
            bang = began <= second < began + windows
            log = limits.fast_limit + above if bang else limits.block_mean
            states.add(judge.hear(log, limits.level_dbfs))

        assert states == {MachineState.UNKNOWN, MachineState.NORMAL}


def test_bangs_now_and_then_are_no_loud_fault(limits: Limits) -> None:
    """Ten seconds of noise are eleven windows at most, which do not add up across a pause."""
    judge = machine(limits)
    for second in range(600):
        loud = second % 32 < 11
        # What is quieter than usual between them keeps the blocks low.
        log = limits.fast_limit + 0.1 if loud else limits.block_mean - 3
        state = judge.hear(log, limits.level_dbfs)

        assert state is not MachineState.ALARM


def test_loud_windows_do_not_change_the_rule_of_an_alarm(limits: Limits) -> None:
    """It was found by its blocks; a warning that becomes a loud fault is a new finding."""
    rung, warned = machine(limits), machine(limits)
    for _ in range(120):
        rung.hear(limits.block_limit + 0.1, limits.level_dbfs)
    for _ in range(60):
        warned.hear(limits.block_limit + 0.1, limits.level_dbfs)
    before = warned.state
    for _ in range(12):
        rung.hear(limits.fast_limit + 1, limits.level_dbfs)
        warned.hear(limits.fast_limit + 1, limits.level_dbfs)

    assert (rung.state, rung.rule) == (MachineState.ALARM, AlarmRule.BLOCK)
    assert before is MachineState.WARNING
    assert (warned.state, warned.rule) == (MachineState.ALARM, AlarmRule.FAST)


def test_loud_windows_begin_the_good_blocks_anew(limits: Limits) -> None:
    """Two good blocks do not count for an end once the fault was heard again."""
    judge, good = machine(limits), [limits.block_mean] * 60
    # A block with the fault in it, whose mean is good all the same.
    again = [limits.fast_limit + 0.1] * 12 + [limits.block_mean - 3] * 48
    states = ""
    for block in ([limits.block_limit + 0.1] * 60,) * 2 + (good, good, again, good, good):
        for log in block:
            judge.hear(log, limits.level_dbfs)
        states += STATES[judge.state]

    assert states == "wAAAAAn"


def test_machine_runs_again_a_little_above_where_it_stopped(limits: Limits) -> None:
    """Between 11 and 8 dB below its level nothing changes: it rests, or it runs, as before."""
    running, resting = machine(limits), machine(limits)
    for _ in range(60):
        running.hear(limits.block_mean, limits.level_dbfs - 10.9)
        resting.hear(limits.block_mean, limits.level_dbfs - 20)
    between = {resting.hear(limits.block_mean, limits.level_dbfs - 8.1) for _ in range(60)}
    back = [resting.hear(limits.block_mean, limits.level_dbfs - 7.9) for _ in range(3)]

    assert running.state is MachineState.NORMAL
    assert between == {MachineState.STOPPED}
    assert back == [MachineState.STOPPED] * 2 + [MachineState.UNKNOWN]


def test_windows_before_the_third_quiet_one_are_no_sound_of_the_machine(limits: Limits) -> None:
    """It takes three to know that it rests; the two that came before leave the block again."""
    judge = machine(limits)
    rest = [(limits.fast_limit + 5, limits.level_dbfs - 20)] * 5
    runs = (limits.block_mean, limits.level_dbfs)
    for window in [runs] * 57 + rest + [runs] * (2 + 5 + 3):
        judge.hear(*window)
    before = judge.state
    states = [judge.hear(*runs) for _ in range(3)]

    assert before is MachineState.UNKNOWN
    assert states == [MachineState.UNKNOWN] * 2 + [MachineState.NORMAL]


@pytest.mark.parametrize(("pause", "settled"), [(5, 10), (30, 35), (52, 57), (60, 62), (600, 62)])
def test_machine_settles_after_a_pause_as_long_as_that(
    limits: Limits, pause: int, settled: int
) -> None:
    """Up to a minute: a machine that starts sounds like no machine that runs.

    Two windows are to tell that it runs; these and the third count as pause, too.
    """
    judge = machine(limits)
    for _ in range(pause):
        judge.hear(limits.block_mean, limits.level_dbfs - 20)
    for _ in range(settled):
        judge.hear(limits.fast_limit + 5, limits.level_dbfs)
    states = [judge.hear(limits.block_mean, limits.level_dbfs) for _ in range(60)]

    assert states[-2:] == [MachineState.UNKNOWN, MachineState.NORMAL]


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
    """Ten nodes for a day each, set for one a week: about one and a half in all; and none is deaf.

    A shift by the spread of two windows is found by each of them, once that day is over.
    """
    episodes = 0
    for seed in range(10):
        _, made = calibrated(60, seed=seed, rho=0.5)
        judge, before = machine(made), MachineState.UNKNOWN
        for log in correlated(24 * HOUR, seed=500 + seed, rho=0.5):
            state = judge.hear(float(log), made.level_dbfs)
            ringing = {MachineState.WARNING, MachineState.ALARM}
            episodes += state in ringing and before not in ringing
            before = state
        fault = correlated(600, seed=900 + seed, rho=0.5, mean=0.6)
        found = [judge.hear(float(log), made.level_dbfs) for log in fault]

        assert found[-1] is MachineState.ALARM, seed
    assert episodes <= 6
