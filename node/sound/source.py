"""What every source of sound gives, and how fast it may give it."""

import time
from types import TracebackType
from typing import Protocol, Self

import msgspec
import numpy as np
import numpy.typing as npt


class Block(msgspec.Struct, frozen=True, kw_only=True, eq=False):
    """A stretch of mono sound without a gap."""

    samples: npt.NDArray[np.float32]
    """The samples: float32 of shape (n,), mono, from -1 to 1."""
    captured_monotonic_ns: int
    """When the first sample was captured, on the clock of `time.monotonic_ns`."""
    continuous: bool = True
    """Whether it follows the block before without a gap."""
    lost: bool = False
    """Whether sound is missing between the block before and this one: there was some to hear."""
    channel_powers: tuple[float, ...] = ()
    """Variance of the samples of each channel that was mixed; empty where there was one alone."""
    clipped: float | None = None
    """Share at full scale, 0 to 1, in the worst of the channels that were mixed; None: ask the
    samples."""


class EndOfSound(Exception):  # like StopIteration: no error
    """The source has nothing more to give, and never will."""


class AudioSource(Protocol):
    """One source of mono sound, open while entered.

    Entering and `read` raise `SourceError` when the sound cannot be had.
    """

    @property
    def overruns(self) -> int:
        """How often sound was lost since entering, while the source was there."""

    @property
    def reopened(self) -> int:
        """How often sound came back after an outage, since entering."""

    @property
    def outage(self) -> str | None:
        """Why nothing is heard now, for how long, and what to do; None while it is heard."""

    @property
    def identity(self) -> str:
        """What the source is, in words that stay the same after a restart."""

    @property
    def sample_rate_hz(self) -> int:
        """Its own rate; may change only at a block that is not continuous."""

    def read(self, timeout_seconds: float) -> Block | None:
        """The next block, None when none came in time; raises `EndOfSound` after the last."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...


class Pace:
    """Gives calculated or recorded sound the time stamps, and where asked the speed, of real sound.

    Args:
        fast: whether to give it as fast as it is asked for. The time stamps are then laid so that
            sound of `total_seconds` ends at the start of the run.
        total_seconds: length of all the sound; 0 where that is not known.
    """

    def __init__(self, *, fast: bool, total_seconds: float = 0.0) -> None:
        self._fast = fast
        back_ns = int(total_seconds * 1e9) if fast else 0
        self._start_ns = time.monotonic_ns() - back_ns

    def captured_ns(self, seconds: float) -> int:
        """When the sample at this position, in seconds from the first, was captured."""
        return self._start_ns + int(seconds * 1e9)

    def wait_until(self, seconds: float, timeout_seconds: float) -> bool:
        """Wait until a real source would have captured that much; False when time ran out first."""
        if self._fast:
            return True
        missing = (self.captured_ns(seconds) - time.monotonic_ns()) / 1e9
        if missing > timeout_seconds:
            time.sleep(timeout_seconds)
            return False
        if missing > 0:
            time.sleep(missing)
        return True
