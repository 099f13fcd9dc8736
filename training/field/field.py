"""What a node would do with a release in the field, from recordings, in simulated time.

Held-out normal clips of each *place* (a session, or a domain where sessions are not named) are
dealt into two halves: one calibrates, the other is monitored, then the other way round. Both are
joined to long streams (`training.field.field_sound`) and heard by the node's own code: features,
models, calibration, limits, states, episodes. Beside it, on the same streams, stand the reference
design's rule, and the level in place of the detector. Then faults follow normal sound: one
anomalous clip, repeated for some minutes, since a block takes a minute; and as a control a normal
clip, repeated as long.

A calibration verifies on its own half, as on site it would on the sound that follows: refusals are
rarer than where the machine goes on to something new (`--split halves` keeps the halves apart).

What this cannot show: a day that is made of five minutes of sound is not a day. It has the alarms
that these minutes raise, however long it lasts, and the intervals count hours, not distinct sound.
"""

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Literal, NamedTuple, Protocol

import msgspec
import numpy as np

from contract import VERSION
from contract.messages import AlarmRule, CalibrationPhase, EpisodePhase, MachineState
from contract.release import Manifest
from node.machine.calibration import Plan
from node.machine.episodes import Episodes
from node.machine.limits import Limits
from node.machine.machine_watch import MachineWatch
from node.scoring.scorer import Evidence
from training.errors import DataError, DestinationError
from training.field.field_sound import HeardClip, HeardWindow, Listener, repeated, stream
from training.judge.evaluate import fingerprint
from training.judge.stream import poisson_interval
from training.judge.thresholds import percentile_threshold
from training.made.harden import original_of, planted_in
from training.made.room_noise import NoiseLibrary
from training.progress import Progress
from training.release.release_folder import METRICS_NAME
from training.sound.dataset import Clip, Dataset, find_dataset
from training.sound.recordings import Note
from training.staging import refuse_unwritable

Split = Literal["interleaved", "halves"]
Interval = tuple[float, float]

NOISE_RATIOS_DB = (10.0, 0.0)
QUICK_MINUTES = 2.0
FAULT_SECONDS = 600.0
# Two with each half; one alone would not show how much depends on the stretch that was heard.
_CALIBRATIONS = 4
# A half with a single clip would be that clip over and over.
_FEWEST_CLIPS = 4
# Normal sound before a fault: three blocks and a part of one, so that faults begin anywhere in it.
_LEAD_SECONDS = (180.0, 240.0)
# Of each kind and half; those left out are spread evenly, so that all sorts of fault stay.
_MOST_STRETCHES = 24
_SECONDS_PER_DAY = 86_400
_BOOT = "0" * 26
_ABNORMAL = (MachineState.WARNING, MachineState.ALARM)


class FieldRequest(msgspec.Struct, frozen=True, kw_only=True):
    """Which release to try on which recordings, and for how long."""

    release: Path
    data: Path
    machine: str | None
    channel: int | None
    noise: Path | None
    """Folder of noise by kind; see `training.made.room_noise`."""
    new_places: tuple[str, ...] = ()
    """Names of the files with which another place begins."""
    split: Split = "interleaved"
    hours: float
    minutes: float
    seed: int
    json: Path | None
    command: str


class Faults(msgspec.Struct, frozen=True, kw_only=True):
    """What a rule makes of stretches that begin after normal sound of the same place."""

    stretches: int
    ringing_before: int
    """Left out of all that follows: the normal sound before had raised a warning or an alarm."""
    warned: float | None
    """Share with a warning or an alarm; None if no stretch is left."""
    alarmed: float | None
    stopped: float | None
    """Share in which the node said that the machine has stopped."""
    warning_seconds: float | None
    """Median over all stretches that are left from the fault's first sample; None: never."""
    alarm_seconds: float | None
    alarm_seconds_p90: float | None


