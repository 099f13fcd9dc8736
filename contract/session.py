"""The one careful MQTT 5 session that node, collector and training share, over paho-mqtt.

A `Session` keeps a connection to a broker for the life of a program and tells what happens as
events, handed to a `deliver` function that must only enqueue them. How paho's traps are closed:

- Every connection is a paho client of its own, numbered by a *generation*. Nothing outlives it: no
  hidden resend queue, no packet id of an earlier session acknowledged in a later one.
- The network loop runs in a thread of ours. If it dies, for whatever reason, that is noticed, told
  as `Disconnected` and followed by a new connection.
- Callbacks only enqueue; they take no lock, wait for nothing and publish nothing.
- Waiting before the next try is random and grows; it shrinks again only after a connection has
  lasted. A client id that somebody else takes over, or a broker that says no, is waited out long.
- MQTT 5 always: the broker's reason codes are passed on. QoS 2 is not offered (paho confirms such a
  message before the program has seen it).
- Clean start and session expiry are both always said.

What is lost when a connection ends (publications without a confirmation) is the caller's to send
again: it is told by `Disconnected`. An acknowledgement for an earlier generation does nothing.
"""

import logging
import random
import ssl
import threading
import time
from collections.abc import Callable
from pathlib import Path

import msgspec
from paho.mqtt.client import Client, ConnectFlags, DisconnectFlags, MQTTMessage
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode
from paho.mqtt.subscribeoptions import SubscribeOptions

from contract.errors import PayloadTooLargeError, SettingsError
from contract.settings import MqttSettings

logger = logging.getLogger(__name__)

# paho's own default; more than this unconfirmed only hides a slow link.
MAX_IN_FLIGHT = 20

NO_MATCHING_SUBSCRIBERS = 0x10
"""The broker took the message and nobody, connected or not, is subscribed: it is stored nowhere."""
_FIRST_FAILURE = 0x80
_TAKEN_OVER = 0x8E
# The broker has understood and says no: protocol version, client id, password, authorisation, ban,
# authentication method. Trying again soon would only fill its log.
_REFUSALS = frozenset({0x84, 0x85, 0x86, 0x87, 0x8A, 0x8C})
# OpenSSL: the certificate is not valid yet. A Pi without a battery clock gets there by itself.
_CERTIFICATE_NOT_YET_VALID = 9
# mosquitto 2.0 closes the older of two connections with one client id without a word; several
# short-lived connections in a row are how that looks from here.
_SHORT_LIVED_LIMIT = 3

# How long a broker may take to answer a connection; what is not MQTT often just waits.
_ANSWER_SECONDS = 10.0

# Room for topic and headers in a packet, beside its payload.
_PACKET_OVERHEAD_BYTES = 512


class Publication(msgspec.Struct, frozen=True, kw_only=True):
    """A message to publish."""

    topic: str
    payload: bytes
    qos: int = 1
    retain: bool = False
    expiry_seconds: int | None = None
    """The broker forgets the message when it could not deliver it within this time."""
    content_type: str = "application/json"
    correlation: bytes | None = None
    """Correlation data: tells whoever asked which question this answers."""
    response_topic: str | None = None
    """Where an answer is waited for."""


class Will(msgspec.Struct, frozen=True, kw_only=True):
    """What the broker publishes for us when we vanish."""

    publication: Publication
    delay_seconds: int = 20
    """How long we may be away before the will is published, so that a short loss is no news."""


class Subscription(msgspec.Struct, frozen=True, kw_only=True):
    """A topic filter, subscribed anew at every connection."""

    topic_filter: str
    qos: int = 1
    retained: bool = True
    """Whether retained messages come at every connection, or only when the broker did not know
    this subscription yet."""


