"""A node as a process of its own, against a real broker."""

import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from contract import topics
from contract.errors import EXIT_BAD_INPUT
from contract.messages import Backlog, Birth, Health, State, Status, Window
from contract.states import Clock, Presence, PresenceReason
from node.scoring.release_store import read_release
from node.sound.synthetic import MachineSound, Synthesizer
from tests.rig.brokers import Mosquitto
from tests.rig.listeners import Listener
from tests.rig.programs import MODEL, ROOT, environment, node_settings, run, start
from tests.rig.waiting import wait_until

_FAN = "synthetic:fan?seconds=6"
_WINDOWS_IN_6_S = 5


def _one_line(stderr: str) -> str:
    """What the node said to the user, which must be one line."""
    (line,) = [line for line in stderr.splitlines() if line.startswith("earshot node:")]
    return line


def test_node_publishes_what_the_contract_says(mosquitto: Mosquitto) -> None:
    """Birth, presence, state, health and every window of the sound reach the broker."""
    with Listener(mosquitto) as listener:
        ended = run("node", "run", settings=node_settings(mosquitto, _FAN))
        wait_until(lambda: len(listener.all_of(Status)) == 2, "the goodbye")
        windows, (birth,) = listener.windows(), listener.all_of(Birth)
        hello, goodbye = listener.all_of(Status)

        assert ended.returncode == 0, ended.stderr
        assert [window.seq for window in windows] == list(range(_WINDOWS_IN_6_S))
        assert len({window.boot for window in windows} | {birth.boot, hello.boot}) == 1
        starts = [window.start_us for window in windows]
        assert np.allclose(np.diff(starts), 1_000_000, atol=50_000)
        assert all(w.score == pytest.approx(w.mse / w.threshold) for w in windows if w.mse)
        assert all(window.anomaly is False for window in windows)
        assert (hello.state, hello.reason) == (Presence.ONLINE, PresenceReason.CONNECTED)
        assert (goodbye.state, goodbye.reason) == (Presence.OFFLINE, PresenceReason.STOPPED)
        assert birth.model == windows[0].model
        assert birth.source == "synthetic:fan?unit=0&seed=0"
        assert listener.all_of(State)[-1].machine == "normal"
        assert listener.all_of(Health)[-1].windows == _WINDOWS_IN_6_S


def test_windows_go_out_live(mosquitto: Mosquitto) -> None:
    """With the broker there, each window is a message of its own, within its hop."""
    with Listener(mosquitto) as listener:
        run("node", "run", settings=node_settings(mosquitto, _FAN))
        listener.wait_for_windows(_WINDOWS_IN_6_S)

        assert not listener.all_of(Backlog)
        assert all((window.latency_ms or 0) < 1000 for window in listener.all_of(Window))


def test_windows_of_a_broker_outage_arrive_late(mosquitto: Mosquitto) -> None:
    """SIGKILL of the broker in the middle costs no window; the late ones come as backlog."""
    settings = node_settings(mosquitto, "synthetic:fan?seconds=14")
    with Listener(mosquitto) as listener, start("node", "run", settings=settings) as node:
        listener.wait_for_windows(3)
        mosquitto.save()
        mosquitto.kill()
        with pytest.raises(subprocess.TimeoutExpired):
            node.wait(4)
        mosquitto.start()
        _, err = node.communicate(timeout=40)
        listener.wait_for_windows(13)

        assert node.returncode == 0, err
        assert sorted({window.seq for window in listener.windows()}) == list(range(13))
        assert listener.all_of(Backlog)


def test_node_starts_before_its_broker(mosquitto: Mosquitto) -> None:
    """A Pi that boots before the server loses nothing: it scores, waits, and delivers."""
    mosquitto.stop()
    with start("node", "run", settings=node_settings(mosquitto, _FAN)) as node:
        with pytest.raises(subprocess.TimeoutExpired):
            node.wait(3)
        mosquitto.start()
        with Listener(mosquitto) as listener:
            listener.wait_for_windows(_WINDOWS_IN_6_S)
            _, err = node.communicate(timeout=20)

    assert node.returncode == 0, err


def test_windows_wait_while_nobody_subscribes(mosquitto: Mosquitto) -> None:
    """A broker that stores a window nowhere is not believed to have stored it."""
    topic = topics.node("press-07", topics.Kind.WINDOW)
    with start("node", "run", settings=node_settings(mosquitto, _FAN)) as node:
        wait_until(lambda: f"'{topic}'" in mosquitto.log(), "a window", seconds=60)
        with Listener(mosquitto) as listener:
            listener.wait_for_windows(_WINDOWS_IN_6_S)
            _, err = node.communicate(timeout=20)

    assert node.returncode == 0, err
    assert "No matching subscribers" in err


