"""Which windows are held, of each boot, and how many were given up. Pure.

Of windows on the disk it knows how many there are, and up to which number; to write and to read
them is `outbox_disk`'s.
"""

from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from typing import Final

import msgspec

from contract.messages import Window
from contract.ranges import Ranges, runs
from contract.states import Clock, DiscardReason, MachineState
from node.delivery.accounts import BootAccount

_EPISODE: Final = frozenset({MachineState.WARNING, MachineState.ALARM})
# Saved windows that are kept in memory, too: those that will go out live.
_RECENT_WINDOWS: Final = 200


class Entry(msgspec.Struct, frozen=True):
    """A window that is held, and since when."""

    added_at: float
    """When it came in, on the monotonic clock; of an earlier boot, when this process began."""
    window: Window


class HeldBoot:
    """What is held of one boot, and where.

    Args:
        boot: its id.
        account: of it.
    """

    def __init__(self, boot: str, account: BootAccount) -> None:
        self.boot = boot
        self.account = account
        self.file_id: int | None = None
        """Its number in the file; None while the file does not know it."""
        self.memory: OrderedDict[int, Entry] = OrderedDict()
        """All windows that are unsaved, and the newest of those that are saved."""
        self.unsaved: OrderedDict[int, None] = OrderedDict()
        """Numbers of the windows that are in memory alone."""
        self.expendable: OrderedDict[int, None] = OrderedDict()
        """Numbers of the unsaved windows that are given up first."""
        self.on_disk = 0
        """How many windows are on the disk."""
        self.last_saved = -1
        """The highest number that was ever saved."""
        self.in_flight: set[int] = set()
        """Numbers of the windows that are sent and not answered."""
        self.passed = Ranges()
        """Numbers of windows that do not wait: they are sent, or not held (any more)."""
        self.confirmed = Ranges()
        """Numbers of windows that the broker has and nobody has receipted."""
        self.undeleted = Ranges()
        """Numbers of windows that are stored, but could not be deleted on the disk yet."""

    @property
    def held(self) -> int:
        """How many windows of this boot are held."""
        return len(self.unsaved) + self.on_disk

    def sent(self, seqs: Sequence[int]) -> None:
        """Note windows that are on their way: they do not wait until they come back.

        Args:
            seqs: their numbers, rising, none that waits left out between them.
        """
        self.passed.add(seqs[0], seqs[-1])
        self.in_flight.update(seqs)

    def back(self, seqs: Sequence[int]) -> None:
        """Note windows that were not confirmed: they wait again."""
        self.in_flight.difference_update(seqs)
        for first, last in runs(seqs):
            self.passed.remove(first, last)

    def saved(self, seqs: Sequence[int]) -> None:
        """Note windows that are on the disk from now on."""
        for seq in seqs:
            del self.unsaved[seq]
            self.expendable.pop(seq, None)
        self.on_disk += len(seqs)
        if seqs:
            self.last_saved = max(self.last_saved, seqs[-1])
        self.keep_recent()

    def keep_recent(self) -> None:
        """Let only the newest of what is saved stay in memory."""
        surplus = max(0, len(self.memory) - _RECENT_WINDOWS)
        for seq in tuple(islice(self.memory, surplus)):
            if seq not in self.unsaved:
                del self.memory[seq]

    def first_to_go(self) -> int:
        """The number of the window in memory that is given up before all others."""
        # What is on its way is likely to be confirmed: given up only when there is nothing else.
        for numbers in (self.expendable, self.unsaved):
            for seq in numbers:
                if seq not in self.in_flight:
                    return seq
        return next(iter(self.unsaved))

    def file_is_lost(self) -> int:
        """Take what memory has as unsaved again; gives how many windows only the file had."""
        again = [seq for seq in self.memory if seq not in self.unsaved]
        lost = max(0, self.on_disk - len(again))
        for seq in again:
            self.unsaved[seq] = None
            if is_expendable(self.memory[seq].window):
                self.expendable[seq] = None
        self.unsaved = OrderedDict(sorted(self.unsaved.items()))
        self.expendable = OrderedDict(sorted(self.expendable.items()))
        self.on_disk, self.last_saved, self.file_id = 0, -1, None
        self.undeleted = Ranges()
        return lost


class HeldWindows:
    """The windows of all boots, and what became of those that are held no more.

    Args:
        boot: id of this start of the node.
    """

    def __init__(self, boot: str) -> None:
        self.current = HeldBoot(boot, BootAccount())
        self.boots: dict[str, HeldBoot] = {boot: self.current}
        """Boots of which something is held or to be accounted for, oldest first, this one last."""
        self.count = 0
        """How many windows are held, of all boots; any thread may read it."""
        self.last_start_us: int | None = None
        """The last time stamp that a window was given, also by an earlier boot."""
        self._discarded: dict[DiscardReason, int] = {}
        self._ended: list[str] = []

    def add(self, window: Window, now: float, *, most: int) -> None:
        """Take in a window of this boot; where too many are unsaved, one is given up."""
        boot, seq = self.current, window.seq
        boot.account.produced = max(boot.account.produced, seq + 1)
        boot.memory[seq] = Entry(now, window)
        boot.unsaved[seq] = None
        if is_expendable(window):
            boot.expendable[seq] = None
        self.count += 1
        if window.clock is not Clock.SIMULATED:
            self.last_start_us = window.start_us
        if len(boot.unsaved) > most:
            victim = boot.first_to_go()
            boot.in_flight.discard(victim)
            self.discard(boot, DiscardReason.FULL, self._forget(boot, victim))

    def found(self, earlier: Sequence[HeldBoot]) -> None:
        """Take in what earlier boots have left on the disk, oldest first."""
        self.boots = {boot.boot: boot for boot in earlier} | self.boots
        for boot in earlier:
            self.count += boot.on_disk
            self.look_whether_ended(boot)

    def restamp(self, stamps: Mapping[int, tuple[int, Clock]]) -> list[int]:
        """Give windows of this boot that are in memory their right time; gives their numbers.

        Args:
            stamps: start in microseconds and what the clock is worth, by the window's number.
        """
        memory, changed = self.current.memory, []
        for seq, (start_us, clock) in stamps.items():
            entry = memory.get(seq)
            if entry is not None:
                window = msgspec.structs.replace(entry.window, start_us=start_us, clock=clock)
                memory[seq] = Entry(entry.added_at, window)
                changed.append(seq)
                self.last_start_us = start_us
        return changed

    def forget(self, boot: HeldBoot, first: int, last: int) -> int:
        """Drop a range of windows from memory; gives how many were nowhere else."""
        boot.confirmed.remove(first, last)
        in_memory: Iterable[int] = boot.memory
        if last - first < len(boot.memory):
            in_memory = range(first, last + 1)
        found = [seq for seq in in_memory if first <= seq <= last and seq in boot.memory]
        return sum(self._forget(boot, seq) for seq in found)

    def deleted(self, boot: HeldBoot, count: int) -> None:
        """Count windows of a boot that are on the disk no more."""
        boot.on_disk -= count
        self.count -= count

    def drop_unsaved(self) -> int:
        """Give up what could not be saved at the end; gives how many windows."""
        boot = self.current
        lost = sum(self._forget(boot, seq) for seq in tuple(boot.unsaved))
        self.discard(boot, DiscardReason.UNSAVED, lost)
        return lost

    def file_is_lost(self) -> None:
        """Count as damaged what only the file had, which is gone."""
        for boot in self.boots.values():
            lost = boot.file_is_lost()
            self.count -= lost
            self.discard(boot, DiscardReason.DAMAGED, lost)
            self.look_whether_ended(boot)

    def discard(self, boot: HeldBoot, reason: DiscardReason, count: int) -> None:
        """Count windows of a boot that are given up for a reason."""
        if count:
            boot.account.discard(reason, count)
            self._discarded[reason] = self.discarded_by(reason) + count

    def discarded_by(self, reason: DiscardReason) -> int:
        """How many windows were given up for one reason since this process began, of all boots."""
        return self._discarded.get(reason, 0)

    @property
    def discarded(self) -> int:
        """How many windows were given up since this process began, of all boots."""
        return sum(self._discarded.values())

    def look_whether_ended(self, boot: HeldBoot) -> None:
        """Note an earlier boot of which nothing is held any more."""
        if boot is not self.current and not boot.held:
            self._ended.append(boot.boot)

    def take_ended(self) -> list[str]:
        """The earlier boots of which nothing is held any more, each given once."""
        ended, self._ended = self._ended, []
        return ended

    def _forget(self, boot: HeldBoot, seq: int) -> int:
        """Out of memory; gives 1 if it was nowhere else."""
        boot.memory.pop(seq, None)
        boot.expendable.pop(seq, None)
        if seq not in boot.unsaved:
            return 0
        del boot.unsaved[seq]
        self.count -= 1
        return 1


def is_expendable(window: Window) -> bool:
    """Whether it is given up before others: normal sound, or none at all."""
    normal = window.anomaly is False and window.state not in _EPISODE
    return normal or window.level_dbfs is None
