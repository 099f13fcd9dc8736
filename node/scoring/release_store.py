"""Release folders on disk: `manifest.json` and the files that it lists."""

import os
from pathlib import Path

import msgspec

from contract.errors import ReleaseError
from contract.release import (
    MANIFEST_NAME,
    MAX_FILE_BYTES,
    Manifest,
    Model,
    check_file,
    decode_manifest,
)


class Release(msgspec.Struct, frozen=True):
    """A manifest with the content of its files, every one checked against it."""

    manifest: Manifest
    files: dict[str, bytes]

    def content(self, model: Model) -> bytes:
        """The bytes of a model's `.tflite` file."""
        return self.files[model.file]


def read_release(folder: Path) -> Release:
    """Read a release and check every file of it.

    Raises:
        ReleaseError: something is missing, or is not what the manifest says.
    """
    if not os.path.isfile(folder / MANIFEST_NAME):  # noqa: PTH113 - Path.is_file raises on a damaged card
        raise ReleaseError(
            f"{folder.absolute()}: expected a release folder with {MANIFEST_NAME} (a relative path"
            " starts at the current directory; `earshot training train` makes a release)"
        )
    try:
        manifest = decode_manifest(_read(folder / MANIFEST_NAME))
        files = {}
        for file in manifest.files:
            files[file.name] = _read(folder / file.name)
            check_file(file, files[file.name])
    except ReleaseError as error:
        raise ReleaseError(f"{folder}: {error}") from error
    return Release(manifest, files)


def _read(path: Path) -> bytes:
    try:
        # One byte more than allowed is enough to know.
        with path.open("rb") as stream:
            return stream.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise ReleaseError(f"cannot read {path.name}: {error.strerror}") from error
