"""`earshot node score`: recordings scored offline."""

import argparse
import sys
from pathlib import Path

SUMMARY = "score recordings offline"
EXIT_UNREADABLE = 1
EXIT_ANOMALY = 3


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options to the command's parser."""
    parser.add_argument("path", type=Path, help="a sound file, or a folder of them")
    parser.add_argument("--model", required=True, metavar="DIR", help="release folder")
    parser.add_argument("--format", choices=("table", "json", "csv"), default="table")
    parser.add_argument("--channel", type=int, metavar="N", help="one channel, from 0 (else: mix)")
    parser.add_argument(
        "--strict",
        action="store_true",
        help="score nothing unless every sound file of the folder can be read",
    )
    parser.add_argument(
        "--fail-on-anomaly",
        action="store_true",
        help=f"exit with {EXIT_ANOMALY} when a window is above the threshold",
    )
    parser.epilog = (
        f"Exit code {EXIT_UNREADABLE} says that some sound files could not be read; each is named"
        " on standard error."
    )


def run(options: argparse.Namespace) -> int:
    """Score the recordings, print each window, and give 3 if that was asked for."""
    from node.score_files import score_recordings, write
    from node.scoring.release_store import read_release
    from node.scoring.runtime import find_runtime
    from node.sound.errors import SourceError
    from node.sound.recordings import find_recordings

    release = read_release(Path(options.model))
    found = find_recordings(options.path)
    if found.unreadable and options.strict:
        raise found.unreadable[0]
    for error in found.unreadable:
        print(f"earshot node: {error}: not scored", file=sys.stderr)
    for recording in found.recordings:
        if recording.note is not None:
            print(f"earshot node: {recording.path}: {recording.note}", file=sys.stderr)
    windows = score_recordings(found.recordings, release, find_runtime(), channel=options.channel)
    scored, flagged = write(windows, release.manifest, options.format, sys.stdout)
    if not scored:
        raise SourceError("no_sound", f"{options.path}: no window could be scored")
    if flagged and options.fail_on_anomaly:
        return EXIT_ANOMALY
    return EXIT_UNREADABLE if found.unreadable else 0
