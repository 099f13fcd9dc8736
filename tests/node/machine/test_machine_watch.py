"""What decides when: the release's threshold, quick limits, those of a calibration on site."""

from collections.abc import Iterator

import msgspec
import numpy as np
import pytest

from contract.features import Float32Array, dct_matrix, mel_edges_hz
from contract.release import Manifest
from contract.states import AlarmRule, CalibrationPhase, MachineState, ThresholdSource
from node.machine.calibration import Plan
from node.machine.limits import Limits, centred_statistic, observe
from node.machine.machine_watch import CalibrationNotStartedError, Judgement, MachineWatch
from node.scoring.detector import Detector
from node.scoring.scorer import Evidence
from tests.node.observations import correlated
from tests.rig.fake_inference import FEATURES, RUNTIME, release

LEVEL_DBFS = -30.0
CENTRE = 1.0
"""Where the residuals of this place lie: its threshold is another than the release's."""


# A window of two seconds, and one each second.
SLOW = msgspec.structs.replace(FEATURES, sample_rate_hz=1600)


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
    return MachineWatch(_manifest(threshold))


def _manifest(threshold: float) -> Manifest:
    return release(threshold=threshold, features=SLOW, hop=1600).manifest


def hear(machine: MachineWatch, seconds: int, *, seed: int, up: float = 0.0) -> Iterator[Judgement]:
    """Judgements of so many windows; `up` is added to the log statistic."""
    # Odd coefficients more than even ones: half of a window's swing stays in the centre.
    for log in correlated(seconds, seed=seed, mean=-3.0) + up:
        yield machine.hear(evidence(float(log)), level_dbfs=LEVEL_DBFS)


def hear_steady(
    machine: MachineWatch, seconds: int, *, seed: int, up: float = 0.0
) -> Iterator[Judgement]:
    """The same, of residuals that the centre takes nothing off: every other one is turned over."""
    for second, log in enumerate(correlated(seconds, seed=seed, mean=-3.0) + up):
        heard = evidence(float(log))
        turned = 2 * CENTRE - heard.residuals[0] if second % 2 else heard.residuals[0]
        heard = Evidence(heard.features, (turned,), heard.errors)
        yield machine.hear(heard, level_dbfs=LEVEL_DBFS)


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


def with_quick_limits() -> MachineWatch:
    """In its first calibration, of an hour, two minutes after it has got quick limits."""
    machine = watch()
    machine.calibrate(60.0)
    heard = list(hear_steady(machine, 300 + 120 + 120, seed=1))
    assert heard[-1].state is MachineState.NORMAL
    return machine


def test_loud_fault_ends_the_first_calibration_at_once() -> None:
    """What is far beyond all that was heard is not learnt, also where only quick limits say so."""
    machine = with_quick_limits()
    limits = machine.limits
    under_way = [machine.is_calibrating for _ in hear_steady(machine, 12, seed=5, up=5.0)]

    assert limits is not None
    assert limits.quick
    assert under_way == [True] * 11 + [False]
    assert machine.phase is CalibrationPhase.REFUSED
    assert machine.limits is None
    assert machine.threshold_source is ThresholdSource.RELEASE
    assert machine.note == (
        "the machine was in alarm by the limits in force: look at it, then calibrate again"
    )


def test_fault_that_stays_ends_the_first_calibration() -> None:
    """An alarm by blocks of quick limits is believed after five minutes: nothing is learnt then."""
    machine = with_quick_limits()
    lasted = 0
    rules = set()
    for judged in hear_steady(machine, 400, seed=5, up=1.0):
        lasted += judged.state is MachineState.ALARM
        if not machine.is_calibrating:
            break
        rules.add(machine.rule)

    assert machine.phase is CalibrationPhase.REFUSED
    assert lasted == 300
    assert rules == {AlarmRule.BLOCK}
    assert machine.note is not None
    assert "in alarm by the limits in force" in machine.note


def test_short_alarms_by_quick_limits_do_not_end_the_first_calibration() -> None:
    """They hold no rate: one that passes is part of what is normal here, and they do not add up."""
    machine = with_quick_limits()
    lasted = 0
    for seed in (5, 6):
        alarms = [j.state for j in hear_steady(machine, 200, seed=seed, up=1.0)]
        alarms += [j.state for j in hear_steady(machine, 100, seed=seed + 10)]
        lasted += alarms.count(MachineState.ALARM)
        assert alarms[-1] is MachineState.NORMAL

    assert lasted > 300
    assert machine.phase is CalibrationPhase.CALIBRATING


