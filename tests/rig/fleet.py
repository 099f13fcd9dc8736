"""Programs of the fleet as subprocesses, and an ear on the broker, for system tests."""

import atexit
import os
import queue
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar

from contract import topics
from contract.messages import Account, Backlog, Message, Receipt, Window, decode, encode
from contract.ranges import runs
from contract.session import (
    Publication,
    Received,
    Session,
    SessionEvent,
    SessionOptions,
    Subscribed,
    Subscription,
)
from contract.settings import ENVIRONMENT_PREFIX, MqttSettings
from tests.rig.servers import Mosquitto, wait_until

ROOT = Path(__file__).parents[2]
MODEL = ROOT / "models" / "fan-synthetic"

_STATE_FOLDERS = tempfile.mkdtemp(prefix="earshot-tests-")
atexit.register(shutil.rmtree, _STATE_FOLDERS, ignore_errors=True)

Kind = TypeVar("Kind", bound=Message)


class Listener:
    """Hears everything that nodes say, as a collector with a session of its own would."""

    def __init__(self, broker: Mosquitto) -> None:
        self._lock = threading.Lock()
        self._messages: list[Message] = []
        self._subscribed = threading.Event()
        options = SessionOptions(
            client_id="listener",
            expiry_seconds=300,
            receive_maximum=1000,
            subscriptions=tuple(
                Subscription(topic_filter=topics.every_node(kind), retained=False)
                for kind in topics.FROM_NODE
            ),
        )
        self._session = Session(
            MqttSettings(host=broker.host, port=broker.port), options, self._hear
        )

    def __enter__(self) -> Self:
        self._session.start()
        assert self._subscribed.wait(10), "the listener was not let in"
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._session.stop()

    def all_of(self, kind: type[Kind]) -> list[Kind]:
        """Messages of that kind so far, in order of arrival."""
        with self._lock:
            return [message for message in self._messages if isinstance(message, kind)]

    def windows(self) -> list[Window]:
        """Windows so far, live and late, in order of their numbers, none left out or twice."""
        found = self.all_of(Window)
        for backlog in self.all_of(Backlog):
            found += backlog.windows
        return sorted(found, key=lambda window: window.seq)

    def wait_for_windows(self, count: int, *, seconds: float = 60.0) -> None:
        """Until so many windows have come."""
        wait_until(lambda: len(self.windows()) >= count, f"{count} windows", seconds=seconds)

    def _hear(self, event: SessionEvent) -> None:
        if isinstance(event, Subscribed):
            self._subscribed.set()
        if isinstance(event, Received):
            with self._lock:
                self._messages.append(decode(event.topic, event.payload))


class ReceiptingCollector(Listener):
    """A listener that says what it has, as a collector does once it is stored.

    Not here: what a database may do to it; the real collector's tests have that.
    """

    def __init__(self, broker: Mosquitto) -> None:
        super().__init__(broker)
        self._stored: dict[tuple[str, str], set[int]] = {}
        self._boots: queue.SimpleQueue[tuple[str, str] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._receipt, name="receipts", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return super().__enter__()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._boots.put(None)
        self._thread.join(10)
        super().__exit__(kind, error, trace)

    def account(self, boot: str) -> Account | None:
        """The newest account of a boot."""
        found = [account for account in self.all_of(Account) if account.boot == boot]
        return found[-1] if found else None

    def has_all(self, boot: str) -> bool:
        """Whether the node has said that nothing of a boot waits any more."""
        account = self.account(boot)
        return account is not None and not account.waiting

    def has_ended(self, boot: str) -> bool:
        """Whether the node has said that a boot is over."""
        account = self.account(boot)
        return account is not None and account.ended

    def _hear(self, event: SessionEvent) -> None:
        super()._hear(event)
        if isinstance(event, Received):
            message = decode(event.topic, event.payload)
            windows = message.windows if isinstance(message, Backlog) else (message,)
            for window in windows:
                if isinstance(window, Window):
                    key = (window.node, window.boot)
                    self._stored.setdefault(key, set()).add(window.seq)
            if isinstance(message, Backlog | Window):
                self._boots.put((message.node, message.boot))

    def _receipt(self) -> None:
        while (key := self._boots.get()) is not None:
            ranges = list(runs(sorted(self._stored[key].copy())))[-100:]
            receipt = Receipt(
                node=key[0],
                boot=key[1],
                at_us=time.time_ns() // 1000,
                stored_from=ranges[0][0],
                stored_up_to=ranges[-1][1],
                holes=tuple((one[1] + 1, other[0] - 1) for one, other in pairwise(ranges)),
            )
            topic = topics.node(receipt.node, receipt.KIND)
            self._session.publish(Publication(topic=topic, payload=encode(receipt), retain=True))


def environment(settings: Mapping[str, str]) -> dict[str, str]:
    """Our environment, with these settings and no others of earshot's."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(ENVIRONMENT_PREFIX)}
    return {**kept, **settings}


@contextmanager
def broker_of_a_few_lines(answers: Callable[[bytes], bytes]) -> Iterator[MqttSettings]:
    """Takes connections one after the other, and answers each packet as it is told."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        settings = MqttSettings(host="127.0.0.1", port=server.getsockname()[1])

        def serve() -> None:
            while True:
                try:
                    connection, _ = server.accept()
                except OSError:
                    return
                with connection:
                    while packet := connection.recv(4096):
                        connection.sendall(answers(packet))

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield settings
        server.shutdown(socket.SHUT_RDWR)
    thread.join(5)


def node_settings(broker: Mosquitto | None, source: str, **more: str) -> dict[str, str]:
    """Settings of a node that remembers nothing, as environment variables.

    Args:
        broker: None for a node that never connects.
        source: what it hears.
        more: further settings, without the prefix.
    """
    found = {
        "EARSHOT_NODE_ID": "press-07",
        "EARSHOT_NODE_STATE_FOLDER": tempfile.mkdtemp(dir=_STATE_FOLDERS),
        "EARSHOT_MODEL_FOLDER": str(MODEL),
        "EARSHOT_SOURCE_SPEC": source,
        # A listener sends no receipts.
        "EARSHOT_OUTBOX_RECEIPTS": "broker",
        # The clock of a container may never be synchronised.
        "EARSHOT_CLOCK_WAIT_SECONDS": "0",
    }
    if broker is not None:
        found |= {"EARSHOT_MQTT_HOST": broker.host, "EARSHOT_MQTT_PORT": str(broker.port)}
    return found | {ENVIRONMENT_PREFIX + name: value for name, value in more.items()}


class Program(subprocess.Popen[str]):
    """A program that is killed when its `with` is left: a test that fails leaves none behind."""

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.kill()
        super().__exit__(kind, value, traceback)


def start(package: str, *arguments: str, settings: Mapping[str, str]) -> Program:
    """`python -m PACKAGE ARGUMENTS` in the background, for a `with`."""
    return Program(
        [sys.executable, "-m", package, *arguments],
        cwd=ROOT,
        env=environment(settings),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def run(
    package: str, *arguments: str, settings: Mapping[str, str], seconds: float = 300.0
) -> subprocess.CompletedProcess[str]:
    """`python -m PACKAGE ARGUMENTS` until it ends."""
    with start(package, *arguments, settings=settings) as program:
        out, err = program.communicate(timeout=seconds)
    return subprocess.CompletedProcess(program.args, program.returncode, out, err)
