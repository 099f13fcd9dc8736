"""The collector as a program, with a real broker and real stores."""

import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import msgspec
import pytest

from collector.watch.show import Mode, run
from contract import topics
from contract.errors import EXIT_BAD_INPUT, BrokerUnreachableError
from contract.messages import encode
from contract.session import (
    Publication,
)
from contract.settings import MqttSettings
from contract.states import PresenceReason, Problem
from tests.rig.brokers import Mosquitto
from tests.rig.collector_program import (
    ROOT,
    Client,
    Program,
    influxdb_settings,
    publication_of,
    query,
    running,
    sqlite_settings,
    stored_count,
    stored_seqs,
)
from tests.rig.databases import InfluxDb
from tests.rig.examples import backlog, status, window
from tests.rig.ports import free_port
from tests.rig.waiting import wait_until


@pytest.fixture
def database(tmp_path: Path) -> Path:
    return tmp_path / "earshot.db"


@pytest.fixture
def observer(mosquitto: Mosquitto) -> Iterator[Client]:
    """Hears what collectors say."""
    status_of_collector = topics.collector_status("collector")
    with Client(mosquitto, "observer", status_of_collector, topics.dead_letter()) as client:
        yield client


@pytest.fixture
def node(mosquitto: Mosquitto) -> Iterator[Client]:
    with Client(mosquitto, "press-07") as client:
        yield client


@pytest.fixture
def with_sqlite(
    mosquitto: Mosquitto, tmp_path: Path, database: Path, observer: Client
) -> Iterator[Program]:
    """A collector that is online and writes to `database`."""
    with running(Program(tmp_path / "collector", sqlite_settings(mosquitto, database))) as program:
        wait_until(lambda: observer.presence() is PresenceReason.CONNECTED, "a collector online")
        yield program


@pytest.fixture
def with_influxdb(
    mosquitto: Mosquitto, tmp_path: Path, influxdb: InfluxDb, observer: Client
) -> Iterator[Program]:
    """A collector that is online and writes to `influxdb`."""
    program = Program(tmp_path / "collector", influxdb_settings(mosquitto, influxdb))
    with running(program):
        wait_until(lambda: observer.presence() is PresenceReason.CONNECTED, "a collector online")
        yield program


def test_messages_are_stored_in_sqlite(with_sqlite: Program, node: Client, database: Path) -> None:
    """Live and late windows and a status are there within two seconds."""
    node.publish(*map(window, range(100)), backlog(*range(100, 140)))
    node.publish(status(PresenceReason.CONNECTED))

    wait_until(lambda: stored_seqs(database) == list(range(140)), "all windows")
    wait_until(lambda: query(database, "SELECT reason FROM status") == [("connected",)], "status")


def test_unstorable_messages_are_told_and_the_others_stored(
    with_sqlite: Program, node: Client, observer: Client, database: Path
) -> None:
    """Each with its reason, and none of them comes a second time."""
    topic = topics.node("press-07", topics.Kind.WINDOW)
    future = msgspec.json.encode(msgspec.to_builtins(window(50)) | {"schema": 2})
    node.publish(
        window(0),
        Publication(topic=topic, payload=b'{"schema":1,'),
        window(1),
        Publication(topic=topic, payload=b"x" * 100_000),
        Publication(topic=topic, payload=future),
        Publication(topic="earshot/1/n/press-08/window", payload=encode(window(51))),
        Publication(topic="earshot/1/n/PRESS/window", payload=encode(window(52))),
        window(2),
    )

    wait_until(lambda: len(observer.letters()) == 5, "five letters")
    reasons = [letter.reason for letter in observer.letters()]
    assert reasons == ["malformed", "oversize", "schema", "wrong_topic", "wrong_topic"]
    wait_until(lambda: stored_seqs(database) == [0, 1, 2], "the good windows")
    assert with_sqlite.terminate() == 0

    # The broker has forgotten them: after a restart only what is new comes.
    with_sqlite.start()
    node.publish(window(3))
    wait_until(lambda: stored_seqs(database) == [0, 1, 2, 3], "the window after the restart")
    assert len(observer.letters()) == 5


