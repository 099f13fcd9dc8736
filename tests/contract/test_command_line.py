"""Groups and commands: found by name, told in one way, and nothing imported too early."""

import argparse
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from contract import VERSION, command_line

_GROUP = '''"""Tools for a test.

They do nothing else.
"""

SUMMARY = "tools"
COMMANDS = ("greet", "fail", "miss", "wait", "import", "keys")
REQUIREMENTS = "tools"
INTERRUPTED = "nothing was kept"
ENVIRONMENT = {"TOOLS_THREADS": "1"}
'''
_COMMANDS = {
    "greet": '''"""`greet`: says who is greeted."""

import json
import logging
import os

from contract import command_line

SUMMARY = "greet somebody"

def add_arguments(parser):
    parser.add_argument("--name", required=True)
    parser.add_argument("--seconds", type=float)

def run(options):
    logging.getLogger("tools").debug("greeting")
    print(json.dumps([options.name, command_line.recorded(options), os.environ["TOOLS_THREADS"]]))
    return 3
''',
    "fail": """from contract.errors import EarshotError

SUMMARY = "fail"

def add_arguments(parser):
    pass

def run(options):
    raise EarshotError("no\\nluck \\x1b[1m")
""",
    "miss": """SUMMARY = "miss a package"

def add_arguments(parser):
    pass

def run(options):
    import a_package_that_is_nowhere
""",
    "wait": """import time

SUMMARY = "wait"

def add_arguments(parser):
    pass

def run(options):
    print("waiting", flush=True)
    time.sleep(60)
""",
    "import_": """SUMMARY = "named as a word of Python"

def add_arguments(parser):
    pass

def run(options):
    for number in range(100_000):
        print(number)
    return 0
""",
}
_NESTED = '''"""Keys."""
SUMMARY = "make and show keys"
COMMANDS = ("show",)
'''
_SHOW = '''"""`keys show`."""
SUMMARY = "show a key"

def add_arguments(parser):
    parser.add_argument("file", nargs="?")

def run(options):
    return 0
'''


@pytest.fixture
def tools(tmp_path: Path) -> Path:
    """A folder with the package `tools`, a group of commands."""
    package = tmp_path / "tools"
    (package / "keys").mkdir(parents=True)
    (package / "__init__.py").write_text(_GROUP)
    for name, text in _COMMANDS.items():
        (package / f"{name}.py").write_text(text)
    (package / "keys" / "__init__.py").write_text(_NESTED)
    (package / "keys" / "show.py").write_text(_SHOW)
    return tmp_path


def _command(arguments: Sequence[str]) -> list[str]:
    program = "import sys; from contract import command_line;"
    program += "sys.exit(command_line.run('tools', ['tools']))"
    return [sys.executable, "-c", program, *arguments]


def _environment(tools: Path) -> dict[str, str]:
    root = Path(command_line.__file__).parents[1]
    return {"PATH": os.defpath, "PYTHONPATH": f"{root}{os.pathsep}{tools}"}


