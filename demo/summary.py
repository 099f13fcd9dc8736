"""What the demo came to, counted from its database alone."""

import sqlite3
from contextlib import closing
from pathlib import Path

import msgspec

from contract.states import UpdatePhase

# What a node says of itself (its last `health`) beside what the database holds of it.
_PER_NODE = """
SELECT node,
       (SELECT max(health.windows) FROM health WHERE health.node = w.node) AS produced,
       count(*) AS stored,
       count(mse) AS scored,
       sum(anomaly) AS flagged,
       min(time_us) AS first_us
FROM "window" AS w GROUP BY node ORDER BY node
"""
# A window that ends within the fade-in holds hardly any of the fault; it counts all the same.
_FLAGS_SINCE = """
SELECT min(time_us + duration_us) AS first_flag_us, sum(anomaly) AS flagged, count(*) AS windows
FROM "window" WHERE node = ? AND time_us + duration_us > ? AND (anomaly OR NOT ?)
"""
_LAST_MODEL = """
SELECT model FROM "window" WHERE node = ? ORDER BY time_us DESC LIMIT 1
"""
_LAST_UPDATE = """
SELECT phase, reason FROM "update" WHERE node = ? ORDER BY time_us DESC LIMIT 1
"""


class NodeSummary(msgspec.Struct, frozen=True, kw_only=True):
    """What the database says of one node's run."""

    node: str
    produced: int | None
    """Windows that the node has numbered, by its own last word; None when that is not stored."""
    stored: int
    scored: int
    flagged: int
    flagged_before_fault: int
    windows_before_fault: int
    fault_to_flag_s: float | None
    """From the fault's beginning to the end of the first flagged window after it."""
    model: str
    """The release that scored the last window."""
    update: UpdatePhase | None
    """The phase of an update that the node last told; None if it told none."""
    update_reason: str | None

    @property
    def update_in_words(self) -> str:
        """What became of the update, and why; without the figures."""
        if self.update is None or self.update is UpdatePhase.IDLE:
            return "-"
        reason = "" if self.update_reason is None else f": {self.update_reason.partition(':')[0]}"
        return self.update.replace("_", " ") + reason


def summarize(database: Path, fault_after_seconds: dict[str, float]) -> list[NodeSummary]:
    """Read what became of each node.

    Args:
        database: the collector's SQLite file.
        fault_after_seconds: for each faulty node, when its fault began after its first window.
    """
    with closing(_opened(database)) as connection:
        connection.row_factory = sqlite3.Row
        return [
            _summary(connection, row, fault_after_seconds.get(row["node"]))
            for row in connection.execute(_PER_NODE)
        ]


def stored_windows(database: Path) -> int:
    """Count the windows in the database now; 0 when it does not exist yet."""
    if not database.exists():
        return 0
    with closing(_opened(database)) as connection:
        (count,) = connection.execute('SELECT count(*) FROM "window"').fetchone()
        return int(count)


def known_nodes(database: Path) -> set[str]:
    """Name the nodes that have told the collector what they are."""
    with closing(_opened(database)) as connection:
        return {node for (node,) in connection.execute("SELECT DISTINCT node FROM birth")}


def _opened(database: Path) -> sqlite3.Connection:
    """To read from, whoever writes to it."""
    return sqlite3.connect(f"file:{database}?mode=ro", uri=True)


def _summary(
    connection: sqlite3.Connection, row: sqlite3.Row, fault_after_seconds: float | None
) -> NodeSummary:
    before, before_flagged, delay = row["stored"], row["flagged"] or 0, None
    if fault_after_seconds is not None:
        fault_us = row["first_us"] + int(fault_after_seconds * 1e6)
        since = connection.execute(_FLAGS_SINCE, (row["node"], fault_us, False)).fetchone()
        flag = connection.execute(_FLAGS_SINCE, (row["node"], fault_us, True)).fetchone()
        before -= since["windows"]
        before_flagged -= since["flagged"] or 0
        if flag["first_flag_us"] is not None:
            delay = (flag["first_flag_us"] - fault_us) / 1e6
    model = connection.execute(_LAST_MODEL, (row["node"],)).fetchone()["model"]
    update = connection.execute(_LAST_UPDATE, (row["node"],)).fetchone()
    return NodeSummary(
        node=row["node"],
        produced=row["produced"],
        stored=row["stored"],
        scored=row["scored"],
        flagged=row["flagged"] or 0,
        flagged_before_fault=before_flagged,
        windows_before_fault=before,
        fault_to_flag_s=delay,
        model=model,
        update=None if update is None else UpdatePhase(update["phase"]),
        update_reason=None if update is None else update["reason"],
    )
