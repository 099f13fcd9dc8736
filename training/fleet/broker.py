"""One connection to the broker for an operator: look at what it keeps, put things there, listen.

Every wait here outlives a connection: what a lost one left unconfirmed is sent again, a reading
that it interrupted begins anew. What ends a wait is a broker that says no, or one with which
nothing has moved for a long time.
"""

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Self

from contract.broker_options import decode_broker
from contract.errors import ConnectionRefusedByBrokerError, EarshotError, SettingsError
from contract.release import CHUNK_BYTES
from contract.session import (
    Connected,
    ConnectFailed,
    Delivery,
    Disconnected,
    Followed,
    Publication,
    Published,
    Received,
    ReconnectPolicy,
    SessionEvent,
    Subscribed,
    SubscribeRefused,
)
from contract.settings import MqttSettings
from contract.talk import Conversation, passing

Hear = Callable[[str, bytes], None]
"""Takes a topic and its payload."""

_ENVIRONMENT = "environment"
_CONNECT_SECONDS = 15.0
# A chunk on the slowest of links takes half a minute; a broker that restarts, less.
_PATIENCE_SECONDS = 120.0
_POLL_SECONDS = 0.5
# A reading on which it depends what is deleted waits so many times longer for one message more.
_PATIENT_TIMES = 4
# mosquitto answers what is over its message_size_limit with a reason that MQTT does not allow
# there, and paho ends the connection; other brokers end it themselves. A bad link is seldom as bad.
_FRUITLESS_LIMIT = 3


class BrokerTroubleError(EarshotError):
    """The broker cannot be reached, or does not let an operator do what was asked: put it right."""


class _SoonAgain(ReconnectPolicy):
    """A person waits, and there are not many of them."""

    CAP_SECONDS = 10.0
    # Nobody takes over a client id that was drawn: short connections are a bad link's.
    REFUSED_SECONDS = 5.0


