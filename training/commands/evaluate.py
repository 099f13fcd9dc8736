"""`earshot training evaluate`: how good a release is, by labelled recordings."""

import argparse
from pathlib import Path

from contract.command_line import recorded
from training.commands.data_arguments import add_data_options, feature_cache, tflite_python

SUMMARY = "judge a release by labelled recordings"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("release", type=Path, metavar="RELEASE", help="the release's folder")
    add_data_options(parser)
    parser.add_argument(
        "--room-noise",
        type=Path,
        metavar="DIR",
        help="one folder of recordings for each kind (speech, rain): how often do they ring?",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures there")


def run(options: argparse.Namespace) -> int:
    """Judge it, and print the figures beside their yardsticks."""
    from training.judge.evaluate import EvaluateRequest, evaluate_release
    from training.pages.tables import evaluation_lines
    from training.progress import note, on_terminal

    request = EvaluateRequest(
        release=options.release,
        data=options.data,
        machine=options.machine,
        json=options.json,
        command=recorded(options),
        channel=options.channel,
        room_noise=options.room_noise,
        tflite_python=tflite_python(options),
        cache=feature_cache(options),
    )
    print("\n".join(evaluation_lines(evaluate_release(request, note=note, progress=on_terminal))))
    return 0
