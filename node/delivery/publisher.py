"""The one thread that talks to the broker: windows out of the outbox, and word of the node itself.

At most `Connected.max_in_flight` publications are unconfirmed at any time, so that paho queues
nothing of its own. A window that is still fresh goes out live, one message each, before all others;
what has become late goes out as backlog, many to a message, oldest first. The broker's reason codes
decide what becomes of a window: stored by nobody (no matching subscribers) means that it waits.

What of it is kept, where, and until when, is the outbox's (`node.delivery.outbox`).
"""

import logging
import queue
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from typing import Final

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
    Account,
    Backlog,
    Birth,
    Command,
    Event,
    Health,
    Message,
    Presence,
    PresenceReason,
    Receipt,
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
from node.delivery.clock import Settled
from node.delivery.outbox import Outbox, OutboxFigures
from node.delivery.poison import Suspicion

logger = logging.getLogger(__name__)

# The will is delayed by 20 s, and some brokers publish it early when the session expires first.
SESSION_EXPIRY_SECONDS = 60
# Health older than this is history, not news.
HEALTH_EXPIRY_SECONDS = 3600
# An answer to a command is for whoever asked, now.
RESULT_EXPIRY_SECONDS = 60
# How an update stands, while the broker is away: the last of it is what counts.
_MAX_UPDATES = 400
# Of earlier boots, told with each health: those of a node that has started time and again for days
# take turns.
_EARLIER_ACCOUNTS: Final = 100
# Commands come from people, one by one.
_MAX_ASKED = 20
# Windows younger than this many hops are live.
_LIVE_HOPS = 2.0
# Late messages on their way at once. On a slow link a live window waits for no more than these (64
# KiB); on a quick one 100 windows in each round trip empty the largest outbox in minutes.
_BACKLOG_IN_FLIGHT: Final = 2
# Nobody is subscribed, or the broker said "not now": how long to wait before the next window.
_HOLD_SECONDS = 5.0
# "Not now" may last; asking longer and longer after each other does no harm then.
_HOLD_MOST_SECONDS = 300.0
# With `durable = "always"`: how long the thread that hears waits for the disk. Longer, and sound
# would be lost, too, which the capture holds back for a few seconds only.
_KEEP_SECONDS = 3.0
# Payload format invalid, packet too large, topic name invalid: the same bytes will never do.
_HOPELESS = frozenset({0x90, 0x95, 0x99})
_GOODBYE_SECONDS = 2.0
# For the last commit, on a card that is busy.
_SAVE_SECONDS = 5.0


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


class _Kept(msgspec.Struct, frozen=True):
    """A window, and whom to tell that it is on the disk."""

    window: Window
    done: threading.Event


class _HealthDue(msgspec.Struct, frozen=True):
    """What makes the message, out of how full the outbox is."""

    make: Callable[[OutboxFigures], Health]


_NewsKey = Kind | int | str
_Given = Window | State | Birth | Event | Update | Answer | Settled
_Mail = SessionEvent | _Given | _Kept | _HealthDue | _Stop


class _Windows(msgspec.Struct, frozen=True):
    """On their way in one message."""

    boot: str
    seqs: tuple[int, ...]
    late: bool

    @property
    def name(self) -> Hashable:
        return self.boot, self.seqs


class _News(msgspec.Struct, frozen=True):
    """Word of the node on its way."""

    key: _NewsKey
    publication: Publication
    account: Account | None

    @property
    def name(self) -> Hashable:
        return self.key, self.publication.payload


class _Told(msgspec.Struct, frozen=True):
    """An event on its way, or how an update stands."""

    key: int
    kind: Kind

    @property
    def name(self) -> Hashable:
        return self.kind, self.key


_Parcel = _Windows | _News | _Told


class Left(msgspec.Struct, frozen=True):
    """Windows that a node leaves behind as it ends."""

    saved: int
    """They wait on the disk for the next start."""
    lost: int


