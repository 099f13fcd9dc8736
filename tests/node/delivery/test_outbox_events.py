"""Events that wait, each under a key of its own."""

import msgspec

from node.delivery.outbox_events import OutboxEvents
from tests.rig.examples import EVENT

EVENTS = tuple(msgspec.structs.replace(EVENT, windows=number) for number in range(3))


def test_events_wait_in_their_order() -> None:
    """Until they are done; one that is done twice is done."""
    events = OutboxEvents()
    for event in EVENTS:
        events.add(event, 0.0)
    (_, (second, _), _) = events

    events.done(second, 1.0)
    events.done(second, 2.0)

    assert [event for _, event in events] == [EVENTS[0], EVENTS[2]]
    assert len(events.unsaved) == 2


def test_oldest_event_goes_where_there_are_too_many() -> None:
    """A broker that takes none for a year must not fill the memory."""
    events = OutboxEvents()
    full = [events.add(EVENT, float(number)) for number in range(401)]

    assert full == [False] * 400 + [True]
    assert len(events) == 400
    assert min(events.unsaved.values()) == 1.0


def test_event_is_deleted_on_the_disk_only_if_it_is_there() -> None:
    """What never was on the disk needs no write when it is done."""
    events = OutboxEvents()
    events.add(EVENTS[0], 0.0)
    events.saved()
    events.add(EVENTS[1], 1.0)
    (saved, _), (unsaved, _) = events

    events.done(saved, 2.0)
    events.done(unsaved, 3.0)

    assert dict(events.undeleted) == {saved: 2.0}


def test_event_that_is_found_late_gets_another_key() -> None:
    """Its own may be taken by then; what the disk has under it is to be deleted first."""
    events = OutboxEvents()
    events.add(EVENTS[1], 0.0)
    ((taken, _),) = events

    events.found(taken, EVENTS[0], 5.0, renumber=True)

    assert [event for _, event in events] == [EVENTS[1], EVENTS[0]]
    assert len({key for key, _ in events}) == 2
    assert list(events.undeleted) == [taken]


def test_event_that_cannot_be_read_is_only_deleted() -> None:
    """It waits for nobody, and costs no other event anything."""
    events = OutboxEvents()

    events.found(7, None, 0.0, renumber=False)

    assert len(events) == 0
    assert list(events.undeleted) == [7]


def test_events_of_a_lost_file_are_saved_anew() -> None:
    """Memory has them all; nothing is left to delete."""
    events = OutboxEvents()
    for event in EVENTS:
        events.add(event, 0.0)
    events.saved()
    ((first, _), *_) = events
    events.done(first, 1.0)

    events.file_is_lost(2.0)

    assert list(events.unsaved.values()) == [2.0, 2.0]
    assert (events.on_disk, len(events.undeleted)) == (set(), 0)
