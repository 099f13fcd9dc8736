"""The outbox: bounded, in memory and on the disk, and every window accounted for."""

import logging
import resource
import shutil
import sqlite3
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import msgspec
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    rule,
    run_state_machine_as_test,
)

from contract.messages import Clock, DiscardReason, MachineState, Problem, Receipt, Window
from node.delivery.outbox import Outbox
from node.delivery.outbox_file import OutboxFile
from node.delivery.outbox_rules import OutboxRules
from tests.rig.examples import EVENT

NODE = "press-07"
BOOT = "01JD8Z6W3M9K4T2Q5R7V1X0YBC"
NEXT_BOOT = "01JD8Z6W3M9K4T2Q5R7V1X0YBD"

NORMAL = Window(
    node=NODE,
    boot=BOOT,
    seq=0,
    start_us=0,
    duration_us=2_000_000,
    mse=1.0,
    statistic=1.0,
    threshold=2.0,
    score=0.5,
    anomaly=False,
    state=MachineState.NORMAL,
    problem=None,
    model="fan@1",
    level_dbfs=-30.0,
    clipped=0.0,
    overruns=0,
    clock=Clock.SYNCED,
    latency_ms=4.0,
)
FLAGGED = msgspec.structs.replace(NORMAL, mse=3.0, statistic=3.0, score=1.5, anomaly=True)
UNSCORED = msgspec.structs.replace(
    NORMAL, mse=None, statistic=None, score=None, anomaly=None, problem=Problem.ERROR
)
UNHEARD = msgspec.structs.replace(UNSCORED, problem=Problem.MIC_GONE, level_dbfs=None)
IN_ALARM = msgspec.structs.replace(NORMAL, state=MachineState.ALARM)
KINDS = {".": NORMAL, "x": FLAGGED, "?": UNSCORED, "-": UNHEARD, "!": IN_ALARM}

FULL, EXPIRED = DiscardReason.FULL, DiscardReason.EXPIRED
REFUSED, DAMAGED = DiscardReason.REFUSED, DiscardReason.DAMAGED
UNSAVED = DiscardReason.UNSAVED


def window(kind: str, seq: int, boot: str = BOOT) -> Window:
    return msgspec.structs.replace(KINDS[kind], seq=seq, start_us=seq, boot=boot)


def filled(kinds: str, *, max_windows: int = 1000) -> Outbox:
    """In memory, where the broker's word lets go of a window."""
    outbox = Outbox(
        BOOT,
        node=NODE,
        hop_seconds=1.0,
        rules=OutboxRules(receipts="broker", max_windows=max_windows),
    )
    fill(outbox, kinds)
    return outbox


def fill(outbox: Outbox, kinds: str, *, first: int = 0, boot: str = BOOT) -> None:
    for seq, kind in enumerate(kinds, first):
        outbox.add(window(kind, seq, boot), float(seq))


def on_disk(folder: Path, *, boot: str = BOOT, **rules: object) -> Outbox:
    return Outbox(
        boot,
        node=NODE,
        hop_seconds=1.0,
        file=OutboxFile(folder / "outbox.db"),
        rules=OutboxRules(**rules),  # type: ignore[arg-type]
    )


def waiting(outbox: Outbox, limit: int = 1000) -> list[int]:
    return [entry.window.seq for entry in outbox.outgoing.late(limit)]


def everything(outbox: Outbox) -> list[Window]:
    """All that waits, sent and never confirmed."""
    found: list[Window] = []
    while entries := outbox.outgoing.late(50):
        found += [entry.window for entry in entries]
        outbox.outgoing.sent(entries[0].window.boot, [entry.window.seq for entry in entries])
    return found


def receipt(
    first: int, last: int, holes: Sequence[tuple[int, int]] = (), boot: str = BOOT
) -> Receipt:
    return Receipt(
        node=NODE, boot=boot, at_us=1, stored_from=first, stored_up_to=last, holes=tuple(holes)
    )


def discarded_by(outbox: Outbox, reason: DiscardReason) -> int:
    """Windows given up for a reason since the process began, as `health` says it."""
    count: int = getattr(outbox.figures(0.0), f"discarded_{reason}")
    return count


