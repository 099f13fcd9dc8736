"""The demo's course: programs are started, shown, updated, ended in order, and counted."""

import argparse
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

from rich.console import Console
from rich.table import Table
from rich.text import Text

from collector.watch import show
from contract.command_line import typed
from contract.errors import EarshotError
from contract.settings import MqttSettings
from demo import update
from demo.broker import Broker
from demo.programs import Program, wait_for_collector
from demo.summary import NodeSummary, known_nodes, stored_windows, summarize
from node.scoring.release_store import read_release

EXIT_FAILED = 1

_FAULTY = "fan-3"
_REFUSING = "fan-2"
# Seeds that the model has not been trained with: new takes of machines that it knows.
_MACHINES = {
    "fan-1": "synthetic:fan?unit=0&seed=90001",
    "fan-2": "synthetic:fan?unit=1&seed=90002",
    _FAULTY: "synthetic:fan?unit=2&seed=90003&fault=bearing&severity=0.6",
}
_UPDATE_AFTER_SECONDS = 25.0
_SETTLE_SECONDS = 15.0
_EVERY_SECONDS = 5.0
_PIPE_WIDTH = 120
_WIDE = 100


class _Account(NamedTuple):
    """What it came to."""

    summaries: list[NodeSummary]
    unexpected: list[str]
    """What the update should not have come to."""


def run_demo(options: argparse.Namespace) -> int:
    """Run the demo, with the options of `demo.command`, and give the exit code.

    0 says that every produced window was stored, and that the update ended as it was meant to,
    unless Ctrl-C came first.
    """
    # A closed terminal or a supervisor must not leave five programs behind.
    for number in (signal.SIGHUP, signal.SIGTERM):
        signal.signal(number, _interrupt)
    # A pipe has no width, and rich would fold the table at 80.
    console = Console(width=None if sys.stdout.isatty() else _PIPE_WIDTH)
    try:
        with ExitStack() as stack:
            directory = _directory(options.keep, stack)
            account = _run_fleet(options, directory, console, stack)
        return _tell(account, options.fault_after, console)
    except EarshotError as error:
        print(f"earshot demo: {error}", file=sys.stderr)
        return EXIT_FAILED
    except KeyboardInterrupt:
        print("earshot demo: stopped before there was anything to tell", file=sys.stderr)
        return EXIT_FAILED


def _run_fleet(
    options: argparse.Namespace, directory: Path, console: Console, stack: ExitStack
) -> _Account:
    # A wrong --model is said now, not after the show.
    manifest = read_release(options.model).manifest
    planned = update.plan(options.model, manifest, refusing=_REFUSING)
    database = directory / "earshot.db"
    if database.exists():
        # Two runs in one database cannot be told apart in the account at the end.
        raise EarshotError(f"{database} is of an earlier run: give --keep another folder")
    broker = stack.enter_context(Broker(directory, options.broker))
    console.print(
        f"Broker: {broker.name} on {broker.host}:{broker.port}. Three nodes, one collector"
        f" (SQLite).\n{_FAULTY}'s bearing begins to fail after {options.fault_after:g} s. An update"
        f" goes out after {_update_after(options):g} s.\nCtrl-C ends the demo. First a key to sign"
        " with, for this run alone:"
    )
    keys = update.create_keys(_temporary(stack), console)
    settings = MqttSettings(host=broker.host, port=broker.port)
    common = {
        "EARSHOT_MQTT_HOST": broker.host,
        "EARSHOT_MQTT_PORT": str(broker.port),
        "EARSHOT_NODE_STATE_FOLDER": str(directory / "state"),
    }

    def start(package: str, name: str, own: dict[str, str]) -> Program:
        program = Program(package, name, directory=directory, settings={**common, **own})
        return stack.enter_context(program)

    collector = start(
        "collector",
        "collector",
        {
            "EARSHOT_SQLITE_PATH": str(database),
            "EARSHOT_COLLECTOR_STATE_FOLDER": str(directory / "collector-state"),
        },
    )
    wait_for_collector(collector, settings, "collector")
    nodes = [
        start("node", name, _node(name, options) | update.node_settings(name, planned, keys))
        for name in _MACHINES
    ]

    def send_update() -> None:
        _wait_for_nodes(database, nodes)
        update.send(planned, keys, broker, console)

    seen_through = _show(options, settings, console, send_update)
    console.print("Ending: the nodes deliver what they have, then the database is counted.")
    _end(collector, nodes, database)
    summaries = summarize(database, {_FAULTY: options.fault_after})
    return _Account(summaries, update.unexpected(planned, summaries) if seen_through else [])


