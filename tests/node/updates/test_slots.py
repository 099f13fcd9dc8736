"""Slots on disk: whatever is cut off or damaged, a node finds a release to run."""

import errno
import logging
import os
import random
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import msgspec
import pytest

from contract.desired import Desired, Wanted
from contract.errors import ReleaseError
from contract.release import (
    MANIFEST_NAME,
    Manifest,
    ReleaseFile,
    decode_manifest,
)
from contract.states import UpdatePhase
from node.scoring.release_store import Release
from node.updates.release_folders import UpdateStoreError
from node.updates.slots import BROKEN_NAME, STATE_NAME, Booted, SlotStore, read_state
from node.updates.update_state import MAX_STARTS, Refused, Slot, UpdateState
from tests.node.updates.packed import NOW_US, Packed, fetch, packed, store_at, take_on
from tests.node.updates.power_cut import Disk, PowerCut

ROOT = Path(__file__).parents[3]
FACTORY, SEVEN, EIGHT, NINE = packed(1), packed(7, large=True), packed(8), packed(9)
FACTORY_SLOT = msgspec.structs.replace(FACTORY.slot, factory=True)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Of a node that has its factory release and nothing else."""
    return new_node(tmp_path / "node")


def new_node(root: Path) -> Path:
    FACTORY.write(root / "factory")
    (root / "state").mkdir()
    return root


def booted(root: Path) -> SlotStore:
    """The node's store after another start of the program."""
    store = store_at(root)
    store.boot()
    return store


def state_folder(root: Path) -> Path:
    return root / "state/press-07"


def everything(root: Path) -> dict[str, bytes]:
    return {str(p.relative_to(root)): p.read_bytes() for p in root.rglob("*") if p.is_file()}


def order(given: Packed, serial: int) -> Desired:
    wanted = Wanted(release=given.slot.release, manifest_sha256=given.slot.manifest_sha256)
    return Desired(
        at_us=serial,
        to="all",
        serial=serial,
        wanted=wanted,
        percent=100.0,
        before=None,
        allow_older=False,
    )


# Starting


def test_new_node_runs_its_factory_release(root: Path) -> None:
    """Nothing has come yet: the release of the settings runs, and its version counts."""
    store = store_at(root)

    found = store.boot()

    assert found == Booted(FACTORY.release, FACTORY_SLOT, None)
    assert store.state == UpdateState(
        factory=FACTORY_SLOT, current=FACTORY_SLOT, previous=None, highest={"fan": 1}
    )


def test_nothing_is_written_at_a_start_that_changes_nothing(root: Path) -> None:
    """A start like the one before does not wear the card."""
    take_on(booted(root), SEVEN)
    before = (state_folder(root) / STATE_NAME).stat()

    booted(root)

    assert (state_folder(root) / STATE_NAME).stat() == before


def test_release_taken_on_runs_from_then_on(root: Path) -> None:
    """Installed, switched to, confirmed: it is what the next start runs, and the last one stays."""
    store = booted(root)
    take_on(store, SEVEN)
    take_on(store, EIGHT)

    again = store_at(root)

    assert again.boot() == Booted(EIGHT.release, EIGHT.slot, None)
    assert again.state.previous == SEVEN.slot
    assert again.state.confirmed
    assert again.state.highest == {"fan": 8}
    assert again.folders.read(SEVEN.slot) == SEVEN.release


def test_versions_count_per_name(root: Path) -> None:
    """Another model's versions are its own."""
    store = booted(root)
    take_on(store, EIGHT)
    take_on(store, packed(2, name="pump"))

    assert booted(root).state.highest == {"fan": 8, "pump": 2}


def test_orders_and_thresholds_come_back(root: Path) -> None:
    """What was obeyed, and what an order said of the threshold, survives a restart."""
    store = booted(root)
    kept = msgspec.structs.replace(
        store.state,
        orders={"all": order(SEVEN, 5)},
        thresholds={SEVEN.slot.manifest_sha256: 48.5},
    )
    store.keep(kept)

    assert booted(root).state == kept
    assert read_state(state_folder(root)) == kept


