"""What the commands take that speak to the fleet: `push`, `rollout`, `promote`, `rollback`,
`withdraw`, `retire`.
"""

import argparse
import math
import re
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

from contract.broker_options import add_broker_options
from contract.errors import TopicError
from contract.topics import checked_id, desired

Add = Callable[[str, str], argparse.ArgumentParser]
"""Adds a command by its name and what it does."""
AddSigning = Callable[[argparse.ArgumentParser], None]

FLEET_COMMANDS = ("push", "rollout", "promote", "rollback", "withdraw", "retire")

DEFAULT_TIMEOUT_SECONDS = 3600.0

_ENDS = (
    "Exit code 0: every node that was waited for has committed it (without --wait: it is ordered);"
    " 1: some have not, it was stopped, or another push came between; 2: nothing was done, or not"
    " all of it, and why; 3: no outcome in time."
)


def add_fleet_commands(add: Add, add_signing: AddSigning) -> None:
    """Declare them all."""
    push = add("push", "send a release to the fleet, over the broker")
    push.epilog = _ENDS
    push.add_argument(
        "release", type=Path, metavar="RELEASE", help="folder that `training release` wrote"
    )
    _add_to(push)
    push.add_argument(
        "--percent",
        type=_percents,
        default=(100.0,),
        metavar="P[,P...]",
        help="share of the nodes; 10,50,100 with --wait are rings, each waits for the one before,"
        " and none follows one in which no node was there to show what the release does; `training"
        " promote` then goes on (default: 100)",
    )
    push.add_argument(
        "--threshold",
        type=_positive,
        metavar="X",
        help="in place of the release's and of what nodes have found where they hang",
    )
    push.add_argument(
        "--resend", action="store_true", help="send all files, although the broker has them"
    )
    _add_except(push)
    _add_waiting(push)

    rollout = add("rollout", "show which release each node runs, and which is wanted")
    rollout.add_argument("action", nargs="?", choices=("status",), help="(default)")

    promote = add("promote", "go on with the release that is wanted, for more nodes")
    promote.epilog = _ENDS
    _add_to(promote)
    promote.add_argument(
        "--percent",
        type=_percents,
        default=(100.0,),
        metavar="P[,P...]",
        help="share of the nodes, not below the present one, or several as with push (default:"
        " 100)",
    )
    _add_except(promote)
    _add_waiting(promote)

    rollback = add("rollback", "order nodes back to what was wanted before")
    rollback.epilog = _ENDS
    _add_to(rollback)
    rollback.add_argument(
        "--release", metavar="NAME@VERSION", help="another one that the broker still keeps"
    )
    _add_except(rollback)
    _add_waiting(rollback)

    withdraw = add("withdraw", "take an order back; what a wider address says counts again")
    _add_to(withdraw)

    retire = add("retire", "clear releases from the broker that no order and no node names")
    retire.add_argument("--yes", action="store_true", help="do not ask")
    retire.epilog = "Not while a push is under way: nothing names its files yet."

    for parsed in (push, rollout, promote, rollback, withdraw, retire):
        add_signing(parsed)
        parsed.add_argument(
            "--keys",
            type=Path,
            metavar="FILE",
            help="public keys whose releases and orders count as ours, too",
        )
        parsed.add_argument(
            "--config", type=Path, metavar="FILE", help="TOML file with a section [mqtt]"
        )
        add_broker_options(parsed)


def _add_to(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--to", type=_address, required=True, metavar="all|group:G|node:N", help="which nodes"
    )


def _add_except(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--except",
        type=_nodes,
        default=frozenset(),
        dest="excepted",
        metavar="NODE[,NODE]",
        help="go on although these cannot run it, or are no more; they are ordered it all the same,"
        " and nobody waits for one that has not begun",
    )


def _add_waiting(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--wait", action="store_true", help="until every node has an outcome")
    parser.add_argument(
        "--timeout",
        type=_positive,
        metavar="SECONDS",
        help=f"for each ring, with --wait (default: {DEFAULT_TIMEOUT_SECONDS:g})",
    )
    parser.add_argument(
        "--stop-if-failed",
        type=_share,
        metavar="P%",
        help="stop the rollout, with --wait, when more than this share of a ring's nodes refuse the"
        " release or go back",
    )


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


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan


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


def _positive(text: str) -> float:
    value = _number(text)
    if not 1e-12 <= value < math.inf:
        raise argparse.ArgumentTypeError(f"expected a number above 0, got {text!r}")
    return value