def test_killed_collector_loses_nothing(with_sqlite: Program, node: Client, database: Path) -> None:
    """SIGKILL in the middle of a stream, twice; then every window is stored once."""
    count = 6000
    stream = threading.Thread(target=node.publish, args=tuple(map(window, range(count))))
    stream.start()
    for least in (500, 2500):
        wait_until(lambda least=least: stored_count(database) >= least, "some")  # type: ignore[misc]
        with_sqlite.kill()
        with_sqlite.start()
    stream.join()

    wait_until(lambda: stored_count(database) >= count, "all windows", seconds=20.0)
    assert stored_seqs(database) == list(range(count))


def test_collector_killed_with_a_batch_in_hand_loses_nothing(
    with_sqlite: Program, node: Client, database: Path
) -> None:
    """What it had received and not stored, because the file was locked, comes again."""
    with closing(sqlite3.connect(database, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        node.publish(*map(window, range(300)))
        wait_until(lambda: "cannot store" in with_sqlite.log, "the failure to be told")
        with_sqlite.kill()
        other.execute("ROLLBACK")
    assert stored_seqs(database) == []

    with_sqlite.start()

    wait_until(lambda: stored_seqs(database) == list(range(300)), "all windows")


def test_windows_sent_while_the_collector_is_away_are_stored(
    with_sqlite: Program, node: Client, database: Path
) -> None:
    """The broker keeps them for the next start."""
    assert with_sqlite.terminate() == 0
    node.publish(*map(window, range(1500)))

    with_sqlite.start()

    wait_until(lambda: stored_seqs(database) == list(range(1500)), "all windows")


def test_stopped_collector_says_so(
    with_sqlite: Program, node: Client, observer: Client, database: Path
) -> None:
    """SIGTERM: the batch at hand is stored, the status is `stopped`, the counters are logged."""
    node.publish(window(0))
    wait_until(lambda: stored_seqs(database) == [0], "the window")

    assert with_sqlite.terminate() == 0

    wait_until(lambda: observer.presence() is PresenceReason.STOPPED, "goodbye")
    assert "received 1" in with_sqlite.log.splitlines()[-1]
    assert query(database, "SELECT id, reason FROM collector ORDER BY time_us") == [
        ("collector", "connected"),
        ("collector", "stopped"),
    ]


def test_messages_are_stored_in_influxdb(
    with_influxdb: Program, node: Client, influxdb: InfluxDb
) -> None:
    """With time, tags and types as the dashboards expect them."""
    node.publish(*map(window, range(700)))

    wait_until(lambda: influx_seqs(influxdb) == list(range(700)), "all windows")
    (row,) = influxdb.query('SELECT * FROM "window" WHERE seq = 5')
    assert row["time"] == "2026-11-22T14:35:17Z"
    assert (row["node"], row["model"], row["mse"], row["anomaly"]) == ("press-07", "fan@17", 31, 0)
    types = {r["fieldKey"]: r["fieldType"] for r in influxdb.query('SHOW FIELD KEYS FROM "window"')}
    assert (types["seq"], types["mse"], types["state"]) == ("integer", "float", "string")


def test_influxdb_that_was_away_gets_everything(
    with_influxdb: Program, node: Client, influxdb: InfluxDb
) -> None:
    """Also across a stop of the collector, which leaves soon and acknowledges nothing."""
    node.publish(*map(window, range(50)))
    wait_until(lambda: len(influx_seqs(influxdb)) == 50, "the windows before")
    influxdb.stop()
    node.publish(*map(window, range(50, 1300)))
    wait_until(lambda: "cannot store" in with_influxdb.log, "the failure to be told")

    began = time.monotonic()
    assert with_influxdb.terminate() == 0
    assert time.monotonic() - began < 5.0
    # One line, or two: a write may have met the database on its way out, and then gone.
    told = with_influxdb.log.count("cannot store")
    with_influxdb.start()
    wait_until(lambda: with_influxdb.log.count("cannot store") > told, "the failure to be told")
    influxdb.start()

    wait_until(lambda: influx_seqs(influxdb) == list(range(1300)), "all windows", seconds=20.0)
    wait_until(lambda: "storing again" in with_influxdb.log, "the return to be told")


def test_point_that_influxdb_refuses_is_told_and_the_others_stored(
    with_influxdb: Program, node: Client, observer: Client, influxdb: InfluxDb
) -> None:
    """A field of another type, set by somebody else, hits only the points that have it."""
    write_line(influxdb, 'window,node=other,model=fan@1 problem_code="text" 1795358112000000')
    bad = window(13, score=None, anomaly=None, mse=None, statistic=None, problem=Problem.ERROR)

    node.publish(*(bad if seq == 13 else window(seq) for seq in range(30)))

    wait_until(lambda: len(observer.letters()) == 1, "the letter")
    (letter,) = observer.letters()
    assert letter.reason == "rejected"
    assert "field type conflict" in letter.detail
    good = [seq for seq in range(30) if seq != 13]
    wait_until(lambda: set(good) <= set(influx_seqs(influxdb)), "the good windows")


def test_wrong_token_is_told_and_nothing_acknowledged(
    mosquitto: Mosquitto, node: Client, observer: Client, influxdb: InfluxDb, tmp_path: Path
) -> None:
    """With the right one, all is stored."""
    right = influxdb_settings(mosquitto, influxdb)
    program = Program(tmp_path / "collector", right.replace(influxdb.token, "wrong"))
    with running(program):
        wait_until(lambda: observer.presence() is PresenceReason.CONNECTED, "a collector online")
        node.publish(*map(window, range(10)))
        wait_until(lambda: "the token is not valid" in program.log, "the reason to be told")
        assert program.terminate() == 0
        program.config_file.write_text(right)
        program.start()

        wait_until(lambda: influx_seqs(influxdb) == list(range(10)), "all windows")


def test_broker_that_comes_later_is_waited_for(tmp_path: Path, database: Path) -> None:
    """One line says that it is away, and one that it is there."""
    broker = Mosquitto(tmp_path / "mosquitto")
    program = Program(tmp_path / "collector", sqlite_settings(broker, database))
    with running(program):
        wait_until(lambda: "no connection to the broker" in program.log, "a line")
        with broker, Client(broker, "press-07", topics.collector_status("collector")) as node:
            wait_until(lambda: node.presence() is PresenceReason.CONNECTED, "a collector online")
            node.publish(window(0))
            wait_until(lambda: stored_seqs(database) == [0], "the window")
            assert program.terminate() == 0

    assert program.log.count("WARNING") == 2


def test_broker_that_was_killed_is_found_again(
    with_sqlite: Program, mosquitto: Mosquitto, database: Path, observer: Client
) -> None:
    """The collector connects and subscribes again by itself."""
    mosquitto.save()
    mosquitto.kill()
    wait_until(lambda: "no connection to the broker" in with_sqlite.log, "the loss to be told")
    mosquitto.start()

    wait_until(lambda: "again" in with_sqlite.log, "the return to be told", seconds=20.0)
    with Client(mosquitto, "press-07") as node:
        node.publish(window(0))
        wait_until(lambda: stored_seqs(database) == [0], "the window")


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ('[sink]\nkind = "mysql"\n', "sink.kind"),
        ("[mqtt\n", "not valid TOML"),
        ('[sqlite]\npath = "/none/earshot.db"\n', "folder does not exist"),
        ('[sqlite]\npath = "/proc/earshot.db"\n', "unable to open"),
        ('[sink]\nkind = "influxdb"\n', "influxdb.token"),
    ],
)
def test_bad_start_is_one_line(tmp_path: Path, settings: str, text: str) -> None:
    """With an exit code, and before anything is connected."""
    program = Program(tmp_path / "collector", settings)
    with running(program):
        assert program.wait() == EXIT_BAD_INPUT

    (line,) = program.log.splitlines()
    assert line.startswith("earshot collector: ")
    assert text in line


