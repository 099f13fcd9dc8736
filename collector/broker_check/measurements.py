"""What a broker really does with a fleet's messages, measured from outside.

Brokers say "Success" to messages that they drop. So this puts one to the test from outside, with
connections and topics of its own (`contract.topics.check`), of which no program of a fleet hears.
`measure` does that and gives a row for each thing. All is taken back at the end, also after Ctrl-C;
what a SIGKILL leaves behind expires by itself.

What the broker keeps over a restart of its own cannot be seen from outside.
"""

import secrets
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager, suppress
from enum import StrEnum

import msgspec

from collector.presence import SESSION_EXPIRY_SECONDS
from contract import topics
from contract.errors import (
    EXIT_BAD_INPUT,
    BrokerUnreachableError,
    ConnectionRefusedByBrokerError,
    EarshotError,
    PayloadTooLargeError,
)
from contract.session import (
    MAX_IN_FLIGHT,
    NO_MATCHING_SUBSCRIBERS,
    Connected,
    ConnectFailed,
    Disconnected,
    Publication,
    Published,
    Received,
    SessionEvent,
    SessionOptions,
    SubscribeRefused,
    Subscription,
    Will,
)
from contract.settings import MqttSettings
from contract.talk import Conversation

EXIT_LOSES = 1
"""The broker will lose data."""
EXIT_UNKNOWN = EXIT_BAD_INPUT
"""It may: something that can be measured was not."""

CHUNK_BYTES = 33 * 1024
"""The largest message of a fleet: a chunk of a release, or a backlog, and room to spare."""
_LARGE_BYTES = 128 * 1024
# Where a chunk does not pass, retaining is tried with what does.
_SMALL_BYTES = 1024
# About a window's: a limit in bytes then shows as it would for windows.
_MESSAGE_BYTES = 400
_RECEIVE_MAXIMUM = 100
_WILL_DELAY_SECONDS = 2

# If we are killed, the broker forgets our messages and sessions after this.
_KEEP_SECONDS = 3600
# More than `Session` waits for an answer to its CONNECT.
_OPEN_SECONDS = 20.0
_QUIET_SECONDS = 1.0
# Retained messages and wills may come a moment after what was sent later.
_LATE_SECONDS = 5.0

_MARK = b"behind all that waited"

_ALLOW = (
    f"allow `topic readwrite {topics.every_check()}` for this user, or run the check as an operator"
)
_READ_LOG = "read the broker's log"


class Verdict(StrEnum):
    """What a measurement means for a fleet."""

    GOOD = "good"
    SLOW = "slow"
    """Nothing is lost, but it takes longer than it could."""
    MISLEADS = "misleads"
    """Nothing is lost, but somebody is told what is not so."""
    LOSES = "will lose data"
    UNMEASURED = "not measured"


class Row(msgspec.Struct, frozen=True):
    """One thing that a broker does, or does not."""

    what: str
    measured: str
    verdict: Verdict
    advice: str | None = None
    """What to do about it."""
    measurable: bool = True
    """Whether a check could know at all."""


class _NotMeasured(Exception):
    """Why something could not be measured."""

    def __init__(self, reason: str, advice: str | None = None) -> None:
        self.advice = advice
        super().__init__(reason)


def exit_code(rows: Iterable[Row]) -> int:
    """0 when all is known and nothing will be lost."""
    rows = list(rows)
    if any(row.verdict is Verdict.LOSES for row in rows):
        return EXIT_LOSES
    unknown = any(row.verdict is Verdict.UNMEASURED and row.measurable for row in rows)
    return EXIT_UNKNOWN if unknown else 0


