"""The same scores in tflite-runtime 2.14, in an environment of its own (`make test` makes it)."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
from ai_edge_litert import schema_py_generated as schema

from contract import VERSION
from contract.messages import Birth, Update
from contract.states import UpdatePhase
from node.sound.synthetic import MachineSound, Synthesizer
from tests.rig.brokers import Mosquitto
from tests.rig.listeners import Listener
from tests.rig.programs import MODEL, ROOT, environment, node_settings
from tests.rig.shelf import Shelf, keys_file, packed
from tests.rig.tflite_files import with_operator_version
from tests.rig.waiting import wait_until

_PYTHON = ROOT / ".venv-tflite" / "bin" / "python"
_TOLERANCE = 1e-3

pytestmark = pytest.mark.skipif(
    sys.version_info >= (3, 12), reason="tflite-runtime has no wheel for Python 3.12 and later"
)


@pytest.fixture
def tflite_python() -> Path:
    """The other environment's interpreter."""
    if not _PYTHON.exists():
        missing = f"{_PYTHON.relative_to(ROOT)} is missing: run `make test`"
        if os.environ.get("EARSHOT_TESTS_REQUIRE_SERVERS") == "1":
            pytest.fail(missing)
        pytest.skip(missing)
    return _PYTHON


def test_both_runtimes_give_the_same_scores(tflite_python: Path, tmp_path: Path) -> None:
    """`node score` agrees between ai-edge-litert and tflite-runtime to one in a thousand."""
    recording = tmp_path / "fan.wav"
    sound = Synthesizer(MachineSound(fault="bearing", fault_after_seconds=5), sample_rate_hz=16_000)
    soundfile.write(recording, sound.read(160_000), 16_000)

    scores = [_scores(python, recording) for python in (Path(sys.executable), tflite_python)]

    assert len(scores[0]) == 9
    assert scores[0] == pytest.approx(scores[1], rel=_TOLERANCE)


def test_a_checkout_with_the_locked_packages_alone_is_a_node(
    tflite_python: Path, mosquitto: Mosquitto
) -> None:
    """As on a Pi: only the lock is installed, not earshot itself; everything is published."""
    with Listener(mosquitto) as listener:
        ended = subprocess.run(
            [tflite_python, "-m", "node", "run"],
            cwd=ROOT,
            env=environment(node_settings(mosquitto, "synthetic:fan?seconds=4")),
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        listener.wait_for_windows(3)
        (birth,) = listener.all_of(Birth)

        assert ended.returncode == 0, ended.stderr
        assert birth.runtime == "tflite-runtime"
        assert birth.software == f"earshot {VERSION}"


def test_update_that_the_library_cannot_load_is_rejected(
    tflite_python: Path, mosquitto: Mosquitto, tmp_path: Path
) -> None:
    """Dense layers as TensorFlow writes them today (version 12) are too new for tflite-runtime."""
    too_new = packed(
        2,
        model=lambda content: with_operator_version(
            content, schema.BuiltinOperator.FULLY_CONNECTED, 12
        ),
    )
    settings = node_settings(mosquitto, "synthetic:fan", UPDATE_KEYS_FILE=str(keys_file(tmp_path)))
    with Listener(mosquitto) as listener, Shelf(mosquitto) as shelf:
        shelf.put_release(too_new)
        shelf.order("all", too_new)
        with subprocess.Popen(
            [tflite_python, "-m", "node", "run"],
            cwd=ROOT,
            env=environment(settings),
            stderr=subprocess.DEVNULL,
        ) as node:
            try:
                wait_until(
                    lambda: any(u.phase is UpdatePhase.REJECTED for u in listener.all_of(Update)),
                    "the refusal",
                    seconds=60,
                )
                listener.wait_for_windows(len(listener.windows()) + 1)
            finally:
                node.kill()
    refused = next(u for u in listener.all_of(Update) if u.phase is UpdatePhase.REJECTED)

    assert refused.reason is not None
    assert "tflite-runtime 2.14.0 cannot load this model" in refused.reason
    assert "'FULLY_CONNECTED' version '12'" in refused.reason
    assert {window.model for window in listener.windows()} == {"fan-synthetic@1"}


def test_numpy_2_beside_it_is_one_line(tflite_python: Path, tmp_path: Path) -> None:
    """An environment in which somebody has upgraded NumPy says so, and what to install."""
    packages = tmp_path / "packages"
    packages.mkdir()
    theirs = next(tflite_python.parents[1].glob("lib/python*/site-packages"))
    for package in theirs.iterdir():
        if not package.name.startswith("numpy"):
            (packages / package.name).symlink_to(package)
    ours = Path(np.__file__).parents[1]
    for package in ours.glob("numpy*"):
        (packages / package.name).symlink_to(package)
    recording = tmp_path / "fan.wav"
    soundfile.write(recording, np.zeros(48_000), 16_000)

    ended = subprocess.run(
        [sys.executable, "-S", "-m", "node", "score", recording, "--model", MODEL],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(packages)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert ended.returncode == 2
    (line,) = ended.stderr.splitlines()
    assert f"needs numpy 1, and numpy {np.__version__} is installed" in line
    assert "requirements/node-tflite.txt" in line


def _scores(python: Path, recording: Path) -> list[float]:
    ended = subprocess.run(
        [python, "-m", "node", "score", recording, "--model", MODEL, "--format", "json"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    return [window["mse"] for window in json.loads(ended.stdout)["windows"]]
