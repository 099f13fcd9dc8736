"""How far a rollout is, and where each node stands."""

import pytest

from contract.desired import cohort_percent
from contract.states import Presence, UpdatePhase
from tests.rig.virtual_nodes import birth
from tests.training.fleet.operating import (
    OURS,
    in_cohort,
    known,
    online,
    order,
    said,
)
from training.fleet.fleet import Fleet
from training.fleet.rings import Rollout, Standing
from training.fleet.rollout_screen import changed_line


def standings(rollout: Rollout) -> dict[str, Standing]:
    return {row.node: row.standing for row in rollout.rows()}


def rollout_of(seen: Fleet, *percents: float) -> Rollout:
    rollout = Rollout(seen, "all", "fan@2")
    for number, percent in enumerate(percents):
        rollout.begin(percent, 10 + number)
    return rollout


def test_what_a_node_said_of_an_earlier_order_counts_for_nothing() -> None:
    """Nor what it says of an order for another address."""
    seen = Fleet(OURS)
    known(seen, birth("a"), online("a"), said("a", UpdatePhase.REJECTED, serial=9))
    rollout = rollout_of(seen, 100)
    assert standings(rollout) == {"a": Standing.WAITING}

    known(seen, said("a", UpdatePhase.TRIAL))
    assert standings(rollout) == {"a": Standing.UNDER_WAY}

    known(seen, said("a", UpdatePhase.COMMITTED, running="fan@2"))
    assert standings(rollout) == {"a": Standing.COMMITTED}


def test_a_node_at_rest_with_another_release_has_not_committed_it() -> None:
    """Committed is said of the release that runs."""
    seen = Fleet(OURS)
    known(seen, birth("a"), online("a"), said("a", UpdatePhase.IDLE, running="fan@1"))

    assert standings(rollout_of(seen, 100)) == {"a": Standing.UNDER_WAY}


def test_a_node_that_ran_it_all_along_is_done() -> None:
    """As after a change of the threshold alone, or a second ring."""
    seen = Fleet(OURS)
    known(seen, birth("a"), online("a"), said("a", UpdatePhase.IDLE, running="fan@2", serial=77))

    assert standings(rollout_of(seen, 100)) == {"a": Standing.COMMITTED}


def test_who_is_away_is_not_waited_for_unless_it_has_begun() -> None:
    """A node that vanishes in its trial may have died of it."""
    seen = Fleet(OURS)
    known(seen, birth("idle"), online("idle", Presence.OFFLINE))
    known(seen, birth("begun"), online("begun", Presence.OFFLINE), said("begun", UpdatePhase.TRIAL))

    (ring,) = rollout_of(seen, 100).progress()

    assert ring.awaited == ("begun",)
    assert ring.phases == {"offline": 1, "trial": 1}


def test_a_refused_order_of_somebody_else_is_no_outcome_of_ours() -> None:
    """Said of an order that nobody is obeyed for: neither its phase nor its end counts."""
    seen = Fleet(OURS)
    known(seen, birth("a"), online("a"), birth("b"), online("b"))
    for phase in (UpdatePhase.REJECTED, UpdatePhase.ROLLED_BACK):
        known(seen, said("a", phase, obeying=None, serial=None, reason="not signed"))
        rollout = rollout_of(seen, 100)
        assert standings(rollout)["a"] is Standing.WAITING

    known(seen, said("a", UpdatePhase.COMMITTED, running="fan@2"))
    assert standings(rollout)["a"] is Standing.COMMITTED
    known(seen, said("a", UpdatePhase.REJECTED, obeying=None, serial=None, running="fan@2"))
    assert standings(rollout)["a"] is Standing.COMMITTED


@pytest.mark.parametrize(("obeying", "serial"), [("all", 10), (None, None)])
def test_a_node_that_starts_again_and_again_is_waited_for(
    obeying: str | None, serial: int | None
) -> None:
    """Its first word after a start may name the order or none; it has begun, and is not done."""
    seen = Fleet(OURS)
    known(seen, birth("a"), online("a"), said("a", UpdatePhase.TRIAL, running="fan@2"))
    rollout = rollout_of(seen, 100)
    assert standings(rollout) == {"a": Standing.UNDER_WAY}

    again = said("a", UpdatePhase.TRIAL, running="fan@2", obeying=obeying, serial=serial)
    known(seen, online("a", Presence.OFFLINE), again)
    assert rollout.progress()[-1].awaited == ("a",)

    known(seen, online("a"), said("a", UpdatePhase.ROLLED_BACK, reason="3 starts"))
    assert standings(rollout) == {"a": Standing.ROLLED_BACK}


