"""Every query of every page and every alert rule, run on a real InfluxDB.

It holds what the collector's own code has written of a half hour in which everything goes wrong
once (`tests.rig.simulated_half_hour`), and what went wrong has to be where a person would look.
"""

import json
import re
from collections.abc import Iterator, Sequence
from datetime import datetime
from pathlib import Path

import pytest
import yaml

from collector.grafana.panels import HOURLY_SOURCE_UID
from collector.settings import InfluxDbSection
from collector.sinks.hour_figures import HOUR_US, hour_of
from collector.sinks.influxdb import InfluxDbSink
from contract.points import Point
from contract.points import points as points_of
from contract.records import WindowHour
from contract.states import CODES, MachineState, UpdatePhase
from tests.rig import simulated_half_hour as half_hour
from tests.rig.databases import InfluxDb
from tests.rig.grafana import (
    Choice,
    Json,
    ask_grafana,
    bucket_of,
    evaluate,
    firing,
    frames,
    run,
    seconds,
    table,
)
from tests.rig.simulated_half_hour import (
    ALARM,
    BACKLOG,
    BEGIN_US,
    CLOCKLESS,
    COLLECTOR,
    DEAF,
    END_US,
    FAILED,
    HEALTHY,
    HOLE,
    HOT,
    LEARNING,
    LINE_1,
    MINUTE_US,
    MUTE,
    NODES,
    OFFLINE,
    REBOOTED,
    RECOVERED,
    SPARE_COLLECTOR,
    STOPPED,
    UPDATED,
    UPDATING,
    WARNING,
)

GRAFANA = Path(__file__).parents[2] / "collector" / "grafana"
# One database with its half hour for all of them.
pytestmark = pytest.mark.xdist_group("dashboards")

BOARDS = {
    file.stem.removeprefix("earshot-"): json.loads(file.read_text("utf-8"))
    for file in (GRAFANA / "dashboards").glob("*.json")
}
(GROUP,) = yaml.safe_load((GRAFANA / "provisioning/alerting/rules.yaml").read_text("utf-8"))[
    "groups"
]
RULES = {rule["uid"].removeprefix("earshot-"): rule for rule in GROUP["rules"]}

ALL = ".*"
PANELS = [
    pytest.param(name, panel, id=f"{name}-{panel['title']}")
    for name, board in BOARDS.items()
    for panel in board["panels"]
]
_BATCH_POINTS = 5000
DAY_US = 24 * HOUR_US


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Iterator[InfluxDb]:
    """An InfluxDB that holds the half hour, and beside it the hours of the months before."""
    with InfluxDb(tmp_path_factory.mktemp("influxdb")) as server:
        hourly_bucket = bucket_of(server, HOURLY_SOURCE_UID)
        server.query(f'CREATE DATABASE "{hourly_bucket}"')
        sink = InfluxDbSink(
            InfluxDbSection(
                url=server.url,
                org=server.org,
                bucket=server.bucket,
                hourly_bucket=hourly_bucket,
                token=server.token,
            )
        )
        points = [*half_hour.stored_points(), *hourly_points()]
        for begin in range(0, len(points), _BATCH_POINTS):
            sink.write(points[begin : begin + _BATCH_POINTS])
        sink.close()
        yield server


WORN_DAYS = 100
"""So long ago the machine in alarm began to sound worse."""
HOURS_END_US = hour_of(BEGIN_US)


def hourly_points() -> Iterator[Point]:
    """Half a year of two machines; one wears. In every 24th hour nothing could be judged."""
    for node in (HEALTHY, ALARM):
        for ago in range(180 * 24, 0, -1):
            worn = node == ALARM and ago <= WORN_DAYS * 24
            judged = ago % 24 != 0
            hour = WindowHour(
                node=node,
                model="fan@17",
                start_us=HOURS_END_US - ago * HOUR_US,
                windows=1800,
                scored=1800 if judged else 0,
                flagged=(450 if worn else 0) if judged else 0,
                score_mean=(0.9 if worn else 0.6) if judged else None,
                score_max=(1.8 if worn else 0.8) if judged else None,
                mse_mean=27.0 if judged else None,
                level_mean_dbfs=-31.0,
            )
            yield from points_of(hour, arrived_us=0)


