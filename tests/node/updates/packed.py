"""Releases as they come from training: small ones whose models do arithmetic."""

import hashlib
from pathlib import Path
from typing import NamedTuple

import msgspec

from contract.release import CHUNK_BYTES, MANIFEST_NAME, LogNormals, Manifest, encode_manifest
from node.scoring.release_store import Release
from node.updates.download import ChunkError, Download
from node.updates.slots import SlotStore
from node.updates.update_state import Slot
from tests.rig.fake_inference import FakeModel, release_of

NOW_US = 1_795_358_112_500_000


class Packed(NamedTuple):
    """A release, and what it is called on a node."""

    release: Release
    slot: Slot

    @property
    def manifest(self) -> Manifest:
        return self.release.manifest

    @property
    def manifest_bytes(self) -> bytes:
        return encode_manifest(self.release.manifest)

    def write(self, folder: Path) -> Path:
        """The release folder."""
        folder.mkdir(parents=True)
        (folder / MANIFEST_NAME).write_bytes(self.manifest_bytes)
        self.write_files(folder)
        return folder

    def write_files(self, folder: Path) -> dict[str, Path]:
        """The files alone, as somebody has fetched them."""
        for name, content in self.release.files.items():
            (folder / name).write_bytes(content)
        return {name: folder / name for name in self.release.files}


def packed(version: int, *, name: str = "fan", large: bool = False) -> Packed:
    """A release of two models; the second is the same in all versions."""
    log_error = LogNormals(mean=0.0, sd=1.0)
    keys = {"add": version, "note": "x" * (2 * CHUNK_BYTES) if large else ""}
    given = release_of(FakeModel(keys, log_error), FakeModel({"add": 1000}, log_error))
    release = msgspec.structs.replace(
        given, manifest=msgspec.structs.replace(given.manifest, name=name, version=version)
    )
    return Packed(release, _slot(release.manifest))


def _slot(manifest: Manifest) -> Slot:
    digest = hashlib.sha256(encode_manifest(manifest)).hexdigest()
    return Slot(release=manifest.label, manifest_sha256=digest)


def store_at(root: Path) -> SlotStore:
    """Of a node whose factory release is in `root/factory`, if that is there."""
    return SlotStore(root / "state/press-07", root / "factory", now_us=lambda: NOW_US)


def fetch(store: SlotStore, given: Packed) -> dict[str, Path]:
    """Where its files are, those downloaded that are not here yet."""
    found = {}
    for file in given.manifest.files:
        here = store.folders.find_file(file)
        if here is None:
            download = Download(store.folders.downloads, file)
            here = complete(download, given.release.files[file.name])
        found[file.name] = here
    return found


def complete(download: Download, content: bytes) -> Path:
    """Fetch what is missing, from the start where an earlier run has left something spoilt."""
    while not download.done:
        (chunk,) = download.next_chunks(1)
        download.add(chunk, content[chunk * CHUNK_BYTES : (chunk + 1) * CHUNK_BYTES])
    try:
        return download.finish()
    except ChunkError as error:
        if error.fresh:
            raise
    return complete(download, content)


def take_on(store: SlotStore, given: Packed) -> None:
    """All of an update that goes well."""
    slot = store.folders.install(given.manifest_bytes, given.manifest, fetch(store, given))
    store.switch(slot)
    store.confirm()
