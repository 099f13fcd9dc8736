"""`earshot training synthesize`: data sets of generated sound, and hard ones of any sound."""

import argparse
import re
from pathlib import Path
from typing import TYPE_CHECKING

from node.sound.synthetic import FAULTS, MACHINES
from training.commands.argument_types import MAX_SEED, names, number, numbers, whole
from training.errors import DataError

if TYPE_CHECKING:
    from training.made.synthesize import DatasetPlan

SUMMARY = "write a data set of generated machine sound"

# Options that would have no effect in some uses of the command.
_OF_GENERATED = ("units", "train_clips", "target_clips", "test_clips", "seconds")
_OF_GENERATED_FAULTS = ("faults", "severity")
_OF_HARD = (
    "normals",
    "planted",
    "severities",
    "noise",
    "noise_ratio_db",
    "keep_anomalies",
    "level_dbfs",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("--out", type=Path, required=True, metavar="DIR")
    parser.add_argument(
        "--machine",
        help=f"which to generate, {' or '.join(MACHINES)} (default: {MACHINES[0]}); with --normals,"
        " the machine's folder",
    )
    parser.add_argument(
        "--units",
        type=_units,
        metavar="LIST",
        help="individuals of the machine, one section each, such as 0-2,5 (default: 0-2)",
    )
    parser.add_argument("--seed", type=whole(0, MAX_SEED), default=0)
    parser.add_argument(
        "--train-clips",
        type=whole(0, 100_000),
        metavar="N",
        help="normal clips per unit to train on, in the source domain (default: 60)",
    )
    parser.add_argument(
        "--target-clips",
        type=whole(0, 100_000),
        metavar="N",
        help="normal clips per unit to train on, in the target domain (default: 3)",
    )
    parser.add_argument(
        "--test-clips",
        type=whole(0, 100_000),
        metavar="N",
        help="clips per unit and domain to test with, half of them anomalous (default: 20)",
    )
    parser.add_argument("--seconds", type=float, help="length of each clip (default: 10)")
    parser.add_argument(
        "--faults",
        type=names,
        metavar="LIST",
        help=f"what the anomalies have, in turn (default: {','.join(FAULTS)})",
    )
    parser.add_argument("--severity", type=float, help="of the faults, 0 to 1 (default: 0.5)")
    _add_hard_options(parser)


def run(options: argparse.Namespace) -> int:
    """Write the data set, and say where it is."""
    _refuse_mixed_up(options)
    if options.hard:
        _synthesize_hard(options)
    else:
        _synthesize(options)
    return 0


def _add_hard_options(parser: argparse.ArgumentParser) -> None:
    hard = parser.add_argument_group("hard data sets")
    hard.add_argument(
        "--hard",
        action="store_true",
        help="anomalies are normal test clips with a fault planted into them; noise may be added",
    )
    hard.add_argument(
        "--normals",
        type=Path,
        metavar="DATA",
        help="a data set of recordings to take the normal sound from (default: generated sound)",
    )
    hard.add_argument(
        "--planted",
        type=names,
        metavar="LIST",
        help="tone, clicks, modulation, hiss, speed, muffled (default: all)",
    )
    hard.add_argument(
        "--severities",
        type=numbers,
        metavar="LIST",
        help="of planted faults, 0 to 1 (default: 0.25,0.5,1)",
    )
    hard.add_argument(
        "--noise",
        type=Path,
        metavar="NOISE_DIR",
        help="recordings of a room's noise to mix into every clip, one folder per kind",
    )
    hard.add_argument(
        "--noise-ratio-db",
        type=number,
        metavar="DB",
        help="rms of the machine over rms of the noise (default: 0)",
    )
    hard.add_argument(
        "--keep-anomalies",
        action="store_const",
        const=True,
        help="write the recorded anomalies in place of planted ones",
    )
    hard.add_argument(
        "--level-dbfs",
        type=number,
        metavar="DB",
        help="rms of every clip, so that loudness gives nothing away (default: as recorded)",
    )


def _synthesize(options: argparse.Namespace) -> None:
    from training.made.synthesize import synthesize
    from training.progress import on_terminal

    plan = _generated_plan(options)
    clips = synthesize(plan, options.out, progress=on_terminal)
    print(f"{clips} clips of {plan.seconds:g} s in {options.out / plan.machine}")


def _synthesize_hard(options: argparse.Namespace) -> None:
    from training.made.harden import HardPlan, generated, harden, recorded
    from training.progress import on_terminal
    from training.sound.dataset import find_dataset

    given = {name: getattr(options, name) for name in _OF_HARD if name != "normals"}
    given["faults"] = given.pop("planted")
    given["ratio_db"] = given.pop("noise_ratio_db")
    plan = HardPlan(
        seed=options.seed,
        **{name: value for name, value in given.items() if value is not None},
    )
    if options.normals is None:
        generated_plan = _generated_plan(options)
        originals, machine = generated(generated_plan), generated_plan.machine
    else:
        dataset = find_dataset(options.normals, options.machine)
        originals, machine = recorded(dataset), dataset.machine
    summary = harden(originals, machine, plan, options.out, progress=on_terminal)
    print(f"{summary.clips} clips in {options.out / machine}")
    if summary.made_quieter:
        print(f"{summary.made_quieter} of them made quieter, so that no peak clips")


def _generated_plan(options: argparse.Namespace) -> "DatasetPlan":
    from training.made.synthesize import DatasetPlan

    given = {name: getattr(options, name) for name in (*_OF_GENERATED, *_OF_GENERATED_FAULTS)}
    return DatasetPlan(
        machine=options.machine or MACHINES[0],
        seed=options.seed,
        **{"faults": FAULTS} | {name: value for name, value in given.items() if value is not None},
    )


def _refuse_mixed_up(options: argparse.Namespace) -> None:
    def given(*names: str) -> list[str]:
        return [
            f"--{name.replace('_', '-')}" for name in names if getattr(options, name) is not None
        ]

    for wrong, names_, reason in (
        (not options.hard, _OF_HARD, "only goes with --hard"),
        (options.hard, _OF_GENERATED_FAULTS, "does not go with --hard; see --planted"),
        (options.normals is not None, _OF_GENERATED, "does not go with --normals"),
        (options.normals is None, ("keep_anomalies",), "only goes with --normals"),
        (options.noise is None, ("noise_ratio_db",), "only goes with --noise"),
        (options.keep_anomalies, ("planted", "severities"), "does not go with --keep-anomalies"),
    ):
        if wrong and (mixed_up := given(*names_)):
            raise DataError(f"{mixed_up[0]} {reason}")


def _units(text: str) -> tuple[int, ...]:
    units: list[int] = []
    for part in text.split(","):
        match = re.fullmatch(r"(\d{1,9})(?:-(\d{1,9}))?", part.strip())
        last = -1 if match is None else int(match[2] or match[1])
        if match is None or not int(match[1]) <= last < int(match[1]) + 1000:
            raise argparse.ArgumentTypeError(f"expected units such as 0-2,5, got {text!r}")
        units += range(int(match[1]), last + 1)
    return tuple(units)
