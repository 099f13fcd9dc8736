"""What Grafana does with a page's queries, as far as tests need it: macros, tables, rules.

After Grafana's own sources: `pkg/tsdb/influxdb` (macros, one table of all series), its
transformations, and the evaluation of alert rules. Nothing is rendered.
"""

import json
import os
import re
import shutil
import subprocess
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from collector.grafana.panels import HOURLY_SOURCE_UID, SOURCE_UID
from tests.rig.databases import InfluxDb

Json = dict[str, Any]
Row = dict[str, Any]

PACKAGES = Path(__file__).parents[2] / ".grafana-code" / "node_modules"
"""Grafana's own, of npm; `make grafana-code` fetches them."""

_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}


@dataclass(frozen=True)
class Choice:
    """What is chosen at the top of a page."""

    begin_us: int
    end_us: int
    variables: Mapping[str, Sequence[str] | str]
    """Values by name: several, or a regular expression that stands for all."""

    def fill(self, query: str, *, interval_seconds: int) -> str:
        """The query as it reaches the database."""
        begin, end = self.begin_us // 1000, self.end_us // 1000
        for name, chosen in self.variables.items():
            query = query.replace(f"${{{name}:regex}}", _regex(chosen))
        query = query.replace("${__to}", str(end))
        query = query.replace("$timeFilter", f"time >= {begin}ms and time <= {end}ms")
        query = query.replace("$__interval", f"{interval_seconds}s")
        # A dollar that is left is the end of a regular expression, or a macro nobody knows.
        assert not re.search(r"\$[\w{]", query), query
        return query


def interval_seconds(panel: Json) -> int:
    """Of a page that is a thousand points wide, for half an hour."""
    return max(2, seconds(panel.get("interval", "0s")))


def seconds(text: str) -> int:
    """Of a duration such as 5m."""
    return int(text[:-1]) * _SECONDS[text[-1]]


def run(database: InfluxDb, panel: Json, choice: Choice) -> dict[str, list[Row]]:
    """Rows of each query by its letter: tags and columns by name, `Time` among them."""
    found = {}
    for target in panel["targets"]:
        query = choice.fill(target["query"], interval_seconds=interval_seconds(panel))
        rows = database.query(query, bucket=bucket_of(database, panel["datasource"]["uid"]))
        found[target["refId"]] = [
            {"Time" if name == "time" else name: value for name, value in row.items()}
            for row in rows
        ]
    return found


def bucket_of(database: InfluxDb, source_uid: str) -> str:
    """The bucket that one of the provisioned sources asks."""
    buckets = {
        SOURCE_UID: database.bucket,
        HOURLY_SOURCE_UID: f"{database.bucket}_hourly",
    }
    return buckets[source_uid]


def node_program() -> str:
    """Path of node; the test skips where it, or Grafana's packages, are not."""
    node = shutil.which("node")
    if node is None or not PACKAGES.is_dir():
        pytest.skip("Grafana's packages are not here: `make grafana-code` (needs npm)")
    return node


