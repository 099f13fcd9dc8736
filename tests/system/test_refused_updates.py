"""Updates that must not be taken: each ends with the old model scoring, and a reason on `update`.

One node goes through all of them, one after the other, and never stops hearing.
"""

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest

from contract import topics
from contract.messages import Update, encode
from contract.release import CHUNK_BYTES, SelfTest
from contract.signature import Signer
from contract.signed_desired import sign_desired
from contract.signed_manifest import sign_manifest
from contract.states import UpdatePhase
from node.scoring.release_store import Release
from tests.rig.brokers import Mosquitto
from tests.rig.examples import STATUS
from tests.rig.listeners import Listener
from tests.rig.programs import node_settings, start
from tests.rig.shelf import Shelf, chunks, keys_file, packed, wanted
from tests.rig.signers import SECOND, SIGNER, STRANGER
from tests.rig.tflite_files import answering_nan
from tests.rig.waiting import wait_until
from training.release.release_folder import put_release

# Made once, and so by one of the parallel workers: the fleet.
pytestmark = pytest.mark.xdist_group("refused updates")

NODE = "press-07"
TO = f"node:{NODE}"
RUNS = "fan-synthetic@5"
_ENDS = (UpdatePhase.REJECTED, UpdatePhase.ROLLED_BACK)


class Fleet:
    """A broker, a node that runs `fan-synthetic@5`, and what is heard of it."""

    def __init__(self, shelf: Shelf, listener: Listener, state: Path) -> None:
        self.shelf = shelf
        self.listener = listener
        self.state = state
        self._version = 100

    def packed(self, **changes: object) -> Release:
        """A release that the node has never heard of."""
        self._version += 1
        return packed(self._version, **changes)  # type: ignore[arg-type]

    def updates(self) -> list[Update]:
        return self.listener.all_of(Update)

    def refusal_after(self, act: Callable[["Fleet"], object]) -> Update:
        """What the node says of what was done to it."""
        seen = len(self.updates())
        act(self)
        wait_until(
            lambda: any(u.phase in _ENDS for u in self.updates()[seen:]), "a reason", seconds=120
        )
        return next(u for u in self.updates()[seen:] if u.phase in _ENDS)

    def check_it_goes_on(self) -> None:
        """Windows come, by the old model, none is missing, and nothing is left on the disk."""
        count = len(self.listener.windows())
        self.listener.wait_for_windows(count + 1)
        windows = self.listener.windows()

        assert {window.model for window in windows} == {RUNS}
        assert windows[-1].mse is not None
        assert [window.seq for window in windows] == list(range(len(windows)))
        assert len({window.boot for window in windows}) == 1
        assert {update.running for update in self.updates()} == {RUNS}
        assert not list((self.state / "releases").glob("*"))


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    folder = tmp_path_factory.mktemp("refused")
    put_release(folder / "factory", packed(5))
    with Mosquitto(folder / "mosquitto") as broker, Listener(broker) as listener:
        settings = node_settings(
            broker,
            "synthetic:fan?seed=5",
            MODEL_FOLDER=str(folder / "factory"),
            NODE_STATE_FOLDER=str(folder / "state"),
            UPDATE_KEYS_FILE=str(keys_file(folder, SIGNER, SECOND)),
            UPDATE_TRIAL_WINDOWS="2",
            UPDATE_CONFIRM_WINDOWS="1",
            UPDATE_CHUNK_SECONDS="3",
            UPDATE_MAX_RELEASE_MB="1",
            UPDATE_DISK_MB="1",
        )
        with Shelf(broker) as shelf, start("node", "run", settings=settings) as node:
            try:
                listener.wait_for_windows(1)
                yield Fleet(shelf, listener, folder / "state" / NODE)
            finally:
                node.terminate()
                _, err = node.communicate(timeout=30)
    assert node.returncode == 0, err


def _manifest_signed_by(signer: Signer) -> Callable[[Fleet], object]:
    def act(fleet: Fleet) -> None:
        release = fleet.packed()
        fleet.shelf.put_release(release, signer)
        fleet.shelf.order(TO, release)

    return act


def _order_signed_by(signer: Signer) -> Callable[[Fleet], object]:
    return lambda fleet: fleet.shelf.order(TO, fleet.packed(), signer=signer)


