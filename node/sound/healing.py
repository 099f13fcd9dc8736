"""A microphone that heals: whatever happens to it, the node waits for it and hears on.

Unplugged, not there yet at boot, busy, another rate after a re-plug, a driver that falls silent, a
capture program that was killed or stopped, PortAudio's frozen list of devices: one cure for all, a
fresh capture program, tried again after a while for as long as it takes.

Not here: what a fault of the sound is (`node.sound.microphone_health`), and the windows that were
missed (`node.sound.framing`).
"""

import logging
import time
from collections.abc import Sequence
from functools import partial
from types import TracebackType
from typing import Final, Self

import msgspec

from node.sound.errors import SourceError
from node.sound.microphone import ANSWER_SECONDS, MicrophoneSource
from node.sound.source import Block

logger = logging.getLogger(__name__)

WAIT_SECONDS: Final = (1.0, 2.0, 5.0, 10.0, 30.0, 60.0)
"""Before each next try, and the last one for ever. Steps without chance: jitter spreads many who
knock at one door, and nobody else waits for this microphone. A plug that was touched is heard again
after seconds; starting Python once a minute costs a Pi nothing in a year, and a microphone that was
put back is heard within a minute."""
STEADY_SECONDS: Final = 30.0
"""Sound for so long is an end of the trouble: the next outage starts with the first step again. A
loose plug that comes and goes climbs the steps instead of filling the log."""
STALL_SECONDS: Final = 10.0
"""Without a block, a capture program that lives is killed. Twice its own patience (5 s), so that it
can tell the reason where it can: this is for one that is stopped or hangs itself."""

_INCURABLE: Final = frozenset({"no_portaudio", "bad_format", "malformed"})
"""What waiting does not cure: at the start these end the node, or a wrong setting would never be
seen. Later they may be an update half-way, and are waited for like the others."""
_TRY_SECONDS: Final = 0.25
"""Of the first try, between two looks at whether the microphone has opened."""


class _Outage(msgspec.Struct):
    """Since when nothing is heard, why, and how often it was tried."""

    since: float
    """When the outage began, on `time.monotonic`."""
    error: SourceError
    tries: int = 0


class _Retry:
    """When to try again: after each failure in a row a little later, then evenly for ever."""

    def __init__(self, wait_seconds: Sequence[float]) -> None:
        self._wait_seconds = tuple(wait_seconds)
        self.longest_seconds = self._wait_seconds[-1]
        self.start_over()

    def start_over(self) -> None:
        self._failures = 0
        self.at = 0.0
        """Of the next try, on `time.monotonic`."""

    def failed(self, now: float) -> float:
        """Count a failure; gives how many seconds the next try is away."""
        step = self._wait_seconds[min(self._failures, len(self._wait_seconds) - 1)]
        self._failures += 1
        self.at = now + step
        return step


