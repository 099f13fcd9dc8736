"""Faults planted into the sound of a healthy machine, graded from hardly there to clear.

A recording of a real fault is rare and its severity unknown; a planted one is known to the decibel,
and the same clip without it is at hand. Severity 0 is the clip itself, bit for bit. From there the
amplitude of the change is proportional to severity, so that 0.25 lies 12 dB below 1:

    fault       what is heard                                    at 0.25   0.5      1
    tone        a whine in 700..4000 Hz that drifts by 1 %       -9 dB     -3 dB    +3 dB    (1)
    clicks      8..40 impacts a second, with slip and uneven,    -11 dB    -5 dB    +1 dB    (2)
                that ring a resonance in 1500..4000 Hz
    modulation  4..16 swings a second of the two octaves         22 %      45 %     90 %     (3)
                around 600..2500 Hz
    hiss        turbulence in gusts, from 800..2000 Hz up        -9 dB     -3 dB    +3 dB    (4)
    speed       the machine runs slower or faster                1.5 %     3 %      6 %
    muffled     falls more steeply above 400..1000 Hz            0.5 dB    1 dB     2 dB     (5)

Levels are relative to the clip's own steady noise in the same band, since a machine may be 40 dB
louder at 100 Hz than at 7 kHz, and a tone that is lost in one place shrieks in another:

    (1) tone over the critical band around it, the tone-to-noise ratio of ECMA-74 annex D (which
        calls a tone prominent from 8 dB on)
    (2) rms of the train of clicks, over the octave around the resonance
    (3) depth of the modulation
    (4) rms of the noise, which has the clip's own colour, over all above its lowest frequency
    (5) per octave

Steady noise is what medians over time and frequency show: neither a knock on the table nor the
machine's own tones make a fault louder. Where in its ranges a fault lies is drawn, but not from the
severity: the same random numbers give the same fault, only stronger. Impacts that ring a resonance
are the usual model of a defect in a rolling bearing (McFadden and Smith, J. Sound Vib. 96, 1984).

At last the clip gets its rms back, so that the level gives nothing away. Peaks may then lie above
full scale; whoever writes the samples has to see to that. Nothing here reads a file.
"""

import math
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import soxr

from contract.features import Float32Array
from training.made.room_noise import looped

_Floats = npt.NDArray[np.float64]

MIN_SECONDS = 0.5
"""A shorter sound may fall between two clicks, and shows no modulation."""

# At severity 1; see the table.
_TONE_DB = 3.0
_CLICKS_DB = 1.0
_MODULATION_DEPTH = 0.9
_HISS_DB = 3.0
_SPEED_CHANGE = 0.06
_TILT_DB_PER_OCTAVE = 2.0

# 8 Hz resolution at 16 kHz: finer than any critical band.
_FRAME_SECONDS = 0.128

# To either side: a window of 136 Hz, of which a tone fills less than a quarter.
_TONE_BINS = 8


def plant(
    clean: Float32Array,
    fault: str,
    *,
    severity: float,
    rng: np.random.Generator,
    sample_rate_hz: int,
) -> Float32Array:
    """Give a sound one fault.

    Args:
        clean: float32 sound of shape `(n,)`, at least `MIN_SECONDS` long.
        fault: one of `FAULTS`.
        severity: 0 to 1; see the table above.
        rng: which fault of its kind: frequency, phase, course. How many numbers are drawn does not
            depend on the severity.
        sample_rate_hz: of the sound, at least 8000.

    Returns:
        float32 sound of shape `(n,)` and of the same rms; a copy of `clean` if severity is 0 or the
        sound is digitally silent.

    Raises:
        ValueError: the sound is too short, or fault, severity or rate is not one of those above.
    """
    if fault not in _FAULTS:
        raise ValueError(f"Expected a fault out of {', '.join(FAULTS)}; got {fault!r}")
    if not 0 <= severity <= 1:
        raise ValueError(f"Expected a severity of 0 to 1, got {severity}")
    if sample_rate_hz < 8000:
        raise ValueError(f"Expected a rate of at least 8000 Hz, got {sample_rate_hz}")
    if clean.ndim != 1 or clean.size < MIN_SECONDS * sample_rate_hz:
        raise ValueError(
            f"Expected at least {MIN_SECONDS} s of mono sound, got shape {clean.shape}"
            f" at {sample_rate_hz} Hz"
        )
    if severity == 0 or not clean.any():
        return clean.copy()
    sound = clean.astype(np.float64)
    faulty = _FAULTS[fault](sound, severity, rng, sample_rate_hz)
    faulty *= _rms(sound) / _rms(faulty)
    return faulty.astype(np.float32)


