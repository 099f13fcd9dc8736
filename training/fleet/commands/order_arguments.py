"""What the commands have in common that speak to the fleet: where the broker is, which nodes, how
long to wait.
"""

import argparse
import math
import os
import re
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

from contract.broker_options import add_broker_options, broker_variables
from contract.errors import SettingsError, TopicError
from contract.topics import checked_id, desired
from training.fleet.signing_arguments import add_signing_options

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    from contract.signature import Signer
    from training.fleet.orders import Access, Waiting

EXIT_CODES = (
    "Exit code 0: every node that was waited for has committed it (without --wait: it is ordered);"
    " 1: some have not, it was stopped, or another push came between; 2: nothing was done, or not"
    " all of it, and why; 3: no outcome in time."
)
_DEFAULT_TIMEOUT_SECONDS = 3600.0


def add_access_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options that say where the broker is, and whose word counts there."""
    add_signing_options(parser)
    parser.add_argument(
        "--keys",
        type=Path,
        metavar="FILE",
        help="public keys whose releases and orders count as ours, too",
    )
    parser.add_argument(
        "--config", type=Path, metavar="FILE", help="TOML file with a section [mqtt]"
    )
    add_broker_options(parser)


def add_to(parser: argparse.ArgumentParser) -> None:
    """Add `--to`, the address of an order."""
    parser.add_argument(
        "--to", type=_address, required=True, metavar="all|group:G|node:N", help="which nodes"
    )


def add_percent(parser: argparse.ArgumentParser, *, text: str) -> None:
    """Add `--percent`, one share of the nodes or several; `text` is its help."""
    parser.add_argument(
        "--percent", type=_percents, default=(100.0,), metavar="P[,P...]", help=text
    )


def add_except(parser: argparse.ArgumentParser) -> None:
    """Add `--except`, nodes that may be in the way."""
    parser.add_argument(
        "--except",
        type=_nodes,
        default=frozenset(),
        dest="excepted",
        metavar="NODE[,NODE]",
        help="go on although these cannot run it, or are no more; they are ordered it all the same,"
        " and nobody waits for one that has not begun",
    )


def add_waiting(parser: argparse.ArgumentParser) -> None:
    """Add `--wait` and what belongs to it: whether to see an order through."""
    parser.add_argument("--wait", action="store_true", help="until every node has an outcome")
    parser.add_argument(
        "--timeout",
        type=positive,
        metavar="SECONDS",
        help=f"for each ring, with --wait (default: {_DEFAULT_TIMEOUT_SECONDS:g})",
    )
    parser.add_argument(
        "--stop-if-failed",
        type=_share,
        metavar="P%",
        help="stop the rollout, with --wait, when more than this share of a ring's nodes refuse the"
        " release or go back",
    )


def access(options: argparse.Namespace, signer: "Signer | None") -> "Access":
    """The broker, and the keys that count: who only looks needs no private key, the public half
    beside it will do.

    Raises:
        SettingsError: the broker's settings are not valid.
        KeyFileError: public keys cannot be read.
    """
    from contract.signature import read_public_keys
    from training.fleet.broker import load_broker
    from training.fleet.keys import default_key_file, public_half, read_public_key_file
    from training.fleet.orders import Access

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


def waiting(options: argparse.Namespace) -> "Waiting | None":
    """How long to wait; None without `--wait`.

    Raises:
        SettingsError: options that only go with it were given without it.
    """
    from training.fleet.orders import Waiting

    if options.wait:
        return Waiting(
            timeout_seconds=options.timeout or _DEFAULT_TIMEOUT_SECONDS,
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


def positive(text: str) -> float:
    """Read a number above 0 from the command line."""
    value = _number(text)
    if not 1e-12 <= value < math.inf:
        raise argparse.ArgumentTypeError(f"expected a number above 0, got {text!r}")
    return value


def _address(text: str) -> str:
    try:
        desired(text)
    except TopicError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
    return text


def _nodes(text: str) -> frozenset[str]:
    try:
        return frozenset(checked_id(name.strip()) for name in text.split(","))
    except TopicError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def _percents(text: str) -> tuple[float, ...]:
    values = tuple(_number(part) for part in text.split(","))
    rising = all(low < high for low, high in pairwise(values))
    if not rising or not all(0 < value <= 100 for value in values):
        raise argparse.ArgumentTypeError(
            f"expected a rising list of percents such as 10 or 10,50,100, got {text!r}"
        )
    return values


def _share(text: str) -> float:
    found = re.fullmatch(r"([0-9]{1,3}(?:\.[0-9]+)?)%?", text.strip())
    if found is None or not 0 <= float(found[1]) <= 100:
        raise argparse.ArgumentTypeError(f"expected a percentage such as 5%, got {text!r}")
    return float(found[1]) / 100


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan
