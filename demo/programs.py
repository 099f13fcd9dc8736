"""The fleet's programs as processes of their own, started and ended in order."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from contract import topics
from contract.errors import EarshotError
from contract.messages import CollectorStatus, decode
from contract.session import Received
from contract.settings import ENVIRONMENT_PREFIX, MqttSettings
from contract.states import Presence
from contract.talk import Conversation, passing

_END_SECONDS = 20.0
_START_SECONDS = 30.0
_LEAVE_SECONDS = 5.0


class Program:
    """A process `earshot PACKAGE run`, configured through its environment, alive while entered.

    Args:
        package: `node` or `collector`.
        name: what to call it; names its log file, too.
        directory: where that is.
        settings: environment variables of the program.
    """

    def __init__(
        self, package: str, name: str, *, directory: Path, settings: Mapping[str, str]
    ) -> None:
        self.name = name
        self._log = directory / f"{name}.log"
        # Not the settings that may lie in this folder.
        self._command = [sys.executable, "-m", package, "run", "--config", os.devnull]
        self._environment = {**_inherited(), **settings}
        self._process: subprocess.Popen[bytes] | None = None
        self._asked_to_end = False

    def __enter__(self) -> Self:
        with self._log.open("wb") as log:
            # A session of its own: Ctrl-C is for the demo, which ends its parts in order.
            self._process = subprocess.Popen(
                self._command,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.kill()
            self._process.wait()

    def check(self) -> None:
        """Raises EarshotError with its last words when it has ended by itself."""
        assert self._process is not None, "a program is checked while entered"
        if self._process.poll() is not None:
            raise EarshotError(f"{self.name} ended early: {self._last_words()}")

    def ask_to_end(self) -> None:
        """Send SIGTERM, once: a second one would hit a program that is already leaving."""
        if self._process is not None and not self._asked_to_end:
            self._asked_to_end = True
            self._process.terminate()

    def end(self) -> None:
        """End it in good order; raises EarshotError when it did not go well."""
        assert self._process is not None, "a program is ended while entered"
        self.ask_to_end()
        try:
            code = self._process.wait(_END_SECONDS)
        except subprocess.TimeoutExpired as error:
            raise EarshotError(f"{self.name} did not end within {_END_SECONDS:g} s") from error
        if code != 0:
            raise EarshotError(f"{self.name} ended with exit code {code}: {self._last_words()}")

    def _last_words(self) -> str:
        lines = self._log.read_text(errors="replace").strip().splitlines()
        return lines[-1] if lines else "it said nothing"


def run_command(words: Sequence[str]) -> int:
    """Run `earshot WORDS` to its end, its output where ours goes, and give the exit code.

    An interruption of ours is one of its own, so that it can say what it leaves.
    """
    with subprocess.Popen(
        [sys.executable, "-m", "earshot", *words],
        env=_inherited(),
        stdin=subprocess.DEVNULL,
        # One stream, in order, also where the demo's output goes to a file.
        stderr=subprocess.STDOUT,
        start_new_session=True,
    ) as command:
        try:
            return command.wait()
        except BaseException:
            command.send_signal(signal.SIGINT)
            try:
                command.wait(_LEAVE_SECONDS)
            except subprocess.TimeoutExpired:
                command.kill()
            raise


def wait_for_collector(collector: Program, settings: MqttSettings, collector_id: str) -> None:
    """Wait until a collector says that it is online, and so subscribed.

    Not every broker tells a node that nobody listens yet (iotcore does not); windows published
    before would be gone.

    Raises:
        EarshotError: it has ended, or says nothing for too long.
    """
    options = passing("demo", topics.collector_status(collector_id))
    with Conversation(settings, options) as talk:
        deadline = time.monotonic() + _START_SECONDS
        while time.monotonic() < deadline:
            collector.check()
            event = talk.next(0.2)
            if isinstance(event, Received):
                status = decode(event.topic, event.payload)
                if isinstance(status, CollectorStatus) and status.state is Presence.ONLINE:
                    return
    raise EarshotError(f"{collector.name} was not online within {_START_SECONDS:g} s")


def _inherited() -> dict[str, str]:
    """Our environment, without settings of the user's own fleet."""
    return {k: v for k, v in os.environ.items() if not k.startswith(ENVIRONMENT_PREFIX)}
