"""Sound of a machine that does not exist (`node.sound.synthetic`), played like a microphone's."""

from types import TracebackType
from typing import Self

from node.sound.source import Block, EndOfSound, Pace
from node.sound.synthetic import MachineSound, Synthesizer

_BLOCK_SECONDS = 0.25


class CalculatedSource:
    """Plays the sound of a calculated machine, in blocks of a quarter of a second.

    Args:
        sound: the machine, its fault, and for how long to play it.
        sample_rate_hz: rate to calculate at.
        fast: as fast as the sound is asked for, instead of in real time.
    """

    def __init__(self, sound: MachineSound, *, sample_rate_hz: int, fast: bool) -> None:
        self.overruns = 0
        self.reopened = 0
        self._sound = sound
        self._rate_hz = sample_rate_hz
        self._fast = fast
        self._synthesizer = Synthesizer(sound, sample_rate_hz=sample_rate_hz)
        self._pace = Pace(fast=fast)
        self._samples_given = 0

    @property
    def outage(self) -> str | None:
        """None: a calculated machine is always heard."""
        return None

    @property
    def identity(self) -> str:
        """The machine's kind and the number of the individual."""
        return f"synthetic:{self._sound.machine}?unit={self._sound.unit}&seed={self._sound.seed}"

    @property
    def sample_rate_hz(self) -> int:
        """The rate at which the sound is calculated, in hertz."""
        return self._rate_hz

    def read(self, timeout_seconds: float) -> Block | None:
        """The next quarter of a second of sound; None when it is not due in time."""
        count = int(self._rate_hz * _BLOCK_SECONDS)
        if self._sound.seconds is not None:
            left = round(self._sound.seconds * self._rate_hz) - self._samples_given
            if left <= 0:
                raise EndOfSound
            count = min(count, left)
        if not self._pace.wait_until(
            (self._samples_given + count) / self._rate_hz, timeout_seconds
        ):
            return None
        captured_ns = self._pace.captured_ns(self._samples_given / self._rate_hz)
        self._samples_given += count
        return Block(samples=self._synthesizer.read(count), captured_monotonic_ns=captured_ns)

    def __enter__(self) -> Self:
        self._pace = Pace(fast=self._fast, total_seconds=self._sound.seconds or 0.0)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        pass
