"""Releases that are cleared from a real broker."""

import hashlib
from pathlib import Path

import msgspec
import pytest

from contract import topics
from contract.desired import Wanted
from contract.messages import encode
from contract.release import encode_manifest
from contract.signature import Signer
from contract.signed_desired import sign_desired
from contract.signed_manifest import sign_manifest
from contract.states import UpdatePhase
from contract.topics import Kind
from tests.rig.brokers import Mosquitto
from tests.rig.signers import SECOND, STRANGER
from tests.rig.virtual_nodes import VirtualNode
from tests.training.fleet.operating import (
    ALL,
    WAITING,
    access,
    fleet,
    kept,
    order,
    pushed,
    put,
    run,
    said,
)
from tests.training.packed import content, manifest, packed, release
from training.fleet.clearing import UnclearUseError
from training.fleet.orders import EXIT_NOT_ALL
from training.fleet.retire import retire
from training.fleet.rollout_screen import Screen


def yes(question: str) -> bool:
    return True


def no(question: str) -> bool:
    return False


def test_retire_clears_what_no_order_names(
    broker: Mosquitto, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What is wanted, and what was before, stays; files that both have stay as well."""
    shared = content(seed=3)
    for version, file in ((2, content(seed=2)), (3, shared), (4, content(seed=4)), (5, shared)):
        pushed(broker, packed(tmp_path, manifest(file, version=version), file))
    # fan@5 is wanted, fan@4 was before; fan@3 has the file of fan@5. Half a push is there, too.
    orphan = "cd" * 32
    for k in (0, 1, 7):
        put(broker, topics.blob(orphan, k), b"x")

    code = retire(access(broker), Screen(), yes)

    releases = kept(broker, topics.every_release())
    chunks = kept(broker, "earshot/1/blob/+/+")
    assert code == 0
    assert set(releases) == {topics.release("fan@4"), topics.release("fan@5")}
    assert {topics.parse(topic).owner for topic in chunks} == {
        file.sha256 for made in (manifest(shared), manifest(content(seed=4))) for file in made.files
    }
    out, err = capsys.readouterr()
    assert out.splitlines()[:2] == ["release fan@2", "release fan@3"]
    assert "cleared 2 releases, 7 chunks" in err


def test_retire_asks_first(broker: Mosquitto, tmp_path: Path) -> None:
    """A no changes nothing."""
    for version in (2, 3, 4):
        pushed(broker, release(tmp_path, version))
    before = kept(broker, "earshot/1/#")

    assert retire(access(broker), Screen(), no) == 0

    assert kept(broker, "earshot/1/#") == before


@pytest.mark.parametrize("signer", [SECOND, STRANGER])
def test_retire_keeps_what_a_foreign_order_names(
    broker: Mosquitto, tmp_path: Path, signer: Signer
) -> None:
    """Nodes may trust a key that we do not know."""
    for version in (2, 3, 4):
        pushed(broker, release(tmp_path, version))
    meant = manifest(content(seed=2), version=2)
    sha256 = hashlib.sha256(encode_manifest(meant)).hexdigest()
    foreign = msgspec.structs.replace(
        order("group:line-2", "fan@2", 5),
        wanted=Wanted(release="fan@2", manifest_sha256=sha256),
    )
    put(broker, topics.desired(foreign.to), sign_desired(foreign, signer))

    assert retire(access(broker), Screen(), yes) == 0

    assert topics.release("fan@2") in kept(broker, topics.every_release())


def test_retire_looks_again_after_the_question(
    broker: Mosquitto, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What somebody orders while a person thinks stays, and so does all else."""
    for version in (2, 3, 4):
        pushed(broker, release(tmp_path, version))

    def ask(question: str) -> bool:
        pushed(broker, tmp_path / "fan@2", "node:press-07")
        return True

    code = retire(access(broker), Screen(), ask)

    assert code == EXIT_NOT_ALL
    assert topics.release("fan@2") in kept(broker, topics.every_release())
    assert len(kept(broker, "earshot/1/blob/+/+")) == 3 * 4
    assert "nothing was cleared: what is in use has changed" in capsys.readouterr().err


def test_retire_sees_a_node_begin_during_the_question(broker: Mosquitto, tmp_path: Path) -> None:
    """As one does that obeys an order which the broker has lost."""
    for version in (2, 3, 4):
        pushed(broker, release(tmp_path, version))

    def ask(question: str) -> bool:
        told = said("press-07", UpdatePhase.DOWNLOADING)
        put(broker, topics.node("press-07", Kind.UPDATE), encode(told))
        return True

    assert retire(access(broker), Screen(), ask) == EXIT_NOT_ALL

    assert topics.release("fan@2") in kept(broker, topics.every_release())


def test_retire_keeps_what_nodes_obey_although_the_broker_has_lost_the_order(
    broker: Mosquitto, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Anybody may clear an order; nodes remember it."""
    with fleet([VirtualNode(broker, "press-a")]):
        pushed(broker, release(tmp_path), waiting=WAITING)
    put(broker, ALL, b"")

    assert retire(access(broker), Screen(), yes) == 0

    assert topics.release("fan@2") in kept(broker, topics.every_release())
    assert len(kept(broker, "earshot/1/blob/+/+")) == 4
    assert "nothing to clear" in capsys.readouterr().err


def test_retire_stops_at_another_manifest_in_the_place_of_an_ordered_one(
    broker: Mosquitto, tmp_path: Path
) -> None:
    """The ordered files are of no release then, and stay."""
    pushed(broker, release(tmp_path))
    forged = sign_manifest(manifest(content(seed=9), version=2), STRANGER)
    put(broker, topics.release("fan@2"), forged)

    with pytest.raises(UnclearUseError, match="names another fan@2 than the broker keeps, which"):
        retire(access(broker), Screen(), yes)

    assert len(kept(broker, "earshot/1/blob/+/+")) == 4


def test_retire_without_a_terminal_wants_a_yes(broker: Mosquitto, tmp_path: Path) -> None:
    """Nobody is there to be asked."""
    for version in (2, 3, 4):
        pushed(broker, release(tmp_path, version))

    asked = run(broker, tmp_path, "retire")
    told = run(broker, tmp_path, "retire", "--yes")

    assert (asked.returncode, asked.stdout.splitlines()[0]) == (2, "release fan@2")
    assert asked.stderr.splitlines()[-1].endswith("there is no terminal to ask in; say --yes")
    assert told.returncode == 0
    assert "cleared 1 release, 4 chunks" in told.stderr
