"""`python -m node run`: hear, score and publish until stopped."""

import argparse
import logging
import signal
import threading
from pathlib import Path

SUMMARY = "hear, score and publish until stopped"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options."""
    parser.add_argument("--config", type=Path, metavar="FILE", help="settings (TOML)")
    parser.add_argument("--source", metavar="SPEC", help="microphone:KEY, synthetic:..., or a path")
    parser.add_argument("--fast", action="store_true", help="recordings faster than real time")
    parser.add_argument("--model", metavar="DIR", help="release folder")
    parser.add_argument("--id", metavar="NODE", help="the node's id")


def run(options: argparse.Namespace) -> int:
    """Run the node."""
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
