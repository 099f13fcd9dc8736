"""The collector's connection to the broker: how it is, and what of ours is not confirmed on it.

Who waits for a confirmation, and what is published again after a lost connection, is the business
of whoever published it.
"""

import logging
import time
from typing import Protocol

from collector.metrics import Metrics
from contract.errors import ConnectionRefusedByBrokerError
from contract.log_once import LogOnce
from contract.session import (
    MAX_IN_FLIGHT,
    Connected,
    ConnectFailed,
    Delivery,
    Disconnected,
    Publication,
    Published,
    Received,
)

logger = logging.getLogger(__name__)


class BrokerSession(Protocol):
    """What the collector needs of `contract.session.Session`."""

    def start(self) -> None:
        """Begin to connect, and put events into the inbox."""

    def publish(self, publication: Publication) -> Delivery | None:
        """Send, or None when there is no connection."""

    def acknowledge(self, message: Received) -> bool:
        """Let the broker forget a message; False, and nothing, when its connection is gone."""

    def stop(self) -> None:
        """Disconnect."""


class BrokerLink:
    """Publishes, and keeps account of what the broker has not confirmed.

    Args:
        session: whose events are given to `confirm`, `rise` and `fall`.
        metrics: told of the connection.
    """

    def __init__(self, session: BrokerSession, metrics: Metrics) -> None:
        self.generation: int | None = None
        """Which connection stands; None while there is none."""
        self.down_since_us = time.time_ns() // 1000
        """Since when there is no connection, or how long there was none before this one."""
        self.can_publish = False
        """Whether there is a connection, as far as is known."""
        self.in_flight: set[Delivery] = set()
        """What the broker has not confirmed."""
        self._session = session
        self._metrics = metrics
        self._max_in_flight = MAX_IN_FLIGHT
        self._has_stood = False
        """Whether there has ever been a connection."""
        self._broken_at: float | None = None
        self._once = LogOnce(logger)

    @property
    def is_full(self) -> bool:
        """Whether the broker must confirm something before it is sent more."""
        return len(self.in_flight) >= self._max_in_flight

    def publish(self, publication: Publication) -> Delivery | None:
        """Send; None when there is no connection.

        Raises:
            PayloadTooLargeError: the broker has said that it takes none of this size.
        """
        delivery = self._session.publish(publication)
        if delivery is None:
            self.can_publish = False
        else:
            self.in_flight.add(delivery)
        return delivery

    def confirm(self, event: Published) -> Delivery:
        """Take in the broker's answer to a publication."""
        delivery = Delivery(event.generation, event.packet_id)
        self.in_flight.discard(delivery)
        if not event.accepted:
            self._once.warn("refused", "the broker has refused a message of ours: %s", event.reason)
        return delivery

    def rise(self, event: Connected) -> None:
        """Take in that a connection stands."""
        self._metrics.reconnects += self._has_stood
        self._metrics.disconnected_at = None
        self._has_stood = self.can_publish = True
        self.generation = event.generation
        self._max_in_flight = event.max_in_flight
        kept = "with what it kept for us" if event.session_present else "as a new session"
        if self._broken_at is None:
            logger.info("connected to the broker %s", kept)
        else:
            away = time.monotonic() - self._broken_at
            logger.warning("connected to the broker again %s after %.0f s", kept, away)
        self._broken_at = None

    def fall(self, event: ConnectFailed | Disconnected) -> None:
        """Take in that a connection is gone, or did not come about: nothing is in flight any more.

        Raises:
            ConnectionRefusedByBrokerError: the broker has said no before it ever said yes.
        """
        if isinstance(event, ConnectFailed) and event.refused and not self._has_stood:
            raise ConnectionRefusedByBrokerError(f"MQTT: {event.reason}; check [mqtt]")
        self.generation = None
        self.can_publish = False
        self.in_flight.clear()
        if self._metrics.disconnected_at is None:
            self._metrics.disconnected_at = time.monotonic()
            self.down_since_us = time.time_ns() // 1000
        if self._broken_at is None:
            self._broken_at = time.monotonic()
            logger.warning("no connection to the broker, will try again: %s", event.reason)
        else:
            logger.debug("still no connection to the broker: %s", event.reason)
