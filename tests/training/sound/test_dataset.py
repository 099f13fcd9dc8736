"""Names and folders of the layouts that a data set may have."""

import os
import string
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from training.errors import DataError
from training.sound.dataset import (
    Clip,
    ClipName,
    Dataset,
    Domain,
    Label,
    Split,
    find_dataset,
    list_recordings,
    parse_clip_name,
)

TRAIN = "train/section_00_source_train_normal_0000.wav"
TRAIN_2020 = "train/normal_id_00_00000000.wav"

MakeTree = Callable[..., Path]

NUMBER = st.text(string.digits, min_size=1, max_size=9)
# What challenges have used in attributes, and a little more; a name ends where a folder begins.
ATTRIBUTES = st.text(string.ascii_letters + string.digits + "_-. °é\n", max_size=30)
SUFFIX = st.sampled_from([".wav", ".WAV", ".flac", ".ogg"])


@pytest.fixture
def tree(tmp_path: Path) -> MakeTree:
    """Make empty files, since only names are read, and return the folder."""

    def make(*names: str) -> Path:
        for name in names:
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
        return tmp_path

    return make


def names(clips: tuple[Clip, ...]) -> list[str]:
    """The file names of clips."""
    return [clip.path.name for clip in clips]


def held_out(dataset: Dataset) -> list[str]:
    """The normal clips to test with, below the machine's folder."""
    return [
        clip.path.relative_to(dataset.folder).as_posix()
        for clip in dataset.test
        if clip.label == "normal"
    ]


@given(
    section=NUMBER,
    domain=st.sampled_from(["source", "target", None]),
    split=st.sampled_from(["train", "test", None]),
    label=st.sampled_from(["normal", "anomaly", None]),
    index=NUMBER,
    attributes=ATTRIBUTES,
    suffix=SUFFIX,
)
def test_names_since_2021_round_trip(
    *,
    section: str,
    domain: Domain | None,
    split: Split | None,
    label: Label | None,
    index: str,
    attributes: str,
    suffix: str,
) -> None:
    """Whatever parts a name is put together from are read from it again."""
    parts = [
        "section",
        section,
        *(part for part in (domain, split, label) if part),
        index,
        *([attributes] if attributes else []),
    ]

    assert parse_clip_name("_".join(parts) + suffix) == ClipName(
        section=section,
        index=int(index),
        domain=domain,
        split=split,
        label=label,
        attributes=attributes.strip("_"),
    )


@given(section=NUMBER, label=st.sampled_from(["normal", "anomaly", None]), index=NUMBER)
def test_names_of_2020_round_trip(section: str, label: Label | None, index: str) -> None:
    """The machine's id counts as the section; there is neither domain nor split."""
    name = f"{label}_id_{section}_{index}.wav" if label else f"id_{section}_{index}.wav"

    assert parse_clip_name(name) == ClipName(section=section, index=int(index), label=label)


@given(st.text(max_size=60))
def test_any_text_is_a_name_or_none(text: str) -> None:
    """No text breaks the reader of names."""
    parse_clip_name(text)
    parse_clip_name(f"section_00_{text}.wav")


@pytest.mark.parametrize(
    ("end", "attributes"),
    [
        ("_vel_21_loc_A", "vel_21_loc_A"),
        ("_A1Spd28VMic1", "A1Spd28VMic1"),
        ("_m-n_W", "m-n_W"),
        ("_", ""),
        ("_noAttribute", ""),
        ("_noattribute_", ""),
        ("", ""),
    ],
)
def test_attributes_of_a_name(end: str, attributes: str) -> None:
    """A trailing line, and the word for no attribute, are no attributes."""
    found = parse_clip_name(f"section_00_target_train_normal_0001{end}.wav")

    assert found is not None
    assert found.attributes == attributes


@pytest.mark.parametrize(
    "file_name",
    [
        "fan.wav",
        "section_00_machine_0001_.wav",
        "section_00_source_train_normal.wav",
        "section_00_source_train_normal_0000.mp3",
        "xsection_00_0000.wav",
        "anomaly_id_00_00000000",
        "section_00_" + "0" * 5000 + ".wav",
        "",
    ],
)
def test_other_names_say_nothing(file_name: str) -> None:
    """A name of another layout is no clip."""
    assert parse_clip_name(file_name) is None


