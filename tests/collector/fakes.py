"""A broker and a store that work, in memory; for tests of the service without sockets."""

from collections import Counter
from collections.abc import Callable, Sequence

from collector.ledger.hours import figures, hour_of
from collector.service import Inbox
from collector.sinks.sink import PointsRejectedError, SinkUnavailableError
from contract.errors import EarshotError
from contract.messages import WindowHour
from contract.points import Point
from contract.ranges import Ranges
from contract.session import (
    Connected,
    Delivery,
    Disconnected,
    Publication,
    Published,
    Received,
)


class FakeBroker:
    """Keeps a session: what is not acknowledged is sent again after a reconnect, in order."""

    def __init__(self, inbox: Inbox) -> None:
        self.published: list[Publication] = []
        self.acknowledged: list[int] = []
        """Packet ids, in the order of their acknowledgement."""
        self.confirms = True
        """Whether publications are answered."""
        self.connects_at_start = True
        self.stopped = False
        self._inbox = inbox
        self._generation = 0
        self._connected = False
        self._packet_id = 0
        self._kept: dict[int, tuple[str, bytes]] = {}

    @property
    def unacknowledged(self) -> list[int]:
        """Packet ids of what would come again."""
        return list(self._kept)

    def start(self) -> None:
        """As a session does, connect at once."""
        if self.connects_at_start:
            self.connect()

    def connect(self) -> None:
        """A new connection to the same session."""
        self._generation += 1
        self._connected = True
        self._inbox.put(Connected(self._generation, self._generation > 1, 20))
        for packet_id, (topic, payload) in self._kept.items():
            self._inbox.put(Received(self._generation, packet_id, topic, payload, 1, False))

    def disconnect(self) -> None:
        """The connection is lost."""
        self._connected = False
        self._inbox.put(Disconnected(self._generation, "lost", taken_over=False))

    def send(self, topic: str, payload: bytes, *, qos: int = 1) -> int:
        """Deliver a message; its packet id."""
        self._packet_id += 1
        if qos:
            self._kept[self._packet_id] = (topic, payload)
        if self._connected:
            self._inbox.put(Received(self._generation, self._packet_id, topic, payload, qos, False))
        return self._packet_id

    def publish(self, publication: Publication) -> Delivery | None:
        """Take a message from the collector."""
        if not self._connected:
            return None
        self.published.append(publication)
        delivery = Delivery(self._generation, len(self.published))
        if self.confirms:
            self._inbox.put(Published(delivery.generation, delivery.packet_id, 0, "Success"))
        return delivery

    def acknowledge(self, message: Received) -> bool:
        """Forget a message, if it came on this connection."""
        if not self._connected or message.generation != self._generation:
            return False
        self._kept.pop(message.packet_id)
        self.acknowledged.append(message.packet_id)
        return True

    def stop(self) -> None:
        """Disconnect."""
        self._connected = False
        self.stopped = True


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
            figures(node, hour_us, model, (count, None, None, None, None, None, None))
            for model, count in sorted(models.items())
        ]

    def close(self) -> None:
        """Nothing to close."""

    def seqs(self) -> list[int]:
        """Sequence numbers of the stored windows."""
        return sorted(
            int(p.fields["seq"]) for p in self.points.values() if p.measurement == "window"
        )
