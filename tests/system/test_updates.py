"""Updates with real nodes on a real broker: what goes well, over restarts, kills and outages."""

import itertools
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from collector.node_commands import send_command
from contract import topics
from contract.desired import cohort_percent
from contract.messages import Birth, Command, State, Update, Window, encode
from contract.release import encode_manifest
from contract.settings import MqttSettings
from contract.states import CalibrationPhase, MachineState, ThresholdSource, UpdatePhase
from node.scoring.release_store import Release
from node.updates.slots import SlotStore
from tests.rig.brokers import Mosquitto
from tests.rig.listeners import Listener
from tests.rig.programs import node_settings, run, start
from tests.rig.shelf import Shelf, chunks, keys_file, packed, wanted
from tests.rig.signers import SECOND, SIGNER
from tests.rig.waiting import wait_until
from training.release.release_folder import put_release

HEALTHY = "synthetic:fan?seed=5"
QUICK = {"UPDATE_TRIAL_WINDOWS": "2", "UPDATE_CONFIRM_WINDOWS": "1"}


@pytest.fixture
def shelf(mosquitto: Mosquitto) -> Iterator[Shelf]:
    with Shelf(mosquitto) as opened:
        yield opened


@pytest.fixture
def listener(mosquitto: Mosquitto) -> Iterator[Listener]:
    with Listener(mosquitto) as opened:
        yield opened


def updatable(broker: Mosquitto, folder: Path, **more: str) -> dict[str, str]:
    """Settings of a node that takes updates, quick to try and to commit."""
    factory = folder / "factory"
    if not factory.exists():
        put_release(factory, packed(1))
    own = {"UPDATE_KEYS_FILE": str(keys_file(folder)), "MODEL_FOLDER": str(factory)}
    return node_settings(broker, HEALTHY, **{**QUICK, **own, **more})


@contextmanager
def running(settings: dict[str, str]) -> Iterator["subprocess.Popen[str]"]:
    with start("node", "run", settings=settings) as node:
        yield node


def updates(listener: Listener, node: str = "press-07") -> list[Update]:
    return [update for update in listener.all_of(Update) if update.node == node]


def wait_for_update(
    listener: Listener, fits: Callable[[Update], bool], what: str, *, seconds: float = 120.0
) -> Update:
    """The first that fits."""
    wait_until(lambda: any(map(fits, updates(listener))), what, seconds=seconds)
    return next(update for update in updates(listener) if fits(update))


def committed(release: Release) -> Callable[[Update], bool]:
    return lambda u: u.phase is UpdatePhase.COMMITTED and u.running == release.manifest.label


def test_release_is_fetched_tried_and_committed(
    mosquitto: Mosquitto, shelf: Shelf, listener: Listener, tmp_path: Path
) -> None:
    """Every phase is told, windows go on without a gap, and the next start runs it."""
    release = packed(2, padding_bytes=100_000)
    settings = updatable(mosquitto, tmp_path)
    with running(settings):
        listener.wait_for_windows(2)
        shelf.put_release(release)
        order = shelf.order("all", release)
        wait_for_update(listener, committed(release), "the commit")
        listener.wait_for_windows(len(listener.windows()) + 2)
    phases = [update.phase for update in updates(listener)]
    last = updates(listener)[-1]
    windows = listener.windows()
    models = [window.model for window in windows]

    assert [p for i, p in enumerate(phases) if i == 0 or phases[i - 1] is not p] == [
        UpdatePhase.IDLE,
        UpdatePhase.DOWNLOADING,
        UpdatePhase.VERIFIED,
        UpdatePhase.TESTING,
        UpdatePhase.TRIAL,
        UpdatePhase.COMMITTED,
    ]
    assert (last.running, last.previous, last.wanted) == (
        "fan-synthetic@2",
        "fan-synthetic@1",
        "fan-synthetic@2",
    )
    assert (last.obeying, last.serial) == ("all", order.serial)
    assert [window.seq for window in windows] == list(range(len(windows)))
    assert models == sorted(models)
    assert {*models} == {"fan-synthetic@1", "fan-synthetic@2"}
    assert listener.all_of(Birth)[-1].model == "fan-synthetic@2"
    assert listener.all_of(State)[-1].model == "fan-synthetic@2"
    with running(settings):
        wait_for_update(
            listener, lambda u: committed(release)(u) and u.boot != last.boot, "its word"
        )
    assert listener.all_of(Birth)[-1].model == "fan-synthetic@2"


