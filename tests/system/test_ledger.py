"""Nothing is lost and the ledger proves it: real broker and stores, and a collector that dies."""

import json
import re
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec
import pytest

from collector.health_endpoint import ask
from collector.ledger.ledger_file import LedgerFile
from collector.settings import InfluxDbSection
from collector.sinks.influxdb import InfluxDbSink
from collector.sinks.sink import Sink
from collector.sinks.sqlite import SqliteSink
from contract import topics
from contract.errors import EXIT_BAD_INPUT
from contract.messages import Message, Receipt
from contract.points import points
from contract.session import Publication
from contract.states import PresenceReason
from contract.topics import Kind
from tests.rig.brokers import Mosquitto
from tests.rig.collector_program import (
    ROOT,
    Client,
    Program,
    influxdb_settings,
    query,
    running,
    sqlite_settings,
    stored_count,
    stored_seqs,
)
from tests.rig.databases import InfluxDb
from tests.rig.examples import BOOT, NEXT_BOOT, account, backlog, status, window
from tests.rig.waiting import wait_until

_MISSING, _HEALTHY = 1, 0
_QUICK = "figures_seconds = 0.2\ngap_seconds = 1.0\nreceipt_seconds = 0.2\n"


@pytest.fixture
def database(tmp_path: Path) -> Path:
    return tmp_path / "earshot.db"


@pytest.fixture
def node(mosquitto: Mosquitto) -> Iterator[Client]:
    """Publishes as a node, and hears its receipts and whether anybody stores."""
    heard = (topics.node("press-07", Kind.RECEIPT), topics.collector_status("collector"))
    with Client(mosquitto, "press-07", *heard) as client:
        yield client


@pytest.fixture
def program(
    mosquitto: Mosquitto, tmp_path: Path, database: Path, node: Client
) -> Iterator[Program]:
    """A collector in a hurry, online."""
    settings = sqlite_settings(mosquitto, database).replace(
        "[collector]\n", f"[collector]\n{_QUICK}"
    )
    with running(Program(tmp_path / "collector", settings)) as started:
        wait_for_collector(node)
        yield started


def ledger(program: Program, *options: str) -> tuple[int, list[dict[str, Any]]]:
    """What `earshot collector ledger --json` says, and its exit code."""
    done = command(program, "ledger", "--json", *options)
    return done.returncode, json.loads(done.stdout) if done.stdout else []


def command(program: Program, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "collector", *arguments, "--config", str(program.config_file)],
        cwd=ROOT,
        env=program.environment,
        capture_output=True,
        text=True,
        timeout=60.0,
        check=False,
    )


def wait_for_collector(client: Client) -> None:
    """Until it is online, and so has subscribed."""
    wait_until(lambda: client.presence() is PresenceReason.CONNECTED, "a collector online")


def health_address(program: Program) -> str:
    """Of a collector that has chosen a port."""
    found = re.search(r"health is served at http://(\S+)/health", program.log)
    assert found is not None
    return found[1]


def receipts(client: Client) -> list[Receipt]:
    return [message for message in client.heard() if isinstance(message, Receipt)]


def entries(database: Path) -> list[tuple[object, ...]]:
    """The ledger in the store, newest first."""
    return list(
        query(
            database,
            "SELECT produced, stored, waiting, in_transit, missing FROM ledger"
            f" WHERE boot = '{BOOT}' ORDER BY time_us DESC",
        )
    )


def test_gap_is_in_transit_then_missing_then_healed(
    program: Program, node: Client, database: Path
) -> None:
    """In the store, in the log and by the command, whose exit code says whether to look."""
    node.publish(*(window(seq) for seq in range(10) if seq not in (3, 4)))

    wait_until(lambda: (10, 8, 0, 2, 0) in entries(database), "the gap in transit")
    wait_until(lambda: entries(database)[0] == (10, 8, 0, 0, 2), "the gap to be missing")
    lost = f"press-07 boot {BOOT}: 2 windows are missing, neither stored nor accounted for"
    wait_until(lambda: lost in program.log, "a line")
    code, (line,) = ledger(program)
    assert code == _MISSING
    assert (line["node"], line["missing"], line["in_transit"]) == ("press-07", 2, 0)
    assert line["end"] == "running"

    node.publish(backlog(3, 4))

    wait_until(lambda: entries(database)[0] == (10, 10, 0, 0, 0), "the gap to be healed")
    wait_until(lambda: "no window is missing any more" in program.log, "a line")
    code, (line,) = ledger(program, "--verify")
    assert code == _HEALTHY
    assert (line["stored"], line["missing"]) == (10, 0)
    assert (line["lost_by_store"], line["not_written_down"]) == (0, 0)
    assert program.log.count("windows are missing") == 1


