"""`python -m demo`, as the README's first command runs it."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from demo.summary import summarize
from tests.fleet import ROOT, run
from tests.servers import require

_FAULT_AFTER = 10
_SECONDS = 24


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
    assert len(nodes) == 3
    assert all(s.produced == s.stored == s.scored for s in nodes.values())
    assert all(s.stored >= _SECONDS - 6 for s in nodes.values())
    assert nodes["fan-1"].flagged <= 1
    assert nodes["fan-2"].flagged <= 1
    assert faulty.flagged_before_fault <= 1
    assert faulty.fault_to_flag_s is not None
    assert faulty.fault_to_flag_s <= 4.0
    assert faulty.flagged >= 0.8 * (faulty.stored - faulty.windows_before_fault)


def test_ctrl_c_ends_the_demo_with_its_summary() -> None:
    """SIGINT ends the show, not the count: exit code 0 and nothing left running."""
    with subprocess.Popen(
        [sys.executable, "-m", "demo", "--broker", "iotcore"],
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as demo:
        assert demo.stdout is not None
        for line in demo.stdout:
            if "windows 3" in line:
                break
        os.kill(demo.pid, signal.SIGINT)
        out, err = demo.communicate(timeout=60)

    assert demo.returncode == 0, err
    assert "produced windows is stored" in out
    assert not _children_named("-m", "iotcore", "earshot-demo-"), "something is left running"


def test_demo_with_a_model_that_is_none_says_so_at_once(tmp_path: Path) -> None:
    """A wrong --model is one clear line, before anything is started."""
    ended = run("demo", "--model", str(tmp_path), "--seconds", "5", settings={})

    assert ended.returncode == 1
    assert ended.stderr.startswith("earshot demo: ")
    assert "manifest.json" in ended.stderr


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
