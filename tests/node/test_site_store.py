"""What a node remembers: whole files, or none, and never a node that does not start for them."""

import logging
import os
import stat
from pathlib import Path

import pytest

from contract.messages import AlarmRule, CalibrationPhase, MachineState
from node.episodes import Episode
from node.site_store import (
    CalibrationRequest,
    CalibrationStatus,
    Site,
    SiteStore,
    StateFolderError,
)
from tests.node.fake_inference import release
from tests.node.observations import calibrated

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


def site() -> Site:
    manifest = release().manifest
    return Site(
        release=manifest.label,
        models_sha256=manifest.models_sha256,
        made_us=5,
        note="verified",
        limits=calibrated(10)[1],
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
    assert not Site(**{**_fields(kept), "release": "fake@2"}).fits(manifest)
    assert not Site(**{**_fields(kept), "models_sha256": "0" * 64}).fits(manifest)


def _fields(kept: Site) -> dict[str, object]:
    return {name: getattr(kept, name) for name in kept.__struct_fields__}


def test_request_is_taken_once(tmp_path: Path) -> None:
    """What was asked for is not done again at the next look."""
    SiteStore(tmp_path).leave_request(REQUEST)
    store = SiteStore(tmp_path)

    assert store.take_request() == REQUEST
    assert store.take_request() is None


@pytest.mark.parametrize(
    "content", [b"", b"{", b"\xff\xfe", b"[]", b'{"format": 2}', b'{"format": 1}' * 1000]
)
def test_broken_file_is_moved_aside(
    tmp_path: Path, content: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    """The node starts without it, and says so; nothing is thrown away."""
    (tmp_path / "calibration.json").write_bytes(content)
    store = SiteStore(tmp_path)

    assert store.site() is None
    assert (tmp_path / "calibration.broken").read_bytes() == content
    assert "cannot be used" in caplog.text
    assert store.site() is None


def test_forgotten_is_gone(tmp_path: Path) -> None:
    """Nothing of it comes back."""
    store = SiteStore(tmp_path)
    store.keep_site(site())
    store.keep_episode(EPISODE)
    store.keep_site(None)
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


def test_files_are_the_nodes_own(tmp_path: Path) -> None:
    """No rights are added to what the service's umask leaves."""
    before = os.umask(0o077)
    try:
        store = SiteStore(tmp_path / "state")
        store.keep_episode(EPISODE)
    finally:
        os.umask(before)

    assert stat.S_IMODE((tmp_path / "state" / "episode.json").stat().st_mode) == 0o600
