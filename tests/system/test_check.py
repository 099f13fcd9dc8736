"""`earshot node check` against real brokers, and against some of a few lines."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from contract import topics
from contract.messages import CollectorStatus, Status, encode
from contract.settings import MqttSettings
from contract.states import Presence, PresenceReason
from node.checks.broker_checks import broker_findings
from node.checks.computer_checks import node_runs
from node.findings import Finding
from tests.rig import examples
from tests.rig.brokers import Mosquitto, broker_of_a_few_lines
from tests.rig.certificates import CertificateAuthority
from tests.rig.listeners import Listener
from tests.rig.peers import connected
from tests.rig.programs import node_settings, run, start
from tests.rig.signers import SIGNER

NODE = "press-07"
PASSWORD = "open sesame"
ACL = "pattern readwrite earshot/1/n/%u/#\npattern read earshot/1/collector/+/status\n"


def check(mqtt: MqttSettings) -> dict[str, Finding]:
    """The last finding of each stage."""
    found = broker_findings(mqtt, node=NODE, boot=examples.WINDOW.boot)
    return {finding.check: finding for finding in found}


def grades(found: dict[str, Finding]) -> dict[str, str]:
    return {name: str(finding.grade) for name, finding in found.items()}


def plain(
    broker: Mosquitto,
    *,
    username: str | None = None,
    password: str | None = None,
    password_file: str | None = None,
) -> MqttSettings:
    return MqttSettings(
        host=broker.host,
        port=broker.port,
        username=username,
        password=password,
        password_file=password_file,
    )


def announce_collector(broker: Mosquitto, state: Presence) -> None:
    """Leaves a retained word of a collector on the broker."""
    status = CollectorStatus(id="main", at_us=1, state=state, reason=PresenceReason.CONNECTED)
    with connected(plain(broker), "main") as collector:
        collector.tell(topics.collector_status("main"), encode(status), retain=True)


def test_all_is_well(mosquitto: Mosquitto, tmp_path: Path) -> None:
    """With a broker, a collector and sound there is no problem, and nothing a collector stores."""
    announce_collector(mosquitto, Presence.ONLINE)
    settings = node_settings(mosquitto, "synthetic:fan")

    with Listener(mosquitto) as listener:
        done = run("node", "check", "--json", "--seconds", "1", settings=settings)
        messages = listener.all_of(Status) + listener.windows()

    found = {each["check"]: each for each in json.loads(done.stdout)["checks"]}
    assert (done.returncode, done.stderr, messages) == (0, "", [])
    for name in ("broker name", "broker port", "broker login", "broker subscribe"):
        assert found[name]["grade"] == "ok", name
    assert found["broker publish"]["found"] == f"earshot/1/n/{NODE}/result is taken"
    assert found["collector"]["found"] == "main online"


def test_running_node_is_not_thrown_out(mosquitto: Mosquitto, tmp_path: Path) -> None:
    """A check beside a running node of the same id leaves its connection alone."""
    settings = node_settings(
        mosquitto, "synthetic:fan", NODE_STATE_FOLDER=str(tmp_path), OUTBOX_DRAIN_SECONDS="0.1"
    )
    with Listener(mosquitto) as listener, start("node", "run", settings=settings) as node:
        try:
            listener.wait_for_windows(1)
            found = check(plain(mosquitto))
            locked = node_runs(tmp_path / NODE)
            count = len(listener.windows())
            listener.wait_for_windows(count + 1)
            statuses = listener.all_of(Status)
        finally:
            node.terminate()
            node.communicate(timeout=30)

    assert locked
    assert grades(found)["broker publish"] == "ok"
    assert [status.state for status in statuses] == [Presence.ONLINE]


@pytest.mark.parametrize(
    ("state", "words"), [(None, "none has told of itself"), (Presence.OFFLINE, "main offline")]
)
def test_collector_away_is_a_warning(
    mosquitto: Mosquitto, state: Presence | None, words: str
) -> None:
    """Windows wait for it: somebody should start it, but the node does its work."""
    if state is not None:
        announce_collector(mosquitto, state)

    finding = check(plain(mosquitto))["collector"]

    assert finding.grade == "warning"
    assert words in finding.found


def test_denied_topic_is_told(tmp_path: Path) -> None:
    """A broker that does not let this node write says so by its reason code."""
    acl = "pattern read earshot/1/n/%u/#\n"
    with Mosquitto(tmp_path / "broker", users={NODE: PASSWORD}, acl=acl) as broker:
        found = check(plain(broker, username=NODE, password=PASSWORD))

    assert grades(found)["broker login"] == "ok"
    assert grades(found)["broker publish"] == "problem"
    assert "Not authorized" in found["broker publish"].found
    assert "access list" in (found["broker publish"].advice or "")


def test_access_list_of_a_node_is_enough(tmp_path: Path) -> None:
    """With no more rights than a node has, every stage passes."""
    with Mosquitto(tmp_path / "broker", users={NODE: PASSWORD}, acl=ACL) as broker:
        found = check(plain(broker, username=NODE, password=PASSWORD))

    stages = ("broker login", "broker subscribe", "broker publish")
    assert {grades(found)[stage] for stage in stages} == {"ok"}
    assert "may grant this and deliver nothing" in found["broker subscribe"].found


def test_wrong_password_is_told(tmp_path: Path) -> None:
    """The broker's word is passed on, with the settings to look at; nothing is tried behind it."""
    with Mosquitto(tmp_path / "broker", users={NODE: PASSWORD}) as broker:
        found = check(plain(broker, username=NODE, password="sesame"))

    assert grades(found)["broker login"] == "problem"
    assert "password_file" in (found["broker login"].advice or "")
    assert "broker publish" not in found


