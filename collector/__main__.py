"""`python -m collector COMMAND`: see `collector.commands`."""

import argparse
import importlib
import logging
import os
import sys
from collections.abc import Sequence

from collector.commands import COMMANDS
from contract.errors import EXIT_BAD_INPUT, EarshotError
from contract.printable import printable


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse the command line, run the command, and give the exit code."""
    options = _parser().parse_args(arguments)
    quiet = logging.INFO if options.name == "run" else logging.WARNING
    _configure_logging(logging.DEBUG if options.verbose else quiet)
    try:
        return int(options.command(options))
    except EarshotError as error:
        # A file's name may hold a line break; what went wrong stays one line.
        text = printable(" ".join(str(error).split()))
        print(f"earshot collector: {text}", file=sys.stderr)
        return EXIT_BAD_INPUT
    except BrokenPipeError:
        # Whoever read our output has seen enough; without this, Python says so when it exits.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m collector",
        description="Store what the nodes say, show it, and account for every window.",
    )
    parser.add_argument("--verbose", action="store_true", help="log every step to stderr")
    commands = parser.add_subparsers(dest="name", required=True, metavar="COMMAND")
    for name in COMMANDS:
        module = importlib.import_module(f"collector.commands.{name}")
        command = commands.add_parser(name, help=module.SUMMARY, description=module.__doc__)
        # SUPPRESS: else its default would undo a --verbose before the command.
        command.add_argument(
            "--verbose", action="store_true", default=argparse.SUPPRESS, help=argparse.SUPPRESS
        )
        module.add_arguments(command)
        command.set_defaults(command=module.run)
    return parser


def _configure_logging(level: int) -> None:
    logging.basicConfig(
        stream=sys.stderr, level=level, format="%(asctime)s %(levelname)s %(name)s: %(message)s"
    )
    # The service and `watch` tell of the connection themselves.
    quiet = logging.DEBUG if level == logging.DEBUG else logging.ERROR
    logging.getLogger("contract.session").setLevel(quiet)


if __name__ == "__main__":
    sys.exit(main())
