"""The updater on a fake broker: whatever comes, it runs what was signed, or what it ran before."""

import os
import random
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import msgspec
import pytest

from contract import topics
from contract.desired import Desired, Wanted
from contract.messages import Update, decode, encode
from contract.session import Delivery, Followed, Received
from contract.signed_desired import sign_desired
from contract.signed_manifest import sign_manifest
from contract.states import UpdatePhase
from node.delivery.publisher import Answer
from node.scoring.release_store import Release, read_release
from node.settings import UpdateSection
from node.updates.order_book import OrderBook
from node.updates.slots import SlotStore
from node.updates.tasks import EarTask, GoBy, Proven, RunNow, TrialOver, TryOut
from node.updates.trial import TrialReport
from node.updates.update_report import UpdateReport
from node.updates.updater import Updater
from node.updates.updater_thread import UpdaterThread
from tests.rig.examples import BOOT
from tests.rig.fake_broker import FakeBroker
from tests.rig.shelf import chunks, packed, wanted
from tests.rig.signers import SIGNER, TRUSTED
from training.release.release_folder import put_release

ALL = topics.desired("all")
_ENDS = (UpdatePhase.COMMITTED, UpdatePhase.REJECTED, UpdatePhase.ROLLED_BACK)


class Node:
    """An updater, and an ear that finds every model good."""

    def __init__(self, folder: Path, broker: FakeBroker, **settings: float) -> None:
        factory = folder / "factory"
        if not factory.exists():
            put_release(factory, packed(1))
        self.tasks: list[EarTask] = []
        self.told: list[Update] = []
        self.store = SlotStore(folder / "state", factory, now_us=_now_us)
        booted = self.store.boot()
        self.runs = booted.release
        orders = OrderBook(self.store, TRUSTED, node="press-07", group=None)
        updater = Updater(
            UpdateSection(keys_file="keys", chunk_seconds=0.5, **settings),  # type: ignore[arg-type]
            self.store,
            booted,
            orders,
            UpdateReport(
                self.store, orders, node="press-07", boot=BOOT, tell=self._tell, now_us=_now_us
            ),
            broker=broker,
            trusted=TRUSTED,
            ask=self.tasks.append,
            threads=1,
            now_us=_now_us,
            settle_seconds=0.05,
        )
        self.updater = UpdaterThread(updater)
        broker.deliver = self.updater.give
        broker.connect(ALL)

    def go_on(self, *, seconds: float = 120.0) -> Update:
        """Until the update has ended, one way or another."""
        deadline = time.monotonic() + seconds
        seen = len(self.told)
        while time.monotonic() < deadline:
            self.updater.step(timeout_seconds=0.01)
            for task in self.tasks:
                if isinstance(task, TryOut):
                    self.updater.give(TrialOver(task.manifest_sha256, None, TrialReport(windows=2)))
                if isinstance(task, RunNow):
                    self.runs = task.release
                    self.updater.give(Proven(task.manifest_sha256))
            self.tasks.clear()
            if any(update.phase in _ENDS for update in self.told[seen:]):
                return next(u for u in self.told[seen:] if u.phase in _ENDS)
        pytest.fail(f"no end within {seconds:g} s; last: {self.told[-1:]}")

    def _tell(self, message: Update | Answer) -> None:
        assert isinstance(message, Update)
        # As it goes over the wire: nothing that cannot be sent is ever told.
        assert decode("earshot/1/n/press-07/update", encode(message)) == message
        self.told.append(message)


def _now_us() -> int:
    return time.time_ns() // 1000


def order(release: Release, serial: int = 1, before: Wanted | None = None) -> bytes:
    return sign_desired(
        Desired(
            at_us=0,
            to="all",
            serial=serial,
            wanted=wanted(release),
            percent=100.0,
            before=before,
            allow_older=False,
        ),
        SIGNER,
    )


def keep(broker: FakeBroker, release: Release, serial: int = 1) -> None:
    """All that a push leaves on the broker."""
    label = release.manifest.label
    broker.kept |= chunks(release)
    broker.kept |= {topics.release(label): sign_manifest(release.manifest, SIGNER)}
    broker.kept |= {ALL: order(release, serial)}


@pytest.fixture(scope="module")
def release() -> Release:
    return packed(2, padding_bytes=100_000)


def test_update_is_fetched_chunk_by_chunk(release: Release, tmp_path: Path) -> None:
    """Each once, and what runs in the end is what was signed."""
    broker = FakeBroker()
    keep(broker, release)
    node = Node(tmp_path, broker)
    end = node.go_on()
    asked = [topic for topic in broker.followed if "/blob/" in topic]

    assert end.phase is UpdatePhase.COMMITTED
    assert node.runs.files == release.files
    assert asked == list(chunks(release))


@pytest.mark.parametrize("seed", range(30))
def test_no_damage_on_the_way_runs(seed: int, release: Release, tmp_path: Path) -> None:
    """Bytes flipped, messages cut or swallowed, in all that a node receives: nothing comes of it.

    It runs what it ran, whole, says why, and takes the same undamaged afterwards.
    """
    chance = random.Random(seed)
    everything = [ALL, topics.release("fan-synthetic@2"), *chunks(release)]
    hit = set(chance.sample(everything, chance.randint(1, 3)))

    def damage(topic: str, payload: bytes) -> bytes | None:
        if topic not in hit:
            return payload
        changed = bytearray(payload)
        match chance.randrange(4):
            case 0:
                for _ in range(chance.randint(1, 4)):
                    changed[chance.randrange(len(changed))] ^= 1 << chance.randrange(8)
            case 1:
                del changed[chance.randrange(len(changed)) :]
            case 2:
                at = chance.randrange(len(changed))
                changed[at:at] = chance.randbytes(chance.randint(1, 50))
            case _:
                return None
        return bytes(changed)

    broker = FakeBroker(damage=damage)
    keep(broker, release)
    node = Node(tmp_path, broker)
    # An order that is lost is no order; nothing will come of it.
    if ALL in hit:
        deadline = time.monotonic() + 0.5
        while time.monotonic() < deadline and not node.told:
            node.updater.step(timeout_seconds=0.01)
    else:
        end = node.go_on()
        assert end.phase is UpdatePhase.REJECTED
        assert end.reason
    now = read_release(node.store.folders.folder(node.store.state.current))

    assert now.manifest.version == 1
    assert node.runs.manifest.version == 1
    # The same again, undamaged, is taken: nothing was left behind that is in its way.
    broker.damage = lambda _, payload: payload
    keep(broker, release, serial=2)
    broker.connect(ALL)
    assert node.go_on().phase in (UpdatePhase.COMMITTED, UpdatePhase.REJECTED)
    while node.told[-1].phase is not UpdatePhase.COMMITTED:
        node.go_on()
    assert node.runs.files == release.files


def test_download_goes_on_after_a_lost_connection(release: Release, tmp_path: Path) -> None:
    """What has come is not asked for again."""
    lost = list(chunks(release))[2]
    broker = FakeBroker(damage=lambda topic, payload: None if topic == lost else payload)
    keep(broker, release)
    node = Node(tmp_path, broker, retry_seconds=0.01)
    end = node.go_on()
    broker.damage = lambda _, payload: payload
    broker.followed.clear()
    again = node.go_on()

    assert end.phase is UpdatePhase.REJECTED
    assert end.reason is not None
    assert "did not come within" in end.reason
    assert again.phase is UpdatePhase.COMMITTED
    assert [topic for topic in broker.followed if "/blob/" in topic] == list(chunks(release))[2:]


def test_file_that_is_here_already_is_not_fetched(tmp_path: Path) -> None:
    """Another version of the same model is a manifest, and no more."""
    broker = FakeBroker()
    keep(broker, packed(2))
    node = Node(tmp_path, broker)
    end = node.go_on()

    assert end.phase is UpdatePhase.COMMITTED
    assert not [topic for topic in broker.followed if "/blob/" in topic]


def test_trial_that_fails_is_remembered_over_a_restart(release: Release, tmp_path: Path) -> None:
    """It is not tried again until somebody orders it anew."""
    broker = FakeBroker()
    keep(broker, release)
    node = Node(tmp_path, broker)
    _until_trial(node)
    (task,) = (task for task in node.tasks if isinstance(task, TryOut))
    node.tasks.clear()
    node.updater.give(TrialOver(task.manifest_sha256, "does not know this sound", TrialReport()))
    end = node.go_on()
    later = Node(tmp_path, broker)
    told = later.go_on()
    keep(broker, release, serial=2)
    broker.connect(ALL)
    anew = later.go_on()

    assert (end.phase, end.reason) == (UpdatePhase.ROLLED_BACK, "does not know this sound")
    assert (told.phase, told.reason) == (UpdatePhase.ROLLED_BACK, "does not know this sound")
    assert anew.phase is UpdatePhase.COMMITTED