@pytest.mark.parametrize("up", [True, False])
def test_machine_folder_or_the_one_above(tree: MakeTree, up: bool) -> None:
    """The machine is found from its folder and from the one above, with and without its name."""
    root = tree(
        f"fan/{TRAIN}",
        "fan/source_test/section_00_source_test_anomaly_0000.wav",
        "fan/target_test/section_00_target_test_0000.wav",
    )
    folder = root if up else root / "fan"

    found = find_dataset(folder)

    assert found == find_dataset(folder, "fan")
    assert (found.machine, found.folder, found.layout) == ("fan", root / "fan", "DCASE 2021")
    assert names(found.train) == [Path(TRAIN).name]
    assert [clip.label for clip in found.test] == ["anomaly"]
    assert [clip.domain for clip in found.unlabelled] == ["target"]


def test_machine_folder_that_is_here(tree: MakeTree, monkeypatch: pytest.MonkeyPatch) -> None:
    """The current folder has a name, too."""
    monkeypatch.chdir(tree(f"fan/{TRAIN}") / "fan")

    assert find_dataset(Path(), "fan").machine == "fan"


def test_2020(tree: MakeTree) -> None:
    """Names give label and machine id, folders give the split; nothing tells of sessions."""
    found = find_dataset(
        tree(
            "fan/train/normal_id_00_00000000.wav",
            "fan/train/normal_id_02_00000001.wav",
            "fan/test/normal_id_00_00000000.wav",
            "fan/test/anomaly_id_02_00000000.wav",
            "fan/test/id_01_00000000.wav",
        )
    )

    assert found.layout == "DCASE 2020"
    assert [(clip.section, clip.label, clip.split) for clip in found.train + found.test] == [
        ("00", "normal", "train"),
        ("02", "normal", "train"),
        ("02", "anomaly", "test"),
        ("00", "normal", "test"),
    ]
    assert [clip.section for clip in found.unlabelled] == ["01"]
    assert found.sessions == ()


def test_2021_sessions_are_attributes_of_a_section_and_domain(tree: MakeTree) -> None:
    """What was recorded in one go has section, domain and attributes in common."""
    found = find_dataset(
        tree(
            "fan/train/section_00_source_train_normal_0000_a.wav",
            "fan/train/section_00_source_train_normal_0001_a.wav",
            "fan/train/section_00_target_train_normal_0000_a.wav",
            "fan/train/section_01_source_train_normal_0000_b.wav",
            "fan/train/section_01_source_train_normal_0001.wav",
            "fan/source_test/section_01_source_test_normal_0000_c.wav",
        )
    )

    assert found.sessions == ("00/source/a", "00/target/a", "01/source/b")
    assert found.train[-1].session is None
    assert found.test[0].session == "01/source/c"


def test_2022_and_later(tree: MakeTree) -> None:
    """Both domains are in one folder, and both ways to name an evaluation clip are known."""
    root = tree(
        "fan/train/section_00_source_train_normal_0001_vel_21_.wav",
        "fan/test/section_00_target_test_anomaly_0049_noAttribute.wav",
        "fan/test/section_03_test_0000.wav",
        "fan/test/section_03_0001.wav",
        "fan/supplemental/section_00_machine_0001_.wav",
        "fan/supplemental/section_00_noise_0001_.wav",
    )

    found = find_dataset(root)

    assert found.layout == "DCASE 2022 and later"
    assert [clip.attributes for clip in found.train] == ["vel_21"]
    assert [(clip.domain, clip.label, clip.session) for clip in found.test] == [
        ("target", "anomaly", None)
    ]
    assert names(found.unlabelled) == ["section_03_0001.wav", "section_03_test_0000.wav"]
    assert list_recordings(root).supplemental == 2


