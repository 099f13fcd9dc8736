"""The releases in a node's state folder, as folders on the disk: made, verified, found, swept.

- `releases/NAME-VERSION-SHA/`: a release each, whole (`manifest.json` and its files);
- `downloads/SHA.part`: files on their way (`node.updates.download`).

Names come from checked manifests alone. A release is made under a hidden name, forced to the disk,
and then takes its place, so that a power cut leaves it whole or not at all. What a disk damages
nevertheless is found by SHA-256 whenever it is read. Which of the releases is to run is not known
here (`node.updates.slots`), and no signature is checked.
"""

import errno
import logging
import os
import shutil
from collections.abc import Collection, Iterator, Mapping
from contextlib import suppress
from pathlib import Path

from contract.errors import EarshotError, ReleaseError
from contract.release import (
    MANIFEST_NAME,
    MAX_MANIFEST_BYTES,
    Manifest,
    ReleaseFile,
    decode_manifest,
)
from node.scoring.release_store import Release, read_release
from node.updates.update_state import Slot, sha256_of
from node.whole_file import make_folder, sync_folder

logger = logging.getLogger(__name__)

DOWNLOADS_NAME = "downloads"
RELEASES_NAME = "releases"

_COPY_BYTES = 64 * 1024


class UpdateStoreError(EarshotError):
    """The disk did not do it: what was there before still is."""


class ReleaseFolders:
    """The release folders of one node. Not for two threads at a time.

    Args:
        folder: the node's state folder; made when something has to be written.
        factory: the release folder that the settings name; only read.
    """

    def __init__(self, folder: Path, factory: Path) -> None:
        self.downloads = folder / DOWNLOADS_NAME
        """The folder for files on their way."""
        self.factory = factory
        self._folder = folder
        self._releases = folder / RELEASES_NAME

    def folder(self, slot: Slot) -> Path:
        """Where a release lies."""
        return self.factory if slot.factory else self._releases / slot.folder_name

    def read(self, slot: Slot) -> Release:
        """A release, every file of it checked.

        Raises:
            ReleaseError: it is not there, or not what the slot says.
        """
        folder = self.folder(slot)
        release = read_release(folder)
        found = _slot_of(folder, factory=slot.factory)
        if found != slot:
            raise ReleaseError(
                f"{folder}: expected {slot.release} with the manifest {slot.manifest_sha256[:12]},"
                f" got {found.release} with {found.manifest_sha256[:12]}"
            )
        return release

    def factory_slot(self) -> Slot:
        """Which release [model] folder holds, by its manifest alone.

        Raises:
            ReleaseError: its manifest cannot be read.
        """
        return _slot_of(self.factory, factory=True)

    def found(self) -> list[Slot]:
        """Releases that lie in the state folder, by their manifests alone; the newest first."""
        slots = []
        for folder in self._finished():
            with suppress(ReleaseError):
                slots.append(_slot_of(folder, factory=False))
        return sorted(slots, key=lambda slot: slot.version, reverse=True)

    def find_file(self, file: ReleaseFile) -> Path | None:
        """A file with this very content in a release that is here: it need not be fetched."""
        for folder in (*self._finished(), self.factory):
            with suppress(OSError):
                for path in sorted(folder.iterdir()):
                    # Only one of the right size is worth reading.
                    if (
                        path.is_file()
                        and path.stat().st_size == file.size_bytes
                        and sha256_of(path.read_bytes()) == file.sha256
                    ):
                        return path
        return None

    def install(self, manifest_bytes: bytes, manifest: Manifest, files: Mapping[str, Path]) -> Slot:
        """Make a release folder, which nothing runs yet. The same again is success.

        Args:
            manifest_bytes: as signed.
            manifest: what they hold.
            files: where the content of each file that it lists is now; copied.

        Raises:
            ReleaseError: the bytes hold another manifest, or files are not what it says.
            UpdateStoreError: it cannot be written.
        """
        if decode_manifest(manifest_bytes) != manifest:
            raise ReleaseError(f"{manifest.label}: its bytes hold another manifest")
        slot = Slot(release=manifest.label, manifest_sha256=sha256_of(manifest_bytes))
        with suppress(ReleaseError):
            self.read(slot)
            return slot
        staging = self._releases / f".{slot.folder_name}.part"
        try:
            make_folder(self._folder)
            make_folder(self._releases)
            _remove(staging)
            staging.mkdir()
            for file in manifest.files:
                _copy(files[file.name], staging / file.name)
            _write(staging / MANIFEST_NAME, manifest_bytes)
            sync_folder(staging)
            read_release(staging)
            self._put(staging, slot)
        except OSError as error:
            raise self.trouble(self.folder(slot), error) from error
        finally:
            with suppress(OSError):
                _remove(staging)
        return slot

    def sweep(self, *, keep_slots: Collection[Slot], keep_downloads: Collection[str]) -> None:
        """Remove all other releases and downloads, as far as the disk lets us.

        Args:
            keep_slots: releases that stay.
            keep_downloads: SHA-256 of files that are still to be used.
        """
        kept = {slot.folder_name for slot in keep_slots if not slot.factory}
        parts = {f"{sha256}.part" for sha256 in keep_downloads}
        for folder, stay in ((self._releases, kept), (self.downloads, parts)):
            try:
                gone = [path for path in _entries(folder) if path.name not in stay]
                for path in gone:
                    _remove(path)
                if gone:
                    sync_folder(folder)
            except OSError as error:
                logger.error("%s: cannot be cleared: %s", folder, error.strerror)

    def used_bytes(self) -> int:
        """How much of the disk releases and downloads take."""
        total = 0
        for folder in (self._releases, self.downloads):
            for parent, _, names in os.walk(folder):
                for name in names:
                    with suppress(OSError):
                        total += (Path(parent) / name).stat().st_size
        return total

    def free_bytes(self) -> int:
        """How much of the disk is free for this user."""
        for place in (self._folder.absolute(), *self._folder.absolute().parents):
            with suppress(OSError):
                return shutil.disk_usage(place).free
        return 0

    def trouble(self, path: Path, error: OSError) -> UpdateStoreError:
        """What to say of a path that could not be written."""
        free = ""
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            free = f" ({self.free_bytes() / 1e6:.1f} MB free)"
        return UpdateStoreError(f"{error.strerror}{free}: {path} cannot be written")

    def _finished(self) -> Iterator[Path]:
        """Finished releases; what is hidden is not."""
        with suppress(OSError):
            for path in _entries(self._releases):
                if path.is_dir() and not path.name.startswith("."):
                    yield path

    def _put(self, staging: Path, slot: Slot) -> None:
        """Give a finished release its name; what has it already cannot be read."""
        final = self.folder(slot)
        damaged = self._releases / f".{slot.folder_name}.broken"
        with suppress(FileNotFoundError):
            _remove(damaged)
            final.rename(damaged)
        staging.rename(final)
        sync_folder(self._releases)
        _remove(damaged)


