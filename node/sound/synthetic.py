"""The sound of a machine, calculated: the source behind `synthetic:fan?fault=bearing`.

The model. The shaft angle a (in revolutions) is the integral of the rotation speed

    da/dt = speed * f * (1 + drift(t)) * (1 + fault's change)

where drift is an Ornstein-Uhlenbeck process, stepped exactly (Gillespie, Phys. Rev. E 54, 1996):
x' = x r + sd sqrt(1 - r^2) N(0, 1) with r = exp(-dt / tau). All else follows from the angle:

    sound = speed^2.5 (tones + turbulence + fault) + hum + room
    tones      = sum A_k cos(2 pi k B a + p_k) + sum C_m cos(2 pi m a + q_m)
                 harmonics k of the blade-pass frequency B f and orders m of the shaft;
                 their levels wander too
    turbulence = noise with |H(f)| = (1 + (f / corner)^2)^(-slope / 12.04) times the housing's
                 resonances, modulated a little by the passing blades
    hum        = 50 Hz and harmonics, steady: it belongs to the mains, not to the shaft
    room       = noise of a given slope, `noise_db` relative to the healthy machine

Pressure grows with speed^2.5 because fan noise power follows about 50 lg(speed) (Madison, Fan
Engineering, 1949). The faults, each scaled by severity and the fade d(t) in 0..1:

    bearing        impacts at the outer race's defect frequency
                   BPFO = n / 2 * f * (1 - ball / pitch * cos(contact angle)), here contact angle 0,
                   with 1 % random slip, each ringing a structural resonance (McFadden and Smith,
                   J. Sound Vib. 96, 1984; Randall and Antoni, Mech. Syst. Signal Process. 25, 2011)
    imbalance      a tone at 1x (and a weak 2x) rotation; tones and turbulence swing at 1x
    rubbing        a band of scraping noise, once per revolution
    loose_blade    tones at the multiples of half the rotation, and irregular rattling impacts
    blocked_inlet  added low-frequency turbulence (stall), weaker tones, a shaft that runs faster
                   because it moves less

How strong each fault is at severity 1 is a choice made for clear demonstrations, not a measurement.

What this is not: a substitute for recordings. There is no reverberation, no microphone, no gear,
no neighbour, no load that changes through the day; real faults are less tidy and real healthy
machines vary more. That a detector works here does not show that it works on a machine.

Nothing here reads a file, a clock or a socket; `MachineSound.seconds` is for the player to obey.
The samples follow from recipe and sample rate alone, up to rounding on other processors and as long
as NumPy keeps its stream of normal variates (NEP 19 lets it change; 1.26 and 2.4 agree).
"""

import math
import zlib
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple
from urllib.parse import parse_qsl

import msgspec
import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]


class SpecError(ValueError):
    """A description of a sound that cannot be; `problems` has one line for each thing wrong."""

    def __init__(self, problems: Iterable[str]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(self.problems))


class MachineSound(msgspec.Struct, frozen=True):
    """The recipe of one sound; raises `SpecError` for values outside `RANGES`."""

    machine: str = "fan"
    """The kind of machine, one of `MACHINES`."""
    unit: int = 0
    """Which individual of its kind: seeds blades, speed, resonances and levels."""
    seed: int = 0
    """Which take of this individual: seeds noise and drift."""
    fault: str | None = None
    """One of `FAULTS`, or None for a healthy machine."""
    severity: float = 0.5
    """How bad the fault is, from 0 (exactly the healthy sound) to 1."""
    fault_after_seconds: float = 0.0
    """When the fault begins to fade in, within one second; 0 is from the first sample."""
    seconds: float | None = None
    """Total length, for whoever plays the sound; None is endless."""
    speed: float = 1.0
    """A factor on the machine's rotation speed."""
    gain_db: float = 0.0
    """Decibels on the whole sound; from about 11 on, peaks clip, as in a loud microphone."""
    noise_colour: float = -3.0
    """Slope of the room noise in dB per octave: 0 is white, -3 pink, -6 brown."""
    noise_db: float = -20.0
    """Room noise in dB relative to the healthy machine at speed 1."""

    def __post_init__(self) -> None:
        if problems := _problems(msgspec.structs.asdict(self)):
            raise SpecError(problems)

    @property
    def individual(self) -> "Individual":
        """The machine that is heard, without fault and at speed 1."""
        return Individual.of(self.machine, self.unit)