def measure(broker: MqttSettings, *, messages: int) -> Generator[Row, None, None]:
    """Put a broker to the test; takes half a minute.

    Args:
        broker: where it is.
        messages: how many to publish for a client that is away; more than the 100 that it allows
            to be sent at once, so that the two can be told apart.

    Raises:
        ConnectionRefusedByBrokerError: the broker says no.
        BrokerUnreachableError: there is none that speaks MQTT 5.
    """
    check = _Check(broker, messages)
    yield check.connects()
    yield from _guarded(check.keeps_session, _SESSION)
    denied = check.denied()
    for measurement, *names in (
        (check.queues, _QUEUE, _AT_ONCE),
        (check.carries_chunks, _SIZE),
        (check.retains, _RETAINED),
        (check.publishes_will, _WILL),
        (check.tells_of_nobody, _NOBODY),
    ):
        yield from _guarded(measurement, *names, denied=denied)
    yield Row(
        "restart of the broker",
        "cannot be seen from outside",
        Verdict.UNMEASURED,
        "have the broker keep sessions and messages on disk (mosquitto: persistence true,"
        " autosave_interval 30), and look after a restart whether they are still there",
        measurable=False,
    )


_SESSION = "session of who is away"
_QUEUE = "messages for who is away"
_AT_ONCE = "unacknowledged at once"
_SIZE = "largest message"
_RETAINED = "retained message"
_WILL = "last will"
_NOBODY = "nobody subscribed"


def _guarded(
    measurement: Callable[[], list[Row]], *names: str, denied: _NotMeasured | None = None
) -> Iterator[Row]:
    """The rows of a measurement, or why there are none."""
    try:
        if denied is not None:
            raise denied
        yield from measurement()
    except (_NotMeasured, EarshotError) as error:
        advice = error.advice if isinstance(error, _NotMeasured) else "run the check again"
        for name in names:
            yield Row(name, f"could not be measured: {error}", Verdict.UNMEASURED, advice)


class _Peer(Conversation):
    """One connection of ours, and what has come over it; one that is lost ends a measurement."""

    def __init__(
        self, broker: MqttSettings, options: SessionOptions, *, will: Will | None, goodbye: bool
    ) -> None:
        super().__init__(broker, options, see=self._keep, will=will, goodbye=goodbye)
        self.received: list[Received] = []

    @property
    def connected(self) -> Connected:
        """What the broker said when it let us in."""
        assert self.connection is not None, "only peers that are connected are handed out"
        return self.connection

    def hears(self, seconds: float) -> bool:
        """Wait for the next message."""
        return self.wait_for(Received, seconds=seconds) is not None

    def publish(self, publications: Iterable[Publication]) -> list[Published]:
        """Publish, no faster than the broker confirms; its answers."""
        try:
            return self.say(publications)
        except BrokerUnreachableError as error:
            raise _NotMeasured(str(error), _READ_LOG) from error

    def _keep(self, event: SessionEvent) -> None:
        match event:
            case Received():
                self.received.append(event)
            case SubscribeRefused():
                raise _NotMeasured(f"not allowed to subscribe ({event.reason})", _ALLOW)
            case Disconnected():
                raise _NotMeasured(event.reason, _READ_LOG)
            case ConnectFailed() if event.refused:
                raise ConnectionRefusedByBrokerError(event.reason)
            case ConnectFailed():
                raise BrokerUnreachableError(event.reason)
            case _:
                pass


