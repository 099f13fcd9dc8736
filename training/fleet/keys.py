"""Key files of whoever releases: made, read, shown.

A private key lies outside every repository, readable by its owner alone, and commands the fleet
whose nodes trust its public half.
"""

import os
import stat
import sys
from collections.abc import Callable
from getpass import getpass
from pathlib import Path

import msgspec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from contract.command_line import typed
from contract.errors import KeyFileError
from contract.signature import (
    MAX_TRUSTED_KEYS,
    Signer,
    TrustedKeys,
    new_private_key,
    read_public_keys,
)
from node.whole_file import write_whole

Ask = Callable[[str], str]
"""Asks a person for a secret, with this prompt."""

_KEY_NAME = "release-key.pem"
_SUFFIX = ".pem"
# A key has a few hundred bytes; the bound is there so that reading has one.
_MAX_FILE_BYTES = 64 * 1024


class CreatedKey(msgspec.Struct, frozen=True, kw_only=True):
    """A key pair that was made, and where it is."""

    key_id: str
    private: Path
    public: Path
    encrypted: bool


def default_key_file() -> Path:
    """`earshot/release-key.pem` below `$XDG_CONFIG_HOME` or `~/.config`.

    Raises:
        KeyFileError: the user has no home.
    """
    # A relative path is to be ignored, says the XDG base directory specification.
    chosen = Path(os.environ.get("XDG_CONFIG_HOME", ""))
    try:
        folder = chosen if chosen.is_absolute() else Path.home() / ".config"
    except RuntimeError as error:
        raise KeyFileError("this user has no home folder: name a key file") from error
    return folder / "earshot" / _KEY_NAME


def public_half(private: Path) -> Path:
    """Where the public key of a private one is put: `key.pub.pem` beside `key.pem`."""
    return private.with_name(f"{private.name.removesuffix(_SUFFIX)}.pub{_SUFFIX}")


def create_key(
    path: Path | None, passphrase: bytes | None, *, in_repository: bool = False
) -> CreatedKey:
    """Write a new private key and, beside it, its public half.

    Args:
        path: of the private key; None is the default.
        passphrase: to encrypt it with; None leaves it readable for whoever has the file.
        in_repository: allow a place inside a Git work tree.

    Raises:
        KeyFileError: a key is there already, or must not or cannot be written there.
    """
    private = (path or default_key_file()).absolute()
    public = public_half(private)
    for there in (private, public):
        if os.path.lexists(there):
            raise KeyFileError(f"{there}: is there already, and a key is never overwritten")
    if not in_repository:
        _refuse_work_tree(private)
    pem = new_private_key(passphrase)
    signer = Signer(pem, passphrase)
    try:
        private.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_whole(private, pem, mode=0o600)
        write_whole(public, signer.public_pem, mode=0o644)
    except OSError as error:
        raise KeyFileError(f"cannot write {error.filename or private}: {error.strerror}") from error
    return CreatedKey(
        key_id=signer.key_id, private=private, public=public, encrypted=passphrase is not None
    )


def load_signer(path: Path | None, passphrase_file: Path | None, ask: Ask | None) -> Signer:
    """The key that signs.

    Args:
        path: of the private key; None is the default.
        passphrase_file: its first line is the pass phrase; None asks for it, if there is one.
        ask: who to ask; None where nobody is there.

    Raises:
        KeyFileError: no key that may be used is there, or its pass phrase is not.
    """
    private = path or default_key_file()
    pem = _read_private(private)
    passphrase = None
    if b"ENCRYPTED" in pem:
        passphrase = _passphrase(private, passphrase_file, ask)
    try:
        return Signer(pem, passphrase)
    except KeyFileError as error:
        raise KeyFileError(f"{private}: {error}") from error


def read_passphrase(file: Path) -> bytes:
    """The pass phrase in the first line of a file.

    Raises:
        KeyFileError: it cannot be read, or is empty.
    """
    line = _read(file).split(b"\n", 1)[0].removesuffix(b"\r")
    if not line:
        raise KeyFileError(f"{file}: expected a pass phrase in its first line, it is empty")
    return line


