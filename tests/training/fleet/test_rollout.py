"""What an operator does after a push, and how far a rollout is."""

import hashlib
import io
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from rich.progress import Progress
from rich.text import Text

from contract import topics
from contract.desired import Desired, Wanted, cohort_percent
from contract.messages import Status, Update, encode
from contract.release import Manifest, encode_manifest
from contract.signature import Signer
from contract.signed_desired import sign_desired
from contract.signed_manifest import sign_manifest
from contract.states import Presence, PresenceReason, UpdatePhase
from contract.topics import Kind
from tests.rig.brokers import Mosquitto
from tests.rig.signers import SECOND, SIGNER, STRANGER, TRUSTED
from tests.rig.virtual_nodes import BOOT, VirtualNode, birth
from tests.training.fleet.test_push import (
    ALL,
    OURS,
    WAITING,
    LiveEar,
    access,
    fleet,
    in_cohort,
    kept,
    order,
    order_at,
    pushed,
    put,
    run,
)
from tests.training.packed import content, manifest, packed, release
from training.fleet.clearing import UnclearUseError, what_to_clear
from training.fleet.fleet import Fleet, SerialsUsedUpError, before
from training.fleet.obstacles import obstacles
from training.fleet.orders import EXIT_NOT_ALL
from training.fleet.push import PushRefusedError
from training.fleet.retire import retire
from training.fleet.rings import Rollout, Standing
from training.fleet.rollout import (
    PromoteRequest,
    RollbackRequest,
    RolloutError,
    promote,
    rollback,
    status,
    withdraw,
)
from training.fleet.rollout_screen import Screen, _Careful, changed_line
from training.fleet.rollout_tables import fleet_table, orders_table
from training.fleet.shelf import (
    KeptRelease,
    kept_releases,
    next_version,
)


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Mosquitto]:
    """A broker of this test's own."""
    with Mosquitto(tmp_path / "mosquitto") as server:
        yield server


def yes(question: str) -> bool:
    return True


def no(question: str) -> bool:
    return False


def known(fleet: Fleet, *messages: object) -> None:
    """Let a fleet hear messages of nodes, and orders signed by us."""
    for message in messages:
        if isinstance(message, Desired):
            fleet.take(topics.desired(message.to), sign_desired(message, SIGNER))
        else:
            topic = topics.node(message.node, message.KIND)  # type: ignore[attr-defined]
            fleet.take(topic, encode(message))  # type: ignore[arg-type]


def online(node: str, state: Presence = Presence.ONLINE) -> Status:
    return Status(node=node, boot=BOOT, at_us=2, state=state, reason=PresenceReason.CONNECTED)


def said(
    node: str,
    phase: UpdatePhase,
    *,
    serial: int | None = 10,
    obeying: str | None = "all",
    running: str = "fan@1",
    reason: str | None = None,
) -> Update:
    return Update(
        node=node,
        boot=BOOT,
        at_us=3,
        running=running,
        previous=None,
        wanted="fan@2",
        phase=phase,
        progress=0.4,
        reason=reason,
        obeying=obeying,
        serial=serial,
        threshold=None,
        trial_windows=0,
        trial_flagged=0,
        running_flagged=0,
        trial_score=None,
        trial_latency_p95_ms=None,
    )


def wanted(label: str, threshold: float | None = None) -> Wanted:
    return Wanted(release=label, manifest_sha256="ab" * 32, threshold=threshold)


def kept_as(made: Manifest, signer: Signer) -> dict[str, KeptRelease]:
    """As if the broker kept it."""
    return kept_releases({topics.release(made.label): sign_manifest(made, signer)}, OURS)


def standings(rollout: Rollout) -> dict[str, Standing]:
    return {row.node: row.standing for row in rollout.rows()}


# --- who is addressed, and what speaks against it


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


def test_another_release_of_the_same_label_is_an_obstacle() -> None:
    """The node's models are not those of this manifest: a version is given once."""
    seen, file = Fleet(OURS), content()
    made = manifest(file, version=2)
    known(seen, birth("same", model="fan@2", model_sha256=made.models_sha256))
    known(seen, birth("other", model="fan@2", model_sha256="1" * 64))

    found = obstacles(seen, "all", made, signing_key=SIGNER.key_id)

    assert [each.node for each in found] == ["other"]
    assert "give this one version 3" in found[0].reason


