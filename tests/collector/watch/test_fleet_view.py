"""Each node is called by the worst that is known of it."""

import pytest
from msgspec.structs import replace

from collector.watch.fleet_view import SILENT_AFTER_US, Condition, FleetView, NodeRow
from contract.messages import CollectorStatus, Message
from contract.states import MachineState, MicrophoneState, Presence, PresenceReason, Problem
from tests.rig.examples import START_US, backlog, state, status, window

NOW_US = START_US + 10_000_000

ONLINE = status(PresenceReason.CONNECTED)
UNSCORED = window(mse=None, statistic=None, score=None, anomaly=None, problem=Problem.ERROR)
ANOMALOUS = window(mse=90.0, statistic=90.0, score=2.0, anomaly=True)


def row_of(*messages: Message, after_us: int = 0) -> NodeRow:
    view = FleetView()
    for message in messages:
        view.take(message, now_us=NOW_US)
    (row,) = view.rows(now_us=NOW_US + after_us)
    return row


@pytest.mark.parametrize(
    ("messages", "condition"),
    [
        ([ONLINE], Condition.WAITING),
        ([ONLINE, window()], Condition.HEALTHY),
        ([window()], Condition.HEALTHY),
        ([window(state=MachineState.UNKNOWN)], Condition.WAITING),
        ([window(state=MachineState.WARNING)], Condition.WARNING),
        ([window(state=MachineState.LEARNING)], Condition.LEARNING),
        ([window(state=MachineState.STOPPED)], Condition.STOPPED),
        ([window(state=MachineState.ALARM)], Condition.ANOMALOUS),
        ([ANOMALOUS], Condition.ANOMALOUS),
        ([ANOMALOUS, window()], Condition.HEALTHY),
        ([replace(ANOMALOUS, state=MachineState.STOPPED)], Condition.STOPPED),
        ([replace(ANOMALOUS, state=MachineState.LEARNING)], Condition.LEARNING),
        ([replace(ANOMALOUS, state=MachineState.UNKNOWN)], Condition.ANOMALOUS),
        ([replace(UNSCORED, state=MachineState.STOPPED)], Condition.DEAF),
        ([UNSCORED], Condition.DEAF),
        ([state(MachineState.ALARM)], Condition.ANOMALOUS),
        ([state(MachineState.UNKNOWN)], Condition.WAITING),
        ([window(), state(microphone=MicrophoneState.SILENT)], Condition.DEAF),
        ([ANOMALOUS, state(microphone=MicrophoneState.GONE)], Condition.DEAF),
        ([window(), state(microphone=MicrophoneState.QUIET)], Condition.DEAF),
        ([ANOMALOUS, status(PresenceReason.LOST)], Condition.OFFLINE),
        ([status(PresenceReason.STOPPED), ONLINE, window()], Condition.HEALTHY),
    ],
)
def test_condition_is_the_worst_that_is_known(
    messages: list[Message], condition: Condition
) -> None:
    """A dead microphone is never a healthy machine, and an absent node is neither."""
    assert row_of(*messages).condition is condition


def test_node_without_windows_for_a_while_is_silent() -> None:
    """Not healthy, although its last window was."""
    assert row_of(window(), after_us=SILENT_AFTER_US).condition is Condition.HEALTHY
    assert row_of(window(), after_us=SILENT_AFTER_US + 1).condition is Condition.SILENT


def test_row_shows_the_last_window() -> None:
    """With its threshold, state, model and level."""
    row = row_of(window(0), ANOMALOUS, state())

    assert (row.mse, row.score, row.threshold) == (90.0, 2.0, 45.0)
    assert (row.machine, row.microphone, row.model) == ("normal", "ok", "fan@17")
    assert (row.windows, row.level_dbfs) == (2, -31.25)


def test_scores_are_the_last_thirty_in_order() -> None:
    """A window without a score leaves its place."""
    row = row_of(*(window(n, score=n / 10) for n in range(40)), UNSCORED)

    assert row.scores == (*(n / 10 for n in range(11, 40)), None)


def test_late_windows_are_counted_and_do_not_hide_the_live_one() -> None:
    """A backlog is history."""
    row = row_of(window(9, mse=1.0), backlog(1, 2, 3))

    assert (row.windows, row.mse, len(row.scores)) == (4, 1.0, 1)


def test_age_of_a_retained_message_is_its_own() -> None:
    """What the broker kept since yesterday was not heard just now."""
    view = FleetView()
    view.take(status(PresenceReason.LOST), now_us=NOW_US, retained=True)

    assert view.rows(now_us=NOW_US)[0].heard_us == START_US


def test_rows_are_in_order_of_names() -> None:
    """Whoever speaks first."""
    view = FleetView()
    for node in ("press-10", "press-02", "fan-1"):
        view.take(window(node=node), now_us=NOW_US)

    assert [row.node for row in view.rows(now_us=NOW_US)] == ["fan-1", "press-02", "press-10"]


def test_messages_of_others_are_ignored() -> None:
    """A collector is no node."""
    view = FleetView()
    view.take(
        CollectorStatus(id="c", at_us=1, state=Presence.ONLINE, reason=PresenceReason.CONNECTED),
        now_us=NOW_US,
    )

    assert len(view) == 0
