"""Generated data sets."""

import csv
from pathlib import Path

import msgspec
import numpy as np
import pytest
import soundfile

from node.sound.synthetic import FAULTS, Synthesizer, parse_spec
from training.errors import DataError, DestinationError
from training.made.synthesize import DatasetPlan, synthesize
from training.progress import silent
from training.sound.dataset import find_dataset

PLAN = DatasetPlan(
    units=(0, 3), faults=FAULTS, train_clips=4, target_clips=3, test_clips=4, seconds=0.5
)


def contents(folder: Path) -> dict[str, bytes]:
    """All files below a folder."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_layout(tmp_path: Path) -> None:
    """Sections are units; each has its source and target normals and half-and-half tests."""
    count = synthesize(PLAN, tmp_path / "data", progress=silent)

    found = find_dataset(tmp_path / "data")
    kinds = [(clip.section, clip.domain, clip.label) for clip in (*found.train, *found.test)]
    assert count == len(kinds) == 2 * (4 + 3 + 4 + 4)
    for section in ("00", "03"):
        assert kinds.count((section, "source", "normal")) == 4 + 2
        assert kinds.count((section, "target", "normal")) == 3 + 2
        assert kinds.count((section, "source", "anomaly")) == 2
        assert kinds.count((section, "target", "anomaly")) == 2
    info = soundfile.info(found.train[0].path)
    assert (info.samplerate, info.channels, info.subtype) == (16_000, 1, "PCM_16")
    assert info.frames == 8000


def test_same_arguments_same_bytes(tmp_path: Path) -> None:
    """The data set follows from its plan; another seed gives other sound in every clip."""
    synthesize(PLAN, tmp_path / "a", progress=silent)
    synthesize(PLAN, tmp_path / "b", progress=silent)
    synthesize(msgspec.structs.replace(PLAN, seed=1), tmp_path / "c", progress=silent)

    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    other = set(contents(tmp_path / "c").values())
    assert not other & set(contents(tmp_path / "a").values())


def test_every_clip_is_a_take_of_its_own() -> None:
    """No two clips share a seed, and more clips leave the others as they were."""
    few = list(PLAN.clips())
    more = list(msgspec.structs.replace(PLAN, train_clips=9, test_clips=8).clips())

    assert len({clip.sound.seed for clip in more}) == len(more)
    assert {clip.path for clip in few} <= {clip.path for clip in more}
    sounds = {clip.path: clip.sound for clip in more}
    normals = [clip for clip in few if clip.sound.fault is None]
    assert all(sounds[clip.path] == clip.sound for clip in normals)


def test_target_is_another_operating_point() -> None:
    """Source clips stay within 2 % of the speed; target clips of a unit all lie off to one side."""
    for unit in PLAN.units:
        clips = [clip for clip in PLAN.clips() if clip.unit == unit]
        source = [clip.sound.speed for clip in clips if "_source_" in clip.path]
        target = np.array([clip.sound.speed for clip in clips if "_target_" in clip.path])

        assert max(abs(speed - 1) for speed in source) <= 0.02
        assert len(set(np.sign(target - 1))) == 1
        assert (abs(target - 1) >= 0.02).all()


def test_attributes_give_the_sound_again(tmp_path: Path) -> None:
    """The text beside each clip, given to `synthetic:`, is the clip."""
    synthesize(PLAN, tmp_path / "data", progress=silent)

    with (tmp_path / "data/fan/attributes_03.csv").open() as stream:
        rows = list(csv.DictReader(stream))

    assert len(rows) == 15
    for row in rows[::4]:
        written, _ = soundfile.read(tmp_path / "data/fan" / row["file_name"], dtype="float32")
        sound = Synthesizer(parse_spec(row["d1v"]), sample_rate_hz=16_000).read(8000)
        np.testing.assert_allclose(written, sound, atol=2**-14)


def test_names_of_tests_do_not_tell_the_fault(tmp_path: Path) -> None:
    """A test clip's name says normal or anomaly and no more; faults take turns."""
    anomalies = [clip for clip in PLAN.clips() if clip.sound.fault]

    assert [clip.sound.fault for clip in anomalies[:2]] == list(FAULTS[:2])
    assert anomalies[0].path == "source_test/section_00_source_test_anomaly_0000.wav"


def test_refuses_a_folder_with_something_in_it(tmp_path: Path) -> None:
    """What is there already is not touched."""
    (tmp_path / "mine").touch()

    with pytest.raises(DestinationError, match="expected an empty folder"):
        synthesize(PLAN, tmp_path, progress=silent)

    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


def test_all_problems_at_once() -> None:
    """A plan that cannot be says everything that is wrong with it."""
    with pytest.raises(DataError) as raised:
        DatasetPlan(units=(1, 1), faults=("rust",), severity=3, test_clips=3, seconds=0)

    for part in ("unit once", "even number", "rust", "severity", "seconds"):
        assert part in str(raised.value)
