"""Judging a release by labelled recordings."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from node.scoring.release_store import read_release
from node.scoring.runtime import find_runtime
from node.scoring.scorer import Scorer
from tests.training.conftest import Run, RunTraining, WriteWav, hiss
from training.errors import DataError, DestinationError
from training.judge.evaluate import EvaluateRequest, evaluate_release
from training.judge.evaluation_report import EvaluationReport
from training.judge.metrics import clip_score
from training.progress import silent
from training.release.runtimes import find_tflite_python
from training.sound.feature_cache import FeatureCache

Evaluate = Callable[..., EvaluationReport]


@pytest.fixture(scope="session")
def evaluate() -> Evaluate:
    """Evaluate in this process."""

    def run(release: Path, data: Path, **changes: Any) -> EvaluationReport:
        settings: dict[str, Any] = {
            "release": release,
            "data": data,
            "machine": None,
            "json": None,
            "command": "earshot training evaluate",
            "channel": None,
            "room_noise": None,
            "tflite_python": None,
            "cache": FeatureCache(None),
        }
        request = EvaluateRequest(**{**settings, **changes})
        return evaluate_release(request, note=lambda text: None, progress=silent)

    return run


@pytest.fixture(scope="module")
def document(
    evaluate: Evaluate, duo_run: Run, small_data: Path, tmp_path_factory: pytest.TempPathFactory
) -> Any:
    """Evaluate the duo on the data that it was tested with, and read the JSON back."""
    path = tmp_path_factory.mktemp("figures") / "figures.json"
    evaluate(duo_run.out, small_data, json=path, tflite_python=find_tflite_python())
    return json.loads(path.read_text())


def test_figures_of_each_group(document: Any) -> None:
    """AUC, pAUC and the official score, of each section, of each domain and over all."""
    assert set(document["domains"]) == {"source", "target"}
    assert set(document["sections"]) == {"00", "01"}
    sections = document["sections"].values()
    groups = [document["overall"], *document["domains"].values(), *sections]
    groups += [figures for section in sections for figures in section["domains"].values()]
    for figures in groups:
        for name in ("auc", "pauc", "official"):
            assert 0 <= figures[name] <= 1
    assert document["overall"]["normal_clips"] == document["overall"]["anomaly_clips"] == 12
    assert document["domains"]["target"]["normal_clips"] == 6
    assert document["rule"] == "2021"
    assert document["official"] == document["overall"]["official"]
    low, high = document["official_interval"]
    assert low <= document["official"] <= high


def test_thresholds_stand_beside_flagging_everything(document: Any) -> None:
    """Each threshold has its F1 beside that of flagging all, its FPR and TPR, and both domains."""
    assert {"release", "percentile_95", "gamma_90", "conformal_0.10"} <= set(document["thresholds"])
    for threshold in document["thresholds"].values():
        assert set(threshold["domains"]) == {"source", "target"}
        for decision in (threshold["overall"], *threshold["domains"].values()):
            assert decision["flag_all_f1"] == pytest.approx(2 / 3)
            assert 0 <= decision["f1"] <= 1
            assert 0 <= decision["fpr"] <= 1
            assert 0 <= decision["tpr"] <= 1


def test_yardsticks_stand_beside(document: Any) -> None:
    """Chance, level, mixture and neighbours are judged on the same clips."""
    assert {"random", "level", "mean_gmm", "twfr_gmm", "knn"} == set(document["yardsticks"])
    for line in document["yardsticks"].values():
        assert 0 <= line["auc"] <= 1


def test_variants_in_each_library(document: Any) -> None:
    """Each quantisation has its size and what each library makes of it; one is the released one."""
    variants = document["variants"]

    assert set(variants) == {"float32", "float16", "dynamic", "int8"}
    assert [name for name, variant in variants.items() if variant["released"]] == ["float16"]
    for variant in variants.values():
        ours, other = variant["runtimes"].values()
        assert list(variant["runtimes"]) == [find_runtime().name, "tflite-runtime"]
        assert ours["outcome"] == "ran"
        assert 0 <= ours["auc"] <= 1
        assert other["outcome"] == "ran" or other["reason"]
        assert variant["size_bytes"] > 10_000
    assert variants["float32"]["runtimes"][find_runtime().name]["auc_difference"] == 0


def test_the_same_as_training_found(document: Any, duo_run: Run) -> None:
    """On the same data, every figure is the one that training wrote, but for what a clock says."""
    metrics = json.loads((duo_run.out / "metrics.json").read_text())
    assert set(document) <= set(metrics)

    def timeless(found: Any) -> Any:
        if isinstance(found, dict):
            return {k: timeless(v) for k, v in found.items() if k != "latency_ms"}
        return found

    for key in set(document) - {"command"}:
        assert timeless(document[key]) == timeless(metrics[key]), key


def test_scores_are_the_nodes(document: Any, duo_run: Run, small_data: Path) -> None:
    """The node's scorer on the raw sound gives the score of each clip."""
    scorer = Scorer(read_release(duo_run.out), find_runtime())

    for clip in document["clips"][::5]:
        sound, _ = soundfile.read(small_data / "fan" / clip["file"], dtype="float32")
        samples = np.asarray(sound, np.float32)
        windows = [scorer.score(samples[start:][:32_000]) for start in (0, 16_000)]
        statistics = np.array([window.statistic for window in windows], np.float64)
        assert clip_score(statistics, "mean") == pytest.approx(clip["score"], rel=1e-6)


