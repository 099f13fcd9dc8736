"""What became of every window, boot by boot, from the ledger's file; and whether the store has it.

The file may be read while its collector runs. What is in transit and what is missing is as the
collector has last judged it: while it does not run, time does not count against anybody.
"""

import time
from collections.abc import Callable

import msgspec

from collector.ledger.boot import Boot, RunningBoot
from collector.ledger.ledger_file import LedgerFile
from contract.ranges import Ranges
from contract.states import BootEnd, DiscardReason

# How long the ledger may be behind the store while a collector writes.
_WRITTEN_DOWN_SECONDS = 1.0


class BootReport(msgspec.Struct, frozen=True, kw_only=True):
    """What became of the windows of one boot; counts are of windows."""

    node: str
    boot: str
    first_us: int
    """When the collector first heard of it, in microseconds since 1970, UTC."""
    heard_us: int
    """When the collector last heard of it, likewise."""
    produced: int
    stored: int
    waiting: int
    discarded: dict[str, int]
    """How many the node has given up, by reason, without those that never happened."""
    rejected: int
    """How many the store has refused; they are dead letters."""
    in_transit: int
    missing: int
    end: BootEnd
    lost_tail: int
    """Of a boot that ended without goodbye: windows that went with its memory, as is known."""
    tail_windows: int
    """How many windows, at most, went with a boot that ended without goodbye, known or not."""
    lost_by_store: int | None = None
    """Written down as stored, and not there any more; None when the store was not asked."""
    not_written_down: int | None = None
    """How many are in the store and not in the ledger; None when the store was not asked."""

    @property
    def unexplained(self) -> int:
        """Windows that somebody has to look for."""
        return self.missing + (self.lost_by_store or 0) + (self.not_written_down or 0)

    @property
    def end_in_words(self) -> str:
        """How the boot ended."""
        if self.end is BootEnd.LOST:
            known = f", {self.lost_tail} known" if self.lost_tail else ""
            return f"boot ended without goodbye, tail of at most {self.tail_windows}{known}"
        return str(self.end)


def boot_reports(
    file: LedgerFile,
    *,
    gap_seconds: float,
    node: str | None = None,
    heard_since_us: int = 0,
    ask: Callable[[str, str], Ranges] | None = None,
) -> list[BootReport]:
    """The accounts in the file, by node and in the order in which they began.

    Args:
        file: the ledger.
        gap_seconds: what has been unexplained for so long is missing.
        node: of this node alone.
        heard_since_us: of boots that were heard of since then, in microseconds since 1970, UTC.
        ask: gives the numbers of a boot's windows that are stored, to be held against the ledger.

    Raises:
        SinkUnavailableError: file or store cannot be read now.
    """
    # Read before the store is asked: all that the file says must be there.
    boots = file.all_boots(node=node, heard_since_us=heard_since_us)
    running = file.running()
    reports = [boot_report(boot, running.get(boot.node), gap_seconds=gap_seconds) for boot in boots]
    if ask is None:
        return reports
    return [
        _verified(report, boot, ask(*boot.key), file)
        for report, boot in zip(reports, boots, strict=True)
    ]


def boot_report(boot: Boot, running: RunningBoot | None, *, gap_seconds: float) -> BootReport:
    """The account of a boot that was read from the file."""
    balance = boot.balance(running, gap_us=round(gap_seconds * 1e6))
    # What was stored since the last judgement is not missing any more.
    missing = min(boot.missing, balance.unexplained)
    return BootReport(
        node=boot.node,
        boot=boot.boot,
        first_us=boot.first_us,
        heard_us=boot.heard_us,
        produced=balance.produced,
        stored=balance.stored,
        waiting=balance.waiting,
        discarded={reason: n for reason in DiscardReason if (n := boot.discarded.get(reason, 0))},
        rejected=balance.rejected,
        in_transit=balance.unexplained - missing,
        missing=missing,
        end=balance.end,
        lost_tail=balance.lost_tail,
        tail_windows=boot.tail_windows if balance.end is BootEnd.LOST else 0,
    )


def _verified(report: BootReport, boot: Boot, there: Ranges, file: LedgerFile) -> BootReport:
    """An account beside what the store really has."""
    lost = boot.stored.missing_in(there)
    more = there.missing_in(boot.stored)
    if more:
        # A collector that runs writes into the store first, then into its ledger.
        time.sleep(_WRITTEN_DOWN_SECONDS)
        if (later := file.boot(boot.key)) is not None:
            more = there.missing_in(later.stored)
    return msgspec.structs.replace(report, lost_by_store=lost, not_written_down=more)
