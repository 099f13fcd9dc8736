"""`earshot training import`: a release around a model that was trained elsewhere."""

import argparse
from pathlib import Path

from contract.command_line import recorded
from training.commands.argument_types import positive
from training.commands.release_arguments import add_release_options, release_name

SUMMARY = "write a release around a .tflite from elsewhere"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("file", type=Path, metavar="FILE.tflite")
    parser.add_argument(
        "--threshold",
        type=positive,
        required=True,
        help="mean squared error above which a window is an anomaly",
    )
    add_release_options(parser)


def run(options: argparse.Namespace) -> int:
    """Write the release, and say what it is."""
    from training.release.import_model import ImportRequest, import_model

    request = ImportRequest(
        file=options.file,
        threshold=options.threshold,
        out=options.out,
        name=release_name(options),
        version=options.version,
        description=options.description,
        overwrite=options.overwrite,
        command=recorded(options),
    )
    manifest = import_model(request)
    print(
        f"{manifest.label} in {options.out}: {manifest.models_bytes / 1e6:.2f} MB, threshold"
        f" {manifest.threshold.value:g}, runs in {', '.join(manifest.runtimes)}"
    )
    return 0
