"""Who may import whom."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

_ROOT = Path(__file__).parents[1]
_ALLOWED = {
    "contract": {"contract"},
    "node": {"contract", "node"},
    "collector": {"contract", "collector"},
    "training": {"contract", "node", "training"},
    "demo": {"contract", "node", "collector", "demo"},
}
_SESSION = _ROOT / "contract" / "session.py"
_TALK = _ROOT / "contract" / "talk.py"
_COMMAND_LINE = _ROOT / "contract" / "command_line.py"
_IMPURE = (_SESSION, _TALK, _COMMAND_LINE)


@pytest.mark.parametrize("package", sorted(_ALLOWED))
def test_package_imports_only_what_it_may(package: str) -> None:
    """No package reaches into one that does not belong below it."""
    imported = {
        name for file in (_ROOT / package).rglob("*.py") for name in _top_level_imports(file)
    }

    assert imported & _ALLOWED.keys() <= _ALLOWED[package]
    assert imported, "nothing was read"


def test_only_the_session_imports_paho() -> None:
    """The traps of the MQTT library are dealt with in one place."""
    importers = [
        file
        for package in _ALLOWED
        for file in (_ROOT / package).rglob("*.py")
        if "paho" in _top_level_imports(file)
    ]

    assert importers == [_SESSION]


@pytest.mark.parametrize("module", ["socket", "pathlib", "os", "time", "io", "threading"])
def test_contract_is_pure_but_for_three_files(module: str) -> None:
    """Nothing else in contract opens a socket or a file, asks the time, or looks at the process."""
    importers = [
        file.name
        for file in (_ROOT / "contract").rglob("*.py")
        if file not in _IMPURE and module in _top_level_imports(file)
    ]

    assert not importers


def _top_level_imports(file: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(file.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            yield node.module.split(".")[0]
