"""`earshot training train`: a detector out of normal sound, and a release with its report."""

import argparse

from contract.command_line import recorded
from training.commands.argument_types import MAX_SEED, share, whole
from training.commands.data_arguments import add_data_options, feature_cache, tflite_python
from training.commands.release_arguments import add_release_options, release_name
from training.recipes import DEFAULT_RECIPE, QUANTISATIONS, recipe_names

SUMMARY = "train a detector and write a release"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    add_data_options(parser)
    parser.add_argument(
        "--recipe",
        default=DEFAULT_RECIPE,
        metavar="NAME",
        help=f"{', '.join(recipe_names())}, or a .toml file (default: {DEFAULT_RECIPE})",
    )
    add_release_options(parser)
    parser.add_argument("--seed", type=whole(0, MAX_SEED), default=42)
    parser.add_argument(
        "--seeds",
        type=whole(1, 100),
        default=3,
        metavar="N",
        help="trainings that differ in the seed alone; the first one is released (default: 3)",
    )
    parser.add_argument("--epochs", type=whole(1, 100_000), help="in place of the recipe's")
    parser.add_argument(
        "--false-alarm-rate",
        type=share,
        default=0.01,
        metavar="SHARE",
        help="share of normal windows that the threshold lets through (default: 0.01)",
    )
    parser.add_argument(
        "--threshold-from",
        choices=("auto", "held-out", "sessions-left-out"),
        default="auto",
        help="files that the model has not heard, or whole sessions that models of the same recipe"
        " have not heard; auto takes sessions where there are at least five",
    )
    parser.add_argument(
        "--folds",
        type=whole(0, 1000),
        default=5,
        metavar="N",
        help="trainings without some of the sessions, to see what a threshold is worth for sessions"
        " that were not heard; 0 is none (default: 5)",
    )
    parser.add_argument("--quantisation", choices=QUANTISATIONS, help="in place of the recipe's")
    parser.add_argument(
        "--no-variants", action="store_true", help="leave the other quantisations out"
    )
    parser.add_argument(
        "--unreadable",
        choices=("refuse", "skip"),
        default="refuse",
        help="what to do about recordings that cannot be read (default: refuse)",
    )


def run(options: argparse.Namespace) -> int:
    """Train, and print how good it is."""
    from training.pages.tables import training_lines
    from training.progress import note, on_terminal
    from training.recipes import read_recipe, with_epochs
    from training.runs.train import TrainRequest, train_release

    name = release_name(options)
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
        cache=feature_cache(options),
        tflite_python=tflite_python(options),
        overwrite=options.overwrite,
        command=recorded(options),
    )
    outcome = train_release(request, note=note, progress=on_terminal)
    print("\n".join(training_lines(outcome, options.out)))
    return 0
