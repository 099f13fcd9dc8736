"""What of all that the broker keeps nobody needs any more. Values in, values out.

In doubt something is in use. What clears it is `training.fleet.retire`.
"""

from collections.abc import Collection, Iterable, Mapping

import msgspec

from contract import topics
from contract.desired import Desired, Wanted
from contract.errors import EarshotError
from contract.messages import Update
from contract.states import UpdatePhase
from training.fleet.fleet import Order
from training.fleet.shelf import KeptRelease


class UnclearUseError(EarshotError):
    """Nothing is cleared, as it cannot be told what is in use: do what the text says."""


class Clearing(msgspec.Struct, frozen=True, kw_only=True):
    """What the broker keeps and nobody needs."""

    releases: tuple[str, ...]
    files: dict[str, int | None]
    """SHA-256 and number of chunks; None where no manifest tells how many there are."""
    spared: int
    """Files of no release that are left, as a node fetches one that we do not know."""


def what_to_clear(
    orders: Iterable[Order],
    updates: Collection[Update],
    kept: Mapping[str, KeptRelease],
    first_chunks: Iterable[str],
) -> Clearing:
    """What no order names, neither to run nor to have run before, and no node.

    An order that we do not trust counts as well: nodes may have other keys than we. What nodes say
    counts, since they remember orders that the broker has lost; a forged word can only keep more.

    Args:
        orders: of all addresses.
        updates: of all nodes.
        kept: all manifests, by label.
        first_chunks: SHA-256 of every file of which the broker keeps chunk 0.

    Raises:
        UnclearUseError: an order cannot be read, or the broker does not keep what it names.
    """
    used = {label for order in orders for label in _ordered(order, kept)}
    used |= {label for update in updates for label in _told(update)}
    files_of = {
        label: {file.sha256: file.chunks for file in release.manifest.files}
        for label, release in kept.items()
        if release.manifest is not None
    }
    releases = sorted(kept.keys() - used)
    clearing: dict[str, int | None] = {}
    for label in releases:
        clearing |= files_of.get(label, {})
    orphans = set(first_chunks) - {sha256 for files in files_of.values() for sha256 in files}
    fetching = any(_fetches_unknown(update, kept) for update in updates)
    if not fetching:
        clearing |= dict.fromkeys(orphans)
    for label in used & files_of.keys():
        for sha256 in files_of[label]:
            clearing.pop(sha256, None)
    return Clearing(
        releases=tuple(releases), files=clearing, spared=len(orphans) if fetching else 0
    )


def _ordered(order: Order, kept: Mapping[str, KeptRelease]) -> Iterable[str]:
    """Labels that an order names, when what is kept there is what it means."""
    desired: Desired | None = order.desired or order.unverified()
    if desired is None:
        raise UnclearUseError(
            f"the order for {order.address} cannot be read ({order.trouble}), so that nobody knows"
            " which release it names: clear it, or give another one"
        )
    for wanted in (desired.wanted, desired.before):
        if wanted is not None:
            _check_kept(order.address, wanted, kept.get(wanted.release))
            yield wanted.release


def _check_kept(address: str, wanted: Wanted, release: KeptRelease | None) -> None:
    label = wanted.release
    if release is None:
        raise UnclearUseError(
            f"the order for {address} names {label}, and the broker has no manifest that says which"
            " files that needs: push it again, or give another order"
        )
    if release.manifest is None:
        raise UnclearUseError(
            f"{label} is in use, and its manifest on the broker cannot be read ({release.trouble}):"
            " push it again"
        )
    if release.manifest_sha256 != wanted.manifest_sha256:
        raise UnclearUseError(
            f"the order for {address} names another {label} than the broker keeps"
            + (f", which is not signed by us ({release.trouble})" if release.trouble else "")
            + f": clear that with `mosquitto_pub -r -n -t {topics.release(label)}` and push the"
            " right one again, or give another order"
        )


def _told(update: Update) -> Iterable[str]:
    """Labels that a node runs or wants; the one before lies on its own disk."""
    return filter(None, (update.running, update.wanted))


def _fetches_unknown(update: Update, kept: Mapping[str, KeptRelease]) -> bool:
    """Whether a node fetches files by a manifest that it has heard, and we have not."""
    if update.phase is not UpdatePhase.DOWNLOADING or update.wanted is None:
        return False
    release = kept.get(update.wanted)
    return release is None or release.manifest is None or release.trouble is not None
