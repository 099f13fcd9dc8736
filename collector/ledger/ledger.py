"""Nothing is lost, and the count to prove it: what became of each window of each boot.

A boot's account has two sides. The node says how many windows it has numbered, how many it still
holds and how many it has given up; the collector knows which are stored. What neither explains is
*unexplained*: *in transit* at first, and *missing* once it has been so for as long as a node takes
to send again. Stored windows only grow after a node has said its side, so what is called missing
is never an account that is merely old.

    produced = stored + rejected + waiting + discarded + in transit + missing + lost tail

A node that is killed takes with it what its memory alone held, at most what it has said before
(`tail_windows`): of a boot that was lost, so much is explained by that, and no more.

No clock, no socket and no file here: see `collector.ledger.ledger_file`.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field

import msgspec

from contract.messages import (
    Account,
    Backlog,
    BootEnd,
    DiscardReason,
    LedgerEntry,
    Message,
    Presence,
    PresenceReason,
    Status,
    Window,
)
from contract.ranges import Ranges, runs
from contract.topics import FROM_NODE, Kind

Key = tuple[str, str]
"""Node and boot."""

_SECOND_US = 1_000_000

# Of these alone the boot is the one that runs: a backlog, an account and an event may be about one
# that ran before.
_OF_RUNNING_BOOT = frozenset(FROM_NODE) - {Kind.BACKLOG, Kind.ACCOUNT, Kind.EVENT}

# Steps of an unexplained count are as fine as this part of the time after which it is missing.
_STEPS = 16
# An absence is brief up to this part of it: a broker has kept for us what came meanwhile.
_BRIEF = 10


@dataclass(slots=True)
class Node:
    """Which boot of a node runs, as far as is known."""

    boot: str
    since_us: int
    """When it was first heard to run."""
    heard_us: int
    """When it was last heard."""
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
    """Time in microseconds since 1970, and a count."""

    def note(self, unexplained: int, *, now_us: int, gap_us: int) -> None:
        """The count is this now."""
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
        """How many have been unexplained for so long."""
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
    """The highest that the node has said."""
    waiting: int = 0
    tail_windows: int = 0
    account_us: int | None = None
    """When the node last said its side, by the collector's clock."""
    goodbye: bool = False
    discarded: dict[str, int] = field(default_factory=dict)
    """By reason."""
    patience: Patience = field(default_factory=Patience)
    evaluated_us: int = 0
    missing: int = 0
    """When it was last evaluated."""
    open: bool = True
    """Whether its figures may still change with the time alone."""
    entry: LedgerEntry | None = None
    """The last that was made since the program began."""
    saved: object = field(default=None, compare=False, repr=False)
    """What of it is on disk; `collector.ledger.ledger_file` knows."""

    @property
    def key(self) -> Key:
        """Node and boot."""
        return self.node, self.boot

    def take(self, account: Account, *, now_us: int) -> None:
        """The node's side. A message that comes a second time never takes back what is final."""
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

    def figures(self, node: Node | None, *, gap_us: int) -> "Figures":
        """Both sides now, and what neither explains."""
        settled = self.settled
        highest = settled.highest
        produced = max(self.produced, 0 if highest is None else highest + 1)
        rejected = len(settled) - len(self.stored)
        holes = produced - len(settled)
        discarded = sum(self.discarded.values())
        said = self.waiting if self._still_waits(node, gap_us) else 0
        waiting = min(said, max(0, holes - discarded))
        left = max(0, holes - waiting - discarded)
        end = self.end(node)
        lost_tail = min(left, self.tail_windows) if end is BootEnd.LOST else 0
        return Figures(
            produced, len(self.stored), waiting, rejected, left - lost_tail, lost_tail, end
        )

    def end(self, node: Node | None) -> BootEnd:
        """How it ended, if it has."""
        if self.goodbye:
            return BootEnd.GOODBYE
        return BootEnd.RUNNING if node is None or node.boot == self.boot else BootEnd.LOST

    def _still_waits(self, node: Node | None, gap_us: int) -> bool:
        """A node repeats the account of an old boot while it holds windows of it."""
        if node is None or node.boot == self.boot or self.account_us is None:
            return True
        return node.heard_us - max(self.account_us, node.since_us) <= gap_us


@dataclass(frozen=True, slots=True)
class Figures:
    """An account, added up."""

    produced: int
    stored: int
    waiting: int
    rejected: int
    unexplained: int
    lost_tail: int
    """Of a boot that was lost: what is explained by the memory that went with it."""
    end: BootEnd


@dataclass(frozen=True, slots=True)
class Change:
    """A boot whose figures are others than when it was last evaluated."""

    entry: LedgerEntry
    missing_before: int


