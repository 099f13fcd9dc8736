"""The command line of `python -m training`: what each command takes."""

import argparse
import math
import re
from collections.abc import Callable, Mapping
from pathlib import Path

from node.sound.synthetic import FAULTS, MACHINES
from training.broker_arguments import add_broker_commands
from training.fleet_arguments import add_fleet_commands
from training.recipes import DEFAULT_RECIPE, QUANTISATIONS, recipe_names

Run = Callable[[argparse.Namespace], int | None]
"""Runs a command and gives its exit code; None is 0."""

EXIT_PROBLEMS = 1
"""Of `data`: training on the recordings would be a mistake."""

_MAX_SEED = 2**32 - 1
_MAX_DESCRIPTION = 200


def parser(run: Mapping[str, Run]) -> argparse.ArgumentParser:
    """The parser; `run` has what runs each command."""
    root = argparse.ArgumentParser(
        prog="python -m training", description="Recordings of a healthy machine in, releases out."
    )
    commands = root.add_subparsers(required=True, metavar="COMMAND")

    def add(name: str, text: str) -> argparse.ArgumentParser:
        command = commands.add_parser(name, help=text, description=f"{text[0].upper()}{text[1:]}.")
        command.set_defaults(run=run[name])
        return command

    data = add("data", "say what a data set holds and what is wrong with it")
    data.epilog = f"Exit code {EXIT_PROBLEMS} says that training on it would be a mistake."
    data.add_argument(
        "folder", type=Path, metavar="DIR", help="the machine's folder or the one above"
    )
    data.add_argument("--machine", help="the machine's folder; not needed if there is only one")
    data.add_argument("--json", type=Path, metavar="FILE", help="write all findings here as well")

    train = add("train", "train a detector and write a release")
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
        " have not heard; auto takes sessions where there are at least five",
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

    evaluate = add("evaluate", "judge a release by labelled recordings")
    evaluate.add_argument("release", type=Path, metavar="RELEASE", help="the release's folder")
    _add_data_options(evaluate)
    evaluate.add_argument(
        "--room-noise",
        type=Path,
        metavar="DIR",
        help="one folder of recordings for each kind (speech, rain): how often do they ring?",
    )
    evaluate.add_argument("--json", type=Path, metavar="FILE", help="write all figures there")

    field = add("field", "say what a node would do with a release: alarms a day, delays")
    field.add_argument("release", type=Path, metavar="RELEASE", help="the release's folder")
    _add_data_folder(field)
    field.add_argument(
        "--noise",
        type=Path,
        metavar="DIR",
        help="one folder of recordings for each kind of room noise, to mix in at 10 and 0 dB",
    )
    field.add_argument(
        "--new-place-at",
        action="append",
        default=[],
        metavar="FILE",
        help="name of a normal test clip with which another place begins: another day, another"
        " mounting; may be given several times",
    )
    field.add_argument(
        "--split",
        choices=("interleaved", "halves"),
        default="interleaved",
        help="calibrate with every other clip of a place, or with its first half and then its"
        " second (default: interleaved)",
    )
    field.add_argument(
        "--hours",
        type=_positive,
        default=24.0,
        help="of simulated time for each rule in each place (default: 24)",
    )
    field.add_argument(
        "--minutes", type=_positive, default=60.0, help="of calibration (default: 60)"
    )
    field.add_argument("--seed", type=_whole(0, _MAX_SEED), default=42)
    field.add_argument("--json", type=Path, metavar="FILE", help="write all figures there")

    compare = add("compare", "say which of two runs is better, and how surely")
    for name in ("first", "second"):
        compare.add_argument(
            name,
            type=Path,
            metavar=name.upper(),
            help="folder that `train` wrote, or a file of `evaluate --json`",
        )
    compare.add_argument("--rule", choices=("2021", "2022"), help="of the official score")

    quantize = add(
        "quantize",
        "make a release of another quantisation of a trained run",
    )
    quantize.add_argument("trained", type=Path, metavar="RUN", help="folder that `train` wrote")
    quantize.add_argument("--to", choices=QUANTISATIONS, required=True)
    _add_release_options(quantize, described=False)

    reproduce = add(
        "reproduce",
        "run recipes on data sets, beside published figures",
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
        metavar="NAME",
        help=f"whose lead over the others is given with intervals (default: {DEFAULT_RECIPE} if it"
        " is run, else the first)",
    )
    reproduce.add_argument(
        "--out",
        type=Path,
        required=True,
        metavar="DIR",
        help="for the runs and table.json; runs that are there are not made again, so take it away"
        " when the recordings have changed",
    )
    reproduce.add_argument("--seed", type=_whole(0, _MAX_SEED), default=42)
    reproduce.add_argument("--seeds", type=_whole(1, 100), default=3, metavar="N")
    reproduce.add_argument("--epochs", type=_whole(1, 100_000), help="in place of the recipes'")
    reproduce.add_argument("--no-variants", action="store_true", help="one quantisation each")
    _add_reading_options(reproduce)

    synthesize = add("synthesize", "write a data set of generated machine sound")
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

    import_ = add("import", "write a release around a .tflite from elsewhere")
    import_.add_argument("file", type=Path, metavar="FILE.tflite")
    import_.add_argument(
        "--threshold",
        type=_positive,
        required=True,
        help="mean squared error above which a window is an anomaly",
    )
    _add_release_options(import_)

    _add_keys(add("keys", "make and show the keys that sign releases and orders"))

    release = add("release", "pack a trained run for a fleet: versioned, self-tested, signed")
    release.add_argument("trained", type=Path, metavar="RUN", help="folder that `train` wrote")
    release.add_argument(
        "--out", type=Path, required=True, metavar="DIR", help="the release's folder"
    )
    release.add_argument("--name", help="of the release (default: the run's)")
    release.add_argument(
        "--version",
        type=_whole(1, 999_999_999),
        help="above every one of that name in the run and beside --out (default: the next)",
    )
    release.add_argument("--description", type=_description, help="(default: the run's)")
    release.add_argument(
        "--valid-days",
        type=_whole(1, 36_500),
        default=730,
        metavar="N",
        help="how long nodes may take it on; one that runs it goes on (default: 730)",
    )
    release.add_argument("--overwrite", action="store_true", help="replace a release that is there")
    release.add_argument(
        "--tflite-python",
        type=Path,
        metavar="FILE",
        help="Python of an environment that has tflite-runtime (default: .venv-tflite, if there)",
    )
    add_signing_options(release)

    inspect = add("inspect", "say in words what a release is and who has signed it")
    inspect.epilog = f"Exit code {EXIT_PROBLEMS} says that nodes with these keys refuse it."
    inspect.add_argument("release", type=Path, metavar="RELEASE", help="the release's folder")
    inspect.add_argument(
        "--keys",
        type=Path,
        metavar="FILE",
        help="public keys that nodes trust (default: of the key in its usual place)",
    )

    add_fleet_commands(add, add_signing_options)
    add_broker_commands(add)
    return root


