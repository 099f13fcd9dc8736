"""A training's figures as rows of the reference design's results table, for comparing machines.

Sizes count 1000 to the next unit. What nobody measured is an empty cell, never 0.
"""

import csv
import io
import platform
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from contract import VERSION
from node.bench.result_row import COLUMNS, checkout_hash, device_name, platform_name
from training.judge.evaluation_report import EvaluationReport, RuntimeReport
from training.judge.metrics import AucFigures, Interval
from training.judge.threshold_figures import ThresholdFigures

if TYPE_CHECKING:
    from training.detector.outcome import Outcome

_LIBRARIES = ("numpy", "scipy", "scikit-learn", "tensorflow", "ai-edge-litert", "tflite-runtime")


class Environment(msgspec.Struct, frozen=True, kw_only=True):
    """Where something was measured, and by which versions; it names no host, user or folder."""

    platform: str
    """Operating system and instruction set."""
    device: str
    """The board, or else the processor."""
    git_hash: str | None
    """The checkout's commit, with `-dirty` behind it where files were changed; None without Git."""
    versions: dict[str, str]
    """Versions of earshot, of Python and of the libraries that figures depend on."""


def find_environment() -> Environment:
    """The computer and the software that this runs on."""
    return Environment(
        platform=platform_name(),
        device=device_name(),
        git_hash=checkout_hash(Path(__file__).parent),
        versions={"earshot": VERSION, "Python": platform.python_version(), **dict(_installed())},
    )


def results_csv(outcome: "Outcome", environment: Environment) -> str:
    """One row for each figure of the released variant, overall and in each domain.

    `official`, `auc` and `pauc` are the report's; `f1`, `fpr` and `tpr` are those of the clips at
    the release's threshold. Without labelled test clips there is one row, without a figure.

    Returns:
        comma-separated values (RFC 4180) of `COLUMNS`, one line of which is the heads.
    """
    text = io.StringIO()
    table = csv.DictWriter(text, COLUMNS, restval="", lineterminator="\r\n")
    table.writeheader()
    common = _common(outcome, environment)
    for row in _rows(outcome):
        notes = "; ".join(filter(None, (row.get("notes"), common["notes"])))
        table.writerow({**common, **row, "notes": notes})
    return text.getvalue()


def _common(outcome: "Outcome", environment: Environment) -> dict[str, str]:
    manifest = outcome.manifest
    created = datetime.fromtimestamp(manifest.created_us / 1e6, UTC)
    counts = [model.parameters for model in manifest.models]
    known = [count for count in counts if count is not None]
    library, trial = _timed(outcome.report)
    latency = None if trial is None else trial.latency_ms
    return {
        "timestamp": created.isoformat(timespec="seconds"),
        "git_hash": environment.git_hash or "",
        "platform": environment.platform,
        "device": environment.device,
        # Both libraries run on the processor alone.
        "cpu/npu/gpu": "cpu",
        "dataset": manifest.training.data,
        "seed": "" if manifest.training.seed is None else str(manifest.training.seed),
        "model_name": manifest.label,
        "model_size_kb": f"{manifest.models_bytes / 1e3:.3f}",
        "params_millions": f"{sum(known) / 1e6:.6f}" if len(known) == len(counts) else "",
        "latency_ms_p50": "" if latency is None else f"{latency.p50:.4f}",
        "latency_ms_p95": "" if latency is None else f"{latency.p95:.4f}",
        "notes": "; ".join(
            filter(
                None,
                (
                    f"recipe {outcome.recipe.name}",
                    manifest.models[0].quantisation,
                    f"latency of the models alone in {library}" if latency else None,
                ),
            )
        ),
    }


def _timed(report: EvaluationReport | None) -> tuple[str, RuntimeReport | None]:
    """The first library that ran the released variant."""
    for variant in () if report is None else report.variants.values():
        for name, trial in variant.runtimes.items():
            if variant.released and trial.latency_ms is not None:
                return f"{name} {trial.version or ''}".strip(), trial
    return "", None


def _rows(outcome: "Outcome") -> Iterator[dict[str, str]]:
    report = outcome.report
    if report is None:
        yield {"notes": "no labelled test clips"}
        return
    at_threshold = report.thresholds["release"]
    yield from _of_group(
        "test",
        report.overall,
        at_threshold.overall,
        # The rule of the year decides overall; a domain has no other than that of 2021.
        official=(report.official, report.official_interval, f"rule of {report.rule}"),
    )
    for domain, figures in report.domains.items():
        yield from _of_group(
            f"{domain}_test",
            figures,
            at_threshold.domains[domain],
            official=(figures.official, figures.official_interval, "rule of 2021"),
        )


def _of_group(
    split: str,
    figures: AucFigures,
    decision: ThresholdFigures,
    *,
    official: tuple[float | None, Interval | None, str],
) -> Iterator[dict[str, str]]:
    clips = f"{figures.normal_clips} normal and {figures.anomaly_clips} anomalous clips"
    value, interval, rule = official
    threshold = f"at {decision.threshold:.6g}"
    found: Mapping[str, tuple[float | None, str]] = {
        "auc": (figures.auc, f"{_interval(figures.auc_interval)}chance 0.5"),
        "pauc": (figures.pauc, "FPR up to 0.1, standardised, chance 0.5"),
        "official": (value, f"{_interval(interval)}{rule}, chance 0.5"),
        "f1": (decision.f1, f"flag-all F1 {_figure(decision.flag_all_f1)}; {threshold}"),
        "fpr": (decision.fpr, threshold),
        "tpr": (decision.tpr, threshold),
    }
    for name, (number, notes) in found.items():
        yield {
            "split": split,
            "metric_name": name,
            "metric_value": _figure(number),
            "notes": f"{notes}; {clips}",
        }


def _interval(interval: Interval | None) -> str:
    return "" if interval is None else f"95 % interval {interval[0]:.4f} to {interval[1]:.4f}, "


def _figure(value: float | None) -> str:
    return "" if value is None else f"{value:.6f}"


def _installed() -> Iterator[tuple[str, str]]:
    for name in _LIBRARIES:
        try:
            yield name, version(name)
        except PackageNotFoundError:
            continue