@pytest.mark.parametrize(
    "phase",
    [
        UpdatePhase.DOWNLOADING,
        UpdatePhase.VERIFIED,
        UpdatePhase.TESTING,
        UpdatePhase.TRIAL,
        UpdatePhase.COMMITTED,
    ],
)
def test_kill_at_any_phase_loses_nothing(
    phase: UpdatePhase, mosquitto: Mosquitto, shelf: Shelf, listener: Listener, tmp_path: Path
) -> None:
    """Whatever was under way is done by the next start, and until then the old model runs."""
    release = packed(2, padding_bytes=400_000)
    settings = updatable(mosquitto, tmp_path)
    shelf.put_release(release)
    with running(settings) as node:
        listener.wait_for_windows(1)
        shelf.order("all", release)
        wait_for_update(listener, lambda u: u.phase is phase, str(phase))
        node.send_signal(signal.SIGKILL)
        node.wait()
    killed = updates(listener)[-1]
    with running(settings):
        wait_for_update(
            listener, lambda u: committed(release)(u) and u.boot != killed.boot, "the commit"
        )
    later = [update for update in updates(listener) if update.boot != killed.boot]

    assert {update.phase for update in later}.isdisjoint(
        {UpdatePhase.REJECTED, UpdatePhase.ROLLED_BACK}
    )
    assert later[-1].running == release.manifest.label
    assert all(window.mse is not None for window in listener.windows()), "a window was not scored"


def test_release_that_never_proves_itself_is_left_after_three_crashes(
    mosquitto: Mosquitto, shelf: Shelf, listener: Listener, tmp_path: Path
) -> None:
    """Each start is cut short before the commit is confirmed; the one after runs the old model."""
    release = packed(2)
    settings = updatable(mosquitto, tmp_path, UPDATE_CONFIRM_WINDOWS="3600")
    shelf.put_release(release)
    shelf.order("all", release)
    for _ in range(3):
        seen = len(updates(listener))
        with running(settings) as node:
            wait_until(
                lambda seen=seen: any(  # type: ignore[misc]
                    update.running == release.manifest.label for update in updates(listener)[seen:]
                ),
                "the new model",
                seconds=120,
            )
            node.send_signal(signal.SIGKILL)
            node.wait()
    with running(settings):
        back = wait_for_update(
            listener, lambda u: u.phase is UpdatePhase.ROLLED_BACK, "the way back"
        )
        windows = len(listener.windows())
        listener.wait_for_windows(windows + 2)

    assert back.running == "fan-synthetic@1"
    assert back.reason is not None
    assert "ended 3 times before" in back.reason
    assert listener.windows()[-1].model == "fan-synthetic@1"


def test_release_whose_trial_ends_the_program_is_left_after_three_crashes(
    mosquitto: Mosquitto, shelf: Shelf, listener: Listener, tmp_path: Path
) -> None:
    """It runs within the node while it is tried; the old model is what each start begins with."""
    release = packed(2)
    settings = updatable(mosquitto, tmp_path, UPDATE_TRIAL_WINDOWS="3600")
    shelf.put_release(release)
    shelf.order("all", release)
    for _ in range(3):
        seen = len(updates(listener))
        with running(settings) as node:
            wait_until(
                lambda seen=seen: any(  # type: ignore[misc]
                    update.phase is UpdatePhase.TRIAL for update in updates(listener)[seen:]
                ),
                "the trial",
                seconds=120,
            )
            node.send_signal(signal.SIGKILL)
            node.wait()
    with running(settings):
        left = wait_for_update(
            listener, lambda u: u.phase is UpdatePhase.ROLLED_BACK, "the end of it"
        )
        listener.wait_for_windows(len(listener.windows()) + 2)

    assert left.reason == "the program ended 3 times during its trial"
    assert {window.model for window in listener.windows()} == {"fan-synthetic@1"}


def test_release_that_the_library_does_not_load_any_more_is_passed_over(
    mosquitto: Mosquitto, listener: Listener, tmp_path: Path
) -> None:
    """Committed long ago, and then the library was changed: a node hears with what it can."""
    settings = updatable(mosquitto, tmp_path)
    store = SlotStore(
        Path(settings["EARSHOT_NODE_STATE_FOLDER"]) / "press-07",
        tmp_path / "factory",
        now_us=lambda: 0,
    )
    store.boot()
    release = packed(2, model=lambda content: b"no model" + content[8:])
    (name, content), *_ = release.files.items()
    (tmp_path / name).write_bytes(content)
    store.switch(
        store.folders.install(
            encode_manifest(release.manifest), release.manifest, {name: tmp_path / name}
        )
    )
    store.confirm()
    with running(settings):
        listener.wait_for_windows(2)
        wait_until(lambda: bool(updates(listener)), "word of it")
    told = updates(listener)[0]

    assert {window.model for window in listener.windows()} == {"fan-synthetic@1"}
    assert (told.phase, told.running) == (UpdatePhase.ROLLED_BACK, "fan-synthetic@1")
    assert told.reason is not None
    assert "cannot load this model" in told.reason


def test_release_with_which_the_broker_is_not_reached_is_left(
    mosquitto: Mosquitto, shelf: Shelf, listener: Listener, tmp_path: Path
) -> None:
    """It was right until then; but nobody could hear of it, nor tell it to go back."""
    release = packed(2)
    settings = updatable(mosquitto, tmp_path, UPDATE_TRIAL_WINDOWS="6", UPDATE_CONFIRM_SECONDS="4")
    shelf.put_release(release)
    with running(settings) as node:
        listener.wait_for_windows(1)
        shelf.order("all", release)
        wait_for_update(listener, lambda u: u.phase is UpdatePhase.TRIAL, "the trial")
        mosquitto.send_signal(signal.SIGSTOP)
        try:
            _wait_for_line(node, "is rolled back: not proven within 4 s")
        finally:
            mosquitto.send_signal(signal.SIGCONT)
        back = wait_for_update(
            listener, lambda u: u.phase is UpdatePhase.ROLLED_BACK, "word of it", seconds=60
        )

    assert back.running == "fan-synthetic@1"
    assert back.reason is not None
    assert "not proven within 4 s: the broker was not reached" in back.reason


def _wait_for_line(node: "subprocess.Popen[str]", text: str) -> None:
    assert node.stderr is not None
    for line in node.stderr:
        if text in line:
            return
    pytest.fail(f"the node ended without saying: {text}")


def test_nearest_order_counts_and_a_withdrawn_one_does_not(
    mosquitto: Mosquitto, shelf: Shelf, listener: Listener, tmp_path: Path
) -> None:
    """The node's own before its group's before that of all; each says which it obeys."""
    releases = {version: packed(version) for version in (2, 3, 4)}
    settings = updatable(mosquitto, tmp_path, NODE_GROUP="line-2")
    for release in releases.values():
        shelf.put_release(release)
    with running(settings):
        shelf.order("all", releases[2])
        wait_for_update(listener, committed(releases[2]), "the release of all")
        shelf.order("group:line-2", releases[3])
        in_group = wait_for_update(listener, committed(releases[3]), "the group's")
        shelf.order("node:press-07", releases[4])
        of_node = wait_for_update(listener, committed(releases[4]), "the node's own")
        shelf.order("node:press-07", None)
        withdrawn = wait_for_update(
            listener,
            lambda u: (
                u.obeying == "group:line-2"
                and u.serial == in_group.serial
                and u.running == "fan-synthetic@4"
            ),
            "the group's again",
        )

    assert in_group.obeying == "group:line-2"
    assert of_node.obeying == "node:press-07"
    # It asks for less than what has run, and says nothing of going back.
    assert withdrawn.phase is UpdatePhase.REJECTED
    assert withdrawn.reason is not None
    assert "or newer, which this node has run" in withdrawn.reason


