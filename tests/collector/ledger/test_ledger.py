"""What is unexplained is in transit first, then missing, and never a false alarm."""

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from collector.ledger.boot import Boot, Patience
from collector.ledger.ledger import Change, Ledger, key_of, seqs_of
from contract.messages import Message, Status
from contract.records import LedgerEntry
from contract.states import BootEnd, Presence, PresenceReason
from tests.rig.examples import BOOT, NEXT_BOOT, account, backlog, state, status, window

GAP_S = 600
MINUTE_US = 60_000_000
GAP_US = GAP_S * 1_000_000
START_US = 1_800_000_000_000_000


class Story:
    """A ledger without a file, and a clock."""

    def __init__(self) -> None:
        self.ledger = Ledger(gap_seconds=GAP_S)
        self.now_us = START_US
        self.changes: list[Change] = []

    def hear(self, *messages: Message) -> None:
        """Windows in them are stored."""
        for message in messages:
            key = key_of(message)
            assert key is not None
            if key not in self.ledger.boots:
                self.ledger.put(Boot(*key, self.now_us, self.now_us))
            self.ledger.hear(message, now_us=self.now_us)
            if seqs := seqs_of(message):
                self.ledger.store(key, seqs, now_us=self.now_us)

    def entry(self, boot: str = BOOT) -> LedgerEntry:
        """The newest of the boot."""
        self.changes = self.ledger.evaluate(sorted(self.ledger.boots), now_us=self.now_us)
        found = self.ledger.boots["press-07", boot].entry
        assert found is not None
        return found

    def wait(self, us: int) -> None:
        """Minutes pass, and each is looked at."""
        end = self.now_us + us
        while self.now_us < end:
            self.now_us = min(end, self.now_us + MINUTE_US)
            self.entry()


def counts(entry: LedgerEntry) -> dict[str, int]:
    """Those that are not 0."""
    names = ("produced", "stored", "waiting", "in_transit", "missing")
    return {name: n for name in names if (n := getattr(entry, name))}


def test_boot_whose_windows_are_all_stored_is_in_balance() -> None:
    """Without a word of the node's side, too."""
    story = Story()
    story.hear(*map(window, range(10)))

    entry = story.entry()

    assert counts(entry) == {"produced": 10, "stored": 10}
    assert (entry.node, entry.boot, entry.end) == ("press-07", BOOT, BootEnd.RUNNING)


def test_gap_is_in_transit_and_missing_only_after_its_time() -> None:
    """And not a moment earlier."""
    story = Story()
    story.hear(*map(window, (0, 1, 5)))

    story.wait(GAP_US - MINUTE_US)
    assert counts(story.entry()) == {"produced": 6, "stored": 3, "in_transit": 3}

    story.wait(2 * MINUTE_US)
    assert counts(story.entry()) == {"produced": 6, "stored": 3, "missing": 3}


def test_windows_that_come_late_heal_a_gap() -> None:
    """The change says how many were missing before."""
    story = Story()
    story.hear(*map(window, (0, 1, 5)))
    story.wait(2 * GAP_US)

    story.hear(backlog(2, 3, 4))
    entry = story.entry()

    assert counts(entry) == {"produced": 6, "stored": 6}
    (change,) = story.changes
    assert (change.missing_before, change.entry) == (3, entry)


def test_only_what_was_unexplained_all_the_time_is_missing() -> None:
    """Newer gaps have their own time."""
    story = Story()
    story.hear(*map(window, (0, 2)))
    story.wait(GAP_US - MINUTE_US)
    story.hear(window(8))

    story.wait(2 * MINUTE_US)

    assert counts(story.entry()) == {"produced": 9, "stored": 3, "in_transit": 5, "missing": 1}


def test_windows_that_come_and_go_are_never_missing() -> None:
    """A link on which something is always on its way is no loss."""
    story = Story()
    for minute in range(40):
        first = minute * 10
        story.hear(window(first + 9))
        assert story.entry().in_transit == 9
        story.hear(backlog(*range(first, first + 9)))
        story.now_us += MINUTE_US

    assert counts(story.entry()) == {"produced": 400, "stored": 400}


def test_waiting_and_discarded_windows_are_explained() -> None:
    """By what the node says of them."""
    story = Story()
    story.hear(*map(window, range(4)))
    story.hear(account(10, waiting=3, discarded_full=2, discarded_expired=1))

    story.wait(2 * GAP_US)

    entry = story.entry()
    assert counts(entry) == {"produced": 10, "stored": 4, "waiting": 3}
    assert (entry.discarded_full, entry.discarded_expired, entry.discarded) == (2, 1, 3)


def test_windows_that_nobody_accounts_for_are_counted_from_the_node_s_word() -> None:
    """The last windows of a boot leave no gap: only the account tells of them."""
    story = Story()
    story.hear(*map(window, range(4)))
    story.hear(account(10, waiting=5))

    story.wait(2 * GAP_US)

    assert counts(story.entry()) == {"produced": 10, "stored": 4, "waiting": 5, "missing": 1}