def months(*nodes: str) -> Choice:
    """What panels over months show."""
    return Choice(HOURS_END_US - 180 * DAY_US, HOURS_END_US, {"node": nodes or ALL, "group": ALL})


def choice(*nodes: str, groups: Sequence[str] | str = ALL) -> Choice:
    """The half hour, of all nodes or of some."""
    return Choice(BEGIN_US, END_US, {"node": nodes or ALL, "group": groups})


def clock(minute: int, second: int = 0) -> str:
    """A time of the half hour, as InfluxDB writes it."""
    return f"2026-11-22T14:{30 + minute}:{second:02}Z"


def panel_of(board: str, title: str) -> Json:
    """A panel by its title."""
    found: list[Json] = [p for p in BOARDS[board]["panels"] if p["title"] == title]
    assert len(found) == 1
    return found[0]


@pytest.mark.parametrize(("board", "panel"), PANELS)
def test_each_query_of_a_panel_finds_something(database: InfluxDb, board: str, panel: Json) -> None:
    """A query that is refused, finds nothing, or has a column without any value, shows nothing."""
    # A page of one node, where its own trouble fills every panel.
    nodes = {"machine": (ALARM,), "node": (DEAF,)}.get(board, ())

    chosen = months(*nodes) if "timeFrom" in panel else choice(*nodes)
    for letter, rows in run(database, panel, chosen).items():
        assert rows, letter
        silent = [n for n in rows[0] if all(row[n] is None for row in rows)]
        assert not silent, letter


@pytest.mark.parametrize(("board", "panel"), PANELS)
def test_each_name_in_a_panel_is_one_that_its_queries_give(
    database: InfluxDb, board: str, panel: Json
) -> None:
    """An override, an order or a sort by a column that is not there does nothing, silently."""
    if panel["type"] == "table":
        (names,) = {tuple(row) for row in table(database, panel, choice())}
        told = [column["displayName"] for column in panel["options"]["sortBy"]]
        told += panel["transformations"][-1]["options"]["indexByName"]
    else:
        names = tuple(target.get("alias", "") for target in panel["targets"])
        told = []
        for target in panel["targets"]:
            assert _tags_of_alias(target) == _tags_of_series(target["query"]), target["refId"]
    told += [override["matcher"]["options"] for override in panel["fieldConfig"]["overrides"]]

    assert set(told) <= set(names)


def _tags_of_alias(target: Json) -> set[str]:
    return set(re.findall(r"\$tag_(\w+)", target.get("alias", "")))


def _tags_of_series(query: str) -> set[str]:
    """Of the outermost GROUP BY: without them in its name, two lines have the same."""
    while (shorter := re.sub(r"\([^()]*\)", "", query)) != query:
        query = shorter
    return set(re.findall(r'"(\w+)"', query.partition("GROUP BY")[2]))


NOT_NORMAL = {ALARM, WARNING, LEARNING, STOPPED, DEAF, OFFLINE, MUTE}


@pytest.mark.parametrize(
    ("title", "nodes"),
    [
        ("Alarm", {ALARM}),
        ("Warning", {WARNING}),
        ("Normal", set(NODES) - NOT_NORMAL),
        ("Learning", {LEARNING}),
        ("Stopped", {STOPPED}),
        ("Microphone trouble", {DEAF}),
        ("No windows", {OFFLINE, MUTE}),
        ("Offline", {OFFLINE}),
    ],
)
def test_fleet_counts_its_nodes(database: InfluxDb, title: str, nodes: set[str]) -> None:
    """A machine that is not heard now is not counted as normal, whatever it was."""
    panel = panel_of("fleet", title)
    (row,) = run(database, panel, choice())["A"]

    assert row["nodes"] == len(nodes)
    assert {node for node in NODES if run(database, panel, choice(node))["A"]} == nodes