class Range(NamedTuple):
    """The allowed values of one number, both ends included."""

    low: float
    high: float
    whole: bool = False


RANGES = {
    "unit": Range(0, 2**32 - 1, whole=True),
    "seed": Range(0, 2**32 - 1, whole=True),
    "severity": Range(0, 1),
    "fault_after_seconds": Range(0, 86_400),
    "seconds": Range(0.1, 86_400),
    # Past 1.5, speed^2.5 would leave no headroom at gain 0.
    "speed": Range(0.5, 1.5),
    "gain_db": Range(-60, 40),
    "noise_colour": Range(-12, 6),
    "noise_db": Range(-80, 12),
}
"""The numbers of a `MachineSound`, in the field's unit."""


def parse_spec(text: str) -> MachineSound:
    """Read what follows `synthetic:`, such as `fan?fault=bearing&severity=0.5&unit=2&after=30`.

    The keys are the fields of `MachineSound`, but `after` for `fault_after_seconds`.

    Raises:
        SpecError: naming every problem of the text at once.
    """
    machine, _, query = text.partition("?")
    values: dict[str, str | float] = {"machine": machine}
    problems: list[str] = []
    seen: set[str] = set()
    for key, raw in parse_qsl(query, keep_blank_values=True):
        if key not in _FIELD_OF_KEY:
            problems.append(f"Expected a key out of {_listed(_FIELD_OF_KEY)}; got {_shown(key)}")
        elif key in seen:
            problems.append(f"Expected {key} once; got it again with {_shown(raw)}")
        elif key == "fault":
            values[key] = raw
        else:
            try:
                values[_FIELD_OF_KEY[key]] = _number(_FIELD_OF_KEY[key], raw)
            except ValueError:
                problems.append(_out_of_range(_FIELD_OF_KEY[key], raw))
        seen.add(key)
    problems += _problems(values)
    if problems:
        raise SpecError(problems)
    return msgspec.convert(values, MachineSound)


class Resonance(NamedTuple):
    """One resonance of the machine's housing."""

    frequency_hz: float
    half_width_hz: float
    gain: float
    """What it adds to the amplitude at its peak: 1 doubles it."""


class Individual(msgspec.Struct, frozen=True):
    """The fixed traits of one machine, the same in each of its takes.

    Levels are relative amplitudes with their phases; the mix makes absolute ones of them.
    """

    blades: int
    rotation_hz: float
    blade_levels: tuple[complex, ...]
    """Amplitude and phase of the blade-pass frequency and its harmonics."""
    shaft_levels: tuple[complex, ...]
    """Amplitude and phase of the shaft's orders 1, 2, 3 ..."""
    hum_levels: tuple[complex, ...]
    """Amplitude and phase of the mains frequency and its harmonics."""
    resonances: tuple[Resonance, ...]
    turbulence_corner_hz: float
    balls: int
    ball_to_pitch: float
    """Diameter of a bearing's ball over the pitch diameter."""
    bearing_resonance_hz: float
    rattle_resonance_hz: float

    @classmethod
    def of(cls, machine: str, unit: int) -> "Individual":
        """Draw the traits of individual number `unit` of a kind."""
        return _draw_individual(_KINDS[machine], _stream(machine, unit, "traits"))

    @property
    def blade_pass_hz(self) -> float:
        """Blades that pass a fixed point per second."""
        return self.blades * self.rotation_hz

    @property
    def outer_race_defect_hz(self) -> float:
        """BPFO: balls that pass a defect in the bearing's outer race per second."""
        return self.balls / 2 * (1 - self.ball_to_pitch) * self.rotation_hz

    def response(self, frequency_hz: Floats) -> Floats:
        """Return the housing's amplitude gain at each frequency; 1 away from all resonances."""
        gain = np.ones_like(frequency_hz)
        for resonance in self.resonances:
            detuning = (frequency_hz - resonance.frequency_hz) / resonance.half_width_hz
            gain += resonance.gain / (1 + detuning**2)
        return gain


