"""The ledger in memory and on disk, kept together; the store is asked where both know nothing.

The story's entries are `enter`, after each write, and `evaluate`, each minute.
"""

import logging
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence

from collector.ledger.boot import Boot, Key
from collector.ledger.hours import Hour
from collector.ledger.ledger import Change, Ledger, key_of
from collector.ledger.ledger_file import LedgerFile
from collector.sinks.sink import Sink, SinkUnavailableError
from contract.messages import Message
from contract.ranges import Ranges
from contract.records import LedgerEntry
from contract.topics import Kind

logger = logging.getLogger(__name__)

# For a fleet of thousands of nodes that all send old windows.
_KEPT_BOOTS = 10_000

_DAY_US = 24 * 3600 * 1_000_000
_FORGOTTEN_AFTER_US = 30 * _DAY_US
_PRUNED_EVERY_US = _DAY_US // 24
# A store that cannot answer now is asked again after this: a try may take as long as its timeout.
_ASKED_AGAIN_US = 60 * 1_000_000
# To answer about a boot, a store may have to read all that it has of the node. Where a ledger was
# lost, a node has one boot that runs and a few that wait; no node may hold up all others by more.
_QUESTIONS_PER_NODE = 10
_QUESTIONS_RENEWED_US = _DAY_US // 24