def test_windows_that_nobody_took_wait_for_the_next_start(mosquitto: Mosquitto) -> None:
    """A node that ends with windows has them on the disk, says so, and that is no error."""
    settings = node_settings(mosquitto, "synthetic:fan?seconds=4", OUTBOX_DRAIN_SECONDS="0.5")
    first = run("node", "run", settings=settings)
    with Listener(mosquitto) as listener:
        second = run("node", "run", settings=settings)
        listener.wait_for_windows(6)
        boots = {window.boot for window in listener.windows()}

    assert first.returncode == second.returncode == 0, first.stderr + second.stderr
    assert "3 windows wait on the disk for the next start" in first.stderr
    assert "wait on the disk" not in second.stderr
    assert len(boots) == 2


def test_windows_that_nobody_took_and_no_disk_can_hold_are_counted_at_the_end(
    mosquitto: Mosquitto,
) -> None:
    """Windows that are lost at the end are an error with their number, not silence."""
    settings = node_settings(
        mosquitto,
        "synthetic:fan?seconds=4",
        OUTBOX_DRAIN_SECONDS="0.5",
        NODE_STATE_FOLDER="/dev/null/state",
    )
    ended = run("node", "run", settings=settings)

    assert ended.returncode == EXIT_BAD_INPUT
    assert "3 of 3 windows were not delivered" in _one_line(ended.stderr)


def test_sigterm_ends_a_node_in_good_order(mosquitto: Mosquitto) -> None:
    """What systemd sends makes the node deliver, say goodbye and exit with 0."""
    settings = node_settings(mosquitto, "synthetic:fan")
    with Listener(mosquitto) as listener, start("node", "run", settings=settings) as node:
        listener.wait_for_windows(2)
        node.send_signal(signal.SIGTERM)
        _, err = node.communicate(timeout=20)
        wait_until(lambda: len(listener.all_of(Status)) == 2, "the goodbye")

        assert node.returncode == 0, err
        assert listener.all_of(Health)[-1].windows == len(listener.windows())


def test_recordings_are_played_as_fast_as_they_are_stored(
    mosquitto: Mosquitto, tmp_path: Path
) -> None:
    """`--fast` scores a folder without giving up a window, though the outbox is far smaller."""
    sound = Synthesizer(MachineSound(), sample_rate_hz=16_000)
    for number in range(4):
        soundfile.write(tmp_path / f"{number}.flac", sound.read(16_000 * 60), 16_000)
    settings = node_settings(mosquitto, str(tmp_path), OUTBOX_MAX_WINDOWS="100")
    with Listener(mosquitto) as listener:
        ended = run("node", "run", "--fast", settings=settings)
        listener.wait_for_windows(4 * 59)

        assert ended.returncode == 0, ended.stderr
        assert [window.seq for window in listener.windows()] == list(range(4 * 59))
        assert {window.clock for window in listener.windows()} == {Clock.SIMULATED}


def test_refused_password_ends_the_node_with_one_line(tmp_path: Path) -> None:
    """A broker that says no needs a person: the node says so and exits."""
    with Mosquitto(tmp_path, users={"press-07": "right"}) as broker:
        settings = node_settings(broker, _FAN, MQTT_USERNAME="press-07", MQTT_PASSWORD="wrong")
        ended = run("node", "run", settings=settings)

    assert ended.returncode == EXIT_BAD_INPUT
    assert "refused the connection" in _one_line(ended.stderr)
    assert "wrong" not in ended.stderr


def test_all_problems_of_the_settings_come_together(tmp_path: Path) -> None:
    """One line names every problem, where it is, what came and what was expected."""
    file = tmp_path / "node.toml"
    file.write_text('[node]\nid = "Press 07"\n[mqtt]\nhots = "x"\nport = 70000\n')

    ended = run("node", "run", "--config", str(file), settings={})

    line = _one_line(ended.stderr)
    assert ended.returncode == EXIT_BAD_INPUT
    for expected in ("node.id", "Press 07", "hots", "did you mean host?", "70000", "model.folder"):
        assert expected in line


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("nowhere.wav", "nowhere.wav: no such file"),
        ("synthetic:fan?fault=hiccup", "hiccup"),
        ("synthetic:toaster", "toaster"),
    ],
)
def test_source_that_is_none_ends_the_node_with_one_line(source: str, expected: str) -> None:
    """Nothing is published for a source that cannot be opened."""
    ended = run("node", "run", settings=node_settings(None, source))

    assert ended.returncode == EXIT_BAD_INPUT
    assert expected in _one_line(ended.stderr)


