"""Every command of the fleet runs with the packages of requirements/fleet.txt alone."""

import subprocess
from pathlib import Path

import pytest

from contract.signature import Signer
from tests.rig.brokers import Mosquitto
from tests.rig.locked_environment import locked_environment
from tests.rig.programs import ROOT, environment
from tests.training.packed import content, manifest, packed
from training.fleet.commands import COMMANDS

HEAVY = (
    "tensorflow",
    "librosa",
    "sklearn",
    "scipy",
    "matplotlib",
    "jinja2",
    "numpy",
    "ai_edge_litert",
    "sounddevice",
    "soundfile",
    "influxdb_client",
)


class Operator:
    """Somebody on a server, with the Python of that environment and a folder to work in."""

    def __init__(self, python: Path, folder: Path) -> None:
        self.python = python
        self.folder = folder

    def run(self, *words: str, code: int = 0) -> str:
        """`earshot fleet WORDS`, which must end with this exit code; all that it says."""
        done = subprocess.run(
            [str(self.python), "-m", "earshot", "fleet", *words],
            cwd=self.folder,
            env={**environment({}), "XDG_CONFIG_HOME": str(self.folder)},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout + done.stderr


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The environment's."""
    folder = tmp_path_factory.mktemp("operator") / "venv"
    return locked_environment(ROOT / "requirements" / "fleet.txt", folder)


@pytest.fixture
def operator(python: Path, tmp_path: Path) -> Operator:
    """In an empty folder, away from the clone."""
    return Operator(python, tmp_path)


@pytest.fixture
def broker(mosquitto: Mosquitto) -> tuple[str, str]:
    """Where it is, as options."""
    return "--broker", f"{mosquitto.host}:{mosquitto.port}"


@pytest.mark.parametrize("module", HEAVY)
def test_the_environment_has_none_of_what_others_need(python: Path, module: str) -> None:
    """Else the other tests here would show nothing."""
    done = subprocess.run(
        [str(python), "-c", f"import {module}"], capture_output=True, text=True, check=False
    )

    assert done.returncode == 1
    assert f"ModuleNotFoundError: No module named '{module}'" in done.stderr


@pytest.mark.parametrize("command", COMMANDS)
def test_each_command_has_its_help(operator: Operator, command: str) -> None:
    """As every command."""
    assert "usage: " in operator.run(command, "--help")


def test_keys_secrets_and_logins(operator: Operator) -> None:
    """What an operator does before the first node is there: nothing of it needs a broker."""
    assert "private" in operator.run("keys", "create")
    assert "BEGIN PUBLIC KEY" in operator.run("keys", "show")
    assert "made " in operator.run("secrets", "--host", "broker.example")
    told = operator.run("enroll", "press-07", "--group", "line-2", "--no-reload")
    assert "press-07 is enrolled" in told
    assert (operator.folder / "secrets/nodes/press-07.tar").stat().st_size > 0
    assert "no login any more" in operator.run("revoke", "press-07", "--no-reload")


def test_a_release_is_inspected_pushed_taken_back_and_cleared(
    operator: Operator, broker: tuple[str, str]
) -> None:
    """On a real broker, by all commands that speak to one."""
    operator.run("keys", "create")
    signer = Signer((operator.folder / "earshot/release-key.pem").read_bytes(), None)
    file = content()
    release = packed(operator.folder, manifest(file), file, signer=signer)

    assert f"by {signer.key_id}, trusted by" in operator.run("inspect", str(release))
    assert "sent fan@2" in operator.run("push", str(release), "--to", "all", *broker)
    assert "fan@2" in operator.run("rollout", "status", *broker)
    assert "already" in operator.run("promote", "--to", "all", *broker)
    assert "names nothing to go back to" in operator.run("rollback", "--to", "all", *broker, code=2)
    assert "withdrawn" in operator.run("withdraw", "--to", "all", *broker)
    assert "cleared" in operator.run("retire", "--yes", *broker)
    assert "nothing to clear" in operator.run("retire", "--yes", *broker)