def test_who_was_left_out_is_waited_for_once_it_has_begun() -> None:
    """An operator knows of it; what it makes of the release all the same counts."""
    seen = Fleet(OURS)
    known(seen, birth("a"), online("a"))
    rollout = Rollout(seen, "all", "fan@2", excepted={"a"})
    rollout.begin(100, 10)
    assert standings(rollout) == {"a": Standing.EXCEPTED}
    assert rollout.progress()[-1].awaited == ()

    known(seen, said("a", UpdatePhase.TRIAL))
    assert rollout.progress()[-1].awaited == ("a",)


def test_a_ring_must_show_something_before_the_next() -> None:
    """All away is nothing; nobody there at all passes on what a ring before has shown."""
    (early,), (late,) = in_cohort(0, 10, 1), in_cohort(50, 100, 1)
    seen = Fleet(OURS)
    known(seen, birth(late), online(late))
    assert not rollout_of(seen, 10).shown()

    known(seen, birth(early), online(early, Presence.OFFLINE))
    assert not rollout_of(seen, 10).shown()
    assert not rollout_of(seen, 10, 50).shown()

    known(seen, online(early), said(early, UpdatePhase.REJECTED))
    assert rollout_of(seen, 10).shown()
    assert not rollout_of(seen, 10, 50).shown()

    known(seen, said(early, UpdatePhase.COMMITTED, running="fan@2"))
    assert rollout_of(seen, 10, 50).shown()

    known(seen, online(late, Presence.OFFLINE))
    assert not rollout_of(seen, 10, 100).shown()


def test_the_first_node_to_come_is_online_and_stands_below_the_share() -> None:
    """With that share ordered it would follow."""
    (early,), (away,), (late,) = (in_cohort(*ends, 1) for ends in ((0, 10), (10, 50), (50, 100)))
    seen = Fleet(OURS)
    known(seen, birth(early), online(early), birth(away), birth(late))
    assert rollout_of(seen, 10).first_to_come() is None

    known(seen, online(late))
    first = rollout_of(seen, 10).first_to_come()

    assert first is not None
    node, percent = first
    assert node == late
    assert cohort_percent(late) < percent <= cohort_percent(late) + 1


def test_rings_divide_the_nodes() -> None:
    """Every node is in the first ring that holds it, and shares are of those waited for."""
    early, late = in_cohort(0, 10, 2), in_cohort(10, 50, 1)
    never = in_cohort(50, 100, 1)
    seen = Fleet(OURS)
    for name in (*early, *late, *never):
        known(seen, birth(name), online(name))
    known(seen, said(early[0], UpdatePhase.ROLLED_BACK, reason="too slow"))
    rollout = rollout_of(seen, 10, 50)

    first, second = rollout.progress()

    assert (first.total, first.failed, first.failed_share) == (2, 1, 0.5)
    assert first.awaited == (early[1],)
    assert second.awaited == tuple(late)
    assert standings(rollout)[never[0]] is Standing.LATER


def test_a_second_try_does_not_hide_that_the_first_failed() -> None:
    """A higher serial lets a node try once more; it counts as failed until it has committed."""
    (name,) = in_cohort(0, 10, 1)
    seen = Fleet(OURS)
    known(seen, birth(name), online(name), said(name, UpdatePhase.REJECTED, reason="NaN"))
    rollout = rollout_of(seen, 10)
    assert standings(rollout) == {name: Standing.REJECTED}

    known(seen, said(name, UpdatePhase.TRIAL, serial=11))
    assert standings(rollout) == {name: Standing.REJECTED}

    known(seen, said(name, UpdatePhase.COMMITTED, serial=11, running="fan@2"))
    assert standings(rollout) == {name: Standing.COMMITTED}


def test_a_line_says_why() -> None:
    """The node's own reason, or whose order it obeys."""
    seen = Fleet(OURS)
    known(seen, birth("a"), online("a"), said("a", UpdatePhase.REJECTED, reason="NaN"))
    known(seen, birth("b"), online("b"), order("node:b", "fan@7", 3))

    lines = [changed_line(row) for row in rollout_of(seen, 100).rows()]

    assert lines == ["ring 1, a: rejected (NaN)", "ring 1, b: obeys a nearer order (node:b)"]
