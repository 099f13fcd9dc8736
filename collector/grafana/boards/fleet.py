"""Fleet: how many are well, and who comes first."""

from collector.grafana import looks
from collector.grafana.boards.choices import GROUP, NODES_OF_GROUP, links_from
from collector.grafana.influxql import (
    CHOSEN,
    EACH_INTERVAL,
    NOW,
    NOW_MINUTELY,
    OF_NODES_LATELY,
    last_per_node,
    nodes_where,
    points_where,
    silent_nodes,
)
from collector.grafana.panels import (
    NODE_COLUMN,
    SERIES_LINKS,
    Board,
    Column,
    Panel,
    Query,
    count,
    lines,
    ranking,
    states,
    table,
)
from contract.states import MachineState, MicrophoneState, Presence

# A browser draws some ten thousand points at once without pain: fifty nodes.
_POINTS_OF_EACH_NODE = 200

_STATES_NOW = last_per_node("state_code", "window", NOW)
_MICROPHONES_NOW = last_per_node("microphone_code", "health", NOW_MINUTELY)
_PRESENCE = last_per_node("state_code", "status", OF_NODES_LATELY)
_IN_TROUBLE = f'"x" > {looks.code(MicrophoneState.OK)}'
_AWAY = f'"x" = {looks.code(Presence.OFFLINE)}'

_RISK = (
    'SELECT max("points") AS "risk" FROM '
    + ", ".join(
        [
            points_where(
                last_per_node("state_code", "window", CHOSEN),
                f'"x" = {looks.code(MachineState.ALARM)}',
                100,
            ),
            points_where(
                last_per_node("seq", "window", CHOSEN, '"problem_code" AS "problem"'),
                '"problem" >= 0',
                70,
            ),
            f'(SELECT "n" * 60 AS "points" FROM {silent_nodes()} GROUP BY "node")',
            points_where(
                last_per_node("state_code", "window", CHOSEN),
                f'"x" = {looks.code(MachineState.WARNING)}',
                50,
            ),
        ]
    )
    + ' GROUP BY "node"'
)
_RISK_OF_ABSENCE = (
    f'SELECT count("x") * 80 AS "away" FROM {_PRESENCE} WHERE {_AWAY} GROUP BY "node"'
)


def _in_state(state: MachineState, description: str) -> Panel:
    query = nodes_where(_STATES_NOW, f'"x" = {looks.code(state)}', "nodes")
    return count(state.title(), description, query, colour=looks.MACHINE[state])


_COUNTS = (
    _in_state(MachineState.ALARM, "Machines in alarm, of those heard in the last two minutes."),
    _in_state(MachineState.WARNING, "One block of a minute sounded abnormal."),
    _in_state(MachineState.NORMAL, "Machines that run and sound as they did when calibrated."),
    _in_state(MachineState.LEARNING, "Nodes that calibrate and have no limits yet: not watched."),
    _in_state(MachineState.STOPPED, "Machines that stand still: not judged."),
    count(
        "Microphone trouble",
        "Nodes whose sound cannot be believed. They say nothing of their machines.",
        nodes_where(_MICROPHONES_NOW, _IN_TROUBLE, "nodes"),
        colour=looks.PURPLE,
    ),
    count(
        "No windows",
        "Heard in the chosen time, and no window in the last two minutes, for whatever reason.",
        f'SELECT count("n") AS "nodes" FROM {silent_nodes()} WHERE "n" = 1',
        colour=looks.PURPLE,
    ),
    count(
        "Offline",
        "Nodes whose last word, or last will, within 30 days was that they left.",
        nodes_where(_PRESENCE, _AWAY, "nodes"),
        colour=looks.ORANGE,
    ),
)

