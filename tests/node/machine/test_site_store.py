"""What a node remembers: whole files, or none, and never a node that does not start for them."""

import functools
import logging
import math
import os
import re
import stat
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
import pytest

from contract.release import Manifest
from contract.states import AlarmRule, CalibrationPhase, MachineState, ThresholdSource
from node.machine.episodes import Episode
from node.machine.limits import Limits
from node.machine.machine_watch import MachineWatch
from node.machine.site import keep_outcome, known_machine, obey
from node.machine.site_store import (
    CalibrationAnswer,
    CalibrationRequest,
    CalibrationStatus,
    Site,
    SiteStore,
    StateFolderError,
)
from node.scoring.release_store import Release
from node.scoring.scorer import Scorer
from node.settings import ModelSection, NodeSection, NodeSettings
from tests.node.observations import calibrated
from tests.rig.fake_inference import FEATURES, RUNTIME, release

EPISODE = Episode(
    id="01JD8Z6W3M9K4T2Q5R7V1X0YBC-17",
    opened_us=17,
    rule=AlarmRule.FAST,
    state=MachineState.ALARM,
    peak_score=3.5,
    windows=4,
    bands_hz=(1000.0,),
    told_us=17,
)
REQUEST = CalibrationRequest(action="start", minutes=60.0, at_us=12)


@functools.cache
def _limits() -> Limits:
    return calibrated(10)[1]


def manifest_of(version: int) -> Manifest:
    return msgspec.structs.replace(release().manifest, version=version)


def site(version: int = 1, *, made_us: int = 5) -> Site:
    manifest = manifest_of(version)
    return Site(
        release=manifest.label,
        models_sha256=manifest.models_sha256,
        made_us=made_us,
        note=f"verified with {version}",
        limits=_limits(),
    )


def test_everything_comes_back(tmp_path: Path) -> None:
    """Another start of the node finds what the one before has kept."""
    kept = site()
    store = SiteStore(tmp_path / "state" / "press-07")
    store.keep_site(kept)
    store.keep_pending(REQUEST)
    store.keep_episode(EPISODE)
    store.keep_status(CalibrationStatus(asked_us=12, phase=CalibrationPhase.ARMED, note=None))

    again = SiteStore(tmp_path / "state" / "press-07")

    assert again.site() == kept
    assert again.pending() == REQUEST
    assert again.episode() == EPISODE
    assert again.status() == CalibrationStatus(asked_us=12, phase=CalibrationPhase.ARMED, note=None)


def test_empty_folder_knows_nothing(tmp_path: Path) -> None:
    """A new node has no calibration, no episode, and nobody has asked it anything."""
    store = SiteStore(tmp_path)

    assert store.site() is None
    assert store.pending() is None
    assert store.episode() is None
    assert store.status() is None
    assert store.take_request() is None


def test_calibration_is_bound_to_its_release(tmp_path: Path) -> None:
    """Another version, or another model under the same name, has to be calibrated anew."""
    kept, manifest = site(), release().manifest

    assert kept.fits(manifest)
    assert not msgspec.structs.replace(kept, release="fake@2").fits(manifest)
    assert not msgspec.structs.replace(kept, models_sha256="0" * 64).fits(manifest)


def test_calibration_of_the_release_before_is_found_again(tmp_path: Path) -> None:
    """A roll-back needs no new calibration, and the one of the newer release stays, too."""
    store = SiteStore(tmp_path)
    store.keep_site(site(1))
    store.keep_site(site(2))

    again = SiteStore(tmp_path)

    assert again.site_for(manifest_of(1)) == site(1)
    assert again.site_for(manifest_of(2)) == site(2)
    assert sorted(file.name for file in tmp_path.iterdir()) == [
        "calibration-previous.json",
        "calibration.json",
    ]


def test_release_without_a_calibration_gets_the_newest_of_another(tmp_path: Path) -> None:
    """By its name the node can say what it was calibrated with."""
    store = SiteStore(tmp_path)
    assert store.site_for(manifest_of(3)) is None
    store.keep_site(site(1))
    store.keep_site(site(2))

    found = store.site_for(manifest_of(3))

    assert found == site(2)
    assert not found.fits(manifest_of(3))


def test_new_calibration_of_a_release_takes_the_place_of_its_old_one(tmp_path: Path) -> None:
    """Wherever that was: after a roll-back it is among the previous ones."""
    store = SiteStore(tmp_path)
    for version in (1, 2):
        store.keep_site(site(version))
    store.keep_site(site(2, made_us=6))
    store.keep_site(site(1, made_us=7))

    assert store.site() == store.site_for(manifest_of(1)) == site(1, made_us=7)
    assert store.previous_sites() == (site(2, made_us=6),)


