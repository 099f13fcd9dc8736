"""Pipeline: whether all that nodes hear is stored, and the count to prove it."""

from collector.grafana import looks
from collector.grafana.boards.choices import links_from
from collector.grafana.influxql import EACH_INTERVAL, LATELY
from collector.grafana.panels import (
    NODE_COLUMN,
    Board,
    Column,
    Query,
    lines,
    table,
    value,
)
from contract.states import DiscardReason

_MINUTELY = "2m"
"""Steps in which each has its word of every minute, so that an empty one is a gap."""
_DISCARDED = " + ".join(f'"discarded_{reason}"' for reason in DiscardReason)


def _figures(expression: str) -> str:
    return f'SELECT {expression} FROM "pipeline" WHERE $timeFilter {EACH_INTERVAL}, "id" fill(null)'


def _rate(field: str) -> str:
    return _figures(f'non_negative_derivative(max("{field}"), 1s)')


def _new(field: str) -> str:
    return _figures(f'non_negative_difference(max("{field}"))')


def _ledger(field: str) -> str:
    """Over all nodes: of each the highest in an interval, added up."""
    return (
        f'SELECT sum("x") FROM (SELECT max("{field}") AS "x" FROM "ledger" WHERE $timeFilter'
        f' {EACH_INTERVAL}, "node") WHERE $timeFilter {EACH_INTERVAL} fill(null)'
    )


