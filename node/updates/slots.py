"""Which releases a node has, which of them it runs, and what it goes back to.

In the node's state folder:

- `updates.json`: the slots, the counters that forbid a step back, the orders that were obeyed;
- `releases/NAME-VERSION-SHA/`: a release each, whole (`manifest.json` and its files);
- `downloads/SHA.part`: files on their way (`node.updates.download`).

Names come from checked manifests alone. Whatever is written gets a hidden name first, is forced to
the disk, and then takes its place; `updates.json` never names what is not there yet, and names it
no more before it goes. So a power cut at any byte leaves either what was or what should be. What a
disk damages nevertheless is found by SHA-256, and costs one slot: `boot` goes on with the next.

No signature is checked here, nothing is decided, and nothing is run.
"""

import errno
import hashlib
import logging
import os
import shutil
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Literal, NamedTuple

import msgspec

from contract.desired import Desired
from contract.errors import EarshotError, ReleaseError
from contract.messages import (
    Count,
    ModelLabel,
    Positive,
    Sha256,
    Text,
    TimeUs,
    UpdatePhase,
)
from contract.release import (
    MANIFEST_NAME,
    MAX_MANIFEST_BYTES,
    Manifest,
    ReleaseFile,
    decode_manifest,
)
from node.scoring.release_store import Release, read_release
from node.whole_file import sync_folder, write_whole

logger = logging.getLogger(__name__)

STATE_NAME = "updates.json"
BROKEN_NAME = "updates.broken"
"""Where a state that cannot be used is moved, for whoever wants to know."""
DOWNLOADS_NAME = "downloads"
RELEASES_NAME = "releases"
MAX_STARTS = 3
"""Of a release that is on trial or not confirmed: after so many crashes it is left."""

_MAX_STATE_BYTES = 1024 * 1024
_MAX_REFUSED = 16
_MAX_REASON = 200
_COPY_BYTES = 64 * 1024
_UNUSABLE = (msgspec.MsgspecError, EarshotError, UnicodeDecodeError, RecursionError)
# What a disk says of a file that it has lost, or that has become a folder; what else goes wrong
# (no permission, say) may be mended by a person, who then finds it as it was.
_LOST = (errno.EIO, errno.EISDIR)


class UpdateStoreError(EarshotError):
    """The disk did not do it: what was there before still is."""


class Slot(msgspec.Struct, frozen=True, kw_only=True):
    """A release on this node."""

    release: ModelLabel
    manifest_sha256: Sha256
    """Of `manifest.json`, byte by byte: what orders name it by."""
    factory: bool = False
    """Whether it is the one of [model] folder, which nothing here ever writes to."""

    @property
    def folder_name(self) -> str:
        """Among the releases in the state folder."""
        return f"{self.release.replace('@', '-')}-{self.manifest_sha256[:12]}"


class Refused(msgspec.Struct, frozen=True, kw_only=True):
    """A release that was not taken on, or not kept."""

    manifest_sha256: Sha256
    release: ModelLabel | None = None
    """What people call it."""
    serial: Count
    """Of the order that asked for it."""
    phase: UpdatePhase
    """Rejected or rolled back."""
    reason: Text
    at_us: TimeUs
    retry: bool
    """Passing trouble (a full disk, a chunk that is missing): tried again later. Else only when an
    order with a higher serial asks for it."""


