"""`python -m bench.pipeline`, small; how fast anything is decides nothing here."""

import json
from pathlib import Path

import pytest

from bench.pipeline import SINKS, main


@pytest.mark.parametrize("sink", SINKS)
def test_collector_is_measured_beside_the_bare_subscriber(
    sink: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Every figure is there, and every goal is judged, in the table and in the JSON."""
    out = tmp_path / "pipeline.json"
    options = ["--sinks", sink, "--pairs", "1", "--messages", "5000", "--backlogs", "200"]

    main([*options, "--live", "1", "--live-share", "0.1", "--out", str(out)])
    found, said = json.loads(out.read_text()), capsys.readouterr().out

    (bare,), of = found["bare_subscriber"], found["collector"][sink]
    (single,), (backlog,) = of["single"], of["backlog"]
    for drain in (bare, single, backlog):
        assert 0 < drain["messages_per_second"] <= drain["windows_per_second"]
        assert drain["cpu_seconds_per_1000_messages"] > 0
        assert drain["peak_rss_mib"] > 10
    assert of["live"]["lag_max_s"] >= of["live"]["lag_p50_last_quarter_s"] >= 0
    ratios = [goal["ratio"] for goal in found["goals"]]
    assert ratios == [
        pytest.approx(single["messages_per_second"] / bare["messages_per_second"], abs=0.01),
        pytest.approx(backlog["windows_per_second"] / single["windows_per_second"], abs=0.01),
    ]
    for goal in found["goals"]:
        assert goal["met"] == (goal["ratio"] >= goal["ratio_wanted"])
        (line,) = [line for line in said.splitlines() if line.startswith(goal["what"])]
        assert line.endswith("met" if goal["met"] else "MISSED")
    assert ("NOT SUSTAINED" in said) != (": sustained" in said)
