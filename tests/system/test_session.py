"""The MQTT session against a real broker, and against things that are none."""

import gc
import os
import queue
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import pytest

from contract.errors import PayloadTooLargeError, SettingsError
from contract.session import (
    NO_MATCHING_SUBSCRIBERS,
    Connected,
    ConnectFailed,
    Disconnected,
    Followed,
    Granted,
    Publication,
    Published,
    Received,
    ReconnectPolicy,
    Session,
    SessionEvent,
    SessionOptions,
    Subscribed,
    Subscription,
    Will,
)
from contract.settings import MqttSettings
from tests.rig.brokers import Mosquitto
from tests.rig.certificates import CertificateAuthority

Event = TypeVar("Event")


class _Soon(ReconnectPolicy):
    """Tests do not wait for the fleet's sake."""

    def delay_seconds(self, *, lasted_seconds: float, refused: bool) -> float:
        return 0.05


class Heard:
    """The events of a session, to be waited for."""

    def __init__(self) -> None:
        self.queue: queue.SimpleQueue[SessionEvent] = queue.SimpleQueue()

    def wait_for(self, kind: type[Event], *, seconds: float = 10.0) -> Event:
        """The next event of that kind; others before it are dropped."""
        deadline = time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0:
            try:
                event = self.queue.get(timeout=left)
            except queue.Empty:
                break
            if isinstance(event, kind):
                return event
        pytest.fail(f"no {kind.__name__} within {seconds} s")

    def none_of(self, kind: type[SessionEvent], *, seconds: float) -> bool:
        """Whether no event of that kind comes for so long."""
        deadline = time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0:
            try:
                if isinstance(self.queue.get(timeout=left), kind):
                    return False
            except queue.Empty:
                return True
        return True


@contextmanager
def session(
    settings: MqttSettings,
    client_id: str,
    *topic_filters: str,
    manual: bool = False,
    expiry_seconds: int = 60,
    will: Callable[[], Will] | None = None,
    retained: bool = True,
) -> Iterator[tuple[Session, Heard]]:
    """A session that has been started, with what it hears."""
    heard = Heard()
    options = SessionOptions(
        client_id=client_id,
        expiry_seconds=expiry_seconds,
        manual_acknowledge=manual,
        receive_maximum=100,
        subscriptions=tuple(
            Subscription(topic_filter=text, retained=retained) for text in topic_filters
        ),
    )
    made = Session(settings, options, heard.queue.put, will=will, policy=_Soon())
    made.start()
    try:
        yield made, heard
    finally:
        made.stop()


def _settings(broker: Mosquitto) -> MqttSettings:
    return MqttSettings(host=broker.host, port=broker.port)


def _hello(
    topic: str = "t/hello", payload: bytes = b"hello", *, retain: bool = False
) -> Publication:
    return Publication(topic=topic, payload=payload, retain=retain)


def test_publication_is_confirmed_and_received(mosquitto: Mosquitto) -> None:
    """A QoS 1 publication is confirmed under the name that `publish` gave, and arrives once."""
    with (
        session(_settings(mosquitto), "listener", "t/#") as (_, listener),
        session(_settings(mosquitto), "speaker") as (speaker, spoken),
    ):
        listener.wait_for(Subscribed)
        spoken.wait_for(Connected)
        delivery = speaker.publish(_hello())
        answer = spoken.wait_for(Published)
        received = listener.wait_for(Received)

        assert delivery is not None
        assert (answer.generation, answer.packet_id) == (delivery.generation, delivery.packet_id)
        assert answer.accepted
        assert answer.reason_code == 0
        assert (received.topic, received.payload, received.retained) == ("t/hello", b"hello", False)
        assert listener.none_of(Received, seconds=0.3)


def test_publication_that_nobody_hears_says_so(mosquitto: Mosquitto) -> None:
    """The broker's "no matching subscribers" reaches the caller: stored nowhere."""
    with session(_settings(mosquitto), "speaker") as (speaker, spoken):
        spoken.wait_for(Connected)
        speaker.publish(_hello())

        answer = spoken.wait_for(Published)

        assert answer.reason_code == NO_MATCHING_SUBSCRIBERS
        assert answer.accepted


def test_publication_that_the_acl_denies_says_so(tmp_path: Path) -> None:
    """A denied publication is answered with a failure, not with silence."""
    users = {"speaker": "secret"}
    with Mosquitto(tmp_path, users=users, acl="user speaker\ntopic write mine/#\n") as broker:
        settings = MqttSettings(
            host=broker.host, port=broker.port, username="speaker", password="secret"
        )
        with session(settings, "speaker") as (speaker, spoken):
            spoken.wait_for(Connected)
            speaker.publish(_hello("yours/x"))

            answer = spoken.wait_for(Published)

            assert not answer.accepted
            assert "Not authorized" in answer.reason


