"""From a release and labelled recordings to figures: the story of `training evaluate`.

Everything comes from the `.tflite` files, run by the node's own code, and stands beside what needs
no network: chance, flagging everything, the level, a Gaussian mixture and the nearest neighbour.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

import msgspec
import numpy as np

from contract import VERSION
from contract.feature_params import FeatureParams
from contract.release import Manifest, Threshold
from node.scoring.release_store import read_release
from training.errors import DataError, DestinationError
from training.judge.disturbances import Disturbance, disturb
from training.judge.intervals import draw_resamples
from training.judge.metrics import (
    BoolArray,
    ClipScore,
    Decision,
    Evaluation,
    Figures,
    Figures2022,
    Float64Array,
    Interval,
    Rule,
    ScoredClip,
    Vote,
    auc,
    clip_scores,
    decisions,
    evaluate_scores,
    rescored,
    votes,
)
from training.judge.scoring import WindowChoice, chosen, scored, stacked
from training.judge.stream import Delays, FalseAlarms, detection_delays, false_alarms
from training.judge.thresholds import (
    SessionCheck,
    ThresholdChoice,
    conformal_quantile,
    gamma_threshold,
    percentile_threshold,
)
from training.judge.yardsticks import (
    by_section,
    gmm_scores,
    level_oracle,
    nearest_neighbour_scores,
    pool,
    random_scores,
)
from training.made.harden import original_of, planted_in
from training.progress import Progress
from training.recipes import read_recipe, recipe_names
from training.release.release_folder import METRICS_NAME, VARIANTS_NAME, variant_folders
from training.release.runtime_trial import LatencyMs, RuntimeTrial
from training.release.runtimes import try_runtimes
from training.sound.dataset import Clip, Dataset, Domain, find_dataset
from training.sound.feature_cache import ClipFeatures, FeatureCache, read_features
from training.sound.recordings import Note, Tally
from training.staging import refuse_unwritable

YARDSTICK_FEATURES = FeatureParams(kind="logmel", n_fft=1024, frames=63)
"""Log-mel of 128 bands, as in TWFR-GMM and the official baselines; of windows of any length."""
_TWFR_R = 0.98
_CLIP_SCORES: tuple[ClipScore, ...] = ("mean", "top10", "max")
_FEW_TEST_CLIPS = 20
_FALSE_ALARM_RATE = 0.01
_FEWEST_TO_COMPARE_WITH = 2


class Line(msgspec.Struct, frozen=True, kw_only=True):
    """The figures of one detector or yardstick in short; None where a label is missing."""

    auc: float | None
    pauc: float | None
    official: float | None
    official_interval: Interval | None
    domains: dict[Domain, float | None]
    """AUC of each."""
    remark: str = ""


class SectionFigures(msgspec.Struct, frozen=True, kw_only=True):
    """A section as a whole and by domain."""

    auc: float | None
    pauc: float | None
    official: float | None
    domains: dict[Domain, Figures]


class ThresholdReport(msgspec.Struct, frozen=True, kw_only=True):
    """A threshold on the clips' scores, from normal sound alone, and what it does."""

    method: str
    value: float
    false_alarm_rate: float | None
    """Asked of it; None where nobody did."""
    count: int
    """Scores of held-out normal clips (or windows) that it was chosen from."""
    overall: Decision
    domains: dict[Domain, Decision]


class RuntimeReport(msgspec.Struct, frozen=True, kw_only=True):
    """A variant in one inference library."""

    version: str | None
    outcome: str
    reason: str | None
    auc: float | None
    pauc: float | None
    official: float | None
    auc_difference: float | None
    """To float32 in the library that comes first."""
    latency_ms: LatencyMs | None


class VariantReport(msgspec.Struct, frozen=True, kw_only=True):
    """One quantisation of the models."""

    released: bool
    size_bytes: int
    operators: tuple[str, ...]
    runtimes: dict[str, RuntimeReport]


