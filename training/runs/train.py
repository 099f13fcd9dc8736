"""From a data set to a release: the story of `training train`, top to bottom.

Thresholds and all figures come from the exported files, scored by the node's own code: what is
measured here is what a node will do.
"""

import json
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import msgspec
import numpy as np
from sklearn.model_selection import train_test_split

from contract.feature_params import FeatureParams
from contract.release import MAX_COMMAND, Threshold, Training
from node.scoring.detector import Detector
from node.scoring.release_store import Release, read_release
from node.scoring.runtime import Runtime, find_runtime
from training.detector.outcome import Outcome, SeedFigures, Seeds
from training.errors import DataError, TrainingError
from training.judge.evaluate import EvaluationInput, judge
from training.judge.evaluation_report import EvaluationReport, detector_figures
from training.judge.intervals import mean_and_spread
from training.judge.metrics import ScoredClip, clip_scores
from training.judge.scoring import chosen, scored, stacked
from training.judge.thresholds import (
    Fold,
    SessionCheck,
    ThresholdChoice,
    conformal_quantile,
    leave_one_session_out,
)
from training.judge.training_record import fingerprint
from training.judge.yardstick_figures import yardstick_figures
from training.pages.report import report_html
from training.pages.results import find_environment, results_csv
from training.pages.shown_windows import extreme_windows
from training.progress import Progress
from training.recipes import QUANTISATIONS, Quantisation, Recipe
from training.release.release_folder import (
    METRICS_NAME,
    REPORT_NAME,
    RESULTS_NAME,
    VARIANTS_NAME,
    check_destination,
    put_release,
)
from training.release.runtime_trial import statistics
from training.release.runtimes import try_runtimes
from training.sound.dataset import FEW_SESSIONS, Dataset, find_dataset, known_sessions
from training.sound.feature_cache import ClipFeatures, FeatureCache, read_features
from training.sound.recordings import Note, ReadingTally
from training.staging import staged_folder

if TYPE_CHECKING:
    from training.detector.assemble import Assembled, Identity
    from training.detector.autoencoders import Epoch, Trained

HOP_SECONDS = 1.0
"""Distance between the starts of two windows, in training and on the node."""
LARGEST_RELEASE_MB = 0.60
"""A Pi scores a larger one in time, too, but none of the detectors here needs more."""
_HELD_OUT_SHARE = 0.2
# Among takes of a steady machine the largest errors differ by some tens of percent.
_ONE_FILE_FACTOR = 2.0


class TrainRequest(msgspec.Struct, frozen=True, kw_only=True):
    """What to train, and what to call it."""

    data: Path
    machine: str | None
    recipe: Recipe
    out: Path
    name: str
    version: int
    description: str | None
    seed: int
    seeds: int
    """How many trainings, with `seed` and those that follow it; the first one is released."""
    false_alarm_rate: float
    threshold_from: Literal["auto", "held_out", "sessions_left_out"]
    """`auto`: sessions left out where there are enough of them, since a node will hear a new one.
    With few, a model that has not heard one of them says little about one that has heard all."""
    folds: int
    """Trainings without some of the sessions, at most one for each; below 2 there are none."""
    quantisation: Quantisation
    variants: bool
    """Also every other quantisation, into `variants/`."""
    unreadable: Literal["refuse", "skip"]
    channel: int | None
    cache: FeatureCache
    tflite_python: Path | None
    overwrite: bool
    command: str
    """The command that does this, without paths of this machine."""


