"""The broker of docker-compose.yml lets everybody do what he has to, and nothing else.

What was denied is judged by what arrives: a broker says "granted" to a subscription that it then
never serves, and to MQTT 3.1.1 "success" of what it throws away.
"""

import datetime as dt
import os
import signal
import sqlite3
import subprocess
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import msgspec
import pytest
import yaml

from collector.broker_check.measurements import measure
from collector.broker_check.verdicts import Verdict
from contract import topics
from contract.messages import CollectorStatus, encode
from contract.session import ConnectFailed, Disconnected, Received
from contract.settings import MqttSettings
from contract.states import Presence, PresenceReason
from contract.topics import Kind
from node.checks.broker_checks import broker_findings
from node.findings import Grade
from tests.rig import examples
from tests.rig.certificates import CertificateAuthority
from tests.rig.fleet_broker import CONFIGURATION, FleetBroker, fleet_broker
from tests.rig.installed import require
from tests.rig.peers import Peer, connected, connecting
from tests.rig.ports import HOST
from tests.rig.programs import ROOT, run, start
from tests.rig.waiting import wait_until
from training.fleet.enrolment.authority import SERVER_DAYS

ME, NEIGHBOUR = "press-07", "press-08"
# paho leaves the socket of a failed handshake to the garbage collector.
forgotten_socket = pytest.mark.filterwarnings(
    "ignore:.*SSLSocket:pytest.PytestUnraisableExceptionWarning"
)
MARK = topics.dead_letter()
"""What the collector says last; only an operator hears it."""
SHA256 = "0" * 64


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FleetBroker]:
    """With ME in the group line-2, and NEIGHBOUR in none."""
    with fleet_broker(tmp_path_factory.mktemp("broker")) as server:
        yield server


@pytest.fixture
def own_broker(tmp_path: Path) -> Iterator[FleetBroker]:
    """The same, for tests that change it."""
    with fleet_broker(tmp_path / "broker") as server:
        yield server


def heard_of(broker: FleetBroker, user: str, topic: str, *, retain: bool = False) -> bool:
    """Whether anybody hears what this user says there."""
    with (
        broker.peer("operator", "earshot/1/#") as ear,
        broker.peer(user) as speaker,
        broker.peer("collector") as last,
    ):
        payload = os.urandom(8)
        speaker.tell(topic, payload, retain=retain)
        last.tell(MARK, payload)
        found = []
        while (message := ear.expect(Received)).topic != MARK or message.payload != payload:
            found.append(message)
        return payload in [message.payload for message in found if message.topic == topic]


def hears(broker: FleetBroker, user: str, topic: str, *, speaker: str, asking: str) -> bool:
    """Whether this user, asking with this filter, hears what is kept or said on that topic."""
    # Everybody but the health check may hear this, so that it shows when all has come.
    mark = topics.collector_status("collector")
    kept, live = os.urandom(8), os.urandom(8)
    with broker.peer(speaker) as voice, broker.peer("collector") as last:
        voice.tell(topic, kept, retain=True)
        try:
            with broker.peer(user, asking, mark) as ear:
                voice.tell(topic, live)
                last.tell(mark, live)
                found: set[bytes] = set()
                while (message := ear.expect(Received)).topic != mark or message.payload != live:
                    found.add(message.payload)
        finally:
            voice.tell(topic, b"", retain=True)
    assert found & {kept, live} in (set(), {kept, live}), "one of the two alone"
    return bool(found & {kept, live})


@pytest.mark.parametrize("kind", [*topics.FROM_NODE, Kind.RESULT])
def test_a_node_says_what_it_has_to_say(broker: FleetBroker, kind: Kind) -> None:
    """Each kind of message of the contract's nodes arrives."""
    assert heard_of(broker, ME, topics.node(ME, kind))


NOT_A_NODES = [
    *(topics.node(NEIGHBOUR, kind) for kind in (*topics.FROM_NODE, Kind.RESULT)),
    topics.node(ME, Kind.DESIRED),
    topics.node(ME, Kind.RECEIPT),
    topics.command(ME, "rollback"),
    topics.command(NEIGHBOUR, "calibrate"),
    topics.desired("all"),
    topics.desired("group:line-2"),
    topics.release("fan@1"),
    topics.blob(SHA256, 0),
    topics.collector_status("collector"),
    topics.dead_letter(),
    topics.node("collector", Kind.WINDOW),
    f"earshot/1/n/{ME}/window/more",
    f"earshot/1/n/{ME}",
    "earshot/2/n/press-07/window",
    "anything",
]


