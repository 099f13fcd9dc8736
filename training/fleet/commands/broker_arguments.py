"""What `secrets`, `enroll` and `revoke` have in common: the folder of the secrets, and how the
broker hears of a change.
"""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from training.fleet.enrolment.broker_secrets import BrokerCertificate

EXIT_LEFT_TO_DO = 1
"""Done here; what is left for a person to do is said."""
EXIT_CODES = (
    f"Exit code {EXIT_LEFT_TO_DO} says that it is done here, and the broker has still to be told; 2"
    " that nothing was changed."
)


def add_folder(parser: argparse.ArgumentParser) -> None:
    """Add `--folder`, where the secrets are."""
    parser.add_argument(
        "--folder",
        type=Path,
        default=Path("secrets"),
        metavar="DIR",
        help="of the secrets (default: secrets)",
    )


def add_reload(parser: argparse.ArgumentParser) -> None:
    """Add `--pid` and `--no-reload`: how to have the broker read its files again."""
    how = parser.add_mutually_exclusive_group()
    how.add_argument(
        "--pid",
        type=int,
        metavar="N",
        help="process id of a mosquitto that runs here by itself, to have it read its files again"
        " (default: the one of docker compose)",
    )
    how.add_argument(
        "--no-reload", action="store_true", help="leave it to you to tell the broker (SIGHUP)"
    )


def reload_broker(options: argparse.Namespace) -> int:
    """Have the broker read its files again, as the options say.

    Returns:
        0, or `EXIT_LEFT_TO_DO` when it has still to be told, which is said on standard error.
    """
    from training.fleet.enrolment import broker_reload

    if options.no_reload:
        say("the broker was not told: it reads its files at SIGHUP, or at its next start")
        return 0
    try:
        if options.pid is not None:
            broker_reload.reload_by_pid(options.pid)
            say(f"the broker, process {options.pid}, reads its files again")
        elif broker_reload.reload_by_compose():
            say("the broker reads its files again")
        else:
            say("the broker does not run; it reads its files at its start")
    except broker_reload.BrokerNotToldError as error:
        say(
            f"{error}. The change is made, and counts as soon as the broker reads its files again:"
            f" `{error.by_hand}` (--pid N does that from here, --no-reload leaves it to you)",
            file=sys.stderr,
        )
        return EXIT_LEFT_TO_DO
    return 0


def say(text: str, file: TextIO | None = None) -> None:
    """Tell the person at the terminal."""
    print(f"earshot fleet: {text}", file=file)


def say_certificate(kept: "BrokerCertificate") -> None:
    """For whom the broker's certificate is, and what to do when it ends soon."""
    say(f"the broker's certificate is for {', '.join(kept.hosts)}, for {kept.days_left} days more")
    if kept.authority_days_left <= kept.days_left:
        say(
            f"the authority ends in {kept.authority_days_left} days, and every node has to get a"
            " new one: docs/operations.md"
        )
    elif kept.ends_soon:
        say("renew it: `make secrets RENEW=1`; nodes need nothing")
