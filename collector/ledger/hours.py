"""Hours of windows: which have to be counted, and when. Knows no clock, no file and no store.

An hour that has got a window is *due* once it has ended and nothing has come for it for a while. A
window that comes later still makes it due once more: to count it again overwrites what was stored.
"""

from collections.abc import Sequence
from heapq import heappop, heappush, heapreplace

from contract.messages import WindowHour

Hour = tuple[str, int]
"""A node, and when the hour began, in microseconds since 1970, UTC."""

HOUR_US = 3600 * 1_000_000

# Live windows are stored within seconds; a node that comes back sends its backlog for minutes, and
# an hour that is counted in the middle of it is counted twice.
QUIET_SECONDS = 600.0


def hour_of(time_us: int) -> int:
    """When the hour began in which this time lies."""
    return time_us - time_us % HOUR_US


def figures(node: str, hour_us: int, model: str, answer: Sequence[float | None]) -> WindowHour:
    """An hour of one model, as a store has counted it.

    Args:
        node: its id.
        hour_us: when the hour began.
        model: of the windows.
        answer: how many windows, scored and flagged; the score's mean and maximum, the means of mse
            and level. None where there is nothing to count.
    """
    windows, scored, flagged = (int(count or 0) for count in answer[:3])
    score_mean, score_max, mse_mean, level_mean_dbfs = (
        None if value is None else float(value) for value in answer[3:]
    )
    return WindowHour(
        node=node,
        model=model,
        start_us=hour_us,
        windows=windows,
        scored=scored,
        flagged=flagged,
        score_mean=score_mean,
        score_max=score_max,
        mse_mean=mse_mean,
        level_mean_dbfs=level_mean_dbfs,
    )


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
        """A window of this hour is stored now."""
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
        """It is counted, and what was heard of it is in the count."""
        self._heard_us.pop(hour, None)
