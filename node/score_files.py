"""`earshot node score`: recordings scored offline, by exactly the code that a live node runs."""

import csv
import json
import sys
from collections.abc import Iterator, Sequence
from itertools import chain
from typing import Literal, TextIO

import msgspec

from contract.release import Manifest
from node.scoring.release_store import Release
from node.scoring.runtime import Runtime
from node.scoring.scorer import Scorer
from node.sound.framing import FramedWindow, Framer, framer_for
from node.sound.recordings import (
    Recording,
    RecordingSource,
    check_channel,
)
from node.sound.source import EndOfSound

Format = Literal["table", "json", "csv"]
FORMATS: tuple[Format, ...] = ("table", "json", "csv")


class ScoredFileWindow(msgspec.Struct, frozen=True, kw_only=True):
    """One window of a recording."""

    file: str
    start_s: float
    mse: float | None
    statistic: float | None
    threshold: float
    score: float | None
    anomaly: bool | None
    problem: str | None
    level_dbfs: float


def score_recordings(
    recordings: Sequence[Recording],
    release: Release,
    runtime: Runtime,
    *,
    channel: int | None,
    threads: int = 1,
) -> Iterator[ScoredFileWindow]:
    """Score every window of every recording, in their order.

    Raises:
        SourceError: a recording does not have the channel, or breaks off.
        ReleaseError: the release does not run here.
    """
    check_channel(recordings, channel)
    scorer = Scorer(release, runtime, threads=threads)
    return chain.from_iterable(_score_recording(r, scorer, channel) for r in recordings)


def write(
    windows: Iterator[ScoredFileWindow], manifest: Manifest, form: Format, out: TextIO
) -> tuple[int, int]:
    """Writes them as they come; gives how many were scored, and how many of them flagged."""
    counts = _Counts()
    if form == "json":
        _write_json(list(counts.of(windows)), manifest, counts, out)
    elif form == "csv":
        _write_csv(counts.of(windows), out)
    else:
        _write_table(counts.of(windows), manifest, out)
        out.write(f"{counts.flagged} of {counts.scored} windows above the threshold\n")
    return counts.scored, counts.flagged


class _Counts:
    """Counts windows as they pass."""

    def __init__(self) -> None:
        self.scored = 0
        self.flagged = 0

    def of(self, windows: Iterator[ScoredFileWindow]) -> Iterator[ScoredFileWindow]:
        for window in windows:
            self.scored += window.score is not None
            self.flagged += window.anomaly is True
            yield window


def _score_recording(
    recording: Recording, scorer: Scorer, channel: int | None
) -> Iterator[ScoredFileWindow]:
    manifest = scorer.manifest
    features = manifest.features
    framer = framer_for(manifest)
    number = 0
    for framed in _windows(recording, framer, channel):
        assert framed.samples is not None, "no sound of a file is ever missed"
        scored = scorer.score(framed.samples)
        start = number * manifest.window_hop_samples / features.sample_rate_hz
        number += 1
        yield ScoredFileWindow(
            file=str(recording.path),
            start_s=round(start, 6),
            mse=scored.mse,
            statistic=scored.statistic,
            threshold=manifest.threshold.value,
            score=scored.score,
            anomaly=scored.anomaly,
            problem=scored.problem,
            level_dbfs=round(scored.level_dbfs, 2),
        )
    if number == 0:
        window_s = features.window_samples / features.sample_rate_hz
        print(
            f"earshot node: {recording.path}: shorter than one window"
            f" ({recording.seconds:.2f} s of {window_s:g} s): not scored",
            file=sys.stderr,
        )


def _windows(recording: Recording, framer: Framer, channel: int | None) -> Iterator[FramedWindow]:
    with RecordingSource([recording], channel=channel, fast=True) as source:
        while True:
            try:
                block = source.read(0.0)
            except EndOfSound:
                break
            if block is not None:
                yield from framer.push(block, source.sample_rate_hz)
    yield from framer.finish()


def _write_json(
    windows: Sequence[ScoredFileWindow], manifest: Manifest, counts: _Counts, out: TextIO
) -> None:
    document = {
        "model": manifest.label,
        "threshold": manifest.threshold.value,
        "windows_scored": counts.scored,
        "windows_flagged": counts.flagged,
        "windows": [msgspec.structs.asdict(window) for window in windows],
    }
    json.dump(document, out, indent=1, allow_nan=False)
    out.write("\n")


def _write_csv(windows: Iterator[ScoredFileWindow], out: TextIO) -> None:
    writer = csv.DictWriter(out, ScoredFileWindow.__struct_fields__)
    writer.writeheader()
    writer.writerows(msgspec.structs.asdict(window) for window in windows)


def _write_table(windows: Iterator[ScoredFileWindow], manifest: Manifest, out: TextIO) -> None:
    out.write(f"{manifest.label}, threshold {manifest.threshold.value:.6g}\n")
    out.write(f"{'start':>8}  {'mse':>12}  {'score':>9}  {'level':>7}  flag\n")
    file = None
    for window in windows:
        if window.file != file:
            file = window.file
            out.write(f"{file}\n")
        flag = window.problem or ("ANOMALY" if window.anomaly else "normal")
        mse = "-" if window.mse is None else f"{window.mse:.5g}"
        score = "-" if window.score is None else _score_text(window.score)
        level = f"{window.level_dbfs:.1f}"
        out.write(f"{window.start_s:7.1f}s  {mse:>12}  {score:>9}  {level:>7}  {flag}\n")


def _score_text(score: float) -> str:
    # Of several models it may be as large as 1e130.
    return f"{score:.3f}" if score < 10_000 else f"{score:.3g}"
