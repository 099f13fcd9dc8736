"""What holds for all tests, and servers for those that need one.

A test that needs a server with another configuration enters its own (`tests.rig.brokers`).
"""

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from tests.rig.brokers import Mosquitto
from tests.rig.databases import InfluxDb

# A shell that starts `make test &` in a script has it ignore Ctrl-C, and so would every program
# that a test starts, and interrupts.
signal.signal(signal.SIGINT, signal.default_int_handler)

# No timing decides, and tests that run at once share no file.
settings.register_profile("earshot", deadline=None, database=None)
settings.load_profile("earshot")


@pytest.fixture
def mosquitto(tmp_path: Path) -> Iterator[Mosquitto]:
    """A broker of this test's own, which anybody may use."""
    with Mosquitto(tmp_path / "mosquitto") as server:
        yield server


@pytest.fixture(scope="module")
def _influxdb_of_module(tmp_path_factory: pytest.TempPathFactory) -> Iterator[InfluxDb]:
    with InfluxDb(tmp_path_factory.mktemp("influxdb")) as server:
        yield server


@pytest.fixture
def influxdb(_influxdb_of_module: InfluxDb) -> InfluxDb:
    """The module's InfluxDB, running and with an empty bucket, whatever the test before did."""
    server = _influxdb_of_module
    if not server.running:
        server.start()
    server.new_bucket()
    return server
