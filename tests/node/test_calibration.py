"""Calibration: from normal windows to limits, or to a reason why not."""

import math
from collections.abc import Sequence

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import genpareto, t

from contract.messages import CalibrationPhase
from contract.release import LogNormals
from node.calibration import (
    CalibrationRefusedError,
    Calibrator,
    Limits,
    Observation,
    Plan,
    block_means,
    centred_statistic,
    fast_limit,
    find_limits,
    observe,
)
from node.detector import Detector
from node.scorer import Evidence
from tests.node.fake_inference import FEATURES, RUNTIME, FakeModel, release, release_of
from tests.node.observations import (
    HOP_SECONDS,
    LEVEL_DBFS,
    calibrated,
    correlated,
    manifest,
    observation,
    observations,
)

PHASES = CalibrationPhase


def calibrator(minutes: float) -> Calibrator:
    return Calibrator(
        manifest(), Plan.of_minutes(minutes), hop_seconds=HOP_SECONDS, false_alarms_per_week=1.0
    )


def limits_of(heard: Sequence[Observation | None], *, block_seconds: int = 60) -> Limits:
    return find_limits(
        manifest(),
        heard,
        hop_seconds=HOP_SECONDS,
        block_seconds=block_seconds,
        false_alarms_per_week=1.0,
        quick=False,
    )


def test_block_limit_is_the_prediction_limit_of_student_t() -> None:
    """Mean plus t times the spread of block means, wider for the mean's own error (Hahn 1969)."""
    logs = correlated(3600, seed=1)
    means = logs.reshape(60, 60).mean(axis=1)
    quantile = t.isf(60 / 604_800, 59)

    limits = limits_of(list(observations(logs)))

    assert limits.blocks == 60
    assert limits.block_mean == pytest.approx(means.mean())
    assert limits.block_limit == pytest.approx(
        means.mean() + quantile * means.std(ddof=1) * math.sqrt(1 + 1 / 60), rel=1e-6
    )
    assert limits.block_mean < limits.block_release < limits.block_limit
    assert limits.level_dbfs == LEVEL_DBFS


@pytest.mark.parametrize("rho", [0.0, 0.5, 0.9])
def test_stated_rate_of_false_alarms_holds_for_correlated_windows(rho: float) -> None:
    """At ten a day, set by an hour, 20 nodes in a day hold about that, however windows hang on."""
    stated_per_day, rings = 10.0, []
    for seed in range(20):
        _, limits = calibrated(60, seed=seed, rho=rho, per_week=7 * stated_per_day)
        day = correlated(86_400, seed=1000 + seed, rho=rho)
        rings.append(int(np.sum(day.reshape(1440, 60).mean(axis=1) > limits.block_limit)))

    assert stated_per_day / 3 < np.mean(rings) < stated_per_day * 3


def test_heavy_tails_double_the_block() -> None:
    """Where single blocks stick out, means of twice the length decide."""
    logs = correlated(3600, seed=1)
    logs.reshape(60, 60)[::12] += 2.0

    limits = limits_of(list(observations(logs)))

    assert (limits.block_seconds, limits.blocks) == (120, 30)


def test_window_threshold_lets_the_stated_share_through() -> None:
    """The release's rate of flagged windows holds for the sound that made the threshold."""
    logs = correlated(3600, seed=3)
    rate = manifest().threshold.false_alarm_rate or 0.001

    limits = limits_of(list(observations(logs)))

    assert np.mean(logs > math.log(limits.threshold) + 1e-9) <= rate
    assert math.log(limits.threshold) < logs.mean() + 5 * logs.std()


def test_fast_limit_is_near_the_true_quantile() -> None:
    """One in a million, from an hour of windows, within what extrapolating can do."""
    found = [fast_limit(correlated(3600, seed=seed, sd=1.0)) for seed in range(20)]

    assert 4.0 < np.median(found) < 6.0  # 4.75 is the truth


def test_fast_limit_follows_a_heavy_tail() -> None:
    """A tail like that of a place with knocks and doors puts it far out."""
    heavy = genpareto.rvs(0.2, size=3600, random_state=1)

    assert fast_limit(heavy) > 2 * fast_limit(correlated(3600, seed=1, sd=1.0))


@pytest.mark.parametrize("count", [2, 120, 3600])
def test_fast_limit_is_above_all_that_was_heard(count: int) -> None:
    """What the healthy machine did while calibrating rings no bell afterwards."""
    for seed in range(5):
        logs = correlated(count, seed=seed)

        assert fast_limit(logs) >= logs.max()


