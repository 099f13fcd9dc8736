"""`earshot fleet inspect`: what a release is, and who has signed it, in words."""

import argparse
from pathlib import Path

SUMMARY = "say in words what a release is and who has signed it"
EXIT_REFUSED = 1


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options."""
    parser.epilog = f"Exit code {EXIT_REFUSED} says that nodes with these keys refuse it."
    parser.add_argument("release", type=Path, metavar="RELEASE", help="the release's folder")
    parser.add_argument(
        "--keys",
        type=Path,
        metavar="FILE",
        help="public keys that nodes trust (default: of the key in its usual place)",
    )


def run(options: argparse.Namespace) -> int:
    """Say it; 1 if nodes with these keys refuse the release."""
    from training.fleet.release_words import describe_release

    lines, refused = describe_release(options.release, keys=options.keys)
    print("\n".join(lines))
    return EXIT_REFUSED if refused else 0