def test_factory_that_a_person_changed_runs(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Whoever puts another model into the settings' folder hears that one; a way back stays."""
    take_on(booted(root), SEVEN)
    shutil.rmtree(root / "factory")
    given = packed(3)
    given.write(root / "factory")

    store = store_at(root)
    found = store.boot()

    assert found.release == given.release
    assert found.rolled_back is None
    assert store.state.previous == SEVEN.slot
    assert store.state.highest == {"fan": 7}
    assert "another model than at the last start: fan@3 runs in place of fan@7" in caplog.text
    assert store_at(root).boot() == found


def test_factory_in_place_of_a_factory_leaves_no_way_back(root: Path) -> None:
    """The factory's release of before has gone: a roll-back to it would find another."""
    booted(root)
    shutil.rmtree(root / "factory")
    packed(2).write(root / "factory")

    assert booted(root).state.previous is None


def test_unconfirmed_release_is_no_way_back_from_a_new_factory(root: Path) -> None:
    """What has not proven itself is nothing to go back to."""
    store = booted(root)
    take_on(store, SEVEN)
    store.switch(store.folders.install(EIGHT.manifest_bytes, EIGHT.manifest, fetch(store, EIGHT)))
    shutil.rmtree(root / "factory")
    packed(2).write(root / "factory")

    state = booted(root).state

    assert (state.current.release, state.previous) == ("fan@2", SEVEN.slot)
    assert state.confirmed


@pytest.mark.parametrize("what", ["no folder", "a file in its place", "not writable"])
def test_state_folder_that_cannot_be_written_stops_nothing(
    root: Path, what: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The node hears with its factory release, takes no update, and says why."""
    if what == "a file in its place":
        state_folder(root).write_text("")
    elif what == "not writable":
        monkeypatch.setattr(os, "open", _refusing(os.open, "press-07", errno.EROFS))
    else:
        shutil.rmtree(root / "state")
        (root / "state").write_text("")

    store = store_at(root)

    assert store.boot().release == FACTORY.release
    assert "updates.json cannot be written" in caplog.text
    with pytest.raises(UpdateStoreError):
        store.folders.install(SEVEN.manifest_bytes, SEVEN.manifest, SEVEN.write_files(root))
    with pytest.raises(UpdateStoreError):
        store.keep(store.state)
    store.ended_well()
    store.collect()
    assert store.state.current == FACTORY_SLOT


def test_state_that_may_not_be_read_is_left_as_it_is(
    root: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Wrong permissions lose no counters: the factory runs, nothing is written, all comes back."""
    take_on(booted(root), SEVEN)
    before = everything(root)
    with monkeypatch.context() as closed:
        closed.setattr("io.open", _refusing(open, STATE_NAME, errno.EACCES))
        store = store_at(root)

        assert store.boot().release == FACTORY.release
        with pytest.raises(UpdateStoreError, match="cannot be read, and so is not written"):
            store.keep(store.state)

    assert everything(root) == before
    assert "Permission denied; until it can be, no update is taken" in caplog.text
    assert booted(root).state.current == SEVEN.slot


def _refusing(call: Callable[..., object], name: str, number: int) -> Callable[..., object]:
    def refused(path: object, *arguments: object, **options: object) -> object:
        if name in str(path):
            raise OSError(number, os.strerror(number))
        return call(path, *arguments, **options)

    return refused


# Crashes


def test_release_that_brings_the_program_down_is_left(root: Path) -> None:
    """Three crashes without a confirmation, that of the program that switched included."""
    store = booted(root)
    take_on(store, SEVEN)
    store.keep(msgspec.structs.replace(store.state, orders={"all": order(EIGHT, 12)}))
    store.switch(store.folders.install(EIGHT.manifest_bytes, EIGHT.manifest, fetch(store, EIGHT)))

    assert [store_at(root).boot().release for _ in range(MAX_STARTS - 1)] == [EIGHT.release] * 2
    again = store_at(root)
    found = again.boot()

    assert found.release == SEVEN.release
    assert found.rolled_back == Refused(
        manifest_sha256=EIGHT.slot.manifest_sha256,
        release="fan@8",
        serial=12,
        phase=UpdatePhase.ROLLED_BACK,
        reason="the program ended 3 times before the release was confirmed",
        at_us=NOW_US,
        retry=False,
    )
    assert again.state.refused == (found.rolled_back,)
    assert again.state.confirmed
    assert again.state.previous is None
    assert again.state.highest == {"fan": 7}
    # And it is told once.
    assert store_at(root).boot() == Booted(SEVEN.release, SEVEN.slot, None)


def test_start_is_counted_before_anything_is_loaded(root: Path) -> None:
    """A model that ends the process while it is loaded has had its start."""
    store = booted(root)
    store.switch(store.folders.install(SEVEN.manifest_bytes, SEVEN.manifest, fetch(store, SEVEN)))

    store_at(root).boot()

    kept = read_state(state_folder(root))
    assert kept is not None
    assert kept.starts == 2


def test_clean_ends_do_not_count(root: Path) -> None:
    """A service that is restarted ten times has not crashed."""
    store = booted(root)
    store.switch(store.folders.install(SEVEN.manifest_bytes, SEVEN.manifest, fetch(store, SEVEN)))
    store.ended_well()

    for _ in range(10):
        store = store_at(root)
        assert store.boot().release == SEVEN.release
        store.ended_well()

    assert store.state.starts == 0


def test_clean_end_takes_back_its_own_start_alone(root: Path) -> None:
    """One that is told twice takes no crash of an earlier start back."""
    store = booted(root)
    store.switch(store.folders.install(SEVEN.manifest_bytes, SEVEN.manifest, fetch(store, SEVEN)))
    booted(root)
    store = booted(root)

    store.ended_well()
    store.ended_well()

    assert store.state.starts == 2
    # A new switch begins anew.
    store.switch(store.folders.install(EIGHT.manifest_bytes, EIGHT.manifest, fetch(store, EIGHT)))
    store.ended_well()
    assert store.state.starts == 0


def test_trial_that_brings_the_program_down_is_left(root: Path) -> None:
    """What is tried runs within the program: three crashes, and it is not tried again."""
    store = booted(root)
    take_on(store, SEVEN)
    store.keep(msgspec.structs.replace(store.state, orders={"all": order(EIGHT, 12)}))
    slot = store.folders.install(EIGHT.manifest_bytes, EIGHT.manifest, fetch(store, EIGHT))
    store.begin_trial(slot)

    for _ in range(MAX_STARTS - 1):
        store = store_at(root)
        assert store.boot() == Booted(SEVEN.release, SEVEN.slot, None)
        store.begin_trial(slot)
    found = store_at(root).boot()
    after = booted(root).state

    assert found.release == SEVEN.release
    assert found.rolled_back is not None
    assert found.rolled_back.reason == "the program ended 3 times during its trial"
    assert (
        found.rolled_back.manifest_sha256,
        found.rolled_back.serial,
        found.rolled_back.retry,
    ) == (
        EIGHT.slot.manifest_sha256,
        12,
        False,
    )
    assert (after.trying, after.starts, after.current) == (None, 0, SEVEN.slot)


def test_trials_that_end_do_not_count(root: Path) -> None:
    """Neither by a verdict, nor because the program was told to end."""
    store = booted(root)
    slot = store.folders.install(SEVEN.manifest_bytes, SEVEN.manifest, fetch(store, SEVEN))
    for _ in range(MAX_STARTS + 1):
        store.begin_trial(slot)
        store.ended_well()
        store = booted(root)
        assert store.state.trying == slot
        store.end_trial()

    assert (store.state.trying, store.state.starts, store.state.refused) == (None, 0, ())


def test_release_that_the_library_cannot_load_is_passed_over(root: Path) -> None:
    """Also one that is confirmed: a node must hear, whatever became of its library."""
    store = booted(root)
    take_on(store, SEVEN)
    found = store.pass_over("cannot load this model")

    assert (found.release, found.slot) == (FACTORY.release, FACTORY_SLOT)
    assert found.rolled_back is not None
    assert found.rolled_back.retry
    assert booted(root).state.current == FACTORY_SLOT
    with pytest.raises(UpdateStoreError, match="no release that could be gone back to"):
        booted(root).pass_over("nor this")


def test_onlooker_finds_what_runs_and_changes_nothing(root: Path) -> None:
    """The current release; else whatever can be read, as boot would find it."""
    store = booted(root)
    take_on(store, SEVEN)
    store.switch(store.folders.install(EIGHT.manifest_bytes, EIGHT.manifest, fetch(store, EIGHT)))
    before = (state_folder(root) / "updates.json").read_bytes()
    current = store_at(root).look()
    (store.folders.folder(EIGHT.slot) / "model.tflite").write_bytes(b"")
    previous = store_at(root).look()

    assert (current, previous) == (EIGHT.release, SEVEN.release)
    assert (state_folder(root) / "updates.json").read_bytes() == before
    (state_folder(root) / "updates.json").write_bytes(b"")
    assert store_at(root).look() == FACTORY.release
    shutil.rmtree(root / "factory")
    assert store_at(root).look() == SEVEN.release


def test_confirmed_release_may_crash(root: Path) -> None:
    """Its starts are not counted: there is no reason to believe the one before were better."""
    take_on(booted(root), SEVEN)

    for _ in range(MAX_STARTS + 2):
        assert store_at(root).boot().release == SEVEN.release


def test_start_that_cannot_be_counted_goes_back(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a full disk a release that crashes would do so for ever."""
    store = booted(root)
    store.switch(store.folders.install(SEVEN.manifest_bytes, SEVEN.manifest, fetch(store, SEVEN)))
    with monkeypatch.context() as full:
        full.setattr(os, "open", _refusing(os.open, STATE_NAME, errno.ENOSPC))

        found = store_at(root).boot()

    assert found.release == FACTORY.release
    assert found.rolled_back is not None
    assert found.rolled_back.retry
    assert "No space left on device" in found.rolled_back.reason
    assert store_at(root).boot().release == SEVEN.release


# Changing


def test_installing_changes_nothing_that_runs(root: Path) -> None:
    """A release that lies there is run by nobody before the switch."""
    store = booted(root)

    slot = store.folders.install(SEVEN.manifest_bytes, SEVEN.manifest, fetch(store, SEVEN))

    assert slot == SEVEN.slot
    assert store.folders.read(slot) == SEVEN.release
    assert booted(root).state == store.state
    assert store.state.current == FACTORY_SLOT


def test_same_release_again_is_success(root: Path) -> None:
    """Retained messages come again: what is whole stays as it is."""
    store = booted(root)
    files = fetch(store, SEVEN)
    store.folders.install(SEVEN.manifest_bytes, SEVEN.manifest, files)
    before = everything(root)

    assert store.folders.install(SEVEN.manifest_bytes, SEVEN.manifest, {}) == SEVEN.slot
    assert everything(root) == before


def test_damaged_release_is_installed_anew(root: Path) -> None:
    """What a disk has spoilt gets whole by the same order."""
    store = booted(root)
    take_on(store, SEVEN)
    (store.folders.folder(SEVEN.slot) / "model.tflite").write_bytes(b"")

    store.folders.install(SEVEN.manifest_bytes, SEVEN.manifest, SEVEN.write_files(root))

    assert store.folders.read(SEVEN.slot) == SEVEN.release
    assert len(list((state_folder(root) / "releases").iterdir())) == 1


def test_wrong_files_are_not_installed(root: Path) -> None:
    """Files are checked where they will lie, and leave nothing when they are wrong."""
    store = booted(root)
    files = SEVEN.write_files(root)
    files["model.tflite"].write_bytes(b"{}")
    before = everything(root)

    with pytest.raises(ReleaseError, match=r"model\.tflite: expected \d+ bytes, got 2"):
        store.folders.install(SEVEN.manifest_bytes, SEVEN.manifest, files)

    assert everything(root) == before
    with pytest.raises(ReleaseError):
        store.folders.read(SEVEN.slot)


def test_manifest_that_is_not_the_bytes_is_not_installed(root: Path) -> None:
    """What is checked is what is written."""
    store = booted(root)

    with pytest.raises(ReleaseError, match="another manifest"):
        store.folders.install(EIGHT.manifest_bytes, SEVEN.manifest, SEVEN.write_files(root))


def test_release_that_is_not_there_is_not_switched_to(root: Path) -> None:
    """The state never names what a start would not find."""
    store = booted(root)

    with pytest.raises(ReleaseError, match="expected a release folder"):
        store.switch(SEVEN.slot)

    assert store.state.current == FACTORY_SLOT


def test_switching_to_what_runs_changes_nothing(root: Path) -> None:
    """It stays confirmed, and keeps its way back."""
    store = booted(root)
    take_on(store, SEVEN)
    before = store.state

    store.switch(SEVEN.slot)

    assert store.state == before


def test_second_switch_before_the_confirmation_keeps_the_way_back(root: Path) -> None:
    """Two pushes race: what a roll-back goes to is what had proven itself."""
    store = booted(root)
    take_on(store, SEVEN)
    for given in (EIGHT, NINE):
        store.switch(
            store.folders.install(given.manifest_bytes, given.manifest, fetch(store, given))
        )

    assert (store.state.current, store.state.previous) == (NINE.slot, SEVEN.slot)
    assert store.revert("no broker") == SEVEN.slot


def test_step_back_keeps_the_counter(root: Path) -> None:
    """After an order that allows it, an older release runs; what was reached is not forgotten."""
    store = booted(root)
    take_on(store, NINE)
    take_on(store, SEVEN)

    assert booted(root).state.highest == {"fan": 9}


def test_roll_back_returns_to_the_release_before(root: Path) -> None:
    """And remembers what was left, so that it is not taken on again at once."""
    store = booted(root)
    take_on(store, SEVEN)
    store.keep(msgspec.structs.replace(store.state, orders={"all": order(EIGHT, 4)}))
    store.switch(store.folders.install(EIGHT.manifest_bytes, EIGHT.manifest, fetch(store, EIGHT)))

    assert store.revert("the broker was not reached", retry=True) == SEVEN.slot

    again = store_at(root)
    assert again.boot() == Booted(SEVEN.release, SEVEN.slot, None)
    (refused,) = again.state.refused
    assert (refused.serial, refused.retry, refused.phase) == (4, True, UpdatePhase.ROLLED_BACK)
    assert refused.reason == "the broker was not reached"
    assert again.state.highest == {"fan": 7}


def test_roll_back_passes_over_what_cannot_be_read(root: Path) -> None:
    """With the release before spoilt, it is the factory's."""
    store = booted(root)
    take_on(store, SEVEN)
    take_on(store, EIGHT)
    shutil.rmtree(store.folders.folder(SEVEN.slot))

    assert store.revert("asked to") == FACTORY_SLOT
    assert booted(root).state.current == FACTORY_SLOT


def test_roll_back_needs_a_release_before(root: Path) -> None:
    """After one roll-back there is no second."""
    store = booted(root)
    take_on(store, SEVEN)
    store.revert("asked to")
    before = store.state

    with pytest.raises(UpdateStoreError, match="fan@1: there is no release to go back to"):
        store.revert("asked to")

    assert store.state == before


def test_refusals_are_bounded_and_the_newest_of_a_release_counts(root: Path) -> None:
    """A release that is refused each hour fills no file."""
    store = booted(root)
    for number in range(40):
        store.refuse(refusal(f"{number % 20:064x}", serial=number))

    kept = booted(root).state.refused

    assert [refused.serial for refused in kept] == list(range(24, 40))


def refusal(sha256: str, *, serial: int) -> Refused:
    return Refused(
        manifest_sha256=sha256,
        serial=serial,
        phase=UpdatePhase.REJECTED,
        reason="its statistic is off",
        at_us=NOW_US,
        retry=False,
    )


# Clearing


def test_what_nothing_refers_to_goes(root: Path) -> None:
    """Old releases, unfinished ones and downloads; never what runs and what it goes back to."""
    store = booted(root)
    for given in (SEVEN, EIGHT, NINE):
        take_on(store, given)
    releases = state_folder(root) / "releases"
    (releases / ".fan-3-0123.part").mkdir()
    (releases / "note.txt").write_text("")
    (releases / "link").symlink_to(root / "factory")
    store.folders.downloads.mkdir(exist_ok=True)
    for name in ("aa", "bb"):
        (store.folders.downloads / f"{name}.part").write_bytes(b"123")
    extra = store.folders.install(SEVEN.manifest_bytes, SEVEN.manifest, SEVEN.write_files(root))

    store.collect(keep_downloads={"bb"}, keep_slots=[extra])

    assert {path.name for path in releases.iterdir()} == {
        slot.folder_name for slot in (SEVEN.slot, EIGHT.slot, NINE.slot)
    }
    assert [path.name for path in store.folders.downloads.iterdir()] == ["bb.part"]
    store.collect()
    assert {path.name for path in releases.iterdir()} == {
        slot.folder_name for slot in (EIGHT.slot, NINE.slot)
    }
    assert (root / "factory" / MANIFEST_NAME).exists()


@pytest.mark.parametrize("seed", range(30))
def test_current_and_previous_are_never_cleared(tmp_path: Path, seed: int) -> None:
    """After any run of switches, confirmations, roll-backs and restarts both can be read."""
    chance = random.Random(seed)
    root = new_node(tmp_path / "node")
    store = booted(root)
    given = [packed(version) for version in range(2, 6)]
    for _ in range(25):
        one = chance.choice(given)
        action = chance.choice(["take", "switch", "confirm", "revert", "collect", "restart"])
        if action == "take":
            take_on(store, one)
        elif action == "switch":
            store.switch(store.folders.install(one.manifest_bytes, one.manifest, fetch(store, one)))
        elif action == "confirm":
            store.confirm()
        elif action == "revert":
            with suppress(UpdateStoreError):
                store.revert("chance")
        elif action == "collect":
            store.collect()
        else:
            store = booted(root)

        for slot in store.state.slots:
            assert store.folders.read(slot).manifest.label == slot.release
        assert store.state.previous != store.state.current


def test_disk_use_is_told(root: Path) -> None:
    """Releases and downloads count; what else lies in the state folder does not."""
    store = booted(root)
    assert store.folders.used_bytes() == 0

    take_on(store, SEVEN)

    assert store.folders.used_bytes() == len(SEVEN.manifest_bytes) + sum(
        len(content) for content in SEVEN.release.files.values()
    )
    assert store.folders.free_bytes() > 0


def test_file_that_is_here_is_found(root: Path) -> None:
    """In any release, under any name, by its content; also the factory's."""
    store = booted(root)
    take_on(store, SEVEN)
    shared, own = SEVEN.manifest.file("model-1.tflite"), SEVEN.manifest.file("model.tflite")
    renamed = msgspec.structs.replace(own, name="other.tflite")

    assert store.folders.find_file(renamed) == store.folders.folder(SEVEN.slot) / "model.tflite"
    assert store.folders.find_file(shared) is not None
    assert (
        store.folders.find_file(FACTORY.manifest.file("model.tflite"))
        == root / "factory/model.tflite"
    )
    assert store.folders.find_file(EIGHT.manifest.file("model.tflite")) is None


def test_damaged_file_is_not_found(root: Path) -> None:
    """Its content is read anew, and its size alone says nothing."""
    store = booted(root)
    take_on(store, SEVEN)
    file = SEVEN.manifest.file("model.tflite")
    (store.folders.folder(SEVEN.slot) / file.name).write_bytes(bytes(file.size_bytes))

    assert store.folders.find_file(file) is None


# Names


@pytest.mark.parametrize(
    "name",
    ["../x", "/etc/passwd", "a/b", ".hidden", "", "..", "a\0b", "a\nb", "a" * 65, "x\\y/..", "é"],
)
def test_names_that_lead_elsewhere_are_in_no_manifest(name: str) -> None:
    """What becomes a path is checked when the manifest is read: files, release names, hashes."""
    manifest = SEVEN.manifest
    file = manifest.files[0]
    model = msgspec.structs.replace(manifest.models[0], file=name)
    changed: tuple[dict[str, object], ...] = (
        {"files": (msgspec.structs.replace(file, name=name), *manifest.files[1:])},
        {"models": (model, *manifest.models[1:])},
        {"name": name},
        {"files": (msgspec.structs.replace(file, sha256=name), *manifest.files[1:])},
    )
    for change in changed:
        with pytest.raises(ReleaseError):
            decode_manifest(_unchecked(manifest, change))
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert({"release": f"{name}@1", "manifest_sha256": "0" * 64}, Slot)
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert({"release": "fan@1", "manifest_sha256": name}, Slot)
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert({"name": "x", "sha256": name, "size_bytes": 1}, ReleaseFile)


def _unchecked(manifest: Manifest, change: dict[str, object]) -> bytes:
    return msgspec.json.encode(msgspec.structs.asdict(manifest) | change)


# A full disk


@contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    """As on a disk that is full: the kernel refuses to write more into a file."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("room", [0, 100, 40_000])
def test_full_disk_refuses_an_installation_and_leaves_nothing(root: Path, room: int) -> None:
    """The node goes on as it was, and takes the release when there is room again."""
    store = booted(root)
    files = SEVEN.write_files(root)
    before = everything(root)

    with (
        files_of_at_most(room),
        pytest.raises(UpdateStoreError, match=r"File too large.*cannot be written"),
    ):
        store.folders.install(SEVEN.manifest_bytes, SEVEN.manifest, files)

    assert everything(root) == before
    store.folders.install(SEVEN.manifest_bytes, SEVEN.manifest, files)


def test_full_disk_names_what_is_free(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error says what a person has to look at."""
    store = booted(root)
    monkeypatch.setattr(os, "open", _refusing(os.open, STATE_NAME, errno.ENOSPC))

    with pytest.raises(
        UpdateStoreError, match=r"No space .* \([\d.]+ MB free\): .*updates.json cannot be written"
    ):
        store.keep(store.state)


def test_full_disk_keeps_the_state_as_it_was(root: Path) -> None:
    """Neither a switch nor a confirmation happens by half; what is refused is known in memory."""
    store = booted(root)
    slot = store.folders.install(SEVEN.manifest_bytes, SEVEN.manifest, fetch(store, SEVEN))
    before, on_disk = store.state, everything(root)

    with files_of_at_most(10):
        with pytest.raises(UpdateStoreError):
            store.switch(slot)
        with pytest.raises(UpdateStoreError):
            store.confirm()
        assert store.state == before
        store.refuse(refusal("0" * 64, serial=2))

    assert everything(root) == on_disk
    assert store.state.refused


def test_full_disk_does_not_keep_a_node_from_rolling_back(root: Path) -> None:
    """What runs must not depend on the disk; a later start finds its way by counting."""
    store = booted(root)
    take_on(store, SEVEN)
    store.switch(store.folders.install(EIGHT.manifest_bytes, EIGHT.manifest, fetch(store, EIGHT)))

    with files_of_at_most(10):
        assert store.revert("too slow") == SEVEN.slot
        assert store.state.current == SEVEN.slot
        # Not one start of the release that was left is made that cannot be counted.
        assert store_at(root).boot().release == SEVEN.release


# Power cuts and damage


def life(root: Path, reached: list[str]) -> None:
    """Two updates, each with a restart between switch and confirmation, as an updater does them.

    Args:
        root: of the node; whatever has been done before is not done again.
        reached: what is on disk for certain is added.
    """
    store = booted(root)
    for given in (SEVEN, EIGHT):
        if store.state.highest["fan"] >= given.manifest.version:
            continue
        if store.state.current != given.slot:
            slot = store.folders.install(given.manifest_bytes, given.manifest, fetch(store, given))
            store.switch(slot)
            reached.append(f"switched {given.slot.release}")
        store.ended_well()
        store = booted(root)
        store.confirm()
        reached.append(f"confirmed {given.slot.release}")


MAY_RUN = {
    None: (FACTORY, SEVEN),
    "switched fan@7": (SEVEN,),
    "confirmed fan@7": (SEVEN, EIGHT),
    "switched fan@8": (EIGHT,),
    "confirmed fan@8": (EIGHT,),
}
HIGHEST = {None: 1, "switched fan@7": 1, "confirmed fan@7": 7, "switched fan@8": 7}


def count_of_calls(tmp_path: Path) -> int:
    root = new_node(tmp_path / "counting")
    with pytest.MonkeyPatch.context() as patched:
        disk = Disk(root, patched)
        life(root, [])
    return disk.calls


@pytest.mark.parametrize("seed", range(4))
def test_power_cut_at_any_call_leaves_a_release_to_run(tmp_path: Path, seed: int) -> None:
    """Old or new, whole, no counter lower; and what was begun can be brought to its end."""
    calls = count_of_calls(tmp_path)
    assert calls > 50, "expected to cut in many places"
    chance = random.Random(seed)
    for cut_before in range(calls):
        before = new_node(tmp_path / f"before-{cut_before}")
        reached: list[str] = []
        with pytest.MonkeyPatch.context() as patched:
            disk = Disk(before, patched, cut_before=cut_before)
            with pytest.raises(PowerCut):
                life(before, reached)
        after = tmp_path / f"after-{cut_before}"
        disk.aftermath(after, chance)

        store = store_at(after)
        found = store.boot()

        last = reached[-1] if reached else None
        where = f"call {cut_before}, after {last}"
        assert found.release in [given.release for given in MAY_RUN[last]], where
        assert found.rolled_back is None, where
        assert store.state.highest["fan"] >= HIGHEST.get(last, 8), where
        assert not (state_folder(after) / BROKEN_NAME).exists(), where
        life(after, [])
        assert booted(after).state.current == EIGHT.slot, where
        shutil.rmtree(before)
        shutil.rmtree(after)


def test_disk_of_this_test_loses_what_was_not_forced_there(tmp_path: Path) -> None:
    """A file that is written without care does not survive the cuts that ours does."""
    root = tmp_path / "root"
    root.mkdir()
    (root / "state").write_bytes(b"before")
    found = set()
    for seed in range(40):
        with pytest.MonkeyPatch.context() as patched:
            disk = Disk(root, patched)
            (root / "careless").write_bytes(b"written")
            Path(root / "careless").replace(root / "state")
            disk.aftermath(tmp_path / str(seed), random.Random(seed))
        found.add((tmp_path / str(seed) / "state").read_bytes())
        (root / "state").write_bytes(b"before")

    assert b"before" in found
    assert b"written" in found
    assert any(content not in (b"before", b"written") for content in found)


def damage(path: Path, chance: random.Random) -> None:
    content = bytearray(path.read_bytes())
    kind = chance.choice(["flip", "flip", "cut", "zero", "longer", "gone", "folder"])
    if kind == "flip" and content:
        content[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
    elif kind == "cut":
        del content[chance.randrange(len(content) + 1) :]
    elif kind == "zero":
        content[:] = bytes(len(content))
    elif kind == "longer":
        content += chance.randbytes(chance.randint(1, 100))
    else:
        path.unlink()
        if kind == "folder":
            path.mkdir()
        return
    path.write_bytes(content)


@pytest.fixture(scope="module")
def grown(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A node that runs its third release."""
    root = new_node(tmp_path_factory.mktemp("grown") / "node")
    life(root, [])
    store = booted(root)
    store.folders.downloads.mkdir(exist_ok=True)
    (store.folders.downloads / f"{NINE.manifest.files[0].sha256}.part").write_bytes(b"half of it")
    return root


@pytest.mark.parametrize("seed", range(100))
def test_one_damaged_file_costs_no_more_than_one_slot(
    tmp_path: Path, grown: Path, seed: int
) -> None:
    """A whole release runs, the counter stays, and the order that comes again mends the rest."""
    chance = random.Random(seed)
    root = tmp_path / "node"
    shutil.copytree(grown, root)
    hurt = chance.choice(sorted(path for path in root.rglob("*") if path.is_file()))
    damage(hurt, chance)

    store = store_at(root)
    found = store.boot()

    assert found.release in (FACTORY.release, SEVEN.release, EIGHT.release)
    assert store.state.highest["fan"] == 8
    if hurt.name != STATE_NAME and store.folders.folder(EIGHT.slot) != hurt.parent:
        assert found.release == EIGHT.release
    take_on(store, EIGHT)
    assert store_at(root).boot().release == EIGHT.release


@pytest.mark.parametrize("seed", range(100))
def test_much_damage_leaves_a_release_while_one_is_whole(
    tmp_path: Path, grown: Path, seed: int
) -> None:
    """Whatever is hurt: what runs is whole, and only where nothing is, the node gives up."""
    chance = random.Random(seed)
    root = tmp_path / "node"
    shutil.copytree(grown, root)
    for _ in range(chance.randint(2, 12)):
        damage(chance.choice(sorted(p for p in root.rglob("*") if p.is_file())), chance)
    store = store_at(root)
    whole = [_read(store, slot) for slot in (FACTORY_SLOT, SEVEN.slot, EIGHT.slot)]

    if any(whole):
        assert store.boot().release in whole
        assert store_at(root).boot().release in whole
    else:
        with pytest.raises(ReleaseError):
            store.boot()


def _read(store: SlotStore, slot: Slot) -> Release | None:
    try:
        return store.folders.read(slot)
    except ReleaseError:
        return None


@pytest.mark.parametrize(
    "content",
    [b"", b"{}", b"\xff\xfe", b"[" * 100_000, b'{"sha256":"","state":{}}', b"null"],
    ids=["empty", "no keys", "not UTF-8", "nested", "wrong digest", "null"],
)
def test_state_that_cannot_be_used_is_moved_aside(
    root: Path, content: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    """The factory runs, whoever looks finds what was there, and versions are not forgotten."""
    take_on(booted(root), SEVEN)
    (state_folder(root) / STATE_NAME).write_bytes(content)

    store = store_at(root)

    assert store.boot().release == FACTORY.release
    assert store.state.highest == {"fan": 7}
    assert (state_folder(root) / BROKEN_NAME).read_bytes() == content
    assert "it is now updates.broken, and the factory's release runs" in caplog.text
    caplog.clear()
    assert store_at(root).boot().release == FACTORY.release
    assert "updates" not in caplog.text


def test_version_that_was_tampered_with_is_not_believed(root: Path) -> None:
    """One wrong bit may make a lower version, and still be JSON."""
    take_on(booted(root), SEVEN)
    path = state_folder(root) / STATE_NAME
    changed = path.read_bytes().replace(b'"highest":{"fan":7}', b'"highest":{"fan":3}')
    assert changed != path.read_bytes()
    path.write_bytes(changed)

    with pytest.raises(UpdateStoreError, match="is not what was written there"):
        read_state(state_folder(root))
    assert booted(root).state.highest == {"fan": 7}


def test_damaged_release_may_come_again(root: Path) -> None:
    """It was lost by the disk, not refused by the node: an order for it counts again later."""
    store = booted(root)
    take_on(store, SEVEN)
    store.keep(msgspec.structs.replace(store.state, orders={"all": order(SEVEN, 12)}))
    (store.folders.folder(SEVEN.slot) / "model.tflite").unlink()

    found = store_at(root).boot()

    assert found.release == FACTORY.release
    assert found.rolled_back is not None
    assert (found.rolled_back.serial, found.rolled_back.retry) == (12, True)
    assert "cannot read model.tflite" in found.rolled_back.reason


def test_broken_factory_matters_only_where_nothing_else_is(root: Path) -> None:
    """A node that runs a pushed release goes on; a new one cannot start, and says why."""
    new = new_node(root / "new")
    shutil.rmtree(new / "factory")
    with pytest.raises(ReleaseError, match="factory"):
        store_at(new).boot()

    take_on(booted(root), SEVEN)
    shutil.rmtree(root / "factory")
    assert store_at(root).boot() == Booted(SEVEN.release, SEVEN.slot, None)

    (state_folder(root) / STATE_NAME).unlink()
    assert store_at(root).boot().release == SEVEN.release


def test_read_refuses_another_manifest_under_the_same_name(root: Path) -> None:
    """A slot is a manifest, not a name: the folder's is compared byte by byte."""
    store = booted(root)
    take_on(store, SEVEN)
    path = store.folders.folder(SEVEN.slot) / MANIFEST_NAME
    path.write_bytes(path.read_bytes() + b"\n")

    with pytest.raises(ReleaseError, match=r"expected fan@7 with the manifest \w{12}, got fan@7"):
        store.folders.read(SEVEN.slot)


def test_slots_need_no_cryptography(root: Path) -> None:
    """12 MB of memory that a node without updates does not have to spend."""
    script = (
        "import sys, node.updates.slots, node.updates.download, node.updates.self_test;"
        "sys.exit('cryptography' in sys.modules)"
    )

    subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=True, timeout=60)


def test_logs_name_no_update_where_all_is_well(
    root: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Nothing is logged above DEBUG by starts and updates that go well."""
    with caplog.at_level(logging.DEBUG):
        life(root, [])
        booted(root)

    assert not [record for record in caplog.records if record.name.startswith("node.updates")]
