"""Word of the node itself on its way to the broker: the newest of each kind, and every answer.

What is said of the node at each connection, and as it leaves, is decided here, too. Nothing of it
outlives the process.
"""

import time
from collections.abc import Callable, Hashable
from typing import Final

import msgspec

from contract.errors import PayloadTooLargeError
from contract.log_once import LogOnce
from contract.messages import Account, Birth, Health, Result, State, Status
from contract.session import NO_MATCHING_SUBSCRIBERS, Publication, Published
from contract.states import Presence, PresenceReason
from contract.topics import Kind
from node.delivery.connection import Connection, publication_of
from node.delivery.outbox import Outbox

# Health older than this is history, not news.
_HEALTH_EXPIRY_SECONDS: Final = 3600
# An answer to a command is for whoever asked, now.
_RESULT_EXPIRY_SECONDS: Final = 60
# Of earlier boots, sent with each health: those of a node that has started time and again for days
# take turns.
_EARLIER_ACCOUNTS: Final = 100


class NewsInFlight(msgspec.Struct, frozen=True):
    """Word of the node in its message."""

    kind: Kind
    about: Hashable
    """Newer word of the same kind about the same takes its place."""
    publication: Publication
    account: Account | None = None
    """What the message says, if it is an account."""

    @property
    def key(self) -> Hashable:
        """The place in the lane that it takes: one for each kind and what it is about."""
        return self.kind, self.about

    @property
    def name(self) -> Hashable:
        """Its place and its bytes: newer word is not the same message again."""
        return self.key, self.publication.payload


class NewsLane:
    """Sends word of the node, for as long as the connection takes it.

    Args:
        connection: to send it on.
        outbox: has the accounts.
        birth: makes what the node says of itself, anew at each connection.
        once: is told what goes wrong.
        node: the node's id.
        boot: id of this start.
        now_us: microseconds since 1970.
    """

    def __init__(
        self,
        connection: Connection,
        outbox: Outbox,
        birth: Callable[[], Birth],
        once: LogOnce,
        *,
        node: str,
        boot: str,
        now_us: Callable[[], int],
    ) -> None:
        self._connection = connection
        self._outbox = outbox
        self._birth = birth
        self._once = once
        self._node = node
        self._boot = boot
        self._now_us = now_us
        self._waiting: dict[Hashable, NewsInFlight] = {}
        """What waits to be sent by its place, in the order in which it goes out."""
        self._state: State | None = None
        self._answers = 0
        self._next_earlier = 0
        """Which of the earlier boots, oldest first, accounts for itself next."""
        self._leaving = False

    @property
    def waiting(self) -> int:
        """How many messages wait to be sent."""
        return len(self._waiting)

    def add_birth(self, birth: Birth) -> None:
        """Have it said what the node is."""
        self._add(Kind.BIRTH, publication_of(self._node, birth, retain=True))

    def add_state(self, state: State) -> None:
        """Have it said how the machine is, now and at every connection."""
        self._state = state
        self._add(Kind.STATE, publication_of(self._node, state, retain=True))

    def add_health(self, health: Health) -> None:
        """Have it said how the node is, and what became of its windows."""
        self._add(
            Kind.HEALTH,
            publication_of(self._node, health, expiry_seconds=_HEALTH_EXPIRY_SECONDS),
        )
        # Of this boot, and in turn of earlier ones: what is not repeated is taken for gone.
        self.add_account(self._boot)
        earlier = [boot for boot in self._outbox.boots if boot != self._boot]
        place = self._next_earlier if self._next_earlier < len(earlier) else 0
        next_ones = earlier[place : place + _EARLIER_ACCOUNTS]
        self._next_earlier = place + len(next_ones)
        for boot in next_ones:
            self.add_account(boot)

    def add_account(self, boot: str) -> None:
        """Have it said what became of the windows of a boot, if anything is known of it."""
        if boot in self._outbox.boots:
            account = self._outbox.account(boot, at_us=self._now_us())
            self._add(Kind.ACCOUNT, publication_of(self._node, account), boot, account)

    def add_answer(self, result: Result, correlation: bytes | None) -> None:
        """Have it said what became of a command; the correlation is what came with it."""
        self._answers += 1
        publication = publication_of(
            self._node, result, expiry_seconds=_RESULT_EXPIRY_SECONDS, correlation=correlation
        )
        self._add(Kind.RESULT, publication, self._answers)

    def connected(self) -> None:
        """Have everything said anew: the broker may have forgotten it, or never heard it."""
        health = self._waiting.get((Kind.HEALTH, None))
        self._waiting.clear()
        self._add_status()
        if health is not None:
            self._waiting[health.key] = health
        self.add_birth(self._birth())
        if self._state is not None:
            self.add_state(self._state)
        # Whoever counts what is stored has to know what there is, also of earlier starts.
        for boot in self._outbox.boots:
            self.add_account(boot)

    def leave(self) -> None:
        """Have the goodbye said: a clean disconnect publishes no will."""
        self._leaving = True
        self.add_account(self._boot)
        self._waiting.pop((Kind.STATUS, None), None)
        self._add_status()

    def status(self, state: Presence, reason: PresenceReason) -> Publication:
        """The retained message that says whether the node is there."""
        status = Status(
            node=self._node, boot=self._boot, at_us=self._now_us(), state=state, reason=reason
        )
        return publication_of(self._node, status, retain=True)

    def send(self) -> None:
        """Send what may be said of the node now."""
        while self._waiting and self._connection.has_room():
            news = next(iter(self._waiting.values()))
            try:
                if not self._connection.publish(news.publication, self, news):
                    return
            except PayloadTooLargeError as error:
                self._once.warn(news.kind, f"{error}; it is not sent")
            del self._waiting[news.key]

    def answered(self, parcel: NewsInFlight, answer: Published) -> None:
        """Let go of what the broker has taken; warn of what it refuses, which is not sent again."""
        if not answer.accepted:
            self._once.warn(
                parcel.kind, f"the broker refuses {parcel.kind} of this node: {answer.reason}"
            )
        elif parcel.account is not None and answer.reason_code != NO_MATCHING_SUBSCRIBERS:
            self._outbox.account_confirmed(parcel.account, time.monotonic())

    def returned(self, parcel: NewsInFlight) -> None:
        """Have it wait again, where there is nothing newer."""
        self._waiting.setdefault(parcel.key, parcel)

    def give_up(self, parcel: NewsInFlight) -> None:
        """Have it wait no more."""
        self._waiting.pop(parcel.key, None)

    def _add_status(self) -> None:
        # A connection that comes while we leave must not have us online for ever.
        state, reason = Presence.ONLINE, PresenceReason.CONNECTED
        if self._leaving:
            state, reason = Presence.OFFLINE, PresenceReason.STOPPED
        self._add(Kind.STATUS, self.status(state, reason))

    def _add(
        self,
        kind: Kind,
        publication: Publication,
        about: Hashable = None,
        account: Account | None = None,
    ) -> None:
        news = NewsInFlight(kind, about, publication, account)
        self._waiting[news.key] = news
