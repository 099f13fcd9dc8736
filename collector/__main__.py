"""`python -m collector`: `run` stores what the nodes say, `watch` shows it, `command` tells one.

`ledger` proves that nothing is lost, `health` asks a running collector how it is, and `check` puts
a broker to the test.
"""

import argparse
import logging
import os
import signal
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack, closing
from functools import partial
from pathlib import Path

from collector import health, service, settings, state_folder
from collector.commands import command
from collector.dead_letters import DeadLetterFile
from collector.ledger.ledger import Boot, Key
from collector.ledger.ledger_file import LedgerFile
from collector.sinks.open import open_sink
from collector.vitals import Vitals
from contract.broker_options import add_broker_options, broker_variables
from contract.errors import EXIT_BAD_INPUT, EarshotError
from contract.printable import printable
from contract.session import Session
from contract.topics import VERBS

_ONCE_SECONDS = 3.0
_EVERY_SECONDS = 5.0
_ANSWER_SECONDS = 15.0

_DESCRIPTION = "Store what the nodes say, show it, and account for every window."

# How long the ledger may be behind the store while a collector writes.
_WRITTEN_DOWN_SECONDS = 1.0

# Of `check`: twice what brokers keep by default; and more than are sent at once, or it cannot tell.
_DEFAULT_MESSAGES = 2000
_FEWEST_MESSAGES, _MOST_MESSAGES = 200, 100_000

EXIT_NOT_DONE = 1
"""The node has answered and said no; windows are missing; the collector is not healthy."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; the exit code."""
    options = _parser().parse_args(arguments)
    try:
        quiet = logging.INFO if options.command == "run" else logging.WARNING
        _configure_logging(logging.DEBUG if options.verbose else quiet)
        return _COMMANDS[options.command](options)
    except EarshotError as error:
        # A file's name may hold a line break; what went wrong stays one line.
        text = printable(" ".join(str(error).split()))
        print(f"earshot collector: {text}", file=sys.stderr)
        return EXIT_BAD_INPUT
    except BrokenPipeError:
        # Whoever read our output has seen enough; without this, Python says so when it exits.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


def _run(options: argparse.Namespace) -> int:
    chosen = settings.load(options.config, os.environ)
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


def _watch(options: argparse.Namespace) -> int:
    # Only here: `run` works without rich.
    from collector.commands import watch

    broker = settings.load_broker(options.config, {**os.environ, **broker_variables(options)})
    if options.once:
        seconds, mode = options.seconds or _ONCE_SECONDS, watch.Mode.ONCE
    else:
        seconds = options.seconds
        mode = watch.Mode.LIVE if sys.stdout.isatty() else watch.Mode.LINES
    watch.run(broker, mode, seconds=seconds, every=options.every)
    return 0


def _command(options: argparse.Namespace) -> int:
    broker = settings.load_broker(options.config, {**os.environ, **broker_variables(options)})
    minutes = 0.0 if options.cancel else options.minutes
    result = command.tell(
        broker, options.node, options.verb, minutes=minutes, seconds=options.seconds
    )
    print(f"{result.node}: {printable(result.note)}")
    return 0 if result.done else EXIT_NOT_DONE


def _ledger(options: argparse.Namespace) -> int:
    # Only here: `run` works without rich.
    from collector.ledger import ledger_report

    section = settings.load_section(options.config, os.environ)
    since_us = 0
    if options.since is not None:
        since_us = max(0, int((time.time() - ledger_report.seconds_of(options.since)) * 1e6))
    with closing(LedgerFile(Path(section.state_folder), read_only=True)) as file:
        boots = file.all_boots(node=options.node, heard_since_us=since_us)
        nodes = file.nodes()
        lines = [
            ledger_report.line_of(boot, nodes.get(boot.node), gap_seconds=section.gap_seconds)
            for boot in boots
        ]
        if options.verify:
            chosen = settings.load(options.config, os.environ)
            with closing(open_sink(chosen)) as sink:
                lines = ledger_report.verified(
                    lines, boots, sink.stored_seqs, partial(_read_again, file)
                )
    ledger_report.show(lines, as_json=options.json)
    return EXIT_NOT_DONE if any(line.unexplained for line in lines) else 0


def _read_again(file: LedgerFile, key: Key) -> Boot | None:
    time.sleep(_WRITTEN_DOWN_SECONDS)
    return file.boot(key)


