"""The state of the machine from the flags of its windows: a vote of the last five.

One window above the threshold is weather; three of five are a finding. Leaving an alarm takes more
than entering it, so that a score around the threshold does not ring a bell each second.
"""

from collections import deque

from contract.messages import MachineState

VOTES = 5
_ALARM_FROM = 3
_WARNING_FROM = 2
_ALARM_UNTIL = 1


class MachineVote:
    """Keeps the last flags and the state that follows from them."""

    def __init__(self) -> None:
        self._flags: deque[bool | None] = deque(maxlen=VOTES)
        self.state = MachineState.UNKNOWN

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
        if self.state is MachineState.ALARM and flagged > _ALARM_UNTIL:
            return MachineState.ALARM
        return MachineState.WARNING if flagged >= _WARNING_FROM else MachineState.NORMAL