class RuleReport(msgspec.Struct, frozen=True, kw_only=True):
    """What one rule does in one place."""

    rule: str
    calibrations: int
    """That were tried; 0 of a rule that needs none."""
    armed: int
    refusals: dict[str, int]
    """How often for which reason."""
    hours: float
    """Monitored, over all calibrations that have armed."""
    episodes: int
    """Warnings and alarms that began; one that lasts is one."""
    alarms: int
    """Episodes that came to an alarm."""
    fast: int
    """Of these by the fast path."""
    episodes_per_day: float | None
    """None: no calibration has armed."""
    episodes_interval: Interval | None
    """Exact, 95 % (Garwood, 1936), as if they came independently; of hours, not distinct sound."""
    alarms_per_day: float | None
    alarms_interval: Interval | None
    ringing: float | None
    """Share of the time in warning or alarm."""
    flagged: float | None
    """Share of the single windows above the threshold in force."""
    faults: Faults | None
    """None where the place has no anomalous clips."""
    control: Faults | None
    """The same with single normal clips in place of faults."""


class ConditionReport(msgspec.Struct, frozen=True, kw_only=True):
    """All rules with the same noise."""

    noise_db: float | None
    """Machine to noise in each monitored clip; None: none is mixed in."""
    calibrated_in_noise: bool
    """Whether other recordings of the same kinds were heard while calibrating, too."""
    rules: tuple[RuleReport, ...]


class PlaceReport(msgspec.Struct, frozen=True, kw_only=True):
    """One place."""

    name: str
    clips: tuple[int, int]
    """Distinct normal clips of each half."""
    seconds: tuple[float, float]
    """Their sound, counted in hops."""
    fault_clips: int
    conditions: tuple[ConditionReport, ...]


class FieldReport(msgspec.Struct, frozen=True, kw_only=True):
    """All that recordings say about a release in the field."""

    schema: int = 1
    earshot: str = VERSION
    command: str
    release: str
    data: str
    hours: float
    minutes: float
    seed: int
    split: Split
    fault_seconds: float
    release_threshold: float
    reference_threshold: float | None
    """95th percentile of the statistic over the data's training clips; None if there are none."""
    warnings: tuple[str, ...]
    places: tuple[PlaceReport, ...]


def try_in_field(request: FieldRequest, *, note: Note, progress: Progress) -> FieldReport:
    """Let a release monitor recordings; write the JSON if it was asked for.

    Raises:
        EarshotError: release, recordings or destination do not let it.
    """
    Plan.of_minutes(request.minutes)
    dataset = find_dataset(request.data, request.machine)
    places = find_places(dataset, request.new_places)
    library = None if request.noise is None else NoiseLibrary(request.noise)
    listener = Listener(request.release, request.channel)
    if request.json is not None:
        refuse_unwritable(request.json)
    warnings = _trained_on(request.release, places)
    for text in warnings:
        note(text)
    trial = _Trial(
        listener,
        library,
        reference_threshold=_reference_threshold(listener, dataset.train, progress),
        request=request,
    )
    report = FieldReport(
        command=request.command,
        release=listener.manifest.label,
        data=request.data.resolve().name[:200],
        hours=request.hours,
        minutes=request.minutes,
        seed=request.seed,
        split=request.split,
        fault_seconds=FAULT_SECONDS,
        release_threshold=listener.manifest.threshold.value,
        reference_threshold=trial.reference_threshold,
        warnings=tuple(warnings),
        places=tuple(trial.place(place, progress) for place in places),
    )
    if request.json is not None:
        _write_json(report, request.json)
    return report


class Place(msgspec.Struct, frozen=True, kw_only=True):
    """Where normal sound is of one kind, as far as names tell."""

    name: str
    normals: tuple[Clip, ...]
    """Held out, in order of name."""
    anomalies: tuple[Clip, ...]


def find_places(dataset: Dataset, new_places: Sequence[str] = ()) -> list[Place]:
    """The places of a data set's test clips.

    A session is a place; where all are too small, or names do not tell, a section's domain is. In
    hard data sets a planted fault belongs to the place of its original. Other anomalies belong to
    the session of their name or, if it has no normal clips, to all places of their domain.

    Args:
        dataset: with labelled test clips.
        new_places: names of normal files with which another place begins, in order of name.

    Raises:
        DataError: no place has enough normal clips, or there is no such file.
    """
    normals = [clip for clip in dataset.test if clip.label == "normal"]
    unknown = set(new_places) - {clip.path.name for clip in normals}
    if unknown:
        raise DataError(f"{dataset.folder}: no normal test clip is called {min(unknown)}")
    sessions = _grouped(normals, new_places, by_session=True)
    large = {name: clips for name, clips in sessions.items() if len(clips) >= _FEWEST_CLIPS}
    if not large:
        by_domain = _grouped(normals, new_places, by_session=False)
        large = {name: clips for name, clips in by_domain.items() if len(clips) >= _FEWEST_CLIPS}
    if not large:
        raise DataError(
            f"{dataset.folder}: expected at least {_FEWEST_CLIPS} normal test clips of one session"
            f" or domain, got {max(map(len, sessions.values()), default=0)}"
        )
    anomalies = [clip for clip in dataset.test if clip.label == "anomaly"]
    heard = {clip.session for clip in normals}
    return [
        Place(
            name=name,
            normals=tuple(clips),
            anomalies=tuple(clip for clip in anomalies if _belongs(clip, clips, heard)),
        )
        for name, clips in large.items()
    ]


