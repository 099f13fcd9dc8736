"""A release goes out to many real nodes on one mosquitto while they hear: what that costs.

    python -m bench.update_fleet --nodes 50 --kilobytes 600 --out fleet.json
    python -m bench.update_fleet --nodes 1 --kilobytes 600 --rate 20 --out link.json

Every node is a process (`earshot node run`, generated sound in real time) with the settings that
it has by default. For a minute they are left alone; then `earshot fleet push --wait` sends
them a release, and it is measured how long a window takes from the end of its sound to a
subscriber, before and meanwhile, when each node has committed, and that every window that a node
has numbered has arrived.

The nodes, the broker, the push and this program share one computer: on a fleet of Pis each node
tests the release on a processor of its own. With --rate each node has a link to the broker of its
own (`tests.rig.link`), of so many kilobytes a second, and a keep-alive of 8 s.

Exit code 1 if a window is lost or a node has not committed.
"""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import msgspec
import numpy as np

from bench.report import report_parser, write_report
from contract import topics
from contract.messages import Backlog, Health, Message, Update, Window, decode
from contract.release import ENVELOPE_NAME
from contract.session import Received
from contract.signature import Signer
from contract.signed_manifest import sign_manifest
from contract.states import UpdatePhase
from node.bench.measure import machine_facts
from node.scoring.release_store import read_release
from tests.rig.brokers import Mosquitto
from tests.rig.link import Link
from tests.rig.peers import Ear
from tests.rig.programs import ROOT, environment, node_settings, start
from tests.rig.shelf import VARIANTS, packed
from tests.rig.waiting import wait_until
from training.release.release_folder import put_release

BYTES_PER_KB: Final = 1000
KEEPALIVE_SECONDS: Final = 8
"""On a slow link: what a release in one message would break."""
_START_SECONDS: Final = 0.23
"""Between two nodes: starting one takes half of that, and no two of them then cut their windows
at the same moment."""
_SETTLE_SECONDS: Final = 5.0
_TAIL_SECONDS: Final = 3.0
_CLOCK_TICKS: Final = os.sysconf("SC_CLK_TCK")


class Stretch(msgspec.Struct, frozen=True, kw_only=True):
    """Windows of some time, from the end of their sound to the subscriber."""

    seconds: float
    windows: int
    p50_ms: float
    p95_ms: float
    max_ms: float
    scored_p95_ms: float
    """Until their score alone, as the nodes say."""
    processors: float
    """That nodes and their self-tests kept busy."""


class Times(msgspec.Struct, frozen=True, kw_only=True):
    """Seconds from the order, over the nodes."""

    first: float
    p50: float
    last: float


class Found(msgspec.Struct, frozen=True, kw_only=True):
    """One run."""

    machine: dict[str, Any]
    nodes: int
    release_bytes: int
    link_bytes_per_second: float | None
    trial_windows: int
    confirm_windows: int
    before: Stretch
    until_trial: Stretch
    """From the start of the push until the last node tries the release: download and self-test."""
    on_trial: Stretch
    """From then until the last has committed."""
    during: Stretch
    """Both."""
    ratio_p50: float
    """During over before."""
    ratio_p95: float
    order_seconds: float
    """From the start of the push program until the order is there."""
    verified: Times | None
    tried: Times | None
    """When the self-test was passed."""
    committed: Times | None
    """None if a node has not."""
    not_committed: dict[str, str]
    """Node -> what it said last."""
    windows_made: int
    windows_received: int
    windows_lost: int
    windows_twice: int
    reconnects: int
    push_exit_code: int


class Heard(msgspec.Struct, frozen=True):
    """A message and when it came."""

    at_s: float
    """Seconds since 1970."""
    message: Message


