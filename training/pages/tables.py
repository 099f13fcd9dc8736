"""What `train`, `evaluate` and `compare` print: figures in columns, for a terminal of 80."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from training.detector.outcome import Outcome
from training.judge.compare import Comparison
from training.judge.disturbances import FALSE_ALARM_RATE, Disturbance
from training.judge.evaluation_report import DetectorFigures, EvaluationReport, FaultFigures
from training.judge.intervals import Difference
from training.judge.recipe_table import PublishedFigures, RecipeTable, TableCell
from training.pages.wording import figure_text, spread_text
from training.terminal import table_rows


def training_lines(outcome: Outcome, out: Path) -> list[str]:
    """What was trained, and how good it is."""
    manifest = outcome.manifest
    threshold = manifest.threshold
    parameters = sum(model.parameters or 0 for model in manifest.models)
    rows = [
        ("release", f"{manifest.label} in {out}"),
        ("recipe", f"{outcome.recipe.name}: {outcome.recipe.description}"),
        (
            "data",
            f"{outcome.train_files} files, {outcome.train_windows} windows to train on;"
            f" {outcome.held_out_files} files,"
            f" {sum(map(len, outcome.held_out.values()))} windows held out",
        ),
        (
            "models",
            f"{parameters} parameters, {manifest.models[0].quantisation},"
            f" {manifest.models_bytes / 1e6:.2f} MB; run in {', '.join(manifest.runtimes)}",
        ),
        *(
            (
                "loss",
                f"{epochs[-1].train_loss:.4g} trained, {epochs[-1].held_out_loss:.4g} held out,"
                f" after {len(epochs)} epochs of {network}",
            )
            for network, epochs in outcome.losses.items()
        ),
        (
            "threshold",
            f"{threshold.value:.4g}, for a false-alarm rate of {threshold.false_alarm_rate:.2g} on"
            f" {_THRESHOLD_SOUND[threshold.method]}",
        ),
        *_session_rows(outcome),
        ("seconds", ", ".join(f"{what} {took:.1f}" for what, took in outcome.seconds.items())),
    ]
    lines = [f"{what:<10} {text}" for what, text in rows]
    if outcome.report is None:
        return [*lines, "test       no labelled test clips, so nothing is known of faults"]
    if outcome.seeds is not None and outcome.seeds.official.count > 1:
        seeds = outcome.seeds
        lines.append(
            f"{'seeds':<10} official {spread_text(seeds.official)}, AUC {spread_text(seeds.auc)},"
            f" pAUC {spread_text(seeds.pauc)} over {seeds.official.count} seeds"
        )
    return [*lines, "", *evaluation_lines(outcome.report)]


def evaluation_lines(report: EvaluationReport) -> list[str]:
    """Give all figures beside those of their yardsticks."""
    overall = report.overall
    lines = [
        f"{report.release}, {report.recipe or 'recipe not known'}, on {report.data}"
        f" ({report.machine}, {report.layout}): {overall.normal_clips} normal and"
        f" {overall.anomaly_clips} anomalous clips",
        "",
        *table_rows(
            (
                f"rule of {report.rule}",
                "official",
                "95 % interval",
                "AUC",
                "pAUC",
                "source",
                "target",
            ),
            [
                _line_row(
                    f"clip score: {report.clip_score}", report.clip_scores[report.clip_score]
                ),
                *(
                    _line_row(f"clips by {how}", found)
                    for how, found in report.clip_scores.items()
                    if how != report.clip_score
                ),
                *(_line_row(name, found) for name, found in report.yardsticks.items()),
            ],
        ),
        "",
        *table_rows(
            ("threshold from", "value", "F1", "flag-all", "FPR", "TPR", "normal w.", "anomaly w."),
            [
                (
                    name,
                    f"{found.value:.4g}",
                    figure_text(found.overall.f1),
                    figure_text(found.overall.flag_all_f1),
                    figure_text(found.overall.fpr),
                    figure_text(found.overall.tpr),
                    figure_text(found.overall.normal_windows_flagged),
                    figure_text(found.overall.anomaly_windows_flagged),
                )
                for name, found in report.thresholds.items()
            ],
        ),
        "",
        *_variant_lines(report),
    ]
    lines += ["F1, FPR, TPR: of clips, by their score; w.: share of their windows above"]
    if report.false_alarms is not None:
        alarms = report.false_alarms
        low, high = alarms.per_day_interval
        lines += [
            "",
            f"joined normal clips: {alarms.episodes} false alarms in {alarms.hours:.2f} h,"
            f" {alarms.per_day:.0f} a day ({low:.0f} to {high:.0f})",
        ]
    if report.delays is not None and report.delays.splices:
        delays = report.delays
        lines.append(
            f"delay to the alarm after a splice: median {_seconds(delays.median_seconds)}, p90"
            f" {_seconds(delays.p90_seconds)}; never: {figure_text(delays.never_detected)} of"
            f" {delays.splices}"
        )
    if report.faults:
        lines += ["", *_fault_lines(report.faults)]
    if report.room_noise:
        lines += ["", *_noise_lines(report.room_noise)]
    remarks = [
        f"{name}: {found.remark}" for name, found in report.yardsticks.items() if found.remark
    ]
    return [*lines, "", "yardsticks need no network: " + "; ".join(remarks)]


def comparison_lines(found: Comparison) -> list[str]:
    """Two runs side by side."""
    rows = []
    for figure, (first, second) in found.figures.items():
        difference = found.differences[figure]
        rows.append(
            (figure, figure_text(first), figure_text(second), *_difference_cells(difference))
        )
    return [
        f"first:  {found.first}, {found.seeds[0]} seeds",
        f"second: {found.second}, {found.seeds[1]} seeds",
        f"{found.clips} clips, paired bootstrap over recordings",
        "",
        *table_rows(("", "first", "second", "first ahead by", "95 % interval"), rows),
    ]


def table_lines(table: RecipeTable) -> list[str]:
    """Every recipe and yardstick on every data set: official scores, mean and spread of seeds."""
    rows = [
        (
            row.name,
            *(_cell(row.cells[data]) for data in table.data),
            figure_text(row.mean_official),
            *_difference_cells(row.champion_ahead),
        )
        for row in table.rows
    ]
    heads = ("", *table.data, "mean", f"{table.champion} ahead by", "95 % interval")
    lines = [
        f"official score by the rule of {table.rule}, mean ± sd of {table.seeds} seeds",
        "",
        *table_rows(heads, rows),
    ]
    if table.published:
        lines += [
            "",
            "in full, and what others have published for the development set:",
            "",
            *table_rows(
                ("", "official", "AUC", "AUC source", "AUC target", "pAUC"),
                [
                    *((row.name, *_full(row.cells[table.data[0]])) for row in table.rows),
                    *((f"{found.name} *", *_full(found)) for found in table.published),
                ],
            ),
            "",
            *(f"* {found.name}: {found.source}" for found in table.published),
        ]
    return lines


def _cell(cell: TableCell) -> str:
    spread = "" if cell.official_sd is None else f" ±{cell.official_sd:.3f}"
    return figure_text(cell.official) + spread


def _full(figures: TableCell | PublishedFigures) -> tuple[str, ...]:
    return (
        figure_text(figures.official),
        figure_text(figures.auc),
        figure_text(figures.auc_source),
        figure_text(figures.auc_target),
        figure_text(figures.pauc),
    )


def _difference_cells(difference: Difference | None) -> tuple[str, str]:
    if difference is None:
        return "", ""
    return f"{difference.point:+.3f}", f"{difference.low:+.3f}..{difference.high:+.3f}"


_THRESHOLD_SOUND = {
    "held_out": "sound like the held-out files",
    "sessions_left_out": "windows of all sessions, each judged by models that had not heard it",
    "given": "unknown sound",
}


def _session_rows(outcome: Outcome) -> list[tuple[str, str]]:
    check = outcome.session_check
    if check is None:
        return []
    return [
        (
            "sessions",
            f"{len(outcome.sessions)} heard; the threshold of the others flags"
            f" {check.mean_share_above:.0%} of the windows of a session left out (worst"
            f" {check.worst_share_above:.0%})",
        )
    ]


def _fault_lines(faults: Mapping[str, FaultFigures]) -> list[str]:
    return table_rows(
        ("planted", "clips", "AUC", "above their original"),
        [
            (name, str(found.clips), figure_text(found.auc), figure_text(found.above_original))
            for name, found in faults.items()
        ],
    )


def _noise_lines(noise: Sequence[Disturbance]) -> list[str]:
    return [
        f"room noise in held-out normal clips, thresholds for {FALSE_ALARM_RATE:.0%} of clean"
        " windows of the same session:",
        *table_rows(
            ("noise", "dB", "windows flagged", "clips with one", "clips alarmed by the vote"),
            [
                (
                    found.kind,
                    "-" if found.ratio_db is None else f"{found.ratio_db:g}",
                    figure_text(found.windows_flagged),
                    figure_text(found.clips_flagged),
                    figure_text(found.clips_alarmed),
                )
                for found in noise
            ],
        ),
    ]


def _line_row(name: str, found: DetectorFigures) -> tuple[str, ...]:
    interval = found.official_interval
    return (
        name,
        figure_text(found.official),
        "-" if interval is None else f"{interval[0]:.3f}..{interval[1]:.3f}",
        figure_text(found.auc),
        figure_text(found.pauc),
        figure_text(found.domains.get("source")),
        figure_text(found.domains.get("target")),
    )


def _variant_lines(report: EvaluationReport) -> list[str]:
    """The variants in each library, and below them why one has not run."""
    rows = []
    reasons: dict[str, list[str]] = {}
    for name, variant in report.variants.items():
        for library, trial in variant.runtimes.items():
            shown = f"{library} {trial.version or ''}".strip()
            difference, latency = trial.auc_difference, trial.latency_ms
            if latency is None:
                reason = " ".join((trial.reason or "no reason given").split())
                reasons.setdefault(f"{shown} {trial.outcome}: {reason}", []).append(name)
            rows.append(
                (
                    name + (" *" if variant.released else ""),
                    f"{variant.size_bytes / 1e6:.3f}",
                    shown,
                    trial.outcome if latency is None else figure_text(trial.auc),
                    "-" if difference is None else f"{difference:+.4f}",
                    "-" if latency is None else f"{latency.p50:.3f}",
                    "-" if latency is None else f"{latency.p95:.3f}",
                )
            )
    heads = ("variant", "MB", "library", "AUC", "to float", "p50 ms", "p95 ms")
    return [
        *table_rows(heads, rows),
        *(f"{reason} ({', '.join(names)})" for reason, names in reasons.items()),
    ]


def _seconds(value: float | None) -> str:
    return "never" if value is None else f"{value:.0f} s"