def _grouped(
    clips: Sequence[Clip], new_places: Sequence[str], *, by_session: bool
) -> dict[str, list[Clip]]:
    groups: dict[str, list[Clip]] = {}
    parts: Counter[str] = Counter()
    for clip in clips:
        name = f"{clip.section}/{clip.domain}"
        if by_session and clip.session is not None:
            name = f"{name} {clip.session.removeprefix(name + '/')}"
        # The first part keeps the plain name.
        parts[name] += clip.path.name in new_places and name in groups
        groups.setdefault(f"{name} part {parts[name] + 1}" if parts[name] else name, []).append(
            clip
        )
    return groups


def _belongs(anomaly: Clip, normals: Sequence[Clip], heard: set[str | None]) -> bool:
    if planted_in(anomaly) is not None:
        return original_of(anomaly) in {str(clip.path) for clip in normals}
    first = normals[0]
    if (anomaly.section, anomaly.domain) != (first.section, first.domain):
        return False
    return anomaly.session not in heard or any(clip.session == anomaly.session for clip in normals)


class Judged(NamedTuple):
    """What a rule makes of one window."""

    state: MachineState
    rule: AlarmRule
    flagged: bool | None
    """Whether the window alone is above the threshold; None if it was not scored."""


class Rule(Protocol):
    """Hears windows one after another."""

    def hear(self, window: HeardWindow) -> Judged: ...


class SingleWindow:
    """The reference design's rule: a window above the threshold is the alarm."""

    def __init__(self, threshold: float) -> None:
        self._threshold = threshold

    def hear(self, window: HeardWindow) -> Judged:
        """Judge one window by itself."""
        flagged = window.statistic is not None and window.statistic > self._threshold
        return Judged(
            MachineState.ALARM if flagged else MachineState.NORMAL, AlarmRule.VOTE, flagged
        )