@pytest.mark.parametrize("folders_up", [0, 1, 2])
def test_ground_truth_names_evaluation_clips(tree: MakeTree, folders_up: int) -> None:
    """The list beside a machine, or up to two folders above, gives label, domain, attributes."""
    root = tree(
        "eval/fan/train/section_03_source_train_normal_0000.wav",
        "eval/fan/test/section_03_test_0000.wav",
        "eval/fan/test/section_03_0001.wav",
        "eval/fan/test/section_03_0002.wav",
    )
    folder = root / "eval/fan"
    place = [folder, folder.parent, folder.parent.parent][folders_up]
    place.joinpath("eval_data_list_2022.csv").write_text(
        "bearing\n"
        "section_03_0002.wav,section_03_source_test_normal_0002_vel_1.wav\n"
        "fan\n"
        "section_03_0000.wav,section_03_target_test_anomaly_0000_m-n_W.wav\n"
        "section_03_source_test_normal_0001_m-n_X.wav,section_03_0001.wav,0\n"
        "nonsense\n",
    )

    found = find_dataset(folder)

    assert [(clip.domain, clip.label, clip.attributes, clip.session) for clip in found.test] == [
        ("source", "normal", "m-n_X", "03/source/m-n_X"),
        ("target", "anomaly", "m-n_W", "03/target/m-n_W"),
    ]
    assert names(found.unlabelled) == ["section_03_0002.wav"]


def test_ground_truth_with_a_label_in_its_own_column(tree: MakeTree) -> None:
    """0 is normal and 1 an anomaly, where the second name does not say it."""
    root = tree(
        "fan/train/normal_id_01_00000000.wav",
        "fan/test/id_01_00000000.wav",
        "fan/test/id_01_00000001.wav",
    )
    (root / "eval_data_list.csv").write_text(
        "\ufeffFan\nid_01_00000000.wav,id_01_00000000.wav,1\nid_01_00000001.wav,id_01_00000001.wav,0\n",
        encoding="utf-8",
    )

    assert [clip.label for clip in find_dataset(root).test] == ["anomaly", "normal"]


def test_ground_truth_keeps_domains_apart(tree: MakeTree) -> None:
    """In 2021, clips of both domains have the same numbers."""
    root = tree(
        "fan/train/section_03_source_train_normal_0000.wav",
        "fan/source_test/section_03_source_test_0000.wav",
        "fan/target_test/section_03_target_test_0000.wav",
    )
    (root / "fan/eval_data_list_2021.csv").write_text(
        "fan\n"
        "section_03_source_test_0000.wav,section_03_source_test_anomaly_0000.wav\n"
        "section_03_target_test_0000.wav,section_03_target_test_normal_0000.wav\n"
    )

    assert [(clip.domain, clip.label) for clip in find_dataset(root).test] == [
        ("source", "anomaly"),
        ("target", "normal"),
    ]


def test_attribute_table_speaks_where_a_name_does_not(tree: MakeTree) -> None:
    """Rows are found with and without the machine's folder; what a name says goes first."""
    root = tree(
        "fan/train/section_00_source_train_normal_0000.wav",
        "fan/train/section_00_source_train_normal_0001.wav",
        "fan/train/section_00_source_train_normal_0002_vel_9.wav",
        "fan/train/section_00_source_train_normal_0003.wav",
        "fan/test/section_00_source_test_normal_0000.wav",
    )
    (root / "fan/attributes_00.csv").write_text(
        "\ufefffile_name,d1p,d1v,d2p,d2v\n"
        "fan/train/section_00_source_train_normal_0000.wav,vel,21,loc,A\n"
        "train/section_00_source_train_normal_0001.wav,vel,23,,\n"
        "train/section_00_source_train_normal_0002_vel_9.wav,vel,1\n"
        "fan/train/section_00_source_train_normal_0003.wav,noAttribute\n"
        "no row at all\n",
        encoding="utf-8",
    )

    found = find_dataset(root)

    assert [clip.attributes for clip in found.train] == ["vel_21_loc_A", "vel_23", "vel_9", ""]
    assert [clip.attributes for clip in found.test] == [""]


@pytest.mark.parametrize("content", [b"file_name,d1p\n\xff\xfe,1\n", b'"' + b"x" * 200_000])
def test_table_that_is_none(tree: MakeTree, content: bytes) -> None:
    """A table that cannot be read is named, not skipped."""
    root = tree(f"fan/{TRAIN}")
    (root / "fan/attributes_00.csv").write_bytes(content)

    with pytest.raises(DataError, match=r"attributes_00\.csv: expected a table"):
        find_dataset(root)


