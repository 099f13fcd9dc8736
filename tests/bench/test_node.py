"""`make bench` runs, and compares fairly; how fast anything is decides nothing here."""

import json
import re
import socket
import subprocess
import sys
from typing import Any

import pytest

from tests.rig.programs import ROOT, environment

# Made once, and so by one of the parallel workers: the bench's run.
pytestmark = pytest.mark.xdist_group("bench")

TOLERANCE = 0.03
"""See bench/node.py."""
QUICK = ("--repeats", "2", "--warm-up", "0", "--starts", "1", "--windows", "1")


@pytest.fixture(scope="module")
def ended(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, dict[str, Any]]:
    """What one quick run of the bench said and wrote."""
    out = tmp_path_factory.mktemp("bench") / "bench.json"
    done = subprocess.run(
        [sys.executable, "-m", "bench.node", "--out", str(out), *QUICK],
        cwd=ROOT,
        env=environment({}),
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout, json.loads(out.read_text())


def test_same_sound_and_weights_give_the_same_errors(ended: tuple[str, dict[str, Any]]) -> None:
    """Both pipelines do the same work: their errors agree, and differ from window to window."""
    _, report = ended

    errors = report["same_network_errors"]

    assert len(errors) == 8
    for ours, theirs in errors:
        assert ours == pytest.approx(theirs, rel=TOLERANCE)
    # Agreeing on a constant would say nothing.
    assert max(theirs for _, theirs in errors) > (1 + 3 * TOLERANCE) * min(t for _, t in errors)


def test_every_goal_is_judged(ended: tuple[str, dict[str, Any]]) -> None:
    """Each has both figures, their ratio, and whether it is met, in the table and in the JSON."""
    said, report = ended

    goals = report["goals"]

    assert len(goals) == 7
    for goal in goals:
        assert goal["ratio"] == pytest.approx(goal["reference"] / goal["ours"], abs=0.01)
        enough = goal["ratio"] >= goal["ratio_wanted"]
        assert goal["met"] == (enough and (goal["most"] is None or goal["ours"] <= goal["most"]))
        (line,) = [line for line in said.splitlines() if line.startswith(goal["what"])]
        assert line.endswith("met" if goal["met"] else "MISSED")


def test_the_reference_pays_for_what_it_imports(ended: tuple[str, dict[str, Any]]) -> None:
    """Its memory and disk are those of TensorFlow and librosa, ours are without them."""
    _, report = ended

    assert {"tensorflow", "librosa", "numba"} <= report["reference"]["installed"]["packages"].keys()
    assert report["reference"]["peak_rss_mib"] > 300
    assert not {"tensorflow", "librosa"} & report["ours"]["installed"]["packages"].keys()


def test_json_names_the_machine_and_no_host(ended: tuple[str, dict[str, Any]]) -> None:
    """It can be shown to anybody."""
    _, report = ended

    text = json.dumps(report)

    assert {"device", "platform", "cores", "versions"} <= report["machine"].keys()
    assert "tensorflow" in report["machine"]["versions"]
    assert str(ROOT) not in text
    assert not re.search(rf"\b{re.escape(socket.gethostname())}\b", text)
