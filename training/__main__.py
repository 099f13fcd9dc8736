"""`python -m training`: recordings in, releases out."""

import argparse
import math
import re
import shlex
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from contract.errors import EXIT_BAD_INPUT, EarshotError
from contract.topics import RELEASE_NAME_PATTERN
from node.synthetic import FAULTS, MACHINES
from training.errors import DestinationError
from training.progress import on_terminal

if TYPE_CHECKING:
    from training.fit import Outcome
    from training.metrics import Figures

_EXIT_INTERRUPTED = 130
_MAX_SEED = 2**32 - 1
_MAX_DESCRIPTION = 200


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    options = _parser().parse_args(arguments)
    try:
        options.run(options)
    except EarshotError as error:
        _note(" ".join(str(error).split()))
        return EXIT_BAD_INPUT
    except ModuleNotFoundError as error:
        _note(f"{error.name} is not installed; install requirements/training.txt")
        return EXIT_BAD_INPUT
    except KeyboardInterrupt:
        _note("interrupted; nothing was written")
        return _EXIT_INTERRUPTED
    return 0


def _train(options: argparse.Namespace) -> None:
    from training.fit import TrainRequest, train_release

    name = _release_name(options)
    data = options.data.resolve().name
    request = TrainRequest(
        data=options.data,
        machine=options.machine,
        out=options.out,
        name=name,
        version=options.version,
        description=options.description,
        seed=options.seed,
        epochs=options.epochs,
        batch_size=options.batch_size,
        false_alarm_rate=options.false_alarm_rate,
        weights=options.weights,
        overwrite=options.overwrite,
        command=_command(
            "train",
            data=data,
            machine=options.machine,
            out=_shown(options.out),
            name=name,
            version=options.version,
            seed=options.seed,
            epochs=options.epochs,
            batch_size=options.batch_size,
            false_alarm_rate=options.false_alarm_rate,
            weights=options.weights,
        ),
    )
    _print_outcome(train_release(request, note=_note, progress=on_terminal), options.out)


def _synthesize(options: argparse.Namespace) -> None:
    from training.synthesize import DatasetPlan, synthesize

    plan = DatasetPlan(
        machine=options.machine,
        units=options.units,
        faults=options.faults,
        severity=options.severity,
        seed=options.seed,
        train_clips=options.train_clips,
        target_clips=options.target_clips,
        test_clips=options.test_clips,
        seconds=options.seconds,
    )
    clips = synthesize(plan, options.out, progress=on_terminal)
    print(f"{clips} clips of {plan.seconds:g} s in {options.out / plan.machine}")


