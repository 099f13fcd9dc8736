"""`earshot training data`: what a data set holds, and what is wrong with it."""

import argparse
from pathlib import Path

SUMMARY = "say what a data set holds and what is wrong with it"
EXIT_PROBLEMS = 1


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.epilog = f"Exit code {EXIT_PROBLEMS} says that training on it would be a mistake."
    parser.add_argument(
        "folder", type=Path, metavar="DIR", help="the machine's folder or the one above"
    )
    parser.add_argument("--machine", help="the machine's folder; not needed if there is only one")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all findings here as well")


def run(options: argparse.Namespace) -> int:
    """Look through the recordings; 1 if training on them would be a mistake."""
    from training.progress import on_terminal
    from training.sound.data_report import lines, report_on, write_json

    report = report_on(options.folder, options.machine, progress=on_terminal)
    if options.json is not None:
        write_json(report, options.json)
    print("\n".join(lines(report)), flush=True)
    return EXIT_PROBLEMS if report.problems else 0