class UpdateState(msgspec.Struct, frozen=True, kw_only=True):
    """What a node must know of its releases at its next start."""

    format: Literal[1] = 1
    factory: Slot
    current: Slot
    previous: Slot | None
    """What a roll-back goes to."""
    confirmed: bool = True
    """Whether the current release has stayed up for as long as it must."""
    trying: Slot | None = None
    """What is on trial beside the current one: that, too, may bring the program down."""
    starts: Annotated[int, msgspec.Meta(ge=0)] = 0
    """Of the program with a release that is on trial or not confirmed, the first one included;
    those that end well do not count."""
    highest: dict[str, int] = {}
    """Per release name the highest version that was ever kept. No step below without an order
    that allows it, also when the folder of that version has gone."""
    thresholds: dict[str, Positive] = {}
    """Per manifest (its SHA-256) the threshold that an order gives in place of the release's."""
    orders: dict[str, Desired] = {}
    """Per address the last order that was accepted: its serial counts."""
    refused: tuple[Refused, ...] = ()
    """The newest last."""

    @property
    def slots(self) -> tuple[Slot, ...]:
        """Current, previous, factory; each once."""
        found = (self.current, self.previous, self.factory)
        return tuple(dict.fromkeys(slot for slot in found if slot is not None))


class Booted(NamedTuple):
    """What a node runs from its start on."""

    release: Release
    slot: Slot
    rolled_back: Refused | None
    """Why it is another one than the last run had switched to."""


