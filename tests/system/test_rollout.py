"""A fleet of five nodes and an operator's commands, on a real broker: the story of two releases."""

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from contract import topics
from contract.messages import Birth, Status, Update, Window
from contract.release import CHUNK_BYTES
from contract.signature import MAX_ENVELOPE_BYTES
from contract.states import Presence, UpdatePhase
from tests.rig.brokers import Mosquitto
from tests.rig.listeners import Listener
from tests.rig.peers import Ear
from tests.rig.programs import ROOT, environment, node_settings, start
from tests.rig.shelf import packed
from tests.rig.waiting import wait_until
from training.release.release_folder import put_release

# Where they stand among all (contract.desired.cohort_percent): 14.5, 22.5, 41.4, 64.9, 93.0.
NODES = ("press-07", "pump-2", "press-01", "press-03", "fan-3")
FIRST, *OTHERS = NODES
LATE = "pump-1"
LINE_2 = ("press-01", "press-03")


class Shop:
    """A broker, an operator with a key, and releases packed by the command line."""

    def __init__(self, broker: Mosquitto, folder: Path) -> None:
        self.broker = broker
        self.folder = folder
        put_release(folder / "factory", packed(1))
        self.earshot("fleet", "keys", "create", "--out", str(folder / "key.pem"))

    def earshot(self, *arguments: str, code: int = 0) -> str:
        """What the command says to it."""
        done = subprocess.run(
            [sys.executable, "-m", "earshot", *arguments],
            cwd=ROOT,
            env=environment({}),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=400,
            check=False,
        )
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout + done.stderr

    def operate(self, *arguments: str, code: int = 0) -> str:
        """One of the commands that give orders."""
        return self.earshot("fleet", *arguments, *self._at_broker, "--key", self._key, code=code)

    def release(self, version: int) -> Path:
        out = self.folder / f"fan-{version}"
        self.earshot(
            "training",
            "release",
            str(self.folder / "factory"),
            *("--name", "fan-synthetic", "--version", str(version), "--out", str(out)),
            *("--key", self._key),
        )
        return out

    @contextmanager
    def node(self, node: str, **more: str) -> Iterator["subprocess.Popen[str]"]:
        settings = node_settings(
            self.broker,
            "synthetic:fan?seed=5",
            NODE_ID=node,
            NODE_STATE_FOLDER=str(self.folder / "state"),
            NODE_GROUP="line-2" if node in LINE_2 else "line-1",
            MODEL_FOLDER=str(self.folder / "factory"),
            UPDATE_KEYS_FILE=str(self.folder / "key.pub.pem"),
            UPDATE_TRIAL_WINDOWS="2",
            UPDATE_CONFIRM_WINDOWS="1",
            **more,
        )
        with start("node", "run", settings=settings) as program:
            try:
                yield program
            finally:
                program.terminate()
                program.communicate(timeout=30)

    @property
    def _key(self) -> str:
        return str(self.folder / "key.pem")

    @property
    def _at_broker(self) -> tuple[str, str]:
        return "--broker", f"{self.broker.host}:{self.broker.port}"


@pytest.fixture
def shop(mosquitto: Mosquitto, tmp_path: Path) -> Shop:
    return Shop(mosquitto, tmp_path)


