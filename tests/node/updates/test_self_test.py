"""The self-test: what a release must show in a process of its own, and all that may go wrong."""

import math
import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec
import pytest

from contract.release import MANIFEST_NAME, SelfTest, describe_file, encode_manifest
from node.scoring.probe import probe
from node.scoring.release_store import Release, read_release
from node.scoring.runtime import find_runtime
from node.scoring.scorer import Scorer
from node.updates.self_test import Tested as Outcome
from node.updates.self_test import self_test
from tests.rig.fake_inference import FEATURES, RUNTIME, release

ROOT = Path(__file__).parents[3]
FAN = read_release(ROOT / "models/fan-synthetic")
PROBED = Scorer(FAN, find_runtime()).score(probe(FAN.manifest.features)).statistic

FAKE_LIBRARY = '''
"""In place of ai-edge-litert: models that do arithmetic, and some that do harm."""

import json, os, signal, sys, time
from tests.rig.fake_inference import Interpreter as Fake


class Interpreter(Fake):
    def __init__(self, *, model_content, num_threads):
        super().__init__(model_content=model_content, num_threads=num_threads)
        self.harm = json.loads(model_content).get("harm")

    def invoke(self):
        if self.harm == "memory":
            self.eaten = [bytearray(64 * 1024**2) for _ in range(64)]
        elif self.harm == "crash":
            os.kill(os.getpid(), signal.SIGSEGV)
        elif self.harm == "exit":
            os._exit(0)
        elif self.harm == "slow":
            end = time.process_time() + 0.02
            while time.process_time() < end:
                pass
        elif self.harm == "chatter":
            os.write(1, b"INFO: created a delegate\\n")
        elif self.harm == "bug":
            raise RuntimeError("reshape: 2 != 3\\nat node 7")
'''


def written(folder: Path, given: Release, self_test: SelfTest | None) -> Path:
    manifest = msgspec.structs.replace(given.manifest, self_test=self_test)
    folder.mkdir()
    (folder / MANIFEST_NAME).write_bytes(encode_manifest(manifest))
    for name, content in given.files.items():
        (folder / name).write_bytes(content)
    return folder


@pytest.fixture
def fake_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The child finds the fake inference library where it looks for ai-edge-litert."""
    package = tmp_path / "library/ai_edge_litert"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "interpreter.py").write_text(FAKE_LIBRARY)
    monkeypatch.setenv("PYTHONPATH", str(package.parent))


def fake(folder: Path, **keys: Any) -> Path:
    """The folder of a release whose model has these keys."""
    return written(folder / "fake", release(**keys), None)


def expected(statistic: float, tolerance: float = 0.01) -> SelfTest:
    return SelfTest(statistic=statistic, relative_tolerance=tolerance)


def test_good_release_passes(tmp_path: Path) -> None:
    """With what the probe gives in this very process."""
    assert PROBED is not None

    found = self_test(written(tmp_path / "fan", FAN, expected(PROBED, 1e-6)), threads=1)

    assert found.passed, found
    assert found.reason is None
    assert found.statistic == pytest.approx(PROBED, rel=1e-6)
    assert found.latency_p95_ms is not None
    assert 0 < found.latency_p95_ms < 500
    assert not found.interrupted


def test_release_without_a_probe_score_is_run_all_the_same(tmp_path: Path) -> None:
    """One that was never packed for a fleet shows what it can."""
    found = self_test(written(tmp_path / "fan", FAN, None), threads=1)

    assert found.passed
    assert found.statistic == pytest.approx(PROBED)


def test_test_runs_from_any_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The child runs the code of the node, wherever that was started."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PYTHONPATH", raising=False)
    monkeypatch.setenv("PYTHONSAFEPATH", "1")
    (tmp_path / "node.py").write_text("raise RuntimeError('this is not the node')")
    written(tmp_path / "fan", FAN, None)

    assert self_test(Path("fan"), threads=1).passed


@pytest.mark.parametrize("factor", [0.97, 1.03])
def test_other_probe_score_is_refused(tmp_path: Path, factor: float) -> None:
    """With expectation and fact; inside the tolerance it passes."""
    assert PROBED is not None
    folder = written(tmp_path / "fan", FAN, expected(PROBED * factor, 0.02))

    found = self_test(folder, threads=1)

    assert not found.passed
    assert found.reason == (
        f"fan-synthetic@1: expected the statistic {PROBED * factor:.6g} for the probe sound"
        f" (within 2.00%), got {PROBED:.6g}"
    )
    assert found.statistic == pytest.approx(PROBED)
    assert self_test(
        written(tmp_path / "wide", FAN, expected(PROBED * factor, 0.05)), threads=1
    ).passed


def test_model_that_no_library_loads_is_refused(tmp_path: Path) -> None:
    """With the library's own word, in one line."""
    found = self_test(
        written(tmp_path / "fan", spoilt(FAN, b"\x1c\0\0\0TFL3" + bytes(3000)), None), threads=1
    )

    assert not found.passed
    assert found.reason is not None
    assert "profile.tflite: ai-edge-litert" in found.reason
    assert "cannot load this model" in found.reason
    assert "\n" not in found.reason


