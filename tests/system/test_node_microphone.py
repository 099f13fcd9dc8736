"""A node whose microphone goes and comes back: every second is accounted for, none says normal."""

import os
import signal
from itertools import pairwise
from pathlib import Path

from contract.messages import Health, State
from contract.states import MachineState, MicrophoneState, Problem
from tests.rig.brokers import Mosquitto
from tests.rig.listeners import Listener
from tests.rig.programs import ROOT, node_settings, start
from tests.rig.waiting import wait_until

FAKE_PORTAUDIO = ROOT / "tests/node/fake_portaudio"


def test_gap_of_a_lost_microphone_is_in_the_sequence(mosquitto: Mosquitto, tmp_path: Path) -> None:
    """Not there at boot, then heard, unplugged, and plugged in again: one window a second."""
    script = tmp_path / "faults.txt"
    script.write_text("absent\nlive:100\nabsent\nlive:4000\n")
    settings = node_settings(
        mosquitto, "microphone:name:Fake Mic: USB Audio", FAKE_SOUND=f"script:{script}"
    ) | {"PYTHONPATH": f"{FAKE_PORTAUDIO}{os.pathsep}{ROOT}", "EARSHOT_SOURCE_CHANNEL": "0"}
    with Listener(mosquitto) as listener, start("node", "run", settings=settings) as node:
        try:
            wait_until(
                lambda: any(window.problem is Problem.MIC_GONE for window in listener.windows()),
                "a window that nobody heard",
                seconds=60,
            )
            wait_until(
                lambda: script.with_suffix(".starts").stat().st_size >= 4, "the start", seconds=60
            )
            told = len(listener.all_of(State))
            wait_until(
                lambda: any(
                    state.microphone is not MicrophoneState.GONE
                    for state in listener.all_of(State)[told:]
                ),
                "sound again",
                seconds=60,
            )
            node.send_signal(signal.SIGTERM)
            _, log = node.communicate(timeout=30)
        finally:
            node.kill()
        windows = listener.windows()
        states = listener.all_of(State)
    gone = [window for window in windows if window.problem is Problem.MIC_GONE]
    last = listener.all_of(Health)[-1]

    assert node.returncode == 0, log
    assert [window.seq for window in windows] == list(range(len(windows)))
    steps_us = [later.start_us - earlier.start_us for earlier, later in pairwise(windows)]
    assert all(800_000 < step < 1_200_000 for step in steps_us), steps_us
    assert any(window.mse is not None for window in windows)
    assert all(window.anomaly is None and window.level_dbfs is None for window in gone)
    assert {window.state for window in gone} == {MachineState.UNKNOWN}
    assert any(s.microphone is MicrophoneState.GONE and s.microphone_note for s in states)
    assert (last.windows, last.reopened) == (len(windows), 1)
