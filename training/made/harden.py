"""A hard data set: faults of known severity, in the noise of a room, on equal terms.

Normal sound comes from a data set of recordings or from the generator. Its training clips become
those of the new set. Each of its normal test clips is written twice: as it is, and with one fault
planted (`training.made.planted_faults`). Noise (`training.made.room_noise`), if asked for, is mixed
into every clip; both clips of a pair get the same noise, so that they differ in the fault alone. Or
the recorded anomalies are kept in place of planted ones: real faults in the noise of a room.

The layout is that of DCASE 2021 Task 2, at 16 kHz. A test clip's name tells its label and no more;
the planted copy of `..._test_normal_0007.wav` is `..._test_anomaly_0007.wav`. Training clips keep
what the original's name says after its index. For every file `attributes_<section>.csv` has

    file_name   without its folder. DCASE's tables have the folder, too, and tell what a clip was
                recorded under; these must not be taken for such, as a clip's noise is no session
    original    name of the recording, or what gives the sound after `synthetic:`
    session     of the original, where its data set tells
    fault       a planted one, `recorded` for a kept anomaly, empty for normal sound
    severity    of the planted fault
    noise       the recordings that are mixed in
    ratio_db    rms of the machine over rms of the noise
    gain_db     by how much the sum was made quieter or louder than the original

A machine is as loud as in the original, but where a peak would clip: then both clips of the pair
are made quieter by the same gain. With `level_dbfs` all clips have that rms instead.

Random numbers follow from seed, section, domain, split and index: another ratio, another level
or noise where there was none leaves faults, recordings of noise and their stretches as they were.
"""

import csv
import math
import re
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import lru_cache, partial
from pathlib import Path
from typing import NamedTuple

import msgspec
import numpy as np
import soundfile

from contract.features import Float32Array
from training.errors import DataError, DestinationError
from training.made.planted_faults import FAULTS, MIN_SECONDS, plant
from training.made.room_noise import Noise, NoiseLibrary, at_ratio
from training.made.synthesize import SAMPLE_RATE_HZ, DatasetPlan, generate
from training.progress import Progress
from training.sound.dataset import Clip, Dataset, Domain, Label, Split
from training.sound.recordings import read_recording
from training.staging import is_free, refuse_unwritable, staged_folder

_COLUMNS = ("file_name", "original", "session", "fault", "severity", "noise", "ratio_db", "gain_db")
_RECORDED = "recorded"

_FULL_SCALE = 32_768
_LOUDEST = (_FULL_SCALE - 1) / _FULL_SCALE


class HardPlan(msgspec.Struct, frozen=True, kw_only=True):
    """What to do to normal sound.

    Raises:
        DataError: it cannot be done; names all that is wrong.
    """

    faults: tuple[str, ...] = FAULTS
    severities: tuple[float, ...] = (0.25, 0.5, 1.0)
    noise: Path | None = None
    """A folder for `NoiseLibrary`; None is no noise."""
    ratio_db: float = 0.0
    keep_anomalies: bool = False
    """Write the recorded anomalies in place of planted ones."""
    level_dbfs: float | None = None
    """RMS of every clip that is written; None keeps the originals' levels."""
    seed: int = 0

    def __post_init__(self) -> None:
        unknown = [fault for fault in self.faults if fault not in FAULTS]
        outside = [severity for severity in self.severities if not 0 <= severity <= 1]
        problems = [
            problem
            for wrong, problem in (
                (not self.faults, "expected at least one fault to plant"),
                (unknown, f"expected faults out of {', '.join(FAULTS)}; got {_listed(unknown)}"),
                (not self.severities, "expected at least one severity"),
                (outside, f"expected severities of 0 to 1, got {_listed(outside)}"),
                (
                    not math.isfinite(self.ratio_db),
                    f"expected a finite ratio of machine to noise, got {self.ratio_db}",
                ),
                (
                    self.level_dbfs is not None and not -80 <= self.level_dbfs <= 0,
                    f"expected a level of -80 to 0 dBFS, got {self.level_dbfs}",
                ),
            )
            if wrong
        ]
        if problems:
            raise DataError("; ".join(problems))


class Original(msgspec.Struct, frozen=True, kw_only=True):
    """A clip to start from."""

    name: str
    section: str
    domain: Domain
    split: Split
    label: Label
    attributes: str
    session: str | None
    read: Callable[[], Float32Array]
    """Gives its sound at `SAMPLE_RATE_HZ`, shape (n,)."""


