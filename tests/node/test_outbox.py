"""The outbox in memory: bounded, and every window accounted for."""

import msgspec
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    rule,
    run_state_machine_as_test,
)

from contract.messages import Clock, MachineState, Problem, Window
from node.outbox import Entry, MemoryOutbox

NORMAL = Window(
    node="press-07",
    boot="01JD8Z6W3M9K4T2Q5R7V1X0YBC",
    seq=0,
    start_us=0,
    duration_us=2_000_000,
    mse=1.0,
    statistic=1.0,
    threshold=2.0,
    score=0.5,
    anomaly=False,
    state=MachineState.NORMAL,
    problem=None,
    model="fan@1",
    level_dbfs=-30.0,
    clipped=0.0,
    overruns=0,
    clock=Clock.SYNCED,
    latency_ms=4.0,
)
FLAGGED = msgspec.structs.replace(NORMAL, mse=3.0, statistic=3.0, score=1.5, anomaly=True)
UNSCORED = msgspec.structs.replace(
    NORMAL, mse=None, statistic=None, score=None, anomaly=None, problem=Problem.ERROR
)
UNHEARD = msgspec.structs.replace(UNSCORED, problem=Problem.MIC_GONE, level_dbfs=None)
KINDS = {".": NORMAL, "x": FLAGGED, "?": UNSCORED, "-": UNHEARD}


def window(kind: str, seq: int) -> Window:
    return msgspec.structs.replace(KINDS[kind], seq=seq, start_us=seq)


def filled(kinds: str, *, max_windows: int) -> MemoryOutbox:
    outbox = MemoryOutbox(max_windows=max_windows)
    for seq, kind in enumerate(kinds):
        outbox.add(window(kind, seq), float(seq))
    return outbox


def waiting(outbox: MemoryOutbox, limit: int = 1000) -> list[int]:
    return [entry.seq for entry in outbox.waiting(limit)]


def test_windows_wait_oldest_first() -> None:
    """Windows come back as they were given, oldest first, each with its time."""
    outbox = filled(".x?", max_windows=10)

    assert outbox.waiting(10) == [
        Entry(seq, float(seq), window(kind, seq)) for seq, kind in enumerate(".x?")
    ]


@pytest.mark.parametrize("limit", [0, 1, 2, 3, 4])
def test_no_more_are_given_than_asked_for(limit: int) -> None:
    """Up to the limit are given, and asking takes nothing out."""
    outbox = filled("...", max_windows=10)

    assert waiting(outbox, limit) == [0, 1, 2][:limit]
    assert len(outbox) == 3


def test_window_on_its_way_does_not_wait() -> None:
    """What was sent is not given again, but is still held."""
    outbox = filled("....", max_windows=10)

    outbox.sent([0, 2])

    assert waiting(outbox) == [1, 3]
    assert waiting(outbox, 1) == [1]
    assert len(outbox) == 4


def test_window_that_comes_back_waits_in_its_place() -> None:
    """What was not confirmed is given again, in the order of old."""
    outbox = filled("....", max_windows=10)
    outbox.sent([0, 1, 2])

    outbox.back([0, 2])

    assert waiting(outbox) == [0, 2, 3]


def test_confirmed_window_is_forgotten() -> None:
    """What is confirmed is neither held nor counted as lost."""
    outbox = filled("....", max_windows=10)
    outbox.sent([0, 1])

    outbox.done([1, 0])

    assert waiting(outbox) == [2, 3]
    assert (outbox.discarded_full, outbox.discarded_refused) == (0, 0)


def test_refused_window_is_counted() -> None:
    """What the broker refuses for good is given up and counted, once."""
    outbox = filled("...", max_windows=10)
    outbox.sent([0, 1])

    outbox.done([0], refused=True)
    outbox.done([0], refused=True)

    assert waiting(outbox) == [2]
    assert (outbox.discarded_full, outbox.discarded_refused) == (0, 1)