def train_release(request: TrainRequest, *, note: Note, progress: Progress) -> Outcome:
    """Train on a data set and write the release with all that was measured.

    Raises:
        EarshotError: the data, the destination or the training does not let it; nothing is written.
    """
    notes: list[str] = []
    note = _kept(notes, note)
    check_destination(request.out, overwrite=request.overwrite)
    runtime = find_runtime()
    stopwatch = _Stopwatch()
    work = _prepare(request, note, progress)
    stopwatch.lap("features")

    networks, losses = _fit(work, work.train, work.held_out, seed=request.seed, progress=progress)
    stopwatch.lap("training")

    variants = _variants(work, networks, runtime, note)
    stopwatch.lap("export")

    session_check = _leave_sessions_out(work, runtime, progress)
    stopwatch.lap("sessions")
    threshold = _choose_threshold(
        variants[request.quantisation], session_check, request, note, sessions=len(work.sessions)
    )
    held_out = variants[request.quantisation].threshold.value
    variants = {
        name: _with_threshold(found, threshold, held_out=held_out)
        for name, found in variants.items()
    }
    released = variants[request.quantisation]
    seeds = _other_seeds(work, released.release, runtime, progress)
    stopwatch.lap("seeds")

    with staged_folder(request.out) as staging:
        _put_releases(staging, released, variants, work, note)
        report = _judge(staging, released, session_check, work, note=note, progress=progress)
        stopwatch.lap("evaluation")
        outcome = Outcome(
            manifest=read_release(staging).manifest,
            recipe=request.recipe,
            train_files=len(work.train),
            train_windows=len(stacked(work.train)),
            held_out_files=len(work.held_out),
            held_out={
                c.clip.path.relative_to(work.dataset.folder).as_posix(): c.statistics.tolist()
                for c in released.held_out
            },
            sessions=work.sessions,
            session_check=session_check,
            trained_on=tuple(fingerprint(clip.clip.path) for clip in work.usable),
            losses=losses,
            seeds=seeds,
            report=report,
            seconds=stopwatch.laps,
        )
        _write_metrics(staging / METRICS_NAME, outcome)
        environment = find_environment()
        page = report_html(
            outcome,
            work.dataset,
            windows=extreme_windows(
                released.release, runtime, work.held_out if report is None else work.test
            ),
            notes=notes,
            environment=environment,
        )
        (staging / REPORT_NAME).write_text(page, encoding="utf-8")
        rows = results_csv(outcome, environment)
        (staging / RESULTS_NAME).write_text(rows, encoding="utf-8", newline="")
    return outcome


class _PreparedData(msgspec.Struct, frozen=True, kw_only=True):
    """What every step needs: the recipe's windows of each part of the data."""

    request: TrainRequest
    dataset: Dataset
    usable: list[ClipFeatures]
    """All train clips, held-out ones too."""
    train: list[ClipFeatures]
    held_out: list[ClipFeatures]
    test: list[ClipFeatures]

    @property
    def sessions(self) -> tuple[str, ...]:
        """Those of the clips that are used."""
        return known_sessions(clip.clip for clip in self.usable)


def _prepare(request: TrainRequest, note: Note, progress: Progress) -> _PreparedData:
    dataset = find_dataset(request.data, request.machine)
    if dataset.unlabelled:
        note(f"{len(dataset.unlabelled)} test clips without a label are not used")
    params = request.recipe.features
    tally = ReadingTally()
    found = read_features(
        (*dataset.train, *dataset.test),
        params,
        hop_samples=_hop_samples(params),
        cache=request.cache,
        unreadable=request.unreadable,
        tally=tally,
        progress=progress,
        channel=request.channel,
    )
    for text in tally.lines(params):
        note(text)
    of_recipe = chosen(found, request.recipe.windows)
    usable = [clip for clip in of_recipe if clip.clip.split == "train"]
    if len(usable) < 2:
        raise DataError(
            f"expected at least 2 train clips of one window or more (one to train on, one to choose"
            f" the threshold from), got {len(usable)} of {len(dataset.train)}"
        )
    if (
        request.threshold_from == "sessions_left_out"
        and min(request.folds, len(dataset.sessions)) < 2
    ):
        raise DataError(
            "a threshold from sessions left out needs at least 2 sessions of normal sound and 2"
            f" --folds, got {len(dataset.sessions)} and {request.folds}"
        )
    _note_sessions(usable, note)
    train, held_out = _split(usable, seed=request.seed)
    test = [clip for clip in of_recipe if clip.clip.split == "test"]
    return _PreparedData(
        request=request,
        dataset=dataset,
        usable=usable,
        train=train,
        held_out=held_out,
        test=test,
    )


def _note_sessions(clips: Sequence[ClipFeatures], note: Note) -> None:
    count = len(known_sessions(clip.clip for clip in clips))
    if not count:
        note(
            "the names of the recordings do not say which were made in one go: record at least"
            f" {FEW_SESSIONS} sessions, and calibrate on site"
        )
    elif count < FEW_SESSIONS:
        note(
            f"{count} session{'s' if count > 1 else ''} of normal sound, expected at least"
            f" {FEW_SESSIONS}: the threshold will flag much of a new session's normal sound;"
            " calibrate on site"
        )


