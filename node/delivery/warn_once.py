"""Warnings that may come for every message: one line in the log for each kind of them."""

import logging

logger = logging.getLogger(__name__)


class WarnOnce:
    """Warns of the first of a kind; those that follow are for whoever looks for a defect."""

    def __init__(self) -> None:
        self._warned: set[str] = set()

    def __call__(self, kind: str, text: str) -> None:
        """Log a text: as a warning if it is the first of its kind, else at the level of debug."""
        level = logging.DEBUG if kind in self._warned else logging.WARNING
        self._warned.add(kind)
        logger.log(level, "%s", text)

    @property
    def kinds(self) -> int:
        """How many kinds there were."""
        return len(self._warned)