def _wrong_signature(fleet: Fleet) -> None:
    """A stranger's, under the name of a key that is trusted."""
    release = fleet.packed()
    fleet.shelf.put_release(release)
    forged = sign_manifest(release.manifest, STRANGER).replace(
        STRANGER.key_id.encode(), SIGNER.key_id.encode()
    )
    fleet.shelf.put(topics.release(release.manifest.label), forged)
    fleet.shelf.order(TO, release)


def _unsigned_order(fleet: Fleet) -> None:
    order = fleet.shelf.order(TO, None)
    fleet.shelf.put(topics.desired(TO), msgspec.json.encode(order))


def _message_of_another_kind(fleet: Fleet) -> None:
    fleet.shelf.put(topics.desired(TO), encode(STATUS))


def _replayed_order(fleet: Fleet) -> None:
    """Of an hour ago, and good then."""
    serial = fleet.shelf.order(TO, None).serial
    fleet.shelf.order(TO, fleet.packed(), serial=serial - 3_600_000_000)


def _other_order_of_one_serial(fleet: Fleet) -> None:
    """Two operators who do not know of each other: the first one that came counts."""
    serial = fleet.shelf.order(TO, None).serial
    fleet.shelf.order(TO, fleet.packed(), serial=serial)


def _order_for_another_node(fleet: Fleet) -> None:
    order = fleet.shelf.order("node:press-08", fleet.packed())
    fleet.shelf.put(topics.desired(TO), sign_desired(order, SIGNER))


def _manifest_of_another_release(fleet: Fleet) -> None:
    """Signed, but not the one that was ordered: mixed and matched."""
    ordered, other = fleet.packed(), fleet.packed()
    fleet.shelf.put_release(ordered)
    fleet.shelf.put(topics.release(ordered.manifest.label), sign_manifest(other.manifest, SIGNER))
    fleet.shelf.order(TO, ordered)


def _other_manifest_of_that_label(fleet: Fleet) -> None:
    """Two pushes of one version: the order names the manifest that is there no more."""
    release = fleet.packed()
    other = msgspec.structs.replace(release.manifest, description="another push")
    fleet.shelf.put_release(Release(other, release.files))
    fleet.shelf.order(TO, release)


def _changed_byte_in_manifest(fleet: Fleet) -> None:
    release = fleet.packed()
    fleet.shelf.put_release(release)
    envelope = json.loads(sign_manifest(release.manifest, SIGNER))
    payload = envelope["payload"]
    envelope["payload"] = payload[:200] + ("A" if payload[200] != "A" else "B") + payload[201:]
    fleet.shelf.put(topics.release(release.manifest.label), json.dumps(envelope).encode())
    fleet.shelf.order(TO, release)


def _oversize_manifest(fleet: Fleet) -> None:
    release = fleet.packed()
    envelope = sign_manifest(release.manifest, SIGNER).ljust(8193)
    fleet.shelf.put(topics.release(release.manifest.label), envelope)
    fleet.shelf.order(TO, release)


def _no_manifest(fleet: Fleet) -> None:
    fleet.shelf.order(TO, fleet.packed())


def _chunk(number: int, change: Callable[[bytes], bytes]) -> Callable[[Fleet], object]:
    def act(fleet: Fleet) -> None:
        release = fleet.packed(padding_bytes=100_000)
        fleet.shelf.put_release(release)
        topic, payload = list(chunks(release).items())[number]
        fleet.shelf.put(topic, change(payload))
        fleet.shelf.order(TO, release)

    return act


def _older(fleet: Fleet) -> None:
    release = packed(4)
    fleet.shelf.put_release(release)
    fleet.shelf.order(TO, release)


def _changed(**changes: object) -> Callable[[Fleet], object]:
    def act(fleet: Fleet) -> None:
        release = fleet.packed(**changes)
        fleet.shelf.put_release(release)
        fleet.shelf.order(TO, release)

    return act


def _too_large(fleet: Fleet) -> None:
    """It says so itself: not a chunk of it is fetched."""
    release = fleet.packed()
    manifest = release.manifest
    (file,) = manifest.files
    large = msgspec.structs.replace(
        manifest, files=(msgspec.structs.replace(file, size_bytes=1024 * 1024 + 1),)
    )
    fleet.shelf.put(topics.release(large.label), sign_manifest(large, SIGNER))
    fleet.shelf.order(TO, Release(large, {}))


