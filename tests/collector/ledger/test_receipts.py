"""Receipts tell all that is stored, in as few messages as the holes allow."""

from hypothesis import given
from hypothesis import strategies as st

from collector.ledger.receipts import MAX_HOLES, ReceiptSchedule, next_receipt
from contract.messages import Receipt, encode
from contract.ranges import Ranges
from tests.rig.examples import BOOT

KEY = ("press-07", BOOT)


def receipts_of(stored: Ranges, touched: Ranges) -> list[Receipt]:
    """All that are needed for what was touched."""
    made = []
    while len(touched):
        receipt, touched = next_receipt(KEY, stored, touched, at_us=5)
        made.append(receipt)
    return made


def covered(receipt: Receipt) -> set[int]:
    holes = {n for first, last in receipt.holes for n in range(first, last + 1)}
    return set(range(receipt.stored_from, receipt.stored_up_to + 1)) - holes


def with_holes(count: int) -> Ranges:
    """Every second number from 0, so that there are so many holes."""
    return Ranges((n, n) for n in range(0, 2 * count + 1, 2))


def test_whole_boot_is_one_receipt_without_holes() -> None:
    """What was touched does not matter while all holes fit."""
    (receipt,) = receipts_of(Ranges([(0, 99)]), Ranges([(50, 50)]))

    assert (receipt.node, receipt.boot, receipt.at_us) == (*KEY, 5)
    assert (receipt.stored_from, receipt.stored_up_to, receipt.holes) == (0, 99, ())


def test_what_is_missing_at_the_beginning_is_a_hole() -> None:
    """A receipt never claims what is not stored."""
    (receipt,) = receipts_of(Ranges([(10, 12)]), Ranges([(10, 12)]))

    assert receipt.holes == ((0, 9),)


def test_hundred_holes_fit_into_one_receipt() -> None:
    """The contract's bound is used in full."""
    stored = with_holes(MAX_HOLES)

    (receipt,) = receipts_of(stored, Ranges([(0, 0)]))

    assert len(receipt.holes) == 100
    assert (receipt.stored_from, receipt.stored_up_to) == (0, 200)


def test_one_hole_more_tells_the_region_that_was_touched() -> None:
    """Later windows are receipted however many holes there are before them."""
    stored = with_holes(MAX_HOLES + 1)
    stored.add(1000, 1010)

    (receipt,) = receipts_of(stored, Ranges([(1000, 1000)]))

    assert (receipt.stored_from, receipt.stored_up_to, receipt.holes) == (1000, 1010, ())


@given(
    st.sets(st.integers(0, 900), min_size=150, max_size=400),
    st.sets(st.integers(0, 900), min_size=1),
)
def test_receipts_cover_what_was_touched_and_claim_nothing_else(
    numbers: set[int], some: set[int]
) -> None:
    """Each keeps the bounds of the contract, and they go forward."""
    stored = Ranges((n, n) for n in numbers)
    touched = numbers & some or numbers

    receipts = receipts_of(stored, Ranges((n, n) for n in touched))

    told = set().union(*map(covered, receipts))
    assert touched <= told <= numbers
    assert all(len(receipt.holes) <= MAX_HOLES for receipt in receipts)
    assert all(encode(receipt) for receipt in receipts)
    starts = [receipt.stored_from for receipt in receipts]
    assert starts == sorted(set(starts))


def test_first_window_of_a_boot_is_told_at_once_and_the_next_after_a_while() -> None:
    """Windows that come meanwhile share one receipt."""
    schedule = ReceiptSchedule(seconds=1.0)
    schedule.touch(KEY, 0, 0, now_seconds=10.0)
    assert schedule.take(now_seconds=10.0) == (KEY, Ranges([(0, 0)]))

    schedule.touch(KEY, 1, 1, now_seconds=10.25)
    schedule.touch(KEY, 2, 2, now_seconds=10.5)

    assert schedule.seconds_left(now_seconds=10.5) == 0.5
    assert schedule.take(now_seconds=10.5) is None
    assert schedule.take(now_seconds=11.0) == (KEY, Ranges([(1, 2)]))
    assert schedule.seconds_left(now_seconds=11.0) is None


def test_nodes_do_not_wait_for_each_other() -> None:
    """The earliest is due first."""
    schedule = ReceiptSchedule(seconds=1.0)
    other = ("fan-1", BOOT)
    schedule.touch(KEY, 0, 0, now_seconds=10.0)
    schedule.take(now_seconds=10.0)
    schedule.touch(KEY, 1, 1, now_seconds=10.1)

    schedule.touch(other, 7, 7, now_seconds=10.2)

    assert schedule.take(now_seconds=10.2) == (other, Ranges([(7, 7)]))
    assert schedule.take(now_seconds=10.2) is None


def test_what_could_not_be_sent_is_due_at_once_with_what_came_since() -> None:
    """It is not lost, and not sent twice."""
    schedule = ReceiptSchedule(seconds=1.0)
    schedule.touch(KEY, 0, 0, now_seconds=10.0)
    _, touched = schedule.take(now_seconds=10.0) or (KEY, Ranges())
    schedule.touch(KEY, 1, 1, now_seconds=10.1)

    schedule.put_back(KEY, touched, now_seconds=10.2)

    assert schedule.seconds_left(now_seconds=10.2) == 0.0
    assert schedule.take(now_seconds=10.2) == (KEY, Ranges([(0, 1)]))
    assert schedule.take(now_seconds=99.0) is None
    assert not schedule


def test_at_the_end_all_are_due() -> None:
    """Nobody waits for the time to pass."""
    schedule = ReceiptSchedule(seconds=60.0)
    schedule.touch(KEY, 0, 0, now_seconds=10.0)
    schedule.take(now_seconds=10.0)
    schedule.touch(KEY, 1, 1, now_seconds=10.0)

    assert schedule.take(now_seconds=10.0, all_of_them=True) == (KEY, Ranges([(1, 1)]))
