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
from contract.session import Connected, Disconnected, Followed, Received, SessionEvent, Subscribed
from contract.signature import TrustedKeys
from contract.states import UpdatePhase
from contract.topics import Kind
from node.delivery.publisher import Asked
from node.settings import UpdateSection
from node.updates.fetch import Fetch, RetainedTopics
from node.updates.incoming import IncomingRelease, RejectedError
from node.updates.next_step import NextStep, next_step, thresholds_by
from node.updates.order_book import OrderBook
from node.updates.orders import OrderError
from node.updates.release_folders import UpdateStoreError
from node.updates.running import RunningRelease
from node.updates.slots import Booted, SlotStore
from node.updates.tasks import (
    EarTask,
    GoBy,
    Proven,
    TrialGoesOn,
    TrialOver,
)
from node.updates.trial import TrialReport
from node.updates.update_report import UpdateReport
from node.updates.update_state import Refused

logger = logging.getLogger(__name__)

# After a connection, until all that the broker keeps for us has come: a node's own order may come
# after that of all, and the wrong model would be fetched first.
SETTLE_SECONDS = 1.0

Happening = SessionEvent | Asked | TrialOver | TrialGoesOn | Proven
"""What an updater is told: by the connection, by an operator, by the ear."""


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
        self._incoming: IncomingRelease | None = None
        self._decide_at: float | None = None
        # Told with whose order it is: an operator may be waiting for this node.
        orders.weigh()
        self._running = RunningRelease(settings, store, report, ask=ask)
        self._running.begin_with(booted)
        if store.state.orders:
            self._decide_at = time.monotonic() + settle_seconds

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
                if self._running.confirm(happening):
                    self._decide()
            case _:
                pass

    def look_at_clock(self, now: float) -> None:
        """Do what is due.

        Args:
            now: of `time.monotonic`.
        """
        if self._decide_at is not None and now >= self._decide_at:
            self._decide()
        self._running.look_at_clock(now)
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
        self._incoming = IncomingRelease(
            target,
            fetch,
            self._store,
            self._report,
            ask=self._ask_ear,
            threads=self._threads,
            stopping=self.stopping,
        )
        allow_older = self._orders.standing.allow_older
        self._bring_in(lambda incoming: incoming.begin(allow_older=allow_older))

    def _bring_in(self, step: Callable[[IncomingRelease], None]) -> None:
        """Do something about the release that is on its way in, if one is."""
        if self._incoming is None:
            return
        try:
            step(self._incoming)
        except RejectedError as error:
            self._reject(str(error), retry=error.retry)

    def _fetch(self, step: Callable[[Fetch], None]) -> None:
        self._bring_in(lambda incoming: incoming.fetch(step))

    # From a trial to a release that runs

    def _on_trial(self, manifest_sha256: str) -> IncomingRelease | None:
        """The release that is on trial, if it is this one."""
        incoming = self._incoming
        if incoming is None or not incoming.is_on_trial:
            return None
        return incoming if incoming.target.manifest_sha256 == manifest_sha256 else None

    def _follow_trial(self, trial: TrialGoesOn) -> None:
        if self._on_trial(trial.manifest_sha256) is not None:
            self._report.trial = trial.report
            self._report.tell(UpdatePhase.TRIAL, trial.progress, None)

    def _end_trial(self, trial: TrialOver) -> None:
        incoming = self._on_trial(trial.manifest_sha256)
        if incoming is None or incoming.slot is None:
            return
        self._report.trial = trial.report
        if trial.failure is not None:
            self._reject(trial.failure, phase=UpdatePhase.ROLLED_BACK)
            return
        try:
            self._running.switch(incoming.slot)
        except (UpdateStoreError, ReleaseError) as error:
            self._reject(str(error), retry=True, phase=UpdatePhase.ROLLED_BACK)
            return
        self._incoming = None

    def _roll_back_by_command(self, asked: Asked) -> None:
        if self._store.state.previous is None:
            note = "there is no release before this one to go back to"
            self._report.answer(asked, note, done=False)
            return
        self._abandon()
        self._running.roll_back(asked)

    def _abandon(self) -> None:
        """End what is under way; what has come in stays on the disk for the next time."""
        incoming, self._incoming = self._incoming, None
        if incoming is not None:
            incoming.abandon()

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

    def _collect(self, kept: IncomingRelease | None) -> None:
        """Tidy up; what will be tried again stays, so that it need not come again."""
        if kept is None:
            self._store.collect()
        elif kept.files_sha256:
            # Else its manifest has not come: which files are parts of it, nobody knows.
            self._store.collect(
                keep_downloads=kept.files_sha256,
                keep_slots=() if kept.slot is None else (kept.slot,),
            )
