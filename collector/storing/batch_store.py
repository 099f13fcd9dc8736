"""Stores a batch and writes it into the ledger, waiting for both as long as it takes.

Nothing is acknowledged or published here. Storing the same batch again changes nothing.
"""

import time
from collections import defaultdict
from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import msgspec

from collector.ledger.boot import Key
from collector.ledger.ledger import key_of, seqs_of
from collector.ledger.ledger_cache import LedgerCache
from collector.metrics import Metrics
from collector.sinks.sink import PointsRejectedError, Sink
from collector.storing.dead_letters import DeadLetterFile
from collector.storing.hour_counter import HourCounter
from collector.storing.intake import Intake, Item
from collector.storing.store_retry import StoreRetry
from contract.messages import DeadLetter, Message, Window
from contract.points import Point
from contract.ranges import Ranges


class Rejection(NamedTuple):
    """A point that the store refuses."""

    item: Item
    point: Point
    letter: DeadLetter


class BatchStore:
    """Items in: points into the store, their numbers into the ledger, what is refused to a file.

    Args:
        sink: where points go.
        ledger: where it is written down which windows are stored.
        hours: told of the windows that are stored.
        intake: makes dead letters.
        dead_letters: where messages that cannot be stored are kept.
        retry: waits for sink and ledger.
        metrics: told what was stored.
    """

    def __init__(
        self,
        sink: Sink,
        ledger: LedgerCache,
        hours: HourCounter,
        *,
        intake: Intake,
        dead_letters: DeadLetterFile,
        retry: StoreRetry,
        metrics: Metrics,
    ) -> None:
        self._sink = sink
        self._ledger = ledger
        self._hours = hours
        self._intake = intake
        self._dead_letters = dead_letters
        self._retry = retry
        self._metrics = metrics

    def store(self, batch: Sequence[Item]) -> list[Rejection] | None:
        """Write the points of a batch, halving what is rejected until the bad ones are found.

        Returns:
            The bad points and their letters; None when we have to stop before all is written.
        """
        entries = [(item, point) for item in batch for point in item.points()]
        rejections: list[Rejection] = []
        parts = [entries] if entries else []
        while parts:
            part = parts.pop()
            try:
                if not self._retry.succeeds(partial(self._sink.write, [p for _, p in part])):
                    return None
            except PointsRejectedError as error:
                if len(part) == 1:
                    rejections.append(self._rejection(*part[0], error))
                else:
                    middle = len(part) // 2
                    parts += [part[middle:], part[:middle]]
        if entries:
            self._metrics.counts["batches"] += 1
            self._metrics.counts["stored"] += len(entries) - len(rejections)
        return rejections

    def write_down(
        self, batch: Sequence[Item], rejections: Sequence[Rejection]
    ) -> dict[Key, Ranges] | None:
        """Put into the ledger what is stored now.

        Returns:
            For each boot of which windows were stored or refused, the ranges that they have become
            part of; None when we have to stop before it is written.
        """
        now_us = time.time_ns() // 1000
        refused = {(id(item), point.fields.get("seq")) for item, point, _ in rejections}
        refused_of: defaultdict[Key, list[int]] = defaultdict(list)
        heard: list[tuple[Message, tuple[int, ...]]] = []
        for item in batch:
            message = item.message
            if message is None:
                continue
            seqs = seqs_of(message)
            if refused and seqs and (key := key_of(message)) is not None:
                if bad := [seq for seq in seqs if (id(item), seq) in refused]:
                    refused_of[key] += bad
                seqs = tuple(seq for seq in seqs if (id(item), seq) not in refused)
            heard.append((message, seqs))
            if seqs:
                self._metrics.counts["windows"] += len(seqs)
                self._hours.hear(message, now_us=now_us)
                if isinstance(message, Window):
                    self._metrics.note_stored(message, now_us=now_us)
        written: dict[Key, Ranges] = {}

        def enter() -> None:
            written.update(
                self._ledger.enter(
                    heard, now_us=now_us, rejected=refused_of, hours=self._hours.unsaved
                )
            )

        if not self._retry.succeeds(enter):
            return None
        self._hours.unsaved.clear()
        return written

    def _rejection(self, item: Item, point: Point, error: PointsRejectedError) -> Rejection:
        where = f"{point.measurement} {','.join(point.tags.values())} at {point.time_us} us"
        letter = self._intake.dead_letter(
            item, "rejected", f"{where}: {error}", at_us=time.time_ns() // 1000
        )
        self._dead_letters.append(letter, msgspec.json.encode(item.message))
        return Rejection(item, point, letter)