def test_refused_password_is_one_line(tmp_path: Path, database: Path) -> None:
    """The collector does not hammer a broker that knows it not."""
    with Mosquitto(tmp_path / "mosquitto", users={"collector": "right"}) as broker:
        settings = sqlite_settings(broker, database)
        login = '[mqtt]\nusername = "collector"\npassword = "wrong"\n'
        program = Program(tmp_path / "collector", settings.replace("[mqtt]\n", login))
        with running(program):
            assert program.wait() == EXIT_BAD_INPUT

    (line,) = program.log.splitlines()
    assert line.startswith("earshot collector: MQTT: the broker refused the connection")
    assert "wrong" not in line


def test_watch_prints_one_table(mosquitto: Mosquitto, node: Client) -> None:
    """What is retained and what comes meanwhile; the exit code is 0."""
    retained = status(PresenceReason.STOPPED, node="fan-1")
    node.publish(msgspec.structs.replace(publication_of(retained), retain=True))
    with watching(mosquitto, "--once", "--seconds", "2") as process:
        while process.poll() is None:
            node.publish(window(0, anomaly=True))
            time.sleep(0.1)
        out = process.communicate()[0].decode()

    assert process.returncode == 0
    (press,) = [row for row in out.splitlines() if "press-07" in row]
    (fan,) = [row for row in out.splitlines() if "fan-1" in row]
    assert "anomalous" in press
    assert "offline" in fan


