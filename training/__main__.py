"""`python -m training`: recordings in, releases out."""

import argparse
import math
import os
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
from training.errors import DataError, DestinationError
from training.progress import on_terminal
from training.recipes import DEFAULT_RECIPE, QUANTISATIONS, recipe_names, with_epochs

if TYPE_CHECKING:
    from training.feature_cache import FeatureCache
    from training.synthesize import DatasetPlan

_EXIT_PROBLEMS = 1
_EXIT_INTERRUPTED = 130
_MAX_SEED = 2**32 - 1
_MAX_DESCRIPTION = 200


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    options = _parser().parse_args(arguments)
    try:
        return options.run(options) or 0
    except EarshotError as error:
        _note(" ".join(str(error).split()))
        return EXIT_BAD_INPUT
    except ModuleNotFoundError as error:
        _note(f"{error.name} is not installed; install requirements/training.txt")
        return EXIT_BAD_INPUT
    except BrokenPipeError:
        # Whoever read our output has seen enough; without this, Python says so when it exits.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        _note("interrupted; nothing was written")
        return _EXIT_INTERRUPTED


def _data(options: argparse.Namespace) -> int:
    from training.data_report import lines, report_on, write_json

    report = report_on(options.folder, options.machine, progress=on_terminal)
    if options.json is not None:
        write_json(report, options.json)
    print("\n".join(lines(report)), flush=True)
    return _EXIT_PROBLEMS if report.problems else 0


def _train(options: argparse.Namespace) -> None:
    from training.recipes import read_recipe
    from training.tables import training_lines
    from training.train import TrainRequest, train_release

    name = _release_name(options)
    recipe = read_recipe(options.recipe)
    if options.epochs is not None:
        recipe = with_epochs(recipe, options.epochs)
    request = TrainRequest(
        data=options.data,
        machine=options.machine,
        recipe=recipe,
        out=options.out,
        name=name,
        version=options.version,
        description=options.description,
        seed=options.seed,
        seeds=options.seeds,
        false_alarm_rate=options.false_alarm_rate,
        threshold_from=options.threshold_from.replace("-", "_"),
        folds=options.folds,
        quantisation=options.quantisation or recipe.quantisation,
        variants=not options.no_variants,
        unreadable=options.unreadable,
        channel=options.channel,
        cache=_cache(options),
        tflite_python=_tflite_python(options),
        overwrite=options.overwrite,
        command=_command(
            "train",
            data=options.data.resolve().name,
            machine=options.machine,
            recipe=Path(options.recipe).name,
            out=_shown(options.out),
            name=name,
            version=options.version,
            seed=options.seed,
            seeds=options.seeds,
            epochs=options.epochs,
            false_alarm_rate=options.false_alarm_rate,
            threshold_from=options.threshold_from,
            folds=options.folds,
            quantisation=options.quantisation,
            channel=options.channel,
        ),
    )
    outcome = train_release(request, note=_note, progress=on_terminal)
    print("\n".join(training_lines(outcome, options.out)))


def _evaluate(options: argparse.Namespace) -> None:
    from training.evaluate import EvaluateRequest, evaluate_release
    from training.tables import evaluation_lines

    request = EvaluateRequest(
        release=options.release,
        data=options.data,
        machine=options.machine,
        json=options.json,
        command=_command(
            f"evaluate {shlex.quote(_shown(options.release))}",
            data=options.data.resolve().name,
            machine=options.machine,
            channel=options.channel,
        ),
        channel=options.channel,
        room_noise=options.room_noise,
        tflite_python=_tflite_python(options),
        cache=_cache(options),
    )
    print("\n".join(evaluation_lines(evaluate_release(request, note=_note, progress=on_terminal))))


def _compare(options: argparse.Namespace) -> None:
    from training.compare import compare, read_run
    from training.tables import comparison_lines

    found = compare(read_run(options.first), read_run(options.second), rule=options.rule)
    print("\n".join(comparison_lines(found)))


