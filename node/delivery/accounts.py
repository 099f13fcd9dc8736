"""What became of the windows of one boot, as the node counts them. Pure."""

import msgspec

from contract.messages import Account, BootId, Count
from contract.states import DiscardReason


class BootAccount(msgspec.Struct, kw_only=True):
    """What became of the windows of one boot since it began; kept on the disk in this form, too."""

    produced: Count = 0
    """How many windows were numbered so far; of a boot that was killed, as far as is known."""
    discarded: dict[str, Count] = {}
    """How many windows were given up, by the `DiscardReason`; one that had none is left out."""
    ended: bool = False
    """Whether the boot has ended in good order."""

    def __post_init__(self) -> None:
        # What a newer version wrote: the windows are still accounted for.
        for unknown in self.discarded.keys() - set(DiscardReason):
            self.discard(DiscardReason.DAMAGED, self.discarded.pop(unknown))

    def discard(self, reason: DiscardReason, count: int) -> None:
        """Count windows that are given up for a reason."""
        self.discarded[reason] = self.discarded.get(reason, 0) + count

    def discarded_by(self, reason: DiscardReason) -> int:
        """How many windows were given up for one reason."""
        return self.discarded.get(reason, 0)

    def message(
        self, *, node: str, boot: BootId, at_us: int, waiting: int, tail_windows: int
    ) -> Account:
        """The account as the node publishes it.

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
