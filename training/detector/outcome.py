"""What a training has made and measured: the release, how its losses went, and how good it is."""

from typing import TYPE_CHECKING

import msgspec

from contract.release import Manifest
from training.judge.evaluation_report import DetectorFigures, EvaluationReport
from training.judge.intervals import Spread
from training.judge.thresholds import (
    SessionCheck,
)
from training.recipes import Recipe

if TYPE_CHECKING:
    from training.detector.autoencoders import Epoch


class SeedFigures(msgspec.Struct, frozen=True, kw_only=True):
    """The same recipe, trained with another seed."""

    seed: int
    figures: DetectorFigures
    scores: tuple[float, ...]
    """The test clips' scores, in the order of `EvaluationReport.clips`."""


class Seeds(msgspec.Struct, frozen=True, kw_only=True):
    """How much the first random numbers matter."""

    auc: Spread
    pauc: Spread
    official: Spread
    each: tuple[SeedFigures, ...]


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """What a training has made, and all that was measured of it."""

    manifest: Manifest
    recipe: Recipe
    train_files: int
    train_windows: int
    held_out_files: int
    held_out: dict[str, list[float]]
    """Statistics of the windows of each held-out clip, by its path below the machine's folder."""
    sessions: tuple[str, ...]
    session_check: SessionCheck | None
    trained_on: tuple[str, ...]
    """Content of every train clip, held-out ones too; see `training.judge.evaluate.fingerprint`."""
    losses: dict[str, tuple["Epoch", ...]]
    """The epochs of each network, by its name."""
    seeds: Seeds | None
    report: EvaluationReport | None
    """None without labelled test clips."""
    seconds: dict[str, float]
    """How long each step took."""
