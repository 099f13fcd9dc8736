"""A broker that works, in memory and without sockets, as one session sees it.

It keeps retained messages, and sends again what the session has not acknowledged. There are no
other clients: a test says what they say by `send` and `kept`.
"""

from collections.abc import Callable

from contract.session import (
    Connected,
    Delivery,
    Disconnected,
    Followed,
    Publication,
    Published,
    Received,
    SessionEvent,
    Subscribed,
)


class FakeBroker:
    """Has the parts of `contract.session.Session` that programs lean on.

    Args:
        deliver: takes what happens, at once and in order; may be set later.
        damage: what becomes of a retained payload on its way; None: it is lost.
    """

    def __init__(
        self,
        deliver: Callable[[SessionEvent], None] = lambda event: None,
        *,
        damage: Callable[[str, bytes], bytes | None] = lambda topic, payload: payload,
    ) -> None:
        self.deliver = deliver
        self.damage = damage
        self.kept: dict[str, bytes] = {}
        """Retained messages: payload by topic."""
        self.followed: list[str] = []
        """All topics that were asked for, in order."""
        self.published: list[Publication] = []
        self.acknowledged: list[int] = []
        """Packet ids, in the order of their acknowledgement."""
        self.confirms = True
        """Whether publications are answered."""
        self.connects_at_start = True
        self.stopped = False
        self._generation = 0
        self._connected = False
        self._packet_id = 0
        self._unacknowledged: dict[int, tuple[str, bytes]] = {}

    @property
    def unacknowledged(self) -> list[int]:
        """Packet ids of what would come again."""
        return list(self._unacknowledged)

    def start(self) -> None:
        """As a session does, connect at once."""
        if self.connects_at_start:
            self.connect()

    def connect(self, *subscriptions: str) -> None:
        """A new connection to the same session, with what is retained on these topics."""
        self._generation += 1
        self._connected = True
        self.deliver(Connected(self._generation, self._generation > 1, 20))
        if subscriptions:
            self.deliver(Subscribed(self._generation))
        for topic in subscriptions:
            self._send_retained(topic)
        for packet_id, (topic, payload) in self._unacknowledged.items():
            self.deliver(Received(self._generation, packet_id, topic, payload, 1, False))

    def disconnect(self) -> None:
        """The connection is lost."""
        self._connected = False
        self.deliver(Disconnected(self._generation, "lost", taken_over=False))

    def send(self, topic: str, payload: bytes, *, qos: int = 1) -> int:
        """Deliver a message; its packet id."""
        self._packet_id += 1
        if qos:
            self._unacknowledged[self._packet_id] = (topic, payload)
        if self._connected:
            self.deliver(Received(self._generation, self._packet_id, topic, payload, qos, False))
        return self._packet_id

    def publish(self, publication: Publication) -> Delivery | None:
        """Take a message from the session."""
        if not self._connected:
            return None
        self.published.append(publication)
        delivery = Delivery(self._generation, len(self.published))
        if self.confirms:
            self.deliver(Published(delivery.generation, delivery.packet_id, 0, "Success"))
        return delivery

    def acknowledge(self, message: Received) -> bool:
        """Forget a message, if it came on this connection."""
        if not self._connected or message.generation != self._generation:
            return False
        self._unacknowledged.pop(message.packet_id)
        self.acknowledged.append(message.packet_id)
        return True

    def follow(self, topic_filter: str) -> Delivery | None:
        """Send what is retained there."""
        self.followed.append(topic_filter)
        self._packet_id += 1
        self.deliver(Followed(self._generation, self._packet_id, True, "Granted QoS 0"))
        self._send_retained(topic_filter)
        return Delivery(self._generation, self._packet_id)

    def leave(self, topic_filter: str) -> None:
        """Nothing: a retained message comes only once."""

    def stop(self) -> None:
        """Disconnect."""
        self._connected = False
        self.stopped = True

    def _send_retained(self, topic: str) -> None:
        if topic not in self.kept:
            return
        payload = self.damage(topic, self.kept[topic])
        if payload is not None:
            self.deliver(Received(self._generation, 0, topic, payload, 0, True))