def _quantize(options: argparse.Namespace) -> None:
    from training.release import take_variant, write_release

    name = _release_name(options)
    release = take_variant(options.run, options.to, name=name, version=options.version)
    write_release(options.out, release, overwrite=options.overwrite)
    manifest = release.manifest
    print(
        f"{manifest.label} in {options.out}: {options.to}, {manifest.models_bytes / 1e6:.2f} MB,"
        f" threshold {manifest.threshold.value:.4g}, runs in {', '.join(manifest.runtimes)}"
    )


def _reproduce(options: argparse.Namespace) -> None:
    from training.recipes import read_recipe
    from training.reproduce import ReproduceRequest, reproduce
    from training.tables import table_lines

    recipes = tuple(read_recipe(name) for name in options.recipes.split(","))
    request = ReproduceRequest(
        data=tuple(options.data),
        machine=options.machine,
        year=options.year,
        recipes=recipes,
        champion=options.champion,
        out=options.out,
        seed=options.seed,
        seeds=options.seeds,
        variants=not options.no_variants,
        epochs=options.epochs,
        cache=_cache(options),
        tflite_python=_tflite_python(options),
        command=_command(
            "reproduce",
            data=" ".join(folder.resolve().name for folder in options.data),
            machine=options.machine,
            year=options.year,
            recipes=options.recipes,
            seed=options.seed,
            seeds=options.seeds,
            epochs=options.epochs,
        ),
    )
    print("\n".join(table_lines(reproduce(request, note=_note, progress=on_terminal))))


def _synthesize(options: argparse.Namespace) -> None:
    _refuse_mixed_up(options)
    if options.hard:
        _synthesize_hard(options)
        return
    from training.synthesize import synthesize

    plan = _generated_plan(options)
    clips = synthesize(plan, options.out, progress=on_terminal)
    print(f"{clips} clips of {plan.seconds:g} s in {options.out / plan.machine}")


def _synthesize_hard(options: argparse.Namespace) -> None:
    from training.dataset import find_dataset
    from training.harden import HardPlan, generated, harden, recorded

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
    from training.synthesize import DatasetPlan

    given = {name: getattr(options, name) for name in (*_OF_GENERATED, *_OF_GENERATED_FAULTS)}
    return DatasetPlan(
        machine=options.machine or MACHINES[0],
        seed=options.seed,
        **{"faults": FAULTS} | {name: value for name, value in given.items() if value is not None},
    )


# Options of `synthesize` that would have no effect in some of its uses.
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


