"""Every recipe and yardstick on every data set in one table, beside what others have published."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

import msgspec
import numpy as np

from training.judge.compare import Run, yardstick_run
from training.judge.intervals import Difference, paired_difference_over_sets
from training.judge.metrics import DcaseRule, Evaluation, harmonic_mean

_PUBLISHED = Path(__file__).with_name("published.toml")


class PublishedFigures(msgspec.Struct, frozen=True, kw_only=True):
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


class TableCell(msgspec.Struct, frozen=True, kw_only=True):
    """A recipe or yardstick on one data set; by the rule of the table."""

    official: float | None
    official_sd: float | None
    """Over seeds; None of a single one."""
    auc: float | None
    auc_source: float | None
    auc_target: float | None
    pauc: float | None


class TableRow(msgspec.Struct, frozen=True, kw_only=True):
    """A recipe or yardstick on all data sets."""

    name: str
    kind: Literal["recipe", "yardstick"]
    cells: dict[str, TableCell]
    mean_official: float | None
    """Over the data sets."""
    champion_ahead: Difference | None
    """How much higher the champion's mean official score is."""


class RecipeTable(msgspec.Struct, frozen=True, kw_only=True):
    """All recipes and yardsticks on all data sets, and what others have published."""

    schema: int = 1
    command: str
    rule: DcaseRule
    seeds: int
    champion: str
    data: tuple[str, ...]
    rows: tuple[TableRow, ...]
    published: tuple[PublishedFigures, ...]


def published_figures(year: int, machine: str) -> tuple[PublishedFigures, ...]:
    """What the official baselines of a year reached on a machine."""
    every = msgspec.toml.decode(_PUBLISHED.read_bytes(), type=dict[str, list[PublishedFigures]])
    return tuple(b for b in every["baseline"] if b.year == year and b.machine == machine)


def recipe_table(
    runs: Mapping[str, Mapping[str, Run]],
    *,
    rule: DcaseRule,
    champion: str,
    seeds: int,
    year: int | None,
    command: str,
) -> RecipeTable:
    """Make the table of all runs.

    Args:
        runs: of each recipe by its name, on each data set by its name; at least one of each.
        rule: of the official score.
        champion: the recipe that all others, and the yardsticks, are compared with.
        seeds: trainings of each recipe.
        year: whose published figures stand beside; None for none.
        command: that made the runs, without paths of this machine.
    """
    first = next(iter(runs.values()))
    yardsticks = next(iter(first.values())).yardsticks
    of_row: dict[tuple[Literal["recipe", "yardstick"], str], dict[str, Run]] = {
        ("recipe", recipe): {name: of_set[recipe] for name, of_set in runs.items()}
        for recipe in first
    }
    for yardstick in yardsticks:
        of_row["yardstick", yardstick] = {
            name: yardstick_run(next(iter(of_set.values())), yardstick)
            for name, of_set in runs.items()
        }
    ahead = of_row.get(("recipe", champion))
    rows = []
    for (kind, name), of_set in of_row.items():
        cells = {data: _cell(run, rule) for data, run in of_set.items()}
        officials = [cell.official for cell in cells.values()]
        known = [official for official in officials if official is not None]
        rows.append(
            TableRow(
                name=name,
                kind=kind,
                cells=cells,
                mean_official=float(np.mean(known)) if len(known) == len(officials) else None,
                champion_ahead=(
                    None
                    if ahead is None or ahead is of_set
                    else paired_difference_over_sets(
                        [(ahead[data].scored, of_set[data].scored) for data in of_set],
                        rule=rule,
                        seed=0,
                        group=lambda clip: clip.attributes,
                    )
                ),
            )
        )
    machine = next(iter(first.values())).machine
    return RecipeTable(
        command=command,
        rule=rule,
        seeds=seeds,
        champion=champion,
        data=tuple(runs),
        rows=tuple(rows),
        published=() if year is None else published_figures(year, machine),
    )


def _cell(run: Run, rule: DcaseRule) -> TableCell:
    evaluations = run.evaluations(rule)
    officials = [e.official for e in evaluations if e.official is not None]
    by_domain = [{"source": None, "target": None, **_aucs(e, rule)} for e in evaluations]
    return TableCell(
        official=_mean(officials),
        official_sd=float(np.std(officials, ddof=1)) if len(officials) > 1 else None,
        auc=_mean([_auc(e, rule) for e in evaluations]),
        auc_source=_mean([aucs["source"] for aucs in by_domain]),
        auc_target=_mean([aucs["target"] for aucs in by_domain]),
        pauc=_mean(
            [e.overall.pauc if rule == "2021" else e.overall_2022.pauc for e in evaluations]
        ),
    )


def _auc(evaluation: Evaluation, rule: DcaseRule) -> float | None:
    if rule == "2021":
        return evaluation.overall.auc
    overall = evaluation.overall_2022
    return harmonic_mean([overall.auc_source, overall.auc_target])


def _aucs(evaluation: Evaluation, rule: DcaseRule) -> dict[str, float | None]:
    if rule == "2021":
        return {domain: figures.auc for domain, figures in evaluation.by_domain.items()}
    overall = evaluation.overall_2022
    return {"source": overall.auc_source, "target": overall.auc_target}


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None