class Synthesizer:
    """Plays one `MachineSound` from its beginning, for ever.

    How it is read changes nothing: `read(3)` and `read(5)` give together what `read(8)` gives.
    """

    def __init__(self, sound: MachineSound, *, sample_rate_hz: int) -> None:
        low, high = _SAMPLE_RATES_HZ
        if not low <= sample_rate_hz <= high:
            raise ValueError(f"Expected a sample rate of {low}..{high} Hz, got {sample_rate_hz}")
        self._scene = _Scene(sound, sample_rate_hz)
        self._unread = np.empty(0, np.float32)

    def read(self, n_samples: int) -> npt.NDArray[np.float32]:
        """Return the next samples, shape (n_samples,), float32, -1..1."""
        if n_samples < 0:
            raise ValueError(f"Expected 0 or more samples, got {n_samples}")
        missing_blocks = math.ceil((n_samples - self._unread.size) / _BLOCK_SAMPLES)
        blocks = [self._scene.next_block() for _ in range(missing_blocks)]
        samples = np.concatenate([self._unread, *blocks])
        # A copy, so that a caller who writes into what it got does not change what comes next.
        self._unread = samples[n_samples:].copy()
        return samples[:n_samples]


# Below, the bearing's resonance has no room; above, `_FIR_SAMPLES` cannot shape the lowest noise.
_SAMPLE_RATES_HZ = (8_000, 48_000)

# Long enough that NumPy's cost per call vanishes; short enough (0.26 s at 16 kHz) that drifts,
# which are straight lines inside a block, still look like drifts. Another value, another sound.
_BLOCK_SAMPLES = 4096
_RAMP = np.arange(_BLOCK_SAMPLES) / _BLOCK_SAMPLES

# 8 Hz resolution at 16 kHz. At most a block, or the overlap would reach past the next one.
_FIR_SAMPLES = 2048

# -26 dBFS: the highest peaks of healthy sounds, 15 dB above the rms, stay 11 dB below full scale.
_HEALTHY_RMS = 10 ** (-26 / 20)

_FADE_SECONDS = 1.0
_MAINS_HZ = 50
_RUMBLE_HZ = 20.0

# Of the sample rate; below 0.5 so that drift and faults cannot push a tone past Nyquist.
_HIGHEST_TONE = 0.42

# From the knee on the sum is bent towards the ceiling, so that no coincidence of noise clips at
# gain 0. In a default sound the knee is 14 standard deviations away.
_KNEE = 0.7
_CEILING = 0.99


class _Kind(NamedTuple):
    """What machines of one kind have in common; each individual draws uniformly from the ranges."""

    blades: tuple[int, ...]
    rotation_hz: tuple[float, float]
    speed_drift: float
    """Standard deviation of the rotation speed, as a share of it."""
    harmonic_step_db: float
    """From one harmonic of the blade-pass frequency to the next."""
    tones: float
    turbulence: float
    hum: float
    """Shares of the healthy sound's power; the three sum to 1."""
    turbulence_corner_hz: tuple[float, float]
    turbulence_slope_db: float
    """How fast the turbulence falls above its corner frequency, in dB per octave."""
    resonance_hz: tuple[float, float]


_KINDS = {
    "fan": _Kind(
        blades=(5, 6, 7, 9),
        rotation_hz=(18.0, 28.0),
        speed_drift=0.003,
        harmonic_step_db=-5.0,
        tones=0.30,
        turbulence=0.64,
        hum=0.06,
        turbulence_corner_hz=(300.0, 600.0),
        turbulence_slope_db=7.0,
        resonance_hz=(150.0, 2500.0),
    ),
    # A two-pole motor turns just below 50 Hz; cavitation reaches higher than a fan's turbulence.
    "pump": _Kind(
        blades=(5, 6, 7),
        rotation_hz=(47.5, 49.3),
        speed_drift=0.001,
        harmonic_step_db=-3.5,
        tones=0.45,
        turbulence=0.45,
        hum=0.10,
        turbulence_corner_hz=(900.0, 1800.0),
        turbulence_slope_db=5.0,
        resonance_hz=(400.0, 4000.0),
    ),
}
MACHINES = tuple(_KINDS)


