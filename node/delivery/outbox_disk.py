"""When and what of the outbox is written to the disk, read back, and deleted there.

A disk that is full or broken costs nothing but memory: what cannot be written waits, and is tried
again later. What is given up for its age, and what is sent, is decided elsewhere (`outbox`,
`outgoing`); how it is written is `outbox_file`'s.
"""

import logging
from collections.abc import Iterable, Sequence
from contextlib import suppress
from itertools import islice
from typing import Final

import msgspec

from contract.messages import Event, Window
from contract.states import DiscardReason
from node.delivery.backoff import Backoff
from node.delivery.held_windows import Entry, HeldBoot, HeldWindows, is_expendable
from node.delivery.outbox_events import OutboxEvents
from node.delivery.outbox_file import OutboxFile, OutboxFileError, WindowRow
from node.delivery.outbox_rules import OutboxRules

logger = logging.getLogger(__name__)

# Written with one commit: some 250 kB, so that a cap is passed by no more.
_ROWS_PER_COMMIT: Final = 500
# Given up at once where the file is full: 64 kB.
_GIVEN_UP_TOGETHER: Final = 128
# What is gone leaves the disk this much later, with what else is gone by then.
_DELETE_SECONDS: Final = 5.0
# Time for a window to get to the disk, once that is due: of what may be lost.
_SAVING_SECONDS: Final = 1.0
# A disk that is full or broken is tried again after this, and twice as long each time.
_RETRY_SECONDS: Final = 15.0
_RETRY_MOST_SECONDS: Final = 600.0


