"""Writing release folders; reading them is the node's (`node.release_store`)."""

import json
from collections.abc import Mapping
from pathlib import Path

from contract.errors import ReleaseError
from contract.release import MANIFEST_NAME, Manifest, encode_manifest
from node.release_store import read_release
from training.errors import DestinationError
from training.staging import is_free, refuse_unwritable, staged_folder

MODEL_NAME = "model.tflite"
METRICS_NAME = "metrics.json"


def check_destination(folder: Path, *, overwrite: bool) -> None:
    """Make sure, before hours of training, that a release may be written there.

    Raises:
        DestinationError: something is there that would be lost, or the disk does not let it.
    """
    refuse_unwritable(folder)
    if is_free(folder):
        return
    if not folder.is_dir():
        raise DestinationError(f"{folder}: expected a folder, or nothing yet")
    try:
        listed = {file.name for file in read_release(folder).manifest.files}
    except ReleaseError as error:
        raise DestinationError(
            f"{folder}: not empty and not a release, so it is left as it is"
        ) from error
    others = {path.name for path in folder.iterdir()} - listed - {MANIFEST_NAME, METRICS_NAME}
    if others:
        raise DestinationError(
            f"{folder}: holds {min(others)}, which is not part of the release; take it away first"
        )
    if not overwrite:
        raise DestinationError(f"{folder}: is a release already; --overwrite replaces it")


def write_release(
    folder: Path,
    manifest: Manifest,
    files: Mapping[str, bytes],
    *,
    metrics: Mapping[str, object] | None = None,
    overwrite: bool = False,
) -> None:
    """Write a release folder, whole or not at all.

    Args:
        folder: where; made if it is not there.
        manifest: lists `files`.
        files: content by name.
        metrics: goes into `metrics.json`, beside the release and not part of it.
        overwrite: replace a release that is there.

    Raises:
        DestinationError: it may not or cannot be written there.
        ReleaseError: the files are not what the manifest says.
    """
    check_destination(folder, overwrite=overwrite)
    with staged_folder(folder) as staging:
        for name, content in files.items():
            (staging / name).write_bytes(content)
        if metrics is not None:
            text = json.dumps(metrics, indent=2, allow_nan=False)
            (staging / METRICS_NAME).write_text(text + "\n", encoding="utf-8")
        (staging / MANIFEST_NAME).write_bytes(encode_manifest(manifest))
        read_release(staging)
