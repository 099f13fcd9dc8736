"""Calibration with real processes: on this computer, over the network, and across restarts."""

import json
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from collector.node_commands import CommandFailedError, send_command
from contract import topics
from contract.errors import EXIT_BAD_INPUT
from contract.messages import Command, Event, State, encode
from contract.states import CalibrationPhase, EpisodePhase, MachineState, ThresholdSource
from node.commands.calibrate import EXIT_REFUSED
from tests.rig.brokers import Mosquitto
from tests.rig.listeners import Listener
from tests.rig.peers import connected, mqtt
from tests.rig.programs import MODEL, node_settings, run, start
from tests.rig.waiting import wait_until

# Made once, and so by one of the parallel workers: ten minutes of a node.
pytestmark = pytest.mark.xdist_group("calibrate")

HEALTHY = "synthetic:fan?seconds={seconds}"
BEARING = "synthetic:fan?fault=bearing&severity=1&after={after}&seconds={seconds}"
# Settling, two minutes, verifying.
QUICK_WINDOWS = 170


@contextmanager
def running_node(settings: dict[str, str]) -> Iterator["subprocess.Popen[str]"]:
    """A node that runs until the block ends."""
    with start("node", "run", "--fast", settings=settings) as node:
        yield node


@contextmanager
def follower(settings: dict[str, str], minutes: int) -> Iterator["subprocess.Popen[str]"]:
    """Somebody who asks for a calibration and waits for its end."""
    with start("node", "calibrate", "--minutes", str(minutes), settings=settings) as asks:
        yield asks


def _first_lines(asks: "subprocess.Popen[str]") -> str:
    """What it says before the calibration gets on."""
    assert asks.stdout is not None
    return asks.stdout.readline() + asks.stdout.readline()


def in_state_folder(settings: dict[str, str], name: str) -> Path:
    return Path(settings["EARSHOT_NODE_STATE_FOLDER"]) / "press-07" / name


@pytest.fixture(scope="module")
def _state_of_ten_minutes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("calibrated") / "state"
    settings = node_settings(None, HEALTHY.format(seconds=900))
    settings["EARSHOT_NODE_STATE_FOLDER"] = str(folder)
    done = run("node", "calibrate", "--fast", "--minutes", "10", settings=settings)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


@pytest.fixture
def calibrated(_state_of_ten_minutes: Path, tmp_path: Path) -> dict[str, str]:
    """Settings of a node, without a broker, that has been calibrated for ten minutes."""
    shutil.copytree(_state_of_ten_minutes, tmp_path / "state")
    settings = node_settings(None, HEALTHY.format(seconds=900))
    settings["EARSHOT_NODE_STATE_FOLDER"] = str(tmp_path / "state")
    return settings


def on(broker: Mosquitto, settings: dict[str, str], source: str) -> dict[str, str]:
    """The same node, connected, with other sound."""
    return settings | {
        "EARSHOT_MQTT_HOST": broker.host,
        "EARSHOT_MQTT_PORT": str(broker.port),
        "EARSHOT_SOURCE_SPEC": source,
    }


def test_calibration_without_a_broker_is_in_force_at_the_next_start(
    mosquitto: Mosquitto, calibrated: dict[str, str]
) -> None:
    """Its threshold, its blocks and its note go out, and the healthy machine is normal."""
    with Listener(mosquitto) as listener:
        settings = on(mosquitto, calibrated, "synthetic:fan?seed=5&seconds=150")
        ended = run("node", "run", "--fast", settings=settings)
        listener.wait_for_windows(149)
    state = listener.all_of(State)[-1]
    limits = json.loads(
        (Path(calibrated["EARSHOT_NODE_STATE_FOLDER"]) / "press-07/calibration.json").read_bytes()
    )["limits"]

    assert ended.returncode == 0, ended.stderr
    assert state.threshold_source is ThresholdSource.SITE
    assert state.threshold == pytest.approx(limits["threshold"])
    assert (state.calibration, state.calibration_blocks) == (CalibrationPhase.ARMED, 10)
    assert state.calibration_note is not None
    assert "above the limit while verifying" in state.calibration_note
    assert state.machine is MachineState.NORMAL
    assert {w.threshold for w in listener.windows()} == {state.threshold}


