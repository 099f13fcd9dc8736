"""How much one collector process stores: nodes -> mosquitto -> collector -> database, all real.

    python -m bench.pipeline --out bench-pipeline.json

Beside it, in the same run and in turn, a paho subscriber that only counts. The broker has kept
messages for a consumer that is away; then the consumer starts, and it is measured how fast they
are stored, or counted. So the virtual nodes take nothing from the processors meanwhile. What is
timed is the middle: from the first look that finds something until two batches before the end, for
the last ones may wait `batch_seconds` for company.

- *single windows*: one window in a message, as nodes send live.
- *back-filled windows*: fifty in a message, as nodes send what could not go out live.
- *live*: nodes publish meanwhile, at a share of the rate found before. The lag is the age of the
  newest message that is stored, looked at ten times a second: it must not grow.

How fast anything is decides nothing: a goal that is missed is printed as missed.
"""

import os
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path
from typing import Any, Final, Protocol

import msgspec
import numpy as np

from bench.pipeline_processes import NODES, SUBSCRIBER_ID, SharedCount
from bench.report import report_parser, write_report
from collector.link.presence import session_options
from collector.settings import CollectorSection
from contract.messages import MAX_BACKLOG_WINDOWS
from contract.session import SessionOptions, Subscribed
from node.bench.measure import library_versions, machine_facts
from tests.rig.brokers import Mosquitto
from tests.rig.databases import InfluxDb
from tests.rig.peers import Peer, mqtt
from tests.rig.programs import ROOT, environment
from tests.rig.waiting import wait_until

RATIO_WANTED: Final = 0.5
"""Of the bare subscriber's messages per second."""
BACKLOG_RATIO_WANTED: Final = 5.0
"""Back-filled windows per second over single ones."""
LAG_GROWTH_ALLOWED_S: Final = 0.25
"""Below half of what a batch waits for company: more is no chance."""
SINKS: Final = ("sqlite", "influxdb")

_SECTION: Final = CollectorSection()
_TAIL_WINDOWS: Final = 2 * _SECTION.batch_points
_LOOK_SECONDS: Final = 0.05
_LIVE_LOOK_SECONDS: Final = 0.1
_PATIENCE_SECONDS: Final = 120.0
_CLOCK_TICKS: Final = os.sysconf("SC_CLK_TCK")
# Tests save each second, and nobody is served meanwhile; and they log every message.
_BROKER_EXTRA: Final = "autosave_interval 1800\nlog_type none\nlog_type error\nlog_type warning"


class Drain(msgspec.Struct, frozen=True, kw_only=True):
    """What one consumer did with what the broker had kept for it."""

    messages: int
    """That were timed."""
    seconds: float
    messages_per_second: float
    windows_per_second: float
    cpu_seconds_per_1000_messages: float
    processors: float
    """That the consumer kept busy."""
    peak_rss_mib: float


class Live(msgspec.Struct, frozen=True, kw_only=True):
    """A collector beside nodes that publish."""

    messages_per_second: float
    seconds: float
    lag_p50_first_quarter_s: float
    lag_p50_last_quarter_s: float
    lag_max_s: float
    cpu_seconds_per_1000_messages: float
    peak_rss_mib: float

    @property
    def sustained(self) -> bool:
        """Whether the lag did not grow."""
        growth = self.lag_p50_last_quarter_s - self.lag_p50_first_quarter_s
        return growth <= LAG_GROWTH_ALLOWED_S


class WithSink(msgspec.Struct, frozen=True, kw_only=True):
    """A collector and a database."""

    single: tuple[Drain, ...]
    backlog: tuple[Drain, ...]
    live: Live


class Goal(msgspec.Struct, frozen=True, kw_only=True):
    """One ratio, and what it should be."""

    what: str
    ratio: float
    ratio_wanted: float

    @property
    def met(self) -> bool:
        return self.ratio >= self.ratio_wanted


class Found(msgspec.Struct, frozen=True, kw_only=True):
    """One run of the bench."""

    machine: dict[str, Any]
    nodes: int
    windows_per_backlog: int
    bare_subscriber: tuple[Drain, ...]
    collector: dict[str, WithSink]
    """By its sink."""
    goals: tuple[Goal, ...]


