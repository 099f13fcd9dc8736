"""What a node sees of a broker: retained messages that come when a topic is followed."""

from collections.abc import Callable

from contract.session import Connected, Delivery, Followed, Received, SessionEvent, Subscribed


class FakeBroker:
    """Keeps messages, and sends them to one node, at once and in order.

    Args:
        damage: what becomes of a payload on its way; None: it is lost.
    """

    def __init__(self, damage: Callable[[str, bytes], bytes | None] | None = None) -> None:
        self.kept: dict[str, bytes] = {}
        self.followed: list[str] = []
        """All topics that were asked for, in order."""
        self.damage = damage or (lambda _, payload: payload)
        self.deliver: Callable[[SessionEvent], None] = lambda event: None
        self._packet_id = 0
        self._generation = 0

    def connect(self, *subscriptions: str) -> None:
        """A new connection, with what is kept for these topics."""
        self._generation += 1
        self.deliver(Connected(self._generation, False, 20))
        self.deliver(Subscribed(self._generation))
        for topic in subscriptions:
            self._send(topic)

    def follow(self, topic_filter: str) -> Delivery | None:
        self.followed.append(topic_filter)
        self._packet_id += 1
        self.deliver(Followed(self._generation, self._packet_id, True, "Granted QoS 0"))
        self._send(topic_filter)
        return Delivery(self._generation, self._packet_id)

    def leave(self, topic_filter: str) -> None:
        pass

    def _send(self, topic: str) -> None:
        if topic not in self.kept:
            return
        payload = self.damage(topic, self.kept[topic])
        if payload is not None:
            self.deliver(Received(self._generation, 0, topic, payload, 0, True))
