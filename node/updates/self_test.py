"""Whether a release works on this computer, found out in a process of its own.

    python -m node.updates.self_test FOLDER [--threads N]

A model that brings the library down, eats the memory or never ends must not take a node with it
that hears a machine. The child loads the release, scores the probe (`node.scoring.probe`), takes
the time of some windows, and says what it found in one line of JSON; it ends with 0 also when it
found something wrong, so that a crash is told apart. It gives way to everything else that runs.
"""

import argparse
import math
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import IO, TYPE_CHECKING

import msgspec

from contract.errors import EarshotError

if TYPE_CHECKING:
    from contract.features import Float32Array
    from contract.release import Manifest
    from node.scoring.scorer import Scorer

LATENCY_WINDOWS = 50

_CODE = Path(__file__).parents[2]
_NICE = 19
# Priorities count within a session alone where Linux groups by it (autogroup, on by default): the
# child stays in the node's.
_MEMORY_BYTES = 384 * 1024**2
"""Of data: a small model takes 60 MB with its library, and the unit gives a node 256 MB in all."""
_WARM_UP_WINDOWS = 3
_LATENCY_SECONDS = 20.0
"""A model that takes seconds for a window is too slow after a few of them."""
_POLL_SECONDS = 0.2
_MAX_REASON = 200
_MAX_LAST_LINE = 120
# What ends a program that is asked to end, with all its children: nothing about the release.
_ENDED_FROM_OUTSIDE = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


class Tested(msgspec.Struct, frozen=True, kw_only=True):
    """What a self-test has found."""

    passed: bool
    reason: str | None = None
    """Why it failed, in at most 200 characters; None if it passed."""
    statistic: float | None = None
    """The release's statistic of the probe; None where it gave none."""
    latency_p95_ms: float | None = None
    """Time for a window's features and models, by themselves; None where not measured."""
    interrupted: bool = False
    """Whether the test was ended before its time: that says nothing about the release."""


def self_test(
    folder: Path,
    *,
    threads: int,
    timeout_seconds: float = 60.0,
    max_latency_share: float = 0.5,
    stop: threading.Event | None = None,
) -> Tested:
    """Test a release in a child process, and wait for it.

    Args:
        folder: of the release.
        threads: that a model may use, as the node's settings say.
        timeout_seconds: after which a test that has not ended has failed.
        max_latency_share: how much of the distance between two windows scoring one may take.
        stop: set when the program ends; the test ends with it.
    """
    command = [sys.executable, "-m", __name__, str(folder.absolute())]
    command += ["--threads", str(threads), "--max-latency-share", repr(max_latency_share)]
    # The child ends by itself where this process is killed and nobody is left to end it.
    command += ["--seconds", str(math.ceil(timeout_seconds) + 5)]
    try:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=_environment(),
            # Not within reach of a Ctrl-C that is meant for the node.
            process_group=0,
        )
    except OSError as error:
        return _failed(f"the self-test cannot be started: {error.strerror}", interrupted=True)
    # From outside: its own start, with all that it imports, is half of its work.
    with suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, process.pid, _NICE)
    deadline = time.monotonic() + timeout_seconds
    with process:
        while True:
            try:
                output, errors = process.communicate(timeout=_POLL_SECONDS)
            except subprocess.TimeoutExpired:
                if stop is not None and stop.is_set():
                    process.kill()
                    return _failed("the program ended during the self-test", interrupted=True)
                if time.monotonic() > deadline:
                    process.kill()
                    # A busy computer, or a model that never ends: trying again costs little.
                    return _failed(
                        f"the self-test gave no result in {timeout_seconds:g} s", interrupted=True
                    )
                continue
            return _outcome(process.returncode, output, errors)


def _environment() -> dict[str, str]:
    """One thread each for libraries that would otherwise take all processors."""
    return {
        **os.environ,
        "OPENBLAS_NUM_THREADS": "1",
        "OMP_NUM_THREADS": "1",
        # Wherever the node was started from, this is the code that it runs.
        "PYTHONPATH": os.pathsep.join(filter(None, (str(_CODE), os.environ.get("PYTHONPATH")))),
    }


