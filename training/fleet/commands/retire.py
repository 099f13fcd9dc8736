"""`earshot fleet retire`: releases that nobody needs, cleared from the broker."""

import argparse
import sys

from contract.errors import EarshotError
from training.fleet.commands.order_arguments import access, add_access_arguments

SUMMARY = "clear releases from the broker that no order and no node names"


class NobodyToAskError(EarshotError):
    """There is no terminal to ask a question in: answer it on the command line."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options."""
    parser.epilog = "Not while a push is under way: nothing names its files yet."
    parser.add_argument("--yes", action="store_true", help="do not ask")
    add_access_arguments(parser)


def run(options: argparse.Namespace) -> int:
    """Clear them, once a person has agreed."""
    from training.fleet.retire import retire
    from training.fleet.rollout_screen import Screen

    return retire(access(options, None), Screen(), _agreed if options.yes else _ask)


def _agreed(question: str) -> bool:
    return True


def _ask(question: str) -> bool:
    if sys.stdin is None or not sys.stdin.isatty():
        raise NobodyToAskError("nothing was cleared: there is no terminal to ask in; say --yes")
    return input(f"{question} [y/N] ").strip().lower() in ("y", "yes")
