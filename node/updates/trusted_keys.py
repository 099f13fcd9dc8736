"""Whose releases and orders a node obeys: the file of public keys that its settings name."""

from pathlib import Path
from typing import TYPE_CHECKING, Final

from contract.errors import KeyFileError

if TYPE_CHECKING:
    from contract.signature import TrustedKeys

_MOST_BYTES: Final = 8192
"""Two keys are 226 bytes; more than this is another file."""


def read_keys_file(path: Path) -> "TrustedKeys":
    """The public keys in a file, by their ids.

    Raises:
        KeyFileError: it cannot be read, or holds something else.
    """
    # Only here: a node that takes no updates does not load the 12 MB of cryptography.
    from contract.signature import read_public_keys

    try:
        with path.open("rb") as stream:
            pem = stream.read(_MOST_BYTES)
    except OSError as error:
        raise KeyFileError(f"{path}: cannot be read: {error.strerror}") from error
    try:
        return read_public_keys(pem)
    except KeyFileError as error:
        raise KeyFileError(f"{path}: {error}") from error