class SlotStore:
    """The releases of one node. Not for two threads at a time.

    Args:
        folder: the node's state folder; made when something has to be written.
        factory: the release folder that the settings name.
        now_us: microseconds since 1970.
    """

    def __init__(self, folder: Path, factory: Path, *, now_us: Callable[[], int]) -> None:
        self._folder = folder
        self._factory = factory
        self._now_us = now_us
        self._state: UpdateState | None = None
        self._readable = True
        self._counted = False

    @property
    def state(self) -> UpdateState:
        """As of the last boot or change."""
        assert self._state is not None, "boot() comes first"
        return self._state

    @property
    def downloads(self) -> Path:
        """The folder for files on their way."""
        return self._folder / DOWNLOADS_NAME

    def boot(self) -> Booted:
        """Decide what runs. Once per start of the program.

        A start of a release that is not confirmed is counted, on disk, before anything is loaded:
        one that brings the program down gets `MAX_STARTS` of them. What cannot be read is passed
        over: current, previous, factory. A state folder that cannot be written stops nothing.

        Raises:
            ReleaseError: the factory release is broken, and there is no other.
        """
        factory = _peek(self._factory, factory=True)
        self._state = state = self._load()
        if state is None:
            state = self._new_state(factory)
        elif isinstance(factory, Slot) and factory != state.factory:
            logger.warning(
                "%s holds another model than at the last start: %s runs in place of %s, until an"
                " order asks for another",
                self._factory,
                factory.release,
                state.current.release,
            )
            state = _with_factory(state, factory)
        state, rolled_back = self._count_start(state)
        return self._first_readable(state, rolled_back)

    def look(self) -> Release:
        """What runs, for whoever does not run it: nothing is counted, nothing written.

        Raises:
            ReleaseError: nothing that is here can be read.
        """
        state = None
        with suppress(UpdateStoreError):
            state = read_state(self._folder)
        known = () if state is None else state.slots
        for slot in (*known, *(self._found() if known else ())):
            with suppress(ReleaseError):
                return self.read(slot)
        try:
            return read_release(self._factory)
        except ReleaseError:
            for slot in self._found():
                with suppress(ReleaseError):
                    return self.read(slot)
            raise

    def keep(self, state: UpdateState) -> None:
        """Write a new state in place of the one before.

        Raises:
            UpdateStoreError: it cannot be written; on disk and here it is as before.
        """
        if not self._readable:
            raise UpdateStoreError(f"{self._path}: cannot be read, and so is not written either")
        content = msgspec.json.encode(state)
        framed = _Framed(sha256=_digest(content), state=msgspec.Raw(content))
        try:
            _make_folder(self._folder)
            write_whole(self._path, msgspec.json.encode(framed))
        except OSError as error:
            raise self._trouble(self._path, error) from error
        self._state = state

    def read(self, slot: Slot) -> Release:
        """A release, every file of it checked.

        Raises:
            ReleaseError: it is not there, or not what the slot says.
        """
        folder = self.folder(slot)
        release = read_release(folder)
        found = _peek(folder, factory=slot.factory)
        if isinstance(found, ReleaseError):
            raise found
        if found != slot:
            raise ReleaseError(
                f"{folder}: expected {slot.release} with the manifest {slot.manifest_sha256[:12]},"
                f" got {found.release} with {found.manifest_sha256[:12]}"
            )
        return release

    def folder(self, slot: Slot) -> Path:
        """Where a release lies."""
        return self._factory if slot.factory else self._releases / slot.folder_name

    def find_file(self, file: ReleaseFile) -> Path | None:
        """A file with this very content in a release that is here: it need not be fetched."""
        for folder in (*_folders(self._releases), self._factory):
            with suppress(OSError):
                for path in sorted(folder.iterdir()):
                    # Only one of the right size is worth reading.
                    if (
                        path.is_file()
                        and path.stat().st_size == file.size_bytes
                        and _digest(path.read_bytes()) == file.sha256
                    ):
                        return path
        return None

    def install(self, manifest_bytes: bytes, manifest: Manifest, files: Mapping[str, Path]) -> Slot:
        """Make a release folder; it runs only after `switch`. The same again is success.

        Args:
            manifest_bytes: as signed.
            manifest: what they hold.
            files: where the content of each file that it lists is now; copied.

        Raises:
            ReleaseError: the bytes hold another manifest, or files are not what it says.
            UpdateStoreError: it cannot be written.
        """
        if decode_manifest(manifest_bytes) != manifest:
            raise ReleaseError(f"{manifest.label}: its bytes hold another manifest")
        slot = Slot(release=manifest.label, manifest_sha256=_digest(manifest_bytes))
        with suppress(ReleaseError):
            self.read(slot)
            return slot
        staging = self._releases / f".{slot.folder_name}.part"
        try:
            _make_folder(self._folder)
            _make_folder(self._releases)
            _remove(staging)
            staging.mkdir()
            for file in manifest.files:
                _copy(files[file.name], staging / file.name)
            _write(staging / MANIFEST_NAME, manifest_bytes)
            sync_folder(staging)
            read_release(staging)
            self._put(staging, slot)
        except OSError as error:
            raise self._trouble(self.folder(slot), error) from error
        finally:
            with suppress(OSError):
                _remove(staging)
        return slot

    def switch(self, slot: Slot) -> None:
        """Run this release from now on, and remember what to go back to.

        Raises:
            ReleaseError: it is not there.
            UpdateStoreError: it cannot be written.
        """
        self.read(slot)
        state = self.state
        if slot == state.current:
            return
        # What is not confirmed yet is nothing to go back to.
        previous = state.current if state.confirmed else state.previous
        self.keep(
            msgspec.structs.replace(
                state,
                current=slot,
                previous=None if previous == slot else previous,
                confirmed=False,
                trying=None,
                starts=1,
            )
        )
        self._counted = True

    def begin_trial(self, slot: Slot) -> None:
        """A release is about to be tried within this program.

        Raises:
            UpdateStoreError: it cannot be written: nobody would know what brought the program down.
        """
        if self.state.trying != slot:
            self.keep(msgspec.structs.replace(self.state, trying=slot, starts=1))
            self._counted = True

    def end_trial(self) -> None:
        """The program has outlived the trial, or nobody wants to know any more."""
        if self.state.trying is not None:
            self._keep_or_go_on(msgspec.structs.replace(self.state, trying=None, starts=0))
            self._counted = False

    def confirm(self, *, keep_downloads: Collection[str] = ()) -> None:
        """The current release stays: from now on nothing below its version is taken.

        Raises:
            UpdateStoreError: it cannot be written.
        """
        state = self.state
        self.keep(
            msgspec.structs.replace(
                state, confirmed=True, starts=0, highest=_raised(state.highest, state.current)
            )
        )
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

    def _go_back(self, reason: str, *, retry: bool) -> Booted:
        state = self.state
        for slot in state.slots:
            if slot == state.current:
                continue
            try:
                release = self.read(slot)
            except ReleaseError as error:
                logger.error("%s", error)
                continue
            refused = self._rolled_back(
                state.current, reason, serial=_serial_of(state, state.current), retry=retry
            )
            self._keep_or_go_on(_gone_back(state, slot, refused))
            self._counted = False
            return Booted(release, slot, refused)
        raise UpdateStoreError(
            f"{state.current.release}: no release that could be gone back to can be read"
        )

    def ended_well(self) -> None:
        """The program ends because it was told to: this start was no crash."""
        state = self.state
        if self._counted and state.starts:
            self._keep_or_go_on(msgspec.structs.replace(state, starts=state.starts - 1))
        self._counted = False

    def refuse(self, refused: Refused) -> None:
        """Remember a release that was not taken on; with a full disk, until the next start."""
        self._keep_or_go_on(_refusing(self.state, refused))

    def collect(
        self, *, keep_downloads: Collection[str] = (), keep_slots: Collection[Slot] = ()
    ) -> None:
        """Remove releases and downloads that nothing refers to.

        Args:
            keep_downloads: SHA-256 of files that are still to be used.
            keep_slots: installed, and not switched to yet; current and previous stay anyway.
        """
        state = self.state
        slots = (*state.slots, *keep_slots, *(() if state.trying is None else (state.trying,)))
        kept = {slot.folder_name for slot in slots if not slot.factory}
        parts = {f"{sha256}.part" for sha256 in keep_downloads}
        for folder, stay in ((self._releases, kept), (self.downloads, parts)):
            try:
                gone = [path for path in _entries(folder) if path.name not in stay]
                for path in gone:
                    _remove(path)
                if gone:
                    sync_folder(folder)
            except OSError as error:
                logger.error("%s: cannot be cleared: %s", folder, error.strerror)

    def used_bytes(self) -> int:
        """Of the disk, by releases and downloads."""
        total = 0
        for folder in (self._releases, self.downloads):
            for parent, _, names in os.walk(folder):
                for name in names:
                    with suppress(OSError):
                        total += (Path(parent) / name).stat().st_size
        return total

    def free_bytes(self) -> int:
        """Of the disk, for this user."""
        for place in (self._folder.absolute(), *self._folder.absolute().parents):
            with suppress(OSError):
                return shutil.disk_usage(place).free
        return 0

    @property
    def _path(self) -> Path:
        return self._folder / STATE_NAME

    @property
    def _releases(self) -> Path:
        return self._folder / RELEASES_NAME

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

    def _new_state(self, factory: Slot | ReleaseError) -> UpdateState:
        """With no state (a new node, or one whose file was damaged): the factory's release.

        The versions of what lies here are not forgotten, though some may never have been kept:
        one that is too high asks for an order that allows older ones, one that is too low would
        let somebody play back an old release.
        """
        found = self._found()
        if isinstance(factory, ReleaseError):
            if not found:
                raise factory
            logger.error("%s; what lies in %s is tried", factory, self._releases)
            factory = found[0]
        highest = _raised({}, factory)
        for slot in found:
            highest = _raised(highest, slot)
        return UpdateState(factory=factory, current=factory, previous=None, highest=highest)

    def _found(self) -> list[Slot]:
        """Releases that lie here, whatever the state says; the newest first, nothing checked."""
        found = [_peek(folder, factory=False) for folder in _folders(self._releases)]
        slots = [slot for slot in found if isinstance(slot, Slot)]
        return sorted(slots, key=lambda slot: _version(slot.release), reverse=True)

    def _count_start(self, state: UpdateState) -> tuple[UpdateState, Refused | None]:
        doubtful = state.trying if state.confirmed else state.current
        fallback = state.previous or state.factory
        if doubtful is None or (not state.confirmed and fallback == state.current):
            return state, None

        def left(reason: str, *, retry: bool) -> tuple[UpdateState, Refused]:
            refused = self._rolled_back(
                doubtful, reason, serial=_serial_of(state, doubtful), retry=retry
            )
            if state.confirmed:
                ended = msgspec.structs.replace(state, trying=None, starts=0)
                return _refusing(ended, refused), refused
            return _gone_back(state, fallback, refused), refused

        if state.starts >= MAX_STARTS:
            when = "during its trial" if state.confirmed else "before the release was confirmed"
            return left(f"the program ended {state.starts} times {when}", retry=False)
        counted = msgspec.structs.replace(state, starts=state.starts + 1)
        try:
            self.keep(counted)
        except UpdateStoreError as error:
            # One that brings the program down would do so for ever.
            return left(f"its start cannot be counted: {error}", retry=True)
        self._counted = True
        return counted, None

    def _first_readable(self, state: UpdateState, rolled_back: Refused | None) -> Booted:
        """The first release of the state that can be read, and the state that goes with it."""
        failed: list[ReleaseError] = []
        # What nothing refers to any more comes last: better than a node that hears nothing.
        for slot in dict.fromkeys((*state.slots, *self._found())):
            try:
                release = self.read(slot)
            except ReleaseError as error:
                logger.error("%s", error)
                failed.append(error)
                continue
            if failed:
                refused = self._rolled_back(
                    state.current,
                    str(failed[0]),
                    serial=_serial_of(state, state.current),
                    retry=True,
                )
                state = _gone_back(state, slot, refused)
                rolled_back = rolled_back or refused
                self._counted = False
            if rolled_back is not None:
                logger.error("%s runs: %s", slot.release, rolled_back.reason)
            if state != self._state:
                self._keep_or_go_on(state)
            return Booted(release, slot, rolled_back)
        raise failed[0]

    def _rolled_back(self, slot: Slot, reason: str, *, serial: int, retry: bool) -> Refused:
        return Refused(
            manifest_sha256=slot.manifest_sha256,
            release=slot.release,
            serial=serial,
            phase=UpdatePhase.ROLLED_BACK,
            reason=reason[:_MAX_REASON],
            at_us=self._now_us(),
            retry=retry,
        )

    def _keep_or_go_on(self, state: UpdateState) -> None:
        """Keep; where that fails, for this run at least: what runs must not depend on the disk."""
        try:
            self.keep(state)
        except UpdateStoreError as error:
            logger.error("%s; after a restart the node will not know of it", error)
            self._state = state

    def _put(self, staging: Path, slot: Slot) -> None:
        """Give a finished release its name; what has it already cannot be read."""
        final = self.folder(slot)
        damaged = self._releases / f".{slot.folder_name}.broken"
        with suppress(FileNotFoundError):
            _remove(damaged)
            final.rename(damaged)
        staging.rename(final)
        sync_folder(self._releases)
        _remove(damaged)

    def _trouble(self, path: Path, error: OSError) -> UpdateStoreError:
        free = ""
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            free = f" ({self.free_bytes() / 1e6:.1f} MB free)"
        return UpdateStoreError(f"{error.strerror}{free}: {path} cannot be written")


