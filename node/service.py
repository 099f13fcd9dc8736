"""The node's day: sound in, windows scored, every one handed to the publisher.

    source -> framer -> scorer -> vote -> publisher (outbox -> MQTT)

This thread hears and scores; the publisher's thread talks to the broker. Between them lies one
mailbox, so that a slow network never makes the node deaf.
"""

import logging
import os
import platform
import threading
import time
from collections import deque

import msgspec
import numpy as np

from contract import VERSION
from contract.errors import EarshotError
from contract.messages import (
    Birth,
    CalibrationPhase,
    Clock,
    Health,
    MachineState,
    MicrophoneState,
    Problem,
    State,
    ThresholdSource,
    Window,
)
from node.board import board_name, operating_system, read_board
from node.clock import WindowClock, new_boot_id, system_clock
from node.framing import FramedWindow, Framer
from node.machine import MachineVote
from node.outbox import MemoryOutbox
from node.publisher import Publisher
from node.release_store import Release
from node.runtime import Runtime
from node.scorer import Scored, Scorer
from node.settings import NodeSettings
from node.sources.errors import SourceError
from node.sources.sound import AudioSource, EndOfSound

logger = logging.getLogger(__name__)

# How long a read may wait before the loop looks after health and signals.
_READ_SECONDS = 0.5
# The last minutes' latencies, for the percentiles in `health`.
_LATENCIES_KEPT = 300
_MICROPHONE_STATES = {
    None: MicrophoneState.OK,
    Problem.MIC_SILENT: MicrophoneState.SILENT,
    Problem.MIC_CLIPPED: MicrophoneState.CLIPPED,
    Problem.MIC_GONE: MicrophoneState.GONE,
}


class UndeliveredError(EarshotError):
    """The node ended with windows that no broker has taken."""


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
) -> Totals:
    """Hear, score and publish until the source ends or `stop` is set.

    Raises:
        SourceError: the sound cannot be had (any more).
        ReleaseError: the release does not run here.
        ConnectionRefusedByBrokerError: the broker said no before it ever said yes.
        UndeliveredError: windows are left that no broker has taken.
    """
    scorer = Scorer(release, runtime, threads=settings.model.threads)
    with source:
        node = _Node(settings, source, scorer, runtime)
        node.hear_until(stop)
    return node.totals


