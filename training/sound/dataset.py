"""Which recordings a folder holds, and what their names say of them.

    fan/train/normal_id_00_00000000.wav  test/anomaly_id_00_00000000.wav            DCASE 2020
    fan/train/section_00_source_train_normal_0000_<attributes>.wav
        source_test/section_00_source_test_anomaly_0000.wav  target_test/...        DCASE 2021
    fan/train/...  test/section_00_target_test_anomaly_0049_<attributes>.wav
        attributes_00.csv                                                 DCASE 2022 and later
    press/normal/<session>/0000.wav  anomaly/<session>/0000.wav                        folders
    press/train/<session>/0000.wav  test/normal/0000.wav  test/anomaly/0000.wav        folders

A name of an evaluation set does not give away what is heard: `section_03_source_test_0000.wav`
(2021), `section_03_test_0000.wav` or `section_03_0000.wav` (2022 and later), `id_01_00000000.wav`
(2020). What `eval_data_list_20YY.csv` says of such a clip counts as its name, if that file lies in
the machine's folder, the one above, or the one above that.

Where there are only `normal/` and `anomaly/`, some normal sound is kept out of the training to test
with: of five sessions or more the last fifth, whole; of fewer, the last quarter of the files of
each, and at least one if there are two. Last means last in order of name, so that the same folder
always gives the same split.

Only names are read here; sound is read by `training.sound.recordings`.
"""

import csv
import math
import os
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Literal, cast

import msgspec

from node.sound.recordings import SUFFIXES, is_sound_file
from training.errors import DataError

Domain = Literal["source", "target"]
Label = Literal["normal", "anomaly"]
Split = Literal["train", "test"]
Layout = Literal["DCASE 2020", "DCASE 2021", "DCASE 2022 and later", "folders"]

FEW_SESSIONS = 5
"""With fewer sessions, nothing is known of how one differs from the next."""

_SUFFIX = rf"(?:{'|'.join(re.escape(suffix) for suffix in SUFFIXES)})"
_NUMBER = "[0-9]{1,9}"
_NAME_2020 = re.compile(
    rf"(?:(?P<label>normal|anomaly)_)?id_(?P<section>{_NUMBER})_(?P<index>{_NUMBER}){_SUFFIX}",
    re.IGNORECASE,
)
_NAME_SINCE_2021 = re.compile(
    rf"section_(?P<section>{_NUMBER})(?:_(?P<domain>source|target))?(?:_(?P<split>train|test))?"
    rf"(?:_(?P<label>normal|anomaly))?_(?P<index>{_NUMBER})(?:_(?P<attributes>.*))?{_SUFFIX}",
    re.IGNORECASE | re.DOTALL,
)
_EXAMPLE_2020 = "normal_id_00_00000000.wav"
_EXAMPLE_SINCE_2021 = "section_00_source_train_normal_0000.wav"

_TRAIN = "train"
_TEST = "test"
_TESTS_2021 = ("source_test", "target_test")
_SUPPLEMENTAL = "supplemental"
_LABEL_FOLDERS: dict[str, Label] = {
    "normal": "normal",
    "anomaly": "anomaly",
    "abnormal": "anomaly",  # MIMII's word
}
_LAYOUTS = (
    "train/ and test/ (DCASE 2020, or 2022 and later), train/, source_test/ and target_test/"
    " (DCASE 2021), normal/ and anomaly/, or train/, test/normal/ and test/anomaly/"
)
_NO_SECTION = "00"
_HELD_OUT_SESSIONS = 0.2
_HELD_OUT_FILES = 0.25


class ClipName(msgspec.Struct, frozen=True, kw_only=True):
    """What the name of a DCASE recording says; None where it does not."""

    section: str
    """The section with its leading zeros, such as "03"; in data of 2020, the machine's id."""
    index: int
    domain: Domain | None = None
    split: Split | None = None
    label: Label | None = None
    attributes: str = ""
    """The end of the name, after the index; empty for nothing and for `noAttribute`."""