def ask_new_passphrase(ask: Ask | None) -> bytes:
    """A pass phrase, typed twice.

    Raises:
        KeyFileError: nobody is there to ask, or the two differ.
    """
    if ask is None:
        raise KeyFileError("--passphrase asks in a terminal, and this is none: --passphrase-file")
    first = ask("pass phrase of the new key: ")
    if not first:
        raise KeyFileError("Expected a pass phrase, got none; nothing was written")
    if ask("once more: ") != first:
        raise KeyFileError("the two pass phrases differ; nothing was written")
    return first.encode()


def ask_in_terminal() -> Ask | None:
    """Who to ask for a pass phrase; None where no person sits."""
    return getpass if sys.stdin is not None and sys.stdin.isatty() else None


def read_public_key_file(path: Path) -> TrustedKeys:
    """The one or two public keys of a file.

    Raises:
        KeyFileError: it cannot be read, or holds something else.
    """
    pem = _read(path)
    if b"PRIVATE KEY" in pem:
        raise KeyFileError(
            f"{path}: is a private key, expected public ones: {public_half(path).name}"
        )
    try:
        return read_public_keys(pem)
    except KeyFileError as error:
        raise KeyFileError(f"{path}: {error}") from error


def public_pems(path: Path | None, passphrase_file: Path | None, ask: Ask | None) -> dict[str, str]:
    """Public keys in PEM by their ids: of a private key's file, or of one with public keys.

    Raises:
        KeyFileError: it is neither.
    """
    path = path or default_key_file()
    if b"PRIVATE KEY" in _read(path, missing=_missing()):
        signer = load_signer(path, passphrase_file, ask)
        return {signer.key_id: signer.public_pem.decode()}
    return {
        key_id: key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()
        for key_id, key in read_public_key_file(path).items()
    }


def created_lines(created: CreatedKey) -> list[str]:
    """What was made, and what to do with it, for a person."""
    guarded = "with a pass phrase" if created.encrypted else "no pass phrase"
    return [
        f"key      {created.key_id}",
        f"private  {created.private} ({guarded}): whoever has it commands the fleet; keep a copy"
        " that is not on this machine",
        f"public   {created.public}",
        "",
        f"Nodes trust up to {MAX_TRUSTED_KEYS} keys, so that one can take the other's place: make a"
        " second one with --out and keep",
        "it elsewhere. Then put both public keys on each node, and their place into its settings:",
        "",
        f"    cat {created.public.name} SECOND.pub.pem > release-keys.pem",
        "",
        "    [update]",
        '    keys_file = "/etc/earshot/release-keys.pem"',
    ]


def _read_private(path: Path) -> bytes:
    pem = _read(path, missing=_missing())
    mode = stat.S_IMODE(path.stat().st_mode)
    if mode & 0o077:
        raise KeyFileError(
            f"{path}: others may read or write this key (mode {mode:04o}), so it is not used:"
            f" chmod 600 {path}"
        )
    return pem


def _passphrase(private: Path, file: Path | None, ask: Ask | None) -> bytes:
    if file is not None:
        return read_passphrase(file)
    if ask is None:
        raise KeyFileError(
            f"{private}: is encrypted, and there is no terminal to ask for its pass phrase in:"
            " --passphrase-file"
        )
    return ask(f"pass phrase of {private}: ").encode()


def _read(path: Path, *, missing: str = "no such file") -> bytes:
    try:
        with path.open("rb") as stream:
            return stream.read(_MAX_FILE_BYTES)
    except FileNotFoundError as error:
        raise KeyFileError(f"{path}: {missing}") from error
    except OSError as error:
        raise KeyFileError(f"{path}: cannot read: {error.strerror}") from error


def _refuse_work_tree(path: Path) -> None:
    for folder in path.resolve().parents:
        if (folder / ".git").exists():
            raise KeyFileError(
                f"{path}: is inside the Git work tree {folder}, where a private key is soon"
                " published; choose another place, or say --anyway"
            )


def _missing() -> str:
    return f"no such key; `{typed('fleet keys create')}` makes one"
