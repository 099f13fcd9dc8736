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
from pathlib import Path
from typing import Literal, Protocol

import msgspec

from contract import topics
from contract.desired import Desired, Wanted
from contract.errors import MessageError, ReleaseError, SignatureError, TopicError
from contract.messages import Result, Update, UpdatePhase
from contract.release import Manifest
from contract.session import (
    Connected,
    Delivery,
    Disconnected,
    Followed,
    Received,
    SessionEvent,
    Subscribed,
)
from contract.signature import TrustedKeys
from contract.signed_desired import open_desired
from contract.signed_manifest import open_manifest
from contract.topics import Kind
from node.publisher import Answer, Asked
from node.release_store import Release
from node.settings import UpdateSection
from node.updates.download import ChunkError, Download
from node.updates.orders import (
    NOTHING_ORDERED,
    Decision,
    OrderError,
    check_version,
    decide,
    is_news,
)
from node.updates.self_test import self_test
from node.updates.slots import Booted, Refused, Slot, SlotStore, UpdateStoreError
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

logger = logging.getLogger(__name__)

# After a connection, until all that the broker keeps for us has come: a node's own order may come
# after that of all, and the wrong model would be fetched first.
SETTLE_SECONDS = 1.0
# More at once only fills the queue of a slow link, and the next keep-alive waits behind it.
_CHUNKS_AT_ONCE = 2
# Space that an update leaves to everybody else on the disk.
_SPARE_BYTES = 32 * 1024 * 1024
# Of each phase, so many steps are told.
_STEPS = 10
_MAX_REPORTED = 100
_MB = 1024 * 1024


_Mail = SessionEvent | Asked | TrialOver | TrialGoesOn | Proven


class Broker(Protocol):
    """What is needed of the connection."""

    def follow(self, topic_filter: str) -> Delivery | None:
        """Subscribe; None without a connection."""

    def leave(self, topic_filter: str) -> None:
        """End that."""


class _Asked(msgspec.Struct, frozen=True):
    """Something is to come."""

    at: float
    again: bool = False


