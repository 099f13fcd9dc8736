"""Brokers of a test's own: mosquitto, and one that answers whatever a test wants."""

import os
import re
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from contract.settings import MqttSettings
from tests.rig.certificates import Certificate, CertificateAuthority
from tests.rig.installed import require
from tests.rig.ports import free_port
from tests.rig.server import Server, run_tool
from tests.rig.waiting import wait_until

SHIPPED_CONFIGURATION: Final = Path(__file__).parents[2] / "collector" / "broker" / "mosquitto.conf"
"""What earshot ships for its broker, and what tests run theirs with."""

CONNECT: Final = b"\x10\x0c\x00\x04MQTT\x04\x02\x00\x05\x00\x00"
"""MQTT 3.1.1 CONNECT: clean session, keep-alive 5 s, no client identifier."""


class Mosquitto(Server):
    """A mosquitto broker with persistence.

    Args:
        directory: Its own; made if absent.
        users: Passwords by user name. Without users anybody may connect.
        acl: Text of an ACL file.
        tls: A private CA and a certificate for `localhost` and 127.0.0.1. With users they log in
            by password; without, a client certificate is required and its name is the user.
        extra: Further lines of configuration, after those of the listener; they win.
        shipped: Whether it is set as earshot's own broker is, or as mosquitto is by default.
    """

    def __init__(
        self,
        directory: Path,
        *,
        users: dict[str, str] | None = None,
        acl: str | None = None,
        tls: bool = False,
        extra: str = "",
        shipped: bool = True,
    ) -> None:
        (directory / "data").mkdir(parents=True, exist_ok=True)
        config_file = directory / "mosquitto.conf"
        super().__init__(
            directory, [require("mosquitto"), "-c", str(config_file)], port=free_port()
        )
        self._authority = CertificateAuthority(directory / "certificates") if tls else None
        self._tls = self._authority.client_context("probe") if self._authority else None
        own = {
            "persistence_location": f"{directory}/data/",
            "listener": f"{self.port} {self.host}",
        }
        base = SHIPPED_CONFIGURATION.read_text("utf-8") if shipped else ""
        lines = [_with_own(base, own), "log_type all"]
        if os.geteuid() == 0:
            # Else it turns into user `mosquitto`, who cannot write to a directory of root's.
            lines.append("user root")
        lines += self._identity_lines(users)
        if acl is not None:
            lines.append(f"acl_file {_write_private(directory / 'acl', acl)}")
        config_file.write_text("\n".join([*lines, extra, ""]))

    @property
    def url(self) -> str:
        """`mqtt://` or, with TLS, `mqtts://`."""
        return f"{'mqtts' if self._authority else 'mqtt'}://{self.host}:{self.port}"

    @property
    def ca_file(self) -> Path:
        """The CA that signed its certificate; only with `tls=True`."""
        return self._required_authority.ca_file

    def client_certificate(self, name: str) -> Certificate:
        """A new client certificate for this user name; only with `tls=True`."""
        return self._required_authority.client(name)

    def save(self) -> None:
        """Write to disk now all that the broker has acknowledged, so that a SIGKILL spares it."""
        before = self._saved()
        self.send_signal(signal.SIGUSR1)
        try:
            wait_until(lambda: self._saved() not in {None, before}, "a saved database")
        except TimeoutError as error:
            raise self._error(str(error)) from error

    @property
    def _required_authority(self) -> CertificateAuthority:
        if self._authority is None:
            raise ValueError("Expected Mosquitto(..., tls=True), got a broker without TLS")
        return self._authority

    def _identity_lines(self, users: dict[str, str] | None) -> list[str]:
        lines = []
        if self._authority is not None:
            server = self._authority.server()
            lines += [
                f"cafile {self._authority.ca_file}",
                f"certfile {server.cert_file}",
                f"keyfile {server.key_file}",
            ]
        if users is not None:
            password_file = _write_private(self._directory / "passwords", "")
            for user, password in users.items():
                # One by one: -U, which converts a whole file, cuts a password at its colon.
                run_tool([require("mosquitto_passwd"), "-b", str(password_file), user, password])
            lines += ["allow_anonymous false", f"password_file {password_file}"]
        elif self._authority is not None:
            lines += ["require_certificate true", "use_identity_as_username true"]
            lines += ["allow_anonymous false"]
        else:
            lines += ["allow_anonymous true"]
        return lines

    def _saved(self) -> tuple[int, int] | None:
        # Each save is a new file renamed over the old one.
        try:
            status = (self._directory / "data" / "mosquitto.db").stat()
        except FileNotFoundError:
            return None
        return status.st_ino, status.st_mtime_ns

    def _answers(self) -> bool:
        connection = socket.create_connection((self.host, self.port), timeout=1.0)
        try:
            if self._tls is not None:
                connection = self._tls.wrap_socket(connection, server_hostname=self.host)
            connection.sendall(CONNECT)
            return connection.recv(1) == b"\x20"  # CONNACK, be it a refusal.
        finally:
            connection.close()


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


def _with_own(configuration: str, own: dict[str, str]) -> str:
    """A mosquitto.conf with these settings in place of its own, or after them where it has none."""
    for name, value in own.items():
        line = f"{name} {value}"
        configuration, count = re.subn(
            rf"^{name} .*$", line.replace("\\", r"\\"), configuration, flags=re.MULTILINE
        )
        configuration += "" if count else f"{line}\n"
    return configuration


def _write_private(file: Path, text: str) -> Path:
    file.touch(mode=0o600)  # mosquitto warns of passwords and ACLs that others can read.
    file.write_text(text)
    return file
