"""The accounts in memory: what is heard and stored goes in, what has changed comes out.

How an account is added up is told in `collector.ledger.boot`, how it is kept in
`collector.ledger.ledger_file`. No clock, no socket and no file here.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import msgspec

from collector.ledger.boot import Boot, BootBalance, Key, RunningBoot
from contract.messages import Account, Backlog, Message, Status, Window
from contract.ranges import Ranges, runs
from contract.records import LedgerEntry
from contract.states import BootEnd, DiscardReason, Presence, PresenceReason
from contract.topics import FROM_NODE, Kind

_SECOND_US = 1_000_000

# Of these alone the boot is the one that runs: a backlog, an account and an event may be about one
# that ran before.
_OF_RUNNING_BOOT = frozenset(FROM_NODE) - {Kind.BACKLOG, Kind.ACCOUNT, Kind.EVENT}


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
        self.running: dict[str, RunningBoot] = {}
        """The boot that runs of each node, by the node's id."""
        self.boots: dict[Key, Boot] = {}
        """Accounts, in the order in which they were last heard of."""
        self._gap_us = round(gap_seconds * _SECOND_US)
        self._last_at_us = 0

    def put(self, boot: Boot) -> None:
        """Add the account of a boot that was read, or is heard of for the first time."""
        self.boots[boot.key] = boot

    def hear(self, message: Message, *, now_us: int) -> Boot | None:
        """Take in what a node has said, but for its windows; its boot has been `put`.

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
        """Take in windows that are stored now; gives the ranges that they have become part of."""
        return self._settle(key, self.boots[key].stored, seqs, now_us)

    def reject(self, key: Key, seqs: Iterable[int], *, now_us: int) -> Ranges:
        """Take in windows that the store refuses; gives ranges, as `store` does."""
        return self._settle(key, self.boots[key].rejected, seqs, now_us)

    def evaluate(self, keys: Iterable[Key], *, now_us: int) -> list[Change]:
        """Judge these boots; gives the entries of those whose figures are not what they were."""
        changes = []
        for key in keys:
            boot = self.boots[key]
            balance = self._note_unexplained(boot, now_us)
            before, boot.evaluated_us = boot.missing, now_us
            boot.missing = boot.patience.missing(now_us=now_us, gap_us=self._gap_us)
            boot.open = (
                balance.end is BootEnd.RUNNING
                or balance.waiting > 0
                or balance.unexplained > boot.missing
            )
            entry = self._entry(boot, balance, now_us)
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
        """Take in that a time has passed in which nothing could be heard or stored.

        Args:
            now_us: it is over.
            blind_since_us: when it began; None is when each boot was last evaluated.
        """
        for boot in self.boots.values():
            since_us = boot.evaluated_us if blind_since_us is None else blind_since_us
            boot.patience.begin_anew(now_us=now_us, gap_us=self._gap_us, blind_since_us=since_us)

    def forget(self, key: Key) -> None:
        """Drop the account of a boot, which has been saved."""
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
        running = self.running.get(key[0])
        if running is not None and running.boot == key[1]:
            running.heard_us = max(running.heard_us, now_us)
            return
        # A last will says nothing of whether another boot has begun.
        is_will = isinstance(message, Status) and message.reason is PresenceReason.LOST
        if running is None or not is_will:
            self.running[key[0]] = RunningBoot(key[1], now_us, now_us)

    def _note_unexplained(self, boot: Boot, now_us: int) -> BootBalance:
        balance = boot.balance(self.running.get(boot.node), gap_us=self._gap_us)
        boot.patience.note(balance.unexplained, now_us=now_us, gap_us=self._gap_us)
        return balance

    def _entry(self, boot: Boot, balance: BootBalance, now_us: int) -> LedgerEntry:
        return LedgerEntry(
            node=boot.node,
            boot=boot.boot,
            at_us=max(now_us, self._last_at_us + 1),
            produced=balance.produced,
            stored=balance.stored,
            waiting=balance.waiting,
            rejected=balance.rejected,
            in_transit=balance.unexplained - boot.missing,
            missing=boot.missing,
            lost_tail=balance.lost_tail,
            tail_windows=boot.tail_windows if balance.end is BootEnd.LOST else 0,
            end=balance.end,
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
