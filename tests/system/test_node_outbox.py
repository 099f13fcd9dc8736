"""Windows that are on the disk, against a real broker: restarts, kills, and a link that is away."""

import signal
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import numpy as np
import pytest

from contract.messages import Account, Backlog, Receipt, Window, decode
from contract.session import Received
from contract.states import Clock
from node import service
from node.delivery.clock import WindowClock
from node.delivery.outbox import Outbox
from node.delivery.outbox_file import OutboxFile
from node.scoring.release_store import read_release
from node.scoring.runtime import find_runtime
from node.settings import NodeSettings, load_settings
from node.sound.source import Block
from tests.node.delivery.outboxes import window
from tests.rig.brokers import Mosquitto
from tests.rig.fake_source import Sound
from tests.rig.link import Link
from tests.rig.listeners import ReceiptingCollector
from tests.rig.peers import connecting, mqtt
from tests.rig.programs import MODEL, node_settings, run, start
from tests.rig.waiting import wait_until

_NODE = "press-07"


def _settings(broker: Mosquitto | Link | None, source: str, **more: str) -> dict[str, str]:
    """Of a node that keeps windows until a collector has them."""
    found = node_settings(None, source, OUTBOX_RECEIPTS="collector", **more)
    if broker is not None:
        found |= {"EARSHOT_MQTT_HOST": broker.host, "EARSHOT_MQTT_PORT": str(broker.port)}
    return found


def _state_folder(settings: dict[str, str]) -> Path:
    return Path(settings["EARSHOT_NODE_STATE_FOLDER"]) / _NODE


class Counter:
    """Counts the windows that a node has accounted for, from outside."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(path))
        self._socket.setblocking(False)
        self._count = 0

    @property
    def windows(self) -> int:
        """So far."""
        try:
            while True:
                self._count += self._socket.recv(4096) == b"WATCHDOG=1"
        except BlockingIOError:
            return self._count

    @property
    def settings(self) -> dict[str, str]:
        """For a node; an interval so short that every window is told."""
        return {"NOTIFY_SOCKET": str(self.path), "WATCHDOG_USEC": "400"}

    def close(self) -> None:
        self._socket.close()


@pytest.fixture
def counter(tmp_path: Path) -> Iterator[Counter]:
    found = Counter(tmp_path / "notify")
    yield found
    found.close()


def test_receipts_let_go_of_windows(mosquitto: Mosquitto) -> None:
    """A node whose windows are all receipted ends with nothing left, and its account adds up."""
    with ReceiptingCollector(mosquitto) as collector:
        ended = run("node", "run", settings=_settings(mosquitto, "synthetic:fan?seconds=6"))
        collector.wait_for_windows(5)
        boot = collector.windows()[0].boot
        wait_until(lambda: collector.has_ended(boot), "the last account")
        account = collector.account(boot)

    assert ended.returncode == 0, ended.stderr
    assert "wait on the disk" not in ended.stderr
    assert account is not None
    assert (account.produced, account.waiting, account.discarded) == (5, 0, 0)


def test_collector_of_these_tests_says_what_it_has(mosquitto: Mosquitto) -> None:
    """Its receipts are retained, name the boot, and have holes where windows are missing."""
    with ReceiptingCollector(mosquitto) as collector:
        run("node", "run", settings=_settings(mosquitto, "synthetic:fan?seconds=5"))
        boot = collector.windows()[0].boot
        with connecting(mqtt(mosquitto), "reader", f"earshot/1/n/{_NODE}/receipt") as reader:
            heard = reader.expect(Received)
        receipt = decode(heard.topic, heard.payload)

    assert isinstance(receipt, Receipt)
    assert (receipt.boot, receipt.stored_from, receipt.stored_up_to) == (boot, 0, 3)
    assert receipt.holes == ()


def test_restart_while_the_link_is_down_loses_nothing(mosquitto: Mosquitto) -> None:
    """What the first start could not send, the second one sends, as the first one's."""
    with ReceiptingCollector(mosquitto) as collector, Link(mosquitto) as link:
        settings = _settings(link, "synthetic:fan?seconds=8", OUTBOX_DRAIN_SECONDS="0.5")
        link.refuse()
        first = run("node", "run", settings=settings)
        again = run("node", "run", settings=settings)
        link.resume()
        last = run("node", "run", settings=settings | {"EARSHOT_OUTBOX_DRAIN_SECONDS": "20"})
        collector.wait_for_windows(3 * 7)
        boots = list(dict.fromkeys(w.boot for b in collector.all_of(Backlog) for w in b.windows))
        wait_until(lambda: all(collector.has_all(boot) for boot in boots[:2]), "the accounts")
        accounts = [collector.account(boot) for boot in boots[:2]]
        windows = collector.windows()

    for ended in (first, again, last):
        assert ended.returncode == 0, ended.stderr
    assert "7 windows wait on the disk for the next start" in first.stderr
    assert "14 windows wait on the disk for the next start" in again.stderr
    assert "wait on the disk" not in last.stderr
    assert {(w.boot, w.seq) for w in windows} >= {(boot, seq) for boot in boots for seq in range(7)}
    assert [(a.produced, a.ended, a.discarded) for a in accounts if a] == [(7, True, 0)] * 2


