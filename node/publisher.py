"""The one thread that talks to the broker: windows out of the outbox, and word of the node itself.

At most `Connected.max_in_flight` publications are unconfirmed at any time, so that paho queues
nothing of its own. A window that is still fresh goes out live, one message each; what has become
late goes out as backlog, many to a message. The broker's reason codes decide what becomes of a
window: stored by nobody (no matching subscribers) means that it waits.
"""

import logging
import queue
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence

import msgspec

from contract import topics
from contract.errors import (
    ConnectionRefusedByBrokerError,
    EarshotError,
    MessageError,
    PayloadTooLargeError,
    TopicError,
)
from contract.messages import (
    MAX_BACKLOG_WINDOWS,
    Backlog,
    Birth,
    Command,
    Event,
    Health,
    Message,
    Presence,
    PresenceReason,
    Result,
    State,
    Status,
    Update,
    Window,
    decode,
    encode,
)
from contract.session import (
    NO_MATCHING_SUBSCRIBERS,
    Connected,
    ConnectFailed,
    Delivery,
    Disconnected,
    Followed,
    Publication,
    Published,
    Received,
    Session,
    SessionEvent,
    SessionOptions,
    Subscribed,
    SubscribeRefused,
    Subscription,
    Will,
)
from contract.settings import MqttSettings
from contract.topics import Kind
from node.outbox import Outbox

logger = logging.getLogger(__name__)

# The will is delayed by 20 s, and some brokers publish it early when the session expires first.
SESSION_EXPIRY_SECONDS = 60
# Health older than this is history, not news.
HEALTH_EXPIRY_SECONDS = 3600
# An answer to a command is for whoever asked, now.
RESULT_EXPIRY_SECONDS = 60
# Commands come from people, one by one.
_MAX_ASKED = 20
# Events are few; this is a year of false alarms at one a day, or a fault in the making.
_MAX_EVENTS = 400
# Windows younger than this many hops are live.
_LIVE_HOPS = 2.0
# Nobody is subscribed, or the broker said "not now": how long to wait before the next window.
_HOLD_SECONDS = 5.0
# Payload format invalid, packet too large, topic name invalid: the same bytes will never do.
_HOPELESS = frozenset({0x90, 0x95, 0x99})
_GOODBYE_SECONDS = 2.0


class _Stop(msgspec.Struct, frozen=True):
    drain_seconds: float


class Asked(msgspec.Struct, frozen=True):
    """A command that has come in."""

    verb: str
    command: Command
    correlation: bytes | None


class Answer(msgspec.Struct, frozen=True):
    """What became of it."""

    result: Result
    correlation: bytes | None


_NewsKey = Kind | int
_Given = Window | State | Health | Birth | Event | Update | Answer
_Mail = SessionEvent | _Given | _Stop


_FOR_UPDATES = (Connected, Subscribed, Disconnected, Followed, Received)


class PublisherError(EarshotError):
    """The publisher has failed: nothing that it is given goes out any more."""


