"""The trial beside the running model: when a release passes, and everything that fails it."""

import time

import numpy as np
import pytest

from contract.features import Float32Array
from node.scoring.release_store import Release
from node.scoring.runtime import Runtime
from node.sound.source import Block
from node.updates.trial import Trial
from tests.rig import fake_inference as fake

RATE_HZ = 16_000
# A hop of 100 ms, windows of 200 ms: see fake_inference.
HOP = 1600
WINDOWS = 3


def tried(release: Release, runtime: Runtime = fake.RUNTIME, *, max_score: float = 100.0) -> Trial:
    return Trial(release, runtime, windows=WINDOWS, max_score=max_score, threads=1)


def block(samples: Float32Array) -> Block:
    return Block(samples=samples, captured_monotonic_ns=0)


def noise(windows: int) -> Float32Array:
    """Sound of so many windows."""
    length = fake.FEATURES.window_samples + (windows - 1) * HOP
    return np.random.default_rng(1).normal(0, 0.1, length).astype(np.float32)


def slow_runtime(seconds: float) -> Runtime:
    """A library whose models take so long."""

    class Slow(fake.Interpreter):
        def invoke(self) -> None:

            time.sleep(seconds)

    return Runtime("slow", "1.0", Slow)


def test_trial_is_over_after_its_windows_and_not_before() -> None:
    """Then its report has the median score, the flags, and the time that a window took."""
    trial = tried(fake.release(threshold=2.0, add=2.0))
    trial.hear(block(noise(WINDOWS - 1)), RATE_HZ)
    early, progress = trial.is_over, trial.progress
    trial = tried(fake.release(threshold=2.0, add=2.0))
    trial.hear(block(noise(WINDOWS)), RATE_HZ)
    report = trial.report

    assert not early
    assert progress == pytest.approx((WINDOWS - 1) / WINDOWS)
    assert (trial.is_over, trial.failure, trial.progress) == (True, None, 1.0)
    # It adds 2 to everything: an error of 4, twice the threshold.
    assert report.score == pytest.approx(2.0, rel=1e-4)
    assert (report.windows, report.flagged) == (WINDOWS, WINDOWS)
    assert report.latency_p95_ms is not None
    assert report.latency_p95_ms > 0


def test_flags_of_the_running_model_count_until_the_verdict() -> None:
    """So that both can be set beside each other."""
    trial = tried(fake.release(threshold=100.0, add=2.0))
    trial.running_has_flagged()
    trial.hear(block(noise(WINDOWS)), RATE_HZ)
    trial.running_has_flagged()

    assert (trial.report.flagged, trial.report.running_flagged) == (0, 1)


@pytest.mark.parametrize(("max_score", "passes"), [(2.1, True), (1.9, False)])
def test_release_that_does_not_know_the_sound_fails(max_score: float, passes: bool) -> None:
    """By its median score, which is 2 here."""
    trial = tried(fake.release(threshold=2.0, add=2.0), max_score=max_score)
    trial.hear(block(noise(WINDOWS)), RATE_HZ)

    assert trial.is_over
    assert (trial.failure is None) is passes
    assert passes or "does not know this sound: median score 2" in str(trial.failure)


def test_release_that_is_too_slow_fails() -> None:
    """It may take half of the time between two windows, 50 ms here."""
    trial = tried(fake.release(), slow_runtime(0.06))
    trial.hear(block(noise(WINDOWS)), RATE_HZ)

    assert trial.failure is not None
    assert "too slow beside the running model" in trial.failure
    assert "expected at most 50 ms" in trial.failure


def test_release_that_gives_no_number_fails_at_once() -> None:
    """One window is enough."""
    trial = tried(fake.release(answer=float("nan")))
    trial.hear(block(noise(1)), RATE_HZ)

    assert trial.is_over
    assert trial.failure == "gave no finite number for live sound"


@pytest.mark.parametrize("level", [0.0, np.nan])
def test_sound_that_cannot_be_scored_says_nothing_of_a_release(level: float) -> None:
    """A dead microphone, or broken samples: the trial waits for sound."""
    trial = tried(fake.release())
    trial.hear(block(np.full_like(noise(WINDOWS), level)), RATE_HZ)

    assert not trial.is_over
    assert trial.report.windows == 0


def test_error_of_the_new_model_never_reaches_the_ear(caplog: pytest.LogCaptureFixture) -> None:
    """Whatever it raises, the running model goes on hearing."""
    trial = tried(fake.release(), _failing_runtime())
    trial.hear(block(noise(WINDOWS)), RATE_HZ)

    assert trial.is_over
    assert trial.failure is not None
    assert "failed on live sound: RuntimeError('failed to invoke')" in trial.failure
    assert "the trial of fake@1 failed" in caplog.text


def _failing_runtime() -> Runtime:
    class Failing(fake.Interpreter):
        def invoke(self) -> None:
            raise RuntimeError("failed to invoke")

    return Runtime("failing", "1.0", Failing)


def test_windows_are_cut_on_after_the_verdict() -> None:
    """So that the ear can go on where the trial was, without a gap."""
    sound = noise(WINDOWS + 2)
    trial = tried(fake.release())
    trial.hear(block(sound[: -2 * HOP]), RATE_HZ)
    trial.hear(block(sound[-2 * HOP : -HOP]), RATE_HZ)
    (last,) = trial.framer.push(block(sound[-HOP:]), RATE_HZ)

    assert trial.report.windows == WINDOWS
    assert last.samples is not None
    np.testing.assert_array_equal(last.samples, sound[-fake.FEATURES.window_samples :])