def add_signing_options(parser: argparse.ArgumentParser) -> None:
    """Options of every command that signs."""
    parser.add_argument(
        "--key",
        type=Path,
        metavar="FILE",
        help="private key to sign with (default: ~/.config/earshot/release-key.pem)",
    )
    _add_passphrase_file(parser, "its pass phrase in the first line (default: asked for)")


def _add_passphrase_file(parser: argparse._ActionsContainer, text: str) -> None:
    parser.add_argument("--passphrase-file", type=Path, metavar="FILE", help=text)


def _add_keys(keys: argparse.ArgumentParser) -> None:
    actions = keys.add_subparsers(dest="action", required=True, metavar="create|show")
    create = actions.add_parser("create", description="Make an Ed25519 key pair.")
    create.add_argument(
        "--out",
        type=Path,
        metavar="FILE",
        help="of the private key (default: ~/.config/earshot/release-key.pem); the public one is"
        " put beside it",
    )
    passphrase = create.add_mutually_exclusive_group()
    passphrase.add_argument("--passphrase", action="store_true", help="ask for one, and encrypt")
    _add_passphrase_file(passphrase, "encrypt with the pass phrase in its first line")
    create.add_argument("--anyway", action="store_true", help="inside a Git work tree, too")
    show = actions.add_parser("show", description="Print key ids and public keys in PEM.")
    show.add_argument(
        "file",
        type=Path,
        nargs="?",
        metavar="FILE",
        help="a private key, or one or two public ones (default: the private key in its usual"
        " place)",
    )
    _add_passphrase_file(show, "a private key's pass phrase in its first line (default: asked for)")


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


def _add_data_options(parser: argparse.ArgumentParser) -> None:
    _add_data_folder(parser)
    _add_reading_options(parser)


def _add_data_folder(parser: argparse.ArgumentParser) -> None:
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
