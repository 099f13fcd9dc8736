"""Windows and events that are not yet known to be stored: bounded, and every one accounted for.

A window is in memory alone while it is young. Once the oldest such window is nearly as old as may
be lost, all of them go to the disk with one commit; normally a receipt is quicker, and nothing is
ever written. What is on the disk is read back when its turn comes: memory does not grow with it.

When it is full, the oldest windows of normal sound, or that nobody has heard, go first; flagged
ones and those of an episode go last. All are counted, for each boot: produced = gone + held +
discarded.

Which of them goes out next is `outgoing`'s. It belongs to one thread, the publisher's; others may
read `held`.
"""

from collections import OrderedDict
from collections.abc import Mapping
from itertools import islice
from typing import Final

import msgspec

from contract.messages import MAX_BACKLOG_WINDOWS, Account, Window
from contract.ranges import runs
from contract.states import Clock, DiscardReason
from node.delivery.held_windows import Entry, HeldBoot, HeldWindows
from node.delivery.outbox_disk import OutboxDisk
from node.delivery.outbox_events import OutboxEvents
from node.delivery.outbox_file import OutboxFile
from node.delivery.outbox_rules import OutboxRules
from node.delivery.outgoing import OutgoingWindows

_EXPIRE_SECONDS: Final = 60.0


class OutboxFigures(msgspec.Struct, frozen=True, kw_only=True):
    """How full an outbox is, in the words of `Health`."""

    outbox_windows: int
    """Held, of all boots."""
    outbox_oldest_s: float
    outbox_disk_bytes: int
    discarded_full: int
    """This and the others: since this process began, of all boots."""
    discarded_expired: int
    discarded_refused: int
    discarded_damaged: int
    discarded_unsaved: int