def _show(
    options: argparse.Namespace,
    broker: MqttSettings,
    console: Console,
    send_update: Callable[[], None],
) -> bool:
    """The live table, and in the midst of it the update.

    Returns:
        Whether the update was seen through: Ctrl-C ends the show at any time, and not the demo.
    """
    before = _update_after(options)
    after = None if options.seconds is None else options.seconds - before
    mode = show.Mode.LIVE if console.is_terminal else show.Mode.LINES
    sent = False
    try:
        began = time.monotonic()
        show.run(broker, mode, seconds=before, every=_EVERY_SECONDS)
        # It says nothing of a Ctrl-C but by being early.
        if time.monotonic() >= began + before:
            send_update()
            sent = True
            show.run(broker, mode, seconds=after, every=_EVERY_SECONDS)
    except KeyboardInterrupt:
        console.print()
    return sent


def _wait_for_nodes(database: Path, nodes: Sequence[Program]) -> None:
    """Until all have told the collector that they are there: a push waits for those alone."""
    deadline = time.monotonic() + _SETTLE_SECONDS
    while not known_nodes(database) >= _MACHINES.keys():
        for node in nodes:
            node.check()
        if time.monotonic() > deadline:
            raise EarshotError(f"not all nodes are there after {_SETTLE_SECONDS:g} s")
        time.sleep(0.2)


def _end(collector: Program, nodes: Sequence[Program], database: Path) -> None:
    """In this order nothing is lost."""
    for program in (collector, *nodes):
        program.check()
    for node in nodes:
        node.ask_to_end()
    for node in nodes:
        node.end()
    _wait_until_settled(database)
    collector.end()


def _update_after(options: argparse.Namespace) -> float:
    if options.seconds is None:
        return _UPDATE_AFTER_SECONDS
    half: float = options.seconds / 2
    return min(_UPDATE_AFTER_SECONDS, half)


def _node(name: str, options: argparse.Namespace) -> dict[str, str]:
    after = f"&after={options.fault_after:g}" if name == _FAULTY else ""
    return {
        "EARSHOT_NODE_ID": name,
        "EARSHOT_NODE_GROUP": "demo",
        "EARSHOT_SOURCE_SPEC": _MACHINES[name] + after,
        "EARSHOT_MODEL_FOLDER": str(options.model),
        "EARSHOT_HEALTH_INTERVAL_SECONDS": "10",
    }


def _wait_until_settled(database: Path) -> None:
    """Until the collector has written what the broker still held: no new window for two batches."""
    deadline = time.monotonic() + _SETTLE_SECONDS
    count = -1
    while (now := stored_windows(database)) != count and time.monotonic() < deadline:
        count = now
        time.sleep(2.0)


def _tell(account: _Account, fault_after: float, console: Console) -> int:
    summaries = account.summaries
    padding = 1 if console.width >= _WIDE else 0
    table = Table(title="From the database", title_justify="left", padding=(0, padding))
    for name in ("node", "machine"):
        table.add_column(name)
    for name in ("windows produced", "stored", "flagged", "fault to first flag"):
        table.add_column(name, justify="right")
    for name in ("model at the end", "update"):
        table.add_column(name, overflow="fold")
    for summary in summaries:
        delay = summary.fault_to_flag_s
        faulty = summary.node == _FAULTY
        table.add_row(
            summary.node,
            f"bearing fault after {fault_after:g} s" if faulty else "healthy",
            "unknown" if summary.produced is None else str(summary.produced),
            str(summary.stored),
            str(summary.flagged),
            "-" if delay is None else f"{delay:.1f} s",
            summary.model,
            Text(summary.update_in_words),
        )
    console.print(table)
    missing = [s.node for s in summaries if s.produced != s.stored]
    missing += sorted(_MACHINES.keys() - {s.node for s in summaries})
    if missing:
        print(f"earshot demo: windows are missing of {', '.join(missing)}", file=sys.stderr)
        return EXIT_FAILED
    if account.unexpected:
        print(f"earshot demo: {'; '.join(account.unexpected)}", file=sys.stderr)
        return EXIT_FAILED
    console.print(f"Every one of {sum(s.stored for s in summaries)} produced windows is stored.")
    _tell_next(console)
    return 0


def _tell_next(console: Console) -> None:
    console.print("\nNext, with a microphone at a machine of your own, and an MQTT broker:")
    for command, why in (
        ("node init", "asks what a node has to know, and writes node.toml"),
        ("node run", "hears, scores and publishes; node check says what is missing"),
        ("node calibrate", "while it runs and the machine is healthy: learns its sound"),
        ("collector watch", "shows the fleet in another terminal"),
    ):
        console.print(f"  {typed(command):<32}  {why}", soft_wrap=True, highlight=False)


def _directory(keep: Path | None, stack: ExitStack) -> Path:
    if keep is not None:
        keep.mkdir(parents=True, exist_ok=True)
        return keep
    return _temporary(stack)


def _temporary(stack: ExitStack) -> Path:
    directory = Path(tempfile.mkdtemp(prefix="earshot-demo-"))
    stack.callback(shutil.rmtree, directory, ignore_errors=True)
    return directory


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt
