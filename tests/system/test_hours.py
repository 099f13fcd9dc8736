"""Hours are counted from what real stores hold, by a collector that runs, and kept for years."""

import random
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from statistics import fmean

import msgspec
import pytest

from collector.settings import InfluxDbSection
from collector.sinks.hour_figures import HOUR_US
from collector.sinks.influxdb import InfluxDbSink
from collector.sinks.sink import Sink, SinkUnavailableError
from collector.sinks.sqlite import SqliteSink
from collector.state_folder import LEDGER
from contract import topics
from contract.messages import Window
from contract.points import points
from contract.records import WindowHour
from contract.states import PresenceReason, Problem
from tests.rig.brokers import Mosquitto
from tests.rig.collector_program import (
    Client,
    Program,
    influxdb_settings,
    query,
    running,
    sqlite_settings,
)
from tests.rig.databases import InfluxDb
from tests.rig.examples import backlog, window
from tests.rig.stepped_clock import SteppedClock
from tests.rig.waiting import wait_until

BEGIN_US = 472_200 * HOUR_US
"""An hour of 2023: over, whatever the time."""
SECOND_US = 1_000_000
NODE = "press-07"


def section(server: InfluxDb, hourly_bucket: str | None = None) -> InfluxDbSection:
    return InfluxDbSection(
        url=server.url,
        org=server.org,
        bucket=server.bucket,
        hourly_bucket=hourly_bucket,
        token=server.token,
    )


@pytest.fixture(params=["sqlite", "influxdb"])
def sink(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Sink]:
    """Each real store."""
    opened: Sink
    if request.param == "sqlite":
        opened = SqliteSink(tmp_path / "earshot.db")
    else:
        opened = InfluxDbSink(section(request.getfixturevalue("influxdb")))
    with closing(opened):
        yield opened


def store(sink: Sink, windows: Sequence[Window]) -> None:
    sink.write([point for each in windows for point in points(each, arrived_us=0)])


def heard_windows() -> list[Window]:
    """Two hours of two nodes: scores that scatter, another model, some that were not judged."""
    chance = random.Random(7)
    made = []
    for node in (NODE, "press-070"):
        for seq in range(2 * 360):
            score = chance.lognormvariate(-0.2, 0.3)
            made.append(
                window(
                    seq,
                    node=node,
                    start_us=BEGIN_US + seq * 10 * SECOND_US,
                    model="fan@17" if seq < 200 else "fan@18",
                    mse=45.0 * score,
                    statistic=45.0 * score,
                    score=score,
                    anomaly=score > 1,
                    level_dbfs=chance.gauss(-31.0, 1.0),
                )
            )
            if seq % 50 == 7:
                made[-1] = unscored(made[-1])
    return made


def unscored(heard: Window) -> Window:
    return msgspec.structs.replace(
        heard, mse=None, statistic=None, score=None, anomaly=None, problem=Problem.OVERRUN
    )


def counted_plainly(windows: Sequence[Window], node: str, hour_us: int) -> list[WindowHour]:
    """The same figures without any store."""
    by_model: dict[str, list[Window]] = defaultdict(list)
    for each in windows:
        if each.node == node and hour_us <= each.start_us < hour_us + HOUR_US:
            by_model[each.model].append(each)
    made = []
    for model, chosen in sorted(by_model.items()):
        scores = [each.score for each in chosen if each.score is not None]
        errors = [each.mse for each in chosen if each.mse is not None]
        levels = [each.level_dbfs for each in chosen if each.level_dbfs is not None]
        made.append(
            WindowHour(
                node=node,
                model=model,
                start_us=hour_us,
                windows=len(chosen),
                scored=len(scores),
                flagged=sum(each.anomaly is True for each in chosen),
                score_mean=fmean(scores) if scores else None,
                score_max=max(scores, default=None),
                mse_mean=fmean(errors) if errors else None,
                level_mean_dbfs=fmean(levels) if levels else None,
            )
        )
    return made


def same(found: Sequence[WindowHour], expected: Sequence[WindowHour]) -> bool:
    """But for the order in which means are added up."""
    return [msgspec.to_builtins(each) for each in found] == [
        {
            name: pytest.approx(value, rel=1e-12) if isinstance(value, float) else value
            for name, value in msgspec.to_builtins(each).items()
        }
        for each in expected
    ]


def test_hours_of_a_store_are_those_of_a_plain_count(sink: Sink) -> None:
    """Of this node and hour alone, each model by itself; its last and its next window are not."""
    windows = heard_windows()
    store(sink, windows)

    for hour_us in (BEGIN_US, BEGIN_US + HOUR_US):
        expected = counted_plainly(windows, NODE, hour_us)
        assert same(sink.hours(NODE, hour_us), expected)
    assert [each.windows for each in sink.hours(NODE, BEGIN_US)] == [200, 160]
    assert [each.windows for each in sink.hours(NODE, BEGIN_US + HOUR_US)] == [360]
    assert sink.hours(NODE, BEGIN_US - HOUR_US) == []
    assert sink.hours(NODE, BEGIN_US + 2 * HOUR_US) == []


def test_hour_in_which_nothing_was_judged_has_no_score(sink: Sink) -> None:
    """It has its count, and its level if there is one."""
    deaf = unscored(window(0, start_us=BEGIN_US))
    store(sink, [deaf, msgspec.structs.replace(deaf, seq=1, start_us=BEGIN_US + 1)])

    assert sink.hours(NODE, BEGIN_US) == [
        WindowHour(
            node=NODE,
            model="fan@17",
            start_us=BEGIN_US,
            windows=2,
            scored=0,
            flagged=0,
            score_mean=None,
            score_max=None,
            mse_mean=None,
            level_mean_dbfs=-31.25,
        )
    ]


