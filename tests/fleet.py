"""Programs of the fleet as subprocesses, and an ear on the broker, for system tests."""

import atexit
import os
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar

from contract import topics
from contract.messages import Backlog, Message, Window, decode
from contract.session import (
    Received,
    Session,
    SessionEvent,
    SessionOptions,
    Subscribed,
    Subscription,
)
from contract.settings import ENVIRONMENT_PREFIX, MqttSettings
from tests.servers import Mosquitto, wait_until

ROOT = Path(__file__).parents[1]
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


def environment(settings: Mapping[str, str]) -> dict[str, str]:
    """Our environment, with these settings and no others of earshot's."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(ENVIRONMENT_PREFIX)}
    return {**kept, **settings}


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