def test_two_releases_go_through_a_fleet(shop: Shop) -> None:
    """Rings, a threshold alone, a release that is stopped, the way back, and who comes late."""
    with Listener(shop.broker) as listener, ExitStack() as fleet:
        for node in OTHERS:
            fleet.enter_context(shop.node(node))
        with shop.node(FIRST):
            wait_until(
                lambda: _running(listener) == _all_run("fan-synthetic@1", *NODES),
                "births",
                seconds=120,
            )
            everything = fleet.enter_context(Ear(shop.broker, "watched", "earshot/1/#"))

            # In two rings: one node alone, then the others.
            second = str(shop.release(2))
            told = shop.operate("push", second, "--to", "all", "--percent", "20,100", "--wait")
            commits = [u for u in listener.all_of(Update) if u.phase is UpdatePhase.COMMITTED]
            began = [u for u in listener.all_of(Update) if u.phase is UpdatePhase.DOWNLOADING]

            assert "5 of 5 nodes have committed it" in told
            assert commits[0].node == FIRST
            assert min(u.at_us for u in began if u.node != FIRST) > commits[0].at_us
            assert _running(listener) == _all_run("fan-synthetic@2", *NODES)

            # A threshold for one group: an order, and nothing else.
            sent = len(everything.on("/blob/"))
            shop.operate("push", second, "--to", "group:line-2", "--threshold", "0.125", "--wait")
            wait_until(lambda: _nodes_at(listener, 0.125) == set(LINE_2), "it in the group alone")
            shop.operate("withdraw", "--to", "group:line-2")
            wait_until(lambda: not _nodes_at(listener, 0.125), "the release's own again")

            assert len(everything.on("/blob/")) == sent

        # The first node's trial fails: nobody else is ever asked.
        with shop.node(FIRST, UPDATE_MAX_TRIAL_SCORE="0.000001"):
            told = shop.operate(
                *("push", str(shop.release(3)), "--to", "all", "--percent", "20,100"),
                *("--wait", "--stop-if-failed", "5%"),
                code=1,
            )
            assert "does not know this sound" in told
            assert {u.node for u in listener.all_of(Update) if u.wanted == "fan-synthetic@3"} == {
                FIRST
            }
            assert _running(listener) == _all_run("fan-synthetic@2", *NODES)

        # With another setting it goes out to all; and back.
        with shop.node(FIRST):
            wait_until(
                lambda: listener.all_of(Status)[-1].state is Presence.ONLINE, "the first node"
            )
            shop.operate("promote", "--to", "all", "--percent", "100", "--wait")
            assert _running(listener) == _all_run("fan-synthetic@3", *NODES)
            shop.operate("rollback", "--to", "all", "--wait")
            assert _running(listener) == _all_run("fan-synthetic@2", *NODES)
            told = shop.operate("rollout", "status")
            for node in NODES:
                assert node in told

            # What nobody wants is taken from the broker; who comes late finds all the rest there.
            before = _kept(shop.broker)
            shop.operate("retire", "--yes")
            kept = _kept(shop.broker)
            with shop.node(LATE):
                wait_until(
                    lambda: _running(listener).get(LATE) == "fan-synthetic@2",
                    "the late joiner",
                    seconds=120,
                )

    assert topics.release("fan-synthetic@3") in before
    assert topics.release("fan-synthetic@3") not in kept
    assert topics.release("fan-synthetic@2") in kept
    for topic, size in kept.items():
        assert size <= (CHUNK_BYTES if "/blob/" in topic else MAX_ENVELOPE_BYTES), topic
    for node in (*NODES, LATE):
        _check_windows(listener, node)


def _running(listener: Listener) -> dict[str, str]:
    """Node -> what it said last that it runs."""
    return {birth.node: birth.model for birth in listener.all_of(Birth)}


def _all_run(release: str, *nodes: str) -> dict[str, str]:
    return dict.fromkeys(nodes, release)


def _nodes_at(listener: Listener, threshold: float) -> set[str]:
    """Whose last window was judged by it."""
    last = {window.node: window for window in listener.all_of(Window)}
    return {node for node, window in last.items() if window.threshold == threshold}


def _kept(broker: Mosquitto) -> dict[str, int]:
    """Topic -> size of every release, chunk and order that the broker keeps."""
    with Ear(broker, "inventory", "earshot/1/#") as inventory:
        time.sleep(2.0)
        return {
            m.topic: len(m.payload)
            for m in inventory.received()
            if m.retained and any(part in m.topic for part in ("/release/", "/blob/", "/desired"))
        }


def _check_windows(listener: Listener, node: str) -> None:
    """Every number of every start came, once."""
    numbers: dict[str, list[int]] = {}
    for window in listener.windows():
        if window.node == node:
            numbers.setdefault(window.boot, []).append(window.seq)
    for seqs in numbers.values():
        assert sorted(seqs) == list(range(len(seqs)))
