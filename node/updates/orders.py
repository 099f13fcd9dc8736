"""Which order a node follows, and what that asks of it. Pure: bytes are opened elsewhere.

The nearest address counts: the node's own order before its group's before that of all. A withdrawn
order counts for nothing. Of the nodes at an address a share follows; the others run what was
wanted before, as far as they do not run something newer.
"""

from collections.abc import Mapping

import msgspec

from contract.desired import Desired, Wanted, cohort_percent
from contract.errors import EarshotError


class OrderError(EarshotError):
    """An order that must not be followed: what was ordered before stands."""


class StandingOrder(msgspec.Struct, frozen=True, kw_only=True):
    """The order that a node follows now, and what that asks of it."""

    address: str | None
    """Whose order it is; None if there is none."""
    serial: int | None
    target: Wanted | None
    """The release to run; None is whatever runs."""
    allow_older: bool


NOTHING_ORDERED = StandingOrder(address=None, serial=None, target=None, allow_older=False)


def addresses(node: str, group: str | None) -> tuple[str, ...]:
    """Where orders for a node are, the nearest first."""
    return (f"node:{node}", *(() if group is None else (f"group:{group}",)), "all")


def is_news(order: Desired, known: Desired | None) -> bool:
    """Whether an order replaces the one that is known; the same one again is fine, and no news.

    Raises:
        OrderError: it is older than that, or another with the same serial.
    """
    if known is None or order.serial > known.serial:
        return True
    if order == known:
        return False
    if order.serial == known.serial:
        raise OrderError(f"another order to {order.to} with serial {order.serial} came before")
    raise OrderError(
        f"expected an order to {order.to} with a serial above {known.serial}, got {order.serial}:"
        " it is an old one"
    )


def standing_order(
    orders: Mapping[str, Desired], *, node: str, group: str | None, running: Wanted
) -> StandingOrder:
    """What the orders that are known come to.

    Args:
        orders: by address.
        node: its id.
        group: its group.
        running: the release that it runs now.
    """
    for address in addresses(node, group):
        order = orders.get(address)
        if order is None or order.wanted is None:
            continue
        follows = cohort_percent(node) < order.percent
        target = order.wanted if follows else _of_the_others(order.before, running)
        return StandingOrder(
            address=address, serial=order.serial, target=target, allow_older=order.allow_older
        )
    return NOTHING_ORDERED


def check_version(target: Wanted, highest: Mapping[str, int], *, allow_older: bool) -> None:
    """Make sure that a node does not go back to what it has left behind.

    Raises:
        OrderError: it would, and the order does not say that it may.
    """
    known = highest.get(target.name, 0)
    if target.version < known and not allow_older:
        raise OrderError(
            f"expected {target.name}@{known} or newer, which this node has run, got"
            f" {target.release}: an order to go back has to say so (earshot fleet rollback)"
        )


def _of_the_others(before: Wanted | None, running: Wanted) -> Wanted | None:
    if before is None or running.manifest_sha256 == before.manifest_sha256:
        return before
    # A share that was lowered, or an order that was stopped, takes nobody back.
    newer = running.name == before.name and running.version >= before.version
    return None if newer else before
