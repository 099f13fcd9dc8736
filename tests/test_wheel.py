"""The wheel in an environment of its own, away from the checkout: what it carries, that it runs.

The packages that requirements/demo.txt locks are links to those of the environment that runs the
tests, and nothing else is to be found there, the checkout least of all. What that cannot show is
that a package index has these versions for this machine: pip asks none here.
"""

import importlib.metadata
import os
import re
import shutil
import signal
import subprocess
import sys
import sysconfig
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest
import soundfile

from contract import VERSION
from tests.rig.programs import ROOT

_PACKAGES = ("contract", "node", "collector", "training", "demo", "models")
_NOT_CARRIED = {
    "collector/Dockerfile",  # with what it runs; both need the checkout
    "collector/install-packages.sh",
    "node/install-pi.sh",
}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built without a network, from what is in the checkout, and leaving nothing there."""
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    ignored = shutil.ignore_patterns("__pycache__")
    for package in _PACKAGES:
        shutil.copytree(ROOT / package, source / package, ignore=ignored)
    for file in ("earshot.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy2(ROOT / file, source / file)
    _pip("wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", out, source)
    (found,) = out.glob("*.whl")
    return found


class Installed:
    """A virtual environment with the wheel, and a folder to be in that is nobody's."""

    def __init__(self, folder: Path, wheel: Path) -> None:
        self.home = folder / "home"
        self.home.mkdir()
        self._programs = folder / "venv" / "bin"
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder / "venv"], check=True)
        (packages,) = (folder / "venv" / "lib").glob("python3*/site-packages")
        _link_locked_packages(packages)
        _pip(
            *("--python", self._programs / "python"),
            *("install", "--no-deps", "--no-index", "--no-compile", wheel),
        )

    @property
    def environment(self) -> dict[str, str]:
        """Of somebody who has nothing to do with earshot but that environment."""
        return {"PATH": os.defpath, "HOME": str(self.home), "TMPDIR": str(self.home)}

    def command(self, *words: str | Path) -> list[str]:
        return [str(self._programs / "earshot"), *map(str, words)]

    def run(self, *words: str | Path, seconds: float = 60) -> subprocess.CompletedProcess[str]:
        """`earshot WORDS`, called by its path."""
        return subprocess.run(
            self.command(*words),
            cwd=self.home,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=seconds,
            check=False,
        )

    def python(self, program: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [self._programs / "python", "-c", program],
            cwd=self.home,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory, wheel: Path) -> Installed:
    """Made once: no test changes it."""
    return Installed(tmp_path_factory.mktemp("installed"), wheel)


def test_wheel_carries_every_file_of_the_packages(wheel: Path) -> None:
    """No template, model or dashboard is left behind, and no test or secret comes along."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", *_PACKAGES],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    there = {name for name in listed.stdout.splitlines() if (ROOT / name).exists()}
    with zipfile.ZipFile(wheel) as archive:
        carried = {name for name in archive.namelist() if ".dist-info/" not in name}

    assert carried == (there - _NOT_CARRIED) | {"earshot.py"}
    assert all(f"{package}/py.typed" in carried for package in _PACKAGES if package != "models")


def test_wheel_is_of_the_free_name_and_this_version(wheel: Path) -> None:
    """`earshot` on PyPI is another project; what is installed is told apart from it."""
    assert wheel.name == f"earshot_fleet-{VERSION}-py3-none-any.whl"


def test_checkout_is_out_of_sight(installed: Installed) -> None:
    """What the other tests show would be worth nothing otherwise."""
    done = installed.python(
        "import importlib.util as i, earshot, node, models\n"
        "print(earshot.__file__, node.__file__, *models.__path__)\n"
        "print(i.find_spec('tensorflow'), i.find_spec('pytest'), i.find_spec('tests'))"
    )
    places, absent = done.stdout.splitlines()

    assert str(ROOT) not in places
    assert all(str(installed.home.parent) in place for place in places.split())
    assert absent == "None None None"


def test_demo_runs(installed: Installed) -> None:
    """A broker, a collector, three nodes and a signed update, from the wheel alone."""
    done = installed.run("demo", "--seconds", "20", seconds=180)

    assert done.returncode == 0, done.stderr + done.stdout
    assert "produced windows is stored" in done.stdout
    assert f"{installed.command()[0]} node init" in done.stdout  # as it was called
    assert list(installed.home.iterdir()) == []


def test_each_command_has_help(installed: Installed) -> None:
    """No command's help needs a package that is not there."""
    done = installed.python(
        "import contextlib, importlib, earshot\n"
        "for group, dotted in earshot.COMMANDS.items():\n"
        "    for name in getattr(importlib.import_module(dotted), 'COMMANDS', ()):\n"
        "        with contextlib.suppress(SystemExit):\n"
        "            earshot.main([group, name, '--help'])\n"
    )

    assert done.returncode == 0, done.stderr
    for command in ("node run", "collector ledger", "training train", "fleet push"):
        assert f"earshot {command} [-h]" in " ".join(done.stdout.split())


