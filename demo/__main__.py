"""`python -m demo`: three virtual machines, one of which develops a fault; Ctrl-C ends it."""

import argparse
import shutil
import signal
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

from rich.console import Console
from rich.table import Table

from collector import watch
from contract.errors import EarshotError
from contract.settings import MqttSettings
from demo.broker import Broker
from demo.programs import Program, wait_for_collector
from demo.summary import NodeSummary, stored_windows, summarize
from node.release_store import read_release

EXIT_FAILED = 1

_MODEL = Path(__file__).parent.parent / "models" / "fan-synthetic"
_FAULTY = "fan-3"
# Seeds that the model has not been trained with: new takes of machines that it knows.
_MACHINES = {
    "fan-1": "synthetic:fan?unit=0&seed=90001",
    "fan-2": "synthetic:fan?unit=1&seed=90002",
    _FAULTY: "synthetic:fan?unit=2&seed=90003&fault=bearing&severity=0.6",
}
_SETTLE_SECONDS = 15.0
_PIPE_WIDTH = 120


def main() -> int:
    """Run the demo and give the exit code: 0 when every produced window was stored."""
    options = _parser().parse_args()
    # A closed terminal or a supervisor must not leave five programs behind.
    for number in (signal.SIGHUP, signal.SIGTERM):
        signal.signal(number, _interrupt)
    # A pipe has no width, and rich would fold the table at 80.
    console = Console(width=None if sys.stdout.isatty() else _PIPE_WIDTH)
    try:
        with ExitStack() as stack:
            directory = _directory(options.keep, stack)
            summaries = _run_fleet(options, directory, console, stack)
        return _tell(summaries, options.fault_after, console)
    except EarshotError as error:
        print(f"earshot demo: {error}", file=sys.stderr)
        return EXIT_FAILED
    except KeyboardInterrupt:
        print("earshot demo: stopped before there was anything to tell", file=sys.stderr)
        return EXIT_FAILED


def _run_fleet(
    options: argparse.Namespace, directory: Path, console: Console, stack: ExitStack
) -> list[NodeSummary]:
    read_release(options.model)  # a wrong --model is said now, not after the show
    database = directory / "earshot.db"
    if database.exists():
        # Two runs in one database cannot be told apart in the account at the end.
        raise EarshotError(f"{database} is of an earlier run: give --keep another folder")
    broker = stack.enter_context(Broker(directory, options.broker))
    console.print(
        f"Broker: {broker.name} on {broker.host}:{broker.port}. Three nodes, one collector"
        f" (SQLite).\n{_FAULTY}'s bearing begins to fail after {options.fault_after:g} s."
        " Ctrl-C ends the demo."
    )
    mqtt = {"EARSHOT_MQTT_HOST": broker.host, "EARSHOT_MQTT_PORT": str(broker.port)}
    collector = stack.enter_context(
        Program(
            "collector",
            "collector",
            directory=directory,
            settings={**mqtt, "EARSHOT_SQLITE_PATH": str(database)},
        )
    )
    settings = MqttSettings(host=broker.host, port=broker.port)
    wait_for_collector(collector, settings, "collector")
    state = {"EARSHOT_NODE_STATE_FOLDER": str(directory / "state")}
    nodes = [
        stack.enter_context(
            Program(
                "node",
                name,
                directory=directory,
                settings={**mqtt, **state, **_node(name, options)},
            )
        )
        for name in _MACHINES
    ]
    mode = watch.Mode.LIVE if console.is_terminal else watch.Mode.LINES
    watch.run(settings, mode, seconds=options.seconds, every=5.0)
    console.print("Ending: the nodes deliver what they have, then the database is counted.")
    for program in (collector, *nodes):
        program.check()
    for node in nodes:
        node.ask_to_end()
    for node in nodes:
        node.end()
    _wait_until_settled(database)
    collector.end()
    return summarize(database, {_FAULTY: options.fault_after})


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


def _tell(summaries: list[NodeSummary], fault_after: float, console: Console) -> int:
    table = Table(title="From the database", title_justify="left")
    for name in ("node", "machine"):
        table.add_column(name)
    for name in ("windows produced", "stored", "flagged", "fault to first flag"):
        table.add_column(name, justify="right")
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
        )
    console.print(table)
    missing = [s.node for s in summaries if s.produced != s.stored]
    missing += sorted(_MACHINES.keys() - {s.node for s in summaries})
    if missing:
        print(f"earshot demo: windows are missing of {', '.join(missing)}", file=sys.stderr)
        return EXIT_FAILED
    console.print(f"Every one of {sum(s.stored for s in summaries)} produced windows is stored.")
    return 0


def _directory(keep: Path | None, stack: ExitStack) -> Path:
    if keep is not None:
        keep.mkdir(parents=True, exist_ok=True)
        return keep
    directory = Path(tempfile.mkdtemp(prefix="earshot-demo-"))
    stack.callback(shutil.rmtree, directory, ignore_errors=True)
    return directory


def _positive(text: str) -> float:
    seconds = float(text)
    if seconds <= 0:
        raise argparse.ArgumentTypeError(f"expected seconds above 0, got {text}")
    return seconds


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m demo", description=__doc__)
    parser.add_argument("--seconds", type=_positive, help="end by itself after so long")
    parser.add_argument(
        "--fault-after", type=float, default=20.0, metavar="SECONDS", help="default: 20"
    )
    parser.add_argument("--broker", choices=("mosquitto", "iotcore"), help="which broker to start")
    parser.add_argument("--model", type=Path, default=_MODEL, metavar="DIR", help="release folder")
    parser.add_argument(
        "--keep", type=Path, metavar="DIR", help="keep database and logs in this folder"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
