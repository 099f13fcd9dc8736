"""Updates over links that are slow or break, through restarts and on full disks: they arrive.

mosquitto's log says which chunks went out, so that a download which began anew would be seen.
"""

import math
import os
import re
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Protocol

import pytest

from contract.messages import Health, Status, Update, Window
from contract.release import CHUNK_BYTES
from contract.states import Presence, UpdatePhase
from node.scoring.release_store import read_release
from tests.rig.brokers import Mosquitto
from tests.rig.installed import require
from tests.rig.link import Link
from tests.rig.listeners import Listener
from tests.rig.programs import ROOT, environment, node_settings, start
from tests.rig.shelf import VARIANTS, Shelf, keys_file, packed
from tests.rig.waiting import wait_until

NODE = "press-07"
CHUNKS = 12
"""Of the release, where nothing else is said."""
MOST_LOST_AT_A_CUT = 2
"""Chunks: as many as a node asks for at once."""
MODEL_BYTES = read_release(VARIANTS / "float32").manifest.models_bytes
RUNS, WANTED = "fan-synthetic@1", "fan-synthetic@2"


class Site:
    """A broker behind a link, a shelf beside it, and what is heard of the node."""

    def __init__(self, folder: Path, broker: Mosquitto, link: Link, listener: Listener) -> None:
        self.folder = folder
        self.broker = broker
        self.link = link
        self.listener = listener

    def settings(self, **more: str) -> dict[str, str]:
        """Of a node that takes updates, quick to try and to commit."""
        return node_settings(
            self.broker,
            "synthetic:fan?seed=5",
            **{
                "MQTT_PORT": str(self.link.port),
                "UPDATE_KEYS_FILE": str(keys_file(self.folder)),
                "UPDATE_TRIAL_WINDOWS": "2",
                "UPDATE_CONFIRM_WINDOWS": "1",
                **more,
            },
        )

    def push(self, size_bytes: int = CHUNKS * CHUNK_BYTES) -> None:
        """A release of this size and the order to run it, once the node is heard."""
        self.listener.wait_for_windows(2)
        release = packed(2, padding_bytes=size_bytes - MODEL_BYTES)
        with Shelf(self.broker) as shelf:
            shelf.put_release(release)
            shelf.order("all", release)

    def updates(self) -> list[Update]:
        return self.listener.all_of(Update)

    def wait_for_progress(self, progress: float) -> None:
        """Until so much of the release is there."""
        wait_until(
            lambda: any(
                u.phase is UpdatePhase.DOWNLOADING and u.progress >= progress
                for u in self.updates()
            ),
            f"{progress:.0%} of the download",
            seconds=120,
        )

    def wait_for_commit(self, *, seconds: float = 120.0) -> Update:
        def committed() -> list[Update]:
            return [u for u in self.updates() if u.phase is UpdatePhase.COMMITTED]

        wait_until(lambda: bool(committed()), "the commit", seconds=seconds)
        return committed()[0]

    def chunks_sent(self) -> list[int]:
        """Numbers of the chunks that the broker has sent the node, in order, over its starts."""
        pattern = rf"Sending PUBLISH to {NODE} \(.*/blob/[0-9a-f]+/(\d+)'"
        return [int(number) for number in re.findall(pattern, self.broker.log())]


@pytest.fixture
def site(mosquitto: Mosquitto, tmp_path: Path) -> Iterator[Site]:
    with Link(mosquitto) as link, Listener(mosquitto) as listener:
        yield Site(tmp_path, mosquitto, link, listener)


@contextmanager
def running(settings: dict[str, str]) -> Iterator["subprocess.Popen[str]"]:
    """A node that has to end well, unless the test has killed it."""
    with start("node", "run", settings=settings) as node:
        try:
            yield node
            node.terminate()
            _, err = node.communicate(timeout=30)
        finally:
            node.kill()
    assert node.returncode in (0, -signal.SIGKILL), err


