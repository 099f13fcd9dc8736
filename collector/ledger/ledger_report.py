"""`earshot collector ledger`: what became of every window, from the ledger's file.

The file may be read while its collector runs. What is in transit and what is missing is as the
collector has last judged it: while it does not run, time does not count against anybody.
"""

import re
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime

import msgspec
from rich.console import Console
from rich.table import Table

from collector.ledger.boot import Boot, RunningBoot
from collector.ledger.ledger_file import LedgerFile
from contract.errors import EarshotError
from contract.messages import BootEnd, DiscardReason
from contract.ranges import Ranges

# A pipe has no width, and rich would cut lines at 80.
_PIPE_WIDTH = 240

# How long the ledger may be behind the store while a collector writes.
_WRITTEN_DOWN_SECONDS = 1.0

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}


class PeriodError(EarshotError):
    """Not a length of time."""


class Line(msgspec.Struct, frozen=True, kw_only=True):
    """One boot."""

    node: str
    boot: str
    first_us: int
    """When the collector first heard of it."""
    heard_us: int
    """When it last did."""
    produced: int
    stored: int
    waiting: int
    discarded: dict[str, int]
    """By the node, by reason, without those that never happened."""
    rejected: int
    """By the store: dead letters."""
    in_transit: int
    missing: int
    end: BootEnd
    lost_tail: int
    """Of a boot that ended without goodbye: windows that went with its memory, as is known."""
    tail_windows: int
    """Of such a boot: so many, at most, went with it, known or not."""
    lost_by_store: int | None = None
    """Written down as stored, and not there any more; None when the store was not asked."""
    not_written_down: int | None = None
    """There, and not written down."""

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


def seconds_of(text: str) -> float:
    """A length of time such as `24h`, `7d` or `30m`.

    Raises:
        PeriodError: it is none.
    """
    found = re.fullmatch(r"([0-9]{1,9})([smhd])", text.strip())
    if found is None:
        raise PeriodError(f"--since: expected a time such as 30m, 24h or 7d, got {text[:40]!r}")
    return float(int(found[1]) * _UNITS[found[2]])


def line_of(boot: Boot, running: RunningBoot | None, *, gap_seconds: float) -> Line:
    """The account of a boot that was read from the file."""
    balance = boot.balance(running, gap_us=round(gap_seconds * 1e6))
    # What was stored since the last judgement is not missing any more.
    missing = min(boot.missing, balance.unexplained)
    return Line(
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


def verified(
    lines: Sequence[Line],
    boots: Sequence[Boot],
    ask: Callable[[str, str], Ranges],
    file: LedgerFile,
) -> list[Line]:
    """The same accounts beside what the store really has.

    Args:
        lines: one for each boot.
        boots: read before the store is asked: all that they say must be there.
        ask: the store.
        file: read again, some time after the store was asked: a collector that runs writes into
            the store first, then into its ledger.
    """
    found = []
    for line, boot in zip(lines, boots, strict=True):
        there = ask(*boot.key)
        lost = boot.stored.missing_in(there)
        more = there.missing_in(boot.stored)
        if more:
            time.sleep(_WRITTEN_DOWN_SECONDS)
            if (later := file.boot(boot.key)) is not None:
                more = there.missing_in(later.stored)
        found.append(msgspec.structs.replace(line, lost_by_store=lost, not_written_down=more))
    return found


def show(lines: Sequence[Line], *, as_json: bool) -> None:
    """Print a table, or JSON."""
    if as_json:
        sys.stdout.buffer.write(msgspec.json.format(msgspec.json.encode(lines)) + b"\n")
        sys.stdout.flush()
        return
    is_terminal = sys.stdout.isatty()
    console = Console(width=None if is_terminal else _PIPE_WIDTH, highlight=False)
    console.print(_table(lines, plain=not is_terminal))
    console.print(total(lines))


def total(lines: Iterable[Line]) -> str:
    """All of them, in one line."""
    lines = list(lines)
    parts = {
        "produced": sum(line.produced for line in lines),
        "stored": sum(line.stored for line in lines),
        "waiting": sum(line.waiting for line in lines),
        "discarded": sum(sum(line.discarded.values()) for line in lines),
        "rejected": sum(line.rejected for line in lines),
        "in transit": sum(line.in_transit for line in lines),
        "missing": sum(line.missing for line in lines),
    }
    if any(line.lost_by_store is not None for line in lines):
        parts["not in the store"] = sum(line.lost_by_store or 0 for line in lines)
        parts["not written down"] = sum(line.not_written_down or 0 for line in lines)
    nodes = len({line.node for line in lines})
    counts = ", ".join(f"{name} {count}" for name, count in parts.items())
    return f"{nodes} nodes, {len(lines)} boots: {counts}"


def _table(lines: Sequence[Line], *, plain: bool) -> Table:
    is_verified = any(line.lost_by_store is not None for line in lines)
    table = Table(box=None) if plain else Table(title="earshot ledger", title_justify="left")
    for name in ("node", "boot", "first heard", "last heard"):
        table.add_column(name, no_wrap=plain)
    for name in ("produced", "stored", "waiting"):
        table.add_column(name, justify="right")
    table.add_column("discarded", no_wrap=plain)
    for name in ("rejected", "in transit", "missing"):
        table.add_column(name, justify="right")
    if is_verified:
        table.add_column("not in the store", justify="right")
        table.add_column("not written down", justify="right")
    table.add_column("end", no_wrap=plain)
    for line in lines:
        discarded = ", ".join(f"{reason} {n}" for reason, n in line.discarded.items())
        style = "red" if line.unexplained and not plain else None
        table.add_row(
            line.node,
            line.boot,
            _local(line.first_us),
            _local(line.heard_us),
            *map(str, (line.produced, line.stored, line.waiting)),
            discarded or "0",
            *map(str, (line.rejected, line.in_transit, line.missing)),
            *(map(str, (line.lost_by_store, line.not_written_down)) if is_verified else ()),
            line.end_in_words,
            style=style,
        )
    return table


def _local(at_us: int) -> str:
    return datetime.fromtimestamp(at_us // 1_000_000, UTC).astimezone().isoformat()
