"""The one thread that talks to the broker: windows out of the outbox, and word of the node itself.

    mail: what the node gives, what the session tells
      -> outbox (tended: saved, given up, due again) -> lanes: news, events, windows -> connection

What of it is kept, where, and until when, is the outbox's; what goes out next, and what the
broker's answer means for it, is for the lanes.
"""

import logging
import queue
import threading
import time
from collections.abc import Callable, Sequence
from typing import Final

import msgspec

from contract import topics
from contract.errors import (
    ConnectionRefusedByBrokerError,
    EarshotError,
    MessageError,
    TopicError,
)
from contract.log_once import LogOnce
from contract.messages import (
    Birth,
    Command,
    Event,
    Health,
    Receipt,
    Result,
    State,
    Update,
    Window,
    decode,
)
from contract.session import (
    Connected,
    ConnectFailed,
    Delivery,
    Disconnected,
    Followed,
    Published,
    Received,
    SessionEvent,
    Subscribed,
    SubscribeRefused,
    Will,
)
from contract.settings import MqttSettings
from contract.states import Presence, PresenceReason
from contract.topics import Kind
from node.delivery.clock import Settled
from node.delivery.connection import Connection
from node.delivery.event_lane import EventLane
from node.delivery.news_lane import NewsLane
from node.delivery.outbox import Outbox, OutboxFigures
from node.delivery.window_lane import WindowLane

logger = logging.getLogger(__name__)

# Commands come from people, one by one.
_MAX_ASKED: Final = 20
# With `durable = "always"`: how long the thread that hears waits for the disk. Longer, and sound
# would be lost, too, which the capture holds back for a few seconds only.
_KEEP_SECONDS: Final = 3.0
_GOODBYE_SECONDS: Final = 2.0
# For the last commit, on a card that is busy.
_SAVE_SECONDS: Final = 5.0


class PublisherError(EarshotError):
    """The publisher has failed: nothing that it is given goes out any more."""


class Asked(msgspec.Struct, frozen=True):
    """A command that has come in."""

    verb: str
    command: Command
    correlation: bytes | None
    """What came with the command, and goes back with the answer."""


class Answer(msgspec.Struct, frozen=True):
    """What became of a command."""

    result: Result
    correlation: bytes | None
    """What came with the command."""


class Left(msgspec.Struct, frozen=True):
    """Windows that a node leaves behind as it ends."""

    saved: int
    """How many of them wait on the disk for the next start."""
    lost: int
    """How many of them could neither be sent nor saved."""


class QueueLengths(msgspec.Struct, frozen=True, kw_only=True):
    """How much waits in the publisher, for whoever wants to know whether anything grows."""

    mail: int
    windows: int
    events: int
    news: int
    in_flight: int
    asked: int
    warned: int
    """Kinds of warnings that are logged once."""


class _Durable(msgspec.Struct, frozen=True):
    """A window, and whom to wake once it is on the disk."""

    window: Window
    done: threading.Event


class _HealthDue(msgspec.Struct, frozen=True):
    """What makes the message, out of how full the outbox is."""

    make: Callable[[OutboxFigures], Health]


class _Stop(msgspec.Struct, frozen=True):
    drain_seconds: float


_Given = Window | State | Birth | Event | Update | Answer | Settled
_Mail = SessionEvent | _Given | _Durable | _HealthDue | _Stop