class ClipRow(msgspec.Struct, frozen=True, kw_only=True):
    """A clip and its score, for whoever wants to compare runs."""

    file: str
    section: str
    domain: Domain
    label: str
    recording: str
    """The clip itself, or the one that its fault was planted in."""
    attributes: str
    score: float
    level_dbfs: float


class FaultFigures(msgspec.Struct, frozen=True, kw_only=True):
    """How well planted faults of one kind or severity are heard."""

    clips: int
    auc: float | None
    """Against all normal clips."""
    above_original: float
    """Share of them that score above the very clip that they were planted in: 0.5 is chance."""


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """All that labelled recordings say about a release."""

    schema: int = 1
    earshot: str = VERSION
    release: str
    recipe: str | None
    data: str
    machine: str
    layout: str
    command: str
    runtime: str
    clip_score: ClipScore
    windows: WindowChoice
    warnings: tuple[str, ...]
    official: float | None
    official_interval: Interval | None
    rule: Rule
    """Whose `official` is; `overall`, `domains` and `sections` are always by the rule of 2021."""
    overall: Figures
    domains: dict[Domain, Figures]
    sections: dict[str, SectionFigures]
    official_2022: Figures2022
    pooled: Figures
    left_out: tuple[str, ...]
    clip_scores: dict[ClipScore, Line]
    thresholds: dict[str, ThresholdReport]
    votes: dict[str, Vote]
    """After the node's vote over windows at the release's threshold, overall and by domain."""
    false_alarms: FalseAlarms | None
    delays: Delays | None
    faults: dict[str, FaultFigures]
    """By kind and by severity; empty unless faults were planted by `synthesize --hard`."""
    room_noise: tuple[Disturbance, ...]
    """Empty where none was asked for."""
    yardsticks: dict[str, Line]
    yardstick_scores: dict[str, tuple[float, ...]]
    """Of the clips, in their order."""
    variants: dict[str, VariantReport]
    clips: tuple[ClipRow, ...]


class Yardsticks(msgspec.Struct, frozen=True):
    """What detectors without a network say of the test clips."""

    lines: dict[str, Line]
    scores: dict[str, tuple[float, ...]]


class Judgement(msgspec.Struct, frozen=True):
    """What evaluation needs of a release folder and of recordings."""

    folder: Path
    data: str
    """What to call the data set."""
    dataset: Dataset
    test: Sequence[ClipFeatures]
    """With the features of the release."""
    yardsticks: Yardsticks
    warnings: Sequence[str]
    """What was found while getting ready."""
    held_out: Sequence[ScoredClip]
    """Normal clips that the release was not trained on; empty where none are known."""
    unheard_sessions: ThresholdChoice | None
    """From windows of sessions left out; None where training left none out."""
    recipe: str | None
    clip_score: ClipScore
    windows: WindowChoice
    command: str
    tflite_python: Path | None


class EvaluateRequest(msgspec.Struct, frozen=True, kw_only=True):
    """Which release to judge by which recordings."""

    release: Path
    data: Path
    machine: str | None
    json: Path | None
    command: str
    channel: int | None
    room_noise: Path | None
    """Folder of noise by kind, for the held-out clips; see `training.judge.disturbances`."""
    tflite_python: Path | None
    cache: FeatureCache