def _import(options: argparse.Namespace) -> None:
    from training.import_model import ImportRequest, import_model

    name = _release_name(options)
    request = ImportRequest(
        file=options.file,
        threshold=options.threshold,
        out=options.out,
        name=name,
        version=options.version,
        description=options.description,
        overwrite=options.overwrite,
        command=_command(
            f"import {shlex.quote(options.file.name)}",
            threshold=options.threshold,
            out=_shown(options.out),
            name=name,
            version=options.version,
        ),
    )
    manifest = import_model(request)
    size = manifest.file(manifest.model.file).size_bytes
    print(
        f"{manifest.label} in {options.out}: {size / 1e6:.2f} MB, threshold"
        f" {manifest.threshold.value:g}, runs in {', '.join(manifest.model.runtimes)}"
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m training", description="Recordings of a healthy machine in, releases out."
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    train = _add(commands, "train", _train, "train the reference network and write a release")
    train.add_argument(
        "--data",
        type=Path,
        required=True,
        metavar="DIR",
        help="recordings laid out as in DCASE 2021 Task 2: the machine's folder or the one above",
    )
    train.add_argument("--machine", help="the machine's folder; not needed if there is only one")
    _add_release_options(train)
    train.add_argument("--seed", type=_whole(0, _MAX_SEED), default=42)
    train.add_argument("--epochs", type=_whole(1, 100_000), default=40)
    train.add_argument("--batch-size", type=_whole(1, 65_536), default=16)
    train.add_argument(
        "--false-alarm-rate",
        type=_share,
        default=0.01,
        metavar="SHARE",
        help="share of normal windows that the threshold lets through (default: 0.01)",
    )
    train.add_argument("--weights", choices=("float16", "float32"), default="float16")

    synthesize = _add(
        commands, "synthesize", _synthesize, "write a data set of generated machine sound"
    )
    synthesize.add_argument("--out", type=Path, required=True, metavar="DIR")
    synthesize.add_argument("--machine", choices=MACHINES, default="fan")
    synthesize.add_argument(
        "--units",
        type=_units,
        default=(0, 1, 2),
        metavar="LIST",
        help="individuals of the machine, one section each, such as 0-2,5 (default: 0-2)",
    )
    synthesize.add_argument("--seed", type=_whole(0, _MAX_SEED), default=0)
    synthesize.add_argument(
        "--train-clips",
        type=_whole(0, 100_000),
        default=60,
        metavar="N",
        help="normal clips per unit to train on, in the source domain (default: 60)",
    )
    synthesize.add_argument(
        "--target-clips",
        type=_whole(0, 100_000),
        default=3,
        metavar="N",
        help="normal clips per unit to train on, in the target domain (default: 3)",
    )
    synthesize.add_argument(
        "--test-clips",
        type=_whole(0, 100_000),
        default=20,
        metavar="N",
        help="clips per unit and domain to test with, half of them anomalous (default: 20)",
    )
    synthesize.add_argument(
        "--seconds", type=float, default=10.0, help="length of each clip (default: 10)"
    )
    synthesize.add_argument(
        "--faults",
        type=_faults,
        default=FAULTS,
        metavar="LIST",
        help=f"what the anomalies have, in turn (default: {','.join(FAULTS)})",
    )
    synthesize.add_argument(
        "--severity", type=float, default=0.5, help="of the faults, 0 to 1 (default: 0.5)"
    )

    import_ = _add(commands, "import", _import, "write a release around a .tflite from elsewhere")
    import_.add_argument("file", type=Path, metavar="FILE.tflite")
    import_.add_argument(
        "--threshold",
        type=_positive,
        required=True,
        help="mean squared error above which a window is an anomaly",
    )
    _add_release_options(import_)
    return parser


def _add(
    commands: "argparse._SubParsersAction[argparse.ArgumentParser]",
    name: str,
    run: Callable[[argparse.Namespace], None],
    text: str,
) -> argparse.ArgumentParser:
    parser = commands.add_parser(name, help=text, description=f"{text[0].upper()}{text[1:]}.")
    parser.set_defaults(run=run)
    return parser


def _add_release_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--out", type=Path, required=True, metavar="DIR", help="the release's folder"
    )
    parser.add_argument("--name", help="of the release (default: the folder's name)")
    parser.add_argument("--version", type=_whole(1, 999_999_999), default=1)
    parser.add_argument("--description", type=_description)
    parser.add_argument("--overwrite", action="store_true", help="replace a release that is there")


def _release_name(options: argparse.Namespace) -> str:
    name: str = options.name or options.out.resolve().name
    if re.match(RELEASE_NAME_PATTERN, name) is None:
        raise DestinationError(
            f"Expected a release name of lower-case letters, digits and hyphens, at most 32, got"
            f" {name!r}; give one with --name"
        )
    return name


def _command(command: str, **options: object) -> str:
    """The command line that a person types to do the same, with names in place of paths."""
    words = [
        f"--{option.replace('_', '-')} {shlex.quote(str(value))}"
        for option, value in options.items()
        if value is not None
    ]
    return " ".join(["python -m training", command, *words])


def _shown(path: Path) -> str:
    """A path as typed, or its name alone where it tells about this machine."""
    return path.name if path.is_absolute() or ".." in path.parts else path.as_posix()


