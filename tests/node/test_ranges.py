"""Ranges of whole numbers, against a set of them."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from node.ranges import Ranges, runs

_SPANS = st.tuples(st.integers(0, 30), st.integers(0, 8)).map(lambda t: (t[0], t[0] + t[1]))


@given(st.lists(st.tuples(st.booleans(), _SPANS)), st.integers(0, 40))
@settings(max_examples=300, deadline=None, database=None)
def test_ranges_are_a_set(changes: list[tuple[bool, tuple[int, int]]], asked: int) -> None:
    """Whatever is added and removed, they hold what a set would, in as few ranges as there are."""
    ranges, numbers = Ranges(), set[int]()
    for add, (first, last) in changes:
        if add:
            ranges.add(first, last)
            numbers |= set(range(first, last + 1))
        else:
            ranges.remove(first, last)
            numbers -= set(range(first, last + 1))
    first, end = ranges.gap_from(asked)

    assert list(ranges) == list(runs(sorted(numbers)))
    assert [n in ranges for n in range(41)] == [n in numbers for n in range(41)]
    assert first == next(n for n in range(asked, 100) if n not in numbers)
    assert end == next((n - 1 for n in range(first, 100) if n in numbers), None)


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