def _slot_of(folder: Path, *, factory: bool) -> Slot:
    """Which release a folder holds, by its manifest alone.

    Raises:
        ReleaseError: that cannot be read.
    """
    path = folder / MANIFEST_NAME
    try:
        with path.open("rb") as stream:
            content = stream.read(MAX_MANIFEST_BYTES + 1)
        label = decode_manifest(content).label
    except OSError as error:
        raise ReleaseError(f"{path}: cannot be read: {error.strerror}") from error
    except ReleaseError as error:
        raise ReleaseError(f"{folder}: {error}") from error
    return Slot(release=label, manifest_sha256=sha256_of(content), factory=factory)


def _copy(source: Path, target: Path) -> None:
    with source.open("rb") as reader, target.open("xb") as writer:
        shutil.copyfileobj(reader, writer, _COPY_BYTES)
        writer.flush()
        os.fsync(writer.fileno())


def _write(target: Path, content: bytes) -> None:
    with target.open("xb") as writer:
        writer.write(content)
        writer.flush()
        os.fsync(writer.fileno())


def _remove(path: Path) -> None:
    """Remove a file, or a folder with all that is in it; not what a link points to."""
    if path.is_symlink() or not path.is_dir():
        path.unlink(missing_ok=True)
    else:
        shutil.rmtree(path)


def _entries(folder: Path) -> list[Path]:
    try:
        return sorted(folder.iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return []