class Subscriber(Ear):
    """Takes down what nodes say and when, and when the order came."""

    def __init__(self, broker: Mosquitto) -> None:
        self._order = topics.desired("all")
        filters = (*(topics.every_node(kind) for kind in topics.FROM_NODE), self._order)
        super().__init__(broker, "subscriber", *filters, expiry_seconds=300)
        self.heard: list[Heard] = []
        self.ordered_at_s: float | None = None

    def all_of(self, kind: type[Message]) -> list[Heard]:
        """Messages of that kind so far."""
        # Taken at once: another thread adds to it.
        return [heard for heard in tuple(self.heard) if isinstance(heard.message, kind)]

    def windows(self) -> list[tuple[float, Window]]:
        """When each came, live and late, also those that came twice."""
        found = [(h.at_s, h.message) for h in self.all_of(Window) if isinstance(h.message, Window)]
        for heard in self.all_of(Backlog):
            assert isinstance(heard.message, Backlog)
            found += [(heard.at_s, window) for window in heard.message.windows]
        return found

    def first(self, phase: UpdatePhase) -> dict[str, float]:
        """Node -> when it said that it is in this phase, since the order."""
        found: dict[str, float] = {}
        for heard in self.all_of(Update):
            update = heard.message
            if isinstance(update, Update) and update.phase is phase and update.serial is not None:
                found.setdefault(update.node, heard.at_s)
        return found

    def hear(self, received: Received) -> None:
        now = time.time()
        if received.topic == self._order:
            self.ordered_at_s = now
        else:
            self.heard.append(Heard(now, decode(received.topic, received.payload)))


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print, and write the JSON."""
    parser = report_parser("update_fleet", __doc__, required=False)
    parser.add_argument("--nodes", type=int, default=50)
    parser.add_argument("--kilobytes", type=int, default=600, help="of the release's model")
    parser.add_argument("--rate", type=float, metavar="KB/S", help="of each node's link")
    parser.add_argument("--quiet", type=float, default=60.0, metavar="SECONDS", help="before it")
    parser.add_argument("--trial-windows", type=int, default=30)
    parser.add_argument("--confirm-windows", type=int, default=10)
    parser.add_argument("--timeout", type=float, default=600.0, metavar="SECONDS")
    options = parser.parse_args(arguments)
    found = measure(
        nodes=options.nodes,
        release_bytes=options.kilobytes * BYTES_PER_KB,
        bytes_per_second=None if options.rate is None else options.rate * BYTES_PER_KB,
        quiet_seconds=options.quiet,
        trial_windows=options.trial_windows,
        confirm_windows=options.confirm_windows,
        timeout_seconds=options.timeout,
    )
    for line in table(found):
        print(line)  # noqa: T201 - the command line's output
    write_report(options.out, found)
    return int(bool(found.windows_lost or found.not_committed))


def measure(
    *,
    nodes: int,
    release_bytes: int,
    bytes_per_second: float | None,
    quiet_seconds: float,
    trial_windows: int,
    confirm_windows: int,
    timeout_seconds: float,
) -> Found:
    """Run a fleet, push, and add up.

    Args:
        nodes: how many processes.
        release_bytes: of the model's file.
        bytes_per_second: of each node's link; None is loopback itself.
        quiet_seconds: that windows are timed for before the push.
        trial_windows: of the nodes' settings.
        confirm_windows: too.
        timeout_seconds: for the push, after which it is given up.
    """
    with ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="earshot-fleet-")))
        broker = stack.enter_context(Mosquitto(scratch / "mosquitto"))
        subscriber = stack.enter_context(Subscriber(broker))
        signer, key = _new_key(scratch)
        release = _release(scratch / "release", release_bytes, signer)
        fleet = stack.enter_context(_Fleet())
        for number in range(nodes):
            port = broker.port
            more = {}
            if bytes_per_second is not None:
                port = stack.enter_context(Link(broker, bytes_per_second=bytes_per_second)).port
                more = {"MQTT_KEEPALIVE_SECONDS": str(KEEPALIVE_SECONDS)}
            settings = node_settings(
                broker,
                f"synthetic:fan?seed={number}",
                **more,
                MQTT_PORT=str(port),
                NODE_ID=f"node-{number:03}",
                UPDATE_KEYS_FILE=str(key.with_name("key.pub.pem")),
                UPDATE_TRIAL_WINDOWS=str(trial_windows),
                UPDATE_CONFIRM_WINDOWS=str(confirm_windows),
            )
            fleet.add(settings)
            time.sleep(_START_SECONDS)
        wait_until(lambda: len(_nodes(subscriber)) == nodes, "windows of all nodes", seconds=60)
        time.sleep(_SETTLE_SECONDS)
        marks = [fleet.mark()]
        time.sleep(quiet_seconds)
        marks.append(fleet.mark())
        push = _start_push(broker, release, key, timeout_seconds=timeout_seconds)
        try:
            _wait(push, lambda: len(subscriber.first(UpdatePhase.TRIAL)) == nodes)
            marks.append(fleet.mark())
            _wait(push, lambda: False)
            marks.append(fleet.mark())
        finally:
            push.kill()
            said, _ = push.communicate()
        time.sleep(_TAIL_SECONDS)
        fleet.stop()
        wait_until(
            lambda: len(_made(subscriber)) == nodes, "the last word of all nodes", seconds=60
        )
        time.sleep(_TAIL_SECONDS)
        if push.returncode != 0:
            sys.stderr.write(said)
        return _add_up(
            subscriber,
            marks,
            nodes=nodes,
            release_bytes=release_bytes,
            bytes_per_second=bytes_per_second,
            trial_windows=trial_windows,
            confirm_windows=confirm_windows,
            push_exit_code=push.returncode,
        )


class _Mark(msgspec.Struct, frozen=True):
    """A moment, and what the fleet's processes have used up by then."""

    at_s: float
    processor_seconds: float


