"""`earshot collector watch`: the fleet in the terminal, from any broker.

It needs neither a store nor a collector. Where standard output is no terminal, plain lines come
instead of a table that redraws itself.
"""

import argparse
import sys

from collector.commands.shared_options import add_config_option, broker_settings, positive_number
from contract.broker_options import add_broker_options

SUMMARY = "show the fleet; needs nothing but a broker"

_ONCE_SECONDS = 3.0
_EVERY_SECONDS = 5.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add where the broker is, and how and for how long the fleet is shown."""
    add_config_option(parser)
    add_broker_options(parser)
    parser.add_argument("--seconds", type=positive_number, help="end by itself after so long")
    parser.add_argument("--once", action="store_true", help="print one table after a few seconds")
    parser.add_argument(
        "--every",
        type=positive_number,
        default=_EVERY_SECONDS,
        help="seconds between lines where there is no terminal (default %(default)g)",
    )


def run(options: argparse.Namespace) -> int:
    """Show the fleet until Ctrl-C, or for as long as was asked."""
    from collector.watch import show

    broker = broker_settings(options)
    if options.once:
        seconds, mode = options.seconds or _ONCE_SECONDS, show.Mode.ONCE
    else:
        seconds = options.seconds
        mode = show.Mode.LIVE if sys.stdout.isatty() else show.Mode.LINES
    show.run(broker, mode, seconds=seconds, every=options.every)
    return 0
