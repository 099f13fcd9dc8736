"""All that a node makes of its machine, window by window: limits in force, state, calibration.

Which limits decide: an operator's threshold (an override) and a vote; without one, those of a
calibration on site that has armed; while the first one is under way, its quick ones; else the
release's threshold and a vote. What was calibrated goes on beside an override, and is in force
again when that is withdrawn, without a gap. Pure: knows no clock, file or device.
"""

import math

import msgspec
import numpy as np

from contract.errors import EarshotError
from contract.features import Float32Array
from contract.release import Manifest
from contract.states import AlarmRule, CalibrationPhase, MachineState, ThresholdSource
from node.machine.alarm_state import ABNORMAL, CalibratedMachine, MachineVote
from node.machine.bands import UsualFeatures, strongest_bands_hz
from node.machine.calibration import Calibrator, Plan
from node.machine.limits import Limits, Observation, centred_statistic, observe
from node.scoring.detector import Detector, statistic
from node.scoring.scorer import Evidence

# Without a release that says so.
_FALSE_ALARMS_PER_WEEK = 1.0

# An alarm by quick limits that stays so long ends the calibration.
_ALARM_SECONDS = 300.0


class CalibrationNotStartedError(EarshotError):
    """A calibration cannot begin now; the text says why and what to do."""


class Judgement(msgspec.Struct, frozen=True, kw_only=True):
    """One window by the limits in force; None where it was not scored."""

    statistic: float | None
    score: float | None
    anomaly: bool | None
    state: MachineState
    """State of the machine after this window."""