@pytest.mark.parametrize("topic", NOT_A_NODES)
def test_a_node_says_nothing_else(broker: FleetBroker, topic: str) -> None:
    """Nothing in a neighbour's name, none of its own orders and receipts, nothing of others."""
    with broker.peer("operator", "#") as ear, broker.peer(ME) as node:
        payload = os.urandom(8)
        node.tell(topic, payload, retain=True)
        node.tell(topics.node(ME, Kind.HEALTH), payload)
        found = ear.expect(Received)
        while found.payload != payload:
            found = ear.expect(Received)

    assert found.topic == topics.node(ME, Kind.HEALTH)


@pytest.mark.parametrize("retain", [False, True])
def test_kept_words_are_denied_as_well(broker: FleetBroker, *, retain: bool) -> None:
    """A node's forged order reaches nobody, be it kept or not."""
    assert not heard_of(broker, ME, topics.desired(f"node:{ME}"), retain=retain)


@pytest.mark.parametrize(
    ("speaker", "topic"),
    [
        ("operator", topics.desired(f"node:{ME}")),
        ("operator", topics.desired("group:line-2")),
        ("operator", topics.desired("all")),
        ("operator", topics.command(ME, "calibrate")),
        ("operator", topics.release("fan@1")),
        ("operator", topics.blob(SHA256, 3)),
        ("collector", topics.node(ME, Kind.RECEIPT)),
    ],
)
def test_a_node_hears_its_orders_and_receipts(
    broker: FleetBroker, speaker: str, topic: str
) -> None:
    """What is kept for it when it comes, and what is said while it is there."""
    assert hears(broker, ME, topic, speaker=speaker, asking=topic)


@pytest.mark.parametrize(
    ("speaker", "topic"),
    [
        ("operator", topics.desired(f"node:{NEIGHBOUR}")),
        ("operator", topics.desired("group:line-3")),
        ("operator", topics.command(NEIGHBOUR, "calibrate")),
        ("collector", topics.node(NEIGHBOUR, Kind.RECEIPT)),
        (NEIGHBOUR, topics.node(NEIGHBOUR, Kind.WINDOW)),
        (NEIGHBOUR, topics.node(NEIGHBOUR, Kind.BIRTH)),
        ("collector", topics.dead_letter()),
        ("operator", topics.check("0", "part")),
    ],
)
@pytest.mark.parametrize("widely", [False, True])
def test_a_node_hears_nothing_of_others(
    broker: FleetBroker, speaker: str, topic: str, *, widely: bool
) -> None:
    """However it asks: by the topic's name, or for everything."""
    assert not hears(broker, ME, topic, speaker=speaker, asking="#" if widely else topic)


def test_a_group_is_heard_by_its_nodes_alone(broker: FleetBroker) -> None:
    """A node without a group does not hear another's orders."""
    topic = topics.desired("group:line-2")

    assert not hears(broker, NEIGHBOUR, topic, speaker="operator", asking=topic)


@pytest.mark.parametrize("kind", [*topics.FROM_NODE, Kind.RESULT])
def test_the_collector_hears_all_nodes(broker: FleetBroker, kind: Kind) -> None:
    """Each kind, by the filter that it subscribes to."""
    topic = topics.node(ME, kind)

    assert hears(broker, "collector", topic, speaker=ME, asking=f"earshot/1/n/+/{kind}")


@pytest.mark.parametrize(
    ("topic", "allowed"),
    [
        (topics.node(ME, Kind.RECEIPT), True),
        (topics.collector_status("collector"), True),
        (topics.node(ME, Kind.WINDOW), False),
        (topics.node("collector", Kind.WINDOW), False),
        (topics.node(ME, Kind.DESIRED), False),
        (topics.command(ME, "calibrate"), False),
        (topics.desired("all"), False),
        (topics.release("fan@1"), False),
        (topics.blob(SHA256, 0), False),
    ],
)
def test_what_the_collector_says(broker: FleetBroker, topic: str, *, allowed: bool) -> None:
    """Receipts and its own status; whoever breaks in there commands no node."""
    assert heard_of(broker, "collector", topic) == allowed


