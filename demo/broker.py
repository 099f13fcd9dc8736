"""A broker of the demo's own, on a free port of this machine: mosquitto, else iotcore (rumqttd)."""

import os
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Self

from contract.errors import EarshotError

_HOST = "127.0.0.1"
_READY_SECONDS = 10.0

# Debian puts mosquitto where an ordinary user's PATH does not look.
_PATH = os.pathsep.join((os.environ.get("PATH", ""), "/usr/sbin", "/usr/local/sbin"))

_MOSQUITTO = """\
listener {port} {host}
allow_anonymous true
persistence false
# The default (1000) would silently drop what the collector has not fetched yet.
max_queued_messages 100000
"""

# rumqttd speaks MQTT 5 only where a [v5] server is configured; its default payload limit of 2 kB
# (20 kB in most examples) is below a backlog of 50 windows.
_RUMQTTD = """\
id = 0
[router]
id = 0
max_connections = 100
max_outgoing_packet_count = 200
max_segment_size = 104857600
max_segment_count = 10
[v5.1]
name = "v5-1"
listen = "{host}:{port}"
next_connection_delay_ms = 1
[v5.1.connections]
connection_timeout_ms = 60000
max_payload_size = 1048576
max_inflight_count = 200
dynamic_filters = true
"""


class Broker:
    """A broker that lives while entered.

    Args:
        directory: for its configuration and log.
        name: `mosquitto` or `iotcore`; None takes mosquitto where it is installed.
    """

    def __init__(self, directory: Path, name: str | None = None) -> None:
        self.host = _HOST
        self.port = _free_port()
        mosquitto = shutil.which("mosquitto", path=_PATH)
        self.name = name or ("mosquitto" if mosquitto else "iotcore")
        self._log = directory / "broker.log"
        template = _MOSQUITTO if self.name == "mosquitto" else _RUMQTTD
        configuration = directory / f"{self.name}.toml"  # iotcore goes by the suffix
        configuration.write_text(template.format(host=self.host, port=self.port))
        self._command = (
            [mosquitto or "mosquitto", "-c", str(configuration)]
            if self.name == "mosquitto"
            else [sys.executable, "-m", "iotcore", "--config", str(configuration)]
        )
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        with self._log.open("wb") as log:
            # A session of its own: Ctrl-C is for the demo, which ends its parts in order.
            self._process = subprocess.Popen(
                self._command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        deadline = time.monotonic() + _READY_SECONDS
        while time.monotonic() < deadline and self._process.poll() is None:
            try:
                socket.create_connection((self.host, self.port), timeout=1).close()
            except OSError:
                time.sleep(0.05)
            else:
                return self
        self._end()
        tail = self._log.read_text(errors="replace").strip().splitlines()[-1:]
        raise EarshotError(f"{self.name} did not start: {' '.join(tail) or 'no word from it'}")

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._end()

    def _end(self) -> None:
        if self._process is None:
            return
        self._process.terminate()
        try:
            self._process.wait(5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((_HOST, 0))
        port: int = probe.getsockname()[1]
        return port
