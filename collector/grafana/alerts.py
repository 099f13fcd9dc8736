"""Alert rules: what rings, after how long, and what to do.

Rules know Grafana's `$timeFilter` alone. Texts use `{{ .Labels.node }}`, not `$labels`: where
in a provisioned rule Grafana takes a dollar for an environment variable depends on its release.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Literal

from collector.grafana import looks
from collector.grafana.boards import panel_id
from collector.grafana.panels import EXPRESSION_UID, SOURCE_UID, Json
from contract.states import Clock, MachineState, MicrophoneState, Presence, UpdatePhase

FOLDER = "earshot"
_MINUTE, _HOUR, _DAY = 60, 3600, 86_400

# Silence is found by empty intervals. Health and figures come each minute, so five of them are
# missing in one, and the interval that has just begun is forgiven by the time a rule waits.
_SILENCE = "GROUP BY time(5m)"
_FORGIVEN = "3m"


class Severity(StrEnum):
    """How soon somebody should look."""

    CRITICAL = "critical"
    """Now."""
    WARNING = "warning"
    """Today: something is not watched or may be lost."""


@dataclass(frozen=True)
class AlertRule:
    """One alert rule, which rings for each node or collector apart.

    Attributes:
        uid: never changed: Grafana knows the rule by it.
        query: InfluxQL, one numeric column.
        seconds: how far back it looks.
        operator: of the last value and the limit.
        below: the last value must be less than this as well, beside `gt`.
        pending: for so long it must hold.
        no_data: what it means that the query finds nothing at all.
        subject: the tag that says whom it is about.
        page: the dashboard to look at.
        panel: title of the panel there that shows it.
    """

    uid: str
    title: str
    query: str
    seconds: int
    operator: Literal["gt", "lt"]
    limit: float
    pending: str
    severity: Severity
    summary: str
    action: str
    page: str
    panel: str
    below: float | None = None
    subject: Literal["node", "id"] = "node"
    no_data: Literal["OK", "Alerting"] = "OK"

    def json(self) -> Json:
        """As Grafana reads it: query A, its last value B, the condition C."""
        label = f"{{{{ .Labels.{self.subject} }}}}"
        variable = f"?var-node={label}" if self.page in ("earshot-machine", "earshot-node") else ""
        panel = panel_id(self.page, self.panel)
        return {
            "uid": self.uid,
            "title": self.title,
            "condition": "C",
            "for": self.pending,
            "noDataState": self.no_data,
            "execErrState": "Error",
            "isPaused": False,
            "dashboardUid": self.page,
            "panelId": panel,
            "labels": {"severity": str(self.severity), "service": "earshot"},
            "annotations": {
                "summary": self.summary.format(who=label),
                "description": self.action.format(who=label),
                # The address of Grafana ends with a slash.
                "page": f"{{{{ externalURL }}}}d/{self.page}{variable}",
                "__dashboardUid__": self.page,
                "__panelId__": str(panel),
            },
            "data": [
                {
                    "refId": "A",
                    "relativeTimeRange": {"from": self.seconds, "to": 0},
                    "datasourceUid": SOURCE_UID,
                    "model": {
                        "refId": "A",
                        "datasource": {"type": "influxdb", "uid": SOURCE_UID},
                        "rawQuery": True,
                        "query": self.query,
                        "resultFormat": "time_series",
                        "intervalMs": 60_000,
                        "maxDataPoints": 43_200,
                    },
                },
                self._expression("B", {"type": "reduce", "expression": "A", "reducer": "last"}),
                self._expression(
                    "C",
                    {
                        "type": "threshold",
                        "expression": "B",
                        "conditions": [{"evaluator": self._evaluator()}],
                    },
                ),
            ],
        }

    def _evaluator(self) -> Json:
        if self.below is None:
            return {"type": self.operator, "params": [self.limit]}
        return {"type": "within_range", "params": [self.limit, self.below]}

    def _expression(self, letter: str, model: Json) -> Json:
        source = {"type": EXPRESSION_UID, "uid": EXPRESSION_UID}
        return {
            "refId": letter,
            "relativeTimeRange": {"from": self.seconds, "to": 0},
            "datasourceUid": EXPRESSION_UID,
            "model": {"refId": letter, "datasource": source, **model},
        }


def _last(field: str, measurement: str) -> str:
    return f'SELECT last("{field}") FROM "{measurement}" WHERE $timeFilter GROUP BY "node"'


RULES = (
    AlertRule(
        uid="earshot-machine-alarm",
        title="Machine sounds wrong",
        query=_last("state_code", "window"),
        # A node that falls silent in an alarm does not end it.
        seconds=_HOUR,
        operator="gt",
        limit=looks.code(MachineState.WARNING),
        pending="1m",
        severity=Severity.CRITICAL,
        summary="{who}: the machine is in alarm",
        action="Go and listen to it, at the frequencies that its page shows under Top bands. If it"
        " is healthy and only does something new, calibrate {who} while it does.",
        page="earshot-machine",
        panel="State",
    ),
    AlertRule(
        uid="earshot-node-offline",
        title="Node offline",
        query=_last("state_code", "status"),
        seconds=7 * _DAY,
        operator="lt",
        limit=looks.code(Presence.ONLINE),
        pending="2m",
        severity=Severity.WARNING,
        summary="{who} is offline: its machine is not watched",
        action="See to its power and network. If it was switched off for good, silence this for"
        " it; it ends by itself seven days after the node left.",
        page="earshot-node",
        panel="Presence",
    ),
    AlertRule(
        uid="earshot-no-data",
        title="No data from a node",
        query=f'SELECT count("windows") FROM "health" WHERE $timeFilter {_SILENCE}, "node" fill(0)',
        seconds=_DAY,
        operator="lt",
        limit=1,
        pending=_FORGIVEN,
        severity=Severity.WARNING,
        summary="Nothing is stored of {who} any more",
        action="All nodes at once: it is the collector, the broker or the database. {who} alone:"
        " is it online, and are its windows waiting? With a clock far off, its points lie at"
        " another time.",
        page="earshot-node",
        panel="Windows that wait",
    ),
    AlertRule(
        uid="earshot-microphone",
        title="Microphone trouble",
        query=_last("microphone_code", "health"),
        seconds=5 * _MINUTE,
        operator="gt",
        limit=looks.code(MicrophoneState.OK),
        pending="3m",
        severity=Severity.WARNING,
        summary="{who} cannot hear its machine",
        action="Its page says what the microphone is: silent or gone, see to the plug; clipped,"
        " lower the gain; quiet, raise it or go nearer. `earshot node check` on the node"
        " measures it.",
        page="earshot-node",
        panel="Microphone over time",
    ),
    AlertRule(
        uid="earshot-backlog",
        title="Backlog growing",
        query='SELECT last("outbox_windows") - first("outbox_windows") FROM "health"'
        ' WHERE $timeFilter GROUP BY "node"',
        seconds=15 * _MINUTE,
        operator="gt",
        limit=60,
        pending="5m",
        severity=Severity.WARNING,
        summary="{who}: windows wait, and they become more",
        action="One node: its link is too slow or breaks (see Reconnects). All nodes: the"
        " collector stores nothing, or sends no receipts. Nothing is lost until the outbox is"
        " full.",
        page="earshot-node",
        panel="Windows that wait",
    ),
    AlertRule(
        uid="earshot-clock",
        title="Clock off",
        query=_last("clock_code", "health"),
        seconds=5 * _MINUTE,
        operator="lt",
        limit=looks.code(Clock.SYNCED),
        pending="10m",
        severity=Severity.WARNING,
        summary="{who} does not know the time",
        action="Its times cannot be trusted. Let it reach a time server (`timedatectl` on the"
        " node); a Pi without a network needs a clock with a battery.",
        page="earshot-node",
        panel="Clock over time",
    ),
    AlertRule(
        uid="earshot-update-failed",
        title="Update failed",
        query=_last("phase_code", "update"),
        seconds=_DAY,
        operator="gt",
        limit=looks.code(UpdatePhase.COMMITTED),
        # A phase that this collector does not know is no failure.
        below=looks.code(UpdatePhase.UNKNOWN),
        pending="0s",
        severity=Severity.WARNING,
        summary="{who} did not take the release that was ordered",
        action="It goes on with what it ran. The rollout page gives the reason, docs/updates.md"
        " what to do about it. It ends with the next order, or after a day.",
        page="earshot-rollout",
        panel="Wanted and running",
    ),
    AlertRule(
        uid="earshot-ledger-hole",
        title="Windows missing",
        query='SELECT max("missing") FROM "ledger" WHERE $timeFilter GROUP BY "node"',
        seconds=_HOUR,
        operator="gt",
        limit=0,
        pending="0s",
        severity=Severity.CRITICAL,
        summary="{who}: windows were produced and are nowhere",
        action="For ten minutes they have been neither stored, nor waiting, nor given up:"
        " something lost them. `earshot collector ledger` says which; then look at the broker's"
        " limits (max_queued_messages) and at dead letters.",
        page="earshot-pipeline",
        panel="Missing and in transit",
    ),
    AlertRule(
        uid="earshot-collector-stopped",
        title="Collector stopped",
        query='SELECT count("received") FROM "pipeline" WHERE $timeFilter'
        f' {_SILENCE}, "id" fill(0)',
        seconds=_DAY,
        operator="lt",
        limit=1,
        pending=_FORGIVEN,
        severity=Severity.CRITICAL,
        summary="Collector {who} stores nothing",
        action="See its log, and `earshot collector health`. Nodes keep their windows and the"
        " broker keeps messages meanwhile; all of it is stored when the collector is back.",
        page="earshot-pipeline",
        panel="Windows stored",
        subject="id",
        no_data="Alerting",
    ),
)


def provisioned() -> dict[str, Any]:
    """The rules as a file for Grafana's folder `provisioning/alerting`."""
    group = {
        "orgId": 1,
        "name": "earshot",
        "folder": FOLDER,
        "interval": "1m",
        "rules": [rule.json() for rule in RULES],
    }
    return {"apiVersion": 1, "groups": [group]}