def _draw_individual(kind: _Kind, rng: np.random.Generator) -> Individual:
    def levels(levels_db: Floats) -> tuple[complex, ...]:
        amplitudes = 10 ** ((levels_db + rng.normal(0, 2.5, levels_db.size)) / 20)
        return tuple((amplitudes * np.exp(2j * np.pi * rng.random(levels_db.size))).tolist())

    low_hz, high_hz = kind.resonance_hz
    return Individual(
        blades=int(rng.choice(kind.blades)),
        rotation_hz=rng.uniform(*kind.rotation_hz),
        blade_levels=levels(kind.harmonic_step_db * np.arange(12.0)),
        shaft_levels=levels(-16 - 1.5 * np.arange(8.0)),
        # A motor's torque pulses at twice the mains frequency: 100 Hz leads.
        hum_levels=levels(np.array([-8.0, 0.0, -14.0, -9.0, -20.0, -14.0])),
        resonances=tuple(
            Resonance(f, half_width_hz=f * rng.uniform(0.02, 0.08), gain=rng.uniform(0.5, 2))
            for f in np.exp(rng.uniform(math.log(low_hz), math.log(high_hz), 4)).tolist()
        ),
        turbulence_corner_hz=rng.uniform(*kind.turbulence_corner_hz),
        balls=int(rng.integers(7, 11)),
        ball_to_pitch=rng.uniform(0.18, 0.28),
        bearing_resonance_hz=rng.uniform(2200, 3400),
        rattle_resonance_hz=rng.uniform(900, 1600),
    )


class _MixLevels(NamedTuple):
    """RMS of each part of the sound, before the gain."""

    tones: float
    turbulence: float
    fault: float
    hum: float
    room: float


