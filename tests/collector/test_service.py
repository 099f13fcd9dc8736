"""The service acknowledges what is stored, in order, and nothing else."""

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import msgspec
import pytest

from collector.dead_letters import DeadLetterFile
from collector.ledger_file import LedgerFile
from collector.service import Collector, Inbox, RetryPolicy, last_will, session_options
from collector.settings import CollectorSection
from collector.sinks import SinkUnavailableError
from contract import topics
from contract.errors import ConnectionRefusedByBrokerError
from contract.messages import CollectorStatus, DeadLetter, Presence, PresenceReason, decode, encode
from contract.session import ConnectFailed
from tests.collector.examples import backlog, topic_of, window
from tests.collector.fakes import FakeBroker, MemorySink
from tests.servers import wait_until

SECTION = CollectorSection(batch_points=4, batch_seconds=0.01)


class Hasty(RetryPolicy):
    """Retries at once, so that tests need not wait."""

    BASE_SECONDS = CAP_SECONDS = 0.005


class Bench:
    """A collector between a broker and a store that can be made to fail."""

    collector: Collector
    """Of the newest run."""

    def __init__(self, folder: Path, section: CollectorSection = SECTION) -> None:
        self.folder = folder
        self.section = section
        self.inbox = Inbox()
        self.broker = FakeBroker(self.inbox)
        self.sink = MemorySink()
        self._ready = threading.Event()

    def run(self) -> None:
        """As `__main__` does: all files belong to this thread."""
        with (
            closing(LedgerFile(self.folder)) as ledger,
            closing(DeadLetterFile(self.folder, megabytes=1.0)) as letters,
        ):
            self.collector = Collector(
                self.section,
                self.broker,
                self.sink,
                self.inbox,
                ledger=ledger,
                letters=letters,
                retry=Hasty(),
            )
            self._ready.set()
            self.collector.run()

    @contextmanager
    def running(self) -> Iterator[None]:
        self._ready.clear()
        thread = threading.Thread(target=self.run)
        thread.start()
        assert self._ready.wait(10.0)
        try:
            yield
        finally:
            self.collector.stop()
            thread.join(10.0)
        assert not thread.is_alive()

    def send(self, *seqs: int) -> list[int]:
        return [self.broker.send(topic_of(window(s)), encode(window(s))) for s in seqs]

    def letters(self) -> list[DeadLetter]:
        found = [decode(p.topic, p.payload) for p in self.broker.published]
        return [letter for letter in found if isinstance(letter, DeadLetter)]

    def wait(self, condition: Callable[[], bool]) -> None:
        wait_until(condition, "the collector to be there", seconds=5.0)


def test_stored_messages_are_acknowledged_in_order_of_arrival(tmp_path: Path) -> None:
    """Every window is stored, and the broker forgets it."""
    bench = Bench(tmp_path)
    with bench.running():
        ids = bench.send(*range(10))
        bench.wait(lambda: not bench.broker.unacknowledged)

    assert bench.sink.seqs() == list(range(10))
    assert bench.broker.acknowledged == ids
    assert max(bench.sink.batches) <= 4


def test_nothing_is_acknowledged_while_the_store_is_away(tmp_path: Path) -> None:
    """It is tried again until it works, and then all is there."""
    bench = Bench(tmp_path)
    bench.sink.failure = SinkUnavailableError("away")
    with bench.running():
        bench.send(*range(10))
        bench.wait(lambda: bench.sink.tries > 5)
        before = list(bench.broker.acknowledged)
        bench.sink.failure = None
        bench.wait(lambda: not bench.broker.unacknowledged)

    assert before == []
    assert bench.sink.seqs() == list(range(10))


