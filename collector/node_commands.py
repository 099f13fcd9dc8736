"""Tells one node to do something, and waits for its answer."""

import secrets
import time

from contract import topics
from contract.errors import BrokerUnreachableError, EarshotError
from contract.messages import Command, Result, decode, encode
from contract.session import (
    Publication,
    Published,
    Received,
    SessionEvent,
    SubscribeRefused,
)
from contract.settings import MqttSettings
from contract.talk import Conversation, passing
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
    results = topics.node(node, Kind.RESULT)
    publication = Publication(
        topic=topics.command(node, verb),
        payload=encode(message),
        expiry_seconds=EXPIRY_SECONDS,
        correlation=correlation,
        response_topic=results,
    )
    deadline = time.monotonic() + seconds
    with Conversation(broker, passing("command", results), see=_see) as talk:
        try:
            talk.open(seconds=seconds)
        except BrokerUnreachableError as error:
            why = "" if talk.reason is None else f" ({talk.reason})"
            raise CommandFailedError(
                f"no answer within {seconds:g} s from the broker at {broker.address}{why}"
            ) from error
        answer = talk.ask(publication, seconds=deadline - time.monotonic())
    match answer:
        case Received():
            result = decode(answer.topic, answer.payload)
            assert isinstance(result, Result), "a result's topic carries nothing else"
            return result
        case Published() if not answer.accepted:
            raise CommandFailedError(f"the broker refuses the command: {answer.reason}")
        case Published():
            raise CommandFailedError(f"no node {node} is connected to {broker.address}")
        case None:
            raise CommandFailedError(
                f"no answer within {seconds:g} s from {node}: is it online, and may it hear"
                " commands?"
            )


def _see(event: SessionEvent) -> None:
    if isinstance(event, SubscribeRefused):
        raise CommandFailedError(f"the broker does not let us hear answers: {event.reason}")