class _Scene:
    """Machine, mains and room together, one block after the other."""

    def __init__(self, sound: MachineSound, sample_rate_hz: int) -> None:
        self._sound = sound
        self._sample_rate_hz = sample_rate_hz
        self._position = 0

        traits, kind = sound.individual, _KINDS[sound.machine]
        step_seconds = _BLOCK_SAMPLES / sample_rate_hz

        def rng(name: str) -> np.random.Generator:
            return _stream(sound.machine, sound.unit, name, sound.seed)

        blade_order = traits.blades * np.arange(1, len(traits.blade_levels) + 1)
        shaft_order = np.arange(1, len(traits.shaft_levels) + 1)
        order = np.concatenate([blade_order, shaft_order])
        level = np.array(traits.blade_levels + traits.shaft_levels, np.complex128)
        # The mix is set at speed 1; from there the housing answers to what the speed makes of it.
        level /= _rms_of_tones(level * traits.response(order * traits.rotation_hz))
        rotation_hz = traits.rotation_hz * sound.speed
        level *= traits.response(order * rotation_hz)
        level *= order * rotation_hz < _HIGHEST_TONE * sample_rate_hz
        blade_level, shaft_level = np.split(level, [blade_order.size])

        def turbulence_shape(frequency_hz: Floats) -> Floats:
            corner_hz = traits.turbulence_corner_hz * sound.speed
            roll_off = (1 + (frequency_hz / corner_hz) ** 2) ** (-kind.turbulence_slope_db / 12.04)
            return roll_off * traits.response(frequency_hz)

        def room_shape(frequency_hz: Floats) -> Floats:
            return np.maximum(frequency_hz, _RUMBLE_HZ) ** (sound.noise_colour / 6.02)

        speed_drift = _Drift(rng("speed"), step_seconds, kind.speed_drift, tau_seconds=6)
        self._shaft = _Shaft(rotation_hz / sample_rate_hz, speed_drift)
        self._blade_tones = _Tones(traits.blades, blade_level, rng("blade tones"), step_seconds)
        self._shaft_tones = _Tones(1, shaft_level, rng("shaft tones"), step_seconds)
        self._turbulence = _Noise(turbulence_shape, rng("turbulence"), sample_rate_hz)
        self._gusts = _Drift(rng("gusts"), step_seconds, 0.05, tau_seconds=1.5)
        self._room = _Noise(room_shape, rng("room"), sample_rate_hz)
        hum_level = np.array(traits.hum_levels, np.complex128)
        self._hum = hum_level / _rms_of_tones(hum_level)
        fault = _Fault if sound.fault is None else _FAULTS[sound.fault]
        self._fault = fault(traits, rng(f"fault {sound.fault}"), sample_rate_hz)

        pressure = _HEALTHY_RMS * sound.speed**2.5
        self._rms = _MixLevels(
            tones=pressure * math.sqrt(kind.tones),
            turbulence=pressure * math.sqrt(kind.turbulence),
            fault=pressure,
            hum=_HEALTHY_RMS * math.sqrt(kind.hum),
            room=_HEALTHY_RMS * 10 ** (sound.noise_db / 20),
        )
        self._gain = 10 ** (sound.gain_db / 20)

    def next_block(self) -> npt.NDArray[np.float32]:
        samples = self._position + np.arange(_BLOCK_SAMPLES, dtype=np.int64)
        self._position += _BLOCK_SAMPLES

        depth = self._depth(samples)
        turns = self._shaft.turn(1 + self._fault.faster(depth))
        change = self._fault.change(depth, turns)

        blades = self._blade_tones.phasors(turns)
        tones = self._blade_tones.sum(blades)
        tones += self._shaft_tones.sum(self._shaft_tones.phasors(turns))

        # Turbulence is loudest where a blade's wake passes.
        wakes = 1 + 0.2 * blades[0].real
        gusts = 1 + _line(*self._gusts.advance())[0]
        turbulence = self._turbulence.next_block() * wakes * gusts

        heard = tones * (self._rms.tones * change.tones)
        heard += turbulence * (self._rms.turbulence * change.turbulence)
        heard += change.added * self._rms.fault
        heard += self._hum_at(samples) * self._rms.hum
        heard += self._room.next_block() * self._rms.room
        return np.clip(_bent(heard) * self._gain, -1, 1).astype(np.float32)

    def _depth(self, samples: npt.NDArray[np.int64]) -> Floats:
        """Severity times fade, 0..1."""
        start = self._sound.fault_after_seconds
        if start == 0:
            return np.full(samples.size, self._sound.severity)
        fade = np.clip((samples / self._sample_rate_hz - start) / _FADE_SECONDS, 0, 1)
        return self._sound.severity * fade**2 * (3 - 2 * fade)

    def _hum_at(self, samples: npt.NDArray[np.int64]) -> Floats:
        # Reduced as integers: steady for ever, where a float phase would wear out.
        turns = samples * _MAINS_HZ % self._sample_rate_hz / self._sample_rate_hz
        return (self._hum @ _phasors(turns, self._hum.size)).real


class _Change(NamedTuple):
    """What a fault does to a block: two factors, and a sound relative to the healthy level."""

    tones: Floats | float = 1.0
    turbulence: Floats | float = 1.0
    added: Floats | float = 0.0


class _Fault:
    """No fault, and the base of all faults.

    At depth 0 a fault answers exactly as this class does, and each effect is proportional to depth:
    the healthy sound and the monotonic severity rest on that.
    """

    def __init__(self, traits: Individual, rng: np.random.Generator, sample_rate_hz: int) -> None:
        pass

    def faster(self, depth: Floats) -> Floats | float:
        """By which share of its speed the shaft turns faster, for each sample."""
        return 0.0

    def change(self, depth: Floats, turns: Floats) -> _Change:
        """Advance one block; `depth` and `turns` (the shaft's revolutions) are per sample."""
        return _Change()


class _Bearing(_Fault):
    def __init__(self, traits: Individual, rng: np.random.Generator, sample_rate_hz: int) -> None:
        self._impacts = _Impacts(
            rng,
            per_turn=traits.outer_race_defect_hz / traits.rotation_hz,
            slip=0.01,
            unevenness=0.2,
        )
        self._filter = _Filter(
            _ringing(
                traits.bearing_resonance_hz,
                decay_seconds=0.0015,
                impacts_hz=traits.outer_race_defect_hz,
                sample_rate_hz=sample_rate_hz,
            )
        )

    def change(self, depth: Floats, turns: Floats) -> _Change:
        return _Change(added=0.6 * depth * self._filter.process(self._impacts.block(turns)))


