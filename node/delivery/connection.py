"""The connection to the broker, and what is in flight on it. Owns the session.

At most `Connected.max_in_flight` publications are unconfirmed at any time, so that paho queues
nothing of its own. What goes out, and what an answer means for it, is for the lanes: `window_lane`,
`event_lane`, `news_lane`.
"""

import logging
import time
from collections.abc import Callable, Hashable, Iterator, Sequence
from typing import Any, Final, Protocol, TypeVar

import msgspec

from contract import topics
from contract.messages import Message, encode
from contract.session import (
    Connected,
    Delivery,
    Publication,
    Published,
    Session,
    SessionEvent,
    SessionOptions,
    Subscription,
    Will,
)
from contract.settings import MqttSettings
from node.delivery.poison import Suspicion

logger = logging.getLogger(__name__)

# The will is delayed by 20 s, and some brokers publish it early when the session expires first.
SESSION_EXPIRY_SECONDS: Final = 60
# Nobody is subscribed, or the broker said "not now": how long to wait before the next try.
HOLD_SECONDS: Final = 5.0
# "Not now" may last; asking longer and longer after each other does no harm then.
HOLD_MOST_SECONDS: Final = 300.0
# Payload format invalid, packet too large, topic name invalid: the same bytes will never do.
HOPELESS: Final = frozenset({0x90, 0x95, 0x99})


class Parcel(Protocol):
    """What is in flight in one message."""

    @property
    def name(self) -> Hashable:
        """Identifies the content: what is sent again has the same name."""


_Parcel = TypeVar("_Parcel", bound=Parcel)
_Handled_contra = TypeVar("_Handled_contra", bound=Parcel, contravariant=True)


class Lane(Protocol[_Handled_contra]):
    """Where a parcel comes from, and where it is told what became of it."""

    def answered(self, parcel: _Handled_contra, answer: Published) -> None:
        """The broker has taken the parcel, or refused it."""

    def returned(self, parcel: _Handled_contra) -> None:
        """The connection has ended, and nobody knows whether the broker has it."""

    def give_up(self, parcel: _Handled_contra) -> None:
        """The parcel is never to be sent again."""


class _InFlight(msgspec.Struct, frozen=True):
    lane: Lane[Any]
    parcel: Parcel


class Connection:
    """Stays connected to the broker, and knows what it has not confirmed.

    Args:
        mqtt: where the broker is.
        client_id: who we are to it.
        subscriptions: topic filters to hear at every connection.
        deliver: is given every event of the session, in another thread; must only enqueue it.
        will: makes the last will, anew at each connection.

    Raises:
        SettingsError: certificate, key or password file cannot be used.
    """

    def __init__(
        self,
        mqtt: MqttSettings,
        client_id: str,
        subscriptions: Sequence[str],
        deliver: Callable[[SessionEvent], None],
        *,
        will: Callable[[], Will],
    ) -> None:
        self.session = Session(
            mqtt,
            SessionOptions(
                client_id=client_id,
                expiry_seconds=SESSION_EXPIRY_SECONDS,
                subscriptions=tuple(Subscription(topic_filter=topic) for topic in subscriptions),
            ),
            deliver,
            will=will,
        )
        self.suspicion = Suspicion()
        """Finds out whether it is a message that makes the broker hang up."""
        self.count = 0
        """How many connections have stood so far."""
        self.confirmed = 0
        """How many publications the broker has taken."""
        self._current: Connected | None = None
        self._in_flight: dict[int, _InFlight] = {}
        """Unconfirmed publications by their packet id on this connection."""
        self._sent_at = 0.0
        self._has_worked = False
        """Whether the broker has confirmed anything on this connection."""

    @property
    def is_up(self) -> bool:
        """Whether a connection stands now."""
        return self._current is not None

    @property
    def max_in_flight(self) -> int:
        """How many publications may be unconfirmed at once; none without a connection."""
        return 0 if self._current is None else self._current.max_in_flight

    @property
    def in_flight(self) -> int:
        """How many publications are unconfirmed."""
        return len(self._in_flight)

    def parcels(self) -> Iterator[Parcel]:
        """What is in flight now, the oldest first."""
        return (each.parcel for each in self._in_flight.values())

    def has_room(self, *, one_by_one: bool = False) -> bool:
        """Whether something may be sent now; `one_by_one` only if nothing else is in flight."""
        most = self.max_in_flight
        return len(self._in_flight) < (min(1, most) if one_by_one else most)

    def publish(self, publication: Publication, lane: Lane[_Parcel], parcel: _Parcel) -> bool:
        """Send a message; gives whether it is on its way.

        Args:
            publication: the message.
            lane: is told what has become of it.
            parcel: what is in the message.

        Raises:
            PayloadTooLargeError: the broker has said that it takes no packet of this size.
        """
        delivery: Delivery | None = self.session.publish(publication)
        # A connection newer than the one we were told of: its `Connected` is still in the mail.
        if delivery is None or self._current is None:
            return False
        if delivery.generation != self._current.generation:
            return False
        self._in_flight[delivery.packet_id] = _InFlight(lane, parcel)
        self._sent_at = time.monotonic()
        return True

    def begun(self, connected: Connected) -> None:
        """Go by a connection of the session that stands now."""
        self._current = connected
        self._has_worked = False
        self.count += 1

    def answered(self, answer: Published) -> None:
        """The broker has answered a publication: its lane is told."""
        if self._current is None or answer.generation != self._current.generation:
            return
        self.confirmed += answer.accepted
        self._has_worked = True
        found = self._in_flight.pop(answer.packet_id, None)
        if found is not None:
            found.lane.answered(found.parcel, answer)

    def ended(self) -> None:
        """The session has lost the connection: what was in flight goes back to its lanes."""
        self._current = None
        lost = list(self._in_flight.values())
        self._in_flight.clear()
        for each in lost:
            each.lane.returned(each.parcel)
        poison = self.suspicion.dropped(
            [each.parcel.name for each in lost],
            seconds=time.monotonic() - self._sent_at,
            has_worked=self._has_worked,
        )
        if poison is not None:
            logger.error(
                "the broker has ended the connection each time upon the same message, which is"
                " given up: %s",
                poison,
            )
            lost[0].lane.give_up(lost[0].parcel)


def publication_of(
    node: str,
    message: Message,
    *,
    retain: bool = False,
    expiry_seconds: int | None = None,
    correlation: bytes | None = None,
) -> Publication:
    """Put a message of a node into a publication on its topic.

    Raises:
        MessageError: it is larger than its kind allows.
    """
    return Publication(
        topic=topics.node(node, message.KIND),
        payload=encode(message),
        retain=retain,
        expiry_seconds=expiry_seconds,
        correlation=correlation,
    )