def test_publish_without_a_connection_sends_nothing_ever(mosquitto: Mosquitto) -> None:
    """What is published while the broker is away is refused, and does not turn up later."""
    with (
        session(_settings(mosquitto), "listener", "t/#") as (_, listener),
        session(_settings(mosquitto), "speaker") as (speaker, spoken),
    ):
        listener.wait_for(Subscribed)
        spoken.wait_for(Connected)
        mosquitto.kill()
        spoken.wait_for(Disconnected)

        refused = speaker.publish(_hello(payload=b"while away"))
        mosquitto.start()
        listener.wait_for(Subscribed)
        spoken.wait_for(Connected)
        speaker.publish(_hello(payload=b"after"))

        assert refused is None
        assert listener.wait_for(Received).payload == b"after"


def test_comes_back_after_the_broker_was_killed(mosquitto: Mosquitto) -> None:
    """After SIGKILL of the broker and a restart there is a new generation, subscribed again."""
    with session(_settings(mosquitto), "listener", "t/#") as (listening, listener):
        first = listener.wait_for(Subscribed)
        mosquitto.kill()
        lost = listener.wait_for(Disconnected)
        mosquitto.start()
        second = listener.wait_for(Subscribed)
        listening.publish(_hello())

        assert lost.generation == first.generation
        assert not lost.taken_over
        assert second.generation > first.generation
        assert listener.wait_for(Received).payload == b"hello"


def test_message_without_acknowledgement_comes_again(mosquitto: Mosquitto) -> None:
    """Manual acknowledgement: what was not acknowledged is delivered to the next session."""
    with (
        session(_settings(mosquitto), "speaker") as (speaker, spoken),
    ):
        spoken.wait_for(Connected)
        with session(_settings(mosquitto), "store", "t/#", manual=True) as (store, heard):
            heard.wait_for(Subscribed)
            speaker.publish(_hello(payload=b"1"))
            speaker.publish(_hello(payload=b"2"))
            acknowledged = store.acknowledge(heard.wait_for(Received))
            heard.wait_for(Received)
        with session(_settings(mosquitto), "store", "t/#", manual=True) as (_, heard):
            assert heard.wait_for(Connected).session_present
            again = heard.wait_for(Received)

            assert acknowledged
            assert again.payload == b"2"
            assert heard.none_of(Received, seconds=0.3)


def test_acknowledgement_of_an_earlier_connection_does_nothing(tmp_path: Path) -> None:
    """Packet ids start again after a lost session; a late acknowledgement confirms nobody's."""
    with Mosquitto(tmp_path, extra="persistence false\n") as broker:
        settings = _settings(broker)
        with (
            session(settings, "store", "t/#", manual=True) as (store, heard),
            session(settings, "speaker") as (speaker, spoken),
        ):
            heard.wait_for(Subscribed)
            spoken.wait_for(Connected)
            speaker.publish(_hello(payload=b"old"))
            old = heard.wait_for(Received)
            broker.kill()
            heard.wait_for(Disconnected)
            broker.start()
            heard.wait_for(Subscribed)
            spoken.wait_for(Connected)
            speaker.publish(_hello(payload=b"new"))
            new = heard.wait_for(Received)

            assert old.packet_id == new.packet_id
            assert not store.acknowledge(old)
        with session(settings, "store", "t/#", manual=True) as (_, heard):
            assert heard.wait_for(Received).payload == b"new"


def test_take_over_of_the_client_id_is_noticed(mosquitto: Mosquitto) -> None:
    """Two programs with one client id do not throw each other out for ever without a word."""
    with (
        session(_settings(mosquitto), "same") as (_, first),
        session(_settings(mosquitto), "same"),
    ):
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            lost = first.wait_for(Disconnected)
            if lost.taken_over:
                break

        assert lost.taken_over
        assert "client id same" in lost.reason


def test_wrong_password_is_a_refusal(tmp_path: Path) -> None:
    """A broker that says no is told from one that is away."""
    with Mosquitto(tmp_path, users={"press-07": "right"}) as broker:
        settings = MqttSettings(
            host=broker.host, port=broker.port, username="press-07", password="wrong"
        )
        with session(settings, "press-07") as (_, heard):
            failed = heard.wait_for(ConnectFailed)

            assert failed.refused
            assert "Not authorized" in failed.reason or "Bad user name" in failed.reason


