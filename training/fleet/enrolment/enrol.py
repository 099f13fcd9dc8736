"""A node joins the fleet, or leaves it: its login at the broker, and the bundle that it gets.

The bundle holds all that is a node's own: settings, password, the broker's authority, and the
public keys of those whose releases it takes. Its password is nowhere else in clear text.
"""

import io
import os
import tarfile
from pathlib import Path

import msgspec

from contract.topics import checked_id
from node.settings_text import Answers, settings_text
from node.whole_file import write_whole
from training.errors import EnrolmentError
from training.fleet.enrolment import access_rules
from training.fleet.enrolment.broker_secrets import Secrets, new_line, new_password, write_files
from training.fleet.keys import read_public_key_file

ON_THE_NODE = Path("/etc/earshot")
"""Where a node has its bundle; node/install-pi.sh makes the folder."""
EXAMPLE_MODEL = "/opt/earshot/current/models/fan-synthetic"
"""Comes with the program, wherever the installer or the image puts it."""
_STATE = "/var/lib/earshot/state"
_PRIVATE = 0o600


class Enrolment(msgspec.Struct, frozen=True, kw_only=True):
    """Who joins, and what its settings are to say."""

    node: str
    group: str | None = None
    host: str
    port: int | None = None
    source: str | None = None
    model: str = EXAMPLE_MODEL
    release_keys: Path | None = None


class Enrolled(msgspec.Struct, frozen=True, kw_only=True):
    """What enrolling a node has come to."""

    out: Path
    again: bool
    """The node was enrolled before; its old password is void now."""
    takes_updates: bool


def enrol(found: Secrets, wanted: Enrolment, out: Path) -> Enrolled:
    """Let a node in, and write what it needs to know.

    Args:
        found: the broker's secrets.
        wanted: who, and what for.
        out: the bundle: an archive if the name ends in `.tar`, else a folder for a container.

    Raises:
        EarshotError: a name is not valid, or a file cannot be read or written.
    """
    node = access_rules.checked_node(wanted.node)
    if wanted.group is not None:
        checked_id(wanted.group)
    password = new_password()
    with found.changing_logins() as logins:
        # The bundle first: a login that nobody knows of helps nobody.
        _write_bundle(out, _bundle(found, wanted, password))
        known = node in access_rules.users(logins.passwords)
        logins.passwords = access_rules.with_password(logins.passwords, new_line(node, password))
        logins.enrolled = access_rules.with_group(logins.enrolled, node, wanted.group)
    return Enrolled(out=out, again=known, takes_updates=wanted.release_keys is not None)


def revoke(found: Secrets, node: str) -> bool:
    """Take a node's login away.

    Returns:
        False when it had none.

    Raises:
        EarshotError: a name is not valid, or a file cannot be read or written.
    """
    node = access_rules.checked_node(node)
    with found.changing_logins() as logins:
        known = node in access_rules.users(logins.passwords)
        logins.passwords = access_rules.without_password(logins.passwords, node)
        logins.enrolled = access_rules.without_node(logins.enrolled, node)
    return known


def _bundle(found: Secrets, wanted: Enrolment, password: str) -> dict[str, bytes]:
    keys: bytes | None = None
    if wanted.release_keys is not None:
        read_public_key_file(wanted.release_keys)
        keys = wanted.release_keys.read_bytes()
    answers = Answers(
        id=wanted.node,
        group=wanted.group,
        model_folder=wanted.model,
        state_folder=_STATE,
        spec=wanted.source,
        host=wanted.host,
        port=wanted.port,
        tls=True,
        ca_file=str(ON_THE_NODE / "ca.crt"),
        username=wanted.node,
        password_file=str(ON_THE_NODE / "password"),
        release_keys_file=None if keys is None else str(ON_THE_NODE / "release-keys.pem"),
    )
    files = {
        "node.toml": settings_text(answers, origin=f"settings of {wanted.node}").encode(),
        "password": f"{password}\n".encode(),
        "ca.crt": found.authority_file.read_bytes(),
    }
    return files if keys is None else {**files, "release-keys.pem": keys}


def _write_bundle(out: Path, files: dict[str, bytes]) -> None:
    try:
        if out.suffix != ".tar":
            write_files(out, files)
            return
        packed = io.BytesIO()
        with tarfile.open(fileobj=packed, mode="w") as archive:
            for name, content in files.items():
                entry = tarfile.TarInfo(name)
                entry.size, entry.mode = len(content), _PRIVATE
                archive.addfile(entry, io.BytesIO(content))
        out.parent.mkdir(parents=True, exist_ok=True)
        write_whole(out, packed.getvalue(), mode=_PRIVATE)
    except OSError as error:
        raise EnrolmentError(f"{error.filename or out}: {os.strerror(error.errno or 0)}") from error
