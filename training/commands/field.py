"""`earshot training field`: what a node would do with a release, hour after hour."""

import argparse
from pathlib import Path

from contract.command_line import recorded
from training.commands.argument_types import MAX_SEED, positive, whole
from training.commands.data_arguments import add_data_folder

SUMMARY = "say what a node would do with a release: alarms a day, delays"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("release", type=Path, metavar="RELEASE", help="the release's folder")
    add_data_folder(parser)
    parser.add_argument(
        "--noise",
        type=Path,
        metavar="DIR",
        help="one folder of recordings for each kind of room noise, to mix in at 10 and 0 dB",
    )
    parser.add_argument(
        "--new-place-at",
        action="append",
        default=[],
        metavar="FILE",
        help="name of a normal test clip with which another place begins: another day, another"
        " mounting; may be given several times",
    )
    parser.add_argument(
        "--split",
        choices=("interleaved", "halves"),
        default="interleaved",
        help="calibrate with every other clip of a place, or with its first half and then its"
        " second (default: interleaved)",
    )
    parser.add_argument(
        "--hours",
        type=positive,
        default=24.0,
        help="of simulated time for each rule in each place (default: 24)",
    )
    parser.add_argument(
        "--minutes", type=positive, default=60.0, help="of calibration (default: 60)"
    )
    parser.add_argument("--seed", type=whole(0, MAX_SEED), default=42)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures there")


def run(options: argparse.Namespace) -> int:
    """Let it listen to the recordings as a node does, and print what it would have said."""
    from training.field.field import FieldRequest, try_in_field
    from training.field.field_tables import field_lines
    from training.progress import note, on_terminal

    request = FieldRequest(
        release=options.release,
        data=options.data,
        machine=options.machine,
        channel=options.channel,
        noise=options.noise,
        new_places=tuple(options.new_place_at),
        split=options.split,
        hours=options.hours,
        minutes=options.minutes,
        seed=options.seed,
        json=options.json,
        command=recorded(options),
    )
    print("\n".join(field_lines(try_in_field(request, note=note, progress=on_terminal))))
    return 0
