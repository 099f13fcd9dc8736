"""`earshot training reproduce`: every recipe on every data set, beside published figures."""

import argparse
from pathlib import Path

from contract.command_line import recorded
from training.commands.argument_types import MAX_SEED, whole
from training.commands.data_arguments import add_reading_options, feature_cache, tflite_python
from training.recipes import DEFAULT_RECIPE, recipe_names

SUMMARY = "run recipes on data sets, beside published figures"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument(
        "--data",
        type=Path,
        required=True,
        action="append",
        metavar="DIR",
        help="recordings with labelled tests; may be given several times",
    )
    parser.add_argument("--machine", help="the machine's folder")
    parser.add_argument(
        "--year", type=whole(2020, 2026), help="of the DCASE data: its rule, its baselines"
    )
    parser.add_argument(
        "--recipes", default=",".join(recipe_names()), metavar="LIST", help="(default: all)"
    )
    parser.add_argument(
        "--champion",
        metavar="NAME",
        help=f"whose lead over the others is given with intervals (default: {DEFAULT_RECIPE} if it"
        " is run, else the first)",
    )
    parser.add_argument(
        "--out",
        type=Path,
        required=True,
        metavar="DIR",
        help="for the runs and table.json; runs that are there are not made again, so take it away"
        " when the recordings have changed",
    )
    parser.add_argument("--seed", type=whole(0, MAX_SEED), default=42)
    parser.add_argument("--seeds", type=whole(1, 100), default=3, metavar="N")
    parser.add_argument("--epochs", type=whole(1, 100_000), help="in place of the recipes'")
    parser.add_argument("--no-variants", action="store_true", help="one quantisation each")
    add_reading_options(parser)


def run(options: argparse.Namespace) -> int:
    """Train what is missing, and print the table."""
    from training.pages.tables import table_lines
    from training.progress import note, on_terminal
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
        cache=feature_cache(options),
        tflite_python=tflite_python(options),
        command=recorded(options),
    )
    print("\n".join(table_lines(reproduce(request, note=note, progress=on_terminal))))
    return 0
