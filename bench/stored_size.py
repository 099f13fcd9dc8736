"""How much disk a window, or an hour's figures, take in InfluxDB, for docs/operations.md.

    python -m bench.stored_size --nodes 10 --hours 24 --out stored-size.json
    python -m bench.stored_size --nodes 10 --hours 8760 --hourly --out stored-size.json

Windows as nodes make them, each second, or what is counted of them, through the collector's sink
into a real InfluxDB 1.6.7, whose files are those of 2.x (TSM); then what its folder takes once it
has been compacted.
"""

import random
import tempfile
from collections.abc import Iterator
from pathlib import Path

import msgspec

from bench.report import report_parser, write_report
from collector.settings import InfluxDbSection
from collector.sinks.hour_figures import HOUR_US
from collector.sinks.influxdb import InfluxDbSink
from contract.messages import Window
from contract.points import Point, points
from tests.rig import examples
from tests.rig.databases import InfluxDb
from tests.rig.waiting import wait_until

_SECOND_US = 1_000_000
_BATCH = 5000
_WEEKS = 2
# Written out and compacted at once, not after ten minutes and four hours.
_IMPATIENT = """[data]
cache-snapshot-write-cold-duration = "1s"
compact-full-write-cold-duration = "5s"
"""


def main() -> None:
    """Write, wait for the compaction, print."""
    parser = report_parser("stored_size", __doc__, required=False)
    parser.add_argument("--nodes", type=int, default=10)
    parser.add_argument("--hours", type=float, default=24.0)
    parser.add_argument("--hourly", action="store_true", help="figures of hours, not windows")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        server = InfluxDb(Path(folder) / "influxdb")
        configuration = Path(folder) / "influxdb" / "influxdb.conf"
        configuration.write_text(configuration.read_text().replace("[data]\n", _IMPATIENT))
        with server:
            section = InfluxDbSection(
                url=server.url, org=server.org, bucket=server.bucket, token=server.token
            )
            sink = InfluxDbSink(section)
            written, batch = 0, []
            made = (
                hours(options.nodes, round(options.hours))
                if options.hourly
                else windows(options.nodes, round(options.hours * 3600))
            )
            for point in made:
                batch.append(point)
                if len(batch) == _BATCH:
                    sink.write(batch)
                    written, batch = written + len(batch), []
            sink.write(batch)
            written += len(batch)
            sink.close()
            data, waiting = Path(folder) / "influxdb" / "data", Path(folder) / "influxdb" / "wal"
            wait_until(lambda: _bytes(waiting, "*.wal") == 0, "all written out", seconds=300)
            # A full compaction leaves one file of each week.
            weeks = _WEEKS + int(options.hours / 24 / 7)
            wait_until(lambda: _files(data) <= weeks, "the compaction", seconds=300)
            size = _bytes(data, "*.tsm")
    write_report(
        options.out,
        {"nodes": options.nodes, "hours": options.hours, "hourly": options.hourly}
        | {"points": written, "bytes": size},
    )
    print(f"{written} points, {size / 1e6:.1f} MB, {size / written:.1f} bytes a point")  # noqa: T201


def windows(nodes: int, seconds: int) -> Iterator[Point]:
    """What nodes say each second: scores that scatter, little else that changes."""
    chance = random.Random(1)
    start_us = examples.WINDOW.start_us
    for second in range(seconds):
        for number in range(nodes):
            mse = chance.lognormvariate(2.0, 0.1)
            yield from points(window(number, second, start_us, mse, chance), arrived_us=start_us)


def window(number: int, second: int, start_us: int, mse: float, chance: random.Random) -> Window:
    """One, in full precision, as they are published."""
    return msgspec.structs.replace(
        examples.WINDOW,
        node=f"press-{number:02}",
        seq=second,
        start_us=start_us + second * _SECOND_US + chance.randrange(1000),
        mse=mse,
        statistic=mse,
        score=mse / 45.0,
        level_dbfs=chance.gauss(-31.0, 1.0),
        latency_ms=chance.lognormvariate(1.4, 0.2),
    )


def hours(nodes: int, count: int) -> Iterator[Point]:
    """What a collector counts of them: all but a few scored."""
    chance = random.Random(1)
    for number in range(count):
        for node in range(nodes):
            hour = msgspec.structs.replace(
                examples.WINDOW_HOUR,
                node=f"press-{node:02}",
                start_us=examples.WINDOW_HOUR.start_us + number * HOUR_US,
                windows=3600 - chance.randrange(3),
                scored=3590 - chance.randrange(10),
                flagged=chance.randrange(20),
                score_mean=chance.gauss(0.7, 0.01),
                score_max=chance.gauss(1.2, 0.2),
                mse_mean=chance.gauss(31.0, 0.5),
                level_mean_dbfs=chance.gauss(-31.0, 0.5),
            )
            yield from points(hour, arrived_us=0)


def _bytes(folder: Path, pattern: str) -> int:
    return sum(path.stat().st_size for path in folder.rglob(pattern))


def _files(folder: Path) -> int:
    return len(list(folder.rglob("*.tsm")))


if __name__ == "__main__":
    main()
