"""The configuration of a broker for one machine that earshot ships."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from contract.session import Connected, Publication, Published, Received
from contract.settings import MqttSettings
from tests.rig.brokers import SHIPPED_CONFIGURATION, Mosquitto
from tests.rig.peers import Peer, connecting

SENT = 5000
MARK = b"behind all that waited"


@contextmanager
def connected(
    broker: Mosquitto,
    name: str,
    *filters: str,
    expiry_seconds: int = 0,
    password: str | None = None,
) -> Iterator[Peer]:
    """A connection by that user name and client id."""
    settings = MqttSettings(
        host=broker.host,
        port=broker.port,
        username=name if password else None,
        password=password,
    )
    with connecting(settings, name, *filters, expiry_seconds=expiry_seconds) as peer:
        peer.expect(Connected)
        yield peer


def publish_for_who_is_away(broker: Mosquitto) -> list[bytes]:
    """Numbered messages for a session that exists and is away."""
    with connected(broker, "away", "t/#", expiry_seconds=3600) as away:
        assert away.open(seconds=20.0)
    payloads = [f"{number:05}".encode().ljust(350, b".") for number in range(SENT)]
    with connected(broker, "speaker") as speaker:
        for payload in payloads:
            speaker.session.publish(Publication(topic="t/queue", payload=payload))
        answers = [speaker.expect(Published) for _ in payloads]
    # The broker says Success to each of them, be it kept or not.
    assert {answer.reason_code for answer in answers} == {0}
    return payloads


def came_for_who_was_away(broker: Mosquitto) -> list[bytes]:
    """What comes on the return: all of it, or what comes before a message that is sent late."""
    found: list[bytes] = []
    marked = False
    with connected(broker, "away", "t/#", expiry_seconds=3600) as away:
        while len(found) < SENT and MARK not in found[-1:]:
            message = away.wait_for(Received, seconds=20.0 if marked else 1.0)
            if message is not None:
                found.append(message.payload)
            else:
                assert not marked, "the mark was lost as well"
                away.session.publish(Publication(topic="t/queue", payload=MARK))
                marked = True
    return [payload for payload in found if payload != MARK]


def test_what_waits_survives_a_restart(mosquitto: Mosquitto) -> None:
    """Five thousand messages for a collector that is away come in order after SIGTERM and start."""
    payloads = publish_for_who_is_away(mosquitto)

    mosquitto.stop()
    mosquitto.start()

    assert came_for_who_was_away(mosquitto) == payloads


def test_default_mosquitto_drops_four_of_five_thousand(tmp_path: Path) -> None:
    """As Debian sets it: the newest are lost, without a word and without a restart."""
    with Mosquitto(tmp_path / "broker", shipped=False, extra="persistence true\n") as broker:
        payloads = publish_for_who_is_away(broker)

        assert came_for_who_was_away(broker) == payloads[:1000]


def test_tests_run_with_the_very_file(mosquitto: Mosquitto) -> None:
    """Of what is shipped, only address and folder are others in a test."""
    [used] = Path(mosquitto.log_file.parent).glob("mosquitto.conf")

    shipped = set(SHIPPED_CONFIGURATION.read_text("utf-8").splitlines())
    others = shipped - set(used.read_text("utf-8").splitlines())
    assert others == {"listener 1883 127.0.0.1", "persistence_location /var/lib/mosquitto/"}
