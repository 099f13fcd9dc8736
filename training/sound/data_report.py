"""What is wrong with a data set, and what to know of it, before a training takes hours.

Every recording is read once. Sound is measured as it is in the file: each channel by itself, at the
file's own rate; nothing is resampled or mixed.
"""

import hashlib
import math
import os
import statistics
import textwrap
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Literal

import msgspec
import numpy as np
import soundfile

from contract.feature_params import FeatureParams
from node.sound.errors import SourceError
from node.sound.recordings import open_recording, open_sound
from training.errors import DestinationError
from training.progress import Progress
from training.sound.dataset import (
    FEW_SESSIONS,
    Clip,
    Domain,
    Label,
    Layout,
    Listing,
    Split,
    expected_name,
    known_sessions,
    list_recordings,
)

Severity = Literal["problem", "warning", "info"]

# One step of 16 bits below full scale: what a converter gives at its stop.
_FULL_SCALE = 1 - 1.5 / 32_768
_CLIPPED_SHARE = 0.001
_SILENT_DBFS = -100.0
"""Below the noise of any microphone."""
_DC_OFFSET = 0.01
"""Of full scale: -40 dBFS, which is louder than many a machine."""
_SHORT_SHARE = 0.5
"""Of the median length: copies break off anywhere, recorders stop within a second."""
_FEW_CLIPS = 20
_RARE_SHARE = 0.1
_SHOWN_FILES = 3
_WIDTH = 79


class Measured(msgspec.Struct, frozen=True, kw_only=True):
    """The sound of one file; with several channels, the worst of them."""

    seconds: float
    sample_rate_hz: int
    channels: int
    sha256: str
    """Of the samples as float32, so that the same sound is found in WAV and in FLAC."""
    level_dbfs: float
    """RMS of the loudest channel; minus infinity for zeros."""
    full_scale_share: float
    """Share of samples at full scale."""
    dc_offset: float
    """Mean, 1 is full scale."""
    finite: bool
    """Whether there is neither NaN nor infinity."""


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """One thing to know."""

    severity: Severity
    """A problem: training on this data set would be a mistake."""
    kind: str
    """A word for programs, such as "clipped"."""
    text: str
    files: tuple[str, ...] = ()
    """Below the machine's folder, all of them."""
    copies: tuple[tuple[str, ...], ...] = ()
    """Of copies: which of the files are the same sound."""


class Group(msgspec.Struct, frozen=True, kw_only=True):
    """The recordings of one split, section, domain and label that could be read."""

    split: Split
    section: str
    domain: Domain
    label: Label | None
    files: int
    seconds: float
    windows: int
    """Side by side, each as long as one that a node scores."""


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """What a data set holds and what was found."""

    machine: str
    folder: str
    layout: Layout
    window_seconds: float
    groups: tuple[Group, ...]
    sample_rates_hz: dict[int, int]
    """How many files have each."""
    channels: dict[int, int]
    """How many files have each."""
    seconds: tuple[float, float, float] | None
    """Shortest, median and longest file; None if no file can be read."""
    sessions: tuple[str, ...]
    """Of normal sound to train on."""
    findings: tuple[Finding, ...]
    """Problems first."""

    @property
    def problems(self) -> int:
        """How many findings are problems."""
        return sum(finding.severity == "problem" for finding in self.findings)


class _Heard(msgspec.Struct, frozen=True):
    """A clip that could be read."""

    clip: Clip
    sound: Measured


