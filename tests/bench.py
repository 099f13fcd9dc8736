"""`make bench`: what a window costs on this machine, as JSON with the machine's facts.

Timings are noisy where processors are shared: compare the ratios, which are taken in turn in one
run, and quote medians. Nothing here decides whether a test passes.
"""

import os

# As the node does, before NumPy is loaded.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")

import argparse
import json
import platform
import subprocess
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import librosa
import numpy as np

from contract.features import FeatureExtractor
from node.board import board_name
from node.detector import Detector
from node.release_store import read_release
from node.runtime import find_runtime
from node.scorer import Scorer
from node.synthetic import MachineSound, Synthesizer

_ROOT = Path(__file__).parents[1]
_MODEL = _ROOT / "models" / "fan-synthetic"
_WARM_UP = 20
_PEAK_MEMORY = """
import resource, subprocess, sys
subprocess.run(sys.argv[1:], check=True, stdout=subprocess.DEVNULL)
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
"""


def main() -> None:
    """Measure, print, and write the JSON."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, metavar="FILE")
    parser.add_argument("--repeats", type=int, default=300)
    options = parser.parse_args()
    report = {"machine": _machine(), **_window_costs(options.repeats), **_whole_process()}
    text = json.dumps(report, indent=1)
    print(text)  # noqa: T201 - the command line's output
    options.out.write_text(text + "\n")


def _machine() -> dict[str, Any]:
    runtime = find_runtime()
    processors = [
        line.split(":", 1)[1].strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if line.startswith("model name")
    ]
    return {
        "board": board_name(),
        "processor": processors[0] if processors else platform.machine(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "numpy": np.__version__,
        "librosa": version("librosa"),
        "runtime": f"{runtime.name} {runtime.version}",
    }


def _window_costs(repeats: int) -> dict[str, Any]:
    release = read_release(_MODEL)
    params = release.manifest.features
    window = Synthesizer(MachineSound(), sample_rate_hz=params.sample_rate_hz).read(
        params.window_samples
    )
    extract = FeatureExtractor(params)
    features = extract(window)
    detector = Detector(release, find_runtime())
    scorer = Scorer(release, find_runtime())
    ours, theirs, inference, whole = _in_turn(
        repeats,
        lambda: extract(window),
        lambda: librosa.feature.mfcc(
            y=window,
            sr=params.sample_rate_hz,
            n_mfcc=params.n_mfcc,
            n_fft=params.n_fft,
            hop_length=params.frame_hop_samples,
        ),
        lambda: detector(features),
        lambda: scorer.score(window),
    )
    return {
        "model": release.manifest.label,
        "features_ms": ours,
        "features_librosa_ms": theirs,
        "features_librosa_over_ours": round(theirs["p50"] / ours["p50"], 2),
        "inference_ms": inference,
        "window_to_score_ms": whole,
    }


def _in_turn(repeats: int, *calls: Callable[[], object]) -> list[dict[str, float]]:
    """p50 and p95 of each call in milliseconds, the calls taken in turn."""
    taken_ms = np.empty((len(calls), _WARM_UP + repeats))
    for repeat in range(_WARM_UP + repeats):
        for number, call in enumerate(calls):
            started = time.perf_counter()
            call()
            taken_ms[number, repeat] = (time.perf_counter() - started) * 1000
    percentiles = np.percentile(taken_ms[:, _WARM_UP:], (50, 95), axis=1)
    return [
        {"p50": round(float(p50), 3), "p95": round(float(p95), 3)}
        for p50, p95 in zip(*percentiles, strict=True)
    ]


def _whole_process() -> dict[str, Any]:
    """`node score` of one minute of sound, from process start to exit."""
    import tempfile

    import soundfile

    with tempfile.TemporaryDirectory() as folder:
        recording = Path(folder) / "minute.wav"
        rate_hz = 44_100
        sound = Synthesizer(MachineSound(), sample_rate_hz=rate_hz).read(60 * rate_hz)
        soundfile.write(recording, sound, rate_hz)
        command = [sys.executable, "-m", "node", "score", str(recording), "--model", str(_MODEL)]
        started = time.perf_counter()
        measured = subprocess.run(
            [sys.executable, "-c", _PEAK_MEMORY, *command],
            cwd=_ROOT,
            check=True,
            capture_output=True,
            text=True,
        )
        seconds = time.perf_counter() - started
    return {
        "score_minute_of_44k1_s": round(seconds, 3),
        "score_peak_rss_mb": round(int(measured.stdout) / 1024, 1),
    }


if __name__ == "__main__":
    main()
