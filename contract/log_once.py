"""A warning for the first thing of its kind, and a debug line for every other: no flood of them."""

import logging


class LogOnce:
    """Remembers of which kinds of things was warned.

    Args:
        logger: where the lines go.
    """

    def __init__(self, logger: logging.Logger) -> None:
        self._logger = logger
        self._warned: set[str] = set()

    def warn(self, kind: str, text: str, *values: object) -> None:
        """Log a line, as a warning if it is the first of its kind."""
        level = logging.DEBUG if kind in self._warned else logging.WARNING
        self._warned.add(kind)
        self._logger.log(level, text, *values)

    @property
    def kinds(self) -> int:
        """How many kinds of things there were."""
        return len(self._warned)
