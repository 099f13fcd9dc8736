"""`earshot fleet rollback`: what was wanted before, or a release that the broker keeps."""

import argparse

from training.fleet.commands.order_arguments import (
    EXIT_CODES,
    access,
    add_access_arguments,
    add_except,
    add_to,
    add_waiting,
    waiting,
)
from training.fleet.signing_arguments import load_given_signer

SUMMARY = "order nodes back to what was wanted before"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options."""
    parser.epilog = EXIT_CODES
    add_to(parser)
    parser.add_argument(
        "--release", metavar="NAME@VERSION", help="another one that the broker still keeps"
    )
    add_except(parser)
    add_waiting(parser)
    add_access_arguments(parser)


def run(options: argparse.Namespace) -> int:
    """Order it, and see it through if asked to."""
    from training.fleet.rollout import RollbackRequest, rollback
    from training.fleet.rollout_screen import Screen

    request = RollbackRequest(
        to=options.to, release=options.release, waiting=waiting(options), excepted=options.excepted
    )
    signer = load_given_signer(options)
    return rollback(request, signer, access(options, signer), Screen())
