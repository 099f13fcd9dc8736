"""The node's day: sound in, windows judged, every one handed to the publisher.

    ear (source -> scorer -> machine watch) -> publisher (outbox -> MQTT)
    updater (orders -> releases on the disk) -> ear

This thread hears and judges; the publisher's thread talks to the broker, and on a node that takes
updates the updater's thread fetches and tests them. Between them lie mailboxes, so that neither a
slow network nor a slow disk makes the node deaf.
"""

import logging
import os
import platform
import threading
import time
from collections import deque
from functools import partial
from typing import TYPE_CHECKING, Literal

import msgspec
import numpy as np

from contract import VERSION
from contract.errors import EarshotError, ReleaseError
from contract.messages import (
    Birth,
    CalibrationPhase,
    Clock,
    EpisodePhase,
    Event,
    Health,
    MachineState,
    MicrophoneState,
    Result,
    State,
    Window,
)
from contract.topics import TAKES_UPDATES, VERBS
from node.board import board_name, operating_system, read_board
from node.delivery.clock import Settled, WindowClock, new_boot_id
from node.delivery.outbox import Outbox
from node.delivery.outbox_file import OutboxFile
from node.delivery.outbox_rules import OutboxRules
from node.delivery.publisher import Answer, Asked, Publisher
from node.ear import Ear, HeardWindow
from node.machine.episodes import Episodes
from node.machine.site import keep_outcome, known_machine, obey
from node.machine.site_store import (
    CalibrationAnswer,
    CalibrationRequest,
    CalibrationStatus,
    SiteStore,
)
from node.notify import Notifier
from node.scoring.release_store import Release
from node.scoring.runtime import Runtime
from node.scoring.scorer import Scorer
from node.settings import NodeSettings
from node.sound.errors import SourceError
from node.sound.source import AudioSource, EndOfSound
from node.updates.slots import STATE_NAME
from node.updates.tasks import GoBy, RunNow

if TYPE_CHECKING:
    from node.updates.live import LiveUpdates

logger = logging.getLogger(__name__)

_OUTBOX = "outbox.db"
# How long a read may wait before the loop looks after health and signals.
_READ_SECONDS = 0.5
# The last minutes' latencies, for the percentiles in `health`.
_LATENCIES_KEPT = 300
# A state is retained and stored: how far a calibration is needs no message for each window.
_PROGRESS_STEPS = 20


class UndeliveredError(EarshotError):
    """The node ended with windows that nobody has taken, and that could not be saved."""


class Totals(msgspec.Struct, frozen=True, kw_only=True):
    """What one run came to."""

    windows: int
    flagged: int
    unscored: int
    discarded: int


def run(
    settings: NodeSettings,
    source: AudioSource,
    release: Release,
    runtime: Runtime,
    stop: threading.Event,
    *,
    clock: WindowClock | None = None,
) -> Totals:
    """Hear, judge and publish until the source ends or `stop` is set.

    Args:
        settings: of the node.
        source: of the sound.
        release: to score with, unless an update has brought another.
        runtime: inference library.
        stop: ends it.
        clock: gives windows their time; None is the system's.

    Raises:
        StateFolderError: another node uses the state folder.
        SourceError: the sound cannot be had, and time will not help.
        ReleaseError: the release does not run here.
        ConnectionRefusedByBrokerError: the broker said no before it ever said yes.
        UndeliveredError: windows are left that nobody has taken, and the disk cannot be written.
    """
    store = SiteStore(settings.state_folder, required=False)
    clock = clock or WindowClock()
    with store.locked(), source:
        updates = None
        if settings.update.keys_file is not None:
            # Only here: a node that takes no updates is spared 12 MB of cryptography.
            from node.updates.live import LiveUpdates

            updates = LiveUpdates(settings, runtime, now_us=clock.now_us)
            scorer = _first_that_runs(updates, runtime, threads=settings.model.threads)
        else:
            if (settings.state_folder / STATE_NAME).exists():
                logger.warning(
                    "no [update] keys_file: what updates have brought is not run, %s is",
                    release.manifest.label,
                )
            scorer = Scorer(release, runtime, threads=settings.model.threads)
        node = _Node(settings, source, scorer, runtime, store, clock=clock, updates=updates)
        node.hear_until(stop)
    return node.totals


