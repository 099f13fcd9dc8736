"""A fleet as the broker keeps it: who is addressed, what is wanted, and whose word counts."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from contract import topics
from contract.signed_desired import sign_desired
from contract.states import UpdatePhase
from tests.rig.signers import STRANGER
from tests.rig.virtual_nodes import birth
from tests.training.fleet.operating import (
    ALL,
    OURS,
    known,
    order,
    said,
    wanted,
)
from training.fleet.fleet import Fleet, SerialsUsedUpError, before


def test_addresses_reach_those_whose_birth_says_so() -> None:
    """A node, the nodes of a group, or all."""
    seen = Fleet(OURS)
    known(seen, birth("a", group="line-2"), birth("b"), birth("c", group="line-2"))

    assert seen.targets("all") == ["a", "b", "c"]
    assert seen.targets("group:line-2") == ["a", "c"]
    assert seen.targets("node:b") == ["b"]
    assert seen.targets("node:z") == []


def test_a_node_obeys_the_nearest_order() -> None:
    """Node beats group beats all; a withdrawn order beats nothing."""
    seen = Fleet(OURS)
    known(seen, birth("a", group="line-2"), order("group:line-2", "fan@5", 1))
    assert seen.nearer("a", "all") == "group:line-2"
    assert seen.nearer("a", "group:line-2") is None

    gone = msgspec.structs.replace(order("node:a", "fan@5", 1), wanted=None)
    known(seen, gone)
    assert seen.nearer("a", "all") == "group:line-2"

    known(seen, order("node:a", "fan@5", 2))
    assert seen.nearer("a", "all") == "node:a"
    assert seen.nearer("a", "node:a") is None


def test_a_stranger_pins_no_node() -> None:
    """What nobody we trust has signed keeps nobody from obeying, unless the node says it does."""
    seen = Fleet(OURS)
    known(seen, birth("a"))
    seen.take(topics.desired("node:a"), sign_desired(order("node:a", "fan@5", 9), STRANGER))
    assert seen.nearer("a", "all") is None

    known(seen, said("a", UpdatePhase.COMMITTED, obeying="node:a"))
    assert seen.nearer("a", "all") == "node:a"


def test_a_serial_is_higher_than_all_that_is_known() -> None:
    """Of the order that lies there, of what nodes say they obey there, and of the clock."""
    seen = Fleet(OURS)
    assert seen.next_serial("all", now_us=100) == 100

    known(seen, order("all", "fan@1", 200), birth("a"))
    assert seen.next_serial("all", now_us=100) == 201

    known(seen, said("a", UpdatePhase.IDLE, serial=300))
    known(seen, said("b", UpdatePhase.IDLE, serial=900, obeying="node:b"))
    assert seen.next_serial("all", now_us=100) == 301
    assert seen.next_serial("all", now_us=10_000) == 10_000


def test_serials_that_nobody_has_signed_count_up_to_a_day_ahead() -> None:
    """One forged `update` could else use up the serials of an address for good."""
    seen, day = Fleet(OURS), 86_400_000_000
    known(seen, birth("a"), said("a", UpdatePhase.IDLE, serial=100 + day))
    assert seen.next_serial("all", now_us=100) == 101 + day

    for serial in (101 + day, 2**53 - 1, 2**53):
        known(seen, said("a", UpdatePhase.IDLE, serial=serial))
        assert seen.next_serial("all", now_us=100) == 100

    known(seen, order("all", "fan@1", 2**52))
    assert seen.next_serial("all", now_us=100) == 2**52 + 1


def test_no_order_follows_one_with_the_highest_serial() -> None:
    """Nodes would find a higher one malformed; the last but one can be followed."""
    seen = Fleet(OURS)
    known(seen, order("all", "fan@1", 2**53 - 1))
    assert seen.next_serial("all", now_us=100) == 2**53

    known(seen, order("all", "fan@1", 2**53))
    with pytest.raises(SerialsUsedUpError, match="Expected a serial up to 9007199254740992"):
        seen.next_serial("all", now_us=100)


@pytest.mark.parametrize(
    ("present", "new", "expected"),
    [
        (None, "fan@2", None),
        (("fan@1", 100.0, None), "fan@2", "fan@1"),
        (("fan@2", 100.0, "fan@1"), "fan@2", "fan@1"),
        # Tried on a tenth: it goes to nobody else when another one takes its place.
        (("fan@2", 10.0, "fan@1"), "fan@3", "fan@1"),
        (("fan@2", 10.0, None), "fan@3", None),
        (("fan@2", 0.0, "fan@1"), "fan@3", "fan@1"),
    ],
)
def test_before_is_what_all_of_them_were_meant_to_run(
    present: tuple[str, float, str | None] | None, new: str, expected: str | None
) -> None:
    """A release that only some were given is no release to go back to."""
    there = None
    if present is not None:
        label, percent, older = present
        there = msgspec.structs.replace(
            order("all", label, 1),
            percent=percent,
            before=None if older is None else wanted(older),
        )

    found = before(there, wanted(new))

    assert (None if found is None else found.release) == expected


def test_before_of_another_threshold_is_the_one_before() -> None:
    """Those outside the cohort keep theirs."""
    there = order("all", "fan@2", 1)

    assert before(there, wanted("fan@2", 3.0)) == there.wanted


@given(
    st.binary(max_size=200), st.sampled_from([ALL, "earshot/1/n/a/update", "earshot/1/n/a/birth"])
)
def test_a_fleet_hears_rubbish_and_goes_on(payload: bytes, topic: str) -> None:
    """Anybody may publish anything; what cannot be read is no node and no order to believe."""
    seen = Fleet(OURS)
    known(seen, birth("a"))

    seen.take(topic, payload)

    assert seen.desired("all") is None
    if payload:
        assert seen.targets("all") == ["a"]