def evaluate_release(request: EvaluateRequest, *, note: Note, progress: Progress) -> Report:
    """Judge a release and its variants; write the JSON if it was asked for.

    Raises:
        EarshotError: release, recordings or destination do not let it.
    """
    manifest = read_release(request.release).manifest
    if request.json is not None:
        refuse_unwritable(request.json)
    dataset = find_dataset(request.data, request.machine)
    require_labels(dataset)
    metrics = _metrics_beside(request.release, manifest)
    check = metrics.session_check
    tally = Tally()
    read = partial(
        read_features,
        hop_samples=manifest.window_hop_samples,
        cache=request.cache,
        unreadable="refuse",
        tally=tally,
        progress=progress,
        channel=request.channel,
    )
    test = read(dataset.test, manifest.features)
    for line in tally.lines(manifest.features):
        note(line)
    # Clips that are too short or silent may have been all there were.
    require_labels(msgspec.structs.replace(dataset, test=tuple(clip.clip for clip in test)))
    judgement = Judgement(
        folder=request.release,
        data=request.data.resolve().name[:200],
        dataset=dataset,
        test=test,
        yardsticks=yardsticks(dataset, [clip.clip for clip in test], manifest.features, read),
        held_out=_held_out(metrics, dataset),
        unheard_sessions=None if check is None else check.threshold,
        warnings=_trained_on(metrics, test),
        recipe=manifest.training.recipe,
        clip_score=metrics.clip_score,
        windows=metrics.windows,
        command=request.command,
        tflite_python=request.tflite_python,
    )
    noise: tuple[Disturbance, ...] = ()
    if request.room_noise is not None:
        noise = disturb(
            request.release,
            [
                clip
                for clip in dataset.train
                if clip.path.relative_to(dataset.folder).as_posix() in metrics.held_out
            ],
            request.room_noise,
            channel=request.channel,
            progress=progress,
        )
    report = msgspec.structs.replace(judge(judgement), room_noise=noise)
    for text in report.warnings:
        note(text)
    if request.json is not None:
        write_json(report, request.json)
    return report


def require_labels(dataset: Dataset) -> None:
    """Refuse a data set that cannot say how good a detector is.

    Raises:
        DataError: it has no normal or no anomalous test clips.
    """
    for label in ("normal", "anomaly"):
        if not any(clip.label == label for clip in dataset.test):
            raise DataError(
                f"{dataset.folder}: expected test clips labelled normal and anomaly,"
                f" got none labelled {label}"
            )


ReadFeatures = Callable[[Sequence[Clip], FeatureParams], list[ClipFeatures]]


def judge(judgement: Judgement) -> Report:
    """All figures of a release folder and its variants; see `Report`."""
    test = chosen(judgement.test, judgement.windows)
    features = stacked(test)
    folders = {"released": judgement.folder, **variant_folders(judgement.folder)}
    trials = dict(
        zip(
            folders,
            try_runtimes(list(folders.values()), features, tflite_python=judgement.tflite_python),
            strict=True,
        )
    )
    manifest = read_release(judgement.folder).manifest
    clips = scored(test, _ran(trials["released"]))
    resamples = draw_resamples([clip.clip for clip in clips], seed=0, group=original_of)
    rule: Rule | None = "2022" if judgement.dataset.layout == "DCASE 2022 and later" else None
    evaluation = evaluate_scores(clips, how=judgement.clip_score, rule=rule, resamples=resamples)
    threshold = manifest.threshold.value
    ratios = [clip.statistics / threshold for clip in clips]
    normals = [r for r, clip in zip(ratios, clips, strict=True) if not clip.is_anomaly]
    anomalies = [r for r, clip in zip(ratios, clips, strict=True) if clip.is_anomaly]
    # Of one window of each clip there is nothing to vote on.
    streams = judgement.windows == "all"
    hop_seconds = manifest.window_hop_samples / manifest.features.sample_rate_hz
    return Report(
        release=manifest.label,
        recipe=judgement.recipe,
        data=judgement.data,
        machine=judgement.dataset.machine,
        layout=judgement.dataset.layout,
        command=judgement.command,
        runtime=f"{trials['released'][0].runtime} {trials['released'][0].version}",
        clip_score=judgement.clip_score,
        windows=judgement.windows,
        warnings=(*judgement.warnings, *_warnings(clips)),
        official=evaluation.official,
        official_interval=evaluation.official_interval,
        rule=evaluation.rule,
        overall=evaluation.overall,
        domains=evaluation.by_domain,
        sections=_sections(evaluation),
        official_2022=evaluation.overall_2022,
        pooled=evaluation.pooled,
        left_out=evaluation.left_out,
        clip_scores={how: line(clips, how, resamples) for how in _CLIP_SCORES},
        thresholds=_thresholds(manifest, clips, judgement),
        votes=(
            {str(group): vote for group, vote in votes(clips, threshold=threshold).items()}
            if streams
            else {}
        ),
        false_alarms=false_alarms(normals, hop_seconds=hop_seconds) if streams else None,
        delays=None
        if not streams
        else detection_delays(
            normals,
            anomalies,
            hop_seconds=hop_seconds,
            window_seconds=manifest.features.window_us / 1e6,
        ),
        faults=_faults(clips, judgement.clip_score),
        room_noise=(),
        yardsticks=judgement.yardsticks.lines,
        yardstick_scores=judgement.yardsticks.scores,
        variants=_variants(folders, trials, test, judgement.clip_score),
        clips=tuple(_rows(clips, judgement)),
    )