def test_store_that_breaks_is_one_line_and_so_is_its_return(
    caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    """However many tries it takes."""
    caplog.set_level(logging.WARNING)
    bench = Bench(tmp_path)
    bench.sink.failure = SinkUnavailableError("away")
    with bench.running():
        bench.send(1)
        bench.wait(lambda: bench.sink.tries > 5)
        bench.sink.failure = None
        bench.wait(lambda: bench.sink.seqs() == [1])

    texts = [record.getMessage() for record in caplog.records]
    assert len(texts) == 2
    assert texts[0].endswith("away")
    assert texts[1].startswith("storing again after")


def test_stop_while_the_store_is_away_leaves_all_to_the_broker(tmp_path: Path) -> None:
    """The collector ends soon and acknowledges nothing."""
    bench = Bench(tmp_path)
    bench.sink.failure = SinkUnavailableError("away", retry_after_seconds=60.0)
    with bench.running():
        ids = bench.send(*range(10))
        bench.wait(lambda: bench.sink.tries > 0)

    assert bench.broker.stopped
    assert bench.broker.unacknowledged == ids
    assert bench.broker.acknowledged == []


def test_stop_finishes_the_batch_at_hand(tmp_path: Path) -> None:
    """What waits for company is stored and acknowledged before the end."""
    bench = Bench(tmp_path, CollectorSection(batch_points=100, batch_seconds=60.0))
    with bench.running():
        bench.send(1, 2, 3)
        bench.wait(lambda: bench.collector.counts["received"] == 3)

    assert bench.sink.seqs() == [1, 2, 3]
    assert bench.broker.unacknowledged == []


def test_presence_is_published_retained_and_stored(tmp_path: Path) -> None:
    """Online when connected, stopped at the end, lost as last will."""
    bench = Bench(tmp_path)
    with bench.running():
        bench.wait(lambda: len(bench.broker.published) == 1)

    said = [decode(p.topic, p.payload) for p in bench.broker.published]
    reasons = [m.reason for m in said if isinstance(m, CollectorStatus)]
    assert reasons == [PresenceReason.CONNECTED, PresenceReason.STOPPED]
    assert all(p.retain and p.qos == 1 for p in bench.broker.published)
    stored = [
        p.fields["reason"] for p in bench.sink.points.values() if p.measurement == "collector"
    ]
    assert stored == ["connected", "stopped"]

    will = last_will(SECTION).publication
    lost = decode(will.topic, will.payload)
    assert isinstance(lost, CollectorStatus)
    assert (lost.state, lost.reason, will.retain) == (Presence.OFFLINE, PresenceReason.LOST, True)


def test_poison_is_told_and_acknowledged_and_the_rest_is_stored(tmp_path: Path) -> None:
    """A message that cannot be stored does not hold up those around it."""
    bench = Bench(tmp_path)
    with bench.running():
        bench.send(1)
        bench.broker.send("earshot/1/n/press-07/window", b"{")
        bench.send(2)
        bench.wait(lambda: not bench.broker.unacknowledged)

    assert bench.sink.seqs() == [1, 2]
    assert [letter.reason for letter in bench.letters()] == ["malformed"]
    assert bench.collector.counts["dead malformed"] == 1


def test_much_poison_keeps_to_the_broker_s_window(tmp_path: Path) -> None:
    """More letters than may be unconfirmed at once all arrive."""
    bench = Bench(tmp_path, CollectorSection(batch_points=100, batch_seconds=0.01))
    with bench.running():
        for _ in range(90):
            bench.broker.send("earshot/1/n/press-07/window", b"{")
        bench.wait(lambda: not bench.broker.unacknowledged)

    assert len(bench.letters()) == 90


def test_poison_is_not_acknowledged_before_its_letter_is_confirmed(tmp_path: Path) -> None:
    """When the connection ends first, it comes again and is told again."""
    bench = Bench(tmp_path)
    bench.broker.confirms = False
    with bench.running():
        bench.broker.send("earshot/1/n/press-07/window", b"{")
        bench.wait(lambda: len(bench.letters()) == 1)
        before = list(bench.broker.acknowledged)
        bench.broker.confirms = True
        bench.broker.disconnect()
        bench.broker.connect()
        bench.wait(lambda: not bench.broker.unacknowledged)

    assert before == []
    assert len(bench.letters()) == 2


def test_poison_is_one_warning_per_reason(
    caplog: pytest.LogCaptureFixture,
    tmp_path: Path,
) -> None:
    """The second of a kind is not worth a line."""
    caplog.set_level(logging.WARNING)
    bench = Bench(tmp_path)
    with bench.running():
        for payload in (b"{", b"[", b'{"schema":2}', b'{"schema":3}'):
            bench.broker.send("earshot/1/n/press-07/window", payload)
        bench.wait(lambda: not bench.broker.unacknowledged)

    reasons = [record.getMessage().split()[2] for record in caplog.records]
    assert reasons == ["(malformed)", "(schema)"]


def test_rejected_points_are_found_among_good_ones(tmp_path: Path) -> None:
    """A batch is halved until the bad point stands alone; all others are stored."""
    bench = Bench(tmp_path, CollectorSection(batch_points=60, batch_seconds=0.2))
    bench.sink.refuses = lambda point: point.fields.get("seq") in (7, 31)
    with bench.running():
        late = backlog(*range(20, 50))
        bench.send(*range(20))
        bench.broker.send(topic_of(late), encode(late))
        bench.wait(lambda: not bench.broker.unacknowledged)

    assert bench.sink.seqs() == [s for s in range(50) if s not in (7, 31)]
    assert [letter.reason for letter in bench.letters()] == ["rejected", "rejected"]
    assert [letter.topic for letter in bench.letters()] == [
        topics.node("press-07", topics.Kind.WINDOW),
        topics.node("press-07", topics.Kind.BACKLOG),
    ]
    assert "a bad point" in bench.letters()[0].detail


def test_lost_connection_costs_a_repetition_only(tmp_path: Path) -> None:
    """What was stored and not acknowledged comes again and is stored once."""
    bench = Bench(tmp_path)
    bench.sink.failure = SinkUnavailableError("away")
    with bench.running():
        ids = bench.send(*range(6))
        bench.wait(lambda: bench.sink.tries > 0)
        bench.broker.disconnect()
        bench.broker.connect()
        bench.sink.failure = None
        bench.wait(lambda: not bench.broker.unacknowledged)

    assert bench.sink.seqs() == list(range(6))
    assert bench.broker.acknowledged == ids


def test_what_waits_stays_bounded_while_the_store_is_away(tmp_path: Path) -> None:
    """A connection that flaps brings the same messages again and again; few are kept."""
    bench = Bench(tmp_path)
    bench.sink.failure = SinkUnavailableError("away")
    with bench.running():
        bench.send(*range(4))
        for _ in range(50):
            bench.broker.disconnect()
            bench.broker.connect()
        bench.wait(lambda: bench.collector.counts["received"] >= 200)
        bench.wait(lambda: bench.collector.counts["dropped"] > 0)
        bench.sink.failure = None
        bench.wait(lambda: not bench.broker.unacknowledged)

    assert bench.sink.seqs() == list(range(4))


def test_broker_that_says_no_at_first_ends_the_program(tmp_path: Path) -> None:
    """Wrong settings are told at once."""
    bench = Bench(tmp_path)
    bench.broker.connects_at_start = False
    bench.inbox.put(ConnectFailed("Not authorized", refused=True))

    with pytest.raises(ConnectionRefusedByBrokerError, match="Not authorized"):
        bench.run()
    assert bench.broker.stopped


def test_broker_that_says_no_later_is_waited_for(
    caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    """A running collector survives a broker whose passwords are being changed."""
    caplog.set_level(logging.WARNING)
    bench = Bench(tmp_path)
    with bench.running():
        bench.wait(lambda: len(bench.broker.published) == 1)
        bench.broker.disconnect()
        for _ in range(5):
            bench.inbox.put(ConnectFailed("Not authorized", refused=True))
        bench.broker.connect()
        bench.send(1)
        bench.wait(lambda: bench.sink.seqs() == [1])

    assert len(caplog.records) == 2


def test_session_is_kept_and_lets_a_batch_wait() -> None:
    """The broker keeps what comes while we are away, and sends as much as a batch holds."""
    options = session_options(SECTION)

    assert not options.clean_start
    assert options.expiry_seconds == 7 * 24 * 3600
    assert options.receive_maximum == SECTION.batch_points
    assert options.manual_acknowledge
    assert {s.topic_filter for s in options.subscriptions} == {
        topics.every_node(kind) for kind in topics.FROM_NODE
    }
    assert not any(s.retained for s in options.subscriptions)


def test_retry_waits_longer_each_time_and_as_long_as_asked() -> None:
    """The bound doubles up to 30 s; what the store asks for is the least."""
    policy = RetryPolicy()

    delays = [max(policy.delay_seconds(n) for _ in range(200)) for n in (1, 3, 6, 1000)]

    assert delays[0] <= 1.0 < delays[1] <= 4.0 < delays[2] <= 30.0
    assert 20.0 < delays[3] <= 30.0
    assert policy.delay_seconds(1, at_least=45.0) == 45.0


def test_letters_are_json_of_the_contract(tmp_path: Path) -> None:
    """A letter says who could not store what."""
    bench = Bench(tmp_path)
    with bench.running():
        bench.broker.send("earshot/1/n/press-07/window", b"\xffoops")
        bench.wait(lambda: not bench.broker.unacknowledged)

    letter = next(p for p in bench.broker.published if p.topic == topics.dead_letter())
    fields = msgspec.json.decode(letter.payload)
    assert fields["payload_start"] == "\N{REPLACEMENT CHARACTER}oops"
    assert fields["collector"] == "collector"
    assert (letter.qos, letter.retain) == (1, False)
