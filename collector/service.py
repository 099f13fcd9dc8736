"""The story of the collector: gather a batch, store it, write it down, then acknowledge it.

What is acknowledged has been stored and is in the ledger, or has been told as a dead letter that
the broker has confirmed. What is not acknowledged comes again, and storing it again changes
nothing. So a crash at any point, of anybody, costs a repetition at most. Beside that, nodes get
receipts of what is stored; nothing waits for these, and one that was lost is made again. And while
no batch is due, hours that are over are counted.

One thread does all this; the session's thread only puts events into the inbox.
"""

import logging
import time
from collections.abc import Iterable, Sequence

from collector.ledger.hours import QUIET_SECONDS
from collector.ledger.ledger_cache import LedgerCache
from collector.ledger.ledger_file import LedgerFile
from collector.link import presence
from collector.link.broker_link import BrokerLink, BrokerSession
from collector.link.event_loop import EventLoop, Inbox
from collector.link.receipt_sender import ReceiptSender
from collector.metrics import Metrics
from collector.settings import CollectorSection
from collector.sinks.sink import Sink, SinkUnavailableError
from collector.storing.batch_store import BatchStore
from collector.storing.batcher import Batcher
from collector.storing.dead_letters import DeadLetterFile
from collector.storing.hour_counter import HourCounter
from collector.storing.intake import Intake, Item
from collector.storing.store_retry import RetryPolicy, StoreRetry
from contract import topics
from contract.errors import PayloadTooLargeError
from contract.log_once import LogOnce
from contract.messages import CollectorStatus, DeadLetter, Message, encode
from contract.session import (
    Connected,
    ConnectFailed,
    Delivery,
    Disconnected,
    Publication,
    Published,
    Received,
    SessionEvent,
    SubscribeRefused,
)

logger = logging.getLogger(__name__)

# While a batch waits for company, we look for it so often rather than wake for every message: to
# hand the interpreter to and fro costs a fifth of all that a message costs.
_LULL_SECONDS = 0.01


