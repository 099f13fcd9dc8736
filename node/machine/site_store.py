"""What a node remembers of its machine between two starts, as JSON files in its state folder.

- `calibration.json`: the newest calibration;
- `calibration-previous.json`: those of the releases before it, for a roll-back;
- `calibration-pending.json`: a calibration that has begun and not ended;
- `calibration-request.json`: one that a person asks for on this computer;
- `calibration-answer.json`, `calibration-status.json`: what became of that;
- `episode.json`: an episode that is open;
- `node.lock`: locked while a node runs.

None holds sound. A file that cannot be read is moved aside and told of: a node that nobody can
reach must start all the same.
"""

import fcntl
import logging
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import IO, Any, Literal, TypeVar

import msgspec

from contract.errors import EarshotError
from contract.messages import ModelLabel, Sha256, Text, TimeUs
from contract.release import Manifest
from contract.states import CalibrationPhase
from node.machine.episodes import Episode
from node.machine.limits import Limits
from node.whole_file import sync_folder, write_whole

logger = logging.getLogger(__name__)

_SITE = "calibration.json"
_PREVIOUS = "calibration-previous.json"
_PENDING = "calibration-pending.json"
_REQUEST = "calibration-request.json"
_ANSWER = "calibration-answer.json"
_STATUS = "calibration-status.json"
_EPISODE = "episode.json"
_LOCK = "node.lock"
# With the newest as many as there may be releases on a node: current, previous, factory.
_MOST_PREVIOUS = 2
_LOCK_TRIES = 5
_LOCK_PAUSE_SECONDS = 0.02

# What a file may do to its reader: not JSON, not of this shape, not UTF-8, or nested without end.
_UNUSABLE = (msgspec.MsgspecError, EarshotError, UnicodeDecodeError, RecursionError)

_Stored = TypeVar("_Stored", bound=msgspec.Struct)


class StateFolderError(EarshotError):
    """The state folder cannot be used, or another program holds it."""


class Site(msgspec.Struct, frozen=True, kw_only=True):
    """A calibration that has armed, and what it was made with."""

    format: Literal[1] = 1
    release: ModelLabel
    models_sha256: Sha256
    made_us: TimeUs
    note: Text
    limits: Limits

    def fits(self, manifest: Manifest) -> bool:
        """Whether it was made with this very release."""
        return (self.release, self.models_sha256) == (manifest.label, manifest.models_sha256)

    def replaces(self, other: "Site") -> bool:
        """Whether the other one is of the same release."""
        return (self.release, self.models_sha256) == (other.release, other.models_sha256)


class _PreviousSites(msgspec.Struct, frozen=True, kw_only=True):
    """Calibrations of releases that ran before, newest first, one of each release."""

    format: Literal[1] = 1
    sites: tuple[Site, ...]


class CalibrationRequest(msgspec.Struct, frozen=True, kw_only=True):
    """What a person asks of a node."""

    action: Literal["start", "cancel", "forget"]
    minutes: float | None = None
    at_us: TimeUs
    """Tells the status of this one from that of others."""


class CalibrationAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """Whether a request was taken, for whoever asked on this computer."""

    asked_us: TimeUs
    done: bool
    note: str


class CalibrationStatus(msgspec.Struct, frozen=True, kw_only=True):
    """How far the newest calibration is, for whoever waits for it on this computer."""

    asked_us: TimeUs
    """The time of the request by which the calibration began."""
    phase: CalibrationPhase
    note: str | None


