"""`make bench`: a node beside the reference design's own pipeline, on this machine, in one run.

Both get the same sound, in turn, each in a process of its own. Timings are noisy where processors
are shared: what is compared are ratios of medians. Goals that are missed are printed as missed;
nothing here decides whether a test passes.

The reference design's pipeline is `bench.reference_pipeline`, with the thread settings that it has
by default; ours is `bench.node_pipeline`. Its model is built when the bench starts, with the same
network and converted as the reference design does; --reference-tflite takes the true file instead.
"""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from bench.report import report_parser, write_report
from bench.served_calls import ServedProcess
from node.bench.installed import Installed, installed, installed_node
from node.bench.measure import (
    WARM_UP,
    RunningNode,
    Times,
    child_environment,
    library_versions,
    machine_facts,
    run_node,
    start_once,
    times,
)
from node.bench.window import machine_sound
from node.scoring.release_store import read_release
from tests.rig.pipe_microphone import pipe_microphone

ROOT = Path(__file__).parents[1]
MODEL = ROOT / "models" / "fan-synthetic"
SOURCE_RATE_HZ = 44_100
REFERENCE_PACKAGES = ("tensorflow", "librosa", "sounddevice")
"""Of the reference design's list of requirements; with matplotlib, for its window, it has more."""
TOLERANCE = 0.03
"""Of the two errors of one window with the same weights, as a share. The interpreters round 8-bit
products differently, and the two resamplers start and end a window differently."""
_SOUNDS = 8
_OUR_THREADS = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS")
_STATIC = ("dynamic", "int8", "float32")
_PEAK_MEMORY = """
import resource, subprocess, sys
done = subprocess.run(sys.argv[2:], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
if sys.argv[1] == "True":
    done.check_returncode()
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
"""


class Side(msgspec.Struct, frozen=True, kw_only=True):
    """What one of the two costs."""

    window: Times
    features: Times
    inference: Times
    """Of the reference network."""
    start_ms: float
    """From the start of the process to its first flag; median."""
    peak_rss_mib: float
    installed: Installed


class Goal(msgspec.Struct, frozen=True, kw_only=True):
    """One figure of both, and what it should be."""

    what: str
    unit: str
    ours: float
    reference: float
    ratio: float
    """The reference's over ours."""
    ratio_wanted: float
    most: float | None
    """What ours may be at most."""

    @property
    def met(self) -> bool:
        return self.ratio >= self.ratio_wanted and (self.most is None or self.ours <= self.most)


