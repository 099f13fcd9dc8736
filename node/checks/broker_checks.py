"""Checks of the way to the broker, stage by stage: name, port, TLS, login, topics, collector.

What is published is one message that nobody stores and the broker forgets: an own `result` of a
command that nobody gave. The client id is the node's with "-check" behind it, since a broker ends
the connection of a running node when somebody else comes with its id. (A broker that takes the user
name for a client id, mosquitto's `use_username_as_clientid`, ends it all the same; the node comes
back by itself.)
"""

import datetime as dt
import ipaddress
import queue
import socket
import ssl
import threading
import time
from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, Final

from contract import topics
from contract.errors import MessageError, SettingsError
from contract.messages import CollectorStatus, Result, decode, encode
from contract.session import (
    Connected,
    ConnectFailed,
    Disconnected,
    Publication,
    Published,
    Received,
    SessionEvent,
    SessionOptions,
    Subscribed,
    SubscribeRefused,
    Subscription,
)
from contract.settings import MqttSettings
from contract.states import Presence
from contract.talk import Conversation
from contract.topics import Kind
from node.checks.certificate_dates import first_expiry
from node.findings import Finding, ok, problem, warning

STAGE_SECONDS: Final = 10.0
"""How long any stage may take, at most, in seconds."""
_ANSWER_SECONDS: Final = STAGE_SECONDS + 1.0
"""The session itself gives up a silent broker after ten; its words are better than ours."""
_COLLECTOR_SECONDS: Final = 1.0
"""Retained messages follow the subscription at once, and a publication was answered since."""
_MARK_EXPIRY_SECONDS: Final = 10
_SOON: Final = dt.timedelta(days=30)
_COLLECTORS: Final = topics.every_collector_status()

# OpenSSL's verification codes.
_NOT_YET_VALID: Final = 9
_EXPIRED: Final = 10
_NAME_MISMATCH: Final = (62, 64)


def broker_findings(
    mqtt: MqttSettings, *, node: str, boot: str, orders: tuple[str, ...] = ()
) -> Iterator[Finding]:
    """Every stage as it is passed; ends with the first that cannot be passed.

    Args:
        mqtt: where the broker is.
        node: the node's id.
        boot: id of this start.
        orders: topics of what it is to run, for a node that takes updates.
    """
    yield from _own_files(mqtt)
    addresses, finding = _resolved(mqtt)
    yield finding
    if not addresses:
        return
    connection, finding = _connected(mqtt, addresses)
    yield finding
    if connection is None:
        return
    with connection:
        if mqtt.tls:
            finding, passed = _secured(mqtt, connection)
            yield finding
            if not passed:
                return
        elif mqtt.username is not None and not _is_here(connection):
            yield warning(
                "broker TLS",
                "the password goes to the broker unencrypted: [mqtt] tls is off",
                "tls = true, if the broker has it",
            )
    yield from _session_findings(mqtt, node=node, boot=boot, orders=orders)


def _own_files(mqtt: MqttSettings) -> Iterator[Finding]:
    """Dates of the certificates on this side; a node that runs for a year outlives some."""
    for what, name in (
        ("CA certificate", mqtt.ca_file),
        ("client certificate", mqtt.certificate_file),
    ):
        if name is None:
            continue
        try:
            ends = first_expiry(Path(name))
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else str(error)
            yield problem("certificates", f"{name}: {reason}", "correct the path in [mqtt]")
            continue
        yield _dated("certificates", f"{what} {name}", ends)


def _dated(check: str, what: str, ends: dt.datetime) -> Finding:
    left = ends - dt.datetime.now(dt.UTC)
    if left < dt.timedelta(0):
        return problem(check, f"{what} ended on {ends:%Y-%m-%d}", "renew it, or set the clock")
    told = f"{what} is good until {ends:%Y-%m-%d}"
    if left < _SOON:
        return warning(check, f"{told}, {left.days} days from now", "renew it in time")
    return ok(check, told)


def _resolved(mqtt: MqttSettings) -> tuple[list[Any], Finding]:
    answers: queue.SimpleQueue[list[Any] | Exception] = queue.SimpleQueue()

    def ask() -> None:
        try:
            answers.put(socket.getaddrinfo(mqtt.host, mqtt.port_in_use, type=socket.SOCK_STREAM))
        except (OSError, UnicodeError) as error:
            answers.put(error)

    # The resolver takes no time-out; a thread that it keeps waiting is left behind.
    threading.Thread(target=ask, name="resolve", daemon=True).start()
    check = "broker name"
    advice = "correct [mqtt] host, or the network's DNS"
    try:
        answer = answers.get(timeout=STAGE_SECONDS)
    except queue.Empty:
        told = f"no answer for {mqtt.host} within {STAGE_SECONDS:g} s"
        return [], problem(check, told, advice)
    if isinstance(answer, Exception):
        reason = getattr(answer, "strerror", None) or str(answer)
        return [], problem(check, f"{mqtt.host} is not known: {reason}", advice)
    return answer, ok(check, f"{mqtt.host} is {answer[0][4][0]}")


