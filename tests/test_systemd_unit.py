"""The unit: what systemd thinks of it, what the node needs of it, and how a node fares in it.

The last is a real systemd, in namespaces (`boot_systemd.sh`), with the real installer and node.
Not here: sound cards, for which there is no kernel module in namespaces; a file of the group
`audio` stands for their permissions.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path

import pytest

from node.settings import OutboxSection
from node.sound.microphone import ANSWER_SECONDS
from tests.rig.installed import REQUIRE_SERVERS, require
from tests.rig.signers import SECOND, SIGNER

# Made once, and so by one of the parallel workers: the evening.
pytestmark = pytest.mark.xdist_group("systemd")

ROOT = Path(__file__).parents[1]
RIG = ROOT / "tests" / "rig"
UNIT = ROOT / "node/systemd/earshot-node.service"
HELPERS = ("boot_systemd.sh", "evening_of_a_node.sh")
SYSTEM_PYTHON = "/usr/bin/python3"

MOST_EXPOSURE = 20
"""Tenths, as systemd-analyze takes them: at most 2.0 of 10. What is left is the network, the sound
card, and the questions about the clock that the unit's comments explain."""
SINCE_254 = {"RestartSteps", "RestartMaxDelaySec"}

SETTINGS = """
[node]
id = "press-07"
[model]
folder = "/opt/earshot/current/models/fan-synthetic"
[source]
spec = "synthetic:fan"
[outbox]
drain_seconds = 1
"""


def values(key: str) -> list[str]:
    return re.findall(rf"^{key}=(.*)$", UNIT.read_text(), re.MULTILINE)


def value(key: str) -> str:
    (found,) = values(key)
    return found


def analyzed(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [require("systemd-analyze"), *arguments], capture_output=True, text=True, check=False
    )


def test_exposure_is_small() -> None:
    """Systemd's own measure of what a service could do to the machine stays below the limit."""
    done = analyzed(
        "security", "--offline=true", "--no-pager", f"--threshold={MOST_EXPOSURE}", str(UNIT)
    )

    assert done.returncode == 0, done.stdout + done.stderr


def test_unit_is_understood(tmp_path: Path) -> None:
    """No directive is unknown to systemd, but for the two that Bookworm's passes over."""
    copy = tmp_path / UNIT.name
    # Its program is not installed here.
    copy.write_text(
        re.sub("^ExecStart=.*$", "ExecStart=/bin/true", UNIT.read_text(), flags=re.MULTILINE)
    )
    done = analyzed("verify", "--man=no", str(copy))
    complaints = {
        line for line in done.stderr.splitlines() if not any(key in line for key in SINCE_254)
    }

    assert not complaints


def test_watchdog_outlasts_the_slowest_microphone() -> None:
    """Neither the start nor the watchdog kills a node that waits for a microphone to open."""
    assert int(value("WatchdogSec")) > 2 * ANSWER_SECONDS
    assert int(value("TimeoutStartSec")) > 2 * ANSWER_SECONDS


def test_stopping_leaves_time_to_deliver() -> None:
    """A node that is stopped may try to deliver as long as it does by default."""
    assert int(value("TimeoutStopSec")) > 2 * OutboxSection().drain_seconds


def test_node_is_never_given_up() -> None:
    """Whatever it ends with and however often, the node is started again."""
    assert value("Restart") == "always"
    assert value("StartLimitIntervalSec") == "0"


