"""The release that runs: switched to after its trial, then proven, or left for the one before.

What has been switched to stays revocable until it has scored live windows and the broker has been
reached (`node.updates.proof`); if that takes too long, the release before comes back.
"""

import logging
import time
from collections.abc import Callable

from contract.errors import ReleaseError
from contract.states import UpdatePhase
from node.delivery.publisher import Asked
from node.scoring.release_store import Release
from node.settings import UpdateSection
from node.updates.release_folders import UpdateStoreError
from node.updates.slots import Booted, SlotStore
from node.updates.tasks import EarTask, Proven, RunNow
from node.updates.update_report import UpdateReport
from node.updates.update_state import Slot

logger = logging.getLogger(__name__)


class RunningRelease:
    """Switches what runs, and sees to it that it proves itself.

    Args:
        settings: what a release has to show, and by when.
        store: what is on disk.
        report: tells what has changed.
        ask: hands a task to the ear.
    """

    def __init__(
        self,
        settings: UpdateSection,
        store: SlotStore,
        report: UpdateReport,
        *,
        ask: Callable[[EarTask], None],
    ) -> None:
        self._settings = settings
        self._store = store
        self._report = report
        self._ask_ear = ask
        self._proof_due = time.monotonic() + settings.confirm_seconds

    def begin_with(self, booted: Booted) -> None:
        """Tell what the program has started with, where that is not the usual."""
        if booted.rolled_back is not None:
            self._report.tell(booted.rolled_back.phase, 1.0, booted.rolled_back.reason)
        elif not self._store.state.confirmed:
            self._wait_for_proof("started again")

    def switch(self, slot: Slot) -> None:
        """Run a release whose trial went well.

        Raises:
            ReleaseError: it cannot be read any more.
            UpdateStoreError: the disk does not let us.
        """
        self._store.switch(slot)
        self._run_now(self._store.folders.read(slot), "its trial went well")
        self._proof_due = time.monotonic() + self._settings.confirm_seconds
        self._wait_for_proof("runs")

    def confirm(self, proven: Proven) -> bool:
        """Commit what runs, if it is this that was proven; gives whether that was done."""
        state = self._store.state
        if state.confirmed or proven.manifest_sha256 != state.current.manifest_sha256:
            return False
        try:
            self._store.confirm()
        except UpdateStoreError as error:
            # Not on disk, not confirmed: it stays revocable, and the clock decides.
            logger.error("%s", error)
            return False
        logger.info("%s is committed", self._store.state.current.release)
        self._report.tell(UpdatePhase.COMMITTED, 1.0, None)
        return True

    def roll_back(self, asked: Asked) -> None:
        """Go back because somebody asks for it, and answer."""
        left = self._store.state.current.release
        try:
            self._revert("rolled back by a command", retry=False)
        except (UpdateStoreError, ReleaseError) as error:
            self._report.answer(asked, str(error), done=False)
            return
        runs = self._store.state.current.release
        self._report.answer(asked, f"runs {runs} again, {left} is left", done=True)

    def look_at_clock(self, now: float) -> None:
        """Go back if the proof is overdue.

        Args:
            now: of `time.monotonic`.
        """
        if self._store.state.confirmed or now < self._proof_due:
            return
        self._proof_due = now + self._settings.confirm_seconds
        try:
            self._revert(
                f"not proven within {self._settings.confirm_seconds:g} s: the broker was not"
                " reached, or there was no sound to score",
                retry=True,
            )
        except (UpdateStoreError, ReleaseError) as error:
            logger.error("%s", error)

    def _wait_for_proof(self, what: str) -> None:
        self._report.tell(
            UpdatePhase.TRIAL,
            1.0,
            f"{what}; waits for {self._settings.confirm_windows} live windows and the broker's"
            " word that it is reached",
        )

    def _revert(self, reason: str, *, retry: bool) -> None:
        left = self._store.state.current.release
        slot = self._store.revert(reason, retry=retry)
        logger.warning("%s is rolled back: %s", left, reason)
        self._run_now(self._store.folders.read(slot), reason)
        self._report.tell(UpdatePhase.ROLLED_BACK, 1.0, reason)

    def _run_now(self, release: Release, why: str) -> None:
        state = self._store.state
        sha256 = state.current.manifest_sha256
        self._ask_ear(RunNow(release, sha256, state.thresholds.get(sha256), why))