@pytest.mark.parametrize(
    ("topic", "allowed"),
    [
        (topics.desired(f"node:{ME}"), True),
        (topics.desired("group:line-2"), True),
        (topics.desired("all"), True),
        (topics.command(ME, "calibrate"), True),
        (topics.release("fan@1"), True),
        (topics.blob(SHA256, 0), True),
        (topics.check("0", "part"), True),
        (topics.node(ME, Kind.WINDOW), False),
        (topics.node("operator", Kind.WINDOW), False),
        (topics.node(ME, Kind.RECEIPT), False),
        (topics.collector_status("collector"), False),
        (topics.dead_letter(), False),
    ],
)
def test_what_the_operator_says(broker: FleetBroker, topic: str, *, allowed: bool) -> None:
    """Orders, releases and commands; nothing that is a node's or the collector's."""
    assert heard_of(broker, "operator", topic) == allowed


@pytest.mark.parametrize("topic", [topics.node("health", Kind.WINDOW), topics.desired("all")])
def test_the_health_check_says_nothing(broker: FleetBroker, topic: str) -> None:
    """Its password lies in the broker's container."""
    assert not heard_of(broker, "health", topic)


def test_the_health_check_hears_nothing_but_the_brokers_age(broker: FleetBroker) -> None:
    """Neither nodes nor orders, which patterns let everybody else hear."""
    with broker.peer("operator") as voice:
        voice.tell(topics.desired("all"), retain=True)
    try:
        with broker.peer("health", "#", "$SYS/broker/uptime") as ear:
            with broker.peer("operator") as voice:
                voice.tell(topics.desired("all"))
            found = ear.expect(Received)
    finally:
        with broker.peer("operator") as voice:
            voice.tell(topics.desired("all"), b"", retain=True)

    assert found.topic == "$SYS/broker/uptime"


def leave_a_will(broker: FleetBroker, topic: str, client: str) -> None:
    """ME connects, with a last will on this topic, and dies."""
    settings = broker.settings(ME)
    command = [
        *(require("mosquitto_sub"), "-h", HOST, "-p", str(broker.port), "-q", "1", "-i", client),
        *("--cafile", str(settings.ca_file), "-u", ME, "-P", str(settings.password)),
        *("-t", topics.desired("all"), "--will-topic", topic, "--will-payload", "dead"),
    ]
    with subprocess.Popen(command) as program:
        wait_until(lambda: f"Sending SUBACK to {client}" in broker.log(), "a subscription")
        program.kill()
    wait_until(lambda: f"Client {client} closed" in broker.log(), "the end of its connection")


def test_a_nodes_last_will_is_its_own(broker: FleetBroker) -> None:
    """A will in a neighbour's name dies with the connection; one in its own is published."""
    with broker.peer("operator", "earshot/1/#") as ear:
        leave_a_will(broker, topics.node(NEIGHBOUR, Kind.STATUS), "forger")
        leave_a_will(broker, topics.node(ME, Kind.STATUS), "honest")
        found = ear.expect(Received)
        while found.payload != b"dead":  # what other tests have left with this broker
            found = ear.expect(Received)

    assert found.topic == topics.node(ME, Kind.STATUS)


def test_a_stolen_client_id_hears_nothing(own_broker: FleetBroker) -> None:
    """A node that calls itself as the collector does takes its place, and none of its messages."""
    windows, mark = topics.every_node(Kind.WINDOW), topics.collector_status("collector")
    theirs = own_broker.settings("collector")
    with connected(theirs, "collector", windows, expiry_seconds=600):
        pass
    with own_broker.peer(NEIGHBOUR) as node:
        node.tell(topics.node(NEIGHBOUR, Kind.WINDOW))
    with connected(own_broker.settings(ME), "collector", mark, expiry_seconds=600) as thief:
        with own_broker.peer("collector") as last, own_broker.peer(NEIGHBOUR) as node:
            node.tell(topics.node(NEIGHBOUR, Kind.WINDOW))
            last.tell(mark)

        assert thief.expect(Received).topic == mark


def failure(settings: MqttSettings, name: str = "stranger") -> ConnectFailed:
    """Why somebody is not let in."""
    with connecting(settings, name) as peer:
        event = peer.next(20.0)
    assert isinstance(event, ConnectFailed), event
    return event