def _refuse_mixed_up(options: argparse.Namespace) -> None:
    def given(*names: str) -> list[str]:
        return [
            f"--{name.replace('_', '-')}" for name in names if getattr(options, name) is not None
        ]

    for wrong, names, reason in (
        (not options.hard, _OF_HARD, "only goes with --hard"),
        (options.hard, _OF_GENERATED_FAULTS, "does not go with --hard; see --planted"),
        (options.normals is not None, _OF_GENERATED, "does not go with --normals"),
        (options.normals is None, ("keep_anomalies",), "only goes with --normals"),
        (options.noise is None, ("noise_ratio_db",), "only goes with --noise"),
        (options.keep_anomalies, ("planted", "severities"), "does not go with --keep-anomalies"),
    ):
        if wrong and (mixed_up := given(*names)):
            raise DataError(f"{mixed_up[0]} {reason}")


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
    print(
        f"{manifest.label} in {options.out}: {manifest.models_bytes / 1e6:.2f} MB, threshold"
        f" {manifest.threshold.value:g}, runs in {', '.join(manifest.runtimes)}"
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m training", description="Recordings of a healthy machine in, releases out."
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    data = _add(commands, "data", _data, "say what a data set holds and what is wrong with it")
    data.epilog = f"Exit code {_EXIT_PROBLEMS} says that training on it would be a mistake."
    data.add_argument(
        "folder", type=Path, metavar="DIR", help="the machine's folder or the one above"
    )
    data.add_argument("--machine", help="the machine's folder; not needed if there is only one")
    data.add_argument("--json", type=Path, metavar="FILE", help="write all findings here as well")

    train = _add(commands, "train", _train, "train a detector and write a release")
    _add_data_options(train)
    train.add_argument(
        "--recipe",
        default=DEFAULT_RECIPE,
        metavar="NAME",
        help=f"{', '.join(recipe_names())}, or a .toml file (default: {DEFAULT_RECIPE})",
    )
    _add_release_options(train)
    train.add_argument("--seed", type=_whole(0, _MAX_SEED), default=42)
    train.add_argument(
        "--seeds",
        type=_whole(1, 100),
        default=3,
        metavar="N",
        help="trainings that differ in the seed alone; the first one is released (default: 3)",
    )
    train.add_argument("--epochs", type=_whole(1, 100_000), help="in place of the recipe's")
    train.add_argument(
        "--false-alarm-rate",
        type=_share,
        default=0.01,
        metavar="SHARE",
        help="share of normal windows that the threshold lets through (default: 0.01)",
    )
    train.add_argument(
        "--threshold-from",
        choices=("auto", "held-out", "sessions-left-out"),
        default="auto",
        help="files that the model has not heard, or whole sessions that models of the same recipe"
        " have not heard; auto takes sessions where there are several",
    )
    train.add_argument(
        "--folds",
        type=_whole(0, 1000),
        default=5,
        metavar="N",
        help="trainings without some of the sessions, to see what a threshold is worth for sessions"
        " that were not heard; 0 is none (default: 5)",
    )
    train.add_argument("--quantisation", choices=QUANTISATIONS, help="in place of the recipe's")
    train.add_argument(
        "--no-variants", action="store_true", help="leave the other quantisations out"
    )
    train.add_argument(
        "--unreadable",
        choices=("refuse", "skip"),
        default="refuse",
        help="what to do about recordings that cannot be read (default: refuse)",
    )

    evaluate = _add(commands, "evaluate", _evaluate, "judge a release by labelled recordings")
    evaluate.add_argument("release", type=Path, metavar="RELEASE", help="the release's folder")
    _add_data_options(evaluate)
    evaluate.add_argument(
        "--room-noise",
        type=Path,
        metavar="DIR",
        help="one folder of recordings for each kind (speech, rain): how often do they ring?",
    )
    evaluate.add_argument("--json", type=Path, metavar="FILE", help="write all figures there")

    compare = _add(commands, "compare", _compare, "say which of two runs is better, and how surely")
    for name in ("first", "second"):
        compare.add_argument(
            name,
            type=Path,
            metavar=name.upper(),
            help="folder that `train` wrote, or a file of `evaluate --json`",
        )
    compare.add_argument("--rule", choices=("2021", "2022"), help="of the official score")

    quantize = _add(
        commands, "quantize", _quantize, "make a release of another quantisation of a trained run"
    )
    quantize.add_argument("run", type=Path, metavar="RUN", help="folder that `train` wrote")
    quantize.add_argument("--to", choices=QUANTISATIONS, required=True)
    _add_release_options(quantize, described=False)

    reproduce = _add(
        commands, "reproduce", _reproduce, "run recipes on data sets, beside published figures"
    )
    reproduce.add_argument(
        "--data",
        type=Path,
        required=True,
        action="append",
        metavar="DIR",
        help="recordings with labelled tests; may be given several times",
    )
    reproduce.add_argument("--machine", help="the machine's folder")
    reproduce.add_argument(
        "--year", type=_whole(2020, 2026), help="of the DCASE data: its rule, its baselines"
    )
    reproduce.add_argument(
        "--recipes", default=",".join(recipe_names()), metavar="LIST", help="(default: all)"
    )
    reproduce.add_argument(
        "--champion",
        default=DEFAULT_RECIPE,
        metavar="NAME",
        help=f"whose lead over the others is given with intervals (default: {DEFAULT_RECIPE})",
    )
    reproduce.add_argument(
        "--out",
        type=Path,
        required=True,
        metavar="DIR",
        help="for the runs and table.json; runs that are there are not made again",
    )
    reproduce.add_argument("--seed", type=_whole(0, _MAX_SEED), default=42)
    reproduce.add_argument("--seeds", type=_whole(1, 100), default=3, metavar="N")
    reproduce.add_argument("--epochs", type=_whole(1, 100_000), help="in place of the recipes'")
    reproduce.add_argument("--no-variants", action="store_true", help="one quantisation each")
    _add_reading_options(reproduce)

    synthesize = _add(
        commands, "synthesize", _synthesize, "write a data set of generated machine sound"
    )
    synthesize.add_argument("--out", type=Path, required=True, metavar="DIR")
    synthesize.add_argument(
        "--machine",
        help=f"which to generate, {' or '.join(MACHINES)} (default: {MACHINES[0]}); with --normals,"
        " the machine's folder",
    )
    synthesize.add_argument(
        "--units",
        type=_units,
        metavar="LIST",
        help="individuals of the machine, one section each, such as 0-2,5 (default: 0-2)",
    )
    synthesize.add_argument("--seed", type=_whole(0, _MAX_SEED), default=0)
    synthesize.add_argument(
        "--train-clips",
        type=_whole(0, 100_000),
        metavar="N",
        help="normal clips per unit to train on, in the source domain (default: 60)",
    )
    synthesize.add_argument(
        "--target-clips",
        type=_whole(0, 100_000),
        metavar="N",
        help="normal clips per unit to train on, in the target domain (default: 3)",
    )
    synthesize.add_argument(
        "--test-clips",
        type=_whole(0, 100_000),
        metavar="N",
        help="clips per unit and domain to test with, half of them anomalous (default: 20)",
    )
    synthesize.add_argument("--seconds", type=float, help="length of each clip (default: 10)")
    synthesize.add_argument(
        "--faults",
        type=_names,
        metavar="LIST",
        help=f"what the anomalies have, in turn (default: {','.join(FAULTS)})",
    )
    synthesize.add_argument("--severity", type=float, help="of the faults, 0 to 1 (default: 0.5)")
    _add_hard_options(synthesize)

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


def _add_hard_options(synthesize: argparse.ArgumentParser) -> None:
    hard = synthesize.add_argument_group("hard data sets")
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
        type=_names,
        metavar="LIST",
        help="tone, clicks, modulation, hiss, speed, muffled (default: all)",
    )
    hard.add_argument(
        "--severities",
        type=_floats,
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
        type=_float,
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
        type=_float,
        metavar="DB",
        help="rms of every clip, so that loudness gives nothing away (default: as recorded)",
    )


