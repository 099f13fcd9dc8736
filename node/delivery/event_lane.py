"""Events, and how an update stands, on their way to the broker: each in its order, none dropped."""

import time
from collections import OrderedDict
from collections.abc import Hashable, Iterator
from typing import Final

import msgspec

from contract.errors import PayloadTooLargeError
from contract.log_once import LogOnce
from contract.messages import Message, Update
from contract.session import NO_MATCHING_SUBSCRIBERS, Published
from contract.topics import Kind
from node.delivery.backoff import Backoff
from node.delivery.connection import (
    HOLD_MOST_SECONDS,
    HOLD_SECONDS,
    HOPELESS,
    Connection,
    publication_of,
)
from node.delivery.outbox import Outbox

# How an update stands, while the broker is away: the last of it is what counts.
_MAX_UPDATES: Final = 400


class EventInFlight(msgspec.Struct, frozen=True):
    """An event in its message, or how an update stands."""

    kind: Kind
    key: int

    @property
    def name(self) -> Hashable:
        """Its kind, and its key among those of that kind."""
        return self.kind, self.key


class EventLane:
    """Sends events and updates, for as long as the connection takes them.

    Args:
        connection: to send them on.
        outbox: has the events.
        once: is told what goes wrong.
        node: the node's id.
    """

    def __init__(self, connection: Connection, outbox: Outbox, once: LogOnce, *, node: str) -> None:
        self._connection = connection
        self._outbox = outbox
        self._once = once
        self._node = node
        self._updates: OrderedDict[int, Update] = OrderedDict()
        """Every message of how an update stands, by its number, until the broker has it."""
        self._updates_added = 0
        self._last_update: Update | None = None
        self._hold = Backoff(first_seconds=HOLD_SECONDS, most_seconds=HOLD_MOST_SECONDS)

    @property
    def may_go(self) -> bool:
        """Whether something waits that the broker would be asked to take now."""
        waits = bool(self._updates) or (
            bool(self._outbox.events) and not self._outbox.outgoing.waits_for_clock
        )
        return waits and self._hold.is_over(time.monotonic())

    def add_update(self, update: Update) -> None:
        """Take in how an update stands now."""
        self._last_update = update
        self._updates_added += 1
        self._updates[self._updates_added] = update
        if len(self._updates) > _MAX_UPDATES:
            self._updates.popitem(last=False)

    def connected(self) -> None:
        """Go by another connection: ask at once, and say again how the update stands."""
        self._hold.forget()
        # A broker that keeps nothing over its restart has forgotten it.
        if self._last_update is not None and not self._updates:
            self.add_update(self._last_update)

    def send(self) -> None:
        """Send the events and updates that may go out now."""
        in_flight = {parcel.name for parcel in self._connection.parcels()}
        for parcel, message in self._waiting():
            if not self._hold.is_over(time.monotonic()):
                return
            if not self._connection.has_room(one_by_one=self._connection.suspicion.careful):
                return
            if parcel.name in in_flight:
                continue
            publication = publication_of(self._node, message, retain=parcel.kind is Kind.UPDATE)
            try:
                if not self._connection.publish(publication, self, parcel):
                    return
            except PayloadTooLargeError as error:
                self._once.warn("event", f"{error}; it is not sent")
                self.give_up(parcel)

    def answered(self, parcel: EventInFlight, answer: Published) -> None:
        """Forget what the broker has, or refuses for good; hold back what it will not have now."""
        self._connection.suspicion.confirmed()
        # What is retained needs nobody who hears it now.
        heard = parcel.kind is Kind.UPDATE or answer.reason_code != NO_MATCHING_SUBSCRIBERS
        if answer.accepted and heard:
            self.give_up(parcel)
            self._hold.end()
        elif answer.reason_code in HOPELESS:
            self._once.warn("event", f"the broker refused an event for good: {answer.reason}")
            self.give_up(parcel)
        else:
            self._once.warn("event", f"events wait: the broker says {answer.reason}")
            # Windows may be taken all the same: they do not wait for this.
            self._hold.begin(time.monotonic(), grows=not answer.accepted)

    def returned(self, parcel: EventInFlight) -> None:
        """Nothing is to be done: an event waits in its place until the broker has it."""

    def give_up(self, parcel: EventInFlight) -> None:
        """Let an event, or how an update stands, wait no more."""
        if parcel.kind is Kind.UPDATE:
            self._updates.pop(parcel.key, None)
        else:
            self._outbox.events.done(parcel.key, time.monotonic())

    def _waiting(self) -> Iterator[tuple[EventInFlight, Message]]:
        for key, update in tuple(self._updates.items()):
            yield EventInFlight(Kind.UPDATE, key), update
        if not self._outbox.outgoing.waits_for_clock:
            for key, event in self._outbox.events:
                yield EventInFlight(Kind.EVENT, key), event
