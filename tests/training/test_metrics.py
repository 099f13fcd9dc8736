"""Figures beside their yardsticks."""

from pathlib import Path

import pytest

from training.dataset import Clip, parse_clip_name
from training.metrics import ScoredClip, figures, figures_by_domain


def clip(label: str, *errors: float, level: float = -20.0, domain: str = "source") -> ScoredClip:
    """Make a scored clip."""
    name = f"section_00_{domain}_test_{label}_0000.wav"
    parsed = parse_clip_name(name)
    assert parsed is not None
    return ScoredClip(Clip(Path(name), parsed), errors, level)


def test_hand_computed_figures() -> None:
    """AUC, F1 and shares of a set small enough to count on fingers."""
    found = figures(
        [
            clip("normal", 1.0, 3.0, level=-20),  # mean 2
            clip("normal", 5.0, 7.0, level=-30),  # mean 6: flagged
            clip("anomaly", 4.0, 4.0, level=-40),  # mean 4
            clip("anomaly", 8.0, 8.0, level=-25),  # mean 8: flagged
        ],
        threshold=5.5,
    )

    # Pairs in which the anomaly scores higher: 4>2, 8>2, 8>6 of four.
    assert found.auc == 0.75
    # Louder: -25 > -30 only; quieter is the better direction.
    assert (found.level_auc, found.level_direction) == (0.75, "quieter")
    # One true, one false, one missed: 2 / (2 + 1 + 1).
    assert found.f1 == 0.5
    assert found.flag_all_f1 == pytest.approx(2 / 3)
    assert found.normal_windows_flagged == 0.25
    assert found.anomalous_windows_flagged == 0.5


def test_one_label_alone() -> None:
    """Without anomalies there is no AUC and no F1, but a share of false alarms."""
    found = figures([clip("normal", 1.0, 3.0)], threshold=2.0)

    assert (found.auc, found.f1, found.flag_all_f1, found.level_auc) == (None,) * 4
    assert found.normal_windows_flagged == 0.5
    assert found.anomalous_windows_flagged is None


def test_domains_apart_and_together() -> None:
    """Each domain that has clips gets its figures, and all of them together."""
    found = figures_by_domain(
        [clip("normal", 1.0, domain="target"), clip("anomaly", 2.0, domain="target")], threshold=1.5
    )

    assert list(found) == ["target", "overall"]
    assert found["target"] == found["overall"]
    assert found["target"].f1 == 1.0
