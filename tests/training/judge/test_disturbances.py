"""Room noise mixed into normal clips."""

from pathlib import Path

import numpy as np
import pytest

from tests.training.conftest import WriteWav, hiss
from training.errors import DataError
from training.judge.disturbances import disturb
from training.progress import silent
from training.sound.dataset import Clip

MODEL = Path(__file__).parents[3] / "models" / "fan-synthetic"
RATE_HZ = 16_000


@pytest.fixture
def noise(tmp_path: Path, write_wav: WriteWav) -> Path:
    """Write a whistle as loud as can be and a hiss, two recordings of each."""
    time_s = np.arange(4 * RATE_HZ) / RATE_HZ
    whistle = (0.5 * np.sin(2 * np.pi * 3000 * time_s)).astype(np.float32)
    for index in range(2):
        write_wav(tmp_path / "noise" / "whistle" / f"{index}.wav", whistle)
        write_wav(tmp_path / "noise" / "hiss" / f"{index}.wav", hiss(4, seed=90 + index))
    return tmp_path / "noise"


def normals(tmp_path: Path, write_wav: WriteWav, *, count: int, sessions: int = 1) -> list[Clip]:
    """Write clips of soft noise, in turn of each session."""
    return [
        Clip(
            path=write_wav(tmp_path / "train" / f"{index}.wav", hiss(6, seed=index)),
            section="00",
            domain="source",
            split="train",
            label="normal",
            session=f"day {index % sessions}",
        )
        for index in range(count)
    ]


def test_whistle_rings_and_clean_sound_does_not(
    tmp_path: Path, write_wav: WriteWav, noise: Path
) -> None:
    """A tone as loud as the machine is flagged everywhere, clean sound mostly not."""
    clips = normals(tmp_path, write_wav, count=6)

    found = disturb(MODEL, clips, noise, channel=None, progress=silent)

    by_condition = {(each.kind, each.ratio_db): each for each in found}
    assert set(by_condition) == {
        ("none", None),
        *((kind, ratio) for kind in ("hiss", "whistle") for ratio in (10.0, 0.0)),
    }
    assert by_condition["none", None].clips == 6
    assert by_condition["none", None].windows == 6 * 5
    assert by_condition["whistle", 0.0].clips == 6 * 3
    assert by_condition["whistle", 0.0].windows_flagged == 1.0
    assert by_condition["whistle", 0.0].clips_alarmed == 1.0
    assert by_condition["none", None].windows_flagged < 0.5


def test_sessions_that_are_too_small_are_taken_together(
    tmp_path: Path, write_wav: WriteWav, noise: Path
) -> None:
    """Where each clip is a session of its own, the section's others give the threshold."""
    clips = normals(tmp_path, write_wav, count=4, sessions=4)

    found = disturb(MODEL, clips, noise, channel=None, progress=silent)

    assert found[0].clips == 4


def test_too_few_clips_are_refused(tmp_path: Path, write_wav: WriteWav, noise: Path) -> None:
    """Two clips cannot say what is normal."""
    with pytest.raises(DataError, match="at least 3 held-out clips of a section"):
        disturb(
            MODEL,
            normals(tmp_path, write_wav, count=2),
            noise,
            channel=None,
            progress=silent,
        )