def account_of(outbox: Outbox, boot: str = BOOT) -> dict[str, int]:
    account = outbox.account(boot, at_us=0)
    return {
        name: getattr(account, name)
        for name in ("produced", "waiting", "discarded", "tail_windows", "ended")
    }


def saved_rows(folder: Path) -> list[int]:
    """Numbers of the windows that another process would find."""
    database = sqlite3.connect(folder / "outbox.db")
    try:
        return [seq for (seq,) in database.execute("SELECT seq FROM windows ORDER BY boot, seq")]
    finally:
        database.close()


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
    outbox = Outbox(BOOT, node=NODE, hop_seconds=1.0)
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
    outbox = Outbox(BOOT, node=NODE, hop_seconds=1.0)
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


def test_tail_is_written_before_it_is_too_old(tmp_path: Path) -> None:
    """Once the oldest window is a second short of the tail, all are on the disk."""
    outbox = on_disk(tmp_path, tail_seconds=5.0)
    fill(outbox, ".....")

    outbox.tend(3.9)
    before = list(tmp_path.iterdir())
    outbox.tend(4.0)

    assert before == []
    assert saved_rows(tmp_path) == [0, 1, 2, 3, 4]


def test_every_window_is_written_at_once_where_that_is_the_rule(tmp_path: Path) -> None:
    """With durable = "always" nothing is in memory alone, and the account says so."""
    outbox = on_disk(tmp_path, durable="always")
    fill(outbox, ".")

    outbox.tend(0.0)

    assert saved_rows(tmp_path) == [0]
    assert account_of(outbox)["tail_windows"] == 0


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


def test_windows_of_one_message_are_of_one_boot(tmp_path: Path) -> None:
    """A backlog carries one boot's windows, the earlier boot's first."""
    for boot in (BOOT, NEXT_BOOT):
        outbox = on_disk(tmp_path, boot=boot)
        fill(outbox, "...", boot=boot)
        outbox.save(3.0)

    assert [(e.window.boot, e.window.seq) for e in outbox.outgoing.late(50)] == [
        (BOOT, seq) for seq in range(3)
    ]


def test_large_outbox_is_not_in_memory(tmp_path: Path) -> None:
    """Thousands of windows wait on the disk; a few hundred of the newest are in memory, too."""
    outbox = on_disk(tmp_path)
    for seq in range(3000):
        outbox.add(window(".", seq), float(seq))
        outbox.tend(float(seq))
    outbox.save(3000.0)

    assert len(outbox._held.current.memory) <= 200
    assert outbox.held == 3000
    assert [w.seq for w in everything(outbox)] == list(range(3000))


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


def test_receipted_windows_leave_the_disk_and_the_file_is_left_alone(tmp_path: Path) -> None:
    """Once all is stored the file is small, has no log, and is not written any more."""
    outbox = on_disk(tmp_path)
    fill(outbox, "." * 2000)
    outbox.save(2000.0)
    large = outbox.figures(2000.0).outbox_disk_bytes
    outbox.outgoing.receipted(receipt(0, 1999), 2001.0)
    outbox.tend(2010.0)
    file = tmp_path / "outbox.db"
    emptied = file.stat()
    fill(outbox, "...", first=2000)
    outbox.outgoing.receipted(receipt(2000, 2002), 2003.0)
    outbox.tend(2020.0)

    assert large > 800_000
    assert emptied.st_size < 100_000
    assert [path.name for path in tmp_path.iterdir()] == ["outbox.db"]
    assert file.stat() == emptied
    assert on_disk(tmp_path, boot=NEXT_BOOT).held == 0


def test_file_stays_below_its_cap(tmp_path: Path) -> None:
    """The oldest normal windows go, the flagged ones stay, and all are counted."""
    cap = 400_000
    outbox = on_disk(tmp_path, max_bytes=cap)
    for seq in range(3000):
        outbox.add(window("x" if seq % 100 == 0 else ".", seq), float(seq))
        outbox.tend(float(seq))
    outbox.save(3000.0)
    held = everything(outbox)

    assert OutboxFile(tmp_path / "outbox.db").used_bytes <= cap
    assert len(held) == outbox.held
    assert outbox.held + discarded_by(outbox, FULL) == 3000
    assert outbox.held > 400
    assert [w.seq for w in held if w.anomaly] == list(range(0, 3000, 100))
    normal = [w.seq for w in held if not w.anomaly]
    assert normal == [seq for seq in range(normal[0], 3000) if seq % 100]


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


