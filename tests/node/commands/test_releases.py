"""`earshot node releases`: what a node runs and goes back to, in words and for programs."""

import json
import os
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from contract.desired import Desired, Wanted
from contract.states import UpdatePhase
from node.commands import COMMANDS
from node.updates.slots import STATE_NAME, SlotStore
from node.updates.update_state import Refused
from tests.node.updates.packed import NOW_US, fetch, packed, store_at, take_on

ROOT = Path(__file__).parents[3]
FACTORY, SEVEN, EIGHT = packed(1), packed(7), packed(8)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Of a node that has never been started."""
    FACTORY.write(tmp_path / "factory")
    return tmp_path


def releases(root: Path, *arguments: str, keys: bool = True) -> subprocess.CompletedProcess[str]:
    environment = {k: v for k, v in os.environ.items() if not k.startswith("EARSHOT_")}
    settings = {
        "EARSHOT_NODE_ID": "press-07",
        "EARSHOT_NODE_STATE_FOLDER": str(root / "state"),
        **({"EARSHOT_UPDATE_KEYS_FILE": "keys.pem"} if keys else {}),
    }
    return subprocess.run(
        [sys.executable, "-m", "node", "releases", "--model", str(root / "factory"), *arguments],
        cwd=ROOT,
        env=environment | settings,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def shown(root: Path, *arguments: str, keys: bool = True) -> str:
    """What it prints; it writes nothing anywhere."""
    before = everything(root)

    ended = releases(root, *arguments, keys=keys)

    assert ended.stderr == ""
    assert ended.returncode == 0
    assert everything(root) == before
    return ended.stdout


def everything(root: Path) -> dict[Path, bytes | None]:
    return {path: path.read_bytes() if path.is_file() else None for path in root.rglob("*")}


def updated(root: Path) -> SlotStore:
    """A node that runs fan@8 since fan@7, with an order and a refusal."""
    store = store_at(root)
    store.boot()
    for given in (SEVEN, EIGHT):
        take_on(store, given)
    order = Desired(
        at_us=NOW_US,
        to="group:line-2",
        serial=NOW_US,
        wanted=Wanted(release="fan@9", manifest_sha256="9" * 64, threshold=48.5),
        percent=10.0,
        before=Wanted(release="fan@8", manifest_sha256=EIGHT.slot.manifest_sha256),
        allow_older=False,
    )
    store.keep(
        msgspec.structs.replace(
            store.state,
            orders={"group:line-2": order},
            thresholds={EIGHT.slot.manifest_sha256: 3.5},
        )
    )
    store.refuse(
        Refused(
            manifest_sha256="9" * 64,
            serial=NOW_US,
            phase=UpdatePhase.REJECTED,
            reason="its disk is full",
            at_us=NOW_US,
            retry=True,
        )
    )
    return store


def test_command_is_listed() -> None:
    """`earshot node --help` names it."""
    assert "releases" in COMMANDS


def test_node_that_takes_no_updates_says_so(root: Path) -> None:
    """With what is missing; whatever came while it did take some counts no more."""
    updated(root)

    assert shown(root, keys=False).splitlines() == [
        "press-07 takes no updates: [update] keys_file is not set",
        f"It runs {root}/factory",
    ]
    assert json.loads(shown(root, "--json", keys=False))["slots"] == []


def test_node_that_has_never_run_says_so(root: Path) -> None:
    """And what it will start with."""
    assert shown(root).splitlines() == [
        "press-07 takes updates signed with a key of keys.pem",
        f"It has not run with {root}/state/press-07 yet; it will start with {root}/factory",
    ]


def test_everything_is_told_in_words(root: Path) -> None:
    """Slots, counters, orders and refusals, without a number that nobody asked for."""
    store = updated(root)

    lines = shown(root).splitlines()

    releases_folder = root / "state/press-07/releases"
    assert lines[:-1] == [
        "press-07 takes updates signed with a key of keys.pem",
        "",
        f"{'running':<20}  {'fan@8':<24}  {releases_folder / EIGHT.slot.folder_name}",
        f"{'previous':<20}  {'fan@7':<24}  {releases_folder / SEVEN.slot.folder_name}",
        f"{'factory':<20}  {'fan@1':<24}  {root / 'factory'}",
        "",
        "Nothing older is taken unless an order allows it: fan@8",
        "Order for group:line-2: fan@9 with the threshold 48.5 for 10 % of the nodes, fan@8 for"
        f" the others (2026-11-22 14:35:12 UTC, serial {NOW_US})",
        "Threshold 3.5 by order, for fan@8",
        "fan@9 was rejected (2026-11-22 14:35:12 UTC): its disk is full; it is tried again later",
    ]
    assert lines[-1].startswith(
        f"On disk: {store.folders.used_bytes() / 1e6:.1f} MB of releases and"
    )


def test_release_that_is_not_confirmed_is_told(root: Path) -> None:
    """With what happens if it does not stay up."""
    store = store_at(root)
    store.boot()
    store.switch(store.folders.install(SEVEN.manifest_bytes, SEVEN.manifest, fetch(store, SEVEN)))
    store_at(root).boot()

    text = shown(root)

    assert "fan@7 is not confirmed yet; after 3 crashes fan@1 runs again (start 2)" in text
    assert "No order has come yet" in text
    assert f"{'previous and factory':<20}  fan@1 " in text


def test_roll_back_is_told_by_its_name(root: Path) -> None:
    """Also when nothing else names the release any more."""
    store = updated(root)
    store.revert("its trial failed")

    assert "fan@8 was rolled back (2026-11-22 14:35:12 UTC): its trial failed" in shown(root)


def test_broken_release_is_told(root: Path) -> None:
    """Every file of each slot is checked."""
    store = updated(root)
    (store.folders.folder(SEVEN.slot) / "model.tflite").write_bytes(b"")

    text = shown(root)

    assert f"{'':<20}  BROKEN: {store.folders.folder(SEVEN.slot)}: model.tflite: expected" in text
    assert text.count("BROKEN") == 1


def test_json_says_the_same(root: Path) -> None:
    """For programs: keys that stay."""
    store = updated(root)

    found = json.loads(shown(root, "--json"))

    assert found["schema"] == 1
    assert found["node"] == "press-07"
    assert found["takes_updates"] is True
    assert [(slot["names"], slot["release"], slot["problem"]) for slot in found["slots"]] == [
        (["running"], "fan@8", None),
        (["previous"], "fan@7", None),
        (["factory"], "fan@1", None),
    ]
    assert found["slots"][0]["manifest_sha256"] == EIGHT.slot.manifest_sha256
    assert found["state"]["highest"] == {"fan": 8}
    assert found["used_bytes"] == store.folders.used_bytes()
    assert json.loads(shown(root / "nowhere", "--json"))["state"] is None


def test_state_that_cannot_be_used_is_an_error_and_stays(root: Path) -> None:
    """Looking mends nothing: the node does, at its next start."""
    updated(root)
    (root / "state/press-07" / STATE_NAME).write_bytes(b"{}")
    before = everything(root)

    ended = releases(root)

    assert ended.returncode == 2
    assert ended.stderr.startswith(f"earshot node: {root}/state/press-07/updates.json: cannot be")
    assert everything(root) == before
