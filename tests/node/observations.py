"""Observations of windows whose log statistic a test decides."""

import math
from collections.abc import Iterable, Iterator

import numpy as np
import numpy.typing as npt

from contract.release import Manifest
from contract.states import CalibrationPhase
from node.machine.calibration import Calibrator, Plan
from node.machine.limits import Limits, Observation
from tests.rig.fake_inference import FEATURES, release

LEVEL_DBFS = -30.0
HOP_SECONDS = 1.0


def manifest() -> Manifest:
    """Of a release with one model, whose statistic is its error."""
    return release().manifest


def observation(log_statistic: float, *, level_dbfs: float = LEVEL_DBFS) -> Observation:
    """A window with this log statistic; its residual says nothing, so that its centre is zero."""
    return Observation(
        errors=(math.exp(log_statistic),),
        summaries=(np.zeros(FEATURES.shape[0], np.float32),),
        mean_features=np.zeros(FEATURES.shape[0], np.float32),
        level_dbfs=level_dbfs,
    )


def correlated(
    count: int, *, seed: int, rho: float = 0.0, mean: float = 0.0, sd: float = 0.3
) -> npt.NDArray[np.float64]:
    """Log statistics, shape (count,): a first order autoregressive series, normal."""
    chance = np.random.default_rng(seed)
    steps = chance.standard_normal(count) * math.sqrt(1 - rho**2)
    series = np.empty(count)
    value = chance.standard_normal()
    for index, step in enumerate(steps):
        value = rho * value + step
        series[index] = value
    return mean + sd * series


def observations(logs: Iterable[float]) -> Iterator[Observation]:
    """One for each log statistic."""
    return (observation(float(log)) for log in logs)


def calibrated(
    minutes: float, *, seed: int = 0, rho: float = 0.0, sd: float = 0.3, per_week: float = 1.0
) -> tuple[Calibrator, Limits]:
    """A calibration that has armed on such a series."""
    plan = Plan.of_minutes(minutes)
    calibrator = Calibrator(
        manifest(), plan, hop_seconds=HOP_SECONDS, false_alarms_per_week=per_week
    )
    count = math.ceil(plan.total_seconds / HOP_SECONDS)
    for heard in observations(correlated(count, seed=seed, rho=rho, sd=sd)):
        calibrator.hear(heard)
    assert calibrator.phase is CalibrationPhase.ARMED, calibrator.note
    assert calibrator.limits is not None
    return calibrator, calibrator.limits
