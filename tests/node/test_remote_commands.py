"""Commands over MQTT, and their answers."""

from pathlib import Path

import pytest

from contract.messages import Command
from node.delivery.publisher import Asked
from node.machine.calibration_requests import CalibrationRequests
from node.machine.machine_watch import MachineWatch
from node.machine.site_store import SiteStore
from node.remote_commands import RemoteCommands
from tests.rig.examples import BOOT, NODE
from tests.rig.fake_inference import release


class Node:
    """A machine that is watched, and somebody who obeys."""

    def __init__(self, folder: Path, *, takes_updates: bool) -> None:
        self.watch = MachineWatch(release().manifest)
        self.rolled_back: list[Asked] = []
        calibrations = CalibrationRequests(
            self.watch, SiteStore(folder), now_us=lambda: 7, recalibrate=True
        )
        self.commands = RemoteCommands(
            calibrations,
            self.rolled_back.append if takes_updates else None,
            node=NODE,
            boot=BOOT,
            now_us=lambda: 7,
        )

    def ask(self, verb: str, minutes: float | None = None) -> tuple[bool, str]:
        """Whether it was done, and what was said."""
        answer = self.commands.obey(asked(verb, minutes))
        assert answer is not None
        assert (answer.result.verb, answer.correlation) == (verb, b"17")
        assert (answer.result.node, answer.result.boot, answer.result.at_us) == (NODE, BOOT, 7)
        return answer.result.done, answer.result.note


def asked(verb: str, minutes: float | None = None) -> Asked:
    return Asked(verb, Command(node=NODE, at_us=5, minutes=minutes), b"17")


@pytest.fixture
def node(tmp_path: Path) -> Node:
    """One that takes no updates."""
    return Node(tmp_path, takes_updates=False)


def test_calibrate_begins_and_ends_a_calibration(node: Node) -> None:
    """So many minutes begin one, none end it."""
    begun = node.ask("calibrate", 10)
    under_way = node.watch.is_calibrating
    ended = node.ask("calibrate", 0)
    again = node.ask("calibrate", 0)

    assert begun[0]
    assert begun[1].startswith("calibrates for 10 minutes")
    assert under_way
    assert ended == (True, "cancelled")
    assert again == (False, "no calibration was under way")


def test_calibrate_that_is_refused_says_why(node: Node) -> None:
    """No plan has so few minutes."""
    done, note = node.ask("calibrate", 0.5)

    assert not done
    assert note
    assert not node.watch.is_calibrating


def test_rollback_needs_updates(node: Node) -> None:
    """A node that takes none says so, and what is missing."""
    done, note = node.ask("rollback")

    assert not done
    assert note == "this node takes no updates: [update] keys_file is not set"


def test_rollback_is_answered_by_whoever_does_it(tmp_path: Path) -> None:
    """It takes its time; the answer comes later."""
    node = Node(tmp_path, takes_updates=True)
    command = asked("rollback")

    assert node.commands.obey(command) is None
    assert node.rolled_back == [command]
