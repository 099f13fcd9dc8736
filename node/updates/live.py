"""Updates as the running node sees them: what to run, the trial beside the ear, proof afterwards.

The updater's thread decides; this is its counterpart in the thread that hears.
"""

import logging
import queue
from collections.abc import Callable, Iterator
from pathlib import Path

from contract import topics
from contract.errors import KeyFileError, ReleaseError
from contract.messages import Update
from contract.session import SessionEvent
from contract.signature import TrustedKeys
from node.delivery.publisher import Answer, Asked
from node.ear import Ear
from node.scoring.release_store import Release
from node.scoring.runtime import Runtime
from node.settings import NodeSettings
from node.updates.fetch import RetainedTopics
from node.updates.order_book import OrderBook
from node.updates.orders import addresses
from node.updates.proof import Proof
from node.updates.release_folders import UpdateStoreError
from node.updates.slots import STATE_NAME, SlotStore
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
from node.updates.trial import Trial, TrialReport
from node.updates.trusted_keys import read_keys_file
from node.updates.update_report import UpdateReport
from node.updates.updater import Updater
from node.updates.updater_thread import UpdaterThread

logger = logging.getLogger(__name__)

_STEPS = 10


class LiveUpdates:
    """Boots the release that should run, and follows orders while the node hears.

    Args:
        settings: of the node.
        runtime: inference library.
        now_us: microseconds since 1970.

    Raises:
        KeyFileError: the file of trusted keys cannot be used, and the node was never updated.
        ReleaseError: no release can be read.
    """

    def __init__(
        self, settings: NodeSettings, runtime: Runtime, *, now_us: Callable[[], int]
    ) -> None:
        self._settings = settings
        self._runtime = runtime
        self._now_us = now_us
        self._trusted = _trusted(settings)
        self._store = SlotStore(settings.state_folder, Path(settings.model.folder), now_us=now_us)
        self._booted = self._store.boot()
        self._tasks: queue.SimpleQueue[EarTask] = queue.SimpleQueue()
        self._updater: UpdaterThread | None = None
        self._ear: Ear | None = None
        self._trial: _RunningTrial | None = None
        self._proof = self._new_proof(self._booted.slot.manifest_sha256)
        """Of the release that runs."""

    @property
    def release(self) -> Release:
        """The release to begin with."""
        return self._booted.release

    @property
    def threshold(self) -> float | None:
        """An operator's threshold for that release; None if no order gives one."""
        return self._store.state.thresholds.get(self._booted.slot.manifest_sha256)

    @property
    def orders(self) -> tuple[str, ...]:
        """Topics of orders for this node."""
        node = self._settings.node
        return tuple(topics.desired(address) for address in addresses(node.id, node.group))

    @property
    def trusted_keys(self) -> tuple[str, ...]:
        """Ids of the keys whose word counts."""
        return tuple(self._trusted)

    def begin(
        self,
        ear: Ear,
        *,
        boot: str,
        broker: RetainedTopics,
        tell: Callable[[Update | Answer], None],
    ) -> None:
        """Follow orders from now on."""
        self._ear = ear
        node = self._settings.node
        orders = OrderBook(self._store, self._trusted, node=node.id, group=node.group)
        report = UpdateReport(
            self._store, orders, node=node.id, boot=boot, tell=tell, now_us=self._now_us
        )
        updater = Updater(
            self._settings.update,
            self._store,
            self._booted,
            orders,
            report,
            broker=broker,
            trusted=self._trusted,
            ask=self._tasks.put,
            threads=self._settings.model.threads,
            now_us=self._now_us,
        )
        self._updater = UpdaterThread(updater)
        self._updater.start()

    def cannot_run(self, error: ReleaseError) -> None:
        """What should run does not run here after all; the next one does.

        Raises:
            ReleaseError: there is no other.
        """
        try:
            self._booted = self._store.pass_over(str(error))
        except UpdateStoreError as none:
            raise error from none

    def stop(self, *, well: bool) -> None:
        """The node ends; `well` is whether it was told to, or its sound has ended."""
        if self._updater is not None:
            self._updater.stop(well=well)

    def happened(self, event: SessionEvent) -> None:
        """Something has happened on the connection."""
        if self._updater is not None:
            self._updater.give(event)

    def roll_back(self, asked: Asked) -> None:
        """Somebody asks for the release before; the answer comes by itself."""
        assert self._updater is not None, "commands are heard after the beginning"
        self._updater.give(asked)

    def tasks(self) -> Iterator[RunNow | GoBy]:
        """What the node has to do now; trials are begun and ended here."""
        while not self._tasks.empty():
            task = self._tasks.get()
            match task:
                case TryOut():
                    self._begin_trial(task)
                case GiveUp():
                    self._end_trial()
                case RunNow() | GoBy():
                    yield task

    def loaded(self, task: RunNow) -> Trial:
        """Loads what is to run now, or takes it from its trial.

        Raises:
            ReleaseError: it does not run here.
        """
        running = self._trial
        self._end_trial()
        if running is not None and running.manifest_sha256 == task.manifest_sha256:
            trial = running.trial
        else:
            trial = self._new_trial(task.release)
        self._proof = self._new_proof(task.manifest_sha256)
        return trial

    def heard(self, *, flagged: bool | None, confirmed: int) -> None:
        """A window has been judged.

        Args:
            flagged: by what runs; None if that gave no score.
            confirmed: publications that the broker has taken since the node started.
        """
        assert self._updater is not None
        news = None if self._trial is None else self._trial.follow(flagged=flagged is True)
        if news is not None:
            self._updater.give(news)
        if self._proof.hear(scored=flagged is not None, confirmed=confirmed):
            self._updater.give(Proven(self._proof.manifest_sha256))

    def _begin_trial(self, task: TryOut) -> None:
        assert self._ear is not None
        assert self._updater is not None
        self._end_trial()
        try:
            trial = self._new_trial(task.release)
        except ReleaseError as error:
            # The self-test has loaded it a moment ago: out of memory, perhaps.
            self._updater.give(TrialOver(task.manifest_sha256, str(error)[:200], TrialReport()))
            return
        self._trial = _RunningTrial(trial, task.manifest_sha256)
        self._ear.beside = trial

    def _end_trial(self) -> None:
        self._trial = None
        if self._ear is not None:
            self._ear.beside = None

    def _new_trial(self, release: Release) -> Trial:
        return Trial(
            release,
            self._runtime,
            windows=self._settings.update.trial_windows,
            max_score=self._settings.update.max_trial_score,
            threads=self._settings.model.threads,
        )

    def _new_proof(self, manifest_sha256: str) -> Proof:
        return Proof(manifest_sha256, windows=self._settings.update.confirm_windows)


