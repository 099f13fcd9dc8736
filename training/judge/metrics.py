"""How well clips are told apart: AUC, pAUC and the official scores of DCASE Task 2.

A clip's score comes from its windows' statistics. Two official rules are always computed:

- 2021: AUC and pAUC of each section and domain, its normals against its own anomalies; the
  harmonic mean of all of them.
- 2022 and later: AUC of each section and domain, its normals against the anomalies of both
  domains; pAUC of each section, all against all; the harmonic mean of all of them.

pAUC ends at a false-positive rate of 0.1 and is standardised by McClish (1989): 0.5 is chance. F1
never stands alone: flagging everything has an F1 too.

Every figure is computed for many resamples of the clips at once, of which the clips themselves
are the first; `training.judge.intervals` draws them.
"""

from collections.abc import Iterable, Sequence
from typing import Final, Literal, NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt

from training.errors import DataError, TrainingError
from training.sound.dataset import Clip, Domain

Float64Array = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]

ClipScore = Literal["mean", "top10", "max"]
"""Which windows speak for a clip: all, the largest tenth (rounded up), or the largest."""
DcaseRule = Literal["2021", "2022"]
Figure = Literal["auc", "pauc", "official"]
Interval = tuple[float, float]
Group = Domain | Literal["overall"]

MAX_FPR: Final = 0.1
"""Where pAUC ends, as in DCASE."""
DOMAINS: Final[tuple[Domain, ...]] = ("source", "target")
_INTERVAL_PERCENTILES: Final = (2.5, 97.5)
# With one clip of a label no resample varies it, and the interval would only look narrow.
_CLIPS_FOR_INTERVAL: Final = 2


class ScoredClip(msgspec.Struct, frozen=True):
    """A labelled clip with what the release says of its windows.

    Raises:
        DataError: the clip has no label.
        TrainingError: there is no window, or not a finite number for each.
    """

    clip: Clip
    statistics: Float64Array
    """Shape (n,): what the release decides on, one for each window; at least one."""
    level_dbfs: float
    """RMS level, mean over the windows."""

    def __post_init__(self) -> None:
        name = self.clip.path.name
        if self.clip.label is None:
            raise DataError(f"{name}: expected a clip labelled normal or anomaly, got none")
        if self.statistics.ndim != 1 or self.statistics.size == 0:
            raise TrainingError(
                f"{name}: expected one number for each window, got shape {self.statistics.shape}"
            )
        _refuse_not_finite(self.statistics, name)
        _refuse_not_finite(np.array([self.level_dbfs]), f"{name}, level")

    @property
    def is_anomaly(self) -> bool:
        """Whether its label says that it is an anomaly."""
        return self.clip.label == "anomaly"


class AucFigures(msgspec.Struct, frozen=True, kw_only=True):
    """How well a group of clips is told apart; None where a label is missing.

    Of one section and domain these are its own numbers; of several, harmonic means over them.
    """

    normal_clips: int
    anomaly_clips: int
    auc: float | None
    pauc: float | None
    official: float | None
    """Harmonic mean of the group's AUCs and pAUCs."""
    auc_interval: Interval | None
    """95 % percentile interval; None without resamples, or with less than 2 clips of a label."""
    official_interval: Interval | None


class AucFigures2022(msgspec.Struct, frozen=True, kw_only=True):
    """The rule of 2022 and later; None where a label is missing."""

    auc_source: float | None
    """Normals of the source domain against the anomalies of both."""
    auc_target: float | None
    pauc: float | None
    """All normals against all anomalies of a section."""
    official: float | None
    """Harmonic mean of the three, or of those that there are, over the sections."""
    official_interval: Interval | None


class Evaluation(msgspec.Struct, frozen=True, kw_only=True):
    """All that the scores of labelled clips say without a threshold."""

    how: ClipScore
    rule: DcaseRule
    """The rule that `official` follows."""
    official: float | None
    official_interval: Interval | None
    overall: AucFigures
    """Figures of all clips by the rule of 2021."""
    by_domain: dict[Domain, AucFigures]
    by_section: dict[str, AucFigures]
    by_section_and_domain: dict[str, dict[Domain, AucFigures]]
    left_out: tuple[str, ...]
    """Sections and domains (`00 target`) without both labels, in none of the means above."""
    overall_2022: AucFigures2022
    by_section_2022: dict[str, AucFigures2022]
    left_out_2022: tuple[str, ...]
    pooled: AucFigures
    """All clips together, as if they were one section and domain."""