def test_imported_model(
    evaluate: Evaluate, elsewhere: Path, small_data: Path, tmp_path: Path
) -> None:
    """A model of which only the file is known is judged by its threshold alone."""
    from training.release.import_model import ImportRequest, import_model

    import_model(
        ImportRequest(
            file=elsewhere,
            threshold=9.0,
            out=tmp_path / "other",
            name="other",
            version=1,
            description=None,
            overwrite=False,
            command="none",
        )
    )

    report = evaluate(tmp_path / "other", small_data)

    assert (report.release, report.recipe) == ("other@1", None)
    assert list(report.thresholds) == ["release"]
    assert report.thresholds["release"].value == 9.0
    assert report.official is not None
    ((name, variant),) = report.variants.items()
    assert (name, variant.released) == ("as released", True)


@pytest.mark.parametrize("missing", ["anomaly", "normal"])
def test_data_that_cannot_tell(
    evaluate: Evaluate, profile_run: Run, small_data: Path, tmp_path: Path, missing: str
) -> None:
    """Without clips of both labels nothing can be said, and one line says so."""
    shutil.copytree(
        small_data / "fan", tmp_path / "fan", ignore=shutil.ignore_patterns(f"*_test_{missing}_*")
    )

    with pytest.raises(DataError, match=f"got none labelled {missing}"):
        evaluate(profile_run.out, tmp_path / "fan")


def test_anomalies_that_are_all_too_short(
    evaluate: Evaluate, profile_run: Run, tmp_path: Path, write_wav: WriteWav
) -> None:
    """Test clips of which no window can be cut count as missing."""
    for index in range(3):
        write_wav(tmp_path / f"fan/train/section_00_source_train_normal_{index:04d}.wav")
        write_wav(tmp_path / f"fan/source_test/section_00_source_test_normal_{index:04d}.wav")
        short = tmp_path / f"fan/source_test/section_00_source_test_anomaly_{index:04d}.wav"
        write_wav(short, hiss(1))

    with pytest.raises(DataError, match="got none labelled anomaly"):
        evaluate(profile_run.out, tmp_path / "fan")


def test_metrics_that_are_none(
    evaluate: Evaluate, profile_run: Run, small_data: Path, tmp_path: Path
) -> None:
    """A `metrics.json` that training did not write is named."""
    shutil.copytree(profile_run.out, tmp_path / "other")
    (tmp_path / "other/metrics.json").write_text('{"windows": "some"}')

    with pytest.raises(DataError, match=r"metrics\.json: expected what `training train` wrote"):
        evaluate(tmp_path / "other", small_data)


def test_json_that_cannot_be_written(
    evaluate: Evaluate, profile_run: Run, small_data: Path, tmp_path: Path
) -> None:
    """A destination that is not there is named."""
    with pytest.raises(DestinationError, match="cannot write: No such file or directory"):
        evaluate(profile_run.out, small_data, json=tmp_path / "none" / "figures.json")


def test_clips_that_were_trained_on_are_told(
    profile_run: Run, small_data: Path, tmp_path: Path, run_training: RunTraining
) -> None:
    """A test clip with the content of a train clip, whatever it is called, is a warning."""
    data = Path(shutil.copytree(small_data, tmp_path / "small"))
    heard = min((data / "fan" / "train").iterdir())
    shutil.copy(heard, data / "fan" / "source_test" / "section_00_source_test_normal_0099.wav")

    done = run_training(["evaluate", profile_run.out, "--data", data])

    assert done.returncode == 0, done.stderr
    assert "1 of 25 test clips were in the release's training" in done.stderr
    assert "section_00_source_test_normal_0099.wav" in done.stderr
