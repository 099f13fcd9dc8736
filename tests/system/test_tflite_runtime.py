"""The same scores in tflite-runtime 2.14, in an environment of its own (`make test` makes it)."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import soundfile

from contract import VERSION
from contract.messages import Birth
from node.synthetic import MachineSound, Synthesizer
from tests.fleet import MODEL, ROOT, Listener, environment, node_settings
from tests.servers import Mosquitto

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
