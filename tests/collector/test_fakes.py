"""The fakes do what tests of the service lean on."""

import pytest

from collector.service import Inbox
from collector.sinks.sink import PointsRejectedError
from contract.session import Connected, Publication, Published, Received
from tests.collector.examples import window_points
from tests.collector.fakes import FakeBroker, MemorySink


def test_broker_sends_what_is_not_acknowledged_again() -> None:
    """After a reconnect the unacknowledged messages come again, in order."""
    inbox = Inbox()
    broker = FakeBroker(inbox)
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
    broker = FakeBroker(inbox)
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
    broker = FakeBroker(inbox)
    publication = Publication(topic="t", payload=b"x")

    assert broker.publish(publication) is None
    broker.start()
    assert broker.publish(publication) is not None
    inbox.get()
    assert isinstance(inbox.get(), Published)


def test_sink_stores_all_of_a_batch_or_nothing() -> None:
    """A refused point keeps its batch out; writing a point twice keeps one."""
    sink = MemorySink()
    sink.refuses = lambda point: point.fields["seq"] == 2

    with pytest.raises(PointsRejectedError):
        sink.write(window_points(1, 2))
    sink.write(window_points(1, 3))
    sink.write(window_points(3))

    assert sink.seqs() == [1, 3]
