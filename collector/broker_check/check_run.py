"""One check of a broker: its connections, and topics of which no program of a fleet hears.

What is measured over them is told in `collector.broker_check.measurements`.
"""

import secrets
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress

from contract import topics
from contract.errors import BrokerUnreachableError, ConnectionRefusedByBrokerError, EarshotError
from contract.session import (
    MAX_IN_FLIGHT,
    Connected,
    ConnectFailed,
    Disconnected,
    Publication,
    Published,
    Received,
    SessionEvent,
    SessionOptions,
    SubscribeRefused,
    Subscription,
    Will,
)
from contract.settings import MqttSettings
from contract.talk import Conversation

KEEP_SECONDS = 3600
"""If we are killed, the broker forgets our messages and sessions after this."""
LARGE_BYTES = 128 * 1024
"""The largest message that is tried; the packet may be twice as large."""

ALLOW = (
    f"allow `topic readwrite {topics.every_check()}` for this user, or run the check as an operator"
)
"""What to do where a check may not publish or subscribe."""

# More than `Session` waits for an answer to its CONNECT.
_OPEN_SECONDS = 20.0
_READ_LOG = "read the broker's log"


class NotMeasuredError(Exception):
    """Something could not be measured; the text says why.

    Args:
        reason: why, for the table.
        advice: what to do about it.
    """

    def __init__(self, reason: str, advice: str | None = None) -> None:
        self.advice = advice
        super().__init__(reason)


class CheckPeer(Conversation):
    """One connection of ours, and what has come over it; one that is lost ends a measurement."""

    def __init__(
        self, broker: MqttSettings, options: SessionOptions, *, will: Will | None, goodbye: bool
    ) -> None:
        super().__init__(broker, options, see=self._keep, will=will, goodbye=goodbye)
        self.received: list[Received] = []

    @property
    def connected(self) -> Connected:
        """What the broker said when it let us in."""
        assert self.connection is not None, "only peers that are connected are handed out"
        return self.connection

    def hears(self, seconds: float) -> bool:
        """Wait for the next message."""
        return self.wait_for(Received, seconds=seconds) is not None

    def publish(self, publications: Iterable[Publication]) -> list[Published]:
        """Publish, no faster than the broker confirms; its answers."""
        try:
            return self.say(publications)
        except BrokerUnreachableError as error:
            raise NotMeasuredError(str(error), _READ_LOG) from error

    def _keep(self, event: SessionEvent) -> None:
        match event:
            case Received():
                self.received.append(event)
            case SubscribeRefused():
                raise NotMeasuredError(f"not allowed to subscribe ({event.reason})", ALLOW)
            case Disconnected():
                raise NotMeasuredError(event.reason, _READ_LOG)
            case ConnectFailed() if event.refused:
                raise ConnectionRefusedByBrokerError(event.reason)
            case ConnectFailed():
                raise BrokerUnreachableError(event.reason)
            case _:
                pass


class CheckRun:
    """Names and connections of one check, so that two at once do not meet.

    Args:
        broker: where it is.
    """

    def __init__(self, broker: MqttSettings) -> None:
        self.broker = broker
        self._id = secrets.token_hex(4)

    def message(self, part: str, payload: bytes = b"", *, retain: bool = False) -> Publication:
        """A message to one of our topics, forgotten by the broker within an hour."""
        return Publication(
            topic=topics.check(self._id, part),
            payload=payload,
            retain=retain,
            expiry_seconds=KEEP_SECONDS,
            content_type="application/octet-stream",
        )

    @contextmanager
    def peer(
        self,
        name: str,
        *parts: str,
        expiry_seconds: int = 0,
        receive_maximum: int = MAX_IN_FLIGHT,
        manual_acknowledge: bool = False,
        will: Will | None = None,
        goodbye: bool = True,
    ) -> Iterator[CheckPeer]:
        """A connection for as long as the context lasts; it ends with a goodbye or is cut.

        Args:
            name: of the client; the same name is the same session.
            parts: topics to subscribe to.
            expiry_seconds: how long the broker shall keep the session afterwards.
            receive_maximum: how many messages it may send before one is acknowledged.
            manual_acknowledge: whether the caller acknowledges.
            will: what the broker publishes when the connection is cut.
            goodbye: whether it ends in good order.

        Raises:
            ConnectionRefusedByBrokerError: the broker says no.
            BrokerUnreachableError: it does not answer.
            NotMeasuredError: it refuses the subscription, or ends the connection.
        """
        options = SessionOptions(
            client_id=f"check-{self._id}-{name}",
            expiry_seconds=expiry_seconds,
            # As collector and nodes do: some brokers keep no session that once began clean.
            clean_start=expiry_seconds == 0,
            receive_maximum=receive_maximum,
            maximum_packet_bytes=2 * LARGE_BYTES,
            manual_acknowledge=manual_acknowledge,
            subscriptions=tuple(
                Subscription(topic_filter=topics.check(self._id, part)) for part in parts
            ),
        )
        with CheckPeer(self.broker, options, will=will, goodbye=goodbye) as peer:
            if not peer.wait_until(peer.is_open, seconds=_OPEN_SECONDS):
                raise BrokerUnreachableError("the broker does not answer")
            yield peer

    @contextmanager
    def forgetting(self, name: str) -> Iterator[None]:
        """Have the broker forget a session at the end, and all that waits in it."""
        try:
            yield
        finally:
            with suppress(NotMeasuredError, EarshotError), self.peer(name):
                pass
