"""`earshot collector check`: measure what a broker really does, and whether it will lose data.

The exit code is 1 if it will lose data, and 2 if something that can be measured was not.
"""

import argparse
import signal
from collections.abc import Iterable
from contextlib import closing, nullcontext
from typing import TYPE_CHECKING

from collector.commands.shared_options import add_config_option, broker_settings
from contract.broker_options import add_broker_options
from contract.command_line import EXIT_INTERRUPTED

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from collector.broker_check.verdicts import Measurement

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
    from rich.text import Text

    from collector.broker_check.measurements import measure
    from collector.broker_check.verdicts import exit_code
    from collector.tables import output

    broker = broker_settings(options)
    console = output()
    found: list[Measurement] = []
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with (
            console.status(f"measuring {broker.address} ...")
            if console.is_terminal
            else nullcontext(),
            closing(measure(broker, messages=options.messages)) as measurements,
        ):
            found.extend(measurements)
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    finally:
        signal.signal(signal.SIGTERM, before)
    console.print(_table(found, console))
    for advice in dict.fromkeys(each.advice for each in found if each.advice):
        console.print(Text(f"- {advice}"))
    return exit_code(found)


def _table(measurements: "Iterable[Measurement]", console: "Console") -> "Table":
    from rich.text import Text

    from collector.broker_check.verdicts import Verdict
    from collector.tables import new_table
    from contract.printable import printable

    styles = {Verdict.GOOD: "green", Verdict.LOSES: "bold red", Verdict.UNMEASURED: "dim"}
    table = new_table(console)
    for column in ("what", "measured", "verdict"):
        table.add_column(column, no_wrap=not console.is_terminal)
    for each in measurements:
        # A broker chooses the words of its reasons.
        table.add_row(
            Text(each.what),
            Text(printable(each.measured)),
            Text(each.verdict, styles.get(each.verdict, "yellow")),
        )
    return table


def _messages(text: str) -> int:
    if not text.isdecimal() or not _FEWEST_MESSAGES <= int(text) <= _MOST_MESSAGES:
        raise argparse.ArgumentTypeError(
            f"expected a number from {_FEWEST_MESSAGES} to {_MOST_MESSAGES}, got {text!r}"
        )
    return int(text)
