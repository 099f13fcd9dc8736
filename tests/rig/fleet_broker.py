"""The broker of docker-compose.yml, started here: its configuration, its rules, its secrets."""

import datetime as dt
import itertools
import os
import socket
import ssl
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Final

from contract.settings import MqttSettings
from tests.rig.brokers import CONNECT
from tests.rig.installed import require
from tests.rig.peers import Peer, connected
from tests.rig.ports import HOST, free_port
from tests.rig.programs import ROOT
from tests.rig.server import Server
from training.fleet.enrolment import access_rules
from training.fleet.enrolment.broker_secrets import Secrets
from training.fleet.enrolment.enrol import Enrolment, enrol

CONFIGURATION: Final = ROOT / "collector" / "broker" / "fleet.conf"


class FleetBroker(Server):
    """A mosquitto with `fleet.conf`: only its port and the places of its files are others.

    Args:
        directory: its own.
        hosts: what its certificate is for, beside `localhost`.
        made: when its certificates were made.
    """

    def __init__(
        self,
        directory: Path,
        *,
        hosts: tuple[str, ...] = (HOST,),
        made: dt.datetime | None = None,
    ) -> None:
        (directory / "data").mkdir(parents=True)
        self.configuration = directory / "mosquitto.conf"
        command = [require("mosquitto"), "-c", str(self.configuration)]
        super().__init__(directory, command, port=free_port())
        self.secrets = Secrets(directory / "secrets")
        self.secrets.make(hosts, made or dt.datetime.now(dt.UTC))
        self._bundles = directory / "bundles"
        self._numbers = itertools.count()
        text = CONFIGURATION.read_text("utf-8")
        for there, here in (
            ("listener 8883", f"listener {self.port} {HOST}"),
            ("/etc/earshot/secrets/", f"{self.secrets.folder}/mosquitto/"),
            ("/mosquitto/data/", f"{directory}/data/"),
        ):
            assert there in text, f"{CONFIGURATION.name} has changed: no {there}"
            text = text.replace(there, here)
        # Else it turns into user `mosquitto`, who cannot write to a directory of root's.
        user = "user root\n" if os.geteuid() == 0 else ""
        self.configuration.write_text(f"{text}log_type all\n{user}")

    @property
    def pid(self) -> int:
        """Of the process that reads its files again at SIGHUP."""
        assert self._process is not None, "a broker is signalled while it runs"
        return self._process.pid

    def enrol(self, node: str, group: str | None = None) -> Path:
        """The bundle of a node, as a folder; the broker has still to be told."""
        bundle = self._bundles / node
        enrol(self.secrets, Enrolment(node=node, group=group, host=HOST, port=self.port), bundle)
        return bundle

    def settings(self, user: str) -> MqttSettings:
        """How this user, a node or another, gets in."""
        if user in (access_rules.COLLECTOR, access_rules.OPERATOR):
            file = self.secrets.folder / user / "mqtt-password"
        elif user == access_rules.HEALTH:
            return self._with_password(user, self._health_password())
        else:
            file = self._bundles / user / "password"
        return self._with_password(user, file.read_text().strip())

    def peer(self, user: str, *filters: str) -> AbstractContextManager[Peer]:
        """A connection of this user that stands."""
        return connected(self.settings(user), f"{user}-{next(self._numbers)}", *filters)

    def certificate(self) -> str:
        """What it shows to whoever connects, in PEM."""
        return ssl.get_server_certificate((self.host, self.port))

    def _with_password(self, user: str, password: str) -> MqttSettings:
        return MqttSettings(
            host=self.host,
            port=self.port,
            tls=True,
            ca_file=str(self.secrets.authority_file),
            username=user,
            password=password,
        )

    def _health_password(self) -> str:
        login = (self.secrets.folder / "mosquitto" / "mosquitto_sub").read_text()
        return login.partition("-P ")[2].strip()

    def _answers(self) -> bool:
        # Its certificate may be one that nobody takes: it answers all the same.
        context = ssl.create_default_context()
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        with (
            socket.create_connection((self.host, self.port), timeout=1.0) as plain,
            context.wrap_socket(plain) as connection,
        ):
            connection.sendall(CONNECT)
            return connection.recv(1) == b"\x20"  # CONNACK: a refusal, nobody has said who he is.


@contextmanager
def fleet_broker(directory: Path) -> Iterator[FleetBroker]:
    """One that runs, with press-07 in line-2 and press-08 in no group."""
    broker = FleetBroker(directory)
    broker.enrol("press-07", "line-2")
    broker.enrol("press-08")
    with broker:
        yield broker