class Clip(msgspec.Struct, frozen=True, kw_only=True):
    """A recording on disk, and what is known of it."""

    path: Path
    section: str
    """A DCASE section or 2020's machine id, such as "03"; "00" where a layout has none."""
    domain: Domain
    """"source" where neither layout nor name has one."""
    split: Split
    label: Label | None
    """None for the unlabelled clips of an evaluation set."""
    session: str | None
    """Names what was recorded in one go; None where names do not say."""
    attributes: str = ""
    """The machine's state by the name or by `attributes_NN.csv`, such as "vel_21_loc_A"."""


class Listing(msgspec.Struct, frozen=True, kw_only=True):
    """All recordings of one machine, those included that a training refuses."""

    machine: str
    folder: Path
    """The machine's folder."""
    layout: Layout
    clips: tuple[Clip, ...]
    """All clips to train on, ordered by path."""
    unnamed: tuple[Path, ...] = ()
    """Sound files of which neither name nor folder says what they are."""
    supplemental: int = 0
    """Recordings in `supplemental/` (2025): noise, or the machine without noise; of no use here."""


class Dataset(msgspec.Struct, frozen=True, kw_only=True):
    """The recordings of one machine."""

    machine: str
    folder: Path
    """The machine's folder."""
    layout: Layout
    train: tuple[Clip, ...]
    """Normal sound only, ordered by path."""
    test: tuple[Clip, ...]
    """Labelled clips only, ordered by path."""
    unlabelled: tuple[Clip, ...]
    """Test clips that say neither normal nor anomaly, and are of no use here."""

    @property
    def sessions(self) -> tuple[str, ...]:
        """The distinct known sessions of the training clips, sorted."""
        return known_sessions(self.train)


def find_dataset(folder: Path, machine: str | None = None) -> Dataset:
    """List the recordings of a machine.

    Args:
        folder: the machine's folder, or the one above it.
        machine: the machine's folder name; None if there is only one.

    Raises:
        DataError: there is none, or its training data are not all normal, or a recording does not
            say what it is.
    """
    listing = list_recordings(folder, machine)
    if listing.unnamed:
        raise DataError(
            f"{listing.unnamed[0]}: expected {expected_name(listing.layout)}"
            f"{and_more(listing.unnamed)}"
        )
    train = [clip for clip in listing.clips if clip.split == "train"]
    anomalies = [clip.path for clip in train if clip.label == "anomaly"]
    if anomalies:
        raise DataError(
            f"{anomalies[0]}: expected only normal sound in {_TRAIN}/, got {len(anomalies)}"
            " anomalies; training on them would teach that faults are normal"
        )
    if not train:
        raise DataError(
            f"{_normal_folder(listing.folder)}: no normal recordings; expected"
            f" {', '.join(SUFFIXES)} files, in DCASE layouts with names such as"
            f" {_EXAMPLE_SINCE_2021}"
        )
    test = [clip for clip in listing.clips if clip.split == "test"]
    return Dataset(
        machine=listing.machine,
        folder=listing.folder,
        layout=listing.layout,
        train=tuple(train),
        test=tuple(clip for clip in test if clip.label is not None),
        unlabelled=tuple(clip for clip in test if clip.label is None),
    )


def list_recordings(folder: Path, machine: str | None = None) -> Listing:
    """List all recordings of a machine, whatever is wrong with them.

    Args:
        folder: the machine's folder, or the one above it.
        machine: the machine's folder name; None if there is only one.

    Raises:
        DataError: there is no such machine, or no known layout, or a folder or table cannot be
            read.
    """
    try:
        found = _machine_folder(folder, machine)
        if (found / _TRAIN).is_dir():
            return _list_with_train(found)
        return _list_normal_and_anomaly(found)
    except OSError as error:
        where = folder if error.filename is None else error.filename
        raise DataError(f"{where}: cannot be read: {error.strerror}") from error


def known_sessions(clips: Iterable[Clip]) -> tuple[str, ...]:
    """The distinct sessions of these clips, sorted; without those that no name tells."""
    return tuple(sorted({clip.session for clip in clips if clip.session is not None}))


