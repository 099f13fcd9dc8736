"""Sets of window numbers, kept as ranges: a boot that lost nothing is one range, however long.

Nodes keep so what they have sent, and collectors what is stored.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator

Range = tuple[int, int]
"""The numbers from the first to the last, both included."""


def runs(numbers: Iterable[int]) -> Iterator[Range]:
    """Numbers in any order as ranges, those that follow each other in one."""
    first = last = None
    for number in sorted(numbers):
        if first is None or last is None:
            first = last = number
        elif number <= last + 1:
            last = number
        else:
            yield first, last
            first = last = number
    if first is not None and last is not None:
        yield first, last


class Ranges:
    """A set of whole numbers from 0, as ranges that neither overlap nor touch.

    Args:
        ranges: to begin with, in any order.
    """

    def __init__(self, ranges: Iterable[Range] = ()) -> None:
        self._firsts: list[int] = []
        self._lasts: list[int] = []
        self._count = 0
        for first, last in ranges:
            self.add(first, last)

    def add(self, first: int, last: int) -> Range:
        """Put a range in; what it has become part of."""
        begin = bisect_left(self._lasts, first - 1)
        end = bisect_right(self._firsts, last + 1)
        if begin < end:
            first = min(first, self._firsts[begin])
            last = max(last, self._lasts[end - 1])
            self._count -= sum(self._lasts[i] - self._firsts[i] + 1 for i in range(begin, end))
        self._firsts[begin:end] = [first]
        self._lasts[begin:end] = [last]
        self._count += last - first + 1
        return first, last

    def remove(self, first: int, last: int) -> None:
        """Leave out `first` to `last`, both included."""
        begin = bisect_left(self._lasts, first)
        end = bisect_right(self._firsts, last)
        if begin >= end:
            return
        before = (self._firsts[begin], first - 1)
        after = (last + 1, self._lasts[end - 1])
        kept = [(low, high) for low, high in (before, after) if low <= high]
        self._count -= sum(self._lasts[i] - self._firsts[i] + 1 for i in range(begin, end))
        self._count += sum(high - low + 1 for low, high in kept)
        self._firsts[begin:end] = [low for low, _ in kept]
        self._lasts[begin:end] = [high for _, high in kept]

    def gap_from(self, number: int) -> tuple[int, int | None]:
        """The first numbers from there on that are not in: first and last (None: no end)."""
        here = self.around(number)
        if here is not None:
            number = here[1] + 1
        place = bisect_right(self._firsts, number)
        return number, self._firsts[place] - 1 if place < len(self._firsts) else None

    def around(self, number: int) -> Range | None:
        """The range that holds a number; None if none does."""
        place = bisect_left(self._lasts, number)
        if place == len(self._firsts) or self._firsts[place] > number:
            return None
        return self._firsts[place], self._lasts[place]

    def holes(self, first: int, last: int, *, most: int | None = None) -> list[Range]:
        """What is missing from one number to another, both included.

        Args:
            first: from here.
            last: to there.
            most: so many holes are enough.
        """
        found: list[Range] = []
        place = bisect_left(self._lasts, first)
        while first <= last and (most is None or len(found) < most):
            if place == len(self._firsts):
                found.append((first, last))
                break
            if self._firsts[place] > first:
                found.append((first, min(last, self._firsts[place] - 1)))
            first = self._lasts[place] + 1
            place += 1
        return found

    def missing_in(self, other: "Ranges") -> int:
        """How many numbers of this set are not in another."""
        return sum(
            last - first + 1 for mine in self for first, last in other.holes(mine[0], mine[1])
        )

    @property
    def highest(self) -> int | None:
        """The largest number; None when there is none."""
        return self._lasts[-1] if self._lasts else None

    def __len__(self) -> int:
        """How many numbers are in."""
        return self._count

    def __contains__(self, number: int) -> bool:
        return self.around(number) is not None

    def __iter__(self) -> Iterator[Range]:
        return zip(self._firsts, self._lasts, strict=True)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Ranges) and list(self) == list(other)

    __hash__ = None  # type: ignore[assignment] # it changes

    def __repr__(self) -> str:
        return f"Ranges({list(self)})"
