"""What `training field` prints: for each place and noise the rules, one under the other."""

from training.field.field_report import (
    ConditionReport,
    Faults,
    FieldReport,
    PlaceReport,
    RuleReport,
)
from training.judge.metrics import Interval
from training.terminal import table_rows

_LEGEND = """\
armed: calibrations that were, of those tried; a refused one leaves the node as not calibrated
hours: monitored; rings: warnings and alarms that began; fast: alarms by very loud windows
95 %: exact interval as if alarms came independently; it counts hours, not distinct sound
an alarm that never ends counts once for each calibration, or piece of a stream: see time
time: share of it in warning or alarm; windows: share of single ones above the threshold
before: stretches left out of what follows, because the normal sound before them rang
warned, alarmed: share of the stretches left; stopped: told as a machine that has stopped
warning, alarm, p90: seconds since the fault began, median of the stretches left
control: single normal clips, repeated as long as the faults, that raise an alarm
never rings: 0 a day and no fault; always rings: all of the time and every fault"""


def field_lines(report: FieldReport) -> list[str]:
    """Give the report as lines of text."""
    reference = report.reference_threshold
    lines = [
        f"{report.release} on {report.data}: {report.hours:g} h of simulated time for each rule,"
        f" halves {'of the recording' if report.split == 'halves' else 'interleaved'}",
        f"thresholds: release {report.release_threshold:.4g}"
        + ("" if reference is None else f", reference rule (p95 of training) {reference:.4g}"),
    ]
    for place in report.places:
        lines += ["", *_place_lines(place, report)]
    return [*lines, "", *_LEGEND.splitlines()]


def _place_lines(place: PlaceReport, report: FieldReport) -> list[str]:
    minutes = sum(place.seconds) / 60
    times = report.hours * 60 / minutes
    lines = [
        f"{place.name}: {place.clips[0]} and {place.clips[1]} normal clips, {place.fault_clips}"
        " anomalous ones",
    ]
    if times > 1:
        lines.append(
            f"  ONLY {minutes:.1f} MINUTES of distinct normal sound, repeated {times:.0f} times:"
            " not a day, and no proof of few alarms"
        )
    heard = report.minutes * 60 / max(place.seconds)
    if heard > 1:
        lines.append(
            f"  A calibration of {report.minutes:g} minutes hears its {max(place.seconds):.0f} s"
            f" {heard:.0f} times: its limits are narrower than those of as much real sound"
        )
    for condition in place.conditions:
        lines += ["", f"  {_name(condition)}"]
        lines += table_rows(_HEADS, [_row(rule) for rule in condition.rules], indent=2)
        lines += [
            f"  {rule.rule}: {count} refused: {reason}"
            for rule in condition.rules
            for reason, count in rule.refusals.items()
        ]
        if any(rule.faults or rule.control for rule in condition.rules):
            heads, rows = _FAULT_HEADS, [_fault_row(rule) for rule in condition.rules]
            lines += ["", *table_rows(heads, rows, indent=2)]
    return lines


def _name(condition: ConditionReport) -> str:
    if condition.noise_db is None:
        return "as recorded"
    where = "calibrated in noise" if condition.calibrated_in_noise else "calibrated without"
    return f"room noise in every clip, {condition.noise_db:g} dB below the machine, {where}"


_HEADS = (
    "rule",
    "armed",
    "hours",
    "rings a day",
    "95 %",
    "alarms a day",
    "95 %",
    "fast",
    "time",
    "windows",
)


def _row(rule: RuleReport) -> tuple[str, ...]:
    return (
        rule.rule,
        f"{rule.armed} of {rule.calibrations}" if rule.calibrations else "-",
        f"{rule.hours:.3g}",
        _rate(rule.episodes_per_day),
        _interval(rule.episodes_interval),
        _rate(rule.alarms_per_day),
        _interval(rule.alarms_interval),
        str(rule.fast),
        _percent(rule.ringing),
        _percent(rule.flagged),
    )


_FAULT_HEADS = (
    "rule",
    "stretches",
    "before",
    "warned",
    "alarmed",
    "stopped",
    "warning s",
    "alarm s",
    "p90 s",
    "control",
)


def _fault_row(rule: RuleReport) -> tuple[str, ...]:
    control = "-" if rule.control is None else _percent(rule.control.alarmed)
    found = rule.faults
    if found is None:
        return (rule.rule, *["-"] * 8, control)
    return (
        rule.rule,
        str(found.stretches),
        str(found.ringing_before),
        _percent(found.warned),
        _percent(found.alarmed),
        _percent(found.stopped),
        _seconds(found, found.warning_seconds),
        _seconds(found, found.alarm_seconds),
        _seconds(found, found.alarm_seconds_p90),
        control,
    )


def _seconds(found: Faults, value: float | None) -> str:
    if found.ringing_before == found.stretches:
        return "-"
    return "never" if value is None else f"{value:.0f}"


def _rate(value: float | None) -> str:
    return "-" if value is None else _rounded(value, 3)


def _interval(interval: Interval | None) -> str:
    return "-" if interval is None else f"{_rounded(interval[0], 2)}..{_rounded(interval[1], 3)}"


def _percent(share: float | None) -> str:
    if share is None:
        return "-"
    return f"{100 * share:.0f} %" if share in (0.0, 1.0) else f"{100 * share:.1f} %"


def _rounded(value: float, digits: int) -> str:
    """To so many digits, and never as a power of ten, which is too wide for a column."""
    return f"{float(f'{value:.{digits}g}'):.0f}" if value >= 100 else f"{value:.{digits}g}"
