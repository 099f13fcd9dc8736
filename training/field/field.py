"""What a node would do with a release in the field, from recordings, in simulated time.

Held-out normal clips of each *place* (a session, or a domain where sessions are not named) are
dealt into two halves: one calibrates, the other is monitored, then the other way round. Both are
joined to long streams (`training.field.field_sound`) and heard by the node's own code: features,
models, calibration, limits, states, episodes. Beside it, on the same streams, stand the reference
design's rule, and the level in place of the detector. Then faults follow normal sound: one
anomalous clip, repeated for some minutes, since a block takes a minute; and as a control a normal
clip, repeated as long.

A calibration verifies on its own half, as on site it would on the sound that follows: refusals are
rarer than where the machine goes on to something new (`--split halves` keeps the halves apart).

What this cannot show: a day that is made of five minutes of sound is not a day. It has the alarms
that these minutes raise, however long it lasts, and the intervals count hours, not distinct sound.
"""

from collections.abc import Sequence
from pathlib import Path

import msgspec
import numpy as np

from node.machine.calibration import Plan
from training.errors import DestinationError
from training.field.field_report import FieldReport, Split
from training.field.field_sound import Listener
from training.field.places import find_places
from training.field.trial import FAULT_SECONDS, FieldTrial
from training.judge.thresholds import percentile_threshold
from training.judge.training_record import heard_in_training, read_training_record
from training.made.room_noise import NoiseLibrary
from training.progress import Progress
from training.sound.dataset import Clip, find_dataset
from training.sound.recordings import Note
from training.staging import refuse_unwritable


class FieldRequest(msgspec.Struct, frozen=True, kw_only=True):
    """Which release to try on which recordings, and for how long."""

    release: Path
    data: Path
    machine: str | None
    channel: int | None
    noise: Path | None
    """Folder of noise by kind; see `training.made.room_noise`."""
    new_places: tuple[str, ...] = ()
    """Names of the files with which another place begins."""
    split: Split = "interleaved"
    hours: float
    minutes: float
    seed: int
    json: Path | None
    command: str


def try_in_field(request: FieldRequest, *, note: Note, progress: Progress) -> FieldReport:
    """Let a release monitor recordings; write the JSON if it was asked for.

    Raises:
        EarshotError: release, recordings or destination do not let it.
    """
    Plan.of_minutes(request.minutes)
    dataset = find_dataset(request.data, request.machine)
    places = find_places(dataset, request.new_places)
    library = None if request.noise is None else NoiseLibrary(request.noise)
    listener = Listener(request.release, request.channel)
    if request.json is not None:
        refuse_unwritable(request.json)
    warnings = heard_in_training(
        read_training_record(request.release, listener.manifest),
        [clip.path for place in places for clip in place.normals],
        "normal clips",
    )
    for text in warnings:
        note(text)
    trial = FieldTrial(
        listener,
        library,
        reference_threshold=_reference_threshold(listener, dataset.train, progress),
        split=request.split,
        hours=request.hours,
        minutes=request.minutes,
        seed=request.seed,
    )
    report = FieldReport(
        command=request.command,
        release=listener.manifest.label,
        data=request.data.resolve().name[:200],
        hours=request.hours,
        minutes=request.minutes,
        seed=request.seed,
        split=request.split,
        fault_seconds=FAULT_SECONDS,
        release_threshold=listener.manifest.threshold.value,
        reference_threshold=trial.reference_threshold,
        warnings=tuple(warnings),
        places=tuple(trial.at(place, progress) for place in places),
    )
    if request.json is not None:
        _write_json(report, request.json)
    return report


def _reference_threshold(
    listener: Listener, train: Sequence[Clip], progress: Progress
) -> float | None:
    statistics = [
        window.statistic
        for clip in progress(train, "training clips")
        for window in listener.hear(clip).takes[0]
        if window.statistic is not None
    ]
    return percentile_threshold(np.array(statistics)).value if statistics else None


def _write_json(report: FieldReport, path: Path) -> None:
    try:
        path.write_bytes(msgspec.json.format(msgspec.json.encode(report), indent=1) + b"\n")
    except OSError as error:
        raise DestinationError(f"{path}: cannot be written: {error.strerror}") from error
