r"""From an operator's order to another model that runs: one step at a time, each told on `update`.

    idle -> downloading -> verified -> testing -> trial -> committed
                        \-> rejected            \-> rolled_back

What is on disk (`node.updates.slots`) is the truth: a step is kept before it is told, and whatever
ends this program, the next start goes on from there. Until the commit is proven the release before
stays beside the new one.

What comes next is decided in `node.updates.next_step`; a thread of its own
(`node.updates.updater_thread`) carries the steps out. Nothing here scores sound: the ear is asked
(`TryOut`, `RunNow`), and answers (`TrialOver`, `Proven`).
"""

import logging
import threading
import time
from collections.abc import Callable
from typing import Literal

import msgspec

from contract import topics
from contract.desired import Wanted
from contract.errors import MessageError, ReleaseError, SignatureError, TopicError
from contract.messages import UpdatePhase
from contract.session import Connected, Disconnected, Followed, Received, SessionEvent, Subscribed
from contract.signature import TrustedKeys
from contract.topics import Kind
from node.delivery.publisher import Asked
from node.scoring.release_store import Release
from node.settings import UpdateSection
from node.updates.fetch import Fetch, FetchError, RetainedTopics
from node.updates.next_step import NextStep, next_step, thresholds_by
from node.updates.order_book import OrderBook
from node.updates.orders import OrderError, check_version
from node.updates.release_folders import UpdateStoreError
from node.updates.self_test import self_test
from node.updates.slots import Booted, SlotStore
from node.updates.tasks import (
    EarTask,
    GiveUp,
    GoBy,
    Proven,
    RunNow,
    TrialGoesOn,
    TrialOver,
    TryOut,
)
from node.updates.trial import TrialReport
from node.updates.update_report import UpdateReport
from node.updates.update_state import Refused, Slot

logger = logging.getLogger(__name__)

# After a connection, until all that the broker keeps for us has come: a node's own order may come
# after that of all, and the wrong model would be fetched first.
SETTLE_SECONDS = 1.0

Happening = SessionEvent | Asked | TrialOver | TrialGoesOn | Proven
"""What an updater is told: by the connection, by an operator, by the ear."""


class _Incoming:
    """A release on its way in."""

    def __init__(self, target: Wanted, fetch: Fetch) -> None:
        self.target = target
        self.fetch = fetch
        self.phase = UpdatePhase.DOWNLOADING
        self.slot: Slot | None = None


