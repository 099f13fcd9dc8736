"""The servers of `tests.rig.servers` do what tests of earshot lean on."""

import os
import signal
import socket
import ssl
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from influxdb_client.client.influxdb_client import InfluxDBClient
from influxdb_client.client.write_api import SYNCHRONOUS
from influxdb_client.rest import ApiException
from paho.mqtt.client import Client, MQTTMessage
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.reasoncodes import ReasonCode

from tests.rig import servers
from tests.rig.servers import (
    REQUIRE_SERVERS,
    CertificateAuthority,
    InfluxDb,
    Mosquitto,
    QueryError,
    ServerError,
    require,
    wait_until,
)

ROOT = Path(__file__).parents[2]


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


@pytest.fixture
def client(influxdb: InfluxDb) -> Iterator[InfluxDBClient]:
    with InfluxDBClient(influxdb.url, influxdb.token, org=influxdb.org) as client:
        yield client


def write(client: InfluxDBClient, bucket: str, lines: str) -> None:
    client.write_api(write_options=SYNCHRONOUS).write(bucket, record=lines)


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


def test_influxdb_stores_what_the_v2_client_writes(
    influxdb: InfluxDb, client: InfluxDBClient
) -> None:
    """Lines written by influxdb-client are read back with their tags, types and time."""
    write(
        client, influxdb.bucket, 'score,node=n1 value=0.5,count=3i,state="on" 1700000000000000000'
    )

    rows = influxdb.query("SELECT * FROM score")

    assert rows == [
        {"time": "2023-11-14T22:13:20Z", "node": "n1", "value": 0.5, "count": 3, "state": "on"}
    ]
    assert client.ping()


def test_influxdb_query_gives_the_tags_of_each_series(
    influxdb: InfluxDb, client: InfluxDBClient
) -> None:
    """A row of a grouped query carries the tags of its group."""
    write(client, influxdb.bucket, "score,node=n1 value=1 1\nscore,node=n2 value=2 1")

    rows = influxdb.query("SELECT max(value) FROM score GROUP BY node")

    assert [(row["node"], row["max"]) for row in rows] == [("n1", 1), ("n2", 2)]


def test_influxdb_begins_with_an_empty_bucket(influxdb: InfluxDb, client: InfluxDBClient) -> None:
    """Nothing of an earlier test is in the bucket, nor of an earlier bucket in a new one."""
    assert influxdb.query("SHOW MEASUREMENTS") == []
    write(client, influxdb.bucket, "score value=1 1")

    influxdb.new_bucket()

    assert influxdb.query("SELECT * FROM score") == []


def test_influxdb_remembers_after_stop(influxdb: InfluxDb, client: InfluxDBClient) -> None:
    """While influxd is stopped the front answers 502; afterwards the data are there again."""
    write(client, influxdb.bucket, "score value=1 1")

    influxdb.stop()
    with pytest.raises(ApiException) as away:
        write(client, influxdb.bucket, "score value=2 2")
    with pytest.raises(QueryError) as unasked:
        influxdb.query("SELECT * FROM score")
    influxdb.start()
    write(client, influxdb.bucket, "score value=3 3")

    assert (away.value.status, unasked.value.status) == (502, 502)
    assert [row["value"] for row in influxdb.query("SELECT value FROM score")] == [1, 3]


def test_influxdb_remembers_after_kill(influxdb: InfluxDb, client: InfluxDBClient) -> None:
    """A point that was acknowledged survives SIGKILL."""
    write(client, influxdb.bucket, "score value=1 1")

    influxdb.kill()
    influxdb.start()

    assert [row["value"] for row in influxdb.query("SELECT value FROM score")] == [1]


def test_influxdb_left_away(influxdb: InfluxDb) -> None:
    """A test may end with influxd killed..."""
    influxdb.kill()

    assert not influxdb.running


def test_influxdb_is_back(influxdb: InfluxDb) -> None:
    """... and the next one finds it running."""
    assert influxdb.running


def test_influxdb_refuses_a_wrong_token(influxdb: InfluxDb) -> None:
    """Another token is answered by 401, and nothing is stored."""
    with (
        InfluxDBClient(influxdb.url, "wrong", org=influxdb.org) as client,
        pytest.raises(ApiException) as refused,
    ):
        write(client, influxdb.bucket, "score value=1 1")

    assert refused.value.status == 401
    assert influxdb.query("SELECT * FROM score") == []


