"""A release on its way from the broker to this disk: its signed manifest, then its files in chunks.

Few topics are followed at a time, each until its one message has come: so a slow link is never
full of chunks while a keep-alive waits behind them, and after any interruption the node asks for
what it does not have yet.
"""

import hashlib
import logging
import time
from pathlib import Path
from typing import Protocol

import msgspec

from contract import topics
from contract.desired import Wanted
from contract.errors import EarshotError, ReleaseError, SignatureError
from contract.release import Manifest
from contract.session import Delivery, Followed, Received
from contract.signature import TrustedKeys
from contract.signed_manifest import open_manifest
from node.settings import UpdateSection
from node.updates.download import ChunkError, Download, part_bytes
from node.updates.release_folders import ReleaseFolders, UpdateStoreError
from node.updates.update_state import Slot

logger = logging.getLogger(__name__)

# More at once only fills the queue of a slow link, and the next keep-alive waits behind it.
_CHUNKS_AT_ONCE = 2
# Space that an update leaves to everybody else on the disk.
_SPARE_BYTES = 32 * 1024 * 1024
_MB = 1024 * 1024


class FetchError(EarshotError):
    """The release cannot be had.

    Args:
        text: why.
        retry: whether that may pass.
    """

    def __init__(self, text: str, *, retry: bool) -> None:
        self.retry = retry
        super().__init__(text)


class RetainedTopics(Protocol):
    """What is needed of the connection: topics of which the broker keeps the last message."""

    def follow(self, topic_filter: str) -> Delivery | None:
        """Subscribe to a topic; None without a connection."""

    def leave(self, topic_filter: str) -> None:
        """End the subscription."""


class _AskedFor(msgspec.Struct, frozen=True):
    """When a topic was asked for, and whether that was done again."""

    at: float
    again: bool = False


