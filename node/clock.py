"""When a window was heard, and how far the system's clock can be trusted."""

import ctypes
import ctypes.util
import os
import time
from collections.abc import Callable

from contract.messages import Clock

# ULID: Crockford's base 32, 48 bits of milliseconds and 80 random bits.
_CROCKFORD = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"

# adjtimex(2): the return value that means "not synchronised", and room for any struct timex.
_TIME_ERROR = 5
_TIMEX_BYTES = 512


def new_boot_id(at_ms: int, chance: bytes) -> str:
    """A ULID for this start of the node.

    Args:
        at_ms: milliseconds since 1970.
        chance: 10 random bytes.
    """
    number = (at_ms & (2**48 - 1)) << 80 | int.from_bytes(chance, "big")
    return "".join(_CROCKFORD[number >> shift & 31] for shift in range(125, -1, -5))


class WindowClock:
    """Turns capture times into microseconds since 1970, strictly increasing.

    Args:
        wall_ns: for example `time.time_ns`.
        monotonic_ns: for example `time.monotonic_ns`.
    """

    def __init__(
        self,
        wall_ns: Callable[[], int] = time.time_ns,
        monotonic_ns: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        self._wall_ns = wall_ns
        self._monotonic_ns = monotonic_ns
        self._last_us = -1

    def start_us(self, captured_monotonic_ns: int) -> int:
        """The time stamp of a window that began then; later than every one before."""
        offset_ns = self._wall_ns() - self._monotonic_ns()
        self._last_us = max(self._last_us + 1, (captured_monotonic_ns + offset_ns) // 1000)
        return self._last_us

    def now_us(self) -> int:
        """Microseconds since 1970 now."""
        return self._wall_ns() // 1000


def system_clock() -> Clock:
    """Whether the kernel's clock is kept in step by somebody (NTP, PTP)."""
    if os.name != "posix" or not hasattr(time, "CLOCK_BOOTTIME"):
        return Clock.UNSYNCED
    libc = ctypes.CDLL(ctypes.util.find_library("c"), use_errno=True)
    # A zeroed struct timex has modes = 0: read only.
    state = libc.adjtimex(ctypes.create_string_buffer(_TIMEX_BYTES))
    return Clock.UNSYNCED if state in (-1, _TIME_ERROR) else Clock.SYNCED
