"""Counts hours of windows in the store, one at a time, and stores the figures.

Which hour is due is for `collector.ledger.hours`; what waits is kept in the ledger's file, so that
a start anew goes on with it. Nothing else waits for an hour to be counted.
"""

import logging
import time
from collections.abc import Callable

from collector.ledger.hours import QUIET_SECONDS, Hour, Hours
from collector.ledger.ledger_file import LedgerFile
from collector.metrics import Metrics
from collector.sinks.hour_figures import hour_of
from collector.sinks.sink import PointsRejectedError, Sink, SinkUnavailableError
from collector.storing.store_retry import RetryPolicy
from contract.log_once import LogOnce
from contract.messages import Backlog, Message, Window
from contract.points import points

logger = logging.getLogger(__name__)

# To count hours takes at most a fifth of the time, however slow the store: windows come first.
_REST_AFTER_AN_HOUR = 4.0


class HourCounter:
    """Hears which hours have got windows, and counts each when it is over.

    Args:
        file: where hours that wait to be counted are kept.
        sink: which counts, and takes the figures.
        policy: how long to wait for the store after a failure.
        metrics: told of each hour.
        now_us: from when on what was read from the file waits for its time.
        quiet_seconds: an hour is counted when so long no window has come for it.
        monotonic: seconds, by which rests are timed.

    Raises:
        SinkUnavailableError: the file cannot be read.
    """

    def __init__(
        self,
        file: LedgerFile,
        sink: Sink,
        policy: RetryPolicy,
        metrics: Metrics,
        *,
        now_us: int,
        quiet_seconds: float = QUIET_SECONDS,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.unsaved: set[Hour] = set()
        """Heard of, and not in the file yet; whoever saves them there clears this."""
        self._file = file
        self._sink = sink
        self._policy = policy
        self._metrics = metrics
        self._monotonic = monotonic
        self._hours = Hours(quiet_seconds=quiet_seconds)
        for hour in file.dirty_hours():
            self._hours.hear(hour, now_us=now_us)
        self._not_before = 0.0
        """No hour is counted before; of `monotonic`."""
        self._failures = 0
        self._once = LogOnce(logger)

    def hear(self, message: Message, *, now_us: int) -> None:
        """Take in that the windows of a message are stored."""
        match message:
            case Window():
                self._hear(message, now_us)
            case Backlog():
                for window in message.windows:
                    self._hear(window, now_us)

    def count_one(self, *, now_us: int) -> bool:
        """Store the figures of one hour, if one is due; whether it was tried."""
        began = self._monotonic()
        if began < self._not_before:
            return False
        hour = self._hours.due(now_us=now_us)
        if hour is None:
            return False
        delay = 0.0
        try:
            self._count(hour)
        except SinkUnavailableError as error:
            # Windows may well be stored meanwhile, so this is no reason to wait for the store.
            level = logging.DEBUG if self._failures else logging.ERROR
            logger.log(level, "cannot store hourly figures, will try again: %s", error)
            self._failures += 1
            # Others have their turn.
            self._hours.hear(hour, now_us=now_us)
            delay = self._policy.delay_seconds(self._failures, at_least=error.retry_after_seconds)
        else:
            if self._failures:
                logger.warning("hourly figures are stored again after %d failures", self._failures)
            self._failures = 0
        now = self._monotonic()
        self._not_before = now + max(delay, (now - began) * _REST_AFTER_AN_HOUR)
        return True

    def _hear(self, window: Window, now_us: int) -> None:
        hour = (window.node, hour_of(window.start_us))
        if hour not in self._hours:
            self.unsaved.add(hour)
        self._hours.hear(hour, now_us=now_us)

    def _count(self, hour: Hour) -> None:
        found = self._sink.hours(*hour)
        figures = [point for message in found for point in points(message, arrived_us=0)]
        try:
            self._sink.write(figures)
            self._metrics.counts["hours"] += 1
        except PointsRejectedError as error:
            # It is not tried again until another window of it comes.
            self._once.warn("hour", "the store refuses hourly figures: %s", error)
        self._file.forget_hour(hour)
        self._hours.done(hour)
