"""Whether the microphone can be believed, by its sound alone: pure, with state carried over.

Each second of sound is judged by itself. A fault begins when enough seconds show it and ends when
enough do not, so that one bang or one lucky second changes nothing. A dead microphone is never a
healthy machine: while the state is not ok, no window may say "normal".

Several faults at a time are told as the one that explains the others: gone, silent, stuck, offset,
clipped, quiet. A stuck buffer may also be quiet, and a large offset makes sound clip.

Not here: what the machine sounds like, and whether the microphone is plugged in (`node.sound`).
"""

import math
from typing import Final

import msgspec
import numpy as np

from contract.features import Float32Array
from contract.states import MicrophoneState, Problem

FULL_SCALE: Final = 1.0 - 2.0**-15
"""One step of a 16-bit converter below full scale: its highest sample."""

CLIPPED_SHARE: Final = 1e-3
"""16 samples of a second at 16 kHz. Single knocks stay below it, and what is cut off of less than
this does not move a band of a whole second's spectrum; a gain that is too high is far above it."""
CLIPPED_SHARE_AFTER: Final = 1e-4
"""Ends below a tenth, or a gain at the limit would come and go."""
QUIET_DBFS: Final = -80.0
"""Without the constant part, over the whole band. I2S and USB microphones of the usual -26 dBFS at
94 dB SPL give this at 40 dB SPL unweighted, and no room but a recording studio has less: an office
at night has 45 and more, most of it below 200 Hz. The noise of such microphones themselves lies at
-88 to -84, that of a sound card without one at -95 to -85. Below: muted, unplugged, or gain at
nothing."""
QUIET_DBFS_AFTER: Final = -77.0
OFFSET: Final = 0.1
"""Of full scale. I2S microphones have a steady offset by design (INMP441 below 0.01, SPH0645 0.02
to 0.05), which the lowest mel bands do not reach; 0.1 takes a decibel of headroom and is what a
missing ground, a wrong word format or a broken capsule give, all of them far more."""
OFFSET_AFTER: Final = 0.08
OFFSET_OVER_RMS: Final = 2.0
"""The offset must also be the most of what is there: one slow rumble is no offset."""
REPEATS_SECONDS: Final = 0.5
"""The longest buffer whose repetition is seen; PortAudio is asked for one of 0.25 s."""

_RETURN_SECONDS: Final = 2
"""Good sound at first, and after an outage, until the state is ok: plugging in crackles, and
microphones settle for a second."""
_PROBE_SAMPLES: Final = 64
_CANDIDATES: Final = 16


class _Patience(msgspec.Struct, frozen=True):
    """How many seconds of sound a fault must be heard, or not be heard, to begin and to end."""

    enter_seconds: int
    leave_seconds: int


_PATIENCE: Final = {
    # In the order of precedence.
    # Drivers start with up to a second of zeros; no microphone gives two.
    MicrophoneState.SILENT: _Patience(2, 2),
    # Real noise never repeats; two seconds are certain.
    MicrophoneState.STUCK: _Patience(2, 2),
    # A high-pass filter settles for some seconds after power is applied.
    MicrophoneState.OFFSET: _Patience(10, 5),
    # Somebody knocks against the microphone, or starts the machine: over in three seconds. Clipped
    # in one second of four or more is clipped.
    MicrophoneState.CLIPPED: _Patience(3, 10),
    # Nothing is lost by waiting: so quiet a second has no loud fault in it.
    MicrophoneState.QUIET: _Patience(10, 5),
}
_PROBLEMS: Final = {
    MicrophoneState.SILENT: Problem.MIC_SILENT,
    MicrophoneState.STUCK: Problem.MIC_STUCK,
    MicrophoneState.OFFSET: Problem.MIC_OFFSET,
    MicrophoneState.CLIPPED: Problem.MIC_CLIPPED,
    MicrophoneState.QUIET: Problem.MIC_QUIET,
    MicrophoneState.GONE: Problem.MIC_GONE,
}