def assert_no_window_is_missing(windows: list[Window]) -> None:
    """Of a single start; one that was unconfirmed when the link broke may have come twice."""
    assert len({window.boot for window in windows}) == 1
    assert sorted({window.seq for window in windows}) == list(range(windows[-1].seq + 1))


def test_update_arrives_on_a_link_of_20_kilobytes_a_second(site: Site) -> None:
    """With a keep-alive of 8 s, which one message of 600 KB would break: it takes 30 s.

    Windows go on meanwhile, none twice, and the one connection stands.
    """
    size_bytes = 600_000
    site.link.limit(20_000)
    settings = site.settings(MQTT_KEEPALIVE_SECONDS="8", HEALTH_INTERVAL_SECONDS="5")
    with running(settings):
        site.push(size_bytes)
        site.wait_for_progress(0.1)
        before = len(site.listener.windows())
        site.wait_for_progress(0.9)
        meanwhile = len(site.listener.windows()) - before
        site.wait_for_commit()
        site.listener.wait_for_windows(len(site.listener.windows()) + 2)
    windows = site.listener.windows()

    assert site.link.accepted == 1
    assert {health.reconnects for health in site.listener.all_of(Health)} == {0}
    states = [status.state for status in site.listener.all_of(Status)]
    assert states == [Presence.ONLINE, Presence.OFFLINE]
    assert meanwhile >= 10
    assert [window.seq for window in windows] == list(range(len(windows)))
    assert windows[-1].model == WANTED
    assert site.chunks_sent() == list(range(math.ceil(size_bytes / CHUNK_BYTES)))
    assert site.link.to_client_bytes < 1.05 * size_bytes


def test_cut_link_costs_what_was_on_its_way(site: Site) -> None:
    """The download goes on where it was, each time; no window is lost."""
    site.link.limit(200_000)
    with running(site.settings()):
        site.push()
        # Three lost connections in a row look like another program with this node's name.
        for progress in (0.2, 0.5):
            site.wait_for_progress(progress)
            site.link.cut()
        site.wait_for_commit()
    sent = site.chunks_sent()

    assert site.link.accepted == 3
    assert {*sent} == {*range(CHUNKS)}
    assert sent.count(0) == 1
    assert len(sent) <= CHUNKS + 2 * MOST_LOST_AT_A_CUT
    assert_no_window_is_missing(site.listener.windows())


def test_download_goes_on_after_the_broker_was_restarted(site: Site) -> None:
    """It has kept the chunks, and the node what it had of them."""
    site.link.limit(100_000)
    with running(site.settings()):
        site.push()
        site.wait_for_progress(0.4)
        site.broker.stop()
        site.broker.start()
        site.wait_for_commit()
        site.listener.wait_for_windows(len(site.listener.windows()) + 2)
    sent = site.chunks_sent()

    assert {*sent} == {*range(CHUNKS)}
    assert sent.count(0) == 1
    assert len(sent) <= CHUNKS + MOST_LOST_AT_A_CUT
    assert_no_window_is_missing(site.listener.windows())
    assert site.listener.windows()[-1].model == WANTED


def test_killed_node_goes_on_from_its_part(site: Site) -> None:
    """The next start asks for the chunks that are missing, and for no others."""
    site.link.limit(100_000)
    settings = site.settings()
    with running(settings) as node:
        site.push()
        site.wait_for_progress(0.4)
        node.kill()
    (first_boot,) = {update.boot for update in site.updates()}
    with running(settings):
        committed = site.wait_for_commit()
    sent = site.chunks_sent()
    resumed = [
        update.progress
        for update in site.updates()
        if update.boot != first_boot and update.phase is UpdatePhase.DOWNLOADING
    ]

    assert committed.boot != first_boot
    assert {*sent} == {*range(CHUNKS)}
    assert sent.count(0) == 1
    assert len(sent) <= CHUNKS + MOST_LOST_AT_A_CUT
    # The first is said before the part is looked at.
    assert min(resumed[1:]) >= 0.4