def _split(
    clips: list[ClipFeatures], *, seed: int
) -> tuple[list[ClipFeatures], list[ClipFeatures]]:
    """Clips to train on, and clips to choose the threshold from.

    By file, since neighbouring windows share their sound. With seed 42 and the 3009 clips of the
    DCASE 2021 fan it is the reference design's own split, 2407 and 602.
    """
    train, held_out = train_test_split(clips, test_size=_HELD_OUT_SHARE, random_state=seed)
    return train, held_out


def _fit(
    work: _PreparedData,
    train: Sequence[ClipFeatures],
    held_out: Sequence[ClipFeatures],
    *,
    seed: int,
    progress: Progress,
) -> tuple[list["Trained"], dict[str, tuple["Epoch", ...]]]:
    # Takes seconds; everything that can be refused without it has been.
    from training.detector.autoencoders import train as fit

    networks: list[Trained] = []
    losses: dict[str, tuple[Epoch, ...]] = {}
    for model in work.request.recipe.models:
        epochs: list[Epoch] = []
        bar = progress(range(model.epochs), f"training {model.network}")
        networks.append(
            fit(
                model,
                stacked(train),
                stacked(held_out),
                seed=seed,
                on_epoch=_watch(epochs, bar),
            )
        )
        # The bar ends when it is asked for one step more than there are.
        next(bar, None)
        losses[model.network] = tuple(epochs)
    return networks, losses


def _watch(epochs: list["Epoch"], bar: Iterator[int]) -> Callable[["Epoch"], None]:
    def on_epoch(epoch: "Epoch") -> None:
        epochs.append(epoch)
        next(bar, None)

    return on_epoch


def _variants(
    work: _PreparedData, networks: Sequence["Trained"], runtime: Runtime, note: Note
) -> dict[Quantisation, "Assembled"]:
    """The release's quantisation and, if asked for, all others that work."""
    request = work.request
    found = {}
    for quantisation in QUANTISATIONS if request.variants else (request.quantisation,):
        try:
            found[quantisation] = _assemble(work, networks, quantisation, runtime)
        except TrainingError as error:
            if quantisation == request.quantisation:
                raise
            note(f"no {quantisation} variant: {error}")
    return found


def _assemble(
    work: _PreparedData,
    networks: Sequence["Trained"],
    quantisation: Quantisation,
    runtime: Runtime,
    *,
    train: Sequence[ClipFeatures] | None = None,
    held_out: Sequence[ClipFeatures] | None = None,
) -> "Assembled":
    from training.detector.assemble import assemble

    return assemble(
        _identity(work),
        work.request.recipe,
        networks,
        quantisation,
        normal=stacked(work.train if train is None else train),
        held_out=work.held_out if held_out is None else held_out,
        sessions=len(work.sessions) or None,
        false_alarm_rate=work.request.false_alarm_rate,
        runtime=runtime,
    )


def _identity(work: _PreparedData) -> "Identity":
    from training.detector.assemble import Identity

    request = work.request
    training = Training(
        command=request.command[:MAX_COMMAND],
        recipe=request.recipe.name,
        data=request.data.resolve().name[:200],
        files=len(work.train),
        windows=len(stacked(work.train)),
        seed=request.seed,
        epochs=max(model.epochs for model in request.recipe.models),
    )
    return Identity(
        name=request.name,
        version=request.version,
        created_us=time.time_ns() // 1000,
        description=request.description
        or f"{request.recipe.name}, trained on the normal sound of {training.data}"[:200],
        window_hop_samples=_hop_samples(request.recipe.features),
        training=training,
    )


def _leave_sessions_out(
    work: _PreparedData, runtime: Runtime, progress: Progress
) -> SessionCheck | None:
    """Train anew without some sessions in turn: what a threshold is worth for those unheard.

    With more sessions than folds, every so-manieth is left out together: neighbours in order of
    name are often of one machine, and to leave all of that out is another question.
    """
    sessions = work.sessions
    count = min(work.request.folds, len(sessions))
    if count < 2:
        return None
    folds = []
    for names in (sessions[start::count] for start in range(count)):
        left_out = [clip for clip in work.usable if clip.clip.session in names]
        others = [clip for clip in work.usable if clip.clip.session not in names]
        if len(others) < 2 or not left_out:
            continue
        train, held_out = _split(others, seed=work.request.seed)
        networks, _ = _fit(work, train, held_out, seed=work.request.seed, progress=progress)
        assembled = _assemble(
            work, networks, work.request.quantisation, runtime, train=train, held_out=held_out
        )
        folds.append(
            Fold(
                session=names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} more",
                others=_windows(assembled.held_out),
                left_out=statistics(Detector(assembled.release, runtime), stacked(left_out)),
            )
        )
    return leave_one_session_out(folds, false_alarm_rate=work.request.false_alarm_rate)


