"""A server as a process of its own, which a test starts, stops and kills.

It lives in a directory of its own and on a loopback port of its own. Entering it as a context
manager starts it; leaving kills it, and so does the kernel when the test process dies. `stop()`
is SIGTERM, `kill()` is SIGKILL, and `start()` comes back with the same port and data.
"""

import http.client
import os
import shutil
import signal
import subprocess
from pathlib import Path
from typing import Final, Self

from tests.rig.ports import HOST, is_free
from tests.rig.waiting import wait_until

_START_SECONDS: Final = 30.0
_STOP_SECONDS: Final = 20.0
_LOG_TAIL_LINES: Final = 30


class ServerError(Exception):
    """A server did not do what a test asked of it; the text ends with the tail of its log."""


class Server:
    """One process: a command, a port, a log file, and a question that shows that it answers."""

    def __init__(self, directory: Path, command: list[str], *, port: int) -> None:
        self.host = HOST
        self.port = port
        self.log_file = directory / f"{Path(command[0]).name}.log"
        self._directory = directory
        self._command = [*_dies_with_us(), *command]
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.kill()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    @property
    def running(self) -> bool:
        """False after `stop`, after `kill`, and after a crash."""
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Start and wait for the first answer.

        Call it from a thread that outlives the server: the kernel kills a server when the
        thread that started it ends.

        Raises:
            ServerError: It is running already, its port is taken, it exited, or it is silent.
        """
        if self.running:
            raise self._error("Expected a stopped server, got a running one")
        if not is_free(self.port):
            # A stranger there would answer the question below in the server's place.
            raise self._error(f"Expected port {self.port} to be free, got a listener")
        with self.log_file.open("ab") as log:
            self._process = subprocess.Popen(
                self._command,
                cwd=self._directory,
                env=_environment(self._directory),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # Ctrl-C is for pytest, whose finalizers stop the server.
            )
        try:
            wait_until(self._has_exited_or_answers, "an answer", seconds=_START_SECONDS)
        except TimeoutError as error:
            self.kill()
            raise self._error(str(error)) from error
        if not self.running:
            status, self._process = self._process.returncode, None
            raise self._error(f"Expected a running server, got exit status {status}")

    def stop(self) -> None:
        """SIGTERM, and wait until it has left in good order; nothing on a stopped server.

        Raises:
            ServerError: It had crashed before, or does not leave.
        """
        process, self._process = self._process, None
        if process is None:
            return
        if process.poll() is not None:
            raise self._error(f"Expected a running server, got exit status {process.returncode}")
        process.terminate()
        try:
            process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired as error:
            process.kill()
            process.wait()
            raise self._error(f"Expected an exit within {_STOP_SECONDS:g} s of SIGTERM") from error

    def kill(self) -> None:
        """SIGKILL, and wait until it is gone; nothing on a stopped server."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait()

    def send_signal(self, number: signal.Signals) -> None:
        """Any other signal, SIGSTOP and SIGCONT among them."""
        if self._process is None or self._process.poll() is not None:
            raise self._error("Expected a running server, got a stopped one")
        self._process.send_signal(number)

    def log(self) -> str:
        """Everything it has logged, over all its starts."""
        return self.log_file.read_text("utf-8", "replace") if self.log_file.exists() else ""

    def _answers(self) -> bool:
        """True once it does its work, not merely once the kernel accepts for it."""
        raise NotImplementedError

    def _has_exited_or_answers(self) -> bool:
        if not self.running:
            return True
        try:
            return self._answers()
        except (OSError, http.client.HTTPException):
            return False

    def _error(self, text: str) -> ServerError:
        tail = "\n".join(self.log().splitlines()[-_LOG_TAIL_LINES:]) or "(empty)"
        return ServerError(f"{self.log_file.stem}: {text}\n{self.log_file}:\n{tail}")


def run_tool(command: list[str]) -> None:
    """Run a program that prepares something for a server until it ends.

    Raises:
        ServerError: It failed; the text has what it printed.
    """
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise ServerError(f"{command} exited with {done.returncode}:\n{done.stderr}")


def _dies_with_us() -> list[str]:
    # The kernel's PR_SET_PDEATHSIG covers a pytest that dies by SIGKILL. setpriv (util-linux)
    # sets it without a preexec_fn, which can deadlock beside the threads of a client.
    setpriv = shutil.which("setpriv")
    return [setpriv, "--pdeathsig", "KILL", "--"] if setpriv else []


def _environment(directory: Path) -> dict[str, str]:
    # Ours could change the servers: INFLUXDB_* override the configuration, OPENSSL_CONF the TLS.
    return {"HOME": str(directory), "PATH": os.environ.get("PATH", os.defpath), "TZ": "UTC"}
