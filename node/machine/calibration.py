"""One calibration on site, from its start to its verdict.

A threshold from the training sessions does not travel to another room, another mounting or another
machine of the same make. So a node listens to the healthy machine, in this order:

- settling: sound that is not used, so that whoever started it has left;
- calibrating: limits are made (`node.machine.limits`), after two minutes quick ones, at once useful
and
  said to be quick, then the full ones;
- verifying: fresh sound against the limits. If blocks of it are above them they are refused, with
  the reason: limits that ring while everybody says that all is well are worth nothing.

Pure: knows no clock, file or device; time is counted in windows.
"""

import math

import msgspec

from contract.release import Manifest
from contract.states import CalibrationPhase
from node.machine.limits import (
    SCORED_SHARE,
    CalibrationRefusedError,
    Limits,
    Observation,
    block_means,
    centred_statistic,
    find_limits,
)

MINUTES_LEAST = 2.0
MINUTES_MOST = 240.0
"""Each second is kept until the end, some 0.9 kB: 13 MB for four hours."""
MINUTES_USUAL = 60.0

_QUICK_SECONDS = 120.0
# Without a release that says so.
_BLOCK_SECONDS = 60
_QUICK_BLOCK_SECONDS = 10
# So many blocks above the limit while verifying, or more, would be this rare if it held its rate.
_VERIFY_PROBABILITY = 0.01


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """How long to listen for what, in seconds of sound."""

    settle_seconds: float
    calibrate_seconds: float
    verify_seconds: float

    @classmethod
    def of_minutes(cls, minutes: float) -> "Plan":
        """The usual plan around so many minutes of calibrating.

        Raises:
            CalibrationRefusedError: fewer than 2 minutes, or more than 240.
        """
        if not MINUTES_LEAST <= minutes <= MINUTES_MOST:
            raise CalibrationRefusedError(
                f"Expected {MINUTES_LEAST:g} to {MINUTES_MOST:g} minutes of calibration, got"
                f" {minutes:g}"
            )
        return cls(
            settle_seconds=min(300.0, 5.0 * minutes),
            calibrate_seconds=60.0 * minutes,
            verify_seconds=min(1200.0, 20.0 * minutes),
        )

    @property
    def total_seconds(self) -> float:
        """How long a calibration takes from its start to its verdict, in seconds."""
        return self.settle_seconds + self.calibrate_seconds + self.verify_seconds

    @property
    def quick(self) -> bool:
        """Whether there is too little sound for a good estimate."""
        return self.calibrate_seconds < 600.0


