"""`python -m bench.update_fleet`, small: fifty nodes take too long for a test."""

import json
from pathlib import Path

import pytest

from bench.update_fleet import main


def test_release_reaches_all_nodes_and_no_window_is_lost(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A push by the program that operators use; what was measured is printed and kept."""
    out = tmp_path / "fleet.json"
    options = ["--nodes", "3", "--quiet", "3", "--trial-windows", "2", "--confirm-windows", "1"]
    code = main([*options, "--kilobytes", "200", "--out", str(out)])
    found = json.loads(out.read_text())

    assert code == 0
    assert (found["push_exit_code"], found["not_committed"]) == (0, {})
    assert found["windows_lost"] == 0
    assert found["windows_made"] >= found["before"]["windows"] + found["during"]["windows"] > 9
    assert found["committed"]["first"] >= found["verified"]["first"] > 0
    assert "3 nodes, 200 KB" in capsys.readouterr().out