class LedgerCache:
    """Accounts of all boots: those that are open in memory, and all of them on disk.

    Args:
        file: where they are kept.
        sink: asked for what is stored of a boot that neither memory nor file knows.
        gap_seconds: what has been unexplained for so long is missing.
        now_us: since then we listen; what was on its way before gets its time anew.
        kept_boots: beyond so many in memory, those that are over are read when they are heard of.

    Raises:
        SinkUnavailableError: the file cannot be read.
    """

    def __init__(
        self,
        file: LedgerFile,
        sink: Sink,
        *,
        gap_seconds: float,
        now_us: int,
        kept_boots: int = _KEPT_BOOTS,
    ) -> None:
        self._kept_boots = kept_boots
        self._file = file
        self._sink = sink
        self._ledger = Ledger(gap_seconds=gap_seconds)
        self._changed: set[Key] = set()
        """Boots that have changed since they were last evaluated."""
        self._evaluated: set[Key] = set()
        """Boots that were evaluated and are not saved yet."""
        self._unsaved: defaultdict[Key, Ranges] = defaultdict(Ranges)
        self._unsaved_rejected: defaultdict[Key, Ranges] = defaultdict(Ranges)
        self._pruned_us = 0
        self._questions = _Questions(now_us)
        self._ledger.running = file.running()
        for boot in file.open_boots():
            self._ledger.put(boot)
        self._ledger.begin_anew(now_us=now_us, blind_since_us=None)

    def enter(
        self,
        heard: Sequence[tuple[Message, Sequence[int]]],
        *,
        now_us: int,
        rejected: Mapping[Key, Sequence[int]] | None = None,
        hours: Iterable[Hour] = (),
    ) -> dict[Key, Ranges]:
        """Write down what nodes have said, each with the windows of it that are stored.

        The same once more, after an error, changes nothing.

        Args:
            heard: messages, and of each the numbers of its windows that are stored now.
            now_us: the time.
            rejected: windows in these messages that the store refuses.
            hours: to be counted, and not in the file yet.

        Returns:
            For each boot of which windows were stored or refused, what they have become part of.

        Raises:
            SinkUnavailableError: not now; nothing may be acknowledged.
        """
        keys: set[Key] = set()
        windows_of: set[Key] = set()
        stored: defaultdict[Key, list[int]] = defaultdict(list)
        for message, seqs in heard:
            key = key_of(message)
            if key is None:
                continue
            if seqs:
                stored[key] += seqs
            # A hundred windows of one boot say once that it runs.
            if message.KIND is Kind.WINDOW:
                if key in windows_of:
                    continue
                windows_of.add(key)
            self._load(key, now_us)
            self._ledger.hear(message, now_us=now_us)
            keys.add(key)
        for key, seqs in stored.items():
            self._ask_what_is_stored(key, first=min(seqs), now_us=now_us)
            for first, last in self._ledger.store(key, seqs, now_us=now_us):
                self._unsaved[key].add(first, last)
        for key, seqs in (rejected or {}).items():
            for first, last in self._ledger.reject(key, sorted(seqs), now_us=now_us):
                self._unsaved_rejected[key].add(first, last)
        self._save(keys, hours)
        self._changed |= keys
        touched = {key: self._unsaved.pop(key) for key in stored}
        for key in rejected or {}:
            touched[key] = Ranges((*touched.get(key, ()), *self._unsaved_rejected.pop(key)))
        self._make_room()
        return touched

    def evaluate(self, *, now_us: int) -> list[LedgerEntry]:
        """Accounts that have changed since the last time, by what was heard or by time alone.

        One line is logged when windows of a boot are missing, and one when none is any more.
        """
        open_boots = {key for key, boot in self._ledger.boots.items() if boot.open}
        keys = {key for key in self._changed if key in self._ledger.boots} | open_boots
        for key in sorted(keys):
            if self._ledger.is_about_to_miss(key, now_us=now_us):
                # Another collector may have stored them, and told the node so.
                self._ledger.boots[key].asked = False
                self._ask_what_is_stored(key, first=1, now_us=now_us)
        changes = self._ledger.evaluate(sorted(keys), now_us=now_us)
        self._changed.clear()
        for change in changes:
            self._evaluated.add((change.entry.node, change.entry.boot))
            _log_missing(change)
        return [change.entry for change in changes]

    def save_evaluated(self, *, now_us: int) -> int:
        """Keep what was evaluated, and forget what is long over; windows missing, over all boots.

        Raises:
            SinkUnavailableError: not now; the next time keeps it all.
        """
        self._save(self._evaluated)
        for key in self._evaluated:
            self._unsaved.pop(key, None)
        self._evaluated.clear()
        if now_us - self._pruned_us >= _PRUNED_EVERY_US:
            self._pruned_us = now_us
            for key in self._file.prune(heard_before_us=now_us - _FORGOTTEN_AFTER_US):
                if key in self._ledger.boots:
                    self._ledger.forget(key)
        return self._file.missing()

    def begin_anew(self, *, now_us: int, blind_since_us: int) -> None:
        """Take in that a time has passed in which nothing could be heard or stored."""
        self._ledger.begin_anew(now_us=now_us, blind_since_us=blind_since_us)

    def settled(self, key: Key) -> Ranges | None:
        """What a node need not keep of a boot; None for one that was forgotten."""
        boot = self._ledger.boots.get(key) or self._file.boot(key)
        return None if boot is None else boot.settled

    def _load(self, key: Key, now_us: int) -> None:
        if key not in self._ledger.boots:
            self._ledger.put(self._file.boot(key) or Boot(*key, now_us, now_us))

    def _ask_what_is_stored(self, key: Key, *, first: int, now_us: int) -> None:
        """Once for each boot of which memory and file do not know the beginning.

        Nothing waits for the answer: until it is there we know of fewer windows than are stored,
        so that receipts say less, and a count may be called missing that is not.
        """
        boot = self._ledger.boots[key]
        if boot.asked:
            return
        # A boot that begins with its first window was never heard before.
        if first > 0:
            if not self._questions.may_ask(boot.node, now_us=now_us):
                return
            try:
                found = self._sink.stored_seqs(*key)
            except SinkUnavailableError as error:
                level = logging.WARNING if self._questions.unanswered_us is None else logging.DEBUG
                logger.log(level, "cannot ask the store which earlier windows it has: %s", error)
                self._questions.unanswered_us = now_us
                return
            self._questions.unanswered_us = None
            for begin, end in found:
                self._unsaved[key].add(*boot.stored.add(begin, end))
        boot.asked = True

    def _save(self, keys: set[Key], hours: Iterable[Hour] = ()) -> None:
        boots = [self._ledger.boots[key] for key in keys]
        names = {node for node, _ in keys}
        self._file.save(
            boots,
            [(name, boot) for name in names if (boot := self._ledger.running.get(name))],
            [(key, self._unsaved[key]) for key in keys if key in self._unsaved],
            [(key, self._unsaved_rejected[key]) for key in keys if key in self._unsaved_rejected],
            hours,
        )

    def _make_room(self) -> None:
        too_many = len(self._ledger.boots) - self._kept_boots
        if too_many <= 0:
            return
        busy = self._changed | self._evaluated
        over = [
            key for key, boot in self._ledger.boots.items() if not boot.open and key not in busy
        ]
        for key in over[:too_many]:
            self._ledger.forget(key)


class _Questions:
    """How often the store may be asked what it has of a boot."""

    def __init__(self, now_us: int) -> None:
        self.unanswered_us: int | None = None
        """While the store cannot be asked: when it was asked last."""
        self._asked: Counter[str] = Counter()
        """By node, since they were last renewed."""
        self._renewed_us = now_us

    def may_ask(self, node: str, *, now_us: int) -> bool:
        # Both differences as such: a clock that was set back must not silence us until it is there.
        if self.unanswered_us is not None and abs(now_us - self.unanswered_us) < _ASKED_AGAIN_US:
            return False
        if abs(now_us - self._renewed_us) >= _QUESTIONS_RENEWED_US:
            self._renewed_us = now_us
            self._asked.clear()
        self._asked[node] += 1
        return self._asked[node] <= _QUESTIONS_PER_NODE


def _log_missing(change: Change) -> None:
    entry = change.entry
    if entry.missing and not change.missing_before:
        logger.warning(
            "%s boot %s: %d %s missing, neither stored nor accounted for",
            entry.node,
            entry.boot,
            entry.missing,
            "window is" if entry.missing == 1 else "windows are",
        )
    elif change.missing_before and not entry.missing:
        logger.warning("%s boot %s: no window is missing any more", entry.node, entry.boot)
