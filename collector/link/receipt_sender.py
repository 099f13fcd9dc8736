"""Publishes receipts: what is stored of a node's windows, so that it can let go of them.

Nothing waits for a receipt but a node, and one that a lost connection took with it is made anew.
What a receipt says, and when it is due, is for `collector.ledger.receipts`.
"""

import logging
import time
from collections.abc import Mapping

from collector.ledger.boot import Key
from collector.ledger.ledger_cache import LedgerCache
from collector.ledger.receipts import ReceiptSchedule, next_receipt
from collector.link.broker_link import BrokerLink
from collector.metrics import Metrics
from collector.sinks.sink import SinkUnavailableError
from contract import topics
from contract.errors import PayloadTooLargeError
from contract.log_once import LogOnce
from contract.messages import encode
from contract.ranges import Ranges
from contract.session import Delivery, Publication
from contract.topics import Kind

logger = logging.getLogger(__name__)


class ReceiptSender:
    """Sends what is due, as far as there is room on the connection.

    Args:
        ledger: knows what is stored of each boot.
        link: where receipts go.
        metrics: told of each.
        seconds: between two receipts of one boot.
    """

    def __init__(
        self, ledger: LedgerCache, link: BrokerLink, metrics: Metrics, *, seconds: float
    ) -> None:
        self._ledger = ledger
        self._link = link
        self._metrics = metrics
        self._schedule = ReceiptSchedule(seconds=seconds)
        self._in_flight: dict[Delivery, tuple[Key, Ranges]] = {}
        """What to tell again if it is lost."""
        self._once = LogOnce(logger)

    def __len__(self) -> int:
        """How many boots wait to be told."""
        return len(self._schedule)

    def touch(self, written: Mapping[Key, Ranges]) -> None:
        """Make receipts due: of each boot, the ranges that written windows have become part of."""
        now = time.monotonic()
        for key, ranges in written.items():
            for first, last in ranges:
                self._schedule.touch(key, first, last, now_seconds=now)

    def send_due(self, *, all_of_them: bool = False) -> float | None:
        """Publish what is due.

        Args:
            all_of_them: also what is not due yet.

        Returns:
            Seconds until there is more to send; None when something must come before.
        """
        while self._link.can_publish and not self._link.is_full:
            now = time.monotonic()
            due = self._schedule.take(now_seconds=now, all_of_them=all_of_them)
            if due is None:
                return self._schedule.seconds_left(now_seconds=now)
            self._send(*due, now_seconds=now)
        return None

    def confirm(self, delivery: Delivery) -> None:
        """Take in that the broker has a receipt; other deliveries are ignored."""
        self._in_flight.pop(delivery, None)

    def lose_connection(self) -> None:
        """Take in that the connection is gone: what was not confirmed is due again."""
        now = time.monotonic()
        for key, written in self._in_flight.values():
            self._schedule.put_back(key, written, now_seconds=now)
        self._in_flight.clear()

    def _send(self, key: Key, written: Ranges, *, now_seconds: float) -> None:
        try:
            settled = self._ledger.settled(key)
        except SinkUnavailableError as error:
            # The node sends the windows again, and they are touched anew.
            self._once.warn("receipt", "cannot make a receipt: %s", error)
            return
        if settled is None:
            return
        receipt, rest = next_receipt(key, settled, written, at_us=time.time_ns() // 1000)
        publication = Publication(
            topic=topics.node(key[0], Kind.RECEIPT), payload=encode(receipt), retain=True
        )
        try:
            delivery = self._link.publish(publication)
        except PayloadTooLargeError as error:
            self._once.warn("receipt size", "cannot publish a receipt: %s", error)
            return
        if delivery is None:
            rest = written
        else:
            self._metrics.counts["receipts"] += 1
            self._in_flight[delivery] = (key, written)
        self._schedule.put_back(key, rest, now_seconds=now_seconds)