def changed(settings: MqttSettings, **values: object) -> MqttSettings:
    """The same settings, but for these."""
    return msgspec.structs.replace(settings, **values)


def test_nobody_comes_in_without_a_password(broker: FleetBroker) -> None:
    """Neither without a name, nor with a node's name and no password or a wrong one."""
    settings = broker.settings(ME)

    for wrong in (
        changed(settings, username=None, password=None),
        changed(settings, password=None),
        changed(settings, password="guessed"),
        changed(settings, username=NEIGHBOUR),
    ):
        assert failure(wrong).refused


def test_nobody_comes_in_without_tls(broker: FleetBroker) -> None:
    """The one port answers no plain word, right password or not."""
    plain = changed(broker.settings(ME), tls=False, ca_file=None)

    assert isinstance(failure(plain), ConnectFailed)
    assert [line for line in CONFIGURATION.read_text().splitlines() if "listener" in line][-1:] == [
        "listener 8883"
    ]


@forgotten_socket
def test_a_client_with_another_authority_does_not_come(broker: FleetBroker, tmp_path: Path) -> None:
    """It says so, and its password has not left it."""
    foreign = CertificateAuthority(tmp_path / "foreign")

    found = failure(changed(broker.settings(ME), ca_file=str(foreign.ca_file)))

    assert "certificate" in found.reason
    assert found.refused


@forgotten_socket
def test_a_broker_with_an_expired_certificate_is_not_talked_to(tmp_path: Path) -> None:
    """The client refuses, and the broker's health check fails."""
    made = dt.datetime.now(dt.UTC) - dt.timedelta(days=SERVER_DAYS + 10)
    expired = FleetBroker(tmp_path / "broker", made=made)
    expired.enrol(ME)
    with expired:
        found = failure(expired.settings(ME))
        health = check_health(expired)

    assert "expired" in found.reason
    assert health != 0


@forgotten_socket
def test_a_certificate_for_another_host_is_refused(tmp_path: Path) -> None:
    """Somebody else's broker, whoever has signed its certificate, gets no password."""
    elsewhere = FleetBroker(tmp_path / "broker", hosts=("elsewhere.example",))
    elsewhere.enrol(ME)
    with elsewhere:
        found = failure(elsewhere.settings(ME))

    assert "certificate" in found.reason
    assert found.refused


def check_health(broker: FleetBroker) -> int:
    """The exit code of the command in docker-compose.yml, with the places of this broker."""
    compose = yaml.safe_load((ROOT / "docker-compose.yml").read_text("utf-8"))
    command = compose["services"]["mosquitto"]["healthcheck"]["test"]
    assert command[:2] == ["CMD", "env"]
    require("mosquitto_sub")
    folder = broker.secrets.folder / "mosquitto"
    login = (folder / "mosquitto_sub").read_text()
    here = folder.parent.parent / "health"
    here.mkdir()
    (here / "mosquitto_sub").write_text(login.replace("/etc/earshot/secrets", str(folder)))
    places = {"XDG_CONFIG_HOME=/etc/earshot/secrets": f"XDG_CONFIG_HOME={here}"}
    words = [places.get(word, word).replace("$$", "$") for word in command[1:]]
    words[words.index("8883")] = str(broker.port)
    return subprocess.run(words, capture_output=True, check=False, timeout=30).returncode


def test_the_health_check_sees_a_healthy_broker(own_broker: FleetBroker) -> None:
    """With its own user, over TLS, as compose asks."""
    assert check_health(own_broker) == 0


def test_a_broker_that_hangs_is_not_healthy(own_broker: FleetBroker) -> None:
    """A process that is there and answers nothing fails the check in time."""
    own_broker.send_signal(signal.SIGSTOP)
    try:
        assert check_health(own_broker) != 0
    finally:
        own_broker.send_signal(signal.SIGCONT)


def still_there(peer: Peer, broker: FleetBroker, topic: str) -> bool:
    """Whether a connection hears what is said now, and has heard of no end before that."""
    payload = os.urandom(8)
    with broker.peer("operator") as voice:
        voice.tell(topic, payload)
    for event in peer.events(20.0):
        if isinstance(event, Disconnected):
            return False
        if isinstance(event, Received) and event.payload == payload:
            return True
    raise AssertionError("neither what was said nor an end has come")


