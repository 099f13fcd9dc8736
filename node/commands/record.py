"""`earshot node record`: gathers training data. SOUND IS WRITTEN TO DISK.

Files go to DIR/LABEL/SESSION/0000.wav, ..., the layout that `earshot training` reads. A session
is what was recorded in one go; five or more, on different days, make a model that travels. The
people in the room must be told before it starts.
"""

import argparse
import datetime as dt
import logging
import re
import shlex
import shutil
import signal
import sys
import threading
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from contract.command_line import add_settings_option, settings_file, typed
from contract.errors import EarshotError
from node.commands.node_arguments import SETTINGS_NAME

if TYPE_CHECKING:
    from node.settings import NodeSettings, SourceSection
    from node.sound.microphone import MicrophoneSource
    from node.sound.recorder import Recorded
    from node.sound.source import AudioSource, Block

SUMMARY = "write sound to disk, for training"

_NOTICE = """\
This writes the sound of this room to disk:
    {folder}
People who can be heard there must have been told, before it starts: what is recorded, for how long
({duration}), for what (to train a model of the machine), and whom to ask to delete it.
Nothing is sent anywhere. Delete what nobody needs any more."""
_SESSION = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_RESERVE_BYTES = 100_000_000
"""What else writes to that disk needs some room, too."""

logger = logging.getLogger(__name__)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options to the command's parser."""
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="the data set")
    parser.add_argument("--label", required=True, choices=("normal", "anomaly"))
    parser.add_argument("--minutes", type=_minutes, required=True, metavar="N")
    add_settings_option(parser, SETTINGS_NAME)
    parser.add_argument("--source", metavar="SPEC", help="microphone:KEY, synthetic:..., or a path")
    parser.add_argument("--channel", type=int, metavar="N", help="one channel, from 0 (else: mix)")
    parser.add_argument("--session", type=_session, metavar="NAME", help="default: the time now")
    parser.add_argument(
        "--file-seconds", type=_file_seconds, default=10, metavar="N", help="2 to 60; default 10"
    )
    parser.add_argument("--fast", action="store_true", help="recordings faster than real time")
    parser.add_argument("--yes", action="store_true", help="the people in the room have been told")


