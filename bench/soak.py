"""A fleet of real programs under fault after fault, and then: is every window accounted for.

    python -m bench.soak --minutes 30 --seed 1 --nodes 4 --out soak.json

Nodes, mosquitto, a collector and an InfluxDB run as processes of their own, with links between
them that can be cut (`tests.rig.fault_rig`). A seed chooses which fault comes when
(`tests.rig.faults`); how the programs then meet it is not repeatable to the millisecond, which is
the point of a soak. At the end everything is healed, and what nodes have produced, counted outside
of them, is compared with what is stored (`tests.rig.accounting`).

Exit code 1 if a window is lost that may not be lost, stored twice, or not accounted for.
"""

import json
import random
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import msgspec

from bench.report import report_parser, write_report
from node.bench.measure import machine_facts
from tests.rig.accounting import Totals, UnbalancedError, totals
from tests.rig.fault_rig import Rig
from tests.rig.faults import inject

_LEAD_SECONDS = 5.0


class Soak(msgspec.Struct, frozen=True, kw_only=True):
    """One run."""

    machine: dict[str, Any]
    minutes: float
    seed: int
    nodes: int
    totals: Totals
    faults: dict[str, int]
    faults_injected: int
    settled_seconds: float
    """From the end of the last fault until nothing waited any more."""


def main() -> int:
    """Run it; the exit code."""
    parser = report_parser("soak", __doc__)
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--nodes", type=int, default=4)
    parser.add_argument("--keep", type=Path, metavar="DIR", help="logs stay in this new folder")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="earshot-soak-") as scratch:
        directory = options.keep or Path(scratch)
        try:
            found = soak(
                directory / "fleet",
                minutes=options.minutes,
                seed=options.seed,
                nodes=options.nodes,
            )
        except UnbalancedError as error:
            print(f"soak: {error}", file=sys.stderr)  # noqa: T201 - the command line's output
            return 1
    report = write_report(options.out, found)
    print(json.dumps(report["totals"] | {"faults": report["faults"]}, indent=1))  # noqa: T201
    return 0


def soak(directory: Path, *, minutes: float, seed: int, nodes: int) -> Soak:
    """Inject faults for so long, settle, and count.

    Raises:
        UnbalancedError: the ledger does not balance.
    """
    chance = random.Random(seed)
    began = time.monotonic()

    def say(text: str) -> None:
        print(f"{time.monotonic() - began:7.1f} s  {text}", flush=True)  # noqa: T201

    with Rig(directory, nodes=nodes, broker_extra="max_queued_messages 1000") as rig:
        rig.start()
        time.sleep(_LEAD_SECONDS)
        faults = inject(rig, chance, seconds=minutes * 60.0, say=say)
        healed = time.monotonic()
        rig.settle(seconds=300.0)
        settled_seconds = time.monotonic() - healed
        return Soak(
            machine=machine_facts(),
            minutes=minutes,
            seed=seed,
            nodes=nodes,
            totals=totals(rig),
            faults=dict(sorted(faults.items())),
            faults_injected=faults.total(),
            settled_seconds=round(settled_seconds, 1),
        )


if __name__ == "__main__":
    sys.exit(main())
