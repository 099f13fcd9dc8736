"""The state of the machine, from the scores of its windows.

On a node that was calibrated where it hangs, blocks of windows decide (`CalibratedMachine`); on one
that was not there is only a vote of the last flags (`MachineVote`). Both go on and off at different
levels, so that a score around a limit does not ring a bell each minute.
"""

from collections import deque
from statistics import fmean

from contract.states import AlarmRule, MachineState
from node.machine.limits import (
    BLOCK_SCORED_SHARE,
    QUIET_WINDOWS,
    STOPPED_DB,
    STOPPED_SECONDS,
    Limits,
)

ABNORMAL = (MachineState.WARNING, MachineState.ALARM)

VOTES = 5
_ALARM_FROM = 3
_WARNING_FROM = 2
_ALARM_UNTIL = 1

# One block above the limit is a warning, two of the last three are an alarm; three good blocks in
# a row end both.
_BLOCKS_FOR_ALARM = 2
_BLOCKS_REMEMBERED = 3
_BLOCKS_TO_END = 3
# Very loud windows: six of eight, each with sound of its own. A dog, a sneeze or a passing lorry
# is over in ten seconds; a fault is not.
_FAST_FROM = 6
_FAST_OF = 8
# A machine that rested runs again a little above the level below which it rests.
_RUNNING_AGAIN_DB = 3.0
# A machine that starts sounds like no machine that runs: after a pause it settles for as long as
# that lasted, and at most for this.
_SETTLE_SECONDS = 60.0


class MachineVote:
    """Keeps the last flags and the state that follows from them.

    One window above the threshold is weather; three of five are a finding. Leaving an alarm takes
    more than entering it.

    Args:
        state: of the machine so far, as far as that is known.
    """

    def __init__(self, state: MachineState = MachineState.UNKNOWN) -> None:
        self._flags: deque[bool | None] = deque(maxlen=VOTES)
        self.state = state
        self.rule = AlarmRule.VOTE

    def hear(self, anomaly: bool | None) -> MachineState:
        """Take in the next window's flag (None: it could not be scored) and give the new state."""
        self._flags.append(anomaly)
        self.state = self._decide()
        return self.state

    def _decide(self) -> MachineState:
        scored = [flag for flag in self._flags if flag is not None]
        if not scored:
            return MachineState.UNKNOWN
        flagged = sum(scored)
        if flagged >= _ALARM_FROM:
            return MachineState.ALARM
        # One good window is no end of it, right after a start or a gap.
        if self.state is MachineState.ALARM and (
            flagged > _ALARM_UNTIL or len(scored) < _ALARM_FROM
        ):
            return MachineState.ALARM
        return MachineState.WARNING if flagged >= _WARNING_FROM else MachineState.NORMAL


