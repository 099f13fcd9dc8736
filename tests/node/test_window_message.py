"""The message `Window`, made of what was measured and judged."""

from typing import get_type_hints

import numpy as np
import pytest

from contract.messages import Window
from contract.states import Clock, MachineState, MicrophoneState, Problem
from node.delivery.clock import Stamp
from node.ear import JudgedWindow
from node.machine.machine_watch import Judgement
from node.scoring.scorer import Scored, Scorer, WindowFigures
from node.window_message import window_message
from tests.rig.examples import BOOT, NODE
from tests.rig.fake_inference import FEATURES, RUNTIME, release

UNJUDGED = Judgement(statistic=None, score=None, anomaly=None, state=MachineState.UNKNOWN)


def message(
    figures: WindowFigures, judgement: Judgement = UNJUDGED, *, simulated: bool = False
) -> Window:
    """What is published of a window with these figures."""
    judged = JudgedWindow(
        start_monotonic_ns=1,
        figures=figures,
        judgement=judgement,
        threshold=2.0,
        problem=None if judgement.score is not None else Problem.MIC_GONE,
        microphone=MicrophoneState.OK,
        evidence=None,
        latency_ms=12.34567,
    )
    return window_message(
        judged,
        Stamp(7_000_000, Clock.SYNCED),
        node=NODE,
        boot=BOOT,
        seq=3,
        duration_us=2_000_000,
        model="fan@1",
        overruns=4,
        simulated=simulated,
    )


@pytest.mark.parametrize("carried", [WindowFigures, Judgement])
def test_what_is_carried_over_by_name_has_the_type_of_the_message(carried: type) -> None:
    """A figure that the message does not know, or knows as something else, is a mistake."""
    window, figures = get_type_hints(Window), get_type_hints(carried)

    assert {name: window.get(name) for name in figures} == figures


def test_every_figure_of_a_scored_window_is_told() -> None:
    """What the scorer has measured arrives, rounded where more digits say nothing."""
    sound = (0.05 * np.random.default_rng(3).standard_normal(FEATURES.window_samples)).astype(
        np.float32
    )
    scored: Scored = Scorer(release(add=1.0), RUNTIME).score(sound)

    window = message(scored)

    for name in WindowFigures.__struct_fields__:
        assert getattr(window, name) == pytest.approx(getattr(scored, name), abs=0.005), name


def test_judgement_and_circumstances_are_told() -> None:
    """What is no figure of the scorer arrives as well, each in its field."""
    judgement = Judgement(statistic=1.5, score=0.75, anomaly=False, state=MachineState.NORMAL)

    window = message(WindowFigures(mse=0.5), judgement)

    assert (window.node, window.boot, window.seq, window.model) == (NODE, BOOT, 3, "fan@1")
    assert (window.start_us, window.duration_us) == (7_000_000, 2_000_000)
    assert (window.clock, window.overruns, window.latency_ms) == (Clock.SYNCED, 4, 12.346)
    assert (window.statistic, window.threshold, window.score) == (1.5, 2.0, 0.75)
    assert (window.anomaly, window.state, window.problem) == (False, MachineState.NORMAL, None)


def test_window_that_nobody_heard_has_no_figures() -> None:
    """It is told of all the same, with its problem."""
    window = message(WindowFigures())

    assert (window.mse, window.level_dbfs, window.clipped) == (None, None, 0.0)
    assert (window.problem, window.score, window.anomaly) == (Problem.MIC_GONE, None, None)


def test_simulated_time_is_told_as_such() -> None:
    """Whatever the computer's own clock is worth."""
    assert message(WindowFigures(), simulated=True).clock is Clock.SIMULATED
