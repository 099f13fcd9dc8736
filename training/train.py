"""From a data set to a release: the story of `training train`, top to bottom.

The threshold and every figure come from the exported file, scored by the node's own code: what is
measured here is what a node will do.
"""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import numpy as np
import numpy.typing as npt
from sklearn.model_selection import train_test_split

from contract.features import FeatureExtractor, FeatureParams, Float32Array
from contract.release import Manifest, Model, Threshold, Training, describe_file
from node.release_store import Release
from node.runtime import LoadedModel, Runtime, find_runtime
from node.scorer import Scorer
from training.dataset import Clip, Dataset, find_dataset
from training.errors import DataError, TrainingError
from training.metrics import Figures, ScoredClip, figures_by_domain
from training.progress import Progress
from training.recordings import Note, Tally, Windows, read_windows, refuse_unusable
from training.release import MODEL_NAME, check_destination, write_release
from training.thresholds import Quantile, conformal_quantile

if TYPE_CHECKING:
    from training.autoencoders import Autoencoder, Epoch, Weights

Float64Array = npt.NDArray[np.float64]

HOP_SECONDS = 1.0
"""Distance between the starts of two windows, in training and on the node."""
_HELD_OUT_SHARE = 0.2
# What the exported graph may differ from Keras, relative to the reconstruction error of a window:
# float16 rounds weights to 1 part in 2048, which on trained networks gave at most 0.003.
_EXPORT_TOLERANCE = 0.02
_COMPARED_WINDOWS = 16
# Among takes of a steady machine the largest errors differ by some tens of percent.
_ONE_FILE_FACTOR = 2.0


class TrainRequest(msgspec.Struct, frozen=True, kw_only=True):
    """What to train, and what to call it."""

    data: Path
    machine: str | None
    out: Path
    name: str
    version: int
    description: str | None
    seed: int
    epochs: int
    batch_size: int
    false_alarm_rate: float
    weights: "Weights"
    overwrite: bool
    command: str
    """The command that does this, without paths of this machine."""


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """What was trained, and how good it is."""

    manifest: Manifest
    train_files: int
    held_out_files: int
    train_windows: int
    losses: tuple["Epoch", ...]
    held_out_errors: tuple[float, ...]
    """Of the held-out normal windows, sorted."""
    runtime: str
    figures: dict[str, Figures]
    """By domain and overall; empty without labelled test clips."""
    seconds: dict[str, float]
    """What each step took."""


def train_release(request: TrainRequest, *, note: Note, progress: Progress) -> Outcome:
    """Train on a data set and write the release.

    Raises:
        EarshotError: the data, the destination or the training does not let it; nothing is written.
    """
    check_destination(request.out, overwrite=request.overwrite)
    runtime = find_runtime()
    params = FeatureParams()
    hop_samples = round(HOP_SECONDS * params.sample_rate_hz)
    stopwatch = _Stopwatch()

    dataset = find_dataset(request.data, request.machine)
    if dataset.unlabelled:
        note(f"{dataset.unlabelled} test clips without a label are not used")
    refuse_unusable(
        progress((*dataset.train, *dataset.test), "checking"), sample_rate_hz=params.sample_rate_hz
    )
    stopwatch.lap("check")

    tally = Tally()
    train_clips, held_out_clips = _split(_long_enough(dataset, params, tally), seed=request.seed)
    for line in tally.lines(params):
        note(line)

    def windows(clips: Sequence[Clip]) -> list[Windows]:
        found = read_windows(clips, params, hop_samples=hop_samples, tally=Tally())
        return list(progress(found, "reading", total=len(clips)))

    train = _features(windows(train_clips), params)
    held_out_windows = windows(held_out_clips)
    held_out = _features(held_out_windows, params)
    stopwatch.lap("features")

    autoencoder, losses = _train(request, train, held_out, progress)
    stopwatch.lap("training")

    content = autoencoder.to_tflite(request.weights)
    _check_export(autoencoder, LoadedModel(content, runtime), held_out[:_COMPARED_WINDOWS])
    stopwatch.lap("export")

    manifest = _manifest(
        request,
        params,
        content,
        model=_model(params, runtime, autoencoder.parameters),
        training=_training(request, files=len(train_clips), windows=len(train)),
    )
    scorer = Scorer(Release(manifest, {MODEL_NAME: content}), runtime)
    held_out_scored = [_score(scorer, clip) for clip in held_out_windows]
    errors = _errors(held_out_scored)
    quantile = conformal_quantile(errors, false_alarm_rate=request.false_alarm_rate)
    if quantile.false_alarm_rate > request.false_alarm_rate:
        note(
            f"{quantile.windows} held-out windows cannot show a false-alarm rate of"
            f" {request.false_alarm_rate:g}; the threshold is their largest error, for a rate of"
            f" {quantile.false_alarm_rate:.2g}"
        )
    suspicion = _rests_on_one_file(held_out_scored, quantile, request.false_alarm_rate)
    if suspicion is not None:
        note(suspicion)
    manifest = msgspec.structs.replace(manifest, threshold=_threshold(quantile))
    stopwatch.lap("threshold")

    clips = read_windows(dataset.test, params, hop_samples=hop_samples, tally=Tally())
    scored = [
        _score(scorer, clip)
        for clip in progress(clips, "judging", total=len(dataset.test))
        if len(clip.windows)
    ]
    figures = figures_by_domain(scored, threshold=quantile.value)
    stopwatch.lap("evaluation")

    outcome = Outcome(
        manifest=manifest,
        train_files=len(train_clips),
        held_out_files=len(held_out_clips),
        train_windows=len(train),
        losses=losses,
        held_out_errors=tuple(np.sort(errors).tolist()),
        runtime=f"{runtime.name} {runtime.version}",
        figures={str(domain): group for domain, group in figures.items()},
        seconds=stopwatch.laps,
    )
    write_release(
        request.out,
        manifest,
        {MODEL_NAME: content},
        metrics=metrics_document(outcome),
        overwrite=request.overwrite,
    )
    return outcome