class _Hold:
    """After a no: how long to wait before asking again."""

    def __init__(self) -> None:
        self._until = 0.0
        self._seconds = _HOLD_SECONDS

    def is_over(self, now: float) -> bool:
        return now >= self._until

    def begin(self, now: float, *, grows: bool) -> None:
        self._until = now + self._seconds
        if grows:
            self._seconds = min(2 * self._seconds, _HOLD_MOST_SECONDS)

    def forget(self) -> None:
        """Ask at once: it is another connection."""
        self._until = 0.0

    def end(self) -> None:
        """The answer was yes."""
        self._until, self._seconds = 0.0, _HOLD_SECONDS


_FOR_UPDATES = (Connected, Subscribed, Disconnected, Followed, Received)


class PublisherError(EarshotError):
    """The publisher has failed: nothing that it is given goes out any more."""


class Publisher:
    """Publishes what it is given, for as long as it takes.

    Args:
        mqtt: where the broker is.
        outbox: keeps windows until they are stored; the publisher's own from now on.
        birth: makes what the node says of itself, anew at each connection.
        node: the node's id; also its client id.
        boot: id of this start.
        now_us: microseconds since 1970.
        synced_us: the same, while the clock can be trusted.
        holds: whether windows wait until `Settled` is given.
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
        now_us: Callable[[], int],
        synced_us: Callable[[], int | None] = lambda: None,
        holds: bool = False,
        orders: Sequence[str] = (),
        updates: Callable[[SessionEvent], None] | None = None,
    ) -> None:
        self._outbox = outbox
        outbox.outgoing.waits_for_clock = holds
        self._birth = birth
        self._node = node
        self._boot = boot
        self._updates = updates
        self._now_us = now_us
        self._synced_us = synced_us
        self._mail: queue.SimpleQueue[_Mail] = queue.SimpleQueue()
        self._session = Session(
            mqtt,
            SessionOptions(
                client_id=node,
                expiry_seconds=SESSION_EXPIRY_SECONDS,
                subscriptions=tuple(
                    Subscription(topic_filter=topic)
                    for topic in (*self._receipt_topics(), topics.every_command(node), *orders)
                ),
            ),
            self._mail.put,
            will=lambda: Will(publication=self._status(Presence.OFFLINE, PresenceReason.LOST)),
        )
        self._connected: Connected | None = None
        self._in_flight: dict[int, _Parcel] = {}
        """By the packet id of this connection."""
        self._sent_at = 0.0
        self._confirmed_here = False
        """Whether the broker has confirmed anything on this connection."""
        self._news: dict[_NewsKey, Publication] = {}
        """What is to be said of the node itself, the newest of each kind, and every answer."""
        self._accounts: dict[_NewsKey, Account] = {}
        """Those among the news."""
        self._next_earlier = 0
        """Which of the earlier boots, oldest first, accounts for itself next."""
        self._answers = 0
        self._updates_to_tell: OrderedDict[int, Publication] = OrderedDict()
        """How the update stands, each of it, until the broker has it."""
        self._updates_told = 0
        self.asked: queue.SimpleQueue[Asked] = queue.SimpleQueue()
        """Commands that have come in, for whoever obeys them."""
        self._hold = _Hold()
        self._hold_events = _Hold()
        self._probing = False
        """Whether the last answer to a window was no: then one message at a time asks again."""
        self._suspicion = Suspicion()
        self._kept: list[threading.Event] = []
        """Whom to tell that their windows are on the disk."""
        self._said: str | None = None
        self._told: set[str] = set()
        self._state: State | None = None
        self._update: Update | None = None
        self._stop: _Stop | None = None
        self._leaving = False
        self._left: Left | None = None
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
        """Hand over a message; never blocks, but for a window that has to be on the disk first."""
        if not isinstance(message, Window) or self._outbox.rules.durable == "late":
            self._mail.put(message)
            return
        done = threading.Event()
        self._mail.put(_Kept(message, done))
        if self.failure is None and self._thread.is_alive() and not done.wait(_KEEP_SECONDS):
            self._say_once(
                "slow disk",
                f"the disk takes longer than {_KEEP_SECONDS:g} s for a window: what is heard until"
                " then would be lost if the power went",
            )

    def tell_health(self, make: Callable[[OutboxFigures], Health]) -> None:
        """Publish the node's health, and with it the accounts.

        Args:
            make: makes the message out of how full the outbox is; called in another thread.
        """
        self._mail.put(_HealthDue(make))

    def follow(self, topic_filter: str) -> Delivery | None:
        """Subscribe until `leave`, or until the connection ends; None if there is none."""
        return self._session.follow(topic_filter)

    def leave(self, topic_filter: str) -> None:
        """End that."""
        self._session.leave(topic_filter)

    @property
    def backlog(self) -> int:
        """What is not dealt with yet: windows that are not confirmed, and mail that is not read."""
        return self._outbox.held + self._mail.qsize()

    def stop(self, *, drain_seconds: float) -> Left:
        """Send what waits, save the rest, say goodbye, disconnect; tells what was left behind."""
        self._mail.put(_Stop(drain_seconds))
        self._thread.join(drain_seconds + 2 * _GOODBYE_SECONDS + _SAVE_SECONDS)
        self._session.stop()
        if self._thread.is_alive():
            # It hangs in the disk: what is there is there.
            unsaved = self._outbox.unsaved + self._mail.qsize()
            return Left(max(0, self._outbox.held - unsaved), unsaved)
        if self._left is None:
            self._left = self._save_after_failure()
        return self._left

    def _save_after_failure(self) -> Left:
        """What the thread has left undone."""
        while True:
            try:
                mail = self._mail.get_nowait()
            except queue.Empty:
                break
            if isinstance(mail, Window):
                self._outbox.add(mail, time.monotonic())
            elif isinstance(mail, _Kept):
                self._outbox.add(mail.window, time.monotonic())
        left = self._save()
        self._outbox.close()
        return left

    def _save(self) -> Left:
        now = time.monotonic()
        lost = self._outbox.end(now)
        if self._outbox.events.unsaved:
            logger.error(
                "%d events were not delivered and are lost", len(self._outbox.events.unsaved)
            )
        return Left(self._outbox.held, lost)

    def _run(self) -> None:
        try:
            while self._stop is None:
                self._go_on()
            self._drain(self._stop.drain_seconds)
            left = self._save()
            self._say_goodbye()
            self._outbox.close()
            self._left = left
        except Exception as error:
            # The thread's outermost loop: the node must not go on, unheard, as if nothing were.
            logger.exception("the publisher failed")
            self.failure = PublisherError(f"the publisher failed, which is a bug: {error!r}")

    def _go_on(self) -> None:
        self._take_mail()
        self._tend_outbox()
        self._send_news()
        self._send_events()
        self._send_windows()

    def _tend_outbox(self) -> None:
        self._outbox.tend(time.monotonic(), synced_us=self._synced_us())
        for done in self._kept:
            done.set()
        self._kept.clear()
        for boot in self._outbox.take_ended():
            self._tell_account(boot)

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
            case _Kept():
                self._outbox.add(mail.window, time.monotonic())
                self._kept.append(mail.done)
            case Settled():
                self._outbox.restamp(mail.stamps, mail.ends_us)
            case Published():
                self._answered(mail)
            case Connected():
                self._begin(mail)
            case Disconnected():
                self._disconnected()
            case Received():
                self._take_in(mail)
            case SubscribeRefused():
                what = "orders"
                if mail.topic_filter.endswith(Kind.RECEIPT):
                    what = "receipts"
                elif Kind.COMMAND in mail.topic_filter:
                    what = "commands"
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
            case _HealthDue():
                figures = self._outbox.figures(time.monotonic(), synced_us=self._synced_us())
                self._publish_about_node(mail.make(figures), expiry_seconds=HEALTH_EXPIRY_SECONDS)
                self._tell_accounts()
            case Event():
                if self._outbox.events.add(mail, time.monotonic()):
                    self._say_once(
                        "events", "too many events wait for the broker: the oldest are lost"
                    )
            case Update():
                self._update = mail
                self._tell_update(mail)
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

    def _receipt_topics(self) -> tuple[str, ...]:
        if self._outbox.rules.receipts == "broker":
            return ()
        return (topics.node(self._node, Kind.RECEIPT),)

    def _take_in(self, message: Received) -> None:
        """A receipt, or a command; what concerns updates alone is none of ours."""
        try:
            where = topics.parse(message.topic)
            if where.kind not in (Kind.COMMAND, Kind.RECEIPT):
                return
            found = decode(message.topic, message.payload)
        except (TopicError, MessageError) as error:
            self._say_once("refused", f"a message to this node is refused: {error}")
            return
        if isinstance(found, Receipt):
            self._outbox.outgoing.receipted(found, time.monotonic(), retained=message.retained)
        elif isinstance(found, Command) and where.verb is not None:
            self._take_command(message, found, where.verb)

    def _take_command(self, message: Received, command: Command, verb: str) -> None:
        if message.retained:
            # It would be obeyed again at every connection, years later.
            self._say_once("retained", f"a retained {verb} command is refused: clear it")
            return
        if self.asked.qsize() >= _MAX_ASKED:
            self._say_once("asked", f"more than {_MAX_ASKED} commands at once: the rest is refused")
            return
        self.asked.put(Asked(verb, command, message.correlation))

    def _tell_update(self, update: Update) -> None:
        self._updates_told += 1
        self._updates_to_tell[self._updates_told] = Publication(
            topic=topics.node(self._node, update.KIND), payload=encode(update), retain=True
        )
        if len(self._updates_to_tell) > _MAX_UPDATES:
            self._updates_to_tell.popitem(last=False)

    def _tell_accounts(self) -> None:
        """Of this boot, and in turn of earlier ones: what is not repeated is taken for gone."""
        self._tell_account(self._boot)
        earlier = [boot for boot in self._outbox.boots if boot != self._boot]
        place = self._next_earlier if self._next_earlier < len(earlier) else 0
        told = earlier[place : place + _EARLIER_ACCOUNTS]
        self._next_earlier = place + len(told)
        for boot in told:
            self._tell_account(boot)

    def _tell_account(self, boot: str) -> None:
        if boot not in self._outbox.boots:
            return
        account = self._outbox.account(boot, at_us=self._now_us())
        key = f"{Kind.ACCOUNT} {boot}"
        self._accounts[key] = account
        self._news[key] = Publication(
            topic=topics.node(self._node, Kind.ACCOUNT), payload=encode(account)
        )

    def _begin(self, connected: Connected) -> None:
        self._connected = connected
        self.connections += 1
        self._confirmed_here = False
        self._hold.forget()
        self._hold_events.forget()
        health = self._news.pop(Kind.HEALTH, None)
        self._news = {Kind.STATUS: self._presence()}
        if health is not None:
            self._news[Kind.HEALTH] = health
        self._publish_about_node(self._birth(), retain=True)
        if self._state is not None:
            self._publish_about_node(self._state, retain=True)
        # Whoever counts what is stored has to know what there is, also of earlier starts.
        for boot in self._outbox.boots:
            self._tell_account(boot)
        # A broker that keeps nothing over its restart has forgotten it.
        if self._update is not None and not self._updates_to_tell:
            self._tell_update(self._update)

    def _disconnected(self) -> None:
        self._connected = None
        parcels = list(self._in_flight.values())
        self._in_flight.clear()
        for parcel in parcels:
            match parcel:
                case _Windows():
                    self._outbox.outgoing.back(parcel.boot, parcel.seqs)
                case _News():
                    # What has not been confirmed is said again, where there is nothing newer.
                    self._news.setdefault(parcel.key, parcel.publication)
                case _Told():
                    pass
        poison = self._suspicion.dropped(
            [parcel.name for parcel in parcels],
            seconds=time.monotonic() - self._sent_at,
            has_worked=self._confirmed_here,
        )
        if poison is not None:
            logger.error(
                "the broker has ended the connection each time upon the same message, which is"
                " given up: %s",
                poison,
            )
            self._give_up(parcels[0])

    def _give_up(self, parcel: _Parcel) -> None:
        match parcel:
            case _Windows():
                self._outbox.outgoing.refused(parcel.boot, parcel.seqs, time.monotonic())
            case _News():
                self._news.pop(parcel.key, None)
            case _Told(key, Kind.EVENT):
                self._outbox.events.done(key, time.monotonic())
            case _Told():
                self._updates_to_tell.pop(parcel.key, None)

    def _may_send(self, *, one_by_one: bool = False) -> bool:
        """Whether there is a connection, and room on it."""
        if self._connected is None:
            return False
        return len(self._in_flight) < (1 if one_by_one else self._connected.max_in_flight)

    def _send_windows(self) -> None:
        now = time.monotonic()
        while self._hold.is_over(now):
            # Where nobody listens, or windows are not allowed, thousands of them need not be sent
            # every few seconds to learn that it is still so.
            one_by_one = self._probing or self._suspicion.careful
            if not self._may_send(one_by_one=one_by_one):
                return
            live_seconds = _LIVE_HOPS * self._outbox.hop_seconds
            live = self._outbox.outgoing.live(now, live_seconds)
            if live is not None:
                if not self._send([live.window], Kind.WINDOW):
                    return
                continue
            if not self._may_send_late():
                return
            late = self._outbox.outgoing.late(
                1 if self._suspicion.careful else MAX_BACKLOG_WINDOWS,
                before=now - live_seconds,
            )
            if not late or not self._send([entry.window for entry in late], Kind.BACKLOG):
                return

    def _may_send_late(self) -> bool:
        assert self._connected is not None
        if not self._outbox.outgoing.has_credit:
            return False
        # A place is left for a live window, where there is more than one.
        room = max(1, min(_BACKLOG_IN_FLIGHT, self._connected.max_in_flight - 1))
        late = sum(isinstance(each, _Windows) and each.late for each in self._in_flight.values())
        return late < room

    def _send(self, windows: Sequence[Window], kind: Kind) -> bool:
        boot, seqs = windows[0].boot, tuple(window.seq for window in windows)
        message: Message = windows[0]
        if kind is Kind.BACKLOG:
            message = Backlog(node=self._node, boot=boot, windows=tuple(windows))
        try:
            topic = topics.node(self._node, kind)
            publication = Publication(topic=topic, payload=encode(message))
            sent = self._publish(publication, _Windows(boot, seqs, kind is Kind.BACKLOG))
        except (MessageError, PayloadTooLargeError) as error:
            if len(windows) > 1:
                half = len(windows) // 2
                return self._send(windows[:half], kind) and self._send(windows[half:], kind)
            self._say(f"{error}; the window is given up")
            self._outbox.outgoing.refused(boot, seqs, time.monotonic())
            return True
        if sent:
            self._outbox.outgoing.sent(boot, seqs)
        return sent

    def _publish(self, publication: Publication, parcel: _Parcel) -> bool:
        delivery: Delivery | None = self._session.publish(publication)
        # A connection newer than the one we were told of: its `Connected` is still in the mail.
        if delivery is None or self._connected is None:
            return False
        if delivery.generation != self._connected.generation:
            return False
        self._in_flight[delivery.packet_id] = parcel
        self._sent_at = time.monotonic()
        return True

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
        on_their_way = {parcel.name for parcel in self._in_flight.values()}
        for parcel, publication in self._to_tell():
            if not self._hold_events.is_over(time.monotonic()):
                return
            if not self._may_send(one_by_one=self._suspicion.careful):
                return
            if parcel.name in on_their_way:
                continue
            try:
                if not self._publish(publication, parcel):
                    return
            except PayloadTooLargeError as error:
                self._say_once("event", f"{error}; it is not said")
                self._give_up(parcel)

    def _to_tell(self) -> list[tuple[_Told, Publication]]:
        """Events, and how an update stands, each in its order."""
        found = [
            (_Told(key, Kind.UPDATE), publication)
            for key, publication in self._updates_to_tell.items()
        ]
        if self._outbox.outgoing.waits_for_clock:
            return found
        topic = topics.node(self._node, Kind.EVENT)
        return found + [
            (_Told(key, Kind.EVENT), Publication(topic=topic, payload=encode(event)))
            for key, event in self._outbox.events
        ]

    def _send_news(self) -> None:
        while self._news and self._may_send():
            key = next(iter(self._news))
            publication = self._news[key]
            try:
                if not self._publish(publication, _News(key, publication, self._accounts.get(key))):
                    return
            except PayloadTooLargeError as error:
                self._say_once(str(key), f"{error}; it is not said")
            del self._news[key]

    def _answered(self, answer: Published) -> None:
        if self._connected is None or answer.generation != self._connected.generation:
            return
        parcel = self._in_flight.pop(answer.packet_id, None)
        self.confirmed += answer.accepted
        self._confirmed_here = True
        match parcel:
            case _Windows():
                self._suspicion.confirmed()
                self._windows_answered(parcel, answer)
            case _Told():
                self._suspicion.confirmed()
                self._event_answered(parcel, answer)
            case _News():
                self._news_answered(parcel, answer)

    def _news_answered(self, news: _News, answer: Published) -> None:
        if not answer.accepted:
            what = Kind.RESULT if isinstance(news.key, int) else news.key.split()[0]
            self._say_once(what, f"the broker refuses {what} of this node: {answer.reason}")
        elif news.account is not None and answer.reason_code != NO_MATCHING_SUBSCRIBERS:
            self._outbox.account_confirmed(news.account, time.monotonic())

    def _windows_answered(self, windows: _Windows, answer: Published) -> None:
        boot, seqs, now = windows.boot, windows.seqs, time.monotonic()
        if answer.accepted and answer.reason_code != NO_MATCHING_SUBSCRIBERS:
            self._outbox.outgoing.confirmed(boot, seqs, now)
            self._hold.end()
            self._said = None
            self._probing = False
        elif answer.reason_code in _HOPELESS:
            self._say(f"the broker refused a message for good: {answer.reason}")
            self._outbox.outgoing.refused(boot, seqs, now)
        else:
            self._say(f"windows wait, {self._outbox.held} so far: the broker says {answer.reason}")
            self._outbox.outgoing.back(boot, seqs)
            self._probing = True
            self._hold.begin(now, grows=not answer.accepted)

    def _event_answered(self, told: _Told, answer: Published) -> None:
        retained = told.kind is Kind.UPDATE
        if answer.accepted and (retained or answer.reason_code != NO_MATCHING_SUBSCRIBERS):
            self._give_up(told)
            self._hold_events.end()
        elif answer.reason_code in _HOPELESS:
            self._say_once("event", f"the broker refused an event for good: {answer.reason}")
            self._give_up(told)
        else:
            self._say_once("event", f"events wait: the broker says {answer.reason}")
            # Windows may be taken all the same: they do not wait for this.
            self._hold_events.begin(time.monotonic(), grows=not answer.accepted)

    def _drain(self, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline and self.failure is None:
            events_may_go = self._to_tell() and self._hold_events.is_over(time.monotonic())
            if not (self._outbox.held or events_may_go):
                break
            self._go_on()

    def _say_goodbye(self) -> None:
        # A clean disconnect publishes no will: this is the only word that we are gone.
        self._leaving = True
        self._tell_account(self._boot)
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