class _Work:
    """A release on its way in."""

    def __init__(self, target: Wanted) -> None:
        self.target = target
        self.phase = UpdatePhase.DOWNLOADING
        self.manifest: Manifest | None = None
        self.manifest_bytes = b""
        """As signed: written anew by other software they might be others."""
        self.files: dict[str, Path] = {}
        self.download: Download | None = None
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
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="updater", daemon=True)
        self._work: _Work | None = None
        self._decision = NOTHING_ORDERED
        self._online = False
        self._asked: dict[str, _Asked] = {}
        """Topics that are followed; forgotten with the connection."""
        self._packets: dict[int, str] = {}
        self._decide_at: float | None = None
        self._reported: set[str] = set()
        """Orders that were refused and said to be: retained ones come at each connection."""
        self._report = TrialReport()
        self._told: Update | None = None
        self._proof_due = time.monotonic() + settings.confirm_seconds
        self._begin_with(booted)

    def start(self) -> None:
        """Begin to follow orders."""
        self._thread.start()

    def give(self, mail: _Mail) -> None:
        """Hand over what has happened; never blocks."""
        self._mail.put(mail)

    def stop(self) -> None:
        """End the thread; what is half done goes on at the next start."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join(1.0)
        if not self._store.state.confirmed:
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
        if booted.rolled_back is not None:
            self._tell(booted.rolled_back.phase, 1.0, booted.rolled_back.reason)
        elif not state.confirmed:
            self._tell(UpdatePhase.TRIAL, 1.0, self._what_proof_waits_for("started again"))
        if state.orders:
            self._decide_at = time.monotonic() + self._settle_seconds

    def _handle(self, mail: _Mail) -> None:
        match mail:
            case Connected():
                self._online = True
                self._asked.clear()
                self._packets.clear()
                self._ask_for_what_is_missing()
            case Disconnected():
                self._online = False
                self._asked.clear()
                self._packets.clear()
            case Subscribed():
                self._decide_at = time.monotonic() + self._settle_seconds
            case Followed():
                self._answered(mail)
            case Received():
                self._hear(mail)
            case Asked():
                self._roll_back_by_command(mail)
            case TrialGoesOn():
                self._follow_trial(mail)
            case TrialOver():
                self._end_trial(mail)
            case Proven():
                self._confirm()
            case _:
                pass

    def _hear(self, message: Received) -> None:
        try:
            topic = topics.parse(message.topic)
        except TopicError:
            return
        match topic.kind:
            case Kind.DESIRED:
                self._hear_order(message)
            case Kind.RELEASE:
                self._hear_manifest(message)
            case Kind.BLOB:
                assert topic.owner is not None
                assert topic.chunk is not None
                self._hear_chunk(message, topic.owner, topic.chunk)
            case _:
                pass

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
            self._report_order(message, str(error))
            return
        if self._decide_at is None:
            self._decide_at = time.monotonic()

    def _keep_order(self, order: Desired) -> None:
        state = self._store.state
        # First kept, then followed: else a node that was switched off could be told the old again.
        self._store.keep(msgspec.structs.replace(state, orders={**state.orders, order.to: order}))
        logger.info("ordered to %s: %s", order.to, _in_words(order))

    def _report_order(self, message: Received, reason: str) -> None:
        key = hashlib.sha256(message.topic.encode() + message.payload).hexdigest()
        if key in self._reported or len(self._reported) >= _MAX_REPORTED:
            return
        self._reported.add(key)
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
        # What runs has to prove itself first; then it is asked again.
        if not state.confirmed:
            return
        running = Wanted(
            release=state.current.release, manifest_sha256=state.current.manifest_sha256
        )
        self._decision = decide(state.orders, node=self._node, group=self._group, running=running)
        target = self._decision.target
        self._follow_threshold(target)
        if target is None or target.manifest_sha256 == running.manifest_sha256:
            self._abandon()
            self._tell_rest()
        elif self._work is not None and _same(self._work.target, target):
            # The same release by another order: what was told of it, with that order's serial.
            self._work.target = target
            self._tell_again()
        else:
            self._abandon()
            self._begin(target)

    def _begin(self, target: Wanted) -> None:
        refused = self._refusal_of(target)
        if refused is not None:
            self._tell(refused.phase, 1.0, refused.reason)
            return
        self._report = TrialReport()
        self._work = _Work(target)
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
            return
        self._ask_for_what_is_missing()

    def _refusal_of(self, target: Wanted) -> Refused | None:
        """Why this release is not tried, or not yet tried again; an order anew tries it."""
        serial = self._decision.serial or 0
        for refused in reversed(self._store.state.refused):
            if refused.manifest_sha256 == target.manifest_sha256 and refused.serial >= serial:
                due_us = refused.at_us + int(self._settings.retry_seconds * 1e6)
                return None if refused.retry and self._now_us() >= due_us else refused
        return None

    def _slot_here(self, target: Wanted) -> Slot | None:
        """A release that is on the disk already: the one before, or one that a kill left."""
        factory = self._store.state.factory
        if factory.manifest_sha256 == target.manifest_sha256:
            return factory
        slot = Slot(release=target.release, manifest_sha256=target.manifest_sha256)
        try:
            self._store.read(slot)
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

    # Downloading

    def _ask_for_what_is_missing(self) -> None:
        work = self._work
        if work is None or not self._online or work.phase is not UpdatePhase.DOWNLOADING:
            return
        if work.manifest is None:
            self._follow(topics.release(work.target.release))
        elif work.download is not None:
            sha256 = work.download.file.sha256
            for chunk in work.download.next_chunks(_CHUNKS_AT_ONCE):
                self._follow(topics.blob(sha256, chunk))

    def _follow(self, topic: str) -> None:
        if topic in self._asked:
            return
        delivery = self._broker.follow(topic)
        if delivery is not None:
            self._asked[topic] = _Asked(time.monotonic())
            self._packets[delivery.packet_id] = topic

    def _leave(self, topic: str) -> None:
        if self._asked.pop(topic, None) is not None:
            self._broker.leave(topic)

    def _answered(self, answer: Followed) -> None:
        topic = self._packets.pop(answer.packet_id, None)
        if topic in self._asked and not answer.accepted:
            self._reject(f"the broker does not let us read {topic}: {answer.reason}", retry=True)

    def _hear_manifest(self, message: Received) -> None:
        work = self._work
        if work is None or work.manifest is not None:
            return
        if message.topic != topics.release(work.target.release) or not message.payload:
            return
        self._leave(message.topic)
        try:
            manifest, payload = open_manifest(message.payload, self._trusted)
            self._check_manifest(work.target, manifest, payload)
        except (SignatureError, ReleaseError) as error:
            self._reject(str(error))
            return
        work.manifest, work.manifest_bytes = manifest, payload
        try:
            self._check_room(manifest)
            self._next_file()
        except UpdateStoreError as error:
            self._reject(str(error), retry=True)

    def _check_manifest(self, target: Wanted, manifest: Manifest, payload: bytes) -> None:
        if hashlib.sha256(payload).hexdigest() != target.manifest_sha256:
            raise ReleaseError(
                f"the manifest of {target.release} on the broker is not the one that was ordered"
            )
        if manifest.label != target.release:
            raise ReleaseError(f"expected the manifest of {target.release}, got {manifest.label}'s")
        if manifest.not_after_us is not None and manifest.not_after_us < self._now_us():
            day = time.strftime("%Y-%m-%d", time.gmtime(manifest.not_after_us / 1e6))
            raise ReleaseError(f"{manifest.label} has expired: it was valid until {day}")
        size = sum(file.size_bytes for file in manifest.files)
        if size > self._settings.max_release_bytes:
            raise ReleaseError(
                f"expected a release of at most {self._settings.max_release_mb} MB"
                f" ([update] max_release_mb), got {size / _MB:.2f} MB"
            )

    def _check_room(self, manifest: Manifest) -> None:
        # Once as it comes in, once as it is installed.
        needed = 2 * sum(file.size_bytes for file in manifest.files)
        used, budget = self._store.used_bytes(), self._settings.disk_bytes
        if used + needed > budget:
            raise UpdateStoreError(
                f"expected room for {needed / _MB:.1f} MB within [update] disk_mb ="
                f" {self._settings.disk_mb}, of which {used / _MB:.1f} MB are used"
            )
        free = self._store.free_bytes()
        if free < needed + _SPARE_BYTES:
            raise UpdateStoreError(
                f"the disk is full: expected {(needed + _SPARE_BYTES) / _MB:.0f} MB free, got"
                f" {free / _MB:.0f} MB"
            )

    def _next_file(self) -> None:
        """Have the first file that is not here yet fetched; with all of them here, go on."""
        work = self._work
        assert work is not None
        assert work.manifest is not None
        work.download = None
        for file in work.manifest.files:
            if file.name in work.files:
                continue
            here = self._store.find_file(file)
            if here is None:
                work.download = Download(self._store.downloads, file)
                if not work.download.done:
                    self._tell_download()
                    self._ask_for_what_is_missing()
                    return
                here = self._finished(work.download)
                if here is None:
                    return
            work.files[file.name] = here
        self._install()

    def _hear_chunk(self, message: Received, sha256: str, chunk: int) -> None:
        work = self._work
        download = None if work is None else work.download
        if work is None or download is None or download.file.sha256 != sha256:
            self._leave(message.topic)
            return
        if message.topic not in self._asked:
            return
        self._leave(message.topic)
        try:
            if not download.add(chunk, message.payload):
                # Ahead of its turn: it is asked for again when its turn comes.
                self._ask_for_what_is_missing()
                return
            if not download.done:
                self._tell_download()
                self._ask_for_what_is_missing()
                return
            path = self._finished(download)
            if path is not None:
                work.files[download.file.name] = path
                self._next_file()
        except ChunkError as error:
            self._reject(str(error))
        except UpdateStoreError as error:
            self._reject(str(error), retry=True)

    def _finished(self, download: Download) -> Path | None:
        """The whole file; None if it was not what it should be, and is fetched anew or given up."""
        try:
            return download.finish()
        except ChunkError as error:
            assert self._work is not None
            if error.fresh:
                self._reject(str(error))
                return None
            # Part of it was here before: a card that lost its power may have spoilt that.
            logger.warning("%s; it is fetched anew", error)
            self._work.download = Download(self._store.downloads, download.file)
            self._ask_for_what_is_missing()
            return None

    def _tell_download(self) -> None:
        work = self._work
        assert work is not None
        assert work.manifest is not None
        size = sum(file.size_bytes for file in work.manifest.files)
        done = sum(f.size_bytes for f in work.manifest.files if f.name in work.files)
        if work.download is not None:
            done += int(work.download.progress * work.download.file.size_bytes)
        self._tell(UpdatePhase.DOWNLOADING, done / size, None)

    # From files to a release that runs

    def _install(self) -> None:
        work = self._work
        assert work is not None
        assert work.manifest is not None
        try:
            slot = self._store.install(work.manifest_bytes, work.manifest, work.files)
        except (UpdateStoreError, ReleaseError) as error:
            self._reject(str(error), retry=True)
            return
        self._test(slot)

    def _test(self, slot: Slot) -> None:
        work = self._work
        assert work is not None
        work.slot = slot
        work.phase = UpdatePhase.VERIFIED
        self._tell(UpdatePhase.VERIFIED, 1.0, None)
        work.phase = UpdatePhase.TESTING
        self._tell(UpdatePhase.TESTING, 0.0, None)
        tested = self_test(self._store.folder(slot), threads=self._threads, stop=self._stopping)
        if tested.interrupted:
            # The node ends: the next start tests it anew.
            return
        if not tested.passed:
            self._reject(tested.reason or "the self-test failed")
            return
        try:
            release = self._store.read(slot)
        except ReleaseError as error:
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
            release = self._store.read(work.slot)
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

    def _confirm(self) -> None:
        if self._store.state.confirmed:
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
        self._ask_ear(RunNow(release, state.thresholds.get(state.current.manifest_sha256), why))

    # Back

    def _revert(self, reason: str, *, retry: bool) -> None:
        """Back to the release before.

        Raises:
            UpdateStoreError: there is none, or the disk does not let us.
        """
        release_before = self._store.state.current.release
        slot = self._store.revert(reason, serial=self._decision.serial or 0, retry=retry)
        logger.warning("%s is rolled back: %s", release_before, reason)
        self._run_now(self._store.read(slot), reason)
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
        for topic in tuple(self._asked):
            self._leave(topic)
        if self._work is not None and self._work.phase is UpdatePhase.TRIAL:
            self._ask_ear(GiveUp())
        self._work = None

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
        manifest = None if kept is None else kept.manifest
        self._store.collect(
            keep_downloads=() if manifest is None else {file.sha256 for file in manifest.files},
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
        self._look_for_what_was_asked(now)
        if self._work is None and self._decide_at is None and self._is_retry_due():
            self._decide_at = now

    def _look_for_what_was_asked(self, now: float) -> None:
        """A message of QoS 0 may be lost: it is asked for once more before it is missing."""
        for topic, asked in tuple(self._asked.items()):
            waited = now - asked.at
            if waited > self._settings.chunk_seconds:
                self._reject(
                    f"did not come within {self._settings.chunk_seconds:g} s, is it still on the"
                    f" broker? {topic}",
                    retry=True,
                )
                return
            if waited > self._settings.chunk_seconds / 2 and not asked.again:
                self._broker.follow(topic)
                self._asked[topic] = _Asked(asked.at, again=True)

    def _give_up_proof(self) -> None:
        try:
            self._revert(
                f"the broker was not reached within {self._settings.confirm_seconds:g} s",
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