class _Imbalance(_Fault):
    def change(self, depth: Floats, turns: Floats) -> _Change:
        once, twice = _phasors(turns, 2).real
        swing = 1 + 0.7 * depth * once
        return _Change(tones=swing, turbulence=swing, added=depth * (1.2 * once + 0.3 * twice))


class _Rubbing(_Fault):
    def __init__(self, traits: Individual, rng: np.random.Generator, sample_rate_hz: int) -> None:
        self._noise = _Noise(self._scraping, rng, sample_rate_hz)
        one_turn = self._contact(np.arange(0, 1, 0.001))
        self._contact_rms = math.sqrt(np.mean(one_turn**2))

    def change(self, depth: Floats, turns: Floats) -> _Change:
        contact = self._contact(turns) / self._contact_rms
        return _Change(added=0.5 * depth * contact * self._noise.next_block())

    @staticmethod
    def _contact(turns: Floats) -> Floats:
        """How hard the rotor rubs, 0..1: about a fifth of each revolution."""
        return np.cos(np.pi * (turns % 1)) ** 16

    @staticmethod
    def _scraping(frequency_hz: Floats) -> Floats:
        octaves = np.log2(np.maximum(frequency_hz, 1) / 2500)
        return np.exp(-0.5 * (octaves / 0.6) ** 2)


class _LooseBlade(_Fault):
    _RATTLES_PER_TURN = 1.0

    def __init__(self, traits: Individual, rng: np.random.Generator, sample_rate_hz: int) -> None:
        levels = 10 ** (-1.5 * np.arange(12) / 20) * np.exp(2j * np.pi * rng.random(12))
        self._half_orders = levels / _rms_of_tones(levels)
        self._impacts = _Impacts(rng, per_turn=self._RATTLES_PER_TURN, slip=0.3, unevenness=0.6)
        self._filter = _Filter(
            _ringing(
                traits.rattle_resonance_hz,
                decay_seconds=0.004,
                impacts_hz=self._RATTLES_PER_TURN * traits.rotation_hz,
                sample_rate_hz=sample_rate_hz,
            )
        )

    def change(self, depth: Floats, turns: Floats) -> _Change:
        tones = (self._half_orders @ _phasors(turns / 2, self._half_orders.size)).real
        rattle = self._filter.process(self._impacts.block(turns))
        return _Change(added=depth * (0.7 * tones + 0.5 * rattle))


class _BlockedInlet(_Fault):
    def __init__(self, traits: Individual, rng: np.random.Generator, sample_rate_hz: int) -> None:
        self._stall = _Noise(self._stalling, rng, sample_rate_hz)

    def faster(self, depth: Floats) -> Floats | float:
        return 0.06 * depth

    def change(self, depth: Floats, turns: Floats) -> _Change:
        return _Change(tones=1 - 0.7 * depth, added=1.2 * depth * self._stall.next_block())

    @staticmethod
    def _stalling(frequency_hz: Floats) -> Floats:
        return 1 / (1 + (frequency_hz / 150) ** 2)


_FAULTS = {
    "bearing": _Bearing,
    "imbalance": _Imbalance,
    "rubbing": _Rubbing,
    "loose_blade": _LooseBlade,
    "blocked_inlet": _BlockedInlet,
}
FAULTS = tuple(_FAULTS)


class _Drift:
    """Ornstein-Uhlenbeck processes around 0, one step per block."""

    def __init__(
        self,
        rng: np.random.Generator,
        step_seconds: float,
        sd: float,
        *,
        tau_seconds: float,
        size: int = 1,
    ) -> None:
        self._rng = rng
        self._keep = math.exp(-step_seconds / tau_seconds)
        self._kick = sd * math.sqrt(1 - self._keep**2)
        self._now = sd * rng.standard_normal(size)

    def advance(self) -> tuple[Floats, Floats]:
        """Return the values at the block's start and at its end, each (size,)."""
        start = self._now
        self._now = self._keep * start + self._kick * self._rng.standard_normal(start.size)
        return start, self._now