def spoilt(given: Release, content: bytes) -> Release:
    """The same release with another model that fits its manifest."""
    (name,) = given.files
    manifest = msgspec.structs.replace(given.manifest, files=(describe_file(name, content),))
    return Release(manifest, {name: content})


def test_damaged_release_is_refused(tmp_path: Path) -> None:
    """Its files are checked again where they lie."""
    folder = written(tmp_path / "fan", FAN, None)
    (folder / "profile.tflite").write_bytes(b"")

    found = self_test(folder, threads=1)

    assert not found.passed
    assert found.reason is not None
    assert "profile.tflite: expected 18256 bytes, got 0" in found.reason


@pytest.mark.usefixtures("fake_library")
def test_wrong_shapes_are_refused(tmp_path: Path) -> None:
    """A model that gives something else than its manifest says."""
    found = self_test(fake(tmp_path, output_shapes=[[1, 13, 15, 1]]), threads=1)

    assert not found.passed
    assert found.reason == (
        "fake@1: output of model.tflite is (1, 13, 15, 1), the manifest says (1, 13, 16, 1)"
    )


@pytest.mark.usefixtures("fake_library")
@pytest.mark.parametrize("answer", [math.nan, math.inf, -math.inf, 1e38])
def test_answer_that_is_no_number_is_refused(tmp_path: Path, answer: float) -> None:
    """NaN, infinity, or a number whose square is none."""
    found = self_test(fake(tmp_path, answer=answer), threads=1)

    assert found == Outcome(passed=False, reason="fake@1: the probe sound gave no finite number")


@pytest.mark.usefixtures("fake_library")
def test_fake_release_passes(tmp_path: Path) -> None:
    """What is refused below is refused for its harm alone."""
    found = self_test(fake(tmp_path), threads=1)

    assert found.passed, found
    judged = Scorer(release(), RUNTIME).score(probe(FEATURES))
    assert found.statistic == pytest.approx(judged.statistic)


@pytest.mark.usefixtures("fake_library")
def test_slow_model_is_refused(tmp_path: Path) -> None:
    """20 ms for a window that comes each 100 ms are too much for a node that may spend 10."""
    folder = fake(tmp_path, harm="slow")

    found = self_test(folder, threads=1, max_latency_share=0.1)

    assert not found.passed
    assert found.reason is not None
    assert found.reason.startswith("fake@1: expected at most 10 ms for a window, got ")
    assert found.latency_p95_ms is not None
    assert found.latency_p95_ms >= 20
    assert self_test(folder, threads=1, max_latency_share=10.0).passed


@pytest.mark.usefixtures("fake_library")
@pytest.mark.parametrize(
    ("harm", "reason"),
    [
        ("crash", "the self-test was killed by SIGSEGV"),
        ("exit", "the self-test gave no result"),
        ("bug", "the self-test ended with code 1: at node 7"),
        ("memory", "the self-test ended with code 1: MemoryError"),
    ],
)
def test_harm_stays_with_the_child(tmp_path: Path, harm: str, reason: str) -> None:
    """A model that brings its process down is refused, with what was said last."""
    assert self_test(fake(tmp_path, harm=harm), threads=1) == Outcome(passed=False, reason=reason)


@pytest.mark.usefixtures("fake_library")
def test_chatter_is_not_the_result(tmp_path: Path) -> None:
    """Whatever a library writes to standard output."""
    assert self_test(fake(tmp_path, harm="chatter"), threads=1).passed


