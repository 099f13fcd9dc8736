"""Connections to a broker for tests: each is a user, and what happens to it.

A `Peer` is for a test that waits for one thing after the other; an `Ear` hears in the background
while the test does something else.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Protocol, Self, TypeVar

from contract.session import (
    Publication,
    Published,
    Received,
    Session,
    SessionEvent,
    SessionOptions,
    Subscribed,
    Subscription,
)
from contract.settings import MqttSettings
from contract.talk import Conversation

Event = TypeVar("Event", bound=SessionEvent)


class Listens(Protocol):
    """Where a broker listens, or a link to one."""

    @property
    def host(self) -> str: ...

    @property
    def port(self) -> int: ...


def mqtt(broker: Listens) -> MqttSettings:
    """How anybody gets in who needs no name."""
    return MqttSettings(host=broker.host, port=broker.port)


class Peer(Conversation):
    """A conversation of a test, which fails when something does not come."""

    def expect(self, kind: type[Event], *, seconds: float = 60.0) -> Event:
        """The next event of that kind; others before it are dropped."""
        event = self.wait_for(kind, seconds=seconds)
        assert event is not None, f"no {kind.__name__} within {seconds:g} s"
        return event

    def tell(self, topic: str, payload: bytes = b"word", *, retain: bool = False) -> Published:
        """Say something, and how the broker answers; it may have thrown the words away."""
        [answer] = self.say([Publication(topic=topic, payload=payload, retain=retain)], seconds=20)
        return answer


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
    with Peer(settings, options) as peer:
        yield peer


@contextmanager
def connected(
    settings: MqttSettings, name: str, *filters: str, expiry_seconds: int = 0
) -> Iterator[Peer]:
    """A connection by that client id which stands; what it asked to hear, it will."""
    with connecting(settings, name, *filters, expiry_seconds=expiry_seconds) as peer:
        assert peer.open(seconds=20.0)
        yield peer


class Ear:
    """Hears topics while its `with` lasts, with a session of its own.

    Args:
        broker: where it is.
        name: its client id.
        filters: topics to hear.
        expiry_seconds: how long the broker keeps messages for it while it is away.
        retained: whether it hears what the broker keeps.
    """

    def __init__(
        self,
        broker: Listens,
        name: str,
        *filters: str,
        expiry_seconds: int = 0,
        retained: bool = True,
    ) -> None:
        self._lock = threading.Lock()
        self._received: list[Received] = []
        self._subscribed = threading.Event()
        options = SessionOptions(
            client_id=name,
            expiry_seconds=expiry_seconds,
            receive_maximum=1000,
            subscriptions=tuple(
                Subscription(topic_filter=each, retained=retained) for each in filters
            ),
        )
        self._session = Session(mqtt(broker), options, self._see)

    def __enter__(self) -> Self:
        self._session.start()
        assert self._subscribed.wait(10), "the ear was not let in"
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._session.stop()

    def received(self) -> list[Received]:
        """Messages so far, in order of arrival."""
        with self._lock:
            return list(self._received)

    def on(self, part: str) -> list[Received]:
        """Messages so far whose topic holds this."""
        return [message for message in self.received() if part in message.topic]

    def hear(self, received: Received) -> None:
        """Called with each message, in the session's thread: keeps it."""
        with self._lock:
            self._received.append(received)

    def _see(self, event: SessionEvent) -> None:
        if isinstance(event, Subscribed):
            self._subscribed.set()
        elif isinstance(event, Received):
            self.hear(event)