class FullDisk(Protocol):
    """A node whose disk has no room for the whole release."""

    reason: str
    """What it says."""

    def start(self, site: Site) -> "subprocess.Popen[str]":
        """The node."""

    def fill(self) -> None:
        """Called in mid-download."""

    def make_room(self) -> None:
        """Called when the node has given up."""


class BoundedFiles:
    """No file may grow above half of the release: any user can ask for that."""

    reason = "File too large"

    def start(self, site: Site) -> "subprocess.Popen[str]":
        self._node = start("node", "run", settings=site.settings(UPDATE_RETRY_SECONDS="2"))
        self._bound(CHUNKS * CHUNK_BYTES // 2)
        return self._node

    def fill(self) -> None:
        pass

    def make_room(self) -> None:
        self._bound(resource.RLIM_INFINITY)

    def _bound(self, size_bytes: int) -> None:
        limits = (size_bytes, resource.RLIM_INFINITY)
        resource.prlimit(self._node.pid, resource.RLIMIT_FSIZE, limits)


class SmallDisk:
    """A file system of 40 MB, in a mount namespace of the node's own, that somebody fills."""

    reason = "No space left on device"

    def start(self, site: Site) -> "subprocess.Popen[str]":
        state = site.folder / "small"
        state.mkdir()
        mount = 'mount -t tmpfs -o size=40m none "$0" && exec "$@"'
        command = [*_own_mounts(), "sh", "-c", mount, str(state)]
        settings = site.settings(UPDATE_RETRY_SECONDS="2", NODE_STATE_FOLDER=str(state))
        node = subprocess.Popen(
            [*command, sys.executable, "-m", "node", "run"],
            cwd=ROOT,
            env=environment(settings),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        # Seen from outside: only the node's own namespace has the file system at that place.
        self._filler = Path(f"/proc/{node.pid}/root{state}/filler")
        return node

    def fill(self) -> None:
        with suppress(OSError), self._filler.open("wb", buffering=0) as filler:
            while True:
                filler.write(bytes(4096))

    def make_room(self) -> None:
        self._filler.unlink()


def _own_mounts() -> list[str]:
    """A command that gives a program mounts of its own; without one the test skips or fails."""
    command = [require("unshare"), "--mount"]
    if os.geteuid() != 0:
        command.insert(1, "--map-root-user")
    done = subprocess.run([*command, "true"], capture_output=True, check=False)
    if done.returncode != 0:
        pytest.skip(f"this kernel lets us have no mounts of our own: {done.stderr.decode()}")
    return command


@pytest.mark.parametrize("disk", [BoundedFiles(), SmallDisk()], ids=["bounded", "small"])
def test_full_disk_is_said_and_outlived(site: Site, disk: FullDisk) -> None:
    """The old model goes on; when there is room again, so does the update, from where it was."""
    site.link.limit(200_000)
    with disk.start(site) as node:
        try:
            site.push()
            site.wait_for_progress(0.3)
            disk.fill()
            wait_until(
                lambda: any(u.phase is UpdatePhase.REJECTED for u in site.updates()),
                "a reason",
                seconds=120,
            )
            (rejected, *_) = [u for u in site.updates() if u.phase is UpdatePhase.REJECTED]
            site.listener.wait_for_windows(len(site.listener.windows()) + 3)
            models = {window.model for window in site.listener.windows()}
            disk.make_room()
            committed = site.wait_for_commit()
            site.listener.wait_for_windows(len(site.listener.windows()) + 2)
            node.terminate()
            _, err = node.communicate(timeout=30)
        finally:
            node.kill()
    sent = site.chunks_sent()

    assert node.returncode == 0, err
    assert rejected.reason is not None
    assert disk.reason in rejected.reason
    assert rejected.running == RUNS
    assert models == {RUNS}
    assert (committed.running, committed.boot) == (WANTED, rejected.boot)
    assert sent.count(0) == 1
    assert_no_window_is_missing(site.listener.windows())
    assert site.listener.windows()[-1].model == WANTED
