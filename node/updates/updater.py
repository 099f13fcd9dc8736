r"""From an operator's order to another model that runs: one step at a time, each told on `update`.

    idle -> downloading -> verified -> testing -> trial -> committed
                        \-> rejected            \-> rolled_back

A thread of its own, since disks and self-tests are slow and the ear must not wait for them. What is
on disk (`node.updates.slots`) is the truth: a step is kept before it is told, and whatever ends
this program, the next start goes on from there. Until the commit is proven the release before
stays beside the new one.

Nothing here scores sound: the ear is asked (`TryOut`, `RunNow`), and answers (`TrialOver`,
`Proven`).
"""

import hashlib
import logging
import queue
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Literal

import msgspec

from contract import topics
from contract.desired import Desired, Wanted
from contract.errors import MessageError, ReleaseError, SignatureError, TopicError
from contract.messages import Result, Update
from contract.release import CHUNK_BYTES
from contract.session import (
    Connected,
    Disconnected,
    Followed,
    Received,
    SessionEvent,
    Subscribed,
)
from contract.signature import TrustedKeys
from contract.signed_desired import open_desired
from contract.states import UpdatePhase
from contract.topics import Kind
from node.delivery.publisher import Answer, Asked
from node.scoring.release_store import Release
from node.settings import UpdateSection
from node.updates.fetch import Broker, Fetch, FetchError
from node.updates.orders import (
    NOTHING_ORDERED,
    Decision,
    OrderError,
    check_version,
    decide,
    is_news,
)
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
from node.updates.update_state import Refused, Slot

logger = logging.getLogger(__name__)

# After a connection, until all that the broker keeps for us has come: a node's own order may come
# after that of all, and the wrong model would be fetched first.
SETTLE_SECONDS = 1.0
# Of each phase, so many steps are told.
_STEPS = 10
_MAX_REPORTED = 100


class _Arrived(msgspec.Struct, frozen=True):
    """A message waits on this topic."""

    topic: str


_Mail = _Arrived | SessionEvent | Asked | TrialOver | TrialGoesOn | Proven


class _Work:
    """A release on its way in."""

    def __init__(self, target: Wanted, fetch: Fetch) -> None:
        self.target = target
        self.fetch = fetch
        self.phase = UpdatePhase.DOWNLOADING
        self.slot: Slot | None = None


