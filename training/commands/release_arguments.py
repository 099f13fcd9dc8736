"""What commands that write a release have in common: where to, and what it is called."""

import argparse
import re
from pathlib import Path

from contract.topics import RELEASE_NAME_PATTERN
from training.commands.argument_types import description, whole
from training.errors import DestinationError


def add_release_options(parser: argparse.ArgumentParser, *, described: bool = True) -> None:
    """Declare the release's folder, name and version, and its description if it gets one."""
    parser.add_argument(
        "--out", type=Path, required=True, metavar="DIR", help="the release's folder"
    )
    parser.add_argument("--name", help="of the release (default: the folder's name)")
    parser.add_argument("--version", type=whole(1, 999_999_999), default=1)
    if described:
        parser.add_argument("--description", type=description)
    parser.add_argument("--overwrite", action="store_true", help="replace a release that is there")


def release_name(options: argparse.Namespace) -> str:
    """The release's name: as given, else its folder's.

    Raises:
        DestinationError: no release can have that name.
    """
    name: str = options.name or options.out.resolve().name
    if re.match(RELEASE_NAME_PATTERN, name) is None:
        raise DestinationError(
            f"Expected a release name of lower-case letters, digits and hyphens, at most 32, got"
            f" {name!r}; give one with --name"
        )
    return name
