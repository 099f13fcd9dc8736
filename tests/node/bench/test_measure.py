"""What `earshot node bench` says; never how fast anything is."""

import csv
import getpass
import json
import os
import platform
import re
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from contract.errors import EXIT_BAD_INPUT
from node.bench.installed import installed, installed_node
from node.bench.measure import (
    Bench,
    BenchError,
    in_turn,
    read_metric,
    row_of,
    run_node,
    start_once,
    times,
    write_report,
)
from node.bench.memory import Memory, family, memory_of, total
from node.bench.result_row import COLUMNS
from node.bench.window import WindowPath, block_samples, machine_sound
from node.scoring.release_store import read_release
from node.scoring.runtime import find_runtime
from tests.rig.programs import MODEL, ROOT, run

# Made once, and so by one of the parallel workers: the bench's run.
pytestmark = pytest.mark.xdist_group("node bench")

QUICK = ("--repeats", "2", "--windows", "1", "--source", "synthetic:fan")


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `bench.json`, `results.csv` and `said.txt` of one quick bench."""
    folder = tmp_path_factory.mktemp("bench")
    written = ("--json", str(folder / "bench.json"), "--csv", str(folder / "results.csv"))
    ended = run("node", "bench", "--model", str(MODEL), *QUICK, *written, settings={})
    assert ended.returncode == 0, ended.stderr
    (folder / "said.txt").write_text(ended.stdout)
    return folder


def of(results: Path) -> dict[str, Any]:
    """What the JSON holds."""
    found: dict[str, Any] = json.loads((results / "bench.json").read_text())
    return found


def test_bench_measures_time_memory_and_disk(results: Path) -> None:
    """Every figure is there and could be true."""
    found = of(results)

    for what in ("window", "features", "inference"):
        times_ms = found[what]
        assert 0 < times_ms["p50"] <= times_ms["p95"] <= times_ms["p99"] <= times_ms["max"]
        assert times_ms["calls"] == 2
    start, running = found["start"], found["running"]
    assert start["first_window_ms"] > start["imports_ms"] > start["first_inference_ms"] > 0
    # A window of two seconds cannot be published sooner.
    assert running["first_window_ms"] > 2000
    assert running["source"] == "no microphone"
    assert running["memory"]["peak_rss_mib"] > 20
    assert found["installed"]["mb"] > found["installed"]["without_bytecode_mb"] > 30
    assert found["metric_name"] == "auc"


def test_json_can_be_sent_back(results: Path) -> None:
    """It says what the machine is, and names no host, user, folder or node."""
    text = (results / "bench.json").read_text()
    found = of(results)

    assert msgspec.json.decode(text, type=Bench).schema == 1
    assert str(results.parent) not in text
    assert str(ROOT) not in text
    for secret in (socket.gethostname(), platform.node(), getpass.getuser(), "press-07"):
        assert not re.search(rf"\b{re.escape(secret)}\b", text)
    assert found["machine"]["cores"] == os.cpu_count()
    assert found["machine"]["bits"] in {32, 64}
    assert "numpy" in found["machine"]["versions"]
    for reading in ("governor", "temperature_before_c", "temperature_after_c", "throttled_after"):
        assert reading in found["machine"]


def test_row_is_the_reference_designs(results: Path) -> None:
    """The columns that could be measured are filled, the others are empty."""
    found = of(results)

    with (results / "results.csv").open(newline="") as file:
        (row,) = csv.DictReader(file, strict=True)

    assert tuple(row) == COLUMNS
    assert {name for name in COLUMNS if not row[name]} <= {
        "fps",
        "bandwidth_mb",
        "power_w",
        "git_hash",
    }
    assert not row["fps"]
    assert not row["bandwidth_mb"]
    assert not row["power_w"]
    assert float(row["latency_ms_p50"]) == found["inference"]["p50"]
    assert float(row["ttfi_ms"]) == pytest.approx(found["start"]["first_window_ms"], abs=0.01)
    assert float(row["peak_ram_mb"]) == found["running"]["memory"]["peak_rss_mib"]
    assert float(row["bundle_size_mb"]) == found["installed"]["mb"]
    assert float(row["params_millions"]) == pytest.approx(0.00632)
    assert (row["metric_name"], row["model_name"]) == ("auc", "fan-synthetic@1")


def test_what_is_not_known_is_an_empty_cell(results: Path) -> None:
    """A release without metrics, of unknown size, gets no figure that nobody measured."""
    known = msgspec.json.decode((results / "bench.json").read_bytes(), type=Bench)
    unknown = msgspec.structs.replace(
        known, metric_name=None, metric_value=None, parameters=None, installed=None, git_hash=None
    )

    row = row_of(unknown, read_release(MODEL).manifest)

    for column in ("metric_name", "metric_value", "split", "params_millions", "bundle_size_mb"):
        assert not row[column]


def test_table_can_be_read(results: Path) -> None:
    """Each figure has a line of its own."""
    said = (results / "said.txt").read_text()

    for name in ("window of 44100 Hz sound to flag", "throttled", "installed packages"):
        assert name in said


def test_foreign_table_is_refused_before_measuring(tmp_path: Path) -> None:
    """One line, exit code 2, and the file as it was."""
    foreign = tmp_path / "mine.csv"
    foreign.write_text("a,b\n1,2\n")

    ended = run("node", "bench", "--model", str(MODEL), "--csv", str(foreign), settings={})

    assert ended.returncode == EXIT_BAD_INPUT
    (line,) = ended.stderr.splitlines()
    assert "expected a table of results" in line
    assert foreign.read_text() == "a,b\n1,2\n"


@pytest.mark.parametrize("arguments", [("--repeats", "0"), ("--source-rate", "44.1k")])
def test_options_out_of_range_are_refused(arguments: tuple[str, str]) -> None:
    """A count of zero and a rate that is no number."""
    ended = run("node", "bench", *arguments, settings={})

    assert ended.returncode == EXIT_BAD_INPUT
    assert "expected a number from" in ended.stderr


@pytest.mark.parametrize("rate_hz", [16_000, 22_050, 44_100, 48_000])
def test_every_rate_gives_the_window_of_the_model(rate_hz: int) -> None:
    """One block of sound at any rate makes exactly one window, and a score."""
    release = read_release(MODEL)
    path = WindowPath(release, find_runtime())
    (sound,) = machine_sound(release, rate_hz, windows=1)

    assert len(sound) == block_samples(release, rate_hz)
    assert path.resampled(sound, rate_hz).shape == (release.manifest.features.window_samples,)
    assert path(sound, rate_hz).score is not None


def test_calls_are_taken_in_turn() -> None:
    """Each call gets the number of its turn, and none runs twice before the others have."""
    seen: list[tuple[str, int]] = []

    found = in_turn(2, lambda turn: seen.append(("a", turn)), lambda turn: seen.append(("b", turn)))

    assert [one.calls for one in found] == [2, 2]
    assert seen == [(name, turn) for turn in range(len(seen) // 2) for name in "ab"]


def test_percentiles_are_of_what_was_taken() -> None:
    """Interpolated, as the reference design's are."""
    found = times(np.arange(101.0))

    assert (found.p50, found.p95, found.p99, found.max, found.calls) == (50, 95, 99, 100, 101)