def training(broker: FleetBroker, *arguments: str) -> subprocess.CompletedProcess[str]:
    """A command that changes who may come in, and tells the broker."""
    folder = str(broker.secrets.folder)
    done = run("training", *arguments, "--folder", folder, "--pid", str(broker.pid), settings={})
    assert done.returncode == 0, done.stderr
    return done


def test_a_revoked_node_is_out_at_once(own_broker: FleetBroker) -> None:
    """Its connection ends, it does not come back, and its neighbour notices nothing."""
    order = topics.desired("all")
    with own_broker.peer(ME, order) as node, own_broker.peer(NEIGHBOUR, order) as neighbour:
        training(own_broker, "revoke", ME)
        ended = node.expect(Disconnected)
        neighbour_there = still_there(neighbour, own_broker, order)
        again = failure(own_broker.settings(ME), "as-before")

    assert ended.generation == 1
    assert again.refused
    assert neighbour_there


def test_a_revoked_node_is_out_under_any_client_id(own_broker: FleetBroker) -> None:
    """A node that was broken into may have called itself something else."""
    with connected(own_broker.settings(ME), "collector") as node:
        training(own_broker, "revoke", ME)

        assert node.expect(Disconnected).generation == 1


def test_an_enrolled_node_comes_in_while_others_stay(own_broker: FleetBroker) -> None:
    """Who is connected stays so, and the new one is let in, group and all."""
    order = topics.desired("group:line-9")
    bundle = own_broker.secrets.folder / "nodes" / "fan-1"
    with own_broker.peer(ME, topics.desired("all")) as node:
        training(own_broker, "enroll", "fan-1", "--group", "line-9", "--out", str(bundle))
        password = (bundle / "password").read_text().strip()
        settings = changed(own_broker.settings(ME), username="fan-1", password=password)
        with connected(settings, "fan-1", order) as new:
            new_there = still_there(new, own_broker, order)
        old_there = still_there(node, own_broker, topics.desired("all"))

    assert new_there
    assert old_there


def test_enrolling_again_voids_the_old_password(own_broker: FleetBroker) -> None:
    """Whoever comes with the old one is thrown out, and not let in."""
    before = own_broker.settings(ME)
    with connected(before, ME) as node:
        training(own_broker, "enroll", ME, "--group", "line-2")
        node.expect(Disconnected)

    assert failure(before).refused


def test_a_node_changes_its_group(own_broker: FleetBroker) -> None:
    """After it was enrolled into another it hears that one's orders, and no more the other's."""
    own_broker.enrol(ME, "line-3")
    own_broker.send_signal(signal.SIGHUP)
    wait_until(lambda: "Reloading config" in own_broker.log(), "the files read again")
    for group, heard in (("line-3", True), ("line-2", False)):
        topic = topics.desired(f"group:{group}")

        assert hears(own_broker, ME, topic, speaker="operator", asking=topic) == heard


def test_a_renewed_certificate_is_shown_without_a_restart(own_broker: FleetBroker) -> None:
    """Connections stay; new ones see the new certificate and trust it as before."""
    before = own_broker.certificate()
    order = topics.desired("all")
    with own_broker.peer(ME, order) as node:
        training(own_broker, "secrets", "--renew")
        wait_until(lambda: own_broker.certificate() != before, "the new certificate")
        there = still_there(node, own_broker, order)

    assert there
    with own_broker.peer(NEIGHBOUR):
        pass


def test_the_broker_runs_with_the_very_file(broker: FleetBroker) -> None:
    """Of fleet.conf, only port and places are others here."""
    used = set(broker.configuration.read_text().splitlines())
    others = [line for line in CONFIGURATION.read_text().splitlines() if line not in used]

    assert others == [
        "persistence_location /mosquitto/data/",
        "listener 8883",
        "certfile /etc/earshot/secrets/server.crt",
        "keyfile /etc/earshot/secrets/server.key",
        "password_file /etc/earshot/secrets/passwords",
        "acl_file /etc/earshot/secrets/acl",
    ]


def options(path: Path) -> dict[str, str]:
    """What a configuration of mosquitto sets."""
    lines = (line.partition(" ") for line in path.read_text().splitlines())
    return {name: value for name, _, value in lines if name and not name.startswith("#")}


