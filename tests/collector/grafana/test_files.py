"""Grafana's files: the same as the code, and whole."""

import itertools
import json
import re
from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path
from typing import Any

import pytest
import yaml

from collector.grafana import alerts, files, looks
from collector.grafana.panels import EXPRESSION_UID, GRID_COLUMNS, HOURLY_SOURCE_UID, SOURCE_UID
from contract.points import columns
from contract.records import STORED

Json = dict[str, Any]

FOLDER = Path(files.__file__).parent
PROVISIONING = FOLDER / "provisioning"
BOARDS: dict[str, Json] = {
    file.stem: json.loads(file.read_text("utf-8")) for file in (FOLDER / "dashboards").iterdir()
}
PANELS = [
    pytest.param(panel, id=f"{uid}-{panel['title']}")
    for uid, board in BOARDS.items()
    for panel in board["panels"]
]
RULES: list[Json] = yaml.safe_load((PROVISIONING / "alerting/rules.yaml").read_text("utf-8"))[
    "groups"
][0]["rules"]

# What InfluxDB 3 answers of InfluxQL, as its reference says, and we need.
FUNCTIONS = {
    "count",
    "distinct",
    "first",
    "last",
    "max",
    "mean",
    "min",
    "non_negative_derivative",
    "non_negative_difference",
    "sum",
    "time",
    "fill",
}


def shown_queries() -> Iterator[tuple[str, str]]:
    """Statements of panels, marks and rules, and where they stand."""
    for uid, board in BOARDS.items():
        for panel in board["panels"]:
            for target in panel["targets"]:
                yield f"{uid}-{panel['title']}-{target['refId']}", target["query"]
        for mark in board["annotations"]["list"]:
            yield f"{uid}-{mark['name']}", mark["target"]["query"]
    for rule in RULES:
        yield rule["uid"], rule["data"][0]["model"]["query"]


def queries() -> Iterator[tuple[str, str]]:
    """Every InfluxQL statement there is: those, and what fills the choices."""
    yield from shown_queries()
    for uid, board in BOARDS.items():
        for variable in board["templating"]["list"]:
            yield f"{uid}-{variable['name']}", variable["query"]


def test_files_are_what_the_code_writes() -> None:
    """`python -m collector.grafana` changes nothing, and no file is left of a page that went."""
    for name, text in files.generated().items():
        assert (FOLDER / name).read_text("utf-8") == text, name
    assert {f"dashboards/{uid}.json" for uid in BOARDS} < files.generated().keys()


def test_pages_are_told_apart_by_their_uids() -> None:
    """Which are their file names, and never change."""
    assert {board["uid"] for board in BOARDS.values()} == BOARDS.keys()
    assert BOARDS.keys() == {
        "earshot-fleet",
        "earshot-machine",
        "earshot-node",
        "earshot-rollout",
        "earshot-pipeline",
    }
    assert len({board["title"] for board in BOARDS.values()}) == len(BOARDS)


@pytest.mark.parametrize("uid", BOARDS)
def test_panels_have_ids_and_titles_of_their_own(uid: str) -> None:
    """Links and alerts name a panel by its id, people by its title."""
    panels = BOARDS[uid]["panels"]

    assert len({panel["id"] for panel in panels}) == len(panels)
    assert len({panel["title"] for panel in panels}) == len(panels)


@pytest.mark.parametrize("uid", BOARDS)
def test_panels_do_not_overlap(uid: str) -> None:
    """Each lies on the grid, and no two in one place."""
    places = [panel["gridPos"] for panel in BOARDS[uid]["panels"]]

    for place in places:
        assert 0 <= place["x"] < place["x"] + place["w"] <= GRID_COLUMNS
        assert place["h"] > 0
    for a, b in itertools.combinations(places, 2):
        beside = a["x"] + a["w"] <= b["x"] or b["x"] + b["w"] <= a["x"]
        above = a["y"] + a["h"] <= b["y"] or b["y"] + b["h"] <= a["y"]
        assert beside or above, (a, b)