class Calibrator:
    """One calibration, from its start to its verdict.

    Args:
        manifest: of the release that it is for.
        plan: how long to listen.
        hop_seconds: between two windows.
        false_alarms_per_week: what the block limit is set for.
    """

    def __init__(
        self, manifest: Manifest, plan: Plan, *, hop_seconds: float, false_alarms_per_week: float
    ) -> None:
        self._manifest = manifest
        self._plan = plan
        self._hop_seconds = hop_seconds
        self._false_alarms_per_week = false_alarms_per_week
        calibration = manifest.calibration
        # Short blocks where there is too little sound for the release's.
        self._block_seconds = (
            _QUICK_BLOCK_SECONDS
            if plan.quick
            else _BLOCK_SECONDS
            if calibration is None
            else calibration.block_seconds
        )
        self._heard: list[Observation | None] = []
        self._windows = 0
        self.phase = CalibrationPhase.SETTLING
        self.limits: Limits | None = None
        """The best so far: quick ones, then those that are verified."""
        self.note = f"settles for {plan.settle_seconds:.0f} s before it listens"

    @property
    def progress(self) -> float:
        """Which share of the whole calibration is done, 0 to 1."""
        if self.phase in (CalibrationPhase.ARMED, CalibrationPhase.REFUSED):
            return 1.0
        return min(1.0, self._windows * self._hop_seconds / self._plan.total_seconds)

    def hear(self, observation: Observation | None) -> bool:
        """Take in the next window (None: it could not be scored); says whether news came of it."""
        self._windows += 1
        heard_seconds = self._windows * self._hop_seconds
        match self.phase:
            case CalibrationPhase.SETTLING:
                if heard_seconds >= self._plan.settle_seconds:
                    self.phase = CalibrationPhase.CALIBRATING
                    self.note = f"listens for {self._plan.calibrate_seconds / 60:g} minutes"
                    return True
            case CalibrationPhase.CALIBRATING:
                self._heard.append(observation)
                return self._calibrate()
            case CalibrationPhase.VERIFYING:
                self._heard.append(observation)
                if len(self._heard) * self._hop_seconds >= self._plan.verify_seconds:
                    self._conclude()
                    return True
        return False

    def refuse(self, reason: str) -> None:
        """End the calibration without a result, for the given reason."""
        self.phase = CalibrationPhase.REFUSED
        self.limits = None
        self.note = reason[:200]
        self._heard.clear()

    def _calibrate(self) -> bool:
        heard_seconds = len(self._heard) * self._hop_seconds
        if heard_seconds >= self._plan.calibrate_seconds:
            try:
                self.limits = self._new_limits(self._block_seconds, quick=self._plan.quick)
            except CalibrationRefusedError as error:
                self.refuse(str(error))
                return True
            self._heard.clear()
            self.phase = CalibrationPhase.VERIFYING
            self.note = f"verifies its limits for {self._plan.verify_seconds / 60:.3g} minutes"
            return True
        if self.limits is None and heard_seconds >= _QUICK_SECONDS:
            # Two minutes that give no limits are no verdict yet: the rest may.
            try:
                self.limits = self._new_limits(_QUICK_BLOCK_SECONDS, quick=True)
            except CalibrationRefusedError:
                return False
            minutes = (self._plan.calibrate_seconds - heard_seconds) / 60
            self.note = f"quick limits of 2 minutes; {minutes:.3g} minutes more make better ones"
            return True
        return False

    def _new_limits(self, block_seconds: int, *, quick: bool) -> Limits:
        return find_limits(
            self._manifest,
            self._heard,
            hop_seconds=self._hop_seconds,
            block_seconds=block_seconds,
            false_alarms_per_week=self._false_alarms_per_week,
            quick=quick,
        )

    def _conclude(self) -> None:
        limits = self.limits
        assert limits is not None
        means = block_means(
            [
                None
                if o is None
                else math.log(centred_statistic(self._manifest, o, limits.centres))
                for o in self._heard
            ],
            windows_per_block=max(1, round(limits.block_seconds / self._hop_seconds)),
        )
        counted = [mean for mean in means if mean is not None]
        above = sum(mean > limits.block_limit for mean in counted)
        if len(counted) < max(1.0, SCORED_SHARE * len(means)):
            self.refuse(
                f"only {len(counted)} of {len(means)} blocks could be scored while verifying: look"
                " at the microphone, and calibrate while the machine runs"
            )
        elif _at_least(above, len(counted), limits.block_rate) < _VERIFY_PROBABILITY:
            self.refuse(
                f"{above} of {len(counted)} blocks were above the limit while verifying: the sound"
                " still changes; calibrate again over all that the healthy machine does, for longer"
            )
        else:
            per_hour = _upper_bound(above, len(counted)) * 3600 / limits.block_seconds
            self.phase = CalibrationPhase.ARMED
            rings_from = math.exp(limits.block_limit - limits.block_mean)
            quick = "quick limits that hold no rate: " if limits.quick else ""
            self.note = (
                f"{quick}{limits.blocks} blocks"
                f" of {limits.block_seconds} s; {above} of {len(counted)} above the limit while"
                f" verifying, which proves no more than {per_hour:.3g} false alarms an hour (95 %);"
                f" rings from {rings_from:.3g} x the usual error"
            )
            self._heard.clear()


def _at_least(events: int, trials: int, rate: float) -> float:
    """Probability of so many events, or more, in independent trials."""
    return 1.0 - math.fsum(
        math.comb(trials, k) * rate**k * (1 - rate) ** (trials - k) for k in range(events)
    )


def _upper_bound(events: int, trials: int) -> float:
    """Largest rate that 95 % confidence leaves (Clopper and Pearson, 1934; one-sided)."""
    low, high = 0.0, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        if _at_least(events + 1, trials, middle) < 0.95:
            low = middle
        else:
            high = middle
    return high
