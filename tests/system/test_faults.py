"""Nothing is lost: real programs, real faults, and counts that have to agree at the end.

The long version is `make soak MINUTES=30`.
"""

import random
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from tests.rig import faults
from tests.rig.accounting import TAIL_WINDOWS, UnbalancedError, totals
from tests.rig.fault_rig import Rig
from tests.rig.faults import Fault
from tests.rig.waiting import wait_until

pytestmark = pytest.mark.timeout(420)

_SOME = 30
"""Windows that a node makes before and between faults: three seconds."""


def made(rig: Rig, windows: int) -> None:
    """Let each node that runs make so many more windows (in real time, so by waiting)."""
    # No event tells it from outside while a node is cut off: its counter does.
    goals = {node: node.windows_so_far + windows for node in rig.nodes if node.running}
    wait_until(
        lambda: all(node.windows_so_far >= goal for node, goal in goals.items()),
        f"{windows} windows more of each node",
        seconds=60.0,
    )


@contextmanager
def wrong(rig: Rig, chance: random.Random, *chosen: Fault) -> Iterator[None]:
    """All of these at once; leaving ends them."""
    with ExitStack() as stack:
        for fault in chosen:
            stack.enter_context(fault(rig, chance))
        yield


def test_fleet_without_faults_balances(tmp_path: Path) -> None:
    """Every window is stored once, and the nodes' own count is the one outside of them."""
    with Rig(tmp_path, nodes=2) as rig:
        rig.start()
        made(rig, _SOME)
        rig.settle()

        found = totals(rig)

    assert found.produced == found.stored >= 2 * _SOME
    assert found.runs == 2


@pytest.mark.parametrize("seed", [1, 2])
def test_killed_parts_lose_nothing_but_the_tails_of_killed_nodes(tmp_path: Path, seed: int) -> None:
    """Collector, broker, database and nodes are killed in some order, at some moment."""
    chance = random.Random(seed)
    killings = [
        faults.collector_killed,
        faults.broker_killed,
        faults.database_killed,
        faults.node_killed,
        faults.broker_forgets,
    ]
    chance.shuffle(killings)
    with Rig(tmp_path, nodes=3) as rig:
        rig.start()
        made(rig, _SOME)
        for killing in killings:
            with wrong(rig, chance, killing):
                made(rig, chance.randrange(5, 40))
            made(rig, chance.randrange(0, 10))
        rig.settle()

        found = totals(rig)

    assert found.killed_runs == 1
    assert found.stored + found.lost_in_tails == found.produced
    assert found.lost_in_tails <= TAIL_WINDOWS


def test_durable_node_that_is_killed_loses_nothing(tmp_path: Path) -> None:
    """With `durable = "always"`, not even its tail; with its link cut, and with it whole."""
    chance = random.Random(3)
    settings = {"EARSHOT_OUTBOX_DURABLE": "always"}
    with Rig(tmp_path, nodes=2, node_settings=settings) as rig:
        rig.start()
        made(rig, _SOME)
        for cut in (False, True, True):
            with wrong(rig, chance, *([faults.link_cut] if cut else []), faults.node_killed):
                made(rig, 10)
            made(rig, 10)
        rig.settle()

        found = totals(rig, tail_windows=0)

    assert found.killed_runs == 3
    assert found.stored == found.produced
    assert found.lost_in_tails == 0


def test_long_absence_of_the_database_and_a_short_queue_lose_nothing(tmp_path: Path) -> None:
    """The broker confirms what it then drops, silently: receipts find that out."""
    chance = random.Random(4)
    settings = {"EARSHOT_COLLECTOR_BATCH_POINTS": "20"}
    with Rig(
        tmp_path, nodes=3, broker_extra="max_queued_messages 100", collector_settings=settings
    ) as rig:
        rig.start()
        made(rig, _SOME)
        with wrong(rig, chance, faults.database_killed):
            made(rig, 150)
        made(rig, _SOME)
        with wrong(rig, chance, faults.collector_stopped):
            made(rig, 150)
        dropped = rig.dropped_by_broker()
        rig.settle()

        found = totals(rig)

    assert dropped > 0, "the broker dropped nothing: nothing was shown"
    assert found.stored == found.produced


def test_full_disks_lose_nothing(tmp_path: Path) -> None:
    """A node keeps in memory what its disk does not take; a collector waits for room."""
    chance = random.Random(5)
    with Rig(tmp_path, nodes=2) as rig:
        if not rig.collector_disk.can_be_full:
            pytest.skip("only root may mount a small disk")
        rig.start()
        made(rig, _SOME)
        with wrong(rig, chance, faults.node_disk_full):
            made(rig, 100)
        made(rig, _SOME)
        with wrong(rig, chance, faults.collector_disk_full):
            made(rig, 50)
        rig.settle()

        found = totals(rig)

    assert found.stored == found.produced


def test_bad_links_lose_nothing(tmp_path: Path) -> None:
    """Silent, slow and flapping ones, and strangers who take over a connection."""
    chance = random.Random(6)
    trouble = [
        faults.link_silent,
        faults.link_slow,
        faults.link_flaps,
        faults.database_hangs,
        faults.stranger_with_a_node_s_id,
        faults.stranger_with_the_collector_s_id,
    ]
    chance.shuffle(trouble)
    with Rig(tmp_path, nodes=2) as rig:
        rig.start()
        made(rig, _SOME)
        for fault in trouble:
            with wrong(rig, chance, fault):
                made(rig, 40)
            made(rig, 10)
        rig.settle()

        found = totals(rig)

    assert found.stored == found.produced


def test_stepping_clocks_lose_nothing_and_keep_the_order(tmp_path: Path) -> None:
    """A node's windows keep their order in time, also over its restarts, whatever its clock did."""
    with Rig(tmp_path, nodes=2) as rig:
        rig.start()
        for step in (3, 1800, 1790, -20):
            made(rig, 20)
            rig.nodes[0].clock.step(step)
        made(rig, 20)
        rig.nodes[0].stop()
        rig.nodes[0].clock.step(-600)
        rig.nodes[0].start()
        made(rig, 20)
        rig.settle()

        found = totals(rig)

    assert found.stored == found.produced


def test_without_receipts_and_outbox_the_same_faults_lose_windows(tmp_path: Path) -> None:
    """The negative control: these checks can fail."""
    chance = random.Random(4)
    settings = {"EARSHOT_OUTBOX_RECEIPTS": "broker", "EARSHOT_NODE_STATE_FOLDER": "/proc/nowhere"}
    with Rig(
        tmp_path, nodes=2, broker_extra="max_queued_messages 20", node_settings=settings
    ) as rig:
        rig.start()
        made(rig, _SOME)
        with wrong(rig, chance, faults.collector_killed):
            made(rig, 100)
        made(rig, _SOME)
        rig.heal()
        stop_all(rig)

        with pytest.raises(UnbalancedError, match="windows are lost"):
            totals(rig)


def stop_all(rig: Rig) -> None:
    """Without asking whether anything still waits."""
    for node in rig.nodes:
        node.stop()
    stored = -1
    while (now := len(rig.stored())) != stored:
        stored = now
        time.sleep(2.0)