def test_folders_hold_the_last_quarter_of_few_sessions_out(tree: MakeTree) -> None:
    """Of one session or four, the last files in order of name are tested with, at least one."""
    found = find_dataset(
        tree(
            *(f"press/normal/monday/{index:04d}.wav" for index in range(10)),
            *(f"press/normal/tuesday/deeper/{index:04d}.flac" for index in range(3)),
            "press/normal/wednesday/0000.ogg",
            "press/normal/a.WAV",
            "press/normal/b.wav",
            "press/normal/monday/session.json",
            "press/abnormal/thursday/0000.wav",
        )
    )

    assert (found.machine, found.layout) == ("press", "folders")
    assert held_out(found) == [
        "normal/b.wav",
        "normal/monday/0008.wav",
        "normal/monday/0009.wav",
        "normal/tuesday/deeper/0002.flac",
    ]
    assert found.sessions == ("monday", "tuesday", "wednesday")
    assert len(found.train) == 12
    assert found.train[0].session is None
    assert [(clip.label, clip.session) for clip in found.test[:1]] == [("anomaly", "thursday")]
    assert {(clip.section, clip.domain) for clip in found.train} == {("00", "source")}


@pytest.mark.parametrize(("sessions", "out"), [(5, ["s4"]), (6, ["s4", "s5"]), (10, ["s8", "s9"])])
def test_folders_hold_the_last_of_five_sessions_out(
    tree: MakeTree, sessions: int, out: list[str]
) -> None:
    """From five sessions on, whole ones are tested with, a fifth of them rounded up."""
    found = find_dataset(
        tree(
            *(f"normal/s{session}/{index}.wav" for session in range(sessions) for index in "ab"),
            "anomaly/0000.wav",
        )
    )

    assert held_out(found) == [f"normal/{session}/{index}.wav" for session in out for index in "ab"]
    assert not {clip.session for clip in found.train} & set(out)


def test_folders_without_anomalies_train_on_everything(tree: MakeTree) -> None:
    """With nothing to tell normal sound from, none of it is kept out."""
    root = tree(*(f"normal/{index}.wav" for index in range(8)))
    (root / "anomaly").mkdir()

    found = find_dataset(root)

    assert (len(found.train), found.test) == (8, ())


@pytest.mark.parametrize("train", ["train", "train/normal"])
def test_folders_with_their_own_tests(tree: MakeTree, train: str) -> None:
    """Where tests are laid out, all of train/ is trained on; sessions are known all the same."""
    found = find_dataset(
        tree(
            *(f"press/{train}/monday/{index}.wav" for index in range(8)),
            "press/test/normal/0.wav",
            "press/test/anomaly/tuesday/0.wav",
        )
    )

    assert found.layout == "folders"
    assert (len(found.train), found.sessions) == (8, ("monday",))
    assert [(clip.label, clip.session) for clip in found.test] == [
        ("anomaly", "tuesday"),
        ("normal", None),
    ]


def test_folders_with_a_file_of_no_label(tree: MakeTree) -> None:
    """A recording beside test/normal/ is refused rather than left out."""
    root = tree("train/0.wav", "test/normal/0.wav", "test/x/1.wav")

    with pytest.raises(DataError, match=r"test/x/1\.wav: expected a folder normal/ or anomaly/"):
        find_dataset(root)


def test_anomalies_in_the_training_folder(tree: MakeTree) -> None:
    """train/anomaly/ is refused, too."""
    root = tree("train/normal/0.wav", "train/anomaly/0.wav")

    with pytest.raises(DataError, match=r"train/anomaly/0\.wav: expected only normal sound"):
        find_dataset(root)


def test_both_layouts_at_once(tree: MakeTree) -> None:
    """train/ beside normal/ is not guessed at."""
    root = tree("train/0.wav", "normal/0.wav")

    with pytest.raises(DataError, match=r"expected one layout, got train/ beside normal/"):
        find_dataset(root)


def test_hidden_files_and_other_files_are_no_recordings(tree: MakeTree) -> None:
    """What macOS leaves beside each recording, and a folder named like one, are passed over."""
    root = tree(f"fan/{TRAIN}", "fan/train/._x.wav", "fan/train/notes.txt", "fan/train/y.wav/z.txt")

    assert len(find_dataset(root).train) == 1


