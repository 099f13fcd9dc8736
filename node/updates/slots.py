"""Which release a node runs, and what it goes back to: the state and the folders, kept in step.

In the node's state folder:

- `updates.json`: the slots, the counters that forbid a step back, the orders that were obeyed
  (`node.updates.update_state`);
- `releases/` and `downloads/`: what the state speaks of (`node.updates.release_folders`).

Whatever is written gets a hidden name first, is forced to the disk, and then takes its place;
`updates.json` never names what is not there yet, and names it no more before it goes. So a power
cut at any byte leaves either what was or what should be. What a disk damages nevertheless is found
by SHA-256, and costs one slot: `boot` goes on with the next.

No signature is checked here, no order is weighed, and nothing is run.
"""

import errno
import logging
from collections.abc import Callable, Collection
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from contract.errors import ReleaseError
from node.scoring.release_store import Release, read_release
from node.updates import update_state
from node.updates.release_folders import ReleaseFolders, UpdateStoreError
from node.updates.update_state import (
    MAX_STARTS,
    MAX_STATE_BYTES,
    Refused,
    Slot,
    StateUnusableError,
    UpdateState,
)
from node.whole_file import make_folder, write_whole

logger = logging.getLogger(__name__)

STATE_NAME = "updates.json"
BROKEN_NAME = "updates.broken"
"""Where a state that cannot be used is moved, for whoever wants to know."""

# What a disk says of a file that it has lost, or that has become a folder; what else goes wrong
# (no permission, say) may be mended by a person, who then finds it as it was.
_LOST = (errno.EIO, errno.EISDIR)


class Booted(NamedTuple):
    """What a node runs from its start on."""

    release: Release
    slot: Slot
    rolled_back: Refused | None
    """Why it is another one than the last run had switched to."""