def test_threshold_alone_is_followed_at_once(
    mosquitto: Mosquitto, shelf: Shelf, listener: Listener, tmp_path: Path
) -> None:
    """No download, no trial; it lasts over a restart and ends with the order."""
    release = packed(2)
    settings = updatable(mosquitto, tmp_path)
    shelf.put_release(release)
    with running(settings):
        shelf.order("all", release)
        wait_for_update(listener, committed(release), "the release")
        count = len(updates(listener))
        shelf.order("all", release, threshold=0.125)
        wait_until(lambda: listener.windows()[-1].threshold == 0.125, "the threshold")
        wait_until(lambda: len(updates(listener)) > count, "word of it")
        phases = {update.phase for update in updates(listener)[count:]}
        state = listener.all_of(State)[-1]
    with running(settings):
        wait_until(
            lambda: (
                len({w.boot for w in listener.windows()}) == 2
                and {w.threshold for w in _of_last_boot(listener)} == {0.125}
            ),
            "the threshold after a restart",
        )
        shelf.order("all", release)
        wait_until(
            lambda: _of_last_boot(listener)[-1].threshold == release.manifest.threshold.value,
            "the release's own",
        )

    assert phases == {UpdatePhase.COMMITTED}
    assert updates(listener)[-1].threshold is None
    assert state.threshold_source is ThresholdSource.OVERRIDE
    assert listener.all_of(State)[-1].threshold_source is ThresholdSource.RELEASE


def _of_last_boot(listener: Listener) -> list[Window]:
    boot = listener.all_of(Window)[-1].boot
    return [window for window in listener.all_of(Window) if window.boot == boot]


def test_share_of_the_nodes_follows_and_the_others_stay(
    mosquitto: Mosquitto, shelf: Shelf, listener: Listener, tmp_path: Path
) -> None:
    """By the hash of the id; a late joiner outside the share runs what was wanted before."""
    first, second = packed(2), packed(3)
    for release in (first, second):
        shelf.put_release(release)
    standing = cohort_percent("press-07")
    shelf.order("all", second, percent=standing - 1, before=wanted(first))
    with running(updatable(mosquitto, tmp_path)):
        wait_for_update(listener, committed(first), "what was wanted before")
        shelf.order("all", second, percent=standing + 1, before=wanted(first))
        wait_for_update(listener, committed(second), "its turn")
        # A rollout that is stopped takes nobody back.
        stopped = shelf.order("all", second, percent=0, before=wanted(first))
        wait_for_update(listener, lambda u: u.serial == stopped.serial, "the end of it")
        listener.wait_for_windows(len(listener.windows()) + 2)

    assert listener.windows()[-1].model == "fan-synthetic@3"
    assert updates(listener)[-1].running == "fan-synthetic@3"
    assert updates(listener)[-1].phase is UpdatePhase.IDLE


def test_signed_order_takes_a_node_back(
    mosquitto: Mosquitto, shelf: Shelf, listener: Listener, tmp_path: Path
) -> None:
    """What is still on its disk is not fetched again: not a chunk is on the broker any more."""
    first, second = packed(2), packed(3)
    settings = updatable(mosquitto, tmp_path)
    with running(settings):
        for release in (first, second):
            shelf.put_release(release)
            shelf.order("all", release)
            wait_for_update(listener, committed(release), "the release")
        for topic in (*chunks(first), topics.release(first.manifest.label)):
            shelf.put(topic, b"")
        seen = len(updates(listener))
        shelf.order("all", first, allow_older=True)
        wait_until(
            lambda: any(committed(first)(u) for u in updates(listener)[seen:]),
            "the way back",
            seconds=120,
        )

    assert updates(listener)[-1].previous == "fan-synthetic@3"