class _Check:
    """The measurements; each takes back what it has done."""

    def __init__(self, broker: MqttSettings, messages: int) -> None:
        self._broker = broker
        self._messages = messages
        self._run = secrets.token_hex(4)
        self._takes_chunks = False

    def connects(self) -> Row:
        """Without this there is nothing else to measure."""
        try:
            with self._peer("hello") as peer:
                in_flight = peer.connected.max_in_flight
        except ConnectionRefusedByBrokerError as error:
            raise ConnectionRefusedByBrokerError(f"MQTT {self._broker.address}: {error}") from error
        except (BrokerUnreachableError, _NotMeasured) as error:
            raise BrokerUnreachableError(
                f"no MQTT 5 connection to {self._broker.address}: {error}"
            ) from error
        who = f"as {self._broker.username}" if self._broker.username else "without a user name"
        measured = f"lets us in {who}; {in_flight} messages may be unconfirmed"
        return Row("MQTT 5", measured, Verdict.GOOD)

    def denied(self) -> _NotMeasured | None:
        """Why nothing can be measured that needs messages."""
        try:
            with self._peer("hello", "hello") as peer:
                [answer] = peer.publish([self._message("hello")])
                if not answer.accepted:
                    return _NotMeasured(f"not allowed to publish ({answer.reason})", _ALLOW)
                if not peer.wait_until(lambda: bool(peer.received), seconds=_LATE_SECONDS):
                    # MQTT lets a broker grant a subscription that it will not serve.
                    return _NotMeasured("not allowed (subscribed, and nothing comes)", _ALLOW)
        except _NotMeasured as error:
            return error
        except EarshotError as error:
            return _NotMeasured(str(error), "run the check again")
        return None

    def keeps_session(self) -> list[Row]:
        """Whether the broker knows a client that comes back, and for how long."""
        asked = SESSION_EXPIRY_SECONDS
        with self._forgetting("away"):
            with self._peer("away", expiry_seconds=asked) as first:
                granted = first.connected.granted.session_expiry_seconds
            with self._peer("away", expiry_seconds=asked) as again:
                present = again.connected.session_present
        kept = asked if granted is None else granted
        if not present:
            measured, verdict = "gone after a reconnect", Verdict.LOSES
        elif kept < asked:
            measured, verdict = f"kept, but for {_duration(kept)} at most", Verdict.LOSES
        else:
            return [Row(_SESSION, f"kept for {_duration(kept)}, as asked for", Verdict.GOOD)]
        advice = (
            f"let the broker keep sessions for {_duration(asked)} (mosquitto:"
            " persistent_client_expiration 14d, or none; EMQX: session_expiry_interval)"
        )
        return [Row(_SESSION, f"{measured}; asked for {_duration(asked)}", verdict, advice)]

    def queues(self) -> list[Row]:
        """What comes of many messages for a client that is away, and how many of them at once."""
        with self._forgetting("away"):
            with self._peer("away", "queue", expiry_seconds=_KEEP_SECONDS):
                pass
            with self._peer("speaker") as speaker:
                answers = speaker.publish(
                    self._message("queue", f"{number:08}".encode().ljust(_MESSAGE_BYTES, b"."))
                    for number in range(self._messages)
                )
            with self._peer(
                "away",
                "queue",
                expiry_seconds=_KEEP_SECONDS,
                receive_maximum=_RECEIVE_MAXIMUM,
                manual_acknowledge=True,
            ) as away:
                while away.hears(_QUIET_SECONDS):
                    pass
                at_once = len(away.received)
                kept = self._drain(away)
        refused = sum(not answer.accepted for answer in answers)
        return [_queue_row(self._messages, kept, refused), _at_once_row(at_once, kept)]

    def _drain(self, away: _Peer) -> int:
        """Acknowledge what comes, until all has come or what was sent after it; how many it was."""
        payloads: set[bytes] = set()
        marked = False
        while len(payloads) < self._messages and _MARK not in payloads:
            for message in away.received:
                away.session.acknowledge(message)
                payloads.add(message.payload)
            away.received.clear()
            if away.hears(_LATE_SECONDS if marked else _QUIET_SECONDS):
                continue
            if marked:
                break
            away.publish([self._message("queue", _MARK)])
            marked = True
        return len(payloads - {_MARK})

    def carries_chunks(self) -> list[Row]:
        """Whether the largest message of a fleet arrives, and what the broker says of its limit."""
        told: int | None = None
        fates: dict[int, bool] = {}
        for size in (CHUNK_BYTES, _LARGE_BYTES):
            # Each with a connection of its own: a broker ends that of a message that is too large.
            with self._peer("size", "size") as peer:
                told = peer.connected.granted.maximum_packet_bytes
                fates[size] = self._carries(peer, size)
        self._takes_chunks = fates[CHUNK_BYTES]
        measured = ", ".join(
            f"{size // 1024} KiB {'arrive' if arrived else 'do not arrive'}"
            for size, arrived in fates.items()
        )
        measured += "; no limit told" if told is None else f"; the broker says {told} bytes"
        if self._takes_chunks:
            return [Row(_SIZE, measured, Verdict.GOOD)]
        advice = (
            f"let the broker take messages of {CHUNK_BYTES // 1024} KiB: backlogs and releases need"
            " it (mosquitto: neither message_size_limit nor max_packet_size below 40000)"
        )
        return [Row(_SIZE, measured, Verdict.LOSES, advice)]

    def _carries(self, peer: _Peer, size: int) -> bool:
        try:
            peer.publish([self._message("size", b"." * size)])
            return peer.wait_until(lambda: bool(peer.received), seconds=_LATE_SECONDS)
        except (PayloadTooLargeError, _NotMeasured):
            return False

    def retains(self) -> list[Row]:
        """Whether a new subscription gets what was retained, and not what was cleared."""
        size = CHUNK_BYTES if self._takes_chunks else _SMALL_BYTES
        what = f"{size / 1024:g} KiB"
        advice = (
            "let the broker retain messages: orders, releases, receipts and the fleet's last word"
            " are nothing else (mosquitto: retain_available true)"
        )
        payload = secrets.token_bytes(size)
        with self._peer("speaker") as speaker:
            if not speaker.connected.granted.retain_available:
                return [Row(_RETAINED, "the broker says it keeps none", Verdict.LOSES, advice)]
            try:
                [answer] = speaker.publish([self._message("retained", payload, retain=True)])
                with self._peer("reader", "retained") as reader:
                    reader.wait_until(lambda: bool(reader.received), seconds=_LATE_SECONDS)
                    came = [(m.payload, m.retained) for m in reader.received]
            finally:
                with suppress(_NotMeasured):
                    speaker.publish([self._message("retained", retain=True)])
        if came != [(payload, True)]:
            said = "" if answer.accepted else f" ({answer.reason})"
            return [Row(_RETAINED, f"{what} do not come back{said}", Verdict.LOSES, advice)]
        with self._peer("reader", "retained") as reader:
            if reader.hears(_QUIET_SECONDS):
                measured = f"{what} come back, also after they were cleared"
                return [
                    Row(_RETAINED, measured, Verdict.MISLEADS, "see the broker's documentation")
                ]
        return [Row(_RETAINED, f"{what} come back, and can be cleared", Verdict.GOOD)]

    def publishes_will(self) -> list[Row]:
        """Whether a will waits for its delay, and then is published once."""
        will = Will(publication=self._message("will"), delay_seconds=_WILL_DELAY_SECONDS)
        advice = "use a broker that knows MQTT 5's Will Delay; mosquitto does"
        with self._forgetting("mortal"), self._peer("listener", "will") as listener:
            with self._peer("mortal", expiry_seconds=_KEEP_SECONDS, will=will, goodbye=False):
                pass
            cut = time.monotonic()
            with self._peer("mortal", expiry_seconds=_KEEP_SECONDS, will=will, goodbye=False):
                if time.monotonic() - cut > _WILL_DELAY_SECONDS / 2:
                    raise _NotMeasured(
                        "the way to the broker is too slow for it",
                        "run the check nearer to the broker",
                    )
                if listener.hears(_WILL_DELAY_SECONDS + _QUIET_SECONDS):
                    measured = "published although the client came back in time"
                    return [Row(_WILL, measured, Verdict.MISLEADS, advice)]
            if not listener.hears(_WILL_DELAY_SECONDS + _LATE_SECONDS):
                measured = "not published: a node that has vanished stays online"
                return [Row(_WILL, measured, Verdict.MISLEADS, advice)]
            again = listener.hears(_QUIET_SECONDS)
        times = "more than once" if again else "once"
        measured = f"published {times}, after its delay; not when the client comes back"
        verdict = Verdict.MISLEADS if again else Verdict.GOOD
        return [Row(_WILL, measured, verdict, advice if again else None)]

    def tells_of_nobody(self) -> list[Row]:
        """Whether a publisher is told that its message went nowhere."""
        with self._peer("speaker") as speaker:
            [answer] = speaker.publish([self._message("nobody")])
        if answer.reason_code == NO_MATCHING_SUBSCRIBERS:
            return [Row(_NOBODY, f"told: {answer.reason}", Verdict.GOOD)]
        return [
            Row(
                _NOBODY,
                f"{answer.reason}, for a message that nobody gets",
                Verdict.MISLEADS,
                'leave [outbox] receipts = "collector" on the nodes: only receipts tell here'
                " whether somebody stores",
            )
        ]

    def _message(self, part: str, payload: bytes = b"", *, retain: bool = False) -> Publication:
        return Publication(
            topic=topics.check(self._run, part),
            payload=payload,
            retain=retain,
            expiry_seconds=_KEEP_SECONDS,
            content_type="application/octet-stream",
        )

    @contextmanager
    def _peer(
        self,
        name: str,
        *parts: str,
        expiry_seconds: int = 0,
        receive_maximum: int = MAX_IN_FLIGHT,
        manual_acknowledge: bool = False,
        will: Will | None = None,
        goodbye: bool = True,
    ) -> Iterator[_Peer]:
        """A connection, subscribed to parts of our topics; it ends with a goodbye or is cut."""
        options = SessionOptions(
            client_id=f"check-{self._run}-{name}",
            expiry_seconds=expiry_seconds,
            # As collector and nodes do: some brokers keep no session that once began clean.
            clean_start=expiry_seconds == 0,
            receive_maximum=receive_maximum,
            maximum_packet_bytes=2 * _LARGE_BYTES,
            manual_acknowledge=manual_acknowledge,
            subscriptions=tuple(
                Subscription(topic_filter=topics.check(self._run, part)) for part in parts
            ),
        )
        with _Peer(self._broker, options, will=will, goodbye=goodbye) as peer:
            if not peer.wait_until(peer.is_open, seconds=_OPEN_SECONDS):
                raise BrokerUnreachableError("the broker does not answer")
            yield peer

    @contextmanager
    def _forgetting(self, name: str) -> Iterator[None]:
        """Have the broker forget a session at the end, and all that waits in it."""
        try:
            yield
        finally:
            with suppress(_NotMeasured, EarshotError), self._peer(name):
                pass


