"""Episodes: they open, go on, and close, under one id."""

from collections.abc import Mapping

import msgspec
import pytest

from contract.states import AlarmRule, EpisodePhase, MachineState
from node.machine.episodes import CONTINUE_SECONDS, Episode, Episodes

BOOT = "01JD8Z6W3M9K4T2Q5R7V1X0YBC"
STATES = {
    "n": MachineState.NORMAL,
    "w": MachineState.WARNING,
    "A": MachineState.ALARM,
    "u": MachineState.UNKNOWN,
    "s": MachineState.STOPPED,
    "l": MachineState.LEARNING,
}
BY_BLOCKS: Mapping[str, AlarmRule] = {}
PHASES = {EpisodePhase.OPENED: "o", EpisodePhase.CONTINUED: "+", EpisodePhase.CLOSED: "c"}


def follow(
    episodes: Episodes,
    states: str,
    *,
    step_us: int = 1_000_000,
    rules: Mapping[str, AlarmRule] = BY_BLOCKS,
) -> str:
    """What is told after each window of a series of states; nothing is a dot."""
    told = ""
    for seq, state in enumerate(states, start=1):
        phase = episodes.hear(
            seq=seq,
            end_us=seq * step_us,
            state=STATES[state],
            rule=rules.get(state, AlarmRule.BLOCK),
            score=None if state == "u" else float(seq),
        )
        told += "." if phase is None else PHASES[phase]
        if phase is EpisodePhase.CLOSED:
            episodes.forget()
    return told


@pytest.mark.parametrize(
    ("states", "told"),
    [
        ("nnnn", "...."),
        ("nwwwn", ".o..c"),
        ("nAAAn", ".o..c"),
        ("nwAAn", ".o+.c"),
        ("nwAwAn", ".o+..c"),
        ("nAAsnn", ".o.c.."),
        ("nAl", ".oc"),
        ("nAuuuAn", ".o....c"),
        ("nAnAn", ".ococ"),
        ("u", "."),
    ],
)
def test_states_are_told_once(states: str, told: str) -> None:
    """An episode opens, is told of when it gets worse, waits while nothing is heard, and closes."""
    assert follow(Episodes(BOOT), states) == told


def test_id_is_that_of_the_window_that_opened_it() -> None:
    """Made of the boot and the sequence number: sent twice it is one, and no two are the same."""
    episodes = Episodes(BOOT)

    follow(episodes, "nnA")

    assert episodes.open is not None
    assert episodes.open.id == f"{BOOT}-3"


def test_peak_and_windows_are_those_of_the_episode() -> None:
    """The highest score and the number of scored windows, unscored ones left out."""
    episodes = Episodes(BOOT)

    follow(episodes, "nnAAuA")

    assert episodes.open is not None
    assert (episodes.open.peak_score, episodes.open.windows) == (6.0, 3)
    assert episodes.open.opened_us == 3_000_000


def test_long_episode_is_told_of_again() -> None:
    """Every ten minutes, so that whoever missed the beginning hears of it."""
    minutes = int(CONTINUE_SECONDS // 60)

    told = follow(Episodes(BOOT), "A" * (2 * minutes + 2), step_us=60_000_000)

    assert told == "o" + ("." * (minutes - 1) + "+") * 2 + "."


def test_episode_goes_on_after_a_restart() -> None:
    """It is closed under the id that it was opened with."""
    before = Episodes(BOOT)
    follow(before, "nwA")
    kept = msgspec.json.decode(msgspec.json.encode(before.open), type=Episode)

    after = Episodes("01JD8Z6W3M9K4T2Q5R7V1X0YBD", kept)
    told = follow(after, "uuAA")

    assert told == "...."
    assert after.open is not None
    assert after.open.id == f"{BOOT}-2"
    assert follow(after, "n") == "c"


def test_bands_are_kept_with_it() -> None:
    """What was found when it opened is told until it closes."""
    episodes = Episodes(BOOT)
    follow(episodes, "nA")

    episodes.note_bands((1000.0, 250.0))

    assert episodes.open is not None
    assert episodes.open.bands_hz == (1000.0, 250.0)


def test_rule_is_that_of_the_worst_state() -> None:
    """An alarm's own, once there is one, whatever rule and state come after it."""
    episodes, rules = Episodes(BOOT), {"w": AlarmRule.BLOCK, "A": AlarmRule.FAST}
    found = []
    for states in ("nw", "A", "w"):
        follow(episodes, states, rules=rules)
        assert episodes.open is not None
        found.append((episodes.open.state, episodes.open.rule))
    follow(episodes, "A", rules={"A": AlarmRule.BLOCK}, step_us=10**9)

    assert found == [
        (MachineState.WARNING, AlarmRule.BLOCK),
        (MachineState.ALARM, AlarmRule.FAST),
        (MachineState.ALARM, AlarmRule.FAST),
    ]
    assert episodes.open is not None
    assert episodes.open.rule is AlarmRule.FAST


def test_window_without_a_score_that_opens_one_is_not_counted() -> None:
    """A block that ends with it may ring; the window itself has nothing to show."""
    episodes = Episodes(BOOT)
    opened = episodes.hear(
        seq=1, end_us=1, state=MachineState.WARNING, rule=AlarmRule.BLOCK, score=None
    )

    assert opened is EpisodePhase.OPENED
    assert episodes.open is not None
    assert (episodes.open.peak_score, episodes.open.windows) == (0.0, 0)
