"""An operator's word to nodes: which release to run, with which threshold.

Signed (`contract.signed_desired`), since whoever may publish could otherwise raise a threshold and
silence a fleet. It is retained at one address: a node, a group, or all; the nearest one counts.

To change it: as `contract.messages` says. What narrows whom an order is for, or what it allows, is
no new key, which an older node would ignore, but a new schema.
"""

import hashlib
from typing import Annotated, Literal

import msgspec

from contract import topics
from contract.messages import Count, ModelLabel, Positive, Sha256, TimeUs


class Wanted(msgspec.Struct, frozen=True, kw_only=True):
    """A release, and the threshold to go by."""

    release: ModelLabel
    manifest_sha256: Sha256
    """SHA-256 of the manifest's bytes, which tells two releases of one name and version apart."""
    threshold: Positive | None = None
    """Replaces the release's and the site's, in the statistic's unit; None replaces neither."""

    @property
    def name(self) -> str:
        """The release's name, without its version."""
        return self.release.rpartition("@")[0]

    @property
    def version(self) -> int:
        """The release's version, without its name."""
        return int(self.release.rpartition("@")[2])


class Desired(msgspec.Struct, frozen=True, kw_only=True):
    """What the nodes at one address should run."""

    schema: Literal[1] = 1
    at_us: TimeUs
    to: Annotated[str, msgspec.Meta(pattern=topics.ADDRESS_PATTERN)]
    """`all`, `group:line-2` or `node:press-07`: an order for one is none for another."""
    serial: Count
    """Rises with every order to this address; a lower one is refused. Microseconds since 1970,
    or one more than the last if that is more, so that no two operators give the same."""
    wanted: Wanted | None
    """None: nothing any more; what a wider address says counts."""
    percent: Annotated[float, msgspec.Meta(ge=0, le=100)]
    """Share of the addressed nodes that should follow, see `cohort_percent`."""
    before: Wanted | None
    """What the others should run, as far as they do not run something newer; None leaves them as
    they are."""
    allow_older: bool
    """Whether a node may go back to a version below the highest that it has run."""


def cohort_percent(node: str) -> float:
    """Where a node stands among all, 0 to 100: it follows an order for more percent than this.

    A hash of its id alone: the same nodes go first each time, and a higher share adds nodes to
    those that have gone.
    """
    digest = hashlib.sha256(f"earshot cohort {node}".encode()).digest()
    return int.from_bytes(digest[:8]) / 2**64 * 100