def test_influxdb_refuses_an_unknown_bucket(client: InfluxDBClient) -> None:
    """A bucket that was not made is answered by 404."""
    with pytest.raises(ApiException) as refused:
        write(client, "no_such_bucket", "score value=1 1")

    assert refused.value.status == 404


def test_influxdb_query_says_what_is_wrong(influxdb: InfluxDb) -> None:
    """A statement that does not parse, and one that cannot run, are errors."""
    with pytest.raises(QueryError, match="error parsing query") as unparsed:
        influxdb.query("SELECT FROM")
    with pytest.raises(QueryError, match="undefined function") as unknown:
        influxdb.query("SELECT histogram(value) FROM score")

    assert (unparsed.value.status, unknown.value.status) == (400, 200)


def test_a_server_that_exits_shows_its_log(tmp_path: Path) -> None:
    """A broker that refuses its configuration fails at once, with the reason it logged."""
    with (
        pytest.raises(ServerError, match=r"(?s)exit status 3.*no_such_option"),
        Mosquitto(tmp_path / "m", extra="no_such_option true"),
    ):
        pass


def test_a_server_does_not_share_its_port(tmp_path: Path) -> None:
    """A stranger that listens on the port is not taken for the server."""
    server = Mosquitto(tmp_path / "m")
    with socket.create_server((server.host, server.port)):
        with pytest.raises(ServerError, match="to be free"):
            server.start()

        assert not server.running


def test_stop_reports_a_crash(mosquitto: Mosquitto) -> None:
    """A server that had left by itself does not stop in silence."""
    mosquitto.send_signal(signal.SIGKILL)
    wait_until(lambda: not mosquitto.running, "a dead broker")

    with pytest.raises(ServerError, match="exit status -9"):
        mosquitto.stop()


def test_stop_and_kill_again_do_nothing(mosquitto: Mosquitto) -> None:
    """A stopped server may be stopped and killed again."""
    mosquitto.stop()
    mosquitto.stop()
    mosquitto.kill()

    assert not mosquitto.running


ORPHANS = """
import sys
from pathlib import Path
from tests.rig.servers import InfluxDb, Mosquitto
directory = Path(sys.argv[1])
with Mosquitto(directory / "m") as broker, InfluxDb(directory / "i") as database:
    print(broker.port, database.port, database.url.rpartition(":")[2], flush=True)
    sys.stdin.read()
"""


def test_servers_die_with_a_killed_test_run(tmp_path: Path) -> None:
    """SIGKILL of the process that started them leaves no server behind."""
    for program in ("setpriv", "mosquitto", "influxd", "nginx"):
        require(program)
    with subprocess.Popen(
        [sys.executable, "-c", ORPHANS, str(tmp_path)],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as run:
        assert run.stdout is not None
        ports = [int(port) for port in run.stdout.readline().split()]
        were_up = [is_open(port) for port in ports]

        run.kill()

    assert were_up == [True, True, True]
    wait_until(lambda: not any(map(is_open, ports)), "three closed ports")


def is_open(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def test_wait_until_gives_up() -> None:
    """A condition that never holds ends in an error that names it."""
    with pytest.raises(TimeoutError, match="a miracle"):
        wait_until(lambda: False, "a miracle", seconds=0.0)


def test_require_looks_where_daemons_live(monkeypatch: pytest.MonkeyPatch) -> None:
    """/usr/sbin is searched though PATH does not name it."""
    expected = require("mosquitto")
    monkeypatch.setenv("PATH", "/nonexistent")

    if not expected.startswith(("/usr/sbin/", "/usr/local/sbin/", "/sbin/")):
        pytest.skip(f"mosquitto is in another place here: {expected}")
    assert require("mosquitto") == expected


def test_require_skips(monkeypatch: pytest.MonkeyPatch) -> None:
    """A missing program skips, and names the Debian package."""
    monkeypatch.delenv(REQUIRE_SERVERS, raising=False)
    without_programs(monkeypatch)

    with pytest.raises(pytest.skip.Exception, match="nginx-light"):
        require("nginx")


def test_require_fails_in_ci(monkeypatch: pytest.MonkeyPatch) -> None:
    """A missing program fails where servers are required, and names the Debian package."""
    monkeypatch.setenv(REQUIRE_SERVERS, "1")
    without_programs(monkeypatch)

    with pytest.raises(pytest.fail.Exception, match="nginx-light"):
        require("nginx")


def without_programs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", os.devnull)
    monkeypatch.setattr(servers, "_SBIN", os.devnull)
