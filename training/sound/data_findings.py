"""What is to be known of a data set before it is trained on, from its names and its sound.

Nothing is read here: values in, findings out.
"""

import statistics
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Literal

import msgspec

from contract.feature_params import FeatureParams
from training.sound.dataset import (
    FEW_SESSIONS,
    Clip,
    Listing,
    expected_name,
    known_sessions,
)
from training.sound.measured import Measured

Severity = Literal["problem", "warning", "info"]

_CLIPPED_SHARE = 0.001
_SILENT_DBFS = -100.0
"""A level below the noise of any microphone."""

_DC_OFFSET = 0.01
"""Share of full scale: -40 dBFS, which is louder than many a machine."""

_SHORT_SHARE = 0.5
"""Share of the median length: copies break off anywhere, recorders stop within a second."""

_FEW_CLIPS = 20
_RARE_SHARE = 0.1


class DataFinding(msgspec.Struct, frozen=True, kw_only=True):
    """One thing to know of a data set."""

    severity: Severity
    """A problem: training on this data set would be a mistake."""
    kind: str
    """A word for programs, such as "clipped"."""
    text: str
    files: tuple[str, ...] = ()
    """All files that it is about, by their paths below the machine's folder."""
    copies: tuple[tuple[str, ...], ...] = ()
    """Groups of files that hold the same sound; empty unless the finding is about copies."""


class ReadClip(msgspec.Struct, frozen=True):
    """A clip that could be read."""

    clip: Clip
    sound: Measured


def find_all(
    listing: Listing,
    read: Sequence[ReadClip],
    unreadable: Sequence[tuple[Clip, str]],
    *,
    window_seconds: float,
) -> list[DataFinding]:
    """Find everything, and give the problems first.

    Args:
        listing: of the machine's folder.
        read: clips that could be read.
        unreadable: those that could not, each with the reason.
        window_seconds: length of what a node scores.
    """
    findings = [
        *_of_names(listing),
        *_of_files(listing, unreadable),
        *_of_sound(listing, read, window_seconds),
        *_of_formats(listing, read),
        *_of_copies(listing, read),
        *_of_sessions(listing),
        *_of_tests(listing),
    ]
    order: list[Severity] = ["problem", "warning", "info"]
    return sorted(findings, key=lambda finding: order.index(finding.severity))


def _of_names(listing: Listing) -> Iterator[DataFinding]:
    if listing.unnamed:
        yield DataFinding(
            severity="problem",
            kind="unnamed",
            text=f"{_files(listing.unnamed)} not named as this layout asks; expected"
            f" {expected_name(listing.layout)}",
            files=_below(listing.folder, listing.unnamed),
        )
    train = training_clips(listing.clips)
    anomalies = [clip.path for clip in train if clip.label == "anomaly"]
    if anomalies:
        yield DataFinding(
            severity="problem",
            kind="anomalies_in_train",
            text=f"{_files(anomalies)} of anomalies among the training data; training on them"
            " would teach that faults are normal",
            files=_below(listing.folder, anomalies),
        )
    if len(train) == len(anomalies):
        yield DataFinding(
            severity="problem", kind="no_normals", text="no normal recordings to train on"
        )
    unlabelled = [clip.path for clip in listing.clips if clip.label is None]
    if unlabelled:
        yield DataFinding(
            severity="info",
            kind="unlabelled",
            text=f"{_files(unlabelled)} to test with say neither normal nor anomaly and are of no"
            " use, unless eval_data_list_20YY.csv lies beside them and names them",
            files=_below(listing.folder, unlabelled),
        )
    if listing.supplemental:
        yield DataFinding(
            severity="info",
            kind="supplemental",
            text=f"{listing.supplemental} recordings in supplemental/ are not used",
        )