def test_node_hears_what_is_stored_also_when_it_comes_late(
    program: Program, node: Client, mosquitto: Mosquitto
) -> None:
    """Receipts are retained; the newest names the holes."""
    node.publish(*map(window, (0, 1, 2, 6)))
    wait_until(lambda: any(r.stored_up_to == 6 for r in receipts(node)), "a receipt")

    with Client(mosquitto, "late", topics.node("press-07", Kind.RECEIPT)) as late:
        wait_until(lambda: bool(receipts(late)), "the retained receipt")
        (receipt,) = receipts(late)

    assert (receipt.node, receipt.boot) == ("press-07", BOOT)
    assert (receipt.stored_from, receipt.stored_up_to, receipt.holes) == (0, 6, ((3, 5),))


def test_receipts_are_fewer_than_windows(program: Program, node: Client, database: Path) -> None:
    """A stream of windows is receipted some times a second, and at last in full."""
    began = time.monotonic()
    node.publish(*map(window, range(3000)))
    wait_until(lambda: any(r.stored_up_to == 2999 for r in receipts(node)), "the last receipt")

    # Of one boot, one in 0.2 s, and one more at either end.
    assert len(receipts(node)) <= (time.monotonic() - began) / 0.2 + 2


def test_killed_collector_s_ledger_equals_the_store(
    program: Program, node: Client, database: Path
) -> None:
    """SIGKILL in the middle of a stream, thrice; the ledger is never ahead of the store."""
    count = 6000
    stream = threading.Thread(target=node.publish, args=tuple(map(window, range(count))))
    stream.start()
    for least in (500, 2000, 3500):
        wait_until(lambda least=least: stored_count(database) >= least, "some")  # type: ignore[misc]
        program.kill()
        kept = ledger_ranges(program)
        with closing(SqliteSink(database)) as sink:
            assert kept.missing_in(sink.stored_seqs("press-07", BOOT)) == 0
        program.start()
    stream.join()

    wait_until(lambda: stored_count(database) >= count, "all windows", seconds=20.0)
    wait_until(lambda: list(ledger_ranges(program)) == [(0, count - 1)], "all in the ledger")
    wait_until(lambda: receipts(node)[-1].stored_up_to == count - 1, "the last receipt")
    assert receipts(node)[-1].holes == ()
    assert stored_seqs(database) == list(range(count))
    assert ledger(program, "--verify")[0] == _HEALTHY


def ledger_ranges(program: Program) -> Any:
    with closing(LedgerFile(program.state_folder, read_only=True)) as file:
        boot = file.boot(("press-07", BOOT))
        assert boot is not None
        return boot.stored


def test_lost_state_folder_is_made_up_from_the_store(
    program: Program, node: Client, database: Path
) -> None:
    """A collector that has forgotten everything asks what of a boot is there."""
    node.publish(*(window(seq) for seq in range(50) if seq != 20))
    wait_until(lambda: stored_count(database) == 49, "the windows")
    assert program.terminate() == 0
    for path in program.state_folder.iterdir():
        path.unlink()

    program.start()
    node.publish(window(50))

    wait_until(lambda: receipts(node)[-1].stored_up_to == 50, "a receipt")
    assert receipts(node)[-1].holes == ((20, 20),)
    assert list(ledger_ranges(program)) == [(0, 19), (21, 50)]


def test_store_that_has_lost_windows_is_found_out(
    program: Program, node: Client, database: Path
) -> None:
    """`--verify` counts what is written down and not there; without it the ledger is believed."""
    node.publish(*map(window, range(10)))
    wait_until(lambda: stored_count(database) == 10, "the windows")
    assert program.terminate() == 0
    with closing(sqlite3.connect(database)) as connection:
        connection.execute('DELETE FROM "window" WHERE seq IN (4, 5, 6)')
        connection.commit()

    assert ledger(program)[0] == _HEALTHY
    code, (line,) = ledger(program, "--verify")
    assert (code, line["lost_by_store"], line["not_written_down"]) == (_MISSING, 3, 0)
    text = command(program, "ledger", "--verify").stdout
    assert "not in the store 3" in text.splitlines()[-1]


