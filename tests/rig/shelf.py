"""Releases for tests, and a hand that puts anything on a broker, right or wrong."""

import hashlib
import secrets
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

import msgspec

from contract import topics
from contract.desired import Desired, Wanted
from contract.release import (
    CHUNK_BYTES,
    Manifest,
    SelfTest,
    describe_file,
    encode_manifest,
)
from contract.signature import Signer
from contract.signed_desired import sign_desired
from contract.signed_manifest import sign_manifest
from contract.talk import passing
from node.scoring.probe import probe
from node.scoring.release_store import Release, read_release
from node.scoring.runtime import find_runtime
from node.scoring.scorer import Scorer
from tests.rig.brokers import Mosquitto
from tests.rig.peers import Peer, mqtt
from tests.rig.programs import MODEL
from tests.rig.signers import SIGNER

VARIANTS = MODEL / "variants"


def packed(
    version: int,
    *,
    padding_bytes: int = 0,
    model: Callable[[bytes], bytes] | None = None,
    **changes: Any,
) -> Release:
    """A release of the committed model that a node can take, with its self-test.

    A window each quarter of a second, so that tests have less to wait for.

    Args:
        version: of `fan-synthetic`.
        padding_bytes: added to the model's file, which no library minds: a larger download.
        model: changes the model's file, once the self-test has been made with what it was.
        changes: of the manifest.
    """
    found = read_release(VARIANTS / "float32")
    statistic = Scorer(found, find_runtime()).score(probe(found.manifest.features)).statistic
    assert statistic is not None
    name = found.manifest.models[0].file
    content = found.files[name] if model is None else model(found.files[name])
    # Not zeros: nothing on the way may make them small.
    content += secrets.token_bytes(padding_bytes)
    manifest = msgspec.structs.replace(
        found.manifest,
        version=version,
        created_us=time.time_ns() // 1000,
        window_hop_samples=4_000,
        files=(describe_file(name, content),),
        self_test=SelfTest(statistic=statistic, relative_tolerance=0.01),
    )
    return Release(msgspec.structs.replace(manifest, **changes), {name: content})


def wanted(release: Release | Manifest, threshold: float | None = None) -> Wanted:
    """What an order for a release names."""
    manifest = release.manifest if isinstance(release, Release) else release
    return Wanted(
        release=manifest.label,
        manifest_sha256=hashlib.sha256(encode_manifest(manifest)).hexdigest(),
        threshold=threshold,
    )


def chunks(release: Release) -> dict[str, bytes]:
    """Topic -> payload of every chunk of a release."""
    found = {}
    for file in release.manifest.files:
        content = release.files[file.name]
        for chunk in range(file.chunks):
            start = chunk * CHUNK_BYTES
            found[topics.blob(file.sha256, chunk)] = content[start : start + CHUNK_BYTES]
    return found


class Shelf(Peer):
    """Puts retained messages on a broker, one by one, each confirmed."""

    def __init__(self, broker: Mosquitto) -> None:
        super().__init__(mqtt(broker), passing("shelf"))
        self._serial = time.time_ns() // 1000

    def __enter__(self) -> Self:
        super().__enter__()
        assert self.open(seconds=20.0)
        return self

    def put(self, topic: str, payload: bytes) -> None:
        """Leave a retained message; an empty one clears the topic."""
        answer = self.tell(topic, payload, retain=True)
        assert answer.accepted, answer.reason

    def put_release(self, release: Release, signer: Signer = SIGNER) -> None:
        """Chunks first, then the signed manifest."""
        for topic, payload in chunks(release).items():
            self.put(topic, payload)
        self.put(topics.release(release.manifest.label), sign_manifest(release.manifest, signer))

    def order(
        self,
        to: str,
        release: Release | None,
        *,
        threshold: float | None = None,
        percent: float = 100.0,
        before: Wanted | None = None,
        allow_older: bool = False,
        serial: int | None = None,
        signer: Signer = SIGNER,
    ) -> Desired:
        """Leave a signed order."""
        self._serial = serial or max(self._serial + 1, time.time_ns() // 1000)
        desired = Desired(
            at_us=time.time_ns() // 1000,
            to=to,
            serial=self._serial,
            wanted=None if release is None else wanted(release, threshold),
            percent=percent,
            before=before,
            allow_older=allow_older,
        )
        self.put(topics.desired(to), sign_desired(desired, signer))
        return desired


def keys_file(folder: Path, *signers: Signer) -> Path:
    """A file of the keys that a node trusts."""
    path = folder / "release-keys.pem"
    path.write_bytes(b"".join(signer.public_pem for signer in signers or (SIGNER,)))
    return path