def metrics_document(outcome: Outcome) -> dict[str, object]:
    """What goes into `metrics.json`."""
    manifest, errors = outcome.manifest, np.array(outcome.held_out_errors)
    return {
        "schema": 1,
        "release": manifest.label,
        "command": manifest.training.command,
        "data": manifest.training.data,
        "train_files": outcome.train_files,
        "held_out_files": outcome.held_out_files,
        "train_windows": outcome.train_windows,
        "held_out_windows": len(errors),
        "parameters": manifest.model.parameters,
        "model_bytes": manifest.file(manifest.model.file).size_bytes,
        "runtime": outcome.runtime,
        "threshold": msgspec.to_builtins(manifest.threshold),
        "held_out_errors": {
            "mean": float(errors.mean()),
            "sd": float(errors.std()),
            **{f"p{p:g}": float(np.percentile(errors, p)) for p in (50, 95, 99, 99.9)},
            "max": float(errors.max()),
        },
        "losses": [msgspec.to_builtins(epoch) for epoch in outcome.losses],
        "test": {domain: msgspec.to_builtins(group) for domain, group in outcome.figures.items()},
    }


def _long_enough(dataset: Dataset, params: FeatureParams, tally: Tally) -> list[Clip]:
    """The train clips that have at least one window that is not silent."""
    found = read_windows(dataset.train, params, hop_samples=params.window_samples, tally=tally)
    clips = [windows.clip for windows in found if len(windows.windows)]
    if len(clips) < 2:
        raise DataError(
            f"expected at least 2 train clips of one window or more (one to train on, one to choose"
            f" the threshold from), got {len(clips)} of {len(dataset.train)}"
        )
    return clips


def _split(clips: list[Clip], *, seed: int) -> tuple[list[Clip], list[Clip]]:
    """Clips to train on and clips to choose the threshold from.

    By file, since neighbouring windows share their sound. With seed 42 and the 3009 clips of the
    DCASE 2021 fan it is the reference design's own split, 2407 and 602.
    """
    train, held_out = train_test_split(clips, test_size=_HELD_OUT_SHARE, random_state=seed)
    return train, held_out


def _features(clips: list[Windows], params: FeatureParams) -> Float32Array:
    extract = FeatureExtractor(params)
    return np.stack([extract(window) for clip in clips for window in clip.windows])


