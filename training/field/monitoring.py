"""What a rule does with a stream of windows: alarms in normal sound, delays after a fault."""

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import msgspec
import numpy as np

from contract.states import AlarmRule, EpisodePhase, MachineState
from node.machine.episodes import Episodes
from training.field.field_report import Faults
from training.field.field_sound import ScoredWindow
from training.field.policies import AlarmPolicy

_BOOT = "0" * 26
_ABNORMAL = (MachineState.WARNING, MachineState.ALARM)


class AlarmCounts(msgspec.Struct):
    """What a rule did with normal sound."""

    windows: int = 0
    ringing: int = 0
    scored: int = 0
    flagged: int = 0
    episodes: int = 0
    alarms: int = 0
    fast: int = 0


def monitor(rule: AlarmPolicy, windows: Sequence[ScoredWindow], tally: AlarmCounts) -> None:
    """Hear normal sound, and add up what it rings for."""
    episodes = Episodes(_BOOT)
    alarmed = False
    for seq, window in enumerate(windows):
        judged = rule.hear(window)
        tally.windows += 1
        tally.ringing += judged.state in _ABNORMAL
        tally.scored += judged.flagged is not None
        tally.flagged += judged.flagged is True
        phase = episodes.hear(seq=seq, end_us=seq, state=judged.state, rule=judged.rule, score=None)
        if phase is EpisodePhase.OPENED:
            tally.episodes += 1
            alarmed = False
        if judged.state is MachineState.ALARM and not alarmed:
            alarmed = True
            tally.alarms += 1
            tally.fast += judged.rule is AlarmRule.FAST
        if phase is EpisodePhase.CLOSED:
            episodes.forget()


class Onset(NamedTuple):
    """What came of one stretch; seconds since the fault began, infinite for never."""

    ringing_before: bool
    warning_seconds: float
    alarm_seconds: float
    stopped: bool


def hear_fault(
    rule: AlarmPolicy,
    before: Sequence[ScoredWindow],
    fault: Sequence[ScoredWindow],
    *,
    hop_seconds: float,
    window_seconds: float,
) -> Onset:
    """Hear normal sound, then a fault, up to the alarm.

    The first window of the fault ends `window_seconds` after it began, each further one a hop
    later. A node also scores the windows across the join, and may be sooner by that.
    """
    state = MachineState.UNKNOWN
    for window in before:
        state = rule.hear(window).state
    if state in _ABNORMAL:
        return Onset(True, math.inf, math.inf, stopped=False)
    warning, stopped = math.inf, False
    for index, window in enumerate(fault):
        state = rule.hear(window).state
        seconds = window_seconds + index * hop_seconds
        if state in _ABNORMAL:
            warning = min(warning, seconds)
        if state is MachineState.ALARM:
            return Onset(False, warning, seconds, stopped)
        stopped = stopped or state is MachineState.STOPPED
    return Onset(False, warning, math.inf, stopped)


def summed_up(onsets: Sequence[Onset]) -> Faults | None:
    """Shares and quantiles of several stretches; None of none."""
    if not onsets:
        return None
    quiet = [onset for onset in onsets if not onset.ringing_before]
    warnings = [onset.warning_seconds for onset in quiet]
    alarms = [onset.alarm_seconds for onset in quiet]
    return Faults(
        stretches=len(onsets),
        ringing_before=len(onsets) - len(quiet),
        warned=_share(map(math.isfinite, warnings)),
        alarmed=_share(map(math.isfinite, alarms)),
        stopped=_share(onset.stopped for onset in quiet),
        warning_seconds=_reached(warnings, 0.5),
        alarm_seconds=_reached(alarms, 0.5),
        alarm_seconds_p90=_reached(alarms, 0.9),
    )


def _share(found: Iterable[bool]) -> float | None:
    every = list(found)
    return sum(every) / len(every) if every else None


def _reached(seconds: Sequence[float], share: float) -> float | None:
    """The shortest time within which at least this share is reached; None: never."""
    if not seconds:
        return None
    found = float(np.quantile(seconds, share, method="inverted_cdf"))
    return found if math.isfinite(found) else None
