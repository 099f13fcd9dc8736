"""`earshot node bench`: what a release costs on this computer, for comparing computers."""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from node.commands.node_arguments import EXAMPLE_MODEL

if TYPE_CHECKING:
    from node.bench.measure import Bench, Times

SUMMARY = "measure time, memory and disk on this computer"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options to the command's parser."""
    parser.add_argument(
        "--model",
        type=Path,
        default=EXAMPLE_MODEL,
        metavar="DIR",
        help="release folder (default: the example's)",
    )
    parser.add_argument(
        "--repeats", type=_count, default=500, metavar="N", help="windows to time (default 500)"
    )
    parser.add_argument(
        "--source-rate",
        type=_rate,
        default=44_100,
        metavar="HZ",
        help="rate of the sound that comes in (default 44100)",
    )
    parser.add_argument(
        "--source",
        metavar="SPEC",
        help="what the running node hears (default: a microphone, else a calculated fan)",
    )
    parser.add_argument(
        "--windows",
        type=_count,
        default=10,
        metavar="N",
        help="windows that a running node publishes before it is weighed (default 10)",
    )
    parser.add_argument(
        "--csv", type=Path, metavar="FILE", help="add a row of results to this table"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything, to send back")


def run(options: argparse.Namespace) -> int:
    """Measure this computer, print the figures, and write the files that were asked for."""
    from node.bench.measure import bench, row_of, write_report
    from node.bench.result_row import append_row, check_results_file
    from node.scoring.release_store import read_release

    manifest = read_release(options.model).manifest
    if options.csv is not None:
        check_results_file(options.csv)
    print(
        f"Measuring {manifest.label}; a minute or two. A microphone, if there is one, is heard"
        " meanwhile; nothing of it is kept.",
        file=sys.stderr,
    )
    found = bench(
        options.model,
        repeats=options.repeats,
        source_rate_hz=options.source_rate,
        source=options.source,
        windows=options.windows,
    )
    for line in _table(found):
        print(line)
    if options.csv is not None:
        append_row(options.csv, row_of(found, manifest))
    if options.json is not None:
        write_report(options.json, found)
    return 0


def _table(found: "Bench") -> list[str]:
    machine, running = found.machine, found.running
    heat = _heat(machine.temperature_before_c, machine.temperature_after_c)
    rows = [
        ("computer", f"{machine.device}, {machine.cores} cores, {machine.platform}"),
        ("python", f"{machine.python}, {machine.bits} bits"),
        ("processor", f"governor {machine.governor or 'not known'}, {heat}"),
        ("throttled", _throttled(machine.throttled_before, machine.throttled_after)),
        ("runtime", f"{found.runtime}, {found.threads} thread"),
        ("model", f"{found.model}, {found.model_bytes / 1e3:.1f} kB{_parameters(found)}"),
        (f"window of {found.source_rate_hz} Hz sound to flag", _times(found.window)),
        ("features alone", _times(found.features)),
        ("inference alone", _times(found.inference)),
        (
            "process start to first flag",
            f"{found.start.first_window_ms:.0f} ms, of which imports {found.start.imports_ms:.0f}",
        ),
        ("first inference of a loaded model", f"{found.start.first_inference_ms:.3f} ms"),
        (
            "process start to first published window",
            f"{running.first_window_ms:.0f} ms, waiting for sound included ({running.source})",
        ),
        ("peak memory of one scoring process", f"{found.start.peak_rss_mib:.1f} MiB"),
        (
            "peak memory of the running node",
            f"{running.memory.peak_rss_mib:.1f} MiB in {len(running.processes)} process(es)"
            f"{_pss(running.memory.pss_mib)}",
        ),
        ("installed packages", _installed(found)),
        ("figure of merit", _metric(found)),
    ]
    width = max(len(name) for name, _ in rows)
    return [f"{name:<{width}}  {value}" for name, value in rows]


def _times(of: "Times") -> str:
    return f"p50 {of.p50:.3f}  p95 {of.p95:.3f}  p99 {of.p99:.3f}  max {of.max:.3f} ms"


def _heat(before: float | None, after: float | None) -> str:
    if before is None or after is None:
        return "temperature not known"
    return f"{before:.0f} C before, {after:.0f} C after"


def _throttled(before: bool | None, after: bool | None) -> str:
    if before is None and after is None:
        return "not known"
    return "yes: the figures are those of a hot or starved board" if before or after else "no"


def _parameters(found: "Bench") -> str:
    return "" if found.parameters is None else f", {found.parameters} parameters"


def _pss(pss_mib: float | None) -> str:
    return "" if pss_mib is None else f"; {pss_mib:.1f} MiB with shared pages counted once (PSS)"


def _installed(found: "Bench") -> str:
    if found.installed is None:
        return "not known: earshot was not installed by pip"
    return (
        f"{found.installed.mb:.1f} MB ({found.installed.without_bytecode_mb:.1f} MB without"
        " compiled Python)"
    )


def _metric(found: "Bench") -> str:
    if found.metric_value is None:
        return "none beside the release"
    return f"{found.metric_name} {found.metric_value:.4f} (training's own test clips)"


def _count(text: str) -> int:
    return _between(text, 1, 1_000_000)


def _rate(text: str) -> int:
    return _between(text, 1000, 384_000)


def _between(text: str, low: int, high: int) -> int:
    if not text.isdecimal() or not low <= int(text) <= high:
        raise argparse.ArgumentTypeError(f"expected a number from {low} to {high}, got {text!r}")
    return int(text)
