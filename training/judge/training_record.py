"""What a training has left beside its release that judging needs.

Held-out scores, how clips are scored, and which recordings were heard; nothing is judged here.
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path

import msgspec

from contract.release import Manifest
from training.errors import DataError
from training.judge.metrics import (
    ClipScore,
)
from training.judge.scoring import WindowChoice
from training.judge.thresholds import (
    SessionCheck,
)
from training.recipes import read_recipe, recipe_names
from training.release.release_folder import METRICS_NAME, VARIANTS_NAME


class TrainingRecord(msgspec.Struct, kw_only=True):
    """What evaluation takes from the `metrics.json` beside a release."""

    clip_score: ClipScore = "mean"
    windows: WindowChoice = "all"
    held_out: dict[str, list[float]] = {}
    """Statistics of the windows of each held-out clip."""
    session_check: SessionCheck | None = None
    trained_on: tuple[str, ...] = ()
    """Content of every train clip; see `fingerprint`."""


def fingerprint(path: Path) -> str:
    """What tells recordings apart, whatever they are called: the start of their SHA-256."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()[:16]


def heard_in_training(record: TrainingRecord, paths: Sequence[Path], what: str) -> list[str]:
    """One line if some of these recordings were trained on, so that figures of them are too good.

    Args:
        record: of the training.
        paths: of the recordings.
        what: they are, such as "test clips".
    """
    known = set(record.trained_on)
    heard = [path.name for path in paths if known and fingerprint(path) in known]
    if not heard:
        return []
    return [
        f"{len(heard)} of {len(paths)} {what} were in the release's training, such as {heard[0]}:"
        " the figures are too good"
    ]


def read_training_record(folder: Path, manifest: Manifest) -> TrainingRecord:
    """What lies in a release's folder, or beside the folder of its variants.

    Where nothing does, as with a model from elsewhere, the recipe says how clips are scored.

    Raises:
        DataError: the file is there, and not what a training writes.
    """
    beside = [folder / METRICS_NAME]
    if folder.absolute().parent.name == VARIANTS_NAME:
        beside.append(folder.absolute().parents[1] / METRICS_NAME)
    path = next((path for path in beside if path.exists()), None)
    if path is None:
        recipe = manifest.training.recipe
        if recipe not in recipe_names():
            return TrainingRecord()
        known = read_recipe(recipe)
        return TrainingRecord(clip_score=known.clip_score, windows=known.windows)
    try:
        return msgspec.json.decode(path.read_bytes(), type=TrainingRecord)
    except (OSError, msgspec.MsgspecError) as error:
        raise DataError(f"{path}: expected what `training train` wrote: {error}") from error
