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
    from collector import health, service, settings, state_folder
    from collector.dead_letters import DeadLetterFile
    from collector.ledger.ledger_file import LedgerFile
    from collector.sinks.open import open_sink
    from collector.vitals import Vitals
    from contract.session import Session

    chosen = settings.load(settings_path(options), os.environ)
    section = chosen.collector
    inbox: service.Inbox = service.Inbox()
    session = Session(
        chosen.mqtt,
        service.session_options(section),
        inbox.put,
        will=lambda: service.last_will(section),
    )
    vitals = Vitals()
    folder = Path(section.state_folder)
    with ExitStack() as stack:
        stack.enter_context(state_folder.locked(folder))
        ledger = stack.enter_context(closing(LedgerFile(folder)))
        letters = stack.enter_context(
            closing(DeadLetterFile(folder, megabytes=section.dead_letter_mb))
        )
        sink = stack.enter_context(closing(open_sink(chosen)))
        collector = service.Collector(
            section, session, sink, inbox, ledger=ledger, letters=letters, vitals=vitals
        )
        stack.enter_context(
            health.served(section.health_listen, vitals, stall_seconds=section.stall_seconds)
        )
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: collector.stop())
        collector.run()
    return 0