def test_calibrations_of_three_releases_are_kept(tmp_path: Path) -> None:
    """As many as there are releases on a node; the oldest gives way."""
    store = SiteStore(tmp_path)
    for version in (1, 2, 3, 4):
        store.keep_site(site(version))

    assert store.site() == site(4)
    assert store.previous_sites() == (site(3), site(2))


@pytest.mark.parametrize("version", [1, 2, 3])
def test_only_the_calibration_of_one_release_is_forgotten(tmp_path: Path, version: int) -> None:
    """Those of the others are still there when they run again."""
    store = SiteStore(tmp_path)
    for kept in (1, 2, 3):
        store.keep_site(site(kept))

    store.forget_site(manifest_of(version))

    left = {kept for kept in (1, 2, 3) if store.site_for(manifest_of(kept)) == site(kept)}
    assert left == {1, 2, 3} - {version}


def test_calibration_of_the_release_before_is_on_the_disk_before_it_is_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A power cut between the two files leaves the old calibration twice, not nowhere."""
    store = SiteStore(tmp_path)
    store.keep_site(site(1))
    replace, seen = os.replace, []

    def spy(source: Path, target: Path) -> None:
        replace(source, target)
        seen.append(SiteStore(tmp_path).site_for(manifest_of(1)))

    monkeypatch.setattr(os, "replace", spy)
    store.keep_site(site(2))

    assert seen == [site(1)] * 2


def test_request_is_taken_once(tmp_path: Path) -> None:
    """What was asked for is not done again at the next look."""
    SiteStore(tmp_path).leave_request(REQUEST)
    store = SiteStore(tmp_path)

    assert store.take_request() == REQUEST
    assert store.take_request() is None


READERS: dict[str, Callable[[SiteStore], object]] = {
    "calibration": SiteStore.site,
    "calibration-previous": lambda store: store.previous_sites() or None,
    "calibration-pending": SiteStore.pending,
    "calibration-request": SiteStore.take_request,
    "calibration-answer": SiteStore.answer,
    "calibration-status": SiteStore.status,
    "episode": SiteStore.episode,
}


def write_all(folder: Path) -> SiteStore:
    """Every file that a node may leave."""
    store = SiteStore(folder)
    store.keep_site(site(version=99))
    store.keep_site(site())
    store.keep_pending(REQUEST)
    store.leave_request(REQUEST)
    store.keep_answer(CalibrationAnswer(asked_us=12, done=True, note="calibrates"))
    store.keep_status(CalibrationStatus(asked_us=12, phase=CalibrationPhase.ARMED, note=None))
    store.keep_episode(EPISODE)
    return store


_FIRST_NUMBER = re.compile(rb"(?<=:)\d+(?:\.\d+)?")


def _with_number(number: bytes) -> Callable[[bytes], bytes]:
    """The file as it was, but for its first number."""
    return lambda content: _FIRST_NUMBER.sub(number, content, count=1)


GARBAGE: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda content: b"",
    "cut off": lambda content: content[:-1],
    "twice": lambda content: content * 2,
    "bad UTF-8": lambda content: re.sub(rb'(?<=:")[^"]', b"\xff", content, count=1),
    "bad UTF-8 alone": lambda content: b"\xff\xfe\xfd",
    "60 000 nested lists": lambda content: b"[" * 60_000,
    "60 000 nested lists in it": lambda content: b'{"more":' + b"[" * 60_000,
    "60 000 nested maps in it": lambda content: b'{"more":' * 60_000,
    "NaN": _with_number(b"NaN"),
    "1e999": _with_number(b"1e999"),
    "-1e999": _with_number(b"-1e999"),
    "a number of 5000 digits": _with_number(b"9" * 5000),
    "UTF-16": lambda content: content.decode().encode("utf-16"),
    "zeros": lambda content: bytes(len(content)),
    "zeros at its end": lambda content: content + bytes(512),
    "null": lambda content: b"null",
    "a list": lambda content: b"[]",
    "a map of nothing": lambda content: b"{}",
    "a number": lambda content: b"17",
    "a text": lambda content: b'"normal"',
}


@pytest.mark.parametrize("garbage", GARBAGE)
@pytest.mark.parametrize("name", READERS)
def test_broken_file_is_moved_aside(
    tmp_path: Path, name: str, garbage: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Any of them: the node starts without it, and says so; nothing else is thrown away."""
    write_all(tmp_path)
    path = tmp_path / f"{name}.json"
    content = GARBAGE[garbage](path.read_bytes())
    path.write_bytes(content)
    store = SiteStore(tmp_path)

    found = {reader: read(store) is None for reader, read in READERS.items()}

    assert found == {reader: reader == name for reader in READERS}
    assert path.with_suffix(".broken").read_bytes() == content
    assert not path.exists()
    assert caplog.text.count("cannot be used") == 1
    assert READERS[name](store) is None
    assert caplog.text.count("cannot be used") == 1