class SessionOptions(msgspec.Struct, frozen=True, kw_only=True):
    """Who we are to the broker, and what it should keep for us."""

    client_id: str
    expiry_seconds: int
    """How long the broker keeps our session, and messages for it, while we are away."""
    clean_start: bool = False
    receive_maximum: int = MAX_IN_FLIGHT
    """How many messages may come before the first of them is acknowledged."""
    maximum_packet_bytes: int = 128 * 1024
    """The broker must not send us larger packets; it drops them."""
    subscriptions: tuple[Subscription, ...] = ()
    manual_acknowledge: bool = False
    """Whether a message counts as received only after `Session.acknowledge`."""


class Granted(msgspec.Struct, frozen=True, kw_only=True):
    """What the broker has said of itself when it let us in; None where it has not."""

    session_expiry_seconds: int | None = None
    """None: as long as was asked for."""
    maximum_packet_bytes: int | None = None
    retain_available: bool = True


class Connected(msgspec.Struct, frozen=True):
    """A connection stands; subscriptions have been asked for."""

    generation: int
    session_present: bool
    max_in_flight: int
    """How many QoS 1 publications may be unconfirmed at once."""
    granted: Granted = Granted()


class Subscribed(msgspec.Struct, frozen=True):
    """The broker has answered every subscription of a connection: from now on nothing is missed."""

    generation: int


class Disconnected(msgspec.Struct, frozen=True):
    """A connection that stood is gone; what was not confirmed on it must be sent again."""

    generation: int
    reason: str
    taken_over: bool
    """Somebody else connected with our client id."""


class ConnectFailed(msgspec.Struct, frozen=True):
    """A connection did not come about; another try follows."""

    reason: str
    refused: bool
    """The broker, or our check of its certificate, said no: the same settings will not do."""


class Received(msgspec.Struct, frozen=True):
    """A message came in."""

    generation: int
    packet_id: int
    topic: str
    payload: bytes
    qos: int
    retained: bool
    correlation: bytes | None = None
    response_topic: str | None = None


class Published(msgspec.Struct, frozen=True):
    """The broker has answered a publication of QoS 1."""

    generation: int
    packet_id: int
    reason_code: int
    reason: str

    @property
    def accepted(self) -> bool:
        """Whether the broker took the message (someone may or may not be subscribed to it)."""
        return self.reason_code < _FIRST_FAILURE


class Followed(msgspec.Struct, frozen=True):
    """The broker has answered `Session.follow`; what it keeps there has been sent, or follows."""

    generation: int
    packet_id: int
    accepted: bool
    reason: str


class SubscribeRefused(msgspec.Struct, frozen=True):
    """The broker does not let us hear a topic filter."""

    topic_filter: str
    reason: str


SessionEvent = (
    Connected
    | Subscribed
    | Followed
    | SubscribeRefused
    | Disconnected
    | ConnectFailed
    | Received
    | Published
)


class Delivery(msgspec.Struct, frozen=True):
    """Names a publication until its `Published` comes."""

    generation: int
    packet_id: int


class ReconnectPolicy:
    """How long to wait before the next connection: full jitter below a growing bound."""

    BASE_SECONDS = 1.0
    CAP_SECONDS = 30.0
    # After a refusal or a take-over only a person can help; the fleet must not hammer the broker.
    REFUSED_SECONDS = 60.0
    # A connection that ends sooner than this does not reset the bound: two clients with one id
    # would otherwise throw each other out once a second for ever.
    STABLE_SECONDS = 10.0

    def __init__(self, chance: random.Random | None = None) -> None:
        self._chance = chance or random.Random()
        self._failures = 0

    def delay_seconds(self, *, lasted_seconds: float, refused: bool) -> float:
        """Seconds to wait after a connection that lasted so long (0: it never stood)."""
        if refused:
            return self._chance.uniform(self.REFUSED_SECONDS, 2 * self.REFUSED_SECONDS)
        if lasted_seconds >= self.STABLE_SECONDS:
            self._failures = 0
        bound = min(self.CAP_SECONDS, self.BASE_SECONDS * 2**self._failures)
        self._failures = min(self._failures + 1, 16)
        return self._chance.uniform(0.0, bound)


