"""What waits to be stored, in order of arrival, and when a batch of it is due. Knows no clock.

What waits is bounded in memory, however long the store is away. A message waits as it was decoded,
without its payload; its points are made when they are written, of one batch at a time. A backlog of
50 windows takes 40 KB so. The receive maximum bounds what the broker waits for, `batch_points`
messages: for the default of 500 that is 20 MB of backlogs at most. What the broker does not wait
for (messages of QoS 0, and those of an earlier connection, which it sends again) is given up,
oldest first, beyond four times as many messages: 80 MB in all.
"""

from collections import deque

from collector.storing.intake import Item

_LIMIT_BATCHES = 4
# Back-filled windows come fifty to a message. A batch is due with `batch_points` of them, but takes
# what else is there up to ten times as many: to write down and sync each batch costs as much as to
# store hundreds of windows.
_MOST_BATCHES_AT_ONCE = 10


class Batcher:
    """Items in, batches out.

    Args:
        batch_points: a batch is due when so many points, or messages, wait.
        batch_seconds: ... or when the first has waited so long.
    """

    def __init__(self, *, batch_points: int, batch_seconds: float) -> None:
        self._batch_points = batch_points
        self._batch_seconds = batch_seconds
        self._limit = _LIMIT_BATCHES * batch_points
        self._waiting: deque[tuple[float, Item]] = deque()
        self._points = 0

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, item: Item, *, now_seconds: float) -> list[Item]:
        """Let an item wait.

        Returns:
            What had to be given up for it; the item itself, if it is the least promised.
        """
        generation = 0 if item.received is None else item.received.generation
        dropped = []
        while len(self._waiting) >= self._limit and _may_drop(self._waiting[0][1], generation):
            dropped.append(self._pop())
        if len(self._waiting) >= self._limit and _may_drop(item, generation):
            return [*dropped, item]
        self._waiting.append((now_seconds, item))
        self._points += item.size
        return dropped

    def seconds_left(self, *, now_seconds: float) -> float | None:
        """Seconds until a batch is due: 0 when it is, None when nothing waits."""
        if not self._waiting:
            return None
        if max(self._points, len(self._waiting)) >= self._batch_points:
            return 0.0
        return max(0.0, self._waiting[0][0] + self._batch_seconds - now_seconds)

    @property
    def is_full(self) -> bool:
        """Whether a batch could hold no more than what waits."""
        return self._is_full(messages=len(self._waiting), points=self._points)

    @property
    def oldest_seconds(self) -> float | None:
        """When the oldest of what waits was added, in seconds; None when nothing waits."""
        return self._waiting[0][0] if self._waiting else None

    def take(self) -> list[Item]:
        """The next batch: the oldest items, until it is full."""
        batch: list[Item] = []
        points = 0
        while self._waiting and not self._is_full(messages=len(batch), points=points):
            batch.append(self._pop())
            points += batch[-1].size
        return batch

    def _is_full(self, *, messages: int, points: int) -> bool:
        most_points = _MOST_BATCHES_AT_ONCE * self._batch_points
        return messages >= self._batch_points or points >= most_points

    def _pop(self) -> Item:
        _, item = self._waiting.popleft()
        self._points -= item.size
        return item


def _may_drop(item: Item, generation: int) -> bool:
    """Whether nobody was promised this item, or somebody will send it again."""
    received = item.received
    return received is None or received.qos == 0 or received.generation < generation
