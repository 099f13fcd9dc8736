"""The calculated machine sounds: reproducible, true to their formulas, strict about specs."""

from collections.abc import Callable
from itertools import pairwise

import msgspec
import numpy as np
import numpy.typing as npt
import pytest

from node.sound.synthetic import FAULTS, MACHINES, MachineSound, SpecError, Synthesizer, parse_spec

Samples = npt.NDArray[np.float32]
Spectrum = npt.NDArray[np.float64]

RATE_HZ = 16_000
SEVERITIES = (0.0, 0.25, 0.5, 0.75, 1.0)


def listen(sound: MachineSound, seconds: float, sample_rate_hz: int = RATE_HZ) -> Samples:
    return Synthesizer(sound, sample_rate_hz=sample_rate_hz).read(round(seconds * sample_rate_hz))


def level_dbfs(samples: Samples) -> float:
    return float(10 * np.log10(np.mean(samples.astype(np.float64) ** 2)))


def power_spectrum(samples: npt.ArrayLike, frame_samples: int = RATE_HZ) -> Spectrum:
    """Mean power in bins of 1 Hz, shape (RATE_HZ / 2 + 1,), from Hann frames of one second."""
    signal = np.asarray(samples, np.float64)
    frames = signal[: signal.size // frame_samples * frame_samples].reshape(-1, frame_samples)
    spectra = np.fft.rfft(frames * np.hanning(frame_samples))
    return np.asarray(np.mean(np.abs(spectra) ** 2, axis=0), np.float64)


def band_db(spectrum: Spectrum, low_hz: float, high_hz: float) -> float:
    return float(10 * np.log10(spectrum[round(low_hz) : round(high_hz) + 1].sum()))


def line_db(spectrum: Spectrum, frequency_hz: float) -> float:
    """Power at a frequency that wanders by up to 1 %, and at least 2 Hz to both sides."""
    width_hz = max(2.0, 0.01 * frequency_hz)
    return band_db(spectrum, frequency_hz - width_hz, frequency_hz + width_hz)


def envelope_spectrum(samples: Samples, low_hz: float, high_hz: float) -> Spectrum:
    """Spectrum of the squared envelope of a band: what repeats in it, and how strongly."""
    spectrum = np.fft.fft(samples.astype(np.float64))
    frequency_hz = np.fft.fftfreq(samples.size, 1 / RATE_HZ)
    spectrum[(frequency_hz < low_hz) | (frequency_hz > high_hz)] = 0
    return power_spectrum(np.abs(np.fft.ifft(spectrum)) ** 2)


def knocking_at_bpfo(samples: Samples, sound: MachineSound) -> float:
    """How strongly the ringing of the bearing repeats at the outer race's defect frequency."""
    ringing_hz = sound.individual.bearing_resonance_hz
    envelope = envelope_spectrum(samples, ringing_hz - 600, ringing_hz + 600)
    return line_db(envelope, sound.individual.outer_race_defect_hz)


def tone_at_rotation(samples: Samples, sound: MachineSound) -> float:
    return line_db(power_spectrum(samples), sound.individual.rotation_hz)


def swing_at_rotation(samples: Samples, sound: MachineSound) -> float:
    """How strongly the sound between 300 and 700 Hz, below all rattling, swells with each turn."""
    return line_db(envelope_spectrum(samples, 300, 700), sound.individual.rotation_hz)


def scraping_at_rotation(samples: Samples, sound: MachineSound) -> float:
    """How much more the scraping's band swells once per revolution than a band below it does."""
    rotation_hz = sound.individual.rotation_hz
    scraping = line_db(envelope_spectrum(samples, 4000, 6000), rotation_hz)
    return scraping - line_db(envelope_spectrum(samples, 300, 1000), rotation_hz)


def half_orders(samples: Samples, sound: MachineSound) -> float:
    """How far the tones at 1.5x and 2.5x rotation stand out of what lies beside them."""
    spectrum, rotation_hz = power_spectrum(samples), sound.individual.rotation_hz
    tones = [line_db(spectrum, order * rotation_hz) for order in (1.5, 2.5)]
    beside = [line_db(spectrum, order * rotation_hz) for order in (1.25, 1.75, 2.25, 2.75)]
    return float(np.mean(tones) - np.mean(beside))


def rattling(samples: Samples, sound: MachineSound) -> float:
    """Kurtosis of the band in which loose parts ring: noise has 3, impacts have more."""
    ringing_hz = sound.individual.rattle_resonance_hz
    spectrum = np.fft.rfft(samples.astype(np.float64))
    frequency_hz = np.fft.rfftfreq(samples.size, 1 / RATE_HZ)
    spectrum[np.abs(frequency_hz - ringing_hz) > 200] = 0
    band = np.fft.irfft(spectrum, samples.size)
    return float(np.mean(band**4) / np.mean(band**2) ** 2)


def downward_tilt(samples: Samples, sound: MachineSound) -> float:
    """How far noise between the shaft's first orders stands above that of middle frequencies."""
    spectrum, rotation_hz = power_spectrum(samples), sound.individual.rotation_hz
    between = [line_db(spectrum, order * rotation_hz) for order in (1.75, 2.25, 2.75)]
    return float(np.mean(between)) - band_db(spectrum, 800, 3000)


def lost_blade_tone(samples: Samples, sound: MachineSound) -> float:
    """How weak the blade-pass frequency and its next harmonics are, where the fault took them."""
    faster = 0.06 * sound.severity if sound.fault == "blocked_inlet" else 0.0
    blade_pass_hz = sound.individual.blade_pass_hz * (1 + faster)
    spectrum = power_spectrum(samples)
    return -float(np.mean([line_db(spectrum, order * blade_pass_hz) for order in (1, 2, 3)]))


Feature = Callable[[Samples, MachineSound], float]
SIGNS: list[tuple[str, Feature]] = [
    ("bearing", knocking_at_bpfo),
    ("imbalance", tone_at_rotation),
    ("imbalance", swing_at_rotation),
    ("rubbing", scraping_at_rotation),
    ("loose_blade", half_orders),
    ("loose_blade", rattling),
    ("blocked_inlet", downward_tilt),
    ("blocked_inlet", lost_blade_tone),
]


@pytest.mark.parametrize("fault", [None, *FAULTS])
def test_same_sound_twice(fault: str | None) -> None:
    """A sound is the same samples each time it is played."""
    sound = MachineSound(unit=3, seed=9, fault=fault)

    assert np.array_equal(listen(sound, 3), listen(sound, 3))


@pytest.mark.parametrize("block_samples", [1, 7, 4095, 4096, 4097, 10_000])
@pytest.mark.parametrize("fault", ["bearing", "blocked_inlet"])
def test_block_size(fault: str, block_samples: int) -> None:
    """The samples do not depend on the portions in which they are read."""
    sound = MachineSound(fault=fault, severity=1, fault_after_seconds=0.5)
    synthesizer = Synthesizer(sound, sample_rate_hz=RATE_HZ)
    portions = [synthesizer.read(block_samples) for _ in range(30_000 // block_samples)]
    joined = np.concatenate(portions)

    assert np.array_equal(joined, listen(sound, 2)[: joined.size])


def test_mixed_block_sizes() -> None:
    """Portions of changing size, also empty ones, join without gap or repetition."""
    synthesizer = Synthesizer(MachineSound(), sample_rate_hz=RATE_HZ)
    sizes = [0, 1, 5000, 0, 4096, 3, 9000]
    portions = [synthesizer.read(size) for size in sizes]

    assert [portion.size for portion in portions] == sizes
    assert np.array_equal(np.concatenate(portions), listen(MachineSound(), 2)[: sum(sizes)])


def test_written_into_by_the_caller() -> None:
    """What the caller does to the samples it got does not reach those that follow."""
    synthesizer = Synthesizer(MachineSound(), sample_rate_hz=RATE_HZ)
    synthesizer.read(1000)[:] = 0
    synthesizer.read(0)[:] = 0

    assert np.array_equal(synthesizer.read(5000), listen(MachineSound(), 1)[1000:6000])


def test_type_and_shape() -> None:
    """A portion is a one-dimensional float32 array of the asked size."""
    samples = listen(MachineSound(), 0.1)

    assert samples.dtype == np.float32
    assert samples.shape == (1600,)


def test_no_click_where_blocks_meet() -> None:
    """Steps between neighbouring samples are no larger at the internal seams than elsewhere."""
    samples = listen(MachineSound(fault="loose_blade", severity=1), 60)
    steps = np.abs(np.diff(samples))
    seams = steps[4095::4096]

    assert np.mean(seams) < 1.25 * np.mean(steps)


def test_no_fade_at_the_start() -> None:
    """The first tenth of a second is as loud as the rest."""
    samples = listen(MachineSound(), 5)

    assert abs(level_dbfs(samples[:1600]) - level_dbfs(samples)) < 3


@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize("fault", FAULTS)
def test_severity_zero(machine: str, fault: str) -> None:
    """A fault of severity 0 is exactly the healthy sound."""
    healthy = MachineSound(machine=machine, unit=1, seed=2)
    faulty = msgspec.structs.replace(healthy, fault=fault, severity=0.0)

    assert np.array_equal(listen(faulty, 3), listen(healthy, 3))


@pytest.mark.parametrize("fault", FAULTS)
def test_before_the_fault_begins(fault: str) -> None:
    """Until `fault_after_seconds` each sample is the healthy one, and afterwards no longer."""
    start_seconds = 1.7
    start = round(start_seconds * RATE_HZ)
    healthy = listen(MachineSound(), 4)
    faulty = listen(MachineSound(fault=fault, fault_after_seconds=start_seconds), 4)

    assert np.array_equal(faulty[:start], healthy[:start])
    assert not np.allclose(faulty[start:], healthy[start:], atol=1e-3)


@pytest.mark.parametrize("fault", ["bearing", "imbalance", "rubbing", "loose_blade"])
def test_faded_in_after_a_second(fault: str) -> None:
    """One second after it began a fault is as if it had always been there."""
    late = listen(MachineSound(fault=fault, fault_after_seconds=1), 4)
    always = listen(MachineSound(fault=fault), 4)

    assert np.array_equal(late[2 * RATE_HZ :], always[2 * RATE_HZ :])


@pytest.mark.parametrize("speed", [0.8, 1.0, 1.2])
@pytest.mark.parametrize("unit", range(4))
@pytest.mark.parametrize("machine", MACHINES)
def test_blade_pass_frequency(machine: str, unit: int, speed: float) -> None:
    """The strongest line around the blade-pass frequency stands within 1.5 % of it."""
    sound = MachineSound(machine=machine, unit=unit, speed=speed)
    expected_hz = sound.individual.blade_pass_hz * speed
    spectrum = power_spectrum(listen(sound, 10))
    low_hz = round(0.85 * expected_hz)
    around = spectrum[low_hz : round(1.15 * expected_hz)]

    assert low_hz + int(around.argmax()) == pytest.approx(expected_hz, rel=0.015, abs=1)
    assert around.max() > 10 * np.median(around)


def test_other_sample_rate() -> None:
    """At 48 kHz the same individual has the same blade-pass frequency and level."""
    sound = MachineSound(unit=1)
    samples = listen(sound, 10, 48_000)
    spectrum = power_spectrum(samples, 48_000)
    expected_hz = sound.individual.blade_pass_hz

    assert 130 + int(spectrum[130:220].argmax()) == pytest.approx(expected_hz, rel=0.015)
    assert level_dbfs(samples) == pytest.approx(-26, abs=1)


def test_mains_hum_keeps_its_frequency() -> None:
    """Hum stands at 100 Hz, however fast the shaft turns."""
    for speed in (0.9, 1.0, 1.1):
        spectrum = power_spectrum(listen(MachineSound(machine="pump", speed=speed), 10))

        assert spectrum[100] > 10 * np.median(spectrum[85:116])


@pytest.mark.parametrize(("fault", "feature"), SIGNS)
@pytest.mark.parametrize("machine", MACHINES)
def test_sign_grows_with_severity(machine: str, fault: str, feature: Feature) -> None:
    """What betrays a fault becomes clearer with each step of its severity."""
    values = []
    for severity in SEVERITIES:
        sound = MachineSound(machine=machine, unit=1, fault=fault, severity=severity)
        values.append(feature(listen(sound, 10), sound))

    assert values == sorted(values)
    assert len(set(values)) == len(values)


@pytest.mark.parametrize(("fault", "feature"), SIGNS)
@pytest.mark.parametrize("machine", MACHINES)
def test_sign_is_of_this_fault(machine: str, fault: str, feature: Feature) -> None:
    """A fault shows its own sign more than any other fault and the healthy machine do."""
    values = {}
    for other in (None, *FAULTS):
        sound = MachineSound(machine=machine, unit=1, fault=other, severity=0.75)
        values[other] = feature(listen(sound, 10), sound)

    assert max(values, key=lambda name: values[name]) == fault


@pytest.mark.parametrize("machine", MACHINES)
def test_bearing_line_in_the_envelope(machine: str) -> None:
    """The envelope of a bad bearing's ringing peaks at the defect frequency, not beside it."""
    sound = MachineSound(machine=machine, unit=1, fault="bearing", severity=1)
    traits = sound.individual
    ringing_hz = traits.bearing_resonance_hz
    envelope = envelope_spectrum(listen(sound, 20), ringing_hz - 600, ringing_hz + 600)
    low_hz = round(0.75 * traits.outer_race_defect_hz)
    around = envelope[low_hz : round(1.25 * traits.outer_race_defect_hz)]

    assert low_hz + int(around.argmax()) == pytest.approx(traits.outer_race_defect_hz, rel=0.02)


def test_blocked_inlet_runs_faster() -> None:
    """With a blocked inlet the blade-pass frequency stands 6 % higher."""
    healthy = MachineSound(machine="pump", unit=1)
    blocked = msgspec.structs.replace(healthy, fault="blocked_inlet", severity=1.0)
    blade_pass_hz = healthy.individual.blade_pass_hz
    low_hz = round(0.9 * blade_pass_hz)
    spectrum = power_spectrum(listen(blocked, 10))
    peak_hz = low_hz + int(spectrum[low_hz : round(1.15 * blade_pass_hz)].argmax())

    assert peak_hz == pytest.approx(1.06 * blade_pass_hz, rel=0.01)


@pytest.mark.parametrize("fault", FAULTS)
def test_severity_moves_away_from_healthy(fault: str) -> None:
    """The spectrum of a fault, in dB by third octaves, departs further with each step."""
    centres_hz = 40 * 2 ** (np.arange(21) / 3)

    def third_octaves_db(sound: MachineSound) -> npt.NDArray[np.float64]:
        spectrum = power_spectrum(listen(sound, 10))
        return np.array(
            [band_db(spectrum, hz / 2 ** (1 / 6), hz * 2 ** (1 / 6)) for hz in centres_hz]
        )

    healthy_db = third_octaves_db(MachineSound(unit=2))
    distances = [
        float(np.linalg.norm(third_octaves_db(sound) - healthy_db))
        for sound in (MachineSound(unit=2, fault=fault, severity=s) for s in SEVERITIES)
    ]

    assert distances[0] == 0
    assert all(nearer < further for nearer, further in pairwise(distances))


@pytest.mark.parametrize("unit", range(6))
@pytest.mark.parametrize("machine", MACHINES)
def test_healthy_level(machine: str, unit: int) -> None:
    """A healthy machine stands near -26 dBFS, and its peaks stay far from full scale."""
    samples = listen(MachineSound(machine=machine, unit=unit), 20)

    assert level_dbfs(samples) == pytest.approx(-26, abs=1)
    assert np.abs(samples).max() < 0.4


@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize("fault", FAULTS)
def test_no_clipping(machine: str, fault: str) -> None:
    """At gain 0 the worst fault stays clear of full scale."""
    samples = listen(MachineSound(machine=machine, fault=fault, severity=1), 10)

    assert np.abs(samples).max() < 0.6


@pytest.mark.parametrize("machine", MACHINES)
def test_no_clipping_at_the_loudest(machine: str) -> None:
    """At gain 0 even the loudest speed, noise and fault together do not reach full scale."""
    loudest = MachineSound(machine=machine, fault="imbalance", severity=1, speed=1.5, noise_db=12)

    assert np.abs(listen(loudest, 20)).max() < 1


def test_gain_that_clips() -> None:
    """Too much gain ends at exactly full scale, as a microphone turned up too far does."""
    samples = listen(MachineSound(gain_db=40), 2)

    assert samples.max() == 1
    assert samples.min() == -1
    assert np.mean(np.abs(samples) == 1) > 0.5


def test_gain() -> None:
    """`gain_db` scales the whole sound."""
    plain, louder = listen(MachineSound(), 2), listen(MachineSound(gain_db=6), 2)

    assert np.allclose(louder, plain * 10 ** (6 / 20), rtol=1e-5)


def test_speed_is_loud() -> None:
    """Level rises with 50 times the logarithm of the speed, give or take the resonances."""
    slow = listen(MachineSound(unit=4, noise_db=-80, speed=0.8), 10)
    fast = listen(MachineSound(unit=4, noise_db=-80, speed=1.3), 10)

    assert level_dbfs(fast) - level_dbfs(slow) == pytest.approx(50 * np.log10(1.3 / 0.8), abs=2)


@pytest.mark.parametrize("slope_db", [-6.0, -3.0, 0.0, 3.0])
def test_noise_colour(slope_db: float) -> None:
    """Room noise falls or rises by `noise_colour` dB per octave."""
    with_noise = listen(MachineSound(noise_colour=slope_db, noise_db=6), 20)
    without = listen(MachineSound(noise_colour=slope_db, noise_db=-80), 20)
    spectrum = power_spectrum(with_noise.astype(np.float64) - without)
    # An octave up is also twice as many bins, which adds 3 dB to the band.
    octaves_db = [band_db(spectrum, hz, 2 * hz) - 3.01 for hz in (500, 1000, 2000)]

    assert np.diff(octaves_db) - 3.01 == pytest.approx(slope_db, abs=0.4)


@pytest.mark.parametrize("noise_db", [-10.0, 0.0, 10.0])
def test_noise_level(noise_db: float) -> None:
    """Room noise stands `noise_db` above the healthy machine."""
    with_noise = listen(MachineSound(noise_db=noise_db, gain_db=-20), 20)
    without = listen(MachineSound(noise_db=-80, gain_db=-20), 20)

    assert level_dbfs(with_noise - without) == pytest.approx(-46 + noise_db, abs=0.5)


@pytest.mark.parametrize("machine", MACHINES)
def test_units_are_individuals(machine: str) -> None:
    """Ten machines of a kind have ten rotation speeds and bearings, and sound different."""
    sounds = [MachineSound(machine=machine, unit=unit) for unit in range(10)]

    assert len({sound.individual.rotation_hz for sound in sounds}) == 10
    assert len({sound.individual.outer_race_defect_hz for sound in sounds}) == 10
    assert not np.allclose(listen(sounds[0], 1), listen(sounds[1], 1), atol=1e-2)


def test_take_keeps_the_individual() -> None:
    """Another seed is other noise of the same machine: same traits, same spectrum within 2 dB."""
    first, second = MachineSound(seed=1), MachineSound(seed=2)
    one, other = listen(first, 20), listen(second, 20)
    bands_hz = [(100, 200), (200, 400), (400, 800), (800, 1600), (1600, 3200), (3200, 6400)]
    differences_db = [
        band_db(power_spectrum(one), *band) - band_db(power_spectrum(other), *band)
        for band in bands_hz
    ]

    assert first.individual == second.individual
    assert abs(np.corrcoef(one, other)[0, 1]) < 0.3
    assert np.abs(differences_db).max() < 2


def test_kinds_differ() -> None:
    """A fan and a pump of the same number are different machines."""
    fan, pump = MachineSound(machine="fan").individual, MachineSound(machine="pump").individual

    assert fan != pump


def test_negative_read() -> None:
    """A negative number of samples is refused."""
    with pytest.raises(ValueError, match="Expected 0 or more samples, got -1"):
        Synthesizer(MachineSound(), sample_rate_hz=RATE_HZ).read(-1)


@pytest.mark.parametrize("sample_rate_hz", [0, 7_999, 48_001])
def test_sample_rate_out_of_range(sample_rate_hz: int) -> None:
    """A sample rate that the model was not made for is refused."""
    with pytest.raises(ValueError, match=rf"8000\.\.48000 Hz, got {sample_rate_hz}"):
        Synthesizer(MachineSound(), sample_rate_hz=sample_rate_hz)


@pytest.mark.parametrize("text", ["fan", "fan?"])
def test_spec_of_only_a_machine(text: str) -> None:
    """A machine alone is that machine, healthy, with all defaults."""
    assert parse_spec(text) == MachineSound(machine="fan")


def test_spec_with_every_key() -> None:
    """Each key sets its field."""
    text = (
        "pump?fault=loose_blade&severity=0.25&unit=2&seed=7&after=30&seconds=60"
        "&speed=0.9&gain_db=-6&noise_colour=-6&noise_db=-12.5"
    )

    assert parse_spec(text) == MachineSound(
        machine="pump",
        unit=2,
        seed=7,
        fault="loose_blade",
        severity=0.25,
        fault_after_seconds=30,
        seconds=60,
        speed=0.9,
        gain_db=-6,
        noise_colour=-6,
        noise_db=-12.5,
    )


@pytest.mark.parametrize(
    "text",
    [
        "fan?severity=0",
        "fan?severity=1",
        "fan?unit=4294967295&seed=0",
        "fan?speed=0.5",
        "fan?speed=1.5&gain_db=40&noise_db=12&noise_colour=6&after=86400&seconds=0.1",
    ],
)
def test_spec_at_the_limits(text: str) -> None:
    """Both ends of each range are allowed."""
    parse_spec(text)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("saw", "Expected a machine out of fan, pump; got 'saw'"),
        ("", "Expected a machine out of fan, pump; got ''"),
        (
            "fan?fault=rust",
            (
                "Expected a fault out of bearing, imbalance, rubbing, loose_blade, blocked_inlet;"
                " got 'rust'"
            ),
        ),
        (
            "fan?fault=",
            (
                "Expected a fault out of bearing, imbalance, rubbing, loose_blade, blocked_inlet;"
                " got ''"
            ),
        ),
        (
            "fan?volume=3",
            (
                "Expected a key out of unit, seed, fault, severity, after, seconds, speed, gain_db,"
                " noise_colour, noise_db; got 'volume'"
            ),
        ),
        ("fan?severity=1.1", "Expected severity to be a number of 0..1; got 1.1"),
        ("fan?severity=nan", "Expected severity to be a number of 0..1; got nan"),
        ("fan?severity=high", "Expected severity to be a number of 0..1; got 'high'"),
        ("fan?severity", "Expected severity to be a number of 0..1; got ''"),
        ("fan?unit=-1", "Expected unit to be a whole number of 0..4294967295; got -1"),
        ("fan?unit=1.5", "Expected unit to be a whole number of 0..4294967295; got '1.5'"),
        ("fan?seed=x", "Expected seed to be a whole number of 0..4294967295; got 'x'"),
        ("fan?after=-1", "Expected after to be a number of 0..86400; got -1.0"),
        ("fan?seconds=0", "Expected seconds to be a number of 0.1..86400; got 0.0"),
        ("fan?seconds=inf", "Expected seconds to be a number of 0.1..86400; got inf"),
        ("fan?speed=2", "Expected speed to be a number of 0.5..1.5; got 2.0"),
        ("fan?gain_db=41", "Expected gain_db to be a number of -60..40; got 41.0"),
        ("fan?noise_colour=7", "Expected noise_colour to be a number of -12..6; got 7.0"),
        ("fan?noise_db=-81", "Expected noise_db to be a number of -80..12; got -81.0"),
        ("fan?unit=1&unit=2", "Expected unit once; got it again with '2'"),
    ],
)
def test_bad_spec(text: str, problem: str) -> None:
    """Each mistake is answered by one line with what was expected and what came."""
    with pytest.raises(SpecError) as caught:
        parse_spec(text)

    assert caught.value.problems == (problem,)
    assert str(caught.value) == problem


def test_several_problems() -> None:
    """All problems of a spec are reported together, one per line."""
    with pytest.raises(SpecError) as caught:
        parse_spec("saw?fault=rust&severity=9&colour=red&unit=x")

    assert len(caught.value.problems) == 5
    assert str(caught.value).count("\n") == 4
    for word in ("'saw'", "'rust'", "9.0", "'colour'", "'x'"):
        assert word in str(caught.value)


def test_hostile_spec() -> None:
    """Text from outside is shortened and kept on its line."""
    with pytest.raises(SpecError) as caught:
        parse_spec("a\n\x1b[31m" + "x" * 10_000)

    assert len(str(caught.value)) < 200
    assert str(caught.value).isprintable()


def test_impossible_recipe() -> None:
    """A recipe built in code, or decoded, is held to the same limits as a spec."""
    with pytest.raises(SpecError, match="Expected severity"):
        MachineSound(fault="bearing", severity=2)
    with pytest.raises(msgspec.ValidationError, match="Expected a fault out of"):
        msgspec.json.decode(b'{"fault": "rust"}', type=MachineSound)


def test_spec_error_is_a_value_error() -> None:
    """Whoever catches `ValueError` catches a bad spec."""
    assert issubclass(SpecError, ValueError)
