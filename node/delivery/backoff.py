"""When to try again what has failed: later, and later still each time. Pure."""


class Backoff:
    """Holds back the next try after a failure.

    Args:
        first_seconds: how long it is held back after a first failure.
        most_seconds: no failure holds it back for longer.
    """

    def __init__(self, *, first_seconds: float, most_seconds: float) -> None:
        self._first_seconds = self._seconds = first_seconds
        self._most_seconds = most_seconds
        self.until = -float("inf")
        """When to try again, on the monotonic clock."""

    def is_over(self, now: float) -> bool:
        """Whether it is time to try."""
        return now >= self.until

    def begin(self, now: float, *, grows: bool = True) -> None:
        """Wait after a failure; the next wait is twice as long if it `grows`."""
        self.until = now + self._seconds
        if grows:
            self._seconds = min(2 * self._seconds, self._most_seconds)

    def forget(self) -> None:
        """Try at once: something has changed, and it may work now."""
        self.until = -float("inf")

    def end(self) -> None:
        """It has worked: the next failure is a first one."""
        self.until, self._seconds = -float("inf"), self._first_seconds
