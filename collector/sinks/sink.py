"""Where points are stored: what a sink is, and the three ways in which it fails."""

from collections.abc import Sequence
from typing import Protocol

from contract.errors import EarshotError
from contract.points import Point
from contract.ranges import Ranges
from contract.records import WindowHour


class SinkUnavailableError(EarshotError):
    """The store cannot take anything now: wait and try the same points again, for ever."""

    def __init__(self, text: str, *, retry_after_seconds: float | None = None) -> None:
        self.retry_after_seconds = retry_after_seconds
        """How long the store asked us to wait; None where it did not."""
        super().__init__(text)


class PointsRejectedError(EarshotError):
    """The store works and refuses these points: halve them until the bad one is found.

    Some of them may have been stored, which does no harm: storing them again changes nothing.
    """


class SinkSetupError(EarshotError):
    """The store cannot be used as it is: stop, and let somebody see to it."""


class Sink(Protocol):
    """A store that overwrites a point with the same measurement, tags and time."""

    def write(self, points: Sequence[Point]) -> None:
        """Store points so that they survive a crash once this returns.

        Raises:
            SinkUnavailableError: the store cannot take anything now.
            PointsRejectedError: it works, and refuses some of these points.
        """

    def stored_seqs(self, node: str, boot: str) -> Ranges:
        """Numbers of the windows of one boot that are stored; asked rarely, and may take long.

        Raises:
            SinkUnavailableError: the store cannot answer now.
        """

    def hours(self, node: str, hour_us: int) -> list[WindowHour]:
        """What is stored of a node's windows of one hour, in figures: one entry for each model.

        Args:
            node: its id.
            hour_us: when the hour began, in microseconds since 1970.

        Raises:
            SinkUnavailableError: the store cannot answer now.
        """

    def close(self) -> None:
        """Close the store; nothing may be written afterwards."""
