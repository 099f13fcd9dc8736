"""A virtual environment with the packages of one lock alone, made of links to those that are here.

Nothing is downloaded: what the lock asks for and is not installed in that version is an error.
"""

import re
import subprocess
import sys
from importlib.metadata import Distribution, distribution
from pathlib import Path

from tests.rig.programs import ROOT

_PINNED = re.compile(r"^([A-Za-z0-9._-]+)==(\S+)", re.MULTILINE)


def locked_environment(lock: Path, folder: Path) -> Path:
    """Make the environment, with this clone's own code in it.

    Args:
        lock: a file such as requirements/fleet.txt; conditions of its lines are not looked at.
        folder: where to make it.

    Returns:
        Its Python.
    """
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    (packages,) = folder.glob("lib/python*/site-packages")
    links = folder / "links"
    links.mkdir()
    for name, version in _PINNED.findall(lock.read_text("utf-8")):
        found = distribution(name)
        assert found.version == version, (
            f"{name} {found.version} is installed, {lock} has {version}"
        )
        _link(found, links)
    (packages / "only-these.pth").write_text(f"{links}\n{ROOT}\n")
    return folder / "bin" / "python"


def _link(found: Distribution, links: Path) -> None:
    """Everything of a package that an import may look for; its scripts are not."""
    tops = {file.parts[0] for file in found.files or ()} - {"..", "__pycache__"}
    assert tops, f"{found.name} does not say which files it has"
    for top in tops:
        (links / top).symlink_to(Path(str(found.locate_file(top))))
