"""Which recordings a folder holds: the layout of DCASE 2021 Task 2.

    <machine>/train/section_00_source_train_normal_0000_<attributes>.wav
    <machine>/source_test/section_00_source_test_anomaly_0000.wav
    <machine>/target_test/section_00_target_test_normal_0000.wav

Only names are read here; sound is read by `training.recordings`.
"""

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Literal, cast

import msgspec

from training.errors import DataError

Domain = Literal["source", "target"]
Label = Literal["normal", "anomaly"]

_CLIP_NAME = re.compile(
    r"section_(?P<section>\d+)_(?P<domain>source|target)_(?P<split>train|test)"
    r"(?:_(?P<label>normal|anomaly))?_(?P<index>\d+)(?:_(?P<attributes>.+))?\.wav",
    re.IGNORECASE,
)
_EXAMPLE = "section_00_source_train_normal_0000.wav"
_TRAIN_FOLDER = "train"
# 2022 put both domains into one folder; the name of a clip says its domain anyway.
_TEST_FOLDERS = ("source_test", "target_test", "test")


class ClipName(msgspec.Struct, frozen=True, kw_only=True):
    """What the name of a recording says."""

    section: int
    domain: Domain
    split: Literal["train", "test"]
    label: Label | None
    """None for the unlabelled clips of an evaluation set."""
    index: int
    attributes: str
    """What follows the index; empty if nothing does."""


class Clip(msgspec.Struct, frozen=True):
    """A recording on disk."""

    path: Path
    name: ClipName


class Dataset(msgspec.Struct, frozen=True, kw_only=True):
    """The recordings of one machine."""

    machine: str
    train: tuple[Clip, ...]
    """Normal sound only, in order of name."""
    test: tuple[Clip, ...]
    """Labelled clips only, in order of name."""
    unlabelled: int
    """Test clips that say neither normal nor anomaly, and are of no use here."""


def parse_clip_name(file_name: str) -> ClipName | None:
    """What a file name says, or None if it is not one of this layout."""
    match = _CLIP_NAME.fullmatch(file_name)
    if match is None:
        return None
    label = match["label"]
    return ClipName(
        section=int(match["section"]),
        domain=cast("Domain", match["domain"].lower()),
        split=cast("Literal['train', 'test']", match["split"].lower()),
        label=None if label is None else cast("Label", label.lower()),
        index=int(match["index"]),
        attributes=match["attributes"] or "",
    )


def find_dataset(folder: Path, machine: str | None = None) -> Dataset:
    """List the recordings of a machine.

    Args:
        folder: the machine's folder, or the one above it.
        machine: the machine's folder name; None if there is only one.

    Raises:
        DataError: there is none, or its training data are not all normal.
    """
    machine_folder = _machine_folder(folder, machine)
    train = _clips(machine_folder / _TRAIN_FOLDER)
    anomalies = [clip for clip in train if clip.name.label == "anomaly"]
    if anomalies:
        raise DataError(
            f"{anomalies[0].path}: expected only normal sound in {_TRAIN_FOLDER}/, got"
            f" {len(anomalies)} anomalies; training on them would teach that faults are normal"
        )
    normals = tuple(clip for clip in train if clip.name.label == "normal")
    if not normals:
        raise DataError(
            f"{machine_folder / _TRAIN_FOLDER}: no normal recordings; expected names such as"
            f" {_EXAMPLE}"
        )
    test = [clip for name in _TEST_FOLDERS for clip in _clips(machine_folder / name)]
    labelled = tuple(clip for clip in test if clip.name.label is not None)
    return Dataset(
        machine=machine_folder.resolve().name,
        train=normals,
        test=labelled,
        unlabelled=len(test) - len(labelled),
    )


def _machine_folder(folder: Path, machine: str | None) -> Path:
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder")
    if _has_train(folder) and machine in (None, folder.resolve().name):
        return folder
    if machine is not None:
        if _has_train(folder / machine):
            return folder / machine
        raise DataError(f"{folder}: expected a folder {machine}/{_TRAIN_FOLDER}{_hint(folder)}")
    machines = _machines(folder)
    if len(machines) == 1:
        return folder / machines[0]
    if machines:
        raise DataError(f"{folder}: several machines, choose one with --machine{_hint(folder)}")
    raise DataError(
        f"{folder}: expected {_TRAIN_FOLDER}/ or <machine>/{_TRAIN_FOLDER}/ with recordings in it"
    )


def _hint(folder: Path) -> str:
    machines = _machines(folder)
    return f" (there are {', '.join(machines[:10])})" if machines else ""


def _machines(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if _has_train(path))


def _has_train(folder: Path) -> bool:
    return (folder / _TRAIN_FOLDER).is_dir()


def _clips(folder: Path) -> list[Clip]:
    """All recordings of a folder; every `.wav` has to have a name that says what it is."""
    if not folder.is_dir():
        return []
    paths = sorted(path for path in folder.iterdir() if path.suffix.lower() == ".wav")
    named = [(path, parse_clip_name(path.name)) for path in paths]
    _refuse_unnamed(path for path, name in named if name is None)
    return [Clip(path, name) for path, name in named if name is not None]


def _refuse_unnamed(paths: Iterable[Path]) -> None:
    unnamed = list(paths)
    if unnamed:
        raise DataError(f"{unnamed[0]}: expected a name such as {_EXAMPLE}{and_more(unnamed)}")


def and_more(items: list[Path]) -> str:
    """How many besides the first: empty, or ` (and 2 more)`."""
    return f" (and {len(items) - 1} more)" if len(items) > 1 else ""