class Node:
    """The node's own judgement.

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

    def hear(self, window: HeardWindow) -> Judged:
        """Judge the next window."""
        evidence = _evidence(window, self._view)
        judgement = self.watch.hear(evidence, level_dbfs=window.level_dbfs)
        return Judged(judgement.state, self.watch.rule, judgement.anomaly)


View = Literal["detector", "louder", "quieter"]
"""What stands in the place of the error: the power of the window, or its inverse."""


def _viewed(manifest: Manifest, view: View) -> Manifest:
    if view == "detector":
        return manifest
    return msgspec.structs.replace(manifest, statistic="error", models=manifest.models[:1])


def _evidence(window: HeardWindow, view: View) -> Evidence | None:
    evidence = window.evidence
    if evidence is None or view == "detector":
        return evidence
    power = 10.0 ** ((window.level_dbfs if view == "louder" else -window.level_dbfs) / 10)
    # Without a residual there is no centre to take off.
    return Evidence(evidence.features, (_NO_RESIDUAL,), (power,))


_NO_RESIDUAL = np.zeros(1, np.float32)


class Calibration(msgspec.Struct, frozen=True):
    """How a calibration in simulated time has ended."""

    limits: Limits | None
    note: str


def calibrate(
    manifest: Manifest, windows: Iterator[HeardWindow], *, minutes: float, view: View = "detector"
) -> Calibration:
    """Let the node calibrate on a stream: settle, listen, verify."""
    node = Node(manifest, view)
    node.watch.calibrate(minutes)
    while node.watch.is_calibrating:
        node.hear(next(windows))
    armed = node.watch.phase is CalibrationPhase.ARMED
    return Calibration(node.watch.limits if armed else None, node.watch.note or "")


class Tally(msgspec.Struct):
    """What a rule did with normal sound."""

    windows: int = 0
    ringing: int = 0
    scored: int = 0
    flagged: int = 0
    episodes: int = 0
    alarms: int = 0
    fast: int = 0


def monitor(rule: Rule, windows: Sequence[HeardWindow], tally: Tally) -> None:
    """Hear normal sound, and add up what it rings for."""
    episodes = Episodes(_BOOT)
    alarmed = False
    for seq, window in enumerate(windows):
        judged = rule.hear(window)
        tally.windows += 1
        tally.ringing += judged.state in _ABNORMAL
        tally.scored += judged.flagged is not None
        tally.flagged += judged.flagged is True
        phase = episodes.hear(seq=seq, end_us=seq, state=judged.state, rule=judged.rule, score=None)
        if phase is EpisodePhase.OPENED:
            tally.episodes += 1
            alarmed = False
        if judged.state is MachineState.ALARM and not alarmed:
            alarmed = True
            tally.alarms += 1
            tally.fast += judged.rule is AlarmRule.FAST
        if phase is EpisodePhase.CLOSED:
            episodes.forget()


class Onset(NamedTuple):
    """What came of one stretch; seconds since the fault began, infinite for never."""

    ringing_before: bool
    warning_seconds: float
    alarm_seconds: float
    stopped: bool


def hear_fault(
    rule: Rule,
    before: Sequence[HeardWindow],
    fault: Sequence[HeardWindow],
    *,
    hop_seconds: float,
    window_seconds: float,
) -> Onset:
    """Hear normal sound, then a fault, up to the alarm.

    The first window of the fault ends `window_seconds` after it began, each further one a hop
    later. A node also scores the windows across the join, and may be sooner by that.
    """
    state = MachineState.UNKNOWN
    for window in before:
        state = rule.hear(window).state
    if state in _ABNORMAL:
        return Onset(True, math.inf, math.inf, stopped=False)
    warning, stopped = math.inf, False
    for index, window in enumerate(fault):
        state = rule.hear(window).state
        seconds = window_seconds + index * hop_seconds
        if state in _ABNORMAL:
            warning = min(warning, seconds)
        if state is MachineState.ALARM:
            return Onset(False, warning, seconds, stopped)
        stopped = stopped or state is MachineState.STOPPED
    return Onset(False, warning, math.inf, stopped)


def summed_up(onsets: Sequence[Onset]) -> Faults | None:
    """Shares and quantiles of several stretches; None of none."""
    if not onsets:
        return None
    quiet = [onset for onset in onsets if not onset.ringing_before]
    warnings = [onset.warning_seconds for onset in quiet]
    alarms = [onset.alarm_seconds for onset in quiet]
    return Faults(
        stretches=len(onsets),
        ringing_before=len(onsets) - len(quiet),
        warned=_share(map(math.isfinite, warnings)),
        alarmed=_share(map(math.isfinite, alarms)),
        stopped=_share(onset.stopped for onset in quiet),
        warning_seconds=_reached(warnings, 0.5),
        alarm_seconds=_reached(alarms, 0.5),
        alarm_seconds_p90=_reached(alarms, 0.9),
    )


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
        self._clean: dict[Path, HeardClip] = {}

    def normals(
        self, indices: Sequence[int], noise_db: float | None, half: Literal["train", "test"]
    ) -> list[HeardClip]:
        return self._heard([self._place.normals[i] for i in indices], noise_db, half)

    def anomalies(self, indices: Sequence[int], noise_db: float | None) -> list[HeardClip]:
        return self._heard([self._place.anomalies[i] for i in indices], noise_db, "test")

    def _heard(
        self, clips: Sequence[Clip], noise_db: float | None, half: Literal["train", "test"]
    ) -> list[HeardClip]:
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


class _Trial:
    """One release in one place after another."""

    def __init__(
        self,
        listener: Listener,
        library: NoiseLibrary | None,
        *,
        reference_threshold: float | None,
        request: FieldRequest,
    ) -> None:
        self._listener = listener
        self._library = library
        self.reference_threshold = reference_threshold
        self._request = request
        manifest = listener.manifest
        self._manifest = manifest
        self._hop_seconds = manifest.hop_us / 1e6
        self._window_seconds = manifest.features.window_us / 1e6
        minutes = request.minutes
        self._methods = (
            *([] if reference_threshold is None else [_Method("reference rule", reference=True)]),
            _Method("not calibrated"),
            _Method("calibrated 2 min", QUICK_MINUTES),
            _Method(f"calibrated {minutes:g} min", minutes),
            _Method("level, louder", minutes, "louder"),
            _Method("level, quieter", minutes, "quieter"),
        )

    def place(self, place: Place, progress: Progress) -> PlaceReport:
        sounds = _Sounds(place, self._listener, self._library)
        folds = _folds(place, self._request.split)
        everything = sounds.normals(range(len(place.normals)), None, "test")
        if len(everything) < len(place.normals):
            raise DataError(
                f"place {place.name}: expected clips of at least {self._window_seconds:g} s, got a"
                " shorter one"
            )
        calibrations: dict[tuple[float | None, _Method], list[list[Calibration]]] = {}
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
        self, place: Place, fold: _Fold, clips: Sequence[HeardClip], method: _Method
    ) -> list[Calibration]:
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
        heard: Sequence[tuple[list[HeardClip], list[HeardClip]]],
        method: _Method,
        calibrations: list[list[Calibration]] | None,
    ) -> RuleReport:
        tally = Tally()
        onsets: list[Onset] = []
        controls: list[Onset] = []
        windows = round(self._request.hours * 3600 / self._hop_seconds / _CALIBRATIONS)
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
        rule: Rule,
        normals: Sequence[HeardClip],
        clip: HeardClip,
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

    def _new_rule(self, method: _Method, limits: Limits | None) -> Rule:
        if method.reference:
            assert self.reference_threshold is not None
            return SingleWindow(self.reference_threshold)
        return Node(self._manifest, method.view, limits)

    def _seconds(self, clips: Sequence[HeardClip]) -> float:
        return sum(len(clip.takes[0]) for clip in clips) * self._hop_seconds

    def _rng(self, place: Place, fold: _Fold, index: int, what: str) -> np.random.Generator:
        # By name, so that all rules and all kinds of noise hear the same clips in the same order.
        words = f"{what} {place.name} {fold.number} {index}".encode()
        return np.random.default_rng([self._request.seed, *words])


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


def _some(clips: Sequence[HeardClip]) -> list[HeardClip]:
    count = min(len(clips), _MOST_STRETCHES)
    return [clips[index * len(clips) // count] for index in range(count)]


def _per_day(count: int, days: float) -> tuple[float | None, Interval | None]:
    if days == 0:
        return None, None
    low, high = poisson_interval(count)
    return count / days, (low / days, high / days)


def _share(found: Iterable[bool]) -> float | None:
    every = list(found)
    return sum(every) / len(every) if every else None


def _reached(seconds: Sequence[float], share: float) -> float | None:
    """The shortest time within which at least this share is reached; None: never."""
    if not seconds:
        return None
    found = float(np.quantile(seconds, share, method="inverted_cdf"))
    return found if math.isfinite(found) else None


def _reference_threshold(
    listener: Listener, train: Sequence[Clip], progress: Progress
) -> float | None:
    statistics = [
        window.statistic
        for clip in progress(train, "training clips")
        for window in listener.hear(clip).takes[0]
        if window.statistic is not None
    ]
    return percentile_threshold(np.array(statistics)).value if statistics else None


class _Metrics(msgspec.Struct):
    """What is taken from the `metrics.json` beside a release."""

    trained_on: tuple[str, ...] = ()


def _trained_on(release: Path, places: Sequence[Place]) -> list[str]:
    path = release / METRICS_NAME
    if not path.exists():
        return []
    try:
        known = set(msgspec.json.decode(path.read_bytes(), type=_Metrics).trained_on)
    except (OSError, msgspec.MsgspecError) as error:
        raise DataError(f"{path}: expected what `training train` wrote: {error}") from error
    clips = [clip for place in places for clip in place.normals]
    heard = [clip.path.name for clip in clips if known and fingerprint(clip.path) in known]
    if not heard:
        return []
    return [
        f"{len(heard)} of {len(clips)} normal clips were in the release's training, such as"
        f" {heard[0]}: the figures are too good"
    ]


def _write_json(report: FieldReport, path: Path) -> None:
    try:
        path.write_bytes(msgspec.json.format(msgspec.json.encode(report), indent=1) + b"\n")
    except OSError as error:
        raise DestinationError(f"{path}: cannot be written: {error.strerror}") from error
