"""`earshot node releases`: which models this node has, runs, and would go back to.

Reads only, also beside a node that runs.
"""

import argparse
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from node.commands.node_arguments import add_node_arguments, node_settings

if TYPE_CHECKING:
    from contract.desired import Desired, Wanted
    from node.settings import NodeSettings
    from node.updates.slots import SlotStore
    from node.updates.update_state import Refused, Slot, UpdateState

SUMMARY = "show the releases of this node: running, previous, factory"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options to the command's parser."""
    add_node_arguments(parser)
    parser.add_argument("--json", action="store_true", help="for programs")


def run(options: argparse.Namespace) -> int:
    """Print what the state folder says."""
    import msgspec

    from node.updates.slots import SlotStore, read_state

    settings = node_settings(options)
    # Without keys nothing in there counts: the node runs the release of [model] folder.
    state = None if settings.update.keys_file is None else read_state(settings.state_folder)
    store = SlotStore(
        settings.state_folder, Path(settings.model.folder), now_us=lambda: time.time_ns() // 1000
    )
    if options.json:
        print(msgspec.json.encode(_facts(settings, store, state), order="deterministic").decode())
        return 0
    for line in _lines(settings, store, state):
        print(line)
    return 0


def _facts(
    settings: "NodeSettings", store: "SlotStore", state: "UpdateState | None"
) -> dict[str, Any]:
    return {
        "schema": 1,
        "node": settings.node.id,
        "takes_updates": settings.update.keys_file is not None,
        "slots": [
            {
                "names": names,
                "release": slot.release,
                "manifest_sha256": slot.manifest_sha256,
                "folder": str(store.folders.folder(slot)),
                "problem": _problem(store, slot),
            }
            for names, slot in _slots(state)
        ],
        "state": state,
        "used_bytes": store.folders.used_bytes(),
        "free_bytes": store.folders.free_bytes(),
    }


def _lines(settings: "NodeSettings", store: "SlotStore", state: "UpdateState | None") -> list[str]:
    node, keys_file = settings.node.id, settings.update.keys_file
    if keys_file is None:
        return [
            f"{node} takes no updates: [update] keys_file is not set",
            f"It runs {settings.model.folder}",
        ]
    lines = [f"{node} takes updates signed with a key of {keys_file}"]
    if state is None:
        return [
            *lines,
            f"It has not run with {settings.state_folder} yet; it will start with"
            f" {settings.model.folder}",
        ]
    lines.append("")
    for names, slot in _slots(state):
        problem = _problem(store, slot)
        lines.append(f"{' and '.join(names):<20}  {slot.release:<24}  {store.folders.folder(slot)}")
        if problem is not None:
            lines.append(f"{'':<20}  BROKEN: {problem}")
    lines += ["", *_state_lines(state)]
    lines.append(
        f"On disk: {store.folders.used_bytes() / 1e6:.1f} MB of releases and downloads,"
        f" {store.folders.free_bytes() / 1e6:.0f} MB free"
    )
    return lines


def _state_lines(state: "UpdateState") -> list[str]:
    from node.updates.update_state import MAX_STARTS

    lines = []
    if not state.confirmed:
        back = (state.previous or state.factory).release
        lines.append(
            f"{state.current.release} is not confirmed yet; after {MAX_STARTS} crashes"
            f" {back} runs again (start {state.starts})"
        )
    if state.trying is not None:
        lines.append(
            f"{state.trying.release} is on trial; after {MAX_STARTS} crashes it is left"
            f" (start {state.starts})"
        )
    highest = ", ".join(f"{name}@{version}" for name, version in sorted(state.highest.items()))
    lines.append(f"Nothing older is taken unless an order allows it: {highest}")
    orders = sorted(state.orders.items())
    lines += [f"Order for {address}: {_order(order)}" for address, order in orders]
    if not orders:
        lines.append("No order has come yet")
    for sha256, threshold in sorted(state.thresholds.items()):
        lines.append(f"Threshold {threshold:g} by order, for {_name(state, sha256)}")
    lines += [_refusal(state, refused) for refused in reversed(state.refused)]
    return lines


def _slots(state: "UpdateState | None") -> "list[tuple[list[str], Slot]]":
    """Each slot once, with what it is; the running one first."""
    if state is None:
        return []
    roles = {"running": state.current, "previous": state.previous, "factory": state.factory}
    return [(([role for role in roles if roles[role] == slot]), slot) for slot in state.slots]


def _problem(store: "SlotStore", slot: "Slot") -> str | None:
    from contract.errors import ReleaseError

    try:
        store.folders.read(slot)
    except ReleaseError as error:
        return str(error)
    return None


def _order(order: "Desired") -> str:
    if order.wanted is None:
        return f"withdrawn ({_time(order.at_us)})"
    text = _wanted(order.wanted)
    if order.percent < 100:
        text += f" for {order.percent:g} % of the nodes"
        if order.before is not None:
            text += f", {_wanted(order.before)} for the others"
    if order.allow_older:
        text += ", also where that is a step back"
    return f"{text} ({_time(order.at_us)}, serial {order.serial})"


def _wanted(wanted: "Wanted") -> str:
    threshold = "" if wanted.threshold is None else f" with the threshold {wanted.threshold:g}"
    return f"{wanted.release}{threshold}"


def _refusal(state: "UpdateState", refused: "Refused") -> str:
    how = str(refused.phase).replace("_", " ")
    again = "; it is tried again later" if refused.retry else ""
    name = refused.release or _name(state, refused.manifest_sha256)
    return f"{name} was {how} ({_time(refused.at_us)}): {refused.reason}{again}"


def _name(state: "UpdateState", manifest_sha256: str) -> str:
    """A release by its manifest, as far as anything here still names it."""
    names = {slot.manifest_sha256: slot.release for slot in state.slots}
    for order in state.orders.values():
        for wanted in (order.before, order.wanted):
            if wanted is not None:
                names[wanted.manifest_sha256] = wanted.release
    return names.get(manifest_sha256, f"A release (manifest {manifest_sha256[:12]})")


def _time(at_us: int) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(at_us / 1e6))