def test_account_that_is_older_than_what_is_stored_is_no_alarm() -> None:
    """What has been stored since does not wait any more."""
    story = Story()
    story.hear(*map(window, range(4)))
    story.hear(account(10, waiting=6))

    story.hear(backlog(*range(4, 10)))

    assert counts(story.entry()) == {"produced": 10, "stored": 10}


def test_account_that_comes_again_takes_nothing_back() -> None:
    """Counts only grow, and an end is an end."""
    story = Story()
    story.hear(account(10, discarded_full=4, ended=True))

    story.hear(account(7, discarded_full=2))

    entry = story.entry()
    assert (entry.produced, entry.discarded_full, entry.end) == (10, 4, BootEnd.GOODBYE)


def test_boot_runs_until_another_one_does() -> None:
    """Then it was lost, with a tail that its last account bounds."""
    story = Story()
    story.hear(window(0), account(1, tail_windows=5))
    assert story.entry().tail_windows == 0

    story.hear(status(PresenceReason.CONNECTED, boot=NEXT_BOOT))

    entry = story.entry()
    assert (entry.end, entry.tail_windows) == (BootEnd.LOST, 5)
    assert story.entry(NEXT_BOOT).end is BootEnd.RUNNING


@pytest.mark.parametrize(
    "goodbye", [account(1, ended=True, tail_windows=5), status(PresenceReason.STOPPED)]
)
def test_boot_that_said_goodbye_was_not_lost(goodbye: Message) -> None:
    """By its account or by its status."""
    story = Story()
    story.hear(window(0), goodbye)

    story.hear(window(0, boot=NEXT_BOOT))

    entry = story.entry()
    assert (entry.end, entry.tail_windows) == (BootEnd.GOODBYE, 0)


def test_last_will_is_no_goodbye() -> None:
    """A node whose link is away still runs."""
    story = Story()
    story.hear(window(0), status(PresenceReason.LOST))

    assert story.entry().end is BootEnd.RUNNING


def test_what_an_old_boot_left_behind_does_not_make_it_run() -> None:
    """A backlog and an account are of boots that ran before, however late they come."""
    story = Story()
    story.hear(status(PresenceReason.CONNECTED, boot=NEXT_BOOT))

    story.hear(backlog(0, 1), account(2))

    assert story.entry().end is BootEnd.LOST
    assert story.entry(NEXT_BOOT).end is BootEnd.RUNNING


def test_will_of_an_old_boot_does_not_make_it_run() -> None:
    """A broker may publish it after the next boot has begun."""
    story = Story()
    story.hear(window(0), status(PresenceReason.CONNECTED, boot=NEXT_BOOT))

    story.hear(status(PresenceReason.LOST))

    assert story.entry().end is BootEnd.LOST


def test_old_boot_that_the_node_still_accounts_for_waits() -> None:
    """As long as the account is repeated."""
    story = Story()
    story.hear(window(0), account(5, waiting=4))
    for _ in range(30):
        story.hear(state(), account(5, waiting=4))
        story.hear(window(0, boot=NEXT_BOOT))
        story.wait(MINUTE_US)

    assert counts(story.entry()) == {"produced": 5, "stored": 1, "waiting": 4}


def test_old_boot_of_which_the_node_says_no_more_waits_for_nothing() -> None:
    """Its windows went with the card they were on: in transit first, then missing."""
    story = Story()
    story.hear(window(0), account(5, waiting=4))
    for _ in range(12):
        story.hear(status(PresenceReason.CONNECTED, boot=NEXT_BOOT))
        story.wait(MINUTE_US)
    assert counts(story.entry()) == {"produced": 5, "stored": 1, "in_transit": 4}

    story.wait(GAP_US + 2 * MINUTE_US)

    assert counts(story.entry()) == {"produced": 5, "stored": 1, "missing": 4}


def test_old_boot_of_a_node_that_is_away_waits() -> None:
    """Whoever is not heard cannot repeat anything."""
    story = Story()
    story.hear(window(0), account(5, waiting=4))
    story.hear(status(PresenceReason.CONNECTED, boot=NEXT_BOOT))

    story.wait(10 * GAP_US)

    assert counts(story.entry()) == {"produced": 5, "stored": 1, "waiting": 4}


def test_time_in_which_nobody_listened_does_not_count() -> None:
    """What was on its way gets its time anew; what was missing before stays missing."""
    story = Story()
    story.hear(*map(window, (0, 2)))
    story.wait(2 * GAP_US)
    story.hear(window(4))
    story.entry()
    blind_since_us = story.now_us
    story.now_us += 10 * GAP_US

    story.ledger.begin_anew(now_us=story.now_us, blind_since_us=blind_since_us)

    assert counts(story.entry()) == {"produced": 5, "stored": 3, "in_transit": 1, "missing": 1}
    story.wait(GAP_US + MINUTE_US)
    assert counts(story.entry()) == {"produced": 5, "stored": 3, "missing": 2}