_TRIAGE = table(
    "Who comes first",
    "Risk is the worst that is known: 100 an alarm, 80 offline, 70 no usable sound, 60 no windows"
    " for two minutes, 50 a warning, else 0; then by the share of flagged windows in the chosen"
    " time. The state is the last that was heard.",
    Query(_RISK),
    Query(_RISK_OF_ABSENCE),
    Query(
        'SELECT last("state_code") AS "machine", "score", "level_dbfs" AS "level", "model"'
        f' FROM "window" WHERE {CHOSEN} GROUP BY "node"',
        time_as="last window",
    ),
    Query(
        f'SELECT mean("anomaly") AS "flagged" FROM "window" WHERE {CHOSEN} GROUP BY "node"',
    ),
    Query(
        'SELECT last("microphone_code") AS "microphone", "outbox_oldest_s" AS "oldest unstored"'
        f' FROM "health" WHERE {CHOSEN} GROUP BY "node"',
    ),
    columns=[
        NODE_COLUMN,
        Column("risk", gauge=True, decimals=0, width=160),
        Column("machine", mappings=looks.words(looks.MACHINE)),
        Column("microphone", mappings=looks.words(looks.MICROPHONE)),
        Column("score", decimals=2),
        Column("flagged", unit="percentunit", decimals=1),
        Column("level", unit="dB", decimals=1),
        Column("oldest unstored", unit="s"),
        Column("last window", unit="dateTimeFromNow"),
    ],
    order=[
        "node",
        "risk",
        "machine",
        "microphone",
        "score",
        "flagged",
        "last window",
        "oldest unstored",
        "level",
        "model",
    ],
    sort=[("risk", True), ("flagged", True)],
    joined_by="node",
    calculated=[
        {
            "id": "calculateField",
            "options": {
                "mode": "reduceRow",
                "reduce": {"reducer": "max", "include": ["risk", "away"]},
                "alias": "worst",
                "replaceFields": False,
            },
        },
        {
            "id": "organize",
            "options": {
                "excludeByName": {"risk": True, "away": True},
                "indexByName": {},
                "renameByName": {"worst": "risk"},
            },
        },
    ],
    height=12,
)

_ANOMALIES = lines(
    "Flagged windows",
    "Share of windows above their threshold: of the whole fleet, and of the node that has most.",
    Query(
        f'SELECT mean("anomaly") FROM "window" WHERE {CHOSEN} {EACH_INTERVAL} fill(null)',
        alias="fleet",
    ),
    Query(
        f'SELECT max("share") FROM (SELECT mean("anomaly") AS "share" FROM "window" WHERE {CHOSEN}'
        f' {EACH_INTERVAL}, "node") WHERE $timeFilter {EACH_INTERVAL} fill(null)',
        alias="worst node",
    ),
    unit="percentunit",
    axis="flagged windows",
    low=0,
    high=1,
    interval="10s",
)

_MACHINES = states(
    "Machines",
    "State of each machine over time. Gaps: no windows.",
    Query(
        f'SELECT last("state_code") FROM "window" WHERE {CHOSEN} {EACH_INTERVAL}, "node"'
        f" fill(null)",
        alias="$tag_node",
    ),
    looks.words(looks.MACHINE),
    interval="1m",
    most_points=_POINTS_OF_EACH_NODE,
)

_MODELS = ranking(
    "Nodes by model",
    "What scores now, of the nodes heard in the last two minutes.",
    Query(
        f'SELECT count("x") AS "nodes" FROM (SELECT last("seq") AS "x" FROM "window" WHERE {NOW}'
        ' GROUP BY "node", "model") GROUP BY "model"',
        alias="$tag_model",
    ),
    width=6,
    height=8,
)

_SCORES = lines(
    "Scores",
    "Highest score of each node; 1 is its threshold. Click a line for its machine.",
    Query(
        f'SELECT max("score") FROM "window" WHERE {CHOSEN} {EACH_INTERVAL}, "node" fill(null)',
        alias="$tag_node",
    ),
    unit="none",
    axis="score",
    width=18,
    low=0,
    limit=1,
    interval="10s",
    links=SERIES_LINKS,
    most_points=_POINTS_OF_EACH_NODE,
)

_PRESENT = table(
    "Last seen",
    "The last time that each node came or went, within 30 days; the longest gone first.",
    Query(
        'SELECT last("state_code") AS "presence", "reason" FROM "status"'
        f' WHERE {OF_NODES_LATELY} GROUP BY "node"',
        time_as="since",
    ),
    columns=[
        NODE_COLUMN,
        Column("presence", mappings=looks.words(looks.PRESENCE)),
        Column("since", unit="dateTimeFromNow"),
    ],
    order=["node", "presence", "since", "reason"],
    sort=[("presence", False), ("since", False)],
    width=10,
)

_VERSIONS = table(
    "Software",
    "What each node said of itself when it last connected, within 30 days.",
    Query(
        'SELECT last("software") AS "software", "group_id" AS "group", "runtime",'
        ' "runtime_version" AS "runtime version", "board"'
        f' FROM "birth" WHERE {OF_NODES_LATELY} GROUP BY "node"',
    ),
    columns=[NODE_COLUMN],
    order=["node", "group", "software", "runtime", "runtime version", "board"],
    sort=[("software", False)],
    width=14,
)

BOARD = Board(
    uid="earshot-fleet",
    title="earshot: fleet",
    description="How many machines are well, and which node to look at first.",
    variables=(GROUP, NODES_OF_GROUP),
    panels=(*_COUNTS, _TRIAGE, _ANOMALIES, _MACHINES, _MODELS, _SCORES, _PRESENT, _VERSIONS),
    links=links_from("Fleet"),
    # Every window of every node in this time is looked at, each time.
    span="now-3h",
    refresh="1m",
)