def test_password_file_that_cannot_be_read(mosquitto: Mosquitto) -> None:
    """A path that leads nowhere is a finding, not the end of the check."""
    found = check(plain(mosquitto, username=NODE, password_file="/nowhere"))

    assert grades(found)["broker login"] == "problem"
    assert "/nowhere" in found["broker login"].found


def test_tls_tells_the_dates(tmp_path: Path) -> None:
    """Certificates that end in two days, as those of a test do, are warnings with their dates."""
    with Mosquitto(tmp_path / "broker", tls=True) as broker:
        own = broker.client_certificate(NODE)
        found = check(
            MqttSettings(
                host="localhost",
                port=broker.port,
                tls=True,
                ca_file=str(broker.ca_file),
                certificate_file=str(own.cert_file),
                key_file=str(own.key_file),
            )
        )

    assert grades(found)["certificates"] == "warning"
    assert grades(found)["broker TLS"] == "warning"
    assert "TLSv1.3; the broker's certificate is good until 20" in found["broker TLS"].found
    assert grades(found)["broker publish"] == "ok"


def test_foreign_authority_is_told(tmp_path: Path) -> None:
    """A broker that another authority has signed is refused, with the setting to look at."""
    foreign = CertificateAuthority(tmp_path / "foreign").ca_file
    with Mosquitto(tmp_path / "broker", tls=True) as broker:
        found = check(
            MqttSettings(host="localhost", port=broker.port, tls=True, ca_file=str(foreign))
        )

    assert grades(found)["broker TLS"] == "problem"
    assert "ca_file" in (found["broker TLS"].advice or "")
    assert "broker login" not in found


def test_broker_without_tls_is_told(mosquitto: Mosquitto) -> None:
    """TLS at a port that has none is told as such."""
    found = check(MqttSettings(host=mosquitto.host, port=mosquitto.port, tls=True))

    assert grades(found)["broker TLS"] == "problem"


def test_missing_client_certificate_is_told(tmp_path: Path) -> None:
    """A broker that asks for a certificate closes the connection; the advice names the setting."""
    with Mosquitto(tmp_path / "broker", tls=True) as broker:
        found = check(
            MqttSettings(host="localhost", port=broker.port, tls=True, ca_file=str(broker.ca_file))
        )

    assert grades(found)["broker login"] == "problem"
    assert "certificate_file" in (found["broker login"].advice or "")


def test_unknown_host_is_told() -> None:
    """A name that nobody knows ends the stages, in words."""
    found = check(MqttSettings(host="broker.invalid"))

    assert grades(found) == {"broker name": "problem"}


def test_client_id_that_is_not_taken_is_a_warning() -> None:
    """A broker that ties client ids to users refuses the check's id, which is no fault."""
    refusal = b"\x20\x03\x00\x85\x00"

    with broker_of_a_few_lines(lambda packet: refusal) as settings:
        found = check(settings)

    assert grades(found)["broker login"] == "warning"
    assert f"{NODE}-check" in found["broker login"].found


def answers_to_subscribe(codes: bytes) -> Callable[[bytes], bytes]:
    """A broker that takes everything, and says so much to each filter."""

    def answers(packet: bytes) -> bytes:
        kind = packet[0] >> 4
        if kind == 1:
            return b"\x20\x03\x00\x00\x00"
        if kind == 8:
            # The length of a packet above 127 bytes takes two bytes.
            body = 3 if packet[1] & 0x80 else 2
            identifier = packet[body : body + 2]
            return b"\x90" + bytes([3 + len(codes)]) + identifier + b"\x00" + codes
        if kind == 3:
            topic_end = packet.index(b"/result") + len(b"/result")
            return b"\x40\x03" + packet[topic_end : topic_end + 2] + b"\x10"
        return b""

    return answers


def test_refused_orders_are_told() -> None:
    """A node that takes updates and may not hear of them works on: a warning that names them."""
    orders = (f"earshot/1/n/{NODE}/desired", "earshot/1/all/desired")

    with broker_of_a_few_lines(answers_to_subscribe(b"\x01\x01\x01\x87")) as settings:
        found = {
            finding.check: finding
            for finding in broker_findings(
                settings, node=NODE, boot=examples.WINDOW.boot, orders=orders
            )
        }

    assert grades(found)["broker subscribe"] == "warning"
    assert found["broker subscribe"].found.startswith("earshot/1/all/desired is refused")


def test_node_that_takes_updates_asks_for_its_orders(mosquitto: Mosquitto, tmp_path: Path) -> None:
    """Its own, its group's and everybody's."""
    keys = tmp_path / "release-keys.pem"
    keys.write_bytes(SIGNER.public_pem)
    settings = node_settings(mosquitto, "synthetic:fan") | {
        "EARSHOT_UPDATE_KEYS_FILE": str(keys),
        "EARSHOT_NODE_GROUP": "line-2",
    }

    done = run("node", "check", "--json", "--seconds", "1", settings=settings)

    found = {each["check"]: each for each in json.loads(done.stdout)["checks"]}
    assert done.returncode == 0
    assert SIGNER.key_id[:12] in found["updates"]["found"]
    for topic in (f"n/{NODE}", "g/line-2", "all"):
        assert f"earshot/1/{topic}/desired" in found["broker subscribe"]["found"]


def test_refused_subscription_is_told() -> None:
    """A node that may not hear its commands has a problem, also when it may publish."""
    with broker_of_a_few_lines(answers_to_subscribe(b"\x87\x01")) as settings:
        found = check(settings)

    assert grades(found)["broker subscribe"] == "problem"
    assert f"earshot/1/n/{NODE}/cmd/+ is refused" in found["broker subscribe"].found
    assert grades(found)["broker publish"] == "ok"