@pytest.mark.parametrize("blind_us", [0, 1_000_000, MINUTE_US])
def test_connection_that_breaks_time_and_again_hides_nothing(blind_us: int) -> None:
    """Each break alone is no time in which nodes could be heard; the time between them is."""
    story = Story()
    story.hear(window(0), account(5, waiting=1))
    for _ in range(3):
        story.wait(GAP_US - MINUTE_US)
        blind_since_us = story.now_us
        story.now_us += blind_us
        story.ledger.begin_anew(now_us=story.now_us, blind_since_us=blind_since_us)

    assert counts(story.entry()) == {"produced": 5, "stored": 1, "waiting": 1, "missing": 3}


def test_entries_are_made_of_what_has_changed() -> None:
    """And no two have one time: boots of one node would be one point."""
    story = Story()
    story.hear(window(0), window(0, boot=NEXT_BOOT))
    first = story.ledger.evaluate(sorted(story.ledger.boots), now_us=story.now_us)
    story.hear(window(1, boot=NEXT_BOOT))

    second = story.ledger.evaluate(sorted(story.ledger.boots), now_us=story.now_us)

    assert [change.entry.boot for change in second] == [NEXT_BOOT]
    times = [change.entry.at_us for change in [*first, *second]]
    assert times == sorted(set(times))
    assert len(times) == 3


def test_boot_is_open_while_time_alone_may_change_its_figures() -> None:
    """One that is over, with nothing on its way, need not be looked at again."""
    story = Story()
    story.hear(window(0), window(2), status(PresenceReason.STOPPED))
    boot = story.ledger.boots["press-07", BOOT]
    story.entry()
    assert boot.open

    story.wait(GAP_US + 2 * MINUTE_US)

    assert story.entry().missing == 1
    assert not boot.open


HEARD: st.SearchStrategy[Message] = st.one_of(
    st.integers(0, 30).map(window),
    st.lists(st.integers(0, 30), min_size=1, max_size=8).map(lambda seqs: backlog(*seqs)),
    st.builds(
        account,
        st.integers(0, 40),
        waiting=st.integers(0, 10),
        discarded_full=st.integers(0, 10),
        ended=st.booleans(),
    ),
    st.sampled_from(
        [status(PresenceReason.STOPPED), window(0, boot=NEXT_BOOT), status(PresenceReason.LOST)]
    ),
)


@given(st.lists(st.tuples(HEARD, st.integers(0, 2 * GAP_US))))
def test_accounts_balance_whatever_is_heard(heard: list[tuple[Message, int]]) -> None:
    """Produced is the sum of the others unless a node calls given up what it had delivered."""
    story = Story()
    for message, us in heard:
        story.hear(message)
        story.now_us += us
        changes = story.ledger.evaluate(sorted(story.ledger.boots), now_us=story.now_us)
        for entry in (change.entry for change in changes):
            explained = entry.stored + entry.waiting + entry.in_transit + entry.missing
            assert entry.produced <= explained + entry.discarded
            if entry.stored + entry.discarded <= entry.produced:
                assert entry.produced == explained + entry.discarded


@given(st.lists(st.tuples(st.integers(1, GAP_US), st.integers(0, 20)), min_size=1))
def test_missing_is_the_least_of_the_time_before(steps: list[tuple[int, int]]) -> None:
    """Never more than the lowest count within the gap; at most a sixteenth of it late."""
    patience, now_us = Patience(), START_US
    seen: list[tuple[int, int]] = []
    for us, count in steps:
        now_us += us
        patience.note(count, now_us=now_us, gap_us=GAP_US)
        seen.append((now_us, count))
        # Before the first word, and between two words, the count was what it was.
        history = [(START_US, 0), *seen]

        def least(within_us: int, history: list[tuple[int, int]] = history) -> int:
            since = history[-1][0] - within_us
            before = [n for at, n in history if at <= since]
            return min([*before[-1:], *(n for at, n in history if at > since)])

        missing = patience.missing(now_us=now_us, gap_us=GAP_US)

        assert least(GAP_US + GAP_US // 16 + 1) <= missing <= least(GAP_US)
        assert len(patience.steps) <= 18


def test_status_without_a_reason_to_leave_is_no_goodbye() -> None:
    """Only `offline` and `stopped` together are."""
    odd: dict[str, Any] = msgspec.to_builtins(status(PresenceReason.STOPPED))
    story = Story()
    story.hear(window(0), msgspec.convert(odd | {"state": Presence.ONLINE}, Status))

    assert story.entry().end is BootEnd.RUNNING
