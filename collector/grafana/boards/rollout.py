"""Rollout: who runs what was ordered, and why the others do not."""

from collector.grafana import looks
from collector.grafana.boards.choices import GROUP, NODES_OF_GROUP, links_from
from collector.grafana.influxql import (
    CHOSEN,
    EACH_INTERVAL,
    NOW,
    OF_NODES_LATELY,
    last_per_node,
    nodes_where,
)
from collector.grafana.panels import (
    NODE_COLUMN,
    Board,
    Column,
    Query,
    count,
    lines,
    ranking,
    states,
    table,
)
from contract.states import UpdatePhase

_PHASES = last_per_node("phase_code", "update", OF_NODES_LATELY)
_FIRST_FAILURE = looks.code(UpdatePhase.REJECTED)
_LAST_FAILURE = looks.code(UpdatePhase.ROLLED_BACK)
_FIRST_STEP, _LAST_STEP = looks.code(UpdatePhase.DOWNLOADING), looks.code(UpdatePhase.TRIAL)
_FAILED = "(\"phase\" = 'rejected' OR \"phase\" = 'rolled_back')"

BOARD = Board(
    uid="earshot-rollout",
    title="earshot: rollout",
    description="A release on its way to the fleet.",
    variables=(GROUP, NODES_OF_GROUP),
    panels=(
        count(
            "Committed",
            "Nodes that run what was ordered, and have kept it.",
            nodes_where(_PHASES, f'"x" = {looks.code(UpdatePhase.COMMITTED)}', "nodes"),
            colour=looks.GREEN,
            width=6,
        ),
        count(
            "Under way",
            "Nodes that fetch, verify, test or try it.",
            nodes_where(_PHASES, f'"x" >= {_FIRST_STEP} AND "x" <= {_LAST_STEP}', "nodes"),
            colour=looks.SKY_BLUE,
            width=6,
        ),
        count(
            "Failed",
            "Nodes that rejected it or went back. They go on with what they ran.",
            nodes_where(_PHASES, f'"x" >= {_FIRST_FAILURE} AND "x" <= {_LAST_FAILURE}', "nodes"),
            colour=looks.VERMILLION,
            width=6,
        ),
        count(
            "Nothing ordered",
            "Nodes that no order addresses.",
            nodes_where(_PHASES, f'"x" = {looks.code(UpdatePhase.IDLE)}', "nodes"),
            colour=looks.BLUE,
            width=6,
        ),
        table(
            "Wanted and running",
            "The last that each node said, within 30 days; failures first.",
            Query(
                'SELECT last("phase_code") AS "phase", "wanted", "running", "progress", "reason",'
                ' "obeying", "previous"'
                f' FROM "update" WHERE {OF_NODES_LATELY} GROUP BY "node"',
                time_as="since",
            ),
            columns=[
                NODE_COLUMN,
                Column("phase", mappings=looks.words(looks.UPDATE)),
                Column("progress", unit="percentunit", decimals=0),
                Column("since", unit="dateTimeFromNow"),
                Column("reason", width=420),
            ],
            order=["node", "phase", "wanted", "running", "progress", "reason", "obeying", "since"],
            sort=[("phase", True)],
            height=12,
        ),
        states(
            "Phase of each node",
            "From what nodes said in the chosen time; a phase lasts until the next is said.",
            Query(
                f'SELECT last("phase_code") FROM "update" WHERE {CHOSEN} {EACH_INTERVAL}, "node"'
                " fill(previous)",
                alias="$tag_node",
            ),
            looks.words(looks.UPDATE),
            width=16,
            height=10,
            interval="10s",
        ),
        ranking(
            "Nodes by model",
            "What scores now, of the nodes heard in the last two minutes.",
            Query(
                'SELECT count("x") AS "nodes" FROM (SELECT last("seq") AS "x" FROM "window"'
                f' WHERE {NOW} GROUP BY "node", "model") GROUP BY "model"',
                alias="$tag_model",
            ),
            width=8,
            height=10,
        ),
        table(
            "Failures by reason",
            "Of the chosen time: how many nodes gave which reason. docs/updates.md says what to"
            " do.",
            Query(
                f'SELECT "reason", "wanted", "phase", "node" FROM "update" WHERE {CHOSEN}'
                f" AND {_FAILED} ORDER BY time DESC LIMIT 1000",
            ),
            columns=[Column("reason", width=520)],
            calculated=[
                {
                    "id": "groupBy",
                    "options": {
                        "fields": {
                            "reason": {"operation": "groupby", "aggregations": []},
                            "wanted": {"operation": "groupby", "aggregations": []},
                            "phase": {"operation": "groupby", "aggregations": []},
                            "node": {"operation": "aggregate", "aggregations": ["distinctCount"]},
                        }
                    },
                },
            ],
            order=["node (distinctCount)", "wanted", "phase", "reason"],
            sort=[("node (distinctCount)", True)],
            width=14,
        ),
        lines(
            "Score in the trial",
            "Median score of the new model on live sound; 1 is its release's threshold.",
            Query(
                f'SELECT last("trial_score") FROM "update" WHERE {CHOSEN} {EACH_INTERVAL}, "node"'
                " fill(none)",
                alias="$tag_node",
            ),
            unit="none",
            axis="score",
            width=10,
            low=0,
            limit=1,
            bars=True,
            interval="1m",
        ),
        table(
            "Trials",
            "Of the windows that both models scored: how many each flagged, and how fast the new"
            " one is.",
            Query(
                'SELECT last("trial_windows") AS "windows", "trial_flagged" AS "flagged by the'
                ' new",'
                ' "running_flagged" AS "flagged by the running", "trial_score" AS "median score",'
                ' "trial_latency_p95_ms" AS "p95 latency", "wanted", "phase_code" AS "phase"'
                f' FROM "update" WHERE {OF_NODES_LATELY} AND "trial_windows" > 0 GROUP BY "node"',
                time_as="time",
            ),
            columns=[
                NODE_COLUMN,
                Column("phase", mappings=looks.words(looks.UPDATE)),
                Column("median score", decimals=3),
                Column("p95 latency", unit="ms"),
            ],
            order=["node", "wanted", "phase", "windows"],
        ),
    ),
    links=links_from("Rollout"),
)
