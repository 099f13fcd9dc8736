"""`python -m training keys`: the keys that sign releases and orders."""

import argparse
from pathlib import Path

from training.fleet.signing_arguments import add_passphrase_file

SUMMARY = "make and show the keys that sign releases and orders"
INTERRUPTED = "interrupted; nothing was written"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="create|show")
    create = actions.add_parser("create", description="Make an Ed25519 key pair.")
    create.add_argument(
        "--out",
        type=Path,
        metavar="FILE",
        help="of the private key (default: ~/.config/earshot/release-key.pem); the public one is"
        " put beside it",
    )
    passphrase = create.add_mutually_exclusive_group()
    passphrase.add_argument("--passphrase", action="store_true", help="ask for one, and encrypt")
    add_passphrase_file(passphrase, "encrypt with the pass phrase in its first line")
    create.add_argument("--anyway", action="store_true", help="inside a Git work tree, too")
    show = actions.add_parser("show", description="Print key ids and public keys in PEM.")
    show.add_argument(
        "file",
        type=Path,
        nargs="?",
        metavar="FILE",
        help="a private key, or one or two public ones (default: the private key in its usual"
        " place)",
    )
    add_passphrase_file(show, "a private key's pass phrase in its first line (default: asked for)")


def run(options: argparse.Namespace) -> int:
    """Make a key, or print public ones."""
    from training.fleet import keys

    ask = keys.ask_in_terminal()
    if options.action == "show":
        for key_id, pem in keys.public_pems(options.file, options.passphrase_file, ask).items():
            print(f"key {key_id}\n{pem}", end="")
        return 0
    passphrase = None
    if options.passphrase:
        passphrase = keys.ask_new_passphrase(ask)
    elif options.passphrase_file is not None:
        passphrase = keys.read_passphrase(options.passphrase_file)
    created = keys.create_key(options.out, passphrase, in_repository=options.anyway)
    print("\n".join(keys.created_lines(created)))
    return 0
