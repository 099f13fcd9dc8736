"""Sends a release to the fleet: chunks, then the manifest, then the order, all retained.

Nothing is sent before the fleet's own words say that every addressed node can run it. Each step is
idempotent: a push that was interrupted is given again.
"""

import hashlib
from collections.abc import Collection, Mapping
from pathlib import Path

import msgspec

from contract import topics
from contract.command_line import typed
from contract.desired import Desired, Wanted
from contract.errors import ReleaseError, SignatureError
from contract.release import ENVELOPE_NAME, MANIFEST_NAME, Manifest, encode_manifest
from contract.signature import MAX_ENVELOPE_BYTES, Signer, read_public_keys
from contract.signed_manifest import open_manifest
from contract.topics import Kind
from node.scoring.release_store import read_release
from training.errors import DestinationError
from training.fleet.broker import retained
from training.fleet.fleet import before
from training.fleet.obstacles import obstacles
from training.fleet.orders import Access, Desk, Waiting, at_desk, carry_out, now_us
from training.fleet.rollout_screen import Screen
from training.fleet.rollout_tables import counted
from training.fleet.shelf import KeptRelease, chunks, kept_releases, next_version


class PushRefusedError(ReleaseError):
    """Nothing was sent: the release is not for these nodes, or not as it is."""


class PushRequest(msgspec.Struct, frozen=True, kw_only=True):
    """What `push` is asked for: a release, and for whom."""

    release: Path
    to: str
    """The address: `all`, `group:line-2` or `node:press-07`."""
    percents: tuple[float, ...] = (100.0,)
    """Rising shares of the nodes, each a ring; several need `waiting`."""
    threshold: float | None = None
    """A threshold in place of the release's and the site's; None keeps these."""
    resend: bool = False
    """Whether to send the chunks again, although the broker has them."""
    waiting: Waiting | None = None
    excepted: frozenset[str] = frozenset()
    """Ids of nodes that may be unable to run it."""


class PackedRelease(msgspec.Struct, frozen=True):
    """A release folder that `training release` wrote."""

    manifest: Manifest
    envelope: bytes
    files: dict[str, bytes]

    @property
    def manifest_sha256(self) -> str:
        """SHA-256 of the manifest's bytes, in hexadecimal digits."""
        return hashlib.sha256(encode_manifest(self.manifest)).hexdigest()


def push(request: PushRequest, signer: Signer, access: Access, screen: Screen) -> int:
    """Send a release, see it through if nodes are waited for, and give the exit code.

    Raises:
        TopicError: no address.
        ReleaseError: the folder is no release.
        DestinationError: it was not packed, or signed by somebody else.
        PushRefusedError: the fleet cannot run it.
        BrokerTroubleError: the broker is away, or says no.
        SettingsError: certificate, key or password file cannot be used.
    """
    topics.desired(request.to)
    packed = read_packed(request.release, signer)
    return at_desk(access, screen, lambda desk: _push(request, packed, signer, access, desk))


def read_packed(folder: Path, signer: Signer) -> PackedRelease:
    """A release with its envelope, which must be of exactly this manifest and key.

    Raises:
        ReleaseError: it is no release.
        DestinationError: it has no such envelope.
    """
    release = read_release(folder)
    pack = f"`{typed(f'training release {folder} --out ...')}` packs and signs a release"
    try:
        envelope = (folder / ENVELOPE_NAME).read_bytes()
    except FileNotFoundError as error:
        raise DestinationError(f"{folder}: is not signed; {pack}") from error
    except OSError as error:
        reason = error.strerror
        raise DestinationError(f"{folder}: cannot read {ENVELOPE_NAME}: {reason}") from error
    try:
        _, signed = open_manifest(envelope, read_public_keys(signer.public_pem))
    except SignatureError as error:
        if error.reason == "unknown_key":
            raise DestinationError(
                f"{folder}: is signed by another key than {signer.key_id[:12]}; {pack}"
            ) from error
        raise DestinationError(f"{folder}: {ENVELOPE_NAME}: {error}; {pack}") from error
    if signed != encode_manifest(release.manifest) or signed != _manifest_bytes(folder):
        raise DestinationError(f"{folder}: {MANIFEST_NAME} has changed since it was signed; {pack}")
    return PackedRelease(release.manifest, envelope, release.files)


