"""`python -m node COMMAND`: see `node.commands`."""

import os

# Before NumPy is loaded: a window's matrices are too small for a pool of threads to pay, and on a
# Pi that pool takes memory and time from everything else.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")

import argparse
import importlib
import logging
import sys

from contract.errors import EXIT_BAD_INPUT, EarshotError
from node.commands import COMMANDS

EXIT_INTERRUPTED = 130


def main(arguments: list[str] | None = None) -> int:
    """Parse the command line, run the command, and give the exit code."""
    options = _parser().parse_args(arguments)
    logging.basicConfig(
        level=logging.DEBUG if options.verbose else logging.INFO,
        format="%(asctime)s %(levelname)s %(name)s: %(message)s",
        stream=sys.stderr,
    )
    try:
        return int(options.command(options))
    except EarshotError as error:
        # A file's name may hold a line break; what went wrong stays one line.
        print(f"earshot node: {' '.join(str(error).split())}", file=sys.stderr)
        return EXIT_BAD_INPUT
    except KeyboardInterrupt:
        print("earshot node: interrupted", file=sys.stderr)
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        # The reader of our output has gone (`... | head`); nothing is wrong, nobody to tell.
        sys.stderr.close()
        return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m node", description="An earshot sensor node.")
    parser.add_argument("--verbose", action="store_true", help="log what usually goes unsaid")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for name in COMMANDS:
        module = importlib.import_module(f"node.commands.{name}")
        command = commands.add_parser(name, help=module.SUMMARY, description=module.__doc__)
        module.add_arguments(command)
        command.set_defaults(command=module.run)
    return parser


if __name__ == "__main__":
    sys.exit(main())
