"""Tells one node to do something, and waits for its answer."""

import queue
import secrets
import time

from contract import topics
from contract.errors import ConnectionRefusedByBrokerError, EarshotError
from contract.messages import Command, Result, decode, encode
from contract.session import (
    NO_MATCHING_SUBSCRIBERS,
    ConnectFailed,
    Publication,
    Published,
    Received,
    Session,
    SessionEvent,
    SessionOptions,
    Subscribed,
    SubscribeRefused,
    Subscription,
)
from contract.settings import MqttSettings
from contract.topics import Kind

# A node that does not hear it by then must not obey it later, when nobody remembers.
EXPIRY_SECONDS = 60


class CommandFailedError(EarshotError):
    """Nobody has taken the command, or answered it."""


def send_command(
    broker: MqttSettings, node: str, verb: str, *, minutes: float | None, seconds: float
) -> Result:
    """Send a command and give the node's answer.

    Args:
        broker: where the node is connected.
        node: its id.
        verb: one of `contract.topics.VERBS`.
        minutes: for `calibrate` alone; 0 ends a calibration.
        seconds: how long to wait for the answer.

    Raises:
        TopicError: no such verb, or no possible id.
        ConnectionRefusedByBrokerError: the broker does not let us in.
        CommandFailedError: minutes for another verb; no broker, no node, or no answer.
    """
    if minutes is not None and verb != "calibrate":
        raise CommandFailedError(
            f"{verb} takes no minutes and cannot be cancelled: --minutes and --cancel are for"
            " calibrate"
        )
    correlation = secrets.token_bytes(8)
    message = Command(node=node, at_us=time.time_ns() // 1000, minutes=minutes)
    publication = Publication(
        topic=topics.command(node, verb),
        payload=encode(message),
        expiry_seconds=EXPIRY_SECONDS,
        correlation=correlation,
        response_topic=topics.node(node, Kind.RESULT),
    )
    events: queue.SimpleQueue[SessionEvent] = queue.SimpleQueue()
    options = SessionOptions(
        client_id=f"command-{secrets.token_hex(4)}",
        expiry_seconds=0,
        clean_start=True,
        subscriptions=(Subscription(topic_filter=topics.node(node, Kind.RESULT)),),
    )
    session = Session(broker, options, events.put)
    session.start()
    try:
        return _answer(session, events, publication, seconds=seconds, node=node, broker=broker)
    finally:
        session.stop()


def _answer(
    session: Session,
    events: "queue.SimpleQueue[SessionEvent]",
    publication: Publication,
    *,
    seconds: float,
    node: str,
    broker: MqttSettings,
) -> Result:
    deadline, waits_for = time.monotonic() + seconds, f"the broker at {broker.address}"
    while (left := deadline - time.monotonic()) > 0:
        try:
            event = events.get(timeout=left)
        except queue.Empty:
            break
        match event:
            case ConnectFailed() if event.refused:
                raise ConnectionRefusedByBrokerError(event.reason)
            case ConnectFailed():
                waits_for = f"the broker at {broker.address} ({event.reason})"
            case SubscribeRefused():
                raise CommandFailedError(f"the broker does not let us hear answers: {event.reason}")
            case Subscribed():
                session.publish(publication)
                waits_for = f"{node}: is it online, and may it hear commands?"
            case Published() if not event.accepted:
                raise CommandFailedError(f"the broker refuses the command: {event.reason}")
            case Published() if event.reason_code == NO_MATCHING_SUBSCRIBERS:
                raise CommandFailedError(f"no node {node} is connected to {broker.address}")
            case Received() if event.correlation == publication.correlation:
                result = decode(event.topic, event.payload)
                assert isinstance(result, Result), "a result's topic carries nothing else"
                return result
            case _:
                pass
    raise CommandFailedError(f"no answer within {seconds:g} s from {waits_for}")