def test_link_that_leads_nowhere_is_kept(tree: MakeTree) -> None:
    """It is listed, so that whoever reads it says what is wrong; a pipe is not waited for."""
    root = tree(f"fan/{TRAIN}")
    (root / "fan/train/section_00_source_train_normal_0001.wav").symlink_to("nowhere.wav")
    os.mkfifo(root / "fan/train/section_00_source_train_normal_0002.wav")

    assert len(find_dataset(root).train) == 2


def test_several_machines_need_a_choice(tree: MakeTree) -> None:
    """With two machines, one has to be named; the message names both."""
    root = tree(f"fan/{TRAIN}", "pump/normal/0.wav", "other/x.wav")

    with pytest.raises(DataError, match=r"--machine \(there are fan, pump\)"):
        find_dataset(root)

    assert find_dataset(root, "pump").layout == "folders"
    with pytest.raises(DataError, match=r"expected a folder valve .* \(there are fan, pump\)"):
        find_dataset(root, "valve")


def test_missing_folder(tmp_path: Path) -> None:
    """A folder that is not there is named."""
    with pytest.raises(DataError, match="nowhere: no such folder"):
        find_dataset(tmp_path / "nowhere")


@pytest.mark.parametrize("machine", ["x" * 300, "a\0b"])
def test_machine_that_no_folder_can_be_named(tmp_path: Path, machine: str) -> None:
    """A name that the file system does not take is refused like any other."""
    with pytest.raises(DataError):
        find_dataset(tmp_path, machine)


@pytest.mark.parametrize("name", [None, "normal.wav", "a/b/c.wav", "test/normal/0.wav"])
def test_folder_of_no_layout(tree: MakeTree, name: str | None) -> None:
    """A folder that is laid out otherwise is told which layouts there are."""
    root = tree(*([name] if name else []))

    with pytest.raises(DataError, match=r"with train/ and test/ .* normal/ and anomaly/"):
        find_dataset(root)


@pytest.mark.parametrize("folder", ["train", "normal", "anomaly"])
def test_no_normal_recordings(tmp_path: Path, folder: str) -> None:
    """An empty folder of normal sound is refused."""
    (tmp_path / folder).mkdir()

    with pytest.raises(DataError, match="no normal recordings"):
        find_dataset(tmp_path)


@pytest.mark.parametrize(
    ("normal", "anomaly"),
    [
        (TRAIN, "train/section_00_source_train_anomaly_0001.wav"),
        (TRAIN_2020, "train/anomaly_id_00_00000001.wav"),
    ],
)
def test_anomalies_in_train(tree: MakeTree, normal: str, anomaly: str) -> None:
    """Anomalies among the training data are refused, the first by name."""
    root = tree(normal, anomaly)

    with pytest.raises(DataError, match=rf"{Path(anomaly).name}: expected only normal sound"):
        find_dataset(root)


@pytest.mark.parametrize(
    ("normal", "other"),
    [
        (TRAIN, "train/a.wav"),
        (TRAIN, "train/section_00_0001.wav"),
        (TRAIN, "train/section_00_source_test_normal_0001.wav"),
        (TRAIN, "train/normal_id_00_00000001.wav"),
        (TRAIN, "source_test/section_00_target_test_normal_0001.wav"),
        (TRAIN, "test/section_00_machine_0001_.wav"),
        (TRAIN_2020, "train/id_00_00000001.wav"),
        (TRAIN_2020, "test/b.wav"),
    ],
)
def test_name_that_does_not_say_what_is_heard(tree: MakeTree, normal: str, other: str) -> None:
    """A recording whose name says too little, or contradicts its folder, is refused."""
    more = str(Path(other).with_name("z.wav"))
    root = tree(normal, other, more, normal.replace("0000.wav", "0009.wav"))

    example = "normal_id_00_" if normal == TRAIN_2020 else "section_00_source"
    with pytest.raises(
        DataError, match=rf"{Path(other).name}: expected a name such as {example}.* \(and 1 more\)"
    ):
        find_dataset(root)