def test_newer_order_ends_the_trial_of_an_older_one(release: Release, tmp_path: Path) -> None:
    """And the verdict on what nobody wants any more is not heard."""
    broker = FakeBroker()
    keep(broker, release)
    node = Node(tmp_path, broker)
    _until_trial(node)
    (task,) = (task for task in node.tasks if isinstance(task, TryOut))
    node.tasks.clear()
    newer = packed(3)
    keep(broker, newer, serial=2)
    broker.connect(ALL)
    deadline = time.monotonic() + 60
    while not node.tasks and time.monotonic() < deadline:
        node.updater.step(timeout_seconds=0.01)
    node.updater.give(TrialOver(task.manifest_sha256, None, TrialReport()))
    end = node.go_on()

    assert (end.phase, end.running) == (UpdatePhase.COMMITTED, "fan-synthetic@3")


def test_crash_of_a_release_on_trial_is_no_good_end(release: Release, tmp_path: Path) -> None:
    """A program that ends by an error has not ended well; only what was told to end has."""
    broker = FakeBroker()
    keep(broker, release)
    node = Node(tmp_path, broker)
    _until_trial(node)
    node.updater.stop(well=False)
    crashed = node.store.state.starts
    again = Node(tmp_path, broker)
    _until_trial(again)
    again.updater.stop(well=True)

    assert crashed == 1
    assert again.store.state.starts == 1


def test_what_nobody_has_signed_decides_nothing_for_good(release: Release, tmp_path: Path) -> None:
    """A forged manifest, a chunk that is no more: the right ones are taken when they are there."""
    broker = FakeBroker()
    keep(broker, release)
    label = topics.release(release.manifest.label)
    first = next(iter(chunks(release)))
    good = dict(broker.kept)
    node = Node(tmp_path, broker, retry_seconds=0.01)
    broker.kept[label] = b"{}"
    forged = node.go_on()
    broker.kept[label] = good[label]
    broker.kept[first] = b""
    cleared = node.go_on()
    broker.kept[first] = good[first][:-1]
    short = node.go_on()
    broker.kept[first] = good[first]
    end = node.go_on()

    assert [forged.phase, cleared.phase, short.phase] == [UpdatePhase.REJECTED] * 3
    assert cleared.reason is not None
    assert "did not come within" in cleared.reason
    assert end.phase is UpdatePhase.COMMITTED


def test_trouble_of_a_clock_that_was_ahead_passes(release: Release, tmp_path: Path) -> None:
    """What was refused in 2099 is tried again when it is today again."""
    broker = FakeBroker()
    keep(broker, release)
    lost = broker.kept.pop(next(iter(chunks(release))))
    node = Node(tmp_path, broker, retry_seconds=3600)
    node.go_on()
    state = node.store.state
    (refused,) = state.refused
    in_2099 = msgspec.structs.replace(refused, at_us=refused.at_us + 73 * 365 * 86_400_000_000)
    node.store.keep(msgspec.structs.replace(state, refused=(in_2099,)))
    broker.kept[next(iter(chunks(release)))] = lost

    assert node.go_on().phase is UpdatePhase.COMMITTED


def test_first_word_after_a_crash_names_the_order(release: Release, tmp_path: Path) -> None:
    """An operator who waits for the node knows what it is about."""
    broker = FakeBroker()
    keep(broker, release)
    node = Node(tmp_path, broker)
    _until_trial(node)
    (task,) = (task for task in node.tasks if isinstance(task, TryOut))
    node.updater.give(TrialOver(task.manifest_sha256, None, TrialReport()))
    while node.store.state.confirmed:
        node.updater.step(timeout_seconds=0.01)
    again = Node(tmp_path, FakeBroker())

    assert again.told[0].phase is UpdatePhase.TRIAL
    assert (again.told[0].obeying, again.told[0].serial, again.told[0].wanted) == (
        "all",
        1,
        "fan-synthetic@2",
    )


def test_self_test_that_somebody_ends_is_done_again(release: Release, tmp_path: Path) -> None:
    """It says nothing of the release; nor does the updater wait for ever."""
    broker = FakeBroker()
    keep(broker, release)
    node = Node(tmp_path, broker, retry_seconds=0.01)
    with ThreadPoolExecutor() as pool:
        killer = pool.submit(_end_the_next_child)
        first = node.go_on()
        killer.result()

    assert first.phase is UpdatePhase.REJECTED
    assert node.go_on().phase is UpdatePhase.COMMITTED


def test_download_that_was_interrupted_finds_room_for_the_rest(
    release: Release, tmp_path: Path
) -> None:
    """What is here of it already is not counted against it."""
    large = packed(2, padding_bytes=900_000)
    *_, last = chunks(large)
    broker = FakeBroker(damage=lambda topic, payload: None if topic == last else payload)
    keep(broker, large)
    node = Node(tmp_path, broker, retry_seconds=0.01, disk_mb=2, max_release_mb=1)
    node.go_on()
    broker.damage = lambda _, payload: payload

    assert node.go_on().phase is UpdatePhase.COMMITTED


