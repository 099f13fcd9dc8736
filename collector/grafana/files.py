"""The generated files: names below this folder, and their texts."""

import json

import yaml

from collector.grafana import alerts
from collector.grafana.boards import BOARDS

_YAML_WIDTH = 10_000
"""A query stays on one line, so that a diff shows what has changed in it."""

_HEADER = """\
# Written by `python -m collector.grafana` from collector/grafana/alerts.py: change them there.
# docs/alerts.md says what each one means. Grafana reads this folder at its start.
"""


def generated() -> dict[str, str]:
    """Text by file name."""
    found = {
        f"dashboards/{board.file}": json.dumps(board.json(), indent=2, ensure_ascii=False) + "\n"
        for board in BOARDS
    }
    rules = yaml.safe_dump(
        alerts.provisioned(), sort_keys=False, allow_unicode=True, width=_YAML_WIDTH
    )
    return found | {"provisioning/alerting/rules.yaml": _HEADER + rules}
