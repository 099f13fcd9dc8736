"""What a release costs on this computer: time, memory and disk, as a running node pays for them.

Everything is measured on the node's own code; what is said of the computer names no host, no user,
no folder and no node.
"""

import json
import os
import platform
import signal
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal

import msgspec
import numpy as np

from contract import VERSION
from contract.errors import EarshotError
from contract.features import FeatureExtractor, Float32Array
from contract.release import Manifest
from contract.settings import ENVIRONMENT_PREFIX
from node.bench.broker import BenchBroker
from node.bench.installed import Installed, installed_node
from node.bench.memory import Memory, family, memory_of, total
from node.bench.result_row import checkout_hash, device_name, platform_name
from node.bench.window import WindowPath, machine_sound
from node.board import read_board
from node.scoring.release_store import Release, read_release
from node.scoring.runtime import LoadedModel, Runtime, find_runtime
from node.sound.errors import SourceError
from node.whole_file import write_whole

WARM_UP = 20
"""Calls before the first one that counts: caches, frequency of the processor, lazy loading."""
_SOUNDS = 8
"""Different windows, taken in turn, so that no branch is learnt by heart."""
_START_WINDOWS = 20
_STARTS = 3
_CHILD_SECONDS = 120.0
_POLL_SECONDS = 0.1
_END_SECONDS = 20.0
_ROOT = Path(__file__).parents[2]
_LIBRARIES = ("numpy", "ai-edge-litert", "tflite-runtime", "soxr", "msgspec", "paho-mqtt")
_METRICS_NAME = "metrics.json"


class BenchError(EarshotError):
    """Something that was to be measured does not run: the text says what it said."""


class Times(msgspec.Struct, frozen=True, kw_only=True):
    """How long calls took, in milliseconds."""

    p50: float
    p95: float
    p99: float
    max: float
    calls: int


class Start(msgspec.Struct, frozen=True, kw_only=True):
    """Fresh processes that load what a node loads and score one window; medians."""

    first_window_ms: float
    """From the start of the process to the flag of its first window, imports included."""
    imports_ms: float
    """How much of that was over before the models were loaded."""
    first_inference_ms: float
    """As the reference design counts it: one inference of a loaded model, imports left out."""
    peak_rss_mib: float
    """Of a process that hears no microphone and speaks to no broker."""
    processes: int


class RunningNode(msgspec.Struct, frozen=True, kw_only=True):
    """`earshot node run` as it is, with its capture process, against a broker in our process."""

    source: Literal["microphone", "no microphone"]
    memory: Memory
    """Of all its processes together; the peak is the sum of each one's own peak."""
    processes: tuple[Memory, ...]
    first_window_ms: float
    """From the start of the process to the first published window: waiting for sound included."""
    windows: int


class Machine(msgspec.Struct, frozen=True, kw_only=True):
    """The computer, and how it was while it measured."""

    device: str
    platform: str
    bits: int
    """Of the Python interpreter; a 64-bit kernel may run a 32-bit system."""
    cores: int
    memory_mib: float | None
    governor: str | None
    """The governor that decides on the processor's frequency."""
    frequency_mhz: float | None
    """The highest frequency that the processor may have."""
    temperature_before_c: float | None
    temperature_after_c: float | None
    throttled_before: bool | None
    throttled_after: bool | None
    python: str
    versions: dict[str, str]


class Bench(msgspec.Struct, frozen=True, kw_only=True):
    """What one run of the bench has measured."""

    schema: Literal[1] = 1
    timestamp: str
    software: str
    git_hash: str | None
    machine: Machine
    runtime: str
    threads: int
    model: str
    model_bytes: int
    parameters: int | None
    source_rate_hz: int
    window: Times
    """A block of sound at the source's rate to its flag: resampled, features, models, decision."""
    features: Times
    inference: Times
    """set_tensor, invoke and get_tensor of all models, as the reference design's latency."""
    start: Start
    running: RunningNode
    installed: Installed | None
    metric_name: str | None
    metric_value: float | None


