"""`earshot collector check`: measure what a broker really does, and whether it will lose data.

The exit code is 1 if it will lose data, and 2 if something that can be measured was not.
"""

import argparse
import signal
import sys
from collections.abc import Iterable
from contextlib import closing, nullcontext
from typing import TYPE_CHECKING

from collector.commands.shared_options import add_config_option, broker_settings
from contract.broker_options import add_broker_options
from contract.command_line import EXIT_INTERRUPTED

if TYPE_CHECKING:
    from rich.table import Table

    from collector.broker_check.measurements import Row

SUMMARY = "measure what a broker really does, and whether it will lose data"

# Twice what brokers keep by default; and more than are sent at once, or it cannot tell.
_DEFAULT_MESSAGES = 2000
_FEWEST_MESSAGES, _MOST_MESSAGES = 200, 100_000


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add where the broker is, and how hard it is tried."""
    add_config_option(parser)
    add_broker_options(parser)
    parser.add_argument(
        "--messages",
        type=_messages,
        default=_DEFAULT_MESSAGES,
        help="how many to publish for a client that is away (default %(default)s)",
    )


def run(options: argparse.Namespace) -> int:
    """Put a broker to the test and print a table and what to do; the exit code."""
    from rich.console import Console
    from rich.text import Text

    from collector.broker_check.measurements import exit_code, measure

    broker = broker_settings(options)
    terminal = sys.stdout.isatty()
    console = Console(width=None if terminal else 10_000, highlight=False)
    rows: list[Row] = []
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with (
            console.status(f"measuring {broker.address} ...") if terminal else nullcontext(),
            closing(measure(broker, messages=options.messages)) as measured,
        ):
            rows.extend(measured)
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    finally:
        signal.signal(signal.SIGTERM, before)
    console.print(_table(rows, plain=not terminal))
    for advice in dict.fromkeys(row.advice for row in rows if row.advice):
        console.print(Text(f"- {advice}"))
    return exit_code(rows)


def _table(rows: "Iterable[Row]", *, plain: bool) -> "Table":
    """The rows as a table; a plain one is nothing but words in columns."""
    from rich.table import Table
    from rich.text import Text

    from collector.broker_check.measurements import Verdict
    from contract.printable import printable

    styles = {Verdict.GOOD: "green", Verdict.LOSES: "bold red", Verdict.UNMEASURED: "dim"}
    table = Table.grid(padding=(0, 2)) if plain else Table()
    for column in ("what", "measured", "verdict"):
        table.add_column("" if plain else column, no_wrap=plain)
    for row in rows:
        # A broker chooses the words of its reasons.
        table.add_row(
            Text(row.what),
            Text(printable(row.measured)),
            Text(row.verdict, styles.get(row.verdict, "yellow")),
        )
    return table


def _messages(text: str) -> int:
    if not text.isdecimal() or not _FEWEST_MESSAGES <= int(text) <= _MOST_MESSAGES:
        raise argparse.ArgumentTypeError(
            f"expected a number from {_FEWEST_MESSAGES} to {_MOST_MESSAGES}, got {text!r}"
        )
    return int(text)
