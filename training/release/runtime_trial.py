"""What one inference library makes of one release; what the models need there, and nothing else.

It also runs as a program, in an environment that has another library than this one:

    python -m training.release.runtime_trial FEATURES.npy OUT_DIR RELEASE_DIR...

and so imports no more than a node has.
"""

import json
import sys
import time
from pathlib import Path
from typing import Literal

import msgspec
import numpy as np
import numpy.typing as npt

from contract.errors import ReleaseError
from contract.features import Float32Array
from node.scoring.detector import Detector
from node.scoring.release_store import read_release
from node.scoring.runtime import find_runtime

Float64Array = npt.NDArray[np.float64]

_WARM_UP = 20


class LatencyMs(msgspec.Struct, frozen=True, kw_only=True):
    """Time from the features of a window to its statistic, one thread, in milliseconds."""

    p50: float
    p95: float
    windows: int


class RuntimeTrial(msgspec.Struct, frozen=True, kw_only=True):
    """What one inference library makes of one release."""

    runtime: str
    version: str | None
    outcome: Literal["ran", "refused", "skipped"]
    reason: str | None
    """Why the library refused it, or why it was not tried."""
    operators: tuple[str, ...]
    """The models' operators, as the library names them."""
    latency_ms: LatencyMs | None
    statistics: Float64Array | None
    """Shape (n,), one for each window."""


def main() -> None:
    """Read features, try each release, leave what came out."""
    given, taken, *folders = map(Path, sys.argv[1:])
    features = np.load(given, allow_pickle=False)
    taken.mkdir()
    for index, folder in enumerate(folders):
        _write(taken, index, try_release(folder, features))


def try_release(folder: Path, features: Float32Array) -> RuntimeTrial:
    """Run one release in the library of this process.

    Args:
        folder: the release's.
        features: of the windows to judge, shape (n, coefficients, frames), n >= 1.
    """
    runtime = find_runtime()
    try:
        detector = Detector(read_release(folder), runtime)
        of_windows = statistics(detector, features)
    except (ReleaseError, RuntimeError) as error:
        return RuntimeTrial(
            runtime=runtime.name,
            version=runtime.version,
            outcome="refused",
            reason=" ".join(str(error).split())[:300],
            operators=(),
            latency_ms=None,
            statistics=None,
        )
    return RuntimeTrial(
        runtime=runtime.name,
        version=runtime.version,
        outcome="ran",
        reason=None,
        operators=detector.operators,
        latency_ms=latency(detector, features),
        statistics=of_windows,
    )


def statistics(detector: Detector, features: Float32Array) -> Float64Array:
    """The statistic of each window; NaN or infinity where the models gave no number.

    Args:
        detector: a release, loaded.
        features: shape (n, coefficients, frames).

    Returns:
        float64 array of shape (n,).
    """
    return np.array([detector(window).statistic for window in features], np.float64)


def latency(detector: Detector, features: Float32Array, *, windows: int = 200) -> LatencyMs:
    """How long the models take, features not counted.

    Args:
        detector: a release, loaded.
        features: of at least one window, taken in turn.
        windows: how many to time.
    """
    taken = np.empty(_WARM_UP + windows)
    for index in range(len(taken)):
        window = features[index % len(features)]
        started = time.perf_counter()
        detector(window)
        taken[index] = time.perf_counter() - started
    p50, p95 = np.percentile(taken[_WARM_UP:] * 1e3, (50, 95))
    return LatencyMs(p50=round(float(p50), 4), p95=round(float(p95), 4), windows=windows)


def read_trial(folder: Path, index: int) -> RuntimeTrial:
    """What the program has left for the release of this index."""
    facts = json.loads((folder / f"{index}.json").read_text(encoding="utf-8"))
    trial = msgspec.convert({**facts, "statistics": None}, RuntimeTrial)
    numbers = folder / f"{index}.npy"
    if not numbers.exists():
        return trial
    return msgspec.structs.replace(trial, statistics=np.load(numbers, allow_pickle=False))


def _write(folder: Path, index: int, trial: RuntimeTrial) -> None:
    facts = {
        field: msgspec.to_builtins(getattr(trial, field))
        for field in RuntimeTrial.__struct_fields__
        if field != "statistics"
    }
    (folder / f"{index}.json").write_text(json.dumps(facts), encoding="utf-8")
    if trial.statistics is not None:
        np.save(folder / f"{index}.npy", trial.statistics)


if __name__ == "__main__":
    main()
