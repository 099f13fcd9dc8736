"""`earshot collector ledger`: what became of every window.

The ledger may be read while its collector runs. The exit code is 1 if windows are missing.
"""

import argparse
import os
import time
from contextlib import closing
from pathlib import Path

from collector.commands import EXIT_NOT_DONE
from collector.commands.shared_options import add_config_option, settings_path

SUMMARY = "what became of every window; exit code 1 if some are missing"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add which boots are told of, and how."""
    add_config_option(parser)
    parser.add_argument("--node", metavar="NODE", help="of this node alone")
    parser.add_argument(
        "--since", metavar="TIME", help="heard of within 30m, 24h or 7d (default: all)"
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
    from collector.ledger import ledger_report
    from collector.ledger.ledger_file import LedgerFile
    from collector.sinks.open import open_sink

    path = settings_path(options)
    section = settings.load_section(path, os.environ)
    since_us = 0
    if options.since is not None:
        since_us = max(0, int((time.time() - ledger_report.seconds_of(options.since)) * 1e6))
    with closing(LedgerFile(Path(section.state_folder), read_only=True)) as file:
        boots = file.all_boots(node=options.node, heard_since_us=since_us)
        running = file.running()
        lines = [
            ledger_report.line_of(boot, running.get(boot.node), gap_seconds=section.gap_seconds)
            for boot in boots
        ]
        if options.verify:
            chosen = settings.load(path, os.environ)
            with closing(open_sink(chosen)) as sink:
                lines = ledger_report.verified(lines, boots, sink.stored_seqs, file)
    ledger_report.show(lines, as_json=options.json)
    return EXIT_NOT_DONE if any(line.unexplained for line in lines) else 0