class Session:
    """Stays connected to a broker until it is stopped.

    Args:
        settings: where the broker is.
        options: who we are to it.
        deliver: called with every event, in order, from the session's thread; it must only
            enqueue, and neither block for long nor raise.
        will: makes the last will, anew at each connection (its payload is frozen there).
        policy: how long to wait between connections.

    Raises:
        SettingsError: certificate, key or password file cannot be used.
    """

    def __init__(
        self,
        settings: MqttSettings,
        options: SessionOptions,
        deliver: Callable[[SessionEvent], None],
        *,
        will: Callable[[], Will] | None = None,
        policy: ReconnectPolicy | None = None,
    ) -> None:
        self._settings = settings
        self._options = options
        self._deliver = deliver
        self._will = will
        self._policy = policy or ReconnectPolicy()
        self._tls = _tls_context(settings)
        self._password = _password(settings)
        self._stopping = threading.Event()
        self._generation = 0
        self._connection: _Connection | None = None
        self._thread = threading.Thread(
            target=self._run, name=f"mqtt-{options.client_id}", daemon=True
        )

    def start(self) -> None:
        """Begin to connect; what comes of it is told by events."""
        self._thread.start()

    def publish(self, publication: Publication) -> Delivery | None:
        """Hand a message to the connection; `Published` tells when the broker has it (QoS 1).

        Returns:
            None when there is no connection: nothing was sent and nothing is queued.

        Raises:
            PayloadTooLargeError: the broker has said that it takes no packet of this size.
        """
        connection = self._connection
        return None if connection is None else connection.publish(publication)

    def follow(self, topic_filter: str) -> Delivery | None:
        """Subscribe to a topic filter until `leave`; after a reconnect it has to be asked again.

        `Followed` tells when the broker has answered; retained messages come each time. With QoS
        0: what a lost connection has swallowed is asked for again, and must not come twice.

        Returns:
            None when there is no connection.
        """
        connection = self._connection
        return None if connection is None else connection.follow(topic_filter)

    def leave(self, topic_filter: str) -> None:
        """End what `follow` began, if it has not ended by itself."""
        connection = self._connection
        if connection is not None:
            connection.leave(topic_filter)

    def acknowledge(self, message: Received) -> bool:
        """Tell the broker that a message is done with; False when its connection is gone."""
        connection = self._connection
        if connection is None or connection.generation != message.generation:
            return False
        return connection.acknowledge(message)

    def stop(self, *, timeout_seconds: float = 5.0, goodbye: bool = True) -> None:
        """Disconnect cleanly (the broker publishes no will) and end the thread.

        Without a goodbye the connection is cut, as a power cut would.
        """
        self._stopping.set()
        connection = self._connection
        if connection is not None:
            connection.disconnect() if goodbye else connection.cut()
        if self._thread.is_alive():
            self._thread.join(timeout_seconds)

    def _run(self) -> None:
        said: str | None = None
        short_lived = 0
        while not self._stopping.is_set():
            self._generation += 1
            outcome, lasted_seconds = _Connection(self, self._generation).run()
            if self._stopping.is_set():
                return
            if isinstance(outcome, Disconnected):
                short = lasted_seconds < ReconnectPolicy.STABLE_SECONDS
                short_lived = short_lived + 1 if short else 0
                if short_lived >= _SHORT_LIVED_LIMIT:
                    outcome = _suspected_take_over(outcome, self._options.client_id)
            # One line when it breaks, not one per try.
            if lasted_seconds or outcome.reason != said:
                said = outcome.reason
                logger.warning("MQTT %s: %s", self._settings.address, said)
            refused = outcome.refused if isinstance(outcome, ConnectFailed) else outcome.taken_over
            delay = self._policy.delay_seconds(lasted_seconds=lasted_seconds, refused=refused)
            self._deliver(outcome)
            logger.debug("MQTT: next try in %.1f s", delay)
            self._stopping.wait(delay)

    def _opened(self, connection: "_Connection", event: Connected) -> None:
        self._connection = connection
        # Looked at after the line above, as `stop` does it the other way round: one of us sees it.
        if self._stopping.is_set():
            connection.disconnect()
        logger.info("MQTT %s: connected", self._settings.address)
        self._deliver(event)

    def _closed(self) -> None:
        self._connection = None