def _health(options: argparse.Namespace) -> int:
    listen = settings.load_section(options.config, os.environ).health_listen
    if listen is None:
        raise health.HealthAddressError(
            "[collector] health_listen: not set, so nobody can be asked; for example"
            ' health_listen = "127.0.0.1:8088"'
        )
    found = health.ask(listen)
    print("healthy" if found.healthy else f"not healthy: {found.reason}")
    return 0 if found.healthy else EXIT_NOT_DONE


def _check(options: argparse.Namespace) -> int:
    from collector.commands import check as broker_check

    broker = settings.load_broker(options.config, {**os.environ, **broker_variables(options)})
    return broker_check.run(broker, messages=options.messages)


def _positive(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0.0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"expected a number above 0, got {text!r}")
    return value


def _messages(text: str) -> int:
    if not text.isdecimal() or not _FEWEST_MESSAGES <= int(text) <= _MOST_MESSAGES:
        raise argparse.ArgumentTypeError(
            f"expected a number from {_FEWEST_MESSAGES} to {_MOST_MESSAGES}, got {text!r}"
        )
    return int(text)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m collector", description=__doc__.partition("\n")[0]
    )
    parser.add_argument("--verbose", action="store_true", help="log every step to stderr")
    commands = parser.add_subparsers(dest="command", required=True)

    run = commands.add_parser("run", help="store what the nodes say")
    show = commands.add_parser("watch", help="show the fleet; needs nothing but a broker")
    tell = commands.add_parser(
        "command", help="tell one node to do something, and wait for its word"
    )
    book = commands.add_parser(
        "ledger", help="what became of every window; exit code 1 if some are missing"
    )
    well = commands.add_parser(
        "health", help="ask the collector that runs here; exit code 1 if it is not healthy"
    )
    check = commands.add_parser(
        "check", help="measure what a broker really does, and whether it will lose data"
    )
    for parsed in (run, show, tell, book, well, check):
        parsed.add_argument(
            "--config", type=Path, help="TOML file; see collector/collector.example.toml"
        )
        # SUPPRESS: else its default would undo a --verbose before the command.
        parsed.add_argument(
            "--verbose", action="store_true", default=argparse.SUPPRESS, help=argparse.SUPPRESS
        )

    check.add_argument(
        "--messages",
        type=_messages,
        default=_DEFAULT_MESSAGES,
        help="how many to publish for a client that is away (default %(default)s)",
    )
    for parsed in (show, tell, check):
        add_broker_options(parsed)
    show.add_argument("--seconds", type=_positive, help="end by itself after so long")
    show.add_argument("--once", action="store_true", help="print one table after a few seconds")
    show.add_argument(
        "--every",
        type=_positive,
        default=_EVERY_SECONDS,
        help="seconds between lines where there is no terminal (default %(default)g)",
    )
    tell.add_argument("node", metavar="NODE", help="its id")
    tell.add_argument(
        "verb",
        choices=VERBS,
        help="calibrate: learn what is normal there; rollback: go back to the release before",
    )
    calibrate = tell.add_mutually_exclusive_group()
    calibrate.add_argument(
        "--minutes", type=_positive, help="of calibrating, 2 to 240 (default: 60)"
    )
    calibrate.add_argument("--cancel", action="store_true", help="end a calibration")
    tell.add_argument(
        "--seconds",
        type=_positive,
        default=_ANSWER_SECONDS,
        help="how long to wait for the answer (default %(default)g)",
    )
    book.add_argument("--node", metavar="NODE", help="of this node alone")
    book.add_argument(
        "--since", metavar="TIME", help="heard of within 30m, 24h or 7d (default: all)"
    )
    book.add_argument("--json", action="store_true", help="print JSON")
    book.add_argument(
        "--verify",
        action="store_true",
        help="ask the store as well whether it has what is written down; may take long",
    )
    return parser


_COMMANDS = {
    "run": _run,
    "watch": _watch,
    "command": _command,
    "ledger": _ledger,
    "health": _health,
    "check": _check,
}


def _configure_logging(level: int) -> None:
    logging.basicConfig(
        stream=sys.stderr, level=level, format="%(asctime)s %(levelname)s %(name)s: %(message)s"
    )
    # The service and `watch` tell of the connection themselves.
    quiet = logging.DEBUG if level == logging.DEBUG else logging.ERROR
    logging.getLogger("contract.session").setLevel(quiet)


if __name__ == "__main__":
    sys.exit(main())
