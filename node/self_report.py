"""What the node says of itself: what it is (`Birth`), its `State`, its figures (`Health`).

Makes these messages out of the ear, the clock and the computer, and knows which of them are new;
whoever owns the connection sends them. Windows and episodes are not its business.
"""

import platform
import time
from collections import deque
from collections.abc import Callable
from functools import partial

import msgspec
import numpy as np

from contract import VERSION
from contract.messages import Birth, Health, State
from contract.states import CalibrationPhase, Clock, MachineState, MicrophoneState
from contract.topics import TAKES_UPDATES, VERBS
from node.board import board_name, operating_system, read_board
from node.delivery.clock import WindowClock
from node.delivery.outbox import OutboxFigures
from node.ear import Ear, JudgedWindow
from node.scoring.runtime import Runtime
from node.scoring.scorer import WindowFigures
from node.settings import NodeSettings

# The last minutes' latencies, for the percentiles in `health`.
_LATENCIES_KEPT = 300
# A state is retained and stored: how far a calibration is needs no message for each window.
_PROGRESS_STEPS = 20


class _StateTold(msgspec.Struct, frozen=True):
    """What the last `State` said, as far as a change of it is news."""

    model: str
    machine: MachineState
    microphone: MicrophoneState
    microphone_note: str | None
    calibration: CalibrationPhase
    calibration_step: int
    calibration_note: str | None
    threshold: float


class SelfReport:
    """Makes the messages by which a node tells of itself.

    Args:
        settings: of the node.
        ear: hears; its scorer and its watch are those in force.
        runtime: inference library.
        clock: whether time stamps can be trusted.
        boot: id of this start.
        trusted_keys: ids of the keys whose orders count; None on a node that takes no updates.
    """

    def __init__(
        self,
        settings: NodeSettings,
        ear: Ear,
        runtime: Runtime,
        clock: WindowClock,
        *,
        boot: str,
        trusted_keys: tuple[str, ...] | None,
    ) -> None:
        self._settings = settings
        self._ear = ear
        self._runtime = runtime
        self._clock = clock
        self._boot = boot
        self._trusted_keys = trusted_keys
        self._started = time.monotonic()
        self._health_due = self._started + settings.health.interval_seconds
        self._latencies_ms: deque[float] = deque(maxlen=_LATENCIES_KEPT)
        self._last = WindowFigures()
        self._source_told = self._source()
        self._state_told: _StateTold | None = None

    @property
    def machine(self) -> MachineState:
        """The machine's state, as it was told last."""
        return MachineState.UNKNOWN if self._state_told is None else self._state_told.machine

    def hear(self, judged: JudgedWindow) -> None:
        """Take a window into the health figures."""
        self._last = judged.figures
        if judged.latency_ms is not None:
            self._latencies_ms.append(judged.latency_ms)

    def birth(self) -> Birth:
        """What the node is now. Called by the publisher's thread, too."""
        manifest, watch = self._ear.scorer.manifest, self._ear.watch
        source, source_rate_hz = self._source()
        takes_updates = self._trusted_keys is not None
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
            source=source[:200],
            source_rate_hz=source_rate_hz,
            group_id=self._settings.node.group,
            model=manifest.label,
            model_sha256=manifest.models_sha256,
            threshold=watch.threshold,
            threshold_source=watch.threshold_source,
            window_us=manifest.features.window_us,
            hop_us=manifest.hop_us,
            capabilities=(*VERBS, TAKES_UPDATES) if takes_updates else VERBS,
            trusted_keys=self._trusted_keys or (),
        )

    def source_is_new(self) -> bool:
        """Whether the source has changed since the last call, so that a new birth is due.

        A microphone that was not there at boot, or another rate after it came back.
        """
        source, told = self._source(), self._source_told
        self._source_told = source
        return source != told

    def state(self, machine: MachineState) -> State | None:
        """How machine and microphone are now; None while that is what was told last.

        Args:
            machine: its state after the newest window.
        """
        watch, microphone = self._ear.watch, self._ear.microphone
        told = _StateTold(
            model=self._ear.scorer.manifest.label,
            machine=machine,
            microphone=microphone.state,
            microphone_note=microphone.note,
            calibration=watch.phase,
            calibration_step=int(watch.progress * _PROGRESS_STEPS),
            calibration_note=watch.note,
            threshold=watch.threshold,
        )
        if told == self._state_told:
            return None
        self._state_told = told
        limits = watch.limits
        return State(
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

    def health_is_due(self) -> bool:
        """Whether it is time for the next `health`; true once in each interval."""
        now = time.monotonic()
        if now < self._health_due:
            return False
        self._health_due = now + self._settings.health.interval_seconds
        return True

    def health(self, *, windows: int, reconnects: int) -> Callable[[OutboxFigures], Health]:
        """How the node is now, but for the outbox: its owner completes the message.

        Args:
            windows: numbered since the boot.
            reconnects: connections to the broker after the first one.

        Returns:
            Makes the message out of how full the outbox is.
        """
        p50, p95 = self._latency_percentiles_ms()
        source, last = self._ear.source, self._last
        health = partial(
            Health,
            node=self._settings.node.id,
            boot=self._boot,
            at_us=self._clock.now_us(),
            uptime_s=round(time.monotonic() - self._started, 3),
            windows=windows,
            reconnects=reconnects,
            overruns=source.overruns,
            microphone=self._ear.microphone.state,
            reopened=source.reopened,
            level_dbfs=None if last.level_dbfs is None else round(last.level_dbfs, 2),
            clipped=round(last.clipped, 6),
            latency_p50_ms=p50,
            latency_p95_ms=p95,
            clock=Clock.SIMULATED if self._settings.source.fast else self._clock.state,
            **msgspec.structs.asdict(read_board()),
        )
        return lambda outbox: health(**msgspec.structs.asdict(outbox))

    def _source(self) -> tuple[str, int]:
        return self._ear.source.identity, self._ear.source.sample_rate_hz

    def _latency_percentiles_ms(self) -> tuple[float | None, float | None]:
        if not self._latencies_ms:
            return None, None
        p50, p95 = np.percentile(list(self._latencies_ms), (50, 95))
        return round(float(p50), 3), round(float(p95), 3)


def _bounded(text: str | None) -> str | None:
    return None if text is None else text[:200]
