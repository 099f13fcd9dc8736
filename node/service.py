"""The node's day: sound in, windows judged, every one handed to the publisher.

    ear (source -> scorer -> machine watch) -> publisher (outbox -> MQTT)
    updater (orders -> releases on the disk) -> ear

This thread hears and judges; the publisher's thread talks to the broker, and on a node that takes
updates the updater's thread fetches and tests them. Between them lie mailboxes, so that neither a
slow network nor a slow disk makes the node deaf.
"""

import logging
import os
import threading
import time
from typing import TYPE_CHECKING

import msgspec

from contract.errors import EarshotError, ReleaseError
from contract.messages import Window
from contract.states import MachineState
from node.delivery.clock import WindowClock, new_boot_id
from node.delivery.outbox import Outbox
from node.delivery.outbox_file import OutboxFile
from node.delivery.outbox_rules import OutboxRules
from node.delivery.publisher import Left, Publisher
from node.ear import Ear, JudgedWindow
from node.machine.calibration_requests import CalibrationRequests
from node.machine.episode_log import EpisodeLog
from node.machine.site import known_machine
from node.machine.site_store import SiteStore
from node.notify import Notifier
from node.remote_commands import RemoteCommands
from node.scoring.release_store import Release
from node.scoring.runtime import Runtime
from node.scoring.scorer import Scorer
from node.self_report import SelfReport
from node.settings import NodeSettings
from node.sound.errors import SourceError
from node.sound.source import AudioSource, EndOfSound
from node.updates.slots import STATE_NAME
from node.updates.tasks import GoBy, RunNow
from node.window_message import window_message

if TYPE_CHECKING:
    from node.updates.live import LiveUpdates

logger = logging.getLogger(__name__)

_OUTBOX = "outbox.db"
# How long a read may wait before the loop looks after health and signals.
_READ_SECONDS = 0.5


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
        node = _NodeRun(settings, source, scorer, runtime, store, clock=clock, updates=updates)
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


