"""What holds for all tests, and servers for those that need one.

A test that needs a server with another configuration enters its own (`tests.rig.brokers`).
"""

import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest
from _pytest.nodeid import NodeId
from hypothesis import settings

from tests.rig import programs
from tests.rig.brokers import Mosquitto
from tests.rig.databases import InfluxDb

# A shell that starts `make test &` in a script has it ignore Ctrl-C, and so would every program
# that a test starts, and interrupts.
signal.signal(signal.SIGINT, signal.default_int_handler)

# No timing decides, and tests that run at once share no file.
settings.register_profile("earshot", deadline=None, database=None)
settings.load_profile("earshot")


_GROUPS: Final = {
    "small_features": "networks",
    "small_networks": "networks",
    "elsewhere": "networks",
    "duo_run": "trainings",
    "profile_run": "trainings",
}
"""The group of pytest-xdist of a fixture that takes up to a minute to make: a group is run by one
worker, which makes it once."""

_LONGEST: Final = ("networks", "trainings", "calibrate", "privacy", "refused updates", "bench")
"""Groups that take minutes, the longest first."""

_COSTLY: Final = (
    *("bench/", "rig/", "system/", "training/detector/", "training/runs/"),
    *("test_install", "test_stack", "test_systemd_unit"),
)
_STARTERS: Final = (Mosquitto, InfluxDb, programs.run, programs.start)
"""A file that imports one of these starts a server or a program."""
_COSTLY_FIXTURES: Final = {*_GROUPS, "influxdb", "mosquitto", "run_training", "tflite_python"}


# First: pytest-xdist reads the groups in its own turn.
@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Say of each test which worker runs it, when, and whether `make test-fast` leaves it out."""
    tests = Path(__file__).parent
    for item in items:
        fixtures = set(getattr(item, "fixturenames", ()))
        for group in sorted({_GROUPS[name] for name in fixtures & _GROUPS.keys()})[:1]:
            item.add_marker(pytest.mark.xdist_group(group))
        imported = vars(getattr(item, "module", object)).values()
        if (
            str(item.path.relative_to(tests)).startswith(_COSTLY)
            or fixtures & _COSTLY_FIXTURES
            or item.get_closest_marker("xdist_group")
            or any(found is starter for found in imported for starter in _STARTERS)
        ):
            item.add_marker(pytest.mark.costly)
    items.sort(key=_turn)
    if getattr(config.option, "loadgroup", False):
        for item in items:
            _name_group(item)


def _turn(item: pytest.Item) -> tuple[int, int]:
    """Groups first, the longest of them before all, then what is costly, then the rest.

    Otherwise the last minutes are those of one worker, and the others have nothing to do.
    """
    group = _group_of(item)
    rank = _LONGEST.index(group) if group in _LONGEST else len(_LONGEST)
    return rank, 0 if group else 1 if item.get_closest_marker("costly") else 2


def _group_of(item: pytest.Item) -> str | None:
    mark = item.get_closest_marker("xdist_group")
    return None if mark is None else str(mark.args[0])


def _name_group(item: pytest.Item) -> None:
    """Have a group in the id of a test, where workers look for it.

    pytest-xdist 3.8 writes it where pytest 9.2 does not read it any more, and every worker made
    every costly fixture: https://github.com/pytest-dev/pytest-xdist/issues/1386
    """
    group = _group_of(item)
    if group is not None and not item.nodeid.endswith(f"@{group}"):
        item._id = NodeId.parse(f"{item.nodeid}@{group}")


@pytest.fixture
def mosquitto(tmp_path: Path) -> Iterator[Mosquitto]:
    """A broker of this test's own, which anybody may use."""
    with Mosquitto(tmp_path / "mosquitto") as server:
        yield server


@pytest.fixture(scope="session")
def _influxdb_of_worker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[InfluxDb]:
    with InfluxDb(tmp_path_factory.mktemp("influxdb")) as server:
        yield server


@pytest.fixture
def influxdb(_influxdb_of_worker: InfluxDb) -> InfluxDb:
    """An InfluxDB that runs and has an empty bucket, whatever the test before did."""
    server = _influxdb_of_worker
    if not server.running:
        server.start()
    server.new_bucket()
    return server
