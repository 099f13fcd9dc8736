"""A level meter on one line of a terminal: a bar for the level, a mark for the held peak."""

from typing import TextIO

import numpy as np

from node.sound.levels import FLOOR_DBFS, Levels, clipped_share, dbfs
from node.sound.source import Block

_BOTTOM_DBFS = -72.0
_CELLS = 36
_REDRAW_SECONDS = 0.1
"""Of sound: often enough to see a knock, seldom enough for a slow serial line."""
_HOLD_SECONDS = 1.5


class LevelMeter:
    """Draws the level of what it hears on one line, a few times a second.

    Args:
        stream: a terminal; anything else should get no meter.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._fresh = Levels()
        self._fresh_seconds = 0.0
        self._fresh_samples = 0
        self._held_dbfs = FLOOR_DBFS
        self._held_seconds = 0.0
        self._clipped_samples = 0.0
        self._drawn = 0

    def hear(self, block: Block, sample_rate_hz: int, note: str = "") -> None:
        """Take in a block, and draw when it is time.

        Args:
            block: sound.
            sample_rate_hz: its rate.
            note: what else to say on the line, for example how much is done.
        """
        samples = block.samples
        seconds = len(samples) / sample_rate_hz
        self._fresh.hear(samples, clipped=clipped_share(block))
        self._fresh_samples += len(samples)
        self._fresh_seconds += seconds
        self._held_seconds += seconds
        peak_dbfs = dbfs(float(np.abs(samples).max(initial=0.0)))
        if peak_dbfs >= self._held_dbfs or self._held_seconds > _HOLD_SECONDS:
            self._held_dbfs, self._held_seconds = peak_dbfs, 0.0
        if self._fresh_seconds < _REDRAW_SECONDS:
            return
        level = self._fresh.level
        fresh_samples = self._fresh_samples
        self._fresh, self._fresh_seconds, self._fresh_samples = Levels(), 0.0, 0
        if level is not None:
            self._clipped_samples += level.clipped * fresh_samples
            clipped = round(self._clipped_samples)
            self._draw(meter_line(level.rms_dbfs, self._held_dbfs, clipped, note))

    def finish(self) -> None:
        """Wipe the line, so that what is printed next starts on a clean one."""
        if self._drawn:
            self._stream.write("\r" + " " * self._drawn + "\r")
            self._stream.flush()
            self._drawn = 0

    def _draw(self, line: str) -> None:
        # No cursor control: blanks wipe what an earlier, longer line has left.
        self._stream.write("\r" + line.ljust(self._drawn))
        self._stream.flush()
        self._drawn = max(self._drawn, len(line))


def meter_line(rms_dbfs: float, held_dbfs: float, clipped_samples: int, note: str = "") -> str:
    """The meter as text, short enough for 80 columns with a note of 8."""
    filled = _cells(rms_dbfs)
    cells = ["#" if cell < filled else "." for cell in range(_CELLS)]
    cells[max(0, _cells(held_dbfs) - 1)] = "|"
    clipped = f" CLIPPED {clipped_samples}" if clipped_samples else ""
    return (
        f"[{''.join(cells)}] {rms_dbfs:6.1f} dBFS, peak {held_dbfs:6.1f}{clipped} {note}".rstrip()
    )


def _cells(level_dbfs: float) -> int:
    share = (level_dbfs - _BOTTOM_DBFS) / -_BOTTOM_DBFS
    return min(_CELLS, max(0, round(share * _CELLS)))
