"""`earshot fleet keys show`: prints key ids and public keys in PEM."""

import argparse
from pathlib import Path

from training.fleet.signing_arguments import add_passphrase_file

SUMMARY = "print key ids and public keys"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options."""
    parser.add_argument(
        "file",
        type=Path,
        nargs="?",
        metavar="FILE",
        help="a private key, or one or two public ones (default: the private key in its usual"
        " place)",
    )
    add_passphrase_file(
        parser, "a private key's pass phrase in its first line (default: asked for)"
    )


def run(options: argparse.Namespace) -> int:
    """Print them."""
    from training.fleet import keys

    found = keys.public_pems(options.file, options.passphrase_file, keys.ask_in_terminal())
    for key_id, pem in found.items():
        print(f"key {key_id}\n{pem}", end="")
    return 0
