"""How the collector itself is: what its loop has counted, and whether that is healthy.

Written by the loop's thread and read by that of `collector.health_endpoint`, one plain value at a
time. What is stored of it is a `Pipeline` message.
"""

import time
from collections import Counter, deque
from pathlib import Path

from contract.messages import Window
from contract.records import Pipeline
from contract.states import Clock

# Live windows since the last figures whose lag is kept: enough for two percentiles.
_KEPT_LAGS = 10_000

_PAGE_BYTES = 4096


class Metrics:
    """Counts since the start, and how things are now; times are seconds of `time.monotonic`."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        """Received, stored, windows, batches, receipts, hours, dropped, write errors, and
        `dead <reason>`."""
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
        self.missing_windows = 0
        self.reconnects = 0
        self._lags_s: deque[float] = deque(maxlen=_KEPT_LAGS)
        self._last_us = 0

    def note_stored(self, window: Window, *, now_us: int) -> None:
        """Keep how long after its end a live window was written."""
        if window.clock in (Clock.SYNCED, Clock.SIMULATED):
            self._lags_s.append((now_us - window.start_us - window.duration_us) / 1e6)

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

    def pipeline(self, collector_id: str, *, now_us: int) -> Pipeline:
        """Everything as a message to be stored; its lags are those since the last one."""
        lag_p50_s, lag_p95_s = self._take_lags()
        # Two at once, at the end, are still two points.
        self._last_us = max(now_us, self._last_us + 1)
        counts = self.counts
        return Pipeline(
            id=collector_id,
            at_us=self._last_us,
            uptime_s=time.monotonic() - self.began_at,
            received=counts["received"],
            stored_points=counts["stored"],
            stored_windows=counts["windows"],
            batches=counts["batches"],
            write_errors=counts["write errors"],
            dead_letters=sum(n for name, n in counts.items() if name.startswith("dead ")),
            dropped=counts["dropped"],
            receipts=counts["receipts"],
            waiting_messages=self.waiting_messages,
            reconnects=self.reconnects,
            connected=self.disconnected_at is None,
            storing=self.storing,
            lag_p50_s=lag_p50_s,
            lag_p95_s=lag_p95_s,
            missing_windows=self.missing_windows,
            memory_rss_bytes=_memory_rss_bytes(),
        )

    def summary(self) -> str:
        """Every count that is not 0, for the log."""
        return ", ".join(f"{name} {count}" for name, count in sorted(self.counts.items()) if count)

    def _take_lags(self) -> tuple[float | None, float | None]:
        """Median and 95th percentile of the lag since the last call, in seconds."""
        lags = sorted(self._lags_s)
        self._lags_s.clear()
        if not lags:
            return None, None
        return lags[len(lags) // 2], lags[min(len(lags) - 1, len(lags) * 95 // 100)]


def _memory_rss_bytes() -> int:
    """Memory that the program holds now; 0 where the system does not tell."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * _PAGE_BYTES
    except (OSError, ValueError, IndexError):
        return 0