def test_calibration_is_not_used_with_another_release(
    mosquitto: Mosquitto, calibrated: dict[str, str], tmp_path: Path
) -> None:
    """Its limits are of another network: the node says so and goes by the release."""
    shutil.copytree(MODEL, tmp_path / "model")
    manifest = tmp_path / "model/manifest.json"
    manifest.write_text(manifest.read_text().replace('"version":1', '"version":2'))
    settings = on(mosquitto, calibrated, "synthetic:fan?seconds=5")
    settings["EARSHOT_MODEL_FOLDER"] = str(tmp_path / "model")
    with Listener(mosquitto) as listener:
        ended = run("node", "run", "--fast", settings=settings)
        listener.wait_for_windows(4)
    state = listener.all_of(State)[-1]

    assert ended.returncode == 0, ended.stderr
    assert state.threshold_source is ThresholdSource.RELEASE
    assert state.calibration is CalibrationPhase.NONE
    assert state.calibration_note is not None
    assert "calibrated with fan-synthetic@1" in state.calibration_note


def test_episode_goes_out_with_its_bands_and_goes_on_after_a_kill(
    mosquitto: Mosquitto, calibrated: dict[str, str]
) -> None:
    """A fault opens one; killed in its midst, the node closes it under the same id."""
    faulty = on(mosquitto, calibrated, BEARING.format(after=60, seconds=80_000))
    healthy = on(mosquitto, calibrated, "synthetic:fan?seed=9&seconds=200")
    with Listener(mosquitto) as listener:
        with running_node(faulty) as node:
            wait_until(
                lambda: any(e.state is MachineState.ALARM for e in listener.all_of(Event)),
                "an alarm",
                seconds=60,
            )
            node.send_signal(signal.SIGKILL)
            node.wait()
        ended = run("node", "run", "--fast", settings=healthy)
        wait_until(lambda: listener.all_of(Event)[-1].phase is EpisodePhase.CLOSED, "the end of it")
    events = listener.all_of(Event)

    assert ended.returncode == 0, ended.stderr
    assert events[0].phase is EpisodePhase.OPENED
    assert len({event.episode_id for event in events}) == 1
    assert events[0].episode_id.startswith(events[0].boot)
    assert events[-1].boot != events[0].boot
    assert 1 <= len(events[0].bands_hz) <= 3
    assert all(0 < hz < 8000 for hz in events[0].bands_hz)
    assert events[-1].peak_score > 1.0


def test_running_node_is_calibrated_from_the_command_line(mosquitto: Mosquitto) -> None:
    """The command asks the node that has the microphone, follows, and ends with its verdict."""
    settings = node_settings(mosquitto, HEALTHY.format(seconds=80_000))
    with Listener(mosquitto) as listener, running_node(settings):
        listener.wait_for_windows(1)
        done = run("node", "calibrate", "--minutes", "2", settings=settings)
        second = run("node", "run", settings=settings)
        forgotten = run("node", "calibrate", "--forget", settings=settings)
        wait_until(
            lambda: listener.all_of(State)[-1].threshold_source is ThresholdSource.RELEASE,
            "the release's threshold",
        )
    phases = [state.calibration for state in listener.all_of(State)]

    assert done.returncode == 0, done.stdout + done.stderr
    assert "armed: quick limits that hold no rate: 12 blocks of 10 s" in done.stdout
    assert second.returncode == EXIT_BAD_INPUT
    assert "a node already runs on this folder" in second.stderr
    assert forgotten.returncode == 0, forgotten.stderr
    assert [p for i, p in enumerate(phases) if i == 0 or phases[i - 1] is not p] == [
        CalibrationPhase.NONE,
        CalibrationPhase.SETTLING,
        CalibrationPhase.CALIBRATING,
        CalibrationPhase.VERIFYING,
        CalibrationPhase.ARMED,
        CalibrationPhase.NONE,
    ]


def test_node_is_calibrated_over_the_network(mosquitto: Mosquitto) -> None:
    """An operator far away asks, is answered, and sees it arm; nonsense is answered, too."""
    settings = node_settings(mosquitto, HEALTHY.format(seconds=80_000))
    broker = mqtt(mosquitto)
    with Listener(mosquitto) as listener, running_node(settings):
        listener.wait_for_windows(1)
        short = send_command(broker, "press-07", "calibrate", minutes=1.0, seconds=20)
        begun = send_command(broker, "press-07", "calibrate", minutes=2.0, seconds=20)
        wait_until(
            lambda: listener.all_of(State)[-1].calibration is CalibrationPhase.ARMED,
            "a calibration",
            seconds=60,
        )
        idle = send_command(broker, "press-07", "calibrate", minutes=0.0, seconds=20)
        by_hand = run(
            "collector",
            *("command", "press-07", "calibrate", "--minutes", "60"),
            *("--broker", f"{mosquitto.host}:{mosquitto.port}"),
            settings={},
        )
        cancelled = send_command(broker, "press-07", "calibrate", minutes=0.0, seconds=20)

    assert not short.done
    assert short.note == "Expected 2 to 240 minutes of calibration, got 1"
    assert begun.done
    assert begun.note.startswith("calibrates for 2 minutes")
    assert (idle.done, idle.note) == (False, "no calibration was under way")
    assert by_hand.returncode == 0, by_hand.stderr
    assert by_hand.stdout == (
        "press-07: calibrates for 60 minutes, 85 in all with settling and verifying\n"
    )
    assert cancelled.done


