"""How loud sound is, measured over any number of blocks, and what that says of the gain."""

import math

import msgspec
import numpy as np

from contract.features import Float32Array
from node.findings import Finding, ok, problem, warning
from node.sound.microphone_health import (
    CLIPPED_SHARE,
    CLIPPED_SHARE_AFTER,
    FULL_SCALE,
    OFFSET,
    OFFSET_OVER_RMS,
    QUIET_DBFS,
)
from node.sound.source import Block

FLOOR_DBFS = -144.0
"""Digital silence has no level in dB; this is below the noise of any 24-bit converter."""

TARGET_PEAK_DBFS = -10.0
"""Room for a fault, which is louder than the healthy machine, before it clips."""
TARGET_RMS_DBFS = -35.0
LOW_DBFS = -60.0
"""A choice: 20 dB above where the node takes it for no microphone at all (`QUIET_DBFS`)."""
LOUD_PEAK_DBFS = -3.0
OFFSET_WARNING = 0.06
"""Some I2S microphones have up to 0.05 by design; a node gives up at `OFFSET`."""

_GAIN = "`alsamixer`, F4, or the microphone's own switch"


class Level(msgspec.Struct, frozen=True, kw_only=True):
    """How loud a stretch of sound was; 0 dBFS is a full-scale square wave."""

    rms_dbfs: float
    """RMS level of the sound without its constant part."""
    peak_dbfs: float
    clipped: float
    """Share of samples at full scale, 0 to 1; in the worst channel, where several are mixed."""
    offset: float
    """The constant part of the sound, -1 to 1."""
    constant: bool
    """Whether every sample had the same value."""


class Levels:
    """Measures the level of sound that comes in blocks of any length."""

    def __init__(self) -> None:
        self._samples = 0
        self._clipped = 0.0
        self._sum = 0.0
        self._squares = 0.0
        self._lowest = math.inf
        self._highest = -math.inf

    def hear(self, samples: Float32Array, *, clipped: float) -> None:
        """Take in some samples, float32 of shape (n,) from -1 to 1.

        Args:
            samples: float32 of shape (n,), -1..1.
            clipped: share at full scale, see `clipped_share`.
        """
        if not len(samples):
            return
        self._samples += len(samples)
        self._clipped += clipped * len(samples)
        self._sum += float(np.sum(samples, dtype=np.float64))
        self._squares += float(np.sum(np.square(samples, dtype=np.float64)))
        self._lowest = min(self._lowest, float(samples.min()))
        self._highest = max(self._highest, float(samples.max()))

    @property
    def level(self) -> Level | None:
        """What was heard so far; None for nothing."""
        if not self._samples:
            return None
        offset = self._sum / self._samples
        power = max(0.0, self._squares / self._samples - offset**2)
        constant = self._lowest == self._highest
        return Level(
            rms_dbfs=FLOOR_DBFS if constant else dbfs(math.sqrt(power)),
            peak_dbfs=dbfs(max(-self._lowest, self._highest)),
            clipped=self._clipped / self._samples,
            offset=offset,
            constant=constant,
        )


def clipped_share(block: Block) -> float:
    """Share of a block's samples at full scale: of the worst channel, where several are mixed."""
    if block.clipped is not None:
        return block.clipped
    return float(np.mean(np.abs(block.samples) >= FULL_SCALE)) if len(block.samples) else 0.0


def dbfs(amplitude: float) -> float:
    """An amplitude of 0 to 1 in dB, at least `FLOOR_DBFS`."""
    return max(FLOOR_DBFS, 20 * math.log10(amplitude)) if amplitude > 0 else FLOOR_DBFS


def level_findings(level: Level) -> list[Finding]:
    """What is wrong with a level, worst first, and by how many dB to change the gain."""
    check = "level"
    if level.constant:
        what = "digital silence" if level.offset == 0 else f"the constant {level.offset:.4f}"
        return [
            problem(
                check,
                f"{what}: no microphone gives that",
                f"unmute it and raise its gain ({_GAIN}); check the plug and [source] channel",
            )
        ]
    findings = []
    heard = f"{level.rms_dbfs:.1f} dBFS, peaks at {level.peak_dbfs:.1f} dBFS"
    lower_db = max(3, math.ceil(level.peak_dbfs - TARGET_PEAK_DBFS))
    raise_db = math.floor(min(TARGET_PEAK_DBFS - level.peak_dbfs, TARGET_RMS_DBFS - level.rms_dbfs))
    if level.clipped >= CLIPPED_SHARE_AFTER:
        tell = problem if level.clipped > CLIPPED_SHARE else warning
        findings.append(
            tell(
                check,
                f"{heard}, clipped: {level.clipped:.2%} of the samples are at full scale",
                # How far the peaks would go is cut off.
                f"lower the gain by at least {lower_db} dB ({_GAIN}), then check again",
            )
        )
    elif level.peak_dbfs > LOUD_PEAK_DBFS:
        findings.append(
            warning(check, f"{heard}: too loud", f"lower the gain by about {lower_db} dB ({_GAIN})")
        )
    elif level.rms_dbfs < LOW_DBFS:
        tell = problem if level.rms_dbfs < QUIET_DBFS else warning
        advice = (
            f"raise the gain by about {raise_db} dB ({_GAIN}), or bring it nearer to the machine"
            if raise_db > 0
            else "bring it nearer to the machine (single knocks leave no room for more gain)"
        )
        findings.append(tell(check, f"{heard}: too quiet", f"{advice}; is the machine running?"))
    else:
        findings.append(ok(check, heard))
    if abs(level.offset) >= OFFSET_WARNING:
        is_most = abs(level.offset) >= OFFSET_OVER_RMS * 10 ** (level.rms_dbfs / 20)
        tell = problem if abs(level.offset) >= OFFSET and is_most else warning
        findings.append(
            tell(
                "offset",
                f"the sound lies off zero by {level.offset:+.3f} of full scale",
                "a faulty microphone or plug, or one without its supply voltage: try another",
            )
        )
    return findings
