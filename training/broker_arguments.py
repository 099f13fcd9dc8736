"""What the commands take that decide who may talk to the broker: `secrets`, `enroll`, `revoke`."""

import argparse
from collections.abc import Callable
from pathlib import Path

from contract.broker_options import host_and_port

Add = Callable[[str, str], argparse.ArgumentParser]
"""Adds a command by its name and what it does."""

BROKER_COMMANDS = ("secrets", "enroll", "revoke")

EXIT_ENDS_SOON = 1
"""Of `secrets`: a certificate has to be renewed."""


def add_broker_commands(add: Add) -> None:
    """Declare them all."""
    secrets = add("secrets", "make what docker-compose.yml needs: certificates, passwords, tokens")
    secrets.description = (
        "Make what docker-compose.yml needs: a certificate authority, the broker's certificate and"
        " users, passwords of the database and of Grafana, and .env. What is there stays as it is."
    )
    secrets.epilog = (
        f"Exit code {EXIT_ENDS_SOON} says that a certificate ends within 60 days: --renew."
    )
    secrets.add_argument(
        "--host",
        action="append",
        metavar="HOST",
        help="name or address under which nodes reach the broker, the first one is told to them;"
        " may be given several times (default: this computer's name)",
    )
    _add_folder(secrets)
    secrets.add_argument(
        "--renew",
        action="store_true",
        help="make the broker's certificate anew, by the same authority: nodes need nothing",
    )
    _add_reload(secrets)

    enroll = add("enroll", "let a node talk to the broker, and write the bundle that it needs")
    enroll.epilog = (
        "A node that was enrolled before gets a new password, and the old one is void at once."
    )
    enroll.add_argument("node", metavar="NODE", help="its id: also its user name and client id")
    enroll.add_argument("--group", metavar="GROUP", help="nodes that get the same releases")
    enroll.add_argument(
        "--broker",
        type=host_and_port,
        metavar="HOST[:PORT]",
        help="how the node reaches the broker (default: the first host of its certificate)",
    )
    enroll.add_argument(
        "--source",
        metavar="SPEC",
        help="what it hears: microphone:KEY or synthetic:fan (default: the usual microphone)",
    )
    enroll.add_argument("--model", metavar="DIR", help="release folder on the node")
    enroll.add_argument(
        "--release-keys",
        type=Path,
        metavar="FILE",
        help="public keys whose releases it takes (default: release-keys.pem in the folder of the"
        " secrets; without it the node takes no updates)",
    )
    enroll.add_argument(
        "--out",
        type=Path,
        metavar="PATH",
        help="the bundle: FILE.tar to carry to a Pi, or a folder for a container (default:"
        " nodes/NODE.tar in the folder of the secrets)",
    )
    _add_folder(enroll)
    _add_reload(enroll)

    revoke = add("revoke", "take a node's login away, and end its connection")
    revoke.add_argument("node", metavar="NODE")
    _add_folder(revoke)
    _add_reload(revoke)


def _add_folder(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--folder",
        type=Path,
        default=Path("secrets"),
        metavar="DIR",
        help="of the secrets (default: secrets)",
    )


def _add_reload(parser: argparse.ArgumentParser) -> None:
    how = parser.add_mutually_exclusive_group()
    how.add_argument(
        "--pid",
        type=int,
        metavar="N",
        help="process id of a mosquitto that runs here by itself, to have it read its files again"
        " (default: the one of docker compose)",
    )
    how.add_argument(
        "--no-reload", action="store_true", help="leave it to you to tell the broker (SIGHUP)"
    )