def test_command_without_a_node_is_told(mosquitto: Mosquitto) -> None:
    """Nobody waits for an answer that cannot come."""
    with pytest.raises(CommandFailedError, match="no node press-99 is connected"):
        send_command(mqtt(mosquitto), "press-99", "calibrate", minutes=None, seconds=20)


def test_retained_command_is_not_obeyed(mosquitto: Mosquitto) -> None:
    """It would be obeyed again at each connection, and by a node that was enrolled years later."""
    command = Command(node="press-07", at_us=0, minutes=2.0)
    with connected(mqtt(mosquitto), "careless") as operator:
        operator.tell(topics.command("press-07", "calibrate"), encode(command), retain=True)

    settings = node_settings(mosquitto, "synthetic:fan?seconds=20")
    with Listener(mosquitto) as listener:
        ended = run("node", "run", "--fast", settings=settings)
        listener.wait_for_windows(19)

    assert "a retained calibrate command is refused" in ended.stderr
    assert {s.calibration for s in listener.all_of(State)} == {CalibrationPhase.NONE}


def test_calibration_that_a_restart_has_cut_off_begins_anew(
    mosquitto: Mosquitto, tmp_path: Path
) -> None:
    """Killed while it calibrates, the node goes on by itself when it is started again."""
    settings = node_settings(mosquitto, HEALTHY.format(seconds=80_000))
    settings["EARSHOT_NODE_STATE_FOLDER"] = str(tmp_path)
    with Listener(mosquitto) as listener:
        with running_node(settings) as node:
            listener.wait_for_windows(1)
            asked = run("node", "calibrate", "--no-wait", "--minutes", "60", settings=settings)
            wait_until(
                lambda: listener.all_of(State)[-1].calibration is CalibrationPhase.CALIBRATING,
                "a calibration under way",
                seconds=60,
            )
            node.kill()
            node.wait()
        boot = listener.all_of(State)[-1].boot
        with running_node(settings):
            wait_until(
                lambda: any(
                    state.boot != boot and state.calibration is CalibrationPhase.CALIBRATING
                    for state in listener.all_of(State)
                ),
                "the calibration after the restart",
                seconds=60,
            )

    assert asked.returncode == 0, asked.stderr


def test_sound_that_ends_too_soon_keeps_nothing(tmp_path: Path) -> None:
    """A recording shorter than the calibration is told, and nothing is half done."""
    settings = node_settings(None, HEALTHY.format(seconds=60))
    settings["EARSHOT_NODE_STATE_FOLDER"] = str(tmp_path)

    ended = run("node", "calibrate", "--fast", "--minutes", "2", settings=settings)

    assert ended.returncode == EXIT_REFUSED
    assert "the sound ended before the calibration did" in ended.stdout
    assert [file.name for file in (tmp_path / "press-07").iterdir()] == ["node.lock"]


def test_refused_request_does_not_end_the_one_under_way(mosquitto: Mosquitto) -> None:
    """Who asks for one minute is told that there is no such plan; whoever asked before goes on."""
    settings = node_settings(mosquitto, HEALTHY.format(seconds=80_000))
    with Listener(mosquitto) as listener, running_node(settings) as node:
        listener.wait_for_windows(1)
        with follower(settings, 10) as first:
            begun = _first_lines(first)
            # Held, so that the second request comes before the first calibration has ended.
            node.send_signal(signal.SIGSTOP)
            with follower(settings, 1) as second:
                wait_until(
                    in_state_folder(settings, "calibration-request.json").exists, "a request"
                )
                node.send_signal(signal.SIGCONT)
                said_second, _ = second.communicate(timeout=30)
            said_first, _ = first.communicate(timeout=300)

    assert second.returncode == EXIT_REFUSED
    assert "Expected 2 to 240 minutes of calibration, got 1" in said_second
    assert "calibrates for 10 minutes" in begun
    assert first.returncode == 0, said_first
    assert "armed: 10 blocks of 60 s" in said_first