def test_row_that_cannot_be_read_is_counted(tmp_path: Path) -> None:
    """One bad row costs one window, and the account says which reason."""
    before = on_disk(tmp_path)
    fill(before, ".....")
    before.save(5.0)
    with sqlite3.connect(tmp_path / "outbox.db") as database:
        database.execute("UPDATE windows SET payload = x'7b00' WHERE seq = 1")
        database.execute("UPDATE windows SET payload = replace(payload, '07', '08') WHERE seq = 3")
    database.close()

    after = on_disk(tmp_path, boot=NEXT_BOOT)

    assert [w.seq for w in everything(after)] == [0, 2, 4]
    assert discarded_by(after, DAMAGED) == 2
    assert account_of(after, BOOT) == {
        "produced": 5,
        "waiting": 3,
        "discarded": 2,
        "tail_windows": 0,
        "ended": False,
    }


@pytest.mark.parametrize("content", [b"no database", b"SQLite format 3\0" + bytes(4096)])
def test_file_that_is_none_is_moved_aside(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, content: bytes
) -> None:
    """It is told in one line, and the node goes on with a new one."""
    (tmp_path / "outbox.db").write_bytes(content)

    outbox = on_disk(tmp_path)
    fill(outbox, "...")
    saved = outbox.save(3.0)

    assert saved
    assert saved_rows(tmp_path) == [0, 1, 2]
    assert (tmp_path / "outbox.broken").read_bytes() == content
    assert len([r for r in caplog.records if r.levelno == logging.ERROR]) == 1
    assert "is now outbox.broken" in caplog.text


def test_file_of_another_format_is_moved_aside(tmp_path: Path) -> None:
    """What a later version has written is not guessed at."""
    on_disk(tmp_path).save(0.0)
    outbox = on_disk(tmp_path)
    fill(outbox, ".")
    outbox.save(1.0)
    with sqlite3.connect(tmp_path / "outbox.db") as database:
        database.execute("PRAGMA user_version = 2")
    database.close()

    after = on_disk(tmp_path, boot=NEXT_BOOT)

    assert after.held == 0
    assert (tmp_path / "outbox.broken").exists()


def test_file_that_breaks_while_it_is_used_costs_what_only_it_had(tmp_path: Path) -> None:
    """The newest windows are in memory, too, and saved anew; the others count as damaged."""
    outbox = on_disk(tmp_path)
    fill(outbox, "." * 1000)
    outbox.save(1000.0)
    assert outbox._disk._file is not None
    # So that it is read again, and not out of SQLite's cache.
    outbox._disk._file.close()
    with (tmp_path / "outbox.db").open("r+b") as file:
        file.seek(4096)
        file.write(b"\xff" * 400_000)

    found = everything(outbox)
    outbox.add(window(".", 1000), 1000.0)
    outbox.save(1001.0)

    assert discarded_by(outbox, DAMAGED) == 800
    assert outbox.held == 201
    assert {w.seq for w in found} | {1000} == set(range(800, 1001))
    assert saved_rows(tmp_path) == list(range(800, 1001))