def _add(
    commands: "argparse._SubParsersAction[argparse.ArgumentParser]",
    name: str,
    run: Callable[[argparse.Namespace], int | None],
    text: str,
) -> argparse.ArgumentParser:
    parser = commands.add_parser(name, help=text, description=f"{text[0].upper()}{text[1:]}.")
    parser.set_defaults(run=run)
    return parser


def _add_data_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--data",
        type=Path,
        required=True,
        metavar="DIR",
        help="recordings: the machine's folder or the one above (DCASE Task 2, or normal/ and"
        " anomaly/; `python -m training data DIR` says what is there)",
    )
    parser.add_argument("--machine", help="the machine's folder; not needed if there is only one")
    parser.add_argument(
        "--channel", type=_whole(0, 255), help="of several, from 0 (default: all are mixed)"
    )
    _add_reading_options(parser)


def _add_reading_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--cache", type=Path, metavar="DIR", help="where features are kept")
    parser.add_argument("--no-cache", action="store_true", help="keep no features")
    parser.add_argument(
        "--tflite-python",
        type=Path,
        metavar="FILE",
        help="Python of an environment that has tflite-runtime (default: .venv-tflite, if there)",
    )


def _add_release_options(parser: argparse.ArgumentParser, *, described: bool = True) -> None:
    parser.add_argument(
        "--out", type=Path, required=True, metavar="DIR", help="the release's folder"
    )
    parser.add_argument("--name", help="of the release (default: the folder's name)")
    parser.add_argument("--version", type=_whole(1, 999_999_999), default=1)
    if described:
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


def _cache(options: argparse.Namespace) -> "FeatureCache":
    from training.feature_cache import FeatureCache, default_cache_folder

    if options.no_cache:
        return FeatureCache(None)
    return FeatureCache(options.cache or default_cache_folder())


def _tflite_python(options: argparse.Namespace) -> Path | None:
    from training.runtimes import find_tflite_python

    given: Path | None = options.tflite_python
    return given or find_tflite_python()


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


def _names(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())


def _floats(text: str) -> tuple[float, ...]:
    return tuple(_float(part) for part in _names(text))


if __name__ == "__main__":
    # As Ctrl-C: what is half done is taken away.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    sys.exit(main())
