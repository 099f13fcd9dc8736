"""A source of sound that a test makes block by block."""

from collections.abc import Iterable
from types import TracebackType
from typing import Self

from node.sound.source import Block, EndOfSound


class Sound:
    """A source that gives these blocks, and then ends as it is told."""

    def __init__(
        self, blocks: Iterable[Block], *, sample_rate_hz: int, end: Exception | None = None
    ) -> None:
        self.overruns = 0
        self.reopened = 0
        self.outage = None
        self.identity = "blocks"
        self.sample_rate_hz = sample_rate_hz
        self._blocks = iter(blocks)
        self._end = end or EndOfSound()

    def read(self, timeout_seconds: float) -> Block | None:
        block = next(self._blocks, None)
        if block is None:
            raise self._end
        self.overruns += not block.continuous
        return block

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        pass