class OutboxDisk:
    """Keeps windows and events on the disk, and what is held in step with it.

    Args:
        file: where to; None keeps nothing.
        held: windows, of all boots.
        events: that wait.
        node: the node's id.
        rules: what is kept, and how safely.
        now: on the monotonic clock, as all `now` here.
    """

    def __init__(
        self,
        file: OutboxFile | None,
        held: HeldWindows,
        events: OutboxEvents,
        *,
        node: str,
        rules: OutboxRules,
        now: float,
    ) -> None:
        self._file = file
        self._held = held
        self._events = events
        self._node = node
        self._rules = rules
        self._began = self._now = now
        self._backoff = Backoff(first_seconds=_RETRY_SECONDS, most_seconds=_RETRY_MOST_SECONDS)
        self._delete_due: float | None = None
        self._unread = False
        """Whether what earlier starts have left could not be read: nothing is written till then."""
        self.works = file is not None
        """Whether the last try to use it went well."""
        if file is not None:
            self._load(file)

    @property
    def size_bytes(self) -> int:
        """Size of the file and its log."""
        return 0 if self._file is None else self._file.size_bytes

    def tend(self, now: float) -> None:
        """Do what time brings: read what could not be read, save, delete."""
        self._now = now
        if self._unread and self._file is not None and self._backoff.is_over(now):
            self._load(self._file)
        if self._is_save_due(now):
            self.save(now)
        if self._events.undeleted:
            self._will_delete(next(iter(self._events.undeleted.values())))
        if self._delete_due is not None and now >= self._delete_due:
            self._commit_deletions(now)

    def save(self, now: float, *, at_once: bool = False) -> bool:
        """Bring everything to the disk; gives whether it is there.

        Args:
            now: on the monotonic clock.
            at_once: also if the disk has failed a short time ago.
        """
        self._now = now
        file, boot = self._file, self._held.current
        if file is None or not (at_once or self._backoff.is_over(now)):
            return not boot.unsaved
        if self._unread and not self._load(file):
            return False
        try:
            while boot.unsaved or self._events.unsaved:
                seqs = tuple(islice(boot.unsaved, _ROWS_PER_COMMIT))
                boot.file_id = file.boot_id(boot.boot)
                file.put(boot.file_id, [_row(boot.memory[seq]) for seq in seqs])
                self._put_events(file, self._events.unsaved)
                self._put_accounts(file)
                file.commit()
                boot.saved(seqs)
                self._events.saved()
                self._events.undeleted.clear()
                self._thin(file)
        except OutboxFileError as error:
            self._failed(error)
            return False
        self._is_well()
        return True

    def rows(
        self, boot: HeldBoot, first: int, last: int, *, limit: int = 1_000_000
    ) -> list[WindowRow]:
        """Up to so many saved windows of a boot, in order; none where they cannot be read now."""
        if self._file is None or boot.file_id is None or not boot.on_disk:
            return []
        try:
            return self._file.read(boot.file_id, first, last, limit)
        except OutboxFileError as error:
            self._failed(error)
            return []

    def entry(self, boot: HeldBoot, row: WindowRow) -> Entry | None:
        """The window of a row; one that cannot be read is given up."""
        entry = boot.memory.get(row.seq)
        if entry is not None:
            return entry
        try:
            window = msgspec.json.decode(row.payload, type=Window)
            if (window.node, window.boot, window.seq) == (self._node, boot.boot, row.seq):
                added_at = row.added_s if boot is self._held.current else self._began
                return Entry(added_at, window)
        except (msgspec.MsgspecError, UnicodeDecodeError):
            pass
        count = self.take_out(boot, row.seq, row.seq, self._began)
        self._held.discard(boot, DiscardReason.DAMAGED, count)
        return None

    def rewrite(self, saved: Sequence[int]) -> None:
        """Write windows of this boot, and all events, that are on the disk as they are now."""
        boot = self._held.current
        if self._file is None or boot.file_id is None or not (saved or self._events.on_disk):
            return
        try:
            self._file.put(boot.file_id, [_row(boot.memory[seq]) for seq in saved])
            self._put_events(self._file, self._events.on_disk)
            self._file.commit()
            self._events.undeleted.clear()
        except OutboxFileError as error:
            self._failed(error)

    def take_out(
        self, boot: HeldBoot, first: int, last: int, now: float, *, or_later: bool = False
    ) -> int:
        """Hold a range of windows no more, here or in memory; gives how many that were.

        Args:
            boot: of the windows.
            first: number of the first.
            last: number of the last.
            now: on the monotonic clock.
            or_later: where the disk cannot be written now, delete them once it can be, and do not
                have them sent until then.
        """
        count = self._held.forget(boot, first, last)
        if boot.on_disk and self._file is not None and boot.file_id is not None:
            try:
                deleted = self._file.delete(boot.file_id, first, last)
            except OutboxFileError as error:
                self._failed(error)
                deleted = 0
                if or_later and boot.on_disk and first <= boot.last_saved:
                    # A card that is read-only now must not make us send all that is on it for ever.
                    boot.undeleted.add(first, min(last, boot.last_saved))
                    self._will_delete(now)
            if deleted:
                self._held.deleted(boot, deleted)
                count += deleted
                self._will_delete(now)
        if count:
            self._held.look_whether_ended(boot)
        return count

    def forget(self, boot: HeldBoot, now: float) -> None:
        """Keep the account of a boot no more."""
        if self._file is None or boot.file_id is None:
            return
        try:
            self._file.forget_boot(boot.file_id)
            boot.file_id = None
            self._will_delete(now)
        except OutboxFileError as error:
            self._failed(error)

    def close(self, *, with_account: bool) -> None:
        """Keep the accounts of earlier boots, the last time stamp and, maybe, this boot's account.

        Args:
            with_account: whether the next start has to account for this boot.
        """
        file, boot = self._file, self._held.current
        if file is None:
            return
        try:
            if with_account:
                boot.file_id = file.boot_id(boot.boot)
            if self._events.undeleted:
                self._put_events(file, ())
            self._put_accounts(file)
            file.rest()
        except OutboxFileError as error:
            self._failed(error)
        file.close()

    def _load(self, file: OutboxFile) -> bool:
        """Find what earlier boots have left; gives whether it could be read, or never will be."""
        try:
            stored = file.load()
        except OutboxFileError as error:
            self._unread = not error.damaged
            self._failed(error)
            return not self._unread
        is_late, self._unread = self._unread, False
        if self._held.last_start_us is None:
            self._held.last_start_us = stored.last_start_us
        earlier = []
        for each in stored.boots:
            account = each.account
            account.produced = max(account.produced, each.last_seq + 1)
            boot = HeldBoot(each.boot, account)
            boot.file_id, boot.on_disk, boot.last_saved = each.id, each.windows, each.last_seq
            earlier.append(boot)
        self._held.found(earlier)
        for key, payload in stored.events:
            event = None
            with suppress(msgspec.MsgspecError):
                event = msgspec.json.decode(payload, type=Event)
            self._events.found(key, event, self._began, renumber=is_late)
        waiting = sum(boot.on_disk for boot in earlier)
        if waiting or stored.events:
            logger.info(
                "%d windows and %d events of earlier starts wait to be sent",
                waiting,
                len(stored.events),
            )
        elif not earlier and not is_late:
            self._rest(file)
        return True

    def _is_save_due(self, now: float) -> bool:
        boot = self._held.current
        times = [boot.memory[seq].added_at for seq in islice(boot.unsaved, 1)]
        times += islice(self._events.unsaved.values(), 1)
        if not times:
            return False
        may_wait = max(0.0, self._rules.tail_seconds - _SAVING_SECONDS)
        return self._rules.durable == "always" or now - min(times) >= may_wait

    def _put_events(self, file: OutboxFile, keys: Iterable[int]) -> None:
        """Write events, and delete those that are gone; first, for one of them may have its key."""
        for key in self._events.undeleted:
            file.delete_event(key)
        for key in keys:
            file.put_event(key, msgspec.json.encode(self._events[key]))

    def _put_accounts(self, file: OutboxFile) -> None:
        if self._held.last_start_us is not None:
            file.keep_last_start(self._held.last_start_us)
        file.put_accounts(
            {
                boot.file_id: boot.account
                for boot in self._held.boots.values()
                if boot.file_id is not None
            }
        )

    def _thin(self, file: OutboxFile) -> None:
        """Give up windows until the file is no larger than it may be."""
        by_id = {boot.file_id: boot for boot in self._held.boots.values()}
        while file.used_bytes > self._rules.max_bytes:
            victims = file.first_to_go(_GIVEN_UP_TOGETHER)
            if not victims:
                break
            for file_id, seq in victims:
                deleted = file.delete(file_id, seq, seq)
                boot = by_id.get(file_id)
                if boot is None:
                    continue
                boot.memory.pop(seq, None)
                self._held.deleted(boot, deleted)
                self._held.discard(boot, DiscardReason.FULL, deleted)
                self._held.look_whether_ended(boot)
            self._put_accounts(file)
            file.commit()

    def _will_delete(self, since: float) -> None:
        if self._delete_due is None:
            self._delete_due = since + _DELETE_SECONDS

    def _commit_deletions(self, now: float) -> None:
        file, boots = self._file, self._held.boots.values()
        self._delete_due = None
        to_delete = self._events.undeleted or any(boot.undeleted for boot in boots)
        if file is None or not (file.is_open or to_delete):
            return
        if self._backoff.is_over(now):
            self._delete_undeleted(now)
        if not self._backoff.is_over(now):
            self._delete_due = self._backoff.until
            return
        try:
            self._put_events(file, ())
            self._put_accounts(file)
            boot = self._held.current
            empty = not any(each.on_disk for each in boots)
            if empty and boot.file_id is not None and self._rules.durable == "late":
                # Only boots of which something waits are known by the disk.
                file.forget_boot(boot.file_id)
                boot.file_id = None
            file.commit()
            self._events.undeleted.clear()
            if empty and not self._events.on_disk and self._rules.durable == "late":
                self._rest(file)
        except OutboxFileError as error:
            self._failed(error)

    def _delete_undeleted(self, now: float) -> None:
        for boot in self._held.boots.values():
            for first, last in tuple(boot.undeleted):
                if not self._backoff.is_over(now):
                    return
                boot.undeleted.remove(first, last)
                self.take_out(boot, first, last, now, or_later=True)

    def _rest(self, file: OutboxFile) -> None:
        try:
            file.rest()
        except OutboxFileError as error:
            self._failed(error)

    def _failed(self, error: OutboxFileError) -> None:
        what = "windows wait in memory alone"
        if error.damaged and self._file is not None:
            what = f"it {self._file.move_aside()}; {what}"
            self._held.file_is_lost()
            self._events.file_is_lost(self._began)
        logger.log(
            logging.ERROR if self.works or error.damaged else logging.DEBUG,
            "the outbox on the disk cannot be used: %s; %s",
            error,
            what,
        )
        self._backoff.begin(self._now)
        if error.damaged and self.works:
            # A new file in place of a damaged one is tried at once, but not time and again.
            self._backoff.forget()
        self.works = False

    def _is_well(self) -> None:
        if not self.works:
            logger.info("the outbox on the disk can be used (again)")
        self.works = True
        self._backoff.end()


def _row(entry: Entry) -> WindowRow:
    window = entry.window
    payload = msgspec.json.encode(window)
    return WindowRow(window.seq, is_expendable(window), entry.added_at, payload)