@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"], ids=["plain", "byte-order mark"])
@pytest.mark.parametrize("end", [b"", b"\n", b"\r\n"], ids=["no end", "LF", "CRLF"])
def test_password_is_read_from_its_file(tmp_path: Path, mark: bytes, end: bytes) -> None:
    """What an editor leaves before and behind the line does not belong to the password."""
    password_file = tmp_path / "password"
    password_file.write_bytes(mark + b"right: with spaces" + end)
    with Mosquitto(tmp_path, users={"press-07": "right: with spaces"}) as broker:
        settings = MqttSettings(
            host=broker.host,
            port=broker.port,
            username="press-07",
            password_file=str(password_file),
        )
        with session(settings, "press-07") as (_, heard):
            heard.wait_for(Connected)


def test_password_file_that_is_missing_is_one_clear_problem(tmp_path: Path) -> None:
    """The problem is said before anything is connected."""
    settings = MqttSettings(username="x", password_file=str(tmp_path / "none"))

    with pytest.raises(SettingsError, match=r"password_file: .*No such file"):
        Session(settings, SessionOptions(client_id="x", expiry_seconds=0), print)


def test_broker_that_is_away_is_no_refusal() -> None:
    """Nobody listens on the port: the session keeps trying."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        settings = MqttSettings(host="127.0.0.1", port=probe.getsockname()[1])
        with session(settings, "lonely") as (_, heard):
            first = heard.wait_for(ConnectFailed)
            second = heard.wait_for(ConnectFailed)

    assert not first.refused
    assert "cannot connect" in second.reason


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(b"\x20\x02\x00\x01", id="MQTT 3 says unacceptable protocol"),
        pytest.param(b"HTTP/1.1 400 Bad Request\r\n\r\n", id="a web server"),
        pytest.param(b"", id="closes at once"),
    ],
)
def test_something_that_is_no_mqtt_5_broker_is_survived(answer: bytes) -> None:
    """Whatever answers, the session says that it failed, and tries again."""
    with _listener(answer) as port:
        settings = MqttSettings(host="127.0.0.1", port=port)
        with session(settings, "lost") as (_, heard):
            heard.wait_for(ConnectFailed)
            again = heard.wait_for(ConnectFailed)

            assert again.reason


def test_tls_with_the_right_authority_connects(tmp_path: Path) -> None:
    """The broker's certificate is checked against `ca_file`."""
    with Mosquitto(tmp_path, users={"press-07": "right"}, tls=True) as broker:
        settings = MqttSettings(
            host="localhost",
            port=broker.port,
            tls=True,
            ca_file=str(broker.ca_file),
            username="press-07",
            password="right",
        )
        with session(settings, "press-07") as (_, heard):
            heard.wait_for(Connected)


# paho 2.2 leaves the socket of a failed handshake to the garbage collector.
@pytest.mark.filterwarnings("ignore:.*SSLSocket:pytest.PytestUnraisableExceptionWarning")
def test_tls_with_a_foreign_authority_is_a_refusal(tmp_path: Path) -> None:
    """A broker whose certificate somebody else signed is not talked to."""
    foreign = CertificateAuthority(tmp_path / "foreign")
    with Mosquitto(tmp_path / "broker", users={"press-07": "right"}, tls=True) as broker:
        settings = MqttSettings(
            host="localhost", port=broker.port, tls=True, ca_file=str(foreign.ca_file)
        )
        with session(settings, "press-07") as (_, heard):
            failed = heard.wait_for(ConnectFailed)

            assert failed.refused
            assert "certificate" in failed.reason


def test_tls_files_that_are_missing_are_one_clear_problem(tmp_path: Path) -> None:
    """The problem is said before anything is connected."""
    settings = MqttSettings(tls=True, ca_file=str(tmp_path / "none.crt"))

    with pytest.raises(SettingsError, match=r"none\.crt"):
        Session(settings, SessionOptions(client_id="x", expiry_seconds=0), print)


_DYING = """
import sys, time
from contract.session import *
from contract.settings import MqttSettings
session = Session(
    MqttSettings(host="127.0.0.1", port=int(sys.argv[1])),
    SessionOptions(client_id="dying", expiry_seconds=60),
    lambda event: print(type(event).__name__, flush=True),
    will=lambda: Will(publication=Publication(topic="t/will", payload=b"lost"), delay_seconds=0),
)
session.start()
time.sleep(60)
"""


