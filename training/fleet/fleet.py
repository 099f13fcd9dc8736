"""A fleet as the broker keeps it: nodes, and the orders to them. Values in, values out.

Whose word counts is decided here: an order that no trusted key has signed is kept, shown and never
believed.
"""

from collections.abc import Sequence

import msgspec

from contract import topics
from contract.desired import Desired, Wanted
from contract.errors import EarshotError, MessageError, SignatureError, TopicError
from contract.messages import Birth, Status, Update, decode
from contract.signature import TrustedKeys
from contract.signed_desired import open_desired
from contract.states import Presence
from contract.topics import Kind
from training.fleet.unverified import claimed_payload

HEARD = (
    topics.every_node(Kind.STATUS),
    topics.every_node(Kind.BIRTH),
    topics.every_node(Kind.UPDATE),
    *topics.every_desired(),
)
"""Topic filters of all that a `Fleet` is made of."""

_HIGHEST_SERIAL = 2**53
"""As `contract.messages.Count` has it: nodes take a higher one for no order at all."""
# Nobody signs an `update`. What one claims of the next day may be an operator whose clock is ahead;
# if all were believed, a single forged one would use up the serials of an address for good.
_CLAIMS_AHEAD_US = 24 * 3_600_000_000


class SerialsUsedUpError(EarshotError):
    """No order can follow the last one to an address: order at another one."""


class Order(msgspec.Struct, frozen=True, kw_only=True):
    """What the broker keeps as the order for an address."""

    address: str
    envelope: bytes
    desired: Desired | None
    """What it says; None if nobody who is trusted has signed it."""
    trouble: str | None
    """Why it is not believed; None if it is."""

    def unverified(self) -> Desired | None:
        """What it claims to say, whoever has written it; None if that cannot be read."""
        payload = claimed_payload(self.envelope)
        if payload is None:
            return None
        try:
            return _DESIRED.decode(payload)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, ValueError):
            return None


