"""`earshot fleet push`: a signed release, sent to the nodes at an address."""

import argparse
from pathlib import Path

from training.fleet.commands.order_arguments import (
    EXIT_CODES,
    access,
    add_access_arguments,
    add_except,
    add_percent,
    add_to,
    add_waiting,
    positive,
    waiting,
)
from training.fleet.signing_arguments import load_given_signer

SUMMARY = "send a release to the fleet, over the broker"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options."""
    parser.epilog = EXIT_CODES
    parser.add_argument(
        "release", type=Path, metavar="RELEASE", help="folder that `earshot training release` wrote"
    )
    add_to(parser)
    add_percent(
        parser,
        text="share of the nodes; 10,50,100 with --wait are rings, each waits for the one before,"
        " and none follows one in which no node was there to show what the release does; `fleet"
        " promote` then goes on (default: 100)",
    )
    parser.add_argument(
        "--threshold",
        type=positive,
        metavar="X",
        help="in place of the release's and of what nodes have found where they hang",
    )
    parser.add_argument(
        "--resend", action="store_true", help="send all files, although the broker has them"
    )
    add_except(parser)
    add_waiting(parser)
    add_access_arguments(parser)


def run(options: argparse.Namespace) -> int:
    """Send it, and see it through if asked to."""
    from training.fleet.push import PushRequest, push
    from training.fleet.rollout_screen import Screen

    request = PushRequest(
        release=options.release,
        to=options.to,
        percents=options.percent,
        threshold=options.threshold,
        resend=options.resend,
        waiting=waiting(options),
        excepted=options.excepted,
    )
    signer = load_given_signer(options)
    return push(request, signer, access(options, signer), Screen())
