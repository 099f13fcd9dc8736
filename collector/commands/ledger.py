"""`earshot collector ledger`: what became of every window.

The ledger may be read while its collector runs. The exit code is 1 if windows are missing.
"""

import argparse
import os
import re
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from collector.commands import EXIT_NOT_DONE
from collector.commands.shared_options import add_config_option, settings_path

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from collector.ledger.ledger_report import BootReport
    from contract.ranges import Ranges

SUMMARY = "what became of every window; exit code 1 if some are missing"

_UNIT_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add which boots are told of, and how."""
    add_config_option(parser)
    parser.add_argument("--node", metavar="NODE", help="of this node alone")
    parser.add_argument(
        "--since",
        metavar="TIME",
        type=_seconds,
        help="heard of within 30m, 24h or 7d (default: all)",
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument(
        "--verify",
        action="store_true",
        help="ask the store as well whether it has what is written down; may take long",
    )


def run(options: argparse.Namespace) -> int:
    """Print the accounts; 1 if windows are missing."""
    from collector import settings
    from collector.ledger.ledger_file import LedgerFile
    from collector.ledger.ledger_report import boot_reports
    from collector.sinks.open import open_sink

    path = settings_path(options)
    section = settings.load_section(path, os.environ)
    since_us = 0 if options.since is None else int((time.time() - options.since) * 1e6)
    with ExitStack() as stack:
        file = stack.enter_context(closing(LedgerFile(Path(section.state_folder), read_only=True)))
        ask: Callable[[str, str], Ranges] | None = None
        if options.verify:
            chosen = settings.load(path, os.environ)
            ask = stack.enter_context(closing(open_sink(chosen))).stored_seqs
        reports = boot_reports(
            file,
            gap_seconds=section.gap_seconds,
            node=options.node,
            heard_since_us=max(0, since_us),
            ask=ask,
        )
    if options.json:
        _print_json(reports)
    else:
        _print_table(reports)
    return EXIT_NOT_DONE if any(report.unexplained for report in reports) else 0


def _seconds(text: str) -> float:
    found = re.fullmatch(r"([0-9]{1,9})([smhd])", text.strip())
    if found is None:
        raise argparse.ArgumentTypeError(
            f"expected a time such as 30m, 24h or 7d, got {text[:40]!r}"
        )
    return float(int(found[1]) * _UNIT_SECONDS[found[2]])


def _print_json(reports: "Sequence[BootReport]") -> None:
    import msgspec

    sys.stdout.buffer.write(msgspec.json.format(msgspec.json.encode(reports)) + b"\n")
    sys.stdout.flush()


def _print_table(reports: "Sequence[BootReport]") -> None:
    from collector.tables import output

    console = output()
    console.print(_table(reports, console))
    console.print(_total(reports))


def _table(reports: "Sequence[BootReport]", console: "Console") -> "Table":
    from collector.tables import new_table

    is_verified = any(report.lost_by_store is not None for report in reports)
    plain = not console.is_terminal
    table = new_table(console, "earshot ledger")
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
    for report in reports:
        discarded = ", ".join(f"{reason} {n}" for reason, n in report.discarded.items())
        verified = (report.lost_by_store, report.not_written_down) if is_verified else ()
        table.add_row(
            report.node,
            report.boot,
            _local(report.first_us),
            _local(report.heard_us),
            *map(str, (report.produced, report.stored, report.waiting)),
            discarded or "0",
            *map(str, (report.rejected, report.in_transit, report.missing, *verified)),
            report.end_in_words,
            style="red" if report.unexplained and not plain else None,
        )
    return table


def _total(reports: "Sequence[BootReport]") -> str:
    """All of them, in one line."""
    parts = {
        "produced": sum(report.produced for report in reports),
        "stored": sum(report.stored for report in reports),
        "waiting": sum(report.waiting for report in reports),
        "discarded": sum(sum(report.discarded.values()) for report in reports),
        "rejected": sum(report.rejected for report in reports),
        "in transit": sum(report.in_transit for report in reports),
        "missing": sum(report.missing for report in reports),
    }
    if any(report.lost_by_store is not None for report in reports):
        parts["not in the store"] = sum(report.lost_by_store or 0 for report in reports)
        parts["not written down"] = sum(report.not_written_down or 0 for report in reports)
    nodes = len({report.node for report in reports})
    counts = ", ".join(f"{name} {count}" for name, count in parts.items())
    return f"{nodes} nodes, {len(reports)} boots: {counts}"


def _local(at_us: int) -> str:
    return datetime.fromtimestamp(at_us // 1_000_000, UTC).astimezone().isoformat()