def test_an_older_release_is_no_obstacle_to_a_rollback() -> None:
    """It is what a roll-back is for."""
    seen, made = Fleet(OURS), manifest(content(), version=2)
    known(seen, birth("a", model="fan@5"))

    blocked = obstacles(seen, "all", made, signing_key=SIGNER.key_id)
    allowed = obstacles(seen, "all", made, signing_key=SIGNER.key_id, allow_older=True)

    assert len(blocked) == 1
    assert allowed == []


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


# --- rings


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


# --- what lies on the broker's shelf


def test_the_next_version_is_above_all_of_that_name() -> None:
    """Ten comes after nine, and other names do not count."""
    assert next_version("fan", ["fan@9", "fan@10", "pump@99"]) == 11
    assert next_version("fan", []) == 1


def test_a_manifest_under_another_label_is_none() -> None:
    """Signed as it is, it was put where it does not belong."""
    envelope = sign_manifest(manifest(content(), version=2), SIGNER)

    found = kept_releases({topics.release("fan@3"): envelope}, TRUSTED)["fan@3"]

    assert found.wanted is None
    assert found.trouble == "it is the manifest of fan@2"


def test_an_order_that_cannot_be_read_blocks_clearing() -> None:
    """Nobody knows what it names."""
    seen = Fleet(OURS)
    seen.take(ALL, b"{}")

    with pytest.raises(UnclearUseError, match="the order for all cannot be read"):
        what_to_clear(seen.orders.values(), [], {}, ["ab" * 32])


def test_a_release_that_is_named_and_not_there_blocks_clearing() -> None:
    """Its files may be those that seem to be of no release; or the reading was cut short."""
    seen = Fleet(OURS)
    known(seen, order("all", "fan@2", 5))

    with pytest.raises(UnclearUseError, match="order for all names fan@2, and the broker has no"):
        what_to_clear(seen.orders.values(), [], {}, ["ab" * 32])


@pytest.mark.parametrize("signer", [SIGNER, STRANGER])
def test_another_manifest_at_the_label_that_an_order_names_blocks_clearing(signer: Signer) -> None:
    """Whoever has signed it: the files that the order needs would seem to be of no release."""
    seen = Fleet(OURS)
    file = content()
    there = kept_as(manifest(file, version=2), signer)
    known(seen, order("all", "fan@2", 5))

    with pytest.raises(UnclearUseError, match="order for all names another fan@2 than the broker"):
        what_to_clear(seen.orders.values(), [], there, [])


def test_what_was_before_is_told_by_its_manifest_as_well() -> None:
    """Nodes outside the cohort still fetch it."""
    seen, made = Fleet(OURS), manifest(content(), version=3)
    there = kept_as(made, SIGNER) | kept_as(manifest(content(), version=2), SIGNER)
    new = Wanted(release="fan@3", manifest_sha256=there["fan@3"].manifest_sha256 or "")
    given = msgspec.structs.replace(order("all", "fan@3", 5), wanted=new, before=wanted("fan@2"))
    known(seen, given)

    with pytest.raises(UnclearUseError, match="names another fan@2"):
        what_to_clear(seen.orders.values(), [], there, [])


@pytest.mark.parametrize("field", ["running", "wanted"])
@pytest.mark.parametrize("phase", [UpdatePhase.COMMITTED, UpdatePhase.DOWNLOADING])
def test_what_a_node_names_stays(field: str, phase: UpdatePhase) -> None:
    """It remembers its orders, whatever has become of them on the broker."""
    there = kept_as(manifest(content(), version=7), SIGNER)
    told = msgspec.structs.replace(said("a", phase), **{field: "fan@7"})

    found = what_to_clear([], [told], there, [])

    assert (found.releases, found.files) == ((), {})
    assert what_to_clear([], [], there, []).releases == ("fan@7",)