def test_centre_is_taken_off_exactly() -> None:
    """The statistic from the summary is the mean square of the residual less a constant centre."""
    chance = np.random.default_rng(0)
    residual = chance.standard_normal((1, *FEATURES.shape, 1)).astype(np.float32) + 0.5
    mean_square = float(np.mean(residual.astype(np.float64) ** 2))
    features = chance.standard_normal(FEATURES.shape).astype(np.float32)

    seen = observe(manifest(), Evidence(features, (residual,), (mean_square,)), level_dbfs=-30.0)
    centre = np.asarray(seen.summaries[0], np.float64)

    assert centred_statistic(manifest(), seen, [centre]) == pytest.approx(
        float(np.mean((residual.ravel() - centre) ** 2)), rel=1e-5
    )
    np.testing.assert_allclose(
        seen.mean_features, features[:, : FEATURES.sound_frames].mean(axis=1), rtol=1e-6
    )


def test_large_residual_is_kept_as_its_mean_over_time() -> None:
    """A reconstruction of a thousand numbers costs memory for its rows alone, and stays exact."""
    chance = np.random.default_rng(0)
    residual = chance.standard_normal((40, 64)).astype(np.float32)
    mean_square = float(np.mean(residual.astype(np.float64) ** 2))
    evidence = Evidence(np.zeros(FEATURES.shape, np.float32), (residual,), (mean_square,))

    seen = observe(manifest(), evidence, level_dbfs=-30.0)
    centre = chance.standard_normal(40)

    assert seen.summaries[0].shape == (40,)
    assert centred_statistic(manifest(), seen, [centre]) == pytest.approx(
        float(np.mean((residual - centre[:, None]) ** 2)), rel=1e-5
    )


def test_release_of_several_models_is_centred_model_by_model() -> None:
    """Each has a centre of its own, and the statistic is the release's."""
    standard = LogNormals(mean=0.5, sd=2.0)
    given_release = release_of(
        FakeModel({"add": 1}, log_error=standard), FakeModel({"add": 3}, log_error=standard)
    )
    detector = Detector(given_release, RUNTIME)
    features = np.random.default_rng(0).standard_normal(FEATURES.shape).astype(np.float32)
    residuals = detector.residuals(features)
    evidence = Evidence(features, residuals, detector.judge(residuals).errors)

    seen = observe(given_release.manifest, evidence, level_dbfs=-30.0)
    zero = [np.zeros(summary.shape) for summary in seen.summaries]

    assert centred_statistic(given_release.manifest, seen, zero) == pytest.approx(
        detector(features).statistic, rel=1e-6
    )


def test_calibration_goes_through_its_phases() -> None:
    """Settles, has quick limits after two minutes, full ones after all, verifies, and arms."""
    under_way = calibrator(60)
    plan = Plan.of_minutes(60)
    changes = []
    for second, heard in enumerate(observations(correlated(5100, seed=1)), start=1):
        if under_way.hear(heard):
            quick = None if under_way.limits is None else under_way.limits.quick
            changes.append((second, under_way.phase, quick))

    assert plan.total_seconds == 5100
    assert changes == [
        (300, PHASES.CALIBRATING, None),
        (420, PHASES.CALIBRATING, True),
        (3900, PHASES.VERIFYING, False),
        (5100, PHASES.ARMED, False),
    ]
    assert under_way.progress == 1.0
    assert under_way.note == (
        "60 blocks of 60 s; 0 of 20 above the limit while verifying, which proves no more than"
        " 8.3 false alarms an hour (95 %); rings from 1.18 x the usual error"
    )


def test_two_minutes_make_quick_limits_alone() -> None:
    """The shortest calibration arms, and says how little it is."""
    under_way, limits = calibrated(2)

    assert limits.quick
    assert (limits.blocks, limits.block_seconds) == (12, 10)
    assert under_way.note.startswith(
        "quick limits that hold no rate: 12 blocks of 10 s; 0 of 4 above"
    )


def test_limits_that_ring_while_verifying_are_refused() -> None:
    """Sound that goes on changing has not been calibrated over."""
    under_way = calibrator(10)
    plan = Plan.of_minutes(10)
    before = round(plan.settle_seconds + plan.calibrate_seconds)
    logs = correlated(round(plan.total_seconds), seed=1)
    logs[before + 60 :] += 3.0

    for heard in observations(logs):
        under_way.hear(heard)

    assert under_way.phase is PHASES.REFUSED
    assert under_way.limits is None
    assert "2 of 3 blocks were above the limit while verifying" in under_way.note
    assert under_way.progress == 1.0