def _train(
    request: TrainRequest, train: Float32Array, held_out: Float32Array, progress: Progress
) -> tuple["Autoencoder", tuple["Epoch", ...]]:
    # Takes seconds; everything that can be refused without it has been.
    from training.autoencoders import train_reference

    losses: list[Epoch] = []
    bar = progress(range(request.epochs), "training")
    next(bar)

    def on_epoch(epoch: "Epoch") -> None:
        losses.append(epoch)
        next(bar, None)

    autoencoder = train_reference(
        train,
        held_out,
        seed=request.seed,
        epochs=request.epochs,
        batch_size=request.batch_size,
        on_epoch=on_epoch,
    )
    return autoencoder, tuple(losses)


def _check_export(
    autoencoder: "Autoencoder", exported: LoadedModel, features: Float32Array
) -> None:
    """Raise `TrainingError` if the exported graph does not do what the network does."""
    if exported.input_shape[0] != 1:
        raise TrainingError(f"Expected a graph with a batch of 1, got {exported.input_shape}")
    for before, reconstruction in zip(features, autoencoder.reconstruct(features), strict=True):
        wanted = float(np.mean(np.square(before - reconstruction)))
        found = float(np.mean(np.square(before - exported(before))))
        if not abs(found - wanted) <= _EXPORT_TOLERANCE * wanted:
            raise TrainingError(
                f"the exported model differs from the trained one: expected an error of"
                f" {wanted:.4g} for a window, got {found:.4g}"
            )


def _manifest(
    request: TrainRequest,
    params: FeatureParams,
    content: bytes,
    *,
    model: Model,
    training: Training,
) -> Manifest:
    """The manifest, complete but for its threshold, which needs a scorer first."""
    return Manifest(
        name=request.name,
        version=request.version,
        created_us=time.time_ns() // 1000,
        description=request.description
        or f"Reference network, trained on the normal sound of {training.data}"[:200],
        features=params,
        window_hop_samples=round(HOP_SECONDS * params.sample_rate_hz),
        files=(describe_file(MODEL_NAME, content),),
        model=model,
        statistic="mse",
        threshold=Threshold(
            value=1.0, method="given", false_alarm_rate=None, calibration_windows=0
        ),
        training=training,
    )


def _model(params: FeatureParams, runtime: Runtime, parameters: int) -> Model:
    shape = (1, *params.shape, 1)
    return Model(
        file=MODEL_NAME,
        input_shape=shape,
        output_shape=shape,
        parameters=parameters,
        runtimes=(runtime.name,),
    )


def _training(request: TrainRequest, *, files: int, windows: int) -> Training:
    return Training(
        command=request.command,
        data=request.data.resolve().name[:200],
        files=files,
        windows=windows,
        seed=request.seed,
        epochs=request.epochs,
    )


def _threshold(quantile: Quantile) -> Threshold:
    return Threshold(
        value=quantile.value,
        method="quantile",
        false_alarm_rate=quantile.false_alarm_rate,
        calibration_windows=quantile.windows,
    )


def _score(scorer: Scorer, clip: Windows) -> ScoredClip:
    """Score the windows of a clip as a node would."""
    scored = [scorer.score(np.ascontiguousarray(window)) for window in clip.windows]
    errors = [window.mse for window in scored if window.mse is not None]
    if len(errors) < len(scored):
        raise TrainingError(f"{clip.clip.path.name}: the model gave no number for a window")
    return ScoredClip(
        clip.clip, tuple(errors), float(np.mean([window.level_dbfs for window in scored]))
    )


def _errors(clips: Sequence[ScoredClip]) -> Float64Array:
    return np.array([error for clip in clips for error in clip.errors])


def _rests_on_one_file(
    clips: Sequence[ScoredClip], quantile: Quantile, false_alarm_rate: float
) -> str | None:
    """One line if a single held-out file, perhaps a door that slammed, sets the threshold."""
    loudest = max(clips, key=lambda clip: max(clip.errors))
    others = [clip for clip in clips if clip is not loudest]
    if not others:
        return None
    without = conformal_quantile(_errors(others), false_alarm_rate=false_alarm_rate).value
    if quantile.value <= _ONE_FILE_FACTOR * without:
        return None
    return (
        f"the threshold of {quantile.value:.4g} rests on {loudest.clip.path.name} alone; without it"
        f" it would be {without:.4g}: listen to that file, or allow a higher --false-alarm-rate"
    )


class _Stopwatch:
    def __init__(self) -> None:
        self.laps: dict[str, float] = {}
        self._last = time.perf_counter()

    def lap(self, what: str) -> None:
        now = time.perf_counter()
        self.laps[what] = now - self._last
        self._last = now
