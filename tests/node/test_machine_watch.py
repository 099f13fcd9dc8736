"""What decides when: the release's threshold, quick limits, those of a calibration on site."""

from collections.abc import Iterator

import msgspec
import numpy as np
import pytest

from contract.messages import CalibrationPhase, MachineState, ThresholdSource
from node.calibration import Plan
from node.detector import Detector
from node.machine_watch import CalibrationNotStartedError, Judgement, MachineWatch
from node.scorer import Evidence
from tests.node.fake_inference import FEATURES, RUNTIME, release
from tests.node.observations import correlated

LEVEL_DBFS = -30.0
CENTRE = 1.0
"""Where the residuals of this place lie: its threshold is another than the release's."""


def evidence(log_statistic: float) -> Evidence:
    """A window whose centred statistic has this log, in a place whose residuals lie off zero."""
    scale = np.exp(log_statistic / 2)
    residual = np.full(FEATURES.shape[0], CENTRE, np.float32)
    residual[::2] += scale
    residual[1::2] -= scale
    error = float(np.mean(residual.astype(np.float64) ** 2))
    features = np.zeros(FEATURES.shape, np.float32)
    return Evidence(features, (residual,), (error,))


def watch(threshold: float = 1.0) -> MachineWatch:
    # A window of two seconds, and one each second.
    slow = msgspec.structs.replace(FEATURES, sample_rate_hz=1600)
    return MachineWatch(release(threshold=threshold, features=slow, hop=1600).manifest)


def hear(machine: MachineWatch, seconds: int, *, seed: int, up: float = 0.0) -> Iterator[Judgement]:
    """Judgements of so many windows; `up` is added to the log statistic."""
    # Odd coefficients more than even ones: half of a window's swing stays in the centre.
    for log in correlated(seconds, seed=seed, mean=-3.0) + up:
        yield machine.hear(evidence(float(log)), level_dbfs=LEVEL_DBFS)


def calibrate(machine: MachineWatch, minutes: float = 10.0, *, seed: int = 1) -> list[Judgement]:
    plan = machine.calibrate(minutes)
    return list(hear(machine, round(plan.total_seconds), seed=seed))


def test_node_that_was_not_calibrated_votes_by_the_release() -> None:
    """Its threshold, its statistic, and three of five windows."""
    machine = watch(threshold=1.5)

    normal = list(hear(machine, 5, seed=1))
    loud = list(hear(machine, 5, seed=1, up=5.0))

    assert machine.threshold_source is ThresholdSource.RELEASE
    assert (machine.threshold, machine.phase) == (1.5, CalibrationPhase.NONE)
    assert {judged.state for judged in normal} == {MachineState.NORMAL}
    assert loud[-1].state is MachineState.ALARM
    assert loud[-1].anomaly
    assert loud[-1].score == pytest.approx(loud[-1].statistic / 1.5)  # type: ignore[operator]


def test_calibration_takes_the_place_of_the_release() -> None:
    """Learning until there are quick limits, then judged by those, then by what has armed."""
    machine = watch(threshold=0.01)

    before = list(hear(machine, 5, seed=9))
    judged = calibrate(machine)
    after = list(hear(machine, 120, seed=2))

    assert before[-1].state is MachineState.ALARM
    plan = Plan.of_minutes(10)
    learning = round(plan.settle_seconds) + 120
    assert {j.state for j in judged[: learning - 1]} == {MachineState.LEARNING}
    assert MachineState.NORMAL in {j.state for j in judged[learning:]}
    assert machine.phase is CalibrationPhase.ARMED
    assert machine.threshold_source is ThresholdSource.SITE
    assert after[-1].state is MachineState.NORMAL
    assert not any(j.anomaly for j in after)


def test_fault_after_calibration_is_found() -> None:
    """Sound that the release's threshold would have let pass for ever is a fault here."""
    machine = watch(threshold=1000.0)
    calibrate(machine)

    states = [judged.state for judged in hear(machine, 240, seed=3, up=2.0)]

    assert states[-1] is MachineState.ALARM


def test_new_calibration_leaves_the_old_limits_in_force_until_it_arms() -> None:
    """A refused one changes nothing but the note."""
    machine = watch()
    calibrate(machine)
    limits = machine.limits
    machine.calibrate(10.0)
    for _ in hear(machine, 300, seed=2):
        pass
    in_between = machine.limits
    for _ in range(3000):
        machine.hear(None, level_dbfs=None)

    assert in_between is limits
    assert machine.phase is CalibrationPhase.REFUSED
    assert machine.limits is limits
    assert machine.note is not None
    assert "look at the microphone" in machine.note


def test_alarm_ends_a_calibration() -> None:
    """Nothing is learnt from a machine that the limits in force call faulty."""
    machine = watch()
    calibrate(machine)
    limits = machine.limits
    for _ in hear(machine, 120, seed=4):
        pass
    machine.calibrate(10.0)
    for _ in hear(machine, 240, seed=5, up=2.0):
        pass

    assert machine.phase is CalibrationPhase.REFUSED
    assert machine.limits is limits
    assert machine.note == (
        "the machine was in alarm by the limits in force: look at it, then calibrate again"
    )


def test_machine_in_alarm_is_not_calibrated() -> None:
    """Its fault would become the normal; the limits must be forgotten first."""
    machine = watch()
    calibrate(machine)
    for _ in hear(machine, 240, seed=5, up=2.0):
        pass

    with pytest.raises(CalibrationNotStartedError, match="which would become the normal"):
        machine.calibrate(10.0)

    machine.forget()
    assert machine.threshold_source is ThresholdSource.RELEASE
    assert machine.calibrate(10.0).calibrate_seconds == 600


def test_cancelled_calibration_leaves_what_was() -> None:
    """Quick limits of a calibration that is given up are given up, too."""
    machine = watch()
    machine.calibrate(60.0)
    for _ in hear(machine, 600, seed=1):
        pass
    quick = machine.limits

    assert machine.cancel()

    assert quick is not None
    assert machine.limits is None
    assert machine.phase is CalibrationPhase.NONE
    assert not machine.cancel()


def test_unscored_window_has_no_flag() -> None:
    """Nothing is made of what was not heard."""
    machine = watch()

    judged = machine.hear(None, level_dbfs=None)

    assert (judged.statistic, judged.score, judged.anomaly) == (None, None, None)
    assert judged.state is MachineState.UNKNOWN


def test_bands_need_normal_sound_to_compare_with() -> None:
    """None before any, and at most three afterwards."""
    given = release(threshold=1e9)
    machine, detector = MachineWatch(given.manifest), Detector(given, RUNTIME)
    chance = np.random.default_rng(0)
    features = chance.standard_normal(FEATURES.shape).astype(np.float32)
    residuals = detector.residuals(features)
    seen = Evidence(features, residuals, detector.judge(residuals).errors)

    nothing = machine.strongest_bands_hz(seen, detector)
    machine.hear(seen, level_dbfs=LEVEL_DBFS)

    assert nothing == ()
    assert len(machine.strongest_bands_hz(seen, detector)) <= 3
