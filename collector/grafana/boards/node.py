"""Node: whether the Pi, its microphone and its link are well."""

from collector.grafana import looks
from collector.grafana.boards.choices import ONE_NODE, links_from
from collector.grafana.influxql import CHOSEN, EACH_INTERVAL, OF_NODES_LATELY
from collector.grafana.panels import Board, Query, lines, states, table, value
from contract.states import DiscardReason

_MINUTELY = "2m"
"""Steps in which each has its word of every minute, so that an empty one is a gap."""


def _health(expression: str) -> str:
    return f'SELECT {expression} FROM "health" WHERE {CHOSEN} {EACH_INTERVAL} fill(null)'


def _last(field: str, name: str) -> str:
    return f'SELECT last("{field}") AS "{name}" FROM "health" WHERE {CHOSEN}'


_DISCARDS = tuple(
    Query(_health(f'non_negative_difference(max("discarded_{reason}"))'), alias=reason)
    for reason in DiscardReason
)

BOARD = Board(
    uid="earshot-node",
    title="earshot: node",
    description="Microphone, link, board and versions of one node.",
    variables=(ONE_NODE,),
    panels=(
        value(
            "Presence",
            "The last that was heard of it within 30 days.",
            f'SELECT last("state_code") AS "presence" FROM "status" WHERE {OF_NODES_LATELY}',
            mappings=looks.words(looks.PRESENCE),
        ),
        value(
            "Microphone",
            "Whether its sound can be believed.",
            _last("microphone_code", "microphone"),
            mappings=looks.words(looks.MICROPHONE),
        ),
        value(
            "Clock",
            "Whether its time stamps can be trusted.",
            _last("clock_code", "clock"),
            mappings=looks.words(looks.CLOCK),
        ),
        value(
            "Oldest window not stored",
            "Windows wait on the node until a collector has stored them.",
            _last("outbox_oldest_s", "oldest"),
            unit="s",
            bad_from=60.0,
        ),
        value(
            "Board",
            "Slowed down by heat or low voltage, now; not all boards can tell.",
            _last("throttled", "board"),
            mappings=looks.yes_no(yes="THROTTLED", no="full speed", bad=1),
        ),
        value("Up", "Since the node's program was started.", _last("uptime_s", "up"), unit="s"),
        lines(
            "Microphone level",
            "Flat and very low: unplugged or muted. 0 is a full-scale square wave.",
            Query(
                f'SELECT mean("level_dbfs") FROM "window" WHERE {CHOSEN} {EACH_INTERVAL}'
                f" fill(null)",
                alias="level",
            ),
            unit="dB",
            axis="dB of full scale",
            interval="10s",
        ),
        lines(
            "Clipping",
            "Share of samples at full scale; above 0.1 % lower the gain.",
            Query(
                f'SELECT max("clipped") FROM "window" WHERE {CHOSEN} {EACH_INTERVAL} fill(null)',
                alias="clipped",
            ),
            unit="percentunit",
            axis="samples at full scale",
            low=0,
            limit=0.001,
            interval="10s",
        ),
        states(
            "Microphone over time",
            "State of the microphone, each minute.",
            Query(_health('last("microphone_code")'), alias="microphone"),
            looks.words(looks.MICROPHONE),
            height=6,
            interval=_MINUTELY,
        ),
        lines(
            "Sound lost",
            "Blocks that capture lost because the board was too slow, and times that the"
            " microphone was opened anew.",
            Query(_health('non_negative_difference(max("overruns"))'), alias="overruns"),
            Query(_health('non_negative_difference(max("reopened"))'), alias="reopened"),
            unit="short",
            axis="per interval",
            height=6,
            bars=True,
            low=0,
            interval=_MINUTELY,
        ),
        lines(
            "Windows that wait",
            "Not known to be stored. They go down when link, broker and collector are well.",
            Query(_health('max("outbox_windows")'), alias="waiting"),
            unit="short",
            axis="windows",
            low=0,
            interval=_MINUTELY,
        ),
        lines(
            "Age of the oldest that waits",
            "Grows by a second each second while nothing is stored.",
            Query(_health('max("outbox_oldest_s")'), alias="oldest"),
            unit="s",
            axis="age",
            low=0,
            interval=_MINUTELY,
        ),
        lines(
            "Windows given up",
            "By reason; each one is lost. docs/alerts.md says what to do.",
            *_DISCARDS,
            unit="short",
            axis="windows per interval",
            bars=True,
            stacked=True,
            low=0,
            interval=_MINUTELY,
        ),
        lines(
            "Reconnects",
            "Many: see to the network or the broker.",
            Query(_health('non_negative_difference(max("reconnects"))'), alias="reconnects"),
            unit="short",
            axis="per interval",
            bars=True,
            low=0,
            interval=_MINUTELY,
        ),
        lines(
            "CPU temperature",
            "A Pi slows down from 80 °C on: give it air.",
            Query(_health('max("cpu_temperature_c")'), alias="CPU"),
            unit="celsius",
            axis="temperature",
            limit=80,
            interval=_MINUTELY,
        ),
        states(
            "Throttled",
            "Slowed down by heat or low voltage.",
            Query(_health('max("throttled")'), alias="board"),
            looks.yes_no(yes="THROTTLED", no="full speed", bad=1),
            interval=_MINUTELY,
        ),
        lines(
            "Latency",
            "From a window's last sample to its score: median, and what one in twenty exceeds. It"
            " must stay below the hop.",
            Query(_health('max("latency_p50_ms")'), alias="median"),
            Query(_health('max("latency_p95_ms")'), alias="p95"),
            unit="ms",
            axis="latency",
            low=0,
            interval=_MINUTELY,
        ),
        states(
            "Clock over time",
            "Without a synchronised clock, times cannot be trusted.",
            Query(_health('last("clock_code")'), alias="clock"),
            looks.words(looks.CLOCK),
            interval=_MINUTELY,
        ),
        lines(
            "Memory",
            "Of the node's program, and what the board has left.",
            Query(_health('max("memory_rss_bytes")'), alias="program"),
            Query(_health('min("memory_available_bytes")'), alias="available"),
            unit="bytes",
            axis="memory",
            low=0,
            interval=_MINUTELY,
        ),
        lines(
            "Disk",
            "Free, and what the outbox takes: it grows only while windows are not confirmed in"
            " time.",
            Query(_health('min("disk_free_bytes")'), alias="free"),
            Query(_health('max("outbox_disk_bytes")'), alias="outbox"),
            unit="bytes",
            axis="disk",
            low=0,
            interval=_MINUTELY,
        ),
        table(
            "Versions",
            "What the node said of itself each time that it connected, within 30 days.",
            Query(
                'SELECT "software", "model", "group_id" AS "group", "runtime",'
                ' "runtime_version" AS "runtime version", "python",'
                ' "operating_system" AS "operating system", "board", "source" AS "microphone"'
                f' FROM "birth" WHERE {OF_NODES_LATELY} ORDER BY time DESC LIMIT 20',
                time_as="connected",
            ),
            order=["connected", "software", "model"],
            height=6,
        ),
    ),
    links=links_from("Node"),
)
