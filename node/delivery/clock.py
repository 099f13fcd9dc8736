"""When a window was heard, and how far the system's clock can be trusted."""

import ctypes
import functools
import logging
import os
import time
from collections.abc import Callable, Mapping
from typing import Final, NamedTuple

import msgspec

from contract.states import Clock

logger = logging.getLogger(__name__)

# ULID: Crockford's base 32, 48 bits of milliseconds and 80 random bits.
_CROCKFORD = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"

# adjtimex(2): the return value that means "not synchronised", and room for any struct timex.
_TIME_ERROR = 5
_TIMEX_BYTES = 512

# A stamp that is this far from the wall clock cannot be called synchronised.
_OFF_US: Final = 1_000_000
# No clock that was ever right is this far ahead of one that is right now.
_NONSENSE_US: Final = 3_600_000_000


def new_boot_id(at_ms: int, chance: bytes) -> str:
    """A ULID for this start of the node.

    Args:
        at_ms: milliseconds since 1970.
        chance: 10 random bytes.
    """
    number = (at_ms & (2**48 - 1)) << 80 | int.from_bytes(chance, "big")
    return "".join(_CROCKFORD[number >> shift & 31] for shift in range(125, -1, -5))


def system_clock() -> Clock:
    """Whether the kernel's clock is kept in step by somebody (NTP, PTP)."""
    if os.name != "posix" or not hasattr(time, "CLOCK_BOOTTIME"):
        return Clock.UNSYNCED
    # A zeroed struct timex has modes = 0: read only.
    state = _libc().adjtimex(ctypes.create_string_buffer(_TIMEX_BYTES))
    return Clock.UNSYNCED if state in (-1, _TIME_ERROR) else Clock.SYNCED


@functools.cache
def _libc() -> ctypes.CDLL:
    # To find it starts programs (ldconfig, gcc): once, and not for each window.
    return ctypes.CDLL(None, use_errno=True)


class Stamp(NamedTuple):
    """When a window began in microseconds since 1970, and how far that can be trusted."""

    start_us: int
    clock: Clock


class Settled(msgspec.Struct, frozen=True):
    """The wait for a synchronised clock is over; what was held may go out."""

    stamps: Mapping[int, Stamp]
    """The right stamp by the window's number; empty where the clock never came right."""
    ends_us: Mapping[int, int]
    """The right end of a window by what it was taken for, both in microseconds since 1970."""


class _Held(NamedTuple):
    seq: int
    captured_ns: int
    duration_us: int
    start_us: int


class WindowClock:
    """Turns capture times into microseconds since 1970, strictly increasing.

    A clock that is set forward is followed at once. One that is set back is not followed back:
    stamps go on at half the pace until it has caught up, and are `unsynced` while they are more
    than a second off. Only a clock that is synchronised and more than an hour behind is believed at
    once: what was stamped before it was set must have been wrong.

    While it `waits` for the system's clock to be synchronised, stamps are provisional.

    Args:
        wall_ns: for example `time.time_ns`.
        monotonic_ns: for example `time.monotonic_ns`.
        state: whether the wall clock is synchronised.
    """

    def __init__(
        self,
        wall_ns: Callable[[], int] = time.time_ns,
        monotonic_ns: Callable[[], int] = time.monotonic_ns,
        state: Callable[[], Clock] = system_clock,
    ) -> None:
        self._wall_ns = wall_ns
        self._monotonic_ns = monotonic_ns
        self._state = state
        self._floor_us = self._last_us = -1
        self._last_captured_ns: int | None = None
        self._wait_until_ns: int | None = None
        self._held: list[_Held] = []

    @property
    def state(self) -> Clock:
        """Whether the wall clock is synchronised now."""
        return self._state()

    @property
    def waits(self) -> bool:
        """Whether stamps are provisional."""
        return self._wait_until_ns is not None

    def begin(self, *, above_us: int | None, wait_seconds: float) -> None:
        """Find out where to begin; to be called before the first stamp.

        Args:
            above_us: the last stamp of an earlier start, as far as it is known.
            wait_seconds: how long to wait for a synchronised clock at most.
        """
        self._floor_us = -1 if above_us is None else above_us
        synced = self._state() is Clock.SYNCED
        if synced:
            self._floor_us = self._sensible(self._floor_us)
        elif wait_seconds:
            self._wait_until_ns = self._monotonic_ns() + round(wait_seconds * 1e9)
        self._last_us = self._floor_us

    def stamp(self, seq: int, captured_ns: int, duration_us: int) -> Stamp:
        """Give a window its time, later than that of every one before (but see above).

        Args:
            seq: its number.
            captured_ns: when it began, on the monotonic clock.
            duration_us: of it.
        """
        stamp = self._next(captured_ns)
        if self._wait_until_ns is None:
            return stamp
        self._held.append(_Held(seq, captured_ns, duration_us, stamp.start_us))
        return Stamp(stamp.start_us, Clock.UNSYNCED)

    def settle(self, *, at_once: bool = False) -> Settled | None:
        """Look whether the wait for the clock is over; None while it goes on, and once it was over.

        Args:
            at_once: end it now.
        """
        if self._wait_until_ns is None:
            return None
        synced = self._state() is Clock.SYNCED
        if not (synced or at_once or self._monotonic_ns() >= self._wait_until_ns):
            return None
        held, self._held, self._wait_until_ns = self._held, [], None
        if not synced:
            if not at_once:
                logger.warning(
                    "the clock is not synchronised: windows go out with the time it has, unsynced"
                )
            return Settled({}, {})
        self._floor_us = self._sensible(self._floor_us)
        self._last_us, self._last_captured_ns = self._floor_us, None
        stamps = {each.seq: self._next(each.captured_ns) for each in held}
        ends_us = {
            each.start_us + each.duration_us: stamps[each.seq].start_us + each.duration_us
            for each in held
        }
        logger.info("the clock is synchronised: %d windows that waited for it go out", len(held))
        return Settled(stamps, ends_us)

    def now_us(self) -> int:
        """What the wall clock says now, in microseconds since 1970."""
        return self._wall_ns() // 1000

    def synced_us(self) -> int | None:
        """What `now_us` is while the wall clock is synchronised; None while it is not."""
        return self.now_us() if self._state() is Clock.SYNCED else None

    def _next(self, captured_ns: int) -> Stamp:
        state = self._state()
        if state is Clock.SYNCED:
            self._last_us = self._sensible(self._last_us)
        wall_us = (captured_ns + self._wall_ns() - self._monotonic_ns()) // 1000
        passed_us = 0
        if self._last_captured_ns is not None:
            passed_us = (captured_ns - self._last_captured_ns) // 1000
        self._last_captured_ns = captured_ns
        self._last_us = max(wall_us, self._last_us + max(1, passed_us // 2))
        is_off = abs(self._last_us - wall_us) > _OFF_US
        return Stamp(self._last_us, Clock.UNSYNCED if is_off else state)

    def _sensible(self, last_us: int) -> int:
        """The last stamp, or none where it was wrong, by a clock that is synchronised now."""
        ahead_us = last_us - self.now_us()
        if ahead_us <= _NONSENSE_US:
            return last_us
        logger.warning(
            "windows have been stamped %.1f h ahead of now: the clock was wrong", ahead_us / 3.6e9
        )
        return -1