class Collector:
    """Moves messages from a broker into a sink.

    Args:
        section: who we are, and how large a batch is.
        session: not started yet; its events go into `inbox`.
        sink: where points go.
        inbox: read by `run` alone.
        ledger: where it is written down which windows are stored.
        dead_letters: where messages that cannot be stored are kept.
        policy: how long to wait for the sink.
        metrics: what is told of our own health.
        quiet_seconds: an hour is counted when so long no window has come for it.

    Raises:
        SinkUnavailableError: the ledger cannot be read.
    """

    def __init__(
        self,
        section: CollectorSection,
        session: BrokerSession,
        sink: Sink,
        inbox: Inbox,
        *,
        ledger: LedgerFile,
        dead_letters: DeadLetterFile,
        policy: RetryPolicy | None = None,
        metrics: Metrics | None = None,
        quiet_seconds: float = QUIET_SECONDS,
    ) -> None:
        self._section = section
        self._session = session
        self._dead_letters = dead_letters
        self._metrics = metrics or Metrics()
        self._once = LogOnce(logger)
        self._link = BrokerLink(session, self._metrics)
        self._intake = Intake(section.id)
        self._batcher = Batcher(
            batch_points=section.batch_points, batch_seconds=section.batch_seconds
        )
        self._figures_at = time.monotonic() + section.figures_seconds
        policy = policy or RetryPolicy()
        now_us = self._link.down_since_us
        self._ledger = LedgerCache(ledger, sink, gap_seconds=section.gap_seconds, now_us=now_us)
        self._hours = HourCounter(
            ledger, sink, policy, self._metrics, now_us=now_us, quiet_seconds=quiet_seconds
        )
        self._receipts = ReceiptSender(
            self._ledger, self._link, self._metrics, seconds=section.receipt_seconds
        )
        self._events = EventLoop(
            inbox,
            handle=self._handle,
            turn=lambda: self._receipts.send_due(all_of_them=self._events.stopping),
            metrics=self._metrics,
        )
        self._store = BatchStore(
            sink,
            self._ledger,
            self._hours,
            intake=self._intake,
            dead_letters=dead_letters,
            retry=StoreRetry(
                policy,
                wait=self._events.take_for,
                recovered=self._begin_anew,
                metrics=self._metrics,
            ),
            metrics=self._metrics,
        )

    def stop(self) -> None:
        """Ask `run` to end; safe in a signal handler, whatever it interrupts."""
        self._events.stop()

    def run(self) -> None:
        """Collect until `stop`.

        Raises:
            ConnectionRefusedByBrokerError: the broker has said no before it ever said yes.
        """
        self._session.start()
        try:
            settled = True
            while settled and not self._events.stopping:
                self._gather()
                settled = self._settle_batch()
            self._say_goodbye(settle=settled)
        finally:
            self._session.stop()
            if self._metrics.counts:
                logger.info("stopped: %s", self._metrics.summary())

    def _gather(self) -> None:
        """Take in events until a batch is due."""
        while not self._events.stopping:
            figures_left = self._figures_at - time.monotonic()
            if figures_left <= 0.0:
                self._make_figures()
                continue
            left = self._batcher.seconds_left(now_seconds=time.monotonic())
            if left is not None and left <= 0.0:
                # What has come in meanwhile goes along, as far as there is room.
                if self._events.is_idle or self._batcher.is_full:
                    return
                self._events.take(0.0)
                continue
            if self._events.is_idle and self._hours.count_one(now_us=_now_us()):
                continue
            if left is not None and self._events.is_idle:
                time.sleep(min(left, _LULL_SECONDS))
            self._events.take(figures_left if left is None else min(left, figures_left))

    def _settle_batch(self) -> bool:
        """Settle the oldest of what waits; see `_settle`."""
        self._metrics.waiting_since = self._batcher.oldest_seconds
        settled = self._settle(self._batcher.take())
        if settled:
            self._metrics.waiting_since = self._batcher.oldest_seconds
            self._metrics.waiting_messages = len(self._batcher)
        return settled

    def _settle(self, batch: Sequence[Item]) -> bool:
        """Store a batch, write it down, tell what cannot be stored, and only then acknowledge.

        Returns:
            False when we have to stop before it is stored: then it is left as it is, and so must
            be what came after it.
        """
        rejections = self._store.store(batch)
        if rejections is None:
            return False
        written = self._store.write_down(batch, rejections)
        if written is None:
            return False
        self._receipts.touch(written)
        letters = [item.letter for item in batch if item.letter is not None]
        letters += [rejection.letter for rejection in rejections]
        self._dead_letters.sync()
        if self._publish_dead_letters(letters):
            for item in batch:
                if item.received is not None and item.received.qos > 0:
                    self._session.acknowledge(item.received)
        return True

    def _publish_dead_letters(self, letters: Iterable[DeadLetter]) -> bool:
        """Publish dead letters and wait until the broker has them.

        Returns:
            False when the connection has gone meanwhile, or we have to leave: then nothing may be
            acknowledged, and all comes again. (Whatever waits was received on that connection or
            an earlier one, so that no message of a living connection stays unacknowledged.)
        """
        generation = self._link.generation
        told: set[Delivery] = set()

        def all_confirmed() -> bool:
            return self._link.generation != generation or told.isdisjoint(self._link.in_flight)

        def has_room() -> bool:
            return self._link.generation != generation or not self._link.is_full

        for letter in letters:
            self._metrics.counts[f"dead {letter.reason}"] += 1
            self._once.warn(
                letter.reason,
                "dead letter (%s) from %r: %s",
                letter.reason,
                letter.topic,
                letter.detail,
            )
            if not self._events.take_until(has_room) or self._link.generation != generation:
                return False
            publication = Publication(topic=topics.dead_letter(), payload=encode(letter))
            try:
                delivery = self._link.publish(publication)
            except PayloadTooLargeError as error:
                self._once.warn("letter size", "cannot publish a dead letter: %s", error)
                continue
            if delivery is None:
                return False
            told.add(delivery)
        return self._events.take_until(all_confirmed) and self._link.generation == generation

    def _handle(self, event: SessionEvent) -> None:
        match event:
            case Received():
                self._metrics.counts["received"] += 1
                item = self._intake.take(event, arrived_us=_now_us())
                if item.letter is not None:
                    self._dead_letters.append(item.letter, event.payload)
                self._wait_for_store(item)
            case Published():
                self._receipts.confirm(self._link.confirm(event))
            case Connected():
                self._link.rise(event)
                self._begin_anew(self._link.down_since_us)
                self._announce(presence.online(self._section))
            case ConnectFailed() | Disconnected():
                self._link.fall(event)
                self._receipts.lose_connection()
            case SubscribeRefused():
                logger.error(
                    "the broker refuses the subscription to %s: %s",
                    event.topic_filter,
                    event.reason,
                )

    def _begin_anew(self, blind_since_us: int) -> None:
        """Nothing is called missing because of a time in which nothing was heard or stored."""
        self._ledger.begin_anew(now_us=_now_us(), blind_since_us=blind_since_us)

    def _wait_for_store(self, item: Item) -> None:
        now = time.monotonic()
        if self._metrics.waiting_since is None:
            self._metrics.waiting_since = now
        for dropped in self._batcher.add(item, now_seconds=now):
            self._metrics.counts["dropped"] += 1
            self._intake.forget(dropped)
            self._once.warn(
                "dropped",
                "too many messages wait for the store: those that the broker sends again, or never"
                " promised to deliver, are dropped",
            )
        self._metrics.waiting_messages = len(self._batcher)

    def _store_own(self, message: Message, *, at_us: int) -> None:
        """What we say of ourselves goes to the store like anybody's messages."""
        self._wait_for_store(Item(None, 0, at_us, message))

    def _announce(self, status: CollectorStatus) -> None:
        """Store and publish that we are here."""
        self._store_own(status, at_us=status.at_us)
        self._link.publish(presence.announcement(status))

    def _make_figures(self) -> None:
        """Store the ledgers that have changed, and how we are."""
        self._figures_at = time.monotonic() + self._section.figures_seconds
        now_us = _now_us()
        # Without a broker nobody can account for anything: time does not count then.
        if self._metrics.disconnected_at is None:
            for entry in self._ledger.evaluate(now_us=now_us):
                self._store_own(entry, at_us=now_us)
            try:
                self._metrics.missing_windows = self._ledger.save_evaluated(now_us=now_us)
            except SinkUnavailableError as error:
                self._once.warn(
                    "figures", "the count of missing windows could not be saved: %s", error
                )
        self._store_own(self._metrics.pipeline(self._section.id, now_us=now_us), at_us=now_us)

    def _say_goodbye(self, *, settle: bool) -> None:
        """Store what is at hand, if the store lets us, and see receipts and last status out."""
        status = presence.stopped(self._section)
        self._store_own(status, at_us=status.at_us)
        settle = settle and self._settle_all()
        if settle:
            # Last of all, so that it counts what was just stored.
            self._make_figures()
            self._settle_all()
            self._events.begin_goodbye()
            self._events.take_until(
                lambda: not (self._link.can_publish and (self._receipts or self._link.in_flight))
            )
        if self._link.publish(presence.announcement(status)) is not None:
            self._events.begin_goodbye()
            self._events.take_until(lambda: not self._link.in_flight)

    def _settle_all(self) -> bool:
        """Settle batch after batch; False when we have to leave before all is stored."""
        while len(self._batcher):
            if not self._settle_batch():
                return False
        return True


def _now_us() -> int:
    return time.time_ns() // 1000
