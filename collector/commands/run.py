"""`earshot collector run`: store what the nodes say, until stopped."""

import argparse
import logging
import os
import signal
from contextlib import ExitStack, closing
from pathlib import Path

from collector.commands.shared_options import add_config_option, settings_path

SUMMARY = "store what the nodes say"

LOG_LEVEL = logging.INFO


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the settings file."""
    add_config_option(parser)


def run(options: argparse.Namespace) -> int:
    """Open the state folder and the store, and collect until SIGTERM or Ctrl-C."""
    from collector import settings, state_folder
    from collector.health_endpoint import served
    from collector.ledger.ledger_file import LedgerFile
    from collector.link import presence
    from collector.link.event_loop import Inbox
    from collector.metrics import Metrics
    from collector.service import Collector
    from collector.sinks.open import open_sink
    from collector.storing.dead_letters import DeadLetterFile
    from contract.session import Session

    chosen = settings.load(settings_path(options), os.environ)
    section = chosen.collector
    inbox = Inbox()
    session = Session(
        chosen.mqtt,
        presence.session_options(section),
        inbox.put,
        will=lambda: presence.last_will(section),
    )
    metrics = Metrics()
    folder = Path(section.state_folder)
    with ExitStack() as stack:
        stack.enter_context(state_folder.locked(folder))
        ledger = stack.enter_context(closing(LedgerFile(folder)))
        dead_letters = stack.enter_context(
            closing(DeadLetterFile(folder, megabytes=section.dead_letter_mb))
        )
        sink = stack.enter_context(closing(open_sink(chosen)))
        collector = Collector(
            section,
            session,
            sink,
            inbox,
            ledger=ledger,
            dead_letters=dead_letters,
            metrics=metrics,
        )
        stack.enter_context(
            served(section.health_listen, metrics, stall_seconds=section.stall_seconds)
        )
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: collector.stop())
        collector.run()
    return 0
