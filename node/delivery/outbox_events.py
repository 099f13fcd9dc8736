"""Events that wait for the broker, each until it has them or never will. Pure.

To write them to the disk, and to delete them there, is `outbox_disk`'s.
"""

from collections import OrderedDict
from collections.abc import Iterator, Mapping
from typing import Final

import msgspec

from contract.messages import Event

# Events are few; this is a year of false alarms at one a day, or a fault in the making.
_MAX_EVENTS: Final = 400


class OutboxEvents:
    """Events in their order, each under a key of its own."""

    def __init__(self) -> None:
        self._events: OrderedDict[int, Event] = OrderedDict()
        self._added = 0
        self.unsaved: OrderedDict[int, float] = OrderedDict()
        """Keys of the events that are in memory alone, with the time at which each came in."""
        self.on_disk: set[int] = set()
        """Keys of the events that are on the disk, too."""
        self.undeleted: OrderedDict[int, float] = OrderedDict()
        """Keys that are to be deleted on the disk, with the time since when."""

    def __len__(self) -> int:
        return len(self._events)

    def __iter__(self) -> Iterator[tuple[int, Event]]:
        """Key and event, oldest first; may be changed meanwhile."""
        return iter(tuple(self._events.items()))

    def __getitem__(self, key: int) -> Event:
        return self._events[key]

    def add(self, event: Event, now: float) -> bool:
        """Take in an event; gives whether the oldest one had to go for it."""
        self._added += 1
        self._events[self._added] = event
        self.unsaved[self._added] = now
        if len(self._events) <= _MAX_EVENTS:
            return False
        self.done(next(iter(self._events)), now)
        return True

    def done(self, key: int, now: float) -> None:
        """Let go of an event that the broker has, or never will have."""
        self._events.pop(key, None)
        self.unsaved.pop(key, None)
        if key in self.on_disk:
            self.on_disk.discard(key)
            self.undeleted[key] = now

    def found(self, key: int, event: Event | None, now: float, *, renumber: bool) -> None:
        """Take in what the disk has.

        Args:
            key: of the event.
            event: None if it cannot be read: then it is to be deleted.
            now: on the monotonic clock.
            renumber: whether another event may have its key by now: it gets a new one.
        """
        if event is not None and not renumber:
            self._added = max(self._added, key)
            self._events[key] = event
            self.on_disk.add(key)
            return
        self.undeleted[key] = now
        if event is not None:
            self.add(event, now)

    def restamp(self, boot: str, ends_us: Mapping[int, int]) -> None:
        """Give the events of a boot their right time.

        Args:
            boot: of the events.
            ends_us: by what a window's end was taken for, what it is; microseconds.
        """
        for key, event in self._events.items():
            if event.boot == boot:
                self._events[key] = msgspec.structs.replace(
                    event,
                    at_us=ends_us.get(event.at_us, event.at_us),
                    opened_us=ends_us.get(event.opened_us, event.opened_us),
                )

    def saved(self) -> None:
        """Note that all events are on the disk."""
        self.on_disk.update(self.unsaved)
        self.unsaved.clear()

    def file_is_lost(self, now: float) -> None:
        """Note that what was on the disk is in memory alone: it is to be saved anew."""
        for key in sorted(self.on_disk):
            self.unsaved[key] = now
        self.on_disk.clear()
        self.undeleted.clear()
