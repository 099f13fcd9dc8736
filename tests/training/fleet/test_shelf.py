"""Releases as the broker keeps them."""

from contract import topics
from contract.signed_manifest import sign_manifest
from tests.rig.signers import SIGNER, TRUSTED
from tests.training.packed import content, manifest
from training.fleet.shelf import (
    kept_releases,
    next_version,
)


def test_the_next_version_is_above_all_of_that_name() -> None:
    """Ten comes after nine, and other names do not count."""
    assert next_version("fan", ["fan@9", "fan@10", "pump@99"]) == 11
    assert next_version("fan", []) == 1


def test_a_manifest_under_another_label_is_none() -> None:
    """Signed as it is, it was put where it does not belong."""
    envelope = sign_manifest(manifest(content(), version=2), SIGNER)

    found = kept_releases({topics.release("fan@3"): envelope}, TRUSTED)["fan@3"]

    assert found.wanted is None
    assert found.trouble == "it is the manifest of fan@2"