class HealingSource:
    """One microphone, waited for while it is not there.

    Entering looks once and waits for the answer; a microphone that does not open then is waited for
    in `read`, which returns None meanwhile and never takes much longer than its timeout. It never
    raises `SourceError`: `outage` tells what is wrong. The first block after an outage is `lost`,
    and may have another rate.

    Where `default` was asked for, the first microphone that opens is the only one: when it is gone
    and another one is the default, the first is waited for. Windows of two microphones would pass
    for a machine that has changed.
    """

    def __init__(
        self,
        device: str,
        *,
        channel: int | None,
        command: Sequence[str] | None = None,
        answer_seconds: float = ANSWER_SECONDS,
        stall_seconds: float = STALL_SECONDS,
        wait_seconds: Sequence[float] = WAIT_SECONDS,
    ) -> None:
        """Names the microphone; nothing is opened yet.

        Args:
            device: `key` or alias of a `Microphone`, or `default`.
            channel: which channel to hear, from 0; None mixes all of them.
            command: the capture program, to which its options are added.
            answer_seconds: how long it may take to open the microphone.
            stall_seconds: how long it may give no sound.
            wait_seconds: before each next try; the last one for ever.
        """
        self._asked = self._device = device
        self._made = partial(
            MicrophoneSource, channel=channel, command=command, answer_seconds=answer_seconds
        )
        self._stall_seconds = stall_seconds
        self._retry = _Retry(wait_seconds)
        self._identity: str | None = None
        self._rate_hz = 0
        self._start_over()
        self._entered = False

    def _start_over(self) -> None:
        self.reopened = 0
        self._entered = True
        self._was_heard = False
        self._microphone: MicrophoneSource | None = None
        self._is_open = False
        self._outage: _Outage | None = None
        self._retry.start_over()
        self._open_since = self._heard_last = time.monotonic()
        self._overruns_before = 0

    @property
    def identity(self) -> str:
        """The stable key of the microphone that was opened; until then what was asked for."""
        return self._identity or self._asked

    @property
    def sample_rate_hz(self) -> int:
        """The device's own rate; 0 before it was opened for the first time."""
        return self._rate_hz

    @property
    def overruns(self) -> int:
        """How often sound was lost since entering while the microphone was open."""
        current = self._microphone.overruns if self._microphone is not None else 0
        return self._overruns_before + current

    @property
    def outage(self) -> str | None:
        """Why nothing is heard, for how long (in words that change once a minute), what to do."""
        if self._outage is None:
            return None
        waited = _span(time.monotonic() - self._outage.since)
        is_other = self._outage.error.reason == "no_device" and self._device != self._asked
        first = "; the node waits for the one it heard first, restart it to take another"
        return f"Nothing heard for {waited}: {self._outage.error}{first if is_other else ''}"

    def read(self, timeout_seconds: float) -> Block | None:
        """The next stretch of sound; None when none came in time, whatever the reason."""
        assert self._entered, "a source is read while entered"
        try:
            return self._try_read(time.monotonic() + timeout_seconds)
        except SourceError as error:
            self._give_up(error)
            return None

    def __enter__(self) -> Self:
        self._start_over()
        try:
            self._open()
            while not self._opens_within(_TRY_SECONDS):
                pass
        except SourceError as error:
            if error.reason in _INCURABLE:
                self._kill()
                raise
            self._give_up(error)
        except BaseException:
            self._kill()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._entered = False
        if self._microphone is not None:
            self._overruns_before += self._microphone.overruns
            self._microphone.__exit__(kind, error, trace)
            self._microphone = None

    def _try_read(self, deadline: float) -> Block | None:
        if self._microphone is None:
            if not _sleep_until(self._retry.at, deadline):
                return None
            self._open()
        if not self._is_open and not self._opens_within(max(0.0, deadline - time.monotonic())):
            return None
        assert self._microphone is not None
        block = self._microphone.read(max(0.0, deadline - time.monotonic()))
        now = time.monotonic()
        if block is None:
            if now - self._heard_last >= self._stall_seconds:
                raise SourceError(
                    "stopped",
                    f"Microphone {self.identity} gave no sound for {self._stall_seconds:g} s and"
                    " its capture program does not answer: check its plug and the power supply",
                )
            return None
        self._heard_last = now
        return self._healed(block, now)

    def _healed(self, block: Block, now: float) -> Block:
        """The block; after an outage it tells that sound was lost before it."""
        outage, self._outage = self._outage, None
        if outage is None:
            self._was_heard = True
            if now - self._open_since >= STEADY_SECONDS:
                self._retry.start_over()
            return block
        self.reopened += self._was_heard
        self._was_heard = True
        logger.info(
            "Microphone %s is heard at %d Hz after %.1f s without sound and %d tries",
            self.identity,
            self._rate_hz,
            now - outage.since,
            outage.tries,
        )
        return msgspec.structs.replace(block, continuous=False, lost=True)

    def _open(self) -> None:
        if self._outage is not None:
            self._outage.tries += 1
        self._is_open = False
        self._microphone = self._made(self._device)
        self._microphone.start()

    def _opens_within(self, seconds: float) -> bool:
        assert self._microphone is not None
        if not self._microphone.is_open(seconds):
            return False
        self._is_open = True
        self._identity = self._microphone.identity
        self._rate_hz = self._microphone.sample_rate_hz
        if self._asked == "default":
            self._device = self._identity
        self._open_since = self._heard_last = time.monotonic()
        return True

    def _give_up(self, error: SourceError) -> None:
        """Ends this capture program and sets the time of the next."""
        self._kill()
        step = self._retry.failed(time.monotonic())
        if self._outage is None:
            self._outage = _Outage(since=self._heard_last, error=error)
            logger.warning(
                "%s; trying again after %g s, later every %g s, for as long as it takes",
                error,
                step,
                self._retry.longest_seconds,
            )
        else:
            self._outage.error = error
            logger.debug("%s; trying again after %g s", error, step)

    def _kill(self) -> None:
        if self._microphone is not None:
            self._overruns_before += self._microphone.overruns
            self._microphone.kill()
            self._microphone = None


def _sleep_until(moment: float, deadline: float) -> bool:
    """Sleeps until a moment, or only until the deadline where that is earlier: then False."""
    time.sleep(max(0.0, min(moment, deadline) - time.monotonic()))
    return moment <= deadline


def _span(seconds: float) -> str:
    minutes = int(seconds // 60)
    if minutes < 1:
        return "less than a minute"
    if minutes < 2 * 60:
        return f"{minutes} min"
    if minutes < 2 * 24 * 60:
        return f"{minutes // 60} h"
    return f"{minutes // (24 * 60)} days"