def line(
    clips: Sequence[ScoredClip],
    how: ClipScore,
    resamples: Float64Array | None,
    remark: str = "",
) -> Line:
    """A detector's figures in short."""
    found = evaluate_scores(clips, how=how, resamples=resamples)
    return Line(
        auc=found.overall.auc,
        pauc=found.overall.pauc,
        official=found.official,
        official_interval=found.official_interval,
        domains={domain: figures.auc for domain, figures in found.by_domain.items()},
        remark=remark,
    )


def yardsticks(
    dataset: Dataset, test_clips: Sequence[Clip], windows: FeatureParams, read: ReadFeatures
) -> Yardsticks:
    """What needs no network, on the same windows; see `training.judge.yardsticks`.

    Those that compare with normal clips are left out where a tested section has less than 2.
    """
    params = msgspec.structs.replace(
        YARDSTICK_FEATURES,
        sample_rate_hz=windows.sample_rate_hz,
        window_samples=windows.window_samples,
        frames=1 + windows.window_samples // YARDSTICK_FEATURES.frame_hop_samples,
    )
    train, test = (read(clips, params) for clips in (dataset.train, list(test_clips)))
    own = [clip.clip for clip in test]
    clips = [ScoredClip(clip.clip, np.array([0.0]), float(clip.level_dbfs.mean())) for clip in test]
    labels: BoolArray = np.array([clip.is_anomaly for clip in clips])
    level = level_oracle(labels, np.array([clip.level_dbfs for clip in clips]))
    found = {
        "random": (random_scores(len(clips), seed=0), "one draw"),
        "level": (level.scores, f"{level.direction} is anomalous, chosen with the test labels"),
    }

    def pooled(r: float) -> tuple[Float64Array, Float64Array]:
        frames = params.sound_frames
        train_and_test = [
            np.stack([pool(clip.features, sound_frames=frames, r=r) for clip in part])
            for part in (train, test)
        ]
        return train_and_test[0], train_and_test[1]

    to_compare_with = Counter(clip.clip.section for clip in train)
    if all(to_compare_with[clip.section] >= _FEWEST_TO_COMPARE_WITH for clip in own):
        heard = [clip.clip for clip in train]
        mean_train, mean_test = pooled(1.0)
        twfr_train, twfr_test = pooled(_TWFR_R)
        found |= {
            "mean_gmm": (
                by_section(gmm_scores, mean_train, heard, mean_test, own),
                "mean log-mel, 2 components",
            ),
            "twfr_gmm": (
                by_section(gmm_scores, twfr_train, heard, twfr_test, own),
                f"the same with r = {_TWFR_R:g}",
            ),
            "knn": (
                by_section(nearest_neighbour_scores, mean_train, heard, mean_test, own),
                "mean log-mel, k = 1",
            ),
        }
    resamples = draw_resamples(own, seed=0, group=original_of)
    return Yardsticks(
        {
            name: line(rescored(clips, scores), "mean", resamples, remark)
            for name, (scores, remark) in found.items()
        },
        {name: tuple(scores.tolist()) for name, (scores, _) in found.items()},
    )


def write_json(report: Report, path: Path) -> None:
    """Write a report.

    Raises:
        DestinationError: the disk does not let it.
    """
    text = json.dumps(msgspec.to_builtins(report), indent=1, allow_nan=False)
    try:
        path.write_text(text + "\n", encoding="utf-8")
    except OSError as error:
        raise DestinationError(f"{path}: cannot write: {error.strerror}") from error


