"""Connections to a broker for tests: each is a user, and what happens to it."""

import queue
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypeVar

from contract.session import (
    Connected,
    Publication,
    Published,
    Session,
    SessionEvent,
    SessionOptions,
    Subscribed,
    Subscription,
)
from contract.settings import MqttSettings

Event = TypeVar("Event")


class Peer:
    """One connection, and its events."""

    def __init__(self, session: Session, events: "queue.SimpleQueue[SessionEvent]") -> None:
        self.session = session
        self._events = events

    def wait_for(self, kind: type[Event], *, seconds: float = 20.0) -> Event:
        """The next event of that kind; others before it are dropped."""
        while True:
            event = self._events.get(timeout=seconds)
            if isinstance(event, kind):
                return event

    def next(self, *, seconds: float = 20.0) -> SessionEvent:
        """The next event, whatever it is."""
        return self._events.get(timeout=seconds)

    def tell(self, topic: str, payload: bytes = b"word", *, retain: bool = False) -> Published:
        """Say something, and how the broker answers; it may have thrown the words away."""
        self.session.publish(Publication(topic=topic, payload=payload, retain=retain))
        return self.wait_for(Published)


@contextmanager
def connecting(
    settings: MqttSettings, name: str, *filters: str, expiry_seconds: int = 0
) -> Iterator[Peer]:
    """A connection by that client id, which may not come about."""
    options = SessionOptions(
        client_id=name,
        expiry_seconds=expiry_seconds,
        receive_maximum=500,
        subscriptions=tuple(Subscription(topic_filter=text) for text in filters),
    )
    events: queue.SimpleQueue[SessionEvent] = queue.SimpleQueue()
    session = Session(settings, options, events.put)
    session.start()
    try:
        yield Peer(session, events)
    finally:
        session.stop()


@contextmanager
def connected(
    settings: MqttSettings, name: str, *filters: str, expiry_seconds: int = 0
) -> Iterator[Peer]:
    """A connection by that client id which stands; what it asked to hear, it will."""
    with connecting(settings, name, *filters, expiry_seconds=expiry_seconds) as peer:
        peer.wait_for(Connected)
        if filters:
            peer.wait_for(Subscribed)
        yield peer
