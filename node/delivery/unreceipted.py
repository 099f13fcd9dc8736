"""Windows that the broker has taken and nobody has receipted: when to send them again. Pure.

A broker's confirmation does not mean stored: it may drop what a slow collector leaves lying. What
no receipt covers after some time is sent again, if receipts come at all. If none comes, nobody
stores; then one message each time asks whether that has changed, and not the whole outbox.
"""

from collections import deque
from collections.abc import Callable, Iterator
from typing import Final

import msgspec

# Confirmations that follow each other within this are one, so that a long outbox is few of them.
_TOGETHER_SECONDS: Final = 10.0


class Span(msgspec.Struct, frozen=True):
    """Windows of one boot, from one number to another, both included."""

    boot: str
    first: int
    last: int
    since: float
    """When the broker confirmed the first of them, on the monotonic clock."""


class Unreceipted:
    """Remembers which windows the broker has confirmed when.

    Args:
        resend_seconds: how long a receipt may take.
    """

    def __init__(self, *, resend_seconds: float) -> None:
        self._resend_seconds = resend_seconds
        self._together_seconds = min(_TOGETHER_SECONDS, resend_seconds / 10)
        self._spans: deque[Span] = deque()
        self._receipt_at: float | None = None
        self._probe_at = -float("inf")
        self.seen = False
        """Whether a receipt has ever come, and be it one of long ago."""
        self.nobody_answers = False
        """Whether windows are long confirmed, and no receipt at all has come since."""
        self.may_ask = False
        """Whether one message is due that asks whether somebody stores again."""

    @property
    def expects_receipts(self) -> bool:
        """Whether to count on receipts: not where none came in time, nor any at all before."""
        return self.seen or not self.nobody_answers

    def confirmed(self, boot: str, first: int, last: int, now: float) -> None:
        """Note windows that the broker has taken."""
        if self._spans:
            newest = self._spans[-1]
            follows = (newest.boot, newest.last + 1) == (boot, first)
            if follows and now - newest.since < self._together_seconds:
                self._spans[-1] = Span(boot, newest.first, last, newest.since)
                return
        self._spans.append(Span(boot, first, last, now))

    def receipt_came(self, now: float) -> None:
        """Note a receipt, for whatever windows: somebody stores."""
        self._receipt_at = now
        self.nobody_answers = False

    def due(
        self, now: float, up_to: Callable[[str, int, int], int | None]
    ) -> Iterator[tuple[str, int, int]]:
        """Boot, first and last of what has to be sent again now.

        Args:
            now: on the monotonic clock.
            up_to: of boot, first and last, where one message that begins with the first of these
                windows that are still held ends; None if none of them is.
        """
        while self._spans and now - self._spans[0].since >= self._resend_seconds:
            oldest = self._spans[0]
            end = up_to(oldest.boot, oldest.first, oldest.last)
            if end is None:
                self._spans.popleft()
            elif self._receipt_at is not None and self._receipt_at >= oldest.since:
                self._spans.popleft()
                self.may_ask = self.nobody_answers
                yield oldest.boot, oldest.first, oldest.last
            else:
                self.nobody_answers = True
                if now < self._probe_at:
                    return
                self._probe_at = now + self._resend_seconds
                self._spans.popleft()
                if end < oldest.last:
                    rest = Span(oldest.boot, end + 1, oldest.last, oldest.since)
                    self._spans.appendleft(rest)
                self.may_ask = True
                yield oldest.boot, oldest.first, end
                return