def _of_files(listing: Listing, unreadable: Sequence[tuple[Clip, str]]) -> Iterator[DataFinding]:
    by_kind: defaultdict[str, list[tuple[Path, str]]] = defaultdict(list)
    for clip, reason in unreadable:
        # "truncated: 17 bytes ..." and "truncated: 18 bytes ..." are one finding.
        by_kind[reason.partition(":")[0]].append((clip.path, reason))
    for kind, found in sorted(by_kind.items()):
        example = found[0][1] if len(found) == 1 else f"{found[0][1]}, and the like"
        yield DataFinding(
            severity="problem",
            kind="truncated" if kind == "truncated" else "unreadable",
            text=f"{_files(found)} unusable: {printable_name(example)}",
            files=_below(listing.folder, [path for path, _ in found]),
        )


def _of_sound(
    listing: Listing, heard: Sequence[ReadClip], window_seconds: float
) -> Iterator[DataFinding]:
    def those(condition: Callable[[ReadClip], bool]) -> list[Path]:
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
            yield DataFinding(
                severity=severity,
                kind=kind,
                text=f"{_files(paths)} {text}",
                files=_below(listing.folder, paths),
            )
    usable = [item for item in heard if item.sound.seconds >= window_seconds]
    if any(_is_train(item.clip) for item in heard) and not any(
        _is_train(item.clip) for item in usable
    ):
        yield DataFinding(
            severity="problem",
            kind="no_windows",
            text=f"no recording to train on is as long as one window of {window_seconds:g} s",
        )


def _of_formats(listing: Listing, heard: Sequence[ReadClip]) -> Iterator[DataFinding]:
    wanted_hz = FeatureParams().sample_rate_hz
    rates = counted(item.sound.sample_rate_hz for item in heard)
    train_rates = counted(item.sound.sample_rate_hz for item in heard if _is_train(item.clip))
    if len(rates) > 1:
        in_train = len(train_rates) > 1
        mixed = train_rates if in_train else rates
        usual = max(mixed, key=lambda rate: mixed[rate])
        odd = [item.clip.path for item in heard if item.sound.sample_rate_hz != usual]
        where = "among the training data" if in_train else "between training and tests"
        yield DataFinding(
            severity="problem" if in_train else "warning",
            kind="mixed_sample_rates",
            text=f"mixed sample rates {where} ({value_counts(mixed, ' Hz')}): what a resampled file"
            " lacks at the top is heard as a property of the machine",
            files=_below(listing.folder, odd),
        )
    low = [item.clip.path for item in heard if item.sound.sample_rate_hz < wanted_hz]
    if low:
        yield DataFinding(
            severity="warning",
            kind="low_sample_rate",
            text=f"{_files(low)} below {wanted_hz} Hz: the upper bands that a node hears are empty"
            " in them",
            files=_below(listing.folder, low),
        )
    elif len(rates) == 1 and wanted_hz not in rates:
        yield DataFinding(
            severity="info",
            kind="resampled",
            text=f"a training resamples all files to {wanted_hz} Hz, as a node does its sound",
        )
    channels = counted(item.sound.channels for item in heard)
    if len(channels) > 1:
        usual = max(channels, key=lambda count: channels[count])
        odd = [item.clip.path for item in heard if item.sound.channels != usual]
        yield DataFinding(
            severity="warning",
            kind="mixed_channels",
            text=f"mixed numbers of channels ({value_counts(channels, '')}): the mean of several"
            " microphones does not sound like one",
            files=_below(listing.folder, odd),
        )
    elif channels and set(channels) != {1}:
        yield DataFinding(
            severity="info",
            kind="channels",
            text=f"all files have {max(channels)} channels; a training takes their mean, as a node"
            " does unless told to hear one channel",
        )


def _of_copies(listing: Listing, heard: Sequence[ReadClip]) -> Iterator[DataFinding]:
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
            yield DataFinding(
                severity=severity,
                kind=kind,
                text=f"{sounds} {text}",
                files=tuple(name for names in copies for name in names),
                copies=copies,
            )