def test_boot_without_a_goodbye_is_told_with_its_tail(
    program: Program, node: Client, database: Path
) -> None:
    """The table is plain in a pipe, with local times, and adds up."""
    node.publish(*map(window, range(4)), account(6, waiting=1, tail_windows=5, discarded_full=1))
    node.publish(status(PresenceReason.CONNECTED, boot=NEXT_BOOT), window(0, boot=NEXT_BOOT))
    node.publish(account(1, boot=NEXT_BOOT, ended=True))
    ended = f"SELECT count(*) > 0 FROM ledger WHERE boot = '{NEXT_BOOT}' AND \"end\" = 'goodbye'"
    wait_until(lambda: list(query(database, ended)) == [(1,)], "the goodbye")
    assert program.terminate() == 0

    done = command(program, "ledger")

    header, old, new, total = done.stdout.splitlines()
    assert done.returncode == _HEALTHY
    assert header.split()[:2] == ["node", "boot"]
    assert "boot ended without goodbye, tail of at most 5" in old
    assert "full 1" in old
    assert re.search(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d[+-]\d\d:\d\d", old)
    assert new.split()[1] == NEXT_BOOT
    assert new.rstrip().endswith("goodbye")
    assert total.startswith("1 nodes, 2 boots: produced 7, stored 5, waiting 1, discarded 1")
    assert "\x1b" not in done.stdout


def test_ledger_of_some_nodes_and_times(
    program: Program, node: Client, mosquitto: Mosquitto
) -> None:
    """`--node` and `--since` leave the others out, also for the exit code."""
    with Client(mosquitto, "fan-1") as other:
        other.publish(window(0, node="fan-1"), window(2, node="fan-1"))
    node.publish(window(0))
    wait_until(lambda: ledger(program)[0] == _MISSING, "a missing window", seconds=20.0)

    assert ledger(program, "--node", "press-07")[0] == _HEALTHY
    assert [line["node"] for line in ledger(program, "--since", "24h")[1]] == ["fan-1", "press-07"]
    assert ledger(program, "--since", "0s") == (_HEALTHY, [])
    bad = command(program, "ledger", "--since", "yesterday")
    assert bad.returncode == EXIT_BAD_INPUT
    assert "--since: expected a time such as 30m, 24h or 7d, got 'yesterday'\n" in bad.stderr


def test_second_collector_on_a_state_folder_is_refused(program: Program, tmp_path: Path) -> None:
    """Two would each know half."""
    second = Program(tmp_path / "second", program.config_file.read_text())
    second.state_folder = program.state_folder
    with running(second):
        assert second.wait() == EXIT_BAD_INPUT

    (line,) = second.log.splitlines()
    assert "a collector already runs on this folder" in line


def test_health_follows_broker_and_store(
    mosquitto: Mosquitto, tmp_path: Path, database: Path, node: Client
) -> None:
    """200 while all is well, 503 with the reason while not, and 200 again."""
    settings = sqlite_settings(mosquitto, database).replace(
        "[collector]\n", '[collector]\nhealth_listen = "127.0.0.1:0"\nstall_seconds = 2.0\n'
    )
    with running(Program(tmp_path / "collector", settings)) as program:
        wait_for_collector(node)
        where = health_address(program)
        wait_until(lambda: ask(where).connected, "a connection")
        assert ask(where).healthy

        with closing(sqlite3.connect(database, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            node.publish(window(0))
            wait_until(lambda: not ask(where).healthy, "a store that is away", seconds=20.0)
            assert "for" in (ask(where).reason or "")
            other.execute("ROLLBACK")
        wait_until(lambda: ask(where).healthy, "a store that is back", seconds=20.0)

        mosquitto.stop()
        wait_until(lambda: not ask(where).healthy, "a broker that is away", seconds=20.0)
        assert (ask(where).reason or "").startswith("no connection to the broker")
        mosquitto.start()
        wait_until(lambda: ask(where).healthy, "a broker that is back", seconds=30.0)
        assert program.terminate() == 0


def test_bad_health_address_is_one_line(
    tmp_path: Path, mosquitto: Mosquitto, database: Path
) -> None:
    """At the start, before anything is connected."""
    settings = sqlite_settings(mosquitto, database).replace(
        "[collector]\n", '[collector]\nhealth_listen = "192.0.2.1:80"\n'
    )
    with running(Program(tmp_path / "collector", settings)) as program:
        assert program.wait() == EXIT_BAD_INPUT

    (line,) = program.log.splitlines()
    assert line.startswith("earshot collector: [collector] health_listen: 192.0.2.1:80: ")


@pytest.mark.parametrize("kind", ["sqlite", "influxdb"])
def test_store_tells_which_windows_of_a_boot_it_has(
    kind: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """Of this boot alone, in whatever order they came, with and without gaps."""
    sink: Sink = SqliteSink(tmp_path / "earshot.db")
    if kind == "influxdb":
        server: InfluxDb = request.getfixturevalue("influxdb")
        sink.close()
        sink = InfluxDbSink(
            InfluxDbSection(
                url=server.url, org=server.org, bucket=server.bucket, token=server.token
            )
        )
    with closing(sink):
        assert list(sink.stored_seqs("press-07", BOOT)) == []
        store(sink, [window(seq) for seq in (5, 3, 4)])
        assert list(sink.stored_seqs("press-07", BOOT)) == [(3, 5)]
        store(sink, [window(seq, model="fan@18") for seq in (8, 9, 0)])
        store(sink, [window(1, node="fan-1"), window(6, boot=NEXT_BOOT)])

        assert list(sink.stored_seqs("press-07", BOOT)) == [(0, 0), (3, 5), (8, 9)]
        assert list(sink.stored_seqs("fan-1", BOOT)) == [(1, 1)]


def test_influxdb_tells_of_more_windows_than_it_gives_at_once(influxdb: InfluxDb) -> None:
    """Page by page."""
    section = InfluxDbSection(
        url=influxdb.url, org=influxdb.org, bucket=influxdb.bucket, token=influxdb.token
    )
    with closing(InfluxDbSink(section)) as sink:
        store(sink, [window(seq) for seq in range(25_000) if seq != 12_345])

        assert list(sink.stored_seqs("press-07", BOOT)) == [(0, 12_344), (12_346, 24_999)]


def test_lost_state_folder_is_made_up_from_influxdb(
    mosquitto: Mosquitto, influxdb: InfluxDb, tmp_path: Path, node: Client
) -> None:
    """Once the database is there: until then nothing is acknowledged."""
    section = InfluxDbSection(
        url=influxdb.url, org=influxdb.org, bucket=influxdb.bucket, token=influxdb.token
    )
    with closing(InfluxDbSink(section)) as sink:
        store(sink, [window(seq) for seq in range(20) if seq != 7])
    program = Program(tmp_path / "collector", influxdb_settings(mosquitto, influxdb))
    with running(program):
        wait_for_collector(node)
        node.publish(window(20))
        wait_until(lambda: bool(receipts(node)), "a receipt")
        assert program.terminate() == 0

    assert receipts(node)[-1].stored_up_to == 20
    assert receipts(node)[-1].holes == ((7, 7),)


def test_memory_is_bounded_while_the_store_is_away(
    mosquitto: Mosquitto, tmp_path: Path, database: Path, node: Client
) -> None:
    """As many full backlogs as the broker may send take little more than their bytes."""
    settings = sqlite_settings(mosquitto, database).replace(
        "[collector]\n", '[collector]\nhealth_listen = "127.0.0.1:0"\n'
    )
    late = [backlog(*range(n * 50, n * 50 + 50)) for n in range(1, 601)]
    with running(Program(tmp_path / "collector", settings)) as program:
        wait_for_collector(node)
        where = health_address(program)
        with closing(sqlite3.connect(database, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            node.publish(*map(window, range(50)))
            wait_until(lambda: "cannot store" in program.log, "the store to be away")
            before = program.rss_bytes()
            node.publish(*late)
            # The default receive maximum: the broker sends no more.
            wait_until(lambda: ask(where).received == 500, "messages to wait")
            grown = program.rss_bytes() - before
            other.execute("ROLLBACK")
        wait_until(lambda: stored_count(database) == 30_050, "all windows", seconds=30.0)

    # 20 MB of messages, and what the network thread has read and not handed over yet.
    assert grown < 60_000_000


def test_dead_letters_are_in_the_file_when_the_broker_forgets_them(
    program: Program, node: Client
) -> None:
    """Whole, and once."""
    payload = b"{" + b"x" * 5000
    topic = topics.node("press-07", Kind.WINDOW)
    node.publish(Publication(topic=topic, payload=payload), window(0))
    file = program.state_folder / "dead-letters.jsonl"
    wait_until(lambda: file.exists() and file.read_text().endswith("\n"), "the letter")

    (line,) = file.read_text().splitlines()
    assert msgspec.json.decode(line)["payload_bytes"] == len(payload)


def store(sink: Sink, messages: Sequence[Message]) -> None:
    sink.write([point for message in messages for point in points(message, arrived_us=0)])
