"""A whole fleet of real programs whose parts can be killed, stopped, starved and cut off.

    nodes -> a link each -> mosquitto -> a link -> collector -> a link -> InfluxDB

Every part is a process of its own. What a node has produced is counted outside of it: it sends
a datagram to `$NOTIFY_SOCKET` for each window that it has taken in, as it does under systemd, and
what has been sent survives the SIGKILL of the sender.

What is meant to take minutes takes seconds here (windows come ten times a second, what is not
receipted is sent again after five), so that a fault meets many windows in all their states.
"""

import contextlib
import json
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self
from urllib.parse import urlsplit

import msgspec

from contract.session import Received
from tests.rig.brokers import Mosquitto
from tests.rig.databases import InfluxDb
from tests.rig.link import Link
from tests.rig.peers import connecting, mqtt
from tests.rig.programs import MODEL, ROOT, environment
from tests.rig.stepped_clock import SteppedClock
from tests.rig.waiting import wait_until

HOP_SECONDS: Final = 0.1
TAIL_SECONDS: Final = 5.0
RESEND_SECONDS: Final = 5.0
GAP_SECONDS: Final = 20.0
_DROPPED: Final = "$SYS/broker/publish/messages/dropped"
_BOOT: Final = re.compile(r"\bboot ([0-9A-HJKMNP-TV-Z]{26})\b")
_STOP_SECONDS: Final = 60.0
_DISK_BYTES: Final = 24 * 1024 * 1024
_SEES_EVERY_WINDOW: Final = {"WATCHDOG_USEC": "4"}
"""A watchdog so impatient that it is fed after every window."""


class Program:
    """`python -m ARGUMENTS` with its output in a file; may be started again and again."""

    def __init__(
        self, directory: Path, name: str, arguments: Sequence[str], settings: Mapping[str, str]
    ) -> None:
        self.name = name
        self.log_file = directory / f"{name}.log"
        self._arguments = arguments
        self._settings = settings
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def running(self) -> bool:
        """False after `kill` and `stop`, and when it has ended by itself."""
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int:
        """Of the process that runs."""
        assert self._process is not None, f"{self.name} runs"
        return self._process.pid

    def start(self) -> None:
        """Start it; it need not be well."""
        with self.log_file.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", *self._arguments],
                cwd=ROOT,
                env=environment(self._settings),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def kill(self) -> None:
        """SIGKILL; nothing on a program that does not run."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait()

    def stop(self) -> int:
        """SIGTERM; the exit code."""
        process, self._process = self._process, None
        assert process is not None, f"{self.name} is stopped while it runs"
        process.terminate()
        try:
            return process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise AssertionError(f"{self.name} did not end:\n{self.tail()}") from None

    def log(self) -> str:
        """All that it has said, over all its starts."""
        return self.log_file.read_text("utf-8", "replace") if self.log_file.exists() else ""

    def tail(self) -> str:
        """Its last words."""
        return "\n".join(self.log().splitlines()[-20:])


class Disk:
    """A small disk of its own that can be filled up; an ordinary folder where nobody may mount."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._ballast = folder / "ballast"
        self._mounted = False

    def __enter__(self) -> Self:
        self.folder.mkdir(parents=True)
        command = ["mount", "-t", "tmpfs", "-o", f"size={_DISK_BYTES}", "tmpfs", str(self.folder)]
        self._mounted = subprocess.run(command, capture_output=True, check=False).returncode == 0
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._mounted:
            subprocess.run(["umount", "-l", str(self.folder)], check=True)

    @property
    def can_be_full(self) -> bool:
        """Whether it is a disk of its own."""
        return self._mounted

    def fill(self) -> None:
        """Until not a byte more goes."""
        assert self._mounted, "only a disk of its own is filled, never the computer's"
        with self._ballast.open("ab", buffering=0) as ballast, contextlib.suppress(OSError):
            while True:
                ballast.write(b"\0" * 4096)

    def free(self) -> None:
        """As before."""
        self._ballast.unlink(missing_ok=True)