@pytest.mark.parametrize("signer", [None, STRANGER])
def test_files_of_no_release_stay_while_a_node_fetches_an_unknown_one(
    signer: Signer | None,
) -> None:
    """Its manifest was cleared, or another one put in its place, after the node had heard it."""
    there = {} if signer is None else kept_as(manifest(content(), version=2), signer)
    sha256 = "cd" * 32

    fetching = what_to_clear([], [said("a", UpdatePhase.DOWNLOADING)], there, [sha256])
    done = what_to_clear([], [said("a", UpdatePhase.COMMITTED)], there, [sha256])

    assert (fetching.files, fetching.spared) == ({}, 1)
    assert (done.files, done.spared) == ({sha256: None}, 0)


# --- on a broker


def test_promote_goes_on_with_the_same_release(broker: Mosquitto, tmp_path: Path) -> None:
    """A higher share, a new serial; what was before stays what was before."""
    early, late = in_cohort(0, 10, 1) + in_cohort(10, 100, 1)
    nodes = [VirtualNode(broker, early), VirtualNode(broker, late)]
    with fleet(nodes):
        pushed(broker, release(tmp_path, 2), waiting=WAITING)
        pushed(broker, release(tmp_path, 3), "all", 10.0, waiting=WAITING)
        first = order_at(broker, "all")
        running = [node.running for node in nodes]
        request = PromoteRequest(to="all", percents=(100.0,), waiting=WAITING)
        code = promote(request, SIGNER, access(broker), Screen())

    second = order_at(broker, "all")
    assert running == ["fan@3", "fan@2"]
    assert code == 0
    assert [node.running for node in nodes] == ["fan@3", "fan@3"]
    assert second.serial > first.serial
    assert (second.wanted, second.before) == (first.wanted, first.before)
    assert second.before is not None


