"""Which windows go out next, and which have to go out again.

    waiting -> in flight -> confirmed by the broker -> gone: receipted by a collector
                                                       (or at once, where nobody sends receipts)

It sends nothing itself: `window_lane` does, and reports what became of it.
"""

import logging
from collections.abc import Iterator, Sequence
from typing import Final

from contract.messages import MAX_BACKLOG_WINDOWS, Receipt
from contract.ranges import Ranges, runs
from contract.states import DiscardReason
from node.delivery.held_windows import Entry, HeldBoot, HeldWindows
from node.delivery.outbox_disk import OutboxDisk
from node.delivery.outbox_rules import OutboxRules
from node.delivery.unreceipted import Unreceipted

logger = logging.getLogger(__name__)

# Late windows with the broker that nobody has receipted: 20 messages, half a megabyte for each node
# of a fleet. A receipt takes some two seconds: 500 windows a second, the largest outbox in minutes.
_CREDIT_WINDOWS: Final = 1000


class OutgoingWindows:
    """Follows each window that is held from its place in the line until somebody has stored it.

    Args:
        held: windows, of all boots.
        disk: where those are that are not in memory.
        rules: whose word lets go of a window, and when it is sent again.
    """

    def __init__(self, held: HeldWindows, disk: OutboxDisk, rules: OutboxRules) -> None:
        self._held = held
        self._disk = disk
        self._rules = rules
        self._unreceipted = Unreceipted(resend_seconds=rules.resend_seconds)
        self._silence_logged = False
        self.waits_for_clock = False
        """Whether windows of this boot do not go out yet: their time is not known."""

    @property
    def has_credit(self) -> bool:
        """Whether the broker may be given late windows: not all at once, where receipts come.

        It would have to keep, for a collector that comes back after a day, that day of all nodes.
        """
        if self._unreceipted.may_ask or not self._unreceipted.expects_receipts:
            return True
        boots = self._held.boots.values()
        return sum(len(boot.confirmed) for boot in boots) < _CREDIT_WINDOWS

    def live(self, now: float, seconds: float) -> Entry | None:
        """The oldest of the waiting windows of this boot that came in within the last `seconds`."""
        found = None
        if self.waits_for_clock:
            return found
        boot = self._held.current
        for seq in reversed(boot.memory):
            entry = boot.memory[seq]
            if now - entry.added_at > seconds:
                break
            if seq not in boot.passed:
                found = entry
        return found

    def late(self, limit: int, *, before: float = float("inf")) -> Sequence[Entry]:
        """Up to so many windows that wait, all of one boot, oldest first.

        Args:
            limit: how many.
            before: of this boot, only what came in before that.
        """
        current = self._held.current
        for boot in tuple(self._held.boots.values()):
            if not boot.held or (boot is current and self.waits_for_clock):
                continue
            found = self._waiting_on_disk(boot, limit)
            for seq in boot.unsaved:
                if len(found) >= limit:
                    break
                if seq not in boot.passed:
                    found.append(boot.memory[seq])
            if boot is current:
                found = [entry for entry in found if entry.added_at < before]
            if found:
                self._unreceipted.may_ask = False
                return found
        return []

    def sent(self, boot: str, seqs: Sequence[int]) -> None:
        """Note windows that are on their way: they do not wait until they come back.

        Args:
            boot: of the windows.
            seqs: their numbers, rising, none that waits left out between them.
        """
        found = self._held.boots.get(boot)
        if found is not None and seqs:
            found.sent(seqs)

    def back(self, boot: str, seqs: Sequence[int]) -> None:
        """Note windows that were not confirmed: they wait again."""
        found = self._held.boots.get(boot)
        if found is not None:
            found.back(seqs)

    def confirmed(self, boot: str, seqs: Sequence[int], now: float) -> None:
        """Note windows that the broker has; let go of them where its word is enough."""
        found = self._held.boots.get(boot)
        if found is None:
            return
        found.in_flight.difference_update(seqs)
        for first, last in runs(seqs):
            if self._rules.receipts == "broker":
                self._disk.take_out(found, first, last, now, or_later=True)
            else:
                found.confirmed.add(first, last)
                self._unreceipted.confirmed(boot, first, last, now)

    def refused(self, boot: str, seqs: Sequence[int], now: float) -> None:
        """Give up windows that the broker will never take."""
        found = self._held.boots.get(boot)
        if found is None:
            return
        found.in_flight.difference_update(seqs)
        for first, last in runs(seqs):
            count = self._disk.take_out(found, first, last, now)
            self._held.discard(found, DiscardReason.REFUSED, count)

    def receipted(self, receipt: Receipt, now: float, *, retained: bool = False) -> int:
        """Let go of what a collector has stored; gives how many windows that were.

        Args:
            receipt: of a collector.
            now: on the monotonic clock.
            retained: whether the broker had kept it: then it does not show that anybody stores.
        """
        self._unreceipted.seen = True
        if not retained:
            self._unreceipted.receipt_came(now)
            if self._silence_logged:
                logger.info("receipts come again")
            self._silence_logged = False
        boot = self._held.boots.get(receipt.boot)
        if boot is None:
            return 0
        return sum(
            self._disk.take_out(boot, first, last, now, or_later=True)
            for first, last in _stored_ranges(receipt)
        )

    def tend(self, now: float) -> None:
        """Have windows wait again whose receipt is overdue; a warning where none comes at all."""
        for name, first, last in self._unreceipted.due(now, self._end_of_message):
            boot = self._held.boots[name]
            boot.confirmed.remove(first, last)
            for begin, end in boot.undeleted.holes(first, last):
                boot.passed.remove(begin, end)
        if self._unreceipted.nobody_answers and not self._silence_logged:
            self._silence_logged = True
            logger.warning(
                "the broker has taken windows, and for %g s nobody has said that they are stored:"
                " is a collector running? %d windows are kept until it says so; a fleet whose"
                ' consumer sends no receipts sets [outbox] receipts = "broker"',
                self._rules.resend_seconds,
                self._held.count,
            )

    def _waiting_on_disk(self, boot: HeldBoot, limit: int) -> list[Entry]:
        found: list[Entry] = []
        position = 0
        while boot.on_disk and len(found) < limit:
            first, end = boot.passed.gap_from(position)
            if first > boot.last_saved:
                break
            last = boot.last_saved if end is None else min(end, boot.last_saved)
            wanted = limit - len(found)
            rows = self._disk.rows(boot, first, last, limit=wanted)
            for row in rows:
                entry = self._disk.entry(boot, row)
                if entry is not None:
                    found.append(entry)
            position = rows[-1].seq + 1 if rows else first
            if len(rows) < wanted:
                # Nothing more there, nor will there be: not to be looked for again.
                if position <= last and self._disk.works:
                    boot.passed.add(position, last)
                position = last + 1
        return found

    def _end_of_message(self, name: str, first: int, last: int) -> int | None:
        """Where a message that begins with the first of these windows that is held ends."""
        boot = self._held.boots.get(name)
        if boot is None or not boot.held:
            return None
        seqs: list[int] = []
        for begin, end in boot.undeleted.holes(first, last, most=1):
            rows = self._disk.rows(boot, begin, end, limit=MAX_BACKLOG_WINDOWS)
            seqs += [row.seq for row in rows]
        seqs += [seq for seq in boot.unsaved if first <= seq <= last]
        if not seqs and len(boot.undeleted) < boot.on_disk and not self._disk.works:
            # Nobody can tell now; what is gone is not sent again anyway.
            return min(last, first + MAX_BACKLOG_WINDOWS - 1)
        if not seqs:
            # Given up since.
            boot.confirmed.remove(first, last)
        return max(seqs[:MAX_BACKLOG_WINDOWS], default=None)


def _stored_ranges(receipt: Receipt) -> Iterator[tuple[int, int]]:
    stored = Ranges()
    if receipt.stored_from <= receipt.stored_up_to:
        stored.add(receipt.stored_from, receipt.stored_up_to)
    for first, last in receipt.holes:
        stored.remove(first, last)
    return iter(stored)
