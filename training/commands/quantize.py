"""`earshot training quantize`: a trained run's other quantisation as a release of its own."""

import argparse
from pathlib import Path

from training.commands.release_arguments import add_release_options, release_name
from training.recipes import QUANTISATIONS

SUMMARY = "make a release of another quantisation of a trained run"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("trained", type=Path, metavar="RUN", help="folder that `train` wrote")
    parser.add_argument("--to", choices=QUANTISATIONS, required=True)
    add_release_options(parser, described=False)


def run(options: argparse.Namespace) -> int:
    """Write the release, and say what it is."""
    from training.release.release_folder import take_variant, write_release

    name = release_name(options)
    release = take_variant(options.trained, options.to, name=name, version=options.version)
    write_release(options.out, release, overwrite=options.overwrite)
    manifest = release.manifest
    print(
        f"{manifest.label} in {options.out}: {options.to}, {manifest.models_bytes / 1e6:.2f} MB,"
        f" threshold {manifest.threshold.value:.4g}, runs in {', '.join(manifest.runtimes)}"
    )
    return 0
