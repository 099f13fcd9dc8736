"""Which message is it upon which the broker hangs up, time and again? Pure.

A broker, or something before it, may end the connection because of a message that it cannot take,
without a word of why. Sent again at every connection, it would keep the node off for ever. A link
that breaks must not be mistaken for that: a message is only suspected when the connection had
shown to work, and ended at once upon it, with nothing else on its way.
"""

from collections.abc import Hashable
from typing import Final

# So often in a row before a message is given up: chance would have to find it each time.
_DROPS: Final = 3
# A broker that minds a message says so within a round trip.
_AT_ONCE_SECONDS: Final = 5.0
# So many windows go out one by one after a drop: as many as the message that it may have been had.
_CAREFUL_MESSAGES: Final = 50


class Suspicion:
    """Follows connections that end, and what was on its way then."""

    def __init__(self) -> None:
        self._suspect: Hashable = None
        self._drops = 0
        self._careful = 0

    @property
    def careful(self) -> bool:
        """Whether to send one message at a time, of one window each, to find out which it is."""
        return self._careful > 0

    def confirmed(self) -> None:
        """Note that the broker has answered a message with windows or an event."""
        self._careful = max(0, self._careful - 1)

    def dropped(
        self, on_their_way: list[Hashable], *, seconds: float, has_worked: bool
    ) -> Hashable | None:
        """Note that the connection has ended; gives the message to be given up, if it is one.

        Args:
            on_their_way: what was sent and not confirmed.
            seconds: since the last of it was sent.
            has_worked: whether the broker had confirmed something on this connection.
        """
        if not on_their_way or not has_worked or seconds > _AT_ONCE_SECONDS:
            self._suspect = None
            return None
        self._careful = _CAREFUL_MESSAGES
        if len(on_their_way) > 1:
            self._suspect = None
            return None
        (suspect,) = on_their_way
        self._drops = self._drops + 1 if suspect == self._suspect else 1
        self._suspect = suspect
        if self._drops < _DROPS:
            return None
        self._suspect = None
        return suspect
