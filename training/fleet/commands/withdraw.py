"""`earshot fleet withdraw`: an order taken back."""

import argparse

from training.fleet.commands.order_arguments import access, add_access_arguments, add_to
from training.fleet.signing_arguments import load_given_signer

SUMMARY = "take an order back; what a wider address says counts again"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options."""
    add_to(parser)
    add_access_arguments(parser)


def run(options: argparse.Namespace) -> int:
    """Take it back."""
    from training.fleet.rollout import withdraw
    from training.fleet.rollout_screen import Screen

    signer = load_given_signer(options)
    return withdraw(options.to, signer, access(options, signer), Screen())
