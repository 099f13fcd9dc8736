"""Whether channels may be mixed: one that is dead, or turned round, spoils the mean. Pure."""

import math
from collections.abc import Sequence
from typing import Final

import numpy as np

from node.findings import Finding, warning

_DEAD_DB: Final = 30.0
"""Of two microphones in one place none is so much quieter; an input without a plug is."""
_CANCEL_DB: Final = 9.0
"""A mean of channels that have nothing in common is quieter than each by 10 log10 of their number;
so much less than that, and they take each other's sound away."""
_FLOOR: Final = 1e-15


class ChannelLevels:
    """Adds up how loud each of several channels is, and their mean."""

    def __init__(self) -> None:
        self._samples = 0
        self._powers: np.ndarray[tuple[int], np.dtype[np.float64]] | None = None
        self._mixed = 0.0

    def hear(self, powers: Sequence[float], mixed: float, *, samples: int) -> None:
        """Take in a block of sound.

        Args:
            powers: of each channel, the variance of its samples.
            mixed: the variance of the samples of their mean.
            samples: how many there are of each.
        """
        found = np.asarray(powers, np.float64) * samples
        self._powers = found if self._powers is None else self._powers + found
        self._mixed += mixed * samples
        self._samples += samples

    @property
    def levels_dbfs(self) -> tuple[float, ...]:
        """RMS level of each channel without its constant part; none before there was sound."""
        if self._powers is None:
            return ()
        return tuple(_dbfs(power / self._samples) for power in self._powers)

    @property
    def mixed_dbfs(self) -> float:
        """RMS level of the channels' mean without its constant part."""
        return _dbfs(self._mixed / max(1, self._samples))


def channel_findings(levels_dbfs: Sequence[float], mixed_dbfs: float) -> list[Finding]:
    """What makes the mean of channels worse than one of them.

    Args:
        levels_dbfs: RMS level of each channel; none of fewer than two is ever found fault with.
        mixed_dbfs: RMS level of their mean.
    """
    if len(levels_dbfs) < 2:
        return []
    loudest = max(range(len(levels_dbfs)), key=lambda channel: levels_dbfs[channel])
    use = f"set [source] channel = {loudest} (counted from 0), which hears it whole"
    dead = [c for c, level in enumerate(levels_dbfs) if level < levels_dbfs[loudest] - _DEAD_DB]
    if dead:
        which = f"channel {dead[0]} is" if len(dead) == 1 else f"channels {_listed(dead)} are"
        quieter_db = 20 * math.log10(len(levels_dbfs) / (len(levels_dbfs) - len(dead)))
        return [
            warning(
                "channels",
                f"{which} dead ({_told(levels_dbfs)}): the mean of all is {quieter_db:.0f} dB too"
                " quiet",
                use,
            )
        ]
    usual_dbfs = _dbfs(float(np.mean([10 ** (level / 10) for level in levels_dbfs])))
    if mixed_dbfs < usual_dbfs - 10 * math.log10(len(levels_dbfs)) - _CANCEL_DB:
        return [
            warning(
                "channels",
                f"the channels cancel each other: {_told(levels_dbfs)}, and {mixed_dbfs:.1f} dBFS"
                " mixed; one of them is wired the wrong way round",
                use,
            )
        ]
    return []


def _told(levels_dbfs: Sequence[float]) -> str:
    return f"{', '.join(f'{level:.1f}' for level in levels_dbfs)} dBFS"


def _listed(channels: Sequence[int]) -> str:
    return f"{', '.join(map(str, channels[:-1]))} and {channels[-1]}"


def _dbfs(power: float) -> float:
    return 10 * math.log10(max(power, _FLOOR))
