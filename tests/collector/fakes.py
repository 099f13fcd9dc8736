"""A store that works, in memory; for tests of the service without a database."""

from collections import Counter
from collections.abc import Callable, Sequence

from collector.sinks.hour_figures import hour_of, window_hour
from collector.sinks.sink import PointsRejectedError, SinkUnavailableError
from contract.errors import EarshotError
from contract.points import Point
from contract.ranges import Ranges
from contract.records import WindowHour


class MemorySink:
    """Overwrites a point with the same measurement, tags and time."""

    def __init__(self) -> None:
        self.failure: EarshotError | None = None
        """Raised by every write while set."""
        self.fails_for: str | None = None
        """A measurement that cannot be stored now."""
        self.refuses: Callable[[Point], bool] = lambda _: False
        """Points that make a batch fail; the others of the batch are not stored."""
        self.points: dict[tuple[str, tuple[str, ...], int], Point] = {}
        self.batches: list[int] = []
        """Sizes of what was stored."""
        self.tries = 0
        self.on_hours: Callable[[], None] = lambda: None
        """Called whenever an hour is counted."""
        self.asked: list[tuple[str, str]] = []
        """Boots of which was asked what is stored."""

    def write(self, points: Sequence[Point]) -> None:
        """Store or raise."""
        self.tries += 1
        if self.failure is not None:
            raise self.failure
        if any(point.measurement == self.fails_for for point in points):
            raise SinkUnavailableError(f"{self.fails_for}: away")
        if any(map(self.refuses, points)):
            raise PointsRejectedError("a bad point")
        self.batches.append(len(points))
        for point in points:
            self.points[point.measurement, tuple(point.tags.values()), point.time_us] = point

    def stored_seqs(self, node: str, boot: str) -> Ranges:
        """Numbers of the windows of one boot, or raise."""
        self.asked.append((node, boot))
        if self.failure is not None:
            raise self.failure
        return Ranges(
            (int(p.fields["seq"]), int(p.fields["seq"]))
            for p in self.points.values()
            if p.measurement == "window" and (p.tags["node"], p.fields["boot"]) == (node, boot)
        )

    def hours(self, node: str, hour_us: int) -> list[WindowHour]:
        """How many windows of each model there are in an hour, or raise; no other figures."""
        self.on_hours()
        if self.failure is not None:
            raise self.failure
        models = Counter(
            p.tags["model"]
            for p in self.points.values()
            if p.measurement == "window"
            and p.tags["node"] == node
            and hour_of(p.time_us) == hour_us
        )
        return [
            window_hour(node, hour_us, model, (count, None, None, None, None, None, None))
            for model, count in sorted(models.items())
        ]

    def close(self) -> None:
        """Nothing to close."""

    def seqs(self) -> list[int]:
        """Sequence numbers of the stored windows."""
        return sorted(
            int(p.fields["seq"]) for p in self.points.values() if p.measurement == "window"
        )
