"""Releases as the broker keeps them: manifests and chunks of files. Values in, values out."""

import base64
import binascii
import hashlib
from collections.abc import Iterable, Mapping

import msgspec

from contract import topics
from contract.desired import Desired, Wanted
from contract.errors import EarshotError, ReleaseError, SignatureError, TopicError
from contract.release import CHUNK_BYTES, Manifest, ReleaseFile, decode_manifest
from contract.session import Publication
from contract.signature import TrustedKeys
from contract.signed_manifest import open_manifest
from contract.topics import Kind
from training.fleet import Order


class KeptRelease(msgspec.Struct, frozen=True, kw_only=True):
    """A manifest that the broker keeps."""

    label: str
    envelope: bytes
    manifest: Manifest | None
    """What it says, whoever has signed it; None if that cannot be read."""
    manifest_sha256: str | None
    trouble: str | None
    """Why it is not signed by us; None if it is."""

    @property
    def wanted(self) -> Wanted | None:
        """What an order for it names; None if it is not to be believed."""
        if self.trouble is not None or self.manifest_sha256 is None:
            return None
        return Wanted(release=self.label, manifest_sha256=self.manifest_sha256)


class UnclearUseError(EarshotError):
    """It cannot be told what is in use: nothing is cleared."""


class Clearing(msgspec.Struct, frozen=True, kw_only=True):
    """What the broker keeps and nobody needs."""

    releases: tuple[str, ...]
    files: dict[str, int | None]
    """SHA-256 and number of chunks; None where no manifest tells how many there are."""


def kept_releases(found: Mapping[str, bytes], trusted: TrustedKeys) -> dict[str, KeptRelease]:
    """Manifests by their labels, from what lies on their topics."""
    kept = {}
    for topic, envelope in found.items():
        try:
            where = topics.parse(topic)
        except TopicError:
            continue
        if where.kind is Kind.RELEASE and where.owner is not None:
            kept[where.owner] = _kept(where.owner, envelope, trusted)
    return kept


def chunks(file: ReleaseFile, content: bytes) -> Iterable[Publication]:
    """A file as it is published."""
    for number in range(file.chunks):
        begin = number * CHUNK_BYTES
        yield Publication(
            topic=topics.blob(file.sha256, number),
            payload=content[begin : begin + file.chunk_bytes(number)],
            retain=True,
            content_type="application/octet-stream",
        )


def next_version(name: str, labels: Iterable[str]) -> int:
    """Above all versions of that name."""
    parts = [label.rpartition("@") for label in labels]
    return max((int(version) for of, _, version in parts if of == name), default=0) + 1


def what_to_clear(
    orders: Iterable[Order], kept: Mapping[str, KeptRelease], first_chunks: Iterable[str]
) -> Clearing:
    """What no order names, neither to run nor to have run before.

    An order that we do not trust counts as well: nodes may have other keys than we.

    Args:
        orders: of all addresses.
        kept: all manifests, by label.
        first_chunks: SHA-256 of every file of which the broker keeps chunk 0.

    Raises:
        UnclearUseError: an order, or the manifest of a release in use, cannot be read.
    """
    used = {label for order in orders for label in _named(order)}
    if missing := sorted(used - kept.keys()):
        raise UnclearUseError(
            f"an order names {', '.join(missing)}, and the broker has no manifest that says which"
            " files that needs: push it again, or give another order"
        )
    used_files: set[str] = set()
    unused: dict[str, int | None] = dict.fromkeys(first_chunks)
    releases = []
    for label, release in sorted(kept.items()):
        if label not in used:
            releases.append(label)
            if release.manifest is not None:
                unused |= {file.sha256: file.chunks for file in release.manifest.files}
        elif release.manifest is None:
            raise UnclearUseError(
                f"{label} is in use, and its manifest on the broker cannot be read"
                f" ({release.trouble}): push it again"
            )
        else:
            used_files |= {file.sha256 for file in release.manifest.files}
    files = {sha256: count for sha256, count in unused.items() if sha256 not in used_files}
    return Clearing(releases=tuple(releases), files=files)


def _named(order: Order) -> Iterable[str]:
    desired: Desired | None = order.desired or order.unverified()
    if desired is None:
        raise UnclearUseError(
            f"the order for {order.address} cannot be read ({order.trouble}), so that nobody knows"
            " which release it names: clear it, or give another one"
        )
    return [each.release for each in (desired.wanted, desired.before) if each is not None]


def _kept(label: str, envelope: bytes, trusted: TrustedKeys) -> KeptRelease:
    manifest: Manifest | None = None
    text: bytes | None = None
    trouble: str | None = None
    try:
        manifest, text = open_manifest(envelope, trusted)
    except (SignatureError, ReleaseError) as error:
        trouble = str(error)
        text = _unverified(envelope)
        manifest = None if text is None else _readable(text)
    if manifest is not None and manifest.label != label:
        trouble = f"it is the manifest of {manifest.label}"
        manifest = None
    return KeptRelease(
        label=label,
        envelope=envelope,
        manifest=manifest,
        manifest_sha256=None if text is None else hashlib.sha256(text).hexdigest(),
        trouble=trouble,
    )


def _readable(text: bytes) -> Manifest | None:
    try:
        return decode_manifest(text)
    except ReleaseError:
        return None


class _Loose(msgspec.Struct, frozen=True):
    payload: str


def _unverified(envelope: bytes) -> bytes | None:
    try:
        return base64.b64decode(_LOOSE.decode(envelope).payload, validate=True)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, binascii.Error, ValueError):
        return None


_LOOSE = msgspec.json.Decoder(_Loose)
