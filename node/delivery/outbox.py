"""Windows and events that are not yet known to be stored: bounded, and every one accounted for.

    waiting -> in flight -> confirmed by the broker -> gone: receipted by a collector
                                                       (or at once, where nobody sends receipts)

A window is in memory alone while it is young. Once the oldest such window is nearly as old as may
be lost, all of them go to the disk with one commit; normally a receipt is quicker, and nothing is
ever written. What is on the disk is read back when its turn comes: memory does not grow with it.

When it is full, the oldest windows of normal sound, or that nobody has heard, go first; flagged
ones and those of an episode go last. All are counted, for each boot: produced = gone + held +
discarded.

It belongs to one thread, the publisher's; others may read `held`.
"""

import logging
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import islice
from typing import Final, Literal

import msgspec

from contract.messages import (
    MAX_BACKLOG_WINDOWS,
    Account,
    Clock,
    DiscardReason,
    Event,
    MachineState,
    Receipt,
    Window,
)
from contract.ranges import Ranges, runs
from node.delivery.accounts import BootAccount
from node.delivery.outbox_file import OutboxFile, OutboxFileError, Row
from node.delivery.unreceipted import Unreceipted

logger = logging.getLogger(__name__)

_EPISODE: Final = frozenset({MachineState.WARNING, MachineState.ALARM})
# Saved windows that are kept in memory, too: those that will go out live.
_RECENT_WINDOWS: Final = 200
# Written with one commit: some 250 kB, so that a cap is passed by no more.
_ROWS_PER_COMMIT: Final = 500
# Given up at once where the file is full: 64 kB.
_GIVEN_UP_TOGETHER: Final = 128
# What is gone leaves the disk this much later, with what else is gone by then.
_DELETE_SECONDS: Final = 5.0
_EXPIRE_SECONDS: Final = 60.0
# A disk that is full or broken is tried again after this, and twice as long each time.
_RETRY_SECONDS: Final = 15.0
_RETRY_MOST_SECONDS: Final = 600.0
# Events are few; this is a year of false alarms at one a day, or a fault in the making.
_MAX_EVENTS: Final = 400
# Late windows with the broker that nobody has receipted: 20 messages, half a megabyte for each node
# of a fleet. A receipt takes some two seconds: 500 windows a second, the largest outbox in minutes.
_CREDIT_WINDOWS: Final = 1000
# Time for a window to get to the disk, once that is due: of what may be lost.
_SAVING_SECONDS: Final = 1.0


class OutboxRules(msgspec.Struct, frozen=True, kw_only=True):
    """What is kept, how long, and how safely."""

    receipts: Literal["collector", "broker"] = "collector"
    durable: Literal["late", "always"] = "late"
    tail_seconds: float = 5.0
    max_windows: int = 10_000
    max_bytes: int = 128 * 1024 * 1024
    max_age_seconds: float = 168 * 3600.0
    resend_seconds: float = 600.0


class Entry(msgspec.Struct, frozen=True):
    """A window that is held."""

    added_at: float
    """When it came in, on the monotonic clock; of an earlier boot, when this process began."""
    window: Window


class OutboxFigures(msgspec.Struct, frozen=True, kw_only=True):
    """How full it is, for `health`."""

    windows: int = 0
    """Held, of all boots."""
    oldest_seconds: float = 0.0
    disk_bytes: int = 0
    discarded: Mapping[DiscardReason, int] = {}
    """Since this process began, of all boots."""


class _Boot:
    """What is held of one boot, and where.

    Args:
        boot: its id.
        account: of it.
    """

    def __init__(self, boot: str, account: BootAccount) -> None:
        self.boot = boot
        self.account = account
        self.file_id: int | None = None
        self.memory: OrderedDict[int, Entry] = OrderedDict()
        """All that is unsaved, and the newest of what is saved."""
        self.unsaved: OrderedDict[int, None] = OrderedDict()
        self.expendable: OrderedDict[int, None] = OrderedDict()
        """Of the unsaved ones, those that are given up first."""
        self.on_disk = 0
        self.last_saved = -1
        self.in_flight: set[int] = set()
        self.passed = Ranges()
        """Numbers that do not wait: sent, or not held (any more)."""
        self.confirmed = Ranges()
        """Numbers that the broker has and nobody has receipted."""
        self.undeleted = Ranges()
        """Stored, and on a disk that could not be written then: not to be sent again."""

    @property
    def held(self) -> int:
        return len(self.unsaved) + self.on_disk


class Outbox:
    """Keeps windows until they are known to be stored.

    Args:
        boot: id of this start of the node.
        node: its id.
        file: where to keep what does not go out in time; None is memory alone.
        rules: what is kept, and how long.
        now: on the monotonic clock, as all `now` here.
    """

    def __init__(
        self,
        boot: str,
        *,
        node: str,
        file: OutboxFile | None = None,
        rules: OutboxRules | None = None,
        now: float = 0.0,
    ) -> None:
        self.rules = rules or OutboxRules()
        self._node = node
        self._file = file
        self._began = self._now = now
        self._current = _Boot(boot, BootAccount())
        self._boots: dict[str, _Boot] = {}
        """Oldest first, this one last."""
        self._ended: list[str] = []
        """Earlier boots of which nothing is held any more, and whose account is not told yet."""
        self._unreceipted = Unreceipted(resend_seconds=self.rules.resend_seconds)
        self._events: OrderedDict[int, Event] = OrderedDict()
        self._unsaved_events: OrderedDict[int, float] = OrderedDict()
        """With the time at which each came in."""
        self._events_on_disk: set[int] = set()
        self._events_given = 0
        self._last_start_us: int | None = None
        self._retry_at = -float("inf")
        self._retry_seconds = _RETRY_SECONDS
        self._disk_works = file is not None
        self._unread = False
        """Whether what earlier starts have left could not be read: nothing is written till then."""
        self._delete_due: float | None = None
        self._expire_due = now
        self._discarded: dict[DiscardReason, int] = {}
        self._silence_told = False
        self._may_ask = False
        """Whether one message is due that asks whether somebody stores again."""
        self._end_told = False
        """Whether the broker has the last account of this boot."""
        self.held = 0
        """Windows, of all boots."""
        self._boots[boot] = self._current
        if file is not None:
            self._load(file, now)

    @property
    def last_start_us(self) -> int | None:
        """The last time stamp of a window that an earlier boot has kept."""
        return self._last_start_us

    @property
    def boots(self) -> tuple[str, ...]:
        """Whose windows are held, or whose account is not told to the end; oldest first."""
        return tuple(self._boots)

    @property
    def discarded(self) -> int:
        """Windows given up since this process began."""
        return sum(self._discarded.values())

    @property
    def unsaved(self) -> int:
        """Windows that are in memory alone."""
        return len(self._current.unsaved)

    @property
    def unsaved_events(self) -> int:
        """Events that are in memory alone."""
        return len(self._unsaved_events)

    def discarded_by(self, reason: DiscardReason) -> int:
        """Windows given up since this process began, for one reason."""
        return self._discarded.get(reason, 0)

    def add(self, window: Window, now: float) -> None:
        """Take in a window of this boot; may give up another one for it."""
        self._now = now
        boot, seq = self._current, window.seq
        boot.account.produced = max(boot.account.produced, seq + 1)
        boot.memory[seq] = Entry(now, window)
        boot.unsaved[seq] = None
        if _is_expendable(window):
            boot.expendable[seq] = None
        self.held += 1
        if window.clock is not Clock.SIMULATED:
            self._last_start_us = window.start_us
        if len(boot.unsaved) > self.rules.max_windows:
            self._give_one_up(boot)

    @property
    def has_credit(self) -> bool:
        """Whether the broker may be given late windows: not all at once, where receipts come.

        It would have to keep, for a collector that comes back after a day, that day of all nodes.
        """
        if self._may_ask or not self._unreceipted.expects_receipts:
            return True
        return sum(len(boot.confirmed) for boot in self._boots.values()) < _CREDIT_WINDOWS

    def live(self, now: float, seconds: float) -> Entry | None:
        """The oldest of the windows that wait and are no older than so many seconds."""
        found = None
        for seq in reversed(self._current.memory):
            entry = self._current.memory[seq]
            if now - entry.added_at > seconds:
                break
            if seq not in self._current.passed:
                found = entry
        return found

    def late(
        self,
        limit: int,
        *,
        before: float = float("inf"),
        except_boot: str | None = None,
    ) -> Sequence[Entry]:
        """Up to so many windows that wait, all of one boot, oldest first.

        Args:
            limit: how many.
            before: of this boot, only what came in before that.
            except_boot: none of this one.
        """
        for boot in tuple(self._boots.values()):
            if boot.boot == except_boot or not boot.held:
                continue
            found = self._waiting_on_disk(boot, limit)
            for seq in boot.unsaved:
                if len(found) >= limit:
                    break
                if seq not in boot.passed:
                    found.append(boot.memory[seq])
            if boot is self._current:
                found = [entry for entry in found if entry.added_at < before]
            if found:
                self._may_ask = False
                return found
        return []

    def sent(self, boot: str, seqs: Sequence[int]) -> None:
        """These are on their way: not to be sent again until they come back.

        Args:
            boot: of the windows.
            seqs: their numbers, rising, none that waits left out between them.
        """
        found = self._boots.get(boot)
        if found is not None and seqs:
            found.passed.add(seqs[0], seqs[-1])
            found.in_flight.update(seqs)

    def back(self, boot: str, seqs: Iterable[int]) -> None:
        """These were not confirmed: they wait again."""
        found = self._boots.get(boot)
        if found is None:
            return
        seqs = tuple(seqs)
        found.in_flight.difference_update(seqs)
        for first, last in runs(seqs):
            found.passed.remove(first, last)

    def confirmed(self, boot: str, seqs: Sequence[int], now: float) -> None:
        """The broker has these."""
        found = self._boots.get(boot)
        if found is None:
            return
        found.in_flight.difference_update(seqs)
        for first, last in runs(seqs):
            if self.rules.receipts == "broker":
                self._let_go(found, first, last, now)
            else:
                found.confirmed.add(first, last)
                self._unreceipted.confirmed(boot, first, last, now)

    def refused(self, boot: str, seqs: Iterable[int], now: float) -> None:
        """These will never be taken: give them up."""
        found = self._boots.get(boot)
        if found is None:
            return
        seqs = tuple(seqs)
        found.in_flight.difference_update(seqs)
        for first, last in runs(seqs):
            count = self._take_out(found, first, last, now)
            self._discard(found, DiscardReason.REFUSED, count)

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
            if self._silence_told:
                logger.info("receipts come again")
            self._silence_told = False
        boot = self._boots.get(receipt.boot)
        if boot is None:
            return 0
        return sum(self._let_go(boot, first, last, now) for first, last in _stored_ranges(receipt))

    def restamp(self, stamps: Mapping[int, tuple[int, Clock]], ends_us: Mapping[int, int]) -> None:
        """Give windows and events of this boot, none of which is sent, their right time.

        Args:
            stamps: start in microseconds and what the clock is worth, by the window's number.
            ends_us: by what a window's end was taken for, what it is.
        """
        boot = self._current
        for row in self._rows(boot, 0, boot.last_saved):
            entry = boot.memory.get(row.seq) or self._decoded(boot, row)
            if entry is not None:
                boot.memory[row.seq] = entry
        boot.memory = OrderedDict(sorted(boot.memory.items()))
        changed = []
        for seq, (start_us, clock) in stamps.items():
            entry = boot.memory.get(seq)
            if entry is not None:
                window = msgspec.structs.replace(entry.window, start_us=start_us, clock=clock)
                boot.memory[seq] = Entry(entry.added_at, window)
                changed.append(seq)
                self._last_start_us = start_us
        for key, event in self._events.items():
            if event.boot == boot.boot:
                self._events[key] = msgspec.structs.replace(
                    event,
                    at_us=ends_us.get(event.at_us, event.at_us),
                    opened_us=ends_us.get(event.opened_us, event.opened_us),
                )
        self._rewrite(boot, [seq for seq in changed if seq not in boot.unsaved])
        self._forget_old(boot)

    def add_event(self, event: Event, now: float) -> bool:
        """Take in an event; gives whether an older one had to go for it."""
        self._events_given += 1
        self._events[self._events_given] = event
        self._unsaved_events[self._events_given] = now
        if len(self._events) <= _MAX_EVENTS:
            return False
        self.event_done(next(iter(self._events)), now)
        return True

    def events(self) -> Iterator[tuple[int, Event]]:
        """Key and event, oldest first."""
        return iter(tuple(self._events.items()))

    def event_done(self, key: int, now: float) -> None:
        """The broker has it, or never will."""
        self._events.pop(key, None)
        self._unsaved_events.pop(key, None)
        self._delete_event(key, now)

    def tend(self, now: float, *, synced_us: int | None = None) -> None:
        """Do what time brings: save, delete, give up what is too old, send again.

        Args:
            now: on the monotonic clock.
            synced_us: microseconds since 1970, if that is known.
        """
        self._now = now
        if self._unread and self._file is not None and now >= self._retry_at:
            self._load(self._file, now)
        oldest = self._oldest_unsaved_at()
        if oldest is not None:
            may_wait = max(0.0, self.rules.tail_seconds - _SAVING_SECONDS)
            if self.rules.durable == "always" or now - oldest >= may_wait:
                self.save(now)
        if now >= self._expire_due:
            self._expire_due = now + _EXPIRE_SECONDS
            self._expire(now, synced_us)
        for name, first, last in self._unreceipted.due(now, self._end_of_message):
            boot = self._boots[name]
            boot.confirmed.remove(first, last)
            self._may_ask = self._unreceipted.nobody_answers
            for begin, end in boot.undeleted.holes(first, last):
                boot.passed.remove(begin, end)
        self._tell_silence()
        if self._delete_due is not None and now >= self._delete_due:
            self._commit_deletions(now)

    def save(self, now: float, *, at_once: bool = False) -> bool:
        """Bring everything to the disk; gives whether it is there.

        Args:
            now: on the monotonic clock.
            at_once: also if the disk has failed a short time ago.
        """
        file, boot = self._file, self._current
        if file is None or (now < self._retry_at and not at_once):
            return not boot.unsaved
        if self._unread and not self._load(file, now):
            return False
        try:
            while boot.unsaved or self._unsaved_events:
                seqs = tuple(islice(boot.unsaved, _ROWS_PER_COMMIT))
                boot.file_id = file.boot_id(boot.boot)
                file.put(boot.file_id, [self._row(boot, seq) for seq in seqs])
                for key in self._unsaved_events:
                    file.put_event(key, msgspec.json.encode(self._events[key]))
                if self._last_start_us is not None:
                    file.keep_last_start(self._last_start_us)
                self._put_accounts(file)
                file.commit()
                self._are_saved(boot, seqs)
                self._thin(file)
        except OutboxFileError as error:
            self._disk_failed(error)
            return False
        self._disk_is_well()
        return True

    def account(self, boot: str, *, at_us: int, hop_seconds: float) -> Account:
        """What became of the windows of a boot so far."""
        found = self._boots[boot]
        tail = self._tail_windows(hop_seconds) if found is self._current else 0
        return found.account.message(
            node=self._node, boot=boot, at_us=at_us, waiting=found.held, tail_windows=tail
        )

    def take_ended(self) -> list[str]:
        """Earlier boots of which nothing is held any more, each once."""
        ended, self._ended = self._ended, []
        return ended

    def account_told(self, account: Account, now: float) -> None:
        """The broker has an account: that of a boot that is over needs no more keeping."""
        boot = self._boots.get(account.boot)
        if boot is None or account.waiting or boot.held:
            return
        if boot is not self._current:
            del self._boots[account.boot]
        elif not account.ended:
            return
        self._end_told = account.ended
        if self._file is not None and boot.file_id is not None:
            try:
                self._file.forget_boot(boot.file_id)
                boot.file_id = None
                self._will_delete(now)
            except OutboxFileError as error:
                self._disk_failed(error)

    def end(self, now: float) -> int:
        """Save what is left, for the next start; gives how many windows could not be saved.

        To be followed by the last account, and by `close`.
        """
        boot = self._current
        boot.account.ended = True
        self.save(now, at_once=True)
        lost = len(boot.unsaved)
        for seq in tuple(boot.unsaved):
            self._forget(boot, seq)
        self._discard(boot, DiscardReason.UNSAVED, lost)
        return lost

    def close(self, now: float) -> None:
        """Keep the accounts that are not told to the end, and the last time stamp."""
        file = self._file
        if file is None:
            return
        try:
            if not self._end_told:
                self._current.file_id = file.boot_id(self._current.boot)
            self._put_accounts(file)
            if self._last_start_us is not None:
                file.keep_last_start(self._last_start_us)
            file.rest()
        except OutboxFileError as error:
            self._disk_failed(error)
        file.close()

    def figures(self, now: float, *, synced_us: int | None = None) -> OutboxFigures:
        """How full it is."""
        return OutboxFigures(
            windows=self.held,
            oldest_seconds=self.oldest_seconds(now, synced_us=synced_us),
            disk_bytes=0 if self._file is None else self._file.size_bytes,
            discarded=dict(self._discarded),
        )

    def oldest_seconds(self, now: float, *, synced_us: int | None = None) -> float:
        """Age of the oldest window that is held."""
        for boot in self._boots.values():
            if not boot.held:
                continue
            for row in self._rows(boot, 0, boot.last_saved, limit=1):
                entry = self._decoded(boot, row)
                if entry is not None:
                    return _age_seconds(entry, now, synced_us)
            if boot.unsaved:
                return _age_seconds(boot.memory[next(iter(boot.unsaved))], now, synced_us)
        return 0.0

    def _load(self, file: OutboxFile, now: float) -> bool:
        """Find what earlier boots have left; gives whether it could be read, or never will be."""
        try:
            stored, events = file.load(), file.events()
        except OutboxFileError as error:
            self._unread = not error.damaged
            self._disk_failed(error)
            return not self._unread
        is_late, self._unread = self._unread, False
        if self._last_start_us is None:
            self._last_start_us = stored.last_start_us
        earlier: dict[str, _Boot] = {}
        for each in stored.boots:
            account = each.account
            account.produced = max(account.produced, each.last_seq + 1)
            boot = _Boot(each.boot, account)
            boot.file_id, boot.on_disk, boot.last_saved = each.id, each.windows, each.last_seq
            earlier[each.boot] = boot
            self.held += each.windows
            if not each.windows:
                self._ended.append(each.boot)
        self._boots = earlier | self._boots
        for key, payload in events:
            self._load_event(key, payload, now, is_late=is_late)
        waiting = sum(boot.on_disk for boot in earlier.values())
        if waiting or events:
            logger.info(
                "%d windows and %d events of earlier starts wait to be sent", waiting, len(events)
            )
        elif not earlier and not is_late:
            self._rest(file)
        return True

    def _load_event(self, key: int, payload: bytes, now: float, *, is_late: bool) -> None:
        self._events_on_disk.add(key)
        event = None
        with suppress(msgspec.MsgspecError):
            event = msgspec.json.decode(payload, type=Event)
        if event is not None and not is_late:
            self._events_given = max(self._events_given, key)
            self._events[key] = event
            return
        self._delete_event(key, now)
        if event is not None:
            # An event of this start may have its number by now: it is written anew, with another.
            self.add_event(event, self._began)

    def _delete_event(self, key: int, now: float) -> None:
        if key not in self._events_on_disk or self._file is None:
            return
        self._events_on_disk.discard(key)
        try:
            self._file.delete_event(key)
            self._will_delete(now)
        except OutboxFileError as error:
            self._disk_failed(error)

    def _waiting_on_disk(self, boot: _Boot, limit: int) -> list[Entry]:
        found: list[Entry] = []
        position = 0
        while boot.on_disk and len(found) < limit:
            first, end = boot.passed.gap_from(position)
            if first > boot.last_saved:
                break
            last = boot.last_saved if end is None else min(end, boot.last_saved)
            wanted = limit - len(found)
            rows = self._rows(boot, first, last, limit=wanted)
            for row in rows:
                entry = boot.memory.get(row.seq) or self._decoded(boot, row)
                if entry is not None:
                    found.append(entry)
            position = rows[-1].seq + 1 if rows else first
            if len(rows) < wanted:
                # Nothing more there, nor will there be: not to be looked for again.
                if position <= last and self._disk_works:
                    boot.passed.add(position, last)
                position = last + 1
        return found

    def _rows(self, boot: _Boot, first: int, last: int, *, limit: int = 1_000_000) -> list[Row]:
        if self._file is None or boot.file_id is None or not boot.on_disk:
            return []
        try:
            return self._file.read(boot.file_id, first, last, limit)
        except OutboxFileError as error:
            self._disk_failed(error)
            return []

    def _decoded(self, boot: _Boot, row: Row) -> Entry | None:
        """The window of a row; one that is none is given up."""
        try:
            window = msgspec.json.decode(row.payload, type=Window)
            if (window.node, window.boot, window.seq) == (self._node, boot.boot, row.seq):
                added_at = row.added_s if boot is self._current else self._began
                return Entry(added_at, window)
        except (msgspec.MsgspecError, UnicodeDecodeError):
            pass
        count = self._take_out(boot, row.seq, row.seq, self._began)
        self._discard(boot, DiscardReason.DAMAGED, count)
        return None

    def _row(self, boot: _Boot, seq: int) -> Row:
        entry = boot.memory[seq]
        payload = msgspec.json.encode(entry.window)
        return Row(seq, _is_expendable(entry.window), entry.added_at, payload)

    def _rewrite(self, boot: _Boot, saved: Sequence[int]) -> None:
        """Windows, and all events, that are on the disk already, as they are now."""
        if self._file is None or boot.file_id is None or not (saved or self._events_on_disk):
            return
        try:
            self._file.put(boot.file_id, [self._row(boot, seq) for seq in saved])
            for key in self._events_on_disk:
                self._file.put_event(key, msgspec.json.encode(self._events[key]))
            self._file.commit()
        except OutboxFileError as error:
            self._disk_failed(error)

    def _are_saved(self, boot: _Boot, seqs: Sequence[int]) -> None:
        for seq in seqs:
            del boot.unsaved[seq]
            boot.expendable.pop(seq, None)
        boot.on_disk += len(seqs)
        if seqs:
            boot.last_saved = max(boot.last_saved, seqs[-1])
        self._events_on_disk.update(self._unsaved_events)
        self._unsaved_events.clear()
        self._forget_old(boot)

    def _forget_old(self, boot: _Boot) -> None:
        """Of saved windows only the newest stay in memory."""
        surplus = max(0, len(boot.memory) - _RECENT_WINDOWS)
        for seq in tuple(islice(boot.memory, surplus)):
            if seq not in boot.unsaved:
                del boot.memory[seq]

    def _let_go(self, boot: _Boot, first: int, last: int, now: float) -> int:
        """Take out what is stored; where the disk cannot be written now, once it can be."""
        return self._take_out(boot, first, last, now, or_later=True)

    def _take_out(
        self, boot: _Boot, first: int, last: int, now: float, *, or_later: bool = False
    ) -> int:
        """Hold a range of windows no more; gives how many that were."""
        count = 0
        boot.confirmed.remove(first, last)
        in_memory: Iterable[int] = boot.memory
        if last - first < len(boot.memory):
            in_memory = range(first, last + 1)
        for seq in [seq for seq in in_memory if first <= seq <= last and seq in boot.memory]:
            count += self._forget(boot, seq)
        if boot.on_disk and self._file is not None and boot.file_id is not None:
            try:
                deleted = self._file.delete(boot.file_id, first, last)
            except OutboxFileError as error:
                self._disk_failed(error)
                deleted = 0
                if or_later and boot.on_disk and first <= boot.last_saved:
                    # A card that is read-only now must not make us send all that is on it for ever.
                    boot.undeleted.add(first, min(last, boot.last_saved))
                    self._will_delete(now)
            if deleted:
                boot.on_disk -= deleted
                self.held -= deleted
                count += deleted
                self._will_delete(now)
        if count:
            self._look_whether_ended(boot)
        return count

    def _forget(self, boot: _Boot, seq: int) -> int:
        """Out of memory; gives 1 if it was nowhere else."""
        boot.memory.pop(seq, None)
        boot.expendable.pop(seq, None)
        if seq not in boot.unsaved:
            return 0
        del boot.unsaved[seq]
        self.held -= 1
        return 1

    def _look_whether_ended(self, boot: _Boot) -> None:
        if boot is not self._current and not boot.held:
            self._ended.append(boot.boot)

    def _discard(self, boot: _Boot, reason: DiscardReason, count: int) -> None:
        if count:
            boot.account.discard(reason, count)
            self._discarded[reason] = self.discarded_by(reason) + count

    def _give_one_up(self, boot: _Boot) -> None:
        # What is on its way is likely to be confirmed: given up only when there is nothing else.
        seq = next((s for s in boot.expendable if s not in boot.in_flight), None)
        if seq is None:
            seq = next((s for s in boot.unsaved if s not in boot.in_flight), None)
        if seq is None:
            seq = next(iter(boot.unsaved))
        boot.in_flight.discard(seq)
        self._discard(boot, DiscardReason.FULL, self._forget(boot, seq))

    def _thin(self, file: OutboxFile) -> None:
        """Give up windows on the disk until it is no more than it may be."""
        by_id = {boot.file_id: boot for boot in self._boots.values()}
        while file.used_bytes > self.rules.max_bytes:
            victims = file.expendable(_GIVEN_UP_TOGETHER) or file.oldest(_GIVEN_UP_TOGETHER)
            if not victims:
                break
            for file_id, seq in victims:
                deleted = file.delete(file_id, seq, seq)
                boot = by_id.get(file_id)
                if boot is None:
                    continue
                boot.memory.pop(seq, None)
                boot.on_disk -= deleted
                self.held -= deleted
                self._discard(boot, DiscardReason.FULL, deleted)
                self._look_whether_ended(boot)
            self._put_accounts(file)
            file.commit()

    def _expire(self, now: float, synced_us: int | None) -> None:
        for boot in tuple(self._boots.values()):
            while boot.held:
                oldest = self._oldest_entries(boot)
                old = [
                    entry.window.seq
                    for entry in oldest
                    if _age_seconds(entry, now, synced_us) > self.rules.max_age_seconds
                ]
                count = 0
                for first, last in runs(old):
                    count += self._take_out(boot, first, last, now)
                self._discard(boot, DiscardReason.EXPIRED, count)
                if not count or len(old) < len(oldest):
                    break

    def _oldest_entries(self, boot: _Boot) -> list[Entry]:
        rows = self._rows(boot, 0, boot.last_saved, limit=MAX_BACKLOG_WINDOWS)
        found = [entry for row in rows if (entry := self._decoded(boot, row)) is not None]
        return found or [boot.memory[seq] for seq in islice(boot.unsaved, MAX_BACKLOG_WINDOWS)]

    def _end_of_message(self, name: str, first: int, last: int) -> int | None:
        boot = self._boots.get(name)
        if boot is None or not boot.held:
            return None
        seqs: list[int] = []
        for begin, end in boot.undeleted.holes(first, last, most=1):
            rows = self._rows(boot, begin, end, limit=MAX_BACKLOG_WINDOWS)
            seqs += [row.seq for row in rows]
        seqs += [seq for seq in boot.unsaved if first <= seq <= last]
        if not seqs and len(boot.undeleted) < boot.on_disk and not self._disk_works:
            # Nobody can tell now; what is gone is not sent again anyway.
            return min(last, first + MAX_BACKLOG_WINDOWS - 1)
        if not seqs:
            # Given up since.
            boot.confirmed.remove(first, last)
        return max(seqs[:MAX_BACKLOG_WINDOWS], default=None)

    def _tell_silence(self) -> None:
        if self._unreceipted.nobody_answers and not self._silence_told:
            self._silence_told = True
            logger.warning(
                "the broker has taken windows, and for %g s nobody has said that they are stored:"
                " is a collector running? %d windows are kept until it says so; a fleet whose"
                ' consumer sends no receipts sets [outbox] receipts = "broker"',
                self.rules.resend_seconds,
                self.held,
            )

    def _oldest_unsaved_at(self) -> float | None:
        boot = self._current
        times = [boot.memory[seq].added_at for seq in islice(boot.unsaved, 1)]
        times += islice(self._unsaved_events.values(), 1)
        return min(times, default=None)

    def _tail_windows(self, hop_seconds: float) -> int:
        if not self._disk_works:
            return self.rules.max_windows
        if self.rules.durable == "always":
            return 0
        # One that is just being judged, and one that is just being handed over.
        return -int(-self.rules.tail_seconds // hop_seconds) + 2

    def _put_accounts(self, file: OutboxFile) -> None:
        file.put_accounts(
            {
                boot.file_id: boot.account
                for boot in self._boots.values()
                if boot.file_id is not None
            }
        )

    def _will_delete(self, now: float) -> None:
        if self._delete_due is None:
            self._delete_due = now + _DELETE_SECONDS

    def _commit_deletions(self, now: float) -> None:
        file = self._file
        self._delete_due = None
        if file is None or not (file.is_open or any(b.undeleted for b in self._boots.values())):
            return
        if now >= self._retry_at:
            self._delete_undeleted(now)
        if now < self._retry_at:
            self._delete_due = self._retry_at
            return
        try:
            self._put_accounts(file)
            boot = self._current
            empty = not any(each.on_disk for each in self._boots.values())
            if empty and boot.file_id is not None and self.rules.durable == "late":
                # Only boots of which something waits are known by the disk.
                file.forget_boot(boot.file_id)
                boot.file_id = None
            file.commit()
            if empty and not self._events_on_disk and self.rules.durable == "late":
                self._rest(file)
        except OutboxFileError as error:
            self._disk_failed(error)

    def _delete_undeleted(self, now: float) -> None:
        for boot in self._boots.values():
            for first, last in tuple(boot.undeleted):
                if now < self._retry_at:
                    return
                boot.undeleted.remove(first, last)
                self._let_go(boot, first, last, now)

    def _rest(self, file: OutboxFile) -> None:
        try:
            file.rest()
        except OutboxFileError as error:
            self._disk_failed(error)

    def _disk_failed(self, error: OutboxFileError) -> None:
        what = "windows wait in memory alone"
        if error.damaged and self._file is not None:
            what = f"it {self._file.move_aside()}; {what}"
            self._count_as_damaged()
        logger.log(
            logging.ERROR if self._disk_works or error.damaged else logging.DEBUG,
            "the outbox on the disk cannot be used: %s; %s",
            error,
            what,
        )
        # A new file in place of a damaged one is tried at once, but not time and again.
        at_once = error.damaged and self._disk_works
        self._disk_works = False
        self._retry_at = self._now + (0.0 if at_once else self._retry_seconds)
        self._retry_seconds = min(2 * self._retry_seconds, _RETRY_MOST_SECONDS)

    def _disk_is_well(self) -> None:
        if not self._disk_works:
            logger.info("the outbox on the disk can be used (again)")
        self._disk_works = True
        self._retry_at = -float("inf")
        self._retry_seconds = _RETRY_SECONDS

    def _count_as_damaged(self) -> None:
        """The file is gone; what memory has of it is saved anew."""
        for boot in self._boots.values():
            again = [seq for seq in boot.memory if seq not in boot.unsaved]
            lost = max(0, boot.on_disk - len(again))
            for seq in again:
                boot.unsaved[seq] = None
                if _is_expendable(boot.memory[seq].window):
                    boot.expendable[seq] = None
            boot.unsaved = OrderedDict(sorted(boot.unsaved.items()))
            boot.expendable = OrderedDict(sorted(boot.expendable.items()))
            boot.on_disk, boot.last_saved, boot.file_id = 0, -1, None
            boot.undeleted = Ranges()
            self.held -= lost
            self._discard(boot, DiscardReason.DAMAGED, lost)
            self._look_whether_ended(boot)
        for key in self._events_on_disk:
            if key in self._events:
                self._unsaved_events[key] = self._began
        self._events_on_disk.clear()


def _is_expendable(window: Window) -> bool:
    """Whether it is given up before others: normal sound, or none at all."""
    normal = window.anomaly is False and window.state not in _EPISODE
    return normal or window.level_dbfs is None


def _age_seconds(entry: Entry, now: float, synced_us: int | None) -> float:
    """By the wall clock only where it was right then and is right now."""
    age = now - entry.added_at
    if synced_us is not None and entry.window.clock is Clock.SYNCED:
        age = max(age, (synced_us - entry.window.start_us) / 1e6)
    return age


def _stored_ranges(receipt: Receipt) -> Iterator[tuple[int, int]]:
    stored = Ranges()
    if receipt.stored_from <= receipt.stored_up_to:
        stored.add(receipt.stored_from, receipt.stored_up_to)
    for first, last in receipt.holes:
        stored.remove(first, last)
    return iter(stored)
