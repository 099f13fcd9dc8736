"""A conversation with a broker for those who can wait: say something, and have the answer in time.

A `Conversation` keeps a `Session` of its own and gives what happens on it to the thread that waits.
What never may wait (a node, a collector) takes a session's events itself, and is not built on this.
"""

import queue
import secrets
import time
from collections.abc import Callable, Iterable, Iterator
from types import TracebackType
from typing import Self, TypeVar

from contract.errors import BrokerUnreachableError, ConnectionRefusedByBrokerError
from contract.session import (
    MAX_IN_FLIGHT,
    NO_MATCHING_SUBSCRIBERS,
    Connected,
    ConnectFailed,
    Delivery,
    Disconnected,
    Publication,
    Published,
    Received,
    ReconnectPolicy,
    Session,
    SessionEvent,
    SessionOptions,
    Subscribed,
    Subscription,
    Will,
)
from contract.settings import MqttSettings

ANSWER_SECONDS = 10.0
"""How long a broker may take to confirm a message."""

_Event = TypeVar("_Event", bound=SessionEvent)
_Other = TypeVar("_Other", bound=SessionEvent)


def passing(name: str, *filters: str, qos: int = 1) -> SessionOptions:
    """Who a visitor is to a broker, which forgets it when it goes.

    Args:
        name: what its client id begins with; the rest is drawn, so that it throws out nobody.
        filters: topics to hear.
        qos: of these subscriptions.
    """
    return SessionOptions(
        client_id=f"{name}-{secrets.token_hex(4)}",
        expiry_seconds=0,
        clean_start=True,
        subscriptions=tuple(Subscription(topic_filter=each, qos=qos) for each in filters),
    )