def _connected(mqtt: MqttSettings, addresses: list[Any]) -> tuple[socket.socket | None, Finding]:
    ends = time.monotonic() + STAGE_SECONDS
    reason = "no answer"
    for family, kind, protocol, _, address in addresses:
        connection = socket.socket(family, kind, protocol)
        try:
            connection.settimeout(max(0.1, (ends - time.monotonic()) / 2))
            connection.connect(address)
        except OSError as error:
            connection.close()
            reason = error.strerror or str(error)
            if time.monotonic() > ends:
                break
            continue
        return connection, ok("broker port", f"{mqtt.address} takes connections")
    return None, problem(
        "broker port",
        f"{mqtt.address}: {reason}",
        "is the broker running there, does it listen on that port, does a firewall forbid it?",
    )


def _secured(mqtt: MqttSettings, connection: socket.socket) -> tuple[Finding, bool]:
    check = "broker TLS"
    try:
        context = ssl.create_default_context(cafile=mqtt.ca_file)
        if mqtt.certificate_file is not None:
            context.load_cert_chain(mqtt.certificate_file, mqtt.key_file)
    except OSError as error:
        told = f"ca_file, certificate_file or key_file cannot be used: {error}"
        return problem(check, told, "correct them in [mqtt]; PEM is expected"), False
    connection.settimeout(STAGE_SECONDS)
    try:
        with context.wrap_socket(connection, server_hostname=mqtt.host) as secured:
            certificate = secured.getpeercert() or {}
            version = secured.version()
    except ssl.SSLCertVerificationError as error:
        told = f"the broker's certificate is not accepted: {error.verify_message}"
        return problem(check, told, _verification_advice(error, mqtt)), False
    except (ssl.SSLError, OSError) as error:
        told = f"no TLS at {mqtt.address}: {error.strerror or error}"
        return problem(check, told, "is that the broker's port for TLS (often 8883)?"), False
    ends = dt.datetime.fromtimestamp(ssl.cert_time_to_seconds(str(certificate["notAfter"])), dt.UTC)
    return _dated(check, f"{version}; the broker's certificate", ends), True


def _verification_advice(error: ssl.SSLCertVerificationError, mqtt: MqttSettings) -> str:
    if error.verify_code == _NOT_YET_VALID:
        return "set this computer's clock"
    if error.verify_code == _EXPIRED:
        return "renew the broker's certificate, or set this computer's clock"
    if error.verify_code in _NAME_MISMATCH:
        return "name the broker in [mqtt] host as its certificate does"
    which = "another" if mqtt.ca_file else "the right"
    return f"give {which} [mqtt] ca_file: the authority that signed the broker's certificate"


def _session_findings(
    mqtt: MqttSettings, *, node: str, boot: str, orders: tuple[str, ...]
) -> Iterator[Finding]:
    client_id = f"{node}-check"
    commands = topics.every_command(node)
    options = SessionOptions(
        client_id=client_id,
        expiry_seconds=0,
        clean_start=True,
        subscriptions=(
            Subscription(topic_filter=commands),
            Subscription(topic_filter=_COLLECTORS),
            *(Subscription(topic_filter=order) for order in orders),
        ),
    )
    heard: list[SessionEvent] = []
    try:
        talk = Conversation(mqtt, options, see=heard.append)
    except SettingsError as error:
        yield problem("broker login", "; ".join(error.problems), "correct [mqtt]")
        return
    with talk:
        opened = talk.wait_for(Connected, ConnectFailed, seconds=_ANSWER_SECONDS)
        yield _login_finding(opened, mqtt, client_id)
        if not isinstance(opened, Connected):
            return
        answered = talk.wait_for(Subscribed, Disconnected, seconds=STAGE_SECONDS)
        yield from _subscription_findings(answered, heard, commands, orders)
        yield _publish_finding(talk, node=node, boot=boot)
        yield _collector_finding(talk, heard)