def _until_trial(node: Node) -> None:
    deadline = time.monotonic() + 120
    while not any(isinstance(task, TryOut) for task in node.tasks):
        assert time.monotonic() < deadline, "no trial"
        node.updater.step(timeout_seconds=0.01)


def _end_the_next_child() -> None:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        children = Path(f"/proc/{os.getpid()}/task").glob("*/children")
        for pid in " ".join(path.read_text() for path in children).split():
            with suppress(OSError):
                if b"node.updates.self_test" in Path(f"/proc/{pid}/cmdline").read_bytes():
                    os.kill(int(pid), signal.SIGTERM)
                    return
        time.sleep(0.005)
    pytest.fail("no self-test was seen")


def test_flood_of_messages_does_not_fill_the_memory(release: Release, tmp_path: Path) -> None:
    """While the updater is busy the newest on each topic waits, and no giant; the order counts."""
    broker = FakeBroker()
    node = Node(tmp_path, broker)
    for number in range(1000):
        for payload in (b"x" * 120_000, b"%d" % number):
            node.updater.give(Received(1, 0, ALL, payload, 1, False))
    waiting = node.updater.waiting
    keep(broker, release)
    broker.connect(ALL)
    end = node.go_on()

    assert waiting < 10
    assert end.phase is UpdatePhase.COMMITTED


def test_refusals_of_forged_orders_do_not_hush_up_others(release: Release, tmp_path: Path) -> None:
    """After hundreds of them an operator still hears why an order of his is refused."""
    broker = FakeBroker()
    keep(broker, release, serial=5)
    node = Node(tmp_path, broker)
    node.go_on()
    for number in range(300):
        node.updater.give(Received(1, 0, ALL, b"%d" % number, 1, False))
        node.updater.step(timeout_seconds=0)
    told = len(node.told)
    node.updater.give(Received(1, 0, ALL, order(release, serial=4), 1, False))
    node.updater.step(timeout_seconds=0)

    assert told < 250
    assert "with a serial above 5, got 4" in (node.told[told].reason or "")


def test_order_that_was_cleared_stands(release: Release, tmp_path: Path) -> None:
    """Nobody has signed that it is gone."""
    broker = FakeBroker()
    keep(broker, release)
    node = Node(tmp_path, broker)
    node.go_on()
    node.updater.give(Received(1, 0, ALL, b"", 1, False))
    node.updater.step(timeout_seconds=0)

    assert node.told[-1].phase is UpdatePhase.COMMITTED
    assert node.store.state.orders["all"].serial == 1


def test_proof_of_another_release_is_none(release: Release, tmp_path: Path) -> None:
    """Of what ran before the switch, told too late."""
    broker = FakeBroker()
    keep(broker, release)
    node = Node(tmp_path, broker)
    _until_trial(node)
    (task,) = (task for task in node.tasks if isinstance(task, TryOut))
    node.tasks.clear()
    node.updater.give(TrialOver(task.manifest_sha256, None, TrialReport()))
    node.updater.give(Proven("0" * 64))
    for _ in range(5):
        node.updater.step(timeout_seconds=0.01)

    assert node.store.state.current.release == "fan-synthetic@2"
    assert not node.store.state.confirmed


def test_withdrawn_order_takes_its_threshold_with_it(release: Release, tmp_path: Path) -> None:
    """The node goes by what it had without it."""
    broker = FakeBroker()
    keep(broker, release)
    node = Node(tmp_path, broker)
    node.go_on()
    signed = Desired(
        at_us=0,
        to="all",
        serial=2,
        wanted=wanted(release, 0.5),
        percent=100.0,
        before=None,
        allow_older=False,
    )
    for serial, target in ((2, signed.wanted), (3, None)):
        order = msgspec.structs.replace(signed, serial=serial, wanted=target)
        node.updater.give(Received(1, 0, ALL, sign_desired(order, SIGNER), 1, False))
        for _ in range(3):
            node.updater.step(timeout_seconds=0.01)

    assert [task for task in node.tasks if isinstance(task, GoBy)] == [GoBy(0.5), GoBy(None)]
    assert not node.store.state.thresholds


def test_topic_that_may_not_be_read_is_told(release: Release, tmp_path: Path) -> None:
    """At once, with what the broker says."""

    class Closed(FakeBroker):
        def follow(self, topic_filter: str) -> Delivery | None:
            self.deliver(Followed(1, 7, False, "Not authorized"))
            return Delivery(1, 7)

    broker = Closed()
    keep(broker, release)
    end = Node(tmp_path, broker).go_on()

    assert end.phase is UpdatePhase.REJECTED
    assert end.reason is not None
    assert "the broker does not let us read it: Not authorized" in end.reason
