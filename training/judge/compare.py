"""Two runs on the same clips: which is better, and how sure that is.

The story of `training compare`. A run is what `training train` or `training evaluate --json` wrote;
only its clips' scores are used.
"""

from collections.abc import Sequence
from pathlib import Path

import msgspec
import numpy as np

from training.errors import DataError
from training.judge.evaluation_report import ClipRow
from training.judge.intervals import Difference, paired_difference_over_sets
from training.judge.metrics import (
    DcaseRule,
    Evaluation,
    Figure,
    ScoredClip,
    evaluate_scores,
    resampled_figure,
)
from training.recipes import Recipe
from training.release.release_folder import METRICS_NAME
from training.sound.dataset import Clip, Domain, Label

_FIGURES: tuple[Figure, ...] = ("official", "auc", "pauc")


class Run(msgspec.Struct, frozen=True, kw_only=True):
    """The scores of a run's clips, once for each seed."""

    name: str
    data: str
    machine: str
    command: str
    recipe: Recipe | None
    """None where it is not known."""
    clips: tuple[ClipRow, ...]
    scores: tuple[tuple[float, ...], ...]
    """The clips' scores in the order of `clips`: one tuple for each seed."""
    yardsticks: dict[str, tuple[float, ...]]

    @property
    def scored(self) -> list[list[ScoredClip]]:
        """The clips with their scores, once for each seed.

        A clip's `attributes` name its recording: a planted fault and its original have the same.
        """
        return [
            [
                ScoredClip(_clip(row), np.array([score]), row.level_dbfs)
                for row, score in zip(self.clips, scores, strict=True)
            ]
            for scores in self.scores
        ]

    def evaluations(self, rule: DcaseRule) -> list[Evaluation]:
        """Evaluate the scores of each seed."""
        return [evaluate_scores(clips, how="mean", rule=rule) for clips in self.scored]

    def official(self, rule: DcaseRule) -> float:
        """Mean official score over seeds; NaN where a label is missing."""
        found = [evaluation.official for evaluation in self.evaluations(rule)]
        return float(np.mean([np.nan if value is None else value for value in found]))


class Comparison(msgspec.Struct, frozen=True, kw_only=True):
    """The first run minus the second, each the mean over its seeds."""

    first: str
    second: str
    clips: int
    seeds: tuple[int, int]
    figures: dict[Figure, tuple[float | None, float | None]]
    differences: dict[Figure, Difference | None]


class _Seed(msgspec.Struct):
    scores: tuple[float, ...]


class _Seeds(msgspec.Struct):
    each: tuple[_Seed, ...]


class _Written(msgspec.Struct):
    """What is needed of a `metrics.json` or of an evaluation's JSON."""

    release: str
    recipe: str | None
    data: str
    machine: str
    command: str
    clips: tuple[ClipRow, ...]
    yardstick_scores: dict[str, tuple[float, ...]]
    seeds: _Seeds | None = None
    recipe_settings: Recipe | None = None


def read_run(path: Path) -> Run:
    """A run from a release's folder or from a JSON file.

    Raises:
        DataError: there is none, or it was made without labelled test clips.
    """
    file = path / METRICS_NAME if path.is_dir() else path
    try:
        written = msgspec.json.decode(file.read_bytes(), type=_Written)
    except OSError as error:
        raise DataError(f"{file}: cannot read: {error.strerror}") from error
    except msgspec.MsgspecError as error:
        raise DataError(
            f"{file}: expected what `training train` writes for a data set with labelled test"
            f" clips, or `training evaluate --json`: {error}"
        ) from error
    own = tuple(row.score for row in written.clips)
    seeds = (own,) if written.seeds is None else tuple(s.scores for s in written.seeds.each)
    return Run(
        name=f"{written.release} ({written.recipe or 'recipe not known'})",
        data=written.data,
        machine=written.machine,
        command=written.command,
        recipe=written.recipe_settings,
        clips=written.clips,
        scores=seeds,
        yardsticks=written.yardstick_scores,
    )


def yardstick_run(run: Run, yardstick: str) -> Run:
    """A yardstick on the clips of a run."""
    return msgspec.structs.replace(run, name=yardstick, scores=(run.yardsticks[yardstick],))


def compare(first: Run, second: Run, *, rule: DcaseRule | None = None) -> Comparison:
    """Paired bootstrap over recordings, the same resamples for both runs and all seeds.

    Raises:
        DataError: the runs have not scored the same clips.
    """
    if first.machine != second.machine:
        raise DataError(
            f"expected two runs on the same machine, got {first.machine} and {second.machine}"
        )
    levels = [{row.file: row.level_dbfs for row in run.clips} for run in (first, second)]
    other = [name for name, level in levels[0].items() if levels[1].get(name, level) != level]
    if other:
        raise DataError(
            f"expected two runs on the same recordings, {other[0]} has another level in the second"
        )
    pair = first.scored, second.scored
    differences = {
        figure: paired_difference_over_sets(
            [pair], figure=figure, rule=rule, seed=0, group=lambda clip: clip.attributes
        )
        for figure in _FIGURES
    }
    return Comparison(
        first=first.name,
        second=second.name,
        clips=len(first.clips),
        seeds=(len(first.scores), len(second.scores)),
        figures={
            figure: (_figure(pair[0], figure, rule), _figure(pair[1], figure, rule))
            for figure in _FIGURES
        },
        differences=differences,
    )


def _figure(
    runs: Sequence[Sequence[ScoredClip]], figure: Figure, rule: DcaseRule | None
) -> float | None:
    """Mean over runs."""
    found = [
        resampled_figure(clips, figure, how="mean", rule=rule, resamples=np.empty((0, len(clips))))
        for clips in runs
    ]
    known = [float(values[0]) for values in found if values is not None]
    return float(np.mean(known)) if known else None


def _clip(row: ClipRow) -> Clip:
    domain: Domain = row.domain
    label: Label = "anomaly" if row.label == "anomaly" else "normal"
    return Clip(
        path=Path(row.file),
        section=row.section,
        domain=domain,
        split="test",
        label=label,
        session=None,
        attributes=row.recording,
    )
