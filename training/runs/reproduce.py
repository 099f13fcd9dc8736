"""Every recipe on every data set in one table, beside what others have published.

The story of `training reproduce`. Runs are kept: what is there already, made by the same command,
is read again and not trained again, so that an interrupted table goes on where it stopped.
"""

import json
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

import msgspec
import numpy as np

from contract.errors import EarshotError
from training.errors import DataError, DestinationError, RecipeError
from training.judge.compare import Run, read_run, yardstick_run
from training.judge.evaluate import require_labels
from training.judge.intervals import Difference, paired_difference_over_sets
from training.judge.metrics import Evaluation, Rule, harmonic_mean
from training.progress import Progress
from training.recipes import Recipe, with_epochs
from training.release.release_folder import METRICS_NAME
from training.runs.train import TrainRequest, train_release
from training.sound.dataset import find_dataset
from training.sound.feature_cache import FeatureCache
from training.sound.recordings import Note

_PUBLISHED = Path(__file__).with_name("published.toml")
TABLE_NAME = "table.json"


class Published(msgspec.Struct, frozen=True, kw_only=True):
    """A baseline's figures as its authors give them; None where they do not."""

    year: int
    machine: str
    name: str
    source: str
    auc: float | None = None
    auc_source: float | None = None
    auc_target: float | None = None
    pauc: float | None = None
    official: float | None = None


class ReproduceRequest(msgspec.Struct, frozen=True, kw_only=True):
    """Which recipes to run on which data sets."""

    data: tuple[Path, ...]
    machine: str | None
    year: int | None
    """Whose rule and published figures to print; None for data of one's own."""
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


class Cell(msgspec.Struct, frozen=True, kw_only=True):
    """A recipe or yardstick on one data set; by the rule of the table."""

    official: float | None
    official_sd: float | None
    """Over seeds; None of a single one."""
    auc: float | None
    auc_source: float | None
    auc_target: float | None
    pauc: float | None


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """A recipe or yardstick on all data sets."""

    name: str
    kind: Literal["recipe", "yardstick"]
    cells: dict[str, Cell]
    mean_official: float | None
    """Over the data sets."""
    champion_ahead: Difference | None
    """By how much the champion's mean official score is higher."""


class Table(msgspec.Struct, frozen=True, kw_only=True):
    """All of it."""

    schema: int = 1
    command: str
    rule: Rule
    seeds: int
    champion: str
    data: tuple[str, ...]
    rows: tuple[Row, ...]
    published: tuple[Published, ...]


def reproduce(request: ReproduceRequest, *, note: Note, progress: Progress) -> Table:
    """Run what is missing, and make the table.

    Raises:
        EarshotError: data or destination do not let it; the runs made so far are kept.
    """
    rule: Rule = "2022" if request.year is not None and request.year >= 2022 else "2021"
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
    table = _table(runs, rule, request)
    text = json.dumps(msgspec.to_builtins(table), indent=1, allow_nan=False)
    try:
        (request.out / TABLE_NAME).write_text(text + "\n", encoding="utf-8")
    except OSError as error:
        raise DestinationError(f"{request.out}: cannot write: {error.strerror}") from error
    return table


def published(year: int, machine: str) -> tuple[Published, ...]:
    """What the official baselines of a year reached on a machine."""
    every = msgspec.toml.decode(_PUBLISHED.read_bytes(), type=dict[str, list[Published]])
    return tuple(b for b in every["baseline"] if b.year == year and b.machine == machine)


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
            f"python -m training train --data {shlex.quote(data.resolve().name)}",
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
    return run.command == command and run.recipe == recipe


def _table(runs: Mapping[str, Mapping[str, Run]], rule: Rule, request: ReproduceRequest) -> Table:
    first = next(iter(runs.values()))
    yardsticks = next(iter(first.values())).yardsticks
    of_row: dict[tuple[Literal["recipe", "yardstick"], str], dict[str, Run]] = {
        ("recipe", recipe.name): {name: of_set[recipe.name] for name, of_set in runs.items()}
        for recipe in request.recipes
    }
    for yardstick in yardsticks:
        of_row["yardstick", yardstick] = {
            name: yardstick_run(next(iter(of_set.values())), yardstick)
            for name, of_set in runs.items()
        }
    champion = of_row.get(("recipe", request.champion))
    rows = []
    for (kind, name), of_set in of_row.items():
        cells = {data: _cell(run, rule) for data, run in of_set.items()}
        officials = [cell.official for cell in cells.values()]
        known = [official for official in officials if official is not None]
        rows.append(
            Row(
                name=name,
                kind=kind,
                cells=cells,
                mean_official=float(np.mean(known)) if len(known) == len(officials) else None,
                champion_ahead=(
                    None
                    if champion is None or champion is of_set
                    else paired_difference_over_sets(
                        [(champion[data].scored, of_set[data].scored) for data in of_set],
                        rule=rule,
                        seed=0,
                        group=lambda clip: clip.attributes,
                    )
                ),
            )
        )
    machine = next(iter(first.values())).machine
    return Table(
        command=request.command,
        rule=rule,
        seeds=request.seeds,
        champion=request.champion,
        data=tuple(runs),
        rows=tuple(rows),
        published=() if request.year is None else published(request.year, machine),
    )


def _cell(run: Run, rule: Rule) -> Cell:
    evaluations = run.evaluations(rule)
    officials = [e.official for e in evaluations if e.official is not None]
    by_domain = [{"source": None, "target": None, **_aucs(e, rule)} for e in evaluations]
    return Cell(
        official=_mean(officials),
        official_sd=float(np.std(officials, ddof=1)) if len(officials) > 1 else None,
        auc=_mean([_auc(e, rule) for e in evaluations]),
        auc_source=_mean([aucs["source"] for aucs in by_domain]),
        auc_target=_mean([aucs["target"] for aucs in by_domain]),
        pauc=_mean(
            [e.overall.pauc if rule == "2021" else e.overall_2022.pauc for e in evaluations]
        ),
    )


def _auc(evaluation: Evaluation, rule: Rule) -> float | None:
    if rule == "2021":
        return evaluation.overall.auc
    overall = evaluation.overall_2022
    return harmonic_mean([overall.auc_source, overall.auc_target])


def _aucs(evaluation: Evaluation, rule: Rule) -> dict[str, float | None]:
    if rule == "2021":
        return {domain: figures.auc for domain, figures in evaluation.by_domain.items()}
    overall = evaluation.overall_2022
    return {"source": overall.auc_source, "target": overall.auc_target}


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None
