"""What an operator does after a push: look, go on, go back, withdraw, tidy up."""

from collections.abc import Callable

import msgspec

from contract import topics
from contract.desired import Desired, Wanted
from contract.errors import EarshotError
from contract.release import Manifest
from contract.signature import Signer
from contract.topics import Kind
from training.fleet.broker import retained
from training.fleet.orders import (
    EXIT_NOT_ALL,
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
from training.fleet.rollout_tables import counted, fleet_table, orders_table, reason_lines
from training.fleet.shelf import Clearing, KeptRelease, kept_releases, what_to_clear

Ask = Callable[[str], bool]
"""Asks a person a question, and gives whether the answer is yes."""


class RolloutError(EarshotError):
    """The rollout is not where this would make sense: look at `training rollout`."""


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
                f" already, and {lowest:g} % is less; `training rollback` goes back"
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


def retire(access: Access, screen: Screen, ask: Ask) -> int:
    """Clear what the broker keeps of releases that no order and no node names; the exit code.

    Not while a push is under way: its chunks are named by nothing yet. What comes while a person
    thinks about it is seen, and nothing is cleared then.

    Raises:
        UnclearUseError: it cannot be told what is in use.
    """

    def work(desk: Desk) -> int:
        clearing, kept = _what_to_clear(desk, access)
        if clearing.spared:
            screen.note(
                f"{clearing.spared} files of no release stay, as a node fetches a release whose"
                " manifest is not here"
            )
        if not clearing.releases and not clearing.files:
            named = "all else" if clearing.spared else "all"
            screen.note(f"nothing to clear: orders and nodes name {named} that the broker keeps")
            return 0
        screen.print_lines(_clearing_lines(clearing, kept, checked=bool(access.trusted)))
        if not ask("clear this from the broker?"):
            screen.note("nothing was cleared")
            return 0
        if _what_to_clear(desk, access)[0] != clearing:
            screen.note(
                "nothing was cleared: what is in use has changed since you were asked, as by a push"
                " or a node that has begun; give the command again"
            )
            return EXIT_NOT_ALL
        cleared = _clear(desk, clearing)
        screen.note(
            f"cleared {counted(len(clearing.releases), 'release')}, {counted(cleared, 'chunk')}"
        )
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
            " `python -m collector command NODE rollback`"
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


def _what_to_clear(desk: Desk, access: Access) -> tuple[Clearing, dict[str, KeptRelease]]:
    # Orders and nodes once more: what is missed here would be cleared.
    operator, fleet = desk.operator, desk.fleet
    operator.read(*topics.every_desired(), topics.every_node(Kind.UPDATE), patient=True)
    kept = kept_releases(operator.read(topics.every_release(), patient=True), access.trusted)
    chunks = operator.read(topics.every_first_chunk(), patient=True)
    first = [topics.parse(topic).owner or "" for topic in chunks]
    return what_to_clear(fleet.orders.values(), list(fleet.updates.values()), kept, first), kept


def _clearing_lines(
    clearing: Clearing, kept: dict[str, KeptRelease], *, checked: bool
) -> list[str]:
    lines = []
    for label in clearing.releases:
        trouble = kept[label].trouble if checked else None
        lines.append(f"release {label}" + (f" (not signed by us: {trouble})" if trouble else ""))
    for sha256, count in sorted(clearing.files.items()):
        chunks = "of no release, its chunks" if count is None else counted(count, "chunk")
        lines.append(f"file {sha256[:12]}, {chunks}")
    return lines


def _clear(desk: Desk, clearing: Clearing) -> int:
    """Clear it, and give the number of chunks that were cleared."""
    # Manifests first: where one is, all chunks are. The first chunk last: by it a file is found
    # again when this is interrupted.
    manifests = [retained(topics.release(label), b"") for label in clearing.releases]
    for _ in desk.operator.put(manifests):
        pass
    cleared = 0
    for sha256, count in sorted(clearing.files.items()):
        if count is None:
            found = desk.operator.read(topics.every_chunk(sha256), patient=True)
            numbers = [topics.parse(topic).chunk or 0 for topic in found]
        else:
            numbers = list(range(count))
        publications = [retained(topics.blob(sha256, k), b"") for k in sorted(numbers)[::-1]]
        cleared += sum(1 for _ in desk.operator.put(publications))
    return cleared
