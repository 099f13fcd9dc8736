"""`earshot fleet enroll`: a node's login at the broker, and the bundle that it needs."""

import argparse
from pathlib import Path

from contract.broker_options import host_and_port
from training.fleet.commands.broker_arguments import (
    EXIT_CODES,
    add_folder,
    add_reload,
    reload_broker,
    say,
    say_certificate,
)

SUMMARY = "let a node talk to the broker, and write the bundle that it needs"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options."""
    parser.epilog = (
        "A node that was enrolled before gets a new password, and the old one is void at once. "
        + EXIT_CODES
    )
    parser.add_argument("node", metavar="NODE", help="its id: also its user name and client id")
    parser.add_argument("--group", metavar="GROUP", help="nodes that get the same releases")
    parser.add_argument(
        "--broker",
        type=host_and_port,
        metavar="HOST[:PORT]",
        help="how the node reaches the broker (default: the first host of its certificate)",
    )
    parser.add_argument(
        "--source",
        metavar="SPEC",
        help="what it hears: microphone:KEY or synthetic:fan (default: the usual microphone)",
    )
    parser.add_argument("--model", metavar="DIR", help="release folder on the node")
    parser.add_argument(
        "--release-keys",
        type=Path,
        metavar="FILE",
        help="public keys whose releases it takes (default: release-keys.pem in the folder of the"
        " secrets; without it the node takes no updates)",
    )
    parser.add_argument(
        "--out",
        type=Path,
        metavar="PATH",
        help="the bundle: FILE.tar to carry to a Pi, or a folder for a container (default:"
        " nodes/NODE.tar in the folder of the secrets)",
    )
    add_folder(parser)
    add_reload(parser)


def run(options: argparse.Namespace) -> int:
    """Let it in, and have the broker know."""
    import datetime as dt

    from training.fleet.enrolment.broker_secrets import Secrets, broker_certificate
    from training.fleet.enrolment.enrol import EXAMPLE_MODEL, Enrolment, enrol

    found = Secrets(options.folder)
    kept = broker_certificate(found, dt.datetime.now(dt.UTC))
    host, port = options.broker or (kept.hosts[0], "")
    keys: Path | None = options.release_keys
    if keys is None and found.release_keys_file.exists():
        keys = found.release_keys_file
    wanted = Enrolment(
        node=options.node,
        group=options.group,
        host=host,
        port=int(port) if port else None,
        source=options.source,
        model=options.model or EXAMPLE_MODEL,
        release_keys=keys,
    )
    out = options.out or found.folder / "nodes" / f"{options.node}.tar"
    done = enrol(found, wanted, out)
    what = "has a new password" if done.again else "is enrolled"
    say(f"{wanted.node} {what}; its bundle: {done.out} (docs/pi.md says what to do with it)")
    if not done.takes_updates:
        say(
            f"it takes no updates: no {found.release_keys_file}, and no --release-keys"
            " (docs/updates.md)"
        )
    if kept.ends_soon:
        say_certificate(kept)
    return reload_broker(options)