def steady_noise(sound: _Floats, *, sample_rate_hz: int) -> tuple[_Floats, _Floats]:
    """The spectrum of what is heard all the time, without tones.

    Args:
        sound: shape `(n,)`.
        sample_rate_hz: of the sound.

    Returns:
        Frequencies in Hz and power at each, both of shape `(bins,)`; the powers of steady noise sum
        up to its mean square. At each frequency it is the median of all frames, over ln 2 (powers
        of Gaussian noise are distributed exponentially, with their median at ln 2 of the mean), and
        of that the median of the bins around, which passes over the peaks of tones.
    """
    frame = min(sound.size, round(_FRAME_SECONDS * sample_rate_hz))
    window = np.hanning(frame + 1)[:-1]
    frames = np.lib.stride_tricks.sliding_window_view(sound, frame)[:: frame // 2]
    spectrum = np.fft.rfft(frames * window)
    power = 2 * np.median(np.abs(spectrum) ** 2, axis=0) / (frame * np.sum(window**2))
    around = np.pad(power / math.log(2), _TONE_BINS, mode="edge")
    neighbours = np.lib.stride_tricks.sliding_window_view(around, 2 * _TONE_BINS + 1)
    noise: _Floats = np.median(neighbours, axis=1)
    return _bins_hz(frame, sample_rate_hz), noise


def _tone(
    sound: _Floats, severity: float, rng: np.random.Generator, sample_rate_hz: int
) -> _Floats:
    centre_hz = _log_uniform(rng, 700, _below_nyquist(4000, sample_rate_hz))
    drift_seconds, drift_phase, phase = rng.uniform(4, 8), *rng.uniform(0, 2 * np.pi, 2)
    seconds = np.arange(sound.size) / sample_rate_hz
    drift = 0.01 * np.sin(2 * np.pi * seconds / drift_seconds + drift_phase)
    turns = np.cumsum(centre_hz * (1 + drift)) / sample_rate_hz
    whine = np.sin(2 * np.pi * turns + phase)

    half_width_hz = _critical_band_hz(centre_hz) / 2
    band_rms = _steady_rms(
        sound, centre_hz - half_width_hz, centre_hz + half_width_hz, sample_rate_hz
    )
    return sound + _scaled(whine, severity * _ratio(_TONE_DB) * band_rms)


def _clicks(
    sound: _Floats, severity: float, rng: np.random.Generator, sample_rate_hz: int
) -> _Floats:
    clicks_hz = _log_uniform(rng, 8, 40)
    resonance_hz = _log_uniform(rng, 1500, _below_nyquist(4000, sample_rate_hz))
    decay_seconds = rng.uniform(0.0015, 0.004)
    count = math.ceil(1.2 * sound.size / sample_rate_hz * clicks_hz) + 1
    # Each slip stays: the balls of a bearing do not remember where they should have been.
    gaps = rng.normal(1, 0.01, count) / clicks_hz
    seconds = rng.uniform(0, 1 / clicks_hz) + np.cumsum(gaps) - gaps[0]
    strengths = rng.normal(1, 0.2, count)
    positions = np.rint(seconds * sample_rate_hz).astype(np.int64)
    heard = positions < sound.size
    impacts = np.zeros(sound.size)
    np.add.at(impacts, positions[heard], strengths[heard])

    ringing_seconds = np.arange(round(8 * decay_seconds * sample_rate_hz)) / sample_rate_hz
    ringing = np.exp(-ringing_seconds / decay_seconds)
    ringing *= np.sin(2 * np.pi * resonance_hz * ringing_seconds)
    size = sound.size + ringing.size
    rung = np.fft.irfft(np.fft.rfft(impacts, size) * np.fft.rfft(ringing, size), size)
    band_rms = _steady_rms(
        sound, resonance_hz / math.sqrt(2), resonance_hz * math.sqrt(2), sample_rate_hz
    )
    return sound + _scaled(rung[: sound.size], severity * _ratio(_CLICKS_DB) * band_rms)


def _modulation(
    sound: _Floats, severity: float, rng: np.random.Generator, sample_rate_hz: int
) -> _Floats:
    swings_hz = _log_uniform(rng, 4, 16)
    centre_hz = _log_uniform(rng, 600, 2500)
    phase = rng.uniform(0, 2 * np.pi)

    def band(frequency_hz: _Floats) -> _Floats:
        # Half the amplitude at one octave from the centre.
        octaves = np.log2(np.maximum(frequency_hz, 1) / centre_hz)
        return np.asarray(np.exp2(-(octaves**2)))

    seconds = np.arange(sound.size) / sample_rate_hz
    swing = np.cos(2 * np.pi * swings_hz * seconds + phase)
    return sound + severity * _MODULATION_DEPTH * swing * _filtered(sound, band, sample_rate_hz)


def _hiss(
    sound: _Floats, severity: float, rng: np.random.Generator, sample_rate_hz: int
) -> _Floats:
    lowest_hz = _log_uniform(rng, 800, 2000)
    gust_seconds, phase = rng.uniform(1, 3), rng.uniform(0, 2 * np.pi)
    white = rng.standard_normal(sound.size)
    bins_hz, power = steady_noise(sound, sample_rate_hz=sample_rate_hz)
    colour = np.sqrt(power)

    def shape(frequency_hz: _Floats) -> _Floats:
        high_pass = 1 / (1 + (lowest_hz / np.maximum(frequency_hz, 1)) ** 8)
        coloured: _Floats = high_pass * np.interp(frequency_hz, bins_hz, colour)
        return coloured

    seconds = np.arange(sound.size) / sample_rate_hz
    gusts = 1 + 0.7 * np.cos(2 * np.pi * seconds / gust_seconds + phase)
    noise = gusts * _filtered(white, shape, sample_rate_hz)
    band_rms = _steady_rms(sound, lowest_hz, sample_rate_hz / 2, sample_rate_hz)
    return sound + _scaled(noise, severity * _ratio(_HISS_DB) * band_rms)


def _speed(
    sound: _Floats, severity: float, rng: np.random.Generator, sample_rate_hz: int
) -> _Floats:
    """Played at another speed; what a faster machine leaves empty at the end is its beginning."""
    factor = 1 + float(rng.choice((-1, 1))) * severity * _SPEED_CHANGE
    played = np.asarray(soxr.resample(sound, factor * sample_rate_hz, sample_rate_hz), np.float64)
    if played.size < sound.size:
        played = np.asarray(looped(played, sound.size, sample_rate_hz=sample_rate_hz))

    # The microphone does not slow down: a slower machine would leave a gap below Nyquist. So the
    # top of the spectrum, where a machine's tones have faded into noise, stays the original's.
    def lower(frequency_hz: _Floats) -> _Floats:
        above = (frequency_hz / (sample_rate_hz / 2) - 0.75) / 0.1
        return np.asarray(np.cos(np.pi / 2 * np.clip(above, 0, 1)))

    def upper(frequency_hz: _Floats) -> _Floats:
        return np.sqrt(1 - lower(frequency_hz) ** 2)

    below = _filtered(played[: sound.size], lower, sample_rate_hz)
    return below + _filtered(sound, upper, sample_rate_hz)


def _muffled(
    sound: _Floats, severity: float, rng: np.random.Generator, sample_rate_hz: int
) -> _Floats:
    corner_hz = _log_uniform(rng, 400, 1000)

    def tilt(frequency_hz: _Floats) -> _Floats:
        octaves = np.log2(np.maximum(frequency_hz, corner_hz) / corner_hz)
        return np.asarray(10 ** (-severity * _TILT_DB_PER_OCTAVE * octaves / 20))

    return _filtered(sound, tilt, sample_rate_hz)


_FAULTS: dict[str, Callable[[_Floats, float, np.random.Generator, int], _Floats]] = {
    "tone": _tone,
    "clicks": _clicks,
    "modulation": _modulation,
    "hiss": _hiss,
    "speed": _speed,
    "muffled": _muffled,
}
FAULTS = tuple(_FAULTS)
"""The kinds of planted faults."""


def _steady_rms(sound: _Floats, low_hz: float, high_hz: float, sample_rate_hz: int) -> float:
    bins_hz, power = steady_noise(sound, sample_rate_hz=sample_rate_hz)
    return math.sqrt(np.sum(power[(bins_hz >= low_hz) & (bins_hz <= high_hz)]))


def _critical_band_hz(centre_hz: float) -> float:
    """Width of the critical band (Zwicker and Terhardt, J. Acoust. Soc. Am. 68, 1980)."""
    width_hz: float = 25 + 75 * (1 + 1.4 * (centre_hz / 1000) ** 2) ** 0.69
    return width_hz


def _filtered(sound: _Floats, gain: Callable[[_Floats], _Floats], sample_rate_hz: int) -> _Floats:
    """Without phase; the end does not run round into the beginning."""
    margin = round(_FRAME_SECONDS * sample_rate_hz)
    size = sound.size + margin
    gains = gain(_bins_hz(size, sample_rate_hz))
    filtered: _Floats = np.fft.irfft(np.fft.rfft(sound, size) * gains, size)
    return filtered[: sound.size]


def _bins_hz(samples: int, sample_rate_hz: int) -> _Floats:
    return np.arange(samples // 2 + 1, dtype=np.float64) * (sample_rate_hz / samples)


def _scaled(sound: _Floats, rms: float) -> _Floats:
    return sound * (rms / _rms(sound))


def _ratio(level_db: float) -> float:
    ratio: float = 10 ** (level_db / 20)
    return ratio


def _rms(sound: _Floats) -> float:
    return math.sqrt(np.mean(sound**2))


def _log_uniform(rng: np.random.Generator, low: float, high: float) -> float:
    return math.exp(rng.uniform(math.log(low), math.log(high)))


def _below_nyquist(highest_hz: float, sample_rate_hz: int) -> float:
    return min(highest_hz, 0.4 * sample_rate_hz)
