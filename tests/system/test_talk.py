"""Conversations with a real broker: questions, answers, and what comes instead of them."""

import secrets
import threading
import time
from pathlib import Path

import pytest

from contract.errors import BrokerUnreachableError, ConnectionRefusedByBrokerError
from contract.session import (
    NO_MATCHING_SUBSCRIBERS,
    Connected,
    Disconnected,
    Publication,
    Published,
    Received,
    ReconnectPolicy,
    SessionEvent,
    SessionOptions,
    Subscription,
)
from contract.settings import MqttSettings
from contract.talk import Conversation, passing
from tests.rig.brokers import Mosquitto
from tests.rig.peers import Peer, connected, mqtt
from tests.rig.ports import free_port

ANSWERS = "t/answers"


class Soon(ReconnectPolicy):
    """Tests do not wait for the fleet's sake."""

    def delay_seconds(self, *, lasted_seconds: float, refused: bool) -> float:
        return 0.05


def question(correlation: bytes | None = None) -> Publication:
    return Publication(
        topic="t/questions",
        payload=b"?",
        correlation=correlation or secrets.token_bytes(8),
        response_topic=ANSWERS,
    )


def answer(peer: Peer, *, also: bytes | None = None) -> None:
    """Give an answer to the next question; before it, one to another's."""
    asked = peer.expect(Received)
    for correlation in (also, asked.correlation):
        said = Publication(topic=ANSWERS, payload=b"!", correlation=correlation)
        peer.session.publish(said)


def test_answer_is_told_from_those_to_others(mosquitto: Mosquitto) -> None:
    """The correlation data decides; an answer that somebody else waits for is none."""
    with (
        connected(mqtt(mosquitto), "node", "t/questions") as node,
        Conversation(mqtt(mosquitto), passing("asks", ANSWERS)) as talk,
    ):
        assert talk.open(seconds=60)
        thread = threading.Thread(target=answer, args=(node,), kwargs={"also": b"another's"})
        thread.start()
        asked = question()
        found = talk.ask(asked, seconds=10)
        thread.join()

    assert isinstance(found, Received)
    assert found.correlation == asked.correlation


def test_question_to_nobody_is_known_at_once(mosquitto: Mosquitto) -> None:
    """Where the broker tells that nobody is subscribed, there is no waiting."""
    with Conversation(mqtt(mosquitto), passing("asks", ANSWERS)) as talk:
        talk.open(seconds=60)
        began = time.monotonic()
        found = talk.ask(question(), seconds=10)

    assert isinstance(found, Published)
    assert found.reason_code == NO_MATCHING_SUBSCRIBERS
    assert time.monotonic() - began < 5


def test_silence_ends_after_its_time(mosquitto: Mosquitto) -> None:
    """Who hears the question need not answer it."""
    with (
        connected(mqtt(mosquitto), "node", "t/questions"),
        Conversation(mqtt(mosquitto), passing("asks", ANSWERS)) as talk,
    ):
        talk.open(seconds=60)
        began = time.monotonic()

        assert talk.ask(question(), seconds=0.5) is None
        assert 0.5 <= time.monotonic() - began < 5


def test_question_is_asked_again_after_a_lost_connection(mosquitto: Mosquitto) -> None:
    """What the first connection left open is asked over the next one, and answered there."""
    answered = threading.Event()

    def outage(node: Peer) -> None:
        node.expect(Received)
        mosquitto.stop()
        mosquitto.start()
        while not answered.is_set():
            asked = node.wait_for(Received, seconds=0.5)
            if asked is not None:
                said = Publication(topic=ANSWERS, payload=b"!", correlation=asked.correlation)
                node.session.publish(said)

    with (
        connected(mqtt(mosquitto), "node", "t/questions", expiry_seconds=3600) as node,
        Conversation(mqtt(mosquitto), passing("asks", ANSWERS), policy=Soon()) as talk,
    ):
        talk.open(seconds=60)
        thread = threading.Thread(target=outage, args=(node,))
        thread.start()
        found = talk.ask(question(), seconds=30)
        answered.set()
        thread.join()

    assert isinstance(found, Received)