def parse_clip_name(file_name: str) -> ClipName | None:
    """What a file name says by the rules of any year, or None if it follows none of them."""
    match = _NAME_SINCE_2021.fullmatch(file_name) or _NAME_2020.fullmatch(file_name)
    if match is None:
        return None
    says = {key: value for key, value in match.groupdict().items() if value is not None}
    return ClipName(
        section=says["section"],
        index=int(says["index"]),
        domain=cast("Domain | None", _lower(says.get("domain"))),
        split=cast("Split | None", _lower(says.get("split"))),
        label=cast("Label | None", _lower(says.get("label"))),
        attributes=_attributes(says.get("attributes", "")),
    )


def expected_name(layout: Layout) -> str:
    """How a recording has to be named in a layout, for messages."""
    if layout == "folders":
        return "a folder normal/ or anomaly/ around it"
    return (
        f"a name such as {_EXAMPLE_2020 if layout == 'DCASE 2020' else _EXAMPLE_SINCE_2021},"
        " for the folder that it is in"
    )


def and_more(items: Sequence[Path]) -> str:
    """How many besides the first: empty, or ` (and 2 more)`."""
    return f" (and {len(items) - 1} more)" if len(items) > 1 else ""


def _machine_folder(folder: Path, machine: str | None) -> Path:
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder")
    if _has_layout(folder) and machine in (None, folder.resolve().name):
        return folder
    if machine is not None:
        if _has_layout(folder / machine):
            return folder / machine
        raise DataError(
            f"{folder}: expected a folder {machine} with {_LAYOUTS}{_hint(_machines(folder))}"
        )
    machines = _machines(folder)
    if len(machines) == 1:
        return folder / machines[0]
    if machines:
        raise DataError(f"{folder}: several machines, choose one with --machine{_hint(machines)}")
    raise DataError(f"{folder}: expected a machine's folder, or the one above it, with {_LAYOUTS}")


def _machines(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if _is_machine(path))


def _is_machine(path: Path) -> bool:
    # A folder with test/normal/ but without train/ is no machine called "test".
    try:
        return path.name not in (_TEST, *_TESTS_2021) and _has_layout(path)
    except PermissionError:
        return False  # a disk's lost+found is none of ours


def _hint(machines: list[str]) -> str:
    more = f" and {len(machines) - 10} more" if len(machines) > 10 else ""
    return f" (there are {', '.join(machines[:10])}{more})" if machines else ""


def _has_layout(folder: Path) -> bool:
    return any((folder / name).is_dir() for name in (_TRAIN, *_LABEL_FOLDERS))


def _normal_folder(folder: Path) -> Path:
    return folder / (_TRAIN if (folder / _TRAIN).is_dir() else "normal")


def _list_with_train(folder: Path) -> Listing:
    both = [name for name in _LABEL_FOLDERS if (folder / name).is_dir()]
    if both:
        raise DataError(
            f"{folder}: expected one layout, got {_TRAIN}/ beside {both[0]}/; move one away"
        )
    tests = [name for name in (_TEST, *_TESTS_2021) if (folder / name).is_dir()]
    sounds = {name: _sounds(folder / name) for name in (_TRAIN, *tests)}
    by_label = any(_label_folders(folder / name) for name in (_TRAIN, _TEST))
    says_dcase = any(name in _TESTS_2021 for name in tests) or any(
        parse_clip_name(path.name) for paths in sounds.values() for path in paths
    )
    if says_dcase and not by_label:
        return _list_dcase(folder, sounds)
    return _list_train_and_test(folder)