class _Fleet:
    """Nodes as processes; killed when it is left."""

    def __init__(self) -> None:
        self._nodes: list[subprocess.Popen[str]] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for node in self._nodes:
            node.kill()
            node.communicate()

    def add(self, settings: dict[str, str]) -> None:
        self._nodes.append(start("node", "run", settings=settings))

    def mark(self) -> _Mark:
        return _Mark(time.time(), sum(_processor_seconds(node.pid) for node in self._nodes))

    def stop(self) -> None:
        """In good order; says what a node says that did not end so."""
        for node in self._nodes:
            node.terminate()
        for node in self._nodes:
            _, errors = node.communicate(timeout=60)
            if node.returncode != 0:
                sys.stderr.write(f"a node ended with {node.returncode}: {errors[-2000:]}\n")


def _processor_seconds(process: int) -> float:
    """Of a process and the children that it has waited for."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return sum(int(field) for field in fields[11:15]) / _CLOCK_TICKS


def _new_key(folder: Path) -> tuple[Signer, Path]:
    path = folder / "key.pem"
    _training("keys", "create", "--out", str(path))
    return Signer(path.read_bytes(), None), path


def _release(folder: Path, size_bytes: int, signer: Signer) -> Path:
    manifest = read_release(VARIANTS / "float32").manifest
    release = packed(
        2,
        padding_bytes=size_bytes - manifest.models_bytes,
        window_hop_samples=manifest.window_hop_samples,
    )
    put_release(folder, release)
    (folder / ENVELOPE_NAME).write_bytes(sign_manifest(release.manifest, signer))
    return folder


def _training(*arguments: str) -> None:
    command = [sys.executable, "-m", "training", *arguments]
    done = subprocess.run(
        command, cwd=ROOT, env=environment({}), capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        raise SystemExit(f"{' '.join(command)} ended with {done.returncode}: {done.stderr}")


def _start_push(
    broker: Mosquitto, release: Path, key: Path, *, timeout_seconds: float
) -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", "training", "push", str(release), "--to", "all", "--wait"]
    command += ["--key", str(key), "--broker", f"{broker.host}:{broker.port}"]
    return subprocess.Popen(
        [*command, "--timeout", str(timeout_seconds)],
        cwd=ROOT,
        env=environment({}),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def _wait(push: "subprocess.Popen[str]", reached: Callable[[], bool]) -> None:
    """Until it is reached, or the push has ended; sparing with the processor."""
    while push.poll() is None and not reached():
        time.sleep(0.2)


def _nodes(subscriber: Subscriber) -> set[str]:
    return {window.node for _, window in subscriber.windows()}


def _made(subscriber: Subscriber) -> dict[str, Health]:
    """The last `health` of each node that has stopped, with the number of its windows.

    Health comes once a minute and at the end: the last is the one after which no window came.
    """
    last: dict[str, Health] = {}
    for heard in subscriber.all_of(Health):
        assert isinstance(heard.message, Health)
        last[heard.message.node] = heard.message
    highest: dict[str, int] = {}
    for _, window in subscriber.windows():
        highest[window.node] = max(window.seq, highest.get(window.node, 0))
    return {node: health for node, health in last.items() if health.windows > highest.get(node, -1)}


def _add_up(
    subscriber: Subscriber,
    marks: Sequence[_Mark],
    *,
    nodes: int,
    release_bytes: int,
    bytes_per_second: float | None,
    trial_windows: int,
    confirm_windows: int,
    push_exit_code: int,
) -> Found:
    begin, push, trial, end = marks
    windows = subscriber.windows()
    before = _stretch(windows, begin, push)
    during = _stretch(windows, push, end)
    ordered = subscriber.ordered_at_s
    if ordered is None:
        raise SystemExit("the push has given no order")
    committed = subscriber.first(UpdatePhase.COMMITTED)
    missing = _nodes(subscriber) - set(committed)
    made = _made(subscriber)
    seqs = [(window.node, window.seq) for _, window in windows]
    total = sum(health.windows for health in made.values())
    return Found(
        machine=machine_facts(),
        nodes=nodes,
        release_bytes=release_bytes,
        link_bytes_per_second=bytes_per_second,
        trial_windows=trial_windows,
        confirm_windows=confirm_windows,
        before=before,
        until_trial=_stretch(windows, push, trial),
        on_trial=_stretch(windows, trial, end),
        during=during,
        ratio_p50=round(during.p50_ms / before.p50_ms, 2),
        ratio_p95=round(during.p95_ms / before.p95_ms, 2),
        order_seconds=round(ordered - push.at_s, 2),
        verified=_times(subscriber.first(UpdatePhase.VERIFIED).values(), ordered),
        tried=_times(subscriber.first(UpdatePhase.TRIAL).values(), ordered),
        committed=None if missing else _times(committed.values(), ordered),
        not_committed={node: _last_word(subscriber, node) for node in sorted(missing)},
        windows_made=total,
        windows_received=len(set(seqs)),
        windows_lost=total - len(set(seqs)),
        windows_twice=len(seqs) - len(set(seqs)),
        reconnects=sum(health.reconnects for health in made.values()),
        push_exit_code=push_exit_code,
    )


def _stretch(windows: Iterable[tuple[float, Window]], begin: _Mark, end: _Mark) -> Stretch:
    """Of the windows whose sound ended in that time."""
    late, scored = [], []
    for at_s, window in windows:
        ended_s = (window.start_us + window.duration_us) / 1e6
        if begin.at_s <= ended_s < end.at_s:
            late.append((at_s - ended_s) * 1e3)
            if window.latency_ms is not None:
                scored.append(window.latency_ms)
    seconds = end.at_s - begin.at_s
    if not late:
        raise SystemExit(f"no window within {seconds:.1f} s")
    p50, p95 = np.percentile(late, (50, 95))
    return Stretch(
        seconds=round(seconds, 1),
        windows=len(late),
        p50_ms=round(float(p50), 2),
        p95_ms=round(float(p95), 2),
        max_ms=round(max(late), 2),
        scored_p95_ms=round(float(np.percentile(scored, 95)), 2),
        processors=round((end.processor_seconds - begin.processor_seconds) / seconds, 2),
    )


def _times(moments: Iterable[float], ordered_s: float) -> Times | None:
    seconds = [moment - ordered_s for moment in moments]
    if not seconds:
        return None
    return Times(
        first=round(min(seconds), 1),
        p50=round(float(np.median(seconds)), 1),
        last=round(max(seconds), 1),
    )


def _last_word(subscriber: Subscriber, node: str) -> str:
    for heard in reversed(subscriber.all_of(Update)):
        update = heard.message
        if isinstance(update, Update) and update.node == node:
            return f"{update.phase} {update.progress:.0%} {update.reason or ''}".strip()
    return "nothing"


def table(found: Found) -> list[str]:
    """What was found, for reading."""
    link = found.link_bytes_per_second
    over = "" if link is None else f" over links of {link / BYTES_PER_KB:g} KB/s"
    lines = [
        f"{found.machine['device']}, {found.machine['cores']} cores: {found.nodes} nodes,"
        f" {found.release_bytes / BYTES_PER_KB:g} KB{over}",
        "",
        f"{'window to subscriber, ms':<26}{'windows':>9}{'p50':>9}{'p95':>9}{'max':>9}"
        f"{'scored p95':>12}{'processors':>12}",
    ]
    for name, of in (
        ("before", found.before),
        ("download and self-test", found.until_trial),
        ("on trial, to the commit", found.on_trial),
        ("both", found.during),
    ):
        what = f"{name}, {of.seconds:.0f} s"
        lines.append(
            f"{what:<26}{of.windows:>9}{of.p50_ms:>9.1f}{of.p95_ms:>9.1f}{of.max_ms:>9.1f}"
            f"{of.scored_p95_ms:>12.1f}{of.processors:>12.2f}"
        )
    lines += [
        f"during / before: p50 {found.ratio_p50:.2f}, p95 {found.ratio_p95:.2f}",
        "",
        f"{'seconds from the order':<26}{'first':>9}{'p50':>9}{'last':>9}",
    ]
    for name, times in (
        ("verified", found.verified),
        ("self-test passed", found.tried),
        ("committed", found.committed),
    ):
        if times is not None:
            lines.append(f"{name:<26}{times.first:>9.1f}{times.p50:>9.1f}{times.last:>9.1f}")
    lines += [
        f"(the order came {found.order_seconds:.1f} s after the push was started; a trial takes"
        f" {found.trial_windows} windows, the proof {found.confirm_windows})",
        f"windows: {found.windows_made} made, {found.windows_received} received,"
        f" {found.windows_lost} lost, {found.windows_twice} twice; {found.reconnects} reconnects;"
        f" the push ended with {found.push_exit_code}",
    ]
    lines += [f"not committed: {node}: {last}" for node, last in found.not_committed.items()]
    return lines


if __name__ == "__main__":
    sys.exit(main())
