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
from contract.session import Publication, Received
from tests.rig.brokers import Mosquitto
from tests.rig.peers import Ear
from tests.rig.waiting import wait_until

Kind = TypeVar("Kind", bound=Message)


class Listener(Ear):
    """Hears everything that nodes say, as a collector with a session of its own would."""

    def __init__(self, broker: Mosquitto) -> None:
        filters = (topics.every_node(kind) for kind in topics.FROM_NODE)
        super().__init__(broker, "listener", *filters, expiry_seconds=300, retained=False)
        self._messages: list[Message] = []

    def all_of(self, kind: type[Kind]) -> list[Kind]:
        """Messages of that kind so far, in order of arrival."""
        # Taken at once: the session's thread adds to it.
        return [message for message in tuple(self._messages) if isinstance(message, kind)]

    def windows(self) -> list[Window]:
        """Windows so far, live and late, in order of their numbers, none left out or twice."""
        found = self.all_of(Window)
        for backlog in self.all_of(Backlog):
            found += backlog.windows
        return sorted(found, key=lambda window: window.seq)

    def wait_for_windows(self, count: int, *, seconds: float = 60.0) -> None:
        """Until so many windows have come."""
        wait_until(lambda: len(self.windows()) >= count, f"{count} windows", seconds=seconds)

    def hear(self, received: Received) -> None:
        self._messages.append(decode(received.topic, received.payload))


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

    def hear(self, received: Received) -> None:
        super().hear(received)
        message = self._messages[-1]
        if not isinstance(message, Backlog | Window):
            return
        for window in message.windows if isinstance(message, Backlog) else (message,):
            self._stored.setdefault((window.node, window.boot), set()).add(window.seq)
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
