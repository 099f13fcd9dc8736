"""Updates in the thread that hears: what proves a release, and what does not."""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from contract.errors import KeyFileError
from contract.messages import Update
from contract.release import encode_manifest
from contract.states import UpdatePhase
from node.delivery.publisher import Answer
from node.ear import Ear
from node.machine.site import known_machine
from node.machine.site_store import SiteStore
from node.scoring.runtime import find_runtime
from node.scoring.scorer import Scorer
from node.settings import load_settings
from node.updates.live import LiveUpdates
from node.updates.slots import SlotStore
from tests.rig.examples import BOOT
from tests.rig.fake_broker import FakeBroker
from tests.rig.fake_source import Sound
from tests.rig.shelf import packed
from tests.rig.signers import SIGNER
from tests.rig.waiting import wait_until
from training.release.release_folder import put_release

CONFIRM_WINDOWS = 4


class Hearing:
    """A node's hearing half: an ear, and the updates beside it."""

    def __init__(self, folder: Path, keys: bytes = SIGNER.public_pem) -> None:
        if not (folder / "factory").exists():
            put_release(folder / "factory", packed(1))
        (folder / "keys.pem").write_bytes(keys)
        settings = load_settings(
            None,
            {
                "EARSHOT_NODE_ID": "press-07",
                "EARSHOT_NODE_STATE_FOLDER": str(folder),
                "EARSHOT_MODEL_FOLDER": str(folder / "factory"),
                "EARSHOT_UPDATE_KEYS_FILE": str(folder / "keys.pem"),
                "EARSHOT_UPDATE_CONFIRM_WINDOWS": str(CONFIRM_WINDOWS),
            },
        )
        runtime = find_runtime()
        self.updates = LiveUpdates(settings, runtime, now_us=lambda: time.time_ns() // 1000)
        scorer = Scorer(self.updates.release, runtime)
        watch = known_machine(settings, scorer, SiteStore(settings.state_folder))
        self.ear = Ear(Sound([], sample_rate_hz=16_000), scorer, watch)
        self.told: list[Update | Answer] = []
        self.updates.begin(self.ear, boot=BOOT, broker=FakeBroker(), tell=self.told.append)

    def committed(self) -> bool:
        return any(isinstance(u, Update) and u.phase is UpdatePhase.COMMITTED for u in self.told)


@pytest.fixture
def hearing(tmp_path: Path) -> Iterator[Hearing]:
    """With a release that has passed its trial and has not proven itself."""
    store = SlotStore(tmp_path / "press-07", tmp_path / "factory", now_us=lambda: 0)
    put_release(tmp_path / "factory", packed(1))
    store.boot()
    release = packed(2)
    (name, content), *_ = release.files.items()
    (tmp_path / name).write_bytes(content)
    files = {name: tmp_path / name}
    store.switch(store.folders.install(encode_manifest(release.manifest), release.manifest, files))
    made = Hearing(tmp_path)
    yield made
    made.updates.stop(well=True)


def _hear(hearing: Hearing, windows: int, *, flagged: bool | None, confirmed: int) -> None:
    for _ in range(windows):
        hearing.updates.heard(flagged=flagged, confirmed=confirmed)


def test_scored_windows_and_the_brokers_word_prove_a_release(hearing: Hearing) -> None:
    """Enough of them, and a publication that the broker has taken since the first."""
    _hear(hearing, CONFIRM_WINDOWS - 1, flagged=False, confirmed=7)
    _hear(hearing, 1, flagged=True, confirmed=8)

    wait_until(hearing.committed, "the commit")


@pytest.mark.parametrize(
    ("windows", "flagged", "confirmed_later"),
    [(CONFIRM_WINDOWS - 2, False, 8), (3 * CONFIRM_WINDOWS, None, 8), (CONFIRM_WINDOWS, False, 7)],
    ids=["too few windows", "windows without a score", "no word from the broker"],
)
def test_less_proves_nothing(
    hearing: Hearing, windows: int, flagged: bool | None, confirmed_later: int
) -> None:
    """It stays revocable."""
    _hear(hearing, windows, flagged=flagged, confirmed=7)
    hearing.updates.heard(flagged=flagged, confirmed=confirmed_later)
    time.sleep(0.5)

    assert not hearing.committed()


def test_spoilt_keys_do_not_make_a_node_deaf(tmp_path: Path) -> None:
    """One that was updated goes on and obeys nobody; one that is being set up says so at once."""
    with pytest.raises(KeyFileError, match="Expected 1 to 2 public keys"):
        Hearing(tmp_path, keys=b"half a key")
    Hearing(tmp_path).updates.stop(well=True)
    store = SlotStore(tmp_path / "press-07", tmp_path / "factory", now_us=lambda: 0)
    store.keep(store.boot() and store.state)
    hearing = Hearing(tmp_path, keys=b"half a key")
    hearing.updates.stop(well=True)

    assert hearing.updates.trusted_keys == ()
    assert hearing.updates.release.manifest.label == "fan-synthetic@1"
