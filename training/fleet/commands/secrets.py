"""`earshot fleet secrets`: all that docker-compose.yml needs and nobody else may know.

A certificate authority, the broker's certificate and users, passwords of the database and of
Grafana, and .env. What is there stays as it is.
"""

import argparse

from training.errors import EnrolmentError
from training.fleet.commands.broker_arguments import (
    EXIT_LEFT_TO_DO,
    add_folder,
    add_reload,
    reload_broker,
    say,
    say_certificate,
)

SUMMARY = "make what docker-compose.yml needs: certificates, passwords, tokens"

_ENVIRONMENT = ".env"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options."""
    parser.epilog = (
        f"Exit code {EXIT_LEFT_TO_DO} says that a certificate ends within 60 days (--renew), or"
        " that the broker has still to be told."
    )
    parser.add_argument(
        "--host",
        action="append",
        metavar="HOST",
        help="name or address under which nodes reach the broker, the first one is told to them;"
        " may be given several times (default: this computer's name)",
    )
    add_folder(parser)
    parser.add_argument(
        "--renew",
        action="store_true",
        help="make the broker's certificate anew, by the same authority: nodes need nothing",
    )
    add_reload(parser)


def run(options: argparse.Namespace) -> int:
    """Make all that is missing, and say how long the certificates are good."""
    import datetime as dt
    import socket

    from training.fleet.enrolment.broker_secrets import (
        Secrets,
        broker_certificate,
        write_environment,
    )

    found = Secrets(options.folder)
    now = dt.datetime.now(dt.UTC)
    before = found.hosts()
    hosts = tuple(options.host or before or [socket.gethostname()])
    for host in hosts:
        _check_host(host)
    made = found.make(hosts, now, renew=options.renew)
    kept = broker_certificate(found, now)
    environment = options.folder.absolute().parent / _ENVIRONMENT
    if write_environment(environment, found, kept.hosts[0]):
        made = (*made, str(environment))
    say(f"made {', '.join(made)}" if made else "nothing to make: all is there")
    say_certificate(kept)
    if set(kept.hosts) != set(hosts):
        say(f"the certificate is not for {', '.join(hosts)}: --renew makes one that is")
    left_to_do = 0
    if before and any(name.startswith("mosquitto/") for name in made):
        left_to_do = reload_broker(options)
    return EXIT_LEFT_TO_DO if kept.ends_soon else left_to_do


def _check_host(host: str) -> None:
    if not host.isascii() or not host.replace("-", "").replace(".", "").replace(":", "").isalnum():
        raise EnrolmentError(f"--host: expected a name or an address, got {host[:80]!r}")
