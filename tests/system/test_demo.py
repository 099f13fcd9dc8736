"""`earshot demo`, as the README's first command runs it."""

import os
import shutil
import signal
import subprocess
import sys
from itertools import takewhile
from pathlib import Path

import msgspec
import pytest

from contract.release import MANIFEST_NAME, decode_manifest, encode_manifest
from contract.states import UpdatePhase
from demo.summary import summarize
from tests.rig.installed import require
from tests.rig.programs import MODEL, ROOT, run

_FAULT_AFTER = 10
_SECONDS = 24
_OLD, _NEW = "fan-synthetic@1", "fan-synthetic@2"


@pytest.mark.parametrize("broker", ["mosquitto", "iotcore"])
def test_demo_stores_every_window_and_flags_the_faulty_machine(broker: str, tmp_path: Path) -> None:
    """With either broker: nothing is lost, the fault is found, the healthy are left alone."""
    if broker == "mosquitto":
        require("mosquitto")
    ended = run(
        "demo",
        *("--seconds", str(_SECONDS), "--fault-after", str(_FAULT_AFTER)),
        *("--broker", broker, "--keep", str(tmp_path)),
        settings={"EARSHOT_MQTT_HOST": "settings of another fleet must not matter"},
        seconds=120,
    )
    nodes = {s.node: s for s in summarize(tmp_path / "earshot.db", {"fan-3": _FAULT_AFTER})}
    faulty = nodes["fan-3"]

    assert ended.returncode == 0, ended.stderr
    assert "produced windows is stored" in ended.stdout
    assert "earshot node init" in ended.stdout.splitlines()[-4]
    assert len(nodes) == 3
    assert all(s.produced == s.stored == s.scored for s in nodes.values())
    assert all(s.stored >= _SECONDS - 6 for s in nodes.values())
    assert nodes["fan-1"].flagged <= 1
    assert nodes["fan-2"].flagged <= 1
    assert faulty.flagged_before_fault <= 1
    assert faulty.fault_to_flag_s is not None
    assert faulty.fault_to_flag_s <= 4.0
    assert faulty.flagged >= 0.8 * (faulty.stored - faulty.windows_before_fault)
    assert {name: (s.model, s.update) for name, s in nodes.items()} == {
        "fan-1": (_NEW, UpdatePhase.COMMITTED),
        "fan-2": (_OLD, UpdatePhase.ROLLED_BACK),
        "fan-3": (_NEW, UpdatePhase.COMMITTED),
    }
    # Each node once in the push's own table, with what has become of it.
    below = ended.stdout.partition("flagged new/running")[2].splitlines()[1:]
    table = list(takewhile(str.strip, below))
    outcomes = {"fan-1": "committed", "fan-2": "rolled back", "fan-3": "committed"}
    for name, outcome in outcomes.items():
        (row,) = [line for line in table if name in line]
        assert outcome in row


@pytest.mark.parametrize(
    ("seconds", "word", "also_said"),
    [
        ("120", "windows 3", "Ending"),
        ("6", "ordered for 100 %", "interrupted; what was sent stays"),
    ],
    ids=["while the table is shown", "while the update is under way"],
)
def test_ctrl_c_ends_the_demo_with_its_summary(
    seconds: str, word: str, also_said: str, tmp_path: Path
) -> None:
    """SIGINT ends the show, not the count: exit code 0 and nothing left running."""
    with subprocess.Popen(
        [sys.executable, "-m", "demo", "--broker", "iotcore", "--seconds", seconds],
        cwd=ROOT,
        env={**os.environ, "TMPDIR": str(tmp_path)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as demo:
        assert demo.stdout is not None
        # One that never says the word is ended by its own seconds.
        for line in demo.stdout:
            if word in line:
                break
        os.kill(demo.pid, signal.SIGINT)
        out, err = demo.communicate(timeout=60)

    assert demo.returncode == 0, err
    assert also_said in out
    assert "produced windows is stored" in out
    assert not _children_named(str(tmp_path)), "something is left running"
    assert not list(tmp_path.iterdir()), "its folders, the private key in one, go with it"


def test_update_that_fails_on_all_nodes_fails_the_demo(tmp_path: Path) -> None:
    """The push ends with 1 as it would anyway: the demo looks at each node."""
    model, variant = _model_with_variant(tmp_path)
    manifest = decode_manifest((variant / MANIFEST_NAME).read_bytes())
    strict = msgspec.structs.replace(manifest.threshold, value=1e-6)
    changed = encode_manifest(msgspec.structs.replace(manifest, threshold=strict))
    (variant / MANIFEST_NAME).write_bytes(changed)
    ended = run("demo", "--model", str(model), "--seconds", "4", settings={}, seconds=120)

    assert ended.returncode == 1
    assert "produced windows is stored" not in ended.stdout
    assert "expected fan-1 to run fan-synthetic@2" in ended.stderr
    assert "expected fan-2" not in ended.stderr


def test_command_that_fails_fails_the_demo(tmp_path: Path) -> None:
    """Its own words, then which it was; nothing goes on as if it had not been."""
    model, variant = _model_with_variant(tmp_path)
    (variant / "profile.tflite").write_bytes(b"damaged")
    ended = run("demo", "--model", str(model), "--seconds", "4", settings={}, seconds=120)

    assert ended.returncode == 1
    assert "earshot training: " in ended.stdout
    assert ended.stderr == "earshot demo: training release ended with exit code 2, expected 0\n"


def test_demo_with_a_model_that_is_none_says_so_at_once(tmp_path: Path) -> None:
    """A wrong --model is one clear line, before anything is started."""
    ended = run("demo", "--model", str(tmp_path), "--seconds", "5", settings={})

    assert ended.returncode == 1
    assert ended.stderr.startswith("earshot demo: ")
    assert "manifest.json" in ended.stderr


def _model_with_variant(folder: Path) -> tuple[Path, Path]:
    """A model, and the variant of it that the demo would push."""
    without = shutil.ignore_patterns("variants")
    model = shutil.copytree(MODEL, folder / "model", ignore=without)
    return model, shutil.copytree(MODEL, model / "variants" / "dynamic", ignore=without)


def _children_named(*words: str) -> list[str]:
    """Command lines of processes that hold all these words."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()
        except (OSError, UnicodeDecodeError):
            continue
        if all(word in command for word in words) and str(os.getpid()) != entry.name:
            found.append(command)
    return found
