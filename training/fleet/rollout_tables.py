"""Tables of rollouts and what is said below them, for people.

Nothing is cut where a screen is narrow: what does not fit goes on in the next line of its column.
"""

from collections.abc import Iterable, Sequence

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from contract.desired import Wanted
from contract.messages import Update
from training.fleet.fleet import Fleet, Order
from training.fleet.rings import RolloutRow, Standing, phase

_STYLES = {
    Standing.COMMITTED: "green",
    Standing.REJECTED: "red",
    Standing.ROLLED_BACK: "red",
    Standing.WAITING: "yellow",
    Standing.UNDER_WAY: "yellow",
}


def rollout_table(rows: Iterable[RolloutRow]) -> Table:
    """A table of where each node stands at the end."""
    table = _table("rollout", "ring", "node", "phase", "running", "flagged new/running", "p95 ms")
    for row in rows:
        online = "" if row.online else " (offline)"
        table.add_row(
            "-" if row.ring is None else str(row.ring),
            row.node,
            Text(phase(row) + online, _STYLES.get(row.standing, "dim")),
            row.running or "-",
            _flagged(row.update),
            _number(row.update.trial_latency_p95_ms if row.update else None),
        )
    return table


def ended_lines(rows: Sequence[RolloutRow], *, timed_out: bool) -> list[str]:
    """How many nodes have committed it, and a line for each that has not, with the reason."""
    committed = sum(row.standing is Standing.COMMITTED for row in rows)
    have = "has" if 1 in (committed, len(rows)) else "have"
    lines = [f"{committed} of {counted(len(rows), 'node')} {have} committed it"]
    for row in rows:
        reason = row.update.reason if row.update is not None else None
        if row.standing.failed:
            lines.append(f"{row.node} runs {row.running}: {phase(row)}, {reason or 'no reason'}")
        elif timed_out and row.standing in (Standing.WAITING, Standing.UNDER_WAY):
            lines.append(
                f"{row.node} has no outcome in time, and the order stands: {phase(row)}"
                + (f", {reason}" if reason else "")
            )
        elif row.standing is Standing.OFFLINE:
            lines.append(f"{row.node} is offline, and will find it when it comes back")
        elif row.nearer is not None:
            lines.append(f"{row.node} obeys the order for {row.nearer}")
    return lines


def orders_table(orders: Iterable[Order], *, checked: bool, now_us: int) -> Table:
    """What lies at each address; `checked` is whether there were keys to check them with."""
    title = "orders" if checked else "orders (signatures not checked)"
    table = _table(title, "address", "wanted", "percent", "before", "given")
    for order in orders:
        desired = order.desired if checked else order.unverified()
        if desired is None:
            told = "not signed by us" if checked else "cannot be read"
            table.add_row(order.address, Text(told, "red"), "-", "-", "-")
            continue
        table.add_row(
            order.address,
            _release(desired.wanted, "withdrawn"),
            f"{desired.percent:g}",
            _release(desired.before, "-"),
            _ago(now_us - desired.at_us),
        )
    return table


def fleet_table(fleet: Fleet, nodes: Iterable[str], *, now_us: int) -> Table:
    """A table of nodes, each with what it last said of its update."""
    table = _table("nodes", "node", "online", "running", "wanted", "phase", "obeying", "since")
    for node in nodes:
        update = fleet.updates.get(node)
        online = fleet.online(node)
        table.add_row(
            node,
            Text("yes" if online else "no", "green" if online else "dim"),
            fleet.running(node) or "-",
            (update.wanted if update else None) or "-",
            _phase(update),
            (update.obeying if update else None) or "-",
            "-" if update is None else _ago(now_us - update.at_us),
        )
    return table


def reason_lines(fleet: Fleet, nodes: Iterable[str]) -> list[str]:
    """A line for each node that gives a reason for where it is."""
    updates = [(node, fleet.updates.get(node)) for node in nodes]
    return [
        f"{node} {_phase(update)}: {update.reason}"
        for node, update in updates
        if update is not None and update.reason
    ]


def counted(number: int, what: str) -> str:
    """A number with its noun in singular or plural: `1 chunk`, `2 chunks`."""
    return f"{number} {what}{'' if number == 1 else 's'}"


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for column in columns:
        table.add_column(column, overflow="fold")
    return table


def _phase(update: Update | None) -> str:
    if update is None:
        return "-"
    share = f" {update.progress:.0%}" if 0 < update.progress < 1 else ""
    return update.phase.replace("_", " ") + share


def _flagged(update: Update | None) -> str:
    if update is None or not update.trial_windows:
        return "-"
    return f"{update.trial_flagged}/{update.running_flagged} of {update.trial_windows}"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"


def _release(wanted: Wanted | None, nothing: str) -> str:
    if wanted is None:
        return nothing
    return wanted.release + ("" if wanted.threshold is None else f", above {wanted.threshold:g}")


def _ago(us: int) -> str:
    seconds = max(0, us) // 1_000_000
    for unit, size in (("d", 86_400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds // size} {unit} ago"
    return f"{seconds} s ago"