def test_will_is_published_when_the_program_is_killed(mosquitto: Mosquitto) -> None:
    """After SIGKILL the broker says what we can not say any more."""
    with session(_settings(mosquitto), "listener", "t/will") as (_, listener):
        listener.wait_for(Subscribed)
        with subprocess.Popen(
            [sys.executable, "-c", _DYING, str(mosquitto.port)],
            stdout=subprocess.PIPE,
            cwd=Path(__file__).parents[2],
        ) as dying:
            assert dying.stdout is not None
            assert dying.stdout.readline() == b"Connected\n"
            os.kill(dying.pid, signal.SIGKILL)

        assert listener.wait_for(Received).payload == b"lost"


def test_will_is_not_published_at_a_clean_stop(mosquitto: Mosquitto) -> None:
    """Who says goodbye is not reported lost."""
    will = Will(publication=_hello("t/will", b"lost"), delay_seconds=0)
    with session(_settings(mosquitto), "listener", "t/#") as (_, listener):
        listener.wait_for(Subscribed)
        with session(_settings(mosquitto), "leaving", will=lambda: will) as (_, heard):
            heard.wait_for(Connected)

        assert listener.none_of(Received, seconds=0.5)


def test_will_is_published_when_the_connection_is_cut(mosquitto: Mosquitto) -> None:
    """A stop without a goodbye is a loss to the broker."""
    will = Will(publication=_hello("t/will", b"lost"), delay_seconds=0)
    with session(_settings(mosquitto), "listener", "t/#") as (_, listener):
        listener.wait_for(Subscribed)
        with session(_settings(mosquitto), "cut", will=lambda: will) as (cut, heard):
            heard.wait_for(Connected)
            cut.stop(goodbye=False)

        assert listener.wait_for(Received).payload == b"lost"


def test_what_the_broker_grants_is_passed_on(tmp_path: Path) -> None:
    """Limits that it tells come with the connection; what it does not tell is None."""
    extra = "max_packet_size 5000\nretain_available false\n"
    with Mosquitto(tmp_path, extra=extra) as broker:
        with session(_settings(broker), "guest") as (_, heard):
            told = heard.wait_for(Connected).granted

    assert told == Granted(maximum_packet_bytes=5000, retain_available=False)


def test_session_expiry_that_the_broker_grants_is_passed_on() -> None:
    """A broker may keep a session for less than was asked for, and says so."""
    connack = b"\x20\x08\x00\x00\x05\x11\x00\x00\x0e\x10"  # Session Expiry Interval 3600
    with _listener(connack, stay=True) as port:
        with session(MqttSettings(host="127.0.0.1", port=port), "guest") as (_, heard):
            told = heard.wait_for(Connected).granted

    assert told == Granted(session_expiry_seconds=3600)


def test_more_than_the_broker_takes_is_refused_before_it_is_sent(tmp_path: Path) -> None:
    """An oversize packet would end the connection, again and again; it is never sent."""
    with Mosquitto(tmp_path, extra="max_packet_size 5000\n") as broker:
        with session(_settings(broker), "speaker") as (speaker, spoken):
            spoken.wait_for(Connected)

            with pytest.raises(PayloadTooLargeError, match="at most 5000 bytes"):
                speaker.publish(_hello(payload=b"x" * 6000))

            assert spoken.none_of(Disconnected, seconds=0.3)


def test_retained_message_comes_once_for_a_subscription_that_the_broker_keeps(
    mosquitto: Mosquitto,
) -> None:
    """With `retained=False` a reconnect to a kept session brings no retained messages again."""
    settings = _settings(mosquitto)
    with session(settings, "speaker") as (speaker, spoken):
        spoken.wait_for(Connected)
        speaker.publish(_hello(retain=True))
        spoken.wait_for(Published)
    with session(settings, "store", "t/#", retained=False) as (_, heard):
        first = heard.wait_for(Received)
    with session(settings, "store", "t/#", retained=False) as (_, heard):
        present = heard.wait_for(Connected).session_present

        assert first.retained
        assert present
        assert heard.none_of(Received, seconds=0.5)


def test_question_says_where_its_answer_is_waited_for(mosquitto: Mosquitto) -> None:
    """Response topic and correlation data of MQTT 5 arrive as they were sent."""
    with (
        session(_settings(mosquitto), "listener", "t/#") as (_, listener),
        session(_settings(mosquitto), "speaker") as (speaker, spoken),
    ):
        listener.wait_for(Subscribed)
        spoken.wait_for(Connected)
        speaker.publish(
            Publication(
                topic="t/question", payload=b"?", response_topic="t/answer", correlation=b"\x00\x17"
            )
        )
        received = listener.wait_for(Received)

        assert received.response_topic == "t/answer"
        assert received.correlation == b"\x00\x17"


