"""What a node knows of its releases: transitions of values, and what is written."""

import random

import msgspec
import pytest

from contract.states import UpdatePhase
from node.updates.update_state import (
    Refused,
    Slot,
    StateUnusableError,
    UpdateState,
    current_confirmed,
    decode_state,
    doubtful_left,
    encode_state,
    first_state,
    refusing,
    rolled_back,
    start_counted,
    switched,
    trial_begun,
    trial_ended,
    with_factory,
)


def slot(version: int, *, factory: bool = False) -> Slot:
    return Slot(release=f"fan@{version}", manifest_sha256=f"{version}" * 64, factory=factory)


FACTORY = slot(1, factory=True)
NEW = first_state(FACTORY, [])


def left(state: UpdateState, which: Slot) -> Refused:
    return rolled_back(state, which, "crashed", at_us=7, retry=False)


def test_switch_is_revocable_until_it_is_confirmed() -> None:
    """What ran stays what is gone back to, also when the next switch comes before the proof."""
    once = switched(NEW, slot(2))
    twice = switched(once, slot(3))
    committed = current_confirmed(twice)

    assert (once.current, once.previous, once.confirmed) == (slot(2), FACTORY, False)
    assert (twice.current, twice.previous) == (slot(3), FACTORY)
    assert committed.confirmed
    assert committed.highest == {"fan": 3}


def test_only_what_may_crash_is_doubtful() -> None:
    """A release on trial, or one that runs and is not confirmed; never the only one there is."""
    unconfirmed = msgspec.structs.replace(NEW, confirmed=False)

    assert NEW.doubtful is None
    assert trial_begun(NEW, slot(2)).doubtful == slot(2)
    assert trial_ended(trial_begun(NEW, slot(2))) == NEW
    assert switched(NEW, slot(2)).doubtful == slot(2)
    assert current_confirmed(switched(NEW, slot(2))).doubtful is None
    assert unconfirmed.doubtful is None


def test_doubtful_release_is_left_for_what_ran_before() -> None:
    """One on trial is not tried again; one that ran gives way. Both are remembered."""
    tried = start_counted(trial_begun(NEW, slot(2)))
    ran = switched(NEW, slot(2))

    after_trial = doubtful_left(tried, left(tried, slot(2)))
    after_run = doubtful_left(ran, left(ran, slot(2)))

    for state in (after_trial, after_run):
        assert (state.current, state.trying, state.starts) == (FACTORY, None, 0)
        assert state.confirmed
        (refused,) = state.refused
        assert (refused.release, refused.phase) == ("fan@2", UpdatePhase.ROLLED_BACK)


def test_refusals_are_bounded_and_one_of_each_release() -> None:
    """The newest last; the oldest give way."""
    state = NEW
    for version in (*range(2, 10), *range(2, 10)):
        state = refusing(state, left(state, slot(version)))
    versions = [refused.release for refused in state.refused]
    for number in range(40):
        refused = msgspec.structs.replace(left(state, slot(2)), manifest_sha256=f"{number:064d}")
        state = refusing(state, refused)

    assert versions == [f"fan@{version}" for version in range(2, 10)]
    assert len(state.refused) == 16


def test_other_factory_runs_and_what_ran_stays_to_go_back_to() -> None:
    """A factory's release of before is no more."""
    updated = current_confirmed(switched(NEW, slot(2)))
    other = slot(5, factory=True)

    assert with_factory(updated, other).previous == slot(2)
    assert with_factory(NEW, other).previous is None
    assert with_factory(updated, other).current == other


def test_written_state_is_read_as_it_was() -> None:
    """Byte by byte, with all that is in it."""
    state = refusing(switched(NEW, slot(2)), left(NEW, slot(3)))

    assert decode_state(encode_state(state)) == state


@pytest.mark.parametrize("seed", range(20))
def test_state_with_a_wrong_bit_is_none(seed: int) -> None:
    """A lower version, or no state at all: it is not used."""
    chance = random.Random(seed)
    content = bytearray(encode_state(switched(NEW, slot(2))))
    content[chance.randrange(len(content))] ^= 1 << chance.randrange(8)

    with pytest.raises(StateUnusableError, match=r"cannot be used|is not what was written"):
        decode_state(bytes(content))
