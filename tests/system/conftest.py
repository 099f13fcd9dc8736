"""Fixtures with real servers; a test that needs another configuration enters its own."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.rig.servers import InfluxDb, Mosquitto


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
