"""What can go wrong in a fleet, each as a context in which it is wrong; chosen by a seed."""

import contextlib
import random
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Final

from contract.session import SessionOptions
from tests.rig.fault_rig import Node, Rig
from tests.rig.peers import Peer, mqtt

Fault = Callable[[Rig, random.Random], contextlib.AbstractContextManager[None]]

_TOGETHER: Final = 0.4
"""How often a second fault comes before the first is over."""
_LASTS_SECONDS: Final = (0.5, 8.0)
_PAUSE_SECONDS: Final = (0.5, 6.0)


@contextmanager
def collector_killed(rig: Rig, chance: random.Random) -> Iterator[None]:
    """SIGKILL, and a start later on."""
    rig.collector.kill()
    yield
    rig.collector.start()


@contextmanager
def collector_stopped(rig: Rig, chance: random.Random) -> Iterator[None]:
    """SIGTERM."""
    rig.collector.stop()
    yield
    rig.collector.start()


@contextmanager
def broker_killed(rig: Rig, chance: random.Random) -> Iterator[None]:
    """SIGKILL; what it had not saved is gone."""
    rig.broker.kill()
    yield
    rig.broker.start()


@contextmanager
def broker_stopped(rig: Rig, chance: random.Random) -> Iterator[None]:
    """SIGTERM: it saves what it has."""
    rig.broker.stop()
    yield
    rig.broker.start()


@contextmanager
def broker_forgets(rig: Rig, chance: random.Random) -> Iterator[None]:
    """A restart without persistence: sessions, queues and retained messages are gone."""
    rig.broker.kill()
    rig.forget_broker_data()
    yield
    rig.broker.start()


@contextmanager
def database_killed(rig: Rig, chance: random.Random) -> Iterator[None]:
    """SIGKILL; its front answers 502."""
    rig.database.kill()
    yield
    rig.database.start()


@contextmanager
def database_hangs(rig: Rig, chance: random.Random) -> Iterator[None]:
    """It takes connections and does not answer."""
    rig.database.send_signal(signal.SIGSTOP)
    yield
    rig.database.send_signal(signal.SIGCONT)


@contextmanager
def database_link_cut(rig: Rig, chance: random.Random) -> Iterator[None]:
    """In the middle of a write, perhaps."""
    rig.database_link.refuse()
    rig.database_link.cut()
    yield
    rig.database_link.resume()


@contextmanager
def node_killed(rig: Rig, chance: random.Random) -> Iterator[None]:
    """SIGKILL."""
    node = chance.choice(rig.nodes)
    node.kill()
    yield
    node.start()


@contextmanager
def node_stopped(rig: Rig, chance: random.Random) -> Iterator[None]:
    """SIGTERM: it delivers, or keeps for its next start."""
    node = chance.choice(rig.nodes)
    node.stop()
    yield
    node.start()


@contextmanager
def link_cut(rig: Rig, chance: random.Random) -> Iterator[None]:
    """Connections are reset, and new ones refused."""
    link = chance.choice(rig.links)
    link.refuse()
    link.cut()
    yield
    link.resume()


@contextmanager
def link_flaps(rig: Rig, chance: random.Random) -> Iterator[None]:
    """Connections of one link are reset, and come again at once."""
    chance.choice(rig.links).cut()
    yield


@contextmanager
def link_silent(rig: Rig, chance: random.Random) -> Iterator[None]:
    """Nothing passes, and nobody is told."""
    link = chance.choice(rig.links)
    link.hold()
    yield
    link.resume()


@contextmanager
def link_slow(rig: Rig, chance: random.Random) -> Iterator[None]:
    """Half of what is needed passes, and late."""
    link = chance.choice(rig.links)
    link.limit(2500.0)
    link.delay(0.3)
    yield
    link.limit(None)
    link.delay(0.0)


@contextmanager
def node_disk_full(rig: Rig, chance: random.Random) -> Iterator[None]:
    """While its link is cut: it has to keep windows, and has no room to."""
    node = chance.choice(rig.nodes)
    node.disk.fill()
    node.link.refuse()
    node.link.cut()
    yield
    node.disk.free()
    node.link.resume()