def _run(tools: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        _command(arguments),
        cwd=tools,
        env=_environment(tools),
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


def test_nothing_asked_for_is_the_whole_help(tools: Path) -> None:
    """A group without a command prints what it can do, and that is no mistake."""
    done, asked = _run(tools), _run(tools, "--help")

    assert done.returncode == asked.returncode == 0
    assert done.stdout == asked.stdout
    assert "Tools for a test.\n\nThey do nothing else." in done.stdout
    assert "greet somebody" in done.stdout
    assert not done.stderr


def test_command_gets_its_options_and_gives_the_exit_code(tools: Path) -> None:
    """A command runs with what was typed after its name, its group's environment set before."""
    done = _run(tools, "greet", "--name", "Ada")

    assert done.returncode == 3, done.stderr
    assert done.stdout == '["Ada", "earshot tools greet --name Ada", "1"]\n'
    assert not done.stderr


@pytest.mark.parametrize("words", [("--verbose", "greet"), ("greet", "--verbose")])
def test_verbose_is_understood_before_and_after_the_command(
    tools: Path, words: tuple[str, ...]
) -> None:
    """`--verbose` shows what is only worth debugging, wherever it stands."""
    assert "DEBUG tools: greeting" in _run(tools, *words, "--name", "Ada").stderr


def test_version_is_told_at_each_level(tools: Path) -> None:
    """`--version` is that of all of earshot."""
    assert _run(tools, "--version").stdout == f"earshot {VERSION}\n"


@pytest.mark.parametrize(
    ("words", "usage", "expected"),
    [
        (["greet", "--nmae", "Ada"], "tools greet", "unknown option --nmae (did you mean --name?)"),
        (["greet", "--secnds=3"], "tools greet", "unknown option --secnds (did you mean --seconds"),
        (["greet", "--name", "Ada", "--zzzzzz"], "tools greet", "unknown option --zzzzzz"),
        (["greet", "--name", "Ada", "Eve"], "tools greet", "unrecognized arguments: Eve"),
        (["greet"], "tools greet", "the following arguments are required: --name"),
        (["keys", "show", "--verbos=1"], "tools keys show", "--verbos"),
        (["gret"], "tools", "unknown command gret (did you mean greet?)"),
        (["show"], "tools", "unknown command show (did you mean keys show?)"),
        (["zzzzzz"], "tools", "unknown command zzzzzz (known are greet, fail"),
        (["--verbos", "greet"], "tools", "unknown option --verbos (did you mean --verbose?)"),
    ],
)
def test_what_is_not_understood_is_told_with_the_usage_it_has(
    tools: Path, words: list[str], usage: str, expected: str
) -> None:
    """A misspelt word gets the usage of the command it was meant for, and a suggestion."""
    done = _run(tools, *words)

    assert done.returncode == 2
    assert f"earshot {usage} [-h]" in " ".join(done.stderr.split())
    assert expected in done.stderr.splitlines()[-1]
    assert not done.stdout


def test_options_may_be_shortened(tools: Path) -> None:
    """What begins one option alone stands for it, as always with argparse."""
    assert _run(tools, "greet", "--na", "Ada").returncode == 3


def test_group_within_a_group(tools: Path) -> None:
    """A command may itself be a group: it lists its own, and runs them."""
    listed, done = _run(tools, "keys"), _run(tools, "keys", "show")

    assert "show a key" in listed.stdout
    assert listed.returncode == done.returncode == 0


def test_errors_are_one_printable_line(tools: Path) -> None:
    """What a user can act on is one line in the group's name, without what a terminal obeys."""
    done = _run(tools, "fail")

    assert (done.returncode, done.stderr) == (2, "earshot tools: no luck ?[1m\n")


def test_missing_package_names_what_to_install(tools: Path) -> None:
    """A package that is not there is told with the file that lists it."""
    done = _run(tools, "miss")

    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert "a_package_that_is_nowhere is not installed" in line
    assert "requirements/tools.txt" in line
    assert "earshot-fleet[tools]" in line


def test_group_that_is_not_installed_is_not_listed(tools: Path) -> None:
    """A Pi has no training: help is silent about it, and asking for it is told in one line."""
    (tools / "all_of_it.py").write_text(
        '"""All."""\nCOMMANDS = {"tools": "tools", "gone": "not_here.commands"}\n'
    )
    program = "import sys; from contract import command_line;"
    program += "sys.exit(command_line.run('all_of_it'))"

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", program, *words]
        return subprocess.run(
            command, env=_environment(tools), capture_output=True, text=True, check=False
        )

    assert "tools" in run().stdout
    assert "gone" not in run().stdout
    assert run("gone").returncode == 2
    assert run("gone").stderr == "earshot gone: not_here is not part of this installation\n"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interruption_says_what_it_leaves(tools: Path, number: signal.Signals) -> None:
    """Ctrl-C, and SIGTERM alike, ends a command in one line."""
    with subprocess.Popen(
        _command(["wait"]),
        env=_environment(tools),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "waiting\n"
        time.sleep(0.2)
        process.send_signal(number)
        _, errors = process.communicate(timeout=30)

    assert process.returncode == command_line.EXIT_INTERRUPTED
    assert errors == "earshot tools: nothing was kept\n"


def test_reader_that_leaves_is_no_error(tools: Path) -> None:
    """`earshot ... | head` ends in silence."""
    with subprocess.Popen(
        _command(["import"]),
        env=_environment(tools),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "0\n"
        process.stdout.close()
        assert process.stderr is not None
        errors = process.stderr.read()
        process.wait(30)

    assert (process.returncode, errors) == (0, "")


@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        (("train", "--data", "/home/ada/my fan"), "earshot train --data 'my fan'"),
        (("train", "--data", "data/fan"), "earshot train --data data/fan"),
        (("train", "--data=../fan", "--no-variants"), "earshot train --data=fan --no-variants"),
        (("run", "--recipes", "/home/a.toml,b,../c.toml"), "earshot run --recipes a.toml,b,c.toml"),
        (("train", "--description", "a = b"), "earshot train --description 'a = b'"),
    ],
)
def test_recorded_command_is_the_typed_one_without_places(
    typed: tuple[str, ...], expected: str
) -> None:
    """A report tells what was typed, and nothing about the machine it was typed on."""
    assert command_line.recorded(argparse.Namespace(typed=typed)) == expected


def test_settings_are_found_where_one_stands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The file in this folder is taken and told, unless another one is named."""
    monkeypatch.chdir(tmp_path)

    assert command_line.settings_file(None, "tools.toml") is None
    Path("tools.toml").touch()
    found = command_line.settings_file(None, "tools.toml")
    assert found == Path("tools.toml")
    assert capsys.readouterr().err == "earshot: settings from tools.toml\n"
    assert command_line.settings_file(Path("other.toml"), "tools.toml") == Path("other.toml")
    assert not capsys.readouterr().err


@pytest.mark.parametrize("name", ["earshot", "bin/earshot"])
def test_hints_are_typed_as_the_program_was(tools: Path, name: str) -> None:
    """A script that was called by its path is called so again; one on the PATH by its name."""
    script = tools / "bin" / "earshot"
    script.parent.mkdir()
    program = "from contract import command_line; print(command_line.typed('node run'))"
    script.write_text(f"#!{sys.executable}\n{program}\n")
    script.chmod(0o755)
    path = f"{script.parent}:{os.defpath}" if name == "earshot" else os.defpath
    done = subprocess.run(
        ["/usr/bin/env", name],
        cwd=tools,
        env=_environment(tools) | {"PATH": path},
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.stdout == f"{name} node run\n", done.stderr


def test_a_folder_that_is_gone_hinders_nobody(tools: Path) -> None:
    """Help comes from wherever it is asked for."""
    gone = tools / "gone"
    gone.mkdir()
    done = subprocess.run(
        ["/bin/sh", "-c", 'rmdir "$PWD"; exec "$@"', "sh", *_command(["--help"])],
        cwd=gone,
        env=_environment(tools),
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 0, done.stderr
    assert "greet somebody" in done.stdout


def test_hints_work_where_there_is_no_script(tools: Path) -> None:
    """`python -m` and any Python are answered with that Python."""
    program = "from contract import command_line; print(command_line.typed('node run'))"
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=tools,
        env=_environment(tools),
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.stdout == f"{sys.executable} -m earshot node run\n"
