"""How often a release flags generated sound that it has not heard.

    python -m bench.flag_rates DIR --out flags.json

The takes have the seeds 0, 1, 2 ...; those of training data are drawn from 2**32, so that a common
one is as good as impossible. Windows are cut one second apart and scored by the node's own code, as
the demo does. Prints a Markdown table of the share of windows flagged.
"""

# ruff: noqa: T201 - it is a command, and prints its table

import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from bench.report import report_parser, write_report
from node.scoring.release_store import read_release
from node.scoring.runtime import find_runtime
from node.scoring.scorer import Scorer
from node.sound.synthetic import FAULTS, MachineSound, Synthesizer

_SEVERITIES = (0.5, 0.6, 1.0)


def main() -> None:
    """Read the arguments, score, print."""
    parser = report_parser("flag_rates", __doc__, required=False)
    parser.add_argument("release", type=Path)
    parser.add_argument("--machine", default="fan")
    parser.add_argument("--units", type=int, default=3)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--windows", type=int, default=60)
    options = parser.parse_args()
    scorer = Scorer(read_release(options.release), find_runtime())

    def takes(fault: str | None, severity: float, unit: int) -> Iterable[list[bool]]:
        for seed in range(options.seeds):
            sound = MachineSound(
                machine=options.machine, unit=unit, seed=seed, fault=fault, severity=severity
            )
            yield flags(scorer, sound, windows=options.windows)

    units = range(options.units)
    rows: list[dict[str, Any]] = []
    print(
        "| sound | severity | " + " | ".join(f"unit {unit}" for unit in units) + " | worst take |"
    )
    print("|---|---|" + "---|" * (len(units) + 1))
    for fault, severity in [(None, 0.0), *((f, s) for f in FAULTS for s in _SEVERITIES)]:
        found = [list(takes(fault, severity, unit)) for unit in units]
        shares = [float(np.mean(unit)) for unit in found]
        each_take = [float(np.mean(take)) for unit in found for take in unit]
        worst = max(each_take) if fault is None else min(each_take)
        cells = [fault or "healthy", f"{severity:g}" if fault else "-"]
        print("| " + " | ".join(cells + [f"{share:.2%}" for share in (*shares, worst)]) + " |")
        sys.stdout.flush()
        rows.append({"fault": fault, "severity": severity, "units": shares, "worst_take": worst})
    write_report(options.out, {"release": scorer.manifest.label, "shares_flagged": rows})


def flags(scorer: Scorer, sound: MachineSound, *, windows: int) -> list[bool]:
    """Whether each window of a sound is an anomaly."""
    rate_hz = scorer.manifest.features.sample_rate_hz
    length, hop = scorer.manifest.features.window_samples, scorer.manifest.window_hop_samples
    samples = Synthesizer(sound, sample_rate_hz=rate_hz).read((windows - 1) * hop + length)
    starts = range(0, windows * hop, hop)
    return [bool(scorer.score(samples[start : start + length]).anomaly) for start in starts]


if __name__ == "__main__":
    main()
