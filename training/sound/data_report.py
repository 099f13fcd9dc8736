"""What is wrong with a data set, and what to know of it, before a training takes hours.

Every recording is read once. Sound is measured as it is in the file: each channel by itself, at the
file's own rate; nothing is resampled or mixed.
"""

import math
import statistics
import textwrap
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path

import msgspec

from contract.feature_params import FeatureParams
from training.errors import DestinationError
from training.progress import Progress
from training.sound.data_findings import (
    DataFinding,
    ReadClip,
    counted,
    find_all,
    printable_name,
    training_clips,
    value_counts,
)
from training.sound.dataset import (
    Clip,
    Domain,
    Label,
    Layout,
    Split,
    known_sessions,
    list_recordings,
)
from training.sound.measured import measure_all
from training.terminal import table_rows

_SHOWN_FILES = 3
_WIDTH = 79


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


class DataReport(msgspec.Struct, frozen=True, kw_only=True):
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
    """Sessions of normal sound to train on."""
    findings: tuple[DataFinding, ...]
    """All findings, problems first."""

    @property
    def problems(self) -> int:
        """How many findings are problems."""
        return sum(finding.severity == "problem" for finding in self.findings)


def report_on(folder: Path, machine: str | None = None, *, progress: Progress) -> DataReport:
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
    heard: list[ReadClip] = []
    unreadable: list[tuple[Clip, str]] = []
    for clip, sound in zip(listing.clips, measure_all(listing.clips, progress), strict=True):
        if isinstance(sound, str):
            unreadable.append((clip, sound))
        else:
            heard.append(ReadClip(clip, sound))
    lengths = sorted(item.sound.seconds for item in heard)
    return DataReport(
        machine=printable_name(listing.machine),
        folder=printable_name(str(listing.folder)),
        layout=listing.layout,
        window_seconds=window_seconds,
        groups=_groups(heard, window_seconds),
        sample_rates_hz=counted(item.sound.sample_rate_hz for item in heard),
        channels=counted(item.sound.channels for item in heard),
        seconds=(lengths[0], statistics.median(lengths), lengths[-1]) if lengths else None,
        sessions=tuple(
            printable_name(name) for name in known_sessions(training_clips(listing.clips))
        ),
        findings=tuple(find_all(listing, heard, unreadable, window_seconds=window_seconds)),
    )


def lines(report: DataReport) -> list[str]:
    """The report for people, at most 79 columns wide where names allow it."""
    return [*_head(report), "", *_table(report), "", *_findings(report.findings)]


def write_json(report: DataReport, path: Path) -> None:
    """Write a report for programs, in place of what is there.

    Raises:
        DestinationError: it cannot be written.
    """
    try:
        path.write_bytes(msgspec.json.format(msgspec.json.encode(report), indent=2) + b"\n")
    except OSError as error:
        raise DestinationError(f"{path}: cannot be written: {error.strerror}") from error


def _groups(heard: Sequence[ReadClip], window_seconds: float) -> tuple[Group, ...]:
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


def _head(report: DataReport) -> list[str]:
    sessions = "not known"
    if report.sessions:
        shown = ", ".join(report.sessions[:3]) + (", ..." if len(report.sessions) > 3 else "")
        sessions = f"{len(report.sessions)} to train on: {shown}"
    rows = [
        ("machine", f"{report.machine} in {report.folder}"),
        ("layout", report.layout),
        ("rate", value_counts(report.sample_rates_hz, " Hz") or "-"),
        ("channels", value_counts(report.channels, "") or "-"),
        (
            "length",
            "-"
            if report.seconds is None
            else "{:.4g} s shortest, {:.4g} s median, {:.4g} s longest".format(*report.seconds),
        ),
        ("sessions", sessions),
    ]
    return [line for what, text in rows for line in _wrapped(f"{what:<10} ", text)]


def _table(report: DataReport) -> list[str]:
    return table_rows(
        (
            "split",
            "section",
            "domain",
            "label",
            "files",
            "seconds",
            f"{report.window_seconds:g} s windows",
        ),
        [
            (
                group.split,
                group.section,
                group.domain,
                group.label or "-",
                str(group.files),
                f"{group.seconds:.1f}",
                str(group.windows),
            )
            for group in report.groups
        ],
        words=4,
    )


def _findings(findings: Sequence[DataFinding]) -> list[str]:
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