def bench(
    folder: Path,
    *,
    repeats: int,
    source_rate_hz: int,
    source: str | None,
    windows: int,
    threads: int = 1,
) -> Bench:
    """Measure everything that the bench knows of.

    Args:
        folder: the release's.
        repeats: how many calls to time.
        source_rate_hz: of the sound that comes in.
        source: what the running node hears, as in settings; None chooses.
        windows: how many the running node is to publish before it is weighed.
        threads: how many the inference library may use.

    Raises:
        ReleaseError: the release does not run here.
        BenchError: a process that was to be measured failed.
    """
    release, runtime = read_release(folder), find_runtime()
    before = read_board()
    window, features, inference = _calls(
        release, runtime, repeats=repeats, source_rate_hz=source_rate_hz, threads=threads
    )
    start = measure_start(folder, source_rate_hz=source_rate_hz)
    running = run_node(folder, source or microphone_or_calculated(), windows=windows)
    manifest = release.manifest
    counts = [model.parameters for model in manifest.models]
    known = [count for count in counts if count is not None]
    metric_name, metric_value = read_metric(folder)
    after = read_board()
    return Bench(
        timestamp=datetime.now(UTC).isoformat(timespec="seconds"),
        software=f"earshot {VERSION}",
        git_hash=checkout_hash(Path(__file__).parent),
        machine=Machine(
            temperature_before_c=before.cpu_temperature_c,
            temperature_after_c=after.cpu_temperature_c,
            throttled_before=before.throttled,
            throttled_after=after.throttled,
            **machine_facts(),
        ),
        runtime=f"{runtime.name} {runtime.version}",
        threads=threads,
        model=manifest.label,
        model_bytes=manifest.models_bytes,
        parameters=sum(known) if len(known) == len(counts) else None,
        source_rate_hz=source_rate_hz,
        window=window,
        features=features,
        inference=inference,
        start=start,
        running=running,
        installed=installed_node(),
        metric_name=metric_name,
        metric_value=metric_value,
    )


def row_of(found: Bench, manifest: Manifest) -> dict[str, str]:
    """The reference design's row; what it has and nobody measured here stays empty."""
    known = found.metric_value is not None
    memory = found.running.memory
    return {
        "timestamp": found.timestamp,
        "git_hash": found.git_hash or "",
        "platform": found.machine.platform,
        "device": found.machine.device,
        # Neither library is given anything but the processor.
        "cpu/npu/gpu": "cpu",
        "dataset": manifest.training.data,
        "split": "test" if known else "",
        "seed": "" if manifest.training.seed is None else str(manifest.training.seed),
        "model_name": found.model,
        "bundle_size_mb": "" if found.installed is None else f"{found.installed.mb:.1f}",
        "model_size_kb": f"{found.model_bytes / 1e3:.3f}",
        "params_millions": "" if found.parameters is None else f"{found.parameters / 1e6:.6f}",
        "latency_ms_p50": f"{found.inference.p50:.4f}",
        "latency_ms_p95": f"{found.inference.p95:.4f}",
        "ttfi_ms": f"{found.start.first_window_ms:.2f}",
        "peak_ram_mb": f"{memory.peak_rss_mib:.2f}",
        "metric_name": found.metric_name or "",
        "metric_value": f"{found.metric_value:.6f}" if found.metric_value is not None else "",
        "notes": "; ".join(
            (
                "latency: set_tensor, invoke, get_tensor",
                "ttfi: process start to first flag, imports included"
                f" ({found.start.first_inference_ms:.3f} ms counted as the reference does)",
                f"peak RAM in MiB: node and capture processes, {found.running.source}",
                f"window of {found.source_rate_hz} Hz sound to flag: p50 {found.window.p50:.3f},"
                f" p95 {found.window.p95:.3f} ms",
                found.runtime,
                found.software,
            )
        ),
    }


def write_report(path: Path, found: Bench) -> None:
    """Write everything that was found as JSON, whole or not at all.

    Raises:
        BenchError: it cannot be written.
    """
    content = msgspec.json.format(msgspec.json.encode(found), indent=1) + b"\n"
    try:
        write_whole(path, content)
    except OSError as error:
        raise BenchError(f"{path}: cannot be written: {error.strerror}") from error


def in_turn(repeats: int, *calls: Callable[[int], object]) -> list[Times]:
    """Time calls, taken in turn, so that whatever else the computer does hits them all alike.

    Args:
        repeats: how often each is timed, `WARM_UP` calls apart.
        calls: each is given the number of its turn.
    """
    taken_ms = np.empty((len(calls), WARM_UP + repeats))
    for turn in range(WARM_UP + repeats):
        for number, call in enumerate(calls):
            started = time.perf_counter()
            call(turn)
            taken_ms[number, turn] = (time.perf_counter() - started) * 1000
    return [times(of_call[WARM_UP:]) for of_call in taken_ms]


