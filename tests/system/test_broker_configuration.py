"""The broker's configuration that earshot ships, and the access rules of docs/updates.md."""

import queue
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from collector.broker_check import Verdict, measure
from contract import topics
from contract.messages import CollectorStatus, Presence, PresenceReason, encode
from contract.session import Connected, Publication, Published, Received, Subscribed
from contract.settings import MqttSettings
from contract.topics import Kind
from node.broker_checks import broker_findings
from node.findings import Grade
from tests.contract import examples
from tests.fleet import ROOT
from tests.peers import Peer, connecting
from tests.servers import SHIPPED_CONFIGURATION, Mosquitto

SENT = 5000
MARK = b"behind all that waited"
PASSWORD = "open sesame"
NODES = ("press-07", "press-08")


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
        peer.wait_for(Connected)
        yield peer


def publish_for_who_is_away(broker: Mosquitto) -> list[bytes]:
    """Numbered messages for a session that exists and is away."""
    with connected(broker, "away", "t/#", expiry_seconds=3600) as away:
        away.wait_for(Subscribed)
    payloads = [f"{number:05}".encode().ljust(350, b".") for number in range(SENT)]
    with connected(broker, "speaker") as speaker:
        for payload in payloads:
            speaker.session.publish(Publication(topic="t/queue", payload=payload))
        answers = [speaker.wait_for(Published) for _ in payloads]
    # The broker says Success to each of them, be it kept or not.
    assert {answer.reason_code for answer in answers} == {0}
    return payloads


def came_for_who_was_away(broker: Mosquitto) -> list[bytes]:
    """What comes on the return: all of it, or what comes before a message that is sent late."""
    found: list[bytes] = []
    marked = False
    with connected(broker, "away", "t/#", expiry_seconds=3600) as away:
        while len(found) < SENT and MARK not in found[-1:]:
            try:
                found.append(away.wait_for(Received, seconds=20.0 if marked else 1.0).payload)
            except queue.Empty:
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


def access_rules() -> str:
    """The block at the end of docs/updates.md."""
    page = (ROOT / "docs" / "updates.md").read_text("utf-8")
    lines = page.partition("These rules keep")[2].splitlines()[1:]
    return "".join(f"{line.strip()}\n" for line in lines if line.startswith("    "))


@pytest.fixture
def guarded(tmp_path: Path) -> Iterator[Mosquitto]:
    """A broker with the rules of the documentation."""
    users = dict.fromkeys((*NODES, "collector", "operator"), PASSWORD)
    with Mosquitto(tmp_path / "broker", users=users, acl=access_rules()) as broker:
        yield broker


def tell(broker: Mosquitto, who: str, topic: str, payload: bytes = b"word") -> None:
    """Say something that the broker retains, if it lets this user."""
    with connected(broker, who, password=PASSWORD) as speaker:
        speaker.session.publish(Publication(topic=topic, payload=payload, retain=True))
        speaker.wait_for(Published)


def heard(broker: Mosquitto, who: str, own: str, *others: str) -> set[str]:
    """Topics of what is retained for this user; its `own` topic shows when all has come."""
    tell(broker, "operator", own)
    with connected(broker, who, *others, own, password=PASSWORD) as listener:
        found = {listener.wait_for(Received).topic}
        while own not in found:
            found.add(listener.wait_for(Received).topic)
    return found


def test_receipts_reach_their_node_alone(guarded: Mosquitto) -> None:
    """A collector may write them; a node reads its own, and not its neighbour's."""
    receipts = [topics.node(node, Kind.RECEIPT) for node in NODES]
    for receipt in receipts:
        tell(guarded, "collector", receipt)

    found = heard(guarded, NODES[0], topics.desired(f"node:{NODES[0]}"), *receipts)

    assert found == {receipts[0], topics.desired(f"node:{NODES[0]}")}


def test_nobody_writes_receipts_for_another(guarded: Mosquitto) -> None:
    """A node's neighbour cannot have it throw away what is stored nowhere."""
    receipt = topics.node(NODES[0], Kind.RECEIPT)
    tell(guarded, NODES[1], receipt)
    tell(guarded, "operator", receipt)

    found = heard(guarded, NODES[0], topics.desired(f"node:{NODES[0]}"), receipt)

    assert receipt not in found


def test_rules_let_a_node_do_its_work(guarded: Mosquitto) -> None:
    """`node check` finds nothing wrong behind the login, the collector's word included."""
    status = CollectorStatus(
        id="collector", at_us=1, state=Presence.ONLINE, reason=PresenceReason.CONNECTED
    )
    tell(guarded, "collector", topics.collector_status("collector"), encode(status))
    mqtt = MqttSettings(host=guarded.host, port=guarded.port, username=NODES[0], password=PASSWORD)

    found = {
        finding.check: finding
        for finding in broker_findings(mqtt, node=NODES[0], boot=examples.WINDOW.boot)
    }

    assert found["broker publish"].grade is Grade.OK
    assert found["collector"].found == "collector online"


def test_rules_let_an_operator_check_the_broker(guarded: Mosquitto) -> None:
    """Everything can be measured by an operator."""
    mqtt = MqttSettings(
        host=guarded.host, port=guarded.port, username="operator", password=PASSWORD
    )

    verdicts = {row.verdict for row in measure(mqtt, messages=200) if row.measurable}

    assert verdicts == {Verdict.GOOD}