def test_fleet_counts_nothing_of_what_is_not_there(database: InfluxDb) -> None:
    """Of a healthy node no trouble is counted: the panel shows its word for no value, 0."""
    for title in ("Alarm", "Warning", "Microphone trouble", "No windows", "Offline"):
        panel = panel_of("fleet", title)

        assert run(database, panel, choice(HEALTHY)) == {"A": []}
        assert panel["fieldConfig"]["defaults"]["noValue"] == "0"


def test_triage_has_the_worst_first(database: InfluxDb) -> None:
    """An alarm, then whoever is not heard, then a warning, then the rest by flagged windows."""
    rows = table(database, panel_of("fleet", "Who comes first"), choice())

    assert [(row["node"], round(row["risk"])) for row in rows[:6]] == [
        (ALARM, 100),
        (OFFLINE, 80),
        (DEAF, 70),
        (MUTE, 60),
        (WARNING, 50),
        (RECOVERED, 0),
    ]
    assert {row["risk"] for row in rows[6:]} == {0}
    assert {row["node"] for row in rows} == set(NODES)
    assert rows[0]["machine"] == CODES[MachineState].index(MachineState.ALARM)
    assert rows[0]["last window"] == clock(29, 58)
    assert "away" not in rows[0]


def test_fleet_shows_the_worst_node_beside_the_mean(database: InfluxDb) -> None:
    """One machine in alarm is not lost among sixteen that are well."""
    series = run(database, panel_of("fleet", "Flagged windows"), choice())
    fleet, worst = ([r["mean" if n == "A" else "max"] for r in series[n]] for n in ("A", "B"))
    before, after = 4 * 6, 20 * 6  # minutes of ten seconds

    assert (fleet[before], worst[before]) == (0, 0)
    assert (round(fleet[after], 3), worst[after]) == (round(1 / 14, 3), 1)


def test_models_are_counted_by_node(database: InfluxDb) -> None:
    """A node that has changed its model counts once, under the new one."""
    rows = run(database, panel_of("fleet", "Nodes by model"), choice())["A"]

    assert {row["model"]: row["nodes"] for row in rows} == {"fan@17": 14, "fan@18": 1}


def test_last_seen_has_the_absent_first(database: InfluxDb) -> None:
    """With the time of its last will."""
    first, *_ = table(database, panel_of("fleet", "Last seen"), choice())

    assert (first["node"], first["reason"], first["since"]) == (
        OFFLINE,
        "lost",
        clock(20),
    )


def variable_values(database: InfluxDb, board: str, name: str, chosen: Choice) -> list[str]:
    """What can be chosen: the second column of the variable's query."""
    (variable,) = (v for v in BOARDS[board]["templating"]["list"] if v["name"] == name)
    rows = database.query(chosen.fill(variable["query"], interval_seconds=1))
    return [list(row.values())[1] for row in rows]


def test_a_group_can_be_chosen(database: InfluxDb) -> None:
    """And leaves the choice among its nodes."""
    assert variable_values(database, "fleet", "group", choice()) == ["line-1", "line-2"]

    chosen = choice(groups=("line-1",))

    assert variable_values(database, "fleet", "node", chosen) == sorted(LINE_1)


def test_all_groups_include_the_nodes_of_none(database: InfluxDb) -> None:
    """A node without a group is never left out silently."""
    found = variable_values(database, "fleet", "node", choice())

    assert found == sorted(NODES)
    assert STOPPED in found
    assert STOPPED not in variable_values(
        database, "fleet", "node", choice(groups=("line-1", "line-2"))
    )


def test_a_single_node_is_chosen_by_its_tag(database: InfluxDb) -> None:
    """The plainest query there is, which every InfluxDB answers."""
    assert variable_values(database, "machine", "node", choice()) == sorted(NODES)


def test_only_chosen_nodes_are_shown(database: InfluxDb) -> None:
    """A node whose id begins like another's is not that one."""
    rows = table(database, panel_of("fleet", "Who comes first"), choice("alarm", "healthy-1"))

    assert [row["node"] for row in rows] == ["alarm", "healthy-1"]


