"""A broker of its own for each test of the fleet's commands."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.rig.brokers import Mosquitto


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Mosquitto]:
    """A broker of this test's own."""
    with Mosquitto(tmp_path / "mosquitto") as server:
        yield server
