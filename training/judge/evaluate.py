"""From a release and labelled recordings to figures: the story of `training evaluate`.

Everything comes from the `.tflite` files, run by the node's own code, and stands beside what needs
no network: chance, flagging everything, the level, a Gaussian mixture and the nearest neighbour.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import msgspec
import numpy as np

from contract.release import Manifest, Threshold
from node.scoring.release_store import read_release
from training.errors import DataError
from training.judge.disturbances import Disturbance, disturb
from training.judge.evaluation_report import (
    ClipRow,
    EvaluationReport,
    FaultFigures,
    RuntimeReport,
    SectionFigures,
    ThresholdReport,
    VariantReport,
    detector_figures,
    write_evaluation,
)
from training.judge.intervals import draw_resamples
from training.judge.metrics import (
    ClipScore,
    DcaseRule,
    Evaluation,
    Float64Array,
    ScoredClip,
    auc,
    clip_scores,
    evaluate_scores,
)
from training.judge.scoring import WindowChoice, chosen, scored, stacked
from training.judge.stream import detection_delays, false_alarms
from training.judge.threshold_figures import decisions, votes
from training.judge.thresholds import (
    ThresholdChoice,
    conformal_quantile,
    gamma_threshold,
    percentile_threshold,
)
from training.judge.training_record import TrainingRecord, heard_in_training, read_training_record
from training.judge.yardstick_figures import Yardsticks, yardstick_figures
from training.made.harden import original_of, planted_in
from training.progress import Progress
from training.release.release_folder import variant_folders
from training.release.runtime_trial import RuntimeTrial
from training.release.runtimes import try_runtimes
from training.sound.dataset import Clip, Dataset, Domain, find_dataset
from training.sound.feature_cache import ClipFeatures, FeatureCache, read_features
from training.sound.recordings import Note, ReadingTally
from training.staging import refuse_unwritable

_CLIP_SCORES: tuple[ClipScore, ...] = ("mean", "top10", "max")
_FEW_TEST_CLIPS = 20
_FALSE_ALARM_RATE = 0.01


class EvaluationInput(msgspec.Struct, frozen=True):
    """What evaluation needs of a release folder and of recordings."""

    folder: Path
    data: str
    """The data set's name in the report."""
    dataset: Dataset
    test: Sequence[ClipFeatures]
    """Test clips with the features that the release takes."""
    yardsticks: Yardsticks
    warnings: Sequence[str]
    """Warnings of what was found while the recordings were read."""
    held_out: Sequence[ScoredClip]
    """Normal clips that the release was not trained on; empty where none are known."""
    unheard_sessions: ThresholdChoice | None
    """The threshold from windows of sessions left out; None where training left none out."""
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


def evaluate_release(
    request: EvaluateRequest, *, note: Note, progress: Progress
) -> EvaluationReport:
    """Judge a release and its variants; write the JSON if it was asked for.

    Raises:
        EarshotError: release, recordings or destination do not let it.
    """
    manifest = read_release(request.release).manifest
    if request.json is not None:
        refuse_unwritable(request.json)
    dataset = find_dataset(request.data, request.machine)
    require_labels(dataset)
    metrics = read_training_record(request.release, manifest)
    check = metrics.session_check
    tally = ReadingTally()
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
    judgement = EvaluationInput(
        folder=request.release,
        data=request.data.resolve().name[:200],
        dataset=dataset,
        test=test,
        yardsticks=yardstick_figures(
            dataset, [clip.clip for clip in test], manifest.features, read
        ),
        held_out=_held_out(metrics, dataset),
        unheard_sessions=None if check is None else check.threshold,
        warnings=heard_in_training(metrics, [clip.clip.path for clip in test], "test clips"),
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
        write_evaluation(report, request.json)
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


def judge(judgement: EvaluationInput) -> EvaluationReport:
    """All figures of a release folder and its variants; see `EvaluationReport`."""
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
    rule: DcaseRule | None = "2022" if judgement.dataset.layout == "DCASE 2022 and later" else None
    evaluation = evaluate_scores(clips, how=judgement.clip_score, rule=rule, resamples=resamples)
    threshold = manifest.threshold.value
    ratios = [clip.statistics / threshold for clip in clips]
    normals = [r for r, clip in zip(ratios, clips, strict=True) if not clip.is_anomaly]
    anomalies = [r for r, clip in zip(ratios, clips, strict=True) if clip.is_anomaly]
    # Of one window of each clip there is nothing to vote on.
    streams = judgement.windows == "all"
    hop_seconds = manifest.window_hop_samples / manifest.features.sample_rate_hz
    return EvaluationReport(
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
        clip_scores={how: detector_figures(clips, how, resamples) for how in _CLIP_SCORES},
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


def _held_out(metrics: TrainingRecord, dataset: Dataset) -> list[ScoredClip]:
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
    manifest: Manifest, clips: Sequence[ScoredClip], judgement: EvaluationInput
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
        found = detector_figures(scored(test, trial.statistics), how, None)
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


def _rows(clips: Sequence[ScoredClip], judgement: EvaluationInput) -> list[ClipRow]:
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
