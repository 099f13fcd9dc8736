"""Between clips and windows."""

from pathlib import Path

import numpy as np
import pytest

from training.errors import TrainingError
from training.judge.scoring import chosen, scored, stacked
from training.sound.dataset import Clip
from training.sound.feature_cache import ClipFeatures


def clip(name: str, *, windows: int, first: float) -> ClipFeatures:
    """Make a clip whose windows are filled with numbers from `first` on, and levels alike."""
    numbers = first + np.arange(windows, dtype=np.float64)
    features = np.ones((windows, 2, 3), np.float32) * numbers[:, None, None].astype(np.float32)
    known = Clip(
        path=Path(name), section="00", domain="source", split="test", label="normal", session=None
    )
    return ClipFeatures(known, features, -numbers, 0)


CLIPS = [clip("a.wav", windows=3, first=0), clip("b.wav", windows=1, first=10)]


def test_all_windows() -> None:
    """All windows are taken, in the order of clips."""
    found = stacked(chosen(CLIPS, "all"))

    assert found.shape == (4, 2, 3)
    assert found[:, 0, 0].tolist() == [0, 1, 2, 10]


def test_first_windows() -> None:
    """Of each clip the first window is taken, with its level; the clips given stay whole."""
    found = chosen(CLIPS, "first")

    assert stacked(found)[:, 0, 0].tolist() == [0, 10]
    assert [clip.level_dbfs.tolist() for clip in found] == [[0], [-10]]
    assert [len(clip.features) for clip in CLIPS] == [3, 1]


def test_statistics_go_back_to_their_clips() -> None:
    """Each clip gets as many statistics as it has windows, and the mean of its levels."""
    found = scored(CLIPS, np.array([1.0, 2.0, 3.0, 4.0]))

    assert [each.clip.path.name for each in found] == ["a.wav", "b.wav"]
    assert [each.statistics.tolist() for each in found] == [[1, 2, 3], [4]]
    assert [each.level_dbfs for each in found] == [-1, -10]


@pytest.mark.parametrize("number", [np.nan, np.inf])
def test_statistic_that_is_no_number(number: float) -> None:
    """The clip is named."""
    with pytest.raises(TrainingError, match=r"b\.wav: the model gave no number for a window"):
        scored(CLIPS, np.array([1.0, 2.0, 3.0, number]))