class _RunningTrial:
    """A trial under way, and how much of it the updater has been told."""

    def __init__(self, trial: Trial, manifest_sha256: str) -> None:
        self.trial = trial
        self.manifest_sha256 = manifest_sha256
        self._told_steps = 0

    def follow(self, *, flagged: bool) -> TrialOver | TrialGoesOn | None:
        """After a window, which the running model has flagged or not: what there is to tell."""
        trial = self.trial
        if self._told_steps > _STEPS:
            return None
        if flagged:
            trial.running_has_flagged()
        if trial.is_over:
            self._told_steps = _STEPS + 1
            return TrialOver(self.manifest_sha256, trial.failure, trial.report)
        steps = int(trial.progress * _STEPS)
        if steps <= self._told_steps:
            return None
        self._told_steps = steps
        return TrialGoesOn(self.manifest_sha256, trial.progress, trial.report)


def _trusted(settings: NodeSettings) -> TrustedKeys:
    """Whose word counts. A node in the field hears on when a power cut has spoilt that file."""
    assert settings.update.keys_file is not None, "without keys there are no updates"
    try:
        return read_keys_file(Path(settings.update.keys_file))
    except KeyFileError as error:
        # One that was never updated is being set up: somebody is there to mend it.
        if not (settings.state_folder / STATE_NAME).exists():
            raise
        logger.error("%s; until it can be used, no order is obeyed", error)
        return {}
