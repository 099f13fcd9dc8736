"""Whose releases and orders count."""

from pathlib import Path

import pytest

from contract.errors import KeyFileError
from node.updates.trusted_keys import read_keys_file
from tests.rig.signers import SECOND, SIGNER, TRUSTED


def test_keys_are_read_by_their_ids(tmp_path: Path) -> None:
    """All that an operator has left there."""
    keys = tmp_path / "release keys.pem"
    keys.write_bytes(SIGNER.public_pem + SECOND.public_pem)

    assert read_keys_file(keys).keys() == TRUSTED.keys()
    with pytest.raises(KeyFileError, match="cannot be read"):
        read_keys_file(keys / "none")
