"""What `earshot training data` finds, in folders with something wrong in them."""

import json
import math
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
import pytest
import soundfile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from contract.features import Float32Array
from node.sound.errors import SourceError
from tests.training.conftest import RATE_HZ, ROOT, RunTraining, WriteWav, hiss
from training.errors import DataError
from training.progress import silent
from training.sound.data_findings import DataFinding, Severity
from training.sound.data_report import DataReport, lines, report_on
from training.sound.measured import measure


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five sessions of normal sound, the last to test with, and anomalies; nothing is wrong."""
    folder = tmp_path_factory.mktemp("good") / "press"
    names = [f"normal/s{session}/{index:04d}.wav" for session in range(4) for index in range(6)]
    names += [f"normal/s4/{index:04d}.wav" for index in range(20)]
    names += [f"anomaly/a/{index:04d}.wav" for index in range(20)]
    for seed, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(folder / name, hiss(2, seed=seed), RATE_HZ, subtype="PCM_16")
    return folder


@pytest.fixture
def press(good: Path, tmp_path: Path) -> Path:
    """A copy of the good data set, to spoil."""
    return Path(shutil.copytree(good, tmp_path / "press"))


def report(folder: Path) -> DataReport:
    """What is found in a folder."""
    return report_on(folder, progress=silent)


def found(folder: Path, kind: str) -> DataFinding:
    """The one finding of this kind."""
    (finding,) = [finding for finding in report(folder).findings if finding.kind == kind]
    return finding


def kinds(findings: tuple[DataFinding, ...]) -> set[str]:
    """What was found, but for what is good to know."""
    return {finding.kind for finding in findings if finding.severity != "info"}


def spoil(path: Path, change: Callable[[Float32Array], Float32Array]) -> None:
    """Change the samples of a file, which stays a 16-bit WAV."""
    samples, rate_hz = soundfile.read(path, dtype="float32")
    changed = change(np.asarray(samples, np.float32))
    soundfile.write(path, changed, rate_hz, subtype="PCM_16")


def test_good_data_set(press: Path) -> None:
    """Of a data set as it should be, numbers are told and nothing is warned of."""
    says = report(press)

    assert kinds(says.findings) == set()
    assert {finding.kind for finding in says.findings} == {"class_balance", "held_out"}
    assert (says.machine, says.layout, says.problems) == ("press", "folders", 0)
    assert [
        (group.split, group.label, group.files, group.seconds, group.windows)
        for group in says.groups
    ] == [
        ("train", "normal", 24, 48.0, 24),
        ("test", "normal", 20, 40.0, 20),
        ("test", "anomaly", 20, 40.0, 20),
    ]
    assert says.sample_rates_hz == {RATE_HZ: 64}
    assert says.channels == {1: 64}
    assert says.seconds == (2.0, 2.0, 2.0)
    assert says.sessions == ("s0", "s1", "s2", "s3")


def test_windows_lie_side_by_side(press: Path, write_wav: WriteWav) -> None:
    """A file of 5.9 s has two windows, and one of 1.9 s none."""
    write_wav(press / "normal/s0/0000.wav", hiss(5.9))
    write_wav(press / "normal/s0/0001.wav", hiss(1.9))

    assert report(press).groups[0].windows == 24 + 1 - 1


@pytest.mark.parametrize(
    ("change", "kind", "severity"),
    [
        (lambda x: 0 * x, "silent", "problem"),
        (np.sign, "clipped", "warning"),
        (lambda x: np.where(np.arange(len(x)) < 40, -1, x), "clipped", "warning"),
        (lambda x: x + 0.02, "dc_offset", "warning"),
        (lambda x: x - 0.02, "dc_offset", "warning"),
        (lambda x: x[:31_999], "short", "warning"),
        (lambda x: np.tile(x, 3), None, None),
        (lambda x: np.where(np.arange(len(x)) < 30, -1, x), None, None),
        (lambda x: 0.998 * np.sign(x), None, None),
        (lambda x: x + 0.005, None, None),
    ],
)
def test_sound_to_train_on(
    press: Path,
    change: Callable[[Float32Array], Float32Array],
    kind: str | None,
    severity: Severity | None,
) -> None:
    """What is wrong with the sound of one file is found, said of that file, and weighed."""
    spoil(press / "normal/s0/0005.wav", change)

    says = report(press).findings

    assert kinds(says) == ({kind} if kind else set())
    if kind:
        finding = found(press, kind)
        assert (finding.severity, finding.files) == (severity, ("normal/s0/0005.wav",))
        assert finding.text.startswith("1 file ")


def test_silence_in_tests_is_a_warning(press: Path) -> None:
    """A silent file to test with spoils figures, not the model; two are no copies of each other."""
    for index in range(2):
        spoil(press / f"anomaly/a/{index:04d}.wav", lambda x: 0 * x)

    says = report(press)

    assert kinds(says.findings) == {"silent"}
    assert says.problems == 0
    assert len(found(press, "silent").files) == 2


def test_file_broken_off(press: Path, write_wav: WriteWav) -> None:
    """Less than half the median is said, if at least a window is there."""
    for path in press.rglob("*.wav"):
        spoil(path, lambda x: np.tile(x, 5))
    write_wav(press / "normal/s1/0000.wav", hiss(4.9))
    write_wav(press / "normal/s1/0001.wav", hiss(5.1))

    finding = found(press, "shorter_than_most")

    assert (finding.severity, finding.files) == ("warning", ("normal/s1/0000.wav",))


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_not_a_number(press: Path, write_wav: WriteWav, value: float) -> None:
    """NaN or infinity anywhere in a float WAV is a problem, in tests as well."""
    samples = hiss(2)
    samples[20_000] = value
    write_wav(press / "anomaly/a/0007.wav", samples, subtype="FLOAT")

    finding = found(press, "not_finite")

    assert (finding.severity, finding.files) == ("problem", ("anomaly/a/0007.wav",))


@pytest.mark.parametrize(
    ("content", "kind"),
    [(b"", "unreadable"), (b"not sound at all", "unreadable"), (None, "truncated")],
)
def test_unreadable_file_is_named(press: Path, content: bytes | None, kind: str) -> None:
    """One bad file among many is named, with the reason, and does not keep others from being read.

    None is a copy that broke off.
    """
    path = press / "normal/s2/0003.wav"
    path.write_bytes(path.read_bytes()[:-1000] if content is None else content)

    says = report(press)
    finding = found(press, kind)

    assert (finding.severity, finding.files) == ("problem", ("normal/s2/0003.wav",))
    assert sum(group.files for group in says.groups) == 63


@pytest.mark.parametrize("share", [0.3, 0.5, 0.7, 0.9])
def test_flac_broken_off(press: Path, share: float) -> None:
    """A FLAC without its end is no shorter recording, but a broken one."""
    path = press / "normal/s2/0003.flac"
    soundfile.write(path, hiss(2, seed=999), RATE_HZ)
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])

    problems = [finding for finding in report(press).findings if finding.severity == "problem"]

    assert [finding.files for finding in problems] == [("normal/s2/0003.flac",)]


def test_dead_link_is_named(press: Path) -> None:
    """A link that leads nowhere is a file that cannot be read."""
    path = press / "normal/s2/0003.wav"
    path.unlink()
    path.symlink_to("nowhere.wav")

    assert found(press, "unreadable").files == ("normal/s2/0003.wav",)


@pytest.mark.parametrize(
    ("first", "second", "kind", "severity"),
    [
        ("normal/s0/0000.wav", "normal/s4/0000.wav", "leaked", "problem"),
        ("normal/s0/0000.wav", "anomaly/a/0000.wav", "leaked", "problem"),
        ("normal/s4/0000.wav", "anomaly/a/0000.wav", "contradictory", "problem"),
        ("normal/s0/0000.wav", "normal/s1/0000.wav", "duplicates", "warning"),
        ("anomaly/a/0000.wav", "anomaly/a/0001.wav", "duplicates", "warning"),
    ],
)
def test_same_sound_twice(
    press: Path, first: str, second: str, kind: str, severity: Severity
) -> None:
    """A copy is worst where it makes tests prove nothing; both files are named."""
    (press / second).write_bytes((press / first).read_bytes())

    says = report(press)
    finding = found(press, kind)

    assert kinds(says.findings) == {kind}
    assert finding.severity == severity
    assert finding.copies == (tuple(sorted([first, second])),)
    assert f"           = {max(first, second)}" in lines(says)


def test_same_sound_in_another_container(press: Path) -> None:
    """Samples are compared, not bytes: a FLAC of a WAV is a copy."""
    samples, rate_hz = soundfile.read(press / "normal/s0/0000.wav", dtype="int16")
    soundfile.write(press / "anomaly/a/copy.flac", samples, rate_hz)

    assert found(press, "leaked").copies == (("anomaly/a/copy.flac", "normal/s0/0000.wav"),)


@pytest.mark.parametrize(
    ("name", "severity"), [("normal/s0/0000.wav", "problem"), ("anomaly/a/0000.wav", "warning")]
)
def test_mixed_sample_rates(
    press: Path, write_wav: WriteWav, name: str, severity: Severity
) -> None:
    """Another rate among the training data is a problem, one in the tests a warning."""
    write_wav(press / name, hiss(2, rate_hz=44_100), rate_hz=44_100)

    finding = found(press, "mixed_sample_rates")

    assert (finding.severity, finding.files) == (severity, (name,))
    assert "44100 Hz in 1 file" in finding.text


def test_low_sample_rate(press: Path, write_wav: WriteWav) -> None:
    """Sound without the upper half of what a node hears is warned of."""
    for seed, path in enumerate(sorted(press.rglob("*.wav"))):
        write_wav(path, hiss(2, rate_hz=8000, seed=seed), rate_hz=8000)

    assert kinds(report(press).findings) == {"low_sample_rate"}


def test_high_sample_rate(tmp_path: Path, write_wav: WriteWav) -> None:
    """That all files are resampled is good to know, and nothing is wrong with it."""
    for index in range(2):
        write_wav(
            tmp_path / f"normal/{index}.wav", hiss(2, rate_hz=48_000, seed=index), rate_hz=48_000
        )

    assert found(tmp_path, "resampled").severity == "info"


def test_mixed_channels(press: Path, write_wav: WriteWav) -> None:
    """A stereo file among mono ones is a warning."""
    write_wav(press / "normal/s3/0000.wav", np.stack([hiss(2, seed=1), hiss(2, seed=2)], axis=1))

    finding = found(press, "mixed_channels")

    assert (finding.severity, finding.files) == ("warning", ("normal/s3/0000.wav",))


def test_channels_are_measured_one_by_one(tmp_path: Path, write_wav: WriteWav) -> None:
    """A clipped channel beside a good one is found, though their mean is not at full scale."""
    loud = np.ones(32_000, dtype=np.float32)
    path = write_wav(tmp_path / "x.wav", np.stack([loud, hiss(2)], axis=1))

    sound = measure(path)

    assert (sound.channels, sound.full_scale_share) == (2, 1.0)
    assert sound.level_dbfs == pytest.approx(0, abs=0.01)
    assert sound.dc_offset == pytest.approx(1, abs=0.001)


def test_level_of_a_tone(tmp_path: Path, write_wav: WriteWav) -> None:
    """A sine of amplitude 0.1 has 20 lg 0.1 - 3.01 dBFS."""
    tone = 0.1 * np.sin(2 * np.pi * 440 * np.arange(32_000) / RATE_HZ)

    assert measure(write_wav(tmp_path / "x.wav", tone)).level_dbfs == pytest.approx(
        -23.01, abs=0.01
    )


def test_measure_of_nothing(tmp_path: Path) -> None:
    """A file that is not there is refused by name."""
    with pytest.raises(SourceError, match=r"x\.wav"):
        measure(tmp_path / "x.wav")


def test_few_sessions(press: Path) -> None:
    """Below five sessions it is said why that is too few, and that the tests share them."""
    (press / "normal/s4").rename(press.parent / "elsewhere")

    says = report(press)

    assert kinds(says.findings) == {"few_sessions", "shared_sessions", "few_test_clips"}
    assert found(press, "few_sessions").text.startswith("4 sessions of normal sound")
    assert "one or two sessions flags nearly all sound" in found(press, "few_sessions").text
    assert "last quarter of each session" in found(press, "held_out").text


def test_unknown_sessions(press: Path) -> None:
    """Files directly in normal/ tell nothing of sessions."""
    for path in sorted(press.glob("normal/*/*.wav")):
        path.rename(press / f"normal/{path.parent.name}_{path.name}")

    assert kinds(report(press).findings) == {"sessions_unknown", "few_test_clips"}


def test_no_tests(press: Path) -> None:
    """Without anomalies all normal sound is trained on, and nothing will be known of faults."""
    (press / "anomaly").rename(press.parent / "elsewhere")

    assert kinds(report(press).findings) == {"no_tests"}


def test_rare_anomalies(press: Path) -> None:
    """Two anomalies beside 20 normals are few, and F1 then says little."""
    for index in range(2, 20):
        (press / f"anomaly/a/{index:04d}.wav").unlink()

    says = report(press)

    assert kinds(says.findings) == {"class_balance", "few_test_clips"}
    assert "9% of the test recordings" in found(press, "class_balance").text


def test_everything_shorter_than_a_window(tmp_path: Path, write_wav: WriteWav) -> None:
    """With no window to train on, it is a problem."""
    write_wav(tmp_path / "normal/0.wav", hiss(1))

    assert found(tmp_path, "no_windows").severity == "problem"


@pytest.mark.parametrize("name", ["anomaly/0.wav", "train/anomaly_id_00_00000000.wav"])
def test_no_normals(tmp_path: Path, write_wav: WriteWav, name: str) -> None:
    """Anomalies alone, wherever they are, are reported, not refused."""
    write_wav(tmp_path / name)

    assert found(tmp_path, "no_normals").severity == "problem"


def test_dcase_folder_with_everything_wrong(tmp_path: Path, write_wav: WriteWav) -> None:
    """What a training refuses by its first case is listed whole: each kind with all its files."""
    fan = tmp_path / "fan"
    for index, name in enumerate(
        [
            "train/section_00_source_train_normal_0000.wav",
            "train/section_00_source_train_anomaly_0001.wav",
            "train/x.wav",
            "train/y.wav",
            "test/section_00_source_test_normal_0000.wav",
            "test/section_01_target_test_anomaly_0000.wav",
            "test/section_00_0001.wav",
            "supplemental/section_00_noise_0001_.wav",
        ]
    ):
        write_wav(fan / name, hiss(2, seed=index))

    says = report(tmp_path)

    assert found(tmp_path, "unnamed").files == ("train/x.wav", "train/y.wav")
    assert found(tmp_path, "anomalies_in_train").files == (
        "train/section_00_source_train_anomaly_0001.wav",
    )
    assert found(tmp_path, "unlabelled").files == ("test/section_00_0001.wav",)
    assert "section 01" in found(tmp_path, "untrained_sections").text
    assert found(tmp_path, "supplemental").severity == "info"
    assert says.problems == 2
    assert [finding.severity for finding in says.findings] == sorted(
        (finding.severity for finding in says.findings),
        key=["problem", "warning", "info"].index,
    )


def test_lines_fit_a_narrow_terminal(press: Path) -> None:
    """Everything is within 80 columns."""
    (press / "normal/s2/0003.wav").write_bytes(b"")
    spoil(press / "normal/s0/0005.wav", np.sign)
    (press / "normal/s4").rename(press.parent / "elsewhere")

    text = lines(msgspec.structs.replace(report(press), folder="press"))

    assert max(map(len, text)) <= 80
    assert "             normal/s2/0003.wav" in text
    assert text[-1].startswith("problems: 1, warnings: ")


def test_many_files_are_counted_not_listed(press: Path) -> None:
    """People see the first three files and a count; programs get all."""
    for index in range(6):
        (press / f"normal/s0/{index:04d}.wav").write_bytes(b"no sound")

    says = report(press)

    assert len(found(press, "unreadable").files) == 6
    assert "             and 3 more" in lines(says)


def test_names_that_cannot_be_printed(press: Path) -> None:
    """A line break is escaped, in the text and for programs; bytes that are no UTF-8 as well.

    The sound library does not open files with such bytes in their path.
    """
    spoil(press / "normal/s0/0000.wav", np.sign)
    (press / "normal/s0").rename(press / "normal/a\nb")
    (press / "normal/s1").rename(press / "normal" / os.fsdecode(b"\xff"))

    says = report(press)

    assert found(press, "clipped").files == (r"normal/a\nb/0000.wav",)
    assert found(press, "unreadable").files[0] == r"normal/\udcff/0000.wav"
    assert "\n".join(lines(says)).encode()
    assert msgspec.json.encode(says)


def test_command(press: Path, run_training: RunTraining, tmp_path: Path) -> None:
    """The command prints the table and ends with 0 where there is no problem."""
    ended = run_training(["data", press.parent, "--machine", "press"])

    assert (ended.returncode, ended.stderr) == (0, "")
    assert re.search(r"^train  00 +source  normal +24 +48.0 +24$", ended.stdout, re.MULTILINE)
    assert ended.stdout.endswith("problems: 0, warnings: 0\n")


def test_command_with_a_problem(press: Path, run_training: RunTraining, tmp_path: Path) -> None:
    """A problem ends it with 1, and the file for programs says which."""
    (press / "normal/s2/0003.wav").write_bytes(b"")

    ended = run_training(["data", press, "--json", tmp_path / "report.json"])

    assert (ended.returncode, ended.stderr) == (1, "")
    says = json.loads((tmp_path / "report.json").read_text())
    assert says["findings"][0]["kind"] == "unreadable"
    assert says["findings"][0]["files"] == ["normal/s2/0003.wav"]
    assert says["groups"][0]["files"] == 23


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["nowhere"], "nowhere: no such folder"),
        (["."], "with train/ and test/"),
        (["press", "--machine", "fan"], "expected a folder fan"),
        (["press", "--json", "no/such/folder.json"], "cannot be written: No such file"),
    ],
)
def test_command_refuses(
    tmp_path: Path, write_wav: WriteWav, arguments: list[str], text: str
) -> None:
    """What is no data set, and a file that cannot be written, ends it with 2 and one line."""
    write_wav(tmp_path / "x/y/z.wav")
    write_wav(tmp_path / "elsewhere/press/normal/0.wav")
    where = tmp_path / ("elsewhere" if arguments[0] == "press" else "x")

    ended = subprocess.run(
        [sys.executable, "-m", "training", "data", *arguments],
        cwd=where,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert (ended.returncode, ended.stdout) == (2, "")
    assert text in ended.stderr
    assert ended.stderr.count("\n") == 1


def test_command_whose_reader_leaves(press: Path) -> None:
    """A reader that has seen enough gets no stack trace."""
    command = subprocess.Popen(
        [sys.executable, "-m", "training", "data", press],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert command.stdout is not None
    command.stdout.close()
    assert command.stderr is not None
    with command.stderr as stream:
        said = stream.read()

    assert (command.wait(60), said) == (0, b"")


FOLDERS = st.sampled_from(
    [
        "",
        "train",
        "test",
        "source_test",
        "normal",
        "normal/s",
        "anomaly",
        "test/normal",
        "fan/train",
    ]
)
FILES = st.sampled_from(
    [
        "a.wav",
        "section_00_source_train_normal_0000.wav",
        "section_00_0000.wav",
        "normal_id_00_00000000.wav",
        "anomaly_id_00_00000000.flac",
        "attributes_00.csv",
        "eval_data_list_2022.csv",
        "b.ogg",
    ]
)
HEADER = b"RIFF\x24\x00\x00\x00WAVEfmt \x10\x00\x00\x00\x01\x00"
CONTENTS = st.one_of(
    st.binary(max_size=60),
    st.binary(max_size=60).map(lambda rest: HEADER + rest),
    st.binary(max_size=40).map(lambda rest: b"fLaC" + rest),
    st.binary(max_size=40).map(lambda rest: b"OggS" + rest),
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.tuples(FOLDERS, FILES, CONTENTS), max_size=8))
def test_any_folder_gives_a_report_or_one_error(
    tmp_path_factory: pytest.TempPathFactory, files: list[tuple[str, str, bytes]]
) -> None:
    """Whatever lies in a folder, there is a report of it or a reason why there is none."""
    root = tmp_path_factory.mktemp("any")
    for folder, name, content in files:
        (root / folder).mkdir(parents=True, exist_ok=True)
        (root / folder / name).write_bytes(content)

    try:
        says = report(root)
    except DataError as error:
        text = str(error)
    else:
        assert says.problems
        text = lines(says)[-1]

    assert text.count("\n") == 0
