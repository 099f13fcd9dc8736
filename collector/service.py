"""The story of the collector: gather a batch, store it, write it down, then acknowledge it.

What is acknowledged has been stored and is in the ledger, or has been told as a dead letter that
the broker has confirmed. What is not acknowledged comes again, and storing it again changes
nothing. So a crash at any point, of anybody, costs a repetition at most. Beside that, nodes get
receipts of what is stored; nothing waits for these, and one that was lost is made again. And while
no batch is due, hours that are over are counted.

One thread does all this; the session's thread only puts events into the inbox.
"""

import logging
import math
import random
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sized
from functools import partial
from queue import Empty, SimpleQueue
from typing import Protocol

import msgspec

from collector.batcher import Batcher
from collector.dead_letters import DeadLetterFile
from collector.intake import Intake, Item
from collector.ledger.hours import QUIET_SECONDS, Hour
from collector.ledger.ledger import Change, Key, key_of, seqs_of
from collector.ledger.ledger_cache import Books
from collector.ledger.ledger_file import LedgerFile
from collector.ledger.receipts import ReceiptSchedule, next_receipt
from collector.settings import CollectorSection
from collector.sinks.sink import PointsRejectedError, Sink, SinkUnavailableError
from collector.vitals import Vitals, memory_rss_bytes
from contract import topics
from contract.errors import ConnectionRefusedByBrokerError, PayloadTooLargeError
from contract.messages import (
    CollectorStatus,
    DeadLetter,
    Message,
    Pipeline,
    Presence,
    PresenceReason,
    Window,
    encode,
)
from contract.points import Point
from contract.ranges import Ranges
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
from contract.topics import Kind

logger = logging.getLogger(__name__)

# Away for longer than this, and the broker forgets us and what it kept for us.
SESSION_EXPIRY_SECONDS = 7 * 24 * 3600
# Larger than any message of ours, so that an oversize one comes in and is told as a dead letter.
_MAX_PACKET_BYTES = 1024 * 1024

_GOODBYE_SECONDS = 2.0