def test_node_scores_a_recording(installed: Installed) -> None:
    """With the model that came in the wheel."""
    sound = installed.home.parent / "sound.wav"
    noise = np.random.default_rng(1).normal(0, 0.05, 16_000 * 4)
    soundfile.write(sound, noise, 16_000)
    models = Path(installed.python("import models; print(*models.__path__)").stdout.strip())

    done = installed.run("node", "score", sound, "--model", models / "fan-synthetic")

    assert done.returncode == 0, done.stderr
    assert "fan-synthetic@1" in done.stdout


def test_collector_runs_until_it_is_stopped(installed: Installed) -> None:
    """It waits for a broker that is not there, and ends in good order; what it found it says."""
    folder = installed.home.parent / "collector"
    folder.mkdir()
    (folder / "collector.toml").write_text(
        '[mqtt]\nhost = "127.0.0.1"\nport = 9\n[collector]\nstate_folder = "state"\n'
        '[sqlite]\npath = "earshot.db"\n'
    )
    with subprocess.Popen(
        installed.command("collector", "run"),
        cwd=folder,
        env=installed.environment,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        deadline = time.monotonic() + 30
        while not (folder / "earshot.db").exists() and time.monotonic() < deadline:
            time.sleep(0.1)
        time.sleep(1)
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=30)

    assert process.returncode == 0, errors
    assert errors.startswith("earshot: settings from collector.toml\n")
    assert (folder / "earshot.db").exists()


def test_operator_makes_keys_and_the_brokers_files(installed: Installed) -> None:
    """The rules for the broker come out of the wheel as well."""
    folder = installed.home.parent / "operator"
    folder.mkdir()
    key, secrets = folder / "key.pem", folder / "secrets"

    made = installed.run("fleet", "keys", "create", "--out", key)
    shown = installed.run("fleet", "keys", "show", key)
    servers = installed.run(
        *("fleet", "secrets", "--host", "broker.example", "--folder", secrets, "--no-reload"),
    )

    assert (made.returncode, shown.returncode) == (0, 0), made.stderr + shown.stderr
    assert "BEGIN PUBLIC KEY" in shown.stdout
    assert servers.returncode == 0, servers.stderr
    assert (secrets / "mosquitto" / "acl").is_file()


def test_training_says_what_it_lacks(installed: Installed) -> None:
    """Its packages are not those of the demo: one line says which file has them."""
    data = installed.home.parent / "data"
    made = installed.run(
        *("training", "synthesize", "--out", data, "--units", "0", "--train-clips", "4"),
        *("--target-clips", "0", "--test-clips", "4", "--seconds", "2"),
    )
    done = installed.run("training", "train", "--data", data, "--out", data / "run")

    assert made.returncode == 0, made.stderr
    assert done.returncode == 2
    assert "is not installed; install requirements/training.txt" in done.stderr.splitlines()[-1]


def _pip(*arguments: str | Path) -> None:
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--no-input", "--quiet"]
    done = subprocess.run(
        [*command, *map(str, arguments)], capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def _link_locked_packages(place: Path) -> None:
    """Links to what the packages of requirements/demo.txt have put into our environment."""
    ours = Path(sysconfig.get_paths()["purelib"])
    lock = (ROOT / "requirements" / "demo.txt").read_text()
    for name in re.findall(r"^([A-Za-z0-9._-]+)==", lock, re.MULTILINE):
        try:
            files = importlib.metadata.distribution(name).files or []
        except importlib.metadata.PackageNotFoundError:
            continue  # for another system or Python
        for top in {file.parts[0] for file in files} - {"..", "__pycache__"}:
            if not (place / top).exists():
                (place / top).symlink_to(ours / top)