class _Connection:
    """One paho client, from its connect to its end."""

    def __init__(self, session: Session, generation: int) -> None:
        self.generation = generation
        self._session = session
        self._max_packet_bytes: int | None = None
        self._opened_at: float | None = None
        self._end: ConnectFailed | Disconnected | None = None
        self._cut = False
        self._subscribe_packet_id: int | None = None
        """Of the subscriptions that every connection begins with."""
        self._client = self._new_client()

    def run(self) -> tuple[ConnectFailed | Disconnected, float]:
        """Connect, stay until the connection ends, and say why and how long it stood."""
        settings = self._session._settings
        options = self._session._options
        properties = Properties(PacketTypes.CONNECT)
        properties.SessionExpiryInterval = options.expiry_seconds
        properties.ReceiveMaximum = options.receive_maximum
        properties.MaximumPacketSize = options.maximum_packet_bytes
        try:
            self._client.connect(
                settings.host,
                settings.port_in_use,
                keepalive=settings.keepalive_seconds,
                clean_start=options.clean_start,
                properties=properties,
            )
        except ssl.SSLCertVerificationError as error:
            early = error.verify_code == _CERTIFICATE_NOT_YET_VALID
            return ConnectFailed(f"broker's certificate: {error.verify_message}", not early), 0.0
        except (OSError, ValueError) as error:
            return ConnectFailed(f"cannot connect: {error}", refused=False), 0.0
        try:
            # Not loop_forever: only loop() and loop_start() make the socket pair by which a
            # publication wakes the loop, and only here an exception comes out.
            answer_due = time.monotonic() + _ANSWER_SECONDS
            while self._client.loop(timeout=1.0) == MQTTErrorCode.MQTT_ERR_SUCCESS:
                if self._cut:
                    break
                if self._opened_at is not None:
                    continue
                # `stop` ends a connection that stands; one that does not stand yet ends here.
                if self._session._stopping.is_set():
                    break
                if time.monotonic() > answer_due:
                    self._ended(f"silence for {_ANSWER_SECONDS:g} s")
                    break
        except Exception as error:
            # The loop runs paho's parser on what the broker sent, and our callbacks: whatever
            # breaks there must cost this connection only, never the session.
            logger.exception("MQTT: the network loop failed")
            self._ended(f"network loop failed: {error}")
        finally:
            self._session._closed()
            self._close_socket()
            self._let_go()
        self._ended("the broker closed the connection")
        assert self._end is not None
        lasted = 0.0 if self._opened_at is None else time.monotonic() - self._opened_at
        return self._end, lasted

    def publish(self, publication: Publication) -> Delivery | None:
        size = len(publication.payload) + len(publication.topic) + _PACKET_OVERHEAD_BYTES
        if self._max_packet_bytes is not None and size > self._max_packet_bytes:
            raise PayloadTooLargeError(
                f"Expected at most {self._max_packet_bytes} bytes in a packet (the broker's limit),"
                f" got {size} for {publication.topic}"
            )
        info = self._client.publish(
            publication.topic,
            publication.payload,
            qos=publication.qos,
            retain=publication.retain,
            properties=_publish_properties(publication, PacketTypes.PUBLISH),
        )
        # Not connected any more: this client's queue dies with it, nothing will be sent later.
        if info.rc == MQTTErrorCode.MQTT_ERR_NO_CONN:
            return None
        return Delivery(self.generation, info.mid)

    def follow(self, topic_filter: str) -> Delivery | None:
        options = _subscribe_options(Subscription(topic_filter=topic_filter, qos=0))
        result, packet_id = self._client.subscribe([(topic_filter, options)])
        if result != MQTTErrorCode.MQTT_ERR_SUCCESS or packet_id is None:
            return None
        return Delivery(self.generation, packet_id)

    def leave(self, topic_filter: str) -> None:
        self._client.unsubscribe(topic_filter)

    def acknowledge(self, message: Received) -> bool:
        return self._client.ack(message.packet_id, message.qos) == MQTTErrorCode.MQTT_ERR_SUCCESS

    def disconnect(self) -> None:
        self._client.disconnect()

    def cut(self) -> None:
        self._cut = True

    def _new_client(self) -> Client:
        session = self._session
        client = Client(
            CallbackAPIVersion.VERSION2,
            client_id=session._options.client_id,
            protocol=MQTTProtocolVersion.MQTTv5,
            manual_ack=session._options.manual_acknowledge,
            reconnect_on_failure=False,
        )
        if session._settings.username is not None:
            client.username_pw_set(session._settings.username, session._password)
        if session._tls is not None:
            client.tls_set_context(session._tls)
        if session._will is not None:
            will = session._will()
            properties = _publish_properties(will.publication, PacketTypes.WILLMESSAGE)
            properties.WillDelayInterval = will.delay_seconds
            client.will_set(
                will.publication.topic,
                will.publication.payload,
                qos=will.publication.qos,
                retain=will.publication.retain,
                properties=properties,
            )
        client.on_connect = self._on_connect
        client.on_disconnect = self._on_disconnect
        client.on_message = self._on_message
        client.on_publish = self._on_publish
        client.on_subscribe = self._on_subscribe
        # With this set, paho leaves all writing to the loop's thread. Otherwise `publish` writes to
        # the socket in the caller's thread, while the loop may be in the middle of a packet.
        client.on_socket_register_write = _leave_writing_to_the_loop
        return client

    def _on_connect(
        self,
        client: Client,
        userdata: object,
        flags: ConnectFlags,
        reason: ReasonCode,
        properties: Properties | None,
    ) -> None:
        if reason.is_failure:
            self._end = ConnectFailed(
                f"the broker refused the connection: {reason}", reason.value in _REFUSALS
            )
            return
        options = self._session._options
        self._opened_at = time.monotonic()
        granted = Granted(
            session_expiry_seconds=getattr(properties, "SessionExpiryInterval", None),
            maximum_packet_bytes=getattr(properties, "MaximumPacketSize", None),
            retain_available=bool(getattr(properties, "RetainAvailable", True)),
        )
        self._max_packet_bytes = granted.maximum_packet_bytes
        if options.subscriptions:
            _, self._subscribe_packet_id = client.subscribe(
                [(s.topic_filter, _subscribe_options(s)) for s in options.subscriptions]
            )
        in_flight = min(MAX_IN_FLIGHT, getattr(properties, "ReceiveMaximum", MAX_IN_FLIGHT))
        self._session._opened(
            self, Connected(self.generation, flags.session_present, in_flight, granted)
        )

    def _on_disconnect(
        self,
        client: Client,
        userdata: object,
        flags: DisconnectFlags,
        reason: ReasonCode,
        properties: Properties | None,
    ) -> None:
        if flags.is_disconnect_packet_from_server:
            self._ended(f"the broker ended the connection: {reason}", reason.value == _TAKEN_OVER)
        elif reason.is_failure:
            self._ended(f"connection lost: {reason}")

    def _on_message(self, client: Client, userdata: object, message: MQTTMessage) -> None:
        try:
            topic = message.topic
        except UnicodeDecodeError:
            topic = "not UTF-8"
        self._session._deliver(
            Received(
                self.generation,
                message.mid,
                topic,
                bytes(message.payload),
                message.qos,
                message.retain,
                getattr(message.properties, "CorrelationData", None),
                getattr(message.properties, "ResponseTopic", None),
            )
        )

    def _on_publish(
        self,
        client: Client,
        userdata: object,
        packet_id: int,
        reason: ReasonCode,
        properties: Properties | None,
    ) -> None:
        self._session._deliver(Published(self.generation, packet_id, reason.value, str(reason)))

    def _on_subscribe(
        self,
        client: Client,
        userdata: object,
        packet_id: int,
        reasons: list[ReasonCode],
        properties: Properties | None,
    ) -> None:
        if packet_id != self._subscribe_packet_id:
            failed = any(reason.is_failure for reason in reasons)
            self._session._deliver(
                Followed(self.generation, packet_id, not failed, ", ".join(map(str, reasons)))
            )
            return
        for subscription, reason in zip(
            self._session._options.subscriptions, reasons, strict=False
        ):
            if reason.is_failure:
                self._session._deliver(SubscribeRefused(subscription.topic_filter, str(reason)))
        self._session._deliver(Subscribed(self.generation))

    def _ended(self, reason: str, taken_over: bool = False) -> None:
        """Keep the first reason: what comes after it is a consequence."""
        if self._end is not None:
            return
        if self._opened_at is not None:
            self._end = Disconnected(self.generation, reason, taken_over)
        else:
            self._end = ConnectFailed(
                f"no MQTT 5 answer ({reason}); it may want TLS, a client certificate,"
                " or speak an older MQTT",
                refused=False,
            )

    def _let_go(self) -> None:
        """Break the circle of client and callbacks.

        paho closes the pair of sockets by which a publication wakes the loop only as the client
        goes, and in a circle nobody knows when, or in which order, that is.
        """
        client = self._client
        client.on_connect = client.on_disconnect = None
        client.on_message = client.on_publish = client.on_subscribe = None

    def _close_socket(self) -> None:
        left = self._client.socket()
        if left is not None:
            left.close()