class Updater:
    """Follows orders.

    Args:
        settings: how far.
        store: what is on disk; the updater's own from now on.
        booted: what runs.
        trusted: whose word counts.
        node: the node's id.
        group: its group.
        boot: id of this start.
        broker: brings manifests and chunks.
        tell: publishes a message.
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
        trusted: TrustedKeys,
        *,
        node: str,
        group: str | None,
        boot: str,
        broker: Broker,
        tell: Callable[[Update | Answer], None],
        ask: Callable[[EarTask], None],
        threads: int,
        now_us: Callable[[], int],
        settle_seconds: float = SETTLE_SECONDS,
    ) -> None:
        self._settle_seconds = settle_seconds
        self._settings = settings
        self._store = store
        self._trusted = trusted
        self._node = node
        self._group = group
        self._boot = boot
        self._broker = broker
        self._tell_broker = tell
        self._ask_ear = ask
        self._threads = threads
        self._now_us = now_us
        self._mail: queue.SimpleQueue[_Mail] = queue.SimpleQueue()
        self._arrived: dict[str, Received] = {}
        self._arrived_lock = threading.Lock()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="updater", daemon=True)
        self._work: _Work | None = None
        self._decision = NOTHING_ORDERED
        self._decide_at: float | None = None
        self._reported: dict[bool, set[str]] = {}
        """Orders that were refused and said to be, those that somebody has signed and others:
        retained ones come at each connection."""
        self._report = TrialReport()
        self._told: Update | None = None
        self._proof_due = time.monotonic() + settings.confirm_seconds
        self._begin_with(booted)

    def start(self) -> None:
        """Begin to follow orders."""
        self._thread.start()

    def give(self, mail: _Mail) -> None:
        """Hand over what has happened; never blocks.

        Of messages from the broker the newest on each topic waits, and none that is larger than
        any of ours: whoever may write to the broker must not fill this computer's memory.
        """
        if not isinstance(mail, Received):
            self._mail.put(mail)
        elif len(mail.payload) <= CHUNK_BYTES:
            with self._arrived_lock:
                is_new = mail.topic not in self._arrived
                self._arrived[mail.topic] = mail
            if is_new:
                self._mail.put(_Arrived(mail.topic))

    def stop(self, *, well: bool) -> None:
        """End the thread; what is half done goes on at the next start.

        Args:
            well: whether the program ends because it should: else a release that is on trial, or
                not confirmed, is held to have brought it down.
        """
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join(1.0)
        if well:
            self._store.ended_well()

    def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                self.step(timeout_seconds=0.2)
            except Exception as error:
                # The thread's outermost loop: the running model stays, and the operator is told.
                logger.exception("the update failed")
                self._give_up_work(f"the update failed, which is a bug: {error!r}")

    def step(self, *, timeout_seconds: float) -> None:
        """Handle one thing that has happened, and see what is due."""
        with suppress(queue.Empty):
            self._handle(self._mail.get(timeout=timeout_seconds))
        self._look_at_clock(time.monotonic())

    def _begin_with(self, booted: Booted) -> None:
        state = self._store.state
        # Told with whose order it is: an operator may be waiting for this node.
        self._decision = self._ordered()
        if booted.rolled_back is not None:
            self._tell(booted.rolled_back.phase, 1.0, booted.rolled_back.reason)
        elif not state.confirmed:
            self._tell(UpdatePhase.TRIAL, 1.0, self._what_proof_waits_for("started again"))
        if state.orders:
            self._decide_at = time.monotonic() + self._settle_seconds

    def _handle(self, mail: _Mail) -> None:
        match mail:
            case Connected():
                self._fetch(Fetch.connected)
            case Disconnected():
                self._fetch(Fetch.disconnected)
            case Subscribed():
                self._decide_at = time.monotonic() + self._settle_seconds
            case Followed():
                self._fetch(lambda fetch: fetch.answered(mail))
            case _Arrived():
                with self._arrived_lock:
                    message = self._arrived.pop(mail.topic)
                self._hear(message)
            case Asked():
                self._roll_back_by_command(mail)
            case TrialGoesOn():
                self._follow_trial(mail)
            case TrialOver():
                self._end_trial(mail)
            case Proven():
                self._confirm(mail)
            case _:
                pass

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
        state = self._store.state
        try:
            order = open_desired(message.topic, message.payload, self._trusted)
            if is_news(order, state.orders.get(order.to)):
                self._keep_order(order)
        except (SignatureError, MessageError, OrderError, UpdateStoreError) as error:
            signed = not isinstance(error, SignatureError)
            self._report_order(message, str(error), signed=signed)
            return
        if self._decide_at is None:
            self._decide_at = time.monotonic()

    def _keep_order(self, order: Desired) -> None:
        state = self._store.state
        # First kept, then followed: else a node that was switched off could be told the old again.
        self._store.keep(msgspec.structs.replace(state, orders={**state.orders, order.to: order}))
        logger.info("ordered to %s: %s", order.to, _in_words(order))

    def _report_order(self, message: Received, reason: str, *, signed: bool) -> None:
        key = hashlib.sha256(message.topic.encode() + message.payload).hexdigest()
        # Those that nobody has signed cannot use up what is kept for an operator's own.
        reported = self._reported.setdefault(signed, set())
        if key in reported or len(reported) >= _MAX_REPORTED:
            return
        reported.add(key)
        logger.warning("an order on %s is refused: %s", message.topic, reason)
        self._publish(
            self._update(
                UpdatePhase.REJECTED, 1.0, f"an order is refused: {reason}", nothing_ordered=True
            )
        )
        # What is retained says how the node is, not what somebody has tried.
        standing, self._told = self._told, None
        if standing is None:
            self._tell_rest()
        else:
            self._tell(standing.phase, standing.progress, standing.reason)

    def _decide(self) -> None:
        """What the orders come to, now."""
        self._decide_at = None
        state = self._store.state
        self._decision = self._ordered()
        # What runs has to prove itself first; then it is asked again.
        if not state.confirmed:
            return
        target = self._decision.target
        self._follow_threshold(target)
        if target is None or target.manifest_sha256 == state.current.manifest_sha256:
            self._abandon()
            self._tell_rest()
        elif self._work is not None and _same(self._work.target, target):
            # The same release by another order: what was told of it, with that order's serial.
            self._work.target = target
            self._tell_again()
        else:
            self._abandon()
            self._begin(target)

    def _ordered(self) -> Decision:
        state = self._store.state
        running = Wanted(
            release=state.current.release, manifest_sha256=state.current.manifest_sha256
        )
        return decide(state.orders, node=self._node, group=self._group, running=running)

    def _begin(self, target: Wanted) -> None:
        refused = self._refusal_of(target)
        if refused is not None:
            self._tell(refused.phase, 1.0, refused.reason)
            return
        self._report = TrialReport()
        fetch = Fetch(
            target,
            self._store.folders,
            self._broker,
            self._trusted,
            self._settings,
            now_us=self._now_us(),
        )
        self._work = _Work(target, fetch)
        try:
            check_version(target, self._store.state.highest, allow_older=self._decision.allow_older)
        except OrderError as error:
            self._reject(str(error))
            return
        logger.info("update to %s", target.release)
        self._tell(UpdatePhase.DOWNLOADING, 0.0, None)
        slot = self._slot_here(target)
        if slot is not None:
            self._test(slot)
        else:
            self._fetch(Fetch.connected)

    def _refusal_of(self, target: Wanted) -> Refused | None:
        """Why this release is not tried, or not yet tried again; an order anew tries it."""
        serial = self._decision.serial or 0
        for refused in reversed(self._store.state.refused):
            if refused.manifest_sha256 == target.manifest_sha256 and refused.serial >= serial:
                waited_us = self._now_us() - refused.at_us
                # Before it was refused: then the clock was wrong, now or then.
                due = waited_us < 0 or waited_us >= self._settings.retry_seconds * 1e6
                return None if refused.retry and due else refused
        return None

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

    def _follow_threshold(self, target: Wanted | None) -> None:
        """A threshold is bound to its release: it waits until that runs, and goes with it."""
        state = self._store.state
        current = state.current.manifest_sha256
        thresholds = dict(state.thresholds)
        if target is not None:
            thresholds.pop(target.manifest_sha256, None)
            if target.threshold is not None:
                thresholds[target.manifest_sha256] = target.threshold
        elif self._decision.address is None:
            thresholds.pop(current, None)
        if thresholds == state.thresholds:
            return
        before = state.thresholds.get(current)
        try:
            self._store.keep(msgspec.structs.replace(state, thresholds=thresholds))
        except UpdateStoreError as error:
            logger.error("%s; the threshold holds until the node ends", error)
        if thresholds.get(current) != before:
            self._ask_ear(GoBy(thresholds.get(current)))

    # The release comes in

    def _fetch(self, step: Callable[[Fetch], None]) -> None:
        """Do something about what is fetched, and see how far it is then."""
        work = self._work
        if work is None or work.phase is not UpdatePhase.DOWNLOADING:
            return
        try:
            step(work.fetch)
            if not work.fetch.is_complete:
                self._tell(UpdatePhase.DOWNLOADING, work.fetch.progress, None)
                return
            slot = work.fetch.install()
        except FetchError as error:
            self._reject(str(error), retry=error.retry)
            return
        self._test(slot)

    # From files to a release that runs

    def _test(self, slot: Slot) -> None:
        work = self._work
        assert work is not None
        work.slot = slot
        work.phase = UpdatePhase.VERIFIED
        self._tell(UpdatePhase.VERIFIED, 1.0, None)
        work.phase = UpdatePhase.TESTING
        self._tell(UpdatePhase.TESTING, 0.0, None)
        tested = self_test(
            self._store.folders.folder(slot), threads=self._threads, stop=self._stopping
        )
        if tested.interrupted and self._stopping.is_set():
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
        work.phase = UpdatePhase.TRIAL
        self._tell(UpdatePhase.TRIAL, 0.0, None)
        self._ask_ear(TryOut(release, work.target.manifest_sha256))

    def _is_on_trial(self, manifest_sha256: str) -> bool:
        work = self._work
        return (
            work is not None
            and work.phase is UpdatePhase.TRIAL
            and work.target.manifest_sha256 == manifest_sha256
        )

    def _follow_trial(self, trial: TrialGoesOn) -> None:
        if self._is_on_trial(trial.manifest_sha256):
            self._report = trial.report
            self._tell(UpdatePhase.TRIAL, trial.progress, None)

    def _end_trial(self, trial: TrialOver) -> None:
        work = self._work
        if work is None or work.slot is None or not self._is_on_trial(trial.manifest_sha256):
            return
        self._report = trial.report
        if trial.failure is not None:
            self._reject(trial.failure, phase=UpdatePhase.ROLLED_BACK)
            return
        try:
            self._store.switch(work.slot)
            release = self._store.folders.read(work.slot)
        except (UpdateStoreError, ReleaseError) as error:
            self._reject(str(error), retry=True, phase=UpdatePhase.ROLLED_BACK)
            return
        self._work = None
        self._proof_due = time.monotonic() + self._settings.confirm_seconds
        self._run_now(release, "its trial went well")
        self._tell(UpdatePhase.TRIAL, 1.0, self._what_proof_waits_for("runs"))

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
        self._tell(UpdatePhase.COMMITTED, 1.0, None)
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
        self._tell(UpdatePhase.ROLLED_BACK, 1.0, reason)

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
        self._tell_broker(
            Answer(
                Result(
                    node=self._node,
                    boot=self._boot,
                    at_us=self._now_us(),
                    verb=asked.verb,
                    done=done,
                    note=note[:200],
                ),
                asked.correlation,
            )
        )

    def _abandon(self) -> None:
        """End what is under way; what has come in stays on the disk for the next time."""
        work, self._work = self._work, None
        if work is not None:
            work.fetch.stop()
            if work.phase is UpdatePhase.TRIAL:
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
        work = self._work
        assert work is not None
        self._abandon()
        refused = Refused(
            manifest_sha256=work.target.manifest_sha256,
            serial=self._decision.serial or 0,
            phase=phase,
            reason=reason[:200],
            at_us=self._now_us(),
            retry=retry,
        )
        logger.warning("%s is %s: %s", work.target.release, phase, reason)
        try:
            self._store.refuse(refused)
            self._collect(work if retry else None)
        except UpdateStoreError as error:
            logger.error("%s", error)
        self._tell(phase, 1.0, reason)

    def _collect(self, kept: _Work | None) -> None:
        """Tidy up; what will be tried again stays, so that it need not come again."""
        if kept is not None and not kept.fetch.files_sha256:
            # Its manifest has not come: which files are parts of it, nobody knows.
            return
        self._store.collect(
            keep_downloads=() if kept is None else kept.fetch.files_sha256,
            keep_slots=() if kept is None or kept.slot is None else (kept.slot,),
        )

    def _give_up_work(self, reason: str) -> None:
        if self._work is not None:
            self._reject(reason, retry=True)

    # Time

    def _look_at_clock(self, now: float) -> None:
        if self._decide_at is not None and now >= self._decide_at:
            self._decide()
        state = self._store.state
        if not state.confirmed and now >= self._proof_due:
            self._proof_due = now + self._settings.confirm_seconds
            self._give_up_proof()
        self._fetch(lambda fetch: fetch.look_at_clock(now))
        if self._work is None and self._decide_at is None and self._is_retry_due():
            self._decide_at = now

    def _give_up_proof(self) -> None:
        try:
            self._revert(
                f"not proven within {self._settings.confirm_seconds:g} s: the broker was not"
                " reached, or there was no sound to score",
                retry=True,
            )
        except (UpdateStoreError, ReleaseError) as error:
            logger.error("%s", error)

    def _is_retry_due(self) -> bool:
        target = self._decision.target
        if target is None or target.manifest_sha256 == self._store.state.current.manifest_sha256:
            return False
        return self._store.state.confirmed and self._refusal_of(target) is None

    # Telling

    def _tell_rest(self) -> None:
        """Nothing is under way."""
        target = self._decision.target
        self._tell(UpdatePhase.IDLE if target is None else UpdatePhase.COMMITTED, 1.0, None)

    def _tell_again(self) -> None:
        """The phase is as it was; who has ordered it may not be."""
        told = self._told
        if told is not None:
            self._tell(told.phase, told.progress, told.reason)

    def _tell(self, phase: UpdatePhase, progress: float, reason: str | None) -> None:
        steps = int(min(progress, 1.0) * _STEPS) / _STEPS
        update = self._update(phase, steps, reason)
        told = self._told
        if told is not None and msgspec.structs.replace(told, at_us=update.at_us) == update:
            return
        self._told = update
        self._publish(update)

    def _update(
        self,
        phase: UpdatePhase,
        progress: float,
        reason: str | None,
        *,
        nothing_ordered: bool = False,
    ) -> Update:
        state = self._store.state
        decision: Decision = NOTHING_ORDERED if nothing_ordered else self._decision
        target, report = decision.target, self._report
        return Update(
            node=self._node,
            boot=self._boot,
            at_us=self._now_us(),
            running=state.current.release,
            previous=None if state.previous is None else state.previous.release,
            wanted=None if target is None else target.release,
            phase=phase,
            progress=progress,
            reason=None if reason is None else reason[:200],
            obeying=decision.address,
            serial=decision.serial,
            threshold=None if target is None else target.threshold,
            trial_windows=report.windows,
            trial_flagged=report.flagged,
            running_flagged=min(report.running_flagged, report.windows),
            trial_score=report.score,
            trial_latency_p95_ms=report.latency_p95_ms,
        )

    def _publish(self, update: Update) -> None:
        self._tell_broker(update)


def _same(one: Wanted, other: Wanted) -> bool:
    return one.manifest_sha256 == other.manifest_sha256


def _in_words(order: Desired) -> str:
    if order.wanted is None:
        return "nothing any more"
    threshold = "" if order.wanted.threshold is None else f", threshold {order.wanted.threshold:g}"
    return f"{order.wanted.release}{threshold}, {order.percent:g} %"
