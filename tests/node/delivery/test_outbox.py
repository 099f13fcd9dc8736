"""The outbox: bounded, in memory and over restarts, and every window accounted for."""

from pathlib import Path

import msgspec
import pytest

from contract.states import Clock
from tests.node.delivery.outboxes import (
    BOOT,
    EXPIRED,
    FULL,
    NEXT_BOOT,
    account_of,
    discarded_by,
    everything,
    fill,
    filled,
    on_disk,
    receipt,
    waiting,
    window,
)
from tests.rig.examples import EVENT

THINNED = [
    ("...", [0, 1, 2]),
    ("....", [1, 2, 3]),
    (".......", [4, 5, 6]),
    ("x...", [0, 2, 3]),
    (".x..", [1, 2, 3]),
    ("x.?.", [0, 2, 3]),
    ("xx..", [0, 1, 3]),
    ("?x.x", [0, 1, 3]),
    ("xxxx", [1, 2, 3]),
    ("????", [1, 2, 3]),
    ("x?x?x?", [3, 4, 5]),
    ("..xxx", [2, 3, 4]),
    ("..xxxx", [3, 4, 5]),
    ("----", [1, 2, 3]),
    ("x-xx", [0, 2, 3]),
    ("x?-x", [0, 1, 3]),
    ("-.xx", [1, 2, 3]),
    (".-xx", [1, 2, 3]),
    ("!...", [0, 2, 3]),
    ("!.!x", [0, 2, 3]),
    ("!!!.", [0, 1, 2]),
]


@pytest.mark.parametrize(("kinds", "left"), THINNED)
def test_oldest_normal_window_is_given_up_first(kinds: str, left: list[int]) -> None:
    """Normal (.) and unheard (-) ones leave before flagged (x), unscored (?), episodes' (!)."""
    outbox = filled(kinds, max_windows=3)

    assert waiting(outbox) == left
    assert discarded_by(outbox, FULL) == len(kinds) - 3


@pytest.mark.parametrize("kinds", ["xxx.", "x?x.", "xxx.....", "xxx-", "x?x--"])
def test_normal_newcomer_does_not_drive_out_an_anomaly(kinds: str) -> None:
    """Where all that wait are flagged or unscored, it is given up itself; so is an unheard one."""
    outbox = filled(kinds, max_windows=3)

    assert waiting(outbox) == [0, 1, 2]
    assert discarded_by(outbox, FULL) == len(kinds) - 3


def test_window_on_its_way_is_given_up_last() -> None:
    """Its confirmation is near: what still waits makes room before it, and each counts once."""
    outbox = filled("...", max_windows=3)
    outbox.outgoing.sent(BOOT, [0, 1])

    outbox.add(window(".", 3), 3.0)
    outbox.add(window(".", 4), 4.0)
    outbox.outgoing.confirmed(BOOT, [0], 5.0)
    outbox.outgoing.back(BOOT, [1])

    assert waiting(outbox) == [1, 4]
    assert discarded_by(outbox, FULL) == outbox.discarded == 2


def test_age_is_that_of_the_oldest() -> None:
    """The age counts from the oldest window held, also one on its way; an empty outbox has none."""
    outbox = filled("...")
    outbox.outgoing.sent(BOOT, [0])

    assert outbox.figures(12.0).outbox_oldest_s == 12.0
    outbox.outgoing.confirmed(BOOT, [0], 12.0)
    assert outbox.figures(12.0).outbox_oldest_s == 11.0
    outbox.outgoing.confirmed(BOOT, [1, 2], 12.0)
    assert outbox.figures(12.0).outbox_oldest_s == 0.0


def test_young_windows_are_in_memory_alone(tmp_path: Path) -> None:
    """While receipts come in time no file is made."""
    outbox = on_disk(tmp_path)
    for seq in range(20):
        outbox.add(window(".", seq), float(seq))
        outbox.outgoing.sent(BOOT, [seq])
        outbox.outgoing.confirmed(BOOT, [seq], seq + 0.1)
        outbox.tend(seq + 0.5)
        outbox.outgoing.receipted(receipt(0, seq - 2), seq + 0.6)
        outbox.tend(seq + 0.9)

    assert list(tmp_path.iterdir()) == []
    assert account_of(outbox) == {
        "produced": 20,
        "waiting": 2,
        "discarded": 0,
        "tail_windows": 7,
        "ended": False,
    }


