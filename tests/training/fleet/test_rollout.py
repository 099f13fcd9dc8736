"""What an operator does after a push."""

from pathlib import Path

import pytest

from contract import topics
from contract.signed_desired import sign_desired
from tests.rig.brokers import Mosquitto
from tests.rig.signers import SIGNER, STRANGER
from tests.rig.virtual_nodes import VirtualNode
from tests.training.fleet.operating import (
    ALL,
    WAITING,
    access,
    fleet,
    in_cohort,
    order,
    order_at,
    pushed,
    put,
    run,
)
from tests.training.packed import release
from training.fleet.push import PushRefusedError
from training.fleet.rollout import (
    PromoteRequest,
    RollbackRequest,
    RolloutError,
    promote,
    rollback,
    status,
    withdraw,
)
from training.fleet.rollout_screen import Screen


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


def test_status_of_an_empty_broker(broker: Mosquitto, capsys: pytest.CaptureFixture[str]) -> None:
    """Two lines, and no empty tables."""
    assert status(access(broker), Screen(), checked=True) == 0

    out, err = capsys.readouterr()
    assert out == ""
    assert "no orders" in err
    assert "no node has been heard of" in err