def test_store_that_is_away_cannot_count(influxdb: InfluxDb) -> None:
    """It is asked again later."""
    with closing(InfluxDbSink(section(influxdb))) as sink:
        influxdb.stop()

        with pytest.raises(SinkUnavailableError):
            sink.hours(NODE, BEGIN_US)


def test_hours_lie_in_a_bucket_of_their_own(influxdb: InfluxDb) -> None:
    """One write may go to both; neither holds what belongs to the other."""
    hourly, _ = influxdb.new_bucket(), influxdb.new_bucket()
    windows = heard_windows()[:10]
    hours = counted_plainly(windows, NODE, BEGIN_US)
    with closing(InfluxDbSink(section(influxdb, hourly))) as sink:
        sink.write([p for each in (*windows, *hours) for p in points(each, arrived_us=0)])

    assert [row["name"] for row in influxdb.query("SHOW MEASUREMENTS")] == ["window"]
    assert influxdb.query("SHOW MEASUREMENTS", bucket=hourly) == [{"name": "window_hour"}]


@pytest.fixture
def node(mosquitto: Mosquitto) -> Iterator[Client]:
    with Client(mosquitto, NODE, topics.collector_status("collector")) as client:
        yield client


def wait_for(condition: Callable[[], bool], what: str) -> None:
    wait_until(condition, what, seconds=60.0)


def wait_for_windows(program: Program, count: int) -> None:
    """Until so many are in the ledger, which is behind the store: only then is the hour heard."""
    written = "SELECT sum(last - first + 1) FROM stored"
    wait_for(lambda: query(program.state_folder / LEDGER, written) == [(count,)], "the windows")


HOURS = (
    "SELECT time_us, node, model, windows, scored, flagged FROM window_hour ORDER BY time_us, model"
)
MINUTE = 60.0


def test_collector_counts_hours_and_once_more_what_comes_late(
    mosquitto: Mosquitto, node: Client, tmp_path: Path
) -> None:
    """Ten minutes after the last window; also a collector that was killed in between."""
    database, clock = tmp_path / "earshot.db", SteppedClock(tmp_path / "clock")
    program = Program(
        tmp_path / "collector",
        sqlite_settings(mosquitto, database),
        environment=clock.environment,
    )
    live = [window(seq, start_us=BEGIN_US + seq * SECOND_US) for seq in range(20)]
    late = backlog(20, 21)
    late = msgspec.structs.replace(
        late,
        windows=tuple(
            msgspec.structs.replace(each, start_us=BEGIN_US + (HOUR_US if each.seq > 20 else 1))
            for each in late.windows
        ),
    )
    with running(program):
        wait_for(lambda: node.presence() is PresenceReason.CONNECTED, "a collector online")
        node.publish(*live)
        wait_for_windows(program, 20)
        program.kill()
        assert query(database, HOURS) == []

        program.start()
        wait_for(lambda: program.log.count("connected to the broker") == 2, "a second start")
        clock.step(11 * MINUTE)
        wait_for(
            lambda: query(database, HOURS) == [(BEGIN_US, NODE, "fan@17", 20, 20, 0)], "the hour"
        )

        node.publish(late)
        wait_for_windows(program, 22)
        clock.step(22 * MINUTE)
        both = [
            (BEGIN_US, NODE, "fan@17", 21, 21, 0),
            (BEGIN_US + HOUR_US, NODE, "fan@17", 1, 1, 0),
        ]
        wait_for(lambda: query(database, HOURS) == both, "both hours")
        assert program.terminate() == 0


def test_collector_stores_hours_in_influxdb(
    mosquitto: Mosquitto, node: Client, influxdb: InfluxDb, tmp_path: Path
) -> None:
    """In the bucket that is there for them, once there is one; windows do not wait for it."""
    influxdb.new_bucket()
    hourly = f"{influxdb.bucket}-hourly"
    clock = SteppedClock(tmp_path / "clock")
    settings = influxdb_settings(mosquitto, influxdb) + f'hourly_bucket = "{hourly}"\n'
    program = Program(tmp_path / "collector", settings, environment=clock.environment)
    with running(program):
        wait_for(lambda: node.presence() is PresenceReason.CONNECTED, "a collector online")
        node.publish(window(0, start_us=BEGIN_US))
        wait_for_windows(program, 1)
        clock.step(11 * MINUTE)
        wait_for(lambda: "cannot store hourly figures" in program.log, "a line")
        node.publish(window(1, start_us=BEGIN_US + 1))
        wait_for_windows(program, 2)

        influxdb.query(f'CREATE DATABASE "{hourly}"')
        clock.step(22 * MINUTE)

        wait_for(
            lambda: (
                [
                    (row["time"], row["node"], row["model"], row["windows"])
                    for row in influxdb.query('SELECT * FROM "window_hour"', bucket=hourly)
                ]
                == [("2023-11-14T00:00:00Z", NODE, "fan@17", 2)]
            ),
            "the hour",
        )
        assert program.terminate() == 0
    assert f"bucket {hourly}" in program.log
    assert influxdb.query('SELECT * FROM "window_hour"') == []
