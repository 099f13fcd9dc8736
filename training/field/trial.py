"""One release in one place: which clips calibrate and which are monitored, by every rule."""

from collections import Counter
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Literal

import msgspec
import numpy as np

from node.machine.limits import Limits
from training.errors import DataError
from training.field.field_report import ConditionReport, PlaceReport, RuleReport, Split
from training.field.field_sound import Listener, ScoredTakes, repeated, stream
from training.field.monitoring import AlarmCounts, Onset, hear_fault, monitor, summed_up
from training.field.places import Place
from training.field.policies import (
    AlarmPolicy,
    CalibrationOutcome,
    NodePolicy,
    SingleWindow,
    View,
    calibrate,
)
from training.judge.metrics import Interval
from training.judge.stream import poisson_interval
from training.made.harden import original_of, planted_in
from training.made.room_noise import NoiseLibrary
from training.progress import Progress
from training.sound.dataset import Clip

NOISE_RATIOS_DB = (10.0, 0.0)
QUICK_MINUTES = 2.0
FAULT_SECONDS = 600.0
# Two with each half; one alone would not show how much depends on the stretch that was heard.
_CALIBRATIONS = 4
# Normal sound before a fault: three blocks and a part of one, so that faults begin anywhere in it.
_LEAD_SECONDS = (180.0, 240.0)
# Of each kind and half; those left out are spread evenly, so that all sorts of fault stay.
_MOST_STRETCHES = 24
_SECONDS_PER_DAY = 86_400


class _Method(msgspec.Struct, frozen=True):
    name: str
    minutes: float | None = None
    """Of the calibration; None: without one."""
    view: View = "detector"
    reference: bool = False

    @property
    def is_level(self) -> bool:
        return self.view != "detector"

    def is_told_in(self, noise_db: float | None, calibrated_in_noise: bool) -> bool:
        """Not where it would be the same again, and the level not in noise: it hears any."""
        if self.is_level:
            return noise_db is None
        return self.minutes is not None or not calibrated_in_noise


class _Fold(msgspec.Struct, frozen=True):
    """Which clips calibrate and which are monitored, once."""

    number: int
    calibrate: tuple[int, ...]
    """Indices of the place's normals."""
    monitor: tuple[int, ...]
    faults: tuple[int, ...]
    """Indices of the place's anomalies."""


class _Sounds:
    """A place's clips, heard as they are and with noise, each when it is first needed."""

    def __init__(self, place: Place, listener: Listener, library: NoiseLibrary | None) -> None:
        self._place = place
        self._listener = listener
        self._library = library
        self._clean: dict[Path, ScoredTakes] = {}

    def normals(
        self, indices: Sequence[int], noise_db: float | None, half: Literal["train", "test"]
    ) -> list[ScoredTakes]:
        return self._heard([self._place.normals[i] for i in indices], noise_db, half)

    def anomalies(self, indices: Sequence[int], noise_db: float | None) -> list[ScoredTakes]:
        return self._heard([self._place.anomalies[i] for i in indices], noise_db, "test")

    def _heard(
        self, clips: Sequence[Clip], noise_db: float | None, half: Literal["train", "test"]
    ) -> list[ScoredTakes]:
        if noise_db is None:
            for clip in clips:
                if clip.path not in self._clean:
                    self._clean[clip.path] = self._listener.hear(clip)
            heard = [self._clean[clip.path] for clip in clips]
        else:
            assert self._library is not None
            heard = [
                self._listener.hear_in_noise(clip, self._library, half=half, ratio_db=noise_db)
                for clip in clips
            ]
        return [clip for clip in heard if clip.takes[0]]


