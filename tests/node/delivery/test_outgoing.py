"""Which windows go out next, and which again: answers, receipts, and none of either."""

from pathlib import Path

import pytest

from tests.node.delivery.outboxes import (
    BOOT,
    NEXT_BOOT,
    REFUSED,
    account_of,
    discarded_by,
    fill,
    filled,
    in_memory,
    on_disk,
    receipt,
    waiting,
    window,
)


def test_windows_wait_oldest_first() -> None:
    """Windows come back as they were given, oldest first, each with its time."""
    outbox = filled(".x?")

    assert [(entry.added_at, entry.window) for entry in outbox.outgoing.late(10)] == [
        (float(seq), window(kind, seq)) for seq, kind in enumerate(".x?")
    ]


@pytest.mark.parametrize("limit", [0, 1, 2, 3, 4])
def test_no_more_are_given_than_asked_for(limit: int) -> None:
    """Up to the limit are given, and asking takes nothing out."""
    outbox = filled("...")

    assert waiting(outbox, limit) == [0, 1, 2][:limit]
    assert outbox.held == 3


def test_window_on_its_way_does_not_wait() -> None:
    """What was sent is not given again, but is still held."""
    outbox = filled("....")

    outbox.outgoing.sent(BOOT, [0])
    outbox.outgoing.sent(BOOT, [2])

    assert waiting(outbox) == [1, 3]
    assert waiting(outbox, 1) == [1]
    assert outbox.held == 4


def test_window_that_comes_back_waits_in_its_place() -> None:
    """What was not confirmed is given again, in the order of old."""
    outbox = filled("....")
    outbox.outgoing.sent(BOOT, [0, 1, 2])

    outbox.outgoing.back(BOOT, [0, 2])

    assert waiting(outbox) == [0, 2, 3]


def test_live_is_the_oldest_of_the_young_ones() -> None:
    """Windows that have become late are no live ones; each goes out once."""
    outbox = filled("....")

    first = outbox.outgoing.live(3.0, 2.0)
    outbox.outgoing.sent(BOOT, [1])
    second = outbox.outgoing.live(3.0, 2.0)

    assert first is not None
    assert first.window.seq == 1
    assert second is not None
    assert second.window.seq == 2
    assert [entry.window.seq for entry in outbox.outgoing.late(10, before=1.0)] == [0]
    assert outbox.outgoing.live(30.0, 2.0) is None


def test_windows_of_one_message_are_of_one_boot(tmp_path: Path) -> None:
    """A backlog carries one boot's windows, the earlier boot's first."""
    for boot in (BOOT, NEXT_BOOT):
        outbox = on_disk(tmp_path, boot=boot)
        fill(outbox, "...", boot=boot)
        outbox.save(3.0)

    assert [(e.window.boot, e.window.seq) for e in outbox.outgoing.late(50)] == [
        (BOOT, seq) for seq in range(3)
    ]


def test_window_that_the_broker_confirmed_is_forgotten_where_that_is_the_rule() -> None:
    """With receipts = "broker" it is neither held nor counted as lost."""
    outbox = filled("....")
    outbox.outgoing.sent(BOOT, [0, 1])

    outbox.outgoing.confirmed(BOOT, [0, 1], 9.0)

    assert waiting(outbox) == [2, 3]
    assert outbox.held == 2
    assert outbox.discarded == 0


def test_window_that_the_broker_confirmed_is_held_until_a_receipt() -> None:
    """With receipts = "collector" the broker's word is not enough; holes stay."""
    outbox = in_memory()
    fill(outbox, "......")
    outbox.outgoing.sent(BOOT, [0, 1, 2, 3, 4, 5])

    outbox.outgoing.confirmed(BOOT, [0, 1, 2, 3, 4, 5], 9.0)
    before = outbox.held
    freed = outbox.outgoing.receipted(receipt(1, 4, [(3, 3)]), 10.0)

    assert (before, freed, outbox.held) == (6, 3, 3)
    assert account_of(outbox)["waiting"] == 3
    assert waiting(outbox) == []


def test_receipt_for_another_boot_frees_nothing() -> None:
    """A retained receipt of long ago names a boot of which nothing is held."""
    outbox = in_memory()
    fill(outbox, "...")

    assert outbox.outgoing.receipted(receipt(0, 2, boot=NEXT_BOOT), 1.0) == 0
    assert outbox.held == 3


def test_refused_window_is_counted() -> None:
    """What the broker refuses for good is given up and counted, once."""
    outbox = filled("...")
    outbox.outgoing.sent(BOOT, [0, 1])

    outbox.outgoing.refused(BOOT, [0], 9.0)
    outbox.outgoing.refused(BOOT, [0], 9.0)

    assert outbox.held == 2
    assert discarded_by(outbox, REFUSED) == outbox.discarded == 1