def _more_than_the_disk_may_hold(fleet: Fleet) -> None:
    """Twice its size, while it is installed, is more than [update] disk_mb."""
    release = fleet.packed()
    (file,) = release.manifest.files
    manifest = msgspec.structs.replace(
        release.manifest, files=(msgspec.structs.replace(file, size_bytes=999_000),)
    )
    fleet.shelf.put(topics.release(manifest.label), sign_manifest(manifest, SIGNER))
    fleet.shelf.order(TO, Release(manifest, {}))


def _broken(fleet: Fleet) -> Release:
    return fleet.packed(model=lambda content: b"no model" + content[8:])


REFUSALS: dict[str, tuple[Callable[[Fleet], object], str]] = {
    "wrong signature": (_wrong_signature, "the signature does not fit what was signed"),
    "manifest by an unknown key": (_manifest_signed_by(STRANGER), "by a key that is trusted"),
    "order by an unknown key": (_order_signed_by(STRANGER), "order.*by a key that is trusted"),
    "unsigned order": (_unsigned_order, "order is refused: Expected a signed envelope"),
    "message of another kind": (_message_of_another_kind, "order.*Expected a signed envelope"),
    "replayed order": (_replayed_order, "order.*with a serial above .* it is an old one"),
    "two orders of one serial": (_other_order_of_one_serial, "with serial .* came before"),
    "order for another node": (
        _order_for_another_node,
        "Expected an order for earshot/1/n/press-07/desired, got node:press-08's",
    ),
    "manifest of another release": (_manifest_of_another_release, "not the one that was ordered"),
    "two pushes of one version": (_other_manifest_of_that_label, "not the one that was ordered"),
    "changed byte in the manifest": (_changed_byte_in_manifest, "the signature does not fit"),
    "oversize manifest": (_oversize_manifest, "at most 8192 bytes, got 8193"),
    "no manifest": (
        _no_manifest,
        "did not come within 3 s, is it still on the broker.*release/fan",
    ),
    "changed byte in a chunk": (
        _chunk(1, lambda p: p[:100] + bytes([p[100] ^ 1]) + p[101:]),
        "with SHA-256 .*, got 129464 with",
    ),
    "missing chunk": (_chunk(2, lambda p: b""), "did not come within 3 s, .*/2$"),
    "short chunk": (
        _chunk(1, lambda p: p[:-1]),
        f"expected {CHUNK_BYTES} bytes in chunk 1, got {CHUNK_BYTES - 1}",
    ),
    "long last chunk": (_chunk(3, lambda p: p + b"x"), "bytes in chunk 3, got"),
    "older release": (_older, "expected fan-synthetic@5 or newer, which this node has run"),
    "expired release": (
        _changed(not_after_us=1_700_000_000_000_000),
        "has expired: it was valid until 2023-11-14",
    ),
    "oversize release": (_too_large, "expected a release of at most 1 MB"),
    "more than the disk may hold": (
        _more_than_the_disk_may_hold,
        r"expected room for 1.9 MB within \[update\] disk_mb = 1",
    ),
    "garbage for a model": (
        lambda fleet: _push(fleet, _broken(fleet)),
        "cannot load this model",
    ),
    "NaN for an answer": (_changed(model=answering_nan), "finite"),
    "another probe score": (
        _changed(self_test=SelfTest(statistic=1.0, relative_tolerance=0.01)),
        "probe",
    ),
    "too slow": (_changed(window_hop_samples=8), "at most 0.25 ms for a window, got"),
}


def _push(fleet: Fleet, release: Release) -> None:
    fleet.shelf.put_release(release)
    fleet.shelf.order(TO, release)


@pytest.mark.parametrize("case", REFUSALS)
def test_update_is_refused(fleet: Fleet, case: str) -> None:
    """With its reason, and nothing has changed."""
    act, reason = REFUSALS[case]
    refusal = fleet.refusal_after(act)

    assert refusal.reason is not None
    assert re.search(reason, refusal.reason), refusal.reason
    fleet.check_it_goes_on()


def test_good_one_is_taken_after_all_that(fleet: Fleet) -> None:
    """The node was not merely deaf. Runs last."""
    release = fleet.packed()
    fleet.shelf.put_release(release)
    fleet.shelf.order(TO, release)

    def is_committed() -> bool:
        last = fleet.updates()[-1]
        return last.phase is UpdatePhase.COMMITTED and last.running == release.manifest.label

    wait_until(is_committed, "the commit", seconds=120)

    assert wanted(release).release == fleet.updates()[-1].wanted
