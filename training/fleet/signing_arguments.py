"""What commands that sign have in common: which key, and how its pass phrase comes in."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from contract.signature import Signer


def add_signing_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of every command that signs."""
    parser.add_argument(
        "--key",
        type=Path,
        metavar="FILE",
        help="private key to sign with (default: ~/.config/earshot/release-key.pem)",
    )
    add_passphrase_file(parser, "its pass phrase in the first line (default: asked for)")


def add_passphrase_file(parser: argparse._ActionsContainer, text: str) -> None:
    """Add `--passphrase-file`, a file with a pass phrase; `text` says of what."""
    parser.add_argument("--passphrase-file", type=Path, metavar="FILE", help=text)


def load_given_signer(options: argparse.Namespace) -> "Signer":
    """The key that the options name, with its pass phrase from the file or the terminal.

    Raises:
        KeyFileError: no key that may be used is there, or its pass phrase is not.
    """
    from training.fleet.keys import ask_in_terminal, load_signer

    return load_signer(options.key, options.passphrase_file, ask_in_terminal())
