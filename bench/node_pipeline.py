"""A node's way from sound to flag, in a process of its own, as `bench.reference_pipeline` has one.

    python -m bench.node_pipeline RELEASE_DIR NETWORKS_DIR SOUNDS RATE_HZ

NETWORKS_DIR is what `bench.reference_network` leaves. Calls are `window N`, `features N` and
`inference N` with the release, `static-dynamic N` and so on for the reference network alone, and
`same N` for a whole window with it.
"""

import os

# As the node does, before NumPy is loaded.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")

import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from bench.served_calls import say, serve
from contract.features import FeatureExtractor, Float32Array
from node.bench.measure import infer
from node.bench.window import WindowPath, block_samples
from node.scoring.release_store import read_release
from node.scoring.runtime import find_runtime


def main() -> None:
    """Do as asked."""
    folder, networks, recording, rate_hz = sys.argv[1:]
    release, runtime, rate = read_release(Path(folder)), find_runtime(), int(rate_hz)
    sounds = np.fromfile(recording, np.float32).reshape(-1, block_samples(release, rate))
    path, extract = WindowPath(release, runtime), FeatureExtractor(release.manifest.features)
    heard = [path.resampled(sound, rate) for sound in sounds]
    calls: dict[str, Callable[[int], object]] = {
        "window": lambda number: path(sounds[number], rate).anomaly,
        "features": lambda number: extract(heard[number]),
        "inference": _on(infer(release, runtime), [extract(window) for window in heard]),
    }
    for found in sorted(Path(networks).glob("static-*/")):
        if found.is_dir():
            network = read_release(found)
            features = [FeatureExtractor(network.manifest.features)(window) for window in heard]
            calls[found.name] = _on(infer(network, runtime), features)
    same = WindowPath(read_release(Path(networks) / "static-dynamic"), runtime)
    calls["same"] = lambda number: same(sounds[number], rate).mse
    say(runtime=f"{runtime.name} {runtime.version}")
    serve(calls)


def _on(
    run: Callable[[Float32Array], None], features: Sequence[Float32Array]
) -> Callable[[int], object]:
    return lambda number: run(features[number])


if __name__ == "__main__":
    main()