class Publisher:
    """Publishes what it is given, for as long as it takes.

    Args:
        mqtt: where the broker is.
        outbox: keeps windows until they are confirmed; the publisher's own from now on.
        birth: makes what the node says of itself, anew at each connection.
        node: the node's id; also its client id.
        boot: id of this start.
        hop_seconds: time between two windows.
        now_us: microseconds since 1970.
        orders: topics of an operator's orders, if the node takes any.
        updates: is given what concerns updates; must only enqueue it.
    """

    def __init__(
        self,
        mqtt: MqttSettings,
        outbox: Outbox,
        birth: Callable[[], Birth],
        *,
        node: str,
        boot: str,
        hop_seconds: float,
        now_us: Callable[[], int],
        orders: Sequence[str] = (),
        updates: Callable[[SessionEvent], None] | None = None,
    ) -> None:
        self._outbox = outbox
        self._birth = birth
        self._node = node
        self._boot = boot
        self.hop_seconds = hop_seconds
        self._updates = updates
        self._now_us = now_us
        self._mail: queue.SimpleQueue[_Mail] = queue.SimpleQueue()
        self._session = Session(
            mqtt,
            SessionOptions(
                client_id=node,
                expiry_seconds=SESSION_EXPIRY_SECONDS,
                subscriptions=tuple(
                    Subscription(topic_filter=topic)
                    for topic in (topics.every_command(node), *orders)
                ),
            ),
            self._mail.put,
            will=lambda: Will(publication=self._status(Presence.OFFLINE, PresenceReason.LOST)),
        )
        self._connected: Connected | None = None
        self._in_flight: dict[int, tuple[int, ...]] = {}
        """Packet id of this connection -> windows in it (none: a message about the node)."""
        self._news: dict[_NewsKey, Publication] = {}
        """What is to be said of the node itself, the newest of each kind, and every answer."""
        self._news_in_flight: dict[int, tuple[_NewsKey, Publication]] = {}
        self._answers = 0
        self._events: OrderedDict[int, Publication] = OrderedDict()
        """What is to be said of episodes and updates, each of it, until the broker has it."""
        self._events_in_flight: dict[int, int] = {}
        """Packet id of this connection -> key in `_events`."""
        self._events_given = 0
        self.asked: queue.SimpleQueue[Asked] = queue.SimpleQueue()
        """Commands that have come in, for whoever obeys them."""
        self._hold_until = 0.0
        self._hold_events_until = 0.0
        self._probing = False
        """Whether the last answer to a window was no: then one message at a time asks again."""
        self._said: str | None = None
        self._told: set[str] = set()
        self._state: State | None = None
        self._update: Update | None = None
        self._stop: _Stop | None = None
        self._leaving = False
        self._thread = threading.Thread(target=self._run, name="publisher", daemon=True)
        self.connections = 0
        self.confirmed = 0
        """Publications that the broker has taken."""
        self.failure: EarshotError | None = None
        """Why it is pointless to go on: the broker said no before it ever said yes, or a defect."""

    def start(self) -> None:
        """Begin to connect and to publish."""
        self._session.start()
        self._thread.start()

    def give(self, message: _Given) -> None:
        """Hand over a message; never blocks."""
        self._mail.put(message)

    def follow(self, topic_filter: str) -> Delivery | None:
        """Subscribe until `leave`, or until the connection ends; None if there is none."""
        return self._session.follow(topic_filter)

    def leave(self, topic_filter: str) -> None:
        """End that."""
        self._session.leave(topic_filter)

    @property
    def backlog(self) -> int:
        """What is not dealt with yet: windows that are not confirmed, and mail that is not read."""
        return len(self._outbox) + self._mail.qsize()

    def stop(self, *, drain_seconds: float) -> int:
        """Send what waits, say goodbye, disconnect; gives how many windows were left behind.

        Events that are left are told in the log.
        """
        self._mail.put(_Stop(drain_seconds))
        self._thread.join(drain_seconds + 2 * _GOODBYE_SECONDS + 1.0)
        self._session.stop()
        if self._events:
            logger.error("%d events were not delivered and are lost", len(self._events))
        return len(self._outbox) + self._windows_in_mail()

    def _windows_in_mail(self) -> int:
        """Windows that the thread has not come to any more."""
        count = 0
        while not self._thread.is_alive():
            try:
                count += isinstance(self._mail.get_nowait(), Window)
            except queue.Empty:
                break
        return count

    def _run(self) -> None:
        try:
            while self._stop is None:
                self._take_mail()
                self._send_news()
                self._send_events()
                self._send_windows()
            self._drain(self._stop.drain_seconds)
            self._say_goodbye()
        except Exception as error:
            # The thread's outermost loop: the node must not go on, unheard, as if nothing were.
            logger.exception("the publisher failed")
            self.failure = PublisherError(f"the publisher failed, which is a bug: {error!r}")

    def _take_mail(self) -> None:
        """Handle what has come in; waits a little when nothing has."""
        try:
            self._handle(self._mail.get(timeout=0.2))
            while True:
                self._handle(self._mail.get_nowait())
        except queue.Empty:
            pass

    def _handle(self, mail: _Mail) -> None:
        if self._updates is not None and isinstance(mail, _FOR_UPDATES):
            self._updates(mail)
        match mail:
            case Window():
                self._outbox.add(mail, time.monotonic())
            case Published():
                self._answered(mail)
            case Connected():
                self._begin(mail)
            case Disconnected():
                self._connected = None
                for seqs in self._in_flight.values():
                    self._outbox.back(seqs)
                self._in_flight.clear()
                # What has not been confirmed is said again, where there is nothing newer.
                for news_kind, publication in self._news_in_flight.values():
                    self._news.setdefault(news_kind, publication)
                self._news_in_flight.clear()
                self._events_in_flight.clear()
            case Received():
                self._take_command(mail)
            case SubscribeRefused():
                what = "commands" if Kind.COMMAND in mail.topic_filter else "orders"
                self._say_once(
                    mail.topic_filter, f"no {what} are heard on {mail.topic_filter}: {mail.reason}"
                )
            case ConnectFailed():
                if mail.refused and not self.connections:
                    self.failure = ConnectionRefusedByBrokerError(mail.reason)
            case Birth():
                self._publish_about_node(mail, retain=True)
            case State():
                self._state = mail
                self._publish_about_node(mail, retain=True)
            case Health():
                self._publish_about_node(mail, expiry_seconds=HEALTH_EXPIRY_SECONDS)
            case Event():
                self._add_event(mail)
            case Update():
                self._update = mail
                self._add_event(mail)
            case Answer():
                self._answers += 1
                self._news[self._answers] = Publication(
                    topic=topics.node(self._node, Kind.RESULT),
                    payload=encode(mail.result),
                    expiry_seconds=RESULT_EXPIRY_SECONDS,
                    correlation=mail.correlation,
                )
            case _Stop():
                self._stop = mail

    def _take_command(self, message: Received) -> None:
        try:
            where = topics.parse(message.topic)
            if where.kind is not Kind.COMMAND:
                return
            command = decode(message.topic, message.payload)
        except (TopicError, MessageError) as error:
            self._say_once("command", f"a command is refused: {error}")
            return
        if not isinstance(command, Command) or where.verb is None:
            return
        if message.retained:
            # It would be obeyed again at every connection, years later.
            self._say_once("retained", f"a retained {where.verb} command is refused: clear it")
            return
        if self.asked.qsize() >= _MAX_ASKED:
            self._say_once("asked", f"more than {_MAX_ASKED} commands at once: the rest is refused")
            return
        self.asked.put(Asked(where.verb, command, message.correlation))

    def _add_event(self, event: Event | Update) -> None:
        self._events_given += 1
        self._events[self._events_given] = Publication(
            topic=topics.node(self._node, event.KIND),
            payload=encode(event),
            retain=isinstance(event, Update),
        )
        if len(self._events) > _MAX_EVENTS:
            self._events.popitem(last=False)
            self._say_once("events", "too many events wait for the broker: the oldest are lost")

    def _begin(self, connected: Connected) -> None:
        self._connected = connected
        self.connections += 1
        self._hold_until = self._hold_events_until = 0.0
        health = self._news.pop(Kind.HEALTH, None)
        self._news = {Kind.STATUS: self._presence()}
        if health is not None:
            self._news[Kind.HEALTH] = health
        self._publish_about_node(self._birth(), retain=True)
        if self._state is not None:
            self._publish_about_node(self._state, retain=True)
        # A broker that keeps nothing over its restart has forgotten it.
        if self._update is not None and not any(p.retain for p in self._events.values()):
            self._add_event(self._update)

    def _send_windows(self) -> None:
        now = time.monotonic()
        while self._connected is not None and now >= self._hold_until:
            # Where nobody listens, or windows are not allowed, thousands of them need not be sent
            # every few seconds to learn that it is still so.
            if len(self._in_flight) >= (1 if self._probing else self._connected.max_in_flight):
                return
            entries = self._outbox.waiting(MAX_BACKLOG_WINDOWS)
            if not entries:
                return
            late = [e.window for e in entries if now - e.added_at > _LIVE_HOPS * self.hop_seconds]
            if not self._send(late or [entries[0].window], Kind.BACKLOG if late else Kind.WINDOW):
                return

    def _send(self, windows: Sequence[Window], kind: Kind) -> bool:
        seqs = tuple(window.seq for window in windows)
        message: Message = windows[0]
        if kind is Kind.BACKLOG:
            message = Backlog(node=self._node, boot=self._boot, windows=tuple(windows))
        try:
            topic = topics.node(self._node, kind)
            publication = Publication(topic=topic, payload=encode(message))
            sent = self._publish(publication, seqs) is not None
        except (MessageError, PayloadTooLargeError) as error:
            if len(windows) > 1:
                half = len(windows) // 2
                return self._send(windows[:half], kind) and self._send(windows[half:], kind)
            self._say(f"{error}; the window is given up")
            self._outbox.done(seqs, refused=True)
            return True
        if sent:
            self._outbox.sent(seqs)
        return sent

    def _publish(self, publication: Publication, seqs: tuple[int, ...] = ()) -> int | None:
        delivery: Delivery | None = self._session.publish(publication)
        # A connection newer than the one we were told of: its `Connected` is still in the mail.
        if delivery is None or self._connected is None:
            return None
        if delivery.generation != self._connected.generation:
            return None
        self._in_flight[delivery.packet_id] = seqs
        return delivery.packet_id

    def _publish_about_node(
        self,
        message: Birth | State | Health,
        *,
        retain: bool = False,
        expiry_seconds: int | None = None,
    ) -> None:
        self._news[message.KIND] = Publication(
            topic=topics.node(self._node, message.KIND),
            payload=encode(message),
            retain=retain,
            expiry_seconds=expiry_seconds,
        )

    def _send_events(self) -> None:
        now = time.monotonic()
        on_their_way = set(self._events_in_flight.values())
        for key, publication in list(self._events.items()):
            if self._connected is None or now < self._hold_events_until:
                return
            if len(self._in_flight) >= self._connected.max_in_flight:
                return
            if key in on_their_way:
                continue
            try:
                packet_id = self._publish(publication)
            except PayloadTooLargeError as error:
                self._say_once("event", f"{error}; it is not said")
                del self._events[key]
                continue
            if packet_id is None:
                return
            self._events_in_flight[packet_id] = key

    def _send_news(self) -> None:
        while self._news and self._connected is not None:
            if len(self._in_flight) >= self._connected.max_in_flight:
                return
            kind = next(iter(self._news))
            publication = self._news[kind]
            try:
                packet_id = self._publish(publication)
            except PayloadTooLargeError as error:
                self._say_once(str(kind), f"{error}; it is not said")
                del self._news[kind]
                continue
            if packet_id is None:
                return
            del self._news[kind]
            self._news_in_flight[packet_id] = (kind, publication)

    def _answered(self, answer: Published) -> None:
        if self._connected is None or answer.generation != self._connected.generation:
            return
        seqs = self._in_flight.pop(answer.packet_id, ())
        kind, _ = self._news_in_flight.pop(answer.packet_id, (None, None))
        self.confirmed += answer.accepted
        event = self._events_in_flight.pop(answer.packet_id, None)
        if event is not None:
            self._event_answered(event, answer)
            return
        if kind is not None and not answer.accepted:
            what = kind if isinstance(kind, Kind) else Kind.RESULT
            self._say_once(str(what), f"the broker refuses {what} of this node: {answer.reason}")
        if answer.accepted and answer.reason_code != NO_MATCHING_SUBSCRIBERS:
            self._outbox.done(seqs)
            if seqs:
                self._said = None
                self._probing = False
        elif seqs and answer.reason_code in _HOPELESS:
            self._say(f"the broker refused a message for good: {answer.reason}")
            self._outbox.done(seqs, refused=True)
        elif seqs:
            self._say(f"windows wait, {len(self._outbox)} so far: the broker says {answer.reason}")
            self._outbox.back(seqs)
            self._probing = True
            self._hold_until = time.monotonic() + _HOLD_SECONDS

    def _event_answered(self, key: int, answer: Published) -> None:
        publication = self._events.get(key)
        retained = publication is not None and publication.retain
        if answer.accepted and (retained or answer.reason_code != NO_MATCHING_SUBSCRIBERS):
            self._events.pop(key, None)
        elif answer.reason_code in _HOPELESS:
            self._say_once("event", f"the broker refused an event for good: {answer.reason}")
            self._events.pop(key, None)
        else:
            self._say_once("event", f"events wait: the broker says {answer.reason}")
            # Windows may be taken all the same: they do not wait for this.
            self._hold_events_until = time.monotonic() + _HOLD_SECONDS

    def _drain(self, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline and self.failure is None:
            events_may_go = self._events and time.monotonic() >= self._hold_events_until
            if not (len(self._outbox) or events_may_go):
                break
            self._take_mail()
            self._send_news()
            self._send_events()
            self._send_windows()

    def _say_goodbye(self) -> None:
        # A clean disconnect publishes no will: this is the only word that we are gone.
        self._leaving = True
        self._news.pop(Kind.STATUS, None)
        self._news[Kind.STATUS] = self._presence()
        self._send_news()
        deadline = time.monotonic() + _GOODBYE_SECONDS
        while (self._in_flight or self._news) and self._connected is not None:
            if time.monotonic() >= deadline:
                return
            self._take_mail()
            self._send_news()

    def _presence(self) -> Publication:
        # A connection that comes while we leave must not have us online for ever.
        if self._leaving:
            return self._status(Presence.OFFLINE, PresenceReason.STOPPED)
        return self._status(Presence.ONLINE, PresenceReason.CONNECTED)

    def _status(self, state: Presence, reason: PresenceReason) -> Publication:
        status = Status(
            node=self._node, boot=self._boot, at_us=self._now_us(), state=state, reason=reason
        )
        return Publication(
            topic=topics.node(self._node, Kind.STATUS), payload=encode(status), retain=True
        )

    def _say_once(self, key: str, text: str) -> None:
        level = logging.DEBUG if key in self._told else logging.WARNING
        self._told.add(key)
        logger.log(level, "%s", text)

    def _say(self, text: str) -> None:
        """Once when it begins, not for every window."""
        if text.split(",", maxsplit=1)[0] != self._said:
            self._said = text.split(",", maxsplit=1)[0]
            logger.warning("%s", text)