class Comparison(msgspec.Struct, frozen=True, kw_only=True):
    """One run of the bench."""

    machine: dict[str, Any]
    model: str
    runtime: str
    reference_model: str
    source_rate_hz: int
    ours: Side
    reference: Side
    same_network_ms: dict[str, Times]
    """The reference network with a batch of one, in our runtime, by its quantisation."""
    same_network_errors: tuple[tuple[float, float], ...]
    """Ours and the reference's of each sound, with the same weights; empty with a file given."""
    default_release_inference: Times
    running_node: RunningNode
    running_node_hears: str
    capture_with_plugins_mib: float
    """Peak of the capture program with the machine's own ALSA configuration: its plugins, if they
    are installed, bring a hundred libraries with them."""
    score_minute_of_44k1_s: float
    score_peak_rss_mib: float
    goals: tuple[Goal, ...]


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print, and write the JSON."""
    parser = report_parser("node", __doc__)
    parser.add_argument("--repeats", type=int, default=300)
    parser.add_argument("--warm-up", type=int, default=WARM_UP, help="calls before those")
    parser.add_argument("--starts", type=int, default=3, help="fresh processes of each")
    parser.add_argument("--windows", type=int, default=10, help="that the running node publishes")
    parser.add_argument("--reference-tflite", type=Path, metavar="FILE")
    options = parser.parse_args(arguments)
    found = compare(
        repeats=options.repeats,
        warm_up=options.warm_up,
        starts=options.starts,
        windows=options.windows,
        reference_tflite=options.reference_tflite,
    )
    for line in table(found):
        print(line)  # noqa: T201 - the command line's output
    met = [{"met": goal.met, **msgspec.to_builtins(goal)} for goal in found.goals]
    write_report(options.out, {**msgspec.to_builtins(found), "goals": met})


def compare(
    *, repeats: int, warm_up: int, starts: int, windows: int, reference_tflite: Path | None
) -> Comparison:
    """Measure both.

    Args:
        repeats: how often each call is timed.
        warm_up: calls before those that are timed.
        starts: how many fresh processes of each are timed.
        windows: how many the running node publishes before it is weighed.
        reference_tflite: the reference design's model; None builds one.
    """
    with ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        # In a process of its own, for TensorFlow's 500 MB and 5 s are not to be ours.
        subprocess.run(
            [sys.executable, "-m", "bench.reference_network", str(scratch)],
            cwd=ROOT,
            check=True,
            capture_output=True,
        )
        model = reference_tflite or scratch / "reference.tflite"
        sounds = machine_sound(read_release(MODEL), SOURCE_RATE_HZ, windows=_SOUNDS)
        recording = scratch / "sounds.f32"
        sounds.tofile(recording)
        calls, errors, runtime, reference_peak = _calls(
            scratch, model, recording, repeats=repeats, warm_up=warm_up
        )
        running, hears = _running(windows)
        # Last: what they read from the disk and compile once is in memory by now, for both.
        start_ours, start_theirs = _starts(model, recording, starts=starts)
        minute_seconds, minute_peak = _whole_process(scratch)
        listing = [sys.executable, "-m", "node.sound.capture", "--list"]
        capture_peak = _peak_mib(listing, check=False)
    node = installed_node()
    assert node is not None, "earshot is not installed here"
    ours = Side(
        window=calls["window"],
        features=calls["features"],
        inference=calls["static-dynamic"],
        start_ms=start_ours,
        peak_rss_mib=running.memory.peak_rss_mib,
        installed=node,
    )
    reference = Side(
        window=calls["their window"],
        features=calls["their features"],
        inference=calls["their inference"],
        start_ms=start_theirs,
        peak_rss_mib=reference_peak,
        installed=installed(REFERENCE_PACKAGES),
    )
    return Comparison(
        machine={
            **machine_facts(),
            "versions": library_versions(
                ("numpy", "ai-edge-litert", "soxr", "librosa", "tensorflow", "scipy", "numba")
            ),
        },
        model=read_release(MODEL).manifest.label,
        runtime=runtime,
        reference_model="the file given"
        if reference_tflite
        else "built with TensorFlow here: open batch, dynamic range",
        source_rate_hz=SOURCE_RATE_HZ,
        ours=ours,
        reference=reference,
        same_network_ms={name: calls[f"static-{name}"] for name in _STATIC},
        same_network_errors=() if reference_tflite else errors,
        default_release_inference=calls["inference"],
        running_node=running,
        running_node_hears=hears,
        capture_with_plugins_mib=capture_peak,
        score_minute_of_44k1_s=minute_seconds,
        score_peak_rss_mib=minute_peak,
        goals=tuple(goals_of(ours, reference)),
    )


def goals_of(ours: Side, reference: Side) -> list[Goal]:
    """Every figure that there is a goal for."""

    def goal(
        what: str,
        unit: str,
        values: tuple[float, float],
        *,
        ratio: float,
        most: float | None = None,
    ) -> Goal:
        found = values[1] / values[0]
        return Goal(
            what=what,
            unit=unit,
            ours=values[0],
            reference=values[1],
            ratio=round(found, 2),
            ratio_wanted=ratio,
            most=most,
        )

    def without_bytecode(side: Side) -> float:
        return side.installed.without_bytecode_mb

    return [
        goal("window to flag, p50", "ms", (ours.window.p50, reference.window.p50), ratio=5),
        goal("window to flag, p95", "ms", (ours.window.p95, reference.window.p95), ratio=5),
        goal(
            "inference alone, same network, p50",
            "ms",
            (ours.inference.p50, reference.inference.p50),
            ratio=25,
        ),
        goal(
            "peak memory (RSS), capture included",
            "MiB",
            (ours.peak_rss_mib, reference.peak_rss_mib),
            ratio=8,
            most=80,
        ),
        goal("process start to first flag", "ms", (ours.start_ms, reference.start_ms), ratio=10),
        goal(
            "installed, as pip leaves it",
            "MB",
            (ours.installed.mb, reference.installed.mb),
            ratio=12,
            most=130,
        ),
        goal(
            "installed, pip install --no-compile",
            "MB",
            (without_bytecode(ours), without_bytecode(reference)),
            ratio=12,
            most=130,
        ),
    ]


def table(found: Comparison) -> list[str]:
    """What was found, for reading."""
    lines = [
        f"{found.machine['device']}, {found.machine['cores']} cores; {found.model} in"
        f" {found.runtime}; reference model: {found.reference_model}",
        "",
        f"{'':<38}{'earshot':>10}{'reference':>12}{'ratio':>8}  goal",
    ]
    for goal in found.goals:
        most = "" if goal.most is None else f" and <= {goal.most:g} {goal.unit}"
        lines.append(
            f"{f'{goal.what} ({goal.unit})':<38}{goal.ours:>10.3f}{goal.reference:>12.3f}"
            f"{goal.ratio:>7.1f}x  >= {goal.ratio_wanted:g}x{most}:"
            f" {'met' if goal.met else 'MISSED'}"
        )
    features = found.reference.features.p50 / found.ours.features.p50
    lines += [
        "",
        f"features alone, p50: {found.ours.features.p50:.3f} ms, librosa"
        f" {found.reference.features.p50:.3f} ms ({features:.1f}x)",
        "reference network in our runtime, p50: "
        + ", ".join(f"{name} {of.p50:.3f} ms" for name, of in found.same_network_ms.items()),
        f"default release, inference alone: p50 {found.default_release_inference.p50:.3f} ms",
        f"running node: {found.running_node_hears};"
        f" {len(found.running_node.processes)} process(es) with peaks of "
        + " and ".join(f"{part.peak_rss_mib:.1f}" for part in found.running_node.processes)
        + f" MiB; {found.running_node.memory.pss_mib} MiB with shared pages counted once (PSS)",
        "capture program with this machine's own ALSA configuration and plugins:"
        f" {found.capture_with_plugins_mib:.1f} MiB",
        f"node score of a minute of 44.1 kHz sound: {found.score_minute_of_44k1_s:.2f} s,"
        f" {found.score_peak_rss_mib:.1f} MiB",
    ]
    if found.same_network_errors:
        worst = max(abs(a / b - 1) for a, b in found.same_network_errors)
        verdict = "within" if worst <= TOLERANCE else "BEYOND"
        lines.append(
            f"errors of the same windows with the same weights differ by at most {worst:.3%},"
            f" {verdict} {TOLERANCE:.0%}"
        )
    return lines


def _calls(
    networks: Path, model: Path, recording: Path, *, repeats: int, warm_up: int
) -> tuple[dict[str, Times], tuple[tuple[float, float], ...], str, float]:
    ours = ServedProcess(
        [*_ours("bench.node_pipeline"), str(networks), str(recording), str(SOURCE_RATE_HZ)],
        folder=ROOT,
        environment=child_environment(),
    )
    theirs = ServedProcess(
        [*_reference(model, recording), "20"], folder=ROOT, environment=_reference_environment()
    )
    taken: dict[str, list[float]] = {}
    with ours, theirs:
        for turn in range(warm_up + repeats):
            for name in ("window", "features", "inference", *(f"static-{n}" for n in _STATIC)):
                _note(taken, name, ours.call(name, turn % _SOUNDS)["ms"])
            for name in ("window", "features", "inference"):
                _note(taken, f"their {name}", theirs.call(name, turn % _SOUNDS)["ms"])
        errors = tuple(
            (
                float(ours.call("same", number)["value"]),
                float(theirs.call("window", number)["value"]),
            )
            for number in range(_SOUNDS)
        )
        runtime, peak = ours.greeting["runtime"], float(theirs.greeting["peak_rss_mib"])
    return {name: times(of[warm_up:]) for name, of in taken.items()}, errors, runtime, peak


def _note(taken: dict[str, list[float]], name: str, milliseconds: float) -> None:
    taken.setdefault(name, []).append(milliseconds)


def _starts(model: Path, recording: Path, *, starts: int) -> tuple[float, float]:
    """Median milliseconds from start to first flag, of us and of the reference, in turn."""
    window = recording.with_name("window.f32")
    samples = 2 * SOURCE_RATE_HZ
    np.fromfile(recording, np.float32)[:samples].tofile(window)
    taken = []
    for _ in range(starts):
        ours = start_once(
            _ours("node.bench.start"),
            [str(window), str(SOURCE_RATE_HZ), "0"],
        )
        theirs = start_once(_reference(model, window), ["0"], environment=_reference_environment())
        taken.append((ours["first_window_ms"], theirs["first_window_ms"]))
    first, second = np.median(taken, axis=0)
    return round(float(first), 1), round(float(second), 1)


def _running(windows: int) -> tuple[RunningNode, str]:
    """A node with its capture process, and what it hears."""
    with pipe_microphone() as microphone:
        if microphone is None:
            hears = "calculated sound, for there is no PortAudio: no capture process is counted"
            return run_node(MODEL, "synthetic:fan", windows=windows), hears
        environment = {**child_environment(), **microphone.environment}
        running = run_node(MODEL, microphone.source, windows=windows, environment=environment)
        hears = "a named pipe, through ALSA without plugins, PortAudio and the capture process"
        return running, hears


def _ours(program: str) -> list[str]:
    return [sys.executable, "-m", program, str(MODEL)]


def _reference(model: Path, recording: Path) -> list[str]:
    command = [sys.executable, "-m", "bench.reference_pipeline", str(model.absolute())]
    return [*command, str(recording), str(SOURCE_RATE_HZ)]


def _reference_environment() -> Mapping[str, str]:
    # It sets none of what we set for ourselves.
    kept = {name: value for name, value in os.environ.items() if name not in _OUR_THREADS}
    return {
        **kept,
        "PYTHONPATH": str(ROOT),
        # Its chatter would only have to be read.
        "TF_CPP_MIN_LOG_LEVEL": "3",
    }


def _whole_process(scratch: Path) -> tuple[float, float]:
    """`node score` of one minute of sound: seconds from process start to exit, and peak MiB."""
    import soundfile

    from node.sound.synthetic import MachineSound, Synthesizer

    recording = scratch / "minute.wav"
    sound = Synthesizer(MachineSound(), sample_rate_hz=SOURCE_RATE_HZ).read(60 * SOURCE_RATE_HZ)
    soundfile.write(recording, sound, SOURCE_RATE_HZ)
    command = [sys.executable, "-m", "node", "score", str(recording), "--model", str(MODEL)]
    started = time.perf_counter()
    peak = _peak_mib(command, check=True)
    seconds = time.perf_counter() - started
    return round(seconds, 3), peak


def _peak_mib(command: Sequence[str], *, check: bool) -> float:
    """Peak RSS of a program; `check` whether it must succeed."""
    measured = subprocess.run(
        [sys.executable, "-c", _PEAK_MEMORY, str(check), *command],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    )
    return round(int(measured.stdout) / 1024, 1)


if __name__ == "__main__":
    main()