class SiteStore:
    """The files in which one node remembers its machine between two starts.

    Args:
        folder: made if it is not there.
        required: False for a node that would rather hear, and remember nothing, than not start.

    Raises:
        StateFolderError: it cannot be made or written to, and is required.
    """

    def __init__(self, folder: Path, *, required: bool = True) -> None:
        self._folder = folder
        self._required = required
        self._status_kept: CalibrationStatus | None = None
        self._failed: set[str] = set()
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            probe = folder / f".probe-{os.getpid()}"
            probe.touch()
            probe.unlink()
        except OSError as error:
            text = (
                f"{folder}: expected a folder that this user may write to, got: {error.strerror};"
                " set [node] state_folder"
            )
            if required:
                raise StateFolderError(text) from error
            logger.error("%s; until then nothing is remembered", text)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the folder for one program while the context is entered.

        Raises:
            StateFolderError: another one holds it.
        """
        with ExitStack() as stack:
            try:
                file = stack.enter_context(_private(self._folder / _LOCK))
                _lock(file)
            except BlockingIOError as error:
                raise StateFolderError(
                    f"{self._folder}: a node already runs on this folder; stop it, or set another"
                    " [node] id or state_folder"
                ) from error
            except OSError as error:
                text = f"{self._folder / _LOCK}: cannot be locked: {error.strerror}"
                if self._required:
                    raise StateFolderError(f"{text}; is it another user's?") from error
                logger.error("%s", text)
            yield

    def is_locked(self) -> bool:
        """Whether a program holds the folder at this moment."""
        try:
            with self.locked():
                return False
        except StateFolderError:
            return True

    def site(self) -> Site | None:
        """The calibration that was kept last, for whatever release."""
        return self._read(_SITE, Site)

    def previous_sites(self) -> tuple[Site, ...]:
        """The calibrations of the releases that ran before, newest first."""
        previous = self._read(_PREVIOUS, _PreviousSites)
        return () if previous is None else previous.sites

    def site_for(self, manifest: Manifest) -> Site | None:
        """The calibration of this release; without one, the newest of any other."""
        newest = self.site()
        sites = (*(() if newest is None else (newest,)), *self.previous_sites())
        return next((site for site in sites if site.fits(manifest)), sites[0] if sites else None)

    def keep_site(self, site: Site) -> None:
        """Keep a calibration in place of its release's last one; others stay for a roll-back."""
        newest, previous = self.site(), self.previous_sites()
        others = [other for other in previous if not site.replaces(other)]
        if newest is not None and not site.replaces(newest):
            others = [newest, *(other for other in others if not newest.replaces(other))]
        # First: a power cut between the two leaves the old one twice, not nowhere.
        self._keep_previous(others, instead_of=previous)
        self._keep(_SITE, site)

    def forget_site(self, manifest: Manifest) -> None:
        """Forget what was calibrated with this release, and nothing else."""
        newest, previous = self.site(), self.previous_sites()
        others = [other for other in previous if not other.fits(manifest)]
        self._keep_previous(others, instead_of=previous)
        if newest is not None and newest.fits(manifest):
            self._keep(_SITE, None)

    def pending(self) -> CalibrationRequest | None:
        """A calibration that the last run began and did not end."""
        return self._read(_PENDING, CalibrationRequest)

    def keep_pending(self, request: CalibrationRequest | None) -> None:
        """Remember that a calibration has begun, or that none is under way."""
        self._keep(_PENDING, request)

    def take_request(self) -> CalibrationRequest | None:
        """The request that came since the last call; None if there was none."""
        request = self._read(_REQUEST, CalibrationRequest)
        if request is not None:
            self._keep(_REQUEST, None)
        return request

    def leave_request(self, request: CalibrationRequest) -> None:
        """Leave a request for the node that runs on this folder.

        Raises:
            StateFolderError: it cannot be written.
        """
        self._write(_REQUEST, request)

    def answer(self) -> CalibrationAnswer | None:
        """The answer to the newest request; None if there is none yet."""
        return self._read(_ANSWER, CalibrationAnswer)

    def keep_answer(self, answer: CalibrationAnswer) -> None:
        """Keep the answer for whoever asked."""
        self._keep(_ANSWER, answer)

    def status(self) -> CalibrationStatus | None:
        """How far the newest calibration is; None if none has been asked for."""
        return self._read(_STATUS, CalibrationStatus)

    def keep_status(self, status: CalibrationStatus) -> None:
        """Keep the status for whoever waits; writes only what is new, so that no card is worn."""
        if status != self._status_kept:
            self._status_kept = status
            self._keep(_STATUS, status)

    def episode(self) -> Episode | None:
        """An episode that was open when the node ended."""
        return self._read(_EPISODE, Episode)

    def keep_episode(self, episode: Episode | None) -> None:
        """Keep the episode that is open, or that none is."""
        self._keep(_EPISODE, episode)

    def _keep_previous(self, sites: Sequence[Site], *, instead_of: Sequence[Site]) -> None:
        kept = tuple(sites[:_MOST_PREVIOUS])
        if kept != tuple(instead_of):
            self._keep(_PREVIOUS, _PreviousSites(sites=kept) if kept else None)

    def _read(self, name: str, kind: type[_Stored]) -> _Stored | None:
        path = self._folder / name
        try:
            return msgspec.json.decode(path.read_bytes(), type=kind)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            # It may be a good one: whoever mends the permissions finds it as it was.
            if name not in self._failed:
                logger.error("%s cannot be read: %s", path, error.strerror)
            self._failed.add(name)
            return None
        except _UNUSABLE as error:
            aside = path.with_suffix(".broken")
            try:
                path.replace(aside)
                what = f"is now {aside.name}"
            except OSError:
                what = "cannot be moved aside"
            logger.error("%s cannot be used and %s: %s", path, what, error)
            return None

    def _keep(self, name: str, content: Any) -> None:
        """Write, but go on without where that fails: a node with a full disk must still hear."""
        try:
            self._write(name, content)
            if content is not None:
                self._failed.discard(name)
        except StateFolderError as error:
            logger.log(
                logging.DEBUG if name in self._failed else logging.ERROR,
                "%s; after a restart the node will not know of it",
                error,
            )
            self._failed.add(name)

    def _write(self, name: str, content: Any) -> None:
        """Whole or not at all, also when the power goes."""
        path = self._folder / name
        try:
            if content is not None:
                write_whole(path, msgspec.json.encode(content))
                return
            with suppress(FileNotFoundError, NotADirectoryError):
                path.unlink()
                sync_folder(path.parent)
        except OSError as error:
            raise StateFolderError(f"{path}: cannot be written: {error.strerror}") from error


def _private(path: Path) -> IO[str]:
    """A file that only this user may open: whoever can, can lock it."""
    return os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT, 0o600), "w")


def _lock(file: IO[str]) -> None:
    """Lock a file, or raise BlockingIOError; whoever only looks (`is_locked`) holds it briefly."""
    for _ in range(_LOCK_TRIES - 1):
        with suppress(BlockingIOError):
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        time.sleep(_LOCK_PAUSE_SECONDS)
    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
