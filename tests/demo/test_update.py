"""The demo's update: which release goes out, and what has to become of it."""

from pathlib import Path

import pytest
from rich.console import Console

from contract.errors import EarshotError
from contract.release import MANIFEST_NAME
from contract.states import UpdatePhase
from demo import update
from demo.summary import NodeSummary
from demo.update import DemoUpdate, Keys
from node.scoring.release_store import read_release
from tests.rig.programs import MODEL

PLANNED = DemoUpdate(trained=MODEL, name="fan", before="fan@1", version=2, refusing="fan-2")


def summary(node: str, model: str, phase: UpdatePhase | None) -> NodeSummary:
    return NodeSummary(
        node=node,
        produced=9,
        stored=9,
        scored=9,
        flagged=0,
        flagged_before_fault=0,
        windows_before_fault=9,
        fault_to_flag_s=None,
        model=model,
        update=phase,
        update_reason=None,
    )


def test_next_version_of_a_model_is_its_small_variant(tmp_path: Path) -> None:
    """Other bytes than those that run: there is something to send."""
    manifest = read_release(MODEL).manifest
    variant = tmp_path / "variants" / "dynamic"
    variant.mkdir(parents=True)
    (variant / MANIFEST_NAME).touch()
    planned = update.plan(tmp_path, manifest, refusing="fan-2")

    assert planned.label == f"{manifest.name}@{manifest.version + 1}"
    assert planned.before == manifest.label
    assert planned.trained == variant


def test_model_without_variants_is_released_again_itself(tmp_path: Path) -> None:
    """`--model` may name any release."""
    planned = update.plan(tmp_path, read_release(MODEL).manifest, refusing="fan-2")

    assert planned.trained == tmp_path


def test_one_node_alone_is_made_to_refuse() -> None:
    """All others judge as they would anywhere, only sooner."""
    keys = Keys(Path("key.pem"), Path("key.pub.pem"))
    bounds = {
        node: update.node_settings(node, PLANNED, keys).get("EARSHOT_UPDATE_MAX_TRIAL_SCORE")
        for node in ("fan-1", "fan-2", "fan-3")
    }

    assert bounds == {"fan-1": None, "fan-2": "0.001", "fan-3": None}


def test_update_that_went_as_meant_is_not_complained_of() -> None:
    """One goes back, the others go on."""
    summaries = [
        summary("fan-1", "fan@2", UpdatePhase.COMMITTED),
        summary("fan-2", "fan@1", UpdatePhase.ROLLED_BACK),
    ]

    assert update.unexpected(PLANNED, summaries) == []


@pytest.mark.parametrize(
    ("node", "model", "phase"),
    [
        ("fan-1", "fan@2", UpdatePhase.TRIAL),
        ("fan-1", "fan@1", UpdatePhase.ROLLED_BACK),
        ("fan-1", "fan@1", UpdatePhase.COMMITTED),
        ("fan-1", "fan@1", None),
        ("fan-2", "fan@2", UpdatePhase.COMMITTED),
        ("fan-2", "fan@2", UpdatePhase.ROLLED_BACK),
        ("fan-2", "fan@1", UpdatePhase.REJECTED),
    ],
)
def test_update_that_went_otherwise_is(node: str, model: str, phase: UpdatePhase | None) -> None:
    """Wherever model or word are not those that were meant; it says whose."""
    (complaint,) = update.unexpected(PLANNED, [summary(node, model, phase)])

    assert complaint.startswith(f"expected {node} to run ")


def test_command_that_fails_ends_the_chapter(tmp_path: Path) -> None:
    """With the exit code that it ended with, after its own words."""
    (tmp_path / "release-key.pem").touch()
    with pytest.raises(EarshotError, match=r"^fleet keys ended with exit code 2, expected 0$"):
        update.create_keys(tmp_path, Console(quiet=True))
