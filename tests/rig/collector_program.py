"""The collector as a program, and sessions that talk to it, for tests with real servers."""

import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Self

from contract.messages import CollectorStatus, DeadLetter, Message, decode, encode
from contract.session import (
    Publication,
    Received,
    SessionEvent,
    SessionOptions,
    Subscription,
)
from contract.states import PresenceReason
from tests.rig.brokers import Mosquitto
from tests.rig.databases import InfluxDb
from tests.rig.examples import topic_of
from tests.rig.peers import Peer, mqtt

ROOT = Path(__file__).parents[2]


class Client(Peer):
    """A session of a test: publishes, and keeps what it hears."""

    def __init__(self, broker: Mosquitto, client_id: str, *heard: str) -> None:
        options = SessionOptions(
            client_id=client_id,
            expiry_seconds=60,
            subscriptions=tuple(Subscription(topic_filter=f) for f in heard),
        )
        super().__init__(mqtt(broker), options, see=self._keep)
        self.received: list[Received] = []

    def __enter__(self) -> Self:
        super().__enter__()
        assert self.open(seconds=60.0)
        return self

    def publish(self, *messages: Message | Publication) -> None:
        """Publish, and wait until the broker has them all."""
        answers = self.say(publication_of(message) for message in messages)
        assert all(answer.accepted for answer in answers)

    def heard(self) -> list[Message]:
        """Messages so far."""
        while self.next(0.0) is not None:
            pass
        return [decode(r.topic, r.payload) for r in self.received]

    def letters(self) -> list[DeadLetter]:
        """Dead letters so far."""
        return [message for message in self.heard() if isinstance(message, DeadLetter)]

    def presence(self) -> PresenceReason | None:
        """The collector's last status."""
        found = [m.reason for m in self.heard() if isinstance(m, CollectorStatus)]
        return found[-1] if found else None

    def _keep(self, event: SessionEvent) -> None:
        if isinstance(event, Received):
            self.received.append(event)


class Program:
    """`python -m collector` with a settings file; its output goes to files."""

    def __init__(
        self, directory: Path, settings: str, *, environment: Mapping[str, str] | None = None
    ) -> None:
        directory.mkdir(exist_ok=True)
        self.config_file = directory / "collector.toml"
        self.config_file.write_text(settings)
        self.state_folder = directory / "state"
        self._error_file = directory / "stderr"
        self._environment = environment or {}
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def log(self) -> str:
        return self._error_file.read_text() if self._error_file.exists() else ""

    @property
    def environment(self) -> dict[str, str]:
        own = {"EARSHOT_COLLECTOR_STATE_FOLDER": str(self.state_folder)}
        return {**os.environ, **own, **self._environment}

    def rss_bytes(self) -> int:
        """Memory that it holds now."""
        assert self._process is not None
        return int(Path(f"/proc/{self._process.pid}/statm").read_text().split()[1]) * 4096

    def start(self) -> None:
        with self._error_file.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "collector", "run", "--config", str(self.config_file)],
                cwd=ROOT,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def terminate(self) -> int:
        assert self._process is not None
        self._process.send_signal(signal.SIGTERM)
        return self._process.wait(15.0)

    def wait(self) -> int:
        assert self._process is not None
        return self._process.wait(15.0)


@contextmanager
def running(program: Program) -> Iterator[Program]:
    program.start()
    try:
        yield program
    finally:
        program.kill()


def sqlite_settings(broker: Mosquitto, database: Path) -> str:
    return (
        f'[mqtt]\nhost = "{broker.host}"\nport = {broker.port}\n'
        f'[collector]\nbatch_seconds = 0.1\n[sqlite]\npath = "{database}"\n'
    )


def influxdb_settings(broker: Mosquitto, server: InfluxDb) -> str:
    return (
        f'[mqtt]\nhost = "{broker.host}"\nport = {broker.port}\n'
        f'[collector]\nbatch_seconds = 0.1\n[sink]\nkind = "influxdb"\n[influxdb]\n'
        f'url = "{server.url}"\norg = "{server.org}"\nbucket = "{server.bucket}"\n'
        f'token = "{server.token}"\n'
    )


def query(database: Path, sql: str) -> Sequence[tuple[object, ...]]:
    with closing(sqlite3.connect(database)) as connection:
        return connection.execute(sql).fetchall()


def stored_seqs(database: Path) -> list[object]:
    return [seq for (seq,) in query(database, 'SELECT seq FROM "window" ORDER BY seq')]


def stored_count(database: Path) -> int:
    with closing(sqlite3.connect(database)) as connection:
        return int(connection.execute('SELECT count(*) FROM "window"').fetchone()[0])


def publication_of(message: Message | Publication) -> Publication:
    """A message as its node publishes it."""
    if isinstance(message, Publication):
        return message
    return Publication(topic=topic_of(message), payload=encode(message))