def test_machine_shows_the_episode_and_where_to_listen(database: InfluxDb) -> None:
    """Newest first, under one id."""
    rows = table(database, panel_of("machine", "Episodes"), choice(ALARM))
    (bands, *_) = table(database, panel_of("machine", "Top bands"), choice(ALARM))

    assert [(row["phase"], row["episode"]) for row in rows] == [
        ("continued", half_hour.EPISODE),
        ("opened", half_hour.EPISODE),
    ]
    assert bands["bands"] == "1425.5,3120.0,212.25"


def test_machine_shows_the_score_above_its_threshold(database: InfluxDb) -> None:
    """From the minute in which it began."""
    panel = panel_of("machine", "Statistic and threshold")
    series = run(database, panel, choice(ALARM))
    limits = {row["Time"]: row["mean"] for row in series["A"] if row["mean"] is not None}
    above = [
        row["Time"]
        for row in series["B"]
        if row["Time"] in limits and row["mean"] > limits[row["Time"]]
    ]

    assert min(above) == clock(18)
    assert len(above) == 12 * 6  # of ten seconds, to the end of the half hour


def day_of(row: Json) -> int:
    """How many days before the last hour."""
    time = datetime.fromisoformat(row["Time"]).timestamp() * 1_000_000
    return int((HOURS_END_US - time) // DAY_US)


def test_machine_shows_over_months_that_it_wears(database: InfluxDb) -> None:
    """From hourly figures, long after its windows are gone; a healthy one stays as it was."""
    panel = panel_of("machine", "Months")
    for node, before, after in ((ALARM, 0.8, 1.8), (HEALTHY, 0.8, 0.8)):
        highest = run(database, panel, months(node))["A"]
        means = run(database, panel, months(node))["B"]
        found = {
            worn: {row["max"] for row in highest if (day_of(row) < WORN_DAYS) is worn}
            for worn in (False, True)
        }

        assert found == {False: {before, None}, True: {after, None}}
        assert len(means) == 180 * 24 + 1
        assert means[-2]["mean"] == pytest.approx(0.9 if node == ALARM else 0.6)


def test_hours_in_which_nothing_was_judged_count_for_nothing(database: InfluxDb) -> None:
    """A share of nothing is no share, and no 0 either."""
    rows = run(database, panel_of("machine", "Months, flagged"), months(ALARM))["A"]
    shares = {row["share"] for row in rows if day_of(row) < WORN_DAYS}

    assert shares == {0.25, None}
    assert [row["share"] for row in rows].count(None) == 180 + 1


def test_hours_are_not_among_the_windows(database: InfluxDb) -> None:
    """The panels ask the other source, because the first one's bucket has none."""
    assert database.query('SELECT * FROM "window_hour"') == []
    for title in ("Months", "Months, flagged"):
        assert panel_of("machine", title)["datasource"]["uid"] == HOURLY_SOURCE_UID


@pytest.mark.parametrize(
    ("node", "name", "text", "minute"),
    [(UPDATED, "Model changes", "fan@18", 12), (ALARM, "Episodes", half_hour.EPISODE, 18)],
)
def test_machine_is_annotated(
    database: InfluxDb, node: str, name: str, text: str, minute: int
) -> None:
    """A change of the model and an episode are marked where they happened."""
    (found,) = (a for a in BOARDS["machine"]["annotations"]["list"] if a["name"] == name)
    target = found["target"]
    (row,) = database.query(choice(node).fill(target["query"], interval_seconds=1))

    assert row[target["textColumn"]] == text
    assert row[target["tagsColumn"]] in ("committed", "opened")
    assert row["time"] == clock(minute)


@pytest.mark.parametrize(
    ("node", "title", "expected"),
    [
        (DEAF, "Microphone", {"microphone": 3}),
        (CLOCKLESS, "Clock", {"clock": 0}),
        (HOT, "Board", {"board": 1}),
        (OFFLINE, "Presence", {"presence": 0}),
        (BACKLOG, "Oldest window not stored", {"oldest": 2320}),
    ],
)
def test_node_shows_what_is_the_matter(
    database: InfluxDb, node: str, title: str, expected: dict[str, float]
) -> None:
    """And nothing of the kind for a healthy one."""
    panel = panel_of("node", title)
    (row,) = run(database, panel, choice(node))["A"]
    (healthy,) = run(database, panel, choice(HEALTHY))["A"]

    assert expected.items() <= row.items()
    assert not expected.items() <= healthy.items()


@pytest.mark.parametrize(
    ("title", "nodes"),
    [("Committed", 1), ("Under way", 1), ("Failed", 1), ("Nothing ordered", len(NODES) - 3)],
)
def test_rollout_counts_its_nodes(database: InfluxDb, title: str, nodes: int) -> None:
    """Each node is in one of the four."""
    (row,) = run(database, panel_of("rollout", title), choice())["A"]

    assert row["nodes"] == nodes


def test_rollout_has_failures_first_with_their_reason(database: InfluxDb) -> None:
    """What is wanted beside what runs."""
    failed, committed, under_way, *_ = table(
        database, panel_of("rollout", "Wanted and running"), choice()
    )

    assert (failed["node"], failed["wanted"], failed["running"], failed["reason"]) == (
        FAILED,
        "fan@18",
        "fan@17",
        half_hour.FAILURE,
    )
    assert failed["phase"] == CODES[UpdatePhase].index(UpdatePhase.ROLLED_BACK)
    assert (committed["node"], committed["running"]) == (UPDATED, "fan@18")
    assert (under_way["node"], under_way["progress"]) == (UPDATING, 0.5)


def test_rollout_counts_failures_by_reason(database: InfluxDb) -> None:
    """InfluxQL cannot group by a text: Grafana does."""
    (row,) = table(database, panel_of("rollout", "Failures by reason"), choice())

    assert (row["node (distinctCount)"], row["reason"]) == (1, half_hour.FAILURE)


def test_pipeline_shows_the_hole_first(database: InfluxDb) -> None:
    """Its account adds up, and no other node misses anything."""
    first, *others = table(database, panel_of("pipeline", "Ledger"), choice())
    parts = ("stored", "rejected", "waiting", "in transit", "missing", "discarded", "lost tail")

    assert (first["node"], first["missing"]) == (HOLE, 25)
    assert not any(row["missing"] for row in others)
    for row in (first, *others):
        assert row["produced"] == sum(row[part] for part in parts)


def test_pipeline_shows_the_hole_over_time(database: InfluxDb) -> None:
    """From the minute in which it was found."""
    rows = run(database, panel_of("pipeline", "Missing and in transit"), choice())["A"]
    missing = [row["Time"] for row in rows if row["sum"] == 25]

    assert min(missing) == clock(14)
    assert len(missing) == 8  # of two minutes


def test_pipeline_shows_boots_without_a_goodbye(database: InfluxDb) -> None:
    """With what went, as far as known and at most."""
    (row,) = table(database, panel_of("pipeline", "Boots without a goodbye"), choice())

    assert (row["node"], row["lost tail"], row["at most"]) == (REBOOTED, 3, 5)


def test_pipeline_shows_rates_of_each_collector(database: InfluxDb) -> None:
    """Counters become what is new; the spare collector ends where it stopped."""
    stored = run(database, panel_of("pipeline", "Windows stored"), choice())["A"]
    letters = run(database, panel_of("pipeline", "Trouble"), choice())["A"]

    assert {row["non_negative_derivative"] for row in stored} == {8}
    assert [row["id"] for row in stored].count(COLLECTOR) == 14
    assert [row["id"] for row in stored].count(SPARE_COLLECTOR) == 9
    assert [row["Time"] for row in letters if row["non_negative_difference"] == 3] == [
        clock(10)
    ] * 2


FIRING = {
    "machine-alarm": {ALARM},
    "node-offline": {OFFLINE},
    "no-data": {OFFLINE, MUTE},
    "microphone": {DEAF},
    "backlog": {BACKLOG},
    "clock": {CLOCKLESS},
    "update-failed": {FAILED},
    "ledger-hole": {HOLE},
    "collector-stopped": {SPARE_COLLECTOR},
}


def test_every_rule_has_its_fault_here() -> None:
    """A new rule needs a fault in the half hour."""
    assert RULES.keys() == FIRING.keys()


@pytest.mark.parametrize("name", FIRING)
def test_rule_rings_for_its_fault_alone(database: InfluxDb, name: str) -> None:
    """After its pending time, for whom it concerns, and for no other of seventeen nodes."""
    every = seconds(GROUP["interval"])

    assert firing(database, RULES[name], at_us=END_US, every_seconds=every) == FIRING[name]


@pytest.mark.parametrize("name", FIRING)
def test_rule_knows_the_healthy(database: InfluxDb, name: str) -> None:
    """That it does not ring for a healthy one is not for lack of data."""
    healthy = COLLECTOR if name == "collector-stopped" else HEALTHY
    # Not at the very beginning of an interval of five minutes, in which nothing has been said yet.
    found = evaluate(database, RULES[name], at_us=END_US - MINUTE_US)

    assert healthy in found.values
    assert healthy not in found.firing


@pytest.mark.parametrize("name", sorted(FIRING.keys() - {"backlog", "clock"}))
def test_rule_is_quiet_before_the_fault(database: InfluxDb, name: str) -> None:
    """In the fourth minute all is well, but for a growing backlog and a clock."""
    at_us = BEGIN_US + 4 * MINUTE_US
    every = seconds(GROUP["interval"])

    assert firing(database, RULES[name], at_us=at_us, every_seconds=every) == set()


def test_rule_without_any_data_rings_only_for_collectors() -> None:
    """An empty database is a collector that stores nothing; of nodes nothing is known yet."""
    assert {n for n, rule in RULES.items() if rule["noDataState"] == "Alerting"} == {
        "collector-stopped"
    }


def test_grafanas_own_code_makes_the_same_tables(database: InfluxDb) -> None:
    """Of all nodes and of a healthy one: the same columns in the same order, the same rows."""
    asked, expected, names = [], [], []
    for chosen in (choice(), choice(HEALTHY)):
        for board in BOARDS.values():
            for panel in board["panels"]:
                if panel["type"] == "table":
                    # Sorting is the table's own, not a transformation.
                    plain = panel | {"options": panel["options"] | {"sortBy": []}}
                    found = frames(run(database, panel, chosen))
                    asked.append({"frames": found, "transformations": panel["transformations"]})
                    expected.append(table(database, plain, chosen))
                    names.append(panel["title"])
    tables = ask_grafana(asked, [])["tables"]

    for name, made, rows in zip(names, tables, expected, strict=True):
        assert made["columns"] == (list(rows[0]) if rows else []), name
        assert len(made["rows"]) == len(rows), name
        for cells, row in zip(
            sorted(made["rows"], key=str), sorted(map(_cells, rows), key=str), strict=True
        ):
            assert cells == row, name
    assert len(tables) == 26


def test_grafanas_own_code_shows_words_and_colours() -> None:
    """Of each value that has a word; and it knows each unit."""
    values, expected, units = [], [], set()
    for board in BOARDS.values():
        for panel in board["panels"]:
            units.add(panel["fieldConfig"]["defaults"]["unit"])
            for config in _field_configs(panel):
                units |= {config["unit"]} if "unit" in config else set()
                for mapping in config.get("mappings", []):
                    for code, shown in mapping["options"].items():
                        values.append({"config": config, "value": int(code)})
                        expected.append({"text": shown["text"], "color": shown["color"]})
    answer = ask_grafana([], values)

    assert answer["texts"] == expected
    assert {"text": "ALARM", "color": "#D55E00"} in answer["texts"]
    assert units <= set(answer["units"])


def _cells(row: Json) -> list[object]:
    """As Grafana has them: times in milliseconds."""
    times = re.compile(r"^2026-11-22T\d\d:\d\d:\d\d(\.\d+)?Z$")
    return [
        datetime.fromisoformat(v).timestamp() * 1000 if isinstance(v, str) and times.match(v) else v
        for v in row.values()
    ]


def _field_configs(panel: Json) -> Iterator[Json]:
    """Of all fields, and of each that is shown in a way of its own."""
    yield panel["fieldConfig"]["defaults"]
    for override in panel["fieldConfig"]["overrides"]:
        yield {p["id"]: p["value"] for p in override["properties"] if "." not in p["id"]}
