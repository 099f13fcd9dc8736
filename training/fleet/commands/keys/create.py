"""`earshot fleet keys create`: makes an Ed25519 key pair."""

import argparse
from pathlib import Path

from training.fleet.signing_arguments import add_passphrase_file

SUMMARY = "make a key pair"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options."""
    parser.add_argument(
        "--out",
        type=Path,
        metavar="FILE",
        help="of the private key (default: ~/.config/earshot/release-key.pem); the public one is"
        " put beside it",
    )
    passphrase = parser.add_mutually_exclusive_group()
    passphrase.add_argument("--passphrase", action="store_true", help="ask for one, and encrypt")
    add_passphrase_file(passphrase, "encrypt with the pass phrase in its first line")
    parser.add_argument("--anyway", action="store_true", help="inside a Git work tree, too")


def run(options: argparse.Namespace) -> int:
    """Make it, and say what to do with it."""
    from training.fleet import keys

    passphrase = None
    if options.passphrase:
        passphrase = keys.ask_new_passphrase(keys.ask_in_terminal())
    elif options.passphrase_file is not None:
        passphrase = keys.read_passphrase(options.passphrase_file)
    created = keys.create_key(options.out, passphrase, in_repository=options.anyway)
    print("\n".join(keys.created_lines(created)))
    return 0