class Ledger:
    """The accounts that are in memory.

    Args:
        gap_seconds: what has been unexplained for so long is missing.
    """

    def __init__(self, *, gap_seconds: float) -> None:
        self.nodes: dict[str, Node] = {}
        self.boots: dict[Key, Boot] = {}
        """In the order in which they were last heard of."""
        self._gap_us = round(gap_seconds * _SECOND_US)
        self._last_at_us = 0

    def put(self, boot: Boot) -> None:
        """A boot that was read, or is heard of for the first time."""
        self.boots[boot.key] = boot

    def hear(self, message: Message, *, now_us: int) -> Boot | None:
        """What a node has said, but for its windows; its boot has been `put`.

        Returns:
            The boot that it is about; None for a message of nobody's boot.
        """
        key = key_of(message)
        if key is None:
            return None
        boot = self.boots[key] = self.boots.pop(key)
        boot.heard_us = max(boot.heard_us, now_us)
        self._note_running(message, key, now_us)
        if isinstance(message, Account):
            boot.take(message, now_us=now_us)
            self._note_unexplained(boot, now_us)
        elif isinstance(message, Status) and _is_goodbye(message):
            boot.goodbye = True
        return boot

    def store(self, key: Key, seqs: Iterable[int], *, now_us: int) -> Ranges:
        """Windows that are stored now; the ranges that they have become part of."""
        return self._settle(key, self.boots[key].stored, seqs, now_us)

    def reject(self, key: Key, seqs: Iterable[int], *, now_us: int) -> Ranges:
        """Windows that the store refuses; likewise."""
        return self._settle(key, self.boots[key].rejected, seqs, now_us)

    def evaluate(self, keys: Iterable[Key], *, now_us: int) -> list[Change]:
        """The entries of those boots whose figures are not what they were."""
        changes = []
        for key in keys:
            boot = self.boots[key]
            figures = self._note_unexplained(boot, now_us)
            before, boot.evaluated_us = boot.missing, now_us
            boot.missing = boot.patience.missing(now_us=now_us, gap_us=self._gap_us)
            boot.open = (
                figures.end is BootEnd.RUNNING
                or figures.waiting > 0
                or figures.unexplained > boot.missing
            )
            entry = self._entry(boot, figures, now_us)
            last = boot.entry
            if last is None or msgspec.structs.replace(last, at_us=entry.at_us) != entry:
                boot.entry = entry
                self._last_at_us = entry.at_us
                changes.append(Change(entry, before))
        return changes

    def is_about_to_miss(self, key: Key, *, now_us: int) -> bool:
        """Whether `evaluate` may call more of a boot's windows missing than it did last."""
        boot = self.boots[key]
        return boot.patience.missing(now_us=now_us, gap_us=self._gap_us) > boot.missing

    def begin_anew(self, *, now_us: int, blind_since_us: int | None) -> None:
        """After a time in which nothing could be heard or stored: see `Patience.begin_anew`.

        Args:
            now_us: it is over.
            blind_since_us: when it began; None is when each boot was last evaluated.
        """
        for boot in self.boots.values():
            since_us = boot.evaluated_us if blind_since_us is None else blind_since_us
            boot.patience.begin_anew(now_us=now_us, gap_us=self._gap_us, blind_since_us=since_us)

    def forget(self, key: Key) -> None:
        """Let go of a boot, which has been saved."""
        del self.boots[key]

    def _settle(self, key: Key, ranges: Ranges, seqs: Iterable[int], now_us: int) -> Ranges:
        touched = Ranges()
        for first, last in runs(seqs):
            touched.add(*ranges.add(first, last))
        self._note_unexplained(self.boots[key], now_us)
        return touched

    def _note_running(self, message: Message, key: Key, now_us: int) -> None:
        if message.KIND not in _OF_RUNNING_BOOT:
            return
        node = self.nodes.get(key[0])
        if node is not None and node.boot == key[1]:
            node.heard_us = max(node.heard_us, now_us)
            return
        # A last will says nothing of whether another boot has begun.
        is_will = isinstance(message, Status) and message.reason is PresenceReason.LOST
        if node is None or not is_will:
            self.nodes[key[0]] = Node(key[1], now_us, now_us)

    def _note_unexplained(self, boot: Boot, now_us: int) -> Figures:
        figures = boot.figures(self.nodes.get(boot.node), gap_us=self._gap_us)
        boot.patience.note(figures.unexplained, now_us=now_us, gap_us=self._gap_us)
        return figures

    def _entry(self, boot: Boot, figures: Figures, now_us: int) -> LedgerEntry:
        return LedgerEntry(
            node=boot.node,
            boot=boot.boot,
            at_us=max(now_us, self._last_at_us + 1),
            produced=figures.produced,
            stored=figures.stored,
            waiting=figures.waiting,
            rejected=figures.rejected,
            in_transit=figures.unexplained - boot.missing,
            missing=boot.missing,
            lost_tail=figures.lost_tail,
            tail_windows=boot.tail_windows if figures.end is BootEnd.LOST else 0,
            end=figures.end,
            discarded_full=boot.discarded.get(DiscardReason.FULL, 0),
            discarded_expired=boot.discarded.get(DiscardReason.EXPIRED, 0),
            discarded_refused=boot.discarded.get(DiscardReason.REFUSED, 0),
            discarded_damaged=boot.discarded.get(DiscardReason.DAMAGED, 0),
            discarded_unsaved=boot.discarded.get(DiscardReason.UNSAVED, 0),
        )


def key_of(message: Message) -> Key | None:
    """Node and boot of what a node says; None for anybody else's messages."""
    if message.KIND not in FROM_NODE:
        return None
    return message.node, message.boot  # type: ignore[attr-defined] # all of these have both


def seqs_of(message: Message) -> tuple[int, ...]:
    """The numbers of the windows in a message."""
    if isinstance(message, Window):
        return (message.seq,)
    if isinstance(message, Backlog):
        return tuple(window.seq for window in message.windows)
    return ()


def _is_goodbye(status: Status) -> bool:
    return status.state is Presence.OFFLINE and status.reason is PresenceReason.STOPPED
