"""An operator's connection to a real broker."""

import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path

import pytest

from contract import topics
from contract.errors import ConnectionRefusedByBrokerError, EarshotError
from contract.release import CHUNK_BYTES
from contract.session import MAX_IN_FLIGHT
from contract.settings import MqttSettings
from tests.rig.brokers import Mosquitto
from tests.rig.ports import HOST, free_port
from tests.rig.waiting import wait_until
from training.fleet.broker import BrokerTroubleError, Operator, load_broker, retained

SHA = "ab" * 32
ROOM = "earshot/1/n/+/state"


class Heard:
    """What an operator hears and notes."""

    def __init__(self) -> None:
        self.messages: dict[str, bytes] = {}
        self.notes: list[str] = []

    def hear(self, topic: str, payload: bytes) -> None:
        self.messages[topic] = payload


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Mosquitto]:
    """A broker of this test's own."""
    with Mosquitto(tmp_path / "mosquitto") as server:
        yield server


def operator(
    broker: Mosquitto,
    heard: Heard | None = None,
    *,
    filters: Sequence[str] = (ROOM,),
    patience_seconds: float = 20.0,
    **settings: str,
) -> Operator:
    heard = heard or Heard()
    return Operator(
        MqttSettings(host=broker.host, port=broker.port, **settings),  # type: ignore[arg-type]
        filters,
        heard.hear,
        note=heard.notes.append,
        settle_seconds=0.2,
        patience_seconds=patience_seconds,
    )


def test_all_that_is_kept_is_read(broker: Mosquitto) -> None:
    """Every retained message below a filter, and nothing else."""
    chunks = {topics.blob(SHA, k): bytes([k]) * 100 for k in range(150)}
    with operator(broker) as first:
        count = sum(1 for _ in first.put(retained(t, p) for t, p in chunks.items()))
        sum(1 for _ in first.put([retained(topics.release("fan@1"), b"x")]))

    with operator(broker) as second:
        found = second.read(topics.every_chunk(SHA))

    assert count == len(chunks)
    assert found == chunks


def test_a_fleet_of_thousands_is_read(tmp_path: Path) -> None:
    """All of it, from a broker that queues a thousand messages for a client."""
    names = [f"earshot/1/n/press-{number}/state" for number in range(4000)]
    extra = "max_queued_messages 1000\nmax_inflight_messages 20"
    with Mosquitto(tmp_path / "mosquitto", extra=extra) as broker:
        with operator(broker, filters=()) as first:
            sum(1 for _ in first.put(retained(name, b"x" * 500) for name in names))
        heard = Heard()
        with operator(broker, heard) as second:
            found = second.read(ROOM)

    assert set(heard.messages) == set(names)
    assert set(found) == set(names)


def test_what_lies_there_is_heard_before_the_block_begins(broker: Mosquitto) -> None:
    """Whoever enters knows the fleet."""
    topic = "earshot/1/n/press-07/state"
    with operator(broker) as first:
        sum(1 for _ in first.put([retained(topic, b"there")]))
    heard = Heard()

    with operator(broker, heard):
        assert heard.messages == {topic: b"there"}


def test_reading_what_is_listened_to_does_not_end_the_listening(broker: Mosquitto) -> None:
    """An order is looked at again, and another one after it is heard."""
    topic, heard = topics.desired("all"), Heard()
    with operator(broker, heard, filters=(topic,)) as ours, operator(broker) as other:
        sum(1 for _ in ours.put([retained(topic, b"ours")]))
        assert ours.read(topic) == {topic: b"ours"}
        sum(1 for _ in other.put([retained(topic, b"theirs")]))
        ours.listen(0.3)

    assert heard.messages[topic] == b"theirs"


def test_an_empty_message_clears(broker: Mosquitto) -> None:
    """What was retired is not there any more."""
    topic = topics.release("fan@1")
    with operator(broker) as ours:
        sum(1 for _ in ours.put([retained(topic, b"x")]))
        sum(1 for _ in ours.put([retained(topic, b"")]))

        assert ours.read(topics.every_release()) == {}


def test_a_broker_that_restarts_in_the_middle_loses_nothing(broker: Mosquitto) -> None:
    """What was not confirmed is sent again on the next connection."""
    payload = bytes(CHUNK_BYTES)
    heard = Heard()
    publications = [retained(topics.blob(SHA, k), payload) for k in range(100)]
    with operator(broker, heard) as ours:
        sending = ours.put(publications)
        confirmed = [next(sending).topic for _ in range(30)]
        broker.stop()
        broker.start()
        confirmed += [publication.topic for publication in sending]
        found = ours.read(topics.every_chunk(SHA))

    assert set(confirmed) == {publication.topic for publication in publications}
    assert set(found) == set(confirmed)
    assert [note.split(" is ")[1].split(":")[0] for note in heard.notes] == ["away", "back"]


def test_a_reading_that_is_interrupted_begins_anew(broker: Mosquitto) -> None:
    """Half of what is there is never taken for all of it."""
    chunks = {topics.blob(SHA, k): bytes(CHUNK_BYTES) for k in range(60)}
    with operator(broker) as ours:
        sum(1 for _ in ours.put(retained(t, p) for t, p in chunks.items()))
        broker.stop()
        # From this thread: the kernel kills a server with the thread that started it.
        found: list[dict[str, bytes]] = []
        reading = threading.Thread(target=lambda: found.append(ours.read(topics.every_chunk(SHA))))
        reading.start()
        broker.start()
        reading.join(30)

    assert found == [chunks]