def test_memory_of_a_family_counts_children() -> None:
    """A process and its child are two parts, and their peaks add up."""
    child = "import sys; print(flush=True); sys.stdin.read()"
    parent = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}])"
    with subprocess.Popen(
        [sys.executable, "-c", parent], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        members = family(process.pid)
        found = total(memory_of(member) for member in members)
        process.communicate(b"")

    assert len(members) == 2
    assert members[0] == process.pid
    assert found.peak_rss_mib > 8
    with pytest.raises(ProcessLookupError):
        memory_of(process.pid)


def test_shares_that_one_kernel_hides_are_not_added_up() -> None:
    """A sum without one of its parts would be too small."""
    known, unknown = Memory(peak_rss_mib=2, pss_mib=1), Memory(peak_rss_mib=3, pss_mib=None)

    assert total([known, known]) == Memory(peak_rss_mib=4, pss_mib=2)
    assert total([known, unknown]) == Memory(peak_rss_mib=5, pss_mib=None)


def test_node_that_does_not_run_is_told(tmp_path: Path) -> None:
    """The bench says in one line what the node said last."""
    with pytest.raises(BenchError, match=r"it said last: .*nowhere") as caught:
        run_node(MODEL, str(tmp_path / "nowhere"), windows=1)

    assert "\n" not in str(caught.value)


def test_process_that_fails_is_told() -> None:
    """Its status and its last word."""
    with pytest.raises(BenchError, match="status 3: no") as caught:
        start_once([sys.executable, "-c", "import sys; print('no', file=sys.stderr); exit(3)"], [])

    assert "\n" not in str(caught.value)


def test_start_is_counted_from_the_start_of_the_process() -> None:
    """What a process says of the clock becomes milliseconds since it was started."""
    say = "import json, time; print(json.dumps({'x_monotonic_ns': time.monotonic_ns()}))"

    found = start_once([sys.executable, "-c", say], [])

    assert 0 < found["x_ms"] < 60_000


@pytest.mark.parametrize("content", [None, "", "{}", '{"overall": {"auc": "high"}}', "[1]"])
def test_metric_that_is_not_there_is_none(tmp_path: Path, content: str | None) -> None:
    """A release without figures, or with others, has no metric."""
    if content is not None:
        (tmp_path / "metrics.json").write_text(content)

    assert read_metric(tmp_path) == (None, None)


def test_report_that_cannot_be_written_leaves_nothing(results: Path, tmp_path: Path) -> None:
    """A folder in the place of the file is told, and no temporary file stays."""
    found = msgspec.json.decode((results / "bench.json").read_bytes(), type=Bench)
    place = tmp_path / "bench.json"
    place.mkdir()

    with pytest.raises(BenchError, match="cannot be written"):
        write_report(place, found)
    assert list(tmp_path.iterdir()) == [place]


def test_installed_node_has_what_it_needs_and_nothing_of_training() -> None:
    """The packages are those of the node's requirements, and of what those need."""
    found = installed_node()

    assert found is not None
    assert {"numpy", "soxr", "protobuf", "cffi", "earshot (node)"} <= found.packages.keys()
    assert not {"tensorflow", "librosa", "scipy", "numba", "rich"} & found.packages.keys()
    assert sum(found.packages.values()) == pytest.approx(found.mb, abs=0.2)


def test_package_that_is_not_installed_weighs_nothing() -> None:
    """It is left out, not guessed."""
    found = installed(("no-such-package", "soxr"))

    assert {"soxr", "numpy"} <= found.packages.keys()
    assert "no-such-package" not in found.packages