def _choose_threshold(
    assembled: "Assembled",
    session_check: SessionCheck | None,
    request: TrainRequest,
    note: Note,
    *,
    sessions: int,
) -> Threshold:
    """The threshold that was asked for, and what there is to say about it."""
    method: Literal["held_out", "sessions_left_out"] = "held_out"
    choice = assembled.threshold
    enough = request.threshold_from == "sessions_left_out" or (
        request.threshold_from == "auto" and sessions >= FEW_SESSIONS
    )
    if session_check is not None and enough:
        method, choice = "sessions_left_out", session_check.threshold
    elif request.threshold_from == "sessions_left_out":
        raise DataError(
            "a threshold from sessions left out needs at least 2 sessions of normal sound and"
            " 2 --folds"
        )
    else:
        suspicion = _rests_on_one_file(assembled.held_out, choice, request.false_alarm_rate)
        if suspicion is not None:
            note(suspicion)
    if choice.false_alarm_rate > request.false_alarm_rate:
        note(
            f"{choice.count} windows cannot show a false-alarm rate of"
            f" {request.false_alarm_rate:g}; the threshold is their largest statistic, for a rate"
            f" of {choice.false_alarm_rate:.2g}"
        )
    return Threshold(
        value=choice.value,
        method=method,
        false_alarm_rate=choice.false_alarm_rate,
        calibration_windows=choice.count,
    )


def _with_threshold(
    assembled: "Assembled", threshold: Threshold, *, held_out: float
) -> "Assembled":
    """The quantisation with the release's threshold, in its own scale.

    The sessions left out were judged in one quantisation; another has a little more error
    everywhere, and so on its held-out windows.
    """
    own = assembled.threshold.value
    if threshold.method == "held_out":
        return assembled
    scaled = msgspec.structs.replace(threshold, value=threshold.value * own / held_out)
    manifest = msgspec.structs.replace(assembled.release.manifest, threshold=scaled)
    return msgspec.structs.replace(assembled, release=Release(manifest, assembled.release.files))


def _rests_on_one_file(
    clips: Sequence[ScoredClip], choice: ThresholdChoice, false_alarm_rate: float
) -> str | None:
    """One line if a single held-out file, perhaps a door that slammed, sets the threshold."""
    loudest = max(clips, key=lambda clip: float(clip.statistics.max()))
    others = [clip for clip in clips if clip is not loudest]
    if not others:
        return None
    without = conformal_quantile(_windows(others), false_alarm_rate=false_alarm_rate).value
    if choice.value <= _ONE_FILE_FACTOR * without:
        return None
    return (
        f"the threshold of {choice.value:.4g} rests on {loudest.clip.path.name} alone; without it"
        f" it would be {without:.4g}: listen to that file, or allow a higher --false-alarm-rate"
    )


def _other_seeds(
    work: _PreparedData, released: Release, runtime: Runtime, progress: Progress
) -> Seeds | None:
    """Figures of the released training and of others that differ in their seed alone."""
    if not _both_labels(work.test):
        return None
    request = work.request
    each = [_of_seed(work, request.seed, released, runtime)]
    for seed in range(request.seed + 1, request.seed + request.seeds):
        networks, _ = _fit(work, work.train, work.held_out, seed=seed, progress=progress)
        assembled = _assemble(work, networks, request.quantisation, runtime)
        each.append(_of_seed(work, seed, assembled.release, runtime))
    aucs = [found.figures.auc for found in each if found.figures.auc is not None]
    paucs = [found.figures.pauc for found in each if found.figures.pauc is not None]
    officials = [found.figures.official for found in each if found.figures.official is not None]
    if not (aucs and paucs and officials):
        return None
    return Seeds(
        auc=mean_and_spread(aucs),
        pauc=mean_and_spread(paucs),
        official=mean_and_spread(officials),
        each=tuple(each),
    )


