"""Windows that are not yet confirmed, in memory, bounded, and every one accounted for.

`Outbox` is what the publisher needs of it; an outbox on disk has the same five methods. It belongs
to the publisher's thread and needs no lock.
"""

from collections import OrderedDict
from collections.abc import Iterable, Sequence
from typing import Protocol

import msgspec

from contract.messages import Window


class Entry(msgspec.Struct, frozen=True):
    """A window that waits, named by its sequence number."""

    seq: int
    added_at: float
    """When it came in, on the clock of `time.monotonic`."""
    window: Window


class Outbox(Protocol):
    """Keeps windows until somebody has confirmed them."""

    discarded_full: int
    """Windows given up because there was no room."""
    discarded_refused: int
    """Windows given up because they were refused for good."""

    def add(self, window: Window, now: float) -> None:
        """Take in a window; may give up another one for it."""

    def waiting(self, limit: int) -> Sequence[Entry]:
        """Up to so many entries that are not on their way, oldest first."""

    def sent(self, seqs: Iterable[int]) -> None:
        """These are on their way: not to be sent again until they come back."""

    def back(self, seqs: Iterable[int]) -> None:
        """These were not confirmed: they wait again."""

    def done(self, seqs: Iterable[int], *, refused: bool = False) -> None:
        """These are confirmed, or refused for good: forget them."""

    def __len__(self) -> int:
        """Windows that wait or are on their way."""

    def oldest_seconds(self, now: float) -> float:
        """Age of the oldest of them."""


class MemoryOutbox:
    """An outbox that ends with the process.

    When it is full, the oldest window that was normal, or that nobody has heard, goes first;
    flagged ones, and those that a sick microphone has heard, go last.

    Args:
        max_windows: how many it holds; some 0.5 kB of memory each.
    """

    def __init__(self, *, max_windows: int) -> None:
        self._max_windows = max_windows
        self._entries: OrderedDict[int, Entry] = OrderedDict()
        self._on_their_way: set[int] = set()
        # Sequence numbers of normal and unheard windows, oldest first: what goes for want of room.
        self._expendable: OrderedDict[int, None] = OrderedDict()
        self.discarded_full = 0
        self.discarded_refused = 0

    def add(self, window: Window, now: float) -> None:
        self._entries[window.seq] = Entry(window.seq, now, window)
        if window.anomaly is False or window.level_dbfs is None:
            self._expendable[window.seq] = None
        if len(self._entries) > self._max_windows:
            self._give_one_up()

    def waiting(self, limit: int) -> Sequence[Entry]:
        found: list[Entry] = []
        for seq, entry in self._entries.items():
            if len(found) == limit:
                break
            if seq not in self._on_their_way:
                found.append(entry)
        return found

    def sent(self, seqs: Iterable[int]) -> None:
        self._on_their_way.update(seqs)

    def back(self, seqs: Iterable[int]) -> None:
        self._on_their_way.difference_update(seqs)

    def done(self, seqs: Iterable[int], *, refused: bool = False) -> None:
        for seq in seqs:
            self._on_their_way.discard(seq)
            self._expendable.pop(seq, None)
            # Given up meanwhile for want of room: already counted.
            if self._entries.pop(seq, None) is not None and refused:
                self.discarded_refused += 1

    def __len__(self) -> int:
        return len(self._entries)

    def oldest_seconds(self, now: float) -> float:
        for entry in self._entries.values():
            return now - entry.added_at
        return 0.0

    def _give_one_up(self) -> None:
        # What is on its way is likely to be confirmed: given up only when there is nothing else.
        seq = next((s for s in self._expendable if s not in self._on_their_way), None)
        if seq is None:
            seq = next((s for s in self._entries if s not in self._on_their_way), None)
        if seq is None:
            seq = next(iter(self._entries))
        self._expendable.pop(seq, None)
        self._entries.pop(seq)
        self._on_their_way.discard(seq)
        self.discarded_full += 1
