"""`python -m training COMMAND`: see `training.commands`."""

import argparse
import importlib
import os
import signal
import sys
from collections.abc import Callable, Sequence

from contract.errors import EXIT_BAD_INPUT, EarshotError
from contract.printable import printable
from training import commands
from training.fleet import commands as operator
from training.progress import note

Run = Callable[[argparse.Namespace], int]

EXIT_INTERRUPTED = 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse the command line, run the command, and give the exit code."""
    words = sys.argv[1:] if arguments is None else arguments
    options = _parser().parse_args(words)
    options.typed = ("training", *words)
    try:
        return int(options.run(options))
    except EarshotError as error:
        # It may tell what a node has said.
        note(printable(" ".join(str(error).split())))
        return EXIT_BAD_INPUT
    except ModuleNotFoundError as error:
        note(f"{error.name} is not installed; install requirements/training.txt")
        return EXIT_BAD_INPUT
    except BrokenPipeError:
        # Whoever read our output has seen enough; without this, Python says so when it exits.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        note(options.interrupted)
        return EXIT_INTERRUPTED


def _parser() -> argparse.ArgumentParser:
    root = argparse.ArgumentParser(
        prog="python -m training", description=commands.__doc__.splitlines()[0]
    )
    listed = root.add_subparsers(required=True, metavar="COMMAND")

    def add(name: str, text: str, run: Run) -> argparse.ArgumentParser:
        command = listed.add_parser(name, help=text, description=f"{text[0].upper()}{text[1:]}.")
        command.set_defaults(run=run)
        return command

    for group in (commands, operator):
        for name in group.COMMANDS:
            file = {"import": "import_"}.get(name, name)
            module = importlib.import_module(f"{group.__name__}.{file}")
            command = add(name, module.SUMMARY, module.run)
            command.set_defaults(interrupted=getattr(module, "INTERRUPTED", group.INTERRUPTED))
            module.add_arguments(command)
    return root


if __name__ == "__main__":
    # As Ctrl-C: what is half done is taken away.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    sys.exit(main())
