"""Small working nodes: they hear orders, check signatures, fetch releases and say how it went.

What comes of a release is scripted per node. Nothing is scored; there is no disk.
"""

import hashlib
import queue
import threading
import time
from collections.abc import Sequence
from types import TracebackType
from typing import Self

import msgspec

from contract import topics
from contract.desired import Desired, Wanted, cohort_percent
from contract.errors import EarshotError
from contract.messages import Birth, Status, Update, encode
from contract.session import (
    Connected,
    Publication,
    Received,
    Session,
    SessionEvent,
    SessionOptions,
    Subscribed,
    Subscription,
    Will,
)
from contract.settings import MqttSettings
from contract.signature import TrustedKeys
from contract.signed_desired import open_desired
from contract.signed_manifest import open_manifest
from contract.states import Presence, PresenceReason, ThresholdSource, UpdatePhase
from contract.topics import Kind
from tests.rig.brokers import Mosquitto
from tests.rig.signers import TRUSTED
from tests.rig.waiting import wait_until

BOOT = "01JD8Z6W3M9K4T2Q5R7V1X0YBC"


class Script(msgspec.Struct, frozen=True, kw_only=True):
    """What a node makes of a release."""

    ends: UpdatePhase | None = UpdatePhase.COMMITTED
    """None: it never gets beyond `hangs`."""
    hangs: UpdatePhase = UpdatePhase.TRIAL
    reason: str | None = None


COMMITS = Script()


