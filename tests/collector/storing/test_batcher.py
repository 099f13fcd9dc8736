"""Batches are due by size or by age, in order of arrival, and what waits is bounded."""

from collector.storing.batcher import Batcher
from collector.storing.intake import Intake, Item
from contract.messages import Message
from tests.rig.examples import backlog, received, window


def item(
    message: Message | bytes, *, generation: int = 1, packet_id: int = 1, qos: int = 1
) -> Item:
    came = received(message, generation=generation, packet_id=packet_id, qos=qos)
    return Intake("collector").take(came, arrived_us=0)


def packet_ids(items: list[Item]) -> list[int]:
    return [i.received.packet_id for i in items if i.received is not None]


def test_nothing_is_due_while_nothing_waits() -> None:
    """An empty batcher has no deadline."""
    assert Batcher(batch_points=3, batch_seconds=1.0).seconds_left(now_seconds=5.0) is None


def test_batch_is_due_when_its_first_item_has_waited() -> None:
    """Later items do not put it off."""
    batcher = Batcher(batch_points=10, batch_seconds=1.0)
    batcher.add(item(window(0)), now_seconds=5.0)
    batcher.add(item(window(1)), now_seconds=5.75)

    assert batcher.seconds_left(now_seconds=5.75) == 0.25
    assert batcher.seconds_left(now_seconds=7.0) == 0.0


def test_batch_is_due_when_it_has_enough_points() -> None:
    """A backlog counts with all of its windows."""
    batcher = Batcher(batch_points=3, batch_seconds=1.0)
    batcher.add(item(backlog(0, 1, 2)), now_seconds=5.0)

    assert batcher.seconds_left(now_seconds=5.0) == 0.0


def test_batch_is_due_when_the_broker_would_send_no_more() -> None:
    """So many messages without a point, dead letters say, fill the receive maximum as well."""
    batcher = Batcher(batch_points=3, batch_seconds=1.0)
    for _ in range(3):
        batcher.add(item(b"{"), now_seconds=5.0)

    assert batcher.seconds_left(now_seconds=5.0) == 0.0


def test_batches_keep_the_order_of_arrival() -> None:
    """Each item is taken once, oldest first."""
    batcher = Batcher(batch_points=2, batch_seconds=1.0)
    for number in range(5):
        batcher.add(item(window(number), packet_id=number), now_seconds=5.0)

    taken = [packet_ids(batcher.take()) for _ in range(4)]

    assert taken == [[0, 1], [2, 3], [4], []]
    assert batcher.seconds_left(now_seconds=9.0) is None


def test_back_filled_windows_go_along_ten_times_as_many() -> None:
    """A batch is due with as many points as ever, and takes what else is there up to ten times."""
    batcher = Batcher(batch_points=2, batch_seconds=60.0)
    for number in range(4):
        batcher.add(item(backlog(*range(10 * number, 10 * number + 10))), now_seconds=0.0)

    assert batcher.seconds_left(now_seconds=0.0) == 0.0
    assert batcher.is_full
    assert [sum(i.size for i in batcher.take()) for _ in range(3)] == [20, 20, 0]
    assert not batcher.is_full


def test_messages_without_acknowledgement_are_given_up_beyond_the_limit() -> None:
    """QoS 0 is dropped, oldest first; what the broker waits for is kept."""
    batcher = Batcher(batch_points=1, batch_seconds=1.0)
    kept = [item(window(n), packet_id=n) for n in range(2)]
    loose = [item(window(n), packet_id=n, qos=0) for n in range(2, 6)]
    for each in (*loose[:2], *kept):
        assert batcher.add(each, now_seconds=0.0) == []

    dropped = [packet_ids(batcher.add(each, now_seconds=0.0)) for each in loose[2:]]

    assert dropped == [[2], [3]]
    assert batcher.add(item(window(9), packet_id=9, qos=0), now_seconds=0.0) != []
    assert len(batcher) == 4


def test_messages_of_an_earlier_connection_are_given_up_beyond_the_limit() -> None:
    """They come again; those of this connection are never dropped."""
    batcher = Batcher(batch_points=1, batch_seconds=1.0)
    for generation in range(1, 5):
        batcher.add(item(window(0), generation=generation), now_seconds=0.0)

    dropped = batcher.add(item(window(0), generation=5), now_seconds=0.0)
    same = [batcher.add(item(window(n), generation=5), now_seconds=0.0) for n in range(10)]

    assert [i.received.generation for i in dropped if i.received] == [1]
    assert sum(map(len, same)) == 3
    assert len(batcher) == 11