def run(options: argparse.Namespace) -> int:
    """Record, after the person at the keyboard has confirmed that the room knows."""
    from contract.feature_params import FeatureParams
    from node.checks.sound_checks import settings_source
    from node.settings import load_settings
    from node.sound.recorder import RecordError, planned_seconds

    config = settings_file(options.config, SETTINGS_NAME)
    settings = None if config is None else load_settings(config, {})
    source = settings_source(
        _section(options, settings),
        model_rate_hz=FeatureParams().sample_rate_hz,
        fast=options.fast,
    )
    session = options.session or f"{dt.datetime.now().astimezone():%Y-%m-%d-%H%M%S}"
    folder: Path = options.out / options.label / session
    if folder.exists():
        raise RecordError(f"{folder} is there already: choose another --session")
    lengths = planned_seconds(options.minutes, options.file_seconds)
    _get_consent(folder, sum(lengths), confirmed=options.yes)
    stop = threading.Event()
    handlers = {
        number: signal.signal(number, lambda *_: _interrupted(stop))
        for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        recorded = _record(options, settings, source, folder, stop, lengths=lengths)
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    _tell(recorded, folder, options.out, planned=len(lengths))
    if recorded.fault is not None:
        raise recorded.fault
    if not recorded.files:
        raise RecordError(
            f"No file of {options.file_seconds} s became whole: nothing was kept;"
            " record for longer, or choose smaller --file-seconds"
        )
    return 0


def _record(
    options: argparse.Namespace,
    settings: "NodeSettings | None",
    source: "AudioSource | MicrophoneSource",
    folder: Path,
    stop: threading.Event,
    *,
    lengths: Sequence[int],
) -> "Recorded":
    from node.sound.level_meter import LevelMeter
    from node.sound.recorder import FACTS_NAME, record, write_facts

    meter = LevelMeter(sys.stderr) if sys.stderr.isatty() else None
    total_seconds = sum(lengths)

    def watch(block: "Block", rate_hz: int, seconds: float) -> None:
        if meter is not None:
            left_s = max(0, round(total_seconds - seconds))
            meter.hear(block, rate_hz, f"{left_s // 60}:{left_s % 60:02d}")

    with source:
        _check_space(options.out, lengths, rate_hz=source.sample_rate_hz)
        new = [p for p in (folder, folder.parent, options.out) if not p.exists()]
        _make(folder)
        facts = _facts(options, settings, source, folder.name)
        kept = 0
        try:
            # First of all, so that files of a recording that was killed say what they are.
            write_facts(folder, facts)
            logger.info("%s is recorded into %s", source.identity, folder)
            recorded = record(
                source,
                folder,
                lengths_seconds=lengths,
                stop=stop,
                watch=watch,
            )
            kept = recorded.files
            if kept:
                with suppress(EarshotError):  # on a full disk the first facts stay
                    write_facts(folder, facts | _outcome(recorded))
        finally:
            if meter is not None:
                meter.finish()
            if not kept and not any(folder.glob("*.wav")):
                (folder / FACTS_NAME).unlink(missing_ok=True)
                for made in new:
                    with suppress(OSError):
                        made.rmdir()
    return recorded


def _section(options: argparse.Namespace, settings: "NodeSettings | None") -> "SourceSection":
    """The source that the options name, else that of the settings."""
    from node.settings import SourceSection

    found = SourceSection() if settings is None else settings.source
    if options.source is not None:
        # The settings' channel is that of another source.
        found = SourceSection(spec=options.source)
    if options.channel is not None:
        found = SourceSection(spec=found.spec, channel=options.channel)
    return found


def _get_consent(folder: Path, seconds: int, *, confirmed: bool) -> None:
    from node.sound.recorder import RecordError

    print(_NOTICE.format(folder=folder.absolute(), duration=_duration(seconds)), flush=True)
    if confirmed:
        return
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise RecordError(
            "Expected a person to confirm that the people in the room have been told, got no"
            " terminal: say --yes if they have been"
        )
    with suppress(EOFError, KeyboardInterrupt):
        if input("Have they been told? Type yes: ").strip().lower() == "yes":
            return
    raise RecordError("Not confirmed: nothing was recorded")


def _check_space(out: Path, lengths: Sequence[int], *, rate_hz: int) -> None:
    from node.sound.recorder import RecordError, planned_bytes

    place = next(p for p in (out.absolute(), *out.absolute().parents) if p.is_dir())
    needed = planned_bytes(lengths, sample_rate_hz=rate_hz)
    free = shutil.disk_usage(place).free
    if needed + _RESERVE_BYTES > free:
        raise RecordError(
            f"{place}: expected {(needed + _RESERVE_BYTES) / 1e6:.0f} MB of free space"
            f" ({needed / 1e6:.0f} MB of sound, and some to spare), got {free / 1e6:.0f} MB: choose"
            " fewer --minutes or another --out"
        )


def _make(folder: Path) -> None:
    from node.sound.recorder import RecordError

    try:
        folder.mkdir(parents=True)
    except FileExistsError:
        raise RecordError(f"{folder} is there already: choose another --session") from None
    except OSError as error:
        raise RecordError(f"{folder}: cannot be made: {error.strerror}") from error


def _facts(
    options: argparse.Namespace,
    settings: "NodeSettings | None",
    source: "AudioSource | MicrophoneSource",
    session: str,
) -> dict[str, object]:
    """What somebody will want to know of the files in a year."""
    from contract import VERSION
    from node.board import board_name
    from node.delivery.clock import system_clock

    return {
        "schema": 1,
        "label": options.label,
        "session": session,
        "started": f"{dt.datetime.now(dt.UTC):%Y-%m-%dT%H:%M:%SZ}",
        "clock": system_clock(),
        "node": None if settings is None else settings.node.id,
        "source": source.identity,
        "channel": _section(options, settings).channel,
        "sample_rate_hz": source.sample_rate_hz,
        "sample_format": "pcm_24",
        "file_seconds": options.file_seconds,
        "board": board_name(),
        "software": f"earshot {VERSION}",
    }


def _outcome(recorded: "Recorded") -> dict[str, object]:
    assert recorded.level is not None
    return {
        "ended": f"{dt.datetime.now(dt.UTC):%Y-%m-%dT%H:%M:%SZ}",
        "ending": recorded.ending,
        "files": recorded.files,
        "seconds": recorded.seconds,
        "rms_dbfs": round(recorded.level.rms_dbfs, 2),
        "peak_dbfs": round(recorded.level.peak_dbfs, 2),
        "clipped": round(recorded.level.clipped, 6),
        "overruns": recorded.overruns,
        "discarded_seconds": recorded.discarded_seconds,
    }


def _tell(recorded: "Recorded", folder: Path, out: Path, *, planned: int) -> None:
    from node.findings import Grade, line
    from node.sound.levels import level_findings

    if recorded.level is None:
        return
    print(
        f"{folder}: {recorded.files} file{'' if recorded.files == 1 else 's'},"
        f" {recorded.seconds} s;"
        f" level {recorded.level.rms_dbfs:.1f} dBFS, peak {recorded.level.peak_dbfs:.1f} dBFS,"
        f" {recorded.level.clipped:.3%} clipped, {recorded.overruns} overruns"
    )
    if recorded.files < planned:
        print(f"{recorded.files} of {planned} files; {recorded.discarded_seconds:g} s in no file")
    for finding in level_findings(recorded.level):
        if finding.grade is not Grade.OK:
            print(line(finding))
    print(f"Next: {typed(f'training data {shlex.quote(str(out))}')}")


def _interrupted(stop: threading.Event) -> None:
    """The first Ctrl-C ends the recording in good order, the second one at once."""
    if stop.is_set():
        raise KeyboardInterrupt
    stop.set()


def _duration(seconds: int) -> str:
    minutes, rest = divmod(seconds, 60)
    if not rest:
        return f"{minutes} minute{'' if minutes == 1 else 's'}"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def _minutes(text: str) -> float:
    try:
        minutes = float(text)
    except ValueError:
        minutes = 0.0
    if not 0.04 <= minutes <= 1440.0:
        raise argparse.ArgumentTypeError(f"expected 0.04 (2 s) to 1440 (a day), got {text!r}")
    return minutes


def _session(text: str) -> str:
    if not _SESSION.fullmatch(text):
        raise argparse.ArgumentTypeError(
            f"expected up to 64 letters, digits, dots, hyphens and underscores, got {text[:80]!r}"
        )
    return text


def _file_seconds(text: str) -> int:
    if not (text.isascii() and text.isdecimal() and 2 <= int(text) <= 60):
        raise argparse.ArgumentTypeError(f"expected 2 to 60 (a window is 2 s long), got {text!r}")
    return int(text)
