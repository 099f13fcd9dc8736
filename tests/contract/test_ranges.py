"""Ranges are a set of numbers, whatever order they come in."""

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from contract.ranges import Ranges, runs

NUMBERS = st.integers(0, 60)
SPANS = st.tuples(st.integers(0, 30), st.integers(0, 8)).map(lambda t: (t[0], t[0] + t[1]))
PAIRS = st.lists(st.tuples(NUMBERS, st.integers(0, 8)).map(lambda p: (p[0], p[0] + p[1])))


def plain(ranges: Ranges) -> set[int]:
    return {number for first, last in ranges for number in range(first, last + 1)}


@given(PAIRS)
def test_ranges_are_a_set(pairs: list[tuple[int, int]]) -> None:
    """Members, their count and the highest are those of a plain set."""
    expected = {number for first, last in pairs for number in range(first, last + 1)}

    ranges = Ranges(pairs)

    assert plain(ranges) == expected
    assert len(ranges) == len(expected)
    assert ranges.highest == max(expected, default=None)
    assert [number in ranges for number in range(70)] == [n in expected for n in range(70)]


@given(PAIRS)
def test_ranges_neither_overlap_nor_touch(pairs: list[tuple[int, int]]) -> None:
    """So one set has one form, and two equal sets are equal."""
    ranges = list(Ranges(pairs))

    assert all(last + 1 < first for (_, last), (first, _) in pairwise(ranges))
    assert Ranges(pairs) == Ranges(reversed(pairs))


@given(PAIRS, NUMBERS, st.integers(0, 8))
def test_what_a_range_has_become_part_of_is_in_the_set(
    pairs: list[tuple[int, int]], first: int, more: int
) -> None:
    """`add` gives the whole range, as `around` does."""
    ranges = Ranges(pairs)

    merged = ranges.add(first, first + more)

    assert merged in list(ranges)
    assert ranges.around(first) == ranges.around(first + more) == merged


@given(PAIRS, NUMBERS, NUMBERS)
def test_holes_are_what_is_missing(pairs: list[tuple[int, int]], first: int, last: int) -> None:
    """Between any two numbers, and none outside."""
    ranges = Ranges(pairs)

    holes = ranges.holes(first, last)

    assert plain(Ranges(holes)) == set(range(first, last + 1)) - plain(ranges)
    assert holes == list(Ranges(holes))
    assert ranges.holes(first, last, most=2) == holes[:2]


@given(PAIRS, PAIRS)
def test_what_another_set_lacks_is_counted(
    mine: list[tuple[int, int]], other: list[tuple[int, int]]
) -> None:
    """The size of the difference."""
    assert Ranges(mine).missing_in(Ranges(other)) == len(plain(Ranges(mine)) - plain(Ranges(other)))


@given(st.lists(st.tuples(st.booleans(), SPANS)), st.integers(0, 40))
@settings(max_examples=300, deadline=None, database=None)
def test_ranges_that_come_and_go_are_a_set(
    changes: list[tuple[bool, tuple[int, int]]], asked: int
) -> None:
    """Whatever is added and removed, they hold what a set would, in as few ranges as there are."""
    ranges, numbers = Ranges(), set[int]()
    for add, (first, last) in changes:
        if add:
            ranges.add(first, last)
            numbers |= set(range(first, last + 1))
        else:
            ranges.remove(first, last)
            numbers -= set(range(first, last + 1))
    gap, end = ranges.gap_from(asked)

    assert list(ranges) == list(runs(sorted(numbers)))
    assert len(ranges) == len(numbers)
    assert [n in ranges for n in range(41)] == [n in numbers for n in range(41)]
    assert gap == next(n for n in range(asked, 100) if n not in numbers)
    assert end == next((n - 1 for n in range(gap, 100) if n in numbers), None)


@pytest.mark.parametrize(
    ("numbers", "expected"),
    [
        ([], []),
        ([5], [(5, 5)]),
        ([1, 2, 5], [(1, 2), (5, 5)]),
        ([0, 2, 3, 4], [(0, 0), (2, 4)]),
    ],
)
def test_runs(numbers: list[int], expected: list[tuple[int, int]]) -> None:
    """Numbers that follow each other are one range."""
    assert list(runs(numbers)) == expected