def _print_outcome(outcome: "Outcome", out: Path) -> None:
    manifest = outcome.manifest
    threshold, size = manifest.threshold, manifest.file(manifest.model.file).size_bytes
    rows = [
        ("release", f"{manifest.label} in {out}"),
        (
            "data",
            f"{outcome.train_files} files, {outcome.train_windows} windows to train on;"
            f" {outcome.held_out_files} files, {threshold.calibration_windows} windows held out",
        ),
        ("model", f"{manifest.model.parameters} parameters, {size / 1e6:.2f} MB"),
        (
            "loss",
            f"{outcome.losses[-1].train_loss:.3f} trained, {outcome.losses[-1].held_out_loss:.3f}"
            f" held out, after {len(outcome.losses)} epochs",
        ),
        (
            "threshold",
            f"{threshold.value:.3f}, for a false-alarm rate of {threshold.false_alarm_rate:.2g} on"
            " sound like the held-out files",
        ),
        ("seconds", ", ".join(f"{what} {took:.1f}" for what, took in outcome.seconds.items())),
    ]
    for what, text in rows:
        print(f"{what:<10} {text}")
    if outcome.figures:
        _print_figures(outcome.figures)
    else:
        print("test       no labelled test clips, so nothing is known of faults")


def _print_figures(figures: "dict[str, Figures]") -> None:
    columns = ("clips", "AUC", "level AUC", "F1", "flag-all F1", "normal >", "anomalous >")
    print("\n" + f"{'test':<10}" + "".join(f"{column:>14}" for column in columns))
    for domain, group in figures.items():
        level = "-"
        if group.level_auc is not None:
            level = f"{group.level_auc:.3f} {group.level_direction}"
        cells = (
            f"{group.normal_clips}+{group.anomalous_clips}",
            _number(group.auc),
            level,
            _number(group.f1),
            _number(group.flag_all_f1),
            _percent(group.normal_windows_flagged),
            _percent(group.anomalous_windows_flagged),
        )
        print(f"{domain:<10}" + "".join(f"{cell:>14}" for cell in cells))
    print(
        "clips: normal + anomalous; AUC and F1 of the clips' mean error, beside the AUC of the\n"
        "level alone and the F1 of flagging everything; > share of windows above the threshold"
    )


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{value:.1%}"


def _note(text: str) -> None:
    print(f"earshot training: {text}", file=sys.stderr)


def _whole(low: int, high: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        value = int(text) if re.fullmatch(r"-?\d{1,12}", text) else None
        if value is None or not low <= value <= high:
            raise argparse.ArgumentTypeError(
                f"expected a whole number of {low}..{high}, got {text!r}"
            )
        return value

    return parse


def _float(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan


def _share(text: str) -> float:
    value = _float(text)
    if not 0 < value < 1:
        raise argparse.ArgumentTypeError(f"expected a share between 0 and 1, got {text!r}")
    return value


def _positive(text: str) -> float:
    value = _float(text)
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"expected a number above 0, got {text!r}")
    return value


def _description(text: str) -> str:
    if len(text) > _MAX_DESCRIPTION:
        raise argparse.ArgumentTypeError(f"expected at most {_MAX_DESCRIPTION} characters")
    return text


def _units(text: str) -> tuple[int, ...]:
    units: list[int] = []
    for part in text.split(","):
        match = re.fullmatch(r"(\d{1,9})(?:-(\d{1,9}))?", part.strip())
        last = -1 if match is None else int(match[2] or match[1])
        if match is None or not int(match[1]) <= last < int(match[1]) + 1000:
            raise argparse.ArgumentTypeError(f"expected units such as 0-2,5, got {text!r}")
        units += range(int(match[1]), last + 1)
    return tuple(units)


def _faults(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())


if __name__ == "__main__":
    # As Ctrl-C: what is half done is taken away.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    sys.exit(main())