def report_on(folder: Path, machine: str | None = None, *, progress: Progress) -> Report:
    """Read all recordings of a machine and say what is to be known of them.

    Args:
        folder: the machine's folder, or the one above it.
        machine: the machine's folder name; None if there is only one.
        progress: shows how far the reading is.

    Raises:
        DataError: there is no such machine, or its folder has no known layout.
    """
    listing = list_recordings(folder, machine)
    window_seconds = FeatureParams().window_samples / FeatureParams().sample_rate_hz
    heard: list[_Heard] = []
    unreadable: list[tuple[Clip, str]] = []
    for clip, sound in zip(listing.clips, _measure_all(listing.clips, progress), strict=True):
        if isinstance(sound, str):
            unreadable.append((clip, sound))
        else:
            heard.append(_Heard(clip, sound))
    findings = [
        *_of_names(listing),
        *_of_files(listing, unreadable),
        *_of_sound(listing, heard, window_seconds),
        *_of_formats(listing, heard),
        *_of_copies(listing, heard),
        *_of_sessions(listing),
        *_of_tests(listing),
    ]
    order: list[Severity] = ["problem", "warning", "info"]
    lengths = sorted(item.sound.seconds for item in heard)
    return Report(
        machine=_text(listing.machine),
        folder=_text(str(listing.folder)),
        layout=listing.layout,
        window_seconds=window_seconds,
        groups=_groups(heard, window_seconds),
        sample_rates_hz=_counts(item.sound.sample_rate_hz for item in heard),
        channels=_counts(item.sound.channels for item in heard),
        seconds=(lengths[0], statistics.median(lengths), lengths[-1]) if lengths else None,
        sessions=tuple(_text(name) for name in known_sessions(_train(listing.clips))),
        findings=tuple(sorted(findings, key=lambda finding: order.index(finding.severity))),
    )


