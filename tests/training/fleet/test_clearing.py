"""What nobody needs any more, and what may be in use."""

import msgspec
import pytest

from contract.desired import Wanted
from contract.signature import Signer
from contract.states import UpdatePhase
from tests.rig.signers import SIGNER, STRANGER
from tests.training.fleet.operating import (
    ALL,
    OURS,
    kept_as,
    known,
    order,
    said,
    wanted,
)
from tests.training.packed import content, manifest
from training.fleet.clearing import UnclearUseError, what_to_clear
from training.fleet.fleet import Fleet


def test_an_order_that_cannot_be_read_blocks_clearing() -> None:
    """Nobody knows what it names."""
    seen = Fleet(OURS)
    seen.take(ALL, b"{}")

    with pytest.raises(UnclearUseError, match="the order for all cannot be read"):
        what_to_clear(seen.orders.values(), [], {}, ["ab" * 32])


def test_a_release_that_is_named_and_not_there_blocks_clearing() -> None:
    """Its files may be those that seem to be of no release; or the reading was cut short."""
    seen = Fleet(OURS)
    known(seen, order("all", "fan@2", 5))

    with pytest.raises(UnclearUseError, match="order for all names fan@2, and the broker has no"):
        what_to_clear(seen.orders.values(), [], {}, ["ab" * 32])


@pytest.mark.parametrize("signer", [SIGNER, STRANGER])
def test_another_manifest_at_the_label_that_an_order_names_blocks_clearing(signer: Signer) -> None:
    """Whoever has signed it: the files that the order needs would seem to be of no release."""
    seen = Fleet(OURS)
    file = content()
    there = kept_as(manifest(file, version=2), signer)
    known(seen, order("all", "fan@2", 5))

    with pytest.raises(UnclearUseError, match="order for all names another fan@2 than the broker"):
        what_to_clear(seen.orders.values(), [], there, [])


def test_what_was_before_is_told_by_its_manifest_as_well() -> None:
    """Nodes outside the cohort still fetch it."""
    seen, made = Fleet(OURS), manifest(content(), version=3)
    there = kept_as(made, SIGNER) | kept_as(manifest(content(), version=2), SIGNER)
    new = Wanted(release="fan@3", manifest_sha256=there["fan@3"].manifest_sha256 or "")
    given = msgspec.structs.replace(order("all", "fan@3", 5), wanted=new, before=wanted("fan@2"))
    known(seen, given)

    with pytest.raises(UnclearUseError, match="names another fan@2"):
        what_to_clear(seen.orders.values(), [], there, [])


@pytest.mark.parametrize("field", ["running", "wanted"])
@pytest.mark.parametrize("phase", [UpdatePhase.COMMITTED, UpdatePhase.DOWNLOADING])
def test_what_a_node_names_stays(field: str, phase: UpdatePhase) -> None:
    """It remembers its orders, whatever has become of them on the broker."""
    there = kept_as(manifest(content(), version=7), SIGNER)
    told = msgspec.structs.replace(said("a", phase), **{field: "fan@7"})

    found = what_to_clear([], [told], there, [])

    assert (found.releases, found.files) == ((), {})
    assert what_to_clear([], [], there, []).releases == ("fan@7",)


@pytest.mark.parametrize("signer", [None, STRANGER])
def test_files_of_no_release_stay_while_a_node_fetches_an_unknown_one(
    signer: Signer | None,
) -> None:
    """Its manifest was cleared, or another one put in its place, after the node had heard it."""
    there = {} if signer is None else kept_as(manifest(content(), version=2), signer)
    sha256 = "cd" * 32

    fetching = what_to_clear([], [said("a", UpdatePhase.DOWNLOADING)], there, [sha256])
    done = what_to_clear([], [said("a", UpdatePhase.COMMITTED)], there, [sha256])

    assert (fetching.files, fetching.spared) == ({}, 1)
    assert (done.files, done.spared) == ({sha256: None}, 0)
