"""`earshot fleet promote`: the release that is wanted, for more nodes."""

import argparse

from training.fleet.commands.order_arguments import (
    EXIT_CODES,
    access,
    add_access_arguments,
    add_except,
    add_percent,
    add_to,
    add_waiting,
    waiting,
)
from training.fleet.signing_arguments import load_given_signer

SUMMARY = "go on with the release that is wanted, for more nodes"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options."""
    parser.epilog = EXIT_CODES
    add_to(parser)
    add_percent(
        parser,
        text="share of the nodes, not below the present one, or several as with push (default:"
        " 100)",
    )
    add_except(parser)
    add_waiting(parser)
    add_access_arguments(parser)


def run(options: argparse.Namespace) -> int:
    """Order it for them, and see it through if asked to."""
    from training.fleet.rollout import PromoteRequest, promote
    from training.fleet.rollout_screen import Screen

    request = PromoteRequest(
        to=options.to,
        percents=options.percent,
        waiting=waiting(options),
        excepted=options.excepted,
    )
    signer = load_given_signer(options)
    return promote(request, signer, access(options, signer), Screen())