@pytest.mark.parametrize(("durable", "tail_windows"), [("late", 7), ("always", 0)])
def test_kill_costs_no_more_than_the_tail(
    mosquitto: Mosquitto, counter: Counter, durable: str, tail_windows: int
) -> None:
    """Of the windows that were accounted for before SIGKILL, all but the tail are sent later."""
    settings = _settings(
        None, "synthetic:fan", OUTBOX_DURABLE=durable, MQTT_HOST="127.0.0.1", MQTT_PORT="1"
    )
    node = start("node", "run", settings=settings | counter.settings)
    wait_until(lambda: counter.windows >= 12, "twelve windows", seconds=60)
    node.kill()
    node.communicate()
    counted = counter.windows
    with ReceiptingCollector(mosquitto) as collector:
        settings = _settings(mosquitto, "synthetic:fan?seconds=3") | {
            "EARSHOT_NODE_STATE_FOLDER": settings["EARSHOT_NODE_STATE_FOLDER"]
        }
        ended = run("node", "run", settings=settings)
        killed = collector.all_of(Backlog)[0].boot
        kept = {w.seq for w in collector.windows() if w.boot == killed}
        wait_until(lambda: collector.has_all(killed), "the account")
        account = collector.account(killed)

    assert ended.returncode == 0, ended.stderr
    assert kept == set(range(len(kept)))
    assert counted - tail_windows <= len(kept)
    assert account is not None
    assert (account.produced, account.ended) == (len(kept), False)


def test_live_windows_stay_live_while_the_backlog_goes_out(mosquitto: Mosquitto) -> None:
    """Thousands wait and the link is slow: every new window is a message of its own, in between."""
    waiting = 1500
    with ReceiptingCollector(mosquitto) as collector, Link(mosquitto) as link:
        settings = _settings(link, "synthetic:fan?seconds=10", OUTBOX_DRAIN_SECONDS="120")
        folder = _state_folder(settings)
        folder.mkdir(parents=True)
        boot = "01JD8Z6W3M9K4T2Q5R7V1X0YBC"
        before = Outbox(boot, node=_NODE, hop_seconds=1.0, file=OutboxFile(folder / "outbox.db"))
        for seq in range(waiting):
            before.add(window(".", seq), 0.0)
        before.save(0.0)
        before.close()
        link.limit(50_000)
        node = start("node", "run", settings=settings)
        wait_until(lambda: len(collector.all_of(Window)) >= 3, "three live windows", seconds=60)
        backlog_by_then = sum(len(each.windows) for each in collector.all_of(Backlog))
        link.limit(None)
        _, err = node.communicate(timeout=120)
        collector.wait_for_windows(waiting + 9)
        late = [w for each in collector.all_of(Backlog) for w in each.windows]
        live = collector.all_of(Window)

    assert node.returncode == 0, err
    assert [w.seq for w in live] == list(range(9))
    assert 0 < backlog_by_then < waiting
    assert [(w.boot, w.seq) for w in late] == [(boot, seq) for seq in range(waiting)]
    assert max(len(each.windows) for each in collector.all_of(Backlog)) == 50