def test_windows_of_the_last_start_are_found_by_the_next(tmp_path: Path) -> None:
    """After a kill what was saved waits, as of the boot it was heard in, before anything new."""
    before = on_disk(tmp_path)
    fill(before, ".x.")
    before.save(3.0)
    fill(before, "..", first=3)

    after = on_disk(tmp_path, boot=NEXT_BOOT)
    after.add(window(".", 0, NEXT_BOOT), 0.0)

    assert account_of(after, BOOT) == {
        "produced": 3,
        "waiting": 3,
        "discarded": 0,
        "tail_windows": 0,
        "ended": False,
    }
    assert after.boots == (BOOT, NEXT_BOOT)
    assert [(w.boot, w.seq) for w in everything(after)] == [
        (BOOT, 0),
        (BOOT, 1),
        (BOOT, 2),
        (NEXT_BOOT, 0),
    ]


def test_clean_end_saves_and_the_next_start_knows_how_many_there_were(tmp_path: Path) -> None:
    """What waits is on the disk with the boot's account, which says that it ended in good order."""
    outbox = on_disk(tmp_path, max_windows=3)
    fill(outbox, "..xxx")

    lost = outbox.end(5.0)
    outbox.close()
    after = on_disk(tmp_path, boot=NEXT_BOOT)

    assert lost == 0
    assert account_of(after, BOOT) == {
        "produced": 5,
        "waiting": 3,
        "discarded": 2,
        "tail_windows": 0,
        "ended": True,
    }
    assert after.discarded == 0


def test_boot_is_forgotten_once_its_last_account_is_told(tmp_path: Path) -> None:
    """Its account is told again when nothing waits any more; then nobody needs it."""
    before = on_disk(tmp_path)
    fill(before, "...")
    before.end(3.0)
    before.close()
    outbox = on_disk(tmp_path, boot=NEXT_BOOT)

    first = outbox.take_ended()
    outbox.account_confirmed(outbox.account(BOOT, at_us=0), 3.0)
    known = outbox.boots
    outbox.outgoing.receipted(receipt(0, 2), 4.0)
    ended = outbox.take_ended()
    account = outbox.account(BOOT, at_us=0)
    outbox.account_confirmed(account, 4.0)
    outbox.tend(60.0)

    assert (first, ended) == ([], [BOOT])
    assert known == (BOOT, NEXT_BOOT)
    assert account.waiting == 0
    assert outbox.boots == (NEXT_BOOT,)
    assert on_disk(tmp_path, boot=NEXT_BOOT).boots == (NEXT_BOOT,)


def test_last_account_that_nobody_took_is_told_by_the_next_start(tmp_path: Path) -> None:
    """Though nothing waits: how many there were is not known to whoever stores."""
    outbox = on_disk(tmp_path)
    fill(outbox, "...")
    outbox.outgoing.receipted(receipt(0, 2), 2.0)
    outbox.end(3.0)
    outbox.close()

    after = on_disk(tmp_path, boot=NEXT_BOOT)

    assert after.take_ended() == [BOOT]
    assert account_of(after, BOOT)["produced"] == 3


def test_last_account_is_kept_although_that_of_an_earlier_boot_was_told(tmp_path: Path) -> None:
    """The one says nothing of the other: the next start still has to say how this boot ended."""
    before = on_disk(tmp_path)
    fill(before, "...")
    before.end(3.0)
    before.close()
    outbox = on_disk(tmp_path, boot=NEXT_BOOT)
    outbox.outgoing.receipted(receipt(0, 2), 4.0)
    outbox.account_confirmed(outbox.account(BOOT, at_us=0), 4.0)
    fill(outbox, "..", boot=NEXT_BOOT)
    outbox.outgoing.receipted(receipt(0, 1, boot=NEXT_BOOT), 5.0)
    outbox.end(6.0)
    outbox.close()

    after = on_disk(tmp_path, boot=NEXT_BOOT[:-1] + "E")

    assert after.take_ended() == [NEXT_BOOT]
    assert account_of(after, NEXT_BOOT)["produced"] == 2


