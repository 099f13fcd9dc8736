"""Trained runs packed for a fleet."""

import json
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import msgspec
import numpy as np
import pytest

from contract.errors import ReleaseError
from contract.release import (
    ENVELOPE_NAME,
    MANIFEST_NAME,
    LogNormals,
    describe_file,
    encode_manifest,
)
from contract.signature import MAX_ENVELOPE_BYTES
from contract.signed_manifest import open_manifest, sign_manifest
from node.scoring.probe import probe
from node.scoring.release_store import Release, read_release
from node.scoring.runtime import find_runtime
from node.scoring.scorer import Scorer
from tests.rig.signers import SIGNER, TRUSTED
from tests.training.conftest import ROOT
from training.errors import DestinationError
from training.fleet.keys import create_key, read_public_key_file
from training.release.pack import Packed, PackRequest, operator_versions, pack_release
from training.release.release_folder import put_release
from training.release.runtimes import TFLITE_RUNTIME

RUN = ROOT / "models/fan-synthetic"
NOW_US = 1_800_000_000_000_000
DAY_US = 86_400_000_000


def pack(
    trained: Path,
    out: Path,
    *,
    name: str | None = "fan",
    version: int | None = None,
    overwrite: bool = False,
    tflite_python: Path | None = None,
    notes: list[str] | None = None,
) -> Packed:
    """Pack a run, by default in the library installed here alone."""
    return pack_release(
        PackRequest(
            trained=trained,
            out=out,
            name=name,
            version=version,
            description=None,
            valid_days=10,
            overwrite=overwrite,
            tflite_python=tflite_python,
        ),
        SIGNER,
        note=([] if notes is None else notes).append,
        now_us=lambda: NOW_US,
    )


def as_run(folder: Path, *, name: str, version: int) -> Path:
    """Put the run there under another name and version."""
    found = read_release(RUN)
    manifest = msgspec.structs.replace(found.manifest, name=name, version=version)
    put_release(folder, Release(manifest, found.files))
    return folder


def test_is_what_was_trained_signed_and_dated(tmp_path: Path) -> None:
    """Same files, features, threshold; a manifest that the key vouches for; figures beside it."""
    packed = pack(RUN, tmp_path / "fan-1")

    found, run = read_release(tmp_path / "fan-1"), read_release(RUN)
    manifest = found.manifest
    envelope = (tmp_path / "fan-1" / ENVELOPE_NAME).read_bytes()
    signed, text = open_manifest(envelope, TRUSTED)
    assert signed == manifest == packed.manifest
    assert text == (tmp_path / "fan-1" / MANIFEST_NAME).read_bytes()
    assert (manifest.label, manifest.created_us) == ("fan@1", NOW_US)
    assert manifest.not_after_us == NOW_US + 10 * DAY_US
    assert found.files == run.files
    for field in ("features", "threshold", "calibration", "training", "description", "statistic"):
        assert getattr(manifest, field) == getattr(run.manifest, field)
    report = (tmp_path / "fan-1/report.html").read_bytes()
    assert report == (RUN / "report.html").read_bytes()
    assert {path.name for path in (tmp_path / "fan-1").iterdir()} == {
        MANIFEST_NAME,
        ENVELOPE_NAME,
        "profile.tflite",
        "metrics.json",
        "results.csv",
        "report.html",
    }


def test_self_test_is_what_a_node_computes(tmp_path: Path) -> None:
    """The statistic of the probe sound is the scorer's own, and nothing else is claimed."""
    manifest = pack(RUN, tmp_path / "fan-1").manifest

    runtime = find_runtime()
    scored = Scorer(read_release(RUN), runtime).score(probe(manifest.features))
    assert manifest.self_test is not None
    assert manifest.self_test.statistic == scored.statistic
    assert manifest.self_test.relative_tolerance == 0.05
    assert manifest.runtimes == (runtime.name,)


def test_other_library_is_tried_too(tmp_path: Path, tflite_python: Path) -> None:
    """What runs in both is said to."""
    notes: list[str] = []

    packed = pack(RUN, tmp_path / "fan-1", tflite_python=tflite_python, notes=notes)

    assert notes == []
    assert packed.manifest.runtimes == (find_runtime().name, TFLITE_RUNTIME)


def test_library_that_is_not_at_hand_is_not_claimed(tmp_path: Path) -> None:
    """The run named it; this release does not, and says so."""
    notes: list[str] = []

    packed = pack(RUN, tmp_path / "fan-1", notes=notes)

    assert TFLITE_RUNTIME in read_release(RUN).manifest.runtimes
    assert TFLITE_RUNTIME not in packed.manifest.runtimes
    (note,) = notes
    assert note.startswith(f"{TFLITE_RUNTIME} skipped: ")