def test_unreceipted_windows_are_sent_again_where_receipts_come() -> None:
    """Ten minutes after the broker's word, when somebody else's windows are receipted since."""
    outbox = in_memory()
    fill(outbox, "." * 200)
    outbox.outgoing.sent(BOOT, range(200))
    outbox.outgoing.confirmed(BOOT, range(200), 200.0)

    outbox.outgoing.receipted(receipt(150, 199), 300.0)
    outbox.tend(799.0)
    too_soon = waiting(outbox)
    outbox.tend(800.0)

    assert too_soon == []
    assert waiting(outbox) == list(range(150))


def test_broker_gets_late_windows_on_credit_where_receipts_come(tmp_path: Path) -> None:
    """Each receipt renews it, and so does time, for what a broker has dropped or we gave up."""
    outbox = on_disk(tmp_path, max_age_seconds=3600.0)
    fill(outbox, "." * 3000)
    outbox.save(3000.0)
    outbox.outgoing.sent(BOOT, range(1000))
    outbox.outgoing.confirmed(BOOT, range(1000), 3000.0)
    at_first = outbox.outgoing.has_credit
    outbox.outgoing.receipted(receipt(0, 0, boot=NEXT_BOOT), 3001.0)
    after_another = outbox.outgoing.has_credit
    outbox.outgoing.receipted(receipt(0, 49), 3002.0)
    renewed = outbox.outgoing.has_credit
    outbox.outgoing.sent(BOOT, range(1000, 2000))
    outbox.outgoing.confirmed(BOOT, range(1000, 2000), 3003.0)
    used_up = outbox.outgoing.has_credit
    outbox.tend(4000.0)
    later = outbox.outgoing.has_credit

    assert (at_first, after_another, renewed, used_up, later) == (False, False, True, False, True)
    # The oldest are too old by the time, and hold no credit.
    outbox.outgoing.sent(BOOT, range(50, 3000))
    outbox.outgoing.confirmed(BOOT, range(50, 3000), 4001.0)
    assert not outbox.outgoing.has_credit
    outbox.tend(6500.0)
    assert outbox.outgoing.has_credit


@pytest.mark.parametrize("seen", [False, True])
def test_all_goes_out_where_receipts_are_not_known(seen: bool) -> None:
    """After the time in which one would have come: a consumer may send none, and store all."""
    outbox = in_memory()
    fill(outbox, "." * 5000)
    if seen:
        outbox.outgoing.receipted(receipt(0, 0, boot=NEXT_BOOT), 5000.0, retained=True)
    outbox.outgoing.sent(BOOT, range(3000))
    outbox.outgoing.confirmed(BOOT, range(3000), 5001.0)
    before = outbox.outgoing.has_credit

    outbox.tend(5700.0)
    outbox.outgoing.late(50)
    after = outbox.outgoing.has_credit

    assert (before, after) == (False, not seen)


def test_one_message_asks_although_all_credit_is_used_up() -> None:
    """A collector has answered once and is away since; nothing else may be heard of this node."""
    outbox = in_memory()
    fill(outbox, "." * 3000)
    outbox.outgoing.receipted(receipt(0, 0, boot=NEXT_BOOT), 3000.0)
    outbox.outgoing.sent(BOOT, range(3000))
    outbox.outgoing.confirmed(BOOT, range(3000), 3001.0)
    before = outbox.outgoing.has_credit

    outbox.tend(3700.0)
    asks = outbox.outgoing.has_credit
    asked = waiting(outbox, 50)
    after = outbox.outgoing.has_credit

    assert (before, asks, after) == (False, True, False)
    assert asked == list(range(50))


def test_one_message_asks_where_no_receipt_comes(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Not the whole outbox each time: the oldest windows, and one line with what to do."""
    outbox = on_disk(tmp_path)
    fill(outbox, "." * 200)
    outbox.save(200.0)
    outbox.outgoing.sent(BOOT, range(200))
    outbox.outgoing.confirmed(BOOT, range(200), 200.0)

    outbox.tend(800.0)
    first = waiting(outbox)
    outbox.outgoing.sent(BOOT, first)
    outbox.outgoing.confirmed(BOOT, first, 801.0)
    outbox.tend(1399.0)
    between = waiting(outbox)
    outbox.tend(1400.0)
    second = waiting(outbox)
    outbox.outgoing.sent(BOOT, second)
    outbox.outgoing.confirmed(BOOT, second, 1401.0)
    outbox.outgoing.receipted(receipt(50, 99), 1402.0)
    outbox.tend(2001.0)

    assert (first, between, second) == (list(range(50)), [], list(range(50, 100)))
    assert waiting(outbox) == [*range(50), *range(100, 200)]
    assert caplog.text.count('sets [outbox] receipts = "broker"') == 1


def test_retained_receipt_is_no_sign_of_life() -> None:
    """The broker kept it from who knows when: it frees windows; nothing is sent again for it."""
    outbox = in_memory()
    fill(outbox, "." * 200)
    outbox.outgoing.sent(BOOT, range(200))
    outbox.outgoing.confirmed(BOOT, range(200), 200.0)

    freed = outbox.outgoing.receipted(receipt(0, 9), 300.0, retained=True)
    outbox.tend(800.0)

    assert freed == 10
    assert waiting(outbox) == list(range(10, 60))