def test_it_keeps_messages_as_the_broker_for_one_machine_does() -> None:
    """What mosquitto.conf says of queues and disks, with its reasons, holds for a fleet as well."""
    alone, fleet = options(CONFIGURATION.with_name("mosquitto.conf")), options(CONFIGURATION)
    of_the_place = {"listener", "allow_anonymous", "persistence_location"}

    assert alone.keys() - of_the_place
    assert {name: fleet.get(name) for name in alone.keys() - of_the_place} == {
        name: value for name, value in alone.items() if name not in of_the_place
    }


def test_node_check_finds_nothing_to_mend(broker: FleetBroker) -> None:
    """Behind the login, the collector's word included; with orders of its group."""
    word = CollectorStatus(
        id="collector", at_us=1, state=Presence.ONLINE, reason=PresenceReason.CONNECTED
    )
    with broker.peer("collector") as collector:
        collector.tell(topics.collector_status("collector"), encode(word), retain=True)
    found = list(broker_findings(broker.settings(ME), node=ME, boot=examples.WINDOW.boot))

    assert {finding.grade for finding in found} == {Grade.OK}
    assert "collector online" in {finding.found for finding in found}


def test_an_operator_can_check_the_broker(broker: FleetBroker) -> None:
    """Everything that `collector check` measures, with the operator's rights."""
    found = measure(broker.settings("operator"), messages=200)

    assert {row.verdict for row in found if row.measurable} == {Verdict.GOOD}


def test_a_fleet_works_behind_these_rules(own_broker: FleetBroker, tmp_path: Path) -> None:
    """A node with its bundle, a collector that stores it, and a command that an operator gives."""
    bundle = own_broker.enrol(ME, "line-2")
    own_broker.send_signal(signal.SIGHUP)
    secrets, store = own_broker.secrets.folder, tmp_path / "earshot.db"
    of_node = {
        "EARSHOT_MODEL_FOLDER": str(ROOT / "models" / "fan-synthetic"),
        "EARSHOT_NODE_STATE_FOLDER": str(tmp_path / "state"),
        "EARSHOT_SOURCE_SPEC": "synthetic:fan",
        "EARSHOT_MQTT_CA_FILE": str(bundle / "ca.crt"),
        "EARSHOT_MQTT_PASSWORD_FILE": str(bundle / "password"),
    }
    of_collector = {
        "EARSHOT_MQTT_HOST": own_broker.host,
        "EARSHOT_MQTT_PORT": str(own_broker.port),
        "EARSHOT_MQTT_TLS": "true",
        "EARSHOT_MQTT_CA_FILE": str(secrets / "collector" / "ca.crt"),
        "EARSHOT_MQTT_USERNAME": "collector",
        "EARSHOT_MQTT_PASSWORD_FILE": str(secrets / "collector" / "mqtt-password"),
        "EARSHOT_SQLITE_PATH": str(store),
        "EARSHOT_COLLECTOR_STATE_FOLDER": str(tmp_path / "collector"),
    }
    with (
        own_broker.peer("operator", topics.every_collector_status()) as ear,
        start("collector", "run", settings=of_collector) as collector,
        start("node", "run", "--config", str(bundle / "node.toml"), settings=of_node) as node,
    ):
        try:
            word = msgspec.json.decode(ear.expect(Received).payload, type=CollectorStatus)
            wait_until(lambda: stored_windows(store) > 0, "a stored window", seconds=60)
            command = run(
                "collector",
                *("command", ME, "calibrate", "--cancel"),
                *("--broker", f"{HOST}:{own_broker.port}", "--tls", "--username", "operator"),
                *("--ca-file", str(secrets / "operator" / "ca.crt")),
                *("--password-file", str(secrets / "operator" / "mqtt-password")),
                settings={},
            )
        finally:
            for program in (node, collector):
                program.terminate()
                program.communicate(timeout=60)

    assert word.state is Presence.ONLINE
    assert f"{ME}: " in command.stdout, command.stderr


def stored_windows(store: Path) -> int:
    """Of ME, in the collector's database, which may not be there yet."""
    try:
        with closing(sqlite3.connect(f"file:{store}?mode=ro", uri=True)) as database:
            rows = database.execute('SELECT count(*) FROM "window" WHERE node = ?', (ME,))
            return int(rows.fetchone()[0])
    except sqlite3.OperationalError:
        return 0