def _outcome(code: int, output: bytes, errors: bytes) -> Tested:
    if code in [-number for number in _ENDED_FROM_OUTSIDE]:
        return _failed("the program ended during the self-test", interrupted=True)
    if code:
        how = f"was killed by {_signal_name(-code)}" if code < 0 else f"ended with code {code}"
        return _failed(f"the self-test {how}{_last_line(errors)}")
    try:
        return msgspec.json.decode(output, type=Tested)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return _failed(f"the self-test gave no result{_last_line(errors)}")


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _last_line(errors: bytes) -> str:
    lines = errors[-4096:].decode("utf-8", "replace").strip().splitlines()
    if not lines:
        return ""
    return f": {''.join(c for c in lines[-1] if c.isprintable())[:_MAX_LAST_LINE]}"


def _failed(
    reason: str,
    *,
    statistic: float | None = None,
    latency_p95_ms: float | None = None,
    interrupted: bool = False,
) -> Tested:
    return Tested(
        passed=False,
        reason=reason[:_MAX_REASON],
        statistic=statistic,
        latency_p95_ms=latency_p95_ms,
        interrupted=interrupted,
    )


def main(arguments: list[str] | None = None) -> int:
    """Test one release, in the child process, and print what was found."""
    parser = argparse.ArgumentParser(prog="python -m node.updates.self_test")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--max-latency-share", type=float, default=0.5)
    parser.add_argument("--seconds", type=int, default=65)
    options = parser.parse_args(arguments)
    with _result_stream() as stream:
        _give_way(options.seconds)
        try:
            tested = _examine(options.folder, options.threads, options.max_latency_share)
        except EarshotError as error:
            tested = _failed(" ".join(str(error).split()))
        stream.write(msgspec.json.encode(tested) + b"\n")
    return 0


def _result_stream() -> IO[bytes]:
    """Standard output, for the result alone: whatever a library says goes to standard error."""
    stream = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    return stream


def _give_way(seconds: int) -> None:
    """Be the last to run and the first to go. What a sandbox does not allow is not needed."""
    signal.alarm(seconds)
    with suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, 0, _NICE)
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000")
    with suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_DATA, (_MEMORY_BYTES, _MEMORY_BYTES))
    with suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _examine(folder: Path, threads: int, max_latency_share: float) -> Tested:
    from node.scoring.probe import probe
    from node.scoring.release_store import read_release
    from node.scoring.runtime import find_runtime
    from node.scoring.scorer import Scorer

    release = read_release(folder)
    manifest = release.manifest
    scorer = Scorer(release, find_runtime(), threads=threads)
    window = probe(manifest.features)
    statistic = scorer.score(window).statistic
    if wrong := _wrong_statistic(manifest, statistic):
        return _failed(f"{manifest.label}: {wrong}", statistic=statistic)
    latency_ms = _latency_p95_ms(scorer, window)
    limit_ms = max_latency_share * manifest.hop_us / 1e3
    if latency_ms > limit_ms:
        return _failed(
            f"{manifest.label}: expected at most {limit_ms:.3g} ms for a window,"
            f" got {latency_ms:.3g} ms (p95)",
            statistic=statistic,
            latency_p95_ms=latency_ms,
        )
    return Tested(passed=True, statistic=statistic, latency_p95_ms=latency_ms)


def _wrong_statistic(manifest: "Manifest", statistic: float | None) -> str | None:
    if statistic is None:
        return "the probe sound gave no finite number"
    expected = manifest.self_test
    if expected is None:
        return None
    off = abs(statistic - expected.statistic) / expected.statistic
    if off <= expected.relative_tolerance:
        return None
    return (
        f"expected the statistic {expected.statistic:.6g} for the probe sound"
        f" (within {expected.relative_tolerance:.2%}), got {statistic:.6g}"
    )


def _latency_p95_ms(scorer: "Scorer", window: "Float32Array") -> float:
    """What a window takes, here and by itself.

    The processor's time counts where that is less than what the clock says: the node that hears the
    machine meanwhile comes first, and that is no fault of the release.
    """
    for _ in range(_WARM_UP_WINDOWS):
        scorer.score(window)
    taken: list[float] = []
    began = time.perf_counter()
    while len(taken) < LATENCY_WINDOWS and time.perf_counter() - began < _LATENCY_SECONDS:
        processor, clock = time.process_time(), time.perf_counter()
        scorer.score(window)
        taken.append(min(time.process_time() - processor, time.perf_counter() - clock) * 1e3)
    return sorted(taken)[math.ceil(0.95 * len(taken)) - 1]


if __name__ == "__main__":
    sys.exit(main())
