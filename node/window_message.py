"""The message `Window`, made of a judged window. Pure, and the only place where one is made.

Figures and judgement are carried over by name: every field of `WindowFigures` (what the scorer
measures) and of `Judgement` (what the limits in force say) is a field of `Window`. So a new figure
is told at three places: `contract.messages.Window`, `WindowFigures`, and the code that measures it.
"""

from typing import Any

import msgspec

from contract.messages import Window
from contract.states import Clock
from node.delivery.clock import Stamp
from node.ear import JudgedWindow
from node.scoring.scorer import WindowFigures

_DECIMALS = {"level_dbfs": 2, "clipped": 6}
"""Figures that are sent with fewer digits than they are measured with."""


def window_message(
    judged: JudgedWindow,
    stamp: Stamp,
    *,
    node: str,
    boot: str,
    seq: int,
    duration_us: int,
    model: str,
    overruns: int,
    simulated: bool,
) -> Window:
    """The window as it is published.

    Args:
        judged: the window.
        stamp: when it began.
        node: the node's id.
        boot: id of this start of the node.
        seq: the window's number in this boot.
        duration_us: its length in microseconds.
        model: label of the release that has scored it.
        overruns: blocks of sound that the capture has lost since the boot.
        simulated: whether time is the sound's own, and not the computer's.
    """
    latency_ms = judged.latency_ms
    return Window(
        node=node,
        boot=boot,
        seq=seq,
        start_us=stamp.start_us,
        duration_us=duration_us,
        **_rounded(judged.figures),
        **msgspec.structs.asdict(judged.judgement),
        threshold=judged.threshold,
        problem=judged.problem,
        model=model,
        overruns=overruns,
        clock=Clock.SIMULATED if simulated else stamp.clock,
        latency_ms=None if latency_ms is None else round(latency_ms, 3),
    )


def _rounded(figures: WindowFigures) -> dict[str, Any]:
    """By name; a scorer's other results, which `figures` may hold as well, stay behind."""
    carried = {name: getattr(figures, name) for name in WindowFigures.__struct_fields__}
    for name, decimals in _DECIMALS.items():
        if carried[name] is not None:
            carried[name] = round(carried[name], decimals)
    return carried
