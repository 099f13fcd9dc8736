"""`earshot fleet revoke`: a node's login, taken away."""

import argparse

from contract.printable import printable
from training.errors import EnrolmentError
from training.fleet.commands.broker_arguments import (
    EXIT_CODES,
    add_folder,
    add_reload,
    reload_broker,
    say,
)

SUMMARY = "take a node's login away, and end its connection"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options."""
    parser.epilog = EXIT_CODES
    parser.add_argument("node", metavar="NODE")
    add_folder(parser)
    add_reload(parser)


def run(options: argparse.Namespace) -> int:
    """Lock it out, now."""
    from training.fleet.enrolment.broker_secrets import Secrets
    from training.fleet.enrolment.enrol import revoke

    if not revoke(Secrets(options.folder), options.node):
        raise EnrolmentError(f"{printable(options.node)} is not enrolled here: nothing to revoke")
    say(f"{options.node} has no login any more; what is stored of it stays")
    return reload_broker(options)