class Summary(msgspec.Struct, frozen=True):
    """How many clips were written, and how many of them were made quieter."""

    clips: int
    made_quieter: int
    """Clips that are quieter than the plan says, so that no peak clips."""


def recorded(dataset: Dataset) -> list[Original]:
    """The labelled clips of a data set, in its order."""
    return [
        Original(
            name=clip.path.name,
            section=clip.section,
            domain=clip.domain,
            split=clip.split,
            label=clip.label,
            attributes=clip.attributes,
            session=clip.session,
            read=partial(_read, clip.path),
        )
        for clip in (*dataset.train, *dataset.test)
        if clip.label is not None
    ]


def generated(plan: DatasetPlan) -> list[Original]:
    """The normal clips of a plan for generated sound, in its order."""
    return [
        Original(
            name=clip.spec,
            section=f"{clip.unit:02d}",
            domain=clip.domain,
            split=clip.split,
            label="normal",
            attributes=clip.attributes,
            session=None,
            read=partial(generate, clip.sound),
        )
        for clip in plan.clips()
        if clip.sound.fault is None
    ]


def harden(
    originals: Iterable[Original], machine: str, plan: HardPlan, out: Path, *, progress: Progress
) -> Summary:
    """Write a hard data set into `out/<machine>/`, whole or not at all.

    Raises:
        DestinationError: `out` holds something, or cannot be written.
        DataError: there is nothing to test with; a recording is refused, too short or silent; the
            noise cannot be used; or a clip would clip at `plan.level_dbfs`.
    """
    refuse_unwritable(out)
    if not is_free(out):
        raise DestinationError(f"{out}: expected an empty folder, or none yet")
    tasks = _tasks(originals, plan)
    library = None if plan.noise is None else NoiseLibrary(plan.noise)
    entries: list[_Entry] = []
    with staged_folder(out) as staging:
        folder = staging / machine
        for task in progress(tasks, "writing"):
            for entry, samples in _render(task, plan, library):
                _write_clip(samples, folder / entry.path)
                entries.append(entry)
        _refuse_clipping(entries, plan)
        for section in sorted({entry.section for entry in entries}):
            _write_table(
                [entry for entry in entries if entry.section == section],
                folder / f"attributes_{section}.csv",
            )
    return Summary(len(entries), sum(entry.made_quieter for entry in entries))


def original_of(clip: Clip) -> str:
    """What tells whether two clips of a data set are the same recording, with a fault and without.

    Returns:
        The clip's path; for a planted copy in a hard data set the path of the clip without a fault.

    Raises:
        DataError: the data set's table cannot be read.
    """
    if planted_in(clip) is None:
        return str(clip.path)
    return str(clip.path.with_name(clip.path.name.replace("_test_anomaly_", "_test_normal_")))


class Planted(msgspec.Struct, frozen=True):
    """The fault of a clip in a hard data set."""

    fault: str
    severity: float


def planted_in(clip: Clip) -> Planted | None:
    """What was planted in a clip; None in an original, and in data sets of other kinds.

    Raises:
        DataError: the data set's table cannot be read.
    """
    table = clip.path.parent.parent / f"attributes_{clip.section}.csv"
    if not table.is_file():
        return None
    return _planted(table, table.stat().st_mtime_ns).get(clip.path.name)


def assign_faults(count: int, plan: HardPlan, rng: np.random.Generator) -> list[tuple[str, float]]:
    """A fault and a severity for each of `count` clips.

    Each fault, each severity and each pair of both appear equally often, give or take one; which
    clip has which is drawn.
    """
    faults = [plan.faults[index] for index in rng.permutation(len(plan.faults))]
    severities = [plan.severities[index] for index in rng.permutation(len(plan.severities))]
    # A Latin square: each round of faults begins one severity further on.
    turns = [
        (faults[place], severities[(place + turn) % len(severities)])
        for turn, place in (divmod(number, len(faults)) for number in range(count))
    ]
    return [turns[index] for index in rng.permutation(count)]


