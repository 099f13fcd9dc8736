"""`python -m node`: run, devices, score."""

import os

# Before NumPy is loaded: a window's matrices are too small for a pool of threads to pay, and on a
# Pi that pool takes memory and time from everything else.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")

import argparse
import logging
import signal
import sys
import threading
from pathlib import Path

from contract.errors import EXIT_BAD_INPUT, EarshotError

EXIT_ANOMALY = 3
EXIT_INTERRUPTED = 130


def main(arguments: list[str] | None = None) -> int:
    """Parse the command line, run the command, and give the exit code."""
    options = _parser().parse_args(arguments)
    logging.basicConfig(
        level=logging.DEBUG if options.verbose else logging.INFO,
        format="%(asctime)s %(levelname)s %(name)s: %(message)s",
        stream=sys.stderr,
    )
    try:
        return int(options.command(options))
    except EarshotError as error:
        # A file's name may hold a line break; what went wrong stays one line.
        print(f"earshot node: {' '.join(str(error).split())}", file=sys.stderr)
        return EXIT_BAD_INPUT
    except KeyboardInterrupt:
        print("earshot node: interrupted; what was not delivered is lost", file=sys.stderr)
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        # The reader of our output has gone (`... | head`); nothing is wrong, nobody to tell.
        sys.stderr.close()
        return 0


def _run(options: argparse.Namespace) -> int:
    from node import service
    from node.release_store import read_release
    from node.runtime import find_runtime
    from node.settings import load_settings
    from node.sources.choose import choose_source

    given = {
        "EARSHOT_SOURCE_SPEC": options.source,
        "EARSHOT_SOURCE_FAST": "true" if options.fast else None,
        "EARSHOT_MODEL_FOLDER": options.model,
        "EARSHOT_NODE_ID": options.id,
    }
    overrides = {name: value for name, value in given.items() if value is not None}
    settings = load_settings(options.config, overrides)
    release = read_release(Path(settings.model.folder))
    source = choose_source(
        settings.source.spec,
        channel=settings.source.channel,
        fast=settings.source.fast,
        model_rate_hz=release.manifest.features.sample_rate_hz,
    )
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    signal.signal(signal.SIGINT, lambda *_: _interrupted(stop))
    totals = service.run(settings, source, release, find_runtime(), stop)
    logging.getLogger(__name__).info(
        "%d windows, %d flagged, %d unscored, %d discarded",
        totals.windows,
        totals.flagged,
        totals.unscored,
        totals.discarded,
    )
    return 0


def _interrupted(stop: threading.Event) -> None:
    """The first Ctrl-C ends the node in good order, the second one at once."""
    if stop.is_set():
        raise KeyboardInterrupt
    stop.set()


def _devices(options: argparse.Namespace) -> int:
    from node.sources.microphone import list_microphones

    microphones = list_microphones()
    if not microphones:
        print("No microphone is plugged in (or none that may be opened: see `arecord -l`).")
        return 1
    for microphone in microphones:
        default = ", the default" if microphone.is_default else ""
        print(f"microphone:{microphone.key}")
        print(
            f"    {microphone.name} ({microphone.host_api}{default}):"
            f" {microphone.max_input_channels} channels at {microphone.default_sample_rate_hz} Hz"
        )
        for alias in microphone.aliases:
            print(f"    also microphone:{alias}")
    return 0


def _score(options: argparse.Namespace) -> int:
    from node.release_store import read_release
    from node.runtime import find_runtime
    from node.score import score_path, write
    from node.sources.errors import SourceError

    release = read_release(Path(options.model))
    windows = score_path(options.path, release, find_runtime(), channel=options.channel)
    scored, flagged = write(windows, release.manifest, options.format, sys.stdout)
    if not scored:
        raise SourceError("no_sound", f"{options.path}: no window could be scored")
    return EXIT_ANOMALY if flagged and options.fail_on_anomaly else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m node", description="An earshot sensor node.")
    parser.add_argument("--verbose", action="store_true", help="log what usually goes unsaid")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    run = commands.add_parser("run", help="hear, score and publish until stopped")
    run.add_argument("--config", type=Path, metavar="FILE", help="settings (TOML)")
    run.add_argument("--source", metavar="SPEC", help="microphone:KEY, synthetic:..., or a path")
    run.add_argument("--fast", action="store_true", help="recordings faster than real time")
    run.add_argument("--model", metavar="DIR", help="release folder")
    run.add_argument("--id", metavar="NODE", help="the node's id")
    run.set_defaults(command=_run)

    devices = commands.add_parser("devices", help="list microphones by stable identity")
    devices.set_defaults(command=_devices)

    score = commands.add_parser("score", help="score recordings offline")
    score.add_argument("path", type=Path, help="a sound file, or a folder of them")
    score.add_argument("--model", required=True, metavar="DIR", help="release folder")
    score.add_argument("--format", choices=("table", "json", "csv"), default="table")
    score.add_argument("--channel", type=int, metavar="N", help="one channel, from 0 (else: mix)")
    score.add_argument(
        "--fail-on-anomaly",
        action="store_true",
        help=f"exit with {EXIT_ANOMALY} when a window is above the threshold",
    )
    score.set_defaults(command=_score)
    return parser


if __name__ == "__main__":
    sys.exit(main())
