"""The service acknowledges what is stored, in order, and nothing else."""

import base64
import logging
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import msgspec
import pytest

from collector.ledger.hours import QUIET_SECONDS
from collector.ledger.ledger_file import LedgerFile
from collector.link.event_loop import Inbox
from collector.link.presence import last_will, session_options
from collector.metrics import Metrics
from collector.service import Collector
from collector.settings import CollectorSection
from collector.sinks.sink import SinkUnavailableError
from collector.state_folder import LEDGER
from collector.storing.dead_letters import DeadLetterFile
from collector.storing.store_retry import RetryPolicy
from contract import topics
from contract.errors import ConnectionRefusedByBrokerError
from contract.messages import CollectorStatus, DeadLetter, Receipt, decode, encode
from contract.points import Point
from contract.session import ConnectFailed
from contract.states import Presence, PresenceReason
from tests.collector.fakes import MemorySink
from tests.rig.examples import BOOT, account, backlog, topic_of, window
from tests.rig.fake_broker import FakeBroker
from tests.rig.waiting import wait_until

SECTION = CollectorSection(batch_points=4, batch_seconds=0.01)


class Hasty(RetryPolicy):
    """Retries at once, so that tests need not wait."""

    BASE_SECONDS = CAP_SECONDS = 0.005


class Bench:
    """A collector between a broker and a store that can be made to fail."""

    collector: Collector
    """Of the newest run."""

    def __init__(
        self,
        folder: Path,
        section: CollectorSection = SECTION,
        *,
        quiet_seconds: float = QUIET_SECONDS,
    ) -> None:
        self.folder = folder
        self.section = section
        self.quiet_seconds = quiet_seconds
        self.inbox = Inbox()
        self.broker = FakeBroker(self.inbox.put)
        self.sink = MemorySink()
        self.metrics = Metrics()
        self._ready = threading.Event()

    def run(self) -> None:
        """As `__main__` does: all files belong to this thread."""
        with (
            closing(LedgerFile(self.folder, busy_seconds=0.05)) as ledger,
            closing(DeadLetterFile(self.folder, megabytes=1.0)) as dead_letters,
        ):
            self.collector = Collector(
                self.section,
                self.broker,
                self.sink,
                self.inbox,
                ledger=ledger,
                dead_letters=dead_letters,
                policy=Hasty(),
                metrics=self.metrics,
                quiet_seconds=self.quiet_seconds,
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

    def receipts(self) -> list[Receipt]:
        found = [decode(p.topic, p.payload) for p in list(self.broker.published)]
        return [receipt for receipt in found if isinstance(receipt, Receipt)]

    def stored(self, measurement: str) -> list[Point]:
        return [p for p in list(self.sink.points.values()) if p.measurement == measurement]

    def wait(self, condition: Callable[[], bool]) -> None:
        wait_until(condition, "the collector to be there", seconds=60.0)


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
        bench.wait(lambda: bench.metrics.counts["received"] == 3)

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
    assert bench.metrics.counts["dead malformed"] == 1


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
        bench.wait(lambda: bench.metrics.counts["received"] >= 200)
        bench.wait(lambda: bench.metrics.counts["dropped"] > 0)
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


def test_receipt_tells_what_is_stored(tmp_path: Path) -> None:
    """Retained, of the whole boot, with its holes; the last one comes before the end."""
    bench = Bench(tmp_path)
    with bench.running():
        bench.send(0, 1, 4)
        bench.wait(lambda: not bench.broker.unacknowledged)
        bench.send(5, 9)
        bench.wait(lambda: not bench.broker.unacknowledged)

    last = bench.receipts()[-1]
    assert (last.node, last.boot, last.stored_from, last.stored_up_to) == ("press-07", BOOT, 0, 9)
    assert last.holes == ((2, 3), (6, 8))
    published = [p for p in bench.broker.published if p.topic.endswith("/receipt")]
    assert {(p.topic, p.retain, p.qos) for p in published} == {
        ("earshot/1/n/press-07/receipt", True, 1)
    }


def test_receipts_of_one_boot_are_coalesced(tmp_path: Path) -> None:
    """The first is at once, the next after its time: here, at the end."""
    section = msgspec.structs.replace(SECTION, receipt_seconds=60.0)
    bench = Bench(tmp_path, section)
    with bench.running():
        for seq in range(10):
            bench.send(seq)
            bench.wait(lambda: not bench.broker.unacknowledged)

    assert [receipt.stored_up_to for receipt in bench.receipts()] == [0, 9]


def test_receipt_that_found_no_connection_goes_out_after_the_next(tmp_path: Path) -> None:
    """Also one that was sent and never confirmed."""
    bench = Bench(tmp_path)
    with bench.running():
        bench.wait(lambda: bool(bench.broker.published))
        bench.broker.confirms = False
        bench.send(0)
        bench.wait(lambda: len(bench.receipts()) == 1)
        bench.broker.disconnect()
        bench.broker.confirms = True
        bench.broker.connect()
        bench.wait(lambda: len(bench.receipts()) == 2)

    assert [receipt.stored_up_to for receipt in bench.receipts()] == [0, 0]


def test_receipts_keep_to_the_broker_s_window_and_hold_nobody_up(tmp_path: Path) -> None:
    """A broker that confirms nothing gets no more than it allows, and all is stored."""
    bench = Bench(tmp_path)
    with bench.running():
        bench.wait(lambda: bool(bench.broker.published))
        bench.broker.confirms = False
        nodes = [f"press-{number}" for number in range(60)]
        for node in nodes:
            message = window(0, node=node)
            bench.broker.send(topic_of(message), encode(message))
        bench.wait(lambda: not bench.broker.unacknowledged)
        before = len(bench.receipts())
        bench.broker.disconnect()
        bench.broker.confirms = True
        bench.broker.connect()
        bench.wait(lambda: {r.node for r in bench.receipts()} == set(nodes))

    assert before == 20


def test_node_that_sends_again_gets_its_receipt_again(tmp_path: Path) -> None:
    """It has not got the first one, or would not send."""
    bench = Bench(tmp_path)
    with bench.running():
        bench.send(0)
        bench.wait(lambda: len(bench.receipts()) == 1)
        bench.send(0)
        bench.wait(lambda: len(bench.receipts()) == 2)

    assert bench.sink.seqs() == [0]


def test_rejected_window_is_accounted_for_and_need_not_come_again(tmp_path: Path) -> None:
    """It is whole among the dead letters: the node may let go of it, and the ledger tells why."""
    bench = Bench(tmp_path, CollectorSection(batch_points=10, batch_seconds=0.1))
    bench.sink.refuses = lambda point: point.fields.get("seq") == 1
    with bench.running():
        late = backlog(0, 1, 2)
        bench.broker.send(topic_of(late), encode(late))
        bench.wait(lambda: not bench.broker.unacknowledged)

    assert bench.sink.seqs() == [0, 2]
    assert (bench.receipts()[-1].stored_up_to, bench.receipts()[-1].holes) == (2, ())
    (entry,) = bench.stored("ledger")
    expected = {"produced": 3, "stored": 2, "rejected": 1, "in_transit": 0, "missing": 0}
    assert entry.fields.items() >= expected.items()
    (line,) = (tmp_path / "dead-letters.jsonl").read_text().splitlines()
    assert base64.b64decode(msgspec.json.decode(line)["payload"]) == encode(late)


def test_ledger_and_figures_are_stored_at_the_end(tmp_path: Path) -> None:
    """One entry for each boot that was heard of, and how the collector was."""
    bench = Bench(tmp_path)
    with bench.running():
        bench.send(0, 1, 4)
        bench.broker.send(topic_of(account(7)), encode(account(7, waiting=1, discarded_full=1)))
        bench.broker.send("earshot/1/n/press-07/window", b"{")
        bench.wait(lambda: not bench.broker.unacknowledged)

    (entry,) = bench.stored("ledger")
    assert entry.tags == {"node": "press-07"}
    expected = {"boot": BOOT, "produced": 7, "stored": 3, "waiting": 1, "in_transit": 2}
    expected |= {"missing": 0, "discarded_full": 1, "end": "running", "end_code": 0}
    assert entry.fields.items() >= expected.items()
    (figures,) = bench.stored("pipeline")
    assert figures.tags == {"id": "collector"}
    expected = {"received": 5, "stored_windows": 3, "dead_letters": 1, "write_errors": 0}
    expected |= {"connected": 1, "storing": 1, "missing_windows": 0, "reconnects": 0}
    assert figures.fields.items() >= expected.items()
    assert float(figures.fields["lag_p50_s"]) <= float(figures.fields["lag_p95_s"])


OLD_US = 1_700_000_000_000_000
"""An hour that is over, whatever the time."""


def send_old(bench: Bench, *seqs: int) -> None:
    for seq in seqs:
        old = window(seq, start_us=OLD_US + seq)
        bench.broker.send(topic_of(old), encode(old))


def counted(bench: Bench) -> list[object]:
    return [point.fields["windows"] for point in bench.stored("window_hour")]


def test_hour_that_is_over_is_counted(tmp_path: Path) -> None:
    """And once more with the windows that come late; it is not waited for when we stop."""
    bench = Bench(tmp_path, quiet_seconds=0.05)
    with bench.running():
        send_old(bench, 0, 1, 2)
        bench.wait(lambda: counted(bench) == [3])
        send_old(bench, 3)
        bench.wait(lambda: counted(bench) == [4])

    assert not bench.broker.unacknowledged
    assert bench.metrics.counts["windows"] == 4


def test_hour_is_not_counted_before_it_was_quiet(tmp_path: Path) -> None:
    """It stays written down for the next start."""
    bench = Bench(tmp_path)
    with bench.running():
        send_old(bench, 0)
        bench.wait(lambda: not bench.broker.unacknowledged)
    assert counted(bench) == []

    bench.quiet_seconds = 0.05
    with bench.running():
        bench.wait(lambda: counted(bench) == [1])


def test_hours_that_cannot_be_stored_hold_nobody_up(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Windows are stored and acknowledged meanwhile; one line when it breaks, one when it works."""
    bench = Bench(tmp_path, quiet_seconds=0.01)
    bench.sink.fails_for = "window_hour"
    with bench.running():
        send_old(bench, 0)
        bench.wait(lambda: "cannot store hourly figures" in caplog.text)
        send_old(bench, 1)
        bench.wait(lambda: not bench.broker.unacknowledged)
        assert bench.metrics.storing
        assert counted(bench) == []
        bench.sink.fails_for = None
        bench.wait(lambda: counted(bench) == [2])

    assert caplog.text.count("cannot store hourly figures, will try again: window_hour: away") == 1
    assert caplog.text.count("hourly figures are stored again") == 1
    assert bench.metrics.counts["write errors"] == 0


def test_hours_that_the_store_refuses_are_one_line(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Their windows are stored; nothing is tried for ever."""
    bench = Bench(tmp_path, quiet_seconds=0.01)
    bench.sink.refuses = lambda point: point.measurement == "window_hour"
    with bench.running():
        for seq in range(3):
            send_old(bench, seq)
            bench.wait(lambda: not bench.broker.unacknowledged)
            bench.wait(lambda: not dirty_hours(bench))

    assert caplog.text.count("the store refuses hourly figures") == 1
    assert bench.sink.seqs() == [0, 1, 2]
    assert not bench.letters()


def dirty_hours(bench: Bench) -> int:
    with closing(sqlite3.connect(bench.folder / LEDGER)) as connection:
        return int(connection.execute("SELECT count(*) FROM dirty_hour").fetchone()[0])


def test_only_stored_windows_make_an_hour_due(tmp_path: Path) -> None:
    """One that the store has refused is in no count."""
    bench = Bench(tmp_path)
    bench.sink.refuses = lambda point: point.measurement == "window"
    with bench.running():
        send_old(bench, 0)
        bench.wait(lambda: not bench.broker.unacknowledged)

    assert len(bench.letters()) == 1
    assert dirty_hours(bench) == 0


def test_missing_windows_are_one_line_and_so_is_their_return(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """However often they are counted in between."""
    caplog.set_level(logging.WARNING)
    section = msgspec.structs.replace(SECTION, figures_seconds=0.1, gap_seconds=0.3)
    bench = Bench(tmp_path, section)
    with bench.running():
        bench.send(0, 2)
        bench.wait(lambda: any(p.fields["missing"] == 1 for p in bench.stored("ledger")))
        bench.send(4)
        bench.wait(lambda: any(p.fields["missing"] == 2 for p in bench.stored("ledger")))
        bench.send(1, 3)
        bench.wait(lambda: bench.stored("ledger")[-1].fields["missing"] == 0)

    assert [record.getMessage() for record in caplog.records] == [
        f"press-07 boot {BOOT}: 1 window is missing, neither stored nor accounted for",
        f"press-07 boot {BOOT}: no window is missing any more",
    ]


def test_ledger_that_cannot_be_written_holds_up_acknowledgements(tmp_path: Path) -> None:
    """What the store has and the ledger has not comes again."""
    bench = Bench(tmp_path)
    with bench.running():
        bench.send(0)
        bench.wait(lambda: not bench.broker.unacknowledged)
        with closing(sqlite3.connect(tmp_path / "ledger.db", isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            bench.send(1)
            bench.wait(lambda: bench.sink.seqs() == [0, 1])
            before = list(bench.broker.unacknowledged)
            other.execute("ROLLBACK")
        bench.wait(lambda: not bench.broker.unacknowledged)

    assert len(before) == 1
    assert bench.receipts()[-1].stored_up_to == 1


def test_metrics_tell_of_a_store_that_is_away(tmp_path: Path) -> None:
    """Messages wait from the first that could not be stored; with the store, nothing waits."""
    bench = Bench(tmp_path)
    with bench.running():
        bench.send(0)
        bench.wait(lambda: not bench.broker.unacknowledged)
        bench.wait(lambda: bench.metrics.waiting_since is None)
        bench.sink.failure = SinkUnavailableError("away")
        bench.send(1)
        bench.wait(lambda: not bench.metrics.storing)
        later = time.monotonic() + 100.0
        waits = bench.metrics.waiting_since
        bench.metrics.turned_at = later
        trouble = bench.metrics.trouble(now_seconds=later, stall_seconds=60.0)
        bench.sink.failure = None
        bench.wait(lambda: bench.metrics.waiting_since is None)

    assert waits is not None
    assert trouble is not None
    assert bench.metrics.storing


def test_connection_that_is_lost_is_in_the_metrics(tmp_path: Path) -> None:
    """Until it is back."""
    bench = Bench(tmp_path)
    with bench.running():
        bench.wait(lambda: bench.metrics.disconnected_at is None)
        bench.broker.disconnect()
        bench.wait(lambda: bench.metrics.disconnected_at is not None)
        bench.broker.connect()
        bench.wait(lambda: bench.metrics.disconnected_at is None)