class _Beside(msgspec.Struct, kw_only=True):
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


def _trained_on(metrics: _Beside, test: Sequence[ClipFeatures]) -> list[str]:
    known = set(metrics.trained_on)
    heard = [clip.clip.path for clip in test if known and fingerprint(clip.clip.path) in known]
    if not heard:
        return []
    return [
        f"{len(heard)} of {len(test)} test clips were in the release's training, such as"
        f" {heard[0].name}: the figures are too good"
    ]


def _metrics_beside(folder: Path, manifest: Manifest) -> _Beside:
    beside = [folder / METRICS_NAME]
    if folder.absolute().parent.name == VARIANTS_NAME:
        beside.append(folder.absolute().parents[1] / METRICS_NAME)
    path = next((path for path in beside if path.exists()), None)
    if path is None:
        recipe = manifest.training.recipe
        if recipe not in recipe_names():
            return _Beside()
        known = read_recipe(recipe)
        return _Beside(clip_score=known.clip_score, windows=known.windows)
    try:
        return msgspec.json.decode(path.read_bytes(), type=_Beside)
    except (OSError, msgspec.MsgspecError) as error:
        raise DataError(f"{path}: expected what `training train` wrote: {error}") from error


def _held_out(metrics: _Beside, dataset: Dataset) -> list[ScoredClip]:
    """Held-out clips, whose sound need not be there: only their scores are used."""
    return [
        ScoredClip(
            Clip(
                path=dataset.folder / name,
                section="",
                domain="source",
                split="train",
                label="normal",
                session=None,
            ),
            np.array(of_windows),
            0.0,
        )
        for name, of_windows in metrics.held_out.items()
    ]


def _ran(trials: Sequence[RuntimeTrial]) -> Float64Array:
    first = trials[0]
    if first.statistics is None:
        raise DataError(f"{first.runtime} cannot run the release: {first.reason}")
    return first.statistics


def _warnings(clips: Sequence[ScoredClip]) -> list[str]:
    counts: dict[tuple[str, str, str], int] = {}
    for clip in clips:
        key = clip.clip.section, clip.clip.domain, str(clip.clip.label)
        counts[key] = counts.get(key, 0) + 1
    few = [
        f"{count} {label} of section {section}, {domain}"
        for (section, domain, label), count in sorted(counts.items())
        if count < _FEW_TEST_CLIPS
    ]
    if not few:
        return []
    return [
        f"few test clips, so that figures are rough: {', '.join(few[:4])}"
        + (f" and {len(few) - 4} more" if len(few) > 4 else "")
    ]


def _sections(evaluation: Evaluation) -> dict[str, SectionFigures]:
    return {
        section: SectionFigures(
            auc=figures.auc,
            pauc=figures.pauc,
            official=figures.official,
            domains=evaluation.by_section_and_domain[section],
        )
        for section, figures in evaluation.by_section.items()
    }


def _thresholds(
    manifest: Manifest, clips: Sequence[ScoredClip], judgement: Judgement
) -> dict[str, ThresholdReport]:
    how = judgement.clip_score
    found = {"release": _threshold(clips, how, manifest.threshold)}
    if not judgement.held_out:
        return found
    scores = clip_scores(judgement.held_out, how)
    windows = np.concatenate([clip.statistics for clip in judgement.held_out])
    rate = manifest.threshold.false_alarm_rate or _FALSE_ALARM_RATE
    choices = {
        "held_out": conformal_quantile(windows, false_alarm_rate=rate),
        "conformal_0.10": conformal_quantile(scores, false_alarm_rate=0.1),
        "percentile_95": percentile_threshold(scores, 95),
        "gamma_90": gamma_threshold(scores, 0.9),
    }
    if judgement.unheard_sessions is not None:
        choices["sessions_left_out"] = judgement.unheard_sessions
    return found | {name: _threshold(clips, how, choice) for name, choice in choices.items()}