def test_promote_again_changes_nothing(
    broker: Mosquitto, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The order stands, and can be waited for."""
    with fleet([VirtualNode(broker, "press-a")]):
        pushed(broker, release(tmp_path))
        there = order_at(broker, "all")
        request = PromoteRequest(to="all", percents=(100.0,), waiting=WAITING)
        code = promote(request, SIGNER, access(broker), Screen())

    assert code == 0
    assert order_at(broker, "all") == there
    assert "1 of 1 node has committed it" in capsys.readouterr().out


def test_promote_to_less_is_refused(broker: Mosquitto, tmp_path: Path) -> None:
    """Nodes do not give a release back by that."""
    pushed(broker, release(tmp_path), "all", 50.0)

    with pytest.raises(RolloutError, match=r"ordered for 50 % of all already, and 10 % is less"):
        promote(PromoteRequest(to="all", percents=(10.0,)), SIGNER, access(broker), Screen())

    assert order_at(broker, "all").percent == 50


def test_promote_of_nothing_is_refused(broker: Mosquitto) -> None:
    """It says what comes first."""
    with pytest.raises(RolloutError, match="there is no order for all: push a release"):
        promote(PromoteRequest(to="all", percents=(10.0,)), SIGNER, access(broker), Screen())


def test_an_order_of_somebody_else_is_not_gone_on_with(broker: Mosquitto, tmp_path: Path) -> None:
    """Whoever has signed it: our signature below it would make it ours."""
    put(broker, ALL, sign_desired(order("all", "fan@2", 5), STRANGER))

    with pytest.raises(RolloutError, match="the order for all is not signed by us"):
        promote(PromoteRequest(to="all", percents=(100.0,)), SIGNER, access(broker), Screen())
    with pytest.raises(RolloutError, match="the order for all is not signed by us"):
        rollback(RollbackRequest(to="all"), SIGNER, access(broker), Screen())


def test_a_new_node_that_cannot_run_it_stands_in_the_way(broker: Mosquitto, tmp_path: Path) -> None:
    """The fleet is asked at each step, not at the first alone."""
    pushed(broker, release(tmp_path), "all", 10.0)

    with (
        fleet([VirtualNode(broker, "closed", trusted={})]),
        pytest.raises(PushRefusedError, match="closed takes no updates"),
    ):
        promote(PromoteRequest(to="all", percents=(100.0,)), SIGNER, access(broker), Screen())


def test_rollback_goes_to_what_was_before(broker: Mosquitto, tmp_path: Path) -> None:
    """Signed, for all, and with leave to run an older version."""
    with fleet([node := VirtualNode(broker, "press-a")]):
        pushed(broker, release(tmp_path, 2), waiting=WAITING)
        pushed(broker, release(tmp_path, 3), waiting=WAITING)
        request = RollbackRequest(to="all", waiting=WAITING)
        code = rollback(request, SIGNER, access(broker), Screen())

    order = order_at(broker, "all")
    assert code == 0
    assert node.running == "fan@2"
    assert (order.allow_older, order.percent, order.before) == (True, 100.0, None)


def test_rollback_to_a_named_release(broker: Mosquitto, tmp_path: Path) -> None:
    """Any that the broker still keeps."""
    with fleet([node := VirtualNode(broker, "press-a")]):
        for version in (2, 3, 4):
            pushed(broker, release(tmp_path, version), waiting=WAITING)
        request = RollbackRequest(to="all", release="fan@2", waiting=WAITING)
        code = rollback(request, SIGNER, access(broker), Screen())

    assert code == 0
    assert node.running == "fan@2"


def test_rollback_to_what_is_not_there_is_refused(broker: Mosquitto, tmp_path: Path) -> None:
    """Nothing before, or nothing of that name: nodes could not get it."""
    pushed(broker, release(tmp_path))
    there = order_at(broker, "all")

    with pytest.raises(RolloutError, match="names nothing to go back to"):
        rollback(RollbackRequest(to="all"), SIGNER, access(broker), Screen())
    with pytest.raises(RolloutError, match="the broker does not keep fan@1"):
        rollback(RollbackRequest(to="all", release="fan@1"), SIGNER, access(broker), Screen())

    assert order_at(broker, "all") == there


def test_a_withdrawn_order_gives_way_to_a_wider_one(broker: Mosquitto, tmp_path: Path) -> None:
    """The node then runs what all should run."""
    with fleet([node := VirtualNode(broker, "press-a")]):
        pushed(broker, release(tmp_path, 2), "node:press-a", waiting=WAITING)
        pushed(broker, release(tmp_path, 3))
        before = node.running
        assert withdraw("node:press-a", SIGNER, access(broker), Screen()) == 0
        request = PromoteRequest(to="all", percents=(100.0,), waiting=WAITING)
        code = promote(request, SIGNER, access(broker), Screen())

    assert (before, node.running) == ("fan@2", "fan@3")
    assert code == 0
    assert order_at(broker, "node:press-a").wanted is None


def test_retire_clears_what_no_order_names(
    broker: Mosquitto, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What is wanted, and what was before, stays; files that both have stay as well."""
    shared = content(seed=3)
    for version, file in ((2, content(seed=2)), (3, shared), (4, content(seed=4)), (5, shared)):
        pushed(broker, packed(tmp_path, manifest(file, version=version), file))
    # fan@5 is wanted, fan@4 was before; fan@3 has the file of fan@5. Half a push is there, too.
    orphan = "cd" * 32
    for k in (0, 1, 7):
        put(broker, topics.blob(orphan, k), b"x")

    code = retire(access(broker), Screen(), yes)

    releases = kept(broker, topics.every_release())
    chunks = kept(broker, "earshot/1/blob/+/+")
    assert code == 0
    assert set(releases) == {topics.release("fan@4"), topics.release("fan@5")}
    assert {topics.parse(topic).owner for topic in chunks} == {
        file.sha256 for made in (manifest(shared), manifest(content(seed=4))) for file in made.files
    }
    out, err = capsys.readouterr()
    assert out.splitlines()[:2] == ["release fan@2", "release fan@3"]
    assert "cleared 2 releases, 7 chunks" in err


def test_retire_asks_first(broker: Mosquitto, tmp_path: Path) -> None:
    """A no changes nothing."""
    for version in (2, 3, 4):
        pushed(broker, release(tmp_path, version))
    before = kept(broker, "earshot/1/#")

    assert retire(access(broker), Screen(), no) == 0

    assert kept(broker, "earshot/1/#") == before


@pytest.mark.parametrize("signer", [SECOND, STRANGER])
def test_retire_keeps_what_a_foreign_order_names(
    broker: Mosquitto, tmp_path: Path, signer: Signer
) -> None:
    """Nodes may trust a key that we do not know."""
    for version in (2, 3, 4):
        pushed(broker, release(tmp_path, version))
    meant = manifest(content(seed=2), version=2)
    sha256 = hashlib.sha256(encode_manifest(meant)).hexdigest()
    foreign = msgspec.structs.replace(
        order("group:line-2", "fan@2", 5),
        wanted=Wanted(release="fan@2", manifest_sha256=sha256),
    )
    put(broker, topics.desired(foreign.to), sign_desired(foreign, signer))

    assert retire(access(broker), Screen(), yes) == 0

    assert topics.release("fan@2") in kept(broker, topics.every_release())


def test_retire_looks_again_after_the_question(
    broker: Mosquitto, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What somebody orders while a person thinks stays, and so does all else."""
    for version in (2, 3, 4):
        pushed(broker, release(tmp_path, version))

    def ask(question: str) -> bool:
        pushed(broker, tmp_path / "fan@2", "node:press-07")
        return True

    code = retire(access(broker), Screen(), ask)

    assert code == EXIT_NOT_ALL
    assert topics.release("fan@2") in kept(broker, topics.every_release())
    assert len(kept(broker, "earshot/1/blob/+/+")) == 3 * 4
    assert "nothing was cleared: what is in use has changed" in capsys.readouterr().err


def test_retire_sees_a_node_begin_during_the_question(broker: Mosquitto, tmp_path: Path) -> None:
    """As one does that obeys an order which the broker has lost."""
    for version in (2, 3, 4):
        pushed(broker, release(tmp_path, version))

    def ask(question: str) -> bool:
        told = said("press-07", UpdatePhase.DOWNLOADING)
        put(broker, topics.node("press-07", Kind.UPDATE), encode(told))
        return True

    assert retire(access(broker), Screen(), ask) == EXIT_NOT_ALL

    assert topics.release("fan@2") in kept(broker, topics.every_release())


def test_retire_keeps_what_nodes_obey_although_the_broker_has_lost_the_order(
    broker: Mosquitto, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Anybody may clear an order; nodes remember it."""
    with fleet([VirtualNode(broker, "press-a")]):
        pushed(broker, release(tmp_path), waiting=WAITING)
    put(broker, ALL, b"")

    assert retire(access(broker), Screen(), yes) == 0

    assert topics.release("fan@2") in kept(broker, topics.every_release())
    assert len(kept(broker, "earshot/1/blob/+/+")) == 4
    assert "nothing to clear" in capsys.readouterr().err


def test_retire_stops_at_another_manifest_in_the_place_of_an_ordered_one(
    broker: Mosquitto, tmp_path: Path
) -> None:
    """The ordered files are of no release then, and stay."""
    pushed(broker, release(tmp_path))
    forged = sign_manifest(manifest(content(seed=9), version=2), STRANGER)
    put(broker, topics.release("fan@2"), forged)

    with pytest.raises(UnclearUseError, match="names another fan@2 than the broker keeps, which"):
        retire(access(broker), Screen(), yes)

    assert len(kept(broker, "earshot/1/blob/+/+")) == 4


def test_retire_without_a_terminal_wants_a_yes(broker: Mosquitto, tmp_path: Path) -> None:
    """Nobody is there to be asked."""
    for version in (2, 3, 4):
        pushed(broker, release(tmp_path, version))

    asked = run(broker, tmp_path, "retire")
    told = run(broker, tmp_path, "retire", "--yes")

    assert (asked.returncode, asked.stdout.splitlines()[0]) == (2, "release fan@2")
    assert asked.stderr.splitlines()[-1].endswith("there is no terminal to ask in; say --yes")
    assert told.returncode == 0
    assert "cleared 1 release, 4 chunks" in told.stderr


def test_status_shows_nodes_and_orders(broker: Mosquitto, tmp_path: Path) -> None:
    """With the public half of the key, signatures are checked."""
    public = tmp_path / "public.pem"
    public.write_bytes(SIGNER.public_pem)
    with fleet([VirtualNode(broker, "press-a", group="line-2")]):
        pushed(broker, release(tmp_path), waiting=WAITING)
        foreign = order("group:line-2", "evil@9", 5)
        put(broker, topics.desired(foreign.to), sign_desired(foreign, STRANGER))
        shown = run(broker, tmp_path, "rollout", "status", "--keys", str(public))
        unchecked = run(broker, tmp_path, "rollout")

    assert (shown.returncode, shown.stderr) == (0, "")
    assert "not signed by us" in shown.stdout
    assert "evil@9" not in shown.stdout
    (node,) = [line for line in shown.stdout.splitlines() if "press-a" in line]
    for word in ("yes", "fan@2", "committed", "all", "s ago"):
        assert word in node
    assert "orders (signatures not checked)" in unchecked.stdout
    assert "evil@9" in unchecked.stdout


def test_what_nodes_say_does_not_rule_the_terminal(
    broker: Mosquitto, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Escape sequences, line breaks and overrides of direction are shown, and not obeyed."""
    evil = "\x1b[2J\x1b]0;owned\x07\x9b31m\u202e\n9 of 9 nodes have committed it [red]well[/red]"
    told = said("press-a", UpdatePhase.REJECTED, reason=evil, obeying="\x1b[31mall")
    put(broker, topics.node("press-a", Kind.UPDATE), encode(told))

    assert status(access(broker), Screen(), checked=True) == 0
    Screen().note(evil)

    out, err = capsys.readouterr()
    lines = [*out.splitlines(), *err.splitlines()]
    assert all(line.isprintable() for line in lines)
    assert "press-a rejected 40%: ?[2J?]0;owned" in out
    assert "?[31m" in out
    assert not any(line.startswith("9 of 9") for line in lines)
    assert "[red]well[/red]" in out


def test_bars_and_colours_are_still_drawn() -> None:
    """What the screen itself writes reaches the terminal as it is."""
    console = _Careful(file=io.StringIO(), force_terminal=True, width=80)

    with Progress(console=console) as bar:
        bar.add_task("ring \x1b[2J", total=1)
    console.print(Text("all well\x1b[2J", "green"))

    assert isinstance(console.file, io.StringIO)
    text = console.file.getvalue()
    assert "\x1b[32mall well?[2J\x1b[0m" in text
    assert "ring ?[2" in text
    assert "\x1b[2J" not in text
    assert "━" in text


def test_tables_say_what_is_not_known() -> None:
    """A dash, and no guess."""
    seen = Fleet(OURS)
    known(seen, birth("a"))
    seen.take(ALL, b"rubbish")
    console = Console(file=io.StringIO(), width=120)

    console.print(fleet_table(seen, seen.nodes(), now_us=0))
    console.print(orders_table(seen.orders.values(), checked=True, now_us=0))

    assert isinstance(console.file, io.StringIO)
    text = console.file.getvalue()
    rows = [line.split() for line in text.splitlines()]
    assert ["a", "no", "fan@1", "-", "-", "-", "-"] in rows
    assert ["all", "not", "signed", "by", "us", "-", "-", "-"] in rows


def test_tables_lose_nothing_on_a_narrow_screen() -> None:
    """A long name goes on below itself."""
    name = "press-07-of-the-hall-by-the-rive"
    seen = Fleet(OURS)
    known(seen, birth(name))
    console = Console(file=io.StringIO(), width=80)

    console.print(fleet_table(seen, seen.nodes(), now_us=0))

    assert isinstance(console.file, io.StringIO)
    _, _, head, _, *rows = console.file.getvalue().splitlines()
    column = slice(head.index("node"), head.index("online"))
    assert max(map(len, [head, *rows])) <= 80
    assert "".join(row[column].strip() for row in rows) == name


def test_status_of_an_empty_broker(broker: Mosquitto, capsys: pytest.CaptureFixture[str]) -> None:
    """Two lines, and no empty tables."""
    assert status(access(broker), Screen(), checked=True) == 0

    out, err = capsys.readouterr()
    assert out == ""
    assert "no orders" in err
    assert "no node has been heard of" in err


def test_ears_do_not_hear_what_was_there(broker: Mosquitto) -> None:
    """The test's own ear counts what is said while it listens."""
    put(broker, topics.node("press-a", Kind.STATUS), b"x")

    with LiveEar(broker) as ear:
        assert ear.received() == []
