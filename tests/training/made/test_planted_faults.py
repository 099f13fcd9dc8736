"""Faults planted into healthy sound."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from contract.features import Float32Array
from training.made.planted_faults import FAULTS, plant, steady_noise

RATE_HZ = 16_000
SEEDS = (0, 1, 2)


def machine(seconds: float = 4.0, *, seed: int = 0) -> Float32Array:
    """Noise that falls by 6 dB per octave above 300 Hz, and two tones; shape (n,)."""
    # Other numbers than the fault's, or hiss would be the machine's own noise once more.
    rng = np.random.default_rng([seed, 1])
    samples = round(seconds * RATE_HZ)
    frequency_hz = np.fft.rfftfreq(samples, 1 / RATE_HZ)
    spectrum = np.fft.rfft(rng.standard_normal(samples)) / (1 + frequency_hz / 300)
    noise = np.fft.irfft(spectrum, samples)
    time = np.arange(samples) / RATE_HZ
    tones = np.sin(2 * np.pi * 120 * time) + 0.3 * np.sin(2 * np.pi * 1500 * time)
    sound: Float32Array = (0.05 * noise / noise.std() + 0.02 * tones).astype(np.float32)
    return sound


def faulty(clean: Float32Array, fault: str, severity: float, *, seed: int = 0) -> Float32Array:
    rng = np.random.default_rng(seed)
    return plant(clean, fault, severity=severity, rng=rng, sample_rate_hz=RATE_HZ)


def level_db(sound: Float32Array) -> float:
    return float(10 * np.log10(np.mean(np.square(sound, dtype=np.float64))))


def spectrum_db(sound: Float32Array) -> np.ndarray:
    """Mean power of each frequency, in bins of 7.8 Hz."""
    frames = np.lib.stride_tricks.sliding_window_view(sound, 2048)[::512] * np.hanning(2048)
    power = np.square(np.abs(np.fft.rfft(frames))).mean(axis=0)
    return np.asarray(10 * np.log10(power))


def distance_db(clean: Float32Array, other: Float32Array) -> float:
    """Root mean square difference of short-time spectra below 6 kHz, smoothed over frequency."""
    cells = []
    for sound in (clean, other):
        frames = np.lib.stride_tricks.sliding_window_view(sound, 512)[::256] * np.hanning(512)
        power = np.square(np.abs(np.fft.rfft(frames)))[:, :192]
        cells.append(10 * np.log10(power.reshape(len(power), -1, 2).mean(axis=2)))
    return float(np.sqrt(np.mean((cells[0] - cells[1]) ** 2)))


@pytest.mark.parametrize("fault", FAULTS)
def test_severity_0_is_the_clip(fault: str) -> None:
    """Without severity not a bit changes, and what comes back is no view of what was given."""
    clean = machine()

    planted = faulty(clean, fault, 0)

    assert planted.tobytes() == clean.tobytes()
    assert not np.shares_memory(planted, clean)


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("severity", [0.25, 1.0])
def test_level_gives_nothing_away(fault: str, severity: float) -> None:
    """The rms of the clip is that of the healthy one, though its sound is another."""
    clean = machine()

    planted = faulty(clean, fault, severity)

    assert planted.shape == clean.shape
    assert planted.dtype == np.float32
    assert not np.array_equal(planted, clean)
    assert level_db(planted) == pytest.approx(level_db(clean), abs=1e-4)


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("seed", SEEDS)
def test_more_severe_is_further_off(fault: str, seed: int) -> None:
    """The spectral distance from the healthy clip grows with severity."""
    clean = machine(seed=seed)

    distances = [
        distance_db(clean, faulty(clean, fault, severity, seed=seed))
        for severity in (0, 0.25, 0.5, 1)
    ]

    assert distances[0] == 0
    assert (np.diff(distances) > 0).all(), distances


@pytest.mark.parametrize("fault", FAULTS)
def test_follows_from_the_random_numbers(fault: str) -> None:
    """The same seed gives the same fault, another seed another one."""
    clean = machine()

    first, again, other = (faulty(clean, fault, 0.5, seed=seed) for seed in (3, 3, 6))

    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


@pytest.mark.parametrize("fault", FAULTS)
def test_draws_as_many_numbers_at_any_severity(fault: str) -> None:
    """The same fault grows: what is drawn does not depend on how severe it is."""
    clean = machine()
    weak, strong = np.random.default_rng(1), np.random.default_rng(1)

    plant(clean, fault, severity=0.25, rng=weak, sample_rate_hz=RATE_HZ)
    plant(clean, fault, severity=1, rng=strong, sample_rate_hz=RATE_HZ)

    assert weak.bit_generator.state == strong.bit_generator.state


@pytest.mark.parametrize("seed", SEEDS)
def test_tone_stands_at_its_ratio(seed: int) -> None:
    """What is added is one narrow line in 700..4000 Hz, 3 dB above its critical band."""
    clean = machine(8)

    added = faulty(clean, "tone", 1, seed=seed) - clean
    power = np.square(np.abs(np.fft.rfft(added * np.hanning(added.size))))
    frequency_hz = np.fft.rfftfreq(added.size, 1 / RATE_HZ)
    peak_hz = frequency_hz[np.argmax(power)]
    width_hz = 25 + 75 * (1 + 1.4 * (peak_hz / 1000) ** 2) ** 0.69
    bins_hz, steady = steady_noise(clean.astype(np.float64), sample_rate_hz=RATE_HZ)
    in_band = steady[abs(bins_hz - peak_hz) <= width_hz / 2].sum()

    assert 690 < peak_hz < 4050
    near = abs(frequency_hz - peak_hz) < 0.025 * peak_hz
    assert power[near].sum() > 0.9 * power.sum()
    tone_db = 10 * np.log10(np.mean(added.astype(np.float64) ** 2) / in_band)
    # The band of the peak is not quite that of the drifting centre.
    assert tone_db == pytest.approx(3, abs=1.5)


@pytest.mark.parametrize("fault", ["tone", "clicks", "hiss"])
def test_quarter_of_the_severity_is_12_db_less(fault: str) -> None:
    """The amplitude of what is added is proportional to severity."""
    clean = machine()
    added = []
    for severity in (0.25, 1):
        planted = faulty(clean, fault, severity).astype(np.float64)
        # Undo the return to the clip's rms: what is left of the clip is `clean` times a gain.
        rest_hz = slice(0, 80 * clean.size // RATE_HZ)
        gain = np.abs(np.fft.rfft(planted)[rest_hz]).sum()
        gain /= np.abs(np.fft.rfft(clean.astype(np.float64))[rest_hz]).sum()
        added.append(np.std(planted / gain - clean))

    assert 20 * np.log10(added[1] / added[0]) == pytest.approx(12.04, abs=0.3)


@pytest.mark.parametrize("seed", SEEDS)
def test_clicks_come_regularly(seed: int) -> None:
    """What clicks add is impulsive, rings in 1500..4000 Hz and repeats 8..40 times a second."""
    clean = machine(8)

    added = (faulty(clean, "clicks", 1, seed=seed) - clean).astype(np.float64)
    spectrum = np.square(np.abs(np.fft.rfft(added)))
    frequency_hz = np.fft.rfftfreq(added.size, 1 / RATE_HZ)
    smooth = np.convolve(spectrum, np.ones(801), mode="same")
    envelope = np.convolve(np.abs(added), np.ones(32), mode="same")
    beats = np.abs(np.fft.rfft(envelope - envelope.mean()))
    beat_hz = frequency_hz[np.argmax(beats * (frequency_hz < 45))]

    assert np.mean(added**4) / np.mean(added**2) ** 2 > 6, "noise would have 3"
    assert 1400 < frequency_hz[np.argmax(smooth)] < 4100
    assert 7.5 < beat_hz < 41


@pytest.mark.parametrize("seed", SEEDS)
def test_modulation_makes_sidebands(seed: int) -> None:
    """A steady tone inside the band gets a sideband on each side, 4..16 Hz away."""
    time = np.arange(8 * RATE_HZ) / RATE_HZ
    clean = (0.1 * np.sin(2 * np.pi * 1200 * time)).astype(np.float32)

    planted = faulty(clean, "modulation", 1, seed=seed)
    amplitude = np.abs(np.fft.rfft(planted * np.hanning(planted.size)))
    middle = 1200 * 8
    below, above = (
        amplitude[middle - 140 : middle - 24][::-1],
        amplitude[middle + 25 : middle + 141],
    )

    away = int(np.argmax(above))
    assert 4 <= (25 + away) / 8 <= 16.2
    assert below[away] == pytest.approx(above[away], rel=0.1)
    # Half the depth, which is at most 0.9 and lower where the tone is off the band's centre.
    assert 0.1 < above[away] / amplitude[middle] < 0.46
    assert np.median(above) < 0.01 * amplitude[middle]


@pytest.mark.parametrize("seed", SEEDS)
def test_hiss_lifts_what_is_above_its_lowest_frequency(seed: int) -> None:
    """Above 2 kHz the spectrum rises alike by about 5 dB; below 700 Hz it keeps its shape."""
    clean = machine(8)

    change = spectrum_db(faulty(clean, "hiss", 1, seed=seed)) - spectrum_db(clean)
    low, middle, high = change[2:90].mean(), change[320:512].mean(), change[640:1000].mean()

    assert middle - low == pytest.approx(4.8, abs=1)
    assert high == pytest.approx(middle, abs=0.7)


@pytest.mark.parametrize("seed", range(4))
def test_speed_moves_the_tones(seed: int) -> None:
    """All tones move by the same 6 %, up or down; the top of the spectrum stays filled."""
    clean = machine(8)

    planted = faulty(clean, "speed", 1, seed=seed)
    amplitude = np.abs(np.fft.rfft(planted * np.hanning(planted.size)))
    factors = []
    for tone_hz in (120, 1500):
        near = slice(round(0.9 * tone_hz) * 8, round(1.1 * tone_hz) * 8)
        factors.append((near.start + int(np.argmax(amplitude[near]))) / 8 / tone_hz)
    change = spectrum_db(planted) - spectrum_db(clean)

    assert factors[0] == pytest.approx(factors[1], abs=0.002)
    assert abs(factors[1] - 1) == pytest.approx(0.06, abs=0.001)
    assert abs(change[900:1020]).max() < 2


def test_speed_goes_either_way() -> None:
    """Among a few seeds the machine runs slower as well as faster."""
    clean = machine()
    directions = set()
    for seed in range(8):
        amplitude = np.abs(np.fft.rfft(faulty(clean, "speed", 1, seed=seed)))
        directions.add(np.argmax(amplitude[4 * 1350 : 4 * 1650]) > 4 * 150)

    assert directions == {True, False}


@pytest.mark.parametrize("seed", SEEDS)
def test_muffled_falls_more_steeply(seed: int) -> None:
    """Above the corner the spectrum falls by 2 dB per octave more, below it keeps its shape."""
    clean = machine(8)

    change = spectrum_db(faulty(clean, "muffled", 1, seed=seed)) - spectrum_db(clean)

    assert change[40] == pytest.approx(change[13], abs=0.3)
    for bin_index in (160, 320):
        fall = change[2 * bin_index] - change[bin_index]
        assert fall == pytest.approx(-2, abs=0.3)


def test_knock_makes_no_fault_louder() -> None:
    """Faults are measured at the steady sound: a bang in the clip does not raise them."""
    clean = machine()
    knocked = clean.copy()
    knocked[20_000:20_400] += 0.9 * np.hanning(400).astype(np.float32)

    steady, with_knock = (
        steady_noise(sound.astype(np.float64), sample_rate_hz=RATE_HZ)[1]
        for sound in (clean, knocked)
    )

    assert abs(10 * np.log10(with_knock[10:] / steady[10:])).mean() < 0.7
    assert level_db(knocked) > level_db(clean) + 2


def test_steady_noise_sums_up_to_the_mean_square() -> None:
    """The median, corrected, sums up to the power of white noise."""
    noise = np.random.default_rng(0).normal(0, 0.3, 160_000)

    _, power = steady_noise(noise, sample_rate_hz=RATE_HZ)

    assert power.sum() == pytest.approx(0.09, rel=0.03)


def test_steady_noise_has_no_tones() -> None:
    """A tone 20 dB above the noise around it leaves the spectrum of the noise as it was."""
    clean = machine()
    time = np.arange(clean.size) / RATE_HZ
    whistling = clean + (0.02 * np.sin(2 * np.pi * 3000 * time)).astype(np.float32)

    without, with_tone = (
        steady_noise(sound.astype(np.float64), sample_rate_hz=RATE_HZ)[1]
        for sound in (clean, whistling)
    )

    assert spectrum_db(whistling)[384] > spectrum_db(clean)[384] + 20
    assert (10 * np.log10(with_tone / without)).max() < 2


@pytest.mark.parametrize("fault", FAULTS)
def test_silence_stays_silence(fault: str) -> None:
    """Nothing can be relative to nothing."""
    silence = np.zeros(RATE_HZ, np.float32)

    assert not faulty(silence, fault, 1).any()


@settings(deadline=None, max_examples=25)
@given(
    fault=st.sampled_from(FAULTS),
    severity=st.floats(0, 1),
    samples=st.integers(8000, 20_000),
    seed=st.integers(0, 1000),
)
def test_any_length_and_severity(fault: str, severity: float, samples: int, seed: int) -> None:
    """Shape, type and rms are kept, and no sample is lost, for whatever is given."""
    clean = machine(2)[:samples]

    planted = faulty(clean, fault, severity, seed=seed)

    assert planted.shape == clean.shape
    assert planted.dtype == np.float32
    assert np.isfinite(planted).all()
    assert level_db(planted) == pytest.approx(level_db(clean), abs=1e-3)


@pytest.mark.parametrize(
    ("fault", "severity", "seconds", "rate_hz", "expected"),
    [
        ("rust", 0.5, 1, RATE_HZ, "a fault out of tone, clicks"),
        ("tone", 1.5, 1, RATE_HZ, "severity of 0 to 1, got 1.5"),
        ("tone", float("nan"), 1, RATE_HZ, "severity of 0 to 1, got nan"),
        ("tone", 0.5, 0.4, RATE_HZ, "at least 0.5 s"),
        ("tone", 0.5, 1, 4000, "at least 8000 Hz"),
    ],
)
def test_refuses(fault: str, severity: float, seconds: float, rate_hz: int, expected: str) -> None:
    """What cannot be planted says why."""
    rng = np.random.default_rng(0)

    with pytest.raises(ValueError, match=expected):
        plant(machine(seconds), fault, severity=severity, rng=rng, sample_rate_hz=rate_hz)