@pytest.mark.parametrize("panel", PANELS)
def test_panel_says_what_it_shows(panel: Json) -> None:
    """A description, a unit, an axis with a name, and a source by its uid."""
    defaults = panel["fieldConfig"]["defaults"]

    assert len(panel["description"]) > 20
    assert defaults["unit"]
    hourly = any('FROM "window_hour"' in target["query"] for target in panel["targets"])
    uid = HOURLY_SOURCE_UID if hourly else SOURCE_UID
    assert panel["datasource"] == {"type": "influxdb", "uid": uid}
    assert all(target["datasource"] == panel["datasource"] for target in panel["targets"])
    if panel["type"] == "timeseries":
        assert defaults["custom"]["axisLabel"]


@pytest.mark.parametrize("panel", PANELS)
def test_panel_needs_no_colour_to_be_read(panel: Json) -> None:
    """A coloured value has a word, and colours are Okabe and Ito's."""
    known = {
        value
        for name, value in vars(looks).items()
        if name.isupper() and name[0] != "_" and isinstance(value, str)
    }
    text = json.dumps(panel)
    mappings = re.findall(r'"text": "([^"]*)", "color": "([^"]*)"', text)

    assert set(re.findall(r"#[0-9A-Fa-f]{6}", text)) <= known
    assert not re.search(r'"(red|green|semi-dark-red|dark-green)"', text)
    assert all(word for word, _ in mappings)


@pytest.mark.parametrize(
    "colours",
    [
        looks.MACHINE,
        looks.MICROPHONE,
        looks.PRESENCE,
        looks.CLOCK,
        looks.UPDATE,
        looks.BOOT_END,
        looks.CALIBRATION,
    ],
)
def test_every_state_has_its_word(colours: dict[StrEnum, str]) -> None:
    """A state that the contract gains is not shown as a bare number."""
    kind: type[StrEnum] = type(next(iter(colours)))

    assert set(colours) == set(kind)


@pytest.mark.parametrize("query", [pytest.param(query, id=where) for where, query in queries()])
def test_query_uses_what_every_influxdb_answers(query: str) -> None:
    """InfluxQL without Flux, and without functions that InfluxDB 3 does not have."""
    called = {name for name in re.findall(r"\b([a-z_]+)\(", query) if name != "now"}

    assert called <= FUNCTIONS
    assert "|>" not in query
    assert "now()" not in query, "it would not follow the chosen time"


@pytest.mark.parametrize(
    "query", [pytest.param(query, id=where) for where, query in shown_queries()]
)
def test_query_is_bounded(query: str) -> None:
    """Each one in time, and in what it answers: a point per interval or per series, or a limit."""
    outermost = query
    while (shorter := re.sub(r"\([^()]*\)", "", outermost)) != outermost:
        outermost = shorter
    is_aggregate = re.match(r"SELECT [a-z_]+[ ,]", outermost)

    assert "$timeFilter" in query or "${__to}ms" in query
    assert is_aggregate or "LIMIT" in outermost


def test_query_names_fields_that_are_stored() -> None:
    """Checked against the contract, beside the database's own word for it."""
    known = {"x", "n", "points", "share", "problem", "name", "group"}
    for message in STORED:
        known |= {str(message.KIND), *columns(message), *message.TAGS}

    for where, query in queries():
        named = set(re.findall(r'"([a-z_]+)"', re.sub(r'AS "[^"]*"', "", query)))
        assert named <= known, where


def test_links_lead_somewhere() -> None:
    """To a page of ours; with the node where that page asks for one, and with the chosen time."""
    for board in BOARDS.values():
        urls = [link["url"] for link in board["links"]]
        data_links = re.findall(r'"url": "(/d/[^"]*var-node[^"]*)"', json.dumps(board["panels"]))
        for url in urls + data_links:
            assert url.removeprefix("/d/").partition("?")[0] in BOARDS
        assert all(link["keepTime"] for link in board["links"])
        assert all("${__url_time_range}" in url for url in data_links)
        assert {url.removeprefix("/d/") for url in urls} == BOARDS.keys() - {board["uid"]}


def test_fleet_leads_to_machine_and_node() -> None:
    """From each row, with the node of that row."""
    text = json.dumps(BOARDS["earshot-fleet"])

    assert "/d/earshot-machine?var-node=${__value.text}&${__url_time_range}" in text
    assert "/d/earshot-node?var-node=${__value.text}&${__url_time_range}" in text