@pytest.mark.parametrize(
    ("kinds", "left"),
    [
        ("...", [0, 1, 2]),
        ("....", [1, 2, 3]),
        (".......", [4, 5, 6]),
        ("x...", [0, 2, 3]),
        (".x..", [1, 2, 3]),
        ("x.?.", [0, 2, 3]),
        ("xx..", [0, 1, 3]),
        ("?x.x", [0, 1, 3]),
        ("xxxx", [1, 2, 3]),
        ("????", [1, 2, 3]),
        ("x?x?x?", [3, 4, 5]),
        ("..xxx", [2, 3, 4]),
        ("..xxxx", [3, 4, 5]),
        ("----", [1, 2, 3]),
        ("x-xx", [0, 2, 3]),
        ("x?-x", [0, 1, 3]),
        ("-.xx", [1, 2, 3]),
        (".-xx", [1, 2, 3]),
    ],
)
def test_oldest_normal_window_is_given_up_first(kinds: str, left: list[int]) -> None:
    """Normal (.) and unheard (-) windows leave before flagged (x) and unscored (?) ones do."""
    outbox = filled(kinds, max_windows=3)

    assert waiting(outbox) == left
    assert outbox.discarded_full == len(kinds) - 3


@pytest.mark.parametrize("kinds", ["xxx.", "x?x.", "xxx.....", "xxx-", "x?x--"])
def test_normal_newcomer_does_not_drive_out_an_anomaly(kinds: str) -> None:
    """Where all that wait are flagged or unscored, it is given up itself; so is an unheard one."""
    outbox = filled(kinds, max_windows=3)

    assert waiting(outbox) == [0, 1, 2]
    assert outbox.discarded_full == len(kinds) - 3


def test_window_on_its_way_is_given_up_last() -> None:
    """Its confirmation is near: what still waits makes room before it, and each counts once."""
    outbox = filled("...", max_windows=3)
    outbox.sent([0, 1])

    outbox.add(window(".", 3), 3.0)
    outbox.add(window(".", 4), 4.0)
    outbox.done([0])
    outbox.back([1])

    assert waiting(outbox) == [1, 4]
    assert (outbox.discarded_full, outbox.discarded_refused) == (2, 0)


def test_age_is_that_of_the_oldest() -> None:
    """The age counts from the oldest window held, also one on its way; an empty outbox has none."""
    outbox = filled("...", max_windows=10)
    outbox.sent([0])

    assert outbox.oldest_seconds(12.0) == 12.0
    outbox.done([0])
    assert outbox.oldest_seconds(12.0) == 11.0
    outbox.done([1, 2])
    assert outbox.oldest_seconds(12.0) == 0.0


class Accounts(RuleBasedStateMachine):
    """Any order of events: what came in is held, done or counted as lost, and never more."""

    def __init__(self) -> None:
        super().__init__()
        self.outbox = MemoryOutbox(max_windows=5)
        self.added = 0
        self.confirmed = 0
        self.on_their_way: set[int] = set()

    @rule(kind=st.sampled_from(".x?-"))
    def add(self, kind: str) -> None:
        self.outbox.add(window(kind, self.added), float(self.added))
        self.added += 1

    @rule(limit=st.integers(0, 6))
    def send(self, limit: int) -> None:
        seqs = waiting(self.outbox, limit)
        assert not self.on_their_way & set(seqs)
        self.outbox.sent(seqs)
        self.on_their_way.update(seqs)

    @rule(refused=st.booleans())
    def answer(self, refused: bool) -> None:
        before = len(self.outbox)
        self.outbox.done(self.on_their_way, refused=refused)
        self.on_their_way.clear()
        if not refused:
            self.confirmed += before - len(self.outbox)

    @rule()
    def lose_connection(self) -> None:
        self.outbox.back(self.on_their_way)
        self.on_their_way.clear()

    @invariant()
    def nothing_is_unaccounted(self) -> None:
        discarded = self.outbox.discarded_full + self.outbox.discarded_refused
        assert self.added == len(self.outbox) + self.confirmed + discarded
        assert len(self.outbox) <= 5
        seqs = waiting(self.outbox)
        assert seqs == sorted(set(seqs))
        assert not self.on_their_way & set(seqs)


def test_every_window_is_accounted_for() -> None:
    """Produced = held + confirmed + discarded, whatever happens in whatever order."""
    run_state_machine_as_test(
        Accounts,
        settings=settings(max_examples=100, stateful_step_count=40, deadline=None, database=None),
    )