class _Shaft:
    """The angle of the shaft."""

    def __init__(self, turns_per_sample: float, drift: _Drift) -> None:
        self._turns_per_sample = turns_per_sample
        self._drift = drift
        # Never wrapped, since faults count in other multiples: after a year a float64 still
        # resolves a millionth of a revolution.
        self._angle = 0.0

    def turn(self, factor: Floats | float) -> Floats:
        """Return the revolutions since the beginning at each sample of the block."""
        steps = self._turns_per_sample * (1 + _line(*self._drift.advance())[0]) * factor
        turns = self._angle + np.cumsum(steps)
        self._angle = float(turns[-1])
        return turns


class _Tones:
    """Harmonics of one order of the shaft; each level wanders by about 1 dB."""

    def __init__(
        self,
        order: int,
        levels: npt.NDArray[np.complex128],
        rng: np.random.Generator,
        step_seconds: float,
    ) -> None:
        self._order = order
        self._levels = levels
        self._drift = _Drift(rng, step_seconds, 0.12, tau_seconds=3, size=levels.size)

    def phasors(self, turns: Floats) -> npt.NDArray[np.complex128]:
        return _phasors(self._order * turns, self._levels.size)

    def sum(self, phasors: npt.NDArray[np.complex128]) -> Floats:
        start, end = (self._levels * (1 + drift) for drift in self._drift.advance())
        return (start @ phasors + _RAMP * ((end - start) @ phasors)).real


class _Filter:
    """A finite impulse response, applied block by block (overlap-add)."""

    def __init__(self, impulse_response: Floats) -> None:
        self._response = np.fft.rfft(impulse_response, 2 * _BLOCK_SAMPLES)
        self._tail = np.zeros(_BLOCK_SAMPLES)

    def process(self, block: Floats) -> Floats:
        spectrum = np.fft.rfft(block, 2 * _BLOCK_SAMPLES) * self._response
        filtered = np.fft.irfft(spectrum, 2 * _BLOCK_SAMPLES)
        now, after = np.split(filtered, 2)
        now += self._tail
        self._tail = after
        return now


