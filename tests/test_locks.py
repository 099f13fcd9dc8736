"""What `requirements/check_wheels.py` asks for; that it finds it is up to the package index."""

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

REQUIREMENTS = Path(__file__).parents[1] / "requirements"


@pytest.fixture(scope="module")
def check_wheels() -> ModuleType:
    spec = importlib.util.spec_from_file_location("check_wheels", REQUIREMENTS / "check_wheels.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("python", ["3.11", "3.12", "3.13"])
def test_a_pi_gets_one_version_of_each_package(check_wheels: ModuleType, python: str) -> None:
    """Markers are those of the Pi's Python, whatever this one is; every line keeps its hashes."""
    lines = check_wheels.for_a_pi((REQUIREMENTS / "node.txt").read_text(), python).splitlines()
    names = [line.partition("==")[0] for line in lines]

    assert len(set(names)) == len(names)
    assert {"numpy", "ai-edge-litert", "sounddevice", "soxr"} <= set(names)
    assert "colorama" not in names, "is for Windows"
    assert all("--hash=sha256:" in line and ";" not in line for line in lines)


def test_numpy_differs_by_python(check_wheels: ModuleType) -> None:
    """The lock holds two NumPys; the old Python gets the older one."""
    lock = (REQUIREMENTS / "node.txt").read_text()
    numpys = {
        python: next(
            line.split()[0]
            for line in check_wheels.for_a_pi(lock, python).splitlines()
            if line.startswith("numpy==")
        )
        for python in ("3.11", "3.12", "3.13")
    }

    assert numpys["3.11"] < numpys["3.12"] == numpys["3.13"]
