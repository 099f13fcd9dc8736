"""The collector's loop: takes what happens from an inbox, one thing at a time, until it shall stop.

What becomes of an event is for whoever gave `handle`. One thread does all this; others, and signal
handlers, only put something into the inbox.
"""

import math
import time
from collections.abc import Callable
from queue import Empty, SimpleQueue

from collector.metrics import Metrics
from contract.session import SessionEvent

# The loop turns at least so often, so that one that hangs can be told from one that waits.
_TURN_SECONDS = 1.0

_GOODBYE_SECONDS = 2.0


class Stop:
    """Put into the inbox: finish the batch at hand and leave."""


Inbox = SimpleQueue[SessionEvent | Stop]


class EventLoop:
    """Waits for events, for as long as whoever waits likes.

    Args:
        inbox: read here alone.
        handle: takes each event of the session.
        turn: called before each wait; seconds after which it wants to be called again, or None.
        metrics: told when the loop turned.
    """

    def __init__(
        self,
        inbox: Inbox,
        *,
        handle: Callable[[SessionEvent], None],
        turn: Callable[[], float | None],
        metrics: Metrics,
    ) -> None:
        self.stopping = False
        """Whether it was asked to stop."""
        self._inbox = inbox
        self._handle = handle
        self._turn = turn
        self._metrics = metrics
        self._leave_by = math.inf

    def stop(self) -> None:
        """Ask to stop; safe in a signal handler, whatever it interrupts."""
        self._inbox.put(Stop())

    @property
    def is_idle(self) -> bool:
        """Whether nothing waits to be taken."""
        return self._inbox.empty()

    def begin_goodbye(self) -> None:
        """Grant the goodbye its whole time from now on."""
        self._leave_by = time.monotonic() + _GOODBYE_SECONDS

    def take(self, timeout_seconds: float | None) -> None:
        """Take one event, or none: whoever waits for one asks again."""
        wait_seconds = _TURN_SECONDS
        for seconds in (timeout_seconds, self._turn()):
            if seconds is not None and seconds < wait_seconds:
                wait_seconds = seconds
        self._metrics.turned_at = time.monotonic()
        try:
            event = self._inbox.get(timeout=wait_seconds)
        except Empty:
            return
        if isinstance(event, Stop):
            self.stopping = True
            self.begin_goodbye()
        else:
            self._handle(event)

    def take_for(self, seconds: float) -> bool:
        """Take what comes for so long; False as soon as it shall stop."""
        deadline = time.monotonic() + seconds
        while not self.stopping and (left := deadline - time.monotonic()) > 0.0:
            self.take(left)
        return not self.stopping

    def take_until(self, done: Callable[[], bool]) -> bool:
        """Take what comes until something is so; False when the time for a goodbye is over."""
        while not done():
            left = self._leave_by - time.monotonic()
            if left <= 0.0:
                return False
            self.take(left if self.stopping else None)
        return True