def test_what_is_followed_later_brings_what_the_broker_keeps(mosquitto: Mosquitto) -> None:
    """Each time it is asked for; and nothing more once it was left."""
    settings = _settings(mosquitto)
    with (
        session(settings, "speaker") as (speaker, spoken),
        session(settings, "reader", "t/other") as (reader, heard),
    ):
        spoken.wait_for(Connected)
        speaker.publish(_hello(retain=True))
        spoken.wait_for(Published)
        heard.wait_for(Subscribed)
        for _ in range(2):
            asked = reader.follow("t/hello")
            answers = [heard.wait_for(Followed | Received) for _ in range(2)]  # type: ignore[arg-type]
            (followed,) = [a for a in answers if isinstance(a, Followed)]
            (received,) = [a for a in answers if isinstance(a, Received)]

            assert asked is not None
            assert (followed.generation, followed.packet_id) == (
                asked.generation,
                asked.packet_id,
            )
            assert followed.accepted
            assert (received.payload, received.retained) == (b"hello", True)
        reader.leave("t/hello")
        # Asked and answered after it: by now the broker has dealt with both.
        reader.follow("t/nothing")
        heard.wait_for(Followed)
        speaker.publish(_hello(payload=b"later"))

        assert heard.none_of(Received, seconds=0.5)


def test_ended_connection_leaves_no_socket(mosquitto: Mosquitto) -> None:
    """Also those by which paho wakes its loop: none waits for the garbage collector."""
    gc.collect()
    gc.disable()
    try:
        before = len(list(Path("/proc/self/fd").iterdir()))
        for _ in range(3):
            with session(_settings(mosquitto), "reader", "t/#") as (_, heard):
                heard.wait_for(Subscribed)
        after = len(list(Path("/proc/self/fd").iterdir()))
    finally:
        gc.enable()

    assert after <= before


def test_nothing_is_followed_without_a_connection() -> None:
    """The caller is told, and asks again when there is one."""
    made = Session(MqttSettings(port=1), SessionOptions(client_id="x", expiry_seconds=0), print)

    assert made.follow("t/hello") is None
    made.leave("t/hello")


def test_failure_of_the_network_thread_is_noticed_and_mended(
    mosquitto: Mosquitto, caplog: pytest.LogCaptureFixture
) -> None:
    """An exception in the loop costs the connection; a new one follows, and the log says why."""
    heard = Heard()
    failures = iter([RuntimeError("planted")])

    def deliver(event: SessionEvent) -> None:
        heard.queue.put(event)
        if isinstance(event, Received):
            for failure in failures:
                raise failure

    options = SessionOptions(
        client_id="fragile", expiry_seconds=60, subscriptions=(Subscription(topic_filter="t/#"),)
    )
    fragile = Session(_settings(mosquitto), options, deliver, policy=_Soon())
    fragile.start()
    try:
        first = heard.wait_for(Subscribed)
        fragile.publish(_hello())
        lost = heard.wait_for(Disconnected)
        second = heard.wait_for(Connected)

        assert lost.generation == first.generation
        assert "planted" in lost.reason
        assert second.generation > first.generation
        assert "network loop failed" in caplog.text
    finally:
        fragile.stop()


def test_stop_does_not_wait_for_confirmations_that_never_come() -> None:
    """A broker that answers nothing cannot keep a program from ending."""
    with _listener(b"\x20\x03\x00\x00\x00", stay=True) as port:
        settings = MqttSettings(host="127.0.0.1", port=port)
        with session(settings, "patient") as (speaker, heard):
            heard.wait_for(Connected)
            speaker.publish(_hello())
            speaker.stop(timeout_seconds=1.0)

            assert heard.none_of(Published, seconds=0.1)


@contextmanager
def _listener(answer: bytes, *, stay: bool = False) -> Iterator[int]:
    """Accepts connections and answers each with these bytes; not a broker."""
    ended = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.1)

        def serve() -> None:
            while not ended.is_set():
                try:
                    connection, _ = server.accept()
                except TimeoutError:
                    continue
                with connection:
                    connection.recv(4096)
                    connection.sendall(answer)
                    if stay:
                        ended.wait(20)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield server.getsockname()[1]
        finally:
            ended.set()
            thread.join()