class SlotStore:
    """The releases of one node, and which of them it runs. Not for two threads at a time.

    Args:
        folder: the node's state folder; made when something has to be written.
        factory: the release folder that the settings name.
        now_us: microseconds since 1970.
    """

    def __init__(self, folder: Path, factory: Path, *, now_us: Callable[[], int]) -> None:
        self.folders = ReleaseFolders(folder, factory)
        self._folder = folder
        self._now_us = now_us
        self._state: UpdateState | None = None
        self._readable = True
        self._counted = False
        """Whether this run of the program counts as a start of a doubtful release."""

    @property
    def state(self) -> UpdateState:
        """The state as of the last boot or change."""
        assert self._state is not None, "boot() comes first"
        return self._state

    def boot(self) -> Booted:
        """Decide what runs. Once per start of the program.

        A start of a release that is not confirmed is counted, on disk, before anything is loaded:
        one that brings the program down gets `MAX_STARTS` of them. What cannot be read is passed
        over: current, previous, factory. A state folder that cannot be written stops nothing.

        Raises:
            ReleaseError: the factory release is broken, and there is no other.
        """
        self._state = state = self._load()
        state = self._first_state() if state is None else self._with_factory(state)
        state, refused = self._count_start(state)
        return self._first_readable(state, refused)

    def look(self) -> Release:
        """What runs, for whoever does not run it: nothing is counted, nothing written.

        Raises:
            ReleaseError: nothing that is here can be read.
        """
        state = None
        with suppress(UpdateStoreError):
            state = read_state(self._folder)
        known = () if state is None else state.slots
        for slot in (*known, *(self.folders.found() if known else ())):
            with suppress(ReleaseError):
                return self.folders.read(slot)
        try:
            return read_release(self.folders.factory)
        except ReleaseError:
            for slot in self.folders.found():
                with suppress(ReleaseError):
                    return self.folders.read(slot)
            raise

    def keep(self, state: UpdateState) -> None:
        """Write a new state in place of the one before.

        Raises:
            UpdateStoreError: it cannot be written; on disk and here it is as before.
        """
        if not self._readable:
            raise UpdateStoreError(f"{self._path}: cannot be read, and so is not written either")
        try:
            make_folder(self._folder)
            write_whole(self._path, update_state.encode_state(state))
        except OSError as error:
            raise self.folders.trouble(self._path, error) from error
        self._state = state

    def switch(self, slot: Slot) -> None:
        """Run this release from now on, and remember what to go back to.

        Raises:
            ReleaseError: it is not there.
            UpdateStoreError: it cannot be written.
        """
        self.folders.read(slot)
        if slot == self.state.current:
            return
        self.keep(update_state.switched(self.state, slot))
        self._counted = True

    def begin_trial(self, slot: Slot) -> None:
        """A release is about to be tried within this program.

        Raises:
            UpdateStoreError: it cannot be written: nobody would know what brought the program down.
        """
        if self.state.trying != slot:
            self.keep(update_state.trial_begun(self.state, slot))
            self._counted = True

    def end_trial(self) -> None:
        """The program has outlived the trial, or nobody wants to know any more."""
        if self.state.trying is not None:
            self._keep_or_go_on(update_state.trial_ended(self.state))
            self._counted = False

    def confirm(self, *, keep_downloads: Collection[str] = ()) -> None:
        """The current release stays: from now on nothing below its version is taken.

        Raises:
            UpdateStoreError: it cannot be written.
        """
        self.keep(update_state.current_confirmed(self.state))
        self._counted = False
        self.collect(keep_downloads=keep_downloads)

    def revert(self, reason: str, *, retry: bool = False) -> Slot:
        """Go back to the previous release, or to the factory's where that cannot be read.

        Holds for this run also where the disk is full; then the starts are counted on.

        Args:
            reason: why, for people.
            retry: see `Refused`.

        Returns:
            What runs now.

        Raises:
            UpdateStoreError: there is nothing to go back to.
        """
        if self.state.previous is None:
            raise UpdateStoreError(
                f"{self.state.current.release}: there is no release to go back to"
            )
        return self._go_back(reason, retry=retry).slot

    def pass_over(self, reason: str) -> Booted:
        """The current release cannot run here after all: the next one that can be read.

        Raises:
            UpdateStoreError: there is none.
        """
        return self._go_back(reason, retry=True)

    def ended_well(self) -> None:
        """The program ends because it was told to: this start was no crash."""
        if self._counted and self.state.starts:
            self._keep_or_go_on(update_state.start_ended_well(self.state))
        self._counted = False

    def refuse(self, refused: Refused) -> None:
        """Remember a release that was not taken on; with a full disk, until the next start."""
        self._keep_or_go_on(update_state.refusing(self.state, refused))

    def collect(
        self, *, keep_downloads: Collection[str] = (), keep_slots: Collection[Slot] = ()
    ) -> None:
        """Remove releases and downloads that nothing refers to.

        Args:
            keep_downloads: SHA-256 of files that are still to be used.
            keep_slots: installed, and not switched to yet; current and previous stay anyway.
        """
        state = self.state
        trying = () if state.trying is None else (state.trying,)
        self.folders.sweep(
            keep_slots=(*state.slots, *keep_slots, *trying), keep_downloads=keep_downloads
        )

    @property
    def _path(self) -> Path:
        return self._folder / STATE_NAME

    def _load(self) -> UpdateState | None:
        try:
            return read_state(self._folder)
        except UpdateStoreError as error:
            if isinstance(error.__cause__, OSError) and error.__cause__.errno not in _LOST:
                self._readable = False
                logger.error("%s; until it can be, no update is taken", error)
                return None
            aside = self._folder / BROKEN_NAME
            try:
                self._path.replace(aside)
                what = f"is now {aside.name}"
            except OSError:
                what = "cannot be moved aside"
            logger.error("%s; it %s, and the factory's release runs", error, what)
            return None

    def _first_state(self) -> UpdateState:
        found = self.folders.found()
        try:
            factory = self.folders.factory_slot()
        except ReleaseError as error:
            if not found:
                raise
            logger.error("%s; the newest release in the state folder is tried", error)
            factory = found[0]
        return update_state.first_state(factory, found)

    def _with_factory(self, state: UpdateState) -> UpdateState:
        """The state, if [model] folder holds what it held at the last start, or cannot be read."""
        factory = state.factory
        with suppress(ReleaseError):
            factory = self.folders.factory_slot()
        if factory == state.factory:
            return state
        logger.warning(
            "%s holds another model than at the last start: %s runs in place of %s, until an"
            " order asks for another",
            self.folders.factory,
            factory.release,
            state.current.release,
        )
        return update_state.with_factory(state, factory)

    def _count_start(self, state: UpdateState) -> tuple[UpdateState, Refused | None]:
        doubtful = state.doubtful
        if doubtful is None:
            return state, None
        if state.starts >= MAX_STARTS:
            when = "during its trial" if state.confirmed else "before the release was confirmed"
            refused = self._rolled_back(
                state, doubtful, f"the program ended {state.starts} times {when}", retry=False
            )
            return update_state.doubtful_left(state, refused), refused
        counted = update_state.start_counted(state)
        try:
            self.keep(counted)
        except UpdateStoreError as error:
            # One that brings the program down would do so for ever.
            refused = self._rolled_back(
                state, doubtful, f"its start cannot be counted: {error}", retry=True
            )
            return update_state.doubtful_left(state, refused), refused
        self._counted = True
        return counted, None

    def _first_readable(self, state: UpdateState, rolled_back: Refused | None) -> Booted:
        """The first release of the state that can be read, and the state that goes with it."""
        failed: list[ReleaseError] = []
        # What nothing refers to any more comes last: better than a node that hears nothing.
        for slot in dict.fromkeys((*state.slots, *self.folders.found())):
            try:
                release = self.folders.read(slot)
            except ReleaseError as error:
                logger.error("%s", error)
                failed.append(error)
                continue
            if failed:
                refused = self._rolled_back(state, state.current, str(failed[0]), retry=True)
                state = update_state.gone_back(state, slot, refused)
                rolled_back = rolled_back or refused
                self._counted = False
            if rolled_back is not None:
                logger.error("%s runs: %s", slot.release, rolled_back.reason)
            if state != self._state:
                self._keep_or_go_on(state)
            return Booted(release, slot, rolled_back)
        raise failed[0]

    def _go_back(self, reason: str, *, retry: bool) -> Booted:
        state = self.state
        for slot in state.slots:
            if slot == state.current:
                continue
            try:
                release = self.folders.read(slot)
            except ReleaseError as error:
                logger.error("%s", error)
                continue
            refused = self._rolled_back(state, state.current, reason, retry=retry)
            self._keep_or_go_on(update_state.gone_back(state, slot, refused))
            self._counted = False
            return Booted(release, slot, refused)
        raise UpdateStoreError(
            f"{state.current.release}: no release that could be gone back to can be read"
        )

    def _rolled_back(self, state: UpdateState, slot: Slot, reason: str, *, retry: bool) -> Refused:
        return update_state.rolled_back(state, slot, reason, at_us=self._now_us(), retry=retry)

    def _keep_or_go_on(self, state: UpdateState) -> None:
        """Keep; where that fails, for this run at least: what runs must not depend on the disk."""
        try:
            self.keep(state)
        except UpdateStoreError as error:
            logger.error("%s; after a restart the node will not know of it", error)
            self._state = state


def read_state(folder: Path) -> UpdateState | None:
    """What a node's state folder says of its releases, for whoever only looks; None is nothing yet.

    Raises:
        UpdateStoreError: it cannot be read, or is not what was written.
    """
    path = folder / STATE_NAME
    try:
        with path.open("rb") as stream:
            content = stream.read(MAX_STATE_BYTES)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise UpdateStoreError(f"{path}: cannot be read: {error.strerror}") from error
    try:
        return update_state.decode_state(content)
    except StateUnusableError as error:
        raise UpdateStoreError(f"{path}: {error}") from error