class _Task(msgspec.Struct, frozen=True, kw_only=True):
    original: Original
    index: int
    """Within section, domain, split and label."""
    planted: tuple[str, float] | None
    """Fault and severity of the second copy, if there is one."""

    def rng(self, purpose: str, seed: int) -> np.random.Generator:
        original = self.original
        return _rng(
            seed,
            purpose,
            original.section,
            original.domain,
            original.split,
            original.label,
            str(self.index),
        )

    def path(self, label: Label) -> str:
        original = self.original
        kind = f"{original.domain}_{original.split}_{label}"
        name = f"section_{original.section}_{kind}_{self.index:04d}"
        if original.split == "test":
            return f"{original.domain}_test/{name}.wav"
        # What was recorded in one go must be told apart in the new set, too.
        attributes = re.sub(r"[^\w.+-]+", "-", original.attributes or original.session or "")
        return f"train/{name}_{attributes}.wav" if attributes else f"train/{name}.wav"


class _Copy(NamedTuple):
    """A clip as it is, or with its fault."""

    label: Label
    fault: str
    severity: float | None
    samples: Float32Array


class _Entry(msgspec.Struct, frozen=True, kw_only=True):
    """What the table says of a clip."""

    section: str
    path: str
    original: str
    session: str
    fault: str
    severity: float | None
    noise: tuple[str, ...]
    ratio_db: float | None
    gain: float
    made_quieter: bool
    excess_db: float
    """By how much the highest peak lies above full scale; clips that have more than 0 are not left
    on disk."""

    @property
    def row(self) -> tuple[str, ...]:
        """In the order of `_COLUMNS`."""
        return (
            Path(self.path).name,
            self.original,
            self.session,
            self.fault,
            "" if self.severity is None else f"{self.severity:g}",
            " + ".join(self.noise),
            "" if self.ratio_db is None else f"{self.ratio_db:g}",
            f"{20 * math.log10(self.gain):.2f}",
        )


def _tasks(originals: Iterable[Original], plan: HardPlan) -> list[_Task]:
    groups: dict[tuple[str, Domain, Split, Label], list[Original]] = {}
    for original in originals:
        key = (original.section, original.domain, original.split, original.label)
        groups.setdefault(key, []).append(original)
    if not any(split == "test" and label == "normal" for _, _, split, label in groups):
        raise DataError("expected normal test clips, got none: nothing to plant faults into")
    if plan.keep_anomalies and not any(label == "anomaly" for *_, label in groups):
        raise DataError("expected recorded anomalies to keep, got none")
    tasks: list[_Task] = []
    for (section, domain, split, label), members in groups.items():
        if label == "anomaly" and not plan.keep_anomalies:
            continue
        planted: Sequence[tuple[str, float] | None] = [None] * len(members)
        if split == "test" and not plan.keep_anomalies:
            rng = _rng(plan.seed, "which fault", section, domain)
            planted = assign_faults(len(members), plan, rng)
        tasks += [
            _Task(original=original, index=index, planted=planted[index])
            for index, original in enumerate(members)
        ]
    return tasks


def _render(
    task: _Task, plan: HardPlan, library: NoiseLibrary | None
) -> Iterator[tuple[_Entry, Float32Array]]:
    """One clip, or a pair that differs in the fault alone."""
    original = task.original
    clean = _checked(original)
    copies = [_Copy(original.label, _RECORDED if original.label == "anomaly" else "", None, clean)]
    if task.planted is not None:
        copies.append(_Copy("anomaly", *task.planted, _faulty(task, clean, plan)))

    noise = None if library is None else _noise(task, clean, library, plan)
    sounds = [copy.samples for copy in copies]
    if noise is not None:
        added = at_ratio(noise.samples, clean, ratio_db=plan.ratio_db)
        sounds = [sound + added for sound in sounds]
    gains, excesses_db = _gains(sounds, plan.level_dbfs)

    for copy, sound, gain, excess_db in zip(copies, sounds, gains, excesses_db, strict=True):
        entry = _Entry(
            section=original.section,
            path=task.path(copy.label),
            original=original.name,
            session=original.session or "",
            fault=copy.fault,
            severity=copy.severity,
            noise=() if noise is None else noise.sources,
            ratio_db=None if noise is None else plan.ratio_db,
            gain=gain,
            made_quieter=plan.level_dbfs is None and gain < 1,
            excess_db=excess_db,
        )
        yield entry, sound if gain == 1 else (sound * np.float64(gain)).astype(np.float32)


