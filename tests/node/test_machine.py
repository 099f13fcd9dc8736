"""The vote of the last five windows."""

from itertools import product

import pytest

from contract.messages import MachineState
from node.machine import VOTES, MachineVote

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
        ("xxx?????", "nwAAAAnu"),
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