# The loop turns at least so often, so that one that hangs can be told from one that waits.
_TURN_SECONDS = 1.0
# While a batch waits for company, we look for it so often rather than wake for every message: to
# hand the interpreter to and fro costs a fifth of all that a message costs.
_LULL_SECONDS = 0.01
# To count hours takes at most a fifth of the time, however slow the store: windows come first.
_REST_AFTER_AN_HOUR = 4.0


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
        ledger: where it is written down which windows are stored.
        letters: where messages that cannot be stored are kept.
        retry: how long to wait for the sink.
        vitals: what is told of our own health.
        quiet_seconds: an hour is counted when so long no window has come for it.
    """

    def __init__(
        self,
        section: CollectorSection,
        broker: Broker,
        sink: Sink,
        inbox: Inbox,
        *,
        ledger: LedgerFile,
        letters: DeadLetterFile,
        retry: RetryPolicy | None = None,
        vitals: Vitals | None = None,
        quiet_seconds: float = QUIET_SECONDS,
    ) -> None:
        self.counts: Counter[str] = Counter()
        """Received, stored, batches, dropped, and `dead <reason>`; for the log and for tests."""
        self._section = section
        self._broker = broker
        self._sink = sink
        self._inbox = inbox
        self._letters = letters
        self._retry = retry or RetryPolicy()
        self._vitals = vitals or Vitals()
        self._intake = Intake(section.id)
        self._batcher = Batcher(
            batch_points=section.batch_points, batch_seconds=section.batch_seconds
        )
        self._deaf_since_us = _now_us()
        """While there is no broker: since when."""
        self._books = Books(
            ledger,
            sink,
            gap_seconds=section.gap_seconds,
            now_us=self._deaf_since_us,
            quiet_seconds=quiet_seconds,
        )
        self._hours_at = 0.0
        """No hour is counted before."""
        self._hours_failures = 0
        self._receipts = ReceiptSchedule(seconds=section.receipt_seconds)
        self._figures_at = time.monotonic() + section.figures_seconds
        self._last_figures_us = 0
        self._connection = _ConnectionLog()
        self._max_in_flight = MAX_IN_FLIGHT
        self._can_tell = False
        """Whether the last publication has found a connection."""
        self._in_flight: dict[Delivery, tuple[Key, Ranges] | None] = {}
        """What the broker has not confirmed; of a receipt, what to tell again if it is lost."""
        self._letters_in_flight: set[Delivery] = set()
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
                settled = self._settle_batch()
            self._say_goodbye(settle=settled)
        finally:
            self._broker.stop()
            if self.counts:
                logger.info("stopped: %s", self._account())

    def _gather(self) -> None:
        """Take in events until a batch is due."""
        while not self._stopping:
            figures_left = self._figures_at - time.monotonic()
            if figures_left <= 0.0:
                self._make_figures()
                continue
            left = self._batcher.seconds_left(now_seconds=time.monotonic())
            if left is not None and left <= 0.0:
                # What has come in meanwhile goes along, as far as there is room.
                if self._inbox.empty() or self._batcher.is_full:
                    return
                self._take_event(0.0)
                continue
            if self._inbox.empty() and self._count_an_hour():
                continue
            if left is not None and self._inbox.empty():
                time.sleep(min(left, _LULL_SECONDS))
            self._take_event(figures_left if left is None else min(left, figures_left))

    def _settle_batch(self) -> bool:
        """Settle the oldest of what waits; see `_settle`."""
        self._vitals.waiting_since = self._batcher.oldest_seconds
        settled = self._settle(self._batcher.take())
        if settled:
            self._vitals.waiting_since = self._batcher.oldest_seconds
            self._vitals.waiting_messages = len(self._batcher)
        return settled

    def _settle(self, batch: list[Item]) -> bool:
        """Store a batch, write it down, tell what cannot be stored, and only then acknowledge.

        Returns:
            False when we have to stop before it is stored: then it is left as it is, and so must
            be what came after it.
        """
        entries = [(item, point) for item in batch for point in item.points()]
        rejected = self._store(entries)
        if rejected is None:
            return False
        if entries:
            self.counts["batches"] += 1
            self.counts["stored"] += len(entries) - len(rejected)
            self._vitals.stored_points = self.counts["stored"]
        if not self._write_down(batch, rejected):
            return False
        letters = [item.letter for item in batch if item.letter is not None]
        letters += [letter for _, _, letter in rejected]
        self._letters.sync()
        if self._tell(letters):
            for item in batch:
                if item.received is not None and item.received.qos > 0:
                    self._broker.acknowledge(item.received)
        return True

    def _store(
        self, entries: list[tuple[Item, Point]]
    ) -> list[tuple[Item, Point, DeadLetter]] | None:
        """Write points, halving what is rejected until the bad ones are found.

        Returns:
            The bad points and their letters; None when we have to stop before all is written.
        """
        rejected = []
        parts = [entries] if entries else []
        while parts:
            part = parts.pop()
            try:
                if not self._when_possible(partial(self._sink.write, [p for _, p in part])):
                    return None
            except PointsRejectedError as error:
                if len(part) == 1:
                    rejected.append((*part[0], self._rejected(*part[0], error)))
                else:
                    middle = len(part) // 2
                    parts += [part[middle:], part[:middle]]
        return rejected

    def _write_down(
        self, batch: list[Item], rejected: list[tuple[Item, Point, DeadLetter]]
    ) -> bool:
        """Put into the ledger what is stored now; False when we have to stop before."""
        now_us = _now_us()
        refused = {(id(item), point.fields.get("seq")) for item, point, _ in rejected}
        refused_of: defaultdict[Key, list[int]] = defaultdict(list)
        heard: list[tuple[Message, tuple[int, ...]]] = []
        for item in batch:
            if item.message is None:
                continue
            seqs = seqs_of(item.message)
            key = key_of(item.message)
            if refused and seqs and key is not None:
                if bad := [seq for seq in seqs if (id(item), seq) in refused]:
                    refused_of[key] += bad
                seqs = tuple(seq for seq in seqs if (id(item), seq) not in refused)
            heard.append((item.message, seqs))
            self.counts["windows"] += len(seqs)
            if seqs and isinstance(item.message, Window):
                self._vitals.note_stored(item.message, now_us=now_us)
        touched: dict[Key, Ranges] = {}

        def enter() -> None:
            touched.update(self._books.enter(heard, now_us=now_us, rejected=refused_of))

        if not self._when_possible(enter):
            return False
        now = time.monotonic()
        for key, ranges in touched.items():
            for first, last in ranges:
                self._receipts.touch(key, first, last, now_seconds=now)
        return True

    def _when_possible(self, action: Callable[[], None]) -> bool:
        """Do it, waiting for the store as long as it takes; False when we have to stop."""
        failures = 0
        said = ""
        since, since_us = time.monotonic(), _now_us()
        while True:
            try:
                action()
            except SinkUnavailableError as error:
                failures += 1
                self.counts["write errors"] += 1
                self._vitals.storing = False
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
                self._vitals.storing = True
                if failures:
                    away = time.monotonic() - since
                    logger.warning("storing again after %.0f s, %d tries", away, failures)
                    self._books.begin_anew(now_us=_now_us(), blind_since_us=since_us)
                return True

    def _rejected(self, item: Item, point: Point, error: PointsRejectedError) -> DeadLetter:
        where = f"{point.measurement} {','.join(point.tags.values())} at {point.time_us} us"
        letter = self._intake.dead_letter(item, "rejected", f"{where}: {error}", at_us=_now_us())
        self._letters.append(letter, msgspec.json.encode(item.message))
        return letter

    def _tell(self, letters: Iterable[DeadLetter]) -> bool:
        """Publish dead letters and wait until the broker has them.

        Returns:
            False when the connection has gone meanwhile, or we have to leave: then nothing may be
            acknowledged, and all comes again. (Whatever waits was received on that connection or
            an earlier one, so that no message of a living connection stays unacknowledged.)
        """
        self._letters_in_flight.clear()
        for letter in letters:
            self._note(letter)
            if not self._confirmed(self._in_flight, below=self._max_in_flight):
                return False
            publication = Publication(topic=topics.dead_letter(), payload=encode(letter))
            try:
                delivery = self._broker.publish(publication)
            except PayloadTooLargeError as error:
                self._say_once("letter size", "cannot publish a dead letter: %s", error)
                continue
            if delivery is None:
                return False
            self._in_flight[delivery] = None
            self._letters_in_flight.add(delivery)
        return self._confirmed(self._letters_in_flight, below=1)

    def _confirmed(self, deliveries: Sized, *, below: int) -> bool:
        """Wait until fewer of these are unconfirmed."""
        while len(deliveries) >= below:
            generation = self._connection.generation
            left = self._leave_by - time.monotonic()
            if left <= 0.0:
                return False
            self._take_event(left if self._stopping else None)
            if self._connection.generation != generation:
                return False
        return True

    def _send_receipts(self) -> None:
        """Publish what is due, as far as there is room: nobody waits for a receipt but a node."""
        while self._can_tell and len(self._in_flight) < self._max_in_flight:
            now = time.monotonic()
            due = self._receipts.take(now_seconds=now, all_of_them=self._stopping)
            if due is None:
                return
            key, touched = due
            try:
                settled = self._books.settled(key)
            except SinkUnavailableError as error:
                # The node sends the windows again, and they are touched anew.
                self._say_once("receipt", "a receipt is not made: %s", error)
                continue
            if settled is None:
                continue
            receipt, rest = next_receipt(key, settled, touched, at_us=_now_us())
            publication = Publication(
                topic=topics.node(key[0], Kind.RECEIPT), payload=encode(receipt), retain=True
            )
            try:
                delivery = self._broker.publish(publication)
            except PayloadTooLargeError as error:
                self._say_once("receipt size", "cannot publish a receipt: %s", error)
                continue
            if delivery is None:
                self._can_tell = False
                rest = touched
            else:
                self.counts["receipts"] += 1
                self._in_flight[delivery] = (key, touched)
            self._receipts.put_back(key, rest, now_seconds=now)

    def _receipts_left(self) -> float | None:
        """Seconds until there is a receipt to send; None when something must come before."""
        if not self._can_tell or len(self._in_flight) >= self._max_in_flight:
            return None
        return self._receipts.seconds_left(now_seconds=time.monotonic())

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
        """Take one event, or none: whoever waits for one asks again."""
        self._send_receipts()
        self._vitals.turned_at = time.monotonic()
        waits = (timeout_seconds, self._receipts_left(), _TURN_SECONDS)
        try:
            event = self._inbox.get(timeout=min(wait for wait in waits if wait is not None))
        except Empty:
            return
        match event:
            case Received():
                self.counts["received"] += 1
                self._vitals.received += 1
                item = self._intake.take(event, arrived_us=_now_us())
                if item.letter is not None:
                    self._letters.append(item.letter, event.payload)
                self._wait_for_store(item)
            case Published():
                delivery = Delivery(event.generation, event.packet_id)
                self._in_flight.pop(delivery, None)
                self._letters_in_flight.discard(delivery)
                if not event.accepted:
                    self._say_once("refused", "the broker refuses what we say: %s", event.reason)
            case Connected():
                self._max_in_flight = event.max_in_flight
                self._can_tell = True
                self._connection.stands(event)
                self._vitals.disconnected_at = None
                self._books.begin_anew(now_us=_now_us(), blind_since_us=self._deaf_since_us)
                self._announce()
            case ConnectFailed() | Disconnected():
                if isinstance(event, ConnectFailed) and event.refused and self._connection.is_first:
                    raise ConnectionRefusedByBrokerError(f"MQTT: {event.reason}; check [mqtt]")
                self._connection.broken(event)
                self._lose_connection()
            case SubscribeRefused():
                logger.error("nothing from %s: %s", event.topic_filter, event.reason)
            case Stop():
                self._stopping = True
                self._leave_by = time.monotonic() + _GOODBYE_SECONDS

    def _lose_connection(self) -> None:
        """What was not confirmed has to be told again."""
        now = time.monotonic()
        self._can_tell = False
        for receipt in self._in_flight.values():
            if receipt is not None:
                self._receipts.put_back(*receipt, now_seconds=now)
        self._in_flight.clear()
        self._letters_in_flight.clear()
        if self._vitals.disconnected_at is None:
            self._vitals.disconnected_at = now
            self._deaf_since_us = _now_us()

    def _wait_for_store(self, item: Item) -> None:
        now = time.monotonic()
        if self._vitals.waiting_since is None:
            self._vitals.waiting_since = now
        for dropped in self._batcher.add(item, now_seconds=now):
            self.counts["dropped"] += 1
            self._intake.forget(dropped)
            self._say_once("dropped", "too much waits: messages that may be lost are given up")
        self._vitals.waiting_messages = len(self._batcher)

    def _announce(self) -> None:
        """Tell and store that we are here."""
        status = _status(self._section, Presence.ONLINE, PresenceReason.CONNECTED)
        self._store_own(status, at_us=status.at_us)
        self._publish(_status_publication(status))

    def _say_goodbye(self, *, settle: bool) -> None:
        """Store what is at hand, if the store lets us, and see receipts and last status out."""
        status = _status(self._section, Presence.OFFLINE, PresenceReason.STOPPED)
        self._store_own(status, at_us=status.at_us)
        settle = settle and self._settle_all()
        if settle:
            # Last of all, so that it counts what was just stored.
            self._make_figures()
            self._settle_all()
        self._leave_by = time.monotonic() + _GOODBYE_SECONDS
        while settle and self._can_tell and (self._receipts or self._in_flight):
            left = self._leave_by - time.monotonic()
            if left <= 0.0:
                break
            self._take_event(left)
        if self._publish(_status_publication(status)):
            self._leave_by = time.monotonic() + _GOODBYE_SECONDS
            self._confirmed(self._in_flight, below=1)

    def _settle_all(self) -> bool:
        """Settle batch after batch; False when we have to leave before all is stored."""
        while len(self._batcher):
            if not self._settle_batch():
                return False
        return True

    def _publish(self, publication: Publication) -> bool:
        delivery = self._broker.publish(publication)
        if delivery is not None:
            self._in_flight[delivery] = None
        return delivery is not None

    def _make_figures(self) -> None:
        """Ledgers that have changed, and how we are, go to the store like anybody's messages."""
        self._figures_at = time.monotonic() + self._section.figures_seconds
        now_us = _now_us()
        # Without a broker nobody can account for anything: time does not count then.
        if self._vitals.disconnected_at is None:
            changes = self._books.evaluate(now_us=now_us)
            for change in changes:
                _log_missing(change)
                self._store_own(change.entry, at_us=now_us)
            try:
                self._vitals.missing_windows = self._books.save_evaluated(now_us=now_us)
            except SinkUnavailableError as error:
                self._say_once("figures", "what is missing is not kept: %s", error)
        self._store_own(self._pipeline(now_us), at_us=now_us)

    def _count_an_hour(self) -> bool:
        """Store the figures of one hour, if one is over; whether it was tried."""
        began = time.monotonic()
        if began < self._hours_at:
            return False
        now_us = _now_us()
        hour = self._books.hour_due(now_us=now_us)
        if hour is None:
            return False
        delay = 0.0
        try:
            self._store_hour(hour)
        except SinkUnavailableError as error:
            # Nothing else waits for it: windows may well be stored meanwhile.
            level = logging.DEBUG if self._hours_failures else logging.ERROR
            logger.log(level, "cannot count hours, trying on: %s", error)
            self._hours_failures += 1
            self._books.put_off_hour(hour, now_us=now_us)
            delay = self._retry.delay_seconds(
                self._hours_failures, at_least=error.retry_after_seconds
            )
        else:
            if self._hours_failures:
                logger.warning("hours are counted again after %d tries", self._hours_failures)
            self._hours_failures = 0
        now = time.monotonic()
        self._hours_at = now + max(delay, (now - began) * _REST_AFTER_AN_HOUR)
        return True

    def _store_hour(self, hour: Hour) -> None:
        try:
            self._books.count_hour(hour)
            self.counts["hours"] += 1
        except PointsRejectedError as error:
            self._say_once("hour", "the store refuses hourly figures: %s", error)
            self._books.give_up_hour(hour)

    def _pipeline(self, now_us: int) -> Pipeline:
        lag_p50_s, lag_p95_s = self._vitals.take_lags()
        # Two at once, at the end, are still two points.
        self._last_figures_us = max(now_us, self._last_figures_us + 1)
        return Pipeline(
            id=self._section.id,
            at_us=self._last_figures_us,
            uptime_s=time.monotonic() - self._vitals.began_at,
            received=self.counts["received"],
            stored_points=self.counts["stored"],
            stored_windows=self.counts["windows"],
            batches=self.counts["batches"],
            write_errors=self.counts["write errors"],
            dead_letters=sum(n for name, n in self.counts.items() if name.startswith("dead ")),
            dropped=self.counts["dropped"],
            receipts=self.counts["receipts"],
            waiting_messages=len(self._batcher),
            reconnects=self._connection.reconnects,
            connected=self._vitals.disconnected_at is None,
            storing=self._vitals.storing,
            lag_p50_s=lag_p50_s,
            lag_p95_s=lag_p95_s,
            missing_windows=self._vitals.missing_windows,
            memory_rss_bytes=memory_rss_bytes(),
        )

    def _store_own(self, message: Message, *, at_us: int) -> None:
        self._wait_for_store(Item(None, 0, at_us, message))

    def _account(self) -> str:
        return ", ".join(f"{name} {count}" for name, count in sorted(self.counts.items()) if count)


class _ConnectionLog:
    """One line when the broker goes away, one when it is back."""

    def __init__(self) -> None:
        self.is_first = True
        """Whether no connection has ever stood."""
        self.generation: int | None = None
        self.reconnects = 0
        self._broken_at: float | None = None

    def stands(self, event: Connected) -> None:
        self.reconnects += not self.is_first
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


def _log_missing(change: Change) -> None:
    """One line when windows are missing, and one when they are there after all."""
    entry = change.entry
    if entry.missing and not change.missing_before:
        logger.warning(
            "%s boot %s: %d windows are missing, neither stored nor accounted for",
            entry.node,
            entry.boot,
            entry.missing,
        )
    elif change.missing_before and not entry.missing:
        logger.warning("%s boot %s: no window is missing any more", entry.node, entry.boot)


def _now_us() -> int:
    return time.time_ns() // 1000
