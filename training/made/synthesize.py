"""A data set of generated machine sound, laid out as DCASE 2021 Task 2 lays out real sound.

A section is one unit of the machine. Each clip is a take of its own with a seed derived from the
data set's; the same arguments give the same bytes. Two domains, as there:

- source: the machine as it runs every day. Each clip differs a little in speed, gain, colour and
  level of the room's noise.
- target: another operating point of each unit (faster or slower, a microphone elsewhere, another
  room), with the same small differences around it. Of its normals, `train/` has but a few.

`attributes_<section>.csv` (in the manner of DCASE 2022) says for each clip what is heard in it, as
the text that `synthetic:` takes. What generated sound cannot show is said in
`node.sound.synthetic`.
"""

import csv
import zlib
from collections.abc import Iterator
from pathlib import Path

import msgspec
import numpy as np
import soundfile

from contract.features import Float32Array
from node.sound.synthetic import MachineSound, SpecError, Synthesizer
from training.errors import DataError, DestinationError
from training.progress import Progress
from training.sound.dataset import Domain, Label, Split
from training.staging import is_free, refuse_unwritable, staged_folder

SAMPLE_RATE_HZ = 16_000

# Day to day. A fan's speed may wander by 2 %; at 10 % it sounds as far off as with a fault.
_SPEED = 0.02
_GAIN_DB = 2.0
_NOISE_COLOUR_DB = 1.0
_NOISE_DB = 2.0

# The target domain: at least this far from the source, at most twice as far.
_TARGET_SPEED = 0.04
_TARGET_GAIN_DB = 2.5
_TARGET_NOISE_COLOUR_DB = 1.5
_TARGET_NOISE_DB = 4.0


