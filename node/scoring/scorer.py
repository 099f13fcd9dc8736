"""One window of sound in, its reconstruction error, statistic and score out.

This is the only scoring code in earshot: the live node, `node score` and the training package's
evaluation all run it.
"""

import math
import time

import msgspec
import numpy as np

from contract.features import FeatureExtractor, Float32Array
from contract.states import Problem
from node.scoring.detector import Detector
from node.scoring.release_store import Release
from node.scoring.runtime import Runtime

# A digital zero has no level in dB; this is below the noise of any 24-bit converter.
SILENCE_DBFS = -144.0
# One step of a 16-bit converter below full scale.
_FULL_SCALE = 1.0 - 2.0**-15


class WindowFigures(msgspec.Struct, frozen=True, kw_only=True):
    """What is measured of one window, whatever limits are in force.

    Each field goes out in the message `Window` under the same name (see `node.window_message`); the
    defaults are the figures of a window that nobody heard.
    """

    mse: float | None = None
    """Mean squared residual of the release's first model; None if the window was not scored."""
    level_dbfs: float | None = None
    """RMS level; 0 is a full-scale square wave, `SILENCE_DBFS` the floor."""
    clipped: float = 0.0
    """Share of the samples that are at full scale, 0 to 1."""


class Scored(WindowFigures, frozen=True, kw_only=True):
    """What one window sounds like to a release, by the release's own threshold."""

    level_dbfs: float
    statistic: float | None
    """The number that the release decides on; None if the window was not scored."""
    score: float | None
    """`statistic / threshold`: above 1 is an anomaly."""
    anomaly: bool | None
    problem: Problem | None
    """Why there is no score; None if there is one."""
    seconds: float
    """How long the scoring took, in seconds."""


class Evidence(msgspec.Struct, frozen=True, eq=False):
    """What a score was made of, for whoever compares windows with each other."""

    features: Float32Array
    """Of the shape that the release's feature parameters give."""
    residuals: tuple[Float32Array, ...]
    """What each model left over, float32; see `Detector.residuals`."""
    errors: tuple[float, ...]
    """The mean squared residual of each model."""


class Scorer:
    """Scores windows of sound with one release.

    Args:
        release: whose features, model and threshold to use.
        runtime: inference library.
        threads: how many that may use.

    Raises:
        ReleaseError: the runtime cannot load the model, or its shapes are not the manifest's.
    """

    def __init__(self, release: Release, runtime: Runtime, *, threads: int = 1) -> None:
        manifest = release.manifest
        self.manifest = manifest
        self.detector = Detector(release, runtime, threads=threads)
        self.evidence: Evidence | None = None
        """Of the window that was scored last; None if that had a problem."""
        self._extract = FeatureExtractor(manifest.features)

    def score(self, window: Float32Array) -> Scored:
        """Score one window of sound.

        Args:
            window: float32 sound of shape `(window_samples,)` at the release's sample rate, full
                scale is -1 to 1.

        Raises:
            FeatureError: the window has another shape.
        """
        started = time.perf_counter()
        problem, judged = None, None
        self.evidence = None
        if not np.isfinite(window).all():
            problem = Problem.ERROR
            window = np.nan_to_num(window, nan=0.0, posinf=1.0, neginf=-1.0)
        elif not window.any():
            problem = Problem.MIC_SILENT
        else:
            features = self._extract(window)
            residuals = self.detector.residuals(features)
            judged = self.detector.judge(residuals)
            if math.isfinite(judged.mse) and math.isfinite(judged.statistic):
                self.evidence = Evidence(features, residuals, judged.errors)
            else:
                problem, judged = Problem.ERROR, None
        score = None if judged is None else judged.statistic / self.manifest.threshold.value
        return Scored(
            mse=None if judged is None else judged.mse,
            statistic=None if judged is None else judged.statistic,
            score=score,
            anomaly=None if score is None else score > 1.0,
            problem=problem,
            level_dbfs=level_dbfs(window),
            clipped=float(np.mean(np.abs(window) >= _FULL_SCALE)),
            seconds=time.perf_counter() - started,
        )


def level_dbfs(samples: Float32Array) -> float:
    """RMS level in dB re full scale, at least `SILENCE_DBFS`."""
    power = float(np.mean(np.square(samples, dtype=np.float64)))
    return max(SILENCE_DBFS, 10.0 * float(np.log10(power))) if power > 0 else SILENCE_DBFS
