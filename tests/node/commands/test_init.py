"""`earshot node init`: questions, options, and a file that a node takes."""

import os
import pty
import select
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import pytest

from node.commands.init import _broker
from node.settings import NodeSettings, load_settings
from node.settings_text import valid_id
from tests.rig.signers import SECOND, SIGNER

ROOT = Path(__file__).parents[3]
FAN = ROOT / "models/fan-synthetic"
FAKE_PORTAUDIO = Path(__file__).parents[1] / "fake_portaudio"
ANSWER_SECONDS = 20.0


def environment(**more: str) -> dict[str, str]:
    """Ours, without settings of earshot's; the one microphone is the fake one."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith("EARSHOT_")}
    return kept | {"PYTHONPATH": f"{FAKE_PORTAUDIO}:{ROOT}", "EARSHOT_FAKE_SOUND": "quiet"} | more


def run(*arguments: str | Path, folder: Path = ROOT) -> subprocess.CompletedProcess[str]:
    """Without a terminal."""
    return subprocess.run(
        [sys.executable, "-m", "node", "init", *map(str, arguments)],
        cwd=folder,
        env=environment(),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def load(file: Path, monkeypatch: pytest.MonkeyPatch) -> NodeSettings:
    for name in os.environ:
        if name.startswith("EARSHOT_"):
            monkeypatch.delenv(name)
    return load_settings(file, {})


class Terminal:
    """`node init` on a terminal of its own, and a person who answers what is asked."""

    def __init__(self, *arguments: str | Path, more: Mapping[str, str] | None = None) -> None:
        self._ours, theirs = pty.openpty()
        self._process = subprocess.Popen(
            [sys.executable, "-m", "node", "init", *map(str, arguments)],
            cwd=ROOT,
            env=environment(**(more or {})),
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            start_new_session=True,
        )
        os.close(theirs)
        self.screen = ""
        self._seen = 0

    def answer(self, question: str, text: str) -> None:
        """Waits until the question stands at the end of the screen, and types."""
        deadline = time.monotonic() + ANSWER_SECONDS
        while question not in self.screen[self._seen :] or not self.screen.endswith(": "):
            assert time.monotonic() < deadline, f"{question!r} is not asked:\n{self.screen}"
            assert self._read(), f"{question!r} is not asked:\n{self.screen}"
        self._seen = len(self.screen)
        os.write(self._ours, text.encode() + b"\n")

    def end(self) -> int:
        """The exit code, when all is told."""
        while self._read():
            pass
        os.close(self._ours)
        return self._process.wait(ANSWER_SECONDS)

    def _read(self) -> bool:
        try:
            if not select.select([self._ours], [], [], ANSWER_SECONDS)[0]:
                return False
            data = os.read(self._ours, 4096)
        except OSError:  # Linux's word for the end of a terminal
            return False
        self.screen += data.decode().replace("\r\n", "\n")
        return bool(data)


def test_questions_lead_to_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each answer is checked at once; the password goes into a closed file of its own."""
    out = tmp_path / "node.toml"
    terminal = Terminal("--out", out, "--model", FAN)

    terminal.answer("Id of this node", "Press 07")
    terminal.answer("Expected an id", "press-07")
    terminal.answer("Group", "")
    terminal.answer("Microphone, by number", "9")
    terminal.answer("Expected 1 to 1, got 9", "1")
    terminal.answer("Channel, 0 to 1", "1")
    terminal.answer("Broker", "mqtt://broker.local")
    terminal.answer("Expected HOST or HOST:PORT", "broker.local:8883")
    terminal.answer("Encrypt (TLS) [Y/n]", "n")
    terminal.answer("User name", "press-07")
    terminal.answer("Password", "open sesame")
    code = terminal.end()

    settings = load(out, monkeypatch)
    password_file = tmp_path / "node.password"
    assert (code, settings.node.id, settings.node.group) == (0, "press-07", None)
    assert settings.source.spec == "microphone:name:Fake Mic: USB Audio"
    assert settings.source.channel == 1
    assert (settings.mqtt.address, settings.mqtt.tls) == ("broker.local:8883", False)
    assert settings.mqtt.password_file == str(password_file)
    assert password_file.read_text() == "open sesame\n"
    assert stat.S_IMODE(password_file.stat().st_mode) == 0o600
    assert stat.S_IMODE(out.stat().st_mode) == 0o600
    assert "sesame" not in out.read_text() + terminal.screen
    assert f"earshot node check --config {out}" in terminal.screen


