"""Episodes of abnormal sound: when one opened, how bad it was, when it ended.

An episode is open from the first warning or alarm until the machine is normal again, has stopped,
or is learnt anew. Its id is made of the boot and the window that opened it, so that an event that
is sent twice is one event, and it goes on across a restart of the node. Pure.
"""

from collections.abc import Mapping

import msgspec

from contract.messages import BootId, Count, Text, TimeUs
from contract.states import AlarmRule, EpisodePhase, MachineState
from node.machine.alarm_state import ABNORMAL

# While nothing changes, a long episode is told of again after this time.
CONTINUE_SECONDS = 600.0


class Episode(msgspec.Struct, frozen=True, kw_only=True):
    """An episode that is open, as it is kept across a restart."""

    id: Text
    opened_us: TimeUs
    rule: AlarmRule
    state: MachineState
    """The worst state of the machine since the episode opened."""
    peak_score: float
    windows: Count
    bands_hz: tuple[float, ...]
    told_us: TimeUs
    """When an event of this episode was last published."""


class Episodes:
    """Follows the machine's state from window to window.

    Args:
        boot: id of this start of the node.
        open_episode: one that was open when the node ended.
    """

    def __init__(self, boot: BootId, open_episode: Episode | None = None) -> None:
        self._boot = boot
        self.open = open_episode
        """The episode that is open, if one is."""

    def hear(
        self,
        *,
        seq: int,
        end_us: int,
        state: MachineState,
        rule: AlarmRule,
        score: float | None,
    ) -> EpisodePhase | None:
        """Take in a window and the machine's state after it; says what there is to tell, if any.

        After `CLOSED` the episode is still in `open`, until `forget`.
        """
        if self.open is None:
            if state not in ABNORMAL:
                return None
            self.open = Episode(
                id=f"{self._boot}-{seq}",
                opened_us=end_us,
                rule=rule,
                state=state,
                peak_score=score or 0.0,
                windows=0 if score is None else 1,
                bands_hz=(),
                told_us=end_us,
            )
            return EpisodePhase.OPENED
        if score is not None:
            self._change(peak_score=max(self.open.peak_score, score), windows=self.open.windows + 1)
        if state in ABNORMAL:
            return self._continue(end_us, state, rule)
        # Nothing heard is no sign of health: the episode waits.
        return None if state is MachineState.UNKNOWN else EpisodePhase.CLOSED

    def note_bands(self, bands_hz: tuple[float, ...]) -> None:
        """Keep which frequency bands carry the error, as centres in hertz."""
        self._change(bands_hz=bands_hz)

    def forget(self) -> None:
        """The episode that was closed has been told of."""
        self.open = None

    def restamp(self, ends_us: Mapping[int, int]) -> None:
        """Move the episode's times, which a wrong clock had stamped, to where they belong.

        Args:
            ends_us: by what a window's end was taken for, what it is.
        """
        if self.open is not None:
            opened_us, told_us = self.open.opened_us, self.open.told_us
            self._change(
                opened_us=ends_us.get(opened_us, opened_us),
                told_us=ends_us.get(told_us, told_us),
            )

    def _continue(self, end_us: int, state: MachineState, rule: AlarmRule) -> EpisodePhase | None:
        assert self.open is not None
        worse = state is MachineState.ALARM and self.open.state is MachineState.WARNING
        # The clock may have been set back by years: both ways.
        if not worse and abs(end_us - self.open.told_us) < CONTINUE_SECONDS * 1e6:
            return None
        self._change(told_us=end_us)
        if worse:
            self._change(state=state, rule=rule)
        return EpisodePhase.CONTINUED

    def _change(self, **fields: object) -> None:
        assert self.open is not None
        self.open = msgspec.structs.replace(self.open, **fields)
