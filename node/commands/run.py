"""`earshot node run`: hear, judge and publish until stopped."""

import argparse
import logging
import signal
import threading

from node.commands.node_arguments import add_node_arguments, node_parts, node_settings

SUMMARY = "hear, score and publish until stopped"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options to the command's parser."""
    add_node_arguments(parser)


def run(options: argparse.Namespace) -> int:
    """Run the node until SIGTERM or Ctrl-C."""
    from node import service

    parts = node_parts(node_settings(options))
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    signal.signal(signal.SIGINT, lambda *_: _interrupted(stop))
    totals = service.run(*parts, stop)
    logging.getLogger(__name__).info(
        "%d windows, %d flagged, %d unscored, %d discarded",
        totals.windows,
        totals.flagged,
        totals.unscored,
        totals.discarded,
    )
    return 0


def _interrupted(stop: threading.Event) -> None:
    """The first Ctrl-C ends the node in good order, the second one at once."""
    if stop.is_set():
        logging.getLogger(__name__).error("given up: what is not on the disk yet is lost")
        raise KeyboardInterrupt
    stop.set()
