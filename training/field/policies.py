"""Rules that hear one scored window after another and say whether to raise an alarm.

The node's own judgement, calibrated or not, on the detector or on the level alone; and the
reference design's, which takes a single window for an alarm.
"""

from collections.abc import Iterator
from typing import Literal, NamedTuple, Protocol

import msgspec
import numpy as np

from contract.release import Manifest
from contract.states import AlarmRule, CalibrationPhase, MachineState
from node.machine.limits import Limits
from node.machine.machine_watch import MachineWatch
from node.scoring.scorer import Evidence
from training.field.field_sound import ScoredWindow


class WindowVerdict(NamedTuple):
    """What a rule makes of one window."""

    state: MachineState
    rule: AlarmRule
    flagged: bool | None
    """Whether the window alone is above the threshold; None if it was not scored."""


class AlarmPolicy(Protocol):
    """Hears windows one after another."""

    def hear(self, window: ScoredWindow) -> WindowVerdict: ...


class SingleWindow:
    """The reference design's rule: a window above the threshold is the alarm."""

    def __init__(self, threshold: float) -> None:
        self._threshold = threshold

    def hear(self, window: ScoredWindow) -> WindowVerdict:
        """Judge one window by itself."""
        flagged = window.statistic is not None and window.statistic > self._threshold
        return WindowVerdict(
            MachineState.ALARM if flagged else MachineState.NORMAL, AlarmRule.VOTE, flagged
        )


class NodePolicy:
    """The node's own judgement, of the detector or of the level.

    Args:
        manifest: of the release.
        view: what is judged.
        limits: of a calibration; None: none was made.
    """

    def __init__(
        self, manifest: Manifest, view: "View" = "detector", limits: Limits | None = None
    ) -> None:
        self.watch = MachineWatch(_viewed(manifest, view), limits=limits)
        self._view = view

    def hear(self, window: ScoredWindow) -> WindowVerdict:
        """Judge the next window with all that was heard before."""
        evidence = _evidence(window, self._view)
        judgement = self.watch.hear(evidence, level_dbfs=window.level_dbfs)
        return WindowVerdict(judgement.state, self.watch.rule, judgement.anomaly)


View = Literal["detector", "louder", "quieter"]
"""What is judged: the detector's error, or in its place the power of the window or its inverse."""


def _viewed(manifest: Manifest, view: View) -> Manifest:
    if view == "detector":
        return manifest
    return msgspec.structs.replace(manifest, statistic="error", models=manifest.models[:1])


def _evidence(window: ScoredWindow, view: View) -> Evidence | None:
    evidence = window.evidence
    if evidence is None or view == "detector":
        return evidence
    power = 10.0 ** ((window.level_dbfs if view == "louder" else -window.level_dbfs) / 10)
    # Without a residual there is no centre to take off.
    return Evidence(evidence.features, (_NO_RESIDUAL,), (power,))


_NO_RESIDUAL = np.zeros(1, np.float32)


class CalibrationOutcome(msgspec.Struct, frozen=True):
    """How a calibration in simulated time has ended."""

    limits: Limits | None
    note: str


def calibrate(
    manifest: Manifest, windows: Iterator[ScoredWindow], *, minutes: float, view: View = "detector"
) -> CalibrationOutcome:
    """Let the node calibrate on a stream: settle, listen, verify."""
    node = NodePolicy(manifest, view)
    node.watch.calibrate(minutes)
    while node.watch.is_calibrating:
        node.hear(next(windows))
    armed = node.watch.phase is CalibrationPhase.ARMED
    return CalibrationOutcome(node.watch.limits if armed else None, node.watch.note or "")
