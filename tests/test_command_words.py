"""What programs and documents tell people to type can be typed."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.rig.programs import ROOT

_PRODUCT = ("contract", "node", "collector", "training", "demo", "bench", "earshot.py")
_MODULE = re.compile(r"python3? -m (node|collector|training|demo)\b(?!\.)")
# Where it must stay: what says so itself, and a line in files of fleets that were set up long ago.
_KEPT = {"training/fleet/enrolment/access_rules.py"}


def _files(suffix: str) -> Iterator[Path]:
    for name in _PRODUCT:
        path = ROOT / name
        yield from path.rglob(f"*{suffix}") if path.is_dir() else [path]


def test_no_text_of_the_product_says_python_m() -> None:
    """Debian has no `python`, and nobody activates an environment for us: the word is `earshot`."""
    found = [
        f"{file.relative_to(ROOT)}:{node.lineno}"
        for file in _files(".py")
        if file.name != "__main__.py" and str(file.relative_to(ROOT)) not in _KEPT
        for node in ast.walk(ast.parse(file.read_text("utf-8")))
        if isinstance(node, ast.Constant) and _MODULE.search(str(node.value))
    ]

    assert found == []


@pytest.mark.parametrize("suffix", [".toml", ".yaml", ".json", ".conf", ".sh", ".md"])
def test_no_file_that_people_read_says_python_m(suffix: str) -> None:
    """Examples, alerts and documents speak of the same command."""
    documents = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")]
    files = [*_files(suffix), *(documents if suffix == ".md" else [])]
    found = [
        f"{file.relative_to(ROOT)}: {match[0]}"
        for file in files
        for match in _MODULE.finditer(file.read_text("utf-8"))
        # What a release says of how it was made was typed then.
    ]

    assert found == []


_LOADED = """
import sys
from earshot import main
try:
    main({words!r})
except SystemExit:
    pass
print(*sorted({{name.split(".")[0] for name in sys.modules}}), file=sys.stderr)
"""


@pytest.mark.parametrize(
    ("words", "unwanted"),
    [
        (["--help"], {"numpy", "msgspec", "rich", "paho", "tensorflow"}),
        (["node", "--help"], {"numpy", "rich", "paho", "training", "collector", "tensorflow"}),
        (["node", "run", "--help"], {"rich", "training", "collector", "demo", "tensorflow"}),
        (["collector", "run", "--help"], {"rich", "node", "training", "demo", "numpy"}),
        (["training", "--help"], {"tensorflow", "librosa", "sklearn", "rich", "demo"}),
        (["fleet", "push", "--help"], {"tensorflow", "librosa", "sklearn", "demo", "rich"}),
        (["demo", "--help"], {"tensorflow", "rich", "training", "paho"}),
    ],
)
def test_no_more_is_loaded_than_what_was_asked_for(words: list[str], unwanted: set[str]) -> None:
    """Help is quick, and a node on a Pi never looks for what it has not got."""
    done = subprocess.run(
        [sys.executable, "-c", _LOADED.format(words=words)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    loaded = set(done.stderr.splitlines()[-1].split())

    assert not loaded & unwanted
    assert "contract" in loaded


def test_documents_name_commands_and_options_that_there_are() -> None:
    """Every `earshot ...` in a document is parsed as far as its options' names."""
    documents = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "models" / "README.md"]
    documents += (ROOT / "docs").glob("*.md")
    typed = {
        (match[1], match[2])
        for document in documents
        for match in re.finditer(
            r"\bearshot (node|collector|training|fleet) ([a-z]+)\b", document.read_text("utf-8")
        )
    }
    helped = {
        group: subprocess.run(
            [sys.executable, "-m", "earshot", group],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        ).stdout
        for group in {group for group, _ in typed}
    }
    missing = {
        (group, command)
        for group, command in typed
        if re.search(rf"^    {command}(?: |$)", helped[group], re.MULTILINE) is None
    }

    assert typed
    assert missing == set()