def times(taken_ms: Sequence[float] | np.typing.NDArray[np.float64]) -> Times:
    """The percentiles of how long calls took."""
    p50, p95, p99, largest = np.percentile(taken_ms, (50, 95, 99, 100))
    return Times(
        p50=round(float(p50), 4),
        p95=round(float(p95), 4),
        p99=round(float(p99), 4),
        max=round(float(largest), 4),
        calls=len(taken_ms),
    )


def measure_start(folder: Path, *, source_rate_hz: int, starts: int = _STARTS) -> Start:
    """Start fresh processes one after another; the files that they need are in memory by then.

    Raises:
        BenchError: one of them failed.
    """
    sound = machine_sound(read_release(folder), source_rate_hz, windows=1)[0]
    with tempfile.TemporaryDirectory() as scratch:
        recording = Path(scratch) / "window.f32"
        sound.tofile(recording)
        # The first one compiles and reads what the others find in memory.
        found = [
            start_once(
                [sys.executable, "-m", "node.bench.start", str(folder.absolute())],
                [str(recording), str(source_rate_hz), str(_START_WINDOWS)],
            )
            for _ in range(1 + starts)
        ][1:]

    def median(name: str) -> float:
        return round(float(np.median([start[name] for start in found])), 3)

    return Start(
        first_window_ms=median("first_window_ms"),
        imports_ms=median("imports_ms"),
        first_inference_ms=median("first_inference_ms"),
        peak_rss_mib=median("peak_rss_mib"),
        processes=starts,
    )


