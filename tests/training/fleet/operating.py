"""What tests of an operator's commands do: push, look, and say what a fleet would say."""

import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from itertools import count
from pathlib import Path

from contract import topics
from contract.desired import Desired, Wanted, cohort_percent
from contract.messages import Status, Update, encode
from contract.release import Manifest
from contract.session import Received
from contract.settings import MqttSettings
from contract.signature import Signer, read_public_keys
from contract.signed_desired import open_desired, sign_desired
from contract.signed_manifest import sign_manifest
from contract.states import Presence, PresenceReason, UpdatePhase
from tests.rig.brokers import Mosquitto
from tests.rig.peers import Ear
from tests.rig.programs import ROOT
from tests.rig.signers import SIGNER, TRUSTED
from tests.rig.virtual_nodes import BOOT, VirtualNode
from training.fleet.broker import Operator, retained
from training.fleet.fleet import Fleet
from training.fleet.orders import Access, Waiting
from training.fleet.push import PushRequest, push
from training.fleet.rollout_screen import Screen
from training.fleet.shelf import (
    KeptRelease,
    kept_releases,
)

ALL = "earshot/1/all/desired"
WAITING = Waiting(timeout_seconds=30.0)
SETTLE_SECONDS = 0.2
OURS = read_public_keys(SIGNER.public_pem)


def access(broker: Mosquitto) -> Access:
    settings = MqttSettings(host=broker.host, port=broker.port)
    return Access(broker=settings, trusted=OURS, settle_seconds=SETTLE_SECONDS)


def pushed(
    broker: Mosquitto,
    folder: Path,
    to: str = "all",
    *percents: float,
    waiting: Waiting | None = None,
    threshold: float | None = None,
    resend: bool = False,
    signer: Signer = SIGNER,
) -> int:
    request = PushRequest(
        release=folder,
        to=to,
        percents=percents or (100.0,),
        threshold=threshold,
        resend=resend,
        waiting=waiting,
    )
    return push(request, signer, access(broker), Screen())


def operator(broker: Mosquitto) -> Operator:
    return Operator(
        MqttSettings(host=broker.host, port=broker.port),
        (),
        lambda topic, payload: None,
        note=lambda text: None,
        settle_seconds=SETTLE_SECONDS,
    )


def kept(broker: Mosquitto, *filters: str) -> dict[str, bytes]:
    with operator(broker) as ours:
        return ours.read(*filters)


def put(broker: Mosquitto, topic: str, payload: bytes) -> None:
    with operator(broker) as ours:
        assert [each.topic for each in ours.put([retained(topic, payload)])] == [topic]


def order_at(broker: Mosquitto, to: str) -> Desired:
    topic = topics.desired(to)
    return open_desired(topic, kept(broker, topic)[topic], TRUSTED)


def order(to: str, label: str, serial: int) -> Desired:
    return Desired(
        at_us=1,
        to=to,
        serial=serial,
        wanted=Wanted(release=label, manifest_sha256="ab" * 32),
        percent=100.0,
        before=None,
        allow_older=False,
    )


def in_cohort(low: float, high: float, many: int) -> list[str]:
    """Names of nodes that stand between two percentages."""
    names = (f"press-{number}" for number in count())
    found = (name for name in names if low <= cohort_percent(name) < high)
    return [next(found) for _ in range(many)]


@contextmanager
def fleet(nodes: Sequence[VirtualNode]) -> Iterator[None]:
    with ExitStack() as stack:
        for node in nodes:
            stack.enter_context(node)
        yield


class LiveEar(Ear):
    """Hears all that is said from now on, and nothing that was there."""

    def __init__(self, broker: Mosquitto) -> None:
        super().__init__(broker, "ear", "earshot/#")

    def received(self) -> list[Received]:
        return [message for message in super().received() if not message.retained]


def key_file(tmp_path: Path) -> Path:
    from cryptography.hazmat.primitives.serialization import (
        Encoding,
        NoEncryption,
        PrivateFormat,
    )

    path = tmp_path / "key.pem"
    path.write_bytes(SIGNER._key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    path.chmod(0o600)
    return path


def command(broker: Mosquitto, tmp_path: Path, *words: str) -> list[str]:
    where = f"{broker.host}:{broker.port}"
    key = str(key_file(tmp_path))
    return [sys.executable, "-m", "earshot", "fleet", *words, "--broker", where, "--key", key]


def run(broker: Mosquitto, tmp_path: Path, *words: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        command(broker, tmp_path, *words),
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        stdin=subprocess.DEVNULL,
    )


def known(fleet: Fleet, *messages: object) -> None:
    """Let a fleet hear messages of nodes, and orders signed by us."""
    for message in messages:
        if isinstance(message, Desired):
            fleet.take(topics.desired(message.to), sign_desired(message, SIGNER))
        else:
            topic = topics.node(message.node, message.KIND)  # type: ignore[attr-defined]
            fleet.take(topic, encode(message))  # type: ignore[arg-type]


def online(node: str, state: Presence = Presence.ONLINE) -> Status:
    return Status(node=node, boot=BOOT, at_us=2, state=state, reason=PresenceReason.CONNECTED)


def said(
    node: str,
    phase: UpdatePhase,
    *,
    serial: int | None = 10,
    obeying: str | None = "all",
    running: str = "fan@1",
    reason: str | None = None,
) -> Update:
    return Update(
        node=node,
        boot=BOOT,
        at_us=3,
        running=running,
        previous=None,
        wanted="fan@2",
        phase=phase,
        progress=0.4,
        reason=reason,
        obeying=obeying,
        serial=serial,
        threshold=None,
        trial_windows=0,
        trial_flagged=0,
        running_flagged=0,
        trial_score=None,
        trial_latency_p95_ms=None,
    )


def wanted(label: str, threshold: float | None = None) -> Wanted:
    return Wanted(release=label, manifest_sha256="ab" * 32, threshold=threshold)


def kept_as(made: Manifest, signer: Signer) -> dict[str, KeptRelease]:
    """As if the broker kept it."""
    return kept_releases({topics.release(made.label): sign_manifest(made, signer)}, OURS)