class Consumer(Protocol):
    """A program that takes messages from the broker."""

    client_id: str
    """Whose session the broker is to fill before it starts."""

    def start(self, broker: Mosquitto) -> "subprocess.Popen[bytes]":
        """Start it."""

    def windows(self) -> int:
        """How many it has stored, or counted, as far as a quick look tells."""

    def exact_windows(self) -> int:
        """How many there are, none of them twice."""


class BareSubscriber:
    """Counts messages, each taken for one window."""

    client_id = SUBSCRIBER_ID

    def __init__(self, folder: Path) -> None:
        self._file = folder / "counted"
        self._count = SharedCount(self._file)

    def start(self, broker: Mosquitto) -> "subprocess.Popen[bytes]":
        return _start_process("subscriber", broker, self._file)

    def windows(self) -> int:
        return self._count.value

    exact_windows = windows


class CollectorProcess:
    """`earshot collector run`, with a store of its own."""

    client_id = _SECTION.id

    def __init__(
        self,
        settings: dict[str, str],
        windows: Callable[[], int],
        exact_windows: Callable[[], int],
    ) -> None:
        self._settings = settings
        self.windows = windows
        self.exact_windows = exact_windows

    def start(self, broker: Mosquitto) -> "subprocess.Popen[bytes]":
        settings = {"EARSHOT_MQTT_HOST": broker.host, "EARSHOT_MQTT_PORT": str(broker.port)}
        return subprocess.Popen(
            [sys.executable, "-m", "collector", "run"],
            cwd=ROOT,
            env=environment(settings | self._settings),
            stdin=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print, and write the JSON."""
    parser = report_parser("pipeline", __doc__)
    parser.add_argument("--sinks", nargs="+", choices=SINKS, default=SINKS)
    parser.add_argument("--pairs", type=int, default=3, help="of each measurement; medians count")
    parser.add_argument("--messages", type=int, default=20_000, help="of one window each")
    parser.add_argument("--backlogs", type=int, default=2_000, help="of fifty windows each")
    parser.add_argument("--live", type=float, default=10.0, metavar="SECONDS")
    parser.add_argument("--live-share", type=float, default=0.8, help="of the rate found before")
    options = parser.parse_args(arguments)
    found = measure(
        sinks=options.sinks,
        pairs=options.pairs,
        messages=options.messages,
        backlogs=options.backlogs,
        live_seconds=options.live,
        live_share=options.live_share,
    )
    for line in table(found):
        print(line)  # noqa: T201 - the command line's output
    goals = [{"met": goal.met, **msgspec.to_builtins(goal)} for goal in found.goals]
    write_report(options.out, {**msgspec.to_builtins(found), "goals": goals})


def measure(
    *,
    sinks: Sequence[str],
    pairs: int,
    messages: int,
    backlogs: int,
    live_seconds: float,
    live_share: float,
) -> Found:
    """Measure collector and bare subscriber in turn.

    Args:
        sinks: which databases.
        pairs: how often each is measured.
        messages: that the broker keeps for a run, of one window each.
        backlogs: the same, of fifty each.
        live_seconds: how long nodes publish beside the collector.
        live_share: at which share of the rate found before.
    """
    with ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="earshot-bench-")))
        influxdb = None
        if "influxdb" in sinks:
            influxdb = stack.enter_context(InfluxDb(scratch / "influxdb"))
        folders = (scratch / f"run-{number}" for number in range(1_000_000))

        def run(sink: str | None, count: int, *, windows: int = 1) -> Drain:
            folder = next(folders)
            folder.mkdir()
            consumer = (
                BareSubscriber(folder) if sink is None else _collector(sink, folder, influxdb)
            )
            return drain(consumer, folder, messages=count, windows=windows)

        bare: list[Drain] = []
        single: dict[str, list[Drain]] = {sink: [] for sink in sinks}
        backlog: dict[str, list[Drain]] = {sink: [] for sink in sinks}
        for _ in range(pairs):
            for sink in sinks:
                single[sink].append(run(sink, messages))
                bare.append(run(None, messages))
        for _ in range(pairs):
            for sink in sinks:
                backlog[sink].append(run(sink, backlogs, windows=MAX_BACKLOG_WINDOWS))
        found = {}
        for sink in sinks:
            folder = next(folders)
            folder.mkdir()
            rate = live_share * _median(single[sink], "messages_per_second")
            live = beside_nodes(
                _collector(sink, folder, influxdb), folder, rate=rate, seconds=live_seconds
            )
            found[sink] = WithSink(
                single=tuple(single[sink]), backlog=tuple(backlog[sink]), live=live
            )
    return Found(
        machine={
            **machine_facts(),
            "versions": library_versions(("paho-mqtt", "msgspec", "influxdb-client", "numpy")),
        },
        nodes=NODES,
        windows_per_backlog=MAX_BACKLOG_WINDOWS,
        bare_subscriber=tuple(bare),
        collector=found,
        goals=tuple(goals_of(found, bare)),
    )


def drain(consumer: Consumer, folder: Path, *, messages: int, windows: int) -> Drain:
    """Let the broker keep messages for a consumer, start it, and time it."""
    with Mosquitto(folder / "mosquitto", extra=_BROKER_EXTRA) as broker:
        _leave_session(broker, consumer.client_id)
        _publish_all(broker, folder / "published", messages=messages, windows=windows)
        # The bare subscriber does not look into messages.
        per_message = 1 if isinstance(consumer, BareSubscriber) else windows
        total = messages * per_message
        with _running(consumer, broker) as process:
            looks = [_look(process.pid, consumer)]
            deadline = time.monotonic() + _PATIENCE_SECONDS
            while looks[-1].windows < total - _TAIL_WINDOWS:
                _check(process, deadline)
                time.sleep(_LOOK_SECONDS)
                looks.append(_look(process.pid, consumer))
            # All of them, or it was fast because it lost some.
            wait_until(lambda: consumer.exact_windows() == total, f"{total} windows", seconds=30.0)
            peak = _peak_rss_mib(process.pid)
    first = next(look for look in looks if look.windows > 0)
    last = looks[-1]
    if first is last:
        raise SystemExit(f"{messages} messages are too few to be timed; take more")
    seconds = last.at_s - first.at_s
    taken = (last.windows - first.windows) / per_message
    cpu_seconds = last.cpu_seconds - first.cpu_seconds
    return Drain(
        messages=round(taken),
        seconds=round(seconds, 3),
        messages_per_second=round(taken / seconds, 1),
        windows_per_second=round(taken * windows / seconds, 1),
        cpu_seconds_per_1000_messages=round(1000 * cpu_seconds / taken, 4),
        processors=round(cpu_seconds / seconds, 2),
        peak_rss_mib=peak,
    )


def beside_nodes(consumer: Consumer, folder: Path, *, rate: float, seconds: float) -> Live:
    """Let nodes publish at a rate while a consumer runs, and look at its lag."""
    messages = round(rate * seconds)
    with Mosquitto(folder / "mosquitto", extra=_BROKER_EXTRA) as broker:
        _leave_session(broker, consumer.client_id)
        with _running(consumer, broker) as process:
            # The same windows come once more below, which changes nothing.
            _publish_all(broker, folder / "first", messages=NODES, windows=1)
            wait_until(lambda: consumer.windows() >= NODES, "a start", seconds=60.0)
            count = folder / "published"
            published = SharedCount(count)
            nodes = _publish(broker, count, messages=messages, windows=1, rate=rate)
            try:
                deadline = time.monotonic() + seconds + _PATIENCE_SECONDS
                looks, sent = [_look(process.pid, consumer)], [0]
                while sent[-1] < messages:
                    _check(process, deadline)
                    time.sleep(_LIVE_LOOK_SECONDS)
                    sent.append(published.value)
                    looks.append(_look(process.pid, consumer))
                nodes.wait(_PATIENCE_SECONDS)
            finally:
                nodes.kill()
                nodes.wait()
            wait_until(
                lambda: consumer.exact_windows() == messages, f"{messages} windows", seconds=60.0
            )
            end = _look(process.pid, consumer)
            peak = _peak_rss_mib(process.pid)
    lags = _lags(looks, sent)
    quarter = max(1, len(lags) // 4)
    began = next(look for look, number in zip(looks, sent, strict=True) if number > 0)
    cpu_seconds = end.cpu_seconds - looks[0].cpu_seconds
    return Live(
        messages_per_second=round(rate, 1),
        seconds=round(looks[-1].at_s - began.at_s, 1),
        lag_p50_first_quarter_s=round(statistics.median(lags[:quarter]), 3),
        lag_p50_last_quarter_s=round(statistics.median(lags[-quarter:]), 3),
        lag_max_s=round(max(lags), 3),
        cpu_seconds_per_1000_messages=round(1000 * cpu_seconds / messages, 4),
        peak_rss_mib=peak,
    )


def goals_of(found: dict[str, WithSink], bare: Sequence[Drain]) -> Iterator[Goal]:
    """Every ratio that there is a goal for."""
    for sink, of in found.items():
        rate = _median(of.single, "messages_per_second")
        yield Goal(
            what=f"{sink}: messages/s over the bare subscriber's",
            ratio=round(rate / _median(bare, "messages_per_second"), 3),
            ratio_wanted=RATIO_WANTED,
        )
        yield Goal(
            what=f"{sink}: back-filled windows/s over single ones",
            ratio=round(_median(of.backlog, "windows_per_second") / rate, 2),
            ratio_wanted=BACKLOG_RATIO_WANTED,
        )


def table(found: Found) -> list[str]:
    """What was found, for reading."""
    lines = [
        f"{found.machine['device']}, {found.machine['cores']} cores; {found.nodes} nodes, medians"
        f" of {len(found.bare_subscriber)} (bare) and"
        f" {len(next(iter(found.collector.values())).single)} runs",
        "",
        f"{'':<32}{'messages/s':>11}{'windows/s':>11}{'CPU ms/message':>16}{'CPUs':>6}"
        f"{'peak MiB':>10}",
        _line("bare subscriber", found.bare_subscriber),
    ]
    for sink, of in found.collector.items():
        lines += [
            _line(f"collector, {sink}, single", of.single),
            _line(f"collector, {sink}, back-filled", of.backlog),
        ]
    lines.append("")
    for goal in found.goals:
        lines.append(
            f"{goal.what:<48}{goal.ratio:>7.2f}  >= {goal.ratio_wanted:g}:"
            f" {'met' if goal.met else 'MISSED'}"
        )
    lines.append("")
    for sink, of in found.collector.items():
        live = of.live
        lines.append(
            f"{sink}, live at {live.messages_per_second:.0f} messages/s for {live.seconds:.0f} s:"
            f" lag p50 {live.lag_p50_first_quarter_s:.2f} s in the first quarter,"
            f" {live.lag_p50_last_quarter_s:.2f} s in the last, {live.lag_max_s:.2f} s at most:"
            f" {'sustained' if live.sustained else 'NOT SUSTAINED'}"
        )
    return lines


def _line(what: str, runs: Sequence[Drain]) -> str:
    return (
        f"{what:<32}{_median(runs, 'messages_per_second'):>11.0f}"
        f"{_median(runs, 'windows_per_second'):>11.0f}"
        f"{_median(runs, 'cpu_seconds_per_1000_messages'):>16.3f}"
        f"{_median(runs, 'processors'):>6.2f}{_median(runs, 'peak_rss_mib'):>10.1f}"
    )


def _median(runs: Sequence[Drain], figure: str) -> float:
    return float(statistics.median(getattr(run, figure) for run in runs))


class _Look(msgspec.Struct, frozen=True):
    """What a consumer had done by a moment, and what it had used up."""

    at_s: float
    windows: int
    cpu_seconds: float


def _look(process: int, consumer: Consumer) -> _Look:
    windows = consumer.windows()
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    cpu_seconds = sum(int(field) for field in fields[11:13]) / _CLOCK_TICKS
    return _Look(time.monotonic(), windows, cpu_seconds)


def _peak_rss_mib(process: int) -> float:
    lines = Path(f"/proc/{process}/status").read_text().splitlines()
    (peak,) = (line.split()[1] for line in lines if line.startswith("VmHWM:"))
    return round(int(peak) / 1024, 1)


def _lags(looks: Sequence[_Look], sent: Sequence[int]) -> list[float]:
    """At each look since the first message, for how long the newest stored one has been sent."""
    times = [look.at_s for look in looks]
    lags = []
    for look, count in zip(looks, sent, strict=True):
        if count > 0:
            # What is stored was sent between two looks; a straight line lies between them.
            sent_at = float(np.interp(min(look.windows, count), sent, times))
            lags.append(max(0.0, look.at_s - sent_at))
    return lags


def _check(process: "subprocess.Popen[bytes]", deadline: float) -> None:
    if process.poll() is not None:
        raise SystemExit(f"a consumer ended with status {process.returncode}")
    if time.monotonic() > deadline:
        raise SystemExit(f"Expected an end within {_PATIENCE_SECONDS:g} s, got none")


@contextmanager
def _running(consumer: Consumer, broker: Mosquitto) -> Iterator["subprocess.Popen[bytes]"]:
    process = consumer.start(broker)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def _leave_session(broker: Mosquitto, client_id: str) -> None:
    """Subscribe as a consumer does, and go: the broker keeps messages for it from now on."""
    options: SessionOptions = msgspec.structs.replace(
        session_options(_SECTION), client_id=client_id
    )
    with Peer(mqtt(broker), options) as peer:
        peer.expect(Subscribed)


def _publish(
    broker: Mosquitto, count: Path, *, messages: int, windows: int, rate: float | None = None
) -> "subprocess.Popen[bytes]":
    options = ["--messages", str(messages), "--windows", str(windows)]
    if rate is not None:
        options += ["--rate", str(rate)]
    return _start_process("nodes", broker, count, *options)


def _publish_all(broker: Mosquitto, count: Path, *, messages: int, windows: int) -> None:
    nodes = _publish(broker, count, messages=messages, windows=windows)
    if nodes.wait(_PATIENCE_SECONDS) != 0:
        raise SystemExit(f"the nodes ended with status {nodes.returncode}")


def _start_process(
    role: str, broker: Mosquitto, count: Path, *options: str
) -> "subprocess.Popen[bytes]":
    command = [sys.executable, "-m", "bench.pipeline_processes", role]
    return subprocess.Popen(
        [*command, "--port", str(broker.port), "--count", str(count), *options],
        cwd=ROOT,
        env=environment({}),
        stdin=subprocess.DEVNULL,
    )


def _collector(sink: str, folder: Path, influxdb: InfluxDb | None) -> CollectorProcess:
    state = {"EARSHOT_COLLECTOR_STATE_FOLDER": str(folder / "collector-state")}
    if influxdb is None or sink == "sqlite":
        return _with_sqlite(folder / "earshot.db", state)
    return _with_influxdb(influxdb, state)


def _with_sqlite(path: Path, state: dict[str, str]) -> CollectorProcess:
    def windows() -> int:
        if not path.exists():
            return 0
        with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as reader:
            # Between the file and its tables there is a moment.
            with suppress(sqlite3.OperationalError):
                return int(reader.execute('SELECT count(*) FROM "window"').fetchone()[0])
        return 0

    settings = state | {"EARSHOT_SINK_KIND": "sqlite", "EARSHOT_SQLITE_PATH": str(path)}
    return CollectorProcess(settings, windows, windows)


def _with_influxdb(influxdb: InfluxDb, state: dict[str, str]) -> CollectorProcess:
    settings = state | {
        "EARSHOT_SINK_KIND": "influxdb",
        "EARSHOT_INFLUXDB_URL": influxdb.url,
        "EARSHOT_INFLUXDB_ORG": influxdb.org,
        "EARSHOT_INFLUXDB_BUCKET": influxdb.new_bucket(),
        "EARSHOT_INFLUXDB_TOKEN": influxdb.token,
    }

    def taken() -> int:
        # The database's own figure: counting a hundred thousand rows takes it longer than there is
        # between two looks. The few points that are no windows do no harm.
        (row,) = influxdb.query("SHOW STATS FOR 'write'")
        return int(row["pointReq"])

    def exact_windows() -> int:
        rows = influxdb.query('SELECT count("seq") FROM "window"')
        return int(rows[0]["count"]) if rows else 0

    before = taken()
    return CollectorProcess(settings, lambda: taken() - before, exact_windows)


if __name__ == "__main__":
    main()
