"""`earshot node check`: what each check finds, and what the command makes of it."""

import datetime as dt
import fcntl
import json
import os
import subprocess
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path

import msgspec
import numpy as np
import pytest

from contract.features import Float32Array
from contract.settings import MqttSettings
from contract.states import Clock
from node.board import BoardReadings
from node.checks.computer_checks import (
    board_findings,
    clock_finding,
    node_runs,
    read_throttled_word,
    secret_findings,
    sound_device_findings,
    state_folder_findings,
)
from node.checks.sound_checks import (
    Listening,
    headroom_finding,
    heard_findings,
    listen,
    microphone_error,
    rate_findings,
)
from node.findings import Finding, Grade, document, line, ok, problem, warning
from node.scoring.release_store import read_release
from node.sound.errors import SourceError
from node.sound.levels import Levels
from node.sound.source import Block, EndOfSound
from tests.rig.fake_source import Sound
from tests.rig.ports import free_port

ROOT = Path(__file__).parents[3]
FAN = ROOT / "models/fan-synthetic"
FAKE_PORTAUDIO = Path(__file__).parents[1] / "fake_portaudio"
RATE_HZ = 16_000
BOARD = BoardReadings(
    cpu_temperature_c=51.0,
    throttled=False,
    memory_rss_bytes=1,
    memory_available_bytes=600_000_000,
    disk_free_bytes=1,
)
needs_permissions = pytest.mark.skipif(os.geteuid() == 0, reason="root may do everything")


def run(
    *arguments: str | Path, settings: Mapping[str, str] | None = None, cwd: Path = ROOT
) -> tuple[int, str, str]:
    """Exit code, output and complaints of `node check` with these settings."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith("EARSHOT_")}
    given = {
        "EARSHOT_NODE_ID": "press-07",
        "EARSHOT_MODEL_FOLDER": str(FAN),
        "EARSHOT_MQTT_HOST": "127.0.0.1",
        "EARSHOT_MQTT_PORT": str(free_port()),
        "EARSHOT_SOURCE_SPEC": "synthetic:fan?seconds=3",
        "PYTHONPATH": f"{FAKE_PORTAUDIO}:{ROOT}",
    }
    done = subprocess.run(
        [sys.executable, "-m", "node", "check", "--seconds", "1", *map(str, arguments)],
        cwd=cwd,
        env={**kept, **given, **(settings or {})},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return done.returncode, done.stdout, done.stderr


def grades(findings: Iterable[Finding]) -> dict[str, Grade]:
    return {finding.check: finding.grade for finding in findings}


def grades_of(output: str) -> dict[str, str]:
    """Of the command's JSON."""
    return {check["check"]: check["grade"] for check in json.loads(output)["checks"]}


def heard(samples: Float32Array, **more: object) -> Listening:
    levels = Levels()
    levels.hear(samples, clipped=0.0)
    found = Listening(
        identity="usb:1-1.2",
        sample_rate_hz=48_000,
        seconds=5.0,
        asked_seconds=5.0,
        level=levels.level,
        health_note=None,
        overruns=0,
        delivered_hz=48_010.0,
        delivered_seconds=5.0,
        latencies_ms=(),
    )
    return msgspec.structs.replace(found, **more)


class Stalling(Sound):
    """Gives its blocks, and then lives on without a word."""

    def read(self, timeout_seconds: float) -> Block | None:
        try:
            return super().read(timeout_seconds)
        except EndOfSound:
            return None


def noise(samples: int) -> Float32Array:
    return np.random.default_rng(5).normal(0, 0.05, samples).astype(np.float32)


def blocks(rate_hz: float, *, seconds: float, lost: bool = False) -> list[Block]:
    """Tenths of a second that are captured at this rate, whatever the device says."""
    count = RATE_HZ // 10
    return [
        Block(
            samples=noise(count),
            captured_monotonic_ns=round(k * count / rate_hz * 1e9),
            continuous=not (lost and k == 5),
        )
        for k in range(round(seconds * rate_hz / count))
    ]


def test_line_says_all_on_one_line() -> None:
    """Grade, check, what was found and what to do; whatever a name holds, one line."""
    told = line(warning("level", "too\nquiet\x1b[2J", "raise the gain"))

    assert told == "warning  level             too quiet [2J -> raise the gain"
    assert line(ok("clock", "fine")) == "ok       clock             fine"


