"""The orders that a node has accepted: opened, kept in its state, and what they come to.

What an order means is `node.updates.orders`'; what is done about it is the updater's.
"""

import logging

import msgspec

from contract.desired import Desired, Wanted
from contract.session import Received
from contract.signature import TrustedKeys
from contract.signed_desired import open_desired
from node.updates.orders import NOTHING_ORDERED, StandingOrder, is_news, standing_order
from node.updates.slots import SlotStore

logger = logging.getLogger(__name__)


class OrderBook:
    """Orders to one node.

    Args:
        store: where they are kept.
        trusted: whose orders count.
        node: the node's id.
        group: its group.
    """

    def __init__(
        self, store: SlotStore, trusted: TrustedKeys, *, node: str, group: str | None
    ) -> None:
        self._store = store
        self._trusted = trusted
        self._node = node
        self._group = group
        self.standing: StandingOrder = NOTHING_ORDERED
        """What the orders came to when they were weighed last."""

    def take(self, message: Received) -> None:
        """Open an order and keep it, if it is a new one.

        Raises:
            SignatureError: nobody whose word counts has signed it.
            MessageError: it is no order.
            OrderError: a newer one to the same address is known.
            UpdateStoreError: it cannot be kept, and so is not followed.
        """
        orders = self._store.state.orders
        order = open_desired(message.topic, message.payload, self._trusted)
        if not is_news(order, orders.get(order.to)):
            return
        # First kept, then followed: else a node that was switched off could be told the old again.
        state = msgspec.structs.replace(self._store.state, orders={**orders, order.to: order})
        self._store.keep(state)
        logger.info("ordered to %s: %s", order.to, _in_words(order))

    def weigh(self) -> StandingOrder:
        """What the orders come to now."""
        state = self._store.state
        running = Wanted(
            release=state.current.release, manifest_sha256=state.current.manifest_sha256
        )
        self.standing = standing_order(
            state.orders, node=self._node, group=self._group, running=running
        )
        return self.standing


def _in_words(order: Desired) -> str:
    if order.wanted is None:
        return "nothing any more"
    threshold = "" if order.wanted.threshold is None else f", threshold {order.wanted.threshold:g}"
    return f"{order.wanted.release}{threshold}, {order.percent:g} %"
