"""`earshot node score`: recordings scored offline."""

import argparse
import sys
from pathlib import Path

SUMMARY = "score recordings offline"
EXIT_ANOMALY = 3


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options."""
    parser.add_argument("path", type=Path, help="a sound file, or a folder of them")
    parser.add_argument("--model", required=True, metavar="DIR", help="release folder")
    parser.add_argument("--format", choices=("table", "json", "csv"), default="table")
    parser.add_argument("--channel", type=int, metavar="N", help="one channel, from 0 (else: mix)")
    parser.add_argument(
        "--fail-on-anomaly",
        action="store_true",
        help=f"exit with {EXIT_ANOMALY} when a window is above the threshold",
    )


def run(options: argparse.Namespace) -> int:
    """Score and print."""
    from node.score_files import score_path, write
    from node.scoring.release_store import read_release
    from node.scoring.runtime import find_runtime
    from node.sound.errors import SourceError

    release = read_release(Path(options.model))
    windows = score_path(options.path, release, find_runtime(), channel=options.channel)
    scored, flagged = write(windows, release.manifest, options.format, sys.stdout)
    if not scored:
        raise SourceError("no_sound", f"{options.path}: no window could be scored")
    return EXIT_ANOMALY if flagged and options.fail_on_anomaly else 0