def _of_sessions(listing: Listing) -> Iterator[DataFinding]:
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
        yield DataFinding(
            severity="warning",
            kind="sessions_unknown",
            text="names do not say which normal recordings were made in one go, so nothing is known"
            f" of how one session differs from the next. {why}",
        )
    elif len(sessions) < FEW_SESSIONS:
        yield DataFinding(
            severity="warning",
            kind="few_sessions",
            text=f"{_number(sessions, 'session')} of normal sound, at least {FEW_SESSIONS} wanted."
            f" {why}",
        )
    shared = [name for name in trained if name in tested]
    if shared and listing.layout == "folders":
        yield DataFinding(
            severity="warning",
            kind="shared_sessions",
            text=f"{_number(shared, 'session')} of normal sound both to train on and to test with,"
            f" such as {printable_name(shared[0])}: figures will be better than those of a new"
            " session",
        )
    if divided and tests:
        part = (
            "fifth of the sessions" if len(sessions) >= FEW_SESSIONS else "quarter of each session"
        )
        yield DataFinding(
            severity="info",
            kind="held_out",
            text=f"{_files(tests)} of normal/ kept out of the training, to test with: the last"
            f" {part}",
        )


def _of_tests(listing: Listing) -> Iterator[DataFinding]:
    labelled = [c for c in listing.clips if c.split == "test" and c.label is not None]
    counts = Counter(clip.label for clip in labelled)
    if not labelled:
        yield DataFinding(
            severity="warning",
            kind="no_tests",
            text="no labelled recordings to test with, so nothing will be known of faults",
        )
        return
    for label in ("normal", "anomaly"):
        if not counts[label]:
            yield DataFinding(
                severity="warning",
                kind="one_sided_tests",
                text=f"no {label} recordings to test with, so there will be no AUC",
            )
    share = min(counts.values()) / len(labelled)
    if len(counts) > 1:
        yield DataFinding(
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
        yield DataFinding(
            severity="warning",
            kind="few_test_clips",
            text=f"fewer than {_FEW_CLIPS} test recordings of a kind, so the AUC's confidence"
            f" interval is wide: {', '.join(few[:6])}" + (", ..." if len(few) > 6 else ""),
        )
    trained = {clip.section for clip in training_clips(listing.clips)}
    untrained = sorted({clip.section for clip in labelled} - trained)
    if untrained and trained:
        yield DataFinding(
            severity="warning",
            kind="untrained_sections",
            text=f"tested but not trained on: section {', '.join(untrained)}",
        )


def training_clips(clips: Iterable[Clip]) -> list[Clip]:
    """Those of the training split, whatever their label."""
    return [clip for clip in clips if _is_train(clip)]


def _is_train(clip: Clip) -> bool:
    return clip.split == "train"


def _is_silent(sound: Measured) -> bool:
    return sound.finite and sound.level_dbfs < _SILENT_DBFS


def counted(values: Iterable[int]) -> dict[int, int]:
    """How often each value occurs, the smallest first."""
    return dict(sorted(Counter(values).items()))


def value_counts(counts: Mapping[int, int], unit: str) -> str:
    """Such as "16000 Hz", or "16000 Hz in 3 files, 44100 Hz in 1"."""
    if len(counts) == 1:
        return f"{next(iter(counts))}{unit}"
    return ", ".join(f"{value}{unit} in {_files(range(count))}" for value, count in counts.items())


def _files(items: Sequence[object]) -> str:
    return _number(items, "file")


def _number(items: Sequence[object], what: str) -> str:
    return f"{len(items)} {what}{'' if len(items) == 1 else 's'}"


def _below(folder: Path, paths: Iterable[Path]) -> tuple[str, ...]:
    return tuple(printable_name(path.relative_to(folder).as_posix()) for path in paths)


def printable_name(name: str) -> str:
    """A name that can be printed: bytes that are no UTF-8, and control characters, are escaped."""
    text = name.encode("utf-8", "backslashreplace").decode()
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