BOARD = Board(
    uid="earshot-pipeline",
    title="earshot: pipeline",
    description="Collectors, and the ledger of every window.",
    variables=(),
    panels=(
        value(
            "Missing windows",
            "Over all ledgers now: produced, and for more than ten minutes neither stored nor"
            " waiting nor given up. It should be 0.",
            'SELECT last("missing_windows") AS "missing" FROM "pipeline" WHERE $timeFilter',
            bad_from=1.0,
        ),
        value(
            "Lag",
            "From the end of a live window to its being stored; one in twenty takes longer.",
            'SELECT last("lag_p95_s") AS "lag" FROM "pipeline" WHERE $timeFilter',
            unit="s",
            bad_from=10.0,
        ),
        value(
            "Dead letters",
            "Messages that could not be stored, since the collector's start. Their texts are on"
            " the topic `deadletter` and in the collector's log.",
            'SELECT last("dead_letters") AS "dead letters" FROM "pipeline" WHERE $timeFilter',
            bad_from=1.0,
        ),
        value(
            "Write errors",
            "Writes that failed and were tried again, since the collector's start.",
            'SELECT last("write_errors") AS "write errors" FROM "pipeline" WHERE $timeFilter',
            bad_from=1.0,
        ),
        value(
            "Broker",
            "Whether the collector is connected.",
            'SELECT last("connected") AS "broker" FROM "pipeline" WHERE $timeFilter',
            mappings=looks.yes_no(yes="connected", no="NOT CONNECTED", bad=0),
        ),
        value(
            "Store",
            "Whether the last write worked.",
            'SELECT last("storing") AS "store" FROM "pipeline" WHERE $timeFilter',
            mappings=looks.yes_no(yes="storing", no="NOT STORING", bad=0),
        ),
        lines(
            "Windows stored",
            "By each collector; those that came twice count twice.",
            Query(_rate("stored_windows"), alias="$tag_id"),
            unit="cps",
            axis="windows a second",
            low=0,
            interval=_MINUTELY,
        ),
        lines(
            "Lag over time",
            "From the end of a live window to its being stored.",
            Query(_figures('max("lag_p50_s")'), alias="$tag_id median"),
            Query(_figures('max("lag_p95_s")'), alias="$tag_id p95"),
            unit="s",
            axis="lag",
            low=0,
            interval=_MINUTELY,
        ),
        lines(
            "Missing and in transit",
            "In transit: neither stored nor explained, and not for long. What stays so for ten"
            " minutes is missing.",
            Query(_ledger("missing"), alias="missing", colour=looks.VERMILLION),
            Query(_ledger("in_transit"), alias="in transit", colour=looks.SKY_BLUE),
            Query(_ledger("waiting"), alias="waiting on nodes", colour=looks.ORANGE),
            unit="short",
            axis="windows",
            low=0,
            interval=_MINUTELY,
        ),
        lines(
            "Trouble",
            "Dead letters, failed writes, messages dropped to be sent again, and reconnects, each"
            " new.",
            Query(_new("dead_letters"), alias="$tag_id dead letters"),
            Query(_new("write_errors"), alias="$tag_id write errors"),
            Query(_new("dropped"), alias="$tag_id dropped"),
            Query(_new("reconnects"), alias="$tag_id reconnects"),
            unit="short",
            axis="per interval",
            bars=True,
            low=0,
            interval=_MINUTELY,
        ),
        table(
            "Ledger",
            "produced = stored + rejected + waiting + discarded + in transit + missing + lost tail,"
            " of each node's boot of which there was news last; those with holes first. What the"
            " database has rejected is among the dead letters; a tail is what went with the memory"
            " of a node that was killed.",
            Query(
                'SELECT last("produced") AS "produced", "stored", "rejected", "waiting",'
                f' "in_transit" AS "in transit", "missing", {_DISCARDED} AS "discarded",'
                ' "lost_tail" AS "lost tail", "end_code" AS "boot"'
                ' FROM "ledger" WHERE $timeFilter GROUP BY "node"',
                time_as="as of",
            ),
            columns=[
                NODE_COLUMN,
                Column("boot", mappings=looks.words(looks.BOOT_END)),
                Column("as of", unit="dateTimeFromNow"),
            ],
            order=["node", "missing", "lost tail", "produced", "stored", "waiting", "in transit"],
            sort=[("missing", True), ("lost tail", True)],
            height=10,
        ),
        table(
            "Boots without a goodbye",
            "A node that was killed or lost its power: so many windows went with its memory, as"
            " far as known and at most.",
            Query(
                'SELECT "lost_tail" AS "lost tail", "tail_windows" AS "at most", "produced",'
                ' "stored", "node", "boot"'
                ' FROM "ledger" WHERE $timeFilter AND "end" = \'lost\''
                " ORDER BY time DESC LIMIT 200",
                time_as="found",
            ),
            columns=[NODE_COLUMN],
            order=["node", "found", "lost tail", "at most"],
            width=12,
        ),
        table(
            "Holes of the chosen time",
            "The most that was missing of each node, and given up by it, in a boot.",
            Query(
                'SELECT max("missing") AS "missing" FROM "ledger" WHERE $timeFilter GROUP BY "node"'
            ),
            *(
                Query(
                    f'SELECT max("discarded_{reason}") AS "{reason}" FROM "ledger"'
                    ' WHERE $timeFilter GROUP BY "node"'
                )
                for reason in DiscardReason
            ),
            columns=[NODE_COLUMN],
            order=["node", "missing", *DiscardReason],
            sort=[("missing", True)],
            joined_by="node",
            width=12,
        ),
        lines(
            "Messages that wait in collectors",
            "Received and not yet stored; they are acknowledged only then.",
            Query(_figures('max("waiting_messages")'), alias="$tag_id"),
            unit="short",
            axis="messages",
            low=0,
            interval=_MINUTELY,
        ),
        lines(
            "Memory of collectors",
            "It should stay where it is.",
            Query(_figures('max("memory_rss_bytes")'), alias="$tag_id"),
            unit="bytes",
            axis="memory",
            low=0,
            interval=_MINUTELY,
        ),
        table(
            "Collectors",
            "When each came or went, within 30 days.",
            Query(
                'SELECT last("state_code") AS "presence", "reason" FROM "collector"'
                f' WHERE {LATELY} GROUP BY "id"',
                time_as="since",
            ),
            columns=[
                Column("presence", mappings=looks.words(looks.PRESENCE)),
                Column("since", unit="dateTimeFromNow"),
            ],
            order=["id", "presence", "since"],
            height=5,
        ),
    ),
    links=links_from("Pipeline"),
)
