"""`python -m training`: recordings in, releases out."""

import argparse
import os
import re
import shlex
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from contract.errors import EXIT_BAD_INPUT, EarshotError
from contract.printable import printable
from contract.topics import RELEASE_NAME_PATTERN
from node.sound.synthetic import FAULTS, MACHINES
from training.arguments import EXIT_PROBLEMS, Run, parser
from training.broker_arguments import BROKER_COMMANDS
from training.errors import DataError, DestinationError
from training.fleet_arguments import FLEET_COMMANDS
from training.progress import on_terminal
from training.recipes import DEFAULT_RECIPE, with_epochs

if TYPE_CHECKING:
    from contract.signature import Signer
    from training.made.synthesize import DatasetPlan
    from training.sound.feature_cache import FeatureCache

_EXIT_INTERRUPTED = 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    options = parser(_COMMANDS).parse_args(arguments)
    try:
        return options.run(options) or 0
    except EarshotError as error:
        # It may tell what a node has said.
        _note(printable(" ".join(str(error).split())))
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
    from training.sound.data_report import lines, report_on, write_json

    report = report_on(options.folder, options.machine, progress=on_terminal)
    if options.json is not None:
        write_json(report, options.json)
    print("\n".join(lines(report)), flush=True)
    return EXIT_PROBLEMS if report.problems else 0


def _train(options: argparse.Namespace) -> None:
    from training.pages.tables import training_lines
    from training.recipes import read_recipe
    from training.runs.train import TrainRequest, train_release

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
            unreadable=None if options.unreadable == "refuse" else options.unreadable,
            channel=options.channel,
        ),
    )
    outcome = train_release(request, note=_note, progress=on_terminal)
    print("\n".join(training_lines(outcome, options.out)))


def _evaluate(options: argparse.Namespace) -> None:
    from training.judge.evaluate import EvaluateRequest, evaluate_release
    from training.pages.tables import evaluation_lines

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


def _field(options: argparse.Namespace) -> None:
    from training.field.field import FieldRequest, try_in_field
    from training.field.field_tables import field_lines

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
        command=_command(
            f"field {shlex.quote(_shown(options.release))}",
            data=options.data.resolve().name,
            machine=options.machine,
            channel=options.channel,
            noise=None if options.noise is None else options.noise.resolve().name,
            split=options.split,
            hours=f"{options.hours:g}",
            minutes=f"{options.minutes:g}",
            seed=options.seed,
        )
        + "".join(f" --new-place-at {shlex.quote(name)}" for name in options.new_place_at),
    )
    print("\n".join(field_lines(try_in_field(request, note=_note, progress=on_terminal))))


def _compare(options: argparse.Namespace) -> None:
    from training.judge.compare import compare, read_run
    from training.pages.tables import comparison_lines

    found = compare(read_run(options.first), read_run(options.second), rule=options.rule)
    print("\n".join(comparison_lines(found)))


def _quantize(options: argparse.Namespace) -> None:
    from training.release.release_folder import take_variant, write_release

    name = _release_name(options)
    release = take_variant(options.trained, options.to, name=name, version=options.version)
    write_release(options.out, release, overwrite=options.overwrite)
    manifest = release.manifest
    print(
        f"{manifest.label} in {options.out}: {options.to}, {manifest.models_bytes / 1e6:.2f} MB,"
        f" threshold {manifest.threshold.value:.4g}, runs in {', '.join(manifest.runtimes)}"
    )


def _reproduce(options: argparse.Namespace) -> None:
    from training.pages.tables import table_lines
    from training.recipes import read_recipe
    from training.runs.reproduce import ReproduceRequest, reproduce

    recipes = tuple(read_recipe(name) for name in options.recipes.split(","))
    names = [recipe.name for recipe in recipes]
    champion = options.champion or (DEFAULT_RECIPE if DEFAULT_RECIPE in names else names[0])
    request = ReproduceRequest(
        data=tuple(options.data),
        machine=options.machine,
        year=options.year,
        recipes=recipes,
        champion=champion,
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
    from training.made.synthesize import synthesize

    plan = _generated_plan(options)
    clips = synthesize(plan, options.out, progress=on_terminal)
    print(f"{clips} clips of {plan.seconds:g} s in {options.out / plan.machine}")


def _synthesize_hard(options: argparse.Namespace) -> None:
    from training.made.harden import HardPlan, generated, harden, recorded
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
    from training.release.import_model import ImportRequest, import_model

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


def _keys(options: argparse.Namespace) -> None:
    from training.fleet import keys

    ask = keys.ask_in_terminal()
    if options.action == "show":
        for key_id, pem in keys.public_pems(options.file, options.passphrase_file, ask).items():
            print(f"key {key_id}\n{pem}", end="")
        return
    passphrase = None
    if options.passphrase:
        passphrase = keys.ask_new_passphrase(ask)
    elif options.passphrase_file is not None:
        passphrase = keys.read_passphrase(options.passphrase_file)
    created = keys.create_key(options.out, passphrase, in_repository=options.anyway)
    print("\n".join(keys.created_lines(created)))


def _release(options: argparse.Namespace) -> None:
    from training.release.pack import PackRequest, pack_release, packed_lines

    request = PackRequest(
        trained=options.trained,
        out=options.out,
        name=None if options.name is None else _release_name(options),
        version=options.version,
        description=options.description,
        valid_days=options.valid_days,
        overwrite=options.overwrite,
        tflite_python=_tflite_python(options),
    )
    packed = pack_release(request, _signer(options), note=_note)
    print("\n".join(packed_lines(packed, options.out)))


def _inspect(options: argparse.Namespace) -> int:
    from training.release.release_words import describe_release

    lines, refused = describe_release(options.release, keys=options.keys)
    print("\n".join(lines))
    return EXIT_PROBLEMS if refused else 0


def _on_fleet(name: str) -> Run:
    def run(options: argparse.Namespace) -> int:
        from training import fleet_commands

        return fleet_commands.run(name, options)

    return run


def _on_broker(name: str) -> Run:
    def run(options: argparse.Namespace) -> int:
        from training import broker_commands

        return broker_commands.run(name, options)

    return run


def _signer(options: argparse.Namespace) -> "Signer":
    from training.fleet.keys import ask_in_terminal, load_signer

    return load_signer(options.key, options.passphrase_file, ask_in_terminal())


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
    from training.sound.feature_cache import FeatureCache, default_cache_folder

    if options.no_cache:
        return FeatureCache(None)
    return FeatureCache(options.cache or default_cache_folder())


def _tflite_python(options: argparse.Namespace) -> Path | None:
    from training.release.runtimes import find_tflite_python

    given: Path | None = options.tflite_python
    return given or find_tflite_python()


def _note(text: str) -> None:
    print(f"earshot training: {text}", file=sys.stderr)


_COMMANDS: dict[str, Run] = {
    "data": _data,
    "train": _train,
    "evaluate": _evaluate,
    "field": _field,
    "compare": _compare,
    "quantize": _quantize,
    "reproduce": _reproduce,
    "synthesize": _synthesize,
    "import": _import,
    "keys": _keys,
    "release": _release,
    "inspect": _inspect,
    **{name: _on_fleet(name) for name in FLEET_COMMANDS},
    **{name: _on_broker(name) for name in BROKER_COMMANDS},
}


if __name__ == "__main__":
    # As Ctrl-C: what is half done is taken away.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    sys.exit(main())