def test_document_counts_grades() -> None:
    """Programs read the counts and every finding."""
    found = document([ok("a", "x"), warning("b", "y", "z"), problem("c", "w")])

    assert (found["problems"], found["warnings"], len(found["checks"])) == (1, 1, 3)
    assert found["checks"][2] == {"check": "c", "grade": "problem", "found": "w", "advice": None}


def test_broker_away_hides_nothing_else(tmp_path: Path) -> None:
    """One problem is one line and exit code 1; all other checks are there; nothing is changed."""
    code, output, complaints = run("--json", cwd=tmp_path)

    found = grades_of(output)
    assert (code, complaints, list(tmp_path.iterdir())) == (1, "", [])
    assert json.loads(output)["problems"] == 1
    assert found["broker port"] == "problem"
    for check in (
        "settings",
        "release",
        "microphone",
        "level",
        "cpu",
        "state folder",
        "disk",
        "updates",
    ):
        assert found[check] == "ok", check
    assert "clock" in found


def test_lines_are_for_people() -> None:
    """Without --json each check is a line, and the last one counts."""
    code, output, _ = run()

    lines = output.splitlines()
    assert code == 1
    assert lines[0] == "ok       settings          the environment: node press-07"
    assert lines[-1].startswith("1 problem, ")
    assert all(each.split()[0] in ("ok", "warning", "problem") for each in lines[:-1])


def test_settings_that_cannot_be_read_hide_nothing(tmp_path: Path) -> None:
    """Every problem of the settings is told, and the computer is looked at all the same."""
    config = tmp_path / "node.toml"
    config.write_text('[node]\nid = "Press 07"\n[mqtt]\nprot = 1\n')

    code, output, _ = run("--json", "--config", config, settings={"EARSHOT_NODE_ID": "Press 07"})

    found = grades_of(output)
    told = json.loads(output)["checks"][0]["found"]
    assert (code, found["settings"]) == (1, "problem")
    assert "EARSHOT_NODE_ID" in told
    assert "prot" in told
    assert {"clock", "board"} <= found.keys()
    assert "level" not in found


def test_release_that_cannot_be_read_hides_nothing() -> None:
    """Without a model the microphone is heard, and only the time to score is not known."""
    _, output, _ = run("--json", settings={"EARSHOT_MODEL_FOLDER": "/nowhere"})

    found = grades_of(output)
    assert (found["release"], found["level"]) == ("problem", "ok")
    assert "cpu" not in found


def test_microphone_is_heard_and_named() -> None:
    """A microphone is told with its device, its rate as delivered, and its level."""
    microphone = {"EARSHOT_SOURCE_SPEC": "microphone:default", "EARSHOT_FAKE_SOUND": "live:200"}

    # No rate is told of the first second, nor of a part of one.
    _, output, _ = run("--json", "--seconds", "3", settings=microphone)

    found = grades_of(output)
    assert (found["device"], found["rate"], found["cpu"]) == ("ok", "ok", "ok")
    assert "Fake Mic" in output
    assert "up to 2 channels" in output