def start_once(
    program: Sequence[str],
    arguments: Sequence[str],
    *,
    environment: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Run a program that says when its first window was done, and time it from its start.

    Its last line is JSON; what ends in `_monotonic_ns` there becomes milliseconds since the start.

    Raises:
        BenchError: it failed.
    """
    # CLOCK_MONOTONIC is one for all processes: nothing waits for a pipe.
    started_ns = time.monotonic_ns()
    try:
        done = subprocess.run(
            [*program, *arguments],
            env=environment or child_environment(),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_CHILD_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise BenchError(
            f"Expected a first window within {_CHILD_SECONDS:g} s, got none"
        ) from error
    if done.returncode:
        said = (done.stderr.strip().splitlines() or ["nothing"])[-1]
        raise BenchError(f"a fresh process ended with status {done.returncode}: {said[:300]}")
    facts: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    since = {
        name.replace("_monotonic_ns", "_ms").replace("imported", "imports"): (at - started_ns) / 1e6
        for name, at in facts.items()
        if name.endswith("_monotonic_ns")
    }
    return {**facts, **since}


def microphone_or_calculated() -> str:
    """The source that a node here would hear: its default microphone, or a calculated fan."""
    from node.sound.microphone import list_microphones

    with suppress(SourceError):
        microphones = list_microphones()
        for microphone in [m for m in microphones if m.is_default] or microphones:
            return f"microphone:{microphone.key}"
    return "synthetic:fan"


def run_node(
    folder: Path, source: str, *, windows: int, environment: Mapping[str, str] | None = None
) -> RunningNode:
    """Run a node as a service would, until it has published so many windows, and weigh it.

    Args:
        folder: the release's.
        source: as in settings.
        windows: how many to wait for.
        environment: of the process, settings apart.

    Raises:
        BenchError: it ended before.
    """
    with ExitStack() as stack:
        scratch = stack.enter_context(tempfile.TemporaryDirectory())
        errors = stack.enter_context(tempfile.TemporaryFile())
        broker = stack.enter_context(BenchBroker())
        settings = {
            "NODE_ID": "bench",
            "NODE_STATE_FOLDER": scratch,
            "MODEL_FOLDER": str(folder.absolute()),
            "SOURCE_SPEC": source,
            "MQTT_HOST": "127.0.0.1",
            "MQTT_PORT": str(broker.port),
            "OUTBOX_DRAIN_SECONDS": "0.5",
            # The bench's broker sends no receipts, and its clock may be anything.
            "OUTBOX_RECEIPTS": "broker",
            "CLOCK_WAIT_SECONDS": "0",
        }
        prefixed = {ENVIRONMENT_PREFIX + name: value for name, value in settings.items()}
        started_ns = time.monotonic_ns()
        process = subprocess.Popen(
            [sys.executable, "-m", "node", "run", "--config", os.devnull],
            cwd=scratch,
            env={**(environment or child_environment()), **prefixed},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=errors,
        )
        stack.callback(_end, process)
        deadline = time.monotonic() + _CHILD_SECONDS
        while broker.windows < windows and time.monotonic() < deadline:
            if process.poll() is not None:
                break
            time.sleep(_POLL_SECONDS)
        if broker.windows < windows:
            errors.seek(0)
            said = errors.read().decode(errors="replace").strip().splitlines() or ["nothing"]
            raise BenchError(
                f"Expected {windows} windows of a running node, got {broker.windows};"
                f" it said last: {said[-1][:300]}"
            )
        parts = _weighed(process.pid)
        assert broker.first_window_monotonic_ns is not None
        return RunningNode(
            source="microphone" if source.startswith("microphone:") else "no microphone",
            memory=total(parts),
            processes=parts,
            first_window_ms=round((broker.first_window_monotonic_ns - started_ns) / 1e6, 1),
            windows=broker.windows,
        )


def child_environment() -> dict[str, str]:
    """Ours, with this very code to import and without settings of a node that may live here."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(ENVIRONMENT_PREFIX)}
    search = [str(_ROOT), *filter(None, [kept.get("PYTHONPATH")])]
    return {**kept, "PYTHONPATH": os.pathsep.join(search)}


def machine_facts() -> dict[str, Any]:
    """The fields of `Machine` that do not change while something is measured."""
    frequency = _number(Path("/sys/devices/system/cpu/cpu0/cpufreq/cpuinfo_max_freq"))
    memory = None
    with suppress(OSError, ValueError):
        memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / (1 << 20)
    return {
        "device": device_name(),
        "platform": platform_name(),
        "bits": struct.calcsize("P") * 8,
        "cores": os.cpu_count() or 1,
        "memory_mib": None if memory is None else round(memory),
        "governor": _text(Path("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")),
        "frequency_mhz": None if frequency is None else frequency / 1000,
        "python": platform.python_version(),
        "versions": library_versions(_LIBRARIES),
    }


def library_versions(names: Sequence[str]) -> dict[str, str]:
    """The versions of the libraries that are installed."""
    found = {}
    for name in names:
        with suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


def read_metric(folder: Path) -> tuple[str | None, float | None]:
    """The figure of merit that training left beside the release, by its name; None without one."""
    try:
        metrics = json.loads((folder / _METRICS_NAME).read_text("utf-8"))
        value = metrics["overall"]["auc"]
    except (OSError, ValueError, LookupError, TypeError):
        return None, None
    return ("auc", float(value)) if isinstance(value, int | float) else (None, None)


def infer(
    release: Release, runtime: Runtime, *, threads: int = 1
) -> Callable[[Float32Array], None]:
    """A call that sets the input of each of a release's models, runs it, and gets its output."""
    models = [
        LoadedModel(release.content(model), runtime, threads=threads)
        for model in release.manifest.models
    ]

    def run(features: Float32Array) -> None:
        for model in models:
            model(features)

    return run


def _calls(
    release: Release, runtime: Runtime, *, repeats: int, source_rate_hz: int, threads: int
) -> list[Times]:
    sounds = machine_sound(release, source_rate_hz, windows=_SOUNDS)
    path = WindowPath(release, runtime, threads=threads)
    extract = FeatureExtractor(release.manifest.features)
    run = infer(release, runtime, threads=threads)
    heard = [path.resampled(sound, source_rate_hz) for sound in sounds]
    features = [extract(window) for window in heard]
    return in_turn(
        repeats,
        lambda turn: path(sounds[turn % _SOUNDS], source_rate_hz),
        lambda turn: extract(heard[turn % _SOUNDS]),
        lambda turn: run(features[turn % _SOUNDS]),
    )


def _weighed(process: int) -> tuple[Memory, ...]:
    parts = []
    for member in family(process):
        # A process may end between being listed and being weighed.
        with suppress(ProcessLookupError):
            parts.append(memory_of(member))
    return tuple(parts)


def _end(process: subprocess.Popen[bytes]) -> None:
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(_END_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _number(path: Path) -> float | None:
    try:
        return float(path.read_text())
    except (OSError, ValueError):
        return None


def _text(path: Path) -> str | None:
    with suppress(OSError):
        return path.read_text(errors="replace").strip()[:100] or None
    return None