def test_without_microphone_the_key_can_be_typed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What hinders the listing is told, and the default or a key is taken."""
    out = tmp_path / "node.toml"
    known = ("--id", "press-07", "--group", "line-2", "--model", FAN, "--broker", "broker")
    terminal = Terminal("--out", out, *known, "--no-tls", more={"EARSHOT_FAKE_SOUND": "broken"})

    terminal.answer("Microphone's KEY [microphone:default]", "usb:1-1.2")
    terminal.answer("User name", "")
    code = terminal.end()

    assert code == 0
    assert "No microphone can be listed: PortAudio does not start" in terminal.screen
    assert load(out, monkeypatch).source.spec == "microphone:usb:1-1.2"


def test_end_of_input_writes_nothing(tmp_path: Path) -> None:
    """Ctrl-D at a question leaves no file behind, not even the password's."""
    terminal = Terminal("--out", tmp_path / "node.toml", "--id", "press-07")

    terminal.answer("Group", "\x04")
    code = terminal.end()

    assert (code, list(tmp_path.iterdir())) == (2, [])
    assert "nothing was written" in terminal.screen


def test_options_are_enough(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With --yes nothing is asked: options and defaults are written."""
    out = tmp_path / "node.toml"
    secret = tmp_path / "secret"
    secret.write_text("x")
    keys = tmp_path / "release-keys.pem"
    keys.write_bytes(SIGNER.public_pem + SECOND.public_pem)
    options = ["--id", "press-07", "--group", "line-2", "--broker", "[::1]:8883", "--tls"]
    options += ["--username", "press-07", "--password-file", str(secret)]
    options += ["--microphone", "synthetic:fan?fault=bearing", "--channel", "0"]
    options += ["--release-keys", os.path.relpath(keys, ROOT)]

    done = run("--yes", "--out", out, *options, "--model", FAN, "--state-folder", tmp_path / "s")

    settings = load(out, monkeypatch)
    assert (done.returncode, done.stderr) == (0, "")
    assert (settings.node.id, settings.node.group) == ("press-07", "line-2")
    assert (settings.mqtt.host, settings.mqtt.port, settings.mqtt.tls) == ("::1", 8883, True)
    assert settings.mqtt.password_file == str(secret)
    assert settings.source.spec == "synthetic:fan?fault=bearing"
    assert (settings.model.folder, settings.source.channel) == (str(FAN), 0)
    assert settings.update.keys_file is not None
    assert Path(settings.update.keys_file).is_absolute()
    assert Path(settings.update.keys_file).samefile(keys)


def test_defaults_are_enough(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a terminal and without options: the host's name, the released model, localhost."""
    out = tmp_path / "node.toml"

    done = run("--out", out)

    host_id = valid_id(socket.gethostname())
    if host_id is None:
        assert "Expected --id" in done.stderr
        return
    settings = load(out, monkeypatch)
    assert (settings.node.id, settings.mqtt.host) == (host_id, "localhost")
    assert settings.source.spec == "microphone:default"
    assert settings.node.state_folder == str(tmp_path / "state")
    assert settings.model.folder == str(FAN)
    assert settings.update.keys_file is None
    assert "# keys_file = " in out.read_text()


def test_paths_mean_the_same_from_everywhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was given relative to here is written absolute, and what is printed can be copied."""
    (tmp_path / "my node").mkdir()
    out = tmp_path / "my node" / "node.toml"

    done = run("--yes", "--out", out, "--id", "press-07", "--model", FAN, "--state-folder", "kept")

    settings = load(out, monkeypatch)
    assert settings.node.state_folder == str(ROOT / "kept")
    assert f"--config '{out}'" in done.stdout


def test_next_commands_name_the_file_only_if_it_is_not_found(tmp_path: Path) -> None:
    """What is found without being named need not be typed."""
    done = run("--yes", "--id", "press-07", folder=tmp_path)

    assert done.returncode == 0, done.stderr
    assert "earshot node check " in done.stdout
    assert "--config" not in done.stdout


def test_missing_folder_is_told_before_anything_is_asked(tmp_path: Path) -> None:
    """Nobody answers ten questions for a file that cannot be written."""
    terminal = Terminal("--out", tmp_path / "none" / "node.toml")

    code = terminal.end()

    assert (code, list(tmp_path.iterdir())) == (2, [])
    assert "expected a folder" in terminal.screen
    assert "Enter takes" not in terminal.screen


def test_file_is_not_overwritten(tmp_path: Path) -> None:
    """An existing file stays as it is, but for --force."""
    out = tmp_path / "node.toml"
    out.write_text("mine")

    refused = run("--yes", "--out", out, "--id", "press-07")
    kept = out.read_text()
    forced = run("--yes", "--out", out, "--id", "press-07", "--force")

    assert (refused.returncode, kept) == (2, "mine")
    assert "is there already" in refused.stderr
    assert forced.returncode == 0
    assert 'id = "press-07"' in out.read_text()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--id", "Press 07"), "--id: Expected an id"),
        (("--group", ""), "--group: Expected an id"),
        (("--broker", "http://x"), "--broker: Expected HOST"),
        (("--broker", "x:99999"), "--broker: Expected a port"),
        (("--microphone", "synthetic:dragon"), "--microphone: synthetic:dragon"),
        (("--model", "/nowhere"), "--model: /nowhere: expected a release folder"),
        (("--ca-file", "/nowhere.crt"), "--ca-file: /nowhere.crt: cannot be read"),
        (("--release-keys", "/nowhere.pem"), "--release-keys: /nowhere.pem: cannot be read"),
        (("--release-keys", "/dev/null"), "/dev/null: Expected 1 to 2 public keys in PEM, got 0"),
        (("--channel", "999"), "source.channel"),
        (("--password-file", "/dev/null"), "a password needs a username"),
        (("--out", "/nowhere/node.toml"), "/nowhere/node.toml: cannot be written"),
    ],
)
def test_what_is_wrong_is_one_line(tmp_path: Path, options: tuple[str, str], words: str) -> None:
    """A wrong option is named with its reason in one line, and nothing is written."""
    done = run("--yes", "--out", tmp_path / "node.toml", "--id", "press-07", *options)

    (line,) = done.stderr.splitlines()
    assert (done.returncode, list(tmp_path.iterdir())) == (2, [])
    assert line.startswith("earshot node: ")
    assert words in line


def test_what_is_missing_is_one_line(tmp_path: Path) -> None:
    """Where nothing can be guessed, the options that would say it are named."""
    code = tmp_path / "code"  # without models
    code.mkdir()
    for package in ("contract", "node"):
        (code / package).symlink_to(ROOT / package)
    folder = tmp_path / "empty"
    folder.mkdir()
    done = subprocess.run(
        [sys.executable, "-m", "node", "init", "--yes", "--id", "press-07"],
        cwd=folder,
        env=environment(PYTHONPATH=str(code)),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert (done.returncode, list(folder.iterdir())) == (2, [])
    assert done.stderr == ("earshot node: Expected --model, got no such option and nobody to ask\n")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("broker", ("broker", None)),
        ("broker.local:8883", ("broker.local", 8883)),
        ("192.168.1.7:1883", ("192.168.1.7", 1883)),
        ("[::1]:8883", ("::1", 8883)),
        ("[::1]", ("::1", None)),
        ("fe80::1", ("fe80::1", None)),
    ],
)
def test_brokers_address(text: str, expected: tuple[str, int | None]) -> None:
    """Names and addresses of both families, with a port or without."""
    assert _broker(text) == expected


@pytest.mark.parametrize(
    "text", ["", ":1883", "broker:", "a b", "broker:x", "broker:0", "mqtt://b"]
)
def test_what_is_no_address(text: str) -> None:
    """Half an address, or a URL, is refused."""
    with pytest.raises(ValueError, match="Expected"):
        _broker(text)
