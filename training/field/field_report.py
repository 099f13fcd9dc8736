"""The parts of the field report: what was found in each place, with each noise, by each rule."""

from typing import Literal

import msgspec

from contract import VERSION
from training.judge.metrics import Interval

Split = Literal["interleaved", "halves"]


class Faults(msgspec.Struct, frozen=True, kw_only=True):
    """What a rule makes of stretches that begin after normal sound of the same place."""

    stretches: int
    ringing_before: int
    """Left out of all that follows: the normal sound before had raised a warning or an alarm."""
    warned: float | None
    """Share with a warning or an alarm; None if no stretch is left."""
    alarmed: float | None
    stopped: float | None
    """Share in which the node said that the machine has stopped."""
    warning_seconds: float | None
    """Median over all stretches that are left from the fault's first sample; None: never."""
    alarm_seconds: float | None
    alarm_seconds_p90: float | None


class RuleReport(msgspec.Struct, frozen=True, kw_only=True):
    """What one rule does in one place."""

    rule: str
    calibrations: int
    """How many were tried; 0 for a rule that needs none."""
    armed: int
    refusals: dict[str, int]
    """How often for which reason."""
    hours: float
    """Monitored, over all calibrations that have armed."""
    episodes: int
    """Warnings and alarms that began; one that lasts is one."""
    alarms: int
    """Episodes that came to an alarm."""
    fast: int
    """How many of the alarms came by the fast path."""
    episodes_per_day: float | None
    """None: no calibration has armed."""
    episodes_interval: Interval | None
    """Exact, 95 % (Garwood, 1936), as if they came independently; of hours, not distinct sound."""
    alarms_per_day: float | None
    alarms_interval: Interval | None
    ringing: float | None
    """Share of the time in warning or alarm."""
    flagged: float | None
    """Share of the single windows above the threshold in force."""
    faults: Faults | None
    """None where the place has no anomalous clips."""
    control: Faults | None
    """What the rule makes of single normal clips that are repeated in place of faults."""


class ConditionReport(msgspec.Struct, frozen=True, kw_only=True):
    """All rules with the same noise."""

    noise_db: float | None
    """Machine to noise in each monitored clip; None: none is mixed in."""
    calibrated_in_noise: bool
    """Whether other recordings of the same kinds were heard while calibrating, too."""
    rules: tuple[RuleReport, ...]


class PlaceReport(msgspec.Struct, frozen=True, kw_only=True):
    """What was found in one place."""

    name: str
    clips: tuple[int, int]
    """Distinct normal clips of each half."""
    seconds: tuple[float, float]
    """Their sound, counted in hops."""
    fault_clips: int
    conditions: tuple[ConditionReport, ...]


class FieldReport(msgspec.Struct, frozen=True, kw_only=True):
    """All that recordings say about a release in the field."""

    schema: int = 1
    earshot: str = VERSION
    command: str
    release: str
    data: str
    hours: float
    minutes: float
    seed: int
    split: Split
    fault_seconds: float
    release_threshold: float
    reference_threshold: float | None
    """95th percentile of the statistic over the data's training clips; None if there are none."""
    warnings: tuple[str, ...]
    places: tuple[PlaceReport, ...]