def test_node_that_was_away_goes_straight_to_the_newest(
    mosquitto: Mosquitto, shelf: Shelf, listener: Listener, tmp_path: Path
) -> None:
    """Two releases have come and gone meanwhile; only the last is fetched."""
    releases = [packed(version) for version in (2, 3, 4)]
    settings = updatable(mosquitto, tmp_path)
    shelf.put_release(releases[0])
    shelf.order("all", releases[0])
    with running(settings):
        wait_for_update(listener, committed(releases[0]), "the first")
    for release in releases[1:]:
        shelf.put_release(release)
        shelf.order("all", release)
    with running(settings):
        wait_for_update(listener, committed(releases[2]), "the newest")

    assert "fan-synthetic@3" not in {u.wanted for u in updates(listener)}
    assert "fan-synthetic@3" not in {w.model for w in listener.windows()}


def test_command_takes_a_node_back_to_the_release_before(
    mosquitto: Mosquitto, shelf: Shelf, listener: Listener, tmp_path: Path
) -> None:
    """Once, and the order does not bring it forward again; a new one does."""
    release = packed(2)
    broker = MqttSettings(host=mosquitto.host, port=mosquitto.port)
    shelf.put_release(release)
    with running(updatable(mosquitto, tmp_path)):
        listener.wait_for_windows(1)
        too_early = send_command(broker, "press-07", "rollback", minutes=None, seconds=15)
        shelf.order("all", release)
        wait_for_update(listener, committed(release), "the release")
        done = send_command(broker, "press-07", "rollback", minutes=None, seconds=15)
        again = send_command(broker, "press-07", "rollback", minutes=None, seconds=15)
        listener.wait_for_windows(len(listener.windows()) + 2)
        model = listener.windows()[-1].model
        last = updates(listener)[-1]
        seen = len(updates(listener))
        shelf.order("all", release)
        wait_until(
            lambda: any(committed(release)(u) for u in updates(listener)[seen:]),
            "its return",
            seconds=120,
        )

    assert (too_early.done, done.done, again.done) == (False, True, False)
    assert done.note == "runs fan-synthetic@1 again, fan-synthetic@2 is left"
    assert model == "fan-synthetic@1"
    assert (last.phase, last.reason) == (UpdatePhase.ROLLED_BACK, "rolled back by a command")