class _Node:
    """The parts of one run, and what they add up to."""

    def __init__(
        self, settings: NodeSettings, source: AudioSource, scorer: Scorer, runtime: Runtime
    ) -> None:
        manifest = scorer.manifest
        self._settings = settings
        self._source = source
        self._scorer = scorer
        self._runtime = runtime
        self._framer = Framer(
            sample_rate_hz=manifest.features.sample_rate_hz,
            window_samples=manifest.features.window_samples,
            hop_samples=manifest.window_hop_samples,
        )
        self._clock = WindowClock()
        self._clock_state = Clock.SIMULATED if settings.source.fast else system_clock()
        self._vote = MachineVote()
        self._state: tuple[MachineState, MicrophoneState] | None = None
        self._boot = new_boot_id(time.time_ns() // 1_000_000, os.urandom(10))
        self._started = time.monotonic()
        self._health_due = self._started + settings.health.interval_seconds
        self._outbox = MemoryOutbox(max_windows=settings.outbox.max_windows)
        self._publisher = Publisher(
            settings.mqtt,
            self._outbox,
            self._birth,
            node=settings.node.id,
            boot=self._boot,
            hop_seconds=manifest.hop_us / 1e6,
            now_us=self._clock.now_us,
        )
        self._latencies_ms: deque[float] = deque(maxlen=_LATENCIES_KEPT)
        self._last: Scored | None = None
        self._windows = 0
        self._flagged = 0
        self._unscored = 0

    @property
    def totals(self) -> Totals:
        outbox = self._outbox
        return Totals(
            windows=self._windows,
            flagged=self._flagged,
            unscored=self._unscored,
            discarded=outbox.discarded_full + outbox.discarded_refused,
        )

    def hear_until(self, stop: threading.Event) -> None:
        logger.info(
            "%s hears %s with %s in %s %s",
            self._settings.node.id,
            self._source.identity,
            self._scorer.manifest.label,
            self._runtime.name,
            self._runtime.version,
        )
        self._publisher.start()
        try:
            while not stop.is_set():
                self._check_publisher()
                self._hear_once()
                self._look_after_health()
        except EndOfSound:
            for framed in self._framer.finish():
                self._score(framed, time.monotonic())
            logger.info("the sound has ended after %d windows", self._windows)
            if not self._windows:
                raise SourceError(
                    "no_sound", f"{self._source.identity}: ended before the first window was full"
                ) from None
        except SourceError:
            # Nobody hears the machine any more: "normal" must not be what late joiners read.
            self._tell_state(MachineState.UNKNOWN, MicrophoneState.GONE)
            raise
        finally:
            # The last word on how many windows there were, for whoever counts what is stored.
            self._tell_health(time.monotonic())
            if len(self._outbox):
                logger.info(
                    "%d windows are not delivered yet; trying for %g s (Ctrl-C gives them up)",
                    len(self._outbox),
                    self._settings.outbox.drain_seconds,
                )
            left = self._publisher.stop(drain_seconds=self._settings.outbox.drain_seconds)
            if left:
                # Said here, too: whatever else ends the node would be raised in its place.
                logger.error("%d of %d windows were not delivered", left, self._windows)
        self._check_publisher()
        if left:
            raise UndeliveredError(
                f"{left} of {self._windows} windows were not delivered to"
                f" {self._settings.mqtt.address} within {self._settings.outbox.drain_seconds:g} s"
                " and are lost; is the broker up, and does a collector subscribe?"
            )

    def _hear_once(self) -> None:
        if self._settings.source.fast and self._is_ahead_of_broker():
            time.sleep(0.01)
            return
        block = self._source.read(_READ_SECONDS)
        if block is None:
            return
        heard_at = time.monotonic()
        for framed in self._framer.push(block, self._source.sample_rate_hz):
            self._score(framed, heard_at)

    def _is_ahead_of_broker(self) -> bool:
        """Sound that can wait is not read while windows pile up: then none has to be given up."""
        return self._publisher.backlog >= self._settings.outbox.max_windows // 2

    def _score(self, framed: FramedWindow, heard_at: float) -> None:
        seq, self._windows = self._windows, self._windows + 1
        scored = self._last = self._scorer.score(framed.samples)
        latency_ms = (time.monotonic() - heard_at) * 1000
        self._latencies_ms.append(latency_ms)
        self._flagged += scored.anomaly is True
        self._unscored += scored.anomaly is None
        machine = self._vote.hear(scored.anomaly)
        manifest = self._scorer.manifest
        self._publisher.give(
            Window(
                node=self._settings.node.id,
                boot=self._boot,
                seq=seq,
                start_us=self._clock.start_us(framed.start_monotonic_ns),
                duration_us=manifest.features.window_us,
                mse=scored.mse,
                statistic=scored.statistic,
                threshold=manifest.threshold.value,
                score=scored.score,
                anomaly=scored.anomaly,
                state=machine,
                problem=scored.problem,
                model=manifest.label,
                level_dbfs=round(scored.level_dbfs, 2),
                clipped=round(scored.clipped, 6),
                overruns=self._source.overruns,
                clock=self._clock_state,
                latency_ms=round(latency_ms, 3),
            )
        )
        self._tell_state(machine, _MICROPHONE_STATES.get(scored.problem, MicrophoneState.UNKNOWN))

    def _tell_state(self, machine: MachineState, microphone: MicrophoneState) -> None:
        if (machine, microphone) == self._state:
            return
        self._state = (machine, microphone)
        manifest = self._scorer.manifest
        self._publisher.give(
            State(
                node=self._settings.node.id,
                boot=self._boot,
                at_us=self._clock.now_us(),
                machine=machine,
                microphone=microphone,
                model=manifest.label,
                threshold=manifest.threshold.value,
                threshold_source=ThresholdSource.RELEASE,
                microphone_note=None,
                calibration=CalibrationPhase.NONE,
                calibration_progress=0.0,
                calibration_blocks=0,
                calibration_note=None,
            )
        )

    def _look_after_health(self) -> None:
        now = time.monotonic()
        if now >= self._health_due:
            self._health_due = now + self._settings.health.interval_seconds
            self._tell_health(now)

    def _tell_health(self, now: float) -> None:
        if self._clock_state is not Clock.SIMULATED:
            self._clock_state = system_clock()
        p50, p95 = self._latency_percentiles_ms()
        board = read_board()
        self._publisher.give(
            Health(
                node=self._settings.node.id,
                boot=self._boot,
                at_us=self._clock.now_us(),
                uptime_s=round(now - self._started, 3),
                windows=self._windows,
                outbox_windows=len(self._outbox),
                outbox_oldest_s=round(self._outbox.oldest_seconds(now), 3),
                discarded_full=self._outbox.discarded_full,
                discarded_refused=self._outbox.discarded_refused,
                reconnects=max(0, self._publisher.connections - 1),
                overruns=self._source.overruns,
                microphone=MicrophoneState.UNKNOWN if self._state is None else self._state[1],
                reopened=0,
                level_dbfs=None if self._last is None else round(self._last.level_dbfs, 2),
                clipped=0.0 if self._last is None else round(self._last.clipped, 6),
                latency_p50_ms=p50,
                latency_p95_ms=p95,
                clock=self._clock_state,
                **msgspec.structs.asdict(board),
            )
        )

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
            threshold=manifest.threshold.value,
            threshold_source=ThresholdSource.RELEASE,
            window_us=manifest.features.window_us,
            hop_us=manifest.hop_us,
            capabilities=(),
        )

    def _check_publisher(self) -> None:
        if self._publisher.failure is not None:
            raise self._publisher.failure
