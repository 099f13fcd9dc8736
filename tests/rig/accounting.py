"""Does the ledger balance? What nodes produced, counted outside of them, beside what is stored."""

from collections import defaultdict
from typing import Any, Final

import msgspec

from tests.rig.fault_rig import HOP_SECONDS, TAIL_SECONDS, Rig, Run

TAIL_WINDOWS: Final = round(TAIL_SECONDS / HOP_SECONDS) + 3
"""What a killed node may lose; three are at most between its ear and its memory."""


class UnbalancedError(AssertionError):
    """Windows are lost, stored twice, or not accounted for; the text says which."""


class Totals(msgspec.Struct, frozen=True, kw_only=True):
    """What a run of the fleet came to."""

    runs: int
    killed_runs: int
    produced: int
    """Windows, counted outside of the nodes."""
    stored: int
    waiting: int
    discarded: int
    """Given up by nodes, for a reason that they told."""
    lost_in_tails: int
    """Windows that went with the memory of a killed node."""
    stored_twice: int
    unexplained: int


def totals(rig: Rig, *, tail_windows: int = TAIL_WINDOWS) -> Totals:
    """Compare all counts; the fleet has settled.

    Args:
        rig: whose nodes have ended.
        tail_windows: that each killed node may have lost.

    Raises:
        UnbalancedError: with every run that does not balance.
    """
    found, problems = _compared(rig, tail_windows)
    if problems:
        raise UnbalancedError("\n".join([*problems, str(found)]))
    return found


def _compared(rig: Rig, tail_windows: int) -> tuple[Totals, list[str]]:
    rows = rig.stored()
    seqs: dict[str, list[int]] = defaultdict(list)
    for row in rows:
        seqs[row["boot"]].append(row["seq"])
    code, boots = rig.ledger("--verify")
    ledger = {boot["boot"]: boot for boot in boots}
    problems = [] if code == 0 else [f"the ledger ended with {code}: {boots}"]
    runs = [run for run in rig.runs if run.produced or run.boot in seqs]
    produced = waiting = discarded = lost_in_tails = unexplained = 0
    for run in runs:
        stored = set(seqs.get(run.boot or "", []))
        entry = ledger.get(run.boot or "", {})
        run_waiting = entry.get("waiting", 0)
        run_discarded = sum(entry.get("discarded", {}).values())
        # A node that is killed between handing a window on and saying so has made one more.
        run_produced = max(run.produced, max(stored, default=-1) + 1)
        left = run_produced - len(stored) - run_waiting - run_discarded
        produced, waiting = produced + run_produced, waiting + run_waiting
        discarded += run_discarded
        # A node whose disk had failed has said that more of it is in memory alone.
        allowed = max(tail_windows, entry.get("tail_windows", 0)) if run.killed else 0
        if run_produced > run.produced + run.killed:
            problems.append(f"{_name(run)}: more is stored than it has produced: {run_produced}")
        if run.killed and 0 <= left <= allowed:
            lost_in_tails += left
            missing = sorted(set(range(run_produced)) - stored)
            if left and missing[-left] < run_produced - allowed:
                problems.append(f"{_name(run)}: lost windows from {missing[0]} are no tail")
        elif left:
            unexplained += left
            missing = sorted(set(range(run_produced)) - stored)
            problems.append(
                f"{_name(run)}: {left} of {run_produced} windows are lost (at most {allowed} may"
                f" be), from {missing[:5]} to {missing[-5:]}; ledger: {entry}"
            )
        if run_discarded:
            # No fault lasts so long, and no message is such, that a node had a reason.
            problems.append(f"{_name(run)}: {run_discarded} windows were given up: {entry}")
        if not run.killed and entry.get("produced") != run.produced:
            problems.append(f"{_name(run)}: the ledger knows of another number: {entry}")
    strangers = set(seqs) - {run.boot for run in rig.runs}
    problems += [f"stored windows of a boot that nobody has started: {boot}" for boot in strangers]
    twice = sum(len(found) - len(set(found)) for found in seqs.values())
    if twice:
        problems.append(f"{twice} windows are stored twice")
    problems += _disorder(rig, rows)
    return (
        Totals(
            runs=len(runs),
            killed_runs=sum(run.killed for run in runs),
            produced=produced,
            stored=sum(len(set(found)) for found in seqs.values()),
            waiting=waiting,
            discarded=discarded,
            lost_in_tails=lost_in_tails,
            stored_twice=twice,
            unexplained=unexplained,
        ),
        problems,
    )


def _disorder(rig: Rig, rows: list[dict[str, Any]]) -> list[str]:
    """In order of time, the windows of a boot are in order of their numbers, and boots in theirs.

    Only a node that ended in good order has kept its last time stamp for the boots after it.
    """
    number = {run.boot: run.number for run in rig.runs}
    ended_well = {run.boot for run in rig.runs if not run.killed}
    last_seq: dict[str, int] = {}
    last_number: dict[str, int] = {}
    problems = []
    for row in rows:
        node, boot, seq = row["node"], row["boot"], row["seq"]
        if seq <= last_seq.get(boot, -1):
            problems.append(f"{node}: window {seq} has a later time than {last_seq[boot]}")
        if boot in ended_well and number[boot] < last_number.get(node, 0):
            problems.append(f"{node}: a window of {boot} has a later time than one of the next")
        last_seq[boot] = seq
        last_number[node] = max(number.get(boot, 0), last_number.get(node, 0))
    return problems[:5]


def _name(run: Run) -> str:
    how = "killed" if run.killed else "stopped"
    return f"{run.node}, start {run.number + 1} ({run.boot}, {how})"
