"""The account of one boot of a node: nothing is lost, and the count to prove it.

A boot's account has two sides. The node says how many windows it has numbered, how many it still
holds and how many it has given up; the collector knows which are stored. What neither explains is
*unexplained*: *in transit* at first, and *missing* once it has been so for as long as a node takes
to send again. Stored windows only grow after a node has said its side, so what is called missing
is never an account that is merely old.

    produced = stored + rejected + waiting + discarded + in transit + missing + lost tail

A node that is killed takes with it what its memory alone held, at most what it has said before
(`tail_windows`): of a boot that was lost, so much is explained by that, and no more.

No clock, no socket and no file here.
"""

from dataclasses import dataclass, field

from contract.messages import Account
from contract.ranges import Ranges
from contract.records import LedgerEntry
from contract.states import BootEnd, DiscardReason

Key = tuple[str, str]
"""Node and boot."""

# Steps of an unexplained count are as fine as this part of the time after which it is missing.
_STEPS = 16
# An absence is brief up to this part of it: a broker has kept for us what came meanwhile.
_BRIEF = 10


@dataclass(slots=True)
class RunningBoot:
    """The boot of a node that runs, as far as is known."""

    boot: str
    since_us: int
    """When it was first heard to run, by the collector's clock."""
    heard_us: int
    """When it was last heard, by the collector's clock."""
    saved: object = field(default=None, compare=False, repr=False)
    """What of it is on disk; `collector.ledger.ledger_file` knows."""


@dataclass(slots=True)
class Patience:
    """For how long windows have been unexplained.

    Steps, each higher than the one before: since then, at least so many. A count that falls cuts
    off what is above it, so that windows that come and go in a busy minute never add up to missing
    ones.
    """

    steps: list[tuple[int, int]] = field(default_factory=list)
    """Each is a time in microseconds since 1970, UTC, and a count of windows."""

    def note(self, unexplained: int, *, now_us: int, gap_us: int) -> None:
        """Take in how many windows are unexplained now."""
        kept: list[tuple[int, int]] = []
        for since, count in self.steps:
            kept.append((since, min(count, unexplained)))
            if count >= unexplained:
                break
        level = kept[-1][1] if kept else 0
        if unexplained > level:
            # Rounded up: never called missing too early, and few steps however busy it is.
            grain = max(1, gap_us // _STEPS)
            since = -(-now_us // grain) * grain
            if kept and kept[-1][0] >= since:
                kept.pop()
            kept.append((since, unexplained))
        self.steps = [] if unexplained == 0 else self._without_old(kept, now_us - gap_us)

    def missing(self, *, now_us: int, gap_us: int) -> int:
        """How many windows have been unexplained for at least `gap_us`."""
        return max((n for since, n in self.steps if since <= now_us - gap_us), default=0)

    def begin_anew(self, *, now_us: int, gap_us: int, blind_since_us: int) -> None:
        """Time in which nobody could hear or store does not count against what was on its way.

        After a brief one, the time before it does: a connection that breaks every few minutes must
        not hide for ever what is missing. After a longer one there is much to hear first.
        """
        blind_us = max(0, now_us - blind_since_us)
        brief = blind_us <= gap_us // _BRIEF

        def begun(since: int) -> int:
            if since <= blind_since_us - gap_us:
                return since
            return since + blind_us if brief else max(since, now_us)

        self.steps = [(begun(since), count) for since, count in self.steps]

    @staticmethod
    def _without_old(steps: list[tuple[int, int]], before_us: int) -> list[tuple[int, int]]:
        old = [step for step in steps if step[0] <= before_us]
        return [*old[-1:], *steps[len(old) :]]


@dataclass(slots=True)
class Boot:
    """The account of one start of a node."""

    node: str
    boot: str
    first_us: int
    """When it was first heard of, by the collector's clock."""
    heard_us: int
    """When it was last heard of."""
    stored: Ranges = field(default_factory=Ranges)
    rejected: Ranges = field(default_factory=Ranges)
    """Refused by the store, and dead letters since: nobody need send them again."""
    asked: bool = False
    """Whether `stored` is known to be all: the store was asked, or it began at the first window."""
    produced: int = 0
    """How many windows the node has numbered: the highest count that it has said."""
    waiting: int = 0
    tail_windows: int = 0
    account_us: int | None = None
    """When the node last said its side, by the collector's clock."""
    goodbye: bool = False
    discarded: dict[str, int] = field(default_factory=dict)
    """How many windows the node has given up, by reason."""
    patience: Patience = field(default_factory=Patience)
    evaluated_us: int = 0
    """When it was last evaluated, by the collector's clock."""
    missing: int = 0
    """How many windows were missing then."""
    open: bool = True
    """Whether its figures may still change with the time alone."""
    entry: LedgerEntry | None = None
    """The last entry that was made since the program began."""
    saved: object = field(default=None, compare=False, repr=False)
    """What of it is on disk; `collector.ledger.ledger_file` knows."""

    @property
    def key(self) -> Key:
        """Node and boot."""
        return self.node, self.boot

    def take(self, account: Account, *, now_us: int) -> None:
        """Take in the node's side; one that comes a second time takes back nothing final."""
        self.account_us = now_us
        self.produced = max(self.produced, account.produced)
        self.waiting = account.waiting
        self.tail_windows = account.tail_windows
        self.goodbye |= account.ended
        for reason in DiscardReason:
            said = getattr(account, f"discarded_{reason}")
            self.discarded[reason] = max(self.discarded.get(reason, 0), said)

    @property
    def settled(self) -> Ranges:
        """Windows that a node need not keep: stored, or refused for good."""
        if not len(self.rejected):
            return self.stored
        return Ranges((*self.stored, *self.rejected))

    def balance(self, running: RunningBoot | None, *, gap_us: int) -> "BootBalance":
        """Add up both sides as they are now, and what neither explains."""
        settled = self.settled
        highest = settled.highest
        produced = max(self.produced, 0 if highest is None else highest + 1)
        rejected = len(settled) - len(self.stored)
        holes = produced - len(settled)
        discarded = sum(self.discarded.values())
        said = self.waiting if self._still_waits(running, gap_us) else 0
        waiting = min(said, max(0, holes - discarded))
        left = max(0, holes - waiting - discarded)
        end = self.end(running)
        lost_tail = min(left, self.tail_windows) if end is BootEnd.LOST else 0
        return BootBalance(
            produced, len(self.stored), waiting, rejected, left - lost_tail, lost_tail, end
        )

    def end(self, running: RunningBoot | None) -> BootEnd:
        """How the boot ended, if it has."""
        if self.goodbye:
            return BootEnd.GOODBYE
        return BootEnd.RUNNING if running is None or running.boot == self.boot else BootEnd.LOST

    def _still_waits(self, running: RunningBoot | None, gap_us: int) -> bool:
        """A node repeats the account of an old boot while it holds windows of it."""
        if running is None or running.boot == self.boot or self.account_us is None:
            return True
        return running.heard_us - max(self.account_us, running.since_us) <= gap_us


@dataclass(frozen=True, slots=True)
class BootBalance:
    """An account that is added up; all but `end` are counts of windows."""

    produced: int
    stored: int
    waiting: int
    rejected: int
    unexplained: int
    lost_tail: int
    """Of a boot that was lost: what is explained by the memory that went with it."""
    end: BootEnd