class CalibratedMachine:
    """Judges windows and blocks of windows by the limits of a calibration.

    The state is unknown until the first whole block, and again when too little of a block could be
    scored, unless a warning or an alarm stands: those end by good blocks alone.

    Args:
        limits: what normal sounds like here.
        hop_seconds: between two windows.
        window_seconds: length of a window.
        state: of the machine so far: a warning or an alarm goes on.
    """

    def __init__(
        self,
        limits: Limits,
        *,
        hop_seconds: float,
        window_seconds: float,
        state: MachineState = MachineState.UNKNOWN,
    ) -> None:
        self._limits = limits
        self._windows_per_block = max(1, round(limits.block_seconds / hop_seconds))
        # Windows that overlap hear the same bang: it must not count twice.
        overlap = max(1, round(window_seconds / hop_seconds))
        self._fast_from = _FAST_FROM * overlap
        self._settle_windows = round(_SETTLE_SECONDS / hop_seconds)
        self._stopped_windows = max(QUIET_WINDOWS, round(STOPPED_SECONDS / hop_seconds))
        self._block: list[float | None] = []
        self._above: deque[bool] = deque(maxlen=_BLOCKS_REMEMBERED)
        self._fast: deque[bool] = deque(maxlen=_FAST_OF * overlap)
        self._good_blocks = 0
        # Windows in a row that were too quiet, and of those that are loud enough again.
        self._quiet = 0
        self._loud = 0
        self._settling = 0
        self.state = state if state in ABNORMAL else MachineState.UNKNOWN
        self.rule = AlarmRule.BLOCK
        """What the last finding was made by."""

    def hear(self, log_statistic: float | None, level_dbfs: float | None) -> MachineState:
        """Take in the next window and give the new state.

        Args:
            log_statistic: of the centred statistic; None if the window could not be scored.
            level_dbfs: its level; None if nothing was heard, or nothing that can be believed.
        """
        if level_dbfs is not None and self._is_resting(level_dbfs):
            return self.state
        if self._settling:
            self._settling -= 1
            return self.state
        self._notice_loud(log_statistic)
        self._block.append(log_statistic)
        if len(self._block) == self._windows_per_block:
            self._judge_block()
            self._block.clear()
        return self.state

    def _is_resting(self, level_dbfs: float) -> bool:
        """Follows the level; whether the machine rests, or has not come back from it."""
        stopped_below = self._limits.level_dbfs - STOPPED_DB
        resting = self._quiet >= QUIET_WINDOWS
        if not resting:
            self._quiet = self._quiet + 1 if level_dbfs < stopped_below else 0
            if self._quiet == QUIET_WINDOWS:
                # Those before this one were taken for sound of the machine.
                del self._block[-(QUIET_WINDOWS - 1) :]
                self._loud = 0
            return self._quiet >= QUIET_WINDOWS
        self._quiet += 1
        self._loud = self._loud + 1 if level_dbfs > stopped_below + _RUNNING_AGAIN_DB else 0
        if self._loud < QUIET_WINDOWS:
            if self._quiet >= self._stopped_windows:
                self._start_over(MachineState.STOPPED)
            return True
        self._settling = min(self._settle_windows, self._quiet)
        self._quiet = 0
        if self.state is MachineState.STOPPED:
            self.state = MachineState.UNKNOWN
        return False

    def _start_over(self, state: MachineState) -> None:
        self.state = state
        self._block.clear()
        self._above.clear()
        self._fast.clear()
        self._good_blocks = 0

    def _notice_loud(self, log_statistic: float | None) -> None:
        self._fast.append(log_statistic is not None and log_statistic > self._limits.fast_limit)
        if sum(self._fast) >= self._fast_from:
            if self.state is not MachineState.ALARM:
                self.rule = AlarmRule.FAST
            self.state = MachineState.ALARM
            self._good_blocks = 0

    def _judge_block(self) -> None:
        scored = [log for log in self._block if log is not None]
        if len(scored) < BLOCK_SCORED_SHARE * len(self._block):
            if self.state is MachineState.NORMAL:
                self.state = MachineState.UNKNOWN
            return
        # Beyond the fast limit a window says no more: a bang must not make a whole block.
        mean = fmean(min(log, self._limits.fast_limit) for log in scored)
        above = mean > self._limits.block_limit
        self._above.append(above)
        self._good_blocks = self._good_blocks + 1 if mean < self._limits.block_release else 0
        if self.state in ABNORMAL:
            if self._good_blocks >= _BLOCKS_TO_END:
                self.state = MachineState.NORMAL
                self._above.clear()
            elif self.state is MachineState.WARNING and self._is_alarm():
                self.state, self.rule = MachineState.ALARM, AlarmRule.BLOCK
        elif above:
            self.rule = AlarmRule.BLOCK
            self.state = MachineState.ALARM if self._is_alarm() else MachineState.WARNING
        else:
            self.state = MachineState.NORMAL

    def _is_alarm(self) -> bool:
        return sum(self._above) >= _BLOCKS_FOR_ALARM