def measure(path: Path) -> Measured:
    """Read one file, in blocks.

    Raises:
        SourceError: it cannot be read, or is empty, or cut short.
    """
    found = open_recording(path)
    digest = hashlib.sha256(found.channels.to_bytes(4, "little"))
    total, power = np.zeros(found.channels), np.zeros(found.channels)
    full_scale = np.zeros(found.channels, dtype=np.int64)
    finite, frames = True, 0
    try:
        with open_sound(path) as file:
            # A file with many channels is no larger in memory than one with few.
            size = max(1, 2**18 // found.channels)
            for block in file.blocks(blocksize=size, dtype="float32", always_2d=True):
                frames += len(block)
                digest.update(np.ascontiguousarray(block).data)
                if not np.isfinite(block).all():
                    finite = False
                    continue
                total += block.sum(axis=0, dtype=np.float64)
                power += np.square(block, dtype=np.float64).sum(axis=0)
                full_scale += np.count_nonzero(np.abs(block) >= _FULL_SCALE, axis=0)
    except (soundfile.SoundFileError, OSError) as error:
        raise SourceError("bad_format", f"{path}: cannot be read: {error}") from error
    if frames < found.frames:
        raise SourceError(
            "bad_format",
            f"{path}: truncated: expected {found.frames} samples, got {frames}",
        )
    loudest = float(power.max()) / frames
    return Measured(
        seconds=found.seconds,
        sample_rate_hz=found.sample_rate_hz,
        channels=found.channels,
        sha256=digest.hexdigest(),
        level_dbfs=10 * math.log10(loudest) if loudest > 0 else -math.inf,
        full_scale_share=int(full_scale.max()) / frames,
        dc_offset=float(np.abs(total).max()) / frames,
        finite=finite,
    )


def lines(report: Report) -> list[str]:
    """The report for people, at most 79 columns wide where names allow it."""
    return [*_head(report), "", *_table(report), "", *_findings(report.findings)]


def write_json(report: Report, path: Path) -> None:
    """Write a report for programs, in place of what is there.

    Raises:
        DestinationError: it cannot be written.
    """
    try:
        path.write_bytes(msgspec.json.format(msgspec.json.encode(report), indent=2) + b"\n")
    except OSError as error:
        raise DestinationError(f"{path}: cannot be written: {error.strerror}") from error


def _measure_all(clips: Sequence[Clip], progress: Progress) -> Iterator[Measured | str]:
    """Each clip's sound, or why there is none, in the same order."""

    def attempt(clip: Clip) -> Measured | str:
        try:
            return measure(clip.path)
        except SourceError as error:
            return str(error).removeprefix(f"{clip.path}: ")
        except Exception as error:
            # Whatever a broken file does to the decoder, the other 2999 are to be read.
            return f"cannot be read: {type(error).__name__}: {error}"

    # Threads: reading, hashing and NumPy all let go of the interpreter.
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        try:
            yield from progress(pool.map(attempt, clips), "reading", total=len(clips))
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _of_names(listing: Listing) -> Iterator[Finding]:
    if listing.unnamed:
        yield Finding(
            severity="problem",
            kind="unnamed",
            text=f"{_files(listing.unnamed)} not named as this layout asks; expected"
            f" {expected_name(listing.layout)}",
            files=_below(listing.folder, listing.unnamed),
        )
    train = _train(listing.clips)
    anomalies = [clip.path for clip in train if clip.label == "anomaly"]
    if anomalies:
        yield Finding(
            severity="problem",
            kind="anomalies_in_train",
            text=f"{_files(anomalies)} of anomalies among the training data; training on them"
            " would teach that faults are normal",
            files=_below(listing.folder, anomalies),
        )
    if len(train) == len(anomalies):
        yield Finding(
            severity="problem", kind="no_normals", text="no normal recordings to train on"
        )
    unlabelled = [clip.path for clip in listing.clips if clip.label is None]
    if unlabelled:
        yield Finding(
            severity="info",
            kind="unlabelled",
            text=f"{_files(unlabelled)} to test with say neither normal nor anomaly and are of no"
            " use, unless eval_data_list_20YY.csv lies beside them and names them",
            files=_below(listing.folder, unlabelled),
        )
    if listing.supplemental:
        yield Finding(
            severity="info",
            kind="supplemental",
            text=f"{listing.supplemental} recordings in supplemental/ are not used",
        )


def _of_files(listing: Listing, unreadable: Sequence[tuple[Clip, str]]) -> Iterator[Finding]:
    by_kind: defaultdict[str, list[tuple[Path, str]]] = defaultdict(list)
    for clip, reason in unreadable:
        # "truncated: 17 bytes ..." and "truncated: 18 bytes ..." are one finding.
        by_kind[reason.partition(":")[0]].append((clip.path, reason))
    for kind, found in sorted(by_kind.items()):
        example = found[0][1] if len(found) == 1 else f"{found[0][1]}, and the like"
        yield Finding(
            severity="problem",
            kind="truncated" if kind == "truncated" else "unreadable",
            text=f"{_files(found)} unusable: {_text(example)}",
            files=_below(listing.folder, [path for path, _ in found]),
        )


def _of_sound(
    listing: Listing, heard: Sequence[_Heard], window_seconds: float
) -> Iterator[Finding]:
    def those(condition: Callable[[_Heard], bool]) -> list[Path]:
        return [item.clip.path for item in heard if condition(item)]

    median = statistics.median(item.sound.seconds for item in heard) if heard else 0.0
    silent_train = those(lambda item: _is_silent(item.sound) and item.clip.split == "train")
    silent_test = those(lambda item: _is_silent(item.sound) and item.clip.split == "test")
    too_short = those(lambda item: item.sound.seconds < window_seconds)
    table: list[tuple[Severity, str, list[Path], str]] = [
        (
            "problem",
            "not_finite",
            those(lambda item: not item.sound.finite),
            "NaN or infinity among the samples",
        ),
        (
            "problem",
            "silent",
            silent_train,
            f"silent (below {_SILENT_DBFS:g} dBFS), to train on: a dead microphone would be normal",
        ),
        ("warning", "silent", silent_test, f"silent (below {_SILENT_DBFS:g} dBFS), to test with"),
        (
            "warning",
            "clipped",
            those(lambda item: item.sound.full_scale_share > _CLIPPED_SHARE),
            f"clipped: more than {_CLIPPED_SHARE:.1%} of the samples are at full scale; record"
            " with less gain",
        ),
        (
            "warning",
            "dc_offset",
            those(lambda item: item.sound.dc_offset > _DC_OFFSET and not _is_silent(item.sound)),
            f"with a DC offset above {_DC_OFFSET:.0%} of full scale, which counts as level",
        ),
        (
            "warning",
            "short",
            too_short,
            f"shorter than one window of {window_seconds:g} s; a training leaves them out",
        ),
        (
            "warning",
            "shorter_than_most",
            those(lambda item: window_seconds <= item.sound.seconds < _SHORT_SHARE * median),
            f"less than half as long as the median of {median:.3g} s: broken off?",
        ),
    ]
    for severity, kind, paths, text in table:
        if paths:
            yield Finding(
                severity=severity,
                kind=kind,
                text=f"{_files(paths)} {text}",
                files=_below(listing.folder, paths),
            )
    usable = [item for item in heard if item.sound.seconds >= window_seconds]
    if any(_is_train(item.clip) for item in heard) and not any(
        _is_train(item.clip) for item in usable
    ):
        yield Finding(
            severity="problem",
            kind="no_windows",
            text=f"no recording to train on is as long as one window of {window_seconds:g} s",
        )


def _of_formats(listing: Listing, heard: Sequence[_Heard]) -> Iterator[Finding]:
    wanted_hz = FeatureParams().sample_rate_hz
    rates = _counts(item.sound.sample_rate_hz for item in heard)
    train_rates = _counts(item.sound.sample_rate_hz for item in heard if _is_train(item.clip))
    if len(rates) > 1:
        in_train = len(train_rates) > 1
        mixed = train_rates if in_train else rates
        usual = max(mixed, key=lambda rate: mixed[rate])
        odd = [item.clip.path for item in heard if item.sound.sample_rate_hz != usual]
        where = "among the training data" if in_train else "between training and tests"
        yield Finding(
            severity="problem" if in_train else "warning",
            kind="mixed_sample_rates",
            text=f"mixed sample rates {where} ({_tally(mixed, ' Hz')}): what a resampled file lacks"
            " at the top is heard as a property of the machine",
            files=_below(listing.folder, odd),
        )
    low = [item.clip.path for item in heard if item.sound.sample_rate_hz < wanted_hz]
    if low:
        yield Finding(
            severity="warning",
            kind="low_sample_rate",
            text=f"{_files(low)} below {wanted_hz} Hz: the upper bands that a node hears are empty"
            " in them",
            files=_below(listing.folder, low),
        )
    elif len(rates) == 1 and wanted_hz not in rates:
        yield Finding(
            severity="info",
            kind="resampled",
            text=f"a training resamples all files to {wanted_hz} Hz, as a node does its sound",
        )
    channels = _counts(item.sound.channels for item in heard)
    if len(channels) > 1:
        usual = max(channels, key=lambda count: channels[count])
        odd = [item.clip.path for item in heard if item.sound.channels != usual]
        yield Finding(
            severity="warning",
            kind="mixed_channels",
            text=f"mixed numbers of channels ({_tally(channels, '')}): the mean of several"
            " microphones does not sound like one",
            files=_below(listing.folder, odd),
        )
    elif channels and set(channels) != {1}:
        yield Finding(
            severity="info",
            kind="channels",
            text=f"all files have {max(channels)} channels; a training takes their mean, as a node"
            " does unless told to hear one channel",
        )


def _of_copies(listing: Listing, heard: Sequence[_Heard]) -> Iterator[Finding]:
    same: defaultdict[str, list[Clip]] = defaultdict(list)
    for item in heard:
        if not _is_silent(item.sound):  # all silence is alike, and has a finding of its own
            same[item.sound.sha256].append(item.clip)
    kinds: dict[str, list[list[Clip]]] = {"leaked": [], "contradictory": [], "duplicates": []}
    for clips in same.values():
        if len(clips) < 2:
            continue
        if len({clip.split for clip in clips}) > 1:
            kinds["leaked"].append(clips)
        elif len({clip.label for clip in clips} - {None}) > 1:
            kinds["contradictory"].append(clips)
        else:
            kinds["duplicates"].append(clips)
    texts: dict[str, tuple[Severity, str]] = {
        "leaked": ("problem", "both to train on and to test with; the tests would prove nothing"),
        "contradictory": ("problem", "called normal in one file and an anomaly in another"),
        "duplicates": ("warning", "in several files, which then count more than once"),
    }
    for kind, groups in kinds.items():
        if groups:
            severity, text = texts[kind]
            copies = tuple(
                _below(listing.folder, [clip.path for clip in clips]) for clips in groups
            )
            sounds = "the same sound is" if len(groups) == 1 else f"{len(groups)} sounds are"
            yield Finding(
                severity=severity,
                kind=kind,
                text=f"{sounds} {text}",
                files=tuple(name for names in copies for name in names),
                copies=copies,
            )


def _of_sessions(listing: Listing) -> Iterator[Finding]:
    train = [clip for clip in listing.clips if _is_train(clip) and clip.label == "normal"]
    tests = [clip for clip in listing.clips if clip.split == "test" and clip.label == "normal"]
    if not train:
        return
    # What the reader itself keeps out of normal/ was recorded like the rest.
    divided = listing.layout == "folders" and not (listing.folder / "train").is_dir()
    trained, tested = known_sessions(train), known_sessions(tests)
    sessions = sorted({*trained, *tested}) if divided else trained
    why = (
        "A threshold from one or two sessions flags nearly all sound of a new session, since days,"
        " places and loads differ more than the recordings of one go"
    )
    if not sessions:
        yield Finding(
            severity="warning",
            kind="sessions_unknown",
            text="names do not say which normal recordings were made in one go, so nothing is known"
            f" of how one session differs from the next. {why}",
        )
    elif len(sessions) < FEW_SESSIONS:
        yield Finding(
            severity="warning",
            kind="few_sessions",
            text=f"{_number(sessions, 'session')} of normal sound, at least {FEW_SESSIONS} wanted."
            f" {why}",
        )
    shared = [name for name in trained if name in tested]
    if shared and listing.layout == "folders":
        yield Finding(
            severity="warning",
            kind="shared_sessions",
            text=f"{_number(shared, 'session')} of normal sound both to train on and to test with,"
            f" such as {_text(shared[0])}: figures will be better than those of a new session",
        )
    if divided and tests:
        part = (
            "fifth of the sessions" if len(sessions) >= FEW_SESSIONS else "quarter of each session"
        )
        yield Finding(
            severity="info",
            kind="held_out",
            text=f"{_files(tests)} of normal/ kept out of the training, to test with: the last"
            f" {part}",
        )


def _of_tests(listing: Listing) -> Iterator[Finding]:
    labelled = [c for c in listing.clips if c.split == "test" and c.label is not None]
    counts = Counter(clip.label for clip in labelled)
    if not labelled:
        yield Finding(
            severity="warning",
            kind="no_tests",
            text="no labelled recordings to test with, so nothing will be known of faults",
        )
        return
    for label in ("normal", "anomaly"):
        if not counts[label]:
            yield Finding(
                severity="warning",
                kind="one_sided_tests",
                text=f"no {label} recordings to test with, so there will be no AUC",
            )
    share = min(counts.values()) / len(labelled)
    if len(counts) > 1:
        yield Finding(
            severity="warning" if share < _RARE_SHARE else "info",
            kind="class_balance",
            text=f"{counts['anomaly'] / len(labelled):.0%} of the test recordings are anomalies"
            f" ({counts['normal']} normal, {counts['anomaly']} anomalous)"
            + ("; F1 says little, go by the AUC" if share < _RARE_SHARE else ""),
        )
    groups = Counter((clip.section, clip.domain, clip.label) for clip in labelled)
    few = [
        f"section {section} {domain} {label} {count}"
        for (section, domain, label), count in sorted(groups.items())
        if count < _FEW_CLIPS
    ]
    if few:
        yield Finding(
            severity="warning",
            kind="few_test_clips",
            text=f"fewer than {_FEW_CLIPS} test recordings of a kind, so the AUC's confidence"
            f" interval is wide: {', '.join(few[:6])}" + (", ..." if len(few) > 6 else ""),
        )
    trained = {clip.section for clip in _train(listing.clips)}
    untrained = sorted({clip.section for clip in labelled} - trained)
    if untrained and trained:
        yield Finding(
            severity="warning",
            kind="untrained_sections",
            text=f"tested but not trained on: section {', '.join(untrained)}",
        )


def _groups(heard: Sequence[_Heard], window_seconds: float) -> tuple[Group, ...]:
    members: defaultdict[tuple[Split, str, Domain, Label | None], list[float]] = defaultdict(list)
    for item in heard:
        clip = item.clip
        members[clip.split, clip.section, clip.domain, clip.label].append(item.sound.seconds)
    order: list[Label | None] = ["normal", "anomaly", None]
    return tuple(
        Group(
            split=split,
            section=section,
            domain=domain,
            label=label,
            files=len(seconds),
            seconds=math.fsum(seconds),
            windows=sum(int(length / window_seconds) for length in seconds),
        )
        for (split, section, domain, label), seconds in sorted(
            members.items(),
            key=lambda item: (item[0][0] != "train", *item[0][1:3], order.index(item[0][3])),
        )
    )


def _head(report: Report) -> list[str]:
    sessions = "not known"
    if report.sessions:
        shown = ", ".join(report.sessions[:3]) + (", ..." if len(report.sessions) > 3 else "")
        sessions = f"{len(report.sessions)} to train on: {shown}"
    rows = [
        ("machine", f"{report.machine} in {report.folder}"),
        ("layout", report.layout),
        ("rate", _tally(report.sample_rates_hz, " Hz") or "-"),
        ("channels", _tally(report.channels, "") or "-"),
        (
            "length",
            "-"
            if report.seconds is None
            else "{:.4g} s shortest, {:.4g} s median, {:.4g} s longest".format(*report.seconds),
        ),
        ("sessions", sessions),
    ]
    return [line for what, text in rows for line in _wrapped(f"{what:<10} ", text)]


def _table(report: Report) -> list[str]:
    form = "{:<7}{:<9}{:<8}{:<9}{:>8}{:>11}{:>13}"
    rows = [
        form.format(
            "split", "section", "domain", "label", "files", "seconds",
            f"{report.window_seconds:g} s windows",
        )
    ]  # fmt: skip
    rows += [
        form.format(
            group.split,
            group.section,
            group.domain,
            group.label or "-",
            group.files,
            f"{group.seconds:.1f}",
            group.windows,
        )
        for group in report.groups
    ]
    return rows


def _findings(findings: Sequence[Finding]) -> list[str]:
    rows: list[str] = []
    for finding in findings:
        rows += _wrapped(f"{finding.severity:<10} ", finding.text)
        if finding.severity == "info":
            continue
        named = finding.copies or tuple((name,) for name in finding.files)
        for first, *others in named[:_SHOWN_FILES]:
            rows += [f"{'':<13}{first}", *(f"{'':<11}= {name}" for name in others[:_SHOWN_FILES])]
        if len(named) > _SHOWN_FILES:
            rows.append(f"{'':<13}and {len(named) - _SHOWN_FILES} more")
    counts = Counter(finding.severity for finding in findings)
    rows.append(f"problems: {counts['problem']}, warnings: {counts['warning']}")
    return rows


def _wrapped(first: str, text: str) -> list[str]:
    return textwrap.wrap(
        text,
        _WIDTH,
        initial_indent=first,
        subsequent_indent=" " * len(first),
        break_long_words=False,
        break_on_hyphens=False,
    )


def _train(clips: Iterable[Clip]) -> list[Clip]:
    return [clip for clip in clips if _is_train(clip)]


def _is_train(clip: Clip) -> bool:
    return clip.split == "train"


def _is_silent(sound: Measured) -> bool:
    return sound.finite and sound.level_dbfs < _SILENT_DBFS


def _counts(values: Iterable[int]) -> dict[int, int]:
    return dict(sorted(Counter(values).items()))


def _tally(counts: Mapping[int, int], unit: str) -> str:
    """Such as "16000 Hz", or "16000 Hz in 3 files, 44100 Hz in 1"."""
    if len(counts) == 1:
        return f"{next(iter(counts))}{unit}"
    return ", ".join(f"{value}{unit} in {_files(range(count))}" for value, count in counts.items())


def _files(items: Sequence[object]) -> str:
    return _number(items, "file")


def _number(items: Sequence[object], what: str) -> str:
    return f"{len(items)} {what}{'' if len(items) == 1 else 's'}"


def _below(folder: Path, paths: Iterable[Path]) -> tuple[str, ...]:
    return tuple(_text(path.relative_to(folder).as_posix()) for path in paths)


def _text(name: str) -> str:
    """A name that can be printed: bytes that are no UTF-8, and control characters, are escaped."""
    text = name.encode("utf-8", "backslashreplace").decode()
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