def test_folder_that_cannot_be_had_leaves_windows_in_memory(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """One line says so; they wait all the same, and the disk is tried again later."""
    folder = tmp_path / "state"
    folder.write_text("a file")
    outbox = on_disk(folder)
    fill(outbox, "...")

    for now in range(10, 20):
        outbox.tend(float(now))
    memory = waiting(outbox)
    tail = account_of(outbox)["tail_windows"]
    folder.unlink()
    folder.mkdir()
    outbox.tend(60.0)

    assert memory == [0, 1, 2]
    assert tail == outbox.rules.max_windows
    assert caplog.text.count("cannot be used") == 1
    assert saved_rows(folder) == [0, 1, 2]


@contextmanager
def locked_by_another(folder: Path, mode: str) -> Iterator[None]:
    """Another program has the outbox's file: all of it, or what is written."""
    database = sqlite3.connect(folder / "outbox.db", isolation_level=None)
    try:
        if mode == "EXCLUSIVE":
            database.execute("PRAGMA locking_mode = EXCLUSIVE")
        database.execute(f"BEGIN {mode}")
        yield
        database.execute("ROLLBACK")
    finally:
        database.close()


def test_what_cannot_be_read_at_the_start_is_found_later(tmp_path: Path) -> None:
    """A disk that is full then, say: nothing is written over, and all goes out in the end."""
    before = on_disk(tmp_path)
    fill(before, "...")
    before.events.add(EVENT, 3.0)
    before.save(3.0)
    before.close()
    news = msgspec.structs.replace(EVENT, boot=NEXT_BOOT, episode_id="another")
    with locked_by_another(tmp_path, "EXCLUSIVE"):
        outbox = on_disk(tmp_path, boot=NEXT_BOOT)
        outbox.add(window(".", 7, NEXT_BOOT), 1.0)
        outbox.events.add(news, 1.0)
        outbox.tend(10.0)

    outbox.tend(100.0)

    assert outbox.held == 4
    assert outbox.boots == (BOOT, NEXT_BOOT)
    assert [(w.boot, w.seq) for w in everything(outbox)] == [
        *((BOOT, seq) for seq in range(3)),
        (NEXT_BOOT, 7),
    ]
    after = on_disk(tmp_path, boot="01JD8Z6W3M9K4T2Q5R7V1X0YBE")
    assert {event.episode_id for _, event in after.events} == {EVENT.episode_id, "another"}
    assert after.held == 4


def test_folder_that_may_not_be_looked_into_leaves_windows_in_memory(tmp_path: Path) -> None:
    """Not even whether there is a file can be known then; the node hears all the same."""
    outbox = Outbox(BOOT, node=NODE, hop_seconds=1.0, file=OutboxFile(tmp_path / ("x" * 300)))
    fill(outbox, "...")

    outbox.tend(10.0)

    assert waiting(outbox) == [0, 1, 2]


def test_file_that_is_broken_and_stays_is_not_tried_all_the_time(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Where it cannot be moved aside, it is told rarely, and windows wait in memory."""
    (tmp_path / "outbox.db").write_bytes(b"no database")
    (tmp_path / "outbox.broken").mkdir()
    (tmp_path / "outbox.broken" / "file").touch()
    outbox = on_disk(tmp_path)
    for tenths in range(600):
        if tenths % 10 == 0:
            outbox.add(window(".", tenths // 10), tenths / 10)
        outbox.tend(tenths / 10)

    assert outbox.held == 60
    assert 1 <= caplog.text.count("cannot be used") <= 5


def test_account_that_cannot_be_read_costs_no_windows(tmp_path: Path) -> None:
    """A later version may know reasons that this one does not: the windows go out all the same."""
    before = on_disk(tmp_path)
    fill(before, "...")
    before.save(3.0)
    before.close()
    with sqlite3.connect(tmp_path / "outbox.db") as database:
        database.execute("""UPDATE boots SET account = '{"discarded":{"melted":1}}'""")
    database.close()

    after = on_disk(tmp_path, boot=NEXT_BOOT)

    assert [w.seq for w in everything(after)] == [0, 1, 2]
    assert account_of(after, BOOT)["produced"] == 3
    assert not (tmp_path / "outbox.broken").exists()


def test_windows_that_cannot_be_read_when_they_are_due_are_sent_later(tmp_path: Path) -> None:
    """Nobody has receipted them: a disk that is away for a moment does not forget them."""
    outbox = on_disk(tmp_path)
    fill(outbox, "..")
    outbox.save(2.0)
    outbox.outgoing.sent(BOOT, [0, 1])
    outbox.outgoing.confirmed(BOOT, [0, 1], 2.0)
    outbox.outgoing.receipted(receipt(0, 0, boot=NEXT_BOOT), 3.0)
    assert outbox._disk._file is not None
    outbox._disk._file.close()

    with locked_by_another(tmp_path, "EXCLUSIVE"):
        outbox.tend(700.0)

    assert waiting(outbox) == [0, 1]


def test_stored_windows_are_not_sent_again_from_a_disk_that_cannot_be_written(
    tmp_path: Path,
) -> None:
    """Their rows go once it can be; until then, not all of a read-only card goes out for ever."""
    outbox = on_disk(tmp_path)
    fill(outbox, "." * 5)
    outbox.save(5.0)
    outbox.outgoing.sent(BOOT, range(5))
    outbox.outgoing.confirmed(BOOT, range(5), 5.0)
    assert outbox._disk._file is not None
    outbox._disk._file.close()
    with locked_by_another(tmp_path, "IMMEDIATE"):
        outbox.outgoing.receipted(receipt(0, 2**53, [(3, 3)]), 6.0)
        held = outbox.held
        outbox.tend(606.0)
        again = waiting(outbox)

    outbox.tend(2000.0)
    outbox.tend(2010.0)

    assert (held, again) == (5, [3])
    assert outbox.held == 1
    assert saved_rows(tmp_path) == [3]


def test_windows_that_could_not_be_saved_are_counted_at_the_end(tmp_path: Path) -> None:
    """They are lost, and the last account says how many and why."""
    outbox = on_disk(tmp_path / "nowhere")
    fill(outbox, "...")

    lost = outbox.end(3.0)
    account = outbox.account(BOOT, at_us=0)

    assert lost == 3
    assert (account.waiting, account.discarded_unsaved, account.ended) == (0, 3, True)


@contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_disk_that_is_full_loses_nothing(tmp_path: Path) -> None:
    """What cannot be written waits in memory; with room again it is written."""
    outbox = on_disk(tmp_path)
    fill(outbox, "." * 100)
    outbox.save(100.0)
    with files_of_at_most(100_000):
        fill(outbox, "." * 900, first=100)
        full = outbox.save(1000.0)
        freed = outbox.outgoing.receipted(receipt(0, 49), 1001.0)
        held = outbox.held
    outbox.tend(2000.0)

    assert not full
    assert (freed, held) == (50, 950)
    assert outbox.discarded == 0
    assert saved_rows(tmp_path) == list(range(50, 1000))
    assert [w.seq for w in everything(outbox)] == list(range(50, 1000))


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 300 kB."""
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=300k", "tmpfs", str(tmp_path)],
        check=False,
        capture_output=True,
    )
    if mounted.returncode:
        pytest.skip("needs to be allowed to mount (root)")
    try:
        yield tmp_path
    finally:
        subprocess.run(["umount", "-l", str(tmp_path)], check=True)


def test_real_full_disk_loses_nothing(small_disk: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Windows go on from memory, told of once, and all come out in order."""
    outbox = on_disk(small_disk, max_windows=2000)
    for seq in range(1500):
        outbox.add(window(".", seq), float(seq))
        outbox.tend(float(seq))
    found = [w.seq for w in everything(outbox)]
    outbox.close()

    assert found == list(range(1500))
    assert outbox.discarded == 0
    assert saved_rows(small_disk)
    assert len([r for r in caplog.records if "cannot be used" in r.message]) == 1


def test_unreceipted_windows_are_sent_again_where_receipts_come() -> None:
    """Ten minutes after the broker's word, when somebody else's windows are receipted since."""
    outbox = Outbox(BOOT, node=NODE, hop_seconds=1.0)
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
    outbox = Outbox(BOOT, node=NODE, hop_seconds=1.0)
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
    outbox = Outbox(BOOT, node=NODE, hop_seconds=1.0)
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
    outbox = Outbox(BOOT, node=NODE, hop_seconds=1.0)
    fill(outbox, "." * 200)
    outbox.outgoing.sent(BOOT, range(200))
    outbox.outgoing.confirmed(BOOT, range(200), 200.0)

    freed = outbox.outgoing.receipted(receipt(0, 9), 300.0, retained=True)
    outbox.tend(800.0)

    assert freed == 10
    assert waiting(outbox) == list(range(10, 60))


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


class Accounts(RuleBasedStateMachine):
    """Any order of events: what came in is held, receipted or counted as lost, and never more."""

    def __init__(self) -> None:
        super().__init__()
        self.scratch = tempfile.TemporaryDirectory()
        self.now = 0.0
        self.boots = 0
        self.produced: dict[str, int] = {}
        """Of earlier boots, what was saved, or gone before."""
        self.gone: dict[str, int] = {}
        self.on_their_way: list[tuple[str, list[int]]] = []
        self.start()

    def start(self) -> None:
        self.boot = f"{BOOT[:-2]}{self.boots // 10}{self.boots % 10}"
        self.boots += 1
        self.outbox = Outbox(
            self.boot,
            node=NODE,
            hop_seconds=1.0,
            file=OutboxFile(Path(self.scratch.name) / "outbox.db"),
            rules=OutboxRules(
                max_windows=20, max_bytes=60_000, max_age_seconds=500.0, resend_seconds=30.0
            ),
            now=self.now,
        )
        self.produced[self.boot] = self.gone[self.boot] = 0
        self.on_their_way.clear()

    def teardown(self) -> None:
        self.outbox.close()
        self.scratch.cleanup()

    @rule(kinds=st.text(".x?-!", min_size=1, max_size=30))
    def add(self, kinds: str) -> None:
        for kind in kinds:
            self.outbox.add(window(kind, self.produced[self.boot], self.boot), self.now)
            self.produced[self.boot] += 1

    @rule(limit=st.integers(1, 60))
    def send(self, limit: int) -> None:
        entries = self.outbox.outgoing.late(limit)
        if entries:
            boot, seqs = entries[0].window.boot, [entry.window.seq for entry in entries]
            for other, others in self.on_their_way:
                assert other != boot or not set(others) & set(seqs)
            self.outbox.outgoing.sent(boot, seqs)
            self.on_their_way.append((boot, seqs))

    @rule(refused=st.booleans())
    def answer(self, refused: bool) -> None:
        for boot, seqs in self.on_their_way:
            if refused:
                self.outbox.outgoing.refused(boot, seqs, self.now)
            else:
                self.outbox.outgoing.confirmed(boot, seqs, self.now)
        self.on_their_way.clear()

    @rule()
    def lose_connection(self) -> None:
        for boot, seqs in self.on_their_way:
            self.outbox.outgoing.back(boot, seqs)
        self.on_their_way.clear()

    @rule(which=st.integers(0, 9), first=st.integers(0, 40), count=st.integers(0, 60))
    def receive_receipt(self, which: int, first: int, count: int) -> None:
        boot = list(self.gone)[which % len(self.gone)]
        hole = first + count // 2
        found = receipt(first, first + count, [(hole, hole)], boot=boot)
        self.gone[boot] += self.outbox.outgoing.receipted(found, self.now)

    @rule(seconds=st.floats(0.0, 200.0))
    def wait(self, seconds: float) -> None:
        self.now += seconds
        self.outbox.tend(self.now)

    @rule()
    def stop_and_start(self) -> None:
        assert self.outbox.end(self.now) == 0
        self.outbox.close()
        self.restart(crashed=False)

    @rule()
    def save_and_crash(self) -> None:
        assert self.outbox.save(self.now)
        image = tempfile.TemporaryDirectory()
        for file in Path(self.scratch.name).iterdir():
            shutil.copy(file, image.name)
        assert self.outbox._disk._file is not None
        self.outbox._disk._file.close()
        self.scratch.cleanup()
        self.scratch = image
        self.restart(crashed=True)

    def restart(self, *, crashed: bool) -> None:
        accounts = {boot: self.outbox.account(boot, at_us=0) for boot in self.outbox.boots}
        self.start()
        for boot in set(accounts) & set(self.outbox.boots):
            before = accounts[boot]
            after = self.outbox.account(boot, at_us=0)
            if crashed:
                # What was deleted and not committed is there again; what else came and went since
                # the last commit is not known any more.
                assert after.waiting >= before.waiting
                assert after.produced <= before.produced
                assert after.discarded <= before.discarded
                self.produced[boot] = after.produced
                self.gone[boot] = after.produced - after.waiting - after.discarded
                assert self.gone[boot] >= 0
            else:
                assert after == msgspec.structs.replace(before, tail_windows=0)

    @invariant()
    def nothing_is_unaccounted(self) -> None:
        waiting = 0
        for boot in self.outbox.boots:
            account = self.outbox.account(boot, at_us=0)
            waiting += account.waiting
            assert account.produced == self.produced[boot]
            assert account.produced == account.waiting + self.gone[boot] + account.discarded
        assert waiting == self.outbox.held
        assert self.outbox.unsaved <= 20


def test_every_window_is_accounted_for() -> None:
    """Produced = held + receipted + discarded for each boot, whatever happens in whatever order."""
    run_state_machine_as_test(
        Accounts,
        settings=settings(max_examples=60, stateful_step_count=40, deadline=None, database=None),
    )
