"""The brokers of a test's own do what tests of earshot lean on."""

import socket
import ssl
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from paho.mqtt.client import Client, MQTTMessage
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.reasoncodes import ReasonCode

from tests.rig.brokers import Mosquitto
from tests.rig.certificates import CertificateAuthority
from tests.rig.waiting import wait_until


@dataclass(frozen=True, slots=True)
class Login:
    """How an MQTT client presents itself."""

    user: str | None = None
    password: str | None = None
    tls: ssl.SSLContext | None = None
    host: str = "127.0.0.1"


ANYBODY = Login()


@contextmanager
def session(server: Mosquitto, who: Login) -> Iterator[Client]:
    client = Client(CallbackAPIVersion.VERSION2)
    answers: list[ReasonCode] = []
    client.on_connect = lambda _client, _data, _flags, reason, _properties: answers.append(reason)
    if who.user is not None:
        client.username_pw_set(who.user, who.password)
    if who.tls is not None:
        client.tls_set_context(who.tls)
    client.connect(who.host, server.port)
    turn_until(client, lambda: bool(answers), "a CONNACK")
    if answers[0].is_failure:
        raise PermissionError(str(answers[0]))
    yield client
    client.disconnect()


def turn_until(client: Client, condition: Callable[[], bool], what: str) -> None:
    def turned() -> bool:
        client.loop(0.05)
        return condition()

    wait_until(turned, what)


def retain(server: Mosquitto, topic: str, payload: str, who: Login = ANYBODY) -> None:
    with session(server, who) as client:
        sent = client.publish(topic, payload, qos=1, retain=True)
        turn_until(client, sent.is_published, "a PUBACK")


def retained(server: Mosquitto, *topics: str, who: Login = ANYBODY) -> bytes:
    """The first retained message in the order of the topics."""
    messages: list[MQTTMessage] = []
    with session(server, who) as client:
        client.on_message = lambda _client, _data, message: messages.append(message)
        client.subscribe([(topic, 1) for topic in topics])
        turn_until(client, lambda: bool(messages), f"a retained message on {topics}")
    return bytes(messages[0].payload)


def test_mosquitto_carries_a_message(mosquitto: Mosquitto) -> None:
    """Anybody may publish and subscribe when no users are given."""
    retain(mosquitto, "sensors/node01", "hello")

    assert retained(mosquitto, "sensors/node01") == b"hello"
    assert mosquitto.url == f"mqtt://127.0.0.1:{mosquitto.port}"


def test_mosquitto_remembers_after_stop(mosquitto: Mosquitto) -> None:
    """A stopped broker refuses connections, and is back on its port with what it held."""
    retain(mosquitto, "sensors/node01", "kept")

    mosquitto.stop()
    with pytest.raises(ConnectionRefusedError):
        retain(mosquitto, "sensors/node01", "nobody is there")
    mosquitto.start()

    assert retained(mosquitto, "sensors/node01") == b"kept"


def test_mosquitto_remembers_what_it_saved_after_kill(mosquitto: Mosquitto) -> None:
    """A killed broker is back with what it had saved."""
    retain(mosquitto, "sensors/node01", "kept")

    mosquitto.save()
    mosquitto.kill()
    mosquitto.start()

    assert retained(mosquitto, "sensors/node01") == b"kept"


def test_mosquitto_admits_its_users_only(tmp_path: Path) -> None:
    """The right password passes; a wrong one and none at all do not."""
    with Mosquitto(tmp_path / "m", users={"node01": "sesame", "node02": "p:w"}) as server:
        retain(server, "sensors/node01", "hello", Login("node01", "sesame"))
        with pytest.raises(PermissionError, match="Not authorized"):
            retain(server, "sensors/node01", "forged", Login("node01", "p:w"))
        with pytest.raises(PermissionError, match="Not authorized"):
            retain(server, "sensors/node01", "forged")

        assert retained(server, "sensors/node01", who=Login("node02", "p:w")) == b"hello"


