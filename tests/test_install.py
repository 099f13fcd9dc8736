"""The installer for the Pi, for real, below a temporary root and without downloading anything."""

import os
import platform
import re
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.rig.installed import require

ROOT = Path(__file__).parents[1]
SCRIPT = "node/install-pi.sh"
INSTALLED_PARTS = (
    *("contract", "node", "models", "earshot.py"),
    *("docs", "requirements", "LICENSE"),
)
SHELL_SCRIPTS = (SCRIPT, "requirements/lock.sh", ".ci/run")


class Target:
    """A root to install below, and a checkout to install from."""

    def __init__(self, source: Path, root: Path) -> None:
        self.source = source
        self.root = root
        self.opt = root / "opt" / "earshot"

    def run(
        self, *options: str, programs: Mapping[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        """The installer; `programs` are scripts that take the place of the system's."""
        path = os.environ["PATH"]
        if programs:
            folder = self.root.parent / "programs"
            folder.mkdir()
            for name, text in programs.items():
                (folder / name).write_text(f"#!/bin/sh\n{text}\n")
                (folder / name).chmod(0o755)
            path = f"{folder}:{path}"
        return subprocess.run(
            ["bash", str(self.source / SCRIPT), *options],
            cwd=self.root.parent,
            env={**os.environ, "PATH": path},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    def install(self, *options: str) -> subprocess.CompletedProcess[str]:
        """With the packages of the environment that runs the tests."""
        return self.run(
            "--root",
            str(self.root),
            "--python",
            sys.executable,
            "--site-packages",
            sysconfig.get_paths()["purelib"],
            *options,
        )

    @property
    def current(self) -> Path:
        return (self.opt / "current").resolve()

    def node(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """The installed node, from a folder that is not its own, as the unit starts it."""
        return subprocess.run(
            [str(self.opt / "current/venv/bin/python"), "-m", "node", *arguments],
            cwd=self.root / "var/lib/earshot",
            env={"PATH": os.defpath, "PYTHONSAFEPATH": "1"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )


@pytest.fixture
def target(tmp_path: Path) -> Target:
    """An empty root, and this checkout."""
    return Target(ROOT, tmp_path / "root")


@pytest.fixture
def changing(tmp_path: Path) -> Target:
    """An empty root, and a checkout that a test may change."""
    source = tmp_path / "checkout"
    ignored = shutil.ignore_patterns("__pycache__", "variants")
    for part in INSTALLED_PARTS:
        if (ROOT / part).is_dir():
            shutil.copytree(ROOT / part, source / part, ignore=ignored)
        else:
            shutil.copy2(ROOT / part, source / part)
    return Target(source, tmp_path / "root")


def everything(folder: Path) -> dict[str, int]:
    """Each file and folder and when it was last changed."""
    return {str(path): path.lstat().st_mtime_ns for path in folder.rglob("*")}


def test_installed_node_runs(target: Target) -> None:
    """After the installation the node starts from any folder, with its own code and packages."""
    done = target.install()
    node = target.node("score", "--help")

    assert done.returncode == 0, done.stderr
    assert node.returncode == 0, node.stderr
    assert "-m earshot node score [-h]" in " ".join(node.stdout.split())


def test_launcher_is_the_one_command(target: Target) -> None:
    """`earshot` runs what is installed, in words that can be typed there."""
    target.install()
    done = subprocess.run(
        [
            target.opt / "current/venv/bin/python",
            "-P",
            target.root / "usr/local/bin/earshot",
            "node",
        ],
        cwd=target.root,
        env={"PATH": str(target.root / "usr/local/bin")},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("usage: earshot node [-h]")


def test_everything_is_where_the_unit_looks(target: Target) -> None:
    """Code, launcher, unit, and private folders for settings and state are in their places."""
    target.install()
    root = target.root

    assert (root / "opt/earshot/current/models/fan-synthetic/manifest.json").is_file()
    assert (root / "opt/earshot/current/docs/pi.md").is_file()
    assert (root / "opt/earshot/current/node/updates/self_test.py").is_file()
    for launcher in ("earshot", "earshot-node"):
        assert os.access(root / "usr/local/bin" / launcher, os.X_OK)
    unit = "etc/systemd/system/earshot-node.service"
    assert (root / unit).read_text() == (ROOT / "node/systemd/earshot-node.service").read_text()
    for private in ("etc/earshot", "var/lib/earshot"):
        assert (root / private).stat().st_mode & 0o777 == 0o750


def test_second_run_changes_nothing(target: Target) -> None:
    """Installing again what is installed makes neither code nor environment anew."""
    target.install()
    before = everything(target.current)
    venv = (target.current / "venv").resolve()
    packages = everything(venv)

    done = target.install()

    assert done.returncode == 0, done.stderr
    assert everything(target.current) == before
    assert everything(venv) == packages
    assert not (target.opt / "previous").is_symlink()


def test_upgrade_keeps_one_version_to_return_to(changing: Target) -> None:
    """A changed checkout becomes current, the one before stays as previous, older ones go."""
    versions = []
    for number in range(3):
        readme = changing.source / "models/README.md"
        readme.write_text(f"version {number}")
        done = changing.install()
        assert done.returncode == 0, done.stderr
        versions.append(changing.current)

    assert (changing.current / "models/README.md").read_text() == "version 2"
    assert (changing.opt / "previous").resolve() == versions[1]
    assert not versions[0].exists()
    assert len(list(changing.opt.glob("venv-*"))) == 1


@pytest.mark.parametrize(
    "module",
    [
        "node/sound/levels.py",
        "node/sound/capture.py",
        "earshot.py",
        "node/__main__.py",
        "node/updates/self_test.py",
    ],
)
def test_upgrade_that_does_not_start_changes_nothing(changing: Target, module: str) -> None:
    """Code that cannot be imported, however late a node does, never becomes current."""
    changing.install()
    before = changing.current
    broken = changing.source / module
    broken.write_text(broken.read_text() + "\nraise SystemExit(0)\n")

    done = changing.install()

    assert done.returncode == 2
    assert "the new version does not start" in done.stderr.splitlines()[-1]
    assert changing.current == before
    assert changing.node("--help").returncode == 0


def test_changed_lock_makes_a_new_environment(changing: Target) -> None:
    """Packages are installed anew when the lock says something else, and only then."""
    changing.install()
    before = (changing.current / "venv").resolve()
    lock = changing.source / "requirements/node.txt"
    lock.write_text(lock.read_text() + "# another\n")

    changing.install()

    assert (changing.current / "venv").resolve() != before


def test_interrupted_environment_is_made_again(changing: Target) -> None:
    """What a power cut left of an environment is not taken for one."""
    changing.install()
    venv = (changing.current / "venv").resolve()
    (venv / ".complete").unlink()
    (venv / "pyvenv.cfg").unlink()

    done = changing.install()

    assert done.returncode == 0, done.stderr
    assert changing.node("--help").returncode == 0


def test_dry_run_touches_nothing(target: Target) -> None:
    """--dry-run prints the steps, hashes included, and leaves no file."""
    done = target.run("--dry-run", "--root", str(target.root), "--python", sys.executable)

    assert done.returncode == 0, done.stderr
    assert "--require-hashes --only-binary=:all: -r" in done.stdout
    assert not target.root.exists()


def test_dry_run_says_what_its_own_steps_do(target: Target) -> None:
    """What is no command that one could type is told in words, without a function's name."""
    done = target.run("--dry-run", "--root", str(target.root), "--python", sys.executable)
    functions = re.findall(r"^(\w+)\(\) \{$", (ROOT / SCRIPT).read_text(), re.MULTILINE)
    commands = {line.split()[0] for line in done.stdout.splitlines()}

    assert "unpack_code" in functions
    assert not commands & set(functions)
    assert "# copy contract, node, models" in done.stdout
    assert "import all modules" in done.stdout


def test_root_says_for_which_architecture(target: Target) -> None:
    """An installation for an image tells whose packages it takes."""
    done = target.run("--dry-run", "--root", str(target.root), "--python", sys.executable)

    assert f"for {platform.machine()}, as this machine is" in done.stdout.splitlines()[0]


def test_dry_run_tells_what_root_would_do(target: Target) -> None:
    """Without --root the steps are for this machine: the user, the folders, the service."""
    python = {"python3": "echo 3.11; echo /usr/bin/python3.11/; echo /usr/"}
    done = target.run("--dry-run", programs=python)

    assert done.returncode == 0, done.stderr
    assert "install -d -m 0750 -o earshot -g earshot /etc/earshot /var/lib/earshot" in done.stdout
    assert "systemctl daemon-reload" in done.stdout


@pytest.mark.parametrize(
    ("programs", "options", "expected"),
    [
        ({"getconf": "echo 32"}, ["--root", "root"], "write Raspberry Pi OS (64-bit) to the card"),
        ({"uname": "echo Darwin"}, ["--root", "root"], "expected Linux, got Darwin"),
        (
            {"python3": "echo 3.9"},
            ["--root", "root"],
            "expected Python 3.11, 3.12 or 3.13, got 3.9",
        ),
        ({"python3": "echo 3.14"}, ["--root", "root"], "got 3.14"),
        (
            {"python3": "echo 3.11; echo /root/.pyenv/bin/python3.11/; echo /usr/"},
            ["--dry-run"],
            "where the service may read them, got /root/.pyenv/bin/python3.11: use the system's",
        ),
        (
            {"python3": "echo 3.11; echo /usr/bin/python3.11/; echo /usr/"},
            ["--dry-run", "--site-packages", "/home/pi/packages"],
            "got /home/pi/packages: use",
        ),
        ({"id": "echo 1000"}, [], "installing needs root: sudo"),
        ({}, ["--rooot", "root"], "unknown option --rooot"),
        ({}, ["--root"], "--root needs a value"),
        ({}, ["--purge", "--root", "root"], "--purge goes with --uninstall"),
    ],
)
def test_what_cannot_be_installed_is_refused_in_one_line(
    target: Target, programs: dict[str, str], options: list[str], expected: str
) -> None:
    """A wrong machine or option is told before anything is written, with what to do."""
    done = target.run(*options, programs=programs)

    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert expected in line
    assert not (target.root / "opt").exists()


def test_uninstall_keeps_settings_and_what_was_learnt(target: Target) -> None:
    """--uninstall removes programs; --purge removes what people and the node have written, too."""
    target.install()
    settings = target.root / "etc/earshot/node.toml"
    settings.write_text("")

    target.run("--uninstall", "--root", str(target.root))
    kept = settings.exists()
    target.run("--uninstall", "--purge", "--root", str(target.root))

    assert kept
    assert not [path for path in target.root.rglob("*") if "earshot" in path.name]


def test_purge_goes_on_when_the_user_cannot_be_removed(target: Target) -> None:
    """Systemd forgets the unit although a program of the user still runs, and that is told."""
    # All that it could change with is taken from it: this one is not below a root.
    programs = {
        "id": "echo 0",
        "rm": "true",
        "systemctl": 'echo systemctl "$@"',
        "userdel": "exit 8",
    }
    target.root.mkdir()
    done = target.run("--uninstall", "--purge", programs=programs)

    assert done.returncode == 2
    assert "systemctl daemon-reload" in done.stdout
    (line,) = done.stderr.splitlines()
    assert "sudo userdel earshot" in line


@pytest.mark.parametrize("script", SHELL_SCRIPTS)
def test_shell_scripts_have_no_known_traps(script: str) -> None:
    """Shellcheck has nothing to say of any shell script."""
    done = subprocess.run(
        [require("shellcheck"), str(ROOT / script)], capture_output=True, text=True, check=False
    )

    assert done.returncode == 0, done.stdout
