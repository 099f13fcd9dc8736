"""A release on its way in: fetched, installed, tested, and then tried by the ear.

Each step is told, and kept on the disk before the next. Which release that is, and what becomes of
it after its trial, is decided by the updater (`node.updates.updater`).
"""

import logging
import threading
from collections.abc import Callable

from contract.desired import Wanted
from contract.errors import EarshotError, ReleaseError
from contract.states import UpdatePhase
from node.updates.fetch import Fetch, FetchError
from node.updates.orders import OrderError, check_version
from node.updates.release_folders import UpdateStoreError
from node.updates.self_test import self_test
from node.updates.slots import SlotStore
from node.updates.tasks import EarTask, GiveUp, TryOut
from node.updates.update_report import UpdateReport
from node.updates.update_state import Slot

logger = logging.getLogger(__name__)


class RejectedError(EarshotError):
    """The release is not taken.

    Args:
        text: why.
        retry: whether that may pass.
    """

    def __init__(self, text: str, *, retry: bool) -> None:
        self.retry = retry
        super().__init__(text)


class IncomingRelease:
    """Brings one release in, up to its trial.

    Args:
        target: the release that is wanted.
        fetch: brings its files.
        store: what is on the disk.
        report: tells how far it is.
        ask: hands a task to the ear.
        threads: how many the inference library may use in the self-test.
        stopping: set when the program ends.
    """

    def __init__(
        self,
        target: Wanted,
        fetch: Fetch,
        store: SlotStore,
        report: UpdateReport,
        *,
        ask: Callable[[EarTask], None],
        threads: int,
        stopping: threading.Event,
    ) -> None:
        self.target = target
        """The release, by the newest order that asks for it."""
        self.slot: Slot | None = None
        """The release on the disk, once it is here, whole."""
        self._fetch = fetch
        self._store = store
        self._report = report
        self._ask_ear = ask
        self._threads = threads
        self._stopping = stopping
        self._phase = UpdatePhase.DOWNLOADING

    @property
    def is_on_trial(self) -> bool:
        """Whether the ear scores with it beside the running release."""
        return self._phase is UpdatePhase.TRIAL

    @property
    def files_sha256(self) -> frozenset[str]:
        """SHA-256 of its files, as far as they are known."""
        return self._fetch.files_sha256

    def begin(self, *, allow_older: bool) -> None:
        """Ask for it, or test at once what is here already.

        Args:
            allow_older: whether the order allows a version below one that has run.

        Raises:
            RejectedError: it is not taken.
        """
        try:
            check_version(self.target, self._store.state.highest, allow_older=allow_older)
        except OrderError as error:
            raise RejectedError(str(error), retry=False) from error
        logger.info("update to %s", self.target.release)
        self._report.tell(UpdatePhase.DOWNLOADING, 0.0, None)
        slot = self._slot_here()
        if slot is not None:
            self._test(slot)
        else:
            self.fetch(Fetch.connected)

    def fetch(self, step: Callable[[Fetch], None]) -> None:
        """Do something about its files, while they are fetched; go on once all are here.

        Raises:
            RejectedError: it is not taken.
        """
        if self._phase is not UpdatePhase.DOWNLOADING:
            return
        try:
            step(self._fetch)
            if not self._fetch.is_complete:
                self._report.tell(UpdatePhase.DOWNLOADING, self._fetch.progress, None)
                return
            slot = self._fetch.install()
        except FetchError as error:
            raise RejectedError(str(error), retry=error.retry) from error
        self._test(slot)

    def abandon(self) -> None:
        """End what is under way; what has come in stays on the disk for the next time."""
        self._fetch.stop()
        if self.is_on_trial:
            self._ask_ear(GiveUp())
            self._store.end_trial()

    def _slot_here(self) -> Slot | None:
        """A release that is on the disk already: the one before, or one that a kill left."""
        factory, target = self._store.state.factory, self.target
        if factory.manifest_sha256 == target.manifest_sha256:
            return factory
        slot = Slot(release=target.release, manifest_sha256=target.manifest_sha256)
        try:
            self._store.folders.read(slot)
        except ReleaseError:
            return None
        return slot

    def _test(self, slot: Slot) -> None:
        self.slot = slot
        self._enter(UpdatePhase.VERIFIED, 1.0)
        self._enter(UpdatePhase.TESTING, 0.0)
        tested = self_test(
            self._store.folders.folder(slot), threads=self._threads, stop=self._stopping
        )
        if tested.interrupted and self._stopping.is_set():
            # The node ends: the next start tests it anew.
            return
        if not tested.passed:
            raise RejectedError(tested.reason or "the self-test failed", retry=tested.interrupted)
        try:
            release = self._store.folders.read(slot)
            self._store.begin_trial(slot)
        except (ReleaseError, UpdateStoreError) as error:
            raise RejectedError(str(error), retry=True) from error
        self._enter(UpdatePhase.TRIAL, 0.0)
        self._ask_ear(TryOut(release, self.target.manifest_sha256))

    def _enter(self, phase: UpdatePhase, progress: float) -> None:
        self._phase = phase
        self._report.tell(phase, progress, None)
