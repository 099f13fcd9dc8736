"""What of the outbox is on the disk and when, and disks that are full, broken or away."""

import logging
import resource
import sqlite3
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
import pytest

from node.delivery.outbox_file import OutboxFile
from tests.node.delivery.outboxes import (
    BOOT,
    DAMAGED,
    FULL,
    NEXT_BOOT,
    account_of,
    discarded_by,
    everything,
    fill,
    on_disk,
    on_file,
    receipt,
    saved_rows,
    waiting,
    window,
)
from tests.rig.examples import EVENT


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
    outbox_file = OutboxFile(tmp_path / "outbox.db")
    outbox = on_file(outbox_file)
    fill(outbox, "." * 1000)
    outbox.save(1000.0)
    # So that it is read again, and not out of SQLite's cache.
    outbox_file.close()
    with outbox_file.path.open("r+b") as file:
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
    outbox = on_file(OutboxFile(tmp_path / ("x" * 300)))
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
    file = OutboxFile(tmp_path / "outbox.db")
    outbox = on_file(file)
    fill(outbox, "..")
    outbox.save(2.0)
    outbox.outgoing.sent(BOOT, [0, 1])
    outbox.outgoing.confirmed(BOOT, [0, 1], 2.0)
    outbox.outgoing.receipted(receipt(0, 0, boot=NEXT_BOOT), 3.0)
    file.close()

    with locked_by_another(tmp_path, "EXCLUSIVE"):
        outbox.tend(700.0)

    assert waiting(outbox) == [0, 1]


def test_stored_windows_are_not_sent_again_from_a_disk_that_cannot_be_written(
    tmp_path: Path,
) -> None:
    """Their rows go once it can be; until then, not all of a read-only card goes out for ever."""
    file = OutboxFile(tmp_path / "outbox.db")
    outbox = on_file(file)
    fill(outbox, "." * 5)
    outbox.save(5.0)
    outbox.outgoing.sent(BOOT, range(5))
    outbox.outgoing.confirmed(BOOT, range(5), 5.0)
    file.close()
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