class Fetch:
    """Brings one release; every method but `stop` may raise `FetchError`.

    Args:
        target: what was ordered.
        folders: where it goes, and what is there already.
        broker: where it comes from.
        trusted: whose manifests count.
        settings: how much there may be of it, and how long to wait for it.
        now_us: microseconds since 1970.
    """

    def __init__(
        self,
        target: Wanted,
        folders: ReleaseFolders,
        broker: RetainedTopics,
        trusted: TrustedKeys,
        settings: UpdateSection,
        *,
        now_us: int,
    ) -> None:
        self._target = target
        self._folders = folders
        self._broker = broker
        self._trusted = trusted
        self._settings = settings
        self._started_us = now_us
        self._asked: dict[str, _AskedFor] = {}
        self._packets: dict[int, str] = {}
        """Topics by the packet id by which they were asked for on this connection."""
        self._manifest: Manifest | None = None
        self._manifest_bytes = b""
        """The manifest as it was signed: other software might write other bytes."""
        self._files: dict[str, Path] = {}
        self._download: Download | None = None

    @property
    def progress(self) -> float:
        """Share of the release's bytes that are here, 0 to 1."""
        manifest = self._manifest
        if manifest is None:
            return 0.0
        done = float(sum(f.size_bytes for f in manifest.files if f.name in self._files))
        if self._download is not None:
            done += self._download.progress * self._download.file.size_bytes
        return done / sum(file.size_bytes for file in manifest.files)

    @property
    def is_complete(self) -> bool:
        """Whether every file is here, whole."""
        return self._manifest is not None and len(self._files) == len(self._manifest.files)

    @property
    def files_sha256(self) -> frozenset[str]:
        """Of the files that it brings, as far as is known."""
        files = () if self._manifest is None else self._manifest.files
        return frozenset(file.sha256 for file in files)

    def install(self) -> Slot:
        """Make a release of what has come.

        Raises:
            FetchError: the disk does not do it.
        """
        assert self._manifest is not None, "it is complete"
        try:
            return self._folders.install(self._manifest_bytes, self._manifest, self._files)
        except (UpdateStoreError, ReleaseError) as error:
            raise FetchError(str(error), retry=True) from error

    def connected(self) -> None:
        """There is a new connection: ask for what is missing."""
        self.disconnected()
        self._ask()

    def disconnected(self) -> None:
        """What was asked for will not come any more."""
        self._asked.clear()
        self._packets.clear()

    def stop(self) -> None:
        """Nobody wants it any more; what is here stays."""
        for topic in tuple(self._asked):
            self._leave(topic)

    def answered(self, answer: Followed) -> None:
        """The broker lets us follow a topic, or not."""
        topic = self._packets.pop(answer.packet_id, None)
        if topic in self._asked and not answer.accepted:
            raise FetchError(
                f"the broker does not let us read it: {answer.reason}, {topic}", retry=True
            )

    def hear(self, message: Received) -> None:
        """Take in a manifest or a chunk; what is nothing of ours is left alone."""
        if message.topic not in self._asked:
            return
        # An empty one was cleared: another may come.
        if not message.payload:
            return
        self._leave(message.topic)
        if message.topic == topics.release(self._target.release):
            self._hear_manifest(message.payload)
            return
        chunk = topics.parse(message.topic).chunk
        assert chunk is not None, "nothing else was asked for"
        self._hear_chunk(chunk, message.payload)

    def look_at_clock(self, now: float) -> None:
        """A message of QoS 0 may be lost: it is asked for once more before it is missing."""
        patience = self._settings.chunk_seconds
        for topic, asked in tuple(self._asked.items()):
            if now - asked.at > patience:
                raise FetchError(
                    f"did not come within {patience:g} s, is it still on the broker? {topic}",
                    retry=True,
                )
            if now - asked.at > patience / 2 and not asked.again:
                # Some brokers (rumqttd) give what they keep to new subscriptions alone.
                self._broker.leave(topic)
                self._broker.follow(topic)
                self._asked[topic] = _AskedFor(asked.at, again=True)

    def _ask(self) -> None:
        if self._manifest is None:
            self._follow(topics.release(self._target.release))
        elif self._download is not None:
            sha256 = self._download.file.sha256
            for chunk in self._download.next_chunks(_CHUNKS_AT_ONCE):
                self._follow(topics.blob(sha256, chunk))

    def _follow(self, topic: str) -> None:
        if topic in self._asked:
            return
        delivery = self._broker.follow(topic)
        if delivery is not None:
            self._asked[topic] = _AskedFor(time.monotonic())
            self._packets[delivery.packet_id] = topic

    def _leave(self, topic: str) -> None:
        if self._asked.pop(topic, None) is not None:
            self._broker.leave(topic)

    def _hear_manifest(self, envelope: bytes) -> None:
        try:
            manifest, payload = open_manifest(envelope, self._trusted)
            self._check(manifest, payload)
        except (SignatureError, ReleaseError) as error:
            # What nobody has signed decides nothing for good: the right one may lie there later.
            raise FetchError(str(error), retry=True) from error
        self._check_size(manifest)
        self._manifest, self._manifest_bytes = manifest, payload
        self._check_room(manifest)
        self._go_on()

    def _check(self, manifest: Manifest, payload: bytes) -> None:
        target = self._target
        if hashlib.sha256(payload).hexdigest() != target.manifest_sha256:
            raise ReleaseError(
                f"the manifest of {target.release} on the broker is not the one that was ordered"
            )
        if manifest.label != target.release:
            raise ReleaseError(f"expected the manifest of {target.release}, got {manifest.label}'s")
        if manifest.not_after_us is not None and manifest.not_after_us < self._started_us:
            day = time.strftime("%Y-%m-%d", time.gmtime(manifest.not_after_us / 1e6))
            # By this computer's clock, which may come right.
            raise ReleaseError(f"{manifest.label} has expired: it was valid until {day}")

    def _check_size(self, manifest: Manifest) -> None:
        size = sum(file.size_bytes for file in manifest.files)
        if size > self._settings.max_release_bytes:
            raise FetchError(
                f"expected a release of at most {self._settings.max_release_mb} MB"
                f" ([update] max_release_mb), got {size / _MB:.2f} MB",
                retry=False,
            )

    def _check_room(self, manifest: Manifest) -> None:
        # Once as it comes in, less what an earlier try has left; once as it is installed.
        needed = 2 * sum(file.size_bytes for file in manifest.files)
        needed -= sum(part_bytes(self._folders.downloads, file) for file in manifest.files)
        used, budget = self._folders.used_bytes(), self._settings.disk_bytes
        if used + needed > budget:
            raise FetchError(
                f"expected room for {needed / _MB:.1f} MB within [update] disk_mb ="
                f" {self._settings.disk_mb}, of which {used / _MB:.1f} MB are used",
                retry=True,
            )
        free = self._folders.free_bytes()
        if free < needed + _SPARE_BYTES:
            raise FetchError(
                f"the disk is full: expected {(needed + _SPARE_BYTES) / _MB:.0f} MB free, got"
                f" {free / _MB:.0f} MB",
                retry=True,
            )

    def _go_on(self) -> None:
        """Find out which files are here, and ask for the first that is not."""
        assert self._manifest is not None
        self._download = None
        for file in self._manifest.files:
            if file.name in self._files:
                continue
            here = self._folders.find_file(file)
            if here is None:
                try:
                    self._download = Download(self._folders.downloads, file)
                except UpdateStoreError as error:
                    raise FetchError(str(error), retry=True) from error
                if self._download.done:
                    self._finish()
                else:
                    self._ask()
                return
            self._files[file.name] = here

    def _hear_chunk(self, chunk: int, payload: bytes) -> None:
        download = self._download
        assert download is not None, "chunks are asked for by a download"
        try:
            download.add(chunk, payload)
        except (ChunkError, UpdateStoreError) as error:
            raise FetchError(str(error), retry=True) from error
        if download.done:
            self._finish()
        else:
            self._ask()

    def _finish(self) -> None:
        download = self._download
        assert download is not None
        try:
            self._files[download.file.name] = download.finish()
        except UpdateStoreError as error:
            raise FetchError(str(error), retry=True) from error
        except ChunkError as error:
            if error.fresh:
                raise FetchError(str(error), retry=True) from error
            # Part of it was here before: a card that lost its power may have spoilt that.
            logger.warning("%s; it is fetched anew", error)
        self._go_on()
