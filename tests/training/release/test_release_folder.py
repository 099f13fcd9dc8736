"""Writing release folders."""

from pathlib import Path

import pytest

from contract.errors import ReleaseError
from node.scoring.release_store import Release, read_release
from tests.training.conftest import MakeManifest, Run
from training.errors import DestinationError
from training.release.release_folder import (
    check_destination,
    put_release,
    variant_folders,
    write_release,
)

CONTENT = {"model.tflite": b"a graph"}


def test_the_node_reads_what_is_written(tmp_path: Path, make_manifest: MakeManifest) -> None:
    """A written release is read back with its manifest and files, and nothing is left beside."""
    release = Release(make_manifest(b"a graph"), CONTENT)

    write_release(tmp_path / "fan", release)

    assert read_release(tmp_path / "fan") == release
    assert [path.name for path in tmp_path.iterdir()] == ["fan"]


def test_overwrites_only_when_told(tmp_path: Path, make_manifest: MakeManifest) -> None:
    """A release that is there stays, unless `overwrite` says otherwise."""
    write_release(tmp_path / "fan", Release(make_manifest(b"a graph"), CONTENT))
    newer = Release(make_manifest(b"another"), {"model.tflite": b"another"})

    with pytest.raises(DestinationError, match="--overwrite"):
        write_release(tmp_path / "fan", newer)
    assert read_release(tmp_path / "fan").files == CONTENT

    write_release(tmp_path / "fan", newer, overwrite=True)
    assert read_release(tmp_path / "fan") == newer


def test_what_training_measured_goes_with_the_release(
    tmp_path: Path, make_manifest: MakeManifest
) -> None:
    """Metrics, results, report and variants beside a release do not keep it from being replaced."""
    release = Release(make_manifest(b"a graph"), CONTENT)
    write_release(tmp_path / "fan", release)
    for name in ("metrics.json", "results.csv", "report.html"):
        (tmp_path / "fan" / name).write_text("measured")
    put_release(tmp_path / "fan/variants/int8", release)

    write_release(tmp_path / "fan", release, overwrite=True)

    assert {path.name for path in (tmp_path / "fan").iterdir()} == {"manifest.json", "model.tflite"}


def test_variants_are_found_by_their_quantisation(
    tmp_path: Path, make_manifest: MakeManifest
) -> None:
    """Each is a release of its own; a folder without a manifest is none."""
    release = Release(make_manifest(b"a graph"), CONTENT)
    write_release(tmp_path, release)
    assert variant_folders(tmp_path) == {}

    put_release(tmp_path / "variants/int8", release)
    put_release(tmp_path / "variants/float16", release)
    (tmp_path / "variants/notes").mkdir()

    assert variant_folders(tmp_path) == {
        "float16": tmp_path / "variants/float16",
        "int8": tmp_path / "variants/int8",
    }
    assert read_release(tmp_path / "variants/int8") == release


@pytest.mark.parametrize("beside", [False, True])
def test_never_replaces_what_is_no_release(
    tmp_path: Path, make_manifest: MakeManifest, beside: bool
) -> None:
    """A folder with anything else in it is left alone, even with `overwrite`."""
    if beside:
        write_release(tmp_path / "fan", Release(make_manifest(b"a graph"), CONTENT))
    (tmp_path / "fan").mkdir(exist_ok=True)
    (tmp_path / "fan/thesis.txt").write_text("years of work")

    with pytest.raises(DestinationError):
        write_release(tmp_path / "fan", Release(make_manifest(b"a graph"), CONTENT), overwrite=True)

    assert (tmp_path / "fan/thesis.txt").read_text() == "years of work"


def test_contradiction_is_not_written(tmp_path: Path, make_manifest: MakeManifest) -> None:
    """A file that is not what the manifest says leaves nothing behind."""
    release = Release(make_manifest(b"a graph"), {"model.tflite": b"b graph"})

    with pytest.raises(ReleaseError, match="SHA-256"):
        write_release(tmp_path / "fan", release)

    assert list(tmp_path.iterdir()) == []


def test_what_training_wrote_may_be_replaced(duo_run: Run, make_manifest: MakeManifest) -> None:
    """A training's folder holds nothing that would keep another from taking its place."""
    assert {path.name for path in duo_run.out.iterdir()} >= {
        "manifest.json",
        "metrics.json",
        "variants",
        "conv.tflite",
        "profile.tflite",
    }

    check_destination(duo_run.out, overwrite=True)
    with pytest.raises(DestinationError, match="is a release already"):
        check_destination(duo_run.out, overwrite=False)
    assert set(variant_folders(duo_run.out)) == {"float32", "float16", "dynamic", "int8"}


@pytest.mark.parametrize("name", ["variants/thesis.txt", "variants/int8/thesis.txt"])
def test_what_lies_among_the_variants_is_not_lost(
    tmp_path: Path, make_manifest: MakeManifest, name: str
) -> None:
    """A file that is not ours keeps a release from being replaced there, too."""
    release = Release(make_manifest(b"a graph"), CONTENT)
    write_release(tmp_path / "fan", release)
    put_release(tmp_path / "fan/variants/int8", release)
    (tmp_path / "fan" / name).write_text("years of work")

    with pytest.raises(DestinationError, match=r"holds .*thesis\.txt"):
        write_release(tmp_path / "fan", release, overwrite=True)

    assert (tmp_path / "fan" / name).read_text() == "years of work"
