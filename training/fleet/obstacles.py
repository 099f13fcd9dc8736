"""Why nodes cannot run a release, by what they say themselves. Values in, values out."""

from collections.abc import Iterable

import msgspec

from contract import topics
from contract.release import Manifest
from training.fleet.fleet import Fleet

_SHOWN_ID = 12


class Obstacle(msgspec.Struct, frozen=True):
    """Why a node cannot run a release."""

    node: str
    reason: str


def obstacles(
    fleet: Fleet, address: str, manifest: Manifest, *, signing_key: str, allow_older: bool = False
) -> list[Obstacle]:
    """What speaks against an order, node by node; nodes that obey a nearer address are left out.

    Args:
        fleet: with the births of all nodes.
        address: of the order.
        manifest: of the release to run.
        signing_key: id of the key that signs manifest and order.
        allow_older: whether nodes may go back to a lower version.
    """
    return [
        Obstacle(node, reason)
        for node in fleet.targets(address)
        if fleet.nearer(node, address) is None
        for reason in _reasons(fleet, node, manifest, signing_key, allow_older=allow_older)
    ]


def _reasons(
    fleet: Fleet, node: str, manifest: Manifest, signing_key: str, *, allow_older: bool
) -> Iterable[str]:
    birth = fleet.births[node]
    if topics.TAKES_UPDATES not in birth.capabilities or not birth.trusted_keys:
        yield "takes no updates: its settings name no [update] keys_file"
    elif signing_key not in birth.trusted_keys:
        known = ", ".join(key[:_SHOWN_ID] for key in birth.trusted_keys)
        yield f"does not trust the key {signing_key[:_SHOWN_ID]}, only {known}"
    if manifest.runtimes and birth.runtime not in manifest.runtimes:
        yield (
            f"has {birth.runtime}, and {manifest.label} was shown to run in"
            f" {', '.join(manifest.runtimes)}"
        )
    running = fleet.running(node)
    name, _, version = (running or "@0").rpartition("@")
    if name == manifest.name and int(version) > manifest.version and not allow_older:
        yield f"runs {running}, which is newer; `earshot fleet rollback` goes back"
    if running == birth.model == manifest.label and birth.model_sha256 != manifest.models_sha256:
        yield f"runs another {running}; give this one version {manifest.version + 1}"
