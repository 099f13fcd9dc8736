"""Names and folders of the DCASE 2021 layout."""

from pathlib import Path

import pytest

from tests.training.conftest import WriteWav
from training.dataset import ClipName, find_dataset, parse_clip_name
from training.errors import DataError

TRAIN = "train/section_00_source_train_normal_0000.wav"


@pytest.mark.parametrize(
    ("file_name", "expected"),
    [
        (
            "section_00_source_train_normal_0000_20251111_180303.wav",
            ClipName(
                section=0,
                domain="source",
                split="train",
                label="normal",
                index=0,
                attributes="20251111_180303",
            ),
        ),
        (
            "section_02_target_test_anomaly_0099.wav",
            ClipName(
                section=2, domain="target", split="test", label="anomaly", index=99, attributes=""
            ),
        ),
        (
            "section_03_source_test_0007.wav",
            ClipName(section=3, domain="source", split="test", label=None, index=7, attributes=""),
        ),
        (
            "section_01_target_train_normal_0002_strength_1_ambient.WAV",
            ClipName(
                section=1,
                domain="target",
                split="train",
                label="normal",
                index=2,
                attributes="strength_1_ambient",
            ),
        ),
    ],
)
def test_a_name_says_what_is_heard(file_name: str, expected: ClipName) -> None:
    """Section, domain, split, label, number and attributes come from the name."""
    assert parse_clip_name(file_name) == expected


@pytest.mark.parametrize(
    "file_name",
    ["fan.wav", "normal_id_00_00000000.wav", "section_00_source_train_normal_0000.flac", ""],
)
def test_other_names_say_nothing(file_name: str) -> None:
    """A name of another layout is no clip."""
    assert parse_clip_name(file_name) is None


@pytest.mark.parametrize("up", [True, False])
def test_machine_folder_or_the_one_above(tmp_path: Path, write_wav: WriteWav, up: bool) -> None:
    """The machine is found from its folder and from the one above, with and without its name."""
    write_wav(tmp_path / "fan" / TRAIN)
    write_wav(tmp_path / "fan/source_test/section_00_source_test_anomaly_0000.wav")
    write_wav(tmp_path / "fan/target_test/section_00_target_test_0000.wav")
    folder = tmp_path if up else tmp_path / "fan"

    found = find_dataset(folder)

    assert found == find_dataset(folder, "fan")
    assert found.machine == "fan"
    assert [clip.path.name for clip in found.train] == [Path(TRAIN).name]
    assert [clip.name.label for clip in found.test] == ["anomaly"]
    assert found.unlabelled == 1


def test_several_machines_need_a_choice(tmp_path: Path, write_wav: WriteWav) -> None:
    """With two machines, one has to be named; the message names both."""
    write_wav(tmp_path / "fan" / TRAIN)
    write_wav(tmp_path / "pump" / TRAIN)

    with pytest.raises(DataError, match=r"--machine \(there are fan, pump\)"):
        find_dataset(tmp_path)

    assert find_dataset(tmp_path, "pump").machine == "pump"
    with pytest.raises(DataError, match=r"valve/train \(there are fan, pump\)"):
        find_dataset(tmp_path, "valve")


def test_missing_folder(tmp_path: Path) -> None:
    """A folder that is not there is named."""
    with pytest.raises(DataError, match="nowhere: no such folder"):
        find_dataset(tmp_path / "nowhere")


def test_folder_without_train(tmp_path: Path) -> None:
    """A folder without recordings says what is expected of it."""
    with pytest.raises(DataError, match="expected train/"):
        find_dataset(tmp_path)


def test_no_normal_recordings(tmp_path: Path) -> None:
    """An empty train folder is refused."""
    (tmp_path / "train").mkdir()

    with pytest.raises(DataError, match="no normal recordings"):
        find_dataset(tmp_path)


def test_anomalies_in_train(tmp_path: Path, write_wav: WriteWav) -> None:
    """Anomalies among the training data are refused, the first by name."""
    write_wav(tmp_path / TRAIN)
    write_wav(tmp_path / "train/section_00_source_train_anomaly_0001.wav")

    with pytest.raises(DataError, match=r"train_anomaly_0001\.wav: expected only normal sound"):
        find_dataset(tmp_path)


def test_name_of_another_layout(tmp_path: Path, write_wav: WriteWav) -> None:
    """A recording whose name does not say what it is, is refused rather than left out."""
    write_wav(tmp_path / TRAIN)
    write_wav(tmp_path / "train/a.wav")
    write_wav(tmp_path / "train/b.wav")

    with pytest.raises(DataError, match=r"a\.wav: expected a name such as .* \(and 1 more\)"):
        find_dataset(tmp_path)