def _threshold(
    clips: Sequence[ScoredClip], how: ClipScore, choice: Threshold | ThresholdChoice
) -> ThresholdReport:
    by_group = decisions(clips, threshold=choice.value, how=how)
    domains: tuple[Domain, ...] = ("source", "target")
    return ThresholdReport(
        method=choice.method,
        value=choice.value,
        false_alarm_rate=choice.false_alarm_rate,
        count=choice.count if isinstance(choice, ThresholdChoice) else choice.calibration_windows,
        overall=by_group["overall"],
        domains={domain: by_group[domain] for domain in domains if domain in by_group},
    )


def _faults(clips: Sequence[ScoredClip], how: ClipScore) -> dict[str, FaultFigures]:
    scores = dict(
        zip((str(clip.clip.path) for clip in clips), clip_scores(clips, how), strict=True)
    )
    normals = [scores[str(clip.clip.path)] for clip in clips if not clip.is_anomaly]
    groups: dict[str, list[tuple[float, float]]] = {}
    for clip in clips:
        planted = planted_in(clip.clip)
        original = original_of(clip.clip)
        if planted is not None and original in scores:
            pair = scores[str(clip.clip.path)], scores[original]
            for group in (planted.fault, f"severity {planted.severity:g}"):
                groups.setdefault(group, []).append(pair)
    found = {}
    for group, pairs in sorted(groups.items()):
        own = np.array([score for score, _ in pairs])
        labels = np.repeat([False, True], [len(normals), len(own)])
        found[group] = FaultFigures(
            clips=len(pairs),
            auc=auc(labels, np.concatenate([normals, own])),
            above_original=float(np.mean([score > original for score, original in pairs])),
        )
    return found


def _variants(
    folders: Mapping[str, Path],
    trials: Mapping[str, Sequence[RuntimeTrial]],
    test: Sequence[ClipFeatures],
    how: ClipScore,
) -> dict[str, VariantReport]:
    released = read_release(folders["released"]).manifest.models[0].quantisation
    # A folder without variants still has the released one.
    names = [name for name in folders if name != "released"] or ["released"]
    exact = trials["float32"][0] if "float32" in trials else None
    float_auc = None if exact is None else _runtime(exact, test, how, None).auc
    reports = {}
    for name in names:
        manifest = read_release(folders[name]).manifest
        reports[name if name != "released" else released or "as released"] = VariantReport(
            released=name in ("released", released),
            size_bytes=manifest.models_bytes,
            operators=trials[name][0].operators,
            runtimes={
                trial.runtime: _runtime(trial, test, how, float_auc) for trial in trials[name]
            },
        )
    return reports


def _runtime(
    trial: RuntimeTrial, test: Sequence[ClipFeatures], how: ClipScore, float_auc: float | None
) -> RuntimeReport:
    found = None
    if trial.statistics is not None:
        found = line(scored(test, trial.statistics), how, None)
    return RuntimeReport(
        version=trial.version,
        outcome=trial.outcome,
        reason=trial.reason,
        auc=None if found is None else found.auc,
        pauc=None if found is None else found.pauc,
        official=None if found is None else found.official,
        auc_difference=(
            None
            if found is None or found.auc is None or float_auc is None
            else found.auc - float_auc
        ),
        latency_ms=trial.latency_ms,
    )


def _rows(clips: Sequence[ScoredClip], judgement: Judgement) -> list[ClipRow]:
    def below(path: Path) -> str:
        return path.relative_to(judgement.dataset.folder).as_posix()

    return [
        ClipRow(
            file=below(clip.clip.path),
            section=clip.clip.section,
            domain=clip.clip.domain,
            label=str(clip.clip.label),
            recording=below(Path(original_of(clip.clip))),
            attributes=clip.clip.attributes,
            score=float(score),
            level_dbfs=round(clip.level_dbfs, 2),
        )
        for clip, score in zip(clips, clip_scores(clips, judgement.clip_score), strict=True)
    ]