def _list_dcase(folder: Path, sounds: Mapping[str, list[Path]]) -> Listing:
    names = [path.name for paths in sounds.values() for path in paths]
    of_2020 = sum(_NAME_2020.fullmatch(name) is not None for name in names)
    since_2021 = sum(_NAME_SINCE_2021.fullmatch(name) is not None for name in names)
    layout: Layout
    if of_2020 > since_2021:
        layout, pattern = "DCASE 2020", _NAME_2020
    elif any(name in _TESTS_2021 for name in sounds):
        layout, pattern = "DCASE 2021", _NAME_SINCE_2021
    else:
        layout, pattern = "DCASE 2022 and later", _NAME_SINCE_2021
    truth = _GroundTruth(folder)
    table = _attribute_table(folder)
    clips: list[Clip] = []
    unnamed: list[Path] = []
    for name, paths in sounds.items():
        split: Split = "train" if name == _TRAIN else "test"
        for path in paths:
            says = parse_clip_name(path.name) if pattern.fullmatch(path.name) else None
            if says is not None and says.label is None and split == "test":
                says = truth.of(says)
            if says is None or not _fits(says, name, split):
                unnamed.append(path)
                continue
            attributes = says.attributes or table.get(f"{name}/{path.stem}".lower(), "")
            domain = says.domain or "source"
            clips.append(
                Clip(
                    path=path,
                    section=says.section,
                    domain=domain,
                    split=split,
                    label=says.label,
                    session=f"{says.section}/{domain}/{attributes}" if attributes else None,
                    attributes=attributes,
                )
            )
    supplemental = folder / _SUPPLEMENTAL
    return Listing(
        machine=folder.resolve().name,
        folder=folder,
        layout=layout,
        clips=_by_path(clips),
        unnamed=tuple(sorted(unnamed)),
        supplemental=len(list(_sounds_below(supplemental))),
    )


def _fits(says: ClipName, folder: str, split: Split) -> bool:
    """Whether a name and the folder it is in agree; a clip to train on says that it is normal."""
    if split == "train" and says.label is None:
        return False
    if says.split not in (None, split):
        return False
    return folder not in _TESTS_2021 or says.domain == folder.removesuffix("_test")


class _GroundTruth:
    """What `eval_data_list_20YY.csv` says of evaluation clips; read when first asked.

    A line with the machine's name, then `section_03_0000.wav,section_03_source_test_normal_0000
    _vel_21.wav[,label]` for each clip, then the next machine.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder.resolve()
        self._known: dict[tuple[str, int, Domain | None], ClipName] | None = None

    def of(self, name: ClipName) -> ClipName:
        """The full name of an unlabelled clip; the name itself if nothing is known of it."""
        if self._known is None:
            self._known = dict(self._read())
        full = self._known.get(_key(name), name)
        return full if full.domain else msgspec.structs.replace(full, domain=name.domain)

    def _read(self) -> Iterator[tuple[tuple[str, int, Domain | None], ClipName]]:
        # The nearest list last: it has the last word.
        for folder in (self._folder.parent.parent, self._folder.parent, self._folder):
            for path in sorted(folder.glob("eval_data_list*.csv")):
                machine = ""
                for row in _rows(path):
                    if len(row) == 1 or not any(row[1:]):
                        machine = row[0]
                    elif machine.lower() == self._folder.name.lower():
                        yield from self._pair(row)

    def _pair(self, row: list[str]) -> Iterator[tuple[tuple[str, int, Domain | None], ClipName]]:
        first, second = (parse_clip_name(cell) for cell in row[:2])
        if first is None or second is None:
            return
        # Lists exist in both orders; the anonymous name is the one without a label.
        on_disk, full = (first, second) if first.label is None else (second, first)
        if full.label is None and row[2:3] in (["0"], ["1"]):
            full = msgspec.structs.replace(full, label="anomaly" if row[2] == "1" else "normal")
        yield _key(on_disk), full


def _key(name: ClipName) -> tuple[str, int, Domain | None]:
    return name.section, name.index, name.domain


def _attribute_table(folder: Path) -> dict[str, str]:
    """What `attributes_NN.csv` says, by folder and name without suffix, in lower case.

    Columns are `file_name,d1p,d1v,d2p,d2v,...`, where p is a parameter and v its value.
    """
    table: dict[str, str] = {}
    for path in sorted(folder.glob("attributes_*.csv")):
        for row in _rows(path):
            pairs = zip(row[1::2], row[2::2], strict=False)
            text = _attributes("_".join(f"{p}_{v}" for p, v in pairs if p and v))
            # A name may begin with the machine's folder, or with a slash.
            parts = [part for part in row[0].split("/") if part][-2:]
            if text and len(parts) == 2:
                table[f"{parts[0]}/{Path(parts[1]).stem}".lower()] = text
    return table


def _rows(path: Path) -> Iterator[list[str]]:
    """The rows of a table that hold something, without space around cells."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as stream:
            for row in csv.reader(stream):
                cells = [cell.strip() for cell in row]
                if any(cells):
                    yield cells
    except (csv.Error, UnicodeDecodeError) as error:
        raise DataError(f"{path}: expected a table in UTF-8, comma-separated: {error}") from error


