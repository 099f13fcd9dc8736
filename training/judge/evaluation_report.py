"""What labelled recordings say about a release: the parts of the report, and how it is written."""

import json
from collections.abc import Sequence
from pathlib import Path

import msgspec

from contract import VERSION
from training.errors import DestinationError
from training.judge.disturbances import Disturbance
from training.judge.metrics import (
    AucFigures,
    AucFigures2022,
    ClipScore,
    DcaseRule,
    Float64Array,
    Interval,
    ScoredClip,
    evaluate_scores,
)
from training.judge.scoring import WindowChoice
from training.judge.stream import Delays, FalseAlarms
from training.judge.threshold_figures import ThresholdFigures, Vote
from training.release.runtime_trial import LatencyMs
from training.sound.dataset import Domain


class DetectorFigures(msgspec.Struct, frozen=True, kw_only=True):
    """The figures of one detector or yardstick in short; None where a label is missing."""

    auc: float | None
    pauc: float | None
    official: float | None
    official_interval: Interval | None
    domains: dict[Domain, float | None]
    """AUC of each domain."""
    remark: str = ""


class SectionFigures(msgspec.Struct, frozen=True, kw_only=True):
    """A section as a whole and by domain."""

    auc: float | None
    pauc: float | None
    official: float | None
    domains: dict[Domain, AucFigures]


class ThresholdReport(msgspec.Struct, frozen=True, kw_only=True):
    """A threshold on the clips' scores, from normal sound alone, and what it does."""

    method: str
    value: float
    false_alarm_rate: float | None
    """The rate that was asked for; None where nobody did."""
    count: int
    """Scores of held-out normal clips (or windows) that it was chosen from."""
    overall: ThresholdFigures
    domains: dict[Domain, ThresholdFigures]


class RuntimeReport(msgspec.Struct, frozen=True, kw_only=True):
    """A variant in one inference library."""

    version: str | None
    outcome: str
    reason: str | None
    auc: float | None
    pauc: float | None
    official: float | None
    auc_difference: float | None
    """AUC minus that of float32 in the library that comes first."""
    latency_ms: LatencyMs | None


class VariantReport(msgspec.Struct, frozen=True, kw_only=True):
    """One quantisation of the models."""

    released: bool
    size_bytes: int
    operators: tuple[str, ...]
    runtimes: dict[str, RuntimeReport]


class ClipRow(msgspec.Struct, frozen=True, kw_only=True):
    """A clip and its score, for whoever wants to compare runs."""

    file: str
    section: str
    domain: Domain
    label: str
    recording: str
    """The clip itself, or the one that its fault was planted in."""
    attributes: str
    score: float
    level_dbfs: float


class FaultFigures(msgspec.Struct, frozen=True, kw_only=True):
    """How well planted faults of one kind or severity are heard."""

    clips: int
    auc: float | None
    """Against all normal clips."""
    above_original: float
    """Share of them that score above the very clip that they were planted in: 0.5 is chance."""


class EvaluationReport(msgspec.Struct, frozen=True, kw_only=True):
    """All that labelled recordings say about a release."""

    schema: int = 1
    earshot: str = VERSION
    release: str
    recipe: str | None
    data: str
    machine: str
    layout: str
    command: str
    runtime: str
    clip_score: ClipScore
    windows: WindowChoice
    warnings: tuple[str, ...]
    official: float | None
    official_interval: Interval | None
    rule: DcaseRule
    """The rule that `official` follows; `overall`, `domains` and `sections` follow that of 2021."""
    overall: AucFigures
    domains: dict[Domain, AucFigures]
    sections: dict[str, SectionFigures]
    official_2022: AucFigures2022
    pooled: AucFigures
    left_out: tuple[str, ...]
    clip_scores: dict[ClipScore, DetectorFigures]
    thresholds: dict[str, ThresholdReport]
    votes: dict[str, Vote]
    """After the node's vote over windows at the release's threshold, overall and by domain."""
    false_alarms: FalseAlarms | None
    delays: Delays | None
    faults: dict[str, FaultFigures]
    """Figures by kind and by severity; empty unless `synthesize --hard` has planted the faults."""
    room_noise: tuple[Disturbance, ...]
    """Empty where none was asked for."""
    yardsticks: dict[str, DetectorFigures]
    yardstick_scores: dict[str, tuple[float, ...]]
    """The clips' scores by each yardstick, in the order of `clips`."""
    variants: dict[str, VariantReport]
    clips: tuple[ClipRow, ...]


def detector_figures(
    clips: Sequence[ScoredClip],
    how: ClipScore,
    resamples: Float64Array | None,
    remark: str = "",
) -> DetectorFigures:
    """A detector's figures in short."""
    found = evaluate_scores(clips, how=how, resamples=resamples)
    return DetectorFigures(
        auc=found.overall.auc,
        pauc=found.overall.pauc,
        official=found.official,
        official_interval=found.official_interval,
        domains={domain: figures.auc for domain, figures in found.by_domain.items()},
        remark=remark,
    )


def write_evaluation(report: EvaluationReport, path: Path) -> None:
    """Write a report.

    Raises:
        DestinationError: the disk does not let it.
    """
    text = json.dumps(msgspec.to_builtins(report), indent=1, allow_nan=False)
    try:
        path.write_text(text + "\n", encoding="utf-8")
    except OSError as error:
        raise DestinationError(f"{path}: cannot write: {error.strerror}") from error
