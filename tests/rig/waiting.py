"""Waiting for what another thread or process does."""

import time
from collections.abc import Callable
from typing import Final

_POLL_SECONDS: Final = 0.01


def wait_until(condition: Callable[[], bool], what: str, *, seconds: float = 60.0) -> None:
    """Poll until the condition holds.

    Raises:
        TimeoutError: It did not hold in time; the text says what was awaited.
    """
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"Expected within {seconds:g} s: {what}")
        time.sleep(_POLL_SECONDS)