class Operator:
    """A connection of its own, forgotten by the broker when it ends.

    Args:
        broker: where it is.
        filters: what to listen to all the time; retained messages come at each connection.
        hear: takes all that comes, in the thread that waits here.
        note: tells a person that the broker is away, and that it is back.
        settle_seconds: after so long without a retained message, all of them have come: MQTT says
            when they begin, and not when they end.
        patience_seconds: how long nothing may move before it is an error.

    Raises:
        SettingsError: certificate, key or password file cannot be used.
    """

    def __init__(
        self,
        broker: MqttSettings,
        filters: Sequence[str],
        hear: Hear,
        *,
        note: Callable[[str], None],
        settle_seconds: float = 1.0,
        patience_seconds: float = _PATIENCE_SECONDS,
    ) -> None:
        self._address = broker.address
        self._filters = filters
        self._hear = hear
        self._note = note
        self._settle_seconds = settle_seconds
        self._patience_seconds = patience_seconds
        self._ever = False
        self._away = False
        self._moved_at = time.monotonic()
        self._talk = Conversation(
            broker, passing("operator", *filters), see=self._see, policy=_SoonAgain()
        )

    def __enter__(self) -> Self:
        """Connect, and hear all that the broker keeps.

        Raises:
            ConnectionRefusedByBrokerError: it says no.
            BrokerTroubleError: it is not there, or does not let us listen.
        """
        with ExitStack() as stack:
            stack.enter_context(self._talk)
            self._connect()
            stack.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._talk.__exit__(kind, error, trace)

    def put(self, publications: Iterable[Publication]) -> Iterator[Publication]:
        """Publish retained messages, each given back when the broker has it.

        Nothing is sent beyond what the caller takes. A message may arrive twice.

        Raises:
            BrokerTroubleError: the broker refuses one, or nothing moves any more.
            PayloadTooLargeError: it has said that it takes none of this size.
        """
        waiting = deque(publications)
        flying: dict[Delivery, Publication] = {}
        self._moved_at = time.monotonic()
        fruitless = 0
        while waiting or flying:
            while waiting and len(flying) < self._talk.max_in_flight:
                delivery = self._send(waiting[0])
                if delivery is None:
                    break
                flying[delivery] = waiting.popleft()
            event = self._next("takes nothing")
            if isinstance(event, Published):
                publication = flying.pop(Delivery(event.generation, event.packet_id), None)
                if publication is None:
                    continue
                if not event.accepted:
                    raise BrokerTroubleError(
                        f"the broker at {self._address} does not take {publication.topic}:"
                        f" {event.reason}"
                    )
                fruitless = 0
                yield publication
            elif isinstance(event, Disconnected):
                lost = [d for d in flying if d.generation <= event.generation]
                fruitless += bool(lost)
                if fruitless == _FRUITLESS_LIMIT:
                    first = flying[lost[0]]
                    raise BrokerTroubleError(
                        f"{fruitless} connections to the broker at {self._address} have ended when"
                        f" {first.topic} was sent ({len(first.payload)} bytes): is that more than"
                        f" it takes? ({self._reason()})"
                    )
                waiting.extendleft(flying.pop(delivery) for delivery in reversed(lost))

    def read(self, *filters: str, patient: bool = False) -> dict[str, bytes]:
        """What the broker keeps, by topic.

        Args:
            filters: of topics.
            patient: wait longer for one message more, as a bad link or large messages need it.

        Raises:
            BrokerTroubleError: it does not let us read that, or nothing moves any more.
        """
        self._moved_at = time.monotonic()
        settle_seconds = self._settle_seconds * (_PATIENT_TIMES if patient else 1)
        while (found := self._try_reading(filters, settle_seconds)) is None:
            pass
        for topic_filter in filters:
            if topic_filter not in self._filters:
                self._talk.session.leave(topic_filter)
        return found

    def listen(self, seconds: float) -> None:
        """Hear what comes in that time; a broker that is away is noted and waited for."""
        for _ in self._talk.events(seconds):
            pass  # `_see` has given it to `hear`

    def _connect(self) -> None:
        seconds = min(_CONNECT_SECONDS, self._patience_seconds)
        deadline, quiet_from = time.monotonic() + seconds, None
        while quiet_from is None or time.monotonic() < quiet_from + self._settle_seconds:
            event = self._talk.next(0.1 if quiet_from is None else self._settle_seconds / 4)
            if isinstance(event, Subscribed if self._filters else Connected) or (
                isinstance(event, Received) and event.retained
            ):
                quiet_from = time.monotonic()
            elif isinstance(event, Disconnected):
                quiet_from = None
            if quiet_from is None and time.monotonic() > deadline:
                raise BrokerTroubleError(
                    f"no connection to the broker at {self._address} in {seconds:g} s:"
                    f" {self._reason() or 'no answer'}"
                )

    def _try_reading(
        self, filters: Sequence[str], settle_seconds: float
    ) -> dict[str, bytes] | None:
        """None when the connection ended meanwhile."""
        connection = self._talk.connection
        if connection is None:
            self._next("is away")
            return None
        for topic_filter in filters:
            # Some brokers (rumqttd) give what they keep to new subscriptions alone.
            if topic_filter in self._filters:
                self._talk.session.leave(topic_filter)
        asked = {self._talk.session.follow(topic_filter) for topic_filter in filters}
        found: dict[str, bytes] = {}
        quiet_from = time.monotonic()
        while asked or time.monotonic() < quiet_from + settle_seconds:
            event = self._next("gives nothing", settle_seconds / 4)
            if self._talk.connection is not connection:
                return None
            match event:
                case Followed():
                    asked.discard(Delivery(event.generation, event.packet_id))
                    quiet_from = time.monotonic()
                    if not event.accepted:
                        raise BrokerTroubleError(
                            f"the broker at {self._address} does not let us read"
                            f" {' or '.join(filters)}: {event.reason}"
                        )
                case Received(retained=True) if _matches(filters, event.topic):
                    found[event.topic] = event.payload
                    quiet_from = time.monotonic()
        return found

    def _send(self, publication: Publication) -> Delivery | None:
        assert publication.retain, f"{publication.topic} would be there for nobody who comes late"
        assert len(publication.payload) <= CHUNK_BYTES, f"{publication.topic} is too large"
        return self._talk.session.publish(publication)

    def _next(self, trouble: str, seconds: float = _POLL_SECONDS) -> SessionEvent | None:
        """The next event, and an error when nothing has moved for too long."""
        event = self._talk.next(seconds)
        if isinstance(event, Published | Followed) or (
            isinstance(event, Received) and event.retained
        ):
            self._moved_at = time.monotonic()
        elif time.monotonic() > self._moved_at + self._patience_seconds:
            raise BrokerTroubleError(
                f"the broker at {self._address} {trouble} for {self._patience_seconds:g} s"
                + (f": {self._reason()}" if self._reason() else "")
            )
        return event

    def _see(self, event: SessionEvent) -> None:
        match event:
            case Received():
                self._hear(event.topic, event.payload)
            case Connected():
                if self._ever and self._away:
                    self._note(f"the broker at {self._address} is back")
                self._ever, self._away = True, False
            case SubscribeRefused():
                raise BrokerTroubleError(
                    f"the broker at {self._address} does not let us hear {event.topic_filter}:"
                    f" {event.reason}"
                )
            case ConnectFailed() if event.refused and not self._ever:
                raise ConnectionRefusedByBrokerError(f"MQTT {self._address}: {event.reason}")
            case ConnectFailed() | Disconnected():
                if self._ever and not self._away:
                    self._note(f"the broker at {self._address} is away: {self._reason()}")
                self._away = True
            case _:
                pass

    def _reason(self) -> str | None:
        """Why the last connection ended or did not come about."""
        # Without the session's guess at a second program of our name.
        return None if self._talk.reason is None else self._talk.reason.partition(";")[0]


def load_broker(file: Path | None, environment: dict[str, str]) -> MqttSettings:
    """Where the broker is: `[mqtt]` of a settings file, under what the environment says.

    Raises:
        SettingsError: with every problem found.
    """
    text = ""
    if file is not None:
        try:
            text = file.read_text("utf-8-sig")
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or error
            raise SettingsError(str(file), [f"cannot read the settings file: {reason}"]) from error
    return decode_broker(text, environment, origin=_ENVIRONMENT if file is None else str(file))


def retained(topic: str, payload: bytes, *, content_type: str = "application/json") -> Publication:
    """A message for the broker to keep; an empty payload clears what it keeps there."""
    return Publication(topic=topic, payload=payload, retain=True, content_type=content_type)


def _matches(filters: Sequence[str], topic: str) -> bool:
    return any(
        len(pattern := each.split("/")) == len(levels := topic.split("/"))
        and all(want in ("+", level) for want, level in zip(pattern, levels, strict=True))
        for each in filters
    )
