"""Clips heard once by the node's own code, and long streams that are joined of their windows.

A stream plays clips in their order and now and then jumps elsewhere (the stationary bootstrap of
Politis and Romano, 1994), so that what lasts for minutes in the recordings, such as a fan's speed,
also does in the stream. Each clip's own windows follow one another: windows across a join, half one
clip and half the next, are not heard, because no machine ever made that sound.
"""

from collections.abc import Iterator, Sequence
from itertools import repeat
from pathlib import Path

import msgspec
import numpy as np

from contract.features import Float32Array
from node.machine.limits import observe
from node.scoring.release_store import read_release
from node.scoring.runtime import find_runtime
from node.scoring.scorer import Evidence, Scorer
from training.made.room_noise import Half, NoiseLibrary, mix
from training.sound.dataset import Clip
from training.sound.recordings import cut, read_recording

# How long a stream plays on before it jumps, on average: two blocks of the node.
_RUN_SECONDS = 120.0


class ScoredWindow(msgspec.Struct, frozen=True, eq=False):
    """What the node's scorer makes of one window."""

    evidence: Evidence | None
    """None if it could not be scored."""
    statistic: float | None
    level_dbfs: float


Take = tuple[ScoredWindow, ...]
"""A clip's windows, as they are or with one recording of noise."""


class ScoredTakes(msgspec.Struct, frozen=True, eq=False):
    """A clip, heard once or with several noises."""

    clip: Clip
    takes: tuple[Take, ...]


class Listener:
    """Hears clips with one release.

    Args:
        release: its folder.
        channel: which to hear of several; None mixes them.
    """

    def __init__(self, release: Path, channel: int | None) -> None:
        found = read_release(release)
        self.manifest = found.manifest
        self._channel = channel
        self._scorer = Scorer(found, find_runtime())

    def hear(self, clip: Clip) -> ScoredTakes:
        """Hear a clip as it is."""
        return ScoredTakes(clip, (self._take(self._sound(clip)),))

    def hear_in_noise(
        self, clip: Clip, library: NoiseLibrary, *, half: Half, ratio_db: float
    ) -> ScoredTakes:
        """Hear a clip once with each kind of noise."""
        sound = self._sound(clip)
        takes = []
        for kind in library.kinds:
            # By name: another kind or clip leaves the draws of this one as they are.
            rng = np.random.default_rng([*f"{half} {ratio_db:g} {kind} {clip.path.name}".encode()])
            noise = library.draw(
                rng,
                kind,
                half=half,
                samples=len(sound),
                sample_rate_hz=self.manifest.features.sample_rate_hz,
            )
            takes.append(self._take(mix(sound, noise.samples, ratio_db=ratio_db)))
        return ScoredTakes(clip, tuple(takes))

    def _sound(self, clip: Clip) -> Float32Array:
        rate_hz = self.manifest.features.sample_rate_hz
        return read_recording(clip.path, sample_rate_hz=rate_hz, channel=self._channel).samples

    def _take(self, sound: Float32Array) -> Take:
        manifest = self.manifest
        windows = cut(sound, manifest.features, hop_samples=manifest.window_hop_samples)
        return tuple(self._window(np.ascontiguousarray(window)) for window in windows)

    def _window(self, window: Float32Array) -> ScoredWindow:
        scored = self._scorer.score(window)
        evidence = self._scorer.evidence
        if evidence is not None:
            evidence = self._small(evidence, scored.level_dbfs)
        return ScoredWindow(evidence, scored.statistic, scored.level_dbfs)

    def _small(self, evidence: Evidence, level_dbfs: float) -> Evidence:
        """Evidence of which the node keeps the same, in a twentieth of the memory and the time."""
        kept = observe(self.manifest, evidence, level_dbfs=level_dbfs)
        small = Evidence(kept.mean_features[:, np.newaxis], kept.summaries, kept.errors)
        again = observe(self.manifest, small, level_dbfs=level_dbfs)
        same = all(
            np.array_equal(one, other)
            for one, other in zip(kept.summaries, again.summaries, strict=True)
        )
        return small if same else evidence


def stream(
    clips: Sequence[ScoredTakes], rng: np.random.Generator, *, hop_seconds: float
) -> Iterator[ScoredWindow]:
    """An endless stream of the clips' windows; see the module's docstring.

    Args:
        clips: at least one, each with at least one window; in the order of their recording.
        rng: decides where it begins and jumps to, and which take of a clip is heard. It is used
            alike for clips of one take and of several, so that both give the same clips.
        hop_seconds: between two windows.
    """
    index = int(rng.integers(len(clips)))
    while True:
        takes = clips[index].takes
        take = takes[int(rng.random() * len(takes))]
        yield from take
        jumps = rng.random() * _RUN_SECONDS < len(take) * hop_seconds
        elsewhere = int(rng.integers(len(clips)))
        index = elsewhere if jumps else (index + 1) % len(clips)


def repeated(clip: ScoredTakes, rng: np.random.Generator) -> Iterator[ScoredWindow]:
    """One clip again and again, each time in one of its takes."""
    for takes in repeat(clip.takes):
        yield from takes[int(rng.random() * len(takes))]
