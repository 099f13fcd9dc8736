"""What became of the windows of one boot, as the node counts them. Pure."""

from collections.abc import Iterable

import msgspec

from contract.messages import Account, BootId, Count, DiscardReason


class BootAccount(msgspec.Struct, kw_only=True):
    """Of one boot, since it began; also as it is kept on the disk."""

    produced: Count = 0
    """Windows numbered so far. Of a boot that was killed, as far as is known."""
    discarded: dict[DiscardReason, Count] = {}
    """Windows given up, where there are any."""
    ended: bool = False
    """Whether the boot has ended in good order."""

    def discard(self, reason: DiscardReason, count: int) -> None:
        """Count windows that are given up."""
        self.discarded[reason] = self.discarded.get(reason, 0) + count

    def discarded_by(self, reason: DiscardReason) -> int:
        """Windows given up for one reason."""
        return self.discarded.get(reason, 0)

    def message(
        self, *, node: str, boot: BootId, at_us: int, waiting: int, tail_windows: int
    ) -> Account:
        """To be published.

        Args:
            node: the node's id.
            boot: whose windows these are.
            at_us: microseconds since 1970.
            waiting: windows that the node still holds.
            tail_windows: how many of them, at most, are in memory alone.
        """
        return Account(
            node=node,
            boot=boot,
            at_us=at_us,
            produced=self.produced,
            waiting=waiting,
            tail_windows=tail_windows,
            ended=self.ended,
            discarded_full=self.discarded_by(DiscardReason.FULL),
            discarded_expired=self.discarded_by(DiscardReason.EXPIRED),
            discarded_refused=self.discarded_by(DiscardReason.REFUSED),
            discarded_damaged=self.discarded_by(DiscardReason.DAMAGED),
            discarded_unsaved=self.discarded_by(DiscardReason.UNSAVED),
        )


def all_discarded(accounts: Iterable[BootAccount]) -> int:
    """Windows given up, of all of them, for any reason."""
    return sum(sum(account.discarded.values()) for account in accounts)
