"""The broker in memory does what tests lean on."""

from collector.link.event_loop import Inbox
from contract.session import Connected, Publication, Published, Received, SessionEvent
from tests.rig.fake_broker import FakeBroker


def test_broker_sends_what_is_not_acknowledged_again() -> None:
    """After a reconnect the unacknowledged messages come again, in order."""
    inbox = Inbox()
    broker = FakeBroker(inbox.put)
    broker.start()
    ids = [broker.send("t", b"%d" % number) for number in range(3)]
    events = [inbox.get() for _ in range(4)]
    first = events[1]
    assert isinstance(first, Received)

    broker.acknowledge(first)
    broker.disconnect()
    broker.connect()

    inbox.get()
    assert inbox.get() == Connected(2, session_present=True, max_in_flight=20)
    again = [inbox.get() for _ in range(2)]
    assert [e.packet_id for e in again if isinstance(e, Received)] == ids[1:]


def test_broker_ignores_an_acknowledgement_of_an_earlier_connection() -> None:
    """A message of generation 1 cannot be acknowledged in generation 2."""
    inbox = Inbox()
    broker = FakeBroker(inbox.put)
    broker.start()
    broker.send("t", b"x")
    inbox.get()
    message = inbox.get()
    assert isinstance(message, Received)
    broker.disconnect()
    broker.connect()

    assert not broker.acknowledge(message)
    assert broker.unacknowledged == [1]


def test_broker_confirms_only_what_reaches_it() -> None:
    """A publication is answered while connected, and is None otherwise."""
    inbox = Inbox()
    broker = FakeBroker(inbox.put)
    publication = Publication(topic="t", payload=b"x")

    assert broker.publish(publication) is None
    broker.start()
    assert broker.publish(publication) is not None
    inbox.get()
    assert isinstance(inbox.get(), Published)


def test_broker_sends_what_is_retained_when_it_is_asked_for() -> None:
    """A retained message comes once for each time that its topic is followed, damaged or not."""
    events: list[SessionEvent] = []
    broker = FakeBroker(events.append, damage=lambda topic, payload: payload[:1])
    broker.kept["t"] = b"xy"

    broker.connect("t")
    broker.follow("t")

    received = [event for event in events if isinstance(event, Received)]
    assert [(event.payload, event.retained) for event in received] == [(b"x", True)] * 2