def check_release(packed: PackedRelease, kept: Mapping[str, KeptRelease], *, now_us: int) -> None:
    """Make sure that the release itself may be pushed.

    Raises:
        PushRefusedError: it is expired, or its version is taken.
    """
    label, not_after_us = packed.manifest.label, packed.manifest.not_after_us
    if not_after_us is not None and now_us > not_after_us:
        raise PushRefusedError(
            f"{label} is too old to be taken on by any node;"
            f" `{typed('training release')}` packs it anew"
        )
    there = kept.get(label)
    if there is not None and there.manifest_sha256 != packed.manifest_sha256:
        free = next_version(packed.manifest.name, kept)
        raise PushRefusedError(
            f"the broker keeps another {label} already"
            + (f" (not signed by us: {there.trouble})" if there.trouble else "")
            + f"; pack this one as version {free}: `{typed(f'training release --version {free}')}`"
        )


def check_fleet(
    desk: Desk,
    to: str,
    manifest: Manifest,
    signer: Signer,
    *,
    allow_older: bool = False,
    excepted: Collection[str] = (),
) -> None:
    """Make sure that the nodes at an address can run a release, but for those that are excepted.

    Raises:
        PushRefusedError: some cannot; it says which, and why.
    """
    fleet = desk.fleet
    found = obstacles(fleet, to, manifest, signing_key=signer.key_id, allow_older=allow_older)
    in_the_way = [each for each in found if each.node not in excepted]
    if in_the_way:
        listed = "; ".join(f"{each.node} {each.reason}" for each in in_the_way)
        nodes = sorted({each.node for each in in_the_way})
        everybody = ",".join(sorted({*nodes, *excepted}))
        birth = topics.node(nodes[0], Kind.BIRTH)
        raise PushRefusedError(
            f"{manifest.label} was not sent: {len(nodes)} of {len(fleet.targets(to))} nodes at {to}"
            f" cannot run it: {listed}; `--except {everybody}` orders it all the same;"
            f" if {nodes[0]} is no more, `mosquitto_pub -r -n -t {birth}` clears what it once said"
        )
    for each in found:
        desk.screen.note(f"goes on without {each.node}, which {each.reason}")


def _push(
    request: PushRequest, packed: PackedRelease, signer: Signer, access: Access, desk: Desk
) -> int:
    manifest = packed.manifest
    found = desk.operator.read(topics.every_release(manifest.name))
    kept = kept_releases(found, access.trusted)
    check_release(packed, kept, now_us=now_us())
    check_fleet(desk, request.to, manifest, signer, excepted=request.excepted)
    if not desk.fleet.targets(request.to):
        desk.screen.note(f"no node at {request.to} has been heard of; those to come will obey")
    there = kept.get(manifest.label)
    # The manifest is put last: where it is, all chunks are.
    if request.resend or there is None or there.envelope != packed.envelope:
        _send(packed, desk)
    else:
        desk.screen.note(f"the broker has {manifest.label} already; only the order is sent")
    wanted = Wanted(
        release=manifest.label,
        manifest_sha256=packed.manifest_sha256,
        threshold=request.threshold,
    )
    order = new_order(desk, request.to, wanted)
    return carry_out(
        desk, signer, order, request.percents, request.waiting, excepted=request.excepted
    )


def new_order(desk: Desk, to: str, wanted: Wanted) -> Desired:
    """An order in the place of the present one, without a serial yet."""
    present = desk.fleet.orders.get(to)
    if present is not None and present.desired is None:
        desk.screen.note(f"replaces an order for {to} that is not signed by us: {present.trouble}")
    return Desired(
        at_us=0,
        to=to,
        serial=0,
        wanted=wanted,
        percent=0.0,
        before=before(desk.fleet.desired(to), wanted),
        allow_older=False,
    )


def _send(packed: PackedRelease, desk: Desk) -> None:
    manifest = packed.manifest
    assert len(packed.envelope) <= MAX_ENVELOPE_BYTES, "the signer has let a larger one through"
    publications = [
        chunk for file in manifest.files for chunk in chunks(file, packed.files[file.name])
    ]
    with desk.screen.chunks(f"sending {manifest.label}", len(publications)) as arrived:
        for _ in desk.operator.put(publications):
            arrived()
    # Only when every chunk is there.
    for _ in desk.operator.put([retained(topics.release(manifest.label), packed.envelope)]):
        pass
    size = sum(file.size_bytes for file in manifest.files)
    desk.screen.note(
        f"sent {manifest.label}: {size / 1e6:.2f} MB, {counted(len(publications), 'chunk')}"
    )


def _manifest_bytes(folder: Path) -> bytes:
    try:
        return (folder / MANIFEST_NAME).read_bytes()
    except OSError as error:
        raise ReleaseError(f"{folder}: cannot read {MANIFEST_NAME}: {error.strerror}") from error
