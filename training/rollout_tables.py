"""Tables of rollouts, for people."""

import time
from collections.abc import Iterable, Sequence

from rich.table import Table
from rich.text import Text

from contract.desired import Desired, Wanted
from contract.messages import Update
from training.fleet import Fleet, Order
from training.rings import NodeRow, Standing, phase

_STYLES = {
    Standing.COMMITTED: "green",
    Standing.REJECTED: "red",
    Standing.ROLLED_BACK: "red",
    Standing.WAITING: "yellow",
    Standing.UNDER_WAY: "yellow",
}


def rollout_table(rows: Iterable[NodeRow]) -> Table:
    """Where each node stands at the end."""
    table = _table("rollout", "ring", "node", "phase", "running", "flagged new/running", "p95 ms")
    table.add_column("reason")
    for row in rows:
        online = "" if row.online else " (offline)"
        table.add_row(
            "-" if row.ring is None else str(row.ring),
            row.node,
            Text(phase(row) + online, _STYLES.get(row.standing, "dim")),
            row.running or "-",
            _flagged(row.update),
            _number(row.update.trial_latency_p95_ms if row.update else None),
            Text(row.nearer or (row.update.reason if row.update else None) or ""),
        )
    return table


def ended_lines(rows: Sequence[NodeRow], *, timed_out: bool) -> list[str]:
    """What is to be said of the nodes that have not committed it."""
    lines = []

    def named(standings: set[Standing]) -> str:
        return ", ".join(row.node for row in rows if row.standing in standings)

    committed = sum(row.standing is Standing.COMMITTED for row in rows)
    lines.append(f"{committed} of {len(rows)} nodes have committed it")
    if failed := named({Standing.REJECTED, Standing.ROLLED_BACK}):
        lines.append(f"failed, and run what they ran: {failed}")
    if offline := named({Standing.OFFLINE}):
        lines.append(f"offline, and will find it when they come back: {offline}")
    if nearer := named({Standing.NEARER}):
        lines.append(f"obey a nearer order: {nearer}")
    waiting = named({Standing.WAITING, Standing.UNDER_WAY})
    if timed_out and waiting:
        lines.append(f"no outcome in time (the order stands): {waiting}")
    return lines


def orders_table(orders: Iterable[Order], *, checked: bool) -> Table:
    """What lies at each address; `checked` is whether there were keys to check them with."""
    table = _table("orders", "address", "wanted", "percent", "before", "threshold", "given")
    for order in orders:
        desired = order.desired if checked else order.unverified()
        if desired is None:
            told = "not signed by us" if checked else "cannot be read"
            table.add_row(order.address, Text(told, "red"), "-", "-", "-", "-")
            continue
        note = "" if checked else " (signature not checked)"
        table.add_row(
            order.address,
            _release(desired.wanted, "withdrawn") + note,
            f"{desired.percent:g}",
            _release(desired.before, "-"),
            _threshold(desired),
            _time(desired.at_us),
        )
    return table


def fleet_table(fleet: Fleet, nodes: Iterable[str], *, now_us: int) -> Table:
    """Each node and its update, as it last said."""
    table = _table("nodes", "node", "online", "running", "wanted", "phase", "obeying", "since")
    table.add_column("reason")
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
            Text((update.reason if update else None) or ""),
        )
    return table


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left")
    for column in columns:
        table.add_column(column, no_wrap=True)
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
    return nothing if wanted is None else wanted.release


def _threshold(desired: Desired) -> str:
    threshold = None if desired.wanted is None else desired.wanted.threshold
    return "-" if threshold is None else f"{threshold:g}"


def _time(at_us: int) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(at_us / 1e6))


def _ago(us: int) -> str:
    seconds = max(0, us) // 1_000_000
    for unit, size in (("d", 86_400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds // size} {unit} ago"
    return f"{seconds} s ago"
