"""Release folders: every file read and checked, or nothing."""

from pathlib import Path

import pytest

from contract.errors import ReleaseError
from contract.release import MANIFEST_NAME, LogNormals, encode_manifest
from node.scoring.release_store import Release, read_release
from tests.rig.fake_inference import FakeModel, release, release_of

FAN = Path(__file__).parents[3] / "models/fan-synthetic"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A release as it lies on disk."""
    return written(tmp_path / "fake", release(add=1))


def written(path: Path, given: Release) -> Path:
    path.mkdir()
    (path / MANIFEST_NAME).write_bytes(encode_manifest(given.manifest))
    for name, content in given.files.items():
        (path / name).write_bytes(content)
    return path


def test_release_is_read(folder: Path) -> None:
    """The manifest and the content of each listed file come back."""
    assert read_release(folder) == release(add=1)
    found = read_release(folder)
    assert found.content(found.manifest.models[0]) == (folder / "model.tflite").read_bytes()


def test_each_model_has_its_own_content(tmp_path: Path) -> None:
    """Of a release of several models each one's bytes are found."""
    normal = LogNormals(mean=0.0, sd=1.0)
    path = written(
        tmp_path / "two", release_of(FakeModel({"add": 1}, normal), FakeModel({"add": 2}, normal))
    )

    found = read_release(path)

    first, second = found.manifest.models
    assert found.content(first) == (path / "model.tflite").read_bytes()
    assert found.content(second) == (path / "model-1.tflite").read_bytes()
    assert found.content(first) != found.content(second)


def test_files_beside_the_release_are_not_read(folder: Path) -> None:
    """A report or a note in the folder does no harm and is not taken in."""
    (folder / "report.html").write_text("<html>")

    assert set(read_release(folder).files) == {"model.tflite"}


def test_released_model_is_what_its_manifest_says() -> None:
    """The model that comes with earshot passes its own checks."""
    found = read_release(FAN)

    assert found.manifest.name == "fan-synthetic"
    assert all(found.content(model) for model in found.manifest.models)


def test_folder_without_a_manifest_says_how_to_make_one(tmp_path: Path) -> None:
    """A folder that is no release, or is not there, is named with the way out."""
    for path in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(ReleaseError) as error:
            read_release(path)

        assert str(error.value).startswith(f"{path}: expected a release folder with manifest.json")
        assert "earshot training train" in str(error.value)


@pytest.mark.parametrize(
    ("damage", "problem"),
    [
        (lambda path: path.unlink(), "cannot read model.tflite: No such file or directory"),
        (lambda path: path.write_bytes(b""), r"model.tflite: expected \d+ bytes, got 0"),
        (
            lambda path: path.write_bytes(path.read_bytes() + b" "),
            r"model.tflite: expected \d+ bytes",
        ),
        (
            lambda path: path.write_bytes(path.read_bytes().replace(b"1", b"2")),
            r"model.tflite: expected SHA-256 \w+\.\.\., got \w+\.\.\.",
        ),
    ],
    ids=["missing", "empty", "longer", "changed"],
)
def test_damaged_file_is_refused(folder: Path, damage: object, problem: str) -> None:
    """A file that is missing, or is not the one the manifest lists, is named with its folder."""
    assert callable(damage)
    damage(folder / "model.tflite")

    with pytest.raises(ReleaseError, match=f"{folder}: {problem}"):
        read_release(folder)


@pytest.mark.parametrize("text", [b"", b"{}", b"\xff", b"x" * 9000])
def test_damaged_manifest_is_refused(folder: Path, text: bytes) -> None:
    """A manifest that is none is refused in one line, with its folder."""
    (folder / MANIFEST_NAME).write_bytes(text)

    with pytest.raises(ReleaseError) as error:
        read_release(folder)

    assert str(error.value).startswith(f"{folder}: Expected a manifest of ")
    assert "\n" not in str(error.value)


def test_folder_in_place_of_a_file_is_refused(folder: Path) -> None:
    """A folder with the file's name is not read."""
    (folder / "model.tflite").unlink()
    (folder / "model.tflite").mkdir()

    with pytest.raises(ReleaseError, match=r"cannot read model\.tflite: Is a directory"):
        read_release(folder)