class Run(msgspec.Struct):
    """One start of a node, as seen from outside."""

    node: str
    number: int
    """The how manieth start of this node it was."""
    boot: str | None = None
    """As its log says; None if it was killed before it said so."""
    produced: int = 0
    """Windows that it has taken in."""
    killed: bool = False


class WindowCounter:
    """Counts, outside of a node, the windows that it has taken in."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.windows = 0
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(path))
        self._socket.settimeout(0.2)
        self._ending = False
        self._thread = threading.Thread(target=self._count, name="window counter", daemon=True)
        self._thread.start()

    def take(self) -> int:
        """How many since the last call; for a node that is gone, so that none is on its way."""
        # What the kernel holds for us was sent before; an empty socket has been read to its end.
        marker = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._marked = threading.Event()
        with marker:
            marker.sendto(b"MARK", str(self.path))
        assert self._marked.wait(10.0)
        windows, self.windows = self.windows, 0
        return windows

    def close(self) -> None:
        """Stop counting."""
        self._ending = True
        self._thread.join()
        self._socket.close()

    def _count(self) -> None:
        while not self._ending:
            try:
                message = self._socket.recv(4096)
            except TimeoutError:
                continue
            if message == b"WATCHDOG=1":
                self.windows += 1
            elif message == b"MARK":
                self._marked.set()


class Node:
    """A node, its link to the broker, its disk and its clock."""

    def __init__(
        self,
        name: str,
        directory: Path,
        broker: Mosquitto,
        stack: ExitStack,
        settings: Mapping[str, str],
    ) -> None:
        self.name = name
        self.link = stack.enter_context(Link(broker))
        self.disk = stack.enter_context(Disk(directory / f"{name}-disk"))
        self.runs: list[Run] = []
        self.clock = SteppedClock(directory / f"{name}-clock")
        sockets = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="ear-")))
        self._counter = WindowCounter(sockets / "notify")
        stack.callback(self._counter.close)
        self._log_read = 0
        unit = int(name.rsplit("-", 1)[1]) % 6
        self._program = Program(
            directory,
            name,
            ("node", "run"),
            {
                "EARSHOT_NODE_ID": name,
                "EARSHOT_NODE_STATE_FOLDER": str(self.disk.folder),
                "EARSHOT_MODEL_FOLDER": str(directory / "model"),
                "EARSHOT_SOURCE_SPEC": f"synthetic:fan?unit={unit}&seed={90_000 + unit}",
                "EARSHOT_MQTT_HOST": self.link.host,
                "EARSHOT_MQTT_PORT": str(self.link.port),
                "EARSHOT_MQTT_KEEPALIVE_SECONDS": "5",
                "EARSHOT_HEALTH_INTERVAL_SECONDS": "2",
                "EARSHOT_OUTBOX_TAIL_SECONDS": str(TAIL_SECONDS),
                "EARSHOT_OUTBOX_RESEND_SECONDS": str(RESEND_SECONDS),
                "NOTIFY_SOCKET": str(self._counter.path),
                **_SEES_EVERY_WINDOW,
                **self.clock.environment,
                **settings,
            },
        )
        stack.callback(self._program.kill)

    @property
    def running(self) -> bool:
        """Whether its program is there."""
        return self._program.running

    @property
    def windows_so_far(self) -> int:
        """Of all its runs."""
        return sum(run.produced for run in self.runs) + self._counter.windows

    def start(self) -> None:
        """Begin a run."""
        self.runs.append(Run(self.name, len(self.runs)))
        self._program.start()

    def kill(self) -> None:
        """SIGKILL."""
        self._program.kill()
        self._end(killed=True)

    def stop(self) -> None:
        """SIGTERM; it has to end well."""
        code = self._program.stop()
        self._end(killed=False)
        assert code == 0, f"{self.name} ended with {code}:\n{self._program.tail()}"

    def log(self) -> str:
        """Of all runs."""
        return self._program.log()

    def _end(self, *, killed: bool) -> None:
        run = self.runs[-1]
        run.killed = killed
        run.produced = self._counter.take()
        log = self._program.log()
        said, self._log_read = log[self._log_read :], len(log)
        found = _BOOT.search(said)
        run.boot = found[1] if found else None


class _DatabaseFront:
    """Where an InfluxDB's API is, for a link to it."""

    def __init__(self, influxdb: InfluxDb) -> None:
        parts = urlsplit(influxdb.url)
        assert parts.hostname is not None
        assert parts.port is not None
        self.host, self.port = parts.hostname, parts.port