def _list_train_and_test(folder: Path) -> Listing:
    clips = _clips_by_label(folder / _TEST, "test")
    if _label_folders(folder / _TRAIN):
        clips += _clips_by_label(folder / _TRAIN, "train")
        roots = [folder / _TRAIN, folder / _TEST]
    else:
        clips += _clips_below(folder / _TRAIN, "train", "normal")
        roots = [folder / _TEST]
    known = {clip.path for clip in clips}
    unnamed = [path for root in roots for path in _sounds_below(root) if path not in known]
    return Listing(
        machine=folder.resolve().name,
        folder=folder,
        layout="folders",
        clips=_by_path(clips),
        unnamed=tuple(unnamed),
    )


def _list_normal_and_anomaly(folder: Path) -> Listing:
    clips = _clips_by_label(folder, "test")
    normals = [clip for clip in clips if clip.label == "normal"]
    anomalies = [clip for clip in clips if clip.label == "anomaly"]
    held_out = _held_out(normals) if anomalies else set()
    train = [
        msgspec.structs.replace(clip, split="train")
        for clip in normals
        if clip.path not in held_out
    ]
    test = [clip for clip in normals if clip.path in held_out]
    return Listing(
        machine=folder.resolve().name,
        folder=folder,
        layout="folders",
        clips=_by_path(train + test + anomalies),
    )


def _held_out(normals: list[Clip]) -> set[Path]:
    """Which normal recordings to test with; see the module's docstring."""
    sessions = known_sessions(normals)
    if len(sessions) >= FEW_SESSIONS:
        last = sessions[-math.ceil(_HELD_OUT_SESSIONS * len(sessions)) :]
        return {clip.path for clip in normals if clip.session in last}
    files: defaultdict[str | None, list[Path]] = defaultdict(list)
    for clip in normals:
        files[clip.session].append(clip.path)
    held_out: set[Path] = set()
    for paths in files.values():
        if len(paths) > 1:
            held_out.update(sorted(paths)[-max(1, int(_HELD_OUT_FILES * len(paths))) :])
    return held_out


def _clips_by_label(folder: Path, split: Split) -> list[Clip]:
    return [
        clip
        for name, label in _label_folders(folder).items()
        for clip in _clips_below(folder / name, split, label)
    ]


def _label_folders(folder: Path) -> Mapping[str, Label]:
    return {name: label for name, label in _LABEL_FOLDERS.items() if (folder / name).is_dir()}


def _clips_below(folder: Path, split: Split, label: Label) -> list[Clip]:
    """The clips at any depth; the first folder on the way is the session."""
    clips = []
    for path in _sounds_below(folder):
        within = path.relative_to(folder).parts
        clips.append(
            Clip(
                path=path,
                section=_NO_SECTION,
                domain="source",
                split=split,
                label=label,
                session=within[0] if len(within) > 1 else None,
            )
        )
    return clips


def _sounds(folder: Path) -> list[Path]:
    """The sound files of a folder, in order of name."""
    return sorted(path for path in folder.iterdir() if is_sound_file(path))


def _sounds_below(folder: Path) -> Iterator[Path]:
    """The sound files at any depth, in order of path; none if there is no such folder."""
    if not folder.is_dir():
        return

    def fail(error: OSError) -> None:
        raise error

    found = [
        Path(parent, name) for parent, _, names in os.walk(folder, onerror=fail) for name in names
    ]
    yield from sorted(path for path in found if is_sound_file(path))


def _by_path(clips: Iterable[Clip]) -> tuple[Clip, ...]:
    return tuple(sorted(clips, key=lambda clip: clip.path))


def _attributes(text: str) -> str:
    text = text.strip("_")
    return "" if text.lower() == "noattribute" else text


def _lower(text: str | None) -> str | None:
    return None if text is None else text.lower()