def test_normal_running_writes_nothing(mosquitto: Mosquitto) -> None:
    """While receipts come in time there is no outbox on the disk, and the disk is not written."""
    with ReceiptingCollector(mosquitto) as collector:
        settings = _settings(mosquitto, "synthetic:fan", OUTBOX_TAIL_SECONDS="60")
        node = start("node", "run", settings=settings)
        collector.wait_for_windows(4)
        before, written = _files(_state_folder(settings)), _written_bytes(node.pid)
        collector.wait_for_windows(12)
        after, still = _files(_state_folder(settings)), _written_bytes(node.pid)
        node.send_signal(signal.SIGTERM)
        _, err = node.communicate(timeout=20)

    assert node.returncode == 0, err
    assert not [name for name in after if name.startswith("outbox")]
    assert before == after
    assert written == still


def _files(folder: Path) -> dict[str, tuple[int, int]]:
    return {path.name: (path.stat().st_size, path.stat().st_mtime_ns) for path in folder.iterdir()}


def _written_bytes(process: int) -> int:
    for line in Path(f"/proc/{process}/io").read_text().splitlines():
        name, _, value = line.partition(": ")
        if name == "write_bytes":
            return int(value)
    raise AssertionError("no write_bytes")


class _UnsyncedClock:
    """A wall clock that somebody sets right after a while."""

    def __init__(self) -> None:
        self.offset_ns = -1_000_000_000 * 86_400 * 365
        self.state = Clock.UNSYNCED

    def wall_ns(self) -> int:
        return time.time_ns() + self.offset_ns

    def set_right(self) -> None:
        self.offset_ns = 0
        self.state = Clock.SYNCED


def test_windows_wait_for_the_clock_and_go_out_with_the_right_time(mosquitto: Mosquitto) -> None:
    """A Pi that boots a year behind sends nothing until its clock is set, and loses nothing."""
    right = _UnsyncedClock()
    clock = WindowClock(right.wall_ns, time.monotonic_ns, lambda: right.state)
    settings = _node_settings(_settings(mosquitto, "microphone:fake", CLOCK_WAIT_SECONDS="120"))
    stop = threading.Event()
    began = time.monotonic_ns()
    noise = np.random.default_rng(3).normal(0.0, 0.05, 16_000).astype(np.float32)
    blocks = (
        Block(
            samples=noise,
            captured_monotonic_ns=began + second * 1_000_000_000,
            continuous=second > 0,
        )
        for second in range(8)
    )
    ended = threading.Event()

    def heard() -> Iterator[Block]:
        for number, block in enumerate(blocks):
            if number == 5:
                # Windows 0 to 3 have been heard by now.
                wait_until(
                    lambda: any(a.waiting == 4 for a in collector.all_of(Account)), "an account"
                )
                assert not collector.windows()
                right.set_right()
            yield block
        ended.set()

    with ReceiptingCollector(mosquitto) as collector:
        totals = service.run(
            settings,
            Sound(heard(), sample_rate_hz=16_000),
            read_release(MODEL),
            find_runtime(),
            stop,
            clock=clock,
        )
        collector.wait_for_windows(totals.windows)
        windows = collector.windows()

    assert ended.is_set()
    assert totals.windows == 7
    assert {w.clock for w in windows} == {Clock.SYNCED}
    starts = [w.start_us for w in windows]
    assert np.allclose(np.diff(starts), 1_000_000, atol=50_000)
    assert abs(starts[0] - time.time_ns() / 1000) < 3600e6


def _node_settings(environment: dict[str, str]) -> NodeSettings:
    settings = load_settings(
        None, {name: value for name, value in environment.items() if name.startswith("EARSHOT_")}
    )
    health = msgspec.structs.replace(settings.health, interval_seconds=0.001)
    return msgspec.structs.replace(settings, health=health)


def test_node_that_is_told_to_end_saves_what_waits(mosquitto: Mosquitto, counter: Counter) -> None:
    """SIGTERM while nobody stores: what waits is on the disk when the node has gone."""
    settings = _settings(mosquitto, "synthetic:fan", OUTBOX_DRAIN_SECONDS="0.2")
    node = start("node", "run", settings=settings | counter.settings)
    wait_until(lambda: counter.windows >= 3, "three windows", seconds=60)
    node.send_signal(signal.SIGTERM)
    _, err = node.communicate(timeout=20)
    stored = OutboxFile(_state_folder(settings) / "outbox.db").load()

    assert node.returncode == 0, err
    assert stored.boots[0].windows >= 3
    assert f"{stored.boots[0].windows} windows wait on the disk" in err
    assert stored.boots[0].account.ended
    assert stored.boots[0].account.produced == stored.boots[0].windows
