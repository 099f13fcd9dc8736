"""Releases as the broker keeps them: manifests and chunks of files. Values in, values out."""

import hashlib
from collections.abc import Iterable, Mapping

import msgspec

from contract import topics
from contract.desired import Wanted
from contract.errors import ReleaseError, SignatureError, TopicError
from contract.release import CHUNK_BYTES, Manifest, ReleaseFile, decode_manifest
from contract.session import Publication
from contract.signature import TrustedKeys
from contract.signed_manifest import open_manifest
from contract.topics import Kind
from training.fleet.unverified import claimed_payload


class KeptRelease(msgspec.Struct, frozen=True, kw_only=True):
    """A manifest that the broker keeps, and whether it is to be believed."""

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


def kept_releases(found: Mapping[str, bytes], trusted: TrustedKeys) -> dict[str, KeptRelease]:
    """The manifests that lie on the topics of releases, by their labels."""
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
    """The retained messages in which a file is published, in their order."""
    for number in range(file.chunks):
        begin = number * CHUNK_BYTES
        yield Publication(
            topic=topics.blob(file.sha256, number),
            payload=content[begin : begin + file.chunk_bytes(number)],
            retain=True,
            content_type="application/octet-stream",
        )


def next_version(name: str, labels: Iterable[str]) -> int:
    """The lowest version above all those of that name; 1 if there are none."""
    parts = [label.rpartition("@") for label in labels]
    return max((int(version) for of, _, version in parts if of == name), default=0) + 1


def _kept(label: str, envelope: bytes, trusted: TrustedKeys) -> KeptRelease:
    manifest: Manifest | None = None
    text: bytes | None = None
    trouble: str | None = None
    try:
        manifest, text = open_manifest(envelope, trusted)
    except (SignatureError, ReleaseError) as error:
        trouble = str(error)
        text = claimed_payload(envelope)
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