def test_machine_that_has_stopped_is_not_calibrated() -> None:
    """By the limits in force it does not run, and its silence would become the normal."""
    machine = watch()
    calibrate(machine)
    for _ in range(60):
        state = machine.hear(evidence(-3.0), level_dbfs=LEVEL_DBFS - 15).state

    assert state is MachineState.STOPPED
    with pytest.raises(CalibrationNotStartedError, match="it is in stopped"):
        machine.calibrate(10.0)
    assert not machine.is_calibrating


def test_machine_is_learning_until_quick_limits_know_and_unknown_under_others() -> None:
    """Before a first whole block there is a word for each: nobody says unknown while it learns."""
    machine = watch()
    plan = machine.calibrate(10.0)
    heard = list(hear_steady(machine, round(plan.settle_seconds) + 120, seed=1))
    quick = [j.state for j in hear_steady(machine, 10, seed=2)]
    gap = [machine.hear(None, level_dbfs=None).state for _ in range(10)]
    heard += hear_steady(machine, round(plan.total_seconds) - len(heard) - 20, seed=3)
    restarted = MachineWatch(_manifest(1.0), limits=machine.limits)
    armed = [j.state for j in hear_steady(restarted, 60, seed=4)]

    assert quick == [MachineState.LEARNING] * 9 + [MachineState.NORMAL]
    assert gap == [MachineState.NORMAL] * 9 + [MachineState.LEARNING]
    assert machine.phase is CalibrationPhase.ARMED
    assert armed == [MachineState.UNKNOWN] * 59 + [MachineState.NORMAL]


def test_vote_begins_anew_with_other_limits() -> None:
    """Windows that other limits have flagged have no vote under these."""
    machine = watch(threshold=1000.0)
    plan = machine.calibrate(10.0)
    for _ in hear_steady(machine, round(plan.total_seconds), seed=1):
        pass
    flagged = [judged.anomaly for judged in hear_steady(machine, 5, seed=3, up=3.0)]
    machine.forget()
    states = [judged.state for judged in hear_steady(machine, 5, seed=4, up=3.0)]

    assert flagged == [True] * 5
    assert states == [MachineState.NORMAL] * 5


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


def calibrated_limits() -> Limits:
    """Of the usual sound of this place."""
    machine = watch()
    calibrate(machine)
    assert machine.limits is not None
    return machine.limits


def by_release(log_statistic: float) -> float:
    """The release's own statistic of such a window: nothing is taken off."""
    return evidence(log_statistic).errors[0]


def by_limits(limits: Limits, log_statistic: float) -> float:
    """Its statistic with the centre of this place taken off."""
    heard = observe(_manifest(1.0), evidence(log_statistic), level_dbfs=LEVEL_DBFS)
    return centred_statistic(_manifest(1.0), heard, limits.centres)


def test_override_beats_the_limits_of_the_site_and_these_the_release() -> None:
    """Threshold, source, statistic and score are of one and the same; the next one steps in."""
    limits = calibrated_limits()
    machine = MachineWatch(_manifest(1.5), limits=limits, note="verified", override=4.0)

    overridden = machine.hear(evidence(-3.0), level_dbfs=LEVEL_DBFS)
    told = machine.threshold, machine.threshold_source, machine.limits, machine.site_limits
    machine.override(None)
    by_site = machine.hear(evidence(-3.0), level_dbfs=LEVEL_DBFS)
    then = machine.threshold, machine.threshold_source, machine.limits, machine.site_limits
    machine.forget()
    released = machine.hear(evidence(-3.0), level_dbfs=LEVEL_DBFS)

    assert told == (4.0, ThresholdSource.OVERRIDE, None, limits)
    assert overridden.statistic == pytest.approx(by_release(-3.0))
    assert overridden.score == pytest.approx(by_release(-3.0) / 4.0)
    assert then == (limits.threshold, ThresholdSource.SITE, limits, limits)
    assert by_site.statistic == pytest.approx(by_limits(limits, -3.0))
    assert by_limits(limits, -3.0) < by_release(-3.0) / 10
    assert (machine.threshold, machine.threshold_source) == (1.5, ThresholdSource.RELEASE)
    assert released.score == pytest.approx(by_release(-3.0) / 1.5)


def test_vote_decides_under_an_override() -> None:
    """Three of five windows, at once: no block, no quiet spell, no learning has a say."""
    machine = MachineWatch(_manifest(1.0), limits=calibrated_limits(), override=4.0)

    normal = [judged.state for judged in hear(machine, 1, seed=2)]
    loud = [judged.state for judged in hear(machine, 5, seed=2, up=5.0)]

    assert normal == [MachineState.NORMAL]
    assert loud[-1] is MachineState.ALARM
    assert machine.rule is AlarmRule.VOTE


def test_override_silences_what_the_limits_of_the_site_would_flag() -> None:
    """The operator's word is the last: also where it is the worse one."""
    machine = MachineWatch(_manifest(1.0), limits=calibrated_limits(), override=1e6)

    judged = list(hear(machine, 240, seed=3, up=3.0))

    assert {(j.anomaly, j.state) for j in judged} == {(False, MachineState.NORMAL)}


