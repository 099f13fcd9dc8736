"""The states that messages carry, each a word on the wire and an integer in a store.

To add a member, or a state of a new kind: see the top of `contract.messages`.
"""

from enum import StrEnum
from typing import Self


class OpenEnum(StrEnum):
    """A set of words to which a later version may add: what is not known yet is `UNKNOWN`.

    Nobody sends `unknown` in place of a word that he knows. Each subclass has the member.
    """

    @classmethod
    def _missing_(cls, value: object) -> Self | None:
        # Also what a message's decoder asks; None makes it refuse, as for what is no word at all.
        return cls._member_map_["UNKNOWN"] if isinstance(value, str) else None  # type: ignore[return-value] # a member of this class


class MachineState(OpenEnum):
    """What the machine does, as far as its sound tells."""

    UNKNOWN = "unknown"
    STOPPED = "stopped"
    LEARNING = "learning"
    NORMAL = "normal"
    WARNING = "warning"
    ALARM = "alarm"


class MicrophoneState(OpenEnum):
    """Whether the sound can be believed; a dead microphone is never a healthy machine."""

    UNKNOWN = "unknown"
    OK = "ok"
    QUIET = "quiet"
    SILENT = "silent"
    STUCK = "stuck"
    CLIPPED = "clipped"
    OFFSET = "offset"
    GONE = "gone"


class Problem(OpenEnum):
    """Tells why a window has no score."""

    MIC_SILENT = "mic_silent"
    MIC_CLIPPED = "mic_clipped"
    MIC_GONE = "mic_gone"
    OVERRUN = "overrun"
    ERROR = "error"
    MIC_STUCK = "mic_stuck"
    MIC_QUIET = "mic_quiet"
    MIC_OFFSET = "mic_offset"
    UNKNOWN = "unknown"


class Clock(OpenEnum):
    """How far a time stamp can be trusted."""

    UNSYNCED = "unsynced"
    SYNCED = "synced"
    SIMULATED = "simulated"
    UNKNOWN = "unknown"


class Presence(OpenEnum):
    """Whether somebody is connected."""

    OFFLINE = "offline"
    ONLINE = "online"
    UNKNOWN = "unknown"


class PresenceReason(OpenEnum):
    """How that came about; `lost` is what a last will says."""

    LOST = "lost"
    STOPPED = "stopped"
    CONNECTED = "connected"
    UNKNOWN = "unknown"


class ThresholdSource(OpenEnum):
    """Which threshold is in force; a later one in this list beats an earlier one."""

    RELEASE = "release"
    SITE = "site"
    OVERRIDE = "override"
    UNKNOWN = "unknown"


class CalibrationPhase(OpenEnum):
    """How far a node is with learning what is normal where it hangs."""

    NONE = "none"
    SETTLING = "settling"
    CALIBRATING = "calibrating"
    VERIFYING = "verifying"
    ARMED = "armed"
    REFUSED = "refused"
    UNKNOWN = "unknown"


class AlarmRule(OpenEnum):
    """What opened an episode."""

    VOTE = "vote"
    """So many of the last windows are flagged, on a node that was not calibrated where it hangs."""
    BLOCK = "block"
    """The mean of a block of windows is above its prediction limit."""
    FAST = "fast"
    """Several single windows are far above what calibration has heard."""
    UNKNOWN = "unknown"


class EpisodePhase(OpenEnum):
    """Where in an episode of abnormal sound an event stands."""

    OPENED = "opened"
    CONTINUED = "continued"
    CLOSED = "closed"
    UNKNOWN = "unknown"


class UpdatePhase(OpenEnum):
    """Where a node is on its way to another release."""

    IDLE = "idle"
    DOWNLOADING = "downloading"
    VERIFIED = "verified"
    TESTING = "testing"
    TRIAL = "trial"
    COMMITTED = "committed"
    REJECTED = "rejected"
    ROLLED_BACK = "rolled_back"
    UNKNOWN = "unknown"


class BootEnd(StrEnum):
    """How a start of a node ended; `lost`: the next one began without a goodbye of this one."""

    RUNNING = "running"
    GOODBYE = "goodbye"
    LOST = "lost"


class DiscardReason(StrEnum):
    """Tells why a node gave up a window; each reason has a counter `discarded_...` in a message.

    A further reason is a further counter, which an older collector does not add up: to it, those
    windows are missing until it is upgraded.
    """

    FULL = "full"
    """No room: the outbox had reached its size."""
    EXPIRED = "expired"
    """It had waited for longer than anybody wants to hear of it."""
    REFUSED = "refused"
    """The broker refused it for good."""
    DAMAGED = "damaged"
    """It was on the disk and cannot be read any more, or the reason why it was given up is there
    and is none of these."""
    UNSAVED = "unsaved"
    """The node was stopped and could neither deliver nor save it."""


CODES: dict[type[StrEnum], tuple[StrEnum, ...]] = {
    kind: tuple(kind)
    for kind in (
        MachineState,
        MicrophoneState,
        Problem,
        Clock,
        Presence,
        PresenceReason,
        ThresholdSource,
        CalibrationPhase,
        AlarmRule,
        EpisodePhase,
        UpdatePhase,
        BootEnd,
    )
}
"""The stored integer of each state is its place in its enum: append only, never reorder."""