@pytest.mark.parametrize("script", HELPERS)
def test_helpers_have_no_known_traps(script: str) -> None:
    """Shellcheck has nothing to say of the scripts that these tests run as root."""
    done = subprocess.run(
        [require("shellcheck"), str(RIG / script)],
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 0, done.stdout


@pytest.fixture(scope="module")
def evening(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The folder with the outcomes of one evening of a node under a real systemd."""
    for program in ("systemctl", "unshare", "mosquitto", "mosquitto_sub"):
        require(program)
    _or_skip(os.geteuid() == 0, "a systemd of one's own needs root")
    if _version(SYSTEM_PYTHON) != _version(sys.executable):
        # Nothing that could be installed: the packages here are not for that Python.
        pytest.skip(f"{SYSTEM_PYTHON} is another Python than {sys.executable}")
    _or_skip(_has_packages("python3-venv", "libportaudio2"), "python3-venv, libportaudio2 missing")
    work = tmp_path_factory.mktemp("evening")
    (work / "node.toml").write_text(SETTINGS)
    (work / "release-keys.pem").write_bytes(SIGNER.public_pem + SECOND.public_pem)
    shutil.copy(RIG / "view_from_the_unit.py", work / "view.py")
    with (work / "boot.log").open("wb") as log:
        subprocess.run(
            [
                *("unshare", "--mount", "--net", "--ipc", "--uts"),
                *(str(RIG / HELPERS[0]), str(work), str(RIG / HELPERS[1])),
                *(f"{ROOT}=earshot", f"{sysconfig.get_paths()['purelib']}=site-packages"),
            ],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            timeout=150,
            check=False,
        )
    _or_skip(
        (work / "evening.log").exists(),
        f"no systemd in namespaces here: {(work / 'boot.log').read_text()[-500:]}",
    )
    yield work
    # pytest shows these when a test has failed.
    for log_file in sorted(work.glob("*.log")):
        sys.stdout.write(f"--- {log_file.name}\n{log_file.read_text()}\n")


def told(evening: Path, name: str) -> str:
    file = evening / name
    return file.read_text().strip() if file.exists() else "never got there"


def test_installed_service_becomes_ready(evening: Path) -> None:
    """`systemctl start` returns when the node says that it is up, and status says what it does."""
    assert told(evening, "installed") == "0"
    assert told(evening, "started") == "0"
    assert told(evening, "status")


def test_watchdog_lets_a_healthy_node_be(evening: Path) -> None:
    """A node that scores feeds its watchdog."""
    assert told(evening, "restarts-of-a-healthy-node") == "0"


def test_hanging_node_is_restarted(evening: Path) -> None:
    """A node that stops accounting for windows is killed and started again."""
    assert told(evening, "restarted-after-hanging") == "0"


def test_killed_node_is_restarted(evening: Path) -> None:
    """A node that dies comes back."""
    assert told(evening, "restarted-after-dying") == "0"


def test_stopped_node_ends_in_good_order(evening: Path) -> None:
    """`systemctl stop` is a success, not a time-out or an exit code."""
    assert told(evening, "stopped") == "success"


@pytest.mark.parametrize(
    ("what", "expected"),
    [
        ("callback", "42"),
        ("memory", "True"),
        ("group audio", "of group audio"),
        ("names", "1883"),
        ("write state", "0o600"),
        ("release keys", "2"),
    ],
)
def test_node_may_do_what_it_needs(evening: Path, what: str, expected: str) -> None:
    """The sandbox leaves sound cards, PortAudio's callback, names, keys, state and so on."""
    assert json.loads(told(evening, "view.json"))[what] == expected


def test_node_may_ask_for_the_clock(evening: Path) -> None:
    """Whether the clock is synchronised is answered, not denied (-1)."""
    assert json.loads(told(evening, "view.json"))["clock"] in set("012345")


def test_capture_process_starts_in_the_sandbox(evening: Path) -> None:
    """The capture process finds its code and PortAudio, and says that there is no microphone."""
    assert json.loads(json.loads(told(evening, "view.json"))["capture process"]) == {
        "microphones": []
    }


def test_release_can_be_tested_in_the_sandbox(evening: Path) -> None:
    """The child process that tests a release before it may run starts, and finds one good."""
    assert json.loads(json.loads(told(evening, "view.json"))["self-test"])["passed"] is True


@pytest.mark.parametrize(
    ("what", "expected"),
    [
        ("write settings", "OSError"),
        ("write release keys", "OSError"),
        ("write code", "OSError"),
        ("homes", "PermissionError"),
        ("set clock", "PermissionError"),
        ("raw network", "OSError"),
        ("other processes", "False"),
    ],
)
def test_node_may_do_nothing_else(evening: Path, what: str, expected: str) -> None:
    """A node that was taken over changes no settings, keys, code or clock, and sees no others."""
    assert json.loads(told(evening, "view.json"))[what] == expected


def _or_skip(holds: bool, reason: str) -> None:
    if holds:
        return
    if os.environ.get(REQUIRE_SERVERS) == "1":
        pytest.fail(f"{reason}, and {REQUIRE_SERVERS}=1 forbids to skip", pytrace=False)
    pytest.skip(reason)


def _version(python: str) -> str:
    code = "import sys; print(sys.version_info[:2])"
    done = subprocess.run([python, "-c", code], capture_output=True, text=True, check=False)
    return done.stdout


def _has_packages(*packages: str) -> bool:
    command = ["dpkg-query", "-W", "-f", "${Status}\n", *packages]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout.count("ok installed") == len(packages)