class Rig:
    """The fleet, while it is entered; nothing runs yet but the servers.

    Args:
        directory: for all files.
        nodes: how many.
        broker_extra: further lines of mosquitto's configuration.
        node_settings: of every node, in place of the rig's own.
        collector_settings: of the collector, likewise.
    """

    def __init__(
        self,
        directory: Path,
        *,
        nodes: int,
        broker_extra: str = "",
        node_settings: Mapping[str, str] | None = None,
        collector_settings: Mapping[str, str] | None = None,
    ) -> None:
        self._directory = directory
        self._count = nodes
        self._broker_extra = broker_extra
        self._node_settings = dict(node_settings or {})
        self._collector_settings = dict(collector_settings or {})
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            self._build(stack)
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stack.close()

    def start(self) -> None:
        """The collector first: until it subscribes, a broker keeps nothing for it."""
        self.collector.start()
        wait_until(lambda: "connected to the broker" in self.collector.log(), "a collector")
        for node in self.nodes:
            node.start()

    @property
    def runs(self) -> list[Run]:
        """Every start of every node so far."""
        return [run for node in self.nodes for run in node.runs]

    def forget_broker_data(self) -> None:
        """All that the stopped broker had kept."""
        shutil.rmtree(self._directory / "mosquitto" / "data")
        (self._directory / "mosquitto" / "data").mkdir()

    def dropped_by_broker(self) -> int:
        """Messages that mosquitto has confirmed and then thrown away."""
        with connecting(mqtt(self.broker), "drops", _DROPPED) as peer:
            return int(peer.expect(Received, seconds=30.0).payload)

    def stored(self) -> list[dict[str, Any]]:
        """Every stored window: node, boot, seq, time; by node and time."""
        return self.database.query('SELECT "boot", "seq", "mse" FROM "window" GROUP BY "node"')

    def ledger(self, *options: str) -> tuple[int, list[dict[str, Any]]]:
        """What `earshot collector ledger` says: exit code and boots."""
        done = subprocess.run(
            [sys.executable, "-m", "collector", "ledger", "--json", *options],
            cwd=ROOT,
            env=environment(self._collector_environment),
            capture_output=True,
            text=True,
            check=False,
            timeout=60.0,
        )
        assert done.returncode in (0, 1), done.stderr
        boots: list[dict[str, Any]] = json.loads(done.stdout)
        return done.returncode, boots

    def heal(self) -> None:
        """End whatever is wrong: every part runs, every link passes, no disk is full."""
        if not self.broker.running:
            self.broker.start()
        if not self.database.running:
            self.database.start()
        else:
            self.database.send_signal(signal.SIGCONT)
        for disk in (self.collector_disk, *(node.disk for node in self.nodes)):
            disk.free()
        for link in self.links:
            link.limit(None)
            link.delay(0.0)
            link.resume()
        if not self.collector.running:
            self.collector.start()
        for node in self.nodes:
            if not node.running:
                node.start()

    def settle(self, *, seconds: float = 120.0) -> None:
        """Heal, let everything arrive, and end every node in good order.

        Raises:
            TimeoutError: windows are still on their way, or waiting, after that time.
        """
        self.heal()
        wait_until(self._all_delivered, "nothing to wait any more", seconds=seconds)
        for _ in range(3):
            for node in self.nodes:
                if node.running:
                    node.stop()
            with contextlib.suppress(TimeoutError):
                wait_until(self._all_delivered, "the last windows", seconds=15.0)
                return
            # What could not be delivered at the end is on the disk, for the next start.
            for node in self.nodes:
                node.start()
            wait_until(self._all_delivered, "nothing to wait any more", seconds=seconds)
        raise TimeoutError("nodes end with windows that wait, again and again")

    def _all_delivered(self) -> bool:
        _, boots = self.ledger()
        known = {boot["node"] for boot in boots}
        # A window that is younger than its batch is no sign of trouble.
        running = {node.name for node in self.nodes if node.running}
        return known >= {node.name for node in self.nodes} and all(
            boot["waiting"] + boot["in_transit"] + boot["missing"]
            <= (4 / HOP_SECONDS if boot["node"] in running and boot["end"] == "running" else 0)
            for boot in boots
        )

    def _build(self, stack: ExitStack) -> None:
        directory = self._directory
        directory.mkdir(parents=True, exist_ok=True)
        fast_model(directory / "model")
        self.broker = stack.enter_context(
            Mosquitto(directory / "mosquitto", extra=self._broker_extra)
        )
        self.database = stack.enter_context(InfluxDb(directory / "influxdb"))
        self.collector_disk = stack.enter_context(Disk(directory / "collector-disk"))
        self.collector_link = stack.enter_context(Link(self.broker))
        self.database_link = stack.enter_context(Link(_DatabaseFront(self.database)))
        self._collector_environment = {
            "EARSHOT_MQTT_HOST": self.collector_link.host,
            "EARSHOT_MQTT_PORT": str(self.collector_link.port),
            "EARSHOT_MQTT_KEEPALIVE_SECONDS": "5",
            "EARSHOT_COLLECTOR_STATE_FOLDER": str(self.collector_disk.folder),
            "EARSHOT_COLLECTOR_BATCH_SECONDS": "0.5",
            "EARSHOT_COLLECTOR_RECEIPT_SECONDS": "0.5",
            "EARSHOT_COLLECTOR_GAP_SECONDS": str(GAP_SECONDS),
            "EARSHOT_COLLECTOR_FIGURES_SECONDS": "5",
            "EARSHOT_SINK_KIND": "influxdb",
            "EARSHOT_INFLUXDB_URL": f"http://{self.database_link.host}:{self.database_link.port}",
            "EARSHOT_INFLUXDB_ORG": self.database.org,
            "EARSHOT_INFLUXDB_BUCKET": self.database.bucket,
            "EARSHOT_INFLUXDB_TOKEN": self.database.token,
            "EARSHOT_INFLUXDB_TIMEOUT_SECONDS": "3",
            **self._collector_settings,
        }
        self.collector = Program(
            directory, "collector", ("collector", "run"), self._collector_environment
        )
        stack.callback(self.collector.kill)
        self.nodes = [
            Node(f"press-{number}", directory, self.broker, stack, self._node_settings)
            for number in range(1, self._count + 1)
        ]
        self.links = [self.collector_link, self.database_link, *(n.link for n in self.nodes)]


def fast_model(folder: Path) -> None:
    """The committed model with ten windows a second, so that tests have less to wait for."""
    shutil.copytree(MODEL, folder, ignore=shutil.ignore_patterns("variants", "*.html"))
    manifest_file = folder / "manifest.json"
    manifest = json.loads(manifest_file.read_bytes())
    rate_hz = manifest["features"]["sample_rate_hz"]
    manifest["window_hop_samples"] = round(HOP_SECONDS * rate_hz)
    manifest_file.write_text(json.dumps(manifest))