class Outbox:
    """Keeps windows until they are known to be stored.

    Args:
        boot: id of this start of the node.
        node: its id.
        hop_seconds: time between two windows.
        file: where to keep what does not go out in time; None is memory alone.
        rules: what is kept, and how long.
        now: on the monotonic clock, as all `now` here.
    """

    def __init__(
        self,
        boot: str,
        *,
        node: str,
        hop_seconds: float,
        file: OutboxFile | None = None,
        rules: OutboxRules | None = None,
        now: float = 0.0,
    ) -> None:
        self.rules = rules or OutboxRules()
        self.hop_seconds = hop_seconds
        self._node = node
        self._held = HeldWindows(boot)
        self.events = OutboxEvents()
        """Events that wait, each until it is `done`."""
        self._disk = OutboxDisk(file, self._held, self.events, node=node, rules=self.rules, now=now)
        self.outgoing = OutgoingWindows(self._held, self._disk, self.rules)
        """What goes out next; is told what has become of it."""
        self._expire_due = now
        self._end_confirmed = False
        """Whether the broker has the last account of this boot."""

    @property
    def held(self) -> int:
        """How many windows are held, of all boots."""
        return self._held.count

    @property
    def unsaved(self) -> int:
        """How many windows are in memory alone."""
        return len(self._held.current.unsaved)

    @property
    def discarded(self) -> int:
        """How many windows were given up since this process began, of all boots."""
        return self._held.discarded

    @property
    def last_start_us(self) -> int | None:
        """The last time stamp of a window that an earlier boot has kept, or this one has given."""
        return self._held.last_start_us

    @property
    def boots(self) -> tuple[str, ...]:
        """Whose windows are held, or whose last account nobody has yet; oldest first."""
        return tuple(self._held.boots)

    def add(self, window: Window, now: float) -> None:
        """Take in a window of this boot; may give up another one for it."""
        self._held.add(window, now, most=self.rules.max_windows)

    def restamp(self, stamps: Mapping[int, tuple[int, Clock]], ends_us: Mapping[int, int]) -> None:
        """Give windows and events of this boot, none of which is sent, their right time; they go.

        Args:
            stamps: start in microseconds and what the clock is worth, by the window's number.
            ends_us: by what a window's end was taken for, what it is.
        """
        boot = self._held.current
        for row in self._disk.rows(boot, 0, boot.last_saved):
            entry = self._disk.entry(boot, row)
            if entry is not None:
                boot.memory[row.seq] = entry
        boot.memory = OrderedDict(sorted(boot.memory.items()))
        changed = self._held.restamp(stamps)
        self.events.restamp(boot.boot, ends_us)
        self._disk.rewrite([seq for seq in changed if seq not in boot.unsaved])
        boot.keep_recent()
        self.outgoing.waits_for_clock = False

    def tend(self, now: float, *, synced_us: int | None = None) -> None:
        """Do what time brings: save, delete, give up what is too old, send again.

        Args:
            now: on the monotonic clock.
            synced_us: microseconds since 1970, if that is known.
        """
        self._disk.tend(now)
        if now >= self._expire_due:
            self._expire_due = now + _EXPIRE_SECONDS
            self._expire(now, synced_us)
        self.outgoing.tend(now)

    def save(self, now: float, *, at_once: bool = False) -> bool:
        """Bring everything to the disk; gives whether it is there.

        Args:
            now: on the monotonic clock.
            at_once: also if the disk has failed a short time ago.
        """
        return self._disk.save(now, at_once=at_once)

    def account(self, boot: str, *, at_us: int) -> Account:
        """What became of the windows of a boot so far.

        Args:
            boot: one of `boots`.
            at_us: microseconds since 1970.
        """
        found = self._held.boots[boot]
        tail = self._tail_windows() if found is self._held.current else 0
        return found.account.message(
            node=self._node, boot=boot, at_us=at_us, waiting=found.held, tail_windows=tail
        )

    def take_ended(self) -> list[str]:
        """The earlier boots of which nothing is held any more, each given once."""
        return self._held.take_ended()

    def account_confirmed(self, account: Account, now: float) -> None:
        """Note an account that the broker has; that of a boot that is over is kept no more."""
        boot = self._held.boots.get(account.boot)
        if boot is None or account.waiting or boot.held:
            return
        if boot is not self._held.current:
            del self._held.boots[account.boot]
        elif not account.ended:
            return
        else:
            self._end_confirmed = True
        self._disk.forget(boot, now)

    def end(self, now: float) -> int:
        """Save what is left, for the next start; gives how many windows could not be saved.

        To be followed by the last account, and by `close`.
        """
        self._held.current.account.ended = True
        self._disk.save(now, at_once=True)
        return self._held.drop_unsaved()

    def close(self) -> None:
        """Keep the accounts that nobody has to the end, and the last time stamp."""
        self._disk.close(with_account=not self._end_confirmed)

    def figures(self, now: float, *, synced_us: int | None = None) -> OutboxFigures:
        """How full it is.

        Args:
            now: on the monotonic clock.
            synced_us: microseconds since 1970, if that is known.
        """
        discarded_by = self._held.discarded_by
        return OutboxFigures(
            outbox_windows=self._held.count,
            outbox_oldest_s=round(max(0.0, self._oldest_seconds(now, synced_us)), 3),
            outbox_disk_bytes=self._disk.size_bytes,
            discarded_full=discarded_by(DiscardReason.FULL),
            discarded_expired=discarded_by(DiscardReason.EXPIRED),
            discarded_refused=discarded_by(DiscardReason.REFUSED),
            discarded_damaged=discarded_by(DiscardReason.DAMAGED),
            discarded_unsaved=discarded_by(DiscardReason.UNSAVED),
        )

    def _oldest_seconds(self, now: float, synced_us: int | None) -> float:
        for boot in tuple(self._held.boots.values()):
            for entry in self._oldest(boot, 1):
                return _age_seconds(entry, now, synced_us)
        return 0.0

    def _expire(self, now: float, synced_us: int | None) -> None:
        for boot in tuple(self._held.boots.values()):
            while boot.held:
                oldest = self._oldest(boot, MAX_BACKLOG_WINDOWS)
                old = [
                    entry.window.seq
                    for entry in oldest
                    if _age_seconds(entry, now, synced_us) > self.rules.max_age_seconds
                ]
                count = 0
                for first, last in runs(old):
                    count += self._disk.take_out(boot, first, last, now)
                self._held.discard(boot, DiscardReason.EXPIRED, count)
                if not count or len(old) < len(oldest):
                    break

    def _oldest(self, boot: HeldBoot, limit: int) -> list[Entry]:
        rows = self._disk.rows(boot, 0, boot.last_saved, limit=limit)
        found = [entry for row in rows if (entry := self._disk.entry(boot, row)) is not None]
        return found or [boot.memory[seq] for seq in islice(boot.unsaved, limit)]

    def _tail_windows(self) -> int:
        """How many windows may be in memory alone."""
        if not self._disk.works:
            return self.rules.max_windows
        if self.rules.durable == "always":
            return 0
        # One that is just being judged, and one that is just being handed over.
        return -int(-self.rules.tail_seconds // self.hop_seconds) + 2


def _age_seconds(entry: Entry, now: float, synced_us: int | None) -> float:
    """By the wall clock only where it was right then and is right now."""
    age = now - entry.added_at
    if synced_us is not None and entry.window.clock is Clock.SYNCED:
        age = max(age, (synced_us - entry.window.start_us) / 1e6)
    return age
