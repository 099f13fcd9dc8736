"""How far a rollout is: rings of nodes, one after the other, and where each node stands.

A ring is a cohort: the nodes that one order adds to those before it. Values in, values out; what
the nodes say comes from a `Fleet`.
"""

import math
from collections import Counter
from collections.abc import Collection
from enum import StrEnum

import msgspec

from contract.desired import cohort_percent
from contract.messages import Update
from contract.states import UpdatePhase
from training.fleet.fleet import Fleet


class Standing(StrEnum):
    """What is known of a node, as far as one order goes."""

    WAITING = "waiting"
    """It has not said that it has heard the order."""
    UNDER_WAY = "under way"
    COMMITTED = "committed"
    REJECTED = "rejected"
    ROLLED_BACK = "rolled back"
    OFFLINE = "offline"
    """Away, and not begun; nobody waits for it."""
    EXCEPTED = "left out"
    """Not begun, and an operator has said that nobody is to wait for it."""
    NEARER = "obeys a nearer order"
    LATER = "not yet"
    """In no ring so far."""

    @property
    def failed(self) -> bool:
        """Whether the new release did not stay."""
        return self in (Standing.REJECTED, Standing.ROLLED_BACK)


_AWAITED = frozenset((Standing.WAITING, Standing.UNDER_WAY))
_SETTLED = frozenset((Standing.COMMITTED, Standing.REJECTED, Standing.ROLLED_BACK))
_FAILED = {
    UpdatePhase.REJECTED: Standing.REJECTED,
    UpdatePhase.ROLLED_BACK: Standing.ROLLED_BACK,
}
_AT_REST = (UpdatePhase.COMMITTED, UpdatePhase.IDLE)


class Ring(msgspec.Struct, frozen=True, kw_only=True):
    """Nodes that stand from one share to another among all."""

    number: int
    above: float
    percent: float
    serial: int
    """Serial of the order that added them."""

    def holds(self, node: str) -> bool:
        """Whether the node belongs to it."""
        return self.above <= cohort_percent(node) < self.percent


class RolloutRow(msgspec.Struct, frozen=True, kw_only=True):
    """Where one node stands in a rollout."""

    node: str
    ring: int | None
    standing: Standing
    online: bool
    nearer: str | None
    """Address of the order that it obeys instead; None if it obeys none that is nearer."""
    running: str | None
    update: Update | None
    """What it last said of this order; None if nothing."""


class RingProgress(msgspec.Struct, frozen=True, kw_only=True):
    """How far one ring is."""

    ring: Ring
    awaited: tuple[str, ...]
    """Ids of the nodes that are not done."""
    settled: int
    failed: int
    phases: dict[str, int]
    """How many nodes are in which phase, or stand how."""

    @property
    def total(self) -> int:
        """How many nodes are waited for, or were."""
        return len(self.awaited) + self.settled

    @property
    def failed_share(self) -> float:
        """Which share of these has failed, 0 to 1; 0 in an empty ring."""
        return self.failed / self.total if self.total else 0.0