def test_no_broker_is_told_with_the_reason() -> None:
    """After the time that was given, and not before."""
    nowhere = MqttSettings(host="127.0.0.1", port=free_port())
    with (
        Conversation(nowhere, passing("asks"), policy=Soon()) as talk,
        pytest.raises(BrokerUnreachableError, match=r"no connection to .* in 0.5 s: .*refused"),
    ):
        talk.open(seconds=0.5)


def test_broker_that_says_no_ends_the_wait(tmp_path: Path) -> None:
    """Another try with the same settings would not help."""
    with (
        Mosquitto(tmp_path / "broker", users={"a": "b"}) as broker,
        Conversation(mqtt(broker), passing("asks")) as talk,
        pytest.raises(ConnectionRefusedByBrokerError, match=f"MQTT 127.0.0.1:{broker.port}: "),
    ):
        talk.open(seconds=60)


def test_waking_ends_every_wait(mosquitto: Mosquitto) -> None:
    """As a signal handler does, from another thread."""
    with Conversation(mqtt(mosquitto), passing("asks", "t/#")) as talk:
        talk.open(seconds=60)
        timer = threading.Timer(0.2, talk.wake)
        timer.start()
        began = time.monotonic()

        assert list(talk.events(30)) == []
        assert talk.woken
        assert time.monotonic() - began < 10
        timer.join()


def test_everything_is_confirmed_however_much_it_is(mosquitto: Mosquitto) -> None:
    """A thousand messages, twenty at once."""
    with (
        connected(mqtt(mosquitto), "hears", "t/#") as ear,
        Conversation(mqtt(mosquitto), passing("says")) as talk,
    ):
        talk.open(seconds=60)
        answers = talk.say(Publication(topic="t/x", payload=b"%d" % n) for n in range(1000))
        came = [ear.expect(Received).payload for _ in range(1000)]

    assert [answer.accepted for answer in answers] == [True] * 1000
    assert came == [b"%d" % n for n in range(1000)]


def test_saying_something_without_a_connection_fails(mosquitto: Mosquitto) -> None:
    """It is told, and not waited for."""
    with Conversation(mqtt(mosquitto), passing("says")) as talk:
        talk.open(seconds=60)
        mosquitto.stop()
        assert talk.wait_for(Disconnected, seconds=10)

        with pytest.raises(BrokerUnreachableError, match="the connection is gone"):
            talk.say([Publication(topic="t/x", payload=b"x")])


def test_what_sees_may_end_a_wait(mosquitto: Mosquitto) -> None:
    """What it raises comes out where somebody waits."""

    class EnoughError(Exception):
        """What this caller makes of a message."""

    def see(event: SessionEvent) -> None:
        if isinstance(event, Received):
            raise EnoughError

    with Conversation(mqtt(mosquitto), passing("hears", "t/#"), see=see) as talk:
        talk.open(seconds=60)
        talk.session.publish(Publication(topic="t/x", payload=b"x"))
        with pytest.raises(EnoughError):
            talk.wait_for(Disconnected, seconds=10)


def test_kept_session_is_open_with_its_connection(mosquitto: Mosquitto) -> None:
    """Its subscriptions are there already; what waits is seen, in order."""
    options = SessionOptions(
        client_id="kept", expiry_seconds=60, subscriptions=(Subscription(topic_filter="t/#"),)
    )
    with Conversation(mqtt(mosquitto), options) as first:
        assert first.open(seconds=60)
    with connected(mqtt(mosquitto), "speaker") as speaker:
        for number in range(3):
            speaker.tell("t/x", b"%d" % number)
    seen: list[SessionEvent] = []
    with Conversation(mqtt(mosquitto), options, see=seen.append) as again:
        assert again.open(seconds=60)
        assert again.connection is not None
        assert again.connection.session_present
        assert again.wait_until(
            lambda: sum(isinstance(event, Received) for event in seen) == 3, seconds=10
        )

    assert isinstance(seen[0], Connected)
    assert [e.payload for e in seen if isinstance(e, Received)] == [b"0", b"1", b"2"]
