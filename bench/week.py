"""A week of a node's life in simulated time.

    python -m bench.week --days 7 --out week.json

Does its memory grow, or do its files? A real node (`node.service.run`, the default release, a
process of its own) hears generated sound at 48 kHz as fast as it can score it and publishes to a
real mosquitto with a subscriber. Each second of sound is stamped a second later than the one
before, so that hop, blocks, calibrations and episodes take the sound's time. Every simulated day
has its faults (`SCENES`), the broker is restarted once a day, and the node is calibrated at the
start and in the middle. The node runs ahead of its clock, so windows that an outage swallows all
come when it ends, instead of one a second; what hangs on the clock of the computer (health,
reconnecting) comes less often for each window than in the field. A week takes some 25 minutes on
two x86 cores that others use, too; two thirds of that is scoring.

Exit code 1 if anything grew between the end of the first day and the end of the last (see
`growth`), or a window is missing at the subscriber.
"""

import argparse
import gc
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from statistics import median
from types import TracebackType
from typing import Any, Literal, Self

import msgspec
import numpy as np
import numpy.typing as npt
import soxr

from bench.report import report_parser, write_report
from contract.messages import Backlog, Window, decode
from contract.session import Received
from contract.states import MachineState, Problem
from node import service
from node.delivery.publisher import Publisher
from node.machine.machine_watch import MachineWatch
from node.machine.site_store import CalibrationRequest, SiteStore
from node.scoring.release_store import read_release
from node.scoring.runtime import find_runtime
from node.settings import NodeSettings, load_settings
from node.sound.source import Block, EndOfSound
from node.sound.synthetic import MachineSound, Synthesizer
from tests.rig.brokers import Mosquitto
from tests.rig.peers import Ear
from tests.rig.programs import MODEL, ROOT, environment
from tests.rig.waiting import wait_until

HOUR_SECONDS = 3600
DAY_HOURS = 24
RATES_HZ = (48_000, 44_100)
"""A microphone may come back at another rate; here it does at every other outage."""
LOOP_SECONDS = 67
"""Of sound that is heard again and again; prime, so that no two blocks of a minute are alike."""
OUTBOX_WINDOWS = 1000
"""A full outbox of the usual size would be 5 MB of memory that comes and goes."""
MOST_MEMORY_GROWTH_KIB = 2048
MOST_BLOCK_GROWTH = 10_000
"""Of Python's allocator, some 100 bytes each: one for every fifty windows. What the system gives
out is coarser, and does not come back when it is free."""
MOST_FILE_GROWTH_BYTES = 4096
"""The state folder holds numbers of changing length."""
_COMPARED_HOURS = 6
_RESTART_HOUR = 18
_NODE = "press-07"
_MINUTES = 60.0

Kind = Literal[
    "normal", "outage", "silent", "clipped", "lossy", "stopped", "fault", "stuck", "offset", "quiet"
]
Samples = npt.NDArray[np.int16]


class Scene(msgspec.Struct, frozen=True):
    """What happens on each day, in seconds of the day."""

    at: int
    seconds: int
    kind: Kind


SCENES = (
    Scene(3 * HOUR_SECONDS, 600, "outage"),
    Scene(5 * HOUR_SECONDS, 40, "outage"),
    Scene(6 * HOUR_SECONDS, 300, "silent"),
    Scene(8 * HOUR_SECONDS, 300, "clipped"),
    Scene(9 * HOUR_SECONDS, 600, "lossy"),
    Scene(11 * HOUR_SECONDS, 1200, "stopped"),
    Scene(15 * HOUR_SECONDS, 1800, "fault"),
    Scene(17 * HOUR_SECONDS, 120, "stuck"),
    Scene(18 * HOUR_SECONDS, 120, "offset"),
    Scene(19 * HOUR_SECONDS, 120, "quiet"),
    Scene(21 * HOUR_SECONDS, 300, "fault"),
)


class Sample(msgspec.Struct, frozen=True, kw_only=True):
    """The node's process at one hour of simulated time."""

    hour: int
    elapsed_seconds: float
    rss_kib: int
    pss_kib: int
    python_blocks: int
    """Memory blocks that Python's own allocator has given out."""
    open_files: int
    threads: int
    state_files: int
    state_bytes: int
    queues: dict[str, int]
    machine: str