class Fleet:
    """Fed with what comes from the broker, in order of arrival.

    Args:
        trusted: whose orders count.
    """

    def __init__(self, trusted: TrustedKeys) -> None:
        self._trusted = trusted
        self._statuses: dict[str, Status] = {}
        self.births: dict[str, Birth] = {}
        self.updates: dict[str, Update] = {}
        self.orders: dict[str, Order] = {}
        """By address."""

    def take(self, topic: str, payload: bytes) -> None:
        """Learn from a message; what is of no use here, or cannot be read, is left alone."""
        try:
            where = topics.parse(topic)
        except TopicError:
            return
        if where.kind is Kind.DESIRED:
            self._take_order(topic, payload)
            return
        if not payload:
            self._forget(where)
            return
        try:
            message = decode(topic, payload)
        except MessageError:
            return
        match message:
            case Birth():
                self.births[message.node] = message
            case Status():
                self._statuses[message.node] = message
            case Update():
                self.updates[message.node] = message

    def nodes(self) -> list[str]:
        """Ids of all nodes that are known, sorted."""
        return sorted({*self.births, *self._statuses, *self.updates})

    def online(self, node: str) -> bool:
        """Whether a node is connected, as far as is known."""
        status = self._statuses.get(node)
        return status is not None and status.state is Presence.ONLINE

    def running(self, node: str) -> str | None:
        """Label of the release that a node runs; None if it has not said."""
        update, birth = self.updates.get(node), self.births.get(node)
        newest = max(
            (said for said in (update, birth) if said is not None),
            key=lambda said: said.at_us,
            default=None,
        )
        return newest.running if isinstance(newest, Update) else newest.model if newest else None

    def targets(self, address: str) -> list[str]:
        """Nodes at an address, by name: those whose birth says that they belong there."""
        kind, _, owner = address.partition(":")
        return sorted(
            node
            for node, birth in self.births.items()
            if kind == "all" or owner == (node if kind == "node" else birth.group_id)
        )

    def nearer(self, node: str, address: str) -> str | None:
        """The nearer address whose order a node obeys in place of one to this address."""
        chain = self._addresses(node)
        update = self.updates.get(node)
        for nearer in chain[: chain.index(address)] if address in chain else ():
            order = self.orders.get(nearer)
            if order is not None and order.desired is not None:
                if order.desired.wanted is not None:
                    return nearer
            # It remembers an order that was cleared, and judges by keys that we may not know.
            elif update is not None and update.obeying == nearer:
                return nearer
        return None

    def desired(self, address: str) -> Desired | None:
        """The order at an address that somebody who is trusted has signed."""
        order = self.orders.get(address)
        return None if order is None else order.desired

    def next_serial(self, address: str, *, now_us: int) -> int:
        """Higher than any that was given for this address, as far as can be known.

        An order that was signed counts whatever its serial; what nodes claim, up to a day ahead.

        Raises:
            SerialsUsedUpError: there is none.
        """
        present = self.desired(address)
        known = [] if present is None else [present.serial]
        limit = now_us + _CLAIMS_AHEAD_US
        known += [serial for serial in self._claims(address).values() if serial <= limit]
        serial = max([now_us, *(serial + 1 for serial in known)])
        if serial > _HIGHEST_SERIAL:
            raise SerialsUsedUpError(
                f"Expected a serial up to {_HIGHEST_SERIAL} for the next order for {address}, and"
                f" the last one has {serial - 1}: nodes would take no higher one, so that only an"
                " order for another address can be given"
            )
        return serial

    def beyond(self, order: Desired) -> list[str]:
        """Nodes that will not hear an order, if they obey one as late as they claim."""
        claims = self._claims(order.to)
        return sorted(node for node, serial in claims.items() if serial >= order.serial)

    def _claims(self, address: str) -> dict[str, int]:
        """Serials of orders for an address, by the nodes that say that they obey them."""
        return {
            node: update.serial
            for node, update in self.updates.items()
            if update.obeying == address and update.serial is not None
        }

    def _addresses(self, node: str) -> Sequence[str]:
        """Where orders for a node lie, the nearest first."""
        birth = self.births.get(node)
        group = [] if birth is None or birth.group_id is None else [f"group:{birth.group_id}"]
        return (f"node:{node}", *group, "all")

    def _forget(self, where: topics.Topic) -> None:
        match where:
            case topics.Topic(kind=Kind.BIRTH, owner=str(node)):
                self.births.pop(node, None)
            case topics.Topic(kind=Kind.STATUS, owner=str(node)):
                self._statuses.pop(node, None)
            case topics.Topic(kind=Kind.UPDATE, owner=str(node)):
                self.updates.pop(node, None)

    def _take_order(self, topic: str, payload: bytes) -> None:
        address = _address(topic)
        if payload:
            self.orders[address] = opened(address, payload, self._trusted)
        else:
            self.orders.pop(address, None)


def opened(address: str, envelope: bytes, trusted: TrustedKeys) -> Order:
    """Open an order, and believe it if somebody who is trusted has signed it."""
    try:
        desired = open_desired(topics.desired(address), envelope, trusted)
    except (SignatureError, MessageError) as error:
        return Order(address=address, envelope=envelope, desired=None, trouble=str(error))
    return Order(address=address, envelope=envelope, desired=desired, trouble=None)


def before(present: Desired | None, wanted: Wanted) -> Wanted | None:
    """What nodes that do not follow a new order yet should run.

    What the present order wants, unless that was never meant for all of them: then what it had
    them run instead. A release that was tried on a few and is replaced goes to nobody else.
    """
    if present is None or present.wanted is None:
        return None
    if present.wanted != wanted and present.percent >= 100:
        return present.wanted
    return present.before


def _address(topic: str) -> str:
    match topic.split("/")[2:]:
        case ["g", group, _]:
            return f"group:{group}"
        case ["n", node, _]:
            return f"node:{node}"
    return "all"


_DESIRED = msgspec.json.Decoder(Desired)