def test_child_that_cannot_start_python_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Trouble of the installation is told with the last line of its traceback."""
    (tmp_path / "library").mkdir()
    (tmp_path / "library/numpy.py").write_text("raise RuntimeError('no BLAS' + 300 * '!')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "library"))

    found = self_test(written(tmp_path / "fan", FAN, None), threads=1)

    assert not found.passed
    assert found.reason is not None
    assert found.reason.startswith("the self-test ended with code 1: RuntimeError: no BLAS!!!")
    assert len(found.reason) <= 200


@pytest.fixture
def hanging(tmp_path: Path) -> Path:
    """A release whose model can be opened and never read: nobody writes to the pipe."""
    folder = written(tmp_path / "fan", FAN, None)
    (folder / "profile.tflite").unlink()
    os.mkfifo(folder / "profile.tflite")
    return folder


def test_child_that_hangs_is_ended(hanging: Path) -> None:
    """After the time that it is given; no process is left."""
    before = children()
    found = self_test(hanging, threads=1, timeout_seconds=0.5)

    assert found == Outcome(
        passed=False, reason="the self-test gave no result in 0.5 s", interrupted=True
    )
    assert children() == before


@pytest.mark.parametrize(
    ("number", "reason", "interrupted"),
    [
        (signal.SIGKILL, "the self-test was killed by SIGKILL", False),
        (signal.SIGABRT, "the self-test was killed by SIGABRT", False),
        (signal.SIGTERM, "the program ended during the self-test", True),
    ],
)
def test_child_that_is_killed(
    hanging: Path, number: signal.Signals, reason: str, interrupted: bool
) -> None:
    """By the kernel, for its memory, it has failed; with the node's service, nothing is said."""
    with ThreadPoolExecutor() as pool:
        running = pool.submit(self_test, hanging, threads=1)
        os.kill(wait_for_child(running), number)

    assert running.result() == Outcome(passed=False, reason=reason, interrupted=interrupted)


def test_test_ends_with_the_program(hanging: Path) -> None:
    """A node that is stopped does not wait for a minute."""
    before = children()
    stop = threading.Event()
    with ThreadPoolExecutor() as pool:
        running = pool.submit(self_test, hanging, threads=1, stop=stop)
        pid = wait_for_child(running)
        # A Ctrl-C that is meant for the node does not reach it; in another session, where Linux
        # groups by it, its low priority would count for nothing beside the node.
        assert os.getpgid(pid) == pid
        assert os.getsid(pid) == os.getsid(0)
        assert os.getpriority(os.PRIO_PROCESS, pid) == 19
        stop.set()

    assert running.result().interrupted
    assert children() == before


def test_child_gives_way() -> None:
    """To all else that runs, and where memory is short; and it ends when nobody waits for it."""
    script = (
        "import os, signal\n"
        "from node.updates.self_test import _give_way\n"
        "_give_way(5)\n"
        "print(os.nice(0), open('/proc/self/oom_score_adj').read().strip(), signal.alarm(0))"
    )

    ended = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True
    )

    assert ended.stdout.split() == ["19", "1000", "5"]


def test_child_needs_no_more_than_scoring() -> None:
    """No broker, no signatures, no microphone: it starts in a fraction of a second on a Pi."""
    script = (
        "import sys\n"
        "from node.updates.self_test import main\n"
        "main(['models/fan-synthetic'])\n"
        "print(*sorted({'cryptography', 'paho', 'sounddevice', 'soxr', 'ssl'} & set(sys.modules)))"
    )
    ended = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True
    )

    assert msgspec.json.decode(ended.stdout, type=Outcome).passed
    # What a library prints to standard output goes to standard error.
    assert ended.stderr == "\n"


def children() -> set[int]:
    """Processes that this one has started and not buried, zombies included.

    Servers that several tests share may be among them.
    """
    found = set()
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            # The name, in brackets, may hold anything; state and parent come behind it.
            if int(stat.read_text().rpartition(")")[2].split()[1]) == os.getpid():
                found.add(int(stat.parent.name))
    return found


def wait_for_child(running: "Future[Outcome]") -> int:
    """The number of the child, once it is one of its own."""
    while True:
        for pid in children():
            if b"node.updates.self_test" in Path(f"/proc/{pid}/cmdline").read_bytes():
                return pid
        assert not running.done(), running.result()
        time.sleep(0.01)