class FieldTrial:
    """One release in one place after another.

    Args:
        listener: hears with the release.
        library: room noise to mix in; None for none.
        reference_threshold: of the reference design's rule; None leaves that rule out.
        split: how a place's clips are dealt into halves.
        hours: of simulated time for each rule in each place.
        minutes: of calibration.
        seed: of all that is drawn.
    """

    def __init__(
        self,
        listener: Listener,
        library: NoiseLibrary | None,
        *,
        reference_threshold: float | None,
        split: Split,
        hours: float,
        minutes: float,
        seed: int,
    ) -> None:
        self._listener = listener
        self._library = library
        self.reference_threshold = reference_threshold
        self._split: Split = split
        self._hours = hours
        self._seed = seed
        manifest = listener.manifest
        self._manifest = manifest
        self._hop_seconds = manifest.hop_us / 1e6
        self._window_seconds = manifest.features.window_us / 1e6
        self._methods = (
            *([] if reference_threshold is None else [_Method("reference rule", reference=True)]),
            _Method("not calibrated"),
            _Method("calibrated 2 min", QUICK_MINUTES),
            _Method(f"calibrated {minutes:g} min", minutes),
            _Method("level, louder", minutes, "louder"),
            _Method("level, quieter", minutes, "quieter"),
        )

    def at(self, place: Place, progress: Progress) -> PlaceReport:
        """Calibrate in a place and monitor it, by every rule and in every noise."""
        sounds = _Sounds(place, self._listener, self._library)
        folds = _folds(place, self._split)
        everything = sounds.normals(range(len(place.normals)), None, "test")
        if len(everything) < len(place.normals):
            raise DataError(
                f"place {place.name}: expected clips of at least {self._window_seconds:g} s, got a"
                " shorter one"
            )
        calibrations: dict[tuple[float | None, _Method], list[list[CalibrationOutcome]]] = {}
        for noise_db in (None, *(() if self._library is None else NOISE_RATIOS_DB)):
            streams = [sounds.normals(fold.calibrate, noise_db, "train") for fold in folds]
            for method in self._methods:
                if method.minutes is not None and (noise_db is None or not method.is_level):
                    calibrations[noise_db, method] = [
                        self._calibrations(place, fold, clips, method)
                        for fold, clips in zip(folds, streams, strict=True)
                    ]
        conditions: list[tuple[float | None, list[bool]]] = [(None, [False])]
        if self._library is not None:
            conditions += [(ratio_db, [False, True]) for ratio_db in NOISE_RATIOS_DB]
        reports = []
        for noise_db, in_noise in progress(conditions, f"monitoring {place.name}"):
            heard = [
                (
                    sounds.normals(fold.monitor, noise_db, "test"),
                    sounds.anomalies(fold.faults, noise_db),
                )
                for fold in folds
            ]
            for calibrated_in_noise in in_noise:
                known = noise_db if calibrated_in_noise else None
                reports.append(
                    ConditionReport(
                        noise_db=noise_db,
                        calibrated_in_noise=calibrated_in_noise,
                        rules=tuple(
                            self._rule(
                                place, folds, heard, method, calibrations.get((known, method))
                            )
                            for method in self._methods
                            if method.is_told_in(noise_db, calibrated_in_noise)
                        ),
                    )
                )
        halves = [[everything[i] for i in fold.calibrate] for fold in folds]
        return PlaceReport(
            name=place.name,
            clips=(len(halves[0]), len(halves[1])),
            seconds=(self._seconds(halves[0]), self._seconds(halves[1])),
            fault_clips=len(place.anomalies),
            conditions=tuple(reports),
        )

    def _calibrations(
        self, place: Place, fold: _Fold, clips: Sequence[ScoredTakes], method: _Method
    ) -> list[CalibrationOutcome]:
        assert method.minutes is not None
        return [
            calibrate(
                self._manifest,
                stream(
                    clips,
                    self._rng(place, fold, index, "calibrate"),
                    hop_seconds=self._hop_seconds,
                ),
                minutes=method.minutes,
                view=method.view,
            )
            for index in range(_CALIBRATIONS // 2)
        ]

    def _rule(
        self,
        place: Place,
        folds: Sequence[_Fold],
        heard: Sequence[tuple[list[ScoredTakes], list[ScoredTakes]]],
        method: _Method,
        calibrations: list[list[CalibrationOutcome]] | None,
    ) -> RuleReport:
        tally = AlarmCounts()
        onsets: list[Onset] = []
        controls: list[Onset] = []
        windows = round(self._hours * 3600 / self._hop_seconds / _CALIBRATIONS)
        known = [] if calibrations is None else [each for fold in calibrations for each in fold]
        for fold, (normals, anomalies) in zip(folds, heard, strict=True):
            limits: list[Limits | None] = [None] * (_CALIBRATIONS // 2)
            if calibrations is not None:
                limits = [each.limits for each in calibrations[fold.number]]
            usable = [
                index
                for index, found in enumerate(limits)
                if calibrations is None or found is not None
            ]
            for index in usable:
                rng = self._rng(place, fold, index, "monitor")
                endless = stream(normals, rng, hop_seconds=self._hop_seconds)
                rule = self._new_rule(method, limits[index])
                monitor(rule, list(islice(endless, windows)), tally)
            for clips, found in ((anomalies, onsets), (normals, controls)):
                for number, clip in enumerate(_some(clips) if usable else ()):
                    rule = self._new_rule(method, limits[usable[number % len(usable)]])
                    rng = self._rng(place, fold, number, "fault")
                    found.append(self._onset(rule, normals, clip, rng))
        days = tally.windows * self._hop_seconds / _SECONDS_PER_DAY
        episodes_per_day, episodes_interval = _per_day(tally.episodes, days)
        alarms_per_day, alarms_interval = _per_day(tally.alarms, days)
        return RuleReport(
            rule=method.name,
            calibrations=len(known),
            armed=sum(each.limits is not None for each in known),
            refusals=dict(Counter(each.note for each in known if each.limits is None)),
            hours=days * 24,
            episodes=tally.episodes,
            alarms=tally.alarms,
            fast=tally.fast,
            episodes_per_day=episodes_per_day,
            episodes_interval=episodes_interval,
            alarms_per_day=alarms_per_day,
            alarms_interval=alarms_interval,
            ringing=tally.ringing / tally.windows if tally.windows else None,
            flagged=tally.flagged / tally.scored if tally.scored else None,
            faults=summed_up(onsets),
            control=summed_up(controls),
        )

    def _onset(
        self,
        rule: AlarmPolicy,
        normals: Sequence[ScoredTakes],
        clip: ScoredTakes,
        rng: np.random.Generator,
    ) -> Onset:
        lead_windows = round(rng.uniform(*_LEAD_SECONDS) / self._hop_seconds)
        before = stream(normals, rng, hop_seconds=self._hop_seconds)
        fault_windows = round(FAULT_SECONDS / self._hop_seconds)
        return hear_fault(
            rule,
            list(islice(before, lead_windows)),
            list(islice(repeated(clip, rng), fault_windows)),
            hop_seconds=self._hop_seconds,
            window_seconds=self._window_seconds,
        )

    def _new_rule(self, method: _Method, limits: Limits | None) -> AlarmPolicy:
        if method.reference:
            assert self.reference_threshold is not None
            return SingleWindow(self.reference_threshold)
        return NodePolicy(self._manifest, method.view, limits)

    def _seconds(self, clips: Sequence[ScoredTakes]) -> float:
        return sum(len(clip.takes[0]) for clip in clips) * self._hop_seconds

    def _rng(self, place: Place, fold: _Fold, index: int, what: str) -> np.random.Generator:
        # By name, so that all rules and all kinds of noise hear the same clips in the same order.
        words = f"{what} {place.name} {fold.number} {index}".encode()
        return np.random.default_rng([self._seed, *words])


def _folds(place: Place, split: Split) -> tuple[_Fold, _Fold]:
    every = range(len(place.normals))
    middle = (len(every) + 1) // 2
    first = every[::2] if split == "interleaved" else every[:middle]
    second = every[1::2] if split == "interleaved" else every[middle:]
    return (
        _Fold(0, tuple(first), tuple(second), _faults_for(place, second)),
        _Fold(1, tuple(second), tuple(first), _faults_for(place, first)),
    )


def _faults_for(place: Place, monitored: Sequence[int]) -> tuple[int, ...]:
    """A planted fault only where its original is monitored; others always."""
    originals = {str(place.normals[index].path) for index in monitored}
    return tuple(
        index
        for index, clip in enumerate(place.anomalies)
        if planted_in(clip) is None or original_of(clip) in originals
    )


def _some(clips: Sequence[ScoredTakes]) -> list[ScoredTakes]:
    count = min(len(clips), _MOST_STRETCHES)
    return [clips[index * len(clips) // count] for index in range(count)]


def _per_day(count: int, days: float) -> tuple[float | None, Interval | None]:
    if days == 0:
        return None, None
    low, high = poisson_interval(count)
    return count / days, (low / days, high / days)
