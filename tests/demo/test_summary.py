"""The demo's account says what the database says."""

from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec
import pytest

from collector.sinks.sqlite import SqliteSink
from contract.messages import Birth, Health, Message, Update
from contract.points import points
from contract.states import UpdatePhase
from demo.summary import NodeSummary, known_nodes, stored_windows, summarize
from tests.rig.examples import BIRTH, HEALTH, SECOND_US, START_US, UPDATE, window

Store = Callable[..., Path]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """Writes messages as the collector does, and gives the database."""
    path = tmp_path / "earshot.db"

    def write(*messages: Message) -> Path:
        with closing(SqliteSink(path)) as sink:
            sink.write([point for each in messages for point in points(each, arrived_us=0)])
        return path

    return write


def update(phase: UpdatePhase, second: int, *, reason: str | None = None) -> Update:
    return msgspec.structs.replace(
        UPDATE, phase=phase, at_us=START_US + second * SECOND_US, reason=reason
    )


def birth(node: str) -> Birth:
    return msgspec.structs.replace(BIRTH, node=node)


def health(windows: int) -> Health:
    return msgspec.structs.replace(HEALTH, windows=windows)


def only(summaries: list[NodeSummary]) -> NodeSummary:
    (summary,) = summaries
    return summary


def test_windows_are_counted_and_the_fault_is_timed(store: Store) -> None:
    """Produced is the node's own number; the delay ends with the end of the first flag."""
    said: dict[int, dict[str, Any]] = {5: {"anomaly": True}, 6: {"anomaly": True}}
    database = store(*(window(seq, **said.get(seq, {})) for seq in range(8)), health(9))
    summary = only(summarize(database, {"press-07": 4.0}))

    assert (summary.produced, summary.stored, summary.flagged) == (9, 8, 2)
    assert (summary.windows_before_fault, summary.flagged_before_fault) == (3, 0)
    assert summary.fault_to_flag_s == 3.0


def test_model_is_that_of_the_last_window(store: Store) -> None:
    """Whatever the node says of itself, and in whichever order they were stored."""
    database = store(window(2, model="fan@18"), window(0), window(1), update(UpdatePhase.IDLE, 9))

    assert only(summarize(database, {})).model == "fan@18"


def test_last_word_of_the_update_counts(store: Store) -> None:
    """With its reason, in the table without the figures."""
    reason = "does not know this sound: median score 0.4 over 8 live windows"
    database = store(
        window(),
        update(UpdatePhase.ROLLED_BACK, 9, reason=reason),
        update(UpdatePhase.TRIAL, 8),
    )
    summary = only(summarize(database, {}))

    assert (summary.update, summary.update_reason) == (UpdatePhase.ROLLED_BACK, reason)
    assert summary.update_in_words == "rolled back: does not know this sound"


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ([], "-"),
        ([UpdatePhase.IDLE], "-"),
        ([UpdatePhase.IDLE, UpdatePhase.COMMITTED], "committed"),
    ],
)
def test_update_in_a_word(said: list[UpdatePhase], words: str, store: Store) -> None:
    """A node to which no update came has none."""
    database = store(window(), *(update(phase, second) for second, phase in enumerate(said)))

    assert only(summarize(database, {})).update_in_words == words


def test_each_node_has_its_own_update(store: Store) -> None:
    """What one says is not said of the other."""
    database = store(window(), window(node="press-08"), update(UpdatePhase.COMMITTED, 1))
    words = {summary.node: summary.update_in_words for summary in summarize(database, {})}

    assert words == {"press-07": "committed", "press-08": "-"}


def test_nodes_are_known_from_their_births(store: Store) -> None:
    """Not from what else is stored of them."""
    database = store(window(node="press-09"), birth("press-07"), birth("press-08"))

    assert known_nodes(database) == {"press-07", "press-08"}


def test_database_that_is_not_there_yet_has_no_windows(tmp_path: Path) -> None:
    """Whoever waits for windows may ask early."""
    assert stored_windows(tmp_path / "earshot.db") == 0