def test_mosquitto_obeys_its_acl(tmp_path: Path) -> None:
    """A user writes where the ACL lets it, and what it writes elsewhere is not delivered."""
    acl = "user collector\ntopic read #\npattern write sensors/%u/#\n"
    users = {"node01": "one", "node02": "two", "collector": "three"}
    with Mosquitto(tmp_path / "m", users=users, acl=acl) as server:
        retain(server, "sensors/node01/a", "forged", Login("node02", "two"))
        retain(server, "sensors/node02/a", "own", Login("node02", "two"))
        topics = ("sensors/node01/a", "sensors/node02/a")

        assert retained(server, *topics, who=Login("collector", "three")) == b"own"


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1"])
def test_mosquitto_knows_a_user_by_certificate(tmp_path: Path, host: str) -> None:
    """The name in a client certificate is the user, under both names of the server."""
    acl = "user node01\ntopic write sensors/node01\nuser collector\ntopic read sensors/#\n"
    with Mosquitto(tmp_path / "m", tls=True, acl=acl) as server:
        node, collector = (
            Login(tls=strict_context(server, name), host=host) for name in ("node01", "collector")
        )
        retain(server, "sensors/node01", "hello", node)

        assert retained(server, "sensors/node01", who=collector) == b"hello"
        assert server.url == f"mqtts://127.0.0.1:{server.port}"


def strict_context(server: Mosquitto, name: str) -> ssl.SSLContext:
    certificate = server.client_certificate(name)
    context = ssl.create_default_context(cafile=server.ca_file)
    context.verify_flags |= ssl.VERIFY_X509_STRICT  # The default since Python 3.13.
    context.load_cert_chain(certificate.cert_file, certificate.key_file)
    return context


def test_mosquitto_refuses_a_foreign_certificate(tmp_path: Path) -> None:
    """A client certificate of another CA gets no answer, nor does a client without one."""
    foreign = CertificateAuthority(tmp_path / "foreign").client("node01")
    with Mosquitto(tmp_path / "m", tls=True) as server:
        context = ssl.create_default_context(cafile=server.ca_file)
        with pytest.raises(OSError, match="alert certificate required"):
            first_answer(server, context)
        context.load_cert_chain(foreign.cert_file, foreign.key_file)
        with pytest.raises(OSError, match="alert unknown ca"):
            first_answer(server, context)


def test_a_client_refuses_a_foreign_mosquitto(tmp_path: Path) -> None:
    """The server certificate does not pass with a client that trusts another CA."""
    foreign = CertificateAuthority(tmp_path / "foreign")
    with (
        Mosquitto(tmp_path / "m", tls=True) as server,
        pytest.raises(ssl.SSLCertVerificationError),
    ):
        first_answer(server, ssl.create_default_context(cafile=foreign.ca_file))


def first_answer(server: Mosquitto, context: ssl.SSLContext) -> bytes:
    with (
        socket.create_connection((server.host, server.port), timeout=10.0) as plain,
        context.wrap_socket(plain, server_hostname=server.host) as connection,
    ):
        return connection.recv(1)


def test_mosquitto_takes_passwords_over_tls(tmp_path: Path) -> None:
    """With users and TLS a password is enough, and is needed."""
    with Mosquitto(tmp_path / "m", users={"node01": "sesame"}, tls=True) as server:
        context = ssl.create_default_context(cafile=server.ca_file)
        retain(server, "a", "hello", Login("node01", "sesame", tls=context))
        with pytest.raises(PermissionError, match="Not authorized"):
            retain(server, "a", "hello", Login(tls=context))


def test_a_plain_mosquitto_has_no_certificates(mosquitto: Mosquitto) -> None:
    """Asking a broker without TLS for its CA is an error."""
    with pytest.raises(ValueError, match="without TLS"):
        _ = mosquitto.ca_file


def test_mosquitto_takes_extra_lines(tmp_path: Path) -> None:
    """Lines given as `extra` are in force."""
    with Mosquitto(tmp_path / "m", extra="mount_point elsewhere/") as server:
        retain(server, "a", "hello")

        wait_until(lambda: "'elsewhere/a'" in server.log(), "a log line with the mount point")