class RocAreas(NamedTuple):
    """Areas under ROC curves, shape (resamples,) each."""

    auc: Float64Array
    pauc: Float64Array


def clip_score(statistics: Float64Array, how: ClipScore) -> float:
    """A clip's score from its windows' statistics, shape (n,), n >= 1.

    Example:
        >>> clip_score(np.arange(11.0), "top10")  # the largest ceil(1.1) = 2
        9.5
    """
    if how == "max":
        return float(statistics.max())
    if how == "top10":
        # Integers, since 0.1 * 30 is more than 3.
        largest = -(-statistics.size // 10)
        return float(np.sort(statistics)[-largest:].mean())
    return float(statistics.mean())


def clip_scores(clips: Sequence[ScoredClip], how: ClipScore) -> Float64Array:
    """Score of each clip, shape (n,)."""
    return np.array([clip_score(clip.statistics, how) for clip in clips], dtype=np.float64)


def rescored(clips: Sequence[ScoredClip], scores: Float64Array) -> list[ScoredClip]:
    """The same clips with another detector's scores, shape (n,), one for each clip."""
    return [
        msgspec.structs.replace(clip, statistics=np.array([score], dtype=np.float64))
        for clip, score in zip(clips, scores, strict=True)
    ]


def auc(labels: BoolArray, scores: Float64Array) -> float | None:
    """Area under the ROC curve: the chance that an anomaly scores above a normal clip.

    Args:
        labels: True for anomalies, shape (n,).
        scores: shape (n,).

    Returns:
        scikit-learn's `roc_auc_score`; None if a label is missing.

    Raises:
        TrainingError: a score is not a finite number.
    """
    areas = _areas_of(labels, scores)
    return None if areas is None else float(areas.auc[0])


def pauc(labels: BoolArray, scores: Float64Array) -> float | None:
    """Area up to a false-positive rate of 0.1, standardised so that chance is 0.5.

    As `auc`, with scikit-learn's `max_fpr=0.1`.
    """
    areas = _areas_of(labels, scores)
    return None if areas is None else float(areas.pauc[0])


def harmonic_mean(values: Sequence[float | None]) -> float | None:
    """Harmonic mean of numbers that are not negative; 0 if one is 0, None if one is missing."""
    rows = [np.array([value]) for value in values if value is not None]
    return _point(_harmonic(rows)) if len(rows) == len(values) else None


def roc_areas(labels: BoolArray, scores: Float64Array, weights: Float64Array) -> RocAreas:
    """AUC and pAUC of many resamples of the same scores.

    Equal to scikit-learn's `roc_auc_score` with `sample_weight`, with and without `max_fpr=0.1`.
    Tied scores are one step of the curve, sloped; it is interpolated where pAUC ends.

    Args:
        labels: True for anomalies, shape (n,).
        scores: shape (n,), finite.
        weights: how often each resample holds each clip, shape (resamples, n); each holds both
            labels.
    """
    order = np.argsort(-scores, kind="stable")
    ends = np.flatnonzero(np.append(np.diff(scores[order]) != 0, True))
    anomaly = labels[order]
    ordered = weights[:, order]
    tpr = _cumulative_share(np.where(anomaly, ordered, 0.0), ends)
    fpr = _cumulative_share(np.where(anomaly, 0.0, ordered), ends)

    width, rise, left = np.diff(fpr), np.diff(tpr), tpr[:, :-1]
    area = np.sum(width * (left + rise / 2), axis=1)

    inside = np.diff(np.minimum(fpr, MAX_FPR))
    # A step without width has no area, whatever its slope is taken to be.
    slope = rise / np.where(width > 0, width, 1.0)
    partial = np.sum(inside * (left + slope * inside / 2), axis=1)
    chance = MAX_FPR**2 / 2
    return RocAreas(area, 0.5 * (1 + (partial - chance) / (MAX_FPR - chance)))


def evaluate_scores(
    clips: Sequence[ScoredClip],
    *,
    how: ClipScore,
    rule: DcaseRule | None = None,
    resamples: Float64Array | None = None,
) -> Evaluation:
    """AUC, pAUC and official scores by both rules, with their means.

    Args:
        clips: labelled test clips of one machine.
        how: a clip's score from its windows.
        rule: whose official score is the headline; None chooses 2021 where every domain has
            anomalies of its own, and 2022 elsewhere.
        resamples: from `intervals.draw_resamples` for these clips in this order, shape
            (resamples, n); None leaves the intervals out.
    """
    table = _Table(clips, how, resamples)
    numbers, numbers_2022 = _numbers_2021(table), _numbers_2022(table)
    overall = _figures(numbers.values(), table, table.everything)
    overall_2022 = _figures_2022(numbers_2022.values(), table, table.everything)
    pooled = table.areas(table.everything)
    rule = rule or table.rule
    headline: AucFigures | AucFigures2022 = overall if rule == "2021" else overall_2022
    return Evaluation(
        how=how,
        rule=rule,
        official=headline.official,
        official_interval=headline.official_interval,
        overall=overall,
        by_domain={
            domain: _figures(
                [areas for (_, own), areas in numbers.items() if own == domain],
                table,
                table.domains == domain,
            )
            for domain in table.domain_names
        },
        by_section={
            section: _figures(
                [areas for (own, _), areas in numbers.items() if own == section],
                table,
                table.sections == section,
            )
            for section in table.section_names
        },
        by_section_and_domain={
            section: {
                domain: _figures(
                    [numbers[section, domain]] if (section, domain) in numbers else [],
                    table,
                    table.cell(section, domain),
                )
                for own, domain in table.cells
                if own == section
            }
            for section in table.section_names
        },
        left_out=tuple(f"{cell[0]} {cell[1]}" for cell in table.cells if cell not in numbers),
        overall_2022=overall_2022,
        by_section_2022={
            section: _figures_2022([of_section], table, table.sections == section)
            for section, of_section in numbers_2022.items()
        },
        left_out_2022=tuple(
            f"{section} {domain}"
            for section, domain in table.cells
            if domain not in numbers_2022[section].aucs
        ),
        pooled=_figures([] if pooled is None else [pooled], table, table.everything),
    )


def resampled_figure(
    clips: Sequence[ScoredClip],
    figure: Figure,
    *,
    how: ClipScore,
    rule: DcaseRule | None = None,
    resamples: Float64Array,
) -> Float64Array | None:
    """One overall figure of the clips themselves and of each resample.

    Returns:
        float64 array of shape (1 + resamples,), the clips' own first; None if a label is missing.
    """
    table = _Table(clips, how, resamples)
    if (rule or table.rule) == "2021":
        cells = _numbers_2021(table).values()
        aucs, paucs = [cell.auc for cell in cells], [cell.pauc for cell in cells]
    else:
        sections = _numbers_2022(table).values()
        aucs = [found for section in sections for found in section.aucs.values()]
        paucs = [section.pauc for section in sections if section.pauc is not None]
    return _harmonic({"auc": aucs, "pauc": paucs, "official": [*aucs, *paucs]}[figure])


def percentile_interval(values: Float64Array) -> Interval:
    """The middle 95 % of resampled values, shape (resamples,)."""
    low, high = np.percentile(values, _INTERVAL_PERCENTILES)
    return float(low), float(high)


class _Table:
    """Clips as columns, and how often each resample holds each clip (first row: once)."""

    def __init__(
        self, clips: Sequence[ScoredClip], how: ClipScore, resamples: Float64Array | None
    ) -> None:
        self.labels = np.array([clip.is_anomaly for clip in clips], dtype=np.bool_)
        self.scores = clip_scores(clips, how)
        self.sections = np.array([clip.clip.section for clip in clips], dtype=np.str_)
        self.domains = np.array([clip.clip.domain for clip in clips], dtype=np.str_)
        self.everything = np.ones(len(clips), dtype=np.bool_)
        once = np.ones((1, len(clips)))
        self.weights = once if resamples is None else np.concatenate([once, resamples])
        present = {(clip.clip.section, clip.clip.domain) for clip in clips}
        self.cells = sorted(present)

    @property
    def section_names(self) -> list[str]:
        return sorted({section for section, _ in self.cells})

    @property
    def domain_names(self) -> list[Domain]:
        found = {domain for _, domain in self.cells}
        return [domain for domain in DOMAINS if domain in found]

    @property
    def rule(self) -> DcaseRule:
        """The rule of 2021, unless a domain has no anomalies of its own."""
        own = all(self.labels[self.domains == domain].any() for domain in self.domain_names)
        return "2021" if own else "2022"

    def cell(self, section: str, domain: Domain) -> BoolArray:
        chosen: BoolArray = (self.sections == section) & (self.domains == domain)
        return chosen

    def areas(self, chosen: BoolArray) -> RocAreas | None:
        """Of the chosen clips; None without both labels."""
        labels = self.labels[chosen]
        if not labels.any() or labels.all():
            return None
        return roc_areas(labels, self.scores[chosen], self.weights[:, chosen])

    def count(self, chosen: BoolArray) -> tuple[int, int]:
        """Normal and anomalous clips among the chosen."""
        anomalies = int(np.sum(self.labels & chosen))
        return int(np.sum(chosen)) - anomalies, anomalies


class _Section2022(NamedTuple):
    aucs: dict[Domain, Float64Array]
    pauc: Float64Array | None


def _numbers_2021(table: _Table) -> dict[tuple[str, Domain], RocAreas]:
    """AUC and pAUC of each section and domain that has both labels."""
    found = {cell: table.areas(table.cell(*cell)) for cell in table.cells}
    return {cell: areas for cell, areas in found.items() if areas is not None}


def _numbers_2022(table: _Table) -> dict[str, _Section2022]:
    """Each section's AUC by domain and its pAUC, as far as its labels go."""
    found = {}
    for section in table.section_names:
        inside = table.sections == section
        by_domain = {
            domain: table.areas(inside & (table.labels | (table.domains == domain)))
            for own, domain in table.cells
            if own == section
        }
        together = table.areas(inside)
        found[section] = _Section2022(
            {domain: areas.auc for domain, areas in by_domain.items() if areas is not None},
            None if together is None else together.pauc,
        )
    return found


def _figures(cells: Iterable[RocAreas], table: _Table, chosen: BoolArray) -> AucFigures:
    """Harmonic means over cells, for a group of clips."""
    cells = list(cells)
    aucs, paucs = [cell.auc for cell in cells], [cell.pauc for cell in cells]
    auc, official = _harmonic(aucs), _harmonic([*aucs, *paucs])
    normal, anomaly = table.count(chosen)
    return AucFigures(
        normal_clips=normal,
        anomaly_clips=anomaly,
        auc=_point(auc),
        pauc=_point(_harmonic(paucs)),
        official=_point(official),
        auc_interval=_interval(auc, table, chosen),
        official_interval=_interval(official, table, chosen),
    )


def _figures_2022(
    sections: Iterable[_Section2022], table: _Table, chosen: BoolArray
) -> AucFigures2022:
    sections = list(sections)
    by_domain = {
        domain: [section.aucs[domain] for section in sections if domain in section.aucs]
        for domain in DOMAINS
    }
    paucs = [section.pauc for section in sections if section.pauc is not None]
    official = _harmonic([*by_domain["source"], *by_domain["target"], *paucs])
    return AucFigures2022(
        auc_source=_point(_harmonic(by_domain["source"])),
        auc_target=_point(_harmonic(by_domain["target"])),
        pauc=_point(_harmonic(paucs)),
        official=_point(official),
        official_interval=_interval(official, table, chosen),
    )


def _harmonic(rows: Sequence[Float64Array]) -> Float64Array | None:
    """Harmonic mean over the rows, for each resample; None if there is no row."""
    if not rows:
        return None
    # 1 / 0 is infinite, and the mean then 0, as it should be.
    with np.errstate(divide="ignore"):
        mean: Float64Array = len(rows) / np.sum(1 / np.stack(rows), axis=0)
    return mean


def _point(values: Float64Array | None) -> float | None:
    return None if values is None else float(values[0])


def _interval(values: Float64Array | None, table: _Table, chosen: BoolArray) -> Interval | None:
    if values is None or len(values) == 1 or min(table.count(chosen)) < _CLIPS_FOR_INTERVAL:
        return None
    return percentile_interval(values[1:])


def _areas_of(labels: BoolArray, scores: Float64Array) -> RocAreas | None:
    _refuse_not_finite(scores, "scores")
    if not labels.any() or labels.all():
        return None
    return roc_areas(labels, scores, np.ones((1, labels.size)))


def _cumulative_share(weights: Float64Array, ends: npt.NDArray[np.intp]) -> Float64Array:
    """Share of the weight up to each end, from 0 to 1, shape (resamples, ends + 1)."""
    passed = np.cumsum(weights, axis=1)[:, ends]
    shares: Float64Array = np.pad(passed / passed[:, -1:], ((0, 0), (1, 0)))
    return shares


def _refuse_not_finite(numbers: Float64Array, what: str) -> None:
    if not np.isfinite(numbers).all():
        first = int(np.flatnonzero(~np.isfinite(numbers))[0])
        raise TrainingError(
            f"{what}: expected finite numbers, got {numbers[first]} at position {first}; the model"
            " or the recording is broken"
        )