class DatasetPlan(msgspec.Struct, frozen=True, kw_only=True):
    """How many clips of which machine and units to generate, and with which faults.

    Raises:
        DataError: it cannot be generated.
    """

    machine: str = "fan"
    units: tuple[int, ...] = (0, 1, 2)
    faults: tuple[str, ...] = ()
    """Taken in turn by the anomalous clips."""
    severity: float = 0.5
    seed: int = 0
    train_clips: int = 60
    """Normal clips of the source domain in `train/`, per unit."""
    target_clips: int = 3
    """Normal clips of the target domain in `train/`, per unit."""
    test_clips: int = 20
    """Clips per unit and domain in the tests, half of them anomalous."""
    seconds: float = 10.0

    def __post_init__(self) -> None:
        problems = [
            problem
            for wrong, problem in (
                (not self.units, "expected at least one unit"),
                (len(set(self.units)) < len(self.units), "expected each unit once"),
                (not self.faults and self.test_clips, "expected at least one fault"),
                (self.train_clips < 0 or self.target_clips < 0, "expected 0 or more clips"),
                (
                    self.test_clips < 0 or self.test_clips % 2,
                    "expected an even number of test clips, half of them anomalous,"
                    f" got {self.test_clips}",
                ),
            )
            if wrong
        ]
        try:
            for fault in self.faults or (None,):
                for unit in self.units:
                    self._sound(unit, fault)
        except SpecError as error:
            problems += error.problems
        if problems:
            raise DataError("; ".join(problems))

    def clips(self) -> Iterator["PlannedClip"]:
        """Every clip, in the order of sections."""
        labels: tuple[Label, ...] = ("normal", "anomaly")
        train_clips: dict[Domain, int] = {"source": self.train_clips, "target": self.target_clips}
        for unit in self.units:
            for domain, count in train_clips.items():
                for index in range(count):
                    yield self._clip(unit, domain, "train", "normal", index)
            for domain in train_clips:
                for label in labels:
                    for index in range(self.test_clips // 2):
                        yield self._clip(unit, domain, "test", label, index)

    def _clip(
        self, unit: int, domain: Domain, split: Split, label: Label, index: int
    ) -> "PlannedClip":
        # Words, not positions: more clips of one kind leave all others as they were.
        rng = self._rng(unit, domain, split, label, str(index))
        speed, gain_db, colour, noise_db = 1.0, 0.0, -3.0, -20.0
        if domain == "target":
            shift = self._rng(unit, "target")
            speed += _away(shift, _TARGET_SPEED)
            gain_db += _away(shift, _TARGET_GAIN_DB)
            colour += _away(shift, _TARGET_NOISE_COLOUR_DB)
            noise_db += abs(_away(shift, _TARGET_NOISE_DB))
        fault = self.faults[index % len(self.faults)] if label == "anomaly" else None
        sound = msgspec.structs.replace(
            self._sound(unit, fault),
            seed=int(rng.integers(2**32)),
            # Rounded, so that the text in the attributes gives exactly this sound again.
            speed=round(speed + rng.uniform(-_SPEED, _SPEED), 4),
            gain_db=round(gain_db + rng.uniform(-_GAIN_DB, _GAIN_DB), 2),
            noise_colour=round(colour + rng.uniform(-_NOISE_COLOUR_DB, _NOISE_COLOUR_DB), 2),
            noise_db=round(noise_db + rng.uniform(-_NOISE_DB, _NOISE_DB), 2),
        )
        folder = "train" if split == "train" else f"{domain}_test"
        # As in 2021, names in the tests do not give away what is heard.
        attributes = f"speed_{sound.speed * 100:.0f}" if split == "train" else ""
        name = f"section_{unit:02d}_{domain}_{split}_{label}_{index:04d}"
        path = f"{folder}/{name}_{attributes}.wav" if attributes else f"{folder}/{name}.wav"
        return PlannedClip(unit, domain, split, attributes, path, sound)

    def _sound(self, unit: int, fault: str | None) -> MachineSound:
        severity = self.severity if fault else 0.5
        return MachineSound(
            machine=self.machine,
            unit=unit,
            fault=fault,
            severity=severity,
            seconds=self.seconds,
        )

    def _rng(self, unit: int, *words: str) -> np.random.Generator:
        text = [zlib.crc32(word.encode()) for word in (self.machine, *words)]
        return np.random.Generator(
            np.random.PCG64(np.random.SeedSequence([self.seed, unit, *text]))
        )


class PlannedClip(msgspec.Struct, frozen=True):
    """One clip to generate, and the name of its file."""

    unit: int
    domain: Domain
    split: Split
    attributes: str
    """The end of the name, after the index; empty in the tests."""
    path: str
    """The folder for it below the machine's."""
    sound: MachineSound

    @property
    def spec(self) -> str:
        """The text after `synthetic:` that gives this sound."""
        sound = self.sound
        fault = f"&fault={sound.fault}&severity={sound.severity:g}" if sound.fault else ""
        return (
            f"{sound.machine}?unit={sound.unit}&seed={sound.seed}&speed={sound.speed:g}"
            f"&gain_db={sound.gain_db:g}&noise_colour={sound.noise_colour:g}"
            f"&noise_db={sound.noise_db:g}{fault}&seconds={sound.seconds:g}"
        )


def synthesize(plan: DatasetPlan, folder: Path, *, progress: Progress) -> int:
    """Write a data set into `folder/<machine>/`, whole or not at all; return how many clips.

    Raises:
        DestinationError: the folder holds something, or cannot be written.
    """
    refuse_unwritable(folder)
    if not is_free(folder):
        raise DestinationError(f"{folder}: expected an empty folder, or none yet")
    clips = list(plan.clips())
    if not clips:
        raise DataError("expected at least one clip to generate")
    with staged_folder(folder) as staging:
        machine_folder = staging / plan.machine
        for clip in progress(clips, "generating"):
            path = machine_folder / clip.path
            path.parent.mkdir(parents=True, exist_ok=True)
            _write_clip(clip.sound, path)
        for unit in plan.units:
            _write_attributes(
                [clip for clip in clips if clip.unit == unit],
                machine_folder / f"attributes_{unit:02d}.csv",
            )
    return len(clips)


def generate(sound: MachineSound) -> Float32Array:
    """All of a sound at `SAMPLE_RATE_HZ`, shape (n,); its `seconds` must say how long."""
    assert sound.seconds is not None
    synthesizer = Synthesizer(sound, sample_rate_hz=SAMPLE_RATE_HZ)
    return synthesizer.read(round(sound.seconds * SAMPLE_RATE_HZ))


def _write_clip(sound: MachineSound, path: Path) -> None:
    try:
        soundfile.write(path, generate(sound), SAMPLE_RATE_HZ, subtype="PCM_16")
    except soundfile.LibsndfileError as error:
        raise DestinationError(f"cannot write {path.name}: {error.error_string}") from error


def _write_attributes(clips: list[PlannedClip], path: Path) -> None:
    with path.open("w", encoding="utf-8", newline="") as stream:
        table = csv.writer(stream, lineterminator="\n")
        table.writerow(("file_name", "d1p", "d1v"))
        table.writerows((clip.path, "synthetic", clip.spec) for clip in clips)


def _away(rng: np.random.Generator, least: float) -> float:
    """Draw from -2..-1 or 1..2 times `least`."""
    return float(rng.choice((-1, 1)) * rng.uniform(least, 2 * least))