class MachineWatch:
    """Judges windows, follows the machine's state, and calibrates when it is told to.

    Args:
        manifest: of the release that scores.
        limits: of a calibration on site with this release, if there was one.
        note: what is to be said of these limits, or of why there are none.
        false_alarms_per_week: for the next calibration; None: what the release says.
        state: of the machine when the node ended: a warning or an alarm goes on.
        override: an operator's threshold of the release's own statistic, if there is one.
    """

    def __init__(
        self,
        manifest: Manifest,
        *,
        limits: Limits | None = None,
        note: str | None = None,
        false_alarms_per_week: float | None = None,
        state: MachineState = MachineState.UNKNOWN,
        override: float | None = None,
    ) -> None:
        self._manifest = manifest
        self._hop_seconds = manifest.hop_us / 1e6
        self._window_seconds = manifest.features.window_us / 1e6
        calibration = manifest.calibration
        self._false_alarms_per_week = false_alarms_per_week or (
            _FALSE_ALARMS_PER_WEEK if calibration is None else calibration.false_alarms_per_week
        )
        self._override = override
        self._armed = limits
        self._note = note
        self._calibrator: Calibrator | None = None
        self._ended: CalibrationPhase | None = None
        self._machine: CalibratedMachine | None = None
        self._machine_limits: Limits | None = None
        self._vote = MachineVote(state)
        self._alarm_windows = 0
        self._usual = UsualFeatures()
        if limits is not None:
            # Under an override the state that was told was not found by these limits.
            self._judge_by(limits, state if override is None else MachineState.UNKNOWN)

    @property
    def manifest(self) -> Manifest:
        """The manifest of the release that scores."""
        return self._manifest

    @property
    def limits(self) -> Limits | None:
        """The limits made on site, while they are in force; None otherwise."""
        return self.site_limits if self._override is None else None

    @property
    def site_limits(self) -> Limits | None:
        """Those that were made on site, also while an override keeps them out of force."""
        if self._armed is not None or self._calibrator is None:
            return self._armed
        return self._calibrator.limits

    @property
    def threshold(self) -> float:
        """The statistic above which a single window is flagged, by what is in force."""
        if self._override is not None:
            return self._override
        limits = self.site_limits
        return self._manifest.threshold.value if limits is None else limits.threshold

    @property
    def threshold_source(self) -> ThresholdSource:
        """Who has set the threshold that is in force."""
        if self._override is not None:
            return ThresholdSource.OVERRIDE
        return ThresholdSource.RELEASE if self.site_limits is None else ThresholdSource.SITE

    @property
    def is_calibrating(self) -> bool:
        """Whether a calibration is under way."""
        return self._calibrator is not None

    @property
    def phase(self) -> CalibrationPhase:
        """How far the newest calibration is."""
        if self._calibrator is not None:
            return self._calibrator.phase
        if self._ended is not None:
            return self._ended
        return CalibrationPhase.NONE if self._armed is None else CalibrationPhase.ARMED

    @property
    def progress(self) -> float:
        """Which share of the newest calibration is done, 0 to 1."""
        if self._calibrator is not None:
            return self._calibrator.progress
        return 0.0 if self.phase is CalibrationPhase.NONE else 1.0

    @property
    def note(self) -> str | None:
        """What decides, if it is an override; then what is to be said of the calibration."""
        note = self.calibration_note
        if self._override is None:
            return note
        said = "an operator's threshold and a vote decide"
        if self.site_limits is not None:
            return f"{said}, not the limits of the calibration: {note or 'kept aside'}"
        return said if note is None else f"{said}; apart from that: {note}"

    @property
    def calibration_note(self) -> str | None:
        """What the limits are worth, how far a calibration is, or why one was refused."""
        return self._note if self._calibrator is None else self._calibrator.note

    @property
    def rule(self) -> AlarmRule:
        """By which a warning or an alarm was found."""
        if self._machine is None or self._override is not None:
            return self._vote.rule
        return self._machine.rule

    def override(self, threshold: float | None) -> None:
        """Go by an operator's threshold from the next window on; None: by what else there is.

        The vote begins anew, unless this is the threshold that is in force already. A calibration
        goes on beside it, and is judged by the same sound as without it.

        Args:
            threshold: of the release's own statistic.
        """
        if threshold != self._override:
            self._override = threshold
            self._vote = MachineVote()

    def calibrate(self, minutes: float) -> Plan:
        """Begin a calibration of so many minutes and return its plan.

        Raises:
            CalibrationRefusedError: no plan has so many minutes.
            CalibrationNotStartedError: one is under way, or the machine is not normal by the limits
                in force.
        """
        plan = Plan.of_minutes(minutes)
        if self._calibrator is not None:
            raise CalibrationNotStartedError(
                f"a calibration is under way, {self._calibrator.progress:.0%} done: cancel it first"
            )
        machine = None if self._armed is None else self._machine
        if machine is not None and machine.state in (*ABNORMAL, MachineState.STOPPED):
            # Under an override another state is told; these limits still know better.
            by = "" if self._override is None else " by the old calibration"
            raise CalibrationNotStartedError(
                f"expected a machine that runs and sounds normal, it is in {machine.state}{by},"
                " which would become the normal; if it is healthy, forget the old calibration first"
            )
        self._calibrator = Calibrator(
            self._manifest,
            plan,
            hop_seconds=self._hop_seconds,
            false_alarms_per_week=self._false_alarms_per_week,
        )
        self._ended = None
        self._alarm_windows = 0
        self._follow_limits()
        return plan

    def cancel(self) -> bool:
        """End a calibration that is under way, if there is one; the limits before stay."""
        if self._calibrator is None:
            return False
        self._calibrator = None
        self._note = "the last calibration was cancelled"
        self._follow_limits()
        return True

    def forget(self) -> None:
        """Go back to the release's threshold, or stay with an override."""
        self._calibrator = self._armed = self._ended = None
        self._note = "the calibration was forgotten"
        self._follow_limits()

    def hear(self, evidence: Evidence | None, *, level_dbfs: float | None) -> Judgement:
        """Take in the next window and judge it by the limits in force.

        Args:
            evidence: of its score; None if it was not scored, or is not to be believed.
            level_dbfs: its level; None if nothing was heard.
        """
        observation = None
        if evidence is not None and level_dbfs is not None:
            observation = observe(self._manifest, evidence, level_dbfs=level_dbfs)
        found = None if observation is None else self._statistic(observation)
        score = None if found is None else found / self.threshold
        anomaly = None if score is None else score > 1.0
        state = self._state(observation, found, anomaly, level_dbfs)
        if observation is not None and not anomaly:
            self._usual.hear(observation.mean_features)
        self._go_on_calibrating(observation)
        return Judgement(statistic=found, score=score, anomaly=anomaly, state=state)

    def strongest_bands_hz(self, evidence: Evidence, detector: Detector) -> tuple[float, ...]:
        """Which bands carry a window's error; see `node.machine.bands`."""
        limits = self.site_limits
        normal = self._usual.mean
        if limits is not None:
            normal = np.asarray(limits.mean_features, np.float32)
        if normal is None:
            return ()

        def judged(features: Float32Array) -> float:
            residuals = detector.residuals(features)
            again = Evidence(features, residuals, detector.judge(residuals).errors)
            return self._statistic(observe(self._manifest, again, level_dbfs=0.0))

        return strongest_bands_hz(self._manifest.features, evidence.features, normal, judged)

    def _statistic(self, observation: Observation) -> float:
        limits = self.limits
        if limits is None:
            return statistic(self._manifest, observation.errors)
        return centred_statistic(self._manifest, observation, limits.centres)

    def _state(
        self,
        observation: Observation | None,
        found: float | None,
        anomaly: bool | None,
        level_dbfs: float | None,
    ) -> MachineState:
        vote = self._vote.hear(anomaly)
        state = self._state_by_limits(observation, found, level_dbfs)
        if self._override is not None:
            return vote
        if state is None:
            return vote if self._calibrator is None else MachineState.LEARNING
        if state is MachineState.UNKNOWN and self._armed is None:
            return MachineState.LEARNING
        return state

    def _state_by_limits(
        self, observation: Observation | None, found: float | None, level_dbfs: float | None
    ) -> MachineState | None:
        """Of a machine that limits made on site judge, in force or not; None without any."""
        limits = self.site_limits
        if self._machine is None or limits is None:
            return None
        if self._override is not None and observation is not None:
            found = centred_statistic(self._manifest, observation, limits.centres)
        log = None if found is None else math.log(max(found, 1e-300))
        return self._machine.hear(log, level_dbfs)

    def _go_on_calibrating(self, observation: Observation | None) -> None:
        calibrator = self._calibrator
        if calibrator is None:
            return
        if self._is_in_alarm():
            by = "limits in force" if self._override is None else "limits made here"
            calibrator.refuse(
                f"the machine was in alarm by the {by}: look at it, then calibrate again"
            )
        elif not calibrator.hear(observation):
            return
        if calibrator.phase is CalibrationPhase.ARMED:
            self._armed = calibrator.limits
        if calibrator.phase in (CalibrationPhase.ARMED, CalibrationPhase.REFUSED):
            self._ended, self._note = calibrator.phase, calibrator.note
            self._calibrator = None
        self._follow_limits()

    def _is_in_alarm(self) -> bool:
        """Whether there is an alarm that nothing must be learnt from."""
        machine = self._machine
        if machine is None or machine.state is not MachineState.ALARM:
            self._alarm_windows = 0
            return False
        self._alarm_windows += 1
        # Quick limits hold no rate: by blocks alone, theirs is believed when it stays.
        lasted_seconds = self._alarm_windows * self._hop_seconds
        return (
            self._armed is not None
            or machine.rule is AlarmRule.FAST
            or lasted_seconds >= _ALARM_SECONDS
        )

    def _follow_limits(self) -> None:
        """A machine is judged by one set of limits from its first window to its last."""
        limits = self.site_limits
        if limits is self._machine_limits:
            return
        self._machine, self._machine_limits = None, None
        if self._override is None:
            self._vote = MachineVote()
        if limits is not None:
            self._judge_by(limits, MachineState.UNKNOWN)

    def _judge_by(self, limits: Limits, state: MachineState) -> None:
        self._machine_limits = limits
        self._machine = CalibratedMachine(
            limits,
            hop_seconds=self._hop_seconds,
            window_seconds=self._window_seconds,
            state=state,
        )
