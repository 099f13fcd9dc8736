"""`secrets`, `enroll` and `revoke`: who may talk to the broker."""

import argparse
import datetime as dt
import socket
from pathlib import Path

from contract.printable import printable
from training.broker_arguments import EXIT_ENDS_SOON
from training.errors import EnrolmentError
from training.fleet.enrolment import broker_reload
from training.fleet.enrolment.broker_secrets import Secrets, Status, status, write_environment
from training.fleet.enrolment.enrol import EXAMPLE_MODEL, Enrolment, enrol, revoke

_ENVIRONMENT = ".env"


def run(name: str, options: argparse.Namespace) -> int:
    """Run one of them."""
    commands = {"secrets": make_secrets, "enroll": enroll, "revoke": revoke_node}
    return commands[name](options)


def make_secrets(options: argparse.Namespace) -> int:
    """`secrets`: all that is missing, and how long the certificates are good."""
    found = Secrets(options.folder)
    now = dt.datetime.now(dt.UTC)
    before = found.hosts()
    hosts = tuple(options.host or before or [socket.gethostname()])
    for host in hosts:
        _check_host(host)
    made = found.make(hosts, now, renew=options.renew)
    kept = status(found, now)
    environment = options.folder.absolute().parent / _ENVIRONMENT
    if write_environment(environment, found, kept.hosts[0]):
        made = (*made, str(environment))
    _say(f"made {', '.join(made)}" if made else "nothing to make: all is there")
    _say_certificate(kept)
    if set(kept.hosts) != set(hosts):
        _say(f"the certificate is not for {', '.join(hosts)}: --renew makes one that is")
    if before and any(name.startswith("mosquitto/") for name in made):
        _reload(options)
    return EXIT_ENDS_SOON if kept.ends_soon else 0


def enroll(options: argparse.Namespace) -> int:
    """`enroll`: the node's login, and its bundle."""
    found = Secrets(options.folder)
    kept = status(found, dt.datetime.now(dt.UTC))
    host, port = options.broker or (kept.hosts[0], "")
    keys: Path | None = options.release_keys
    if keys is None and found.release_keys_file.exists():
        keys = found.release_keys_file
    wanted = Enrolment(
        node=options.node,
        group=options.group,
        host=host,
        port=int(port) if port else None,
        source=options.source,
        model=options.model or EXAMPLE_MODEL,
        release_keys=keys,
    )
    out = options.out or found.folder / "nodes" / f"{options.node}.tar"
    done = enrol(found, wanted, out)
    what = "has a new password" if done.again else "is enrolled"
    _say(f"{wanted.node} {what}; its bundle: {done.out} (docs/pi.md says what to do with it)")
    if not done.takes_updates:
        _say(
            f"it takes no updates: no {found.release_keys_file}, and no --release-keys"
            " (docs/updates.md)"
        )
    if kept.ends_soon:
        _say_certificate(kept)
    _reload(options)
    return 0


def revoke_node(options: argparse.Namespace) -> int:
    """`revoke`: the node is out, now."""
    if not revoke(Secrets(options.folder), options.node):
        raise EnrolmentError(f"{printable(options.node)} is not enrolled here: nothing to revoke")
    _say(f"{options.node} has no login any more; what is stored of it stays")
    _reload(options)
    return 0


def _reload(options: argparse.Namespace) -> None:
    if options.no_reload:
        _say("the broker was not told: it reads its files at SIGHUP, or at its next start")
    elif options.pid is not None:
        broker_reload.reload_by_pid(options.pid)
        _say(f"the broker, process {options.pid}, reads its files again")
    elif broker_reload.reload_by_compose():
        _say("the broker reads its files again")
    else:
        _say("the broker does not run; it reads its files at its start")


def _say_certificate(kept: Status) -> None:
    _say(f"the broker's certificate is for {', '.join(kept.hosts)}, for {kept.days_left} days more")
    if kept.authority_days_left <= kept.days_left:
        _say(
            f"the authority ends in {kept.authority_days_left} days, and every node has to get a"
            " new one: docs/operations.md"
        )
    elif kept.ends_soon:
        _say("renew it: `make secrets RENEW=1`; nodes need nothing")


def _check_host(host: str) -> None:
    if not host.isascii() or not host.replace("-", "").replace(".", "").replace(":", "").isalnum():
        raise EnrolmentError(f"--host: expected a name or an address, got {host[:80]!r}")


def _say(text: str) -> None:
    print(f"earshot training: {text}")  # noqa: T201 - the command line's own words