def test_file_that_cannot_be_opened_is_left_where_it_is(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """It may be a good one: whoever mends its permissions finds it as it was; told once."""
    (tmp_path / "episode.json").mkdir()

    store = SiteStore(tmp_path)

    assert store.episode() is None
    assert store.episode() is None
    assert (tmp_path / "episode.json").is_dir()
    assert caplog.text.count("cannot be read") == 1


def _centres(limits: Limits) -> Limits:
    return msgspec.structs.replace(limits, centres=((0.0,),))


def _no_centres(limits: Limits) -> Limits:
    return msgspec.structs.replace(limits, centres=())


def _means(limits: Limits) -> Limits:
    return msgspec.structs.replace(limits, mean_features=(0.0, 1.0))


def settings_in(folder: Path) -> NodeSettings:
    return NodeSettings(node=NodeSection(id="press-07"), model=ModelSection(folder=str(folder)))


def usable_site(version: int = 1) -> Site:
    """One of the fake release's own widths."""
    limits = msgspec.structs.replace(
        site().limits,
        centres=((0.0,) * math.prod(FEATURES.shape),),
        mean_features=(0.0,) * FEATURES.shape[0],
    )
    return msgspec.structs.replace(site(version), limits=limits)


def scorer_of(version: int) -> Scorer:
    return Scorer(Release(manifest_of(version), release().files), RUNTIME)


def test_rolled_back_node_is_calibrated_as_it_was(tmp_path: Path) -> None:
    """With the new release it is not; with the one before its limits are in force again."""
    store, settings = SiteStore(tmp_path), settings_in(tmp_path)
    store.keep_site(usable_site(1))

    updated = known_machine(settings, scorer_of(2), store)
    told = updated.threshold_source, updated.note
    store.keep_site(usable_site(2))
    rolled_back = known_machine(settings, scorer_of(1), store)

    assert told == (
        ThresholdSource.RELEASE,
        "calibrated with fake@1, which is not what runs: calibrate again",
    )
    assert rolled_back.limits == usable_site(1).limits
    assert rolled_back.note == "verified with 1"


def test_override_is_passed_on(tmp_path: Path) -> None:
    """It is in force from the first window, and the limits are known beside it."""
    store = SiteStore(tmp_path)
    store.keep_site(usable_site())

    watch = known_machine(settings_in(tmp_path), scorer_of(1), store, override=7.5)

    assert (watch.threshold, watch.threshold_source) == (7.5, ThresholdSource.OVERRIDE)
    assert watch.site_limits == usable_site().limits


def test_calibration_under_an_override_is_kept_as_without(tmp_path: Path) -> None:
    """What was made beside it is there after a restart, with its own note and none of its."""
    store, scorer = SiteStore(tmp_path), scorer_of(1)
    watch = MachineWatch(
        scorer.manifest, limits=usable_site().limits, note="60 blocks", override=7.5
    )

    keep_outcome(watch, store, made_us=9)

    kept = store.site_for(scorer.manifest)
    assert kept is not None
    assert (kept.limits, kept.note) == (usable_site().limits, "60 blocks")


@pytest.mark.parametrize(
    ("override", "words"),
    [(None, "the release's threshold and a vote"), (7.5, "an operator's threshold and a vote")],
)
def test_forgetting_says_what_decides_then(
    tmp_path: Path, override: float | None, words: str
) -> None:
    """The calibration of what runs is gone, that of another release is not."""
    store, settings = SiteStore(tmp_path), settings_in(tmp_path)
    for version in (1, 2):
        store.keep_site(usable_site(version))
    watch = known_machine(settings, scorer_of(2), store, override=override)

    done, note = obey(watch, store, CalibrationRequest(action="forget", at_us=1))

    assert done
    assert note == f"forgotten: {words} decide"
    assert watch.site_limits is None
    assert store.site_for(manifest_of(1)) == store.site_for(manifest_of(2)) == usable_site(1)


@pytest.mark.parametrize("change", [_centres, _no_centres, _means])
def test_limits_of_other_widths_are_not_used(
    tmp_path: Path, change: Callable[[Limits], Limits], caplog: pytest.LogCaptureFixture
) -> None:
    """A valid file that cannot be computed with: the node goes by the release and says so."""
    store, kept = SiteStore(tmp_path), usable_site()
    fitting = kept.limits
    settings = settings_in(tmp_path)
    scorer = Scorer(release(), RUNTIME)
    store.keep_site(kept)
    before = known_machine(settings, scorer, SiteStore(tmp_path))
    store.keep_site(msgspec.structs.replace(kept, limits=change(fitting)))
    after = known_machine(settings, scorer, SiteStore(tmp_path))
    scorer.score(np.ones(FEATURES.window_samples, np.float32))
    judged = after.hear(scorer.evidence, level_dbfs=-30.0)

    assert (before.threshold_source, before.note) == (ThresholdSource.SITE, "verified with 1")
    assert after.limits is None
    assert after.threshold_source is ThresholdSource.RELEASE
    assert after.note is not None
    assert "do not fit the release" in after.note
    assert "do not fit the release" in caplog.text
    assert judged.score is not None


def test_forgotten_is_gone(tmp_path: Path) -> None:
    """Nothing of it comes back."""
    store = SiteStore(tmp_path)
    store.keep_site(site())
    store.keep_episode(EPISODE)
    store.forget_site(release().manifest)
    store.keep_episode(None)

    assert [file.name for file in tmp_path.iterdir()] == []


def test_one_program_holds_the_folder(tmp_path: Path) -> None:
    """A second node of the same id is refused, until the first has ended."""
    first, second = SiteStore(tmp_path), SiteStore(tmp_path)
    with first.locked():
        locked = second.is_locked()
        with pytest.raises(StateFolderError, match="a node already runs on this folder"):
            with second.locked():
                pass

    assert locked
    assert not second.is_locked()


def test_folder_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    """One line that names the setting."""
    (tmp_path / "file").touch()

    with pytest.raises(StateFolderError, match=r"set \[node\] state_folder"):
        SiteStore(tmp_path / "file" / "state")


def test_write_that_fails_does_not_end_the_node(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """With a full or broken disk it hears on, and says once what it will not remember."""
    store = SiteStore(tmp_path)
    # A folder in the way: the rename fails for root, too.
    (tmp_path / "episode.json").mkdir()
    (tmp_path / "episode.json" / "x").touch()
    with caplog.at_level(logging.INFO):
        store.keep_episode(EPISODE)
        store.keep_episode(EPISODE)

    assert caplog.text.count("after a restart the node will not know of it") == 1


def test_node_without_a_folder_remembers_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """It is told once for each file, and for the folder, and nothing of it ends the node."""
    (tmp_path / "file").touch()
    store = SiteStore(tmp_path / "file" / "state", required=False)
    told_at_once = caplog.text.count("until then nothing is remembered")
    for _ in range(2):
        store.keep_site(site())
        store.keep_pending(REQUEST)
        store.keep_answer(CalibrationAnswer(asked_us=12, done=True, note="calibrates"))
        store.keep_episode(EPISODE)
    store.keep_episode(None)
    read = [read(store) for read in READERS.values()]
    with store.locked():
        entered = True

    assert told_at_once == 1
    assert caplog.text.count("after a restart the node will not know of it") == 4
    assert read == [None] * len(READERS)
    assert entered
    assert "cannot be locked" in caplog.text
    with pytest.raises(StateFolderError, match="cannot be written"):
        store.leave_request(REQUEST)


def test_file_is_on_the_disk_before_it_takes_the_place_of_the_old_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its whole content, then its name, then the folder: a power cut leaves the old or the new."""
    store = SiteStore(tmp_path)
    store.keep_episode(EPISODE)
    fsync, replace, unlink = os.fsync, os.replace, os.unlink
    done: list[tuple[str, int, int]] = []

    def spy_fsync(descriptor: int) -> None:
        status = os.fstat(descriptor)
        folder = stat.S_ISDIR(status.st_mode)
        done.append(("folder" if folder else "content", status.st_ino, status.st_size))
        fsync(descriptor)

    def spy_replace(source: Path, target: Path) -> None:
        status = source.stat()
        done.append((target.name, status.st_ino, status.st_size))
        replace(source, target)

    def spy_unlink(path: Path) -> None:
        done.append(("gone", 0, 0))
        unlink(path)

    monkeypatch.setattr(os, "fsync", spy_fsync)
    monkeypatch.setattr(os, "replace", spy_replace)
    monkeypatch.setattr(os, "unlink", spy_unlink)
    store.keep_episode(msgspec.structs.replace(EPISODE, windows=5))
    kept = (tmp_path / "episode.json").stat()
    store.keep_episode(None)

    assert [what for what, _, _ in done] == [
        *("content", "episode.json", "folder"),
        *("gone", "folder"),
    ]
    assert done[0][1:] == done[1][1:] == (kept.st_ino, kept.st_size)
    assert kept.st_size > 100


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077])
def test_folder_and_lock_are_nobody_elses(tmp_path: Path, umask: int) -> None:
    """Whoever could open the lock could keep the program from starting."""
    folder = tmp_path / "state"
    before = os.umask(umask)
    try:
        with SiteStore(folder).locked():
            modes = [stat.S_IMODE(path.stat().st_mode) for path in (folder, folder / "node.lock")]
    finally:
        os.umask(before)

    assert modes == [0o700, 0o600]
