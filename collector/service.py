"""The story of the collector: gather a batch, store it, then acknowledge it; never the other way.

What is acknowledged has been stored, or has been told as a dead letter that the broker has
confirmed. What is not acknowledged comes again, and storing it again changes nothing. So a crash at
any point, of anybody, costs a repetition at most.

One thread does all this; the session's thread only puts events into the inbox.
"""

import logging
import math
import random
import time
from collections import Counter
from collections.abc import Iterable
from queue import Empty, SimpleQueue
from typing import Protocol

from collector.batcher import Batcher
from collector.intake import Intake, Item
from collector.settings import CollectorSection
from collector.sinks import PointsRejectedError, Sink, SinkUnavailableError
from contract import topics
from contract.errors import ConnectionRefusedByBrokerError, PayloadTooLargeError
from contract.messages import CollectorStatus, DeadLetter, Presence, PresenceReason, encode
from contract.points import Point, points
from contract.session import (
    MAX_IN_FLIGHT,
    Connected,
    ConnectFailed,
    Delivery,
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

logger = logging.getLogger(__name__)

# Away for longer than this, and the broker forgets us and what it kept for us.
SESSION_EXPIRY_SECONDS = 7 * 24 * 3600
# Larger than any message of ours, so that an oversize one comes in and is told as a dead letter.
_MAX_PACKET_BYTES = 1024 * 1024

_GOODBYE_SECONDS = 2.0

# While a batch waits for company, we look for it so often rather than wake for every message: to
# hand the interpreter to and fro costs a fifth of all that a message costs.
_LULL_SECONDS = 0.01


class Stop:
    """Put into the inbox: finish the batch at hand and leave."""


Inbox = SimpleQueue[SessionEvent | Stop]


class Broker(Protocol):
    """What the collector needs of `contract.session.Session`."""

    def start(self) -> None:
        """Begin to connect, and put events into the inbox."""

    def publish(self, publication: Publication) -> Delivery | None:
        """Send, or None when there is no connection."""

    def acknowledge(self, message: Received) -> bool:
        """Let the broker forget a message; False, and nothing, when its connection is gone."""

    def stop(self) -> None:
        """Disconnect."""


def session_options(section: CollectorSection) -> SessionOptions:
    """How the collector presents itself to the broker."""
    return SessionOptions(
        client_id=section.id,
        expiry_seconds=SESSION_EXPIRY_SECONDS,
        receive_maximum=section.batch_points,
        maximum_packet_bytes=_MAX_PACKET_BYTES,
        subscriptions=tuple(
            Subscription(topic_filter=topics.every_node(kind), retained=False)
            for kind in topics.FROM_NODE
        ),
        manual_acknowledge=True,
    )


def last_will(section: CollectorSection) -> Will:
    """What the broker says of us when we vanish."""
    status = _status(section, Presence.OFFLINE, PresenceReason.LOST)
    return Will(publication=_status_publication(status))


class RetryPolicy:
    """How long to wait for a store: full jitter below a bound that grows."""

    BASE_SECONDS = 1.0
    CAP_SECONDS = 30.0

    def __init__(self, chance: random.Random | None = None) -> None:
        self._chance = chance or random.Random()

    def delay_seconds(self, failures: int, *, at_least: float | None = None) -> float:
        """Seconds to wait after so many failures in a row, and as long as the store asked for."""
        bound = min(self.CAP_SECONDS, self.BASE_SECONDS * 2 ** min(failures - 1, 16))
        return max(self._chance.uniform(0.0, bound), at_least or 0.0)


class Collector:
    """Moves messages from a broker into a sink.

    Args:
        section: who we are, and how large a batch is.
        broker: not started yet; its events go into `inbox`.
        sink: where points go.
        inbox: read by `run` alone.
        retry: how long to wait for the sink.
    """

    def __init__(
        self,
        section: CollectorSection,
        broker: Broker,
        sink: Sink,
        inbox: Inbox,
        *,
        retry: RetryPolicy | None = None,
    ) -> None:
        self.counts: Counter[str] = Counter()
        """Received, stored, batches, dropped, and `dead <reason>`; for the log and for tests."""
        self._section = section
        self._broker = broker
        self._sink = sink
        self._inbox = inbox
        self._retry = retry or RetryPolicy()
        self._intake = Intake(section.id)
        self._batcher = Batcher(
            batch_points=section.batch_points, batch_seconds=section.batch_seconds
        )
        self._connection = _ConnectionLog()
        self._max_in_flight = MAX_IN_FLIGHT
        self._unconfirmed: set[Delivery] = set()
        self._told: set[str] = set()
        self._stopping = False
        self._leave_by = math.inf

    def stop(self) -> None:
        """Ask `run` to end; safe in a signal handler, whatever it interrupts."""
        self._inbox.put(Stop())

    def run(self) -> None:
        """Collect until `stop`.

        Raises:
            ConnectionRefusedByBrokerError: the broker has said no before it ever said yes.
        """
        self._broker.start()
        try:
            settled = True
            while settled and not self._stopping:
                self._gather()
                settled = self._settle(self._batcher.take())
            self._say_goodbye(settle=settled)
        finally:
            self._broker.stop()
            if self.counts:
                logger.info("stopped: %s", self._account())

    def _gather(self) -> None:
        """Take in events until a batch is due."""
        while not self._stopping:
            left = self._batcher.seconds_left(now_seconds=time.monotonic())
            if left is not None and left <= 0.0:
                return
            if left is not None and self._inbox.empty():
                time.sleep(min(left, _LULL_SECONDS))
            self._take_event(left)

    def _settle(self, batch: list[Item]) -> bool:
        """Store a batch, tell what cannot be stored, and only then acknowledge, in order.

        Returns:
            False when we have to stop before it is stored: then it is left as it is, and so must
            be what came after it.
        """
        entries = [(item, point) for item in batch for point in item.points]
        rejected = self._store(entries)
        if rejected is None:
            return False
        if entries:
            self.counts["batches"] += 1
            self.counts["stored"] += len(entries) - len(rejected)
        if self._tell([item.letter for item in batch if item.letter is not None] + rejected):
            for item in batch:
                if item.received is not None and item.received.qos > 0:
                    self._broker.acknowledge(item.received)
        return True

    def _store(self, entries: list[tuple[Item, Point]]) -> list[DeadLetter] | None:
        """Write points, halving what is rejected until the bad ones are found.

        Returns:
            The letters of the bad points; None when we have to stop before all is written.
        """
        letters = []
        parts = [entries] if entries else []
        while parts:
            part = parts.pop()
            try:
                if not self._write_when_possible([point for _, point in part]):
                    return None
            except PointsRejectedError as error:
                if len(part) == 1:
                    letters.append(self._rejected(*part[0], error))
                else:
                    middle = len(part) // 2
                    parts += [part[middle:], part[:middle]]
        return letters

    def _write_when_possible(self, batch: list[Point]) -> bool:
        """Write, waiting for the sink as long as it takes; False when we have to stop."""
        failures = 0
        said = ""
        since = time.monotonic()
        while True:
            try:
                self._sink.write(batch)
            except SinkUnavailableError as error:
                failures += 1
                # One line when it breaks and one when the reason changes, not one per try.
                if str(error) != said:
                    said = str(error)
                    logger.error("cannot store, so nothing is acknowledged: %s", said)
                delay = self._retry.delay_seconds(failures, at_least=error.retry_after_seconds)
                logger.debug("next try in %.1f s", delay)
                self._take_events_for(delay)
                if self._stopping:
                    return False
            else:
                if failures:
                    away = time.monotonic() - since
                    logger.warning("storing again after %.0f s, %d tries", away, failures)
                return True

    def _rejected(self, item: Item, point: Point, error: PointsRejectedError) -> DeadLetter:
        where = f"{point.measurement} {','.join(point.tags.values())} at {point.time_us} us"
        return self._intake.dead_letter(item, "rejected", f"{where}: {error}", at_us=_now_us())

    def _tell(self, letters: Iterable[DeadLetter]) -> bool:
        """Publish dead letters and wait until the broker has them.

        Returns:
            False when the connection has gone meanwhile, or we have to leave: then nothing may be
            acknowledged, and all comes again. (Whatever waits was received on that connection or
            an earlier one, so that no message of a living connection stays unacknowledged.)
        """
        self._unconfirmed.clear()
        for letter in letters:
            self._note(letter)
            publication = Publication(topic=topics.dead_letter(), payload=encode(letter))
            try:
                delivery = self._broker.publish(publication)
            except PayloadTooLargeError as error:
                self._say_once("letter size", "cannot publish a dead letter: %s", error)
                continue
            if delivery is None:
                return False
            self._unconfirmed.add(delivery)
            if not self._confirmed(below=self._max_in_flight):
                return False
        return self._confirmed(below=1)

    def _confirmed(self, *, below: int) -> bool:
        """Wait until fewer publications than this are unconfirmed."""
        while len(self._unconfirmed) >= below:
            generation = self._connection.generation
            left = self._leave_by - time.monotonic()
            if left <= 0.0:
                return False
            self._take_event(left if self._stopping else None)
            if self._connection.generation != generation:
                return False
        return True

    def _note(self, letter: DeadLetter) -> None:
        self.counts[f"dead {letter.reason}"] += 1
        self._say_once(
            letter.reason,
            "dead letter (%s) from %r: %s",
            letter.reason,
            letter.topic,
            letter.detail,
        )

    def _say_once(self, key: str, text: str, *values: object) -> None:
        level = logging.DEBUG if key in self._told else logging.WARNING
        self._told.add(key)
        logger.log(level, text, *values)

    def _take_events_for(self, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while not self._stopping and (left := deadline - time.monotonic()) > 0.0:
            self._take_event(left)

    def _take_event(self, timeout_seconds: float | None) -> None:
        try:
            event = self._inbox.get(timeout=timeout_seconds)
        except Empty:
            return
        match event:
            case Received():
                self.counts["received"] += 1
                self._wait_for_store(self._intake.take(event, arrived_us=_now_us()))
            case Published():
                self._unconfirmed.discard(Delivery(event.generation, event.packet_id))
                if not event.accepted:
                    self._say_once("refused", "the broker refuses what we say: %s", event.reason)
            case Connected():
                self._max_in_flight = event.max_in_flight
                self._connection.stands(event)
                self._announce()
            case ConnectFailed() | Disconnected():
                if isinstance(event, ConnectFailed) and event.refused and self._connection.is_first:
                    raise ConnectionRefusedByBrokerError(f"MQTT: {event.reason}; check [mqtt]")
                self._connection.broken(event)
            case SubscribeRefused():
                logger.error("nothing from %s: %s", event.topic_filter, event.reason)
            case Stop():
                self._stopping = True
                self._leave_by = time.monotonic() + _GOODBYE_SECONDS

    def _wait_for_store(self, item: Item) -> None:
        for dropped in self._batcher.add(item, now_seconds=time.monotonic()):
            self.counts["dropped"] += 1
            self._intake.forget(dropped)
            self._say_once("dropped", "too much waits: messages that may be lost are given up")

    def _announce(self) -> None:
        """Tell and store that we are here."""
        status = _status(self._section, Presence.ONLINE, PresenceReason.CONNECTED)
        self._store_own(status)
        self._broker.publish(_status_publication(status))

    def _say_goodbye(self, *, settle: bool) -> None:
        """Store what is at hand, if the store lets us, and see our last status out."""
        status = _status(self._section, Presence.OFFLINE, PresenceReason.STOPPED)
        self._store_own(status)
        if settle:
            self._settle(self._batcher.take())
        self._leave_by = time.monotonic() + _GOODBYE_SECONDS
        delivery = self._broker.publish(_status_publication(status))
        if delivery is not None:
            self._unconfirmed = {delivery}
            self._confirmed(below=1)

    def _store_own(self, status: CollectorStatus) -> None:
        self._wait_for_store(Item(None, 0, tuple(points(status, arrived_us=status.at_us))))

    def _account(self) -> str:
        return ", ".join(f"{name} {count}" for name, count in sorted(self.counts.items()))


class _ConnectionLog:
    """One line when the broker goes away, one when it is back."""

    def __init__(self) -> None:
        self.is_first = True
        """Whether no connection has ever stood."""
        self.generation: int | None = None
        self._broken_at: float | None = None

    def stands(self, event: Connected) -> None:
        self.is_first = False
        self.generation = event.generation
        kept = "with what it kept for us" if event.session_present else "as a new session"
        if self._broken_at is None:
            logger.info("connected to the broker %s", kept)
        else:
            away = time.monotonic() - self._broken_at
            logger.warning("connected to the broker again %s after %.0f s", kept, away)
        self._broken_at = None

    def broken(self, event: ConnectFailed | Disconnected) -> None:
        self.generation = None
        if self._broken_at is None:
            self._broken_at = time.monotonic()
            logger.warning("no connection to the broker, trying on: %s", event.reason)
        else:
            logger.debug("still no connection to the broker: %s", event.reason)


def _status(section: CollectorSection, state: Presence, reason: PresenceReason) -> CollectorStatus:
    return CollectorStatus(id=section.id, at_us=_now_us(), state=state, reason=reason)


def _status_publication(status: CollectorStatus) -> Publication:
    return Publication(
        topic=topics.collector_status(status.id), payload=encode(status), retain=True
    )


def _now_us() -> int:
    return time.time_ns() // 1000