@contextmanager
def collector_disk_full(rig: Rig, chance: random.Random) -> Iterator[None]:
    """It cannot note what it has stored."""
    rig.collector_disk.fill()
    yield
    rig.collector_disk.free()


@contextmanager
def stranger_with_a_node_s_id(rig: Rig, chance: random.Random) -> Iterator[None]:
    """Somebody connects as a node, and the broker closes the node's connection."""
    with _stranger(rig, chance.choice(rig.nodes).name):
        yield


@contextmanager
def stranger_with_the_collector_s_id(rig: Rig, chance: random.Random) -> Iterator[None]:
    """Somebody takes what the broker had for the collector, and keeps it."""
    with _stranger(rig, "collector"):
        yield


@contextmanager
def clock_steps(rig: Rig, chance: random.Random) -> Iterator[None]:
    """Forward or back, by less than an hour in all, and maybe back again.

    Beyond that a node that starts anew believes the clock and no more what it had stamped before.
    """
    node: Node = chance.choice(rig.nodes)
    node.clock.step(chance.choice((-1500, -30, -3, 3, 30, 1500)))
    yield
    if chance.random() < 0.5:
        node.clock.step(0)


ALL: Final[dict[str, Fault]] = {
    fault.__name__: fault
    for fault in (
        collector_killed,
        collector_stopped,
        broker_killed,
        broker_stopped,
        broker_forgets,
        database_killed,
        database_hangs,
        database_link_cut,
        node_killed,
        node_stopped,
        link_cut,
        link_flaps,
        link_silent,
        link_slow,
        node_disk_full,
        collector_disk_full,
        stranger_with_a_node_s_id,
        stranger_with_the_collector_s_id,
        clock_steps,
    )
}

_ONE_PART: Final = (
    {"collector_killed", "collector_stopped"},
    {"broker_killed", "broker_stopped", "broker_forgets", "stranger_with_a_node_s_id"},
    {"broker_killed", "broker_stopped", "broker_forgets", "stranger_with_the_collector_s_id"},
    {"database_killed", "database_hangs"},
    {"node_killed", "node_stopped", "node_disk_full"},
)
"""Of these, one at a time: a part that is down cannot be killed, nor connected to; and a node that
ends with neither link nor disk can only say what it has lost."""


def inject(
    rig: Rig, chance: random.Random, *, seconds: float, say: Callable[[str], None] = lambda _: None
) -> Counter[str]:
    """One fault after another, some of them together, for so long; gives how many of each."""
    counts: Counter[str] = Counter()
    until = time.monotonic() + seconds
    full = {"node_disk_full", "collector_disk_full"}
    possible = [name for name in ALL if name not in full or rig.collector_disk.can_be_full]
    # Each once, in any order, before one comes a second time.
    names: list[str] = []
    while time.monotonic() < until:
        names = names or chance.sample(possible, len(possible))
        chosen = [names.pop()]
        if chance.random() < _TOGETHER:
            chosen += [name for name in chance.sample(possible, 1) if _fits(name, chosen[0])]
        say(" and ".join(chosen).replace("_", " "))
        with ExitStack() as stack:
            for name in chosen:
                stack.enter_context(ALL[name](rig, chance))
                counts[name] += 1
            time.sleep(chance.uniform(*_LASTS_SECONDS))
        time.sleep(chance.uniform(*_PAUSE_SECONDS))
    return counts


def _fits(name: str, other: str) -> bool:
    return name != other and not any({name, other} <= part for part in _ONE_PART)


@contextmanager
def _stranger(rig: Rig, client_id: str) -> Iterator[None]:
    # A clean start: what the broker has kept for the true owner is thrown away.
    options = SessionOptions(client_id=client_id, expiry_seconds=0, clean_start=True)
    with Peer(mqtt(rig.broker), options) as stranger:
        assert stranger.open(seconds=30.0)
    yield