def read_state(folder: Path) -> UpdateState | None:
    """What a node's state folder says of its releases, for whoever only looks; None is nothing yet.

    Raises:
        UpdateStoreError: it cannot be read, or is not what was written.
    """
    path = folder / STATE_NAME
    try:
        with path.open("rb") as stream:
            content = stream.read(_MAX_STATE_BYTES)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise UpdateStoreError(f"{path}: cannot be read: {error.strerror}") from error
    try:
        framed = _FRAMED.decode(content)
        if _digest(bytes(framed.state)) == framed.sha256:
            return _STATE.decode(framed.state)
    except _UNUSABLE as error:
        raise UpdateStoreError(f"{path}: cannot be used: {error}") from error
    raise UpdateStoreError(f"{path}: is not what was written there")


class _Framed(msgspec.Struct, frozen=True):
    """A state with its digest: one wrong bit may make a lower version, and still be JSON."""

    sha256: str
    state: msgspec.Raw


_FRAMED = msgspec.json.Decoder(_Framed)
_STATE = msgspec.json.Decoder(UpdateState)


def _peek(folder: Path, *, factory: bool) -> Slot | ReleaseError:
    """Which release a folder holds, by its manifest alone."""
    path = folder / MANIFEST_NAME
    try:
        with path.open("rb") as stream:
            content = stream.read(MAX_MANIFEST_BYTES + 1)
        label = decode_manifest(content).label
    except OSError as error:
        return ReleaseError(f"{path}: cannot be read: {error.strerror}")
    except ReleaseError as error:
        return ReleaseError(f"{folder}: {error}")
    return Slot(release=label, manifest_sha256=_digest(content), factory=factory)