def _login_finding(
    event: Connected | ConnectFailed | None, mqtt: MqttSettings, ours: str
) -> Finding:
    check = "broker login"
    if isinstance(event, Connected):
        who = "without a user name" if mqtt.username is None else f"as {mqtt.username}"
        told = f"MQTT 5 {who}; {event.max_in_flight} messages may be unconfirmed at once"
        return ok(check, told)
    if event is None:
        return problem(check, f"no answer within {_ANSWER_SECONDS:g} s", "is it an MQTT broker?")
    if "identifier" in event.reason.lower():
        return warning(
            check,
            f"{event.reason}: this broker ties client ids to users and does not take {ours},"
            " so nothing behind the login could be checked",
            "start the node and read its log",
        )
    if not event.refused:
        return problem(check, event.reason, "check [mqtt] tls, certificate_file and the port")
    return problem(
        check,
        event.reason,
        "check [mqtt] username, password_file and certificate_file against the broker's users"
        f" (a broker that ties client ids to users may refuse just the check's id, {ours})",
    )


def _subscription_findings(
    answered: Subscribed | Disconnected | None,
    heard: Sequence[SessionEvent],
    commands: str,
    orders: tuple[str, ...],
) -> Iterator[Finding]:
    check = "broker subscribe"
    if isinstance(answered, Disconnected):
        yield problem(check, answered.reason, "read the broker's log")
        return
    if answered is None:
        yield problem(check, f"no answer within {STAGE_SECONDS:g} s", "read the broker's log")
        return
    refused = [event for event in heard if isinstance(event, SubscribeRefused)]
    for event in refused:
        tell = problem if event.topic_filter == commands else warning
        yield tell(
            check,
            f"{event.topic_filter} is refused: {event.reason}",
            "let this node read it in the broker's access list",
        )
    if not refused:
        # MQTT lets a broker grant what it will not deliver; mosquitto does so.
        granted = ", ".join((commands, *orders))
        yield ok(
            check,
            f"{granted} granted (a broker may grant this and deliver nothing:"
            f" if commands{' or updates' if orders else ''} do not arrive, see its access list)",
        )


def _publish_finding(talk: Conversation, *, node: str, boot: str) -> Finding:
    check = "broker publish"
    advice = f"let this node write to {topics.ROOT}/n/{node}/# in the broker's access list"
    topic = topics.node(node, Kind.RESULT)
    result = Result(
        node=node,
        boot=boot,
        at_us=time.time_ns() // 1000,
        verb="check",
        done=True,
        note="`node check` asked the broker whether this node may publish; nothing else happened",
    )
    delivery = talk.session.publish(
        Publication(topic=topic, payload=encode(result), expiry_seconds=_MARK_EXPIRY_SECONDS)
    )
    if delivery is None:
        return problem(check, "the connection is gone", "read the broker's log")
    answer = talk.wait_for(Published, Disconnected, seconds=STAGE_SECONDS)
    if answer is None:
        return problem(check, f"{topic}: no answer within {STAGE_SECONDS:g} s", advice)
    if isinstance(answer, Disconnected):
        return problem(check, f"{topic}: {answer.reason}", advice)
    if not answer.accepted:
        return problem(check, f"{topic} is refused: {answer.reason}", advice)
    return ok(check, f"{topic} is taken")


def _collector_finding(talk: Conversation, heard: Sequence[SessionEvent]) -> Finding:
    """Collectors tell by retained messages, which have come by now or come soon."""
    found: dict[str, Presence] = {}
    before = tuple(heard)
    for number, event in enumerate(chain(before, talk.events(_COLLECTOR_SECONDS)), start=1):
        status = _collector_status(event)
        if status is not None:
            found[status.id] = status.state
        if number >= len(before) and Presence.ONLINE in found.values():
            break
    online = sorted(name for name, state in found.items() if state is Presence.ONLINE)
    if online:
        return ok("collector", f"{', '.join(online)} online")
    away = f"{', '.join(sorted(found))} offline" if found else "none has told of itself"
    return warning(
        "collector",
        f"{away}: windows wait in the node until somebody stores them",
        f"start it (`earshot collector run`); the access list must let nodes read {_COLLECTORS}",
    )


def _collector_status(event: SessionEvent) -> CollectorStatus | None:
    if not isinstance(event, Received):
        return None
    try:
        message = decode(event.topic, event.payload)
    except MessageError:
        return None
    return message if isinstance(message, CollectorStatus) else None


def _is_here(connection: socket.socket) -> bool:
    """Whether the other end is this computer."""
    return ipaddress.ip_address(str(connection.getpeername()[0]).partition("%")[0]).is_loopback