def fake_python(folder: Path, *, statistic: float | None) -> Path:
    """Make what runs `training.release.runtime_trial` and always answers the same; None refuses."""
    facts: dict[str, object] = {
        "runtime": TFLITE_RUNTIME,
        "version": "0",
        "outcome": "refused" if statistic is None else "ran",
        "reason": "no such operator" if statistic is None else None,
        "operators": [],
        "latency_ms": None,
    }
    program = folder / "fake-python"
    program.write_text(
        f"""#!{sys.executable}
import json, sys
from pathlib import Path
import numpy as np
taken = Path(sys.argv[4])
taken.mkdir()
(taken / "0.json").write_text({json.dumps(facts)!r})
if {statistic is not None}:
    np.save(taken / "0.npy", np.array([float({str(statistic)!r})]))
"""
    )
    program.chmod(0o700)
    return program


def test_tolerance_grows_with_what_libraries_differ_by(tmp_path: Path) -> None:
    """Two libraries 10 % apart leave room for a third."""
    alone = pack(RUN, tmp_path / "alone").manifest.self_test
    assert alone is not None

    python = fake_python(tmp_path, statistic=alone.statistic * 1.1)
    both = pack(RUN, tmp_path / "both", tflite_python=python).manifest

    assert both.self_test is not None
    assert both.self_test.statistic == alone.statistic
    assert both.self_test.relative_tolerance == pytest.approx(0.2)
    assert both.runtimes == (find_runtime().name, TFLITE_RUNTIME)


@pytest.mark.parametrize("off", [0.5, 1.5])
def test_libraries_that_disagree_are_refused(tmp_path: Path, off: float) -> None:
    """No tolerance could tell a broken node from a healthy one; nothing is written."""
    alone = pack(RUN, tmp_path / "alone").manifest.self_test
    assert alone is not None
    python = fake_python(tmp_path, statistic=alone.statistic * off)

    with pytest.raises(ReleaseError, match=f"within 20% of each other.* in {TFLITE_RUNTIME}"):
        pack(RUN, tmp_path / "both", tflite_python=python)

    assert not (tmp_path / "both").exists()


@pytest.mark.parametrize("statistic", ["nan", "inf", "0", "-1"])
def test_statistic_that_is_no_positive_number_is_refused(tmp_path: Path, statistic: str) -> None:
    """Of whichever library; nothing is written."""
    python = fake_python(tmp_path, statistic=float(statistic))

    with pytest.raises(ReleaseError, match=f"expected a positive statistic.*{TFLITE_RUNTIME}"):
        pack(RUN, tmp_path / "fan-1", tflite_python=python)

    assert not (tmp_path / "fan-1").exists()


def test_library_that_refuses_is_not_claimed(tmp_path: Path) -> None:
    """The others' nodes can have the release."""
    notes: list[str] = []
    python = fake_python(tmp_path, statistic=None)

    packed = pack(RUN, tmp_path / "fan-1", tflite_python=python, notes=notes)

    assert packed.manifest.runtimes == (find_runtime().name,)
    assert notes == [f"{TFLITE_RUNTIME} refused: no such operator; nodes with it refuse this"]


def test_models_that_give_no_number_are_refused(tmp_path: Path) -> None:
    """A graph whose weights are NaN is found out in the library installed here."""
    found = read_release(RUN / "variants/float32")
    graph = poisoned(found.files["profile.tflite"])
    manifest = msgspec.structs.replace(
        found.manifest, files=(describe_file("profile.tflite", graph),)
    )
    put_release(tmp_path / "run", Release(manifest, {"profile.tflite": graph}))

    with pytest.raises(ReleaseError, match=r"expected a positive statistic.*got nan"):
        pack(tmp_path / "run", tmp_path / "fan-1")

    assert not (tmp_path / "fan-1").exists()


