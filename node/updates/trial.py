"""A new model beside the running one, on the same live sound, before it decides anything."""

import logging

import msgspec
import numpy as np

from contract.features import Float32Array
from contract.states import Problem
from node.scoring.release_store import Release
from node.scoring.runtime import Runtime
from node.scoring.scorer import Scorer
from node.sound.framing import framer_for
from node.sound.source import Block

logger = logging.getLogger(__name__)

# A model that takes longer than this share of the time between two windows leaves none for others.
MAX_LATENCY_SHARE = 0.5


class TrialReport(msgspec.Struct, frozen=True, kw_only=True):
    """How a trial stands."""

    windows: int = 0
    """Windows that the new model has scored."""
    flagged: int = 0
    """Windows among these that the new model flags by its release's threshold."""
    running_flagged: int = 0
    """Windows that the running model has flagged by the limits in force since the trial began."""
    score: float | None = None
    """Median score of the new model."""
    latency_p95_ms: float | None = None
    """Time that the new model takes for a window."""


class Trial:
    """Scores what the node hears with a release that does not decide yet.

    Args:
        release: to try.
        runtime: inference library.
        windows: how many it has to score.
        max_score: median score above which it does not know this sound.
        threads: how many the library may use.

    Raises:
        ReleaseError: the release does not run here.
    """

    def __init__(
        self, release: Release, runtime: Runtime, *, windows: int, max_score: float, threads: int
    ) -> None:
        self.scorer = Scorer(release, runtime, threads=threads)
        self.framer = framer_for(self.scorer.manifest)
        self.failure: str | None = None
        """Why the release must not be used; None while nothing speaks against it."""
        self._windows = windows
        self._max_score = max_score
        self._scores: list[float] = []
        self._seconds: list[float] = []
        self._flagged = 0
        self._running_flagged = 0

    @property
    def is_over(self) -> bool:
        """Whether the trial has come to a verdict."""
        return self.failure is not None or len(self._scores) >= self._windows

    @property
    def progress(self) -> float:
        """Share of the windows that have been scored, 0 to 1."""
        return min(1.0, len(self._scores) / self._windows)

    @property
    def report(self) -> TrialReport:
        """How the trial stands now."""
        if not self._scores:
            return TrialReport(running_flagged=self._running_flagged)
        return TrialReport(
            windows=len(self._scores),
            flagged=self._flagged,
            running_flagged=self._running_flagged,
            score=float(np.median(self._scores)),
            latency_p95_ms=float(np.percentile(self._seconds, 95)) * 1000,
        )

    def hear(self, block: Block, sample_rate_hz: int) -> None:
        """Score the windows that a block completes.

        After the verdict they are still cut, so that the framer can go on in the ear.
        """
        try:
            for framed in self.framer.push(block, sample_rate_hz):
                if framed.samples is not None and not self.is_over:
                    self._score(framed.samples)
        except Exception as error:
            # Whatever a new model does, the running one goes on hearing.
            logger.exception("the trial of %s failed", self.scorer.manifest.label)
            self.failure = f"failed on live sound: {error!r}"[:200]

    def running_has_flagged(self) -> None:
        """Count a window that the running model has flagged."""
        self._running_flagged += not self.is_over

    def _score(self, samples: Float32Array) -> None:
        if not np.isfinite(samples).all():
            return
        scored = self.scorer.score(samples)
        if scored.problem is Problem.ERROR:
            self.failure = "gave no finite number for live sound"
        elif scored.score is not None:
            self._scores.append(scored.score)
            self._seconds.append(scored.seconds)
            self._flagged += scored.anomaly is True
            if len(self._scores) >= self._windows:
                self._judge()

    def _judge(self) -> None:
        report = self.report
        assert report.score is not None
        assert report.latency_p95_ms is not None
        bound_ms = MAX_LATENCY_SHARE * self.scorer.manifest.hop_us / 1000
        if report.score > self._max_score:
            self.failure = (
                f"does not know this sound: median score {report.score:.3g} over"
                f" {report.windows} live windows, expected at most {self._max_score:g}"
            )
        elif report.latency_p95_ms > bound_ms:
            self.failure = (
                f"too slow beside the running model: p95 {report.latency_p95_ms:.0f} ms a window,"
                f" expected at most {bound_ms:.0f} ms"
            )
