"""What was measured of a broker, and what it means for a fleet."""

from collections.abc import Iterable
from enum import StrEnum

import msgspec

from contract.errors import EXIT_BAD_INPUT

EXIT_LOSES = 1
"""The broker will lose data."""
EXIT_UNKNOWN = EXIT_BAD_INPUT
"""It may: something that can be measured was not."""


class Verdict(StrEnum):
    """What a measurement means for a fleet."""

    GOOD = "good"
    SLOW = "slow"
    """Nothing is lost, but it takes longer than it could."""
    MISLEADS = "misleads"
    """Nothing is lost, but somebody is told what is not so."""
    LOSES = "will lose data"
    UNMEASURED = "not measured"


class Measurement(msgspec.Struct, frozen=True):
    """One thing that a broker does, or does not."""

    what: str
    measured: str
    verdict: Verdict
    advice: str | None = None
    """What to do about it."""
    measurable: bool = True
    """Whether a check could know at all."""


def exit_code(measurements: Iterable[Measurement]) -> int:
    """0 when all is known and nothing will be lost."""
    measurements = list(measurements)
    if any(each.verdict is Verdict.LOSES for each in measurements):
        return EXIT_LOSES
    unknown = any(each.verdict is Verdict.UNMEASURED and each.measurable for each in measurements)
    return EXIT_UNKNOWN if unknown else 0
