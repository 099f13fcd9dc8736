"""Sets of whole numbers that mostly follow each other, kept as ranges. Pure."""

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator


class Ranges:
    """A set of whole numbers; its size is that of its gaps, not of its numbers."""

    def __init__(self) -> None:
        self._firsts: list[int] = []
        self._lasts: list[int] = []

    def __contains__(self, number: int) -> bool:
        place = bisect_right(self._firsts, number) - 1
        return place >= 0 and number <= self._lasts[place]

    def __iter__(self) -> Iterator[tuple[int, int]]:
        """First and last of each range, in order."""
        return zip(self._firsts, self._lasts, strict=True)

    def add(self, first: int, last: int) -> None:
        """Take in `first` to `last`, both included."""
        begin = bisect_left(self._lasts, first - 1)
        end = bisect_right(self._firsts, last + 1)
        if begin < end:
            first = min(first, self._firsts[begin])
            last = max(last, self._lasts[end - 1])
        self._firsts[begin:end] = [first]
        self._lasts[begin:end] = [last]

    def remove(self, first: int, last: int) -> None:
        """Leave out `first` to `last`, both included."""
        begin = bisect_left(self._lasts, first)
        end = bisect_right(self._firsts, last)
        if begin >= end:
            return
        before = (self._firsts[begin], first - 1)
        after = (last + 1, self._lasts[end - 1])
        kept = [(a, b) for a, b in (before, after) if a <= b]
        self._firsts[begin:end] = [a for a, _ in kept]
        self._lasts[begin:end] = [b for _, b in kept]

    def gap_from(self, number: int) -> tuple[int, int | None]:
        """The first numbers from there on that are not in it: first and last (None: no end)."""
        place = bisect_right(self._firsts, number) - 1
        if place >= 0 and number <= self._lasts[place]:
            number = self._lasts[place] + 1
        place += 1
        return number, self._firsts[place] - 1 if place < len(self._firsts) else None


def runs(numbers: Iterable[int]) -> Iterator[tuple[int, int]]:
    """Rising numbers as ranges, both ends included: 1, 2, 5 are (1, 2) and (5, 5)."""
    first: int | None = None
    last = 0
    for number in numbers:
        if first is not None and number == last + 1:
            last = number
            continue
        if first is not None:
            yield first, last
        first = last = number
    if first is not None:
        yield first, last