def ask_grafana(tables: Sequence[Json], values: Sequence[Json]) -> Json:
    """What Grafana's own code makes of these: see `grafana_code.cjs`."""
    done = subprocess.run(
        [node_program(), str(Path(__file__).with_name("grafana_code.cjs"))],
        input=json.dumps({"tables": tables, "values": values}),
        env={**os.environ, "NODE_PATH": str(PACKAGES)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    answer: Json = json.loads(done.stdout.splitlines()[-1])
    return answer


def frames(found: Mapping[str, list[Row]]) -> list[Json]:
    """The answers of `run` as Grafana's server hands them on; no frame for no rows."""
    return [
        {"refId": letter, "fields": [_field(name, [row[name] for row in rows]) for name in rows[0]]}
        for letter, rows in found.items()
        if rows
    ]


def table(database: InfluxDb, panel: Json, choice: Choice) -> list[Row]:
    """The rows of a table, as they stand in it: transformed, ordered and sorted."""
    frames = run(database, panel, choice)
    for step in panel["transformations"]:
        only = step.get("filter", {}).get("options")
        for letter in list(frames) if only is None else [only]:
            if step["id"] == "joinByField":
                frames = {"A": _joined(frames.values(), step["options"]["byField"])}
                break
            frames[letter] = _TRANSFORMATIONS[step["id"]](frames[letter], step["options"])
    (rows,) = frames.values()
    for key in reversed(panel["options"]["sortBy"]):
        name, desc = key["displayName"], key["desc"]
        rows.sort(key=lambda row: (row.get(name) is not None, row.get(name) or 0), reverse=desc)
    return rows


@dataclass(frozen=True)
class Evaluation:
    """What a rule's expressions come to, by the value of the tag that names each instance."""

    values: dict[str, float]
    firing: set[str]


def evaluate(database: InfluxDb, rule: Json, *, at_us: int) -> Evaluation:
    """A rule at one time: query, reduce, threshold."""
    query, reduce, threshold = (part["model"] for part in rule["data"])
    span = rule["data"][0]["relativeTimeRange"]
    assert (reduce["type"], reduce["expression"], reduce["reducer"]) == ("reduce", "A", "last")
    assert (threshold["type"], threshold["expression"], rule["condition"]) == (
        "threshold",
        "B",
        "C",
    )
    choice = Choice(at_us - span["from"] * 1_000_000, at_us - span["to"] * 1_000_000, {})
    rows = database.query(choice.fill(query["query"], interval_seconds=query["intervalMs"] // 1000))
    series: dict[str, list[float]] = defaultdict(list)
    for row in rows:
        tags = [name for name in ("node", "id") if name in row]
        (column,) = set(row) - {"time", *tags}
        if row[column] is not None:
            series[row[tags[0]]].append(float(row[column]))
    values = {name: column[-1] for name, column in series.items()}
    (condition,) = threshold["conditions"]
    compare = _EVALUATORS[condition["evaluator"]["type"]]
    limits = condition["evaluator"]["params"]
    return Evaluation(values, {name for name, value in values.items() if compare(value, *limits)})


def firing(database: InfluxDb, rule: Json, *, at_us: int, every_seconds: int) -> set[str]:
    """For whom a rule rings: the condition has held at each evaluation for the pending time."""
    pending = seconds(rule["for"])
    times = [at_us - ago * 1_000_000 for ago in range(0, pending + 1, every_seconds)]
    return set.intersection(*(evaluate(database, rule, at_us=t).firing for t in times))


def _field(name: str, values: list[Any]) -> Json:
    if name == "Time":
        times = [datetime.fromisoformat(value).timestamp() * 1000 for value in values]
        return {"name": name, "type": "time", "values": times}
    is_text = any(isinstance(value, str) for value in values)
    config = {"displayNameFromDS": name}
    kind = "string" if is_text else "number"
    return {"name": name, "type": kind, "values": values, "config": config}


def _regex(chosen: Sequence[str] | str) -> str:
    if isinstance(chosen, str):
        return chosen
    escaped = [re.sub(r"[\\^$*+?.()|\[\]{}/]", r"\\\g<0>", value) for value in chosen]
    return escaped[0] if len(escaped) == 1 else f"({'|'.join(escaped)})"


def _organize(rows: list[Row], options: Json) -> list[Row]:
    hidden = {name for name, is_hidden in options["excludeByName"].items() if is_hidden}
    order, names = options["indexByName"], options["renameByName"]
    made = []
    for row in rows:
        kept = [(name, value) for name, value in row.items() if name not in hidden]
        kept.sort(key=lambda item: order.get(item[0], len(order)))
        made.append({names.get(name, name): value for name, value in kept})
    return made


def _calculate(rows: list[Row], options: Json) -> list[Row]:
    assert (options["mode"], options["reduce"]["reducer"]) == ("reduceRow", "max")
    included = options["reduce"]["include"]
    made = []
    for row in rows:
        values = [row[name] for name in included if row.get(name) is not None]
        made.append(row | {options["alias"]: max(values) if values else None})
    return made


def _group(rows: list[Row], options: Json) -> list[Row]:
    fields = options["fields"]
    keys = [name for name, how in fields.items() if how["operation"] == "groupby"]
    ((counted, how),) = ((n, h) for n, h in fields.items() if h["operation"] == "aggregate")
    assert how["aggregations"] == ["distinctCount"]
    groups: dict[tuple[Any, ...], set[Any]] = defaultdict(set)
    for row in rows:
        groups[tuple(row[name] for name in keys)].add(row[counted])
    return [
        dict(zip(keys, key, strict=True)) | {f"{counted} (distinctCount)": len(values)}
        for key, values in groups.items()
    ]


def _joined(frames: Iterable[list[Row]], by: str) -> list[Row]:
    rows: dict[str, Row] = {}
    columns: dict[str, None] = {}
    for frame in frames:
        for row in frame:
            # Grafana would number two columns of one name.
            taken = {n for n, v in rows.get(row[by], {}).items() if v is not None} - {by}
            assert not taken & row.keys()
            rows.setdefault(row[by], {}).update(row)
            columns |= dict.fromkeys(row)
    return [{name: row.get(name) for name in columns} for row in rows.values()]


_TRANSFORMATIONS: dict[str, Callable[[list[Row], Json], list[Row]]] = {
    "organize": _organize,
    "calculateField": _calculate,
    "groupBy": _group,
}
_EVALUATORS: dict[str, Callable[..., bool]] = {
    "gt": lambda value, limit: value > limit,
    "lt": lambda value, limit: value < limit,
    # Both ends excluded, as in Grafana.
    "within_range": lambda value, low, high: low < value < high,
}