def test_busy_microphone_is_a_problem_unless_the_node_runs(tmp_path: Path) -> None:
    """A running node may be who has the microphone, or may wait for it: a warning."""
    settings = {
        "EARSHOT_SOURCE_SPEC": "microphone:default",
        "EARSHOT_FAKE_SOUND": "busy",
        "EARSHOT_NODE_STATE_FOLDER": str(tmp_path),
    }

    _, alone, _ = run("--json", settings=settings)
    (tmp_path / "press-07").mkdir()
    with (tmp_path / "press-07" / "node.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        _, beside, _ = run("--json", settings=settings)

    assert grades_of(alone)["microphone"] == "problem"
    assert grades_of(beside)["microphone"] == "warning"
    assert "or by another program" in beside
    assert grades_of(beside)["cpu"] == "ok"


def test_other_faults_of_the_microphone_stay_problems() -> None:
    """Only busy is explained by a running node."""
    finding = microphone_error(SourceError("no_device", "plug it in"), node_runs=True)

    assert (finding.grade, finding.found) == (Grade.PROBLEM, "plug it in")


def test_lock_is_only_looked_at(tmp_path: Path) -> None:
    """Without a lock, or with one that nobody holds, no node runs; none is made."""
    assert not node_runs(tmp_path)
    assert list(tmp_path.iterdir()) == []

    with (tmp_path / "node.lock").open("w") as lock:
        assert not node_runs(tmp_path)
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert node_runs(tmp_path)


@pytest.mark.parametrize(
    ("true_hz", "grade"),
    [(16_000, Grade.OK), (15_900, Grade.OK), (14_700, Grade.PROBLEM), (17_415, Grade.PROBLEM)],
)
def test_rate_is_measured_against_the_clock(true_hz: float, grade: Grade) -> None:
    """A device that delivers another rate than it says is found in four seconds."""
    found = listen(Sound(blocks(true_hz, seconds=4), sample_rate_hz=RATE_HZ), 60.0, timer=None)

    (finding,) = rate_findings(found)

    assert found.delivered_hz == pytest.approx(true_hz, rel=1e-6)
    assert finding.grade is grade


def test_gaps_at_the_start_are_no_wrong_rate() -> None:
    """Sound servers give the first blocks unevenly; the rate is counted after that."""
    first, *others = blocks(RATE_HZ, seconds=4)
    late = [
        msgspec.structs.replace(b, captured_monotonic_ns=b.captured_monotonic_ns + 300_000_000)
        for b in others
    ]

    found = listen(Sound([first, *late], sample_rate_hz=RATE_HZ), 60.0, timer=None)

    assert found.delivered_hz == pytest.approx(RATE_HZ, rel=1e-6)


def test_capture_that_stops_is_a_problem() -> None:
    """A microphone that goes silent in the middle has given much less sound than it had time."""
    source = Stalling(blocks(RATE_HZ, seconds=0.4), sample_rate_hz=RATE_HZ)

    found = heard_findings(listen(source, 1.0, timer=None), is_microphone=True)

    assert grades(found)["microphone"] is Grade.PROBLEM


@pytest.mark.parametrize(
    ("seconds", "asked", "grade"),
    [
        (3.1, 5.0, Grade.PROBLEM),
        (4.6, 5.0, Grade.OK),
        (0.7, 1.0, Grade.OK),
        (3.1, None, Grade.OK),
    ],
)
def test_much_less_sound_than_time_is_a_problem(
    seconds: float, asked: float | None, grade: Grade
) -> None:
    """A gap at the start is none, nor is a source that came to its end."""
    found = heard(noise(1000), seconds=seconds, asked_seconds=asked)

    assert grades(heard_findings(found, is_microphone=True))["microphone"] is grade


def test_lost_sound_is_a_problem_and_no_wrong_rate() -> None:
    """Overruns are told as such; a rate that was counted over a gap is not told at all."""
    source = Sound(blocks(RATE_HZ, seconds=2, lost=True), sample_rate_hz=RATE_HZ)

    found = grades(heard_findings(listen(source, 60.0, timer=None), is_microphone=True))

    assert found["overruns"] is Grade.PROBLEM
    assert "rate" not in found


def test_first_moment_is_no_level() -> None:
    """The thump of a microphone that is switched on says nothing of the gain."""
    quiet = blocks(RATE_HZ, seconds=2)
    thump = Block(samples=np.ones(1600, np.float32), captured_monotonic_ns=0)
    source = Sound([thump, *quiet[1:]], sample_rate_hz=RATE_HZ)

    found = listen(source, 60.0, timer=None)

    assert found.level is not None
    assert found.level.clipped == 0.0


def test_source_without_sound_is_a_problem() -> None:
    """A source that opens and gives nothing is told."""
    found = heard_findings(
        listen(Sound([], sample_rate_hz=RATE_HZ), 1.0, timer=None), is_microphone=True
    )

    assert grades(found) == {"microphone": Grade.PROBLEM}


def test_stuck_microphone_is_a_problem() -> None:
    """What no level shows, a buffer that repeats itself, is found by the node's own judgement."""
    same = noise(1600)
    stuck = [Block(samples=same, captured_monotonic_ns=k * 10**8) for k in range(40)]

    found = heard_findings(
        listen(Sound(stuck, sample_rate_hz=RATE_HZ), 60.0, timer=None), is_microphone=True
    )

    (fault,) = [finding for finding in found if finding.grade is Grade.PROBLEM]
    assert "repeats itself" in fault.found


def test_files_have_no_rate_of_their_own() -> None:
    """Only a microphone's rate is measured."""
    found = grades(heard_findings(heard(noise(1000)), is_microphone=False))

    assert found == {"microphone": Grade.OK, "level": Grade.OK}


@pytest.mark.parametrize(
    ("latency_ms", "grade"), [(3.0, Grade.OK), (260.0, Grade.WARNING), (510.0, Grade.PROBLEM)]
)
def test_headroom_is_judged_by_the_hop(latency_ms: float, grade: Grade) -> None:
    """A quarter of the hop is a warning, half of it a problem."""
    finding = headroom_finding([latency_ms] * 20, read_release(FAN).manifest)

    assert finding.grade is grade


@pytest.mark.parametrize(
    ("clock", "year", "grade"),
    [
        (Clock.SYNCED, 2026, Grade.OK),
        (Clock.UNSYNCED, 2026, Grade.WARNING),
        (Clock.UNSYNCED, 1970, Grade.PROBLEM),
        (Clock.SYNCED, 2111, Grade.PROBLEM),
    ],
)
def test_clock_is_synchronised_and_plausible(clock: Clock, year: int, grade: Grade) -> None:
    """A year that cannot be is worse than a clock that nobody keeps in step."""
    finding = clock_finding(clock, dt.datetime(year, 6, 1, tzinfo=dt.UTC).timestamp())

    assert finding.grade is grade


@pytest.mark.parametrize(
    ("celsius", "word", "memory_bytes", "expected"),
    [
        (51.0, 0, 600_000_000, {"board": "ok", "memory": "ok"}),
        (None, None, 600_000_000, {"board": "ok", "memory": "ok"}),
        (77.0, 0, 600_000_000, {"board": "warning", "memory": "ok"}),
        (84.0, 0, 600_000_000, {"board": "problem", "memory": "ok"}),
        (51.0, 0b100, 600_000_000, {"board": "problem", "memory": "ok"}),
        (51.0, 0b100 << 16, 600_000_000, {"board": "warning", "memory": "ok"}),
        (51.0, 1 << 16, 600_000_000, {"power": "warning", "board": "ok", "memory": "ok"}),
        (51.0, 1 | 1 << 16, 600_000_000, {"power": "problem", "board": "ok", "memory": "ok"}),
        (51.0, 0, 120_000_000, {"board": "ok", "memory": "warning"}),
        (51.0, 0, 20_000_000, {"board": "ok", "memory": "problem"}),
    ],
)
def test_board_is_cool_and_fed(
    celsius: float | None, word: int | None, memory_bytes: int, expected: dict[str, str]
) -> None:
    """Heat, low voltage and little memory are told, now worse than some time since the start."""
    readings = msgspec.structs.replace(
        BOARD, cpu_temperature_c=celsius, memory_available_bytes=memory_bytes
    )

    assert grades(board_findings(readings, word, name="a board")) == expected


def test_firmware_word_is_read(tmp_path: Path) -> None:
    """The Pi's word is hexadecimal; other boards have none."""
    assert read_throttled_word(tmp_path) is None
    file = tmp_path / "sys/devices/platform/soc/soc:firmware/get_throttled"
    file.parent.mkdir(parents=True)
    file.write_text("50005\n")

    assert read_throttled_word(tmp_path) == 0x50005


def test_state_folder_is_not_made(tmp_path: Path) -> None:
    """A folder that is not there yet is judged by the one above it, and not made."""
    found = list(state_folder_findings(tmp_path / "a" / "b"))

    assert found[0].grade is Grade.OK
    assert "(not made yet) can be written" in found[0].found
    assert list(tmp_path.iterdir()) == []


def test_state_folder_may_not_be_a_file(tmp_path: Path) -> None:
    """A file in its place is a problem."""
    (tmp_path / "state").touch()

    assert grades(state_folder_findings(tmp_path / "state")) == {"state folder": Grade.PROBLEM}


@needs_permissions
def test_state_folder_of_somebody_else(tmp_path: Path) -> None:
    """A folder that this user may not write to is told with the command that cures it."""
    tmp_path.chmod(0o500)

    finding = next(iter(state_folder_findings(tmp_path)))

    tmp_path.chmod(0o700)
    assert finding.grade is Grade.PROBLEM
    assert "sudo chown -R" in (finding.advice or "")


@needs_permissions
def test_file_of_somebody_else_in_the_state_folder(tmp_path: Path) -> None:
    """What root has left in the folder, and the node cannot read, is named with the cure."""
    left = tmp_path / "my state" / "releases" / "one.json"
    left.parent.mkdir(parents=True)
    (tmp_path / "my state" / "readable").touch()
    left.touch(mode=0o000)

    finding = next(iter(state_folder_findings(tmp_path / "my state")))

    assert finding.grade is Grade.PROBLEM
    assert str(left) in finding.found
    assert f"'{tmp_path}/my state'" in (finding.advice or "")


@needs_permissions
def test_state_folder_behind_a_closed_one(tmp_path: Path) -> None:
    """A folder above that cannot be entered is named, with what to do."""
    closed = tmp_path / "home"
    (closed / "state").mkdir(parents=True)
    closed.chmod(0o600)

    found = list(state_folder_findings(closed / "state" / "press-07"))

    closed.chmod(0o700)
    assert grades(found) == {"state folder": Grade.PROBLEM}
    assert f"may not enter {closed}" in found[0].found
    assert "state_folder" in (found[0].advice or "")


def test_file_system_that_is_read_only() -> None:
    """A state folder on a read-only file system is a problem, whoever asks."""
    read_only = [
        Path(mount.split()[1])
        for mount in Path("/proc/mounts").read_text().splitlines()
        if mount.split()[3].split(",")[0] == "ro" and Path(mount.split()[1]).is_dir()
    ]
    if not read_only:
        pytest.skip("no file system is mounted read-only here")

    finding = next(iter(state_folder_findings(read_only[0] / "state")))

    assert finding.grade is Grade.PROBLEM
    assert "read-only" in finding.found


@pytest.mark.parametrize(("mode", "grade"), [(0o600, Grade.OK), (0o644, Grade.PROBLEM)])
def test_password_is_closed_to_others(tmp_path: Path, mode: int, grade: Grade) -> None:
    """In the settings or in a file of its own, every user's reading it is a problem."""
    config, secret = tmp_path / "node.toml", tmp_path / "secret"
    config.write_text('[mqtt]\nusername = "a"\npassword = "b"\n')
    secret.touch()
    config.chmod(mode)
    secret.chmod(mode)
    mqtt = MqttSettings(username="a", password_file=str(secret))

    found = list(secret_findings(config, mqtt))

    assert [finding.grade for finding in found] == [grade, grade]


def test_settings_without_password_may_be_read(tmp_path: Path) -> None:
    """Settings that hold no secret are nobody's secret."""
    config = tmp_path / "node.toml"
    config.write_text("[mqtt]\n")
    config.chmod(0o644)

    assert list(secret_findings(config, MqttSettings())) == []


def test_password_file_that_is_not_there(tmp_path: Path) -> None:
    """A path that leads nowhere is told."""
    mqtt = MqttSettings(username="a", password_file=str(tmp_path / "none"))

    assert grades(secret_findings(None, mqtt)) == {"secrets": Grade.PROBLEM}


@needs_permissions
def test_sound_device_of_the_group_audio(tmp_path: Path) -> None:
    """A capture device that this user may not open is told with the command that cures it."""
    device = tmp_path / "pcmC1D0c"
    device.touch(mode=0o000)

    (finding,) = sound_device_findings(tmp_path)

    assert "usermod -aG audio" in (finding.advice or "")


def test_open_sound_devices_are_not_told(tmp_path: Path) -> None:
    """Devices that may be opened, or playback alone, or none at all, are no finding."""
    (tmp_path / "pcmC1D0c").touch()
    (tmp_path / "pcmC1D0p").touch(mode=0o000)

    assert list(sound_device_findings(tmp_path)) == []
    assert list(sound_device_findings(tmp_path / "none")) == []
