"""Node, broker, collectors and databases together: what is scored is what is stored."""

import json
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
import soundfile

from node.sound.synthetic import MachineSound, Synthesizer
from tests.rig.brokers import Mosquitto
from tests.rig.databases import InfluxDb
from tests.rig.programs import MODEL, node_settings, run, start
from tests.rig.waiting import wait_until

_RATE_HZ = 16_000
_CLIPS = 6
_WINDOWS = 9 * _CLIPS


@pytest.fixture
def recordings(tmp_path: Path) -> Path:
    """Clips of 10 s: three healthy, three with a fault."""
    folder = tmp_path / "recordings"
    folder.mkdir()
    for number in range(_CLIPS):
        fault = "rubbing" if number % 2 else None
        sound = Synthesizer(MachineSound(seed=number, fault=fault), sample_rate_hz=_RATE_HZ)
        soundfile.write(folder / f"{number}.wav", sound.read(10 * _RATE_HZ), _RATE_HZ)
    return folder


def test_both_databases_hold_what_offline_scoring_gives(
    mosquitto: Mosquitto, influxdb: InfluxDb, recordings: Path, tmp_path: Path
) -> None:
    """The windows that a node plays are stored once in each, with the errors of `node score`."""
    database = tmp_path / "earshot.db"
    broker = {"EARSHOT_MQTT_HOST": mosquitto.host, "EARSHOT_MQTT_PORT": str(mosquitto.port)}
    to_sqlite = {
        "EARSHOT_COLLECTOR_ID": "a",
        "EARSHOT_COLLECTOR_STATE_FOLDER": str(tmp_path / "a"),
        "EARSHOT_SQLITE_PATH": str(database),
    }
    to_influxdb = {
        "EARSHOT_COLLECTOR_ID": "b",
        "EARSHOT_COLLECTOR_STATE_FOLDER": str(tmp_path / "b"),
        "EARSHOT_SINK_KIND": "influxdb",
        "EARSHOT_INFLUXDB_URL": influxdb.url,
        "EARSHOT_INFLUXDB_ORG": influxdb.org,
        "EARSHOT_INFLUXDB_BUCKET": influxdb.bucket,
        "EARSHOT_INFLUXDB_TOKEN": influxdb.token,
    }
    collectors = [
        start("collector", "run", settings=broker | sink) for sink in (to_sqlite, to_influxdb)
    ]
    try:
        # Its own status is the first thing that a collector stores: it has subscribed by then.
        wait_until(lambda: _count(database, "collector") == 1, "collector a")
        wait_until(lambda: bool(influxdb.query("SELECT * FROM collector")), "collector b")
        played = run("node", "run", "--fast", settings=node_settings(mosquitto, str(recordings)))
        wait_until(lambda: _count(database, "window") >= _WINDOWS, "windows in SQLite")
        wait_until(lambda: _influx_count(influxdb) >= _WINDOWS, "windows in InfluxDB")
    finally:
        for collector in collectors:
            collector.terminate()
        ends = [collector.communicate(timeout=30) for collector in collectors]
    offline = run(
        "node", "score", str(recordings), "--model", str(MODEL), "--format", "json", settings={}
    )
    expected = [window["mse"] for window in json.loads(offline.stdout)["windows"]]
    with closing(sqlite3.connect(database)) as connection:
        in_sqlite = [
            row[0] for row in connection.execute('SELECT mse FROM "window" ORDER BY time_us')
        ]
    in_influxdb = [row["mse"] for row in influxdb.query('SELECT mse FROM "window"')]

    assert played.returncode == 0, played.stderr
    assert [collector.returncode for collector in collectors] == [0, 0], ends
    assert len(expected) == _WINDOWS
    assert in_sqlite == pytest.approx(expected, rel=1e-6)
    assert in_influxdb == pytest.approx(expected, rel=1e-6)


def _count(database: Path, table: str) -> int:
    if not database.exists():
        return 0
    with closing(sqlite3.connect(database)) as connection:
        try:
            (count,) = connection.execute(f'SELECT count(*) FROM "{table}"').fetchone()
        except sqlite3.OperationalError:
            return 0  # the collector is just making its tables
    return int(count)


def _influx_count(server: InfluxDb) -> int:
    rows = server.query('SELECT count(mse) AS n FROM "window"')
    return int(rows[0]["n"]) if rows else 0