def test_limits_kept_aside_have_judged_all_the_while() -> None:
    """Once the override is withdrawn they say what they would have said without it."""
    limits = calibrated_limits()
    aside = MachineWatch(_manifest(1.0), limits=limits, override=1e6)
    never = MachineWatch(_manifest(1.0), limits=limits)
    for _ in hear(aside, 240, seed=3, up=3.0):
        pass
    without = [judged.state for judged in hear(never, 241, seed=3, up=3.0)]
    aside.override(None)

    (back,) = [judged.state for judged in hear(aside, 1, seed=4, up=3.0)]

    assert (back, without[-1]) == (MachineState.ALARM, MachineState.ALARM)
    assert aside.rule is never.rule


def test_vote_begins_anew_with_another_override_and_not_with_the_same() -> None:
    """An order that comes again, as retained ones do, changes nothing."""
    machine = MachineWatch(_manifest(1000.0), override=1.0)
    for _ in hear(machine, 2, seed=1, up=5.0):
        pass
    machine.override(1.0)
    (again,) = [judged.state for judged in hear(machine, 1, seed=1, up=5.0)]
    machine.override(0.5)
    (other,) = [judged.state for judged in hear(machine, 1, seed=1, up=5.0)]
    machine.override(None)
    (withdrawn,) = [judged.state for judged in hear(machine, 1, seed=1, up=5.0)]

    assert again is MachineState.ALARM
    assert other is MachineState.NORMAL
    assert withdrawn is MachineState.NORMAL


def test_alarm_under_an_override_goes_on_after_a_restart() -> None:
    """The state that was told was the vote's; the limits kept aside begin knowing nothing."""
    machine = MachineWatch(
        _manifest(1.0), limits=calibrated_limits(), override=1.0, state=MachineState.ALARM
    )

    (state,) = [judged.state for judged in hear(machine, 1, seed=1, up=5.0)]
    machine.override(None)
    (after,) = [judged.state for judged in hear(machine, 1, seed=1)]

    assert state is MachineState.ALARM
    assert after is MachineState.UNKNOWN


def test_calibration_beside_an_override_comes_to_the_same() -> None:
    """Its limits are those that it would have made without, and they wait."""
    alone, beside = watch(), MachineWatch(_manifest(1.0), override=4.0)
    calibrate(alone)

    judged = calibrate(beside)

    assert MachineState.LEARNING not in {j.state for j in judged}
    assert {j.state for j in judged} == {MachineState.NORMAL}
    assert (beside.phase, beside.limits) == (CalibrationPhase.ARMED, None)
    assert beside.threshold_source is ThresholdSource.OVERRIDE
    assert beside.site_limits == alone.limits
    assert beside.calibration_note == alone.note
    beside.override(None)
    assert beside.limits == alone.limits


def test_vote_under_an_override_outlasts_news_of_a_calibration() -> None:
    """New limits that are not in force leave its windows as they are."""
    machine = MachineWatch(_manifest(1000.0), override=0.01)

    states = [judged.state for judged in calibrate(machine)]

    assert machine.phase is CalibrationPhase.ARMED
    assert states[2:] == [MachineState.ALARM] * (len(states) - 2)


@pytest.mark.parametrize("every", [1, 7, 50, 301])
def test_override_that_comes_and_goes_does_not_disturb_a_calibration(every: int) -> None:
    """At any moment of it, also between quick limits and the full ones."""
    alone, disturbed = watch(), watch()
    calibrate(alone)
    plan = disturbed.calibrate(10.0)

    for second, judged in enumerate(hear(disturbed, round(plan.total_seconds), seed=1)):
        assert judged.score is not None
        if second % every == 0:
            disturbed.override(None if second % (2 * every) else 3.0)
    disturbed.override(None)

    assert disturbed.phase is CalibrationPhase.ARMED
    assert disturbed.limits == alone.limits


def test_fault_is_not_calibrated_behind_an_override() -> None:
    """A high threshold silences an alarm; it does not make the fault the normal."""
    limits = calibrated_limits()
    machine = MachineWatch(_manifest(1.0), limits=limits, override=1e6)
    for _ in hear(machine, 120, seed=4):
        pass
    machine.calibrate(10.0)
    for judged in hear(machine, 240, seed=5, up=2.0):
        assert judged.state is MachineState.NORMAL
    ended = machine.phase, machine.calibration_note

    with pytest.raises(CalibrationNotStartedError, match="in alarm by the old calibration"):
        machine.calibrate(10.0)

    assert ended == (
        CalibrationPhase.REFUSED,
        "the machine was in alarm by the limits made here: look at it, then calibrate again",
    )
    assert machine.site_limits is limits


