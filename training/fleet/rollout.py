"""What an operator does after a push: look, go on, go back, withdraw."""

import msgspec

from contract import topics
from contract.command_line import typed
from contract.desired import Desired, Wanted
from contract.errors import EarshotError
from contract.release import Manifest
from contract.signature import Signer
from training.fleet.orders import (
    Access,
    Desk,
    Waiting,
    at_desk,
    carry_out,
    give,
    now_us,
    see_through,
)
from training.fleet.push import check_fleet
from training.fleet.rollout_screen import Screen
from training.fleet.rollout_tables import fleet_table, orders_table, reason_lines
from training.fleet.shelf import kept_releases


class RolloutError(EarshotError):
    """The rollout is not where this would make sense: look at `fleet rollout`."""


class PromoteRequest(msgspec.Struct, frozen=True, kw_only=True):
    """What `promote` is asked for: the release that is wanted, for more nodes."""

    to: str
    percents: tuple[float, ...]
    waiting: Waiting | None = None
    excepted: frozenset[str] = frozenset()
    """Ids of nodes that may be unable to run it."""


class RollbackRequest(msgspec.Struct, frozen=True, kw_only=True):
    """What `rollback` is asked for: what was wanted before, or a named release."""

    to: str
    release: str | None = None
    waiting: Waiting | None = None
    excepted: frozenset[str] = frozenset()
    """Ids of nodes that may be unable to run it."""


def status(access: Access, screen: Screen, *, checked: bool) -> int:
    """Show all orders and nodes.

    Args:
        access: to the broker.
        screen: to show it on.
        checked: whether there are keys to check orders with.
    """

    def work(desk: Desk) -> int:
        fleet = desk.fleet
        orders = sorted(fleet.orders.values(), key=lambda order: order.address)
        if orders:
            screen.print(orders_table(orders, checked=checked, now_us=now_us()))
        else:
            screen.note("no orders: every node runs what it was given")
        nodes = fleet.nodes()
        if nodes:
            screen.print(fleet_table(fleet, nodes, now_us=now_us()))
            screen.print_lines(reason_lines(fleet, nodes))
        else:
            screen.note("no node has been heard of")
        return 0

    return at_desk(access, screen, work)


def promote(request: PromoteRequest, signer: Signer, access: Access, screen: Screen) -> int:
    """Order the present release for a higher share; the exit code.

    Raises:
        RolloutError: there is no rollout, or it is further already.
        PushRefusedError: the fleet cannot run it.
    """
    topics.desired(request.to)

    def work(desk: Desk) -> int:
        present = _present(desk, request.to)
        if present.wanted is None:
            raise RolloutError(f"the order for {request.to} was withdrawn: push a release")
        lowest = request.percents[0]
        if lowest < present.percent:
            raise RolloutError(
                f"{present.wanted.release} is ordered for {present.percent:g} % of {request.to}"
                f" already, and {lowest:g} % is less; `earshot fleet rollback` goes back"
            )
        if request.percents == (present.percent,):
            screen.note(f"{present.wanted.release} is ordered for {lowest:g} % already")
            if request.waiting is None:
                return 0
            return see_through(desk, present, request.waiting, excepted=request.excepted)
        manifest = _named_by(desk, access, present.wanted)
        check_fleet(
            desk,
            request.to,
            manifest,
            signer,
            allow_older=present.allow_older,
            excepted=request.excepted,
        )
        return carry_out(
            desk, signer, present, request.percents, request.waiting, excepted=request.excepted
        )

    return at_desk(access, screen, work)


def rollback(request: RollbackRequest, signer: Signer, access: Access, screen: Screen) -> int:
    """Order an older release for all nodes at an address; the exit code.

    Raises:
        RolloutError: nothing is known to go back to, or the broker does not keep it.
        PushRefusedError: the fleet cannot run it.
    """
    topics.desired(request.to)
    if request.release is not None:
        topics.release(request.release)

    def work(desk: Desk) -> int:
        if request.release is not None:
            manifest, wanted = _on_broker(desk, access, request.release)
        else:
            wanted = _wanted_before(desk, request.to)
            manifest = _named_by(desk, access, wanted)
        check_fleet(desk, request.to, manifest, signer, allow_older=True, excepted=request.excepted)
        order = _order(request.to, wanted=wanted, allow_older=True)
        return carry_out(desk, signer, order, (100.0,), request.waiting, excepted=request.excepted)

    return at_desk(access, screen, work)


def withdraw(to: str, signer: Signer, access: Access, screen: Screen) -> int:
    """Take an order back, so that what a wider address says counts; the exit code."""
    topics.desired(to)

    def work(desk: Desk) -> int:
        present = desk.fleet.desired(to)
        if present is not None and present.wanted is None:
            screen.note(f"the order for {to} was withdrawn before")
            return 0
        give(desk, signer, _order(to, wanted=None, allow_older=False))
        screen.note(f"withdrawn: {to} has no order of its own any more")
        return 0

    return at_desk(access, screen, work)


def _present(desk: Desk, to: str) -> Desired:
    order = desk.fleet.orders.get(to)
    if order is None:
        raise RolloutError(f"there is no order for {to}: push a release")
    if order.desired is None:
        raise RolloutError(
            f"the order for {to} is not signed by us ({order.trouble}); --keys names public keys to"
            " trust beside one's own"
        )
    return order.desired


def _wanted_before(desk: Desk, to: str) -> Wanted:
    present = _present(desk, to)
    if present.before is None:
        raise RolloutError(
            f"the order for {to} names nothing to go back to; name a release that was pushed with"
            " --release NAME@VERSION, or take a single node to what it ran before with"
            f" `{typed('collector command NODE rollback')}`"
        )
    return present.before


def _named_by(desk: Desk, access: Access, wanted: Wanted) -> Manifest:
    """The manifest of the release that an order names, as the broker keeps it."""
    manifest, kept = _on_broker(desk, access, wanted.release)
    if kept.manifest_sha256 != wanted.manifest_sha256:
        raise RolloutError(
            f"the broker keeps another {wanted.release} than the order names: push a higher version"
        )
    return manifest


def _on_broker(desk: Desk, access: Access, label: str) -> tuple[Manifest, Wanted]:
    kept = kept_releases(desk.operator.read(topics.release(label)), access.trusted).get(label)
    if kept is None:
        raise RolloutError(
            f"the broker does not keep {label}, so that no node could get it: push it again"
        )
    if kept.wanted is None or kept.manifest is None:
        raise RolloutError(f"the broker's {label} is not signed by us: {kept.trouble}")
    return kept.manifest, kept.wanted


def _order(to: str, *, wanted: Wanted | None, allow_older: bool) -> Desired:
    return Desired(
        at_us=0,
        to=to,
        serial=0,
        wanted=wanted,
        percent=100.0,
        before=None,
        allow_older=allow_older,
    )
