"""What a node writes to its card while the fleet is well, and while its link is cut.

    python -m bench.card_writes --minutes 10 --out card-writes.json

One node with the settings that it has by default (a window a second, calculated sound) beside
mosquitto and a collector. Counted is `write_bytes` of /proc/PID/io: what the process has made the
kernel owe to a disk. The state folder has to lie on one, and not in memory: --folder.
"""

import json
import tempfile
import time
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import msgspec

from bench.report import report_parser, write_report
from node.bench.measure import machine_facts
from tests.rig.brokers import Mosquitto
from tests.rig.fault_rig import Program
from tests.rig.link import Link
from tests.rig.programs import MODEL
from tests.rig.waiting import wait_until


class Written(msgspec.Struct, frozen=True, kw_only=True):
    """Of one stretch of time."""

    minutes: float
    written_bytes: int
    outbox_bytes: int
    """Size of the outbox's files at its end."""


class Found(msgspec.Struct, frozen=True, kw_only=True):
    """One run."""

    machine: dict[str, Any]
    connected: Written
    cut_off: Written
    delivered: Written
    """The minutes after that, in which all that was kept is delivered."""


def main() -> None:
    """Measure, print, and write the JSON."""
    parser = report_parser("card_writes", __doc__)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--folder", type=Path, help="on the disk to measure (default: temporary)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as scratch:
        found = measure(Path(scratch), minutes=options.minutes)
    report = write_report(options.out, found)
    print(json.dumps({k: v for k, v in report.items() if k != "machine"}, indent=1))  # noqa: T201


def measure(directory: Path, *, minutes: float) -> Found:
    """Three stretches of so many minutes."""
    with ExitStack() as stack:
        broker = stack.enter_context(Mosquitto(directory / "mosquitto"))
        link = stack.enter_context(Link(broker))
        collector = Program(
            directory,
            "collector",
            ("collector", "run"),
            {
                **_mqtt(broker),
                "EARSHOT_SQLITE_PATH": str(directory / "earshot.db"),
                "EARSHOT_COLLECTOR_STATE_FOLDER": str(directory / "collector-state"),
            },
        )
        node = Program(
            directory,
            "node",
            ("node", "run"),
            {
                **_mqtt(link),
                "EARSHOT_NODE_ID": "press-1",
                "EARSHOT_NODE_STATE_FOLDER": str(directory / "state"),
                "EARSHOT_MODEL_FOLDER": str(MODEL),
                "EARSHOT_SOURCE_SPEC": "synthetic:fan",
            },
        )
        for program in (collector, node):
            stack.callback(program.kill)
        collector.start()
        wait_until(lambda: "connected to the broker" in collector.log(), "a collector")
        node.start()
        wait_until(lambda: "connected" in node.log(), "a node")
        state = directory / "state" / "press-1"
        # What a start writes once is not what a card dies of.
        time.sleep(10.0)
        connected = _stretch(node, state, minutes)
        link.refuse()
        link.cut()
        cut_off = _stretch(node, state, minutes)
        link.resume()
        delivered = _stretch(node, state, minutes)
    return Found(machine=machine_facts(), connected=connected, cut_off=cut_off, delivered=delivered)


def _stretch(node: Program, state: Path, minutes: float) -> Written:
    before = _write_bytes(node.pid)
    time.sleep(minutes * 60.0)
    return Written(
        minutes=minutes,
        written_bytes=_write_bytes(node.pid) - before,
        outbox_bytes=sum(file.stat().st_size for file in state.glob("outbox.db*")),
    )


def _write_bytes(pid: int) -> int:
    facts = dict(line.split(": ") for line in Path(f"/proc/{pid}/io").read_text().splitlines())
    return int(facts["write_bytes"])


def _mqtt(broker: Mosquitto | Link) -> Mapping[str, str]:
    return {"EARSHOT_MQTT_HOST": broker.host, "EARSHOT_MQTT_PORT": str(broker.port)}


if __name__ == "__main__":
    main()
