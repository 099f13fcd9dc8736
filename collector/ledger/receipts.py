"""When which node is told what is stored of its windows. No clock and no socket here.

A receipt covers a boot from its first window to its last stored one, and lists the holes. A boot
with more holes than a receipt holds gets receipts of the regions that were just written, so that
what comes after all those holes is told as well.

What is due stays due until the broker has confirmed it: a receipt that a lost connection took with
it is made anew, from what is stored by then.
"""

import heapq
from collections import OrderedDict

from collector.ledger.boot import Key
from contract.messages import Receipt
from contract.ranges import Ranges

MAX_HOLES = 100
"""The contract lets a receipt hold so many holes."""


def next_receipt(
    key: Key, stored: Ranges, touched: Ranges, *, at_us: int
) -> tuple[Receipt, Ranges]:
    """A receipt for windows that were just written, and what is left of them for another one.

    Args:
        key: node and boot.
        stored: all that is stored of the boot, or refused for good; holds what was touched.
        touched: what was written since the last receipt; not empty.
        at_us: now.
    """
    highest = stored.highest
    assert highest is not None
    holes = stored.holes(0, highest, most=MAX_HOLES + 1)
    if len(holes) <= MAX_HOLES:
        return _receipt(key, 0, highest, holes, at_us), Ranges()
    first, up_to = _whole(stored, next(iter(touched))[0])
    rest = Ranges()
    for low, high in touched:
        far = _whole(stored, high)[1]
        # Once one is left over, all after it are: they are farther away.
        if len(rest) or len(stored.holes(first, far, most=MAX_HOLES + 1)) > (MAX_HOLES):
            rest.add(low, high)
        else:
            up_to = max(up_to, far)
    return _receipt(key, first, up_to, stored.holes(first, up_to), at_us), rest


class ReceiptSchedule:
    """Which boots are due, at most one receipt of each in so many seconds.

    Args:
        seconds: between two receipts of one boot.
    """

    def __init__(self, *, seconds: float) -> None:
        self._seconds = seconds
        self._due: dict[Key, tuple[float, Ranges]] = {}
        self._order: list[tuple[float, Key]] = []
        """A heap of what is due, and of what is not any more."""
        self._told_at: OrderedDict[Key, float] = OrderedDict()

    def __len__(self) -> int:
        return len(self._due)

    def touch(self, key: Key, first: int, last: int, *, now_seconds: float) -> None:
        """Take in that windows have been written, or are to be told again."""
        if key not in self._due:
            told = self._told_at.get(key)
            due = now_seconds if told is None else max(now_seconds, told + self._seconds)
            self._set_due(key, due, Ranges())
        self._due[key][1].add(first, last)

    def seconds_left(self, *, now_seconds: float) -> float | None:
        """Until a receipt is due: 0 when one is, None when nothing waits to be told."""
        self._drop_stale()
        return max(0.0, self._order[0][0] - now_seconds) if self._order else None

    def take(self, *, now_seconds: float, all_of_them: bool = False) -> tuple[Key, Ranges] | None:
        """Take out a boot that is due, and what of it was written; None if there is none."""
        self._drop_stale()
        if not self._order or (self._order[0][0] > now_seconds and not all_of_them):
            return None
        _, key = heapq.heappop(self._order)
        _, touched = self._due.pop(key)
        self._told(key, now_seconds)
        return key, touched

    def put_back(self, key: Key, rest: Ranges, *, now_seconds: float) -> None:
        """Make due at once what did not fit, or could not be sent."""
        for first, last in rest:
            self.touch(key, first, last, now_seconds=now_seconds)
        if key in self._due:
            self._set_due(key, now_seconds, self._due[key][1])

    def _set_due(self, key: Key, due: float, touched: Ranges) -> None:
        self._due[key] = (due, touched)
        heapq.heappush(self._order, (due, key))

    def _drop_stale(self) -> None:
        while self._order and self._due.get(self._order[0][1], (None,))[0] != self._order[0][0]:
            heapq.heappop(self._order)

    def _told(self, key: Key, now_seconds: float) -> None:
        self._told_at[key] = now_seconds
        self._told_at.move_to_end(key)
        # Those before that time hold nobody up any more.
        while next(iter(self._told_at.values())) < now_seconds - self._seconds:
            self._told_at.popitem(last=False)


def _whole(stored: Ranges, number: int) -> tuple[int, int]:
    found = stored.around(number)
    assert found is not None
    return found


def _receipt(key: Key, first: int, up_to: int, holes: list[tuple[int, int]], at_us: int) -> Receipt:
    return Receipt(
        node=key[0],
        boot=key[1],
        at_us=at_us,
        stored_from=first,
        stored_up_to=up_to,
        holes=tuple(holes),
    )
