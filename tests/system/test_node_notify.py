"""A node under a service manager: what it says, and when."""

import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.rig.brokers import Mosquitto
from tests.rig.programs import node_settings, start
from tests.rig.waiting import wait_until


class Manager:
    """The end of the notify socket that systemd holds."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.heard: list[str] = []
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(path))
        self._socket.setblocking(False)

    def count(self, word: str) -> int:
        """Datagrams so far that hold the word."""
        try:
            while True:
                self.heard.append(self._socket.recv(4096).decode())
        except BlockingIOError:
            return sum(word in datagram.split("\n") for datagram in self.heard)

    def close(self) -> None:
        self._socket.close()


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[Manager]:
    """A service manager that only listens."""
    manager = Manager(tmp_path / "notify")
    yield manager
    manager.close()


def test_node_tells_its_service_manager(mosquitto: Mosquitto, manager: Manager) -> None:
    """Ready once and first, a sign of life after windows, and the end when it is told to end."""
    settings = node_settings(mosquitto, "synthetic:fan", OUTBOX_DRAIN_SECONDS="0.5")
    settings |= {"NOTIFY_SOCKET": str(manager.path), "WATCHDOG_USEC": "1000000"}
    with start("node", "run", settings=settings) as node:
        wait_until(lambda: manager.count("WATCHDOG=1") >= 2, "two signs of life", seconds=20)
        node.send_signal(signal.SIGTERM)
        _, err = node.communicate(timeout=20)

    assert manager.count("READY=1") == 1, err
    assert "READY=1" in manager.heard[0]
    assert manager.count("STOPPING=1") == 1


def test_node_that_hears_nothing_new_is_not_alive(mosquitto: Mosquitto, manager: Manager) -> None:
    """A node that hangs before its first window has said nothing for the watchdog."""
    settings = node_settings(mosquitto, "synthetic:fan", OUTBOX_DRAIN_SECONDS="0.5")
    settings |= {"NOTIFY_SOCKET": str(manager.path), "WATCHDOG_USEC": "1000000"}
    with start("node", "run", settings=settings) as node:
        wait_until(lambda: manager.count("READY=1") == 1, "ready", seconds=20)
        node.send_signal(signal.SIGSTOP)
        before = manager.count("WATCHDOG=1")
        with pytest.raises(subprocess.TimeoutExpired):
            node.wait(2)
        after = manager.count("WATCHDOG=1")

    assert before == after
