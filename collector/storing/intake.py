"""What a received message becomes: points to store, or a dead letter. No clock and no socket here.

A message that the broker keeps (retained) and that comes once more, unchanged, becomes nothing: its
points are stored already, and a last will would get a second, wrong time of arrival.
"""

from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import msgspec

from contract.errors import MessageError, MessageFault
from contract.messages import Backlog, DeadLetter, Message, decode
from contract.points import Point, points
from contract.session import Received
from contract.topics import FROM_NODE, Kind

RETAINED_KINDS = frozenset((Kind.STATUS, Kind.BIRTH, Kind.STATE, Kind.UPDATE))

# Topics whose last retained message is remembered: four for each of 10 000 nodes. Beyond, the
# topic that has been silent longest is forgotten, and its message would be stored twice.
_REMEMBERED_TOPICS = 40_000

_SHOWN_CHARACTERS = 400


@dataclass(frozen=True, slots=True)
class Item:
    """A message on its way into the store, or to the dead letters."""

    received: Received | None
    """What to acknowledge, its payload cut to the start; None for a message of our own."""
    payload_bytes: int
    """The size of the whole payload, in bytes."""
    arrived_us: int
    message: Message | None
    """The message itself; None for what cannot be stored."""
    letter: DeadLetter | None = None
    is_known: bool = False
    """Whether its points are stored already."""

    @property
    def size(self) -> int:
        """How many points it becomes, at most."""
        if self.message is None or self.is_known:
            return 0
        return len(self.message.windows) if isinstance(self.message, Backlog) else 1

    def points(self) -> Iterator[Point]:
        """The points to store, made only now because they take more memory than the message."""
        if self.message is not None and not self.is_known:
            yield from points(self.message, arrived_us=self.arrived_us)


class Intake:
    """Judges messages in the order in which they come."""

    def __init__(self, collector_id: str) -> None:
        self._collector_id = collector_id
        self._last: OrderedDict[str, Message] = OrderedDict()

    def take(self, received: Received, *, arrived_us: int) -> Item:
        """Decode a message, or make the dead letter that says why it cannot be stored."""
        size = len(received.payload)
        known = False
        try:
            message = decode(received.topic, received.payload)
            if message.KIND not in FROM_NODE:
                raise MessageError("wrong_topic", f"Expected a node's message, got {message.KIND}")
            if message.KIND in RETAINED_KINDS:
                known = self._is_known(received.topic, message)
        except MessageError as error:
            item = Item(_shortened(received), size, arrived_us, None)
            letter = self.dead_letter(item, error.reason, str(error), at_us=arrived_us)
            return Item(item.received, size, arrived_us, None, letter)
        return Item(_shortened(received), size, arrived_us, message, is_known=known)

    def dead_letter(
        self, item: Item, reason: MessageFault | Literal["rejected"], detail: str, *, at_us: int
    ) -> DeadLetter:
        """The letter that is published about a message that cannot be stored."""
        received = item.received
        return DeadLetter(
            at_us=at_us,
            collector=self._collector_id,
            topic="" if received is None else received.topic[:_SHOWN_CHARACTERS],
            reason=reason,
            detail=detail[:_SHOWN_CHARACTERS],
            payload_bytes=item.payload_bytes,
            payload_start="" if received is None else received.payload.decode("utf-8", "replace"),
        )

    def forget(self, item: Item) -> None:
        """Take a message for new when it comes again, because this time it was not stored."""
        if item.received is not None:
            self._last.pop(item.received.topic, None)

    def _is_known(self, topic: str, message: Message) -> bool:
        # The whole message, not boot and time alone: a last will may carry the time of the
        # `online` that went before it.
        if self._last.get(topic) == message:
            return True
        self._last[topic] = message
        self._last.move_to_end(topic)
        if len(self._last) > _REMEMBERED_TOPICS:
            self._last.popitem(last=False)
        return False


def _shortened(received: Received) -> Received:
    """The message without most of its payload: many may wait while the store is away."""
    if len(received.payload) <= _SHOWN_CHARACTERS:
        return received
    return msgspec.structs.replace(received, payload=received.payload[:_SHOWN_CHARACTERS])
