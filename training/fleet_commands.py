"""The commands that speak to the fleet: from what was typed to what is asked for."""

import argparse
import logging
import os
import sys
from collections.abc import Callable

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from contract.broker_options import broker_variables
from contract.errors import EarshotError, SettingsError
from contract.signature import Signer, read_public_keys
from training.fleet import push, rollout
from training.fleet.broker import load_broker
from training.fleet.keys import (
    ask_in_terminal,
    default_key_file,
    load_signer,
    public_half,
    read_public_key_file,
)
from training.fleet.orders import Access, Waiting
from training.fleet.rollout_screen import Screen
from training.fleet_arguments import DEFAULT_TIMEOUT_SECONDS

_EXIT_INTERRUPTED = 130


class NobodyToAskError(EarshotError):
    """A question, and no terminal to ask it in: answer it on the command line."""


def run(name: str, options: argparse.Namespace) -> int:
    """Run a command by its name; the exit code."""
    # What happens to the connection, the operator tells.
    logging.getLogger("contract.session").setLevel(logging.ERROR)
    screen = Screen()
    try:
        return _COMMANDS[name](options, screen)
    except KeyboardInterrupt:
        screen.note("interrupted; what was sent stays, and the same command may be given again")
        return _EXIT_INTERRUPTED


def _push(options: argparse.Namespace, screen: Screen) -> int:
    request = push.PushRequest(
        release=options.release,
        to=options.to,
        percents=options.percent,
        threshold=options.threshold,
        resend=options.resend,
        waiting=_waiting(options),
        excepted=options.excepted,
    )
    signer = _signer(options)
    return push.push(request, signer, _access(options, signer), screen)


def _status(options: argparse.Namespace, screen: Screen) -> int:
    access = _access(options, None)
    if not access.trusted:
        screen.note("signatures are not checked; --keys names the public keys to trust")
    return rollout.status(access, screen, checked=bool(access.trusted))


def _promote(options: argparse.Namespace, screen: Screen) -> int:
    request = rollout.PromoteRequest(
        to=options.to,
        percents=options.percent,
        waiting=_waiting(options),
        excepted=options.excepted,
    )
    signer = _signer(options)
    return rollout.promote(request, signer, _access(options, signer), screen)


def _rollback(options: argparse.Namespace, screen: Screen) -> int:
    request = rollout.RollbackRequest(
        to=options.to, release=options.release, waiting=_waiting(options), excepted=options.excepted
    )
    signer = _signer(options)
    return rollout.rollback(request, signer, _access(options, signer), screen)


def _withdraw(options: argparse.Namespace, screen: Screen) -> int:
    signer = _signer(options)
    return rollout.withdraw(options.to, signer, _access(options, signer), screen)


def _retire(options: argparse.Namespace, screen: Screen) -> int:
    def ask(question: str) -> bool:
        if options.yes:
            return True
        if sys.stdin is None or not sys.stdin.isatty():
            raise NobodyToAskError("nothing was cleared: there is no terminal to ask in; say --yes")
        return input(f"{question} [y/N] ").strip().lower() in ("y", "yes")

    return rollout.retire(_access(options, None), screen, ask)


def _signer(options: argparse.Namespace) -> Signer:
    return load_signer(options.key, options.passphrase_file, ask_in_terminal())


def _access(options: argparse.Namespace, signer: Signer | None) -> Access:
    """Who only looks needs no private key: the public half beside it will do."""
    trusted: dict[str, Ed25519PublicKey] = {}
    if signer is not None:
        trusted |= read_public_keys(signer.public_pem)
    elif (public := public_half(options.key or default_key_file())).is_file():
        trusted |= read_public_key_file(public)
    if options.keys is not None:
        trusted |= read_public_key_file(options.keys)
    return Access(
        broker=load_broker(options.config, {**os.environ, **broker_variables(options)}),
        trusted=trusted,
    )


def _waiting(options: argparse.Namespace) -> Waiting | None:
    if options.wait:
        return Waiting(
            timeout_seconds=options.timeout or DEFAULT_TIMEOUT_SECONDS,
            stop_share=options.stop_if_failed,
        )
    several = len(getattr(options, "percent", ())) > 1
    given = {
        "--timeout": options.timeout is not None,
        "--stop-if-failed": options.stop_if_failed is not None,
        "a list of percents": several,
    }
    wrong = [name for name, there in given.items() if there]
    if wrong:
        raise SettingsError("command line", [f"{name} only goes with --wait" for name in wrong])
    return None


_COMMANDS: dict[str, Callable[[argparse.Namespace, Screen], int]] = {
    "push": _push,
    "rollout": _status,
    "promote": _promote,
    "rollback": _rollback,
    "withdraw": _withdraw,
    "retire": _retire,
}
