"""`earshot fleet rollout`: all orders, and where each node is with them."""

import argparse

from training.fleet.commands.order_arguments import access, add_access_arguments

SUMMARY = "show which release each node runs, and which is wanted"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options."""
    parser.add_argument("action", nargs="?", choices=("status",), help="(default)")
    add_access_arguments(parser)


def run(options: argparse.Namespace) -> int:
    """Print it."""
    from training.fleet.rollout import status
    from training.fleet.rollout_screen import Screen

    screen = Screen()
    found = access(options, None)
    if not found.trusted:
        screen.note("signatures are not checked; --keys names the public keys to trust")
    return status(found, screen, checked=bool(found.trusted))
