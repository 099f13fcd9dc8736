"""Calls in a process of their own, done and timed there one by one, as another process asks.

Each line on standard input, a name and a number, is answered with one line of JSON. What two
programs cost is compared like this: neither has the other's memory, threads or settings.
"""

import json
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self


def say(**facts: object) -> None:
    """One line of JSON for the other end."""
    print(json.dumps(facts), flush=True)  # noqa: T201 - the answer


def serve(calls: Mapping[str, Callable[[int], object]]) -> None:
    """Do as asked until standard input ends; what a call gives is told if it is a number."""
    for line in sys.stdin:
        name, number = line.split()
        started = time.perf_counter()
        found = calls[name](int(number))
        milliseconds = (time.perf_counter() - started) * 1000
        say(ms=milliseconds, value=found if isinstance(found, float) else None)


class ServedProcess:
    """The other end."""

    def __init__(
        self, command: Sequence[str], *, folder: Path, environment: Mapping[str, str]
    ) -> None:
        self._process = subprocess.Popen(
            command,
            cwd=folder,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        self.greeting: dict[str, Any] = {}
        """What it said before the first call."""

    def __enter__(self) -> Self:
        self.greeting = self._answer()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with self._process:
            if error is not None:
                self._process.kill()

    def call(self, name: str, number: int) -> dict[str, Any]:
        """Have one thing done once."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{name} {number}\n")
        self._process.stdin.flush()
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError("a process that was to be measured has ended; run it by hand")
        found: dict[str, Any] = json.loads(line)
        return found
