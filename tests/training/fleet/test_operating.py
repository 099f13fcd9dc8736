"""What tests here hear with."""

from contract import topics
from contract.topics import Kind
from tests.rig.brokers import Mosquitto
from tests.training.fleet.operating import (
    LiveEar,
    put,
)


def test_ears_do_not_hear_what_was_there(broker: Mosquitto) -> None:
    """The test's own ear counts what is said while it listens."""
    put(broker, topics.node("press-a", Kind.STATUS), b"x")

    with LiveEar(broker) as ear:
        assert ear.received() == []