def test_watch_prints_lines_until_interrupted(mosquitto: Mosquitto, node: Client) -> None:
    """Without a terminal there is a line per node; Ctrl-C is no error."""
    with watching(mosquitto, "--every", "0.1") as process:
        assert process.stdout is not None
        line = process.stdout.readline().decode()
        assert "no nodes yet" in line
        node.publish(window(0))
        while "press-07 healthy" not in line:
            line = process.stdout.readline().decode()
            assert line
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=10.0)

    assert process.returncode == 0
    assert errors == b""


def test_watch_of_a_broker_that_is_not_there_ends_with_one_line() -> None:
    """After a while, with the reason."""
    settings = MqttSettings(host="127.0.0.1", port=free_port())
    with pytest.raises(BrokerUnreachableError, match="refused"):
        run(settings, Mode.ONCE, seconds=1.0, every=1.0, connect_seconds=0.5)


def test_watch_that_is_refused_ends_with_one_line(tmp_path: Path) -> None:
    """At once."""
    with (
        Mosquitto(tmp_path / "mosquitto", users={"a": "b"}) as broker,
        watching(broker, "--once") as process,
    ):
        _, errors = process.communicate(timeout=10.0)

    assert process.returncode == EXIT_BAD_INPUT
    (line,) = errors.decode().splitlines()
    assert line.startswith("earshot collector: MQTT 127.0.0.1:")


@contextmanager
def watching(broker: Mosquitto, *options: str) -> Iterator[subprocess.Popen[bytes]]:
    address = f"{broker.host}:{broker.port}"
    with subprocess.Popen(
        [sys.executable, "-m", "collector", "watch", "--broker", address, *options],
        cwd=ROOT,
        env={**os.environ, "PYTHONUTF8": "1"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def influx_seqs(server: InfluxDb) -> list[int]:
    return sorted(row["seq"] for row in server.query('SELECT seq FROM "window"'))


def write_line(server: InfluxDb, line: str) -> None:
    request = urllib.request.Request(
        f"{server.url}/api/v2/write?org={server.org}&bucket={server.bucket}&precision=us",
        line.encode(),
        {"Authorization": f"Token {server.token}"},
    )
    with urllib.request.urlopen(request, timeout=5.0) as response:
        assert response.status == 204
