"""Why nodes cannot run a release."""

from tests.rig.signers import SIGNER
from tests.rig.virtual_nodes import birth
from tests.training.fleet.operating import (
    OURS,
    known,
)
from tests.training.packed import content, manifest
from training.fleet.fleet import Fleet
from training.fleet.obstacles import obstacles


def test_another_release_of_the_same_label_is_an_obstacle() -> None:
    """The node's models are not those of this manifest: a version is given once."""
    seen, file = Fleet(OURS), content()
    made = manifest(file, version=2)
    known(seen, birth("same", model="fan@2", model_sha256=made.models_sha256))
    known(seen, birth("other", model="fan@2", model_sha256="1" * 64))

    found = obstacles(seen, "all", made, signing_key=SIGNER.key_id)

    assert [each.node for each in found] == ["other"]
    assert "give this one version 3" in found[0].reason


def test_an_older_release_is_no_obstacle_to_a_rollback() -> None:
    """It is what a roll-back is for."""
    seen, made = Fleet(OURS), manifest(content(), version=2)
    known(seen, birth("a", model="fan@5"))

    blocked = obstacles(seen, "all", made, signing_key=SIGNER.key_id)
    allowed = obstacles(seen, "all", made, signing_key=SIGNER.key_id, allow_older=True)

    assert len(blocked) == 1
    assert allowed == []