def test_sources_are_those_that_pages_and_rules_name() -> None:
    """One for each bucket, and the first is what Grafana offers."""
    sources = _provisioned("datasources/earshot.yaml")["datasources"]

    assert [source["uid"] for source in sources] == [SOURCE_UID, HOURLY_SOURCE_UID]
    assert [source.get("isDefault", False) for source in sources] == [True, False]
    assert len({source["name"] for source in sources}) == len(sources)
    for source in sources:
        assert (source["type"], source["jsonData"]["version"]) == ("influxdb", "InfluxQL")
    used = {part["datasourceUid"] for rule in RULES for part in rule["data"]}
    assert used == {SOURCE_UID, EXPRESSION_UID}


def test_secrets_are_not_in_the_files() -> None:
    """The token comes from a file, all else of the address from the environment."""
    sources = _provisioned("datasources/earshot.yaml")["datasources"]

    for source, name in zip(sources, ("BUCKET", "HOURLY_BUCKET"), strict=True):
        password = {"password": "$__file{/run/secrets/grafana_influxdb_token}"}
        assert source["secureJsonData"] == password
        assert [source["url"], source["user"], source["jsonData"]["dbName"]] == [
            "$EARSHOT_INFLUXDB_URL",
            "$EARSHOT_INFLUXDB_USER",
            f"$EARSHOT_INFLUXDB_{name}",
        ]


def test_alerts_reach_the_contact_point() -> None:
    """The policies' receivers exist, and severities are those that rules have."""
    (point,) = _provisioned("alerting/contact-points.yaml")["contactPoints"]
    (policy,) = _provisioned("alerting/policies.yaml")["policies"]
    (route,) = policy["routes"]

    assert {policy["receiver"], route["receiver"]} == {point["name"]}
    ((_, _, severity),) = route["object_matchers"]
    assert severity in {rule["labels"]["severity"] for rule in RULES}


def test_grafana_can_read_the_alerting_folder() -> None:
    """It does not start with a file in it that is neither YAML nor JSON."""
    assert {file.suffix for file in (PROVISIONING / "alerting").iterdir()} == {".yaml"}


@pytest.mark.parametrize("rule", [pytest.param(r, id=r["uid"]) for r in RULES])
def test_rule_says_whom_it_concerns_and_what_to_do(rule: Json) -> None:
    """And has no dollar in its texts: Grafana would look for a variable of its environment."""
    texts = rule["annotations"]

    assert ".Labels.node" in texts["summary"] or ".Labels.id" in texts["summary"]
    assert len(texts["description"]) > 60
    assert (
        texts["page"].removeprefix("{{ externalURL }}d/").partition("?")[0] == rule["dashboardUid"]
    )
    assert "$" not in json.dumps([texts, rule["labels"], rule["title"]])
    assert rule["labels"]["severity"] in list(alerts.Severity)
    assert re.fullmatch(r"\d+[sm]", rule["for"])


@pytest.mark.parametrize("rule", [pytest.param(r, id=r["uid"]) for r in RULES])
def test_rule_leads_to_the_panel_that_shows_it(rule: Json) -> None:
    """It asks the measurement that the rule asks."""
    panels = BOARDS[rule["dashboardUid"]]["panels"]
    (panel,) = (panel for panel in panels if panel["id"] == rule["panelId"])
    measurement = re.findall(r'FROM "(\w+)"', rule["data"][0]["model"]["query"])

    assert re.findall(r'FROM "(\w+)"', panel["targets"][0]["query"]) == measurement
    assert rule["annotations"]["__dashboardUid__"] == rule["dashboardUid"]
    assert rule["annotations"]["__panelId__"] == str(rule["panelId"])


def test_every_alert_is_explained() -> None:
    """docs/alerts.md has a line for each rule, and none for one that went."""
    text = (FOLDER.parents[1] / "docs" / "alerts.md").read_text("utf-8")
    explained = re.findall(r"^\| \*\*(.+?)\*\*", text, re.MULTILINE)

    assert explained == [rule["title"] for rule in RULES]


def _provisioned(name: str) -> Json:
    loaded: Json = yaml.safe_load((PROVISIONING / name).read_text("utf-8"))
    assert loaded["apiVersion"] == 1
    return loaded