def _with_factory(state: UpdateState, factory: Slot) -> UpdateState:
    """A person has put another model there, and is to hear that one, as far as orders let him."""
    ran = state.current if state.confirmed else state.previous
    return msgspec.structs.replace(
        state,
        factory=factory,
        current=factory,
        # The factory's release of before is no more.
        previous=None if ran is None or ran.factory else ran,
        confirmed=True,
        trying=None,
        starts=0,
        highest=_raised(state.highest, factory),
    )


def _gone_back(state: UpdateState, slot: Slot, refused: Refused) -> UpdateState:
    return msgspec.structs.replace(
        _refusing(state, refused), current=slot, previous=None, confirmed=True, starts=0
    )


def _refusing(state: UpdateState, refused: Refused) -> UpdateState:
    others = [r for r in state.refused if r.manifest_sha256 != refused.manifest_sha256]
    return msgspec.structs.replace(state, refused=(*others, refused)[-_MAX_REFUSED:])


def _raised(highest: Mapping[str, int], slot: Slot) -> dict[str, int]:
    name, version = slot.release.rpartition("@")[0], _version(slot.release)
    return {**highest, name: max(version, highest.get(name, 0))}


def _version(release: str) -> int:
    return int(release.rpartition("@")[2])


def _serial_of(state: UpdateState, slot: Slot) -> int:
    """Of the newest order that asks for a release; 0 if none does."""
    return max(
        (
            order.serial
            for order in state.orders.values()
            for wanted in (order.wanted, order.before)
            if wanted is not None and wanted.manifest_sha256 == slot.manifest_sha256
        ),
        default=0,
    )


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _make_folder(folder: Path) -> None:
    """Make a folder, and its name last."""
    if not folder.is_dir():
        folder.mkdir(parents=True, exist_ok=True)
        sync_folder(folder.parent)


def _copy(source: Path, target: Path) -> None:
    with source.open("rb") as reader, target.open("xb") as writer:
        shutil.copyfileobj(reader, writer, _COPY_BYTES)
        writer.flush()
        os.fsync(writer.fileno())


def _write(target: Path, content: bytes) -> None:
    with target.open("xb") as writer:
        writer.write(content)
        writer.flush()
        os.fsync(writer.fileno())


def _remove(path: Path) -> None:
    """Remove a file, or a folder with all that is in it; not what a link points to."""
    if path.is_symlink() or not path.is_dir():
        path.unlink(missing_ok=True)
    else:
        shutil.rmtree(path)


def _entries(folder: Path) -> list[Path]:
    try:
        return sorted(folder.iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return []


def _folders(folder: Path) -> Iterator[Path]:
    """Finished releases; what is hidden is not."""
    with suppress(OSError):
        for path in _entries(folder):
            if path.is_dir() and not path.name.startswith("."):
                yield path