def test_note_says_why_the_limits_are_not_in_force() -> None:
    """An override comes first; what is to be said of the calibration follows, unchanged."""
    machine = MachineWatch(_manifest(1.0), note="not calibrated here", override=4.0)
    uncalibrated = machine.note
    calibrate(machine)
    verdict = machine.calibration_note
    armed = machine.note
    machine.override(None)

    assert uncalibrated == (
        "an operator's threshold and a vote decide; apart from that: not calibrated here"
    )
    assert verdict is not None
    assert armed == (
        f"an operator's threshold and a vote decide, not the limits of the calibration: {verdict}"
    )
    assert machine.note == verdict


def test_bands_under_an_override_differ_from_what_was_calibrated_with() -> None:
    """The limits kept aside still know the normal sound of this place."""
    machine, detector = MachineWatch(LISTENS.manifest), Detector(LISTENS, RUNTIME)
    plan = machine.calibrate(2.0)
    for second in range(round(plan.total_seconds)):
        machine.hear(of(detector, spectrum(None, seed=second)), level_dbfs=LEVEL_DBFS)
    restarted = MachineWatch(LISTENS.manifest, limits=machine.limits, override=1.0)

    found = restarted.strongest_bands_hz(of(detector, spectrum(9)), detector)

    assert found[0] == pytest.approx(middle_hz(9), abs=1.0)


# A model that reconstructs silence: the error is the mean square of the features.
LISTENS = release(
    threshold=1.0, features=msgspec.structs.replace(SLOW, n_mfcc=32), hop=1600, answer=0.0
)
PARAMS = LISTENS.manifest.features


def spectrum(group: int | None, *, seed: int = 0) -> Float32Array:
    """Features of a sound that is loud in one group of two mel bands, or in none."""
    bands_db = np.zeros(PARAMS.n_mels, np.float32)
    if group is not None:
        bands_db[2 * group : 2 * group + 2] = 20.0
    chance = np.random.default_rng(seed)
    steady = (dct_matrix(PARAMS) @ bands_db)[:, None].repeat(PARAMS.frames, axis=1)
    return (steady + 0.3 * chance.standard_normal(PARAMS.shape)).astype(np.float32)


def of(detector: Detector, features: Float32Array) -> Evidence:
    residuals = detector.residuals(features)
    return Evidence(features, residuals, detector.judge(residuals).errors)


def middle_hz(group: int) -> float:
    edges_hz = mel_edges_hz(PARAMS)
    return float((edges_hz[2 * group] + edges_hz[2 * group + 3]) / 2)


def test_bands_need_normal_sound_to_compare_with() -> None:
    """There are none before any was heard."""
    machine, detector = MachineWatch(LISTENS.manifest), Detector(LISTENS, RUNTIME)

    assert machine.strongest_bands_hz(of(detector, spectrum(3)), detector) == ()


@pytest.mark.parametrize("group", [2, 7, 12])
def test_bands_are_those_in_which_the_sound_differs_from_normal(group: int) -> None:
    """What the node has heard as normal is the measure; windows that were flagged are not in it."""
    machine, detector = MachineWatch(LISTENS.manifest), Detector(LISTENS, RUNTIME)
    normal = [
        machine.hear(of(detector, spectrum(None, seed=seed)), level_dbfs=LEVEL_DBFS)
        for seed in range(20)
    ]
    faults = [of(detector, spectrum(group, seed=100 + seed)) for seed in range(20)]
    # Five times what it remembers.
    flagged = [machine.hear(fault, level_dbfs=LEVEL_DBFS) for fault in faults * 150]

    found = [
        machine.strongest_bands_hz(of(detector, spectrum(group, seed=seed)), detector)[:1]
        for seed in range(200, 210)
    ]

    assert {judged.anomaly for judged in normal} == {False}
    assert {judged.anomaly for judged in flagged} == {True}
    assert found == [pytest.approx((middle_hz(group),), abs=1.0)] * 10


def test_bands_differ_from_what_was_calibrated_with() -> None:
    """A node that was calibrated knows them before it has heard anything after a restart."""
    machine, detector = MachineWatch(LISTENS.manifest), Detector(LISTENS, RUNTIME)
    plan = machine.calibrate(2.0)
    for second in range(round(plan.total_seconds)):
        machine.hear(of(detector, spectrum(None, seed=second)), level_dbfs=LEVEL_DBFS)
    restarted = MachineWatch(LISTENS.manifest, limits=machine.limits)

    found = restarted.strongest_bands_hz(of(detector, spectrum(9)), detector)

    assert machine.phase is CalibrationPhase.ARMED, machine.note
    assert found[0] == pytest.approx(middle_hz(9), abs=1.0)
