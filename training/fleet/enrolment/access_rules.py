"""Who may log in to the broker and what each may say: mosquitto's two files about that, pure.

Both are texts that people may edit as well: all that is not the user in question stays as it is.
"""

import base64
import hashlib

from contract.command_line import typed
from contract.topics import checked_id, desired
from training.errors import EnrolmentError

COLLECTOR = "collector"
OPERATOR = "operator"
HEALTH = "health"
"""Asks the broker whether it still answers, from its own container."""
BROKER_USERS = (COLLECTOR, OPERATOR, HEALTH)
"""Users that are no node; no node may have their names."""

ENROLLED = "# --- Below: nodes with a group, kept by `python -m training enroll` and `revoke` ---"
"""Above this line of the access file are the rules for all, below it those for some nodes.

It stands in the files of fleets that were set up long ago, and so keeps its old words.
"""

SALT_BYTES = 12
"""As many as mosquitto_passwd takes."""
_ITERATIONS = 101
"""mosquitto_passwd's own number. Far too few for a password that a person chose; ours are 256
random bits, and the broker checks everybody anew each time that it reads its files."""


def password_line(user: str, password: str, salt: bytes) -> str:
    """A line of a password file, as `mosquitto_passwd` writes it: `$7$` is PBKDF2 with SHA-512."""
    digest = hashlib.pbkdf2_hmac("sha512", password.encode(), salt, _ITERATIONS)
    parts = (base64.b64encode(part).decode() for part in (salt, digest))
    return f"{user}:$7${_ITERATIONS}${'$'.join(parts)}"


def users(passwords: str) -> tuple[str, ...]:
    """Names of all users in a password file, in its order."""
    return tuple(line.partition(":")[0] for line in passwords.splitlines() if ":" in line)


def with_password(passwords: str, line: str) -> str:
    """The password file with this line, in place of the one that its user may have had."""
    return f"{without_password(passwords, line.partition(':')[0])}{line}\n"


def without_password(passwords: str, user: str) -> str:
    """The password file without this user."""
    kept = (line for line in passwords.splitlines() if line.partition(":")[0] != user)
    return "".join(f"{line}\n" for line in kept)


def access_file(rules: str, enrolled: str = "") -> str:
    """The access file: these rules for all, and what `enrolled_part` found in the one before."""
    return f"{rules.rstrip()}\n\n{ENROLLED}\n{enrolled}"


def enrolled_part(access: str) -> str:
    """What stands below the line.

    Raises:
        EnrolmentError: there is no such line.
    """
    _, line, enrolled = access.partition(f"{ENROLLED}\n")
    if not line:
        raise EnrolmentError(
            f"Expected a line {ENROLLED!r} in the broker's access file, got none;"
            f" `{typed('fleet secrets')}` writes the file anew"
        )
    return enrolled


def with_group(enrolled: str, node: str, group: str | None) -> str:
    """The part about single nodes, with this node in this group, or in none."""
    others = without_node(enrolled, node)
    if group is None:
        return others
    return f"{others}user {node}\ntopic read {desired(f'group:{group}')}\n"


def without_node(enrolled: str, node: str) -> str:
    """The part about single nodes without one: its line `user`, and all up to the next."""
    kept: list[str] = []
    dropping = False
    for line in enrolled.splitlines():
        words = line.split()
        if words[:1] == ["user"]:
            dropping = words[1:] == [node]
        if not dropping:
            kept.append(f"{line}\n")
    return "".join(kept)


def checked_node(name: str) -> str:
    """The name itself, when a node may have it.

    Raises:
        TopicError: it is no id.
        EnrolmentError: it is a user of the broker that is no node.
    """
    if checked_id(name) in BROKER_USERS:
        raise EnrolmentError(
            f"Expected the id of a node, got {name}: {', '.join(BROKER_USERS)} are users that the"
            " broker has anyway, with rights of their own"
        )
    return name