def test_changed_model_file_ends_the_node_with_one_line(tmp_path: Path) -> None:
    """A model that is not the one its manifest describes is not run."""
    folder = tmp_path / "model"
    shutil.copytree(MODEL, folder)
    (model,) = read_release(folder).manifest.models
    with (folder / model.file).open("r+b") as file:
        file.seek(1000)
        file.write(b"\xff\xff\xff\xff")

    settings = node_settings(None, _FAN) | {"EARSHOT_MODEL_FOLDER": str(folder)}
    ended = run("node", "run", settings=settings)

    assert ended.returncode == EXIT_BAD_INPUT
    assert "SHA-256" in _one_line(ended.stderr)


_FORBIDDEN = ("tensorflow", "librosa", "scipy", "numba", "sklearn", "matplotlib", "rich")
_LOADED = """
import json, sys
from node.__main__ import main
code = main(sys.argv[1:])
print(json.dumps(sorted({name.split(".")[0] for name in sys.modules})), file=sys.stderr)
sys.exit(code)
"""


def test_running_node_loads_none_of_the_heavy_packages(mosquitto: Mosquitto) -> None:
    """A node that has heard, scored and published has imported nothing that a Pi has not."""
    with Listener(mosquitto) as listener:
        ended = subprocess.run(
            [sys.executable, "-c", _LOADED, "run"],
            cwd=ROOT,
            env=environment(node_settings(mosquitto, "synthetic:fan?seconds=3")),
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        listener.wait_for_windows(2)
    loaded = json.loads(ended.stderr.splitlines()[-1])

    assert ended.returncode == 0, ended.stderr
    assert not set(_FORBIDDEN) & set(loaded)
    assert {"numpy", "node", "contract"} <= set(loaded)


def test_importing_the_node_package_loads_next_to_nothing() -> None:
    """`import node` is what the capture child does: not even NumPy comes with it."""
    ended = subprocess.run(
        [sys.executable, "-c", "import node, sys; print('numpy' in sys.modules)"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )

    assert ended.stdout == "False\n"


_NOT_INSTALLED = """
import importlib.metadata, sys
real = importlib.metadata.version
def version(name):
    if name == "earshot-fleet":
        raise importlib.metadata.PackageNotFoundError(name)
    return real(name)
importlib.metadata.version = version
from node.__main__ import main
sys.exit(main(["run"]))
"""


def test_node_runs_from_a_checkout_that_is_not_installed(mosquitto: Mosquitto) -> None:
    """The README's way on to a Pi installs the libraries alone; birth and windows go out."""
    with Listener(mosquitto) as listener:
        ended = subprocess.run(
            [sys.executable, "-c", _NOT_INSTALLED],
            cwd=ROOT,
            env=environment(node_settings(mosquitto, "synthetic:fan?seconds=3")),
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        listener.wait_for_windows(2)

    assert ended.returncode == 0, ended.stderr
    assert listener.all_of(Birth)


def test_windows_left_behind_are_told_when_the_sound_fails(
    mosquitto: Mosquitto, tmp_path: Path
) -> None:
    """A source that breaks does not hide that nobody took the windows before it."""
    sound = Synthesizer(MachineSound(), sample_rate_hz=16_000)
    broken = tmp_path / "broken.flac"
    soundfile.write(broken, sound.read(16_000 * 20), 16_000)
    whole = broken.read_bytes()
    broken.write_bytes(whole[: len(whole) // 2])
    settings = node_settings(
        mosquitto,
        str(broken),
        OUTBOX_DRAIN_SECONDS="0.5",
        NODE_STATE_FOLDER="/dev/null/state",
    )
    ended = run("node", "run", "--fast", settings=settings)

    assert ended.returncode == EXIT_BAD_INPUT
    assert "windows were not delivered" in ended.stderr
    assert "broken.flac" in _one_line(ended.stderr)


def test_refused_birth_is_told(tmp_path: Path) -> None:
    """An ACL that forgets a topic of the node is not found out by missing it months later."""
    acl = "user press-07\n" + "".join(
        f"topic write earshot/1/n/press-07/{kind}\n" for kind in ("status", "window", "backlog")
    )
    with Mosquitto(tmp_path, users={"press-07": "right"}, acl=acl) as broker:
        settings = node_settings(
            broker,
            "synthetic:fan?seconds=2",
            MQTT_USERNAME="press-07",
            MQTT_PASSWORD="right",
            OUTBOX_DRAIN_SECONDS="0.5",
        )
        ended = run("node", "run", settings=settings)

    assert "the broker refuses birth of this node: Not authorized" in ended.stderr
