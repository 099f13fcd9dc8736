"""Models from elsewhere."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from contract.errors import ReleaseError
from contract.release import MAX_FILE_BYTES
from node.scoring.release_store import read_release
from tests.training.conftest import RunTraining
from training.errors import DestinationError
from training.release.import_model import ImportRequest, import_model


def request(file: Path, out: Path, *, overwrite: bool = False) -> ImportRequest:
    """Ask for an import."""
    return ImportRequest(
        file=file,
        threshold=9.0,
        out=out,
        name="elsewhere",
        version=3,
        description=None,
        overwrite=overwrite,
        command="earshot training import",
    )


def test_describes_what_it_found(elsewhere: Path, tmp_path: Path) -> None:
    """The release has the file's bytes, shapes, the given threshold, and who could load it."""
    import_model(request(elsewhere, tmp_path / "out"))

    release = read_release(tmp_path / "out")
    manifest = release.manifest
    (model,) = manifest.models
    assert release.content(model) == elsewhere.read_bytes()
    assert manifest.label == "elsewhere@3"
    assert (model.input_shape, model.output_shape) == ((1, 40, 64, 1), (1, 40, 64, 1))
    assert (model.output, model.error, model.log_error) == ("reconstruction", "mse", None)
    assert model.parameters is None
    assert manifest.runtimes in (("ai-edge-litert",), ("tflite-runtime",))
    assert (manifest.threshold.value, manifest.threshold.method) == (9.0, "given")
    assert (manifest.calibration, manifest.training.recipe) == (None, None)
    assert manifest.hop_us == 1_000_000


@pytest.fixture
def unfit(tmp_path: Path) -> Iterator[Path]:
    """Give a place for a file that is no model."""
    file = tmp_path / "unfit.tflite"
    yield file
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "expected a model of 1 to"),
        (b"no graph at all", "cannot load this model"),
        (b"\x1c\0\0\0TFL3" + bytes(100), "cannot load this model"),
        (bytes(MAX_FILE_BYTES + 1), "expected a model of 1 to"),
    ],
)
def test_no_model(unfit: Path, content: bytes, message: str) -> None:
    """A file that no runtime can load is refused, and nothing is written."""
    unfit.write_bytes(content)

    with pytest.raises(ReleaseError, match=message):
        import_model(request(unfit, unfit.parent / "out"))


def test_no_file(unfit: Path) -> None:
    """A file that is not there is named."""
    with pytest.raises(ReleaseError, match=r"unfit\.tflite: cannot read"):
        import_model(request(unfit, unfit.parent / "out"))


def test_does_not_overwrite(elsewhere: Path, tmp_path: Path) -> None:
    """A release that is there stays."""
    import_model(request(elsewhere, tmp_path / "out"))

    with pytest.raises(DestinationError, match="--overwrite"):
        import_model(request(elsewhere, tmp_path / "out"))
    import_model(request(elsewhere, tmp_path / "out", overwrite=True))


def test_command(elsewhere: Path, tmp_path: Path, run_training: RunTraining) -> None:
    """The command says in one line what it made, and keeps paths to itself."""
    out = tmp_path / "other-fan"

    done = run_training(["import", elsewhere, "--threshold", "9.5", "--out", out])

    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(f"other-fan@1 in {out}: 0.78 MB, threshold 9.5, runs in ")
    manifest = read_release(out).manifest
    assert manifest.training.command == (
        "earshot training import model.tflite --threshold 9.5 --out other-fan"
    )
