"""What options of several commands are parsed with: each refuses what it cannot be, in words."""

import argparse
import math
import re
from collections.abc import Callable

MAX_SEED = 2**32 - 1

_MAX_DESCRIPTION = 200


def whole(low: int, high: int) -> Callable[[str], int]:
    """A parser of whole numbers of `low` to `high`, both included."""

    def parse(text: str) -> int:
        value = int(text) if re.fullmatch(r"-?\d{1,12}", text) else None
        if value is None or not low <= value <= high:
            raise argparse.ArgumentTypeError(
                f"expected a whole number of {low}..{high}, got {text!r}"
            )
        return value

    return parse


def number(text: str) -> float:
    """Any number; NaN for what is none, which whoever takes it refuses in its own words."""
    try:
        return float(text)
    except ValueError:
        return math.nan


def share(text: str) -> float:
    """A number between 0 and 1, neither of them included."""
    value = number(text)
    if not 0 < value < 1:
        raise argparse.ArgumentTypeError(f"expected a share between 0 and 1, got {text!r}")
    return value


def positive(text: str) -> float:
    """A finite number above 0."""
    value = number(text)
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"expected a number above 0, got {text!r}")
    return value


def description(text: str) -> str:
    """A release's description, as long as a manifest takes it."""
    if len(text) > _MAX_DESCRIPTION:
        raise argparse.ArgumentTypeError(f"expected at most {_MAX_DESCRIPTION} characters")
    return text


def names(text: str) -> tuple[str, ...]:
    """The parts of a list with commas, without the empty ones."""
    return tuple(part.strip() for part in text.split(",") if part.strip())


def numbers(text: str) -> tuple[float, ...]:
    """The numbers of a list with commas."""
    return tuple(number(part) for part in names(text))
