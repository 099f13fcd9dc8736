"""`earshot node record`: whole files in the layout of `training`, and nothing unasked."""

import itertools
import json
import os
import pty
import select
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile

from contract.features import Float32Array
from node.sound.errors import SourceError
from node.sound.recorder import planned_bytes, planned_seconds, record, wav_bytes
from node.sound.source import Block, EndOfSound
from tests.rig.fake_source import Sound
from training.sound.dataset import find_dataset
from training.sound.recordings import read_recording

ROOT = Path(__file__).parents[3]
FAKE_PORTAUDIO = Path(__file__).parents[1] / "fake_portaudio"
RATE_HZ = 8000


def command(*arguments: str | Path) -> list[str]:
    return [sys.executable, "-m", "node", "record", *map(str, arguments)]


def environment(behaviour: str = "") -> dict[str, str]:
    kept = {k: v for k, v in os.environ.items() if not k.startswith("EARSHOT_")}
    if behaviour:
        kept |= {"PYTHONPATH": str(FAKE_PORTAUDIO), "EARSHOT_FAKE_SOUND": behaviour}
    return kept


def run(*arguments: str | Path, behaviour: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(*arguments),
        cwd=ROOT,
        env=environment(behaviour),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def options(out: Path, source: str, *, label: str = "normal") -> list[str]:
    given = ["--label", label, "--out", str(out), "--source", source, "--yes"]
    return [*given, "--minutes", "0.2", "--file-seconds", "4"]


def blocks(samples: Float32Array, *, gap_before: int | None = None) -> list[Block]:
    """Quarters of a second, one of which does not follow the block before."""
    return [
        Block(samples=part, captured_monotonic_ns=0, continuous=number != gap_before)
        for number, part in enumerate(np.split(samples, len(samples) // (RATE_HZ // 4)))
    ]


def noise(seconds: float) -> Float32Array:
    chance = np.random.default_rng(3)
    return (chance.normal(0, 0.1, round(seconds * RATE_HZ))).astype(np.float32)


class Hung(Sound):
    """Gives its blocks, and then lives on without a word, as a stopped process does."""

    def read(self, timeout_seconds: float) -> Block | None:
        try:
            return super().read(timeout_seconds)
        except EndOfSound:
            return None


def unwatched(block: Block, rate_hz: int, seconds: float) -> None:
    pass


def test_training_reads_what_was_recorded(tmp_path: Path) -> None:
    """Labels and sessions are found, the facts beside the sound are no recordings."""
    out = tmp_path / "press"
    sound = "synthetic:fan?seconds=12"
    for session in ("monday", "tuesday"):
        done = run(*options(out, sound), "--fast", "--session", session)
        assert (done.returncode, done.stderr.count("\n")) == (0, 1), done.stderr
    faulty = options(out, "synthetic:fan?fault=bearing&seconds=12", label="anomaly")
    run(*faulty, "--fast", "--session", "broken")

    dataset = find_dataset(out)

    clips = (*dataset.train, *dataset.test)
    found = {(clip.label, clip.session) for clip in clips}
    assert found == {("normal", "monday"), ("normal", "tuesday"), ("anomaly", "broken")}
    assert len(clips) == 9
    assert dataset.sessions == ("monday", "tuesday")
    heard = read_recording(clips[0].path, sample_rate_hz=16_000)
    assert (len(heard.samples), heard.file_channels) == (64_000, 1)


def test_facts_and_summary_are_told(tmp_path: Path) -> None:
    """A session says when, with what and how it was recorded; the end says what came of it."""
    done = run(*options(tmp_path, "synthetic:fan?seconds=12"), "--fast", "--session", "monday")

    folder = tmp_path / "normal" / "monday"
    facts = json.loads((folder / "session.json").read_text())
    assert sorted(p.name for p in folder.iterdir()) == [
        "0000.wav",
        "0001.wav",
        "0002.wav",
        "session.json",
    ]
    assert (facts["label"], facts["files"], facts["ending"]) == ("normal", 3, "complete")
    assert (facts["source"], facts["sample_rate_hz"]) == ("synthetic:fan?unit=0&seed=0", 16_000)
    assert "People who can be heard there must have been told" in done.stdout
    assert "3 files, 12 s; level -" in done.stdout
    assert f"earshot training data {tmp_path}" in done.stdout


def test_session_is_not_recorded_over(tmp_path: Path) -> None:
    """A session that is there stays as it is."""
    folder = tmp_path / "normal" / "monday"
    folder.mkdir(parents=True)

    done = run(*options(tmp_path, "synthetic:fan?seconds=12"), "--fast", "--session", "monday")

    assert (done.returncode, list(folder.iterdir())) == (2, [])
    assert "is there already: choose another --session" in done.stderr


def test_nobody_is_recorded_without_consent(tmp_path: Path) -> None:
    """Without --yes and without a terminal nothing is opened and nothing is made."""
    without = [o for o in options(tmp_path / "out", "synthetic:fan?seconds=12") if o != "--yes"]

    done = run(*without, "--fast")

    assert (done.returncode, list(tmp_path.iterdir())) == (2, [])
    assert "have been told" in done.stderr


@pytest.mark.parametrize(("typed", "files"), [("no", 0), ("yes", 3)])
def test_consent_is_asked_on_a_terminal(tmp_path: Path, typed: str, files: int) -> None:
    """Only the whole word starts the recording; a meter shows how it goes."""
    without = [o for o in options(tmp_path, "synthetic:fan?seconds=12") if o != "--yes"]
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        command(*without, "--fast"),
        cwd=ROOT,
        env=environment(),
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
    )
    os.close(theirs)
    os.write(ours, typed.encode() + b"\n")
    screen = b""
    while select.select([ours], [], [], 20)[0]:
        try:
            screen += os.read(ours, 4096)
        except OSError:  # Linux's word for the end of a terminal
            break
    os.close(ours)
    code = process.wait(20)

    assert b"Have they been told? Type yes: " in screen
    assert len(list(tmp_path.rglob("*.wav"))) == files
    assert (code, b"dBFS, peak" in screen) == ((0, True) if files else (2, False))


def test_signal_keeps_whole_files(tmp_path: Path) -> None:
    """Ctrl-C ends the recording in good order: whole files stay, nothing half-written does."""
    arguments = [*options(tmp_path, "synthetic:fan"), "--file-seconds", "2", "--session", "one"]
    folder = tmp_path / "normal" / "one"
    with subprocess.Popen(
        command(*arguments),
        cwd=ROOT,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        deadline = time.monotonic() + 30
        while not (folder / "0000.wav").exists():
            assert time.monotonic() < deadline
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=30)

    names = sorted(p.name for p in folder.iterdir())
    assert process.returncode == 0, err
    assert names[-1] == "session.json"
    assert all(name.endswith(".wav") for name in names[:-1])
    assert all(soundfile.info(folder / name).duration == 2 for name in names[:-1])
    assert json.loads((folder / "session.json").read_text())["ending"] == "stopped"
    assert f"{len(names) - 1} of 6 files" in out


def test_lost_microphone_keeps_what_there_is(tmp_path: Path) -> None:
    """A microphone that stops is one clear line, after the summary of what was kept."""
    arguments = [*options(tmp_path, "microphone:default"), "--session", "one"]

    done = run(*arguments, "--file-seconds", "2", behaviour="live:45")

    assert done.returncode == 2
    assert "1 file, 2 s" in done.stdout
    assert done.stderr.splitlines()[-1].startswith("earshot node: Microphone ")
    assert len(list(tmp_path.rglob("*.wav"))) == 1


def test_microphone_that_does_not_open_leaves_nothing(tmp_path: Path) -> None:
    """Nothing is made before the source is open."""
    done = run(*options(tmp_path / "out", "microphone:default"), behaviour="busy")

    assert (done.returncode, list(tmp_path.iterdir())) == (2, [])
    assert "stop the other program that uses it" in done.stderr


def test_too_short_sound_leaves_nothing(tmp_path: Path) -> None:
    """Where no file became whole, nothing is left behind, and that is said."""
    done = run(*options(tmp_path / "out", "synthetic:fan?seconds=3"), "--fast")

    assert (done.returncode, list(tmp_path.iterdir())) == (2, [])
    assert "No file of 4 s became whole" in done.stderr


def test_disk_that_takes_no_more_is_one_line(tmp_path: Path) -> None:
    """The file that failed leaves nothing, and says why."""
    # A file is 192 kB; `ulimit -f` counts in kilobytes.
    script = 'ulimit -f 100; exec "$@"'
    first = [*options(tmp_path, "synthetic:fan?seconds=12"), "--fast", "--session", "one"]

    done = subprocess.run(
        ["bash", "-c", script, "bash", *command(*first)],
        cwd=ROOT,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert (done.returncode, list(tmp_path.iterdir())) == (2, [])
    assert "0000.wav: cannot be written: File too large" in done.stderr


def test_room_on_the_disk_is_asked_first(tmp_path: Path) -> None:
    """A recording that cannot fit does not begin."""
    out = tmp_path / "out"
    # A day at 8 MHz, which no disk has room for.
    sound = tmp_path / "sound.wav"
    soundfile.write(sound, noise(1.0), 2_000_000_000)
    given = ("--label", "normal", "--out", out, "--source", sound, "--yes", "--fast")

    done = run(*given, "--minutes", "1440")

    assert (done.returncode, out.exists()) == (2, False)
    assert "MB of free space" in done.stderr


def test_no_file_holds_a_gap(tmp_path: Path) -> None:
    """What was begun before a gap is thrown away; the next file begins after it."""
    samples = noise(9.0)
    source = Sound(blocks(samples, gap_before=12), sample_rate_hz=RATE_HZ)

    recorded = record(
        source, tmp_path, lengths_seconds=[2] * 4, stop=threading.Event(), watch=unwatched
    )

    names = sorted(p.name for p in tmp_path.iterdir())
    second, rate_hz = soundfile.read(tmp_path / "0001.wav", dtype="float32")
    assert (recorded.files, recorded.overruns, names) == (
        3,
        1,
        ["0000.wav", "0001.wav", "0002.wav"],
    )
    assert recorded.discarded_seconds == pytest.approx(2.0)
    assert rate_hz == RATE_HZ
    np.testing.assert_allclose(second, samples[3 * RATE_HZ : 5 * RATE_HZ], atol=2**-23)


def test_fault_of_the_source_is_kept_for_the_end(tmp_path: Path) -> None:
    """Whoever records tells first what was kept, then why it ended."""
    fault = SourceError("stopped", "gone")
    source = Sound(blocks(noise(3.0)), sample_rate_hz=RATE_HZ, end=fault)

    recorded = record(
        source, tmp_path, lengths_seconds=[2] * 4, stop=threading.Event(), watch=unwatched
    )

    assert (recorded.files, recorded.ending, recorded.fault) == (1, "lost", fault)


def test_microphone_that_hangs_is_not_waited_for(tmp_path: Path) -> None:
    """Ten seconds without sound end a recording; what was whole is kept."""
    source = Hung(blocks(noise(3.0)), sample_rate_hz=RATE_HZ)
    ticks = itertools.count(step=0.5)

    recorded = record(
        source,
        tmp_path,
        lengths_seconds=[2] * 4,
        stop=threading.Event(),
        watch=unwatched,
        clock=lambda: next(ticks),
    )

    assert (recorded.files, recorded.ending) == (1, "lost")
    assert "got none for 10 s" in str(recorded.fault)


@pytest.mark.parametrize(
    ("value", "expected"), [(0.0, 0), (1.0, 2**23 - 1), (-1.0, -(2**23)), (1.6 * 2**-23, 2)]
)
def test_samples_are_rounded_and_clipped(tmp_path: Path, value: float, expected: int) -> None:
    """24 bits: round, clip at both ends."""
    file = tmp_path / "one.wav"

    file.write_bytes(wav_bytes(np.full(5, value, np.float32), RATE_HZ))

    words, _ = soundfile.read(file, dtype="int32")
    assert soundfile.info(file).subtype == "PCM_24"
    assert (np.asarray(words, np.int32) >> 8).tolist() == [expected] * 5


@pytest.mark.parametrize(
    ("minutes", "file_seconds", "lengths"),
    [
        (30, 10, (10,) * 180),
        (0.2, 10, (10, 2)),
        (0.2, 4, (4, 4, 4)),
        (0.35, 10, (10, 11)),
        (0.1, 10, (6,)),
        (1, 7, (7, 7, 7, 7, 7, 7, 7, 7, 4)),
        (0.04, 60, (2,)),
        (0.51, 2, (2,) * 14 + (3,)),
    ],
)
def test_plan_is_what_was_agreed_to_the_second(
    minutes: float, file_seconds: int, lengths: tuple[int, ...]
) -> None:
    """No second more is recorded than people were told of, and no file is shorter than a window."""
    assert planned_seconds(minutes, file_seconds) == lengths


def test_bytes_are_known_before() -> None:
    """So that a disk that is too small is told of before anything is recorded."""
    assert planned_bytes([10] * 180, sample_rate_hz=48_000) == 180 * (44 + 1_440_000)
    assert planned_bytes([10, 2], sample_rate_hz=16_000) == 2 * 44 + 12 * 48_000


def test_last_file_is_shorter(tmp_path: Path) -> None:
    """What is left over of the minutes is a file of its own, and then it ends."""
    (tmp_path / "set").mkdir()
    done = run(
        *("--out", str(tmp_path / "set"), "--label", "normal", "--session", "s", "--yes"),
        *("--source", "synthetic:fan?seconds=30", "--fast", "--minutes", "0.2"),
    )

    assert done.returncode == 0, done.stderr
    assert "(12 s)" in done.stdout
    folder = tmp_path / "set" / "normal" / "s"
    files = sorted(folder.glob("*.wav"))
    assert [soundfile.info(file).duration for file in files] == [10.0, 2.0]
    assert json.loads((folder / "session.json").read_text())["seconds"] == 12
