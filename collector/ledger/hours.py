"""Hours of windows: which have to be counted, and when. Knows no clock, no file and no store.

An hour that has got a window is *due* once it has ended and nothing has come for it for a while. A
window that comes later still makes it due once more: to count it again overwrites what was stored.
"""

from heapq import heappop, heappush, heapreplace

from collector.sinks.hour_figures import HOUR_US

Hour = tuple[str, int]
"""A node, and when the hour began, in microseconds since 1970, UTC."""

# Live windows are stored within seconds; a node that comes back sends its backlog for minutes, and
# an hour that is counted in the middle of it is counted twice.
QUIET_SECONDS = 600.0


class Hours:
    """Hours that wait to be counted.

    Args:
        quiet_seconds: so long nothing must have come for an hour.
    """

    def __init__(self, *, quiet_seconds: float = QUIET_SECONDS) -> None:
        self._quiet_us = round(quiet_seconds * 1_000_000)
        self._heard_us: dict[Hour, int] = {}
        self._by_time: list[tuple[int, Hour]] = []
        """A heap: no hour is due before the time that stands with it here."""

    def __contains__(self, hour: Hour) -> bool:
        return hour in self._heard_us

    def hear(self, hour: Hour, *, now_us: int) -> None:
        """Take in that a window of this hour is stored now."""
        if hour not in self._heard_us:
            heappush(self._by_time, (now_us, hour))
        self._heard_us[hour] = now_us

    def due(self, *, now_us: int) -> Hour | None:
        """An hour to count now, the same until it is `done` or heard of; None if there is none."""
        while self._by_time and self._by_time[0][0] <= now_us:
            _, hour = self._by_time[0]
            heard_us = self._heard_us.get(hour)
            if heard_us is None:
                heappop(self._by_time)
                continue
            due_us = max(hour[1] + HOUR_US, heard_us + self._quiet_us)
            if due_us <= now_us:
                return hour
            heapreplace(self._by_time, (due_us, hour))
        return None

    def done(self, hour: Hour) -> None:
        """Take in that an hour is counted, with all that was heard of it."""
        self._heard_us.pop(hour, None)