class Growth(msgspec.Struct, frozen=True, kw_only=True):
    """From the end of the first day to the end of the last."""

    rss_kib: float
    pss_kib: float
    rss_kib_per_day: float
    rss_kib_per_day_se: float
    """Standard error of the slope, as if hours were independent."""
    rss_kib_range: tuple[int, int]
    """Least and most of the hours compared."""
    python_blocks: float
    state_bytes: float
    state_files: float
    open_files: float
    threads: float

    @property
    def findings(self) -> list[str]:
        """What grew more than it may."""
        found = []
        if self.rss_kib > MOST_MEMORY_GROWTH_KIB:
            found.append(f"memory grew by {self.rss_kib / 1024:.1f} MiB")
        if self.python_blocks > MOST_BLOCK_GROWTH:
            found.append(f"Python holds {self.python_blocks:.0f} more blocks of memory")
        if self.state_bytes > MOST_FILE_GROWTH_BYTES or self.state_files > 0:
            found.append(
                f"the state folder grew by {self.state_files:g} files, {self.state_bytes:g} bytes"
            )
        if self.open_files > 0:
            found.append(f"{self.open_files:g} more files are open")
        if self.threads > 0:
            found.append(f"{self.threads:g} more threads run")
        return found


def growth(samples: Sequence[Sample], *, first_hours: int = DAY_HOURS) -> Growth:
    """What grew after the first hours, as the difference of medians over six hours at both ends.

    Args:
        samples: one for each hour, the first and the last hour included.
        first_hours: of settling in, whose end is what the last hours are compared with.
    """
    compared = min(_COMPARED_HOURS, max(1, first_hours // 4))
    later = [sample for sample in samples if sample.hour >= first_hours]
    before = [s for s in samples if first_hours - compared < s.hour <= first_hours]
    last = later[-compared:]

    def difference(of: Callable[[Sample], int]) -> float:
        return median(map(of, last)) - median(map(of, before))

    hours = np.array([sample.hour for sample in later], np.float64)
    rss = np.array([sample.rss_kib for sample in later], np.float64)
    centred = hours - hours.mean()
    slope = float(centred @ rss / (centred @ centred))
    left = rss - rss.mean() - slope * centred
    spread = float(np.sqrt(left @ left / max(1, len(rss) - 2) / (centred @ centred)))
    return Growth(
        rss_kib=difference(lambda s: s.rss_kib),
        pss_kib=difference(lambda s: s.pss_kib),
        rss_kib_per_day=DAY_HOURS * slope,
        rss_kib_per_day_se=DAY_HOURS * spread,
        rss_kib_range=(int(rss.min()), int(rss.max())),
        python_blocks=difference(lambda s: s.python_blocks),
        state_bytes=difference(lambda s: s.state_bytes),
        state_files=difference(lambda s: s.state_files),
        open_files=difference(lambda s: s.open_files),
        threads=difference(lambda s: s.threads),
    )


class SimulatedDays:
    """A source of sound that gives a second of it at each call, with the scenes of every day.

    Args:
        loops: normal and faulty sound at each rate, of `LOOP_SECONDS`, full scale is 32768.
        seconds: after which it ends.
        each_hour: called with the number of each hour when it begins.
        leak_bytes: to keep for each block, for a check of the check.
    """

    def __init__(
        self,
        loops: dict[tuple[str, int], Samples],
        *,
        seconds: int,
        each_hour: Callable[[int], None],
        leak_bytes: int = 0,
    ) -> None:
        self.overruns = 0
        self.reopened = 0
        self.outage: str | None = None
        self.identity = "simulated:days"
        self.sample_rate_hz = RATES_HZ[0]
        self._loops = loops
        self._seconds = seconds
        self._each_hour = each_hour
        self._leak_bytes = leak_bytes
        self._leak: list[bytes] = []
        self._second = 0
        self._start_ns = time.monotonic_ns()
        self._chance = np.random.default_rng(1)

    def read(self, timeout_seconds: float) -> Block | None:
        """The next second."""
        if self._second % HOUR_SECONDS == 0:
            self._each_hour(self._second // HOUR_SECONDS)
        if self._second == self._seconds:
            raise EndOfSound
        second = self._second
        kind = _kind_at(second)
        self._second += 1
        self._leak.append(os.urandom(self._leak_bytes))
        if kind == "outage":
            self.outage = "the microphone is gone: plug it in again"
            return None
        lost = self.outage is not None
        if lost:
            self.outage = None
            self.reopened += 1
            self.sample_rate_hz = RATES_HZ[self.reopened % len(RATES_HZ)]
        if kind == "lossy" and second % 30 == 0:
            self.overruns += 1
            return None
        lost = lost or (_kind_at(second - 1) == "lossy" and (second - 1) % 30 == 0)
        return Block(
            samples=self._sound(kind, second),
            captured_monotonic_ns=self._start_ns + second * 1_000_000_000,
            continuous=not lost,
            lost=lost,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        pass

    def _sound(self, kind: Kind, second: int) -> npt.NDArray[np.float32]:
        rate = self.sample_rate_hz
        loop = self._loops["fault" if kind == "fault" else "normal", rate]
        start = second % LOOP_SECONDS * rate
        if kind == "stuck":
            start = 0
        sound = loop[start : start + rate].astype(np.float32) / np.float32(32768)
        match kind:
            case "silent":
                sound[:] = 0
            case "clipped":
                np.clip(sound * 40, -1, 1, out=sound)
            case "stopped":
                sound *= 0.05
            case "stuck":
                sound = np.resize(sound[: rate // 4], rate)
            case "offset":
                sound = sound * np.float32(0.1) + np.float32(0.5)
            case "quiet":
                sound *= 0.0005
            case _:
                pass
        return sound


def _kind_at(second: int) -> Kind:
    of_day = second % (DAY_HOURS * HOUR_SECONDS)
    for scene in SCENES:
        if scene.at <= of_day < scene.at + scene.seconds:
            return scene.kind
    return "normal"


def loops() -> dict[tuple[str, int], Samples]:
    """Sound to repeat: a healthy fan and one with a fault, at each rate."""
    sounds = {"normal": MachineSound(), "fault": MachineSound(fault="bearing", severity=1.0)}
    first_hz = RATES_HZ[0]
    made: dict[tuple[str, int], Samples] = {}
    for name, sound in sounds.items():
        samples = Synthesizer(sound, sample_rate_hz=first_hz).read(LOOP_SECONDS * first_hz)
        for rate in RATES_HZ:
            same = samples if rate == first_hz else soxr.resample(samples, first_hz, rate)
            made[name, rate] = np.clip(32767 * same, -32767, 32767).astype(np.int16)
    return made


class Inside:
    """Looks into the node of this process, each hour, and asks it to calibrate."""

    def __init__(self, settings: NodeSettings, *, hours: int) -> None:
        self._folder = settings.state_folder
        self._calibrate_at = {0, hours // 2}
        self._started = time.monotonic()
        self._publisher: Publisher | None = None
        self._watch: MachineWatch | None = None

    def look(self, hour: int) -> None:
        """Prints a sample; asks for a calibration where it is time."""
        if self._publisher is None:
            # `service.run` keeps its parts to itself, as it should.
            self._publisher = _the_only(Publisher)
            self._watch = _the_only(MachineWatch)
        print(msgspec.json.encode(self._sample(hour)).decode(), flush=True)  # noqa: T201
        if hour in self._calibrate_at:
            SiteStore(self._folder).leave_request(
                CalibrationRequest(action="start", minutes=_MINUTES, at_us=time.time_ns() // 1000)
            )

    def _sample(self, hour: int) -> Sample:
        rollup = dict(_kib_lines(Path("/proc/self/smaps_rollup").read_text()))
        files = [path for path in self._folder.rglob("*") if path.is_file()]
        publisher, watch = self._publisher, self._watch
        assert publisher is not None
        assert watch is not None
        calibrator = watch._calibrator
        return Sample(
            hour=hour,
            elapsed_seconds=round(time.monotonic() - self._started, 1),
            rss_kib=rollup["Rss"],
            pss_kib=rollup["Pss"],
            python_blocks=sys.getallocatedblocks(),
            open_files=len(list(Path("/proc/self/fd").iterdir())),
            threads=len(list(Path("/proc/self/task").iterdir())),
            state_files=len(files),
            state_bytes=sum(path.stat().st_size for path in files),
            queues={
                **msgspec.structs.asdict(publisher.queue_lengths),
                "calibrator": 0 if calibrator is None else len(calibrator._heard),
            },
            machine=str(None if watch._machine is None else watch._machine.state),
        )


def _kib_lines(text: str) -> Iterator[tuple[str, int]]:
    for line in text.splitlines()[1:]:
        name, amount, _ = line.split()
        yield name.rstrip(":"), int(amount)


def _the_only(kind: type[Any]) -> Any:
    (found,) = (thing for thing in gc.get_objects() if isinstance(thing, kind))
    return found


class Subscriber(Ear):
    """Counts what comes; keeps one byte for each window."""

    def __init__(self, broker: Mosquitto) -> None:
        super().__init__(broker, "week", "earshot/#", expiry_seconds=3600, retained=False)
        self._seen = bytearray()
        self.windows = 0
        """Different ones."""
        self.messages: dict[str, int] = {}
        self.problems: dict[str, int] = dict.fromkeys(map(str, Problem), 0)
        self.states: dict[str, int] = dict.fromkeys(map(str, MachineState), 0)

    def hear(self, received: Received) -> None:
        message = decode(received.topic, received.payload)
        self.messages[message.KIND] = self.messages.get(message.KIND, 0) + 1
        if isinstance(message, Window):
            self._count(message)
        if isinstance(message, Backlog):
            for window in message.windows:
                self._count(window)

    def _count(self, window: Window) -> None:
        if window.seq >= len(self._seen):
            self._seen.extend(bytes(window.seq + 1 - len(self._seen)))
        if self._seen[window.seq]:
            return
        self._seen[window.seq] = 1
        self.windows += 1
        self.states[window.state] += 1
        if window.problem is not None:
            self.problems[window.problem] += 1


def main(arguments: list[str] | None = None) -> int:
    """Run it, print a line for each day and what grew, write the JSON; gives the exit code."""
    options = _options(arguments)
    if options.inside:
        return run_inside(options)
    hours = round(options.days * DAY_HOURS)
    with (
        tempfile.TemporaryDirectory(prefix="earshot-week-") as folder,
        Mosquitto(Path(folder) / "mosquitto") as broker,
        Subscriber(broker) as subscriber,
    ):
        samples, totals = _days(options, hours, Path(folder), broker, subscriber)
        windows = totals.get("windows", 0)
        complete = _complete(subscriber, windows)
    found = growth(samples, first_hours=min(DAY_HOURS, hours // 4))
    findings = found.findings + ([] if complete else ["windows are missing at the subscriber"])
    result = {
        "days": options.days,
        "elapsed_seconds": samples[-1].elapsed_seconds,
        "totals": totals,
        "received": {
            "windows": subscriber.windows,
            "messages": subscriber.messages,
            "problems": subscriber.problems,
            "states": subscriber.states,
        },
        "growth": found,
        "findings": findings,
        "samples": samples,
    }
    write_report(options.out, result)
    for line in _told(found, findings, subscriber, windows):
        _print(line)
    return 1 if findings else 0


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = report_parser("week", __doc__, required=False)
    parser.add_argument("--days", type=float, default=7.0, help="simulated; usually 7")
    parser.add_argument(
        "--leak", type=int, default=0, metavar="BYTES", help="kept for each second, to be found"
    )
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    return parser.parse_args(arguments)


def run_inside(options: argparse.Namespace) -> int:
    """The node's own process; its settings come from the environment."""
    hours = round(options.days * DAY_HOURS)
    settings = load_settings(None, {})
    inside = Inside(settings, hours=hours)
    source = SimulatedDays(
        loops(),
        seconds=hours * HOUR_SECONDS,
        each_hour=inside.look,
        leak_bytes=options.leak,
    )
    totals = service.run(settings, source, read_release(MODEL), find_runtime(), threading.Event())
    print(json.dumps({"totals": msgspec.structs.asdict(totals)}), flush=True)  # noqa: T201
    return 0


def _days(
    options: argparse.Namespace,
    hours: int,
    folder: Path,
    broker: Mosquitto,
    subscriber: Subscriber,
) -> tuple[list[Sample], dict[str, int]]:
    command = [sys.executable, "-m", "bench.week", "--inside"]
    command += ["--days", str(options.days), "--leak", str(options.leak)]
    settings = environment(
        {
            "EARSHOT_NODE_ID": _NODE,
            "EARSHOT_NODE_STATE_FOLDER": str(folder / "state"),
            "EARSHOT_MODEL_FOLDER": str(MODEL),
            "EARSHOT_SOURCE_FAST": "true",
            "EARSHOT_MQTT_HOST": broker.host,
            "EARSHOT_MQTT_PORT": str(broker.port),
            "EARSHOT_OUTBOX_MAX_WINDOWS": str(OUTBOX_WINDOWS),
            "EARSHOT_OUTBOX_DRAIN_SECONDS": "60",
            "EARSHOT_OUTBOX_RECEIPTS": "broker",
            "EARSHOT_HEALTH_INTERVAL_SECONDS": "0.2",
            "OPENBLAS_NUM_THREADS": "1",
            "OMP_NUM_THREADS": "1",
        }
    )
    samples: list[Sample] = []
    totals: dict[str, int] = {}
    log_file = folder / "node.log"
    _print(_HEAD)
    with (
        log_file.open("w") as log,
        subprocess.Popen(
            command, cwd=ROOT, env=settings, stdout=subprocess.PIPE, stderr=log, text=True
        ) as node,
    ):
        assert node.stdout is not None
        try:
            for line in node.stdout:
                if "totals" in line:
                    totals = json.loads(line)["totals"]
                    continue
                samples.append(msgspec.json.decode(line, type=Sample))
                hour = samples[-1].hour
                if hour % DAY_HOURS == 0 or hour == hours:
                    _print(_row(samples[-1], subscriber))
                if hour % DAY_HOURS == _RESTART_HOUR:
                    broker.stop()
                    broker.start()
        except BaseException:
            node.kill()
            raise
    if node.returncode != 0:
        raise SystemExit(f"the node ended with {node.returncode}:\n{log_file.read_text()[-4000:]}")
    return samples, totals


def _complete(subscriber: Subscriber, windows: int) -> bool:
    try:
        wait_until(lambda: subscriber.windows >= windows, "every window", seconds=60)
    except TimeoutError:
        return False
    return subscriber.windows == windows


_HEAD = (
    "  day  wall s  RSS MiB  PSS MiB  Python blocks  files  threads  state files, bytes"
    "   windows  queues"
)


def _row(sample: Sample, subscriber: Subscriber) -> str:
    queues = " ".join(f"{name}={size}" for name, size in sample.queues.items() if size)
    return (
        f"{sample.hour / DAY_HOURS:5.2f}  {sample.elapsed_seconds:6.0f}"
        f"  {sample.rss_kib / 1024:7.2f}  {sample.pss_kib / 1024:7.2f}"
        f"  {sample.python_blocks:13}  {sample.open_files:5}  {sample.threads:7}"
        f"  {sample.state_files:5}  {sample.state_bytes:11}  {subscriber.windows:8}  {queues}"
    )


def _told(
    found: Growth, findings: list[str], subscriber: Subscriber, windows: int
) -> Iterator[str]:
    low, high = found.rss_kib_range
    yield (
        f"RSS after the first day: {found.rss_kib:+.0f} KiB to the end, slope"
        f" {found.rss_kib_per_day:+.0f} KiB a day (standard error {found.rss_kib_per_day_se:.0f}),"
        f" between {low / 1024:.2f} and {high / 1024:.2f} MiB; Python's blocks"
        f" {found.python_blocks:+.0f}"
    )
    yield f"received {subscriber.windows} of {windows} windows; messages {subscriber.messages}"
    yield f"states {subscriber.states}"
    yield f"problems {subscriber.problems}"
    yield "; ".join(findings) or "nothing grew"


def _print(line: str) -> None:
    print(line, flush=True)  # noqa: T201 - the command line's output


if __name__ == "__main__":
    sys.exit(main())