def poisoned(graph: bytes) -> bytes:
    """Make the largest array of weights NaN."""
    schema = import_module("ai_edge_litert.schema_py_generated")
    model = schema.Model.GetRootAsModel(graph, 0)
    buffers = [model.Buffers(index).DataAsNumpy() for index in range(model.BuffersLength())]
    largest = max((each for each in buffers if not isinstance(each, int)), key=len).tobytes()
    assert graph.count(largest) == 1
    return graph.replace(largest, np.full(len(largest) // 4, np.nan, np.float32).tobytes())


def test_graph_that_nothing_here_loads_is_refused(tmp_path: Path) -> None:
    """With the library's own reason."""
    found = read_release(RUN)
    manifest = msgspec.structs.replace(
        found.manifest, files=(describe_file("profile.tflite", b"no graph"),)
    )
    put_release(tmp_path / "run", Release(manifest, {"profile.tflite": b"no graph"}))

    with pytest.raises(ReleaseError, match="cannot load this model"):
        pack(tmp_path / "run", tmp_path / "fan-1")


def test_versions_only_grow(tmp_path: Path) -> None:
    """The next one is above the run's and its neighbours'; other names have their own."""
    run = as_run(tmp_path / "runs/fan", name="fan", version=3)
    models = tmp_path / "models"

    versions = [
        pack(run, models / "a").manifest.version,
        pack(run, models / "b").manifest.version,
        pack(run, models / "c", name="pump").manifest.version,
        pack(run, models / "d", name=None, version=9).manifest.version,
        pack(run, models / "a", overwrite=True).manifest.version,
    ]

    assert versions == [4, 5, 1, 9, 10]


@pytest.mark.parametrize("version", [2, 7])
def test_version_that_is_taken_is_refused(tmp_path: Path, version: int) -> None:
    """The message names who has the highest; a number above it is fine."""
    as_run(tmp_path / "models/seven", name="fan", version=7)
    as_run(tmp_path / "models/other", name="pump", version=99)

    with pytest.raises(
        DestinationError, match=rf"above 7, which .*models/seven has, got {version}:"
    ):
        pack(RUN, tmp_path / "models/fan", version=version)
    assert not (tmp_path / "models/fan").exists()

    assert pack(RUN, tmp_path / "models/fan", version=8).manifest.version == 8


def test_neighbour_that_cannot_be_read_is_said(tmp_path: Path) -> None:
    """Its version is not known, and may be higher."""
    (tmp_path / "damaged").mkdir()
    (tmp_path / "damaged" / MANIFEST_NAME).write_text("{")
    notes: list[str] = []

    assert pack(RUN, tmp_path / "fan", notes=notes).manifest.version == 1

    assert notes[0].startswith(f"{tmp_path / 'damaged'} does not count for the version: ")


def test_release_that_is_there_stays(tmp_path: Path) -> None:
    """Only `overwrite` replaces it, and never the run that it is made of."""
    pack(RUN, tmp_path / "fan")
    before = (tmp_path / "fan" / MANIFEST_NAME).read_bytes()
    run = as_run(tmp_path / "run", name="fan", version=1)
    put_release(run / "variants/int8", read_release(RUN / "variants/int8"))

    with pytest.raises(DestinationError, match="--overwrite"):
        pack(RUN, tmp_path / "fan")
    for trained in (run, run / "variants/int8"):
        with pytest.raises(DestinationError, match="holds the run itself"):
            pack(trained, run, overwrite=True)

    assert (tmp_path / "fan" / MANIFEST_NAME).read_bytes() == before
    assert (run / "variants/int8" / MANIFEST_NAME).exists()


def test_damaged_run_is_refused(tmp_path: Path) -> None:
    """A changed byte in a model is found before anything is signed."""
    run = as_run(tmp_path / "run", name="fan", version=1)
    (run / "profile.tflite").write_bytes(b"x" + (run / "profile.tflite").read_bytes()[1:])

    with pytest.raises(ReleaseError, match="SHA-256"):
        pack(run, tmp_path / "fan")

    assert not (tmp_path / "fan").exists()


def test_operator_versions_are_the_graphs_own() -> None:
    """Float and int8 kernels of one kind differ in their version, which a library may not have."""
    found = {
        quantisation: operator_versions(
            (RUN / "variants" / quantisation / "profile.tflite").read_bytes()
        )
        for quantisation in ("float32", "dynamic", "int8")
    }

    assert found["float32"] == (
        "FULLY_CONNECTED@1",
        "MEAN@1",
        "MUL@1",
        "STRIDED_SLICE@1",
        "SUB@1",
    )
    assert "FULLY_CONNECTED@9" in found["dynamic"]
    assert {"FULLY_CONNECTED@4", "QUANTIZE@1"} <= set(found["int8"])


def test_manifest_has_room_for_the_largest_recipe(tmp_path: Path) -> None:
    """With two models, operators and a self-test it is below the bound, and so is its envelope."""
    manifest = pack(RUN, tmp_path / "fan").manifest
    (model,) = manifest.models
    operators = tuple(f"SQUARED_DIFFERENCE@{number}" for number in range(12))
    log_error = LogNormals(mean=-4.425231260760579, sd=0.28359072743154)
    large = msgspec.structs.replace(
        manifest,
        models=(msgspec.structs.replace(model, operators=operators, log_error=log_error),) * 2,
        statistic="exp_sum_log_z",
        description="x" * 200,
    )

    assert len(encode_manifest(large)) < 4096
    assert len(sign_manifest(large, SIGNER)) < MAX_ENVELOPE_BYTES


def test_on_the_command_line_without_tensorflow(tmp_path: Path) -> None:
    """As the demo does, whose environment has neither TensorFlow nor scikit-learn nor librosa."""
    key = create_key(tmp_path / "key.pem", b"a phrase")
    (tmp_path / "phrase").write_text("a phrase\n")
    out = tmp_path / "models/fan-1"
    arguments = ["release", str(RUN), "--name", "fan", "--out", str(out), "--description", "Hm"]
    arguments += ["--key", str(key.private), "--passphrase-file", str(tmp_path / "phrase")]
    code = (
        "import sys\n"
        "for name in ('tensorflow', 'keras', 'sklearn', 'scipy', 'librosa', 'numba'):\n"
        "    sys.modules[name] = None\n"
        "from training.__main__ import main\n"
        f"sys.exit(main({arguments!r}))"
    )

    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )

    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"fan@1 in {out}: 0.02 MB, signed by {key.key_id[:12]}; ")
    assert f"earshot fleet push {out} " in done.stdout
    envelope = (out / ENVELOPE_NAME).read_bytes()
    manifest, _ = open_manifest(envelope, read_public_key_file(key.public))
    assert manifest.description == "Hm"
