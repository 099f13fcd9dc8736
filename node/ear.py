"""From a source of sound to judged windows: every window of the hop grid comes out once.

    source -> microphone health
           -> framer -> scorer -> machine watch

A window that nobody could hear, or that a sick microphone has heard, comes out as well, without a
score and with its problem.
"""

import time
from collections.abc import Callable, Iterator
from typing import Protocol

import msgspec

from contract.states import MachineState, MicrophoneState, Problem
from node.machine.machine_watch import Judgement, MachineWatch
from node.scoring.scorer import Evidence, Scorer, WindowFigures
from node.sound.framing import FramedWindow, Framer, framer_for
from node.sound.microphone_health import MicrophoneHealth
from node.sound.source import AudioSource, Block


class JudgedWindow(msgspec.Struct, frozen=True, kw_only=True, eq=False):
    """One window and what was made of it."""

    start_monotonic_ns: int
    figures: WindowFigures
    """As measured; those of a model are None while the sound is not to be believed."""
    judgement: Judgement
    """By the limits in force; its state is unknown while the microphone is not ok."""
    threshold: float
    """The threshold that it was judged by."""
    problem: Problem | None
    microphone: MicrophoneState
    evidence: Evidence | None
    latency_ms: float | None
    """From its last sample being there to its judgement."""


class Beside(Protocol):
    """Somebody who hears what the ear hears."""

    def hear(self, block: Block, sample_rate_hz: int) -> None:
        """Take in a block; must not raise."""


class Ear:
    """Hears one source with one release.

    Args:
        source: open while it is heard.
        scorer: of the release.
        watch: judges what is scored.
        now_ns: the clock of the blocks' time stamps.
    """

    def __init__(
        self,
        source: AudioSource,
        scorer: Scorer,
        watch: MachineWatch,
        *,
        now_ns: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        self.source = source
        self.watch = watch
        self.microphone = MicrophoneHealth()
        self.scorer = scorer
        self._now_ns = now_ns
        self._framer = framer_for(scorer.manifest)
        self.beside: Beside | None = None
        """Somebody who hears the same sound; None if nobody does."""
        self._last_start_ns: int | None = None
        self._after_ns: int | None = None
        """Until it is passed, windows of a new framer are none: their sound has been judged."""

    def switch(self, scorer: Scorer, watch: MachineWatch, framer: Framer) -> None:
        """Score with another release from the next window on.

        The windows stay on their grid where both releases cut them alike. Else the new framer goes
        on from the first start after the last window's: without a gap if it has heard the same
        sound, as in a trial; otherwise its first window takes its own length to come.

        Args:
            scorer: of the other release.
            watch: of the machine, by its limits.
            framer: cuts the sound as it wants it.
        """
        if _grid(scorer) != _grid(self.scorer):
            self._framer = framer
            self._after_ns = self._last_start_ns
        self.scorer, self.watch = scorer, watch

    def hear(self, timeout_seconds: float) -> Iterator[JudgedWindow]:
        """The windows that the next block completes, or that an outage has swallowed by now.

        Raises:
            SourceError: the sound cannot be had, and will not come back.
            EndOfSound: there is no more; `finish` gives what is left.
        """
        block = self.source.read(timeout_seconds)
        if block is None:
            outage = self.source.outage
            if outage is not None:
                self.microphone.gone(outage)
                for framed in filter(self._is_new, self._framer.skip_until(self._now_ns())):
                    yield self._unheard(framed, Problem.MIC_GONE)
            return
        heard_at = time.monotonic()
        gone = self.microphone.state is MicrophoneState.GONE
        missed = Problem.MIC_GONE if gone else Problem.OVERRUN
        self.microphone.hear(block.samples, self.source.sample_rate_hz, clipped=block.clipped)
        for framed in filter(self._is_new, self._framer.push(block, self.source.sample_rate_hz)):
            yield self._judged(framed, missed, heard_at)
        if self.beside is not None:
            self.beside.hear(block, self.source.sample_rate_hz)

    def finish(self) -> Iterator[JudgedWindow]:
        """The windows that are still held back when the sound has ended."""
        heard_at = time.monotonic()
        for framed in filter(self._is_new, self._framer.finish()):
            yield self._judged(framed, Problem.OVERRUN, heard_at)

    def _is_new(self, framed: FramedWindow) -> bool:
        """Whether it begins after the last window that another framer has cut."""
        start_ns = framed.start_monotonic_ns
        if self._after_ns is not None and start_ns <= self._after_ns:
            return False
        self._after_ns, self._last_start_ns = None, start_ns
        return True

    def _judged(self, framed: FramedWindow, missed: Problem, heard_at: float) -> JudgedWindow:
        if framed.samples is None:
            return self._unheard(framed, missed)
        scored = self.scorer.score(framed.samples)
        problem = scored.problem or self.microphone.problem
        evidence = None if problem is not None else self.scorer.evidence
        threshold = self.watch.threshold
        # A dying microphone sounds like a machine that stops.
        level_dbfs = None if problem is not None else scored.level_dbfs
        judgement = self.watch.hear(evidence, level_dbfs=level_dbfs)
        return JudgedWindow(
            start_monotonic_ns=framed.start_monotonic_ns,
            figures=scored if problem is None else msgspec.structs.replace(scored, mse=None),
            judgement=self._believed(judgement),
            threshold=threshold,
            problem=problem,
            microphone=self.microphone.state,
            evidence=evidence,
            latency_ms=(time.monotonic() - heard_at) * 1000,
        )

    def _unheard(self, framed: FramedWindow, problem: Problem) -> JudgedWindow:
        threshold = self.watch.threshold
        judgement = self.watch.hear(None, level_dbfs=None)
        return JudgedWindow(
            start_monotonic_ns=framed.start_monotonic_ns,
            figures=WindowFigures(),
            judgement=self._believed(judgement),
            threshold=threshold,
            problem=problem,
            microphone=self.microphone.state,
            evidence=None,
            latency_ms=None,
        )

    def _believed(self, judgement: Judgement) -> Judgement:
        """A dead microphone is never a healthy machine."""
        if self.microphone.state is MicrophoneState.OK:
            return judgement
        return msgspec.structs.replace(judgement, state=MachineState.UNKNOWN)


def _grid(scorer: Scorer) -> tuple[int, int, int]:
    features = scorer.manifest.features
    return features.sample_rate_hz, features.window_samples, scorer.manifest.window_hop_samples
