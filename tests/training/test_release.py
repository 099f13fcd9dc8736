"""Writing release folders."""

import json
from pathlib import Path

import pytest

from contract.errors import ReleaseError
from node.release_store import read_release
from tests.training.conftest import MakeManifest
from training.errors import DestinationError
from training.release import write_release

CONTENT = {"model.tflite": b"a graph"}


def test_the_node_reads_what_is_written(tmp_path: Path, make_manifest: MakeManifest) -> None:
    """A written release is read back with its manifest and files, and has its metrics beside."""
    manifest = make_manifest(b"a graph")

    write_release(tmp_path / "fan", manifest, CONTENT, metrics={"auc": 0.5})

    release = read_release(tmp_path / "fan")
    assert (release.manifest, release.files) == (manifest, CONTENT)
    assert json.loads((tmp_path / "fan/metrics.json").read_text()) == {"auc": 0.5}
    assert [path.name for path in tmp_path.iterdir()] == ["fan"]


def test_overwrites_only_when_told(tmp_path: Path, make_manifest: MakeManifest) -> None:
    """A release that is there stays, unless `overwrite` says otherwise."""
    write_release(tmp_path / "fan", make_manifest(b"a graph"), CONTENT)
    newer = make_manifest(b"another")

    with pytest.raises(DestinationError, match="--overwrite"):
        write_release(tmp_path / "fan", newer, {"model.tflite": b"another"})
    assert read_release(tmp_path / "fan").files == CONTENT

    write_release(tmp_path / "fan", newer, {"model.tflite": b"another"}, overwrite=True)
    assert read_release(tmp_path / "fan").manifest == newer


@pytest.mark.parametrize("beside", [False, True])
def test_never_replaces_what_is_no_release(
    tmp_path: Path, make_manifest: MakeManifest, beside: bool
) -> None:
    """A folder with anything else in it is left alone, even with `overwrite`."""
    if beside:
        write_release(tmp_path / "fan", make_manifest(b"a graph"), CONTENT)
    (tmp_path / "fan").mkdir(exist_ok=True)
    (tmp_path / "fan/thesis.txt").write_text("years of work")

    with pytest.raises(DestinationError):
        write_release(tmp_path / "fan", make_manifest(b"a graph"), CONTENT, overwrite=True)

    assert (tmp_path / "fan/thesis.txt").read_text() == "years of work"


def test_contradiction_is_not_written(tmp_path: Path, make_manifest: MakeManifest) -> None:
    """A file that is not what the manifest says leaves nothing behind."""
    with pytest.raises(ReleaseError, match="SHA-256"):
        write_release(tmp_path / "fan", make_manifest(b"a graph"), {"model.tflite": b"b graph"})

    assert list(tmp_path.iterdir()) == []