class Updater:
    """Follows orders; handles one thing at a time, and waits for none but the self-test.

    Args:
        settings: how far.
        store: what is on disk; the updater's own from now on.
        booted: what runs.
        orders: those to this node.
        report: tells how the update stands.
        broker: brings manifests and chunks.
        trusted: whose manifests count.
        ask: hands a task to the ear.
        threads: how many the inference library may use.
        now_us: microseconds since 1970.
        settle_seconds: how long after a connection orders are waited for.
    """

    def __init__(
        self,
        settings: UpdateSection,
        store: SlotStore,
        booted: Booted,
        orders: OrderBook,
        report: UpdateReport,
        *,
        broker: RetainedTopics,
        trusted: TrustedKeys,
        ask: Callable[[EarTask], None],
        threads: int,
        now_us: Callable[[], int],
        settle_seconds: float = SETTLE_SECONDS,
    ) -> None:
        self.stopping = threading.Event()
        """Set when the program ends: a self-test that is under way ends with it."""
        self._settle_seconds = settle_seconds
        self._settings = settings
        self._store = store
        self._orders = orders
        self._report = report
        self._broker = broker
        self._trusted = trusted
        self._ask_ear = ask
        self._threads = threads
        self._now_us = now_us
        self._incoming: _Incoming | None = None
        self._decide_at: float | None = None
        self._proof_due = time.monotonic() + settings.confirm_seconds
        self._begin_with(booted)

    def handle(self, happening: Happening) -> None:
        """Do what follows from something that has happened."""
        match happening:
            case Connected():
                self._fetch(Fetch.connected)
            case Disconnected():
                self._fetch(Fetch.disconnected)
            case Subscribed():
                self._decide_at = time.monotonic() + self._settle_seconds
            case Followed():
                self._fetch(lambda fetch: fetch.answered(happening))
            case Received():
                self._hear(happening)
            case Asked():
                self._roll_back_by_command(happening)
            case TrialGoesOn():
                self._follow_trial(happening)
            case TrialOver():
                self._end_trial(happening)
            case Proven():
                self._confirm(happening)
            case _:
                pass

    def look_at_clock(self, now: float) -> None:
        """Do what is due.

        Args:
            now: of `time.monotonic`.
        """
        if self._decide_at is not None and now >= self._decide_at:
            self._decide()
        if not self._store.state.confirmed and now >= self._proof_due:
            self._proof_due = now + self._settings.confirm_seconds
            self._give_up_proof()
        self._fetch(lambda fetch: fetch.look_at_clock(now))
        is_idle = self._incoming is None and self._decide_at is None
        if is_idle and self._next_step() is NextStep.BEGIN:
            # Passing trouble has had its time.
            self._decide_at = now

    def give_up(self, reason: str) -> None:
        """End what is under way, if anything is, to try it again later."""
        if self._incoming is not None:
            self._reject(reason, retry=True)

    def ended_well(self) -> None:
        """The program ends because it should: no release has brought it down."""
        self._store.ended_well()

    def _begin_with(self, booted: Booted) -> None:
        state = self._store.state
        # Told with whose order it is: an operator may be waiting for this node.
        self._orders.weigh()
        if booted.rolled_back is not None:
            self._report.tell(booted.rolled_back.phase, 1.0, booted.rolled_back.reason)
        elif not state.confirmed:
            self._report.tell(UpdatePhase.TRIAL, 1.0, self._what_proof_waits_for("started again"))
        if state.orders:
            self._decide_at = time.monotonic() + self._settle_seconds

    def _hear(self, message: Received) -> None:
        try:
            kind = topics.parse(message.topic).kind
        except TopicError:
            return
        if kind is Kind.DESIRED:
            self._hear_order(message)
        elif kind in (Kind.RELEASE, Kind.BLOB):
            self._fetch(lambda fetch: fetch.hear(message))

    # Orders

    def _hear_order(self, message: Received) -> None:
        # Cleared by somebody, which nobody has signed: what was ordered stands.
        if not message.payload:
            return
        try:
            self._orders.take(message)
        except (SignatureError, MessageError, OrderError, UpdateStoreError) as error:
            signed = not isinstance(error, SignatureError)
            self._report.tell_refused_order(message, str(error), signed=signed)
            return
        if self._decide_at is None:
            self._decide_at = time.monotonic()

    def _next_step(self) -> NextStep | Refused:
        return next_step(
            self._store.state,
            self._orders.standing,
            None if self._incoming is None else self._incoming.target,
            now_us=self._now_us(),
            retry_seconds=self._settings.retry_seconds,
        )

    def _decide(self) -> None:
        """Weigh the orders, and do what follows."""
        self._decide_at = None
        target = self._orders.weigh().target
        step = self._next_step()
        if step is NextStep.PROVE:
            return
        self._follow_threshold()
        if step is NextStep.GO_ON:
            # The same release by another order: what was told of it, with that order's serial.
            assert self._incoming is not None
            assert target is not None
            self._incoming.target = target
            self._report.tell_again()
            return
        self._abandon()
        if step is NextStep.REST:
            self._report.tell_rest()
        elif isinstance(step, Refused):
            self._report.tell(step.phase, 1.0, step.reason)
        else:
            assert target is not None
            self._begin(target)

    def _follow_threshold(self) -> None:
        state = self._store.state
        current = state.current.manifest_sha256
        thresholds = thresholds_by(state, self._orders.standing)
        if thresholds == state.thresholds:
            return
        try:
            self._store.keep(msgspec.structs.replace(state, thresholds=thresholds))
        except UpdateStoreError as error:
            logger.error("%s; the threshold holds until the node ends", error)
        if thresholds.get(current) != state.thresholds.get(current):
            self._ask_ear(GoBy(thresholds.get(current)))

    # The release comes in

    def _begin(self, target: Wanted) -> None:
        self._report.trial = TrialReport()
        fetch = Fetch(
            target,
            self._store.folders,
            self._broker,
            self._trusted,
            self._settings,
            now_us=self._now_us(),
        )
        self._incoming = _Incoming(target, fetch)
        allow_older = self._orders.standing.allow_older
        try:
            check_version(target, self._store.state.highest, allow_older=allow_older)
        except OrderError as error:
            self._reject(str(error))
            return
        logger.info("update to %s", target.release)
        self._report.tell(UpdatePhase.DOWNLOADING, 0.0, None)
        slot = self._slot_here(target)
        if slot is not None:
            self._test(slot)
        else:
            self._fetch(Fetch.connected)

    def _slot_here(self, target: Wanted) -> Slot | None:
        """A release that is on the disk already: the one before, or one that a kill left."""
        factory = self._store.state.factory
        if factory.manifest_sha256 == target.manifest_sha256:
            return factory
        slot = Slot(release=target.release, manifest_sha256=target.manifest_sha256)
        try:
            self._store.folders.read(slot)
        except ReleaseError:
            return None
        return slot

    def _fetch(self, step: Callable[[Fetch], None]) -> None:
        """Do something about what is fetched, and see how far it is then."""
        incoming = self._incoming
        if incoming is None or incoming.phase is not UpdatePhase.DOWNLOADING:
            return
        try:
            step(incoming.fetch)
            if not incoming.fetch.is_complete:
                self._report.tell(UpdatePhase.DOWNLOADING, incoming.fetch.progress, None)
                return
            slot = incoming.fetch.install()
        except FetchError as error:
            self._reject(str(error), retry=error.retry)
            return
        self._test(slot)

    # From files to a release that runs

    def _test(self, slot: Slot) -> None:
        incoming = self._incoming
        assert incoming is not None
        incoming.slot = slot
        incoming.phase = UpdatePhase.VERIFIED
        self._report.tell(UpdatePhase.VERIFIED, 1.0, None)
        incoming.phase = UpdatePhase.TESTING
        self._report.tell(UpdatePhase.TESTING, 0.0, None)
        tested = self_test(
            self._store.folders.folder(slot), threads=self._threads, stop=self.stopping
        )
        if tested.interrupted and self.stopping.is_set():
            # The node ends: the next start tests it anew.
            return
        if not tested.passed:
            self._reject(tested.reason or "the self-test failed", retry=tested.interrupted)
            return
        try:
            release = self._store.folders.read(slot)
            self._store.begin_trial(slot)
        except (ReleaseError, UpdateStoreError) as error:
            self._reject(str(error), retry=True)
            return
        incoming.phase = UpdatePhase.TRIAL
        self._report.tell(UpdatePhase.TRIAL, 0.0, None)
        self._ask_ear(TryOut(release, incoming.target.manifest_sha256))

    def _is_on_trial(self, manifest_sha256: str) -> bool:
        incoming = self._incoming
        return (
            incoming is not None
            and incoming.phase is UpdatePhase.TRIAL
            and incoming.target.manifest_sha256 == manifest_sha256
        )

    def _follow_trial(self, trial: TrialGoesOn) -> None:
        if self._is_on_trial(trial.manifest_sha256):
            self._report.trial = trial.report
            self._report.tell(UpdatePhase.TRIAL, trial.progress, None)

    def _end_trial(self, trial: TrialOver) -> None:
        incoming = self._incoming
        if (
            incoming is None
            or incoming.slot is None
            or not self._is_on_trial(trial.manifest_sha256)
        ):
            return
        self._report.trial = trial.report
        if trial.failure is not None:
            self._reject(trial.failure, phase=UpdatePhase.ROLLED_BACK)
            return
        try:
            self._store.switch(incoming.slot)
            release = self._store.folders.read(incoming.slot)
        except (UpdateStoreError, ReleaseError) as error:
            self._reject(str(error), retry=True, phase=UpdatePhase.ROLLED_BACK)
            return
        self._incoming = None
        self._proof_due = time.monotonic() + self._settings.confirm_seconds
        self._run_now(release, "its trial went well")
        self._report.tell(UpdatePhase.TRIAL, 1.0, self._what_proof_waits_for("runs"))

    def _what_proof_waits_for(self, what: str) -> str:
        return (
            f"{what}; waits for {self._settings.confirm_windows} live windows and the broker's"
            " word that it is reached"
        )

    def _confirm(self, proven: Proven) -> None:
        state = self._store.state
        if state.confirmed or proven.manifest_sha256 != state.current.manifest_sha256:
            return
        try:
            self._store.confirm()
        except UpdateStoreError as error:
            # Not on disk, not confirmed: it stays revocable, and the clock decides.
            logger.error("%s", error)
            return
        logger.info("%s is committed", self._store.state.current.release)
        self._report.tell(UpdatePhase.COMMITTED, 1.0, None)
        self._decide()

    def _run_now(self, release: Release, why: str) -> None:
        state = self._store.state
        sha256 = state.current.manifest_sha256
        self._ask_ear(RunNow(release, sha256, state.thresholds.get(sha256), why))

    # Back

    def _revert(self, reason: str, *, retry: bool) -> None:
        """Back to the release before.

        Raises:
            UpdateStoreError: there is none, or the disk does not let us.
        """
        release_before = self._store.state.current.release
        slot = self._store.revert(reason, retry=retry)
        logger.warning("%s is rolled back: %s", release_before, reason)
        self._run_now(self._store.folders.read(slot), reason)
        self._report.tell(UpdatePhase.ROLLED_BACK, 1.0, reason)

    def _roll_back_by_command(self, asked: Asked) -> None:
        state = self._store.state
        left = state.current.release
        try:
            if state.previous is None:
                raise UpdateStoreError("there is no release before this one to go back to")
            self._abandon()
            self._revert("rolled back by a command", retry=False)
            done, note = True, f"runs {self._store.state.current.release} again, {left} is left"
        except (UpdateStoreError, ReleaseError) as error:
            done, note = False, str(error)
        self._report.answer(asked, note, done=done)

    def _abandon(self) -> None:
        """End what is under way; what has come in stays on the disk for the next time."""
        incoming, self._incoming = self._incoming, None
        if incoming is not None:
            incoming.fetch.stop()
            if incoming.phase is UpdatePhase.TRIAL:
                self._ask_ear(GiveUp())
                self._store.end_trial()

    def _reject(
        self,
        reason: str,
        *,
        retry: bool = False,
        phase: Literal[UpdatePhase.REJECTED, UpdatePhase.ROLLED_BACK] = UpdatePhase.REJECTED,
    ) -> None:
        """Give up what is under way, and remember why."""
        incoming = self._incoming
        assert incoming is not None
        self._abandon()
        refused = Refused(
            manifest_sha256=incoming.target.manifest_sha256,
            serial=self._orders.standing.serial or 0,
            phase=phase,
            reason=reason[:200],
            at_us=self._now_us(),
            retry=retry,
        )
        logger.warning("%s is %s: %s", incoming.target.release, phase, reason)
        try:
            self._store.refuse(refused)
            self._collect(incoming if retry else None)
        except UpdateStoreError as error:
            logger.error("%s", error)
        self._report.tell(phase, 1.0, reason)

    def _collect(self, kept: _Incoming | None) -> None:
        """Tidy up; what will be tried again stays, so that it need not come again."""
        if kept is not None and not kept.fetch.files_sha256:
            # Its manifest has not come: which files are parts of it, nobody knows.
            return
        self._store.collect(
            keep_downloads=() if kept is None else kept.fetch.files_sha256,
            keep_slots=() if kept is None or kept.slot is None else (kept.slot,),
        )

    def _give_up_proof(self) -> None:
        try:
            self._revert(
                f"not proven within {self._settings.confirm_seconds:g} s: the broker was not"
                " reached, or there was no sound to score",
                retry=True,
            )
        except (UpdateStoreError, ReleaseError) as error:
            logger.error("%s", error)