_FOR_UPDATES = (Connected, Subscribed, Disconnected, Followed, Received)


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
        waits_for_clock: whether windows and events wait until `Settled` is given.
        orders: topics of an operator's orders, if the node takes any.
        updates: is given what concerns updates; must only enqueue it.

    Raises:
        SettingsError: certificate, key or password file of the broker cannot be used.
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
        waits_for_clock: bool = False,
        orders: Sequence[str] = (),
        updates: Callable[[SessionEvent], None] | None = None,
    ) -> None:
        self._outbox = outbox
        outbox.outgoing.waits_for_clock = waits_for_clock
        self._updates = updates
        self._synced_us = synced_us
        self._mail: queue.SimpleQueue[_Mail] = queue.SimpleQueue()
        receipts = (topics.node(node, Kind.RECEIPT),) if outbox.rules.receipts != "broker" else ()
        self._connection = Connection(
            mqtt,
            node,
            (*receipts, topics.every_command(node), *orders),
            self._mail.put,
            will=lambda: Will(publication=self._news.status(Presence.OFFLINE, PresenceReason.LOST)),
        )
        self._once = LogOnce(logger)
        self._windows = WindowLane(self._connection, outbox, node=node)
        self._events = EventLane(self._connection, outbox, self._once, node=node)
        self._news = NewsLane(
            self._connection,
            outbox,
            birth,
            self._once,
            node=node,
            boot=boot,
            now_us=now_us,
        )
        self.asked: queue.SimpleQueue[Asked] = queue.SimpleQueue()
        """Commands that have come in, for whoever obeys them."""
        self._waits_for_disk: list[threading.Event] = []
        """Whom to wake once their windows are on the disk."""
        self._stop: _Stop | None = None
        self._left: Left | None = None
        self._thread = threading.Thread(target=self._run, name="publisher", daemon=True)
        self.failure: EarshotError | None = None
        """Why it is pointless to go on: the broker said no before it ever said yes, or a defect."""

    def start(self) -> None:
        """Begin to connect and to publish."""
        self._connection.session.start()
        self._thread.start()

    def give(self, message: _Given) -> None:
        """Hand over a message; never blocks, but for a window that has to be on the disk first."""
        if not isinstance(message, Window) or self._outbox.rules.durable == "late":
            self._mail.put(message)
            return
        done = threading.Event()
        self._mail.put(_Durable(message, done))
        if self.failure is None and self._thread.is_alive() and not done.wait(_KEEP_SECONDS):
            self._once.warn(
                "slow disk",
                f"the disk takes longer than {_KEEP_SECONDS:g} s for a window: what is heard until"
                " then would be lost if the power went",
            )

    def give_health(self, make: Callable[[OutboxFigures], Health]) -> None:
        """Have the node's health published, and the accounts with it.

        Args:
            make: makes the message out of how full the outbox is; called in another thread.
        """
        self._mail.put(_HealthDue(make))

    def follow(self, topic_filter: str) -> Delivery | None:
        """Subscribe until `leave`, or until the connection ends; None if there is none."""
        return self._connection.session.follow(topic_filter)

    def leave(self, topic_filter: str) -> None:
        """End what `follow` began."""
        self._connection.session.leave(topic_filter)

    def stop(self, *, drain_seconds: float) -> Left:
        """Send what waits, save the rest, say goodbye, disconnect; gives what was left behind.

        Args:
            drain_seconds: how long to go on sending at most.
        """
        self._mail.put(_Stop(drain_seconds))
        self._thread.join(drain_seconds + 2 * _GOODBYE_SECONDS + _SAVE_SECONDS)
        self._connection.session.stop()
        if self._thread.is_alive():
            # It hangs in the disk: what is there is there.
            unsaved = self._outbox.unsaved + self._mail.qsize()
            return Left(max(0, self._outbox.held - unsaved), unsaved)
        if self._left is None:
            self._left = self._save_after_failure()
        return self._left

    @property
    def backlog(self) -> int:
        """What is not dealt with yet: windows that are not confirmed, and mail that is not read."""
        return self._outbox.held + self._mail.qsize()

    @property
    def connections(self) -> int:
        """How many connections have stood so far."""
        return self._connection.count

    @property
    def confirmed(self) -> int:
        """How many publications the broker has taken."""
        return self._connection.confirmed

    @property
    def queue_lengths(self) -> QueueLengths:
        """How much waits now, and where."""
        return QueueLengths(
            mail=self._mail.qsize(),
            windows=self._outbox.held,
            events=len(self._outbox.events),
            news=self._news.waiting,
            in_flight=self._connection.in_flight,
            asked=self.asked.qsize(),
            warned=self._once.kinds,
        )

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
        self._news.send()
        self._events.send()
        self._windows.send()

    def _take_mail(self) -> None:
        """Handle what has come in; waits a little when nothing has."""
        try:
            self._handle(self._mail.get(timeout=0.2))
            while True:
                self._handle(self._mail.get_nowait())
        except queue.Empty:
            pass

    def _tend_outbox(self) -> None:
        self._outbox.tend(time.monotonic(), synced_us=self._synced_us())
        for done in self._waits_for_disk:
            done.set()
        self._waits_for_disk.clear()
        for boot in self._outbox.take_ended():
            self._news.add_account(boot)

    def _drain(self, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline and self.failure is None:
            if not (self._outbox.held or self._events.may_go):
                break
            self._go_on()

    def _save(self) -> Left:
        lost = self._outbox.end(time.monotonic())
        if self._outbox.events.unsaved:
            logger.error(
                "%d events were not delivered and are lost", len(self._outbox.events.unsaved)
            )
        return Left(self._outbox.held, lost)

    def _say_goodbye(self) -> None:
        self._news.leave()
        self._news.send()
        deadline = time.monotonic() + _GOODBYE_SECONDS
        while (self._connection.in_flight or self._news.waiting) and self._connection.is_up:
            if time.monotonic() >= deadline:
                return
            self._take_mail()
            self._news.send()

    def _save_after_failure(self) -> Left:
        """What the thread has left undone."""
        while True:
            try:
                mail = self._mail.get_nowait()
            except queue.Empty:
                break
            if isinstance(mail, Window | _Durable):
                self._handle(mail)
        left = self._save()
        self._outbox.close()
        return left

    def _handle(self, mail: _Mail) -> None:
        match mail:
            case Window():
                self._outbox.add(mail, time.monotonic())
            case _Durable():
                self._outbox.add(mail.window, time.monotonic())
                self._waits_for_disk.append(mail.done)
            case Settled():
                self._outbox.restamp(mail.stamps, mail.ends_us)
            case Event():
                if self._outbox.events.add(mail, time.monotonic()):
                    self._once.warn(
                        "events", "too many events wait for the broker: the oldest are lost"
                    )
            case Update():
                self._events.add_update(mail)
            case Birth():
                self._news.add_birth(mail)
            case State():
                self._news.add_state(mail)
            case _HealthDue():
                figures = self._outbox.figures(time.monotonic(), synced_us=self._synced_us())
                self._news.add_health(mail.make(figures))
            case Answer():
                self._news.add_answer(mail.result, mail.correlation)
            case _Stop():
                self._stop = mail
            case _:
                self._handle_session(mail)

    def _handle_session(self, event: SessionEvent) -> None:
        if self._updates is not None and isinstance(event, _FOR_UPDATES):
            self._updates(event)
        match event:
            case Published():
                self._connection.answered(event)
            case Connected():
                self._connection.begun(event)
                self._windows.connected()
                self._events.connected()
                self._news.connected()
            case Disconnected():
                self._connection.ended()
            case Received():
                self._take_in(event)
            case SubscribeRefused():
                what = "orders"
                if event.topic_filter.endswith(Kind.RECEIPT):
                    what = "receipts"
                elif Kind.COMMAND in event.topic_filter:
                    what = "commands"
                self._once.warn(
                    event.topic_filter,
                    f"no {what} are heard on {event.topic_filter}: {event.reason}",
                )
            case ConnectFailed():
                if event.refused and not self._connection.count:
                    self.failure = ConnectionRefusedByBrokerError(event.reason)

    def _take_in(self, message: Received) -> None:
        """A receipt, or a command; what concerns updates alone is none of ours."""
        try:
            where = topics.parse(message.topic)
            if where.kind not in (Kind.COMMAND, Kind.RECEIPT):
                return
            found = decode(message.topic, message.payload)
        except (TopicError, MessageError) as error:
            self._once.warn("refused", f"a message to this node is refused: {error}")
            return
        if isinstance(found, Receipt):
            now = time.monotonic()
            self._outbox.outgoing.receipted(found, now, retained=message.retained)
        elif isinstance(found, Command) and where.verb is not None:
            self._take_command(message, found, where.verb)

    def _take_command(self, message: Received, command: Command, verb: str) -> None:
        if message.retained:
            # It would be obeyed again at every connection, years later.
            self._once.warn("retained", f"a retained {verb} command is refused: clear it")
        elif self.asked.qsize() >= _MAX_ASKED:
            self._once.warn(
                "asked", f"more than {_MAX_ASKED} commands at once: the rest is refused"
            )
        else:
            self.asked.put(Asked(verb, command, message.correlation))