def test_retained_roll_back_command_is_refused(
    mosquitto: Mosquitto, shelf: Shelf, listener: Listener, tmp_path: Path
) -> None:
    """It would be obeyed again at every connection, years later."""
    release = packed(2)
    settings = updatable(mosquitto, tmp_path)
    shelf.put_release(release)
    shelf.order("all", release)
    with running(settings):
        wait_for_update(listener, committed(release), "the release")
    command = Command(node="press-07", at_us=time.time_ns() // 1000, minutes=None)
    shelf.put(topics.command("press-07", "rollback"), encode(command))
    with running(settings) as node:
        _wait_for_line(node, "a retained rollback command is refused")
        listener.wait_for_windows(len(listener.windows()) + 2)

    assert listener.windows()[-1].model == "fan-synthetic@2"


def test_node_without_keys_takes_no_orders(
    mosquitto: Mosquitto, shelf: Shelf, listener: Listener
) -> None:
    """It says so in its birth, and to whoever tells it to go back."""
    release = packed(2)
    shelf.put_release(release)
    shelf.order("all", release)
    broker = MqttSettings(host=mosquitto.host, port=mosquitto.port)
    with running(node_settings(mosquitto, HEALTHY)):
        listener.wait_for_windows(3)
        answer = send_command(broker, "press-07", "rollback", minutes=None, seconds=15)
    birth = listener.all_of(Birth)[-1]

    assert not answer.done
    assert answer.note == "this node takes no updates: [update] keys_file is not set"
    assert (birth.trusted_keys, "update" in birth.capabilities) == ((), False)
    assert {window.model for window in listener.windows()} == {"fan-synthetic@1"}
    assert not updates(listener)


def test_key_can_be_replaced(
    mosquitto: Mosquitto, shelf: Shelf, listener: Listener, tmp_path: Path
) -> None:
    """A node that trusts two keys follows either."""
    first, second = packed(2), packed(3)
    settings = updatable(mosquitto, tmp_path)
    settings["EARSHOT_UPDATE_KEYS_FILE"] = str(keys_file(tmp_path, SIGNER, SECOND))
    with running(settings):
        for release, signer in ((first, SIGNER), (second, SECOND)):
            shelf.put_release(release, signer)
            shelf.order("all", release, signer=signer)
            wait_for_update(listener, committed(release), "the release")

    assert set(listener.all_of(Birth)[-1].trusted_keys) == {SIGNER.key_id, SECOND.key_id}


def test_release_with_other_windows_takes_over_without_a_gap(
    mosquitto: Mosquitto, shelf: Shelf, listener: Listener, tmp_path: Path
) -> None:
    """Twice the hop: its windows begin after the last of the old ones, within one hop."""
    release = packed(2, window_hop_samples=8_000)
    shelf.put_release(release)
    with running(updatable(mosquitto, tmp_path)):
        listener.wait_for_windows(3)
        shelf.order("all", release)
        wait_for_update(listener, committed(release), "the release")
        listener.wait_for_windows(len(listener.windows()) + 4)
    windows = listener.windows()
    steps = [b.start_us - a.start_us for a, b in itertools.pairwise(windows)]
    change = [window.model for window in windows].index("fan-synthetic@2")

    assert [window.seq for window in windows] == list(range(len(windows)))
    assert all(0 < step <= 550_000 for step in steps), steps
    assert all(abs(step - 500_000) < 50_000 for step in steps[change:]), steps


def test_calibrated_node_calibrates_anew(
    mosquitto: Mosquitto, shelf: Shelf, listener: Listener, tmp_path: Path
) -> None:
    """Its limits were the other model's; a roll-back finds them again."""
    release = packed(2)
    settings = updatable(mosquitto, tmp_path)
    settings["EARSHOT_SOURCE_SPEC"] = "synthetic:fan?seconds=900"
    done = run("node", "calibrate", "--fast", "--minutes", "2", settings=settings)
    settings["EARSHOT_SOURCE_SPEC"] = "synthetic:fan?seed=5"
    shelf.put_release(release)
    broker = MqttSettings(host=mosquitto.host, port=mosquitto.port)
    with running(settings):
        wait_until(lambda: bool(listener.all_of(State)), "a state")
        before = listener.all_of(State)[-1]
        shelf.order("all", release)
        wait_for_update(listener, committed(release), "the release")
        anew = listener.all_of(State)[-1]
        send_command(broker, "press-07", "rollback", minutes=None, seconds=15)
        wait_until(
            lambda: listener.all_of(State)[-1].threshold_source is ThresholdSource.SITE,
            "the limits of before",
        )
    after = listener.all_of(State)[-1]

    assert done.returncode == 0, done.stdout + done.stderr
    assert before.threshold_source is ThresholdSource.SITE
    assert anew.model == "fan-synthetic@2"
    assert anew.calibration is CalibrationPhase.SETTLING
    assert anew.machine in (MachineState.LEARNING, MachineState.UNKNOWN)
    assert (after.threshold, after.model) == (before.threshold, "fan-synthetic@1")
    assert after.calibration is CalibrationPhase.ARMED
