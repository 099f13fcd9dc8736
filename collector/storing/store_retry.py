"""What is done when the store cannot take anything: wait, and try the same again until it works."""

import logging
import random
import time
from collections.abc import Callable

from collector.metrics import Metrics
from collector.sinks.sink import SinkUnavailableError

logger = logging.getLogger(__name__)


class RetryPolicy:
    """How long to wait for a store: full jitter below a bound that grows."""

    BASE_SECONDS = 1.0
    CAP_SECONDS = 30.0

    def __init__(self, chance: random.Random | None = None) -> None:
        self._chance = chance or random.Random()

    def delay_seconds(self, failures: int, *, at_least: float | None = None) -> float:
        """Seconds to wait after so many failures in a row, and as long as the store asked for."""
        bound = min(self.CAP_SECONDS, self.BASE_SECONDS * 2 ** min(failures - 1, 16))
        return max(self._chance.uniform(0.0, bound), at_least or 0.0)


class StoreRetry:
    """Does what needs the store, waiting for it as long as it takes.

    Args:
        policy: how long to wait after each failure.
        wait: waits for so many seconds; False when the program has to stop.
        recovered: called after failures, with the time of the first in microseconds since 1970.
        metrics: told whether the store works.
    """

    def __init__(
        self,
        policy: RetryPolicy,
        *,
        wait: Callable[[float], bool],
        recovered: Callable[[int], None],
        metrics: Metrics,
    ) -> None:
        self._policy = policy
        self._wait = wait
        self._recovered = recovered
        self._metrics = metrics

    def succeeds(self, action: Callable[[], None]) -> bool:
        """Try until it works; False when the program has to stop before."""
        failures = 0
        said = ""
        since, since_us = time.monotonic(), time.time_ns() // 1000
        while True:
            try:
                action()
            except SinkUnavailableError as error:
                failures += 1
                self._metrics.counts["write errors"] += 1
                self._metrics.storing = False
                # One line when it breaks and one when the reason changes, not one per try.
                if str(error) != said:
                    said = str(error)
                    logger.error("cannot store, so nothing is acknowledged: %s", said)
                delay = self._policy.delay_seconds(failures, at_least=error.retry_after_seconds)
                logger.debug("next try in %.1f s", delay)
                if not self._wait(delay):
                    return False
            else:
                self._metrics.storing = True
                if failures:
                    away = time.monotonic() - since
                    logger.warning("storing again after %.0f s, %d tries", away, failures)
                    self._recovered(since_us)
                return True
