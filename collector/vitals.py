"""How the collector itself is: what its loop writes down, and whether that is healthy.

Written by the loop's thread and read by that of `collector.health`, one plain value at a time.
"""

import time
from collections import deque
from pathlib import Path

from contract.messages import Clock, Window

# Live windows since the last figures whose lag is kept: enough for two percentiles.
_KEPT_LAGS = 10_000

_PAGE_BYTES = 4096


class Vitals:
    """What the loop does, in seconds of `time.monotonic`."""

    def __init__(self) -> None:
        self.began_at = time.monotonic()
        self.turned_at = self.began_at
        """When the loop last turned."""
        self.disconnected_at: float | None = self.began_at
        """Since when there is no broker; None while there is one."""
        self.waiting_since: float | None = None
        """When the oldest message came that is neither stored nor acknowledged."""
        self.waiting_messages = 0
        self.storing = True
        """Whether the last write has worked."""
        self.received = 0
        self.stored_points = 0
        self.missing_windows = 0
        self._lags: deque[float] = deque(maxlen=_KEPT_LAGS)

    def note_stored(self, window: Window, *, now_us: int) -> None:
        """A live window has been written: how long after its end."""
        if window.clock is not Clock.UNSYNCED:
            self._lags.append((now_us - window.start_us - window.duration_us) / 1e6)

    def take_lags(self) -> tuple[float | None, float | None]:
        """Median and 95th percentile of the lag since the last call, in seconds."""
        lags = sorted(self._lags)
        self._lags.clear()
        if not lags:
            return None, None
        return lags[len(lags) // 2], lags[min(len(lags) - 1, len(lags) * 95 // 100)]

    def trouble(self, *, now_seconds: float, stall_seconds: float) -> str | None:
        """What has been wrong for longer than it may be; None when the collector is healthy."""
        for since, text in (
            (self.turned_at, "the program has not moved"),
            (self.disconnected_at, "no connection to the broker"),
            (self.waiting_since, "messages wait and cannot be stored"),
        ):
            if since is not None and now_seconds - since > stall_seconds:
                return f"{text} for {now_seconds - since:.0f} s"
        return None


def memory_rss_bytes() -> int:
    """Memory that the program holds now; 0 where the system does not tell."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * _PAGE_BYTES
    except (OSError, ValueError, IndexError):
        return 0