class _Noise:
    """Gaussian noise of rms 1 whose amplitude spectrum is `shape`."""

    def __init__(
        self, shape: Callable[[Floats], Floats], rng: np.random.Generator, sample_rate_hz: int
    ) -> None:
        frequency_hz = np.arange(_FIR_SAMPLES // 2 + 1, dtype=np.float64)
        frequency_hz *= sample_rate_hz / _FIR_SAMPLES
        # A microphone hears nothing of the slowest swings, and brown noise is full of them.
        without_rumble = frequency_hz**2 / (frequency_hz**2 + _RUMBLE_HZ**2)
        zero_phase = np.fft.irfft(shape(frequency_hz) * without_rumble)
        hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(_FIR_SAMPLES) / _FIR_SAMPLES)
        windowed = np.roll(zero_phase, _FIR_SAMPLES // 2) * hann
        self._filter = _Filter(windowed / math.sqrt(np.sum(windowed**2)))
        self._rng = rng
        # The filter starts empty; without this the sound would begin with a fade.
        self.next_block()

    def next_block(self) -> Floats:
        return self._filter.process(self._rng.standard_normal(_BLOCK_SAMPLES))


class _Impacts:
    """Unit impacts that follow the shaft, irregular in time (slip) and in strength."""

    def __init__(
        self, rng: np.random.Generator, *, per_turn: float, slip: float, unevenness: float
    ) -> None:
        self._rng = rng
        self._spacing = 1 / per_turn
        self._slip = slip
        self._unevenness = unevenness
        self._ahead = np.zeros(1)

    def block(self, turns: Floats) -> Floats:
        while self._ahead[-1] <= turns[-1]:
            # Each slip stays: the balls do not remember where they should have been.
            slips = self._rng.normal(1, self._slip, 64).clip(min=0.1)
            following = self._ahead[-1] + self._spacing * np.cumsum(slips)
            self._ahead = np.concatenate([self._ahead, following])
        due, self._ahead = np.split(self._ahead, [np.searchsorted(self._ahead, turns[-1])])
        strengths = self._rng.normal(1, self._unevenness, due.size)
        impacts = np.zeros(turns.size)
        np.add.at(impacts, np.searchsorted(turns, due), strengths)
        return impacts


def _ringing(
    frequency_hz: float, *, decay_seconds: float, impacts_hz: float, sample_rate_hz: int
) -> Floats:
    """Answer of a resonance to one impact, such that impacts at `impacts_hz` have rms 1."""
    seconds = np.arange(_FIR_SAMPLES) / sample_rate_hz
    answer = np.exp(-seconds / decay_seconds) * np.sin(2 * np.pi * frequency_hz * seconds)
    return answer / math.sqrt(impacts_hz / sample_rate_hz * np.sum(answer**2))


def _phasors(turns: Floats, count: int) -> npt.NDArray[np.complex128]:
    """Return `exp(2 pi i k turns)` for k = 1..count, shape (count, turns.size)."""
    phasors = np.empty((count, turns.size), np.complex128)
    phasors[0] = np.exp(2j * np.pi * (turns % 1))
    # Per block a product takes 2 microseconds and an exponential 90.
    for k in range(1, count):
        np.multiply(phasors[k - 1], phasors[0], out=phasors[k])
    return phasors


def _line(start: Floats, end: Floats) -> Floats:
    """Go from start to end, each (size,), within one block: shape (size, block)."""
    return start[:, None] + (end - start)[:, None] * _RAMP


def _rms_of_tones(levels: npt.NDArray[np.complex128]) -> float:
    return math.sqrt(np.sum(np.abs(levels) ** 2) / 2)


def _bent(samples: Floats) -> Floats:
    """Leave samples up to `_KNEE` as they are and bend the rest to stay below `_CEILING`."""
    size = np.abs(samples)
    if size.max() <= _KNEE:
        return samples
    headroom = _CEILING - _KNEE
    bent = _KNEE + headroom * np.tanh((size - _KNEE) / headroom)
    return np.where(size > _KNEE, np.copysign(bent, samples), samples)


def _stream(machine: str, unit: int, name: str, seed: int = 0) -> np.random.Generator:
    """Return the random numbers of one part of one take.

    Each part has its own, so that a fault, or a part added later, leaves the others as they were.
    """
    words = [zlib.crc32(machine.encode()), unit, seed, zlib.crc32(name.encode())]
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(words)))


_FIELD_OF_KEY = {
    "unit": "unit",
    "seed": "seed",
    "fault": "fault",
    "severity": "severity",
    "after": "fault_after_seconds",
    "seconds": "seconds",
    "speed": "speed",
    "gain_db": "gain_db",
    "noise_colour": "noise_colour",
    "noise_db": "noise_db",
}
_KEY_OF_FIELD = {field: key for key, field in _FIELD_OF_KEY.items()}


def _number(field: str, raw: str) -> float:
    return int(raw) if RANGES[field].whole else float(raw)


def _problems(values: Mapping[str, object]) -> list[str]:
    """Name what is wrong with the fields that are given."""
    problems = []
    if values["machine"] not in MACHINES:
        problems.append(
            f"Expected a machine out of {_listed(MACHINES)}; got {_shown(values['machine'])}"
        )
    if values.get("fault") not in (None, *FAULTS):
        problems.append(f"Expected a fault out of {_listed(FAULTS)}; got {_shown(values['fault'])}")
    problems += [
        _out_of_range(field, values[field])
        for field in RANGES
        if values.get(field) is not None and not _fits(field, values[field])
    ]
    return problems


def _fits(field: str, value: object) -> bool:
    low, high, whole = RANGES[field]
    return isinstance(value, int if whole else int | float) and low <= value <= high


def _out_of_range(field: str, value: object) -> str:
    low, high, whole = RANGES[field]
    kind = "whole number" if whole else "number"
    return f"Expected {_KEY_OF_FIELD[field]} to be a {kind} of {low}..{high}; got {_shown(value)}"


def _listed(names: Iterable[str]) -> str:
    return ", ".join(names)


def _shown(value: object) -> str:
    """Quote text from outside on one short line."""
    return repr(value)[:60]