class _NodeRun:
    """One run of a node: its parts, and the order in which they are asked."""

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
        self._settings = settings
        self._store = store
        self._clock = clock
        self._updates = updates
        node = settings.node.id
        boot = self._boot = new_boot_id(time.time_ns() // 1_000_000, os.urandom(10))
        self._episodes = EpisodeLog(store, boot=boot)
        watch = known_machine(
            settings,
            scorer,
            store,
            state=self._episodes.machine,
            override=None if updates is None else updates.threshold,
        )
        self._ear = Ear(source, scorer, watch)
        self._calibrations = CalibrationRequests(
            watch, store, now_us=clock.now_us, recalibrate=settings.update.recalibrate
        )
        self._commands = RemoteCommands(
            self._calibrations,
            None if updates is None else updates.roll_back,
            node=node,
            boot=boot,
            now_us=clock.now_us,
        )
        self._report = SelfReport(
            settings,
            self._ear,
            runtime,
            clock,
            boot=boot,
            trusted_keys=None if updates is None else updates.trusted_keys,
        )
        self._notifier = Notifier.from_environment(os.environ)
        self._outbox = Outbox(
            boot,
            node=node,
            hop_seconds=scorer.manifest.hop_us / 1e6,
            file=OutboxFile(settings.state_folder / _OUTBOX),
            rules=_rules(settings),
            now=time.monotonic(),
        )
        # Simulated time has no before.
        floor_us = None if settings.source.fast else self._outbox.last_start_us
        clock.begin(above_us=floor_us, wait_seconds=settings.clock_wait_seconds)
        self._publisher = Publisher(
            settings.mqtt,
            self._outbox,
            self._report.birth,
            node=node,
            boot=boot,
            now_us=clock.now_us,
            synced_us=clock.synced_us,
            waits_for_clock=clock.waits,
            orders=() if updates is None else updates.orders,
            updates=None if updates is None else updates.happened,
        )
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
        self._begin()
        well = False
        try:
            self._calibrations.resume()
            while not stop.is_set():
                self._check_publisher()
                self._obey()
                self._follow_updates()
                self._hear_once()
                self._settle_clock()
                self._look_after_health()
            well = True
        except EndOfSound:
            for judged in self._ear.finish():
                self._take(judged)
            well = True
            logger.info("the sound has ended after %d windows", self._windows)
            if not self._windows:
                raise SourceError(
                    "no_sound",
                    f"{self._ear.source.identity}: ended before the first window was full",
                ) from None
        except SourceError as error:
            # No release has brought that about.
            well = True
            # Nobody hears the machine any more: "normal" must not be what late joiners read.
            self._ear.microphone.gone(str(error)[:200])
            self._tell_state(MachineState.UNKNOWN)
            raise
        finally:
            left = self._end(well=well)
        self._check_publisher()
        if left.lost:
            raise UndeliveredError(
                f"{left.lost} of {self._windows} windows were not delivered to"
                f" {self._settings.mqtt.address} within {self._settings.outbox.drain_seconds:g} s,"
                f" could not be saved in {self._settings.state_folder}, and are lost; is the broker"
                " up, and does a collector subscribe?"
            )

    def _begin(self) -> None:
        birth = self._report.birth()
        logger.info(
            "%s hears %s with %s in %s %s; boot %s",
            birth.node,
            self._ear.source.identity,
            birth.model,
            birth.runtime,
            birth.runtime_version,
            birth.boot,
        )
        watch = self._ear.watch
        logger.info("limits: %s; %s", watch.threshold_source, watch.note or "as given")
        if self._updates is not None:
            self._updates.begin(
                self._ear, boot=self._boot, broker=self._publisher, tell=self._publisher.give
            )
        self._publisher.start()
        self._notifier.ready("hearing")

    def _check_publisher(self) -> None:
        if self._publisher.failure is not None:
            raise self._publisher.failure

    def _obey(self) -> None:
        """What a person asks for on this computer, and what comes over the network."""
        self._calibrations.obey_person_here()
        # One at a time: between two of them sound is heard.
        if not self._publisher.asked.empty():
            answer = self._commands.obey(self._publisher.asked.get())
            if answer is not None:
                self._publisher.give(answer)

    def _follow_updates(self) -> None:
        if self._updates is None:
            return
        for task in self._updates.tasks():
            if isinstance(task, GoBy):
                self._ear.watch.override(task.threshold)
                self._tell_state(self._report.machine)
            else:
                self._run_now(self._updates, task)

    def _run_now(self, updates: "LiveUpdates", task: RunNow) -> None:
        """Go over to another release between two windows."""
        machine = self._report.machine
        try:
            trial = updates.loaded(task)
        except ReleaseError as error:
            # Going back, to one that ran once. The next start finds another, this one goes on.
            logger.error("%s; what runs goes on until the node is started again", error)
            return
        scorer = trial.scorer
        logger.info("%s runs from now on: %s", scorer.manifest.label, task.why)
        watch = known_machine(
            self._settings, scorer, self._store, state=machine, override=task.threshold
        )
        self._ear.switch(scorer, watch, trial.framer)
        self._outbox.hop_seconds = scorer.manifest.hop_us / 1e6
        self._publisher.give(self._report.birth())
        self._calibrations.follow_release(watch, machine)
        self._tell_state(machine)

    def _hear_once(self) -> None:
        if self._settings.source.fast and self._is_ahead_of_broker():
            time.sleep(0.01)
            return
        for judged in self._ear.hear(_READ_SECONDS):
            self._take(judged)
        if self._report.source_is_new():
            self._publisher.give(self._report.birth())

    def _is_ahead_of_broker(self) -> bool:
        """Sound that can wait is not read while windows pile up: then none has to be given up."""
        return self._publisher.backlog >= self._settings.outbox.max_windows // 2

    def _take(self, judged: JudgedWindow) -> None:
        """Number a window and hand it over; then say what has changed with it."""
        window = self._numbered(judged)
        self._publisher.give(window)
        event = self._episodes.hear(
            window, judged.evidence, self._ear.watch, self._ear.scorer.detector
        )
        if event is not None:
            self._publisher.give(event)
        self._calibrations.follow()
        self._tell_state(window.state)
        if self._updates is not None:
            self._updates.heard(flagged=window.anomaly, confirmed=self._publisher.confirmed)
        # By windows alone, scored or accounted for: a loop that has stopped hearing feeds nothing.
        self._notifier.alive()

    def _numbered(self, judged: JudgedWindow) -> Window:
        seq, self._windows = self._windows, self._windows + 1
        self._flagged += judged.judgement.anomaly is True
        self._unscored += judged.judgement.anomaly is None
        self._report.hear(judged)
        manifest = self._ear.scorer.manifest
        duration_us = manifest.features.window_us
        return window_message(
            judged,
            self._clock.stamp(seq, judged.start_monotonic_ns, duration_us),
            node=self._settings.node.id,
            boot=self._boot,
            seq=seq,
            duration_us=duration_us,
            model=manifest.label,
            overruns=self._ear.source.overruns,
            simulated=self._settings.source.fast,
        )

    def _tell_state(self, machine: MachineState) -> None:
        state = self._report.state(machine)
        if state is not None:
            self._publisher.give(state)
            self._notifier.status(f"machine {state.machine}, microphone {state.microphone}")

    def _settle_clock(self, *, at_once: bool = False) -> None:
        """The clock is right now, or has had its time: what waited for it goes out."""
        settled = self._clock.settle(at_once=at_once)
        if settled is not None:
            self._publisher.give(settled)
            self._episodes.restamp(settled.ends_us)

    def _look_after_health(self) -> None:
        if self._report.health_is_due():
            self._tell_health()

    def _tell_health(self) -> None:
        reconnects = max(0, self._publisher.connections - 1)
        self._publisher.give_health(
            self._report.health(windows=self._windows, reconnects=reconnects)
        )

    def _end(self, *, well: bool) -> Left:
        """Deliver what is left, however the run ended; gives what could not be."""
        self._notifier.stopping()
        if self._updates is not None:
            self._updates.stop(well=well)
        self._settle_clock(at_once=True)
        # The last word on how many windows there were, for whoever counts what is stored.
        self._tell_health()
        drain_seconds = self._settings.outbox.drain_seconds
        if self._outbox.held:
            logger.info(
                "%d windows are not known to be stored yet; waiting for %g s (Ctrl-C ends that)",
                self._outbox.held,
                drain_seconds,
            )
        left = self._publisher.stop(drain_seconds=drain_seconds)
        if left.saved:
            logger.info("%d windows wait on the disk for the next start", left.saved)
        if left.lost:
            # Said here, too: whatever else ends the node would be raised in its place.
            logger.error("%d of %d windows were not delivered", left.lost, self._windows)
        return left


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
