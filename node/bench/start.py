"""A process's first window: what `earshot node bench` starts to time and weigh a start.

    python -m node.bench.start RELEASE_DIR SOUND RATE_HZ REPEATS

It loads all that `earshot node run` loads for a microphone, takes one window of sound (raw
float32 in a file) to its flag, does so again, and says as one line of JSON when the first was done
and what memory all that took.
"""

import os

# As the node does, before NumPy is loaded.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")

import json
import sys
import time
from pathlib import Path

import numpy as np

# All that starting the program costs, used here or not.
import node.service
import node.settings
import node.sound.choose
import node.sound.microphone  # noqa: F401
from node.bench.memory import memory_of
from node.bench.window import WindowPath
from node.scoring.release_store import read_release
from node.scoring.runtime import LoadedModel, find_runtime


def main() -> None:
    """Score two windows, and print when the first was done and at what cost."""
    folder, recording, rate_hz, repeats = sys.argv[1:]
    release, runtime = read_release(Path(folder)), find_runtime()
    imported_ns = time.monotonic_ns()
    path = WindowPath(release, runtime)
    sound = np.fromfile(recording, np.float32)
    scored = path(sound, int(rate_hz))
    first_window_ns = time.monotonic_ns()
    for _ in range(int(repeats)):
        path(sound, int(rate_hz))
    said = {
        "imported_monotonic_ns": imported_ns,
        "first_window_monotonic_ns": first_window_ns,
        "flagged": scored.anomaly,
        "peak_rss_mib": memory_of().peak_rss_mib,
        "first_inference_ms": sum(
            _first_inference_ms(LoadedModel(release.content(model), runtime))
            for model in release.manifest.models
        ),
    }
    print(json.dumps(said))  # noqa: T201 - the answer


def _first_inference_ms(model: LoadedModel) -> float:
    """As the reference design counts it: zeros in, invoke, output out; nothing loaded meanwhile."""
    zeros = np.zeros(model.input_shape, np.float32)
    started = time.perf_counter()
    model(zeros)
    return (time.perf_counter() - started) * 1000


if __name__ == "__main__":
    main()
