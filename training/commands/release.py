"""`earshot training release`: a trained run, versioned, self-tested and signed for a fleet."""

import argparse
from pathlib import Path

from training.commands.argument_types import description, whole
from training.commands.data_arguments import add_tflite_python, tflite_python
from training.commands.release_arguments import release_name
from training.fleet.signing_arguments import add_signing_options, load_given_signer

SUMMARY = "pack a trained run for a fleet: versioned, self-tested, signed"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("trained", type=Path, metavar="RUN", help="folder that `train` wrote")
    parser.add_argument(
        "--out", type=Path, required=True, metavar="DIR", help="the release's folder"
    )
    parser.add_argument("--name", help="of the release (default: the run's)")
    parser.add_argument(
        "--version",
        type=whole(1, 999_999_999),
        help="above every one of that name in the run and beside --out (default: the next)",
    )
    parser.add_argument("--description", type=description, help="(default: the run's)")
    parser.add_argument(
        "--valid-days",
        type=whole(1, 36_500),
        default=730,
        metavar="N",
        help="how long nodes may take it on; one that runs it goes on (default: 730)",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace a release that is there")
    add_tflite_python(parser)
    add_signing_options(parser)


def run(options: argparse.Namespace) -> int:
    """Pack and sign it, and say what it is."""
    from training.progress import note
    from training.release.pack import PackRequest, pack_release, packed_lines

    request = PackRequest(
        trained=options.trained,
        out=options.out,
        name=None if options.name is None else release_name(options),
        version=options.version,
        description=options.description,
        valid_days=options.valid_days,
        overwrite=options.overwrite,
        tflite_python=tflite_python(options),
    )
    packed = pack_release(request, load_given_signer(options), note=note)
    print("\n".join(packed_lines(packed, options.out)))
    return 0
