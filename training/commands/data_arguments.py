"""What commands that read recordings have in common: where they lie, and how they are read."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from contract.command_line import typed
from training.commands.argument_types import whole

if TYPE_CHECKING:
    from training.sound.feature_cache import FeatureCache


def add_data_options(parser: argparse.ArgumentParser) -> None:
    """Declare where the recordings are, and how their features are read."""
    add_data_folder(parser)
    add_reading_options(parser)


def add_data_folder(parser: argparse.ArgumentParser) -> None:
    """Declare where the recordings are."""
    parser.add_argument(
        "--data",
        type=Path,
        required=True,
        metavar="DIR",
        help="recordings: the machine's folder or the one above (DCASE Task 2, or normal/ and"
        f" anomaly/; `{typed('training data DIR')}` says what is there)",
    )
    parser.add_argument("--machine", help="the machine's folder; not needed if there is only one")
    parser.add_argument(
        "--channel", type=whole(0, 255), help="of several, from 0 (default: all are mixed)"
    )


def add_reading_options(parser: argparse.ArgumentParser) -> None:
    """Declare where features are kept, and what else runs the models."""
    parser.add_argument("--cache", type=Path, metavar="DIR", help="where features are kept")
    parser.add_argument("--no-cache", action="store_true", help="keep no features")
    add_tflite_python(parser)


def add_tflite_python(parser: argparse.ArgumentParser) -> None:
    """Declare where the other library is that nodes run models in."""
    parser.add_argument(
        "--tflite-python",
        type=Path,
        metavar="FILE",
        help="Python of an environment that has tflite-runtime (default: .venv-tflite, if there)",
    )


def feature_cache(options: argparse.Namespace) -> "FeatureCache":
    """Where features are kept: as the options say, else in the user's cache folder."""
    from training.sound.feature_cache import FeatureCache, default_cache_folder

    if options.no_cache:
        return FeatureCache(None)
    return FeatureCache(options.cache or default_cache_folder())


def tflite_python(options: argparse.Namespace) -> Path | None:
    """The Python that has tflite-runtime; None without one."""
    from training.release.runtimes import find_tflite_python

    given: Path | None = options.tflite_python
    return given or find_tflite_python()
