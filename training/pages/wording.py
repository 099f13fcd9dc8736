"""Figures and names as people read them, the same on a page and in a terminal."""

from training.judge.intervals import Spread
from training.judge.metrics import Interval

CHANCE = 0.5

YARDSTICK_NAMES = {
    "random": "random numbers",
    "level": "loudness alone",
    "mean_gmm": "Gaussian mixture",
    "twfr_gmm": "TWFR-GMM",
    "knn": "nearest neighbour",
}


def yardstick_name(name: str) -> str:
    """A yardstick's name in words."""
    return YARDSTICK_NAMES.get(name, name)


def figure_text(value: float | None, interval: Interval | None = None) -> str:
    """A figure with three decimals, and its interval in brackets."""
    if value is None:
        return "-"
    return f"{value:.3f}" + (f" [{interval[0]:.3f}, {interval[1]:.3f}]" if interval else "")


def percent_text(share: float | None) -> str:
    """A share as a percentage."""
    if share is None:
        return "-"
    return f"{share * 100:.2g} %" if share < 0.1 else f"{share * 100:.0f} %"


def share_text(share: float | None, count: int) -> str:
    """A share of some as their number."""
    return f"{round((share or 0.0) * count)} of {count}"


def count_text(count: int, what: str) -> str:
    """Several of a thing, or one."""
    return f"{count} {what}{'' if count == 1 else 's'}"


def rounded_text(value: float) -> str:
    """Two digits of a small number, all of a large one."""
    return f"{value:.0f}" if value >= 10 else f"{value:.2g}"


def seconds_text(value: float | None) -> str:
    """A delay in whole seconds; None never ends."""
    return "endless" if value is None else f"{value:.0f} s"


def spread_text(spread: Spread) -> str:
    """The mean of several figures and their standard deviation, if it is known."""
    return f"{spread.mean:.3f}" + ("" if spread.sd is None else f" ± {spread.sd:.3f}")
