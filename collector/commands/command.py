"""`earshot collector command`: tell one node to do something, and wait for its answer."""

import argparse

from collector.commands import EXIT_NOT_DONE
from collector.commands.shared_options import add_config_option, broker_settings, positive_number
from contract.broker_options import add_broker_options
from contract.topics import VERBS

SUMMARY = "tell one node to do something, and wait for its answer"

_ANSWER_SECONDS = 15.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the node, what it is told, and where the broker is."""
    add_config_option(parser)
    add_broker_options(parser)
    parser.add_argument("node", metavar="NODE", help="its id")
    parser.add_argument(
        "verb",
        choices=VERBS,
        help="calibrate: learn what is normal there; rollback: go back to the release before",
    )
    calibrate = parser.add_mutually_exclusive_group()
    calibrate.add_argument(
        "--minutes", type=positive_number, help="of calibrating, 2 to 240 (default: 60)"
    )
    calibrate.add_argument("--cancel", action="store_true", help="end a calibration")
    parser.add_argument(
        "--seconds",
        type=positive_number,
        default=_ANSWER_SECONDS,
        help="how long to wait for the answer (default %(default)g)",
    )


def run(options: argparse.Namespace) -> int:
    """Send the command and print the node's answer; 1 if it has said no."""
    from collector.node_commands import send_command
    from contract.printable import printable

    result = send_command(
        broker_settings(options),
        options.node,
        options.verb,
        minutes=0.0 if options.cancel else options.minutes,
        seconds=options.seconds,
    )
    print(f"{result.node}: {printable(result.note)}")
    return 0 if result.done else EXIT_NOT_DONE
