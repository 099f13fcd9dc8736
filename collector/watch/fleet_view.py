"""How the fleet is, as far as its messages tell: one row per node. No clock and no terminal here.

What a node is called follows from the worst that is known of it: a node that is away comes before a
microphone that cannot be believed, and that before what the sound says of the machine.
"""

from collections import deque
from collections.abc import Iterable
from enum import StrEnum

import msgspec

from contract.messages import Backlog, Birth, Message, State, Status, Window
from contract.states import MachineState, MicrophoneState, Presence

SPARKLINE_SCORES = 30

# Fifteen windows of two seconds: longer than any reconnect of a node that is well.
SILENT_AFTER_US = 30_000_000

_MICROPHONES_TO_BELIEVE = frozenset((MicrophoneState.OK, MicrophoneState.UNKNOWN))


class Condition(StrEnum):
    """How a node is, in one word."""

    HEALTHY = "healthy"
    ANOMALOUS = "anomalous"
    WARNING = "warning"
    LEARNING = "learning"
    STOPPED = "stopped"
    DEAF = "deaf"
    """The microphone, or a window without a score, says nothing of the machine."""
    SILENT = "silent"
    """The node is online, as far as is known, and has sent no window for a while."""
    WAITING = "waiting"
    """The node is online and has sent no window yet."""
    OFFLINE = "offline"


class NodeRow(msgspec.Struct, frozen=True, kw_only=True):
    """How one node is now; None stands for what it has not said."""

    node: str
    condition: Condition
    mse: float | None
    score: float | None
    """The error as a share of the threshold: 1 is the threshold."""
    threshold: float | None
    scores: tuple[float | None, ...]
    """The last scores, oldest first; None for a window without one."""
    machine: str | None
    microphone: str | None
    model: str | None
    level_dbfs: float | None
    windows: int
    """How many windows this view has seen."""
    heard_us: int | None
    """When the node last said anything."""


class FleetView:
    """The fleet as its messages tell it, fed with them in order of arrival."""

    def __init__(self) -> None:
        self._nodes: dict[str, _KnownNode] = {}

    def __len__(self) -> int:
        return len(self._nodes)

    def take(self, message: Message, *, now_us: int, retained: bool = False) -> None:
        """Learn from a message of a node; others are ignored.

        Args:
            message: any message of the contract.
            now_us: when it arrived.
            retained: whether the broker had kept it, so that it is older than its arrival.
        """
        node_id = getattr(message, "node", None)
        if node_id is None:
            return
        node = self._nodes.setdefault(node_id, _KnownNode())
        heard_us = min(now_us, getattr(message, message.TIME, now_us)) if retained else now_us
        node.heard_us = max(node.heard_us or 0, heard_us)
        match message:
            case Window():
                node.take_windows((message,), now_us)
            case Backlog():
                node.take_windows(message.windows, None)
            case Status():
                node.presence = message.state
            case State():
                node.state = message
            case Birth():
                node.birth = message

    def rows(self, *, now_us: int) -> list[NodeRow]:
        """All nodes, sorted by name."""
        return [node.row(name, now_us) for name, node in sorted(self._nodes.items())]


class _KnownNode:
    def __init__(self) -> None:
        self.presence: Presence | None = None
        self.state: State | None = None
        self.birth: Birth | None = None
        self.window: Window | None = None
        self.windows = 0
        self.window_us: int | None = None
        self.heard_us: int | None = None
        self.scores: deque[float | None] = deque(maxlen=SPARKLINE_SCORES)

    def take_windows(self, windows: Iterable[Window], arrived_us: int | None) -> None:
        """Live windows have a time of arrival; late ones are counted and shown nowhere else."""
        for window in windows:
            self.windows += 1
            if arrived_us is not None:
                self.window, self.window_us = window, arrived_us
                self.scores.append(window.score)

    def row(self, name: str, now_us: int) -> NodeRow:
        window, state = self.window, self.state
        facts = window or state or self.birth
        machine = window.state if window else state.machine if state else None
        return NodeRow(
            node=name,
            condition=self._condition(now_us, machine),
            mse=window.mse if window else None,
            score=window.score if window else None,
            threshold=facts.threshold if facts else None,
            scores=tuple(self.scores),
            machine=machine,
            microphone=state.microphone if state else None,
            model=facts.model if facts else None,
            level_dbfs=window.level_dbfs if window else None,
            windows=self.windows,
            heard_us=self.heard_us,
        )

    def _condition(self, now_us: int, machine: MachineState | None) -> Condition:
        window = self.window
        if self.presence is Presence.OFFLINE:
            return Condition.OFFLINE
        if window is not None and now_us - (self.window_us or 0) > SILENT_AFTER_US:
            return Condition.SILENT
        if self.state is not None and self.state.microphone not in _MICROPHONES_TO_BELIEVE:
            return Condition.DEAF
        if window is None and self.state is None:
            return Condition.WAITING
        if window is not None and window.problem is not None:
            return Condition.DEAF
        if machine in (MachineState.STOPPED, MachineState.LEARNING):
            # A window's flag says little of a machine that rests, or is not known yet.
            return _CONDITIONS[machine]
        if machine is MachineState.ALARM or (window is not None and window.anomaly):
            return Condition.ANOMALOUS
        return _CONDITIONS.get(machine, Condition.WAITING)


_CONDITIONS: dict[MachineState | None, Condition] = {
    MachineState.NORMAL: Condition.HEALTHY,
    MachineState.WARNING: Condition.WARNING,
    MachineState.LEARNING: Condition.LEARNING,
    MachineState.STOPPED: Condition.STOPPED,
}