def _of_seed(work: _PreparedData, seed: int, release: Release, runtime: Runtime) -> SeedFigures:
    clips = scored(work.test, statistics(Detector(release, runtime), stacked(work.test)))
    how = work.request.recipe.clip_score
    return SeedFigures(
        seed=seed,
        figures=detector_figures(clips, how, None),
        scores=tuple(clip_scores(clips, how).tolist()),
    )


def _both_labels(test: Sequence[ClipFeatures]) -> bool:
    return {clip.clip.label for clip in test} == {"normal", "anomaly"}


def _put_releases(
    staging: Path,
    released: "Assembled",
    variants: dict[Quantisation, "Assembled"],
    work: _PreparedData,
    note: Note,
) -> None:
    """Write the release and its variants, each naming the libraries that have run it."""
    of_folder = {staging: released.release}
    if work.request.variants:
        for quantisation, assembled in variants.items():
            of_folder[staging / VARIANTS_NAME / quantisation] = assembled.release
    for folder, release in of_folder.items():
        put_release(folder, release)
    trials = try_runtimes(
        list(of_folder),
        stacked(work.held_out)[:1],
        tflite_python=work.request.tflite_python,
    )
    for (folder, release), tried in zip(of_folder.items(), trials, strict=True):
        names = tuple(trial.runtime for trial in tried if trial.outcome == "ran")
        models = tuple(
            msgspec.structs.replace(model, runtimes=names) for model in release.manifest.models
        )
        manifest = msgspec.structs.replace(release.manifest, models=models)
        put_release(folder, Release(manifest, release.files))
    for trial in trials[0]:
        if trial.outcome != "ran":
            note(f"{trial.runtime} {trial.outcome}: {trial.reason}")
    size_mb = released.release.manifest.models_bytes / 1e6
    if size_mb > LARGEST_RELEASE_MB:
        note(
            f"the models have {size_mb:.2f} MB, expected at most {LARGEST_RELEASE_MB:.2f}: choose"
            " another --quantisation"
        )


def _judge(
    staging: Path,
    released: "Assembled",
    session_check: SessionCheck | None,
    work: _PreparedData,
    *,
    note: Note,
    progress: Progress,
) -> EvaluationReport | None:
    if not _both_labels(work.test):
        return None
    request = work.request
    read = partial(
        read_features,
        hop_samples=_hop_samples(request.recipe.features),
        cache=request.cache,
        unreadable=request.unreadable,
        tally=ReadingTally(),
        progress=progress,
        channel=request.channel,
    )
    report = judge(
        EvaluationInput(
            folder=staging,
            data=request.data.resolve().name[:200],
            warnings=(),
            dataset=work.dataset,
            test=work.test,
            yardsticks=yardstick_figures(
                work.dataset,
                [clip.clip for clip in work.test],
                request.recipe.features,
                read,
            ),
            held_out=released.held_out,
            unheard_sessions=None if session_check is None else session_check.threshold,
            recipe=request.recipe.name,
            clip_score=request.recipe.clip_score,
            windows=request.recipe.windows,
            command=request.command,
            tflite_python=request.tflite_python,
        )
    )
    for text in report.warnings:
        note(text)
    return report


def _write_metrics(path: Path, outcome: Outcome) -> None:
    """All of it, the evaluation's keys at the top so that `evaluate` and `train` write alike."""
    document = msgspec.to_builtins(outcome)
    report = document.pop("report") or {}
    document["release"] = outcome.manifest.label
    document["clip_score"] = outcome.recipe.clip_score
    document["windows"] = outcome.recipe.windows
    document["recipe_settings"] = document.pop("recipe")
    text = json.dumps({**document, **report}, indent=1, allow_nan=False)
    path.write_text(text + "\n", encoding="utf-8")


def _kept(notes: list[str], note: Note) -> Note:
    def kept(text: str) -> None:
        notes.append(text)
        note(text)

    return kept


def _windows(clips: Sequence[ScoredClip]) -> "np.ndarray[tuple[int], np.dtype[np.float64]]":
    return np.concatenate([clip.statistics for clip in clips])


def _hop_samples(params: FeatureParams) -> int:
    return round(HOP_SECONDS * params.sample_rate_hz)


class _Stopwatch:
    def __init__(self) -> None:
        self.laps: dict[str, float] = {}
        self._last = time.perf_counter()

    def lap(self, what: str) -> None:
        now = time.perf_counter()
        self.laps[what] = now - self._last
        self._last = now
