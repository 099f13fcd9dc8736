"""What the updater asks of the thread that hears, and what that answers."""

import msgspec

from node.scoring.release_store import Release
from node.updates.trial import TrialReport


class TryOut(msgspec.Struct, frozen=True):
    """To the ear: score with this release beside the running one."""

    release: Release
    manifest_sha256: str


class GiveUp(msgspec.Struct, frozen=True):
    """To the ear: end the trial, nobody wants to know any more."""


class RunNow(msgspec.Struct, frozen=True):
    """To the ear: from the next window on, this release decides."""

    release: Release
    manifest_sha256: str
    threshold: float | None
    """An operator's threshold for that release; None if no order gives one."""
    why: str


class GoBy(msgspec.Struct, frozen=True):
    """To the ear: an operator's threshold, or none any more."""

    threshold: float | None


EarTask = TryOut | GiveUp | RunNow | GoBy


class TrialOver(msgspec.Struct, frozen=True):
    """From the ear: how the trial went."""

    manifest_sha256: str
    failure: str | None
    report: TrialReport


class TrialGoesOn(msgspec.Struct, frozen=True):
    """From the ear: how the trial goes."""

    manifest_sha256: str
    progress: float
    report: TrialReport


class Proven(msgspec.Struct, frozen=True):
    """From the ear: what runs has scored live windows, and the broker has heard of them."""

    manifest_sha256: str