def test_calibration_outlives_a_refused_request_and_a_restart_and_ends_when_cancelled(
    mosquitto: Mosquitto,
) -> None:
    """What is pending is what was asked for first; who follows is told when another cancels it."""
    settings = node_settings(mosquitto, HEALTHY.format(seconds=80_000))
    pending = in_state_folder(settings, "calibration-pending.json")
    with Listener(mosquitto) as listener:
        with running_node(settings) as node:
            listener.wait_for_windows(1)
            with follower(settings, 240) as first:
                _first_lines(first)
                asked = pending.read_bytes()
                refused = run("node", "calibrate", "--minutes", "1", settings=settings)
                kept = pending.read_bytes()
                node.kill()
                node.wait()
                said_first, _ = first.communicate(timeout=30)
        told = len(listener.all_of(State))
        with running_node(settings):
            wait_until(
                lambda: any(
                    state.calibration is CalibrationPhase.SETTLING
                    for state in listener.all_of(State)[told:]
                ),
                "the calibration after the restart",
                seconds=30,
            )
            kept_again = pending.read_bytes()
            under_way = run("node", "calibrate", "--minutes", "5", settings=settings)
            run("node", "calibrate", "--cancel", settings=settings)
            with follower(settings, 200) as second:
                begun = _first_lines(second)
                cancelled = run("node", "calibrate", "--cancel", settings=settings)
                said_second, _ = second.communicate(timeout=30)
        again = run("node", "calibrate", "--cancel", settings=settings)

    assert refused.returncode == EXIT_REFUSED
    assert json.loads(asked)["minutes"] == 240
    assert asked == kept == kept_again
    assert under_way.returncode == EXIT_REFUSED
    assert "a calibration is under way, 0% done: cancel it first" in under_way.stdout
    assert first.returncode == EXIT_REFUSED
    assert "begins the calibration anew" in said_first
    assert (cancelled.returncode, cancelled.stdout.splitlines()[-1]) == (0, "cancelled")
    assert second.returncode == EXIT_REFUSED, said_second
    assert "calibrates for 200 minutes" in begun
    assert not pending.exists()
    assert (again.returncode, again.stdout) == (EXIT_REFUSED, "no calibration was under way\n")


def test_calibration_here_that_is_ended_leaves_nothing_to_go_on_with() -> None:
    """Only a node goes on after a restart: a command that was stopped was meant to be."""
    settings = node_settings(None, HEALTHY.format(seconds=80_000))
    with follower(settings, 60) as asks:
        begun = _first_lines(asks)
        asks.send_signal(signal.SIGTERM)
        asks.communicate(timeout=30)
    again = run("node", "calibrate", "--cancel", settings=settings)

    assert "calibrates for 60 minutes" in begun
    assert asks.returncode != 0
    assert [f.name for f in in_state_folder(settings, "").iterdir()] == ["node.lock"]
    assert (again.returncode, again.stdout) == (EXIT_REFUSED, "no calibration was under way\n")


def test_node_starts_with_a_state_folder_full_of_garbage(mosquitto: Mosquitto) -> None:
    """Whatever a dying card has made of its files, it hears, and goes by the release."""
    settings = node_settings(mosquitto, HEALTHY.format(seconds=5))
    garbage = {
        "calibration": b"\xff\xfe garbage",
        "calibration-pending": b'{"more":' + b"[" * 60_000,
        "calibration-request": bytes(4096),
        "calibration-answer": '{"asked_us":1}'.encode("utf-16"),
        "calibration-status": b'{"asked_us":1e999,"phase":"armed","note":null}',
        "episode": b'{"id":"x","opened_us":NaN}',
    }
    folder = in_state_folder(settings, "")
    folder.mkdir()
    for name, content in garbage.items():
        (folder / f"{name}.json").write_bytes(content)
    with Listener(mosquitto) as listener:
        ended = run("node", "run", "--fast", settings=settings)
        listener.wait_for_windows(4)

    assert ended.returncode == 0, ended.stderr
    assert listener.all_of(State)[-1].threshold_source is ThresholdSource.RELEASE
    read = {"calibration", "calibration-pending", "calibration-request", "episode"}
    assert read <= {file.stem for file in folder.glob("*.broken")}
    assert ended.stderr.count("cannot be used") >= len(read)
