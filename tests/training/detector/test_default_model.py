"""The model that comes with the repository."""

import numpy as np
import pytest

from node.scoring.release_store import read_release
from node.scoring.runtime import find_runtime
from node.scoring.scorer import Scorer
from node.sound.synthetic import MachineSound, Synthesizer
from tests.training.conftest import ROOT
from training.recipes import DEFAULT_RECIPE

FOLDER = ROOT / "models" / "fan-synthetic"
WINDOWS = 20


@pytest.fixture(scope="module")
def scorer() -> Scorer:
    """Load it as a node does."""
    return Scorer(read_release(FOLDER), find_runtime())


def share_flagged(scorer: Scorer, unit: int, fault: str | None) -> float:
    """Score takes that training has not heard."""
    sound = MachineSound(unit=unit, seed=1234, fault=fault, severity=0.6)
    samples = Synthesizer(sound, sample_rate_hz=16_000).read((WINDOWS + 1) * 16_000)
    scored = [scorer.score(samples[i * 16_000 :][:32_000]) for i in range(WINDOWS)]
    return float(np.mean([window.anomaly for window in scored]))


def test_manifest(scorer: Scorer) -> None:
    """It is the default recipe, small, and tells nothing about the machine it was made on."""
    manifest = scorer.manifest

    assert manifest.label == "fan-synthetic@1"
    assert manifest.training.recipe == DEFAULT_RECIPE
    assert [model.parameters for model in manifest.models] == [6_320]
    assert manifest.models_bytes < 20_000
    assert manifest.runtimes == ("ai-edge-litert", "tflite-runtime")
    for file in ("manifest.json", "metrics.json", "results.csv", "report.html"):
        text = (FOLDER / file).read_text()
        assert not any(word in text for word in ("tmp/", "home/", "work/", "root/"))


@pytest.mark.parametrize("unit", [0, 1, 2])
def test_healthy_sound_is_normal(scorer: Scorer, unit: int) -> None:
    """In 20 windows of an unheard take of a healthy unit there is at most a stray flag."""
    assert share_flagged(scorer, unit, None) <= 1 / WINDOWS


@pytest.mark.parametrize("unit", [0, 1, 2])
@pytest.mark.parametrize("fault", ["bearing", "loose_blade"])
def test_faults_are_flagged(scorer: Scorer, unit: int, fault: str) -> None:
    """Nearly every window with a fault of severity 0.6 is flagged."""
    assert share_flagged(scorer, unit, fault) >= 0.95
