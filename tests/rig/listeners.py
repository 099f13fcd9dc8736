"""Ears on a broker, which hear what nodes say, for system tests."""

import queue
import threading
import time
from itertools import pairwise
from types import TracebackType
from typing import Self, TypeVar

from contract import topics
from contract.messages import Account, Backlog, Message, Receipt, Window, decode, encode
from contract.ranges import runs
from contract.session import (
    Publication,
    Received,
    Session,
    SessionEvent,
    SessionOptions,
    Subscribed,
    Subscription,
)
from contract.settings import MqttSettings
from tests.rig.brokers import Mosquitto
from tests.rig.waiting import wait_until

Kind = TypeVar("Kind", bound=Message)


class Listener:
    """Hears everything that nodes say, as a collector with a session of its own would."""

    def __init__(self, broker: Mosquitto) -> None:
        self._lock = threading.Lock()
        self._messages: list[Message] = []
        self._subscribed = threading.Event()
        options = SessionOptions(
            client_id="listener",
            expiry_seconds=300,
            receive_maximum=1000,
            subscriptions=tuple(
                Subscription(topic_filter=topics.every_node(kind), retained=False)
                for kind in topics.FROM_NODE
            ),
        )
        self._session = Session(
            MqttSettings(host=broker.host, port=broker.port), options, self._hear
        )

    def __enter__(self) -> Self:
        self._session.start()
        assert self._subscribed.wait(10), "the listener was not let in"
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._session.stop()

    def all_of(self, kind: type[Kind]) -> list[Kind]:
        """Messages of that kind so far, in order of arrival."""
        with self._lock:
            return [message for message in self._messages if isinstance(message, kind)]

    def windows(self) -> list[Window]:
        """Windows so far, live and late, in order of their numbers, none left out or twice."""
        found = self.all_of(Window)
        for backlog in self.all_of(Backlog):
            found += backlog.windows
        return sorted(found, key=lambda window: window.seq)

    def wait_for_windows(self, count: int, *, seconds: float = 60.0) -> None:
        """Until so many windows have come."""
        wait_until(lambda: len(self.windows()) >= count, f"{count} windows", seconds=seconds)

    def _hear(self, event: SessionEvent) -> None:
        if isinstance(event, Subscribed):
            self._subscribed.set()
        if isinstance(event, Received):
            with self._lock:
                self._messages.append(decode(event.topic, event.payload))


class ReceiptingCollector(Listener):
    """A listener that says what it has, as a collector does once it is stored.

    Not here: what a database may do to it; the real collector's tests have that.
    """

    def __init__(self, broker: Mosquitto) -> None:
        super().__init__(broker)
        self._stored: dict[tuple[str, str], set[int]] = {}
        self._boots: queue.SimpleQueue[tuple[str, str] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._receipt, name="receipts", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return super().__enter__()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._boots.put(None)
        self._thread.join(10)
        super().__exit__(kind, error, trace)

    def account(self, boot: str) -> Account | None:
        """The newest account of a boot."""
        found = [account for account in self.all_of(Account) if account.boot == boot]
        return found[-1] if found else None

    def has_all(self, boot: str) -> bool:
        """Whether the node has said that nothing of a boot waits any more."""
        account = self.account(boot)
        return account is not None and not account.waiting

    def has_ended(self, boot: str) -> bool:
        """Whether the node has said that a boot is over."""
        account = self.account(boot)
        return account is not None and account.ended

    def _hear(self, event: SessionEvent) -> None:
        super()._hear(event)
        if isinstance(event, Received):
            message = decode(event.topic, event.payload)
            windows = message.windows if isinstance(message, Backlog) else (message,)
            for window in windows:
                if isinstance(window, Window):
                    key = (window.node, window.boot)
                    self._stored.setdefault(key, set()).add(window.seq)
            if isinstance(message, Backlog | Window):
                self._boots.put((message.node, message.boot))

    def _receipt(self) -> None:
        while (key := self._boots.get()) is not None:
            ranges = list(runs(sorted(self._stored[key].copy())))[-100:]
            receipt = Receipt(
                node=key[0],
                boot=key[1],
                at_us=time.time_ns() // 1000,
                stored_from=ranges[0][0],
                stored_up_to=ranges[-1][1],
                holes=tuple((one[1] + 1, other[0] - 1) for one, other in pairwise(ranges)),
            )
            topic = topics.node(receipt.node, receipt.KIND)
            self._session.publish(Publication(topic=topic, payload=encode(receipt), retain=True))