class Rollout:
    """One release on its way to the nodes at one address.

    Args:
        fleet: what the nodes say.
        address: of the orders.
        label: the release.
        excepted: nodes that are waited for only once they have begun.
    """

    def __init__(
        self, fleet: Fleet, address: str, label: str, *, excepted: Collection[str] = ()
    ) -> None:
        self._excepted = frozenset(excepted)
        self._fleet = fleet
        self._address = address
        self._label = label
        self._rings: list[Ring] = []
        # A higher serial lets a node that refused the release try once more; until that has ended,
        # the ring that it belongs to does not look better than it was.
        self._outcomes: dict[str, Standing] = {}
        # What a node says after it was started anew need not name the order that it died of.
        self._begun: set[str] = set()

    def begin(self, percent: float, serial: int) -> Ring:
        """Add the next ring, as an order for that share of the nodes was given.

        Args:
            percent: share of all nodes at the address, above that of the ring before.
            serial: of the order.
        """
        above = self._rings[-1].percent if self._rings else 0.0
        ring = Ring(number=len(self._rings) + 1, above=above, percent=percent, serial=serial)
        self._rings.append(ring)
        return ring

    def rows(self) -> list[RolloutRow]:
        """A row for each node at the address, those of the first ring first."""
        rows = [self._row(node) for node in self._fleet.targets(self._address)]
        return sorted(rows, key=lambda row: (row.ring is None, row.ring or 0, row.node))

    def progress(self) -> list[RingProgress]:
        """How far each ring is."""
        rows = self.rows()
        return [
            _progress(ring, [row for row in rows if row.ring == ring.number])
            for ring in self._rings
        ]

    def shown(self) -> bool:
        """Whether some node has shown what the release does, so that the next ring may begin.

        A ring in which no node stands at all passes on what those before it have shown.
        """
        rows = self.rows()
        last = self._rings[-1]
        if any(last.holds(row.node) for row in rows):
            return self.progress()[-1].total > 0
        return any(row.standing is Standing.COMMITTED for row in rows)

    def first_to_come(self) -> tuple[str, float] | None:
        """The next node that could show it, and a share of the nodes that holds it."""
        later = [row for row in self.rows() if row.standing is Standing.LATER and row.online]
        nodes = {row.node for row in later} - self._excepted
        node = min(nodes, key=cohort_percent, default=None)
        return None if node is None else (node, math.floor(cohort_percent(node)) + 1.0)

    def _row(self, node: str) -> RolloutRow:
        ring = next((ring for ring in self._rings if ring.holds(node)), None)
        said = self._fleet.updates.get(node)
        if ring is None or not _heard(said, self._address, ring.serial):
            said = None
        nearer, online = self._fleet.nearer(node, self._address), self._fleet.online(node)
        return RolloutRow(
            node=node,
            ring=None if ring is None else ring.number,
            standing=self._standing(node, ring, said, nearer, online=online),
            online=online,
            nearer=nearer,
            running=self._fleet.running(node),
            update=said,
        )

    def _standing(
        self, node: str, ring: Ring | None, said: Update | None, nearer: str | None, *, online: bool
    ) -> Standing:
        if nearer is not None:
            return Standing.NEARER
        if ring is None:
            return Standing.LATER
        if said is not None:
            now = _settled(said, self._label)
            self._begun.add(node)
            if now is not None:
                self._outcomes[node] = now
            # One that has begun and is gone is waited for: it may be the new model that it died of.
            return now or self._outcomes.get(node, Standing.UNDER_WAY)
        if node in self._outcomes:
            return self._outcomes[node]
        if node in self._begun:
            return Standing.UNDER_WAY
        if not online:
            return Standing.OFFLINE
        return Standing.EXCEPTED if node in self._excepted else Standing.WAITING


def _heard(said: Update | None, address: str, serial: int) -> bool:
    return (
        said is not None
        and said.obeying == address
        and said.serial is not None
        and said.serial >= serial
    )


def _settled(said: Update, label: str) -> Standing | None:
    if said.phase in _FAILED:
        return _FAILED[said.phase]
    if said.running == label and said.phase in _AT_REST:
        return Standing.COMMITTED
    return None


def _progress(ring: Ring, rows: list[RolloutRow]) -> RingProgress:
    standings = [row.standing for row in rows]
    return RingProgress(
        ring=ring,
        awaited=tuple(row.node for row in rows if row.standing in _AWAITED),
        settled=sum(standing in _SETTLED for standing in standings),
        failed=sum(standing.failed for standing in standings),
        phases=dict(Counter(phase(row) for row in rows)),
    )


def phase(row: RolloutRow) -> str:
    """Where a node stands, in a word: its own one while it is under way."""
    if row.standing is Standing.UNDER_WAY and row.update is not None:
        return row.update.phase.replace("_", " ")
    return str(row.standing)