def _suspected_take_over(outcome: Disconnected, client_id: str) -> Disconnected:
    return Disconnected(
        outcome.generation,
        f"{outcome.reason}; {_SHORT_LIVED_LIMIT} short connections in a row:"
        f" does another program use the client id {client_id}?",
        taken_over=True,
    )


def _leave_writing_to_the_loop(*_: object) -> None:
    pass


def _publish_properties(publication: Publication, packet: int) -> Properties:
    properties = Properties(packet)
    properties.ContentType = publication.content_type
    if publication.expiry_seconds is not None:
        properties.MessageExpiryInterval = publication.expiry_seconds
    if publication.correlation is not None:
        properties.CorrelationData = publication.correlation
    if publication.response_topic is not None:
        properties.ResponseTopic = publication.response_topic
    return properties


def _subscribe_options(subscription: Subscription) -> SubscribeOptions:
    handling = (
        SubscribeOptions.RETAIN_SEND_ON_SUBSCRIBE
        if subscription.retained
        else SubscribeOptions.RETAIN_SEND_IF_NEW_SUB
    )
    return SubscribeOptions(qos=subscription.qos, retainHandling=handling)


def _tls_context(settings: MqttSettings) -> ssl.SSLContext | None:
    if not settings.tls:
        return None
    try:
        context = ssl.create_default_context(cafile=settings.ca_file)
        if settings.certificate_file is not None:
            # An empty pass phrase: else OpenSSL would ask for one at the terminal, for ever.
            context.load_cert_chain(settings.certificate_file, settings.key_file, password="")
    except OSError as error:
        raise SettingsError(
            "mqtt",
            [
                f"cannot use ca_file {settings.ca_file}, certificate_file"
                f" {settings.certificate_file} or key_file {settings.key_file} (without a pass"
                f" phrase): {error}"
            ],
        ) from error
    return context


def _password(settings: MqttSettings) -> str | None:
    if settings.password_file is None:
        return settings.password
    try:
        return Path(settings.password_file).read_text("utf-8-sig").rstrip("\r\n")
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError("mqtt", [f"password_file: {error}"]) from error
