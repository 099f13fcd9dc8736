"""Words to systemd, by real datagrams, from real processes."""

import os
import socket
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from node.notify import Notifier
from tests.rig.programs import ROOT


class Systemd:
    """The end of the notify socket that a service manager holds."""

    def __init__(self, address: str) -> None:
        self.address = address
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind("\0" + address[1:] if address.startswith("@") else address)
        self._socket.setblocking(False)

    def heard(self) -> list[str]:
        """Datagrams since the last call; sending one is done only when it is here."""
        found = []
        while True:
            try:
                found.append(self._socket.recv(4096).decode())
            except BlockingIOError:
                return found

    def goes(self) -> None:
        self._socket.close()


class FakeTime:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture(params=["path", "abstract"])
def systemd(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Systemd]:
    """A service manager at a path, as on Debian, or at an abstract name."""
    path = str(tmp_path / "notify")
    manager = Systemd(path if request.param == "path" else f"@earshot-{uuid.uuid4().hex}")
    yield manager
    manager.goes()


def in_a_process(program: str, **variables: str) -> subprocess.CompletedProcess[str]:
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("NOTIFY_", "WATCHDOG_"))}
    return subprocess.run(
        [sys.executable, "-c", f"import os\nfrom node.notify import Notifier\n{program}"],
        cwd=ROOT,
        env={**kept, **variables},
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )


def test_service_tells_what_it_does(systemd: Systemd) -> None:
    """Ready, alive, a status and the end each arrive as one datagram, in that order."""
    in_a_process(
        """
notifier = Notifier.from_environment(os.environ)
notifier.ready("hears alsa:Mic:0")
notifier.alive()
notifier.status("learning,\\n 3 of 60 blocks")
notifier.stopping()
""",
        NOTIFY_SOCKET=systemd.address,
        WATCHDOG_USEC="60000000",
    )

    assert systemd.heard() == [
        "READY=1\nSTATUS=hears alsa:Mic:0",
        "WATCHDOG=1",
        "STATUS=learning, 3 of 60 blocks",
        "STOPPING=1\nSTATUS=delivering what is left",
    ]


def test_children_are_not_the_service(systemd: Systemd) -> None:
    """What a child inherits names neither the socket nor the watchdog."""
    done = in_a_process(
        """
import subprocess, sys
Notifier.from_environment(os.environ)
subprocess.run([sys.executable, "-c", "import os; print(sorted(os.environ))"], check=True)
""",
        NOTIFY_SOCKET=systemd.address,
        WATCHDOG_USEC="60000000",
        WATCHDOG_PID="1",
    )

    assert "PATH" in done.stdout
    assert "NOTIFY_SOCKET" not in done.stdout
    assert "WATCHDOG" not in done.stdout


def test_without_systemd_nothing_is_told() -> None:
    """A node that a person starts says the same things to nobody, without a word about it."""
    done = in_a_process(
        """
notifier = Notifier.from_environment(os.environ)
notifier.ready("up")
notifier.alive()
notifier.status("fine")
notifier.stopping()
print(notifier.watchdog_seconds)
"""
    )

    assert done.stdout == "None\n"
    assert not done.stderr


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({"WATCHDOG_USEC": "60000000"}, 60.0),
        ({"WATCHDOG_USEC": "500000", "WATCHDOG_PID": str(os.getpid())}, 0.5),
        ({"WATCHDOG_USEC": "60000000", "WATCHDOG_PID": "1"}, None),
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
        ({"WATCHDOG_USEC": "-1"}, None),
        ({}, None),
    ],
)
def test_watchdog_interval_is_read(variables: dict[str, str], expected: float | None) -> None:
    """The interval is systemd's, when it is meant for this process; nonsense is no watchdog."""
    notifier = Notifier.from_environment(variables)

    assert notifier.watchdog_seconds == expected
    assert not variables


def test_signs_of_life_are_rare(systemd: Systemd) -> None:
    """However many windows there are, four datagrams go out in the watchdog's interval."""
    clock = FakeTime()
    notifier = Notifier(systemd.address, 60.0, clock)
    heard = 0

    for _ in range(600):
        notifier.alive()
        heard += len(systemd.heard())
        clock.now += 0.1

    assert heard == 4


def test_without_watchdog_there_are_no_signs_of_life(systemd: Systemd) -> None:
    """A unit without WatchdogSec gets none."""
    Notifier(systemd.address).alive()

    assert not systemd.heard()


def test_systemd_that_goes_away_stops_nothing(
    systemd: Systemd, caplog: pytest.LogCaptureFixture
) -> None:
    """When its socket is gone the node goes on, and says so once."""
    notifier = Notifier(systemd.address, 60.0, FakeTime())
    systemd.goes()

    for _ in range(3):
        notifier.alive()
        notifier.status("still here")
    notifier.stopping()

    assert [record.getMessage()[:25] for record in caplog.records] == ["systemd does not hear us "]


def test_ready_that_was_not_heard_is_told_again(tmp_path: Path) -> None:
    """A service is not killed at its start time-out because one datagram was lost."""
    address = str(tmp_path / "notify")
    notifier = Notifier(address, 60.0, FakeTime())
    notifier.ready("up")

    systemd = Systemd(address)
    notifier.alive()
    notifier.alive()

    assert systemd.heard() == ["READY=1\nSTATUS=up", "WATCHDOG=1"]
    systemd.goes()


def test_systemd_that_does_not_read_does_not_block(systemd: Systemd) -> None:
    """When the socket is full a sign of life is given up in a fraction of a second, and retried."""
    clock = FakeTime()
    notifier = Notifier(systemd.address, 60.0, clock)
    _fill(systemd)

    notifier.alive()
    waiting = systemd.heard()
    notifier.alive()

    assert "WATCHDOG=1" not in waiting
    assert systemd.heard() == ["WATCHDOG=1"]


@pytest.mark.parametrize("address", ["vsock:2:9999", "/" + "x" * 200, "@", "/no/such/socket"])
def test_odd_address_is_nobody(address: str) -> None:
    """An address that cannot be reached is like no systemd."""
    notifier = Notifier(address, 60.0)
    told: list[Callable[[], None]] = [notifier.alive, notifier.stopping]

    for tell in told:
        tell()


def test_status_is_one_short_line(systemd: Systemd) -> None:
    """What a driver says cannot smuggle in another word to systemd."""
    Notifier(systemd.address).status("gone\nWATCHDOG=1\n" + "x" * 1000)

    (told,) = systemd.heard()
    assert told.startswith("STATUS=gone WATCHDOG=1 xxx")
    assert len(told) < 250


def _fill(systemd: Systemd) -> None:
    """Sends until the receiver's queue is full: one sender's own buffer may be full before."""
    address = systemd.address
    before, sent = -1, 0
    while sent > before:
        before = sent
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
            sender.setblocking(False)
            with suppress(BlockingIOError):
                sender.connect("\0" + address[1:] if address.startswith("@") else address)
                while True:
                    sender.send(b"noise")
                    sent += 1