def test_windows_that_have_waited_for_too_long_are_given_up(tmp_path: Path) -> None:
    """On the disk and in memory, by the time that this process knows of."""
    outbox = on_disk(tmp_path, max_age_seconds=3600.0)
    fill(outbox, "x" * 60)
    outbox.tend(60.0)
    fill(outbox, "." * 10, first=60)

    outbox.tend(3600.0 + 55.5)

    assert discarded_by(outbox, EXPIRED) == 56
    assert waiting(outbox) == list(range(56, 70))


def test_age_before_the_start_counts_where_the_clock_was_right(tmp_path: Path) -> None:
    """Synchronised then and now: else nobody can say how old it is, and it is kept."""
    before = on_disk(tmp_path)
    fill(before, "...")
    before.add(msgspec.structs.replace(window(".", 3), clock=Clock.UNSYNCED), 3.0)
    before.save(4.0)
    day_us = 86_400_000_000

    unsure = on_disk(tmp_path, boot=NEXT_BOOT, max_age_seconds=3600.0)
    unsure.tend(1.0)
    sure = on_disk(tmp_path, boot=NEXT_BOOT, max_age_seconds=3600.0)
    sure.tend(1.0, synced_us=day_us)

    assert unsure.held == 4
    assert (sure.held, discarded_by(sure, EXPIRED)) == (1, 3)


def test_windows_that_could_not_be_saved_are_counted_at_the_end(tmp_path: Path) -> None:
    """They are lost, and the last account says how many and why."""
    outbox = on_disk(tmp_path / "nowhere")
    fill(outbox, "...")

    lost = outbox.end(3.0)
    account = outbox.account(BOOT, at_us=0)

    assert lost == 3
    assert (account.waiting, account.discarded_unsaved, account.ended) == (0, 3, True)


def test_events_survive_a_restart_until_the_broker_has_them(tmp_path: Path) -> None:
    """Saved like windows, and gone with the broker's word: nobody receipts them."""
    before = on_disk(tmp_path)
    events = [msgspec.structs.replace(EVENT, windows=number) for number in range(3)]
    for event in events:
        before.events.add(event, 0.0)
    before.tend(4.0)

    after = on_disk(tmp_path, boot=NEXT_BOOT)
    (first, _), *_ = after.events
    after.events.done(first, 5.0)
    after.tend(60.0)
    again = on_disk(tmp_path, boot=NEXT_BOOT)

    assert [event for _, event in again.events] == events[1:]


def test_windows_that_waited_for_the_clock_get_their_time(tmp_path: Path) -> None:
    """Those in memory and those on the disk; what an earlier start has left keeps its own."""
    before = on_disk(tmp_path)
    fill(before, "...")
    before.save(3.0)
    outbox = on_disk(tmp_path, boot=NEXT_BOOT)
    fill(outbox, "." * 300, boot=NEXT_BOOT)
    outbox.save(300.0)
    fill(outbox, "..", first=300, boot=NEXT_BOOT)
    event = msgspec.structs.replace(EVENT, boot=NEXT_BOOT, at_us=7, opened_us=3)
    outbox.events.add(event, 0.0)
    stamps = {seq: (10**15 + seq, Clock.UNSYNCED) for seq in range(302)}

    outbox.restamp(stamps, {7: 10**15, 3: 10**15 - 1})
    outbox.save(302.0)
    after = on_disk(tmp_path, boot=NEXT_BOOT[:-1] + "E")
    found = everything(after)

    assert [w.start_us for w in found[:3]] == [0, 1, 2]
    assert [(w.start_us, w.clock) for w in found[3:]] == list(stamps.values())
    assert [(e.at_us, e.opened_us) for _, e in after.events] == [(10**15, 10**15 - 1)]
    assert after.last_start_us == 10**15 + 301
