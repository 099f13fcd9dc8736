"""The dashboards against Grafana's own TypeScript schema, by the TypeScript compiler.

`make grafana-code` fetches both; the test itself needs no network. The compiler finds unknown keys
and wrong types in pages, in panels' options and in the settings of fields, which Grafana drops
silently. It does not know InfluxDB's queries, the options of transformations, or overrides.
"""

import json
import re
import subprocess
from pathlib import Path
from typing import Any

from tests.rig.grafana import PACKAGES, node_program

ROOT = Path(__file__).parents[3]
DASHBOARDS = sorted((ROOT / "collector" / "grafana" / "dashboards").glob("*.json"))

# A JSON file has the text of an enumeration's value where TypeScript asks for the enumeration.
_PRELUDE = """\
import type { Dashboard } from '@grafana/schema';
type Plain<T> = T extends string ? `${T}` : T extends (infer U)[] ? Plain<U>[]
  : T extends object ? { [K in keyof T]: Plain<T[K]> } : T;
"""
_COMPOSABLE = "./node_modules/@grafana/schema/dist/esm/raw/composable"
_PANELS = {
    "stat": ("Stat", False),
    "timeseries": ("TimeSeries", True),
    "table": ("Table", True),
    "state-timeline": ("StateTimeline", True),
    "bargauge": ("BarGauge", False),
}
"""Grafana's name of each type of panel, and whether its fields have settings of their own."""


_MISTAKES: tuple[tuple[tuple[str | int, ...], str, object], ...] = (
    ((), "refesh", "30s"),
    (("panels", 0, "gridPos"), "w", "3"),
    (("panels", 0, "options"), "colourMode", "value"),
    (("panels", 0, "options"), "colorMode", "loud"),
    (("panels", 9, "fieldConfig", "defaults", "custom"), "drawStyle", "bar"),
    (("panels", 8, "options", "sortBy", 0), "desc", "no"),
    (("templating", "list", 0), "refresh", 7),
)
"""Where in the first page, and what."""


def test_dashboards_are_what_grafana_knows(tmp_path: Path) -> None:
    """No key that it would drop, and no value that it would not understand."""
    assert _complaints(tmp_path, [_read(file) for file in DASHBOARDS]) == []


def test_mistakes_are_found(tmp_path: Path) -> None:
    """Those that somebody who writes a page makes: the compiler names the line of each."""
    boards = []
    for where, key, value in _MISTAKES:
        board = _read(DASHBOARDS[0])
        place: Any = board
        for step in where:
            place = place[step]
        place[key] = value
        boards.append(board)
    complaints = _complaints(tmp_path, boards)

    for _, key, value in _MISTAKES:
        assert any(f'"{key}": {json.dumps(value)}' in line for line in complaints), key


def _read(file: Path) -> dict[str, Any]:
    board: dict[str, Any] = json.loads(file.read_text("utf-8"))
    return board


def _complaints(folder: Path, boards: list[dict[str, Any]]) -> list[str]:
    """What the compiler says of these pages, with the line that it means."""
    node = node_program()
    (folder / "node_modules").symlink_to(PACKAGES)
    source = [_PRELUDE]
    for kind, (name, _) in _PANELS.items():
        path = f"{kind.replace('-', '')}/panelcfg/x/{name}PanelCfg_types.gen"
        source.append(f"import type * as {name} from '{_COMPOSABLE}/{path}';")
    for number, board in enumerate(boards):
        # An annotation's query is its source's own, which these types do not know.
        page = json.dumps(board | {"annotations": {"list": []}}, indent=1)
        source.append(f"export const board{number}: Plain<Dashboard> = {page};")
        for panel in board["panels"]:
            name, has_fields = _PANELS[panel["type"]]
            what = f"board{number}_{panel['id']}"
            options = json.dumps(panel["options"], indent=1)
            source.append(f"export const {what}: Plain<{name}.Options> = {options};")
            if has_fields:
                custom = json.dumps(panel["fieldConfig"]["defaults"]["custom"], indent=1)
                source.append(f"export const {what}_: Plain<{name}.FieldConfig> = {custom};")
    (folder / "boards.ts").write_text("\n".join(source), "utf-8")
    options = "--noEmit --strict --skipLibCheck --module esnext --moduleResolution bundler"
    done = subprocess.run(
        [node, str(PACKAGES / "typescript/bin/tsc"), *options.split(), "boards.ts"],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    complaints = re.findall(r"^boards\.ts\((\d+),.*$", done.stdout, re.MULTILINE)
    assert (done.returncode == 0) == (not complaints), done.stdout + done.stderr
    lines = "\n".join(source).splitlines()
    return [f"{lines[int(number) - 1]}\n{done.stdout}" for number in complaints]
