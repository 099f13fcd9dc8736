"""`earshot node score`: figures to read and to parse, exit codes to rely on."""

import csv
import io
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import msgspec
import numpy as np
import pytest
import soundfile

from contract.feature_params import FeatureParams
from contract.release import MANIFEST_NAME, encode_manifest
from node.score_files import ScoredFileWindow, score_recordings, write
from node.scoring.release_store import Release, read_release
from node.sound.recordings import find_recordings
from node.sound.synthetic import MachineSound, Synthesizer
from tests.rig.fake_inference import RUNTIME, release, with_threshold

ROOT = Path(__file__).parents[3]
FAN = ROOT / "models/fan-synthetic"

TOO_LOW, TOO_HIGH = 1e-9, 1e9
"""Thresholds that everything exceeds, and nothing."""


def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    environment = {k: v for k, v in os.environ.items() if not k.startswith("EARSHOT_")}
    return subprocess.run(
        [sys.executable, "-m", "node", "score", *map(str, arguments)],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def complaints(result: subprocess.CompletedProcess[str]) -> list[str]:
    """What the program said on standard error; anything but its own lines fails the test."""
    lines = result.stderr.splitlines()
    assert all(line.startswith("earshot node: ") for line in lines), result.stderr
    return lines


def write_release(folder: Path, given: Release) -> Path:
    folder.mkdir()
    (folder / MANIFEST_NAME).write_bytes(encode_manifest(given.manifest))
    for name, content in given.files.items():
        (folder / name).write_bytes(content)
    return folder


def fan(folder: Path, threshold: float) -> Path:
    """The released model with another threshold."""
    return write_release(folder / f"fan-{threshold}", with_threshold(read_release(FAN), threshold))


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with four and three seconds of a fan, and one of digital silence between."""
    folder = tmp_path_factory.mktemp("sound")
    rate_hz = read_release(FAN).manifest.features.sample_rate_hz
    samples = Synthesizer(MachineSound(), sample_rate_hz=rate_hz).read(7 * rate_hz)
    soundfile.write(folder / "a.wav", samples[: 4 * rate_hz], rate_hz)
    soundfile.write(folder / "b.flac", np.zeros(3 * rate_hz), rate_hz)
    soundfile.write(folder / "c.wav", samples[4 * rate_hz :], rate_hz)
    return folder


def test_json_can_be_parsed(sound: Path, tmp_path: Path) -> None:
    """JSON holds model, threshold, counts, and each window with its figures."""
    result = run(sound, "--model", fan(tmp_path, TOO_LOW), "--format", "json")

    document = json.loads(result.stdout)
    hop_s = read_release(FAN).manifest.hop_us / 1e6
    windows = document["windows"]
    assert (result.returncode, complaints(result)) == (0, [])
    assert document["model"] == read_release(FAN).manifest.label
    assert document["threshold"] == TOO_LOW
    assert document["windows_scored"] == sum(w["mse"] is not None for w in windows)
    assert document["windows_flagged"] == sum(window["anomaly"] is True for window in windows) > 0
    for name in ("a.wav", "b.flac", "c.wav"):
        starts = [w["start_s"] for w in windows if w["file"] == str(sound / name)]
        assert starts == pytest.approx([k * hop_s for k in range(len(starts))])
        assert starts
    for window in windows:
        if window["file"].endswith("b.flac"):
            assert (window["mse"], window["score"], window["anomaly"]) == (None, None, None)
            assert window["problem"] == "mic_silent"
        else:
            assert window["score"] == pytest.approx(window["statistic"] / TOO_LOW)
            assert (window["anomaly"], window["problem"]) == (True, None)


def test_csv_can_be_parsed(sound: Path, tmp_path: Path) -> None:
    """CSV has the windows of JSON, one a row, with a heading."""
    model = fan(tmp_path, TOO_HIGH)
    result = run(sound, "--model", model, "--format", "csv")

    rows = list(csv.DictReader(io.StringIO(result.stdout)))
    expected = json.loads(run(sound, "--model", model, "--format", "json").stdout)["windows"]
    assert (result.returncode, complaints(result)) == (0, [])
    assert [row["file"] for row in rows] == [window["file"] for window in expected]
    for row, window in zip(rows, expected, strict=True):
        assert list(row) == list(window)
        assert row == {k: "" if v is None else str(v) for k, v in window.items()}


def test_table_can_be_read(sound: Path, tmp_path: Path) -> None:
    """The table names model, threshold and files, has a line for each window, and a sum."""
    result = run(sound, "--model", fan(tmp_path, TOO_HIGH))

    lines = result.stdout.splitlines()
    assert (result.returncode, complaints(result)) == (0, [])
    assert lines[0] == f"{read_release(FAN).manifest.label}, threshold 1e+09"
    assert [line for line in lines if line.startswith("/")] == [
        str(sound / name) for name in ("a.wav", "b.flac", "c.wav")
    ]
    windows = [line for line in lines if re.match(r" +\d+\.\ds  ", line)]
    assert {line.split()[-1] for line in windows} == {"normal", "mic_silent"}
    scored = [line for line in windows if line.endswith("normal")]
    assert lines[-1] == f"0 of {len(scored)} windows above the threshold"


@pytest.mark.parametrize(
    ("number", "mse", "score"),
    [
        (1.9424e130, "1.9424e+130", "1.94e+130"),
        (12345.6, "12346", "1.23e+04"),
        (9999.4, "9999.4", "9999.400"),
        (1.5, "1.5", "1.500"),
        (1.9424e-130, "1.9424e-130", "0.000"),
    ],
)
def test_table_keeps_its_columns(number: float, mse: str, score: str) -> None:
    """Numbers of several models, which may be of any size, end where their heading ends."""
    window = ScoredFileWindow(
        file="a.wav",
        start_s=3.0,
        mse=number,
        statistic=number,
        threshold=1.0,
        score=number,
        anomaly=number > 1,
        problem=None,
        level_dbfs=-31.2,
    )
    out = io.StringIO()

    write(iter([window]), release().manifest, "table", out)

    _, heading, _, row, _ = out.getvalue().splitlines()
    for name, text in (("mse", mse), ("score", score), ("level", "-31.2")):
        end = heading.index(name) + len(name)
        assert row[:end].endswith(f" {text}")
        assert row[end] == " "


@pytest.mark.parametrize("score", [1.9424263952412558e130, 1.9424263952412558e-130])
def test_large_and_small_scores_are_written_in_full(score: float) -> None:
    """JSON and CSV lose nothing of them."""
    window = ScoredFileWindow(
        file="a.wav",
        start_s=3.0,
        mse=1.0,
        statistic=score,
        threshold=1.0,
        score=score,
        anomaly=score > 1,
        problem=None,
        level_dbfs=-31.2,
    )
    as_json, as_csv = io.StringIO(), io.StringIO()

    write(iter([window]), release().manifest, "json", as_json)
    write(iter([window]), release().manifest, "csv", as_csv)

    assert json.loads(as_json.getvalue())["windows"][0]["score"] == score
    (row,) = csv.DictReader(io.StringIO(as_csv.getvalue()))
    assert float(row["statistic"]) == float(row["score"]) == score


@pytest.mark.parametrize(
    ("threshold", "flag", "code"),
    [(TOO_LOW, True, 3), (TOO_LOW, False, 0), (TOO_HIGH, True, 0)],
)
def test_anomaly_fails_only_when_asked(
    sound: Path, tmp_path: Path, threshold: float, flag: bool, code: int
) -> None:
    """The exit code is 3 with `--fail-on-anomaly` and an anomaly, and 0 without either."""
    extra = ["--fail-on-anomaly"] if flag else []

    result = run(sound / "a.wav", "--model", fan(tmp_path, threshold), *extra)

    assert (result.returncode, complaints(result)) == (code, [])
    assert ("ANOMALY" in result.stdout) is (threshold == TOO_LOW)


def test_silence_is_neither_normal_nor_an_anomaly(sound: Path, tmp_path: Path) -> None:
    """A recording that is silent all through was not judged: no success, and not exit code 3."""
    model = fan(tmp_path, TOO_LOW)

    result = run(sound / "b.flac", "--model", model, "--fail-on-anomaly")

    (line,) = complaints(result)
    assert result.returncode == 2
    assert line.endswith("no window could be scored")
    assert "mic_silent" in result.stdout
    assert "normal" not in result.stdout


def not_sound(path: Path) -> Path:
    path.write_text("This is a text about sound.\n" * 200)
    return path


def truncated(path: Path) -> Path:
    soundfile.write(path, np.full(64_000, 0.1), 16_000, format="WAV")
    path.write_bytes(path.read_bytes()[:60_000])
    return path


def broken_flac(path: Path) -> Path:
    path = path.with_suffix(".flac")
    soundfile.write(path, np.random.default_rng(0).uniform(-0.5, 0.5, 64_000), 16_000)
    path.write_bytes(path.read_bytes()[:60_000])
    return path


def empty(path: Path) -> Path:
    path.write_bytes(b"")
    return path


def folder_without_sound(path: Path) -> Path:
    path.mkdir()
    return path


def missing(path: Path) -> Path:
    return path


@pytest.mark.parametrize(
    "make", [not_sound, truncated, broken_flac, empty, folder_without_sound, missing]
)
def test_bad_recording_is_one_line_and_exit_code_2(tmp_path: Path, make: object) -> None:
    """A recording that cannot be read is named in one line, without a traceback."""
    assert callable(make)
    path = make(tmp_path / "bad.wav")

    result = run(path, "--model", FAN, "--format", "csv")

    (line,) = complaints(result)
    assert result.returncode == 2
    assert str(path) in line


def test_channel_that_is_not_there_is_one_line_and_exit_code_2(sound: Path) -> None:
    """A channel that the recording lacks is named in one line."""
    result = run(sound / "a.wav", "--model", FAN, "--channel", "7")

    (line,) = complaints(result)
    assert result.returncode == 2
    assert "expected channel 7 (counted from 0), got 1 channels" in line


@pytest.mark.parametrize(
    "damage",
    [
        "no folder",
        "changed model",
        "garbage model",
        "bad manifest",
    ],
)
def test_bad_model_is_one_line_and_exit_code_2(sound: Path, tmp_path: Path, damage: str) -> None:
    """A release that cannot be used is named in one line."""
    if damage == "no folder":
        folder = tmp_path / "nowhere"
    elif damage == "garbage model":
        folder = write_release(tmp_path / "garbage", release())
    else:
        folder = fan(tmp_path, 1.0)
        (model,) = read_release(folder).manifest.models
        name = MANIFEST_NAME if damage == "bad manifest" else model.file
        (folder / name).write_bytes((folder / name).read_bytes()[:-10])

    result = run(sound / "a.wav", "--model", folder)

    (line,) = complaints(result)
    assert result.returncode == 2
    assert result.stdout == ""
    assert "cannot load this model" in line if damage == "garbage model" else str(folder) in line


def test_nothing_scored_is_no_success(tmp_path: Path) -> None:
    """A recording too short to score is named, and alone it is a failure: nothing was judged."""
    path = tmp_path / "short.wav"
    soundfile.write(path, np.full(1600, 0.1), 16_000)

    result = run(path, "--model", FAN)

    note, error = complaints(result)
    assert result.returncode == 2
    assert f"{path}: shorter than one window (0.10 s of " in note
    assert error.endswith("no window could be scored")


@pytest.mark.parametrize("arguments", [[], ["x.wav"], ["x.wav", "--model", "m", "--format", "xml"]])
def test_wrong_usage_is_told(arguments: list[str]) -> None:
    """What the command line cannot mean is answered with how to use it."""
    result = run(*arguments)

    assert result.returncode == 2
    assert "earshot node score [-h]" in " ".join(result.stderr.split())


@pytest.mark.parametrize(
    "rate_hz",
    [
        16_000,
        *(8_000, 44_100, 48_000, 96_000),
    ],
)
def test_every_window_is_scored_at_any_rate(tmp_path: Path, rate_hz: int) -> None:
    """Ten seconds are as many windows at any sample rate: the last one is not lost."""
    path = tmp_path / "a.wav"
    soundfile.write(path, 0.1 * np.random.default_rng(0).standard_normal(10 * rate_hz), rate_hz)
    given = release(features=FeatureParams(), hop=16_000)

    windows = list(score_recordings(find_recordings(path).recordings, given, RUNTIME, channel=None))

    assert [window.start_s for window in windows] == [float(k) for k in range(9)]


def test_gaps_between_files_are_not_scored(tmp_path: Path) -> None:
    """Two recordings that are too short alone do not make a window together."""
    for name in ("1.wav", "2.wav"):
        soundfile.write(tmp_path / name, np.full(24_000, 0.1), 16_000)
    given = release(features=FeatureParams(), hop=16_000)

    assert (
        list(score_recordings(find_recordings(tmp_path).recordings, given, RUNTIME, channel=None))
        == []
    )


def test_figures_are_plain_numbers(tmp_path: Path) -> None:
    """What is given for a window can be written as JSON without a helper."""
    soundfile.write(tmp_path / "a.wav", np.full(48_000, 0.1), 16_000)

    windows = list(
        score_recordings(
            find_recordings(tmp_path).recordings, release(add=1), RUNTIME, channel=None
        )
    )

    assert windows
    for window in windows:
        for value in msgspec.structs.astuple(window):
            assert type(value) in (str, float, bool, type(None))