class _SlowBroker:
    """Lets a client in, and confirms nothing that it publishes."""

    def __init__(self) -> None:
        self._listener = socket.create_server((HOST, free_port()))
        self.host, self.port = self._listener.getsockname()
        self.received = bytearray()
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._listener.close()
        self._thread.join(5)

    def _serve(self) -> None:
        connection, _ = self._listener.accept()
        with connection:
            connection.recv(1000)
            # CONNACK with Receive Maximum 3; SUBACK for the one subscription, whose packet id is 1.
            connection.sendall(b"\x20\x06\x00\x00\x03\x21\x00\x03")
            connection.recv(1000)
            connection.sendall(b"\x90\x04\x00\x01\x00\x01")
            with suppress(ConnectionError):
                while data := connection.recv(65536):
                    self.received += data


def test_no_more_is_unconfirmed_than_the_broker_allows() -> None:
    """It has said how many it keeps track of; more would end the connection."""
    broker = _SlowBroker()
    payloads = [bytes([k]) * 1000 for k in range(1, 10)]

    ours = Operator(
        MqttSettings(host=broker.host, port=broker.port),
        (ROOM,),
        Heard().hear,
        note=lambda _: None,
        settle_seconds=0.1,
        patience_seconds=2.0,
    )
    with ours, pytest.raises(BrokerTroubleError, match="takes nothing for 2 s"):
        next(ours.put(retained(topics.blob(SHA, k), p) for k, p in enumerate(payloads)))
    broker.close()

    assert MAX_IN_FLIGHT > 3
    assert [payload in broker.received for payload in payloads] == [True] * 3 + [False] * 6


def _reading(ours: Operator) -> object:
    return ours.read(topics.every_release())


def _putting(ours: Operator) -> object:
    return next(ours.put([retained(topics.release("fan@1"), b"x" * 20_000)]))


def test_what_may_not_be_published_is_told(tmp_path: Path) -> None:
    """The topic is named, so that somebody can put the list of rights right."""
    acl = "topic read earshot/1/#\n"
    with (
        Mosquitto(tmp_path / "mosquitto", acl=acl) as broker,
        operator(broker) as ours,
        pytest.raises(BrokerTroubleError, match=r"does not take earshot/1/release/fan/1: Not auth"),
    ):
        _putting(ours)


def test_what_is_too_large_is_told(tmp_path: Path) -> None:
    """Mosquitto does not say it in a way that MQTT knows: what was sent is named."""
    with (
        Mosquitto(tmp_path / "mosquitto", extra="message_size_limit 1000") as broker,
        operator(broker) as ours,
        pytest.raises(EarshotError, match=r"release/fan/1 was sent \(20000 bytes\): is that more"),
    ):
        _putting(ours)


def test_a_wrong_password_is_told_at_once(tmp_path: Path) -> None:
    """Trying on would not help."""
    with (
        Mosquitto(tmp_path / "mosquitto", users={"ann": "right"}) as broker,
        pytest.raises(ConnectionRefusedByBrokerError, match="Not authorized"),
        operator(broker, username="ann", password="wrong"),
    ):
        pass


@pytest.mark.parametrize("work", [_reading, _putting])
def test_a_broker_that_is_gone_for_good_is_told(
    broker: Mosquitto, work: Callable[[Operator], object]
) -> None:
    """After so long without anything moving; until then it is waited for."""
    with operator(broker, patience_seconds=3.0) as ours:
        broker.stop()
        with pytest.raises(BrokerTroubleError, match=r"for 3 s: (connection|cannot connect)"):
            work(ours)


def test_a_broker_that_was_never_there_is_told(broker: Mosquitto) -> None:
    """With the reason of the last try."""
    broker.stop()
    with (
        pytest.raises(BrokerTroubleError, match=r"no connection to the broker .* in 2 s: cannot"),
        operator(broker, patience_seconds=2.0),
    ):
        pass


def test_listening_goes_on_over_a_restart(broker: Mosquitto) -> None:
    """Whatever was said meanwhile comes with the next connection."""
    topic, heard = "earshot/1/n/press-07/state", Heard()
    with operator(broker, heard) as ours, operator(broker) as node:
        broker.stop()
        broker.start()
        sum(1 for _ in node.put([retained(topic, b"later")]))

        def has_heard() -> bool:
            ours.listen(0.1)
            return topic in heard.messages

        wait_until(has_heard, "the message")

    assert heard.messages[topic] == b"later"
    assert len(heard.notes) == 2


def test_messages_that_no_broker_must_get_are_not_sent(broker: Mosquitto) -> None:
    """Larger than a chunk: nothing in this contract is."""
    with operator(broker) as ours, pytest.raises(AssertionError, match="too large"):
        next(ours.put([retained(topics.blob(SHA, 0), bytes(CHUNK_BYTES + 1))]))


def test_settings_of_a_file_that_is_not_there(tmp_path: Path) -> None:
    """One line with the file's name."""
    with pytest.raises(EarshotError, match=r"none\.toml: cannot read the settings file: No such"):
        load_broker(tmp_path / "none.toml", {})