def _queue_row(sent: int, kept: int, refused: int) -> Row:
    if kept + refused < sent:
        said = f"{sent - refused} were taken with Success"
        return Row(
            _QUEUE,
            f"keeps {kept} of {sent}; {said}",
            Verdict.LOSES,
            f"the broker keeps {kept} messages for a collector that is away and drops the rest"
            " without a word: set max_queued_messages 1000000 and leave max_queued_bytes unset"
            " (mosquitto), max_mqueue_len (EMQX), max-queue-size (HiveMQ)",
        )
    if refused:
        return Row(
            _QUEUE,
            f"keeps {kept} of {sent} and refuses the others, which nodes then keep",
            Verdict.SLOW,
            "let the broker queue more for a client that is away",
        )
    return Row(_QUEUE, f"all of {sent} came", Verdict.GOOD)


def _at_once_row(at_once: int, kept: int) -> Row:
    if at_once > _RECEIVE_MAXIMUM:
        return Row(
            _AT_ONCE,
            f"{at_once}, though we allow {_RECEIVE_MAXIMUM}",
            Verdict.MISLEADS,
            "the broker does not honour Receive Maximum: the collector has to hold in memory what"
            " it is sent",
        )
    if at_once == _RECEIVE_MAXIMUM:
        return Row(_AT_ONCE, f"{at_once}, as we allow", Verdict.GOOD)
    if at_once == kept:
        return Row(
            _AT_ONCE,
            f"could not be measured: only {kept} were kept",
            Verdict.UNMEASURED,
            "have the broker keep more, then run the check again",
        )
    return Row(
        _AT_ONCE,
        f"{at_once}, though we allow {_RECEIVE_MAXIMUM}",
        Verdict.SLOW,
        f"the broker sends {at_once} messages, then waits: set max_inflight_messages 1000"
        " (mosquitto), max_inflight (EMQX)",
    )


def _duration(seconds: int) -> str:
    for unit, size in (("days", 86_400), ("h", 3600), ("min", 60)):
        if seconds >= size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds} s"
