"""Windows on their way to the broker: when the next goes, live or late, and what an answer means.

A window that is still fresh goes out live, one message each, before all others; what has become
late goes out as backlog, many to a message, oldest first. The broker's reason codes decide what
becomes of a window: stored by nobody (no matching subscribers) means that it waits. Which windows
there are is `outgoing`'s to know.
"""

import logging
import time
from collections.abc import Hashable, Sequence
from typing import Final

import msgspec

from contract.errors import MessageError, PayloadTooLargeError
from contract.messages import MAX_BACKLOG_WINDOWS, Backlog, Message, Window
from contract.session import NO_MATCHING_SUBSCRIBERS, Published
from node.delivery.backoff import Backoff
from node.delivery.connection import (
    HOLD_MOST_SECONDS,
    HOLD_SECONDS,
    HOPELESS,
    Connection,
    publication_of,
)
from node.delivery.outbox import Outbox

logger = logging.getLogger(__name__)

# Windows younger than this many hops are live.
_LIVE_HOPS: Final = 2.0
# Late messages on their way at once. On a slow link a live window waits for no more than these (64
# KiB); on a quick one 100 windows in each round trip empty the largest outbox in minutes.
_BACKLOG_IN_FLIGHT: Final = 2


class WindowsInFlight(msgspec.Struct, frozen=True):
    """Windows in one message."""

    boot: str
    seqs: tuple[int, ...]
    late: bool

    @property
    def name(self) -> Hashable:
        """Boot and numbers of the windows."""
        return self.boot, self.seqs


class WindowLane:
    """Sends windows, for as long as the connection takes them.

    Args:
        connection: to send them on.
        outbox: has them.
        node: the node's id.
    """

    def __init__(self, connection: Connection, outbox: Outbox, *, node: str) -> None:
        self._connection = connection
        self._outbox = outbox
        self._outgoing = outbox.outgoing
        self._node = node
        self._hold = Backoff(first_seconds=HOLD_SECONDS, most_seconds=HOLD_MOST_SECONDS)
        self._probing = False
        """Whether the last answer was no: then one message at a time asks again."""
        self._trouble: str | None = None
        """What kind of it was logged last, unless all is well again."""

    def connected(self) -> None:
        """Go by another connection: ask at once."""
        self._hold.forget()

    def send(self) -> None:
        """Send the windows that may go out now."""
        now = time.monotonic()
        connection = self._connection
        while self._hold.is_over(now):
            # Where nobody listens, or windows are not allowed, thousands of them need not be sent
            # every few seconds to learn that it is still so.
            careful = connection.suspicion.careful
            if not connection.has_room(one_by_one=self._probing or careful):
                return
            live_seconds = _LIVE_HOPS * self._outbox.hop_seconds
            live = self._outgoing.live(now, live_seconds)
            if live is not None:
                if not self._send([live.window], late=False):
                    return
                continue
            if not self._may_send_late():
                return
            limit = 1 if careful else MAX_BACKLOG_WINDOWS
            late = self._outgoing.late(limit, before=now - live_seconds)
            if not late or not self._send([entry.window for entry in late], late=True):
                return

    def answered(self, parcel: WindowsInFlight, answer: Published) -> None:
        """Report what became of windows; hold others back if the broker will not have them now."""
        boot, seqs, now = parcel.boot, parcel.seqs, time.monotonic()
        self._connection.suspicion.confirmed()
        if answer.accepted and answer.reason_code != NO_MATCHING_SUBSCRIBERS:
            self._outgoing.confirmed(boot, seqs, now)
            self._hold.end()
            self._trouble = None
            self._probing = False
        elif answer.reason_code in HOPELESS:
            self._warn("refused", f"the broker refused a message for good: {answer.reason}")
            self._outgoing.refused(boot, seqs, now)
        else:
            held = self._outbox.held
            self._warn("wait", f"windows wait, {held} so far: the broker says {answer.reason}")
            self._outgoing.back(boot, seqs)
            self._probing = True
            self._hold.begin(now, grows=not answer.accepted)

    def returned(self, parcel: WindowsInFlight) -> None:
        """Have the windows wait again."""
        self._outgoing.back(parcel.boot, parcel.seqs)

    def give_up(self, parcel: WindowsInFlight) -> None:
        """Give the windows up: they count as refused."""
        self._outgoing.refused(parcel.boot, parcel.seqs, time.monotonic())

    def _may_send_late(self) -> bool:
        if not self._outgoing.has_credit:
            return False
        # A place is left for a live window, where there is more than one.
        room = max(1, min(_BACKLOG_IN_FLIGHT, self._connection.max_in_flight - 1))
        parcels = self._connection.parcels()
        return sum(isinstance(each, WindowsInFlight) and each.late for each in parcels) < room

    def _send(self, windows: Sequence[Window], *, late: bool) -> bool:
        """Send windows in one message, or in more if they do not fit into one."""
        boot, seqs = windows[0].boot, tuple(window.seq for window in windows)
        message: Message = windows[0]
        if late:
            message = Backlog(node=self._node, boot=boot, windows=tuple(windows))
        try:
            sent = self._connection.publish(
                publication_of(self._node, message), self, WindowsInFlight(boot, seqs, late)
            )
        except (MessageError, PayloadTooLargeError) as error:
            if len(windows) > 1:
                half = len(windows) // 2
                return self._send(windows[:half], late=late) and self._send(
                    windows[half:], late=late
                )
            self._warn("size", f"{error}; the window is given up")
            self._outgoing.refused(boot, seqs, time.monotonic())
            return True
        if sent:
            self._outgoing.sent(boot, seqs)
        return sent

    def _warn(self, trouble: str, text: str) -> None:
        """One line when it begins, and not for every window."""
        if trouble != self._trouble:
            self._trouble = trouble
            logger.warning("%s", text)