class VirtualNode:
    """One node with a session of its own.

    Args:
        broker: where it connects.
        name: its id.
        group: of which it is.
        running: what it runs at first.
        script: what comes of releases.
        runtime: its inference library.
        trusted: whose orders it obeys; none takes no updates.
    """

    def __init__(
        self,
        broker: Mosquitto,
        name: str,
        *,
        group: str | None = None,
        running: str = "fan@1",
        script: Script = COMMITS,
        runtime: str = "ai-edge-litert",
        trusted: TrustedKeys = TRUSTED,
    ) -> None:
        self.name = name
        self.script = script
        self.running = running
        self.fetched: list[str] = []
        """SHA-256 of each file that was fetched and is what it should be."""
        self.phases: list[tuple[int, UpdatePhase]] = []
        """Serial and phase of all that was said."""
        self._group = group
        self._runtime = runtime
        self._trusted = trusted
        self._orders: dict[str, Desired] = {}
        self._chunks: dict[str, bytes] = {}
        self._files: dict[str, tuple[str, ...]] = {}
        """Topics of the chunks that a release has, by SHA-256 of the file."""
        self._order: Desired | None = None
        self._goal: Wanted | None = None
        self._model_sha256 = "0" * 64
        self._fetching_sha256 = self._model_sha256
        self._phase = UpdatePhase.IDLE
        self._events: queue.SimpleQueue[SessionEvent | UpdatePhase | None] = queue.SimpleQueue()
        self._present = threading.Event()
        addresses = [f"node:{name}", "all"] + ([f"group:{group}"] if group else [])
        options = SessionOptions(
            client_id=name,
            expiry_seconds=60,
            subscriptions=tuple(
                Subscription(topic_filter=topics.desired(each)) for each in addresses
            ),
        )
        self._session = Session(
            MqttSettings(host=broker.host, port=broker.port),
            options,
            self._events.put,
            will=lambda: Will(
                publication=self._retained(Kind.STATUS, self._status(PresenceReason.LOST)),
                delay_seconds=0,
            ),
        )
        self._thread = threading.Thread(target=self._run, name=f"virtual-{name}", daemon=True)

    def __enter__(self) -> Self:
        self._session.start()
        self._thread.start()
        assert self._present.wait(10), f"{self.name} was not let in"
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._session.publish(self._retained(Kind.STATUS, self._status(PresenceReason.STOPPED)))
        self._session.stop()
        self._events.put(None)
        self._thread.join(5)

    def wait_for(self, phase: UpdatePhase) -> None:
        """Until it has said that it is in this phase."""
        wait_until(lambda: any(p is phase for _, p in self.phases), f"{self.name} {phase}")

    def ends_with(self, phase: UpdatePhase) -> None:
        """Let a node that hangs come to an end."""
        self._events.put(phase)

    def _run(self) -> None:
        while (event := self._events.get()) is not None:
            match event:
                case Connected():
                    self._session.publish(self._retained(Kind.BIRTH, self._birth()))
                    online = self._status(PresenceReason.CONNECTED)
                    self._session.publish(self._retained(Kind.STATUS, online))
                    self._say(self._phase)
                case Subscribed():
                    self._present.set()
                    self._fetch_again()
                case Received():
                    self._take(event.topic, event.payload)
                case UpdatePhase():
                    self._end(event)

    def _take(self, topic: str, payload: bytes) -> None:
        where = topics.parse(topic)
        if where.kind is Kind.DESIRED and payload:
            try:
                order = open_desired(topic, payload, self._trusted)
            except EarshotError:
                return
            known = self._orders.get(order.to)
            if known is None or order.serial > known.serial:
                self._orders[order.to] = order
                self._obey()
        elif where.kind is Kind.RELEASE and self._goal is not None and payload:
            self._take_manifest(payload)
        elif where.kind is Kind.BLOB and payload:
            self._chunks[topic] = payload
            self._check_files()

    def _obey(self) -> None:
        addresses = (f"node:{self.name}", f"group:{self._group}", "all")
        orders = [self._orders[each] for each in addresses if each in self._orders]
        nearest = next((order for order in orders if order.wanted is not None), None)
        if nearest is None or not self._trusted:
            return
        self._order = nearest
        follows = cohort_percent(self.name) < nearest.percent
        self._goal = nearest.wanted if follows else self._unless_newer(nearest.before)
        self._files = {}
        if self._goal is None or self._goal.release == self.running:
            self._say(UpdatePhase.IDLE)
            return
        self._say(UpdatePhase.DOWNLOADING)
        self._session.follow(topics.release(self._goal.release))

    def _unless_newer(self, before: Wanted | None) -> Wanted | None:
        name, _, version = self.running.rpartition("@")
        newer = before is not None and name == before.name and int(version) >= before.version
        return None if newer else before

    def _fetch_again(self) -> None:
        """After a reconnect: nothing that was followed is any more."""
        if self._phase is UpdatePhase.DOWNLOADING and self._goal is not None:
            self._session.follow(topics.release(self._goal.release))

    def _take_manifest(self, envelope: bytes) -> None:
        goal = self._goal
        assert goal is not None
        try:
            manifest, text = open_manifest(envelope, self._trusted)
        except EarshotError as error:
            self._say(UpdatePhase.REJECTED, str(error)[:200])
            return
        if hashlib.sha256(text).hexdigest() != goal.manifest_sha256:
            return
        self._fetching_sha256 = manifest.models_sha256
        self._files = {
            file.sha256: tuple(topics.blob(file.sha256, k) for k in range(file.chunks))
            for file in manifest.files
        }
        for sha256 in self._files:
            self._session.follow(topics.every_chunk(sha256))

    def _check_files(self) -> None:
        if not self._files or self._phase is not UpdatePhase.DOWNLOADING:
            return
        if any(topic not in self._chunks for each in self._files.values() for topic in each):
            return
        for sha256, chunks in self._files.items():
            content = b"".join(self._chunks[topic] for topic in chunks)
            if hashlib.sha256(content).hexdigest() != sha256:
                self._say(UpdatePhase.REJECTED, "a file is not what the manifest says")
                return
            self.fetched.append(sha256)
        self._prove()

    def _prove(self) -> None:
        assert self._goal is not None
        for phase in (UpdatePhase.VERIFIED, UpdatePhase.TESTING, UpdatePhase.TRIAL):
            self._say(phase)
            if self.script.ends is None and phase is self.script.hangs:
                return
        if self.script.ends is not None:
            self._end(self.script.ends)

    def _end(self, phase: UpdatePhase) -> None:
        assert self._goal is not None
        if phase is UpdatePhase.COMMITTED:
            self.running, self._model_sha256 = self._goal.release, self._fetching_sha256
        self._say(phase, self.script.reason)

    def _say(self, phase: UpdatePhase, reason: str | None = None) -> None:
        self._phase = phase
        order = self._order
        wanted = None if self._goal is None else self._goal
        update = Update(
            node=self.name,
            boot=BOOT,
            at_us=_now_us(),
            running=self.running,
            previous=None,
            wanted=wanted.release if wanted else None,
            phase=phase,
            progress=0.5 if phase is UpdatePhase.DOWNLOADING else 0.0,
            reason=reason,
            obeying=None if order is None else order.to,
            serial=None if order is None else order.serial,
            threshold=wanted.threshold if wanted else None,
            trial_windows=30,
            trial_flagged=2,
            running_flagged=1,
            trial_score=0.5,
            trial_latency_p95_ms=4.25,
        )
        self.phases.append((0 if order is None else order.serial, phase))
        self._session.publish(self._retained(Kind.UPDATE, update))

    def _status(self, reason: PresenceReason) -> Status:
        online = reason is PresenceReason.CONNECTED
        return Status(
            node=self.name,
            boot=BOOT,
            at_us=_now_us(),
            state=Presence.ONLINE if online else Presence.OFFLINE,
            reason=reason,
        )

    def _birth(self) -> Birth:
        capabilities: Sequence[str] = ("update",) if self._trusted else ()
        return birth(
            self.name,
            group=self._group,
            model=self.running,
            model_sha256=self._model_sha256,
            runtime=self._runtime,
            capabilities=tuple(capabilities),
            trusted_keys=tuple(self._trusted),
        )

    def _retained(self, kind: Kind, message: Birth | Status | Update) -> Publication:
        return Publication(topic=topics.node(self.name, kind), payload=encode(message), retain=True)


def birth(
    node: str,
    *,
    group: str | None = None,
    model: str = "fan@1",
    model_sha256: str = "0" * 64,
    runtime: str = "ai-edge-litert",
    capabilities: tuple[str, ...] = ("update",),
    trusted_keys: tuple[str, ...] = tuple(TRUSTED),
) -> Birth:
    """What such a node says of itself."""
    return Birth(
        node=node,
        boot=BOOT,
        at_us=1,
        software="virtual",
        python="3",
        board="none",
        operating_system="none",
        runtime=runtime,
        runtime_version="2",
        source="none",
        source_rate_hz=16_000,
        group_id=group,
        model=model,
        model_sha256=model_sha256,
        threshold=1.0,
        threshold_source=ThresholdSource.RELEASE,
        window_us=2_000_000,
        hop_us=1_000_000,
        capabilities=capabilities,
        trusted_keys=trusted_keys,
    )


def _now_us() -> int:
    return time.time_ns() // 1000
