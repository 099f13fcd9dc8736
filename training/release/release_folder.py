"""Writing release folders; reading them is the node's (`node.scoring.release_store`).

Beside the release itself, a folder that `training train` wrote holds what was measured
(`metrics.json`, `results.csv`, `report.html`) and `variants/`: the same networks in every
quantisation, each a release of its own. One that `training release` packed has no variants, and
its manifest in a signed envelope.
"""

from pathlib import Path

import msgspec

from contract.errors import ReleaseError
from contract.release import ENVELOPE_NAME, MANIFEST_NAME, encode_manifest
from node.scoring.release_store import Release, read_release
from training.errors import DestinationError
from training.staging import is_free, refuse_unwritable, staged_folder

_MODEL_SUFFIX = ".tflite"
MODEL_NAME = f"model{_MODEL_SUFFIX}"
METRICS_NAME = "metrics.json"
RESULTS_NAME = "results.csv"
REPORT_NAME = "report.html"
VARIANTS_NAME = "variants"
MEASURED_NAMES = (METRICS_NAME, RESULTS_NAME, REPORT_NAME)
_BESIDE = {MANIFEST_NAME, ENVELOPE_NAME, *MEASURED_NAMES, VARIANTS_NAME}


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
    others = {path.name for path in folder.iterdir()} - listed - _BESIDE
    others |= _strange_among_variants(folder)
    if others:
        raise DestinationError(
            f"{folder}: holds {min(others)}, which is not part of the release; take it away first"
        )
    if not overwrite:
        raise DestinationError(f"{folder}: is a release already; --overwrite replaces it")


def write_release(folder: Path, release: Release, *, overwrite: bool = False) -> None:
    """Write a release folder, whole or not at all.

    Raises:
        DestinationError: it may not or cannot be written there.
        ReleaseError: the files are not what the manifest says.
    """
    check_destination(folder, overwrite=overwrite)
    with staged_folder(folder) as staging:
        put_release(staging, release)


def put_release(folder: Path, release: Release) -> None:
    """Put a release into a folder that nobody looks at yet, and read it back.

    Raises:
        ReleaseError: the files are not what the manifest says.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in release.files.items():
        (folder / name).write_bytes(content)
    (folder / MANIFEST_NAME).write_bytes(encode_manifest(release.manifest))
    read_release(folder)


def variant_folders(folder: Path) -> dict[str, Path]:
    """The releases below `variants/`, by their quantisation."""
    variants = folder / VARIANTS_NAME
    if not variants.is_dir():
        return {}
    found = sorted(variants.iterdir())
    return {path.name: path for path in found if (path / MANIFEST_NAME).is_file()}


def take_variant(folder: Path, quantisation: str, *, name: str, version: int) -> Release:
    """Another quantisation of a trained run, as a release of its own.

    Raises:
        DestinationError: the run has no such variant.
        ReleaseError: it is damaged.
    """
    variants = variant_folders(folder)
    if quantisation not in variants:
        raise DestinationError(
            f"{folder}: expected {VARIANTS_NAME}/{quantisation}, there is"
            f" {', '.join(variants) or 'none'}; `training train` writes them all unless told"
            " --no-variants"
        )
    found = read_release(variants[quantisation])
    manifest = msgspec.structs.replace(found.manifest, name=name, version=version)
    return Release(manifest, found.files)


def _strange_among_variants(folder: Path) -> set[str]:
    return {
        path.relative_to(folder).as_posix()
        for path in (folder / VARIANTS_NAME).rglob("*")
        if path.is_file() and path.name != MANIFEST_NAME and path.suffix != _MODEL_SUFFIX
    }
