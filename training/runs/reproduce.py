"""Every recipe on every data set in one table, beside what others have published.

The story of `training reproduce`. Runs are kept: what is there already, made by the same command,
is read again and not trained again, so that an interrupted table goes on where it stopped.
"""

import json
import shlex
from collections.abc import Sequence
from pathlib import Path

import msgspec

from contract.errors import EarshotError
from training.errors import DataError, DestinationError, RecipeError
from training.judge.compare import Run, read_run
from training.judge.evaluate import require_labels
from training.judge.metrics import DcaseRule
from training.judge.recipe_table import RecipeTable, recipe_table
from training.progress import Progress
from training.recipes import Recipe, with_epochs
from training.release.release_folder import METRICS_NAME
from training.runs.train import TrainRequest, train_release
from training.sound.dataset import find_dataset
from training.sound.feature_cache import FeatureCache
from training.sound.recordings import Note

TABLE_NAME = "table.json"


class ReproduceRequest(msgspec.Struct, frozen=True, kw_only=True):
    """Which recipes to run on which data sets."""

    data: tuple[Path, ...]
    machine: str | None
    year: int | None
    """The year whose rule and published figures to print; None for data of one's own."""
    recipes: tuple[Recipe, ...]
    champion: str
    """The recipe that all others, and the yardsticks, are compared with."""
    out: Path
    seed: int
    seeds: int
    variants: bool
    epochs: int | None
    cache: FeatureCache
    tflite_python: Path | None
    command: str


def reproduce(request: ReproduceRequest, *, note: Note, progress: Progress) -> RecipeTable:
    """Run what is missing, and make the table.

    Raises:
        EarshotError: data or destination do not let it; the runs made so far are kept.
    """
    rule: DcaseRule = "2022" if request.year is not None and request.year >= 2022 else "2021"
    names = _data_names(request.data)
    if request.champion not in [recipe.name for recipe in request.recipes]:
        raise RecipeError(
            f"expected a champion out of the recipes that are run, got {request.champion}"
        )
    machines = []
    for folder in request.data:
        dataset = find_dataset(folder, request.machine)
        require_labels(dataset)
        machines.append(dataset.machine)
    runs: dict[str, dict[str, Run]] = {name: {} for name in names}
    for name, machine, folder in zip(names, machines, request.data, strict=True):
        for recipe in request.recipes:
            out = request.out / name / machine / recipe.name
            _run(out, folder, recipe, request, note=note, progress=progress)
            runs[name][recipe.name] = read_run(out)
            note(f"{name}, {recipe.name}: official {runs[name][recipe.name].official(rule):.3f}")
    table = recipe_table(
        runs,
        rule=rule,
        champion=request.champion,
        seeds=request.seeds,
        year=request.year,
        command=request.command,
    )
    text = json.dumps(msgspec.to_builtins(table), indent=1, allow_nan=False)
    try:
        (request.out / TABLE_NAME).write_text(text + "\n", encoding="utf-8")
    except OSError as error:
        raise DestinationError(f"{request.out}: cannot write: {error.strerror}") from error
    return table


def _data_names(folders: Sequence[Path]) -> list[str]:
    names = [folder.resolve().name for folder in folders]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise DataError(f"expected data folders of different names, got {twice[0]} twice")
    return names


def _run(
    out: Path,
    data: Path,
    recipe: Recipe,
    request: ReproduceRequest,
    *,
    note: Note,
    progress: Progress,
) -> None:
    """Train unless the same run is there."""
    own = recipe if request.epochs is None else with_epochs(recipe, request.epochs)
    command = " ".join(
        [
            f"earshot training train --data {shlex.quote(data.resolve().name)}",
            *([f"--machine {shlex.quote(request.machine)}"] if request.machine else []),
            f"--recipe {recipe.name} --seed {request.seed} --seeds {request.seeds} --folds 0",
            *([f"--epochs {request.epochs}"] if request.epochs else []),
            *([] if request.variants else ["--no-variants"]),
            f"--out {out.name}",
        ]
    )
    if (out / METRICS_NAME).exists() and _is_run_of(out, command, own):
        return
    out.parent.mkdir(parents=True, exist_ok=True)
    train_release(
        TrainRequest(
            data=data,
            machine=request.machine,
            recipe=own,
            out=out,
            name=recipe.name,
            version=1,
            description=None,
            seed=request.seed,
            seeds=request.seeds,
            false_alarm_rate=0.01,
            threshold_from="auto",
            folds=0,
            quantisation=own.quantisation,
            variants=request.variants,
            unreadable="refuse",
            channel=None,
            cache=request.cache,
            tflite_python=request.tflite_python,
            overwrite=True,
            command=command,
        ),
        note=note,
        progress=progress,
    )


def _is_run_of(out: Path, command: str, recipe: Recipe) -> bool:
    try:
        run = read_run(out)
    except EarshotError:
        return False
    # Earlier versions wrote down `python -m training`.
    commands = (command, command.replace("earshot", "python -m", 1))
    return run.command in commands and run.recipe == recipe