def _checked(original: Original) -> Float32Array:
    sound = original.read()
    if sound.size < MIN_SECONDS * SAMPLE_RATE_HZ:
        raise DataError(
            f"{original.name}: expected at least {MIN_SECONDS} s,"
            f" got {sound.size / SAMPLE_RATE_HZ:.2f} s"
        )
    if not sound.any():
        raise DataError(f"{original.name}: expected sound, got digital silence; leave the clip out")
    return sound


def _faulty(task: _Task, clean: Float32Array, plan: HardPlan) -> Float32Array:
    assert task.planted is not None
    fault, severity = task.planted
    rng = task.rng(fault, plan.seed)
    faulty = plant(clean, fault, severity=severity, rng=rng, sample_rate_hz=SAMPLE_RATE_HZ)
    if severity > 0 and np.array_equal(faulty, clean):
        raise DataError(
            f"{task.original.name}: a planted {fault} changes nothing; expected sound for at least"
            " half of the clip"
        )
    return faulty


def _noise(task: _Task, clean: Float32Array, library: NoiseLibrary, plan: HardPlan) -> Noise:
    rng = task.rng("noise", plan.seed)
    return library.draw(
        rng,
        half=task.original.split,
        samples=clean.size,
        sample_rate_hz=SAMPLE_RATE_HZ,
        recordings=int(rng.integers(1, 3)),
    )


def _gains(
    sounds: Sequence[Float32Array], level_dbfs: float | None
) -> tuple[list[float], list[float]]:
    """Gains of the clips of one task, and how far in dB each is above full scale with its gain."""
    # 16-bit numbers reach -1 but not +1.
    peaks = [max(float(sound.max()) / _LOUDEST, -float(sound.min())) for sound in sounds]
    if level_dbfs is None:
        gain = min(1.0, 1 / max(peaks))
        return [gain] * len(sounds), [0.0] * len(sounds)
    wanted = 10 ** (level_dbfs / 20)
    gains = [wanted / math.sqrt(np.mean(np.square(sound, dtype=np.float64))) for sound in sounds]
    return gains, [
        max(0.0, 20 * math.log10(gain * peak)) for gain, peak in zip(gains, peaks, strict=True)
    ]


def _refuse_clipping(entries: list[_Entry], plan: HardPlan) -> None:
    clipping = [entry for entry in entries if entry.excess_db > 0]
    if clipping:
        assert plan.level_dbfs is not None
        worst = max(clipping, key=lambda entry: entry.excess_db)
        highest = math.floor((plan.level_dbfs - worst.excess_db) * 10) / 10
        raise DataError(
            f"{worst.original}: would clip at {plan.level_dbfs:g} dBFS, as would"
            f" {len(clipping) - 1} other clips; expected a level of at most {highest:g} dBFS"
        )


def _write_clip(samples: Float32Array, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    # libsndfile would scale by 32767: sound from a 16-bit file would come out as another one.
    whole = np.clip(np.rint(samples * np.float64(_FULL_SCALE)), -_FULL_SCALE, _FULL_SCALE - 1)
    try:
        soundfile.write(path, whole.astype(np.int16), SAMPLE_RATE_HZ, subtype="PCM_16")
    except soundfile.LibsndfileError as error:
        raise DestinationError(f"cannot write {path.name}: {error.error_string}") from error


def _write_table(entries: list[_Entry], path: Path) -> None:
    with path.open("w", encoding="utf-8", newline="") as stream:
        table = csv.writer(stream, lineterminator="\n")
        table.writerow(_COLUMNS)
        table.writerows(entry.row for entry in entries)


@lru_cache(maxsize=64)
def _planted(path: Path, changed_ns: int) -> dict[str, Planted]:
    """What was planted, by the copies' names; empty for a table of another kind."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as stream:
            return {
                row["file_name"]: Planted(row["fault"], float(row["severity"]))
                for row in csv.DictReader(stream)
                if row.get("severity")
            }
    except (OSError, csv.Error, UnicodeDecodeError, KeyError, ValueError) as error:
        raise DataError(f"{path}: expected a table in UTF-8, comma-separated: {error}") from error


def _read(path: Path) -> Float32Array:
    return read_recording(path, sample_rate_hz=SAMPLE_RATE_HZ).samples


def _rng(seed: int, *words: str) -> np.random.Generator:
    text = [zlib.crc32(word.encode()) for word in words]
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence([seed, *text])))


def _listed(items: Iterable[object]) -> str:
    return ", ".join(map(str, items))