class MicrophoneHealth:
    """Judges the sound of one microphone as it comes.

    Keeps a second of it. `state` is `unknown` until the first verdict.
    """

    def __init__(self) -> None:
        self.state = MicrophoneState.UNKNOWN
        self.note: str | None = None
        """What is wrong and what to do about it, in one line; None while nothing is."""
        self._forget()

    def _forget(self) -> None:
        self._rate_hz = 0
        self._second: Float32Array = np.zeros(0, np.float32)
        self._filled = 0
        self._clipped_samples = 0.0
        self._good_seconds = 0
        self._suspicion = dict.fromkeys(_PATIENCE, 0)
        self._present = dict.fromkeys(_PATIENCE, False)

    @property
    def problem(self) -> Problem | None:
        """What a window has instead of a score; None while the state is ok or unknown."""
        return _PROBLEMS.get(self.state)

    def hear(
        self, samples: Float32Array, sample_rate_hz: int, *, clipped: float | None = None
    ) -> MicrophoneState:
        """Take in a block; gives the state after it.

        Args:
            samples: float32 of shape (n,), -1..1, any n, as the source gives it.
            sample_rate_hz: their rate.
            clipped: share at full scale in the worst channel, where `samples` are a mix.
        """
        if sample_rate_hz != self._rate_hz:
            self._rate_hz = sample_rate_hz
            self._second = np.zeros(sample_rate_hz, np.float32)
            self._filled, self._clipped_samples = 0, 0.0
        while len(samples):
            part = samples[: self._rate_hz - self._filled]
            samples = samples[len(part) :]
            self._second[self._filled : self._filled + len(part)] = part
            self._filled += len(part)
            share = float(np.mean(np.abs(part) >= FULL_SCALE)) if clipped is None else clipped
            self._clipped_samples += share * len(part)
            if self._filled == self._rate_hz:
                self._judge(self._second, self._clipped_samples / self._rate_hz)
                self._filled, self._clipped_samples = 0, 0.0
        return self.state

    def gone(self, note: str) -> MicrophoneState:
        """Nothing is heard any more, for a reason that the source knows."""
        self._forget()
        self.state, self.note = MicrophoneState.GONE, note
        return self.state

    def _judge(self, second: Float32Array, clipped: float) -> None:
        heard = _heard(second, clipped)
        shown = self._shown(heard)
        for fault, is_shown in shown.items():
            patience = _PATIENCE[fault]
            step = patience.leave_seconds if is_shown else -patience.enter_seconds
            most = patience.enter_seconds * patience.leave_seconds
            self._suspicion[fault] = min(max(0, self._suspicion[fault] + step), most)
            if self._suspicion[fault] in (0, most):
                self._present[fault] = is_shown
        self._good_seconds = 0 if any(shown.values()) else self._good_seconds + 1
        self._tell(heard)

    def _shown(self, heard: "_SecondOfSound") -> dict[MicrophoneState, bool]:
        """Whether a second shows each fault; without those that it cannot tell."""
        shown = {MicrophoneState.SILENT: heard.constant and heard.offset == 0}
        if shown[MicrophoneState.SILENT]:
            return shown
        shown[MicrophoneState.STUCK] = heard.constant or heard.repeats_samples is not None
        if shown[MicrophoneState.STUCK]:
            return shown
        present = self._present
        least = OFFSET_AFTER if present[MicrophoneState.OFFSET] else OFFSET
        shown[MicrophoneState.OFFSET] = (
            abs(heard.offset) >= least and abs(heard.offset) >= OFFSET_OVER_RMS * heard.rms
        )
        share = CLIPPED_SHARE_AFTER if present[MicrophoneState.CLIPPED] else CLIPPED_SHARE
        shown[MicrophoneState.CLIPPED] = heard.clipped > share
        level = QUIET_DBFS_AFTER if present[MicrophoneState.QUIET] else QUIET_DBFS
        shown[MicrophoneState.QUIET] = heard.rms_dbfs < level
        return shown

    def _tell(self, heard: "_SecondOfSound") -> None:
        fault = next((fault for fault, present in self._present.items() if present), None)
        if fault is None:
            unsure = self.state in (MicrophoneState.UNKNOWN, MicrophoneState.GONE)
            if not unsure or self._good_seconds >= _RETURN_SECONDS:
                self.state, self.note = MicrophoneState.OK, None
        elif fault is not self.state:
            # Once, when it begins: a note with numbers of every second would be news every second.
            self.state, self.note = fault, _note(fault, heard)


class _SecondOfSound(msgspec.Struct, frozen=True, kw_only=True):
    """What one second of sound comes to."""

    constant: bool
    offset: float
    rms: float
    """RMS of the samples without their constant offset, 0 to 1."""
    clipped: float
    repeats_samples: int | None
    """The period of sound that repeats exactly, in samples; None if it does not repeat."""

    @property
    def rms_dbfs(self) -> float:
        return 20 * math.log10(self.rms) if self.rms > 0 else -math.inf


def _heard(second: Float32Array, clipped: float) -> _SecondOfSound:
    if not np.isfinite(second).all():
        second = np.nan_to_num(second, nan=0.0, posinf=1.0, neginf=-1.0)
    constant = bool(second.min() == second.max())
    return _SecondOfSound(
        constant=constant,
        offset=float(second[0]) if constant else float(np.mean(second, dtype=np.float64)),
        rms=0.0 if constant else float(np.std(second, dtype=np.float64)),
        clipped=clipped,
        repeats_samples=None if constant else _period(second),
    )


def _period(second: Float32Array) -> int | None:
    """The shortest period of sound that repeats exactly, up to half its length; None if none does.

    Looked for where the sound is farthest from zero: a value that is rare in sound of any kind.
    """
    longest = int(len(second) * REPEATS_SECONDS)
    probe = int(np.argmax(np.abs(second[:longest])))
    later = second[probe + 1 : probe + 1 + longest]
    periods = np.flatnonzero(later == second[probe]) + 1
    for i in range(probe + 1, min(probe + _PROBE_SAMPLES, len(second) - longest)):
        if not len(periods):
            return None
        periods = periods[second[i + periods] == second[i]]
    for period in periods[:_CANDIDATES].tolist():
        if np.array_equal(second[period:], second[:-period]):
            return int(period)
    return None


def _note(fault: MicrophoneState, heard: _SecondOfSound) -> str:
    notes = {
        MicrophoneState.SILENT: (
            "The microphone gives digital silence: switch off its mute button, unmute it in"
            " alsamixer (F4), check its data wire or another channel"
        ),
        MicrophoneState.STUCK: (
            "The microphone repeats itself, which no real sound does: unplug it and plug it in"
            " again; on I2S check the clock and data wires"
        ),
        MicrophoneState.OFFSET: (
            f"The sound lies {heard.offset:+.2f} of full scale off zero: check the microphone's"
            " ground and supply wires and the word format, or try another microphone"
        ),
        MicrophoneState.CLIPPED: (
            f"The sound is too loud for the gain ({heard.clipped:.1%} of the last second at full"
            " scale): lower the gain in alsamixer (F4), or move the microphone away from the"
            " machine; if neither was changed, listen to the machine"
        ),
        MicrophoneState.QUIET: (
            f"The sound is quieter than any room ({heard.rms_dbfs:.0f} dBFS): raise the gain in"
            " alsamixer (F4), and check the cable, the mute switch and what covers the microphone"
        ),
    }
    return notes[fault]
