"""`earshot training compare`: which of two runs is better, and how surely."""

import argparse
from pathlib import Path

SUMMARY = "say which of two runs is better, and how surely"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    for name in ("first", "second"):
        parser.add_argument(
            name,
            type=Path,
            metavar=name.upper(),
            help="folder that `train` wrote, or a file of `evaluate --json`",
        )
    parser.add_argument("--rule", choices=("2021", "2022"), help="of the official score")


def run(options: argparse.Namespace) -> int:
    """Compare them, and print each figure with its difference."""
    from training.judge.compare import compare, read_run
    from training.pages.tables import comparison_lines

    found = compare(read_run(options.first), read_run(options.second), rule=options.rule)
    print("\n".join(comparison_lines(found)))
    return 0