def _first_that_runs(updates: "LiveUpdates", runtime: Runtime, *, threads: int) -> Scorer:
    """Of the releases here: a node must hear, whatever was sent to it, or became of its library.

    Raises:
        ReleaseError: none runs.
    """
    while True:
        try:
            return Scorer(updates.release, runtime, threads=threads)
        except ReleaseError as error:
            updates.cannot_run(error)


class _Told(msgspec.Struct, frozen=True):
    """What the last `state` said."""

    model: str
    machine: MachineState
    microphone: MicrophoneState
    microphone_note: str | None
    calibration: CalibrationPhase
    calibration_step: int
    calibration_note: str | None
    threshold: float


class _Node:
    """The parts of one run, and what they add up to."""

    def __init__(
        self,
        settings: NodeSettings,
        source: AudioSource,
        scorer: Scorer,
        runtime: Runtime,
        store: SiteStore,
        *,
        clock: WindowClock,
        updates: "LiveUpdates | None",
    ) -> None:
        manifest = scorer.manifest
        self._settings = settings
        self._source = source
        self._scorer = scorer
        self._runtime = runtime
        self._store = store
        episode = store.episode()
        self._watch = known_machine(
            settings,
            scorer,
            store,
            state=MachineState.UNKNOWN if episode is None else episode.state,
            override=None if updates is None else updates.threshold,
        )
        self._updates = updates
        self._ear = Ear(source, scorer, self._watch)
        self._notifier = Notifier.from_environment(os.environ)
        self._clock = clock
        self._calibration: CalibrationRequest | None = None
        """What has asked for the calibration that is under way."""
        self._told: _Told | None = None
        self._source_told = (source.identity, source.sample_rate_hz)
        self._boot = new_boot_id(time.time_ns() // 1_000_000, os.urandom(10))
        self._episodes = Episodes(self._boot, episode)
        self._started = time.monotonic()
        self._health_due = self._started + settings.health.interval_seconds
        self._outbox = Outbox(
            self._boot,
            node=settings.node.id,
            hop_seconds=manifest.hop_us / 1e6,
            file=OutboxFile(settings.state_folder / _OUTBOX),
            rules=_rules(settings),
            now=self._started,
        )
        clock.begin(above_us=self._floor_us(), wait_seconds=settings.clock_wait_seconds)
        self._publisher = Publisher(
            settings.mqtt,
            self._outbox,
            self._birth,
            node=settings.node.id,
            boot=self._boot,
            now_us=self._clock.now_us,
            synced_us=self._clock.synced_us,
            waits_for_clock=clock.waits,
            orders=() if updates is None else updates.orders,
            updates=None if updates is None else updates.happened,
        )
        self._latencies_ms: deque[float] = deque(maxlen=_LATENCIES_KEPT)
        self._last: HeardWindow | None = None
        self._windows = 0
        self._flagged = 0
        self._unscored = 0

    @property
    def totals(self) -> Totals:
        return Totals(
            windows=self._windows,
            flagged=self._flagged,
            unscored=self._unscored,
            discarded=self._outbox.discarded,
        )

    def hear_until(self, stop: threading.Event) -> None:
        logger.info(
            "%s hears %s with %s in %s %s; boot %s",
            self._settings.node.id,
            self._source.identity,
            self._scorer.manifest.label,
            self._runtime.name,
            self._runtime.version,
            self._boot,
        )
        logger.info("limits: %s; %s", self._watch.threshold_source, self._watch.note or "as given")
        if self._updates is not None:
            self._updates.begin(
                self._ear, boot=self._boot, broker=self._publisher, tell=self._publisher.give
            )
        self._publisher.start()
        self._notifier.ready("hearing")
        well = False
        try:
            self._go_on_calibrating()
            while not stop.is_set():
                self._check_publisher()
                self._obey()
                self._follow_updates()
                self._hear_once()
                self._go_by(self._clock.settle())
                self._look_after_health()
            well = True
        except EndOfSound:
            for heard in self._ear.finish():
                self._take(heard)
            well = True
            logger.info("the sound has ended after %d windows", self._windows)
            if not self._windows:
                raise SourceError(
                    "no_sound", f"{self._source.identity}: ended before the first window was full"
                ) from None
        except SourceError as error:
            # No release has brought that about.
            well = True
            # Nobody hears the machine any more: "normal" must not be what late joiners read.
            self._ear.microphone.gone(str(error)[:200])
            self._tell_state(MachineState.UNKNOWN)
            raise
        finally:
            self._notifier.stopping()
            if self._updates is not None:
                self._updates.stop(well=well)
            self._go_by(self._clock.settle(at_once=True))
            # The last word on how many windows there were, for whoever counts what is stored.
            self._tell_health(time.monotonic())
            if self._outbox.held:
                logger.info(
                    "%d windows are not known to be stored yet; waiting for %g s (Ctrl-C ends"
                    " that)",
                    self._outbox.held,
                    self._settings.outbox.drain_seconds,
                )
            left = self._publisher.stop(drain_seconds=self._settings.outbox.drain_seconds)
            if left.saved:
                logger.info("%d windows wait on the disk for the next start", left.saved)
            if left.lost:
                # Said here, too: whatever else ends the node would be raised in its place.
                logger.error("%d of %d windows were not delivered", left.lost, self._windows)
        self._check_publisher()
        if left.lost:
            raise UndeliveredError(
                f"{left.lost} of {self._windows} windows were not delivered to"
                f" {self._settings.mqtt.address} within {self._settings.outbox.drain_seconds:g} s,"
                f" could not be saved in {self._settings.state_folder}, and are lost; is the broker"
                " up, and does a collector subscribe?"
            )

    def _floor_us(self) -> int | None:
        """Simulated time has no before."""
        return None if self._settings.source.fast else self._outbox.last_start_us

    def _go_by(self, settled: Settled | None) -> None:
        """The clock is right now, or has had its time: what waited for it goes out."""
        if settled is None:
            return
        self._publisher.give(settled)
        episode = self._episodes.open
        if episode is not None and episode.opened_us in settled.ends_us:
            self._episodes.restamp(settled.ends_us)
            self._store.keep_episode(self._episodes.open)

    def _hear_once(self) -> None:
        if self._settings.source.fast and self._is_ahead_of_broker():
            time.sleep(0.01)
            return
        for heard in self._ear.hear(_READ_SECONDS):
            self._take(heard)
        source = (self._source.identity, self._source.sample_rate_hz)
        if source != self._source_told:
            # A microphone that was not there at boot, or another rate after it came back.
            self._source_told = source
            self._publisher.give(self._birth())

    def _is_ahead_of_broker(self) -> bool:
        """Sound that can wait is not read while windows pile up: then none has to be given up."""
        return self._publisher.backlog >= self._settings.outbox.max_windows // 2

    def _take(self, heard: HeardWindow) -> None:
        """Number a window and hand it over; then say what has changed with it."""
        seq, self._windows = self._windows, self._windows + 1
        self._last = heard
        judgement = heard.judgement
        if heard.latency_ms is not None:
            self._latencies_ms.append(heard.latency_ms)
        self._flagged += judgement.anomaly is True
        self._unscored += judgement.anomaly is None
        manifest = self._scorer.manifest
        duration_us = manifest.features.window_us
        stamp = self._clock.stamp(seq, heard.start_monotonic_ns, duration_us)
        window = Window(
            node=self._settings.node.id,
            boot=self._boot,
            seq=seq,
            start_us=stamp.start_us,
            duration_us=duration_us,
            mse=heard.mse,
            statistic=judgement.statistic,
            threshold=heard.threshold,
            score=judgement.score,
            anomaly=judgement.anomaly,
            state=judgement.state,
            problem=heard.problem,
            model=manifest.label,
            level_dbfs=None if heard.level_dbfs is None else round(heard.level_dbfs, 2),
            clipped=round(heard.clipped, 6),
            overruns=self._source.overruns,
            clock=Clock.SIMULATED if self._settings.source.fast else stamp.clock,
            latency_ms=None if heard.latency_ms is None else round(heard.latency_ms, 3),
        )
        self._publisher.give(window)
        self._follow_episode(window, heard)
        self._follow_calibration()
        self._tell_state(judgement.state)
        if self._updates is not None:
            self._updates.heard(flagged=judgement.anomaly, confirmed=self._publisher.confirmed)
        # By windows alone, scored or accounted for: a loop that has stopped hearing feeds nothing.
        self._notifier.alive()

    def _follow_episode(self, window: Window, heard: HeardWindow) -> None:
        episodes = self._episodes
        end_us = window.start_us + window.duration_us
        phase = episodes.hear(
            seq=window.seq,
            end_us=end_us,
            state=window.state,
            rule=self._watch.rule,
            score=window.score,
        )
        if phase is None:
            return
        if phase is not EpisodePhase.CLOSED and heard.evidence is not None:
            episodes.note_bands(
                self._watch.strongest_bands_hz(heard.evidence, self._scorer.detector)
            )
        episode = episodes.open
        assert episode is not None
        if phase is EpisodePhase.CLOSED:
            episodes.forget()
        # First kept, then told: whoever heard it open hears it close, whatever happens to us now.
        self._store.keep_episode(episodes.open)
        self._publisher.give(
            Event(
                node=self._settings.node.id,
                boot=self._boot,
                at_us=end_us,
                episode_id=episode.id,
                phase=phase,
                state=window.state,
                opened_us=episode.opened_us,
                rule=episode.rule,
                peak_score=episode.peak_score,
                windows=episode.windows,
                bands_hz=episode.bands_hz,
                model=window.model,
            )
        )
        logger.log(
            logging.INFO if phase is EpisodePhase.CLOSED else logging.WARNING,
            "episode %s %s: %s by the %s rule, peak %.2f of the threshold, strongest at %s Hz",
            episode.id,
            phase,
            window.state,
            episode.rule,
            episode.peak_score,
            ", ".join(f"{hz:.0f}" for hz in episode.bands_hz) or "?",
        )

    def _obey(self) -> None:
        """What a person asks for on this computer, and what comes over the network."""
        request = self._store.take_request()
        if request is not None:
            done, note = self._do(request)
            logger.info("calibration, asked for here: %s", note)
            self._store.keep_answer(CalibrationAnswer(asked_us=request.at_us, done=done, note=note))
        # One at a time: between two of them sound is heard.
        if not self._publisher.asked.empty():
            self._answer(self._publisher.asked.get())

    def _follow_updates(self) -> None:
        if self._updates is None:
            return
        for task in self._updates.tasks():
            if isinstance(task, GoBy):
                self._watch.override(task.threshold)
                self._tell_state(self._machine)
            else:
                self._run_now(task)

    def _run_now(self, task: RunNow) -> None:
        """Go over to another release between two windows."""
        assert self._updates is not None
        was_calibrated = self._watch.site_limits is not None
        state = self._machine
        try:
            trial = self._updates.loaded(task)
        except ReleaseError as error:
            # Going back, to one that ran once. The next start finds another, this one goes on.
            logger.error("%s; what runs goes on until the node is started again", error)
            return
        logger.info("%s runs from now on: %s", trial.scorer.manifest.label, task.why)
        self._scorer = trial.scorer
        self._watch = known_machine(
            self._settings, trial.scorer, self._store, state=state, override=task.threshold
        )
        self._ear.switch(trial.scorer, self._watch, trial.framer)
        self._outbox.hop_seconds = trial.scorer.manifest.hop_us / 1e6
        self._publisher.give(self._birth())
        self._calibrate_anew(was_calibrated=was_calibrated, state=state)
        self._tell_state(self._machine)

    @property
    def _machine(self) -> MachineState:
        """As it was told last."""
        return MachineState.UNKNOWN if self._told is None else self._told.machine

    def _calibrate_anew(self, *, was_calibrated: bool, state: MachineState) -> None:
        """The limits of before are of another model, and its threshold knows nothing of here."""
        if self._watch.site_limits is not None:
            # Those of an earlier time with this release; what was begun for the other one is over.
            self._calibration = None
            self._store.keep_pending(None)
            return
        if self._calibration is None and was_calibrated and self._settings.update.recalibrate:
            if state in (MachineState.WARNING, MachineState.ALARM):
                logger.warning("not calibrated anew: the machine is in %s", state)
                return
            self._store.keep_pending(
                CalibrationRequest(action="start", minutes=None, at_us=self._clock.now_us())
            )
        self._go_on_calibrating()

    def _answer(self, asked: Asked) -> None:
        if asked.verb == "calibrate":
            minutes = asked.command.minutes
            action: Literal["start", "cancel"] = "cancel" if minutes == 0 else "start"
            done, note = self._do(
                CalibrationRequest(action=action, minutes=minutes, at_us=asked.command.at_us)
            )
        elif self._updates is not None:
            self._updates.roll_back(asked)
            return
        else:
            done, note = False, "this node takes no updates: [update] keys_file is not set"
        logger.info("%s, asked for over the network: %s", asked.verb, note)
        self._publisher.give(
            Answer(
                Result(
                    node=self._settings.node.id,
                    boot=self._boot,
                    at_us=self._clock.now_us(),
                    verb=asked.verb,
                    done=done,
                    note=note[:200],
                ),
                asked.correlation,
            )
        )

    def _do(self, request: CalibrationRequest) -> tuple[bool, str]:
        """Carry out a request; gives whether that was possible, and what to say of it."""
        done, note = obey(self._watch, self._store, request)
        # A request that was refused changes nothing about the one that is under way.
        if done:
            self._calibration = request if self._watch.is_calibrating else None
            self._store.keep_pending(self._calibration)
            self._keep_status(request.at_us)
        return done, note

    def _go_on_calibrating(self) -> None:
        """A calibration that the last run did not end begins anew: its sound is not kept."""
        pending = self._store.pending()
        if pending is not None:
            done, note = self._do(pending)
            logger.info("calibration, begun before the restart: %s", note)
            if not done:
                self._store.keep_pending(None)

    def _follow_calibration(self) -> None:
        request = self._calibration
        if request is None:
            return
        if not self._watch.is_calibrating:
            self._calibration = None
            keep_outcome(self._watch, self._store, self._scorer, made_us=self._clock.now_us())
            self._store.keep_pending(None)
            logger.info("calibration %s: %s", self._watch.phase, self._watch.note)
        self._keep_status(request.at_us)

    def _keep_status(self, asked_us: int) -> None:
        self._store.keep_status(
            CalibrationStatus(asked_us=asked_us, phase=self._watch.phase, note=self._watch.note)
        )

    def _tell_state(self, machine: MachineState) -> None:
        watch, microphone = self._watch, self._ear.microphone
        told = _Told(
            model=self._scorer.manifest.label,
            machine=machine,
            microphone=microphone.state,
            microphone_note=microphone.note,
            calibration=watch.phase,
            calibration_step=int(watch.progress * _PROGRESS_STEPS),
            calibration_note=watch.note,
            threshold=watch.threshold,
        )
        if told == self._told:
            return
        self._told = told
        limits = watch.limits
        self._publisher.give(
            State(
                node=self._settings.node.id,
                boot=self._boot,
                at_us=self._clock.now_us(),
                machine=machine,
                microphone=microphone.state,
                model=told.model,
                threshold=watch.threshold,
                threshold_source=watch.threshold_source,
                microphone_note=_bounded(microphone.note),
                calibration=watch.phase,
                calibration_progress=told.calibration_step / _PROGRESS_STEPS,
                calibration_blocks=0 if limits is None else limits.blocks,
                calibration_note=_bounded(watch.note),
            )
        )
        self._notifier.status(f"machine {machine}, microphone {microphone.state}")

    def _look_after_health(self) -> None:
        now = time.monotonic()
        if now >= self._health_due:
            self._health_due = now + self._settings.health.interval_seconds
            self._tell_health(now)

    def _tell_health(self, now: float) -> None:
        p50, p95 = self._latency_percentiles_ms()
        board = read_board()
        level_dbfs = None if self._last is None else self._last.level_dbfs
        if level_dbfs is not None:
            level_dbfs = round(level_dbfs, 2)
        health = partial(
            Health,
            node=self._settings.node.id,
            boot=self._boot,
            at_us=self._clock.now_us(),
            uptime_s=round(now - self._started, 3),
            windows=self._windows,
            reconnects=max(0, self._publisher.connections - 1),
            overruns=self._source.overruns,
            microphone=self._ear.microphone.state,
            reopened=self._source.reopened,
            level_dbfs=level_dbfs,
            clipped=0.0 if self._last is None else round(self._last.clipped, 6),
            latency_p50_ms=p50,
            latency_p95_ms=p95,
            clock=Clock.SIMULATED if self._settings.source.fast else self._clock.state,
            **msgspec.structs.asdict(board),
        )
        self._publisher.give_health(lambda outbox: health(**msgspec.structs.asdict(outbox)))

    def _latency_percentiles_ms(self) -> tuple[float | None, float | None]:
        if not self._latencies_ms:
            return None, None
        p50, p95 = np.percentile(list(self._latencies_ms), (50, 95))
        return round(float(p50), 3), round(float(p95), 3)

    def _birth(self) -> Birth:
        manifest = self._scorer.manifest
        return Birth(
            node=self._settings.node.id,
            boot=self._boot,
            at_us=self._clock.now_us(),
            software=f"earshot {VERSION}",
            python=platform.python_version(),
            board=board_name()[:200],
            operating_system=operating_system()[:200],
            runtime=self._runtime.name,
            runtime_version=self._runtime.version,
            source=self._source.identity[:200],
            source_rate_hz=self._source.sample_rate_hz,
            group_id=self._settings.node.group,
            model=manifest.label,
            model_sha256=manifest.models_sha256,
            threshold=self._watch.threshold,
            threshold_source=self._watch.threshold_source,
            window_us=manifest.features.window_us,
            hop_us=manifest.hop_us,
            capabilities=VERBS if self._updates is None else (*VERBS, TAKES_UPDATES),
            trusted_keys=() if self._updates is None else self._updates.trusted_keys,
        )

    def _check_publisher(self) -> None:
        if self._publisher.failure is not None:
            raise self._publisher.failure


def _rules(settings: NodeSettings) -> OutboxRules:
    outbox = settings.outbox
    return OutboxRules(
        receipts=outbox.receipts,
        durable=outbox.durable,
        tail_seconds=outbox.tail_seconds,
        max_windows=outbox.max_windows,
        max_bytes=outbox.max_bytes,
        max_age_seconds=outbox.max_age_hours * 3600.0,
        resend_seconds=outbox.resend_seconds,
    )


def _bounded(text: str | None) -> str | None:
    return None if text is None else text[:200]
