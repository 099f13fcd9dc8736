"""Every window is accounted for, whatever happens to an outbox in whatever order."""

import shutil
import tempfile
from pathlib import Path

import msgspec
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    rule,
    run_state_machine_as_test,
)

from node.delivery.outbox import Outbox
from node.delivery.outbox_file import OutboxFile
from node.delivery.outbox_rules import OutboxRules
from tests.node.delivery.outboxes import (
    BOOT,
    NODE,
    receipt,
    window,
)


class Accounts(RuleBasedStateMachine):
    """Any order of events: what came in is held, receipted or counted as lost, and never more."""

    def __init__(self) -> None:
        super().__init__()
        self.scratch = tempfile.TemporaryDirectory()
        self.now = 0.0
        self.boots = 0
        self.produced: dict[str, int] = {}
        """Of earlier boots, what was saved, or gone before."""
        self.gone: dict[str, int] = {}
        self.on_their_way: list[tuple[str, list[int]]] = []
        self.start()

    def start(self) -> None:
        self.boot = f"{BOOT[:-2]}{self.boots // 10}{self.boots % 10}"
        self.boots += 1
        self.file = OutboxFile(Path(self.scratch.name) / "outbox.db")
        self.outbox = Outbox(
            self.boot,
            node=NODE,
            hop_seconds=1.0,
            file=self.file,
            rules=OutboxRules(
                max_windows=20, max_bytes=60_000, max_age_seconds=500.0, resend_seconds=30.0
            ),
            now=self.now,
        )
        self.produced[self.boot] = self.gone[self.boot] = 0
        self.on_their_way.clear()

    def teardown(self) -> None:
        self.outbox.close()
        self.scratch.cleanup()

    @rule(kinds=st.text(".x?-!", min_size=1, max_size=30))
    def add(self, kinds: str) -> None:
        for kind in kinds:
            self.outbox.add(window(kind, self.produced[self.boot], self.boot), self.now)
            self.produced[self.boot] += 1

    @rule(limit=st.integers(1, 60))
    def send(self, limit: int) -> None:
        entries = self.outbox.outgoing.late(limit)
        if entries:
            boot, seqs = entries[0].window.boot, [entry.window.seq for entry in entries]
            for other, others in self.on_their_way:
                assert other != boot or not set(others) & set(seqs)
            self.outbox.outgoing.sent(boot, seqs)
            self.on_their_way.append((boot, seqs))

    @rule(refused=st.booleans())
    def answer(self, refused: bool) -> None:
        for boot, seqs in self.on_their_way:
            if refused:
                self.outbox.outgoing.refused(boot, seqs, self.now)
            else:
                self.outbox.outgoing.confirmed(boot, seqs, self.now)
        self.on_their_way.clear()

    @rule()
    def lose_connection(self) -> None:
        for boot, seqs in self.on_their_way:
            self.outbox.outgoing.back(boot, seqs)
        self.on_their_way.clear()

    @rule(which=st.integers(0, 9), first=st.integers(0, 40), count=st.integers(0, 60))
    def receive_receipt(self, which: int, first: int, count: int) -> None:
        boot = list(self.gone)[which % len(self.gone)]
        hole = first + count // 2
        found = receipt(first, first + count, [(hole, hole)], boot=boot)
        self.gone[boot] += self.outbox.outgoing.receipted(found, self.now)

    @rule(seconds=st.floats(0.0, 200.0))
    def wait(self, seconds: float) -> None:
        self.now += seconds
        self.outbox.tend(self.now)

    @rule()
    def stop_and_start(self) -> None:
        assert self.outbox.end(self.now) == 0
        self.outbox.close()
        self.restart(crashed=False)

    @rule()
    def save_and_crash(self) -> None:
        assert self.outbox.save(self.now)
        image = tempfile.TemporaryDirectory()
        for file in Path(self.scratch.name).iterdir():
            shutil.copy(file, image.name)
        self.file.close()
        self.scratch.cleanup()
        self.scratch = image
        self.restart(crashed=True)

    def restart(self, *, crashed: bool) -> None:
        accounts = {boot: self.outbox.account(boot, at_us=0) for boot in self.outbox.boots}
        self.start()
        for boot in set(accounts) & set(self.outbox.boots):
            before = accounts[boot]
            after = self.outbox.account(boot, at_us=0)
            if crashed:
                # What was deleted and not committed is there again; what else came and went since
                # the last commit is not known any more.
                assert after.waiting >= before.waiting
                assert after.produced <= before.produced
                assert after.discarded <= before.discarded
                self.produced[boot] = after.produced
                self.gone[boot] = after.produced - after.waiting - after.discarded
                assert self.gone[boot] >= 0
            else:
                assert after == msgspec.structs.replace(before, tail_windows=0)

    @invariant()
    def nothing_is_unaccounted(self) -> None:
        waiting = 0
        for boot in self.outbox.boots:
            account = self.outbox.account(boot, at_us=0)
            waiting += account.waiting
            assert account.produced == self.produced[boot]
            assert account.produced == account.waiting + self.gone[boot] + account.discarded
        assert waiting == self.outbox.held
        assert self.outbox.unsaved <= 20


def test_every_window_is_accounted_for() -> None:
    """Produced = held + receipted + discarded for each boot, whatever happens in whatever order."""
    run_state_machine_as_test(
        Accounts,
        settings=settings(max_examples=60, stateful_step_count=40, deadline=None, database=None),
    )