class Conversation:
    """A session from a `with`'s beginning to its end; a lost connection comes back by itself.

    Every wait takes the events that come meanwhile, in order: no event is seen twice, and those
    that a wait is not for are gone afterwards, but for what `see` has made of them.

    Args:
        broker: where it is.
        options: who we are to it, and what we hear.
        see: called with each event, in the thread that waits; what it raises ends the wait.
        will: what the broker publishes when we vanish, as for a `Session`.
        policy: how long to wait between connections, as for a `Session`.
        goodbye: whether the end is in good order; else the connection is cut, as by a power cut.

    Raises:
        SettingsError: certificate, key or password file cannot be used.
    """

    def __init__(
        self,
        broker: MqttSettings,
        options: SessionOptions,
        *,
        see: Callable[[SessionEvent], None] | None = None,
        will: Will | None = None,
        policy: ReconnectPolicy | None = None,
        goodbye: bool = True,
    ) -> None:
        self.address = broker.address
        self.connection: Connected | None = None
        """The connection that stands, as far as the events tell that were taken."""
        self.reason: str | None = None
        """Why the last connection ended or did not come about; None if that has not happened."""
        self.woken = False
        """Whether `wake` has ended a wait."""
        self._see = see
        self._hears = bool(options.subscriptions)
        self._subscribed = False
        self._goodbye = goodbye
        self._events: queue.SimpleQueue[SessionEvent | None] = queue.SimpleQueue()
        self.session = Session(
            broker,
            options,
            self._events.put,
            will=None if will is None else lambda: will,
            policy=policy,
        )

    @property
    def max_in_flight(self) -> int:
        """How many publications may be unconfirmed at once."""
        return MAX_IN_FLIGHT if self.connection is None else self.connection.max_in_flight

    def __enter__(self) -> Self:
        self.session.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.session.stop(goodbye=self._goodbye)

    def open(self, *, seconds: float) -> bool:
        """Wait until the broker has let us in and has answered our subscriptions.

        Returns:
            False when `wake` was called meanwhile.

        Raises:
            ConnectionRefusedByBrokerError: the broker says no.
            BrokerUnreachableError: there was no connection in time.
        """
        for event in self.events(seconds):
            self._check_refusal(event)
            if self.is_open():
                return True
        if self.woken:
            return False
        raise BrokerUnreachableError(
            f"no connection to {self.address} in {seconds:g} s: {self.reason or 'no answer'}"
        )

    def is_open(self) -> bool:
        """Whether the broker has let us in, as far as is known, and serves our subscriptions."""
        if self.connection is None:
            return False
        # A session that was kept is subscribed; rumqttd sends all that waits before its SUBACK.
        return not self._hears or self._subscribed or self.connection.session_present

    def say(
        self, publications: Iterable[Publication], *, seconds: float = ANSWER_SECONDS
    ) -> list[Published]:
        """Publish with QoS 1, no faster than the broker confirms.

        Args:
            publications: taken one by one, as the broker makes room.
            seconds: how long to wait for the broker's next answer.

        Returns:
            The broker's answers in the order in which they came; it may have refused some.

        Raises:
            BrokerUnreachableError: there is no connection any more, or an answer is missing.
            PayloadTooLargeError: the broker has said that it takes none of this size.
        """
        answers: list[Published] = []
        flying: set[Delivery] = set()
        for publication in publications:
            delivery = self.session.publish(publication)
            if delivery is None:
                raise BrokerUnreachableError("the connection is gone")
            flying.add(delivery)
            while len(flying) >= self.max_in_flight:
                answers += self._answers(flying, seconds)
        while flying:
            answers += self._answers(flying, seconds)
        return answers

    def ask(self, publication: Publication, *, seconds: float) -> Received | Published | None:
        """Publish a question, and wait for the message with the same correlation data.

        A connection that is lost meanwhile is waited for, and the question asked again.

        Returns:
            The answer. A `Published` when there will be none: the broker has refused the question,
            or has nobody to give it to. None when nothing came in time.

        Raises:
            ConnectionRefusedByBrokerError: the broker does not let us in again.
            PayloadTooLargeError: the broker has said that it takes none of this size.
        """
        asked = self.session.publish(publication)
        for event in self.events(seconds):
            self._check_refusal(event)
            match event:
                case Subscribed():
                    asked = self.session.publish(publication)
                case Published() if asked == Delivery(event.generation, event.packet_id):
                    if not event.accepted or event.reason_code == NO_MATCHING_SUBSCRIBERS:
                        return event
                case Received() if event.correlation == publication.correlation:
                    return event
                case _:
                    pass
        return None

    def wait_for(
        self, kind: type[_Event], other: type[_Other] | None = None, *, seconds: float
    ) -> _Event | _Other | None:
        """The next event of one of these kinds; None if none came in time."""
        for event in self.events(seconds):
            if isinstance(event, kind):
                return event
            if other is not None and isinstance(event, other):
                return event
        return None

    def wait_until(self, done: Callable[[], bool], *, seconds: float) -> bool:
        """Take what comes until something is so; False if it is not within that time."""
        return done() or any(done() for _ in self.events(seconds))

    def events(self, seconds: float) -> Iterator[SessionEvent]:
        """What happens within that time, as it happens; ends early when `wake` is called."""
        deadline = time.monotonic() + seconds
        left = seconds
        while (event := self.next(left)) is not None:
            yield event
            left = deadline - time.monotonic()
            # Also when more has come than can be taken in time.
            if left <= 0:
                return

    def next(self, seconds: float) -> SessionEvent | None:
        """The next event; None if none came within that time, or `wake` was called."""
        try:
            event = self._events.get(timeout=max(0.0, seconds))
        except queue.Empty:
            return None
        match event:
            case None:
                self.woken = True
                return None
            case Connected():
                self.connection = event
            case Subscribed():
                self._subscribed = True
            case ConnectFailed() | Disconnected():
                self.connection, self._subscribed, self.reason = None, False, event.reason
            case _:
                pass
        if self._see is not None:
            self._see(event)
        return event

    def wake(self) -> None:
        """End the wait that lasts, or the next one, at once; safe in a signal handler."""
        self._events.put(None)

    def _check_refusal(self, event: SessionEvent) -> None:
        if isinstance(event, ConnectFailed) and event.refused:
            raise ConnectionRefusedByBrokerError(f"MQTT {self.address}: {event.reason}")

    def _answers(self, flying: set[Delivery], seconds: float) -> list[Published]:
        """The next answer to one of these, which flies no more; none if it is another's."""
        event = self.wait_for(Published, Disconnected, seconds=seconds)
        if event is None:
            raise BrokerUnreachableError(f"a message is not confirmed within {seconds:g} s")
        if isinstance(event, Disconnected):
            if any(delivery.generation <= event.generation for delivery in flying):
                raise BrokerUnreachableError(event.reason)
            return []
        delivery = Delivery(event.generation, event.packet_id)
        if delivery not in flying:
            return []
        flying.remove(delivery)
        return [event]
