"""Updates with real nodes on a real broker: what goes well, over restarts, kills and outages."""

import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from contract.messages import Birth, State, Update, UpdatePhase
from node.release_store import Release
from tests.fleet import Listener, node_settings, start
from tests.servers import Mosquitto, wait_until
from tests.shelf import Shelf, keys_file, packed

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
    keys = {"UPDATE_KEYS_FILE": str(keys_file(folder))}
    return node_settings(broker, HEALTHY, **{**QUICK, **keys, **more})


@contextmanager
def running(settings: dict[str, str]) -> Iterator["subprocess.Popen[str]"]:
    with start("node", "run", settings=settings) as node:
        try:
            yield node
        finally:
            node.kill()
            node.communicate()


def updates(listener: Listener, node: str = "press-07") -> list[Update]:
    return [update for update in listener.all_of(Update) if update.node == node]


def wait_for_update(
    listener: Listener, fits: Callable[[Update], bool], what: str, *, seconds: float = 30.0
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