def test_verifying_allows_what_is_stated() -> None:
    """A limit that is set to ring ten times a day may ring once in twenty minutes of verifying."""
    plan = Plan.of_minutes(60)
    under_way = Calibrator(manifest(), plan, hop_seconds=HOP_SECONDS, false_alarms_per_week=70.0)
    logs = correlated(5100, seed=1)
    logs[4020:4080] += 3.0

    for heard in observations(logs):
        under_way.hear(heard)

    assert under_way.phase is PHASES.ARMED
    assert (
        "1 of 20 above the limit while verifying, which proves no more than 13 " in under_way.note
    )


def test_machine_that_stops_is_no_calibration() -> None:
    """A tenth of the time switched off is refused, also where it is most of the time."""
    for share in (0.2, 0.7):
        heard = [
            observation(float(log), level_dbfs=-60.0 if index < share * 3600 else -30.0)
            for index, log in enumerate(correlated(3600, seed=1))
        ]

        with pytest.raises(CalibrationRefusedError, match="the machine stopped for"):
            limits_of(heard)


def test_unscored_windows_are_no_calibration() -> None:
    """A microphone that fails for more than a third of the time is looked at first."""
    heard = [
        observation(float(log)) if index % 2 else None
        for index, log in enumerate(correlated(3600, seed=1))
    ]

    with pytest.raises(CalibrationRefusedError, match="only 1800 of 3600 windows"):
        limits_of(heard)


def test_few_unscored_windows_do_no_harm() -> None:
    """A block lives with gaps of less than half of it."""
    heard: list[Observation | None] = list(observations(correlated(3600, seed=1)))
    heard[10:30] = [None] * 20
    heard[600:660] = [None] * 60

    assert limits_of(heard).blocks == 59


def test_verifying_without_sound_refuses() -> None:
    """Limits that nobody has verified do not arm."""
    under_way = calibrator(10)
    plan = Plan.of_minutes(10)
    for heard in observations(
        correlated(round(plan.settle_seconds + plan.calibrate_seconds), seed=1)
    ):
        under_way.hear(heard)
    for _ in range(round(plan.verify_seconds)):
        under_way.hear(None)

    assert under_way.phase is PHASES.REFUSED
    assert "look at the microphone" in under_way.note


def test_sound_without_any_spread_has_limits() -> None:
    """A machine that repeats itself exactly is calibrated, and anything else is above its limit."""
    limits = limits_of([observation(0.0)] * 3600)

    assert 0.0 < limits.block_limit < 0.1


@pytest.mark.parametrize("minutes", [0.0, 1.9, 241.0, -5.0, float("nan")])
def test_plan_of_other_minutes_is_refused(minutes: float) -> None:
    """Two minutes to twelve hours."""
    with pytest.raises(CalibrationRefusedError, match="Expected 2 to 240 minutes"):
        Plan.of_minutes(minutes)


@settings(max_examples=50, deadline=None)
@given(
    logs=st.lists(st.one_of(st.none(), st.floats(-50, 50)), max_size=200),
    per_block=st.integers(1, 40),
)
def test_block_means_count_whole_blocks_only(logs: list[float | None], per_block: int) -> None:
    """One value for each whole block: the mean of what was scored, or nothing."""
    means = block_means(logs, windows_per_block=per_block)

    assert len(means) == len(logs) // per_block
    for number, mean in enumerate(means):
        block = logs[number * per_block : (number + 1) * per_block]
        scored = [log for log in block if log is not None]
        assert (mean is None) == (len(scored) < per_block / 2)
        assert mean is None or min(scored) - 1e-9 <= mean <= max(scored) + 1e-9


def test_limits_survive_a_file() -> None:
    """What is kept across a restart is the same to the last bit."""
    _, limits = calibrated(10)

    assert msgspec.json.decode(msgspec.json.encode(limits), type=Limits) == limits


def test_centre_made_of_the_windows_themselves_does_not_narrow_the_limits() -> None:
    """Limits come from windows that their centre has not heard: fresh sound stays below them."""
    chance = np.random.default_rng(5)
    given_release = release()

    def heard(count: int) -> list[Observation]:
        found = []
        for _ in range(count):
            residual = chance.standard_normal(FEATURES.shape[0]).astype(np.float32)
            error = float(np.mean(residual.astype(np.float64) ** 2))
            found.append(
                Observation((error,), (residual,), np.zeros(FEATURES.shape[0], np.float32), -30.0)
            )
        return found

    limits = find_limits(
        given_release.manifest,
        heard(120),
        hop_seconds=1.0,
        block_seconds=10,
        false_alarms_per_week=1.0,
        quick=True,
    )
    fresh = [
        math.log(centred_statistic(given_release.manifest, seen, limits.centres))
        for seen in heard(2000)
    ]

    assert np.mean(fresh) == pytest.approx(limits.log_mean, abs=0.1)
