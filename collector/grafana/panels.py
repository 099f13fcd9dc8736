"""Builders of Grafana's JSON: as much of its schema as our pages need.

A page is a list of panels in reading order; places on the grid, ids and reference letters follow
from it.
"""

import string
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from collector.grafana.looks import BLUE, GREEN, GREY, ORANGE, PURPLE, SKY_BLUE, VERMILLION

Json = dict[str, Any]

SOURCE_UID = "earshot-influxdb"
EXPRESSION_UID = "__expr__"
"""Grafana's name of its own calculations."""
HOURLY_SOURCE_UID = "earshot-influxdb-hourly"
"""Of the bucket that is kept for years: a statement of InfluxQL names no bucket of another."""
SOURCE: Json = {"type": "influxdb", "uid": SOURCE_UID}
HOURLY_SOURCE: Json = {"type": "influxdb", "uid": HOURLY_SOURCE_UID}
SCHEMA_VERSION = 41
"""Of Grafana 11.6; newer ones migrate a page when they load it."""
GRID_COLUMNS = 24

_LINE_COLOURS = (SKY_BLUE, VERMILLION, GREEN, ORANGE, BLUE, PURPLE, GREY)


@dataclass(frozen=True)
class Query:
    """One InfluxQL statement.

    Attributes:
        text: InfluxQL with Grafana's variables and macros.
        alias: name of the series, for lines; `$tag_node` is a tag.
        colour: of its line.
        time_as: in a table, the name of the column of times; None leaves it out.
    """

    text: str
    alias: str = ""
    colour: str | None = None
    time_as: str | None = None


@dataclass(frozen=True)
class Column:
    """How a column of a table, or a field by name, is shown."""

    name: str
    unit: str | None = None
    mappings: list[Json] = field(default_factory=list)
    links: list[Json] = field(default_factory=list)
    width: int | None = None
    decimals: int | None = None
    gauge: bool = False
    """From 0 to 100, as a bar in the cell."""

    def override(self) -> Json:
        """What Grafana is told of it."""
        properties: list[Json] = []
        if self.unit is not None:
            properties.append({"id": "unit", "value": self.unit})
        if self.mappings:
            properties.append({"id": "mappings", "value": self.mappings})
            properties.append({"id": "custom.cellOptions", "value": {"type": "color-text"}})
        if self.links:
            properties.append({"id": "links", "value": self.links})
        if self.width is not None:
            properties.append({"id": "custom.width", "value": self.width})
        if self.decimals is not None:
            properties.append({"id": "decimals", "value": self.decimals})
        if self.gauge:
            properties += [
                {"id": "custom.cellOptions", "value": {"type": "gauge", "mode": "basic"}},
                {"id": "min", "value": 0},
                {"id": "max", "value": 100},
                {"id": "color", "value": {"mode": "fixed", "fixedColor": VERMILLION}},
            ]
        return _override(self.name, *properties)


@dataclass(frozen=True)
class Panel:
    """A panel without its place.

    Attributes:
        description: what is seen, and what a reader should make of it.
        interval: shortest step of time.
        most_points: of one series; without it as many as the panel is wide.
        span: shown instead of the chosen time, up to now, unless that is of fixed dates.
        source: where it asks.
    """

    kind: Literal["stat", "timeseries", "table", "state-timeline", "bargauge"]
    title: str
    description: str
    queries: tuple[Query, ...]
    width: int
    height: int
    defaults: Json
    options: Json
    overrides: tuple[Json, ...] = ()
    transformations: tuple[Json, ...] = ()
    is_table: bool = False
    interval: str | None = None
    most_points: int | None = None
    span: str | None = None
    source: Json = field(default_factory=lambda: SOURCE)

    def json(self, number: int, *, x: int, y: int) -> Json:
        """As it stands on a page."""
        made: Json = {
            "id": number,
            "type": self.kind,
            "title": self.title,
            "description": self.description,
            "datasource": self.source,
            "gridPos": {"x": x, "y": y, "w": self.width, "h": self.height},
            "fieldConfig": {"defaults": self.defaults, "overrides": list(self.overrides)},
            "options": self.options,
            "targets": [
                _target(query, letter, self.source, is_table=self.is_table)
                for letter, query in zip(string.ascii_uppercase, self.queries, strict=False)
            ],
        }
        if self.transformations:
            made["transformations"] = list(self.transformations)
        if self.interval is not None:
            made["interval"] = self.interval
        if self.most_points is not None:
            made["maxDataPoints"] = self.most_points
        if self.span is not None:
            made["timeFrom"] = self.span
        return made


@dataclass(frozen=True)
class Board:
    """A page.

    Attributes:
        uid: in its address, which links and alerts name: never changed.
    """

    uid: str
    title: str
    description: str
    variables: tuple[Json, ...]
    panels: tuple[Panel, ...]
    links: tuple[Json, ...]
    annotations: tuple[Json, ...] = ()
    span: str = "now-6h"
    refresh: str = "30s"

    @property
    def titles(self) -> list[str]:
        """Of its panels, in the order of their ids, which begin at 1."""
        return [panel.title for panel in self.panels]

    @property
    def file(self) -> str:
        """Its name among the dashboards."""
        return f"{self.uid}.json"

    def json(self) -> Json:
        """The whole page."""
        return {
            "uid": self.uid,
            "title": self.title,
            "description": self.description,
            "tags": ["earshot"],
            "timezone": "browser",
            "editable": False,
            "graphTooltip": 1,
            "schemaVersion": SCHEMA_VERSION,
            "refresh": self.refresh,
            "time": {"from": self.span, "to": "now"},
            "links": list(self.links),
            "templating": {"list": list(self.variables)},
            "annotations": {"list": list(self.annotations)},
            "panels": _placed(self.panels),
        }


def count(
    title: str, description: str, query: str, *, colour: str, width: int = 3, height: int = 4
) -> Panel:
    """A number of nodes that is grey as long as it is 0."""
    steps = [{"color": GREY, "value": None}, {"color": colour, "value": 1}]
    return Panel(
        "stat",
        title,
        description,
        (Query(query),),
        width,
        height,
        defaults={
            "unit": "none",
            "decimals": 0,
            "noValue": "0",
            "color": {"mode": "thresholds"},
            "thresholds": {"mode": "absolute", "steps": steps},
        },
        options=_stat_options("background_solid"),
    )


def value(
    title: str,
    description: str,
    query: str,
    *,
    unit: str = "none",
    mappings: Sequence[Json] = (),
    bad_from: float | None = None,
    text: str | None = None,
    width: int = 4,
) -> Panel:
    """The last value, large.

    Args:
        title: above it.
        description: what it tells.
        query: one column.
        unit: Grafana's name of it.
        mappings: words for its values.
        bad_from: from here on it is orange.
        text: name of the value, if it is a text: all fields would include the time.
        width: of 24.
    """
    steps: list[Json] = [{"color": GREEN if bad_from is not None else BLUE, "value": None}]
    if bad_from is not None:
        steps.append({"color": ORANGE, "value": bad_from})
    options = _stat_options("value")
    if text is not None:
        options["reduceOptions"]["fields"] = f"/^{text}$/"
    return Panel(
        "stat",
        title,
        description,
        (Query(query, alias=text or ""),),
        width,
        4,
        defaults={
            "unit": unit,
            "noValue": "-",
            "color": {"mode": "thresholds"},
            "thresholds": {"mode": "absolute", "steps": steps},
            "mappings": list(mappings),
        },
        options=options,
    )


def lines(
    title: str,
    description: str,
    *queries: Query,
    unit: str,
    axis: str,
    width: int = 12,
    height: int = 8,
    limit: float | None = None,
    stacked: bool = False,
    bars: bool = False,
    low: float | None = None,
    high: float | None = None,
    interval: str | None = None,
    between: tuple[str, str] | None = None,
    links: Sequence[Json] = (),
    most_points: int | None = None,
) -> Panel:
    """Values over time.

    Args:
        title: above it.
        description: what it tells.
        *queries: one or more series each.
        unit: Grafana's name of it.
        axis: what the axis measures.
        width: of 24.
        height: in steps of the grid.
        limit: a dashed line; what is above it is shaded.
        stacked: on top of each other.
        bars: for counts per interval.
        low: the axis begins here.
        high: the axis ends here.
        interval: see `Panel`.
        between: names of two series; the area from the first down to the second is filled.
        links: from a point.
        most_points: see `Panel`.
    """
    steps: list[Json] = [{"color": "transparent", "value": None}]
    if limit is not None:
        steps.append({"color": VERMILLION, "value": limit})
    custom: Json = {
        "drawStyle": "bars" if bars else "line",
        "lineWidth": 1 if bars else 2,
        "fillOpacity": 60 if bars or stacked else 0,
        "showPoints": "never",
        "spanNulls": False,
        "axisLabel": axis,
        "axisPlacement": "auto",
        "stacking": {"mode": "normal" if stacked else "none", "group": "A"},
        "thresholdsStyle": {"mode": "off" if limit is None else "dashed+area"},
    }
    defaults: Json = {
        "unit": unit,
        "color": {"mode": "palette-classic"},
        "thresholds": {"mode": "absolute", "steps": steps},
        "custom": custom,
        "links": list(links),
    }
    defaults |= {k: v for k, v in (("min", low), ("max", high)) if v is not None}
    overrides = [
        _override(
            query.alias,
            {"id": "color", "value": {"mode": "fixed", "fixedColor": query.colour or colour}},
        )
        for query, colour in zip(queries, _LINE_COLOURS * 2, strict=False)
        if query.alias and "$" not in query.alias
    ]
    if between is not None:
        above, below = between
        overrides.append(
            _override(
                above,
                {"id": "custom.fillBelowTo", "value": below},
                {"id": "custom.fillOpacity", "value": 20},
            )
        )
    return Panel(
        "timeseries",
        title,
        description,
        queries,
        width,
        height,
        defaults=defaults,
        options={"legend": _legend(), "tooltip": {"mode": "multi", "sort": "desc"}},
        overrides=tuple(overrides),
        interval=interval,
        most_points=most_points,
    )


def states(
    title: str,
    description: str,
    query: Query,
    mappings: list[Json],
    *,
    width: int = 12,
    height: int = 8,
    interval: str | None = None,
    most_points: int | None = None,
) -> Panel:
    """Coloured bands with words over time, one a node; 20 on a page."""
    return Panel(
        "state-timeline",
        title,
        description,
        (query,),
        width,
        height,
        defaults={
            "unit": "none",
            "mappings": mappings,
            "color": {"mode": "thresholds"},
            "thresholds": {"mode": "absolute", "steps": [{"color": GREY, "value": None}]},
            "custom": {"fillOpacity": 80, "lineWidth": 0},
        },
        options={
            "mergeValues": True,
            "showValue": "auto",
            "alignValue": "left",
            "rowHeight": 0.9,
            "perPage": 20,
            "legend": _legend(),
            "tooltip": {"mode": "single", "sort": "none"},
        },
        interval=interval,
        most_points=most_points,
    )


def ranking(title: str, description: str, query: Query, *, width: int, height: int) -> Panel:
    """Horizontal bars, one a series."""
    return Panel(
        "bargauge",
        title,
        description,
        (query,),
        width,
        height,
        defaults={
            "unit": "none",
            "min": 0,
            "color": {"mode": "fixed", "fixedColor": SKY_BLUE},
            "thresholds": {"mode": "absolute", "steps": [{"color": SKY_BLUE, "value": None}]},
        },
        options={
            "displayMode": "basic",
            "orientation": "horizontal",
            "valueMode": "text",
            "namePlacement": "auto",
            "showUnfilled": True,
            "sizing": "auto",
            "minVizWidth": 8,
            "minVizHeight": 16,
            "maxVizHeight": 300,
            "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False},
            "legend": {
                "showLegend": False,
                "displayMode": "list",
                "placement": "bottom",
                "calcs": [],
            },
        },
    )


def table(
    title: str,
    description: str,
    *queries: Query,
    columns: Sequence[Column] = (),
    order: Sequence[str] = (),
    sort: Sequence[tuple[str, bool]] = (),
    joined_by: str | None = None,
    calculated: Sequence[Json] = (),
    hidden: Sequence[str] = (),
    width: int = 24,
    height: int = 8,
) -> Panel:
    """Rows.

    Args:
        title: above it.
        description: what it tells.
        *queries: of one, the rows; of more, what is joined to one row for each of `joined_by`.
        columns: how those are shown that need more than their text.
        order: of the columns.
        sort: columns, and whether the largest comes first.
        joined_by: a tag.
        calculated: transformations after the join.
        hidden: columns that only served these.
        width: of 24.
        height: in steps of the grid.
    """
    steps: list[Json] = [
        _organized(
            letter,
            excluded=[] if query.time_as else ["Time"],
            renamed={"Time": query.time_as} if query.time_as else {},
        )
        for letter, query in zip(string.ascii_uppercase, queries, strict=False)
    ]
    if joined_by is not None:
        steps.append({"id": "joinByField", "options": {"byField": joined_by, "mode": "outer"}})
    steps += calculated
    steps.append(
        {
            "id": "organize",
            "options": {
                "excludeByName": dict.fromkeys(hidden, True),
                "indexByName": {name: index for index, name in enumerate(order)},
                "renameByName": {},
            },
        }
    )
    return Panel(
        "table",
        title,
        description,
        queries,
        width,
        height,
        defaults={
            "unit": "none",
            "noValue": "",
            "custom": {"align": "auto", "cellOptions": {"type": "auto"}, "inspect": False},
        },
        options={
            "showHeader": True,
            "cellHeight": "sm",
            "frameIndex": 0,
            "sortBy": [{"displayName": name, "desc": desc} for name, desc in sort],
        },
        overrides=tuple(column.override() for column in columns),
        transformations=tuple(steps),
        is_table=True,
    )


def variable(
    name: str, label: str, query: str, *, many: bool, everything: str | None = None
) -> Json:
    """A choice at the top of a page.

    Args:
        name: in queries.
        label: for people.
        query: InfluxQL; the values are its second column.
        many: several can be chosen, and all.
        everything: regular expression that "All" stands for; None is an alternation of all values.
    """
    made: Json = {
        "type": "query",
        "name": name,
        "label": label,
        "datasource": SOURCE,
        "query": query,
        "refresh": 2,
        "sort": 7,
        "multi": many,
        "includeAll": many,
    }
    if many:
        made["current"] = {"selected": True, "text": ["All"], "value": ["$__all"]}
    if everything is not None:
        made["allValue"] = everything
    return made


def annotation(name: str, query: str, *, colour: str, text: str, tags: str) -> Json:
    """Marks on every graph of a page: the time of each row, with its columns as text."""
    target = {
        "refId": "Anno",
        "fromAnnotations": True,
        "rawQuery": True,
        "query": query,
        "textColumn": text,
        "tagsColumn": tags,
        "titleColumn": "",
        "timeEndColumn": "",
    }
    return {
        "name": name,
        "datasource": SOURCE,
        "enable": True,
        "hide": False,
        "iconColor": colour,
        "target": target,
    }


def page_link(title: str, uid: str, *, keeps_node: bool) -> Json:
    """To another page, with the chosen time and, if it makes sense there, the node."""
    return {
        "type": "link",
        "title": title,
        "url": f"/d/{uid}",
        "icon": "dashboard",
        "tooltip": "",
        "tags": [],
        "asDropdown": False,
        "includeVars": keeps_node,
        "keepTime": True,
        "targetBlank": False,
    }


def node_links(node: str) -> list[Json]:
    """From a row or a point to the pages of its node, with the chosen time.

    Args:
        node: Grafana's expression of the node's id.
    """
    return [
        {"title": title, "url": f"/d/{uid}?var-node={node}&${{__url_time_range}}"}
        for title, uid in (("The machine", "earshot-machine"), ("The node", "earshot-node"))
    ]


NODE_COLUMN = Column("node", links=node_links("${__value.text}"))
SERIES_LINKS = node_links("${__field.labels.node}")


def _target(query: Query, letter: str, source: Json, *, is_table: bool) -> Json:
    made: Json = {
        "refId": letter,
        "datasource": source,
        "rawQuery": True,
        "query": query.text,
        "resultFormat": "table" if is_table else "time_series",
    }
    if query.alias:
        made["alias"] = query.alias
    return made


def _placed(panels: Sequence[Panel]) -> list[Json]:
    """From left to right; a new row where the width is used up, as low as the highest above it."""
    made: list[Json] = []
    x = y = row_height = 0
    for number, panel in enumerate(panels, start=1):
        if x + panel.width > GRID_COLUMNS:
            x, y, row_height = 0, y + row_height, 0
        made.append(panel.json(number, x=x, y=y))
        x += panel.width
        row_height = max(row_height, panel.height)
    return made


def _override(name: str, *properties: Json) -> Json:
    return {"matcher": {"id": "byName", "options": name}, "properties": list(properties)}


def _organized(letter: str, *, excluded: Sequence[str], renamed: dict[str, str]) -> Json:
    return {
        "id": "organize",
        "filter": {"id": "byRefId", "options": letter},
        "options": {
            "excludeByName": dict.fromkeys(excluded, True),
            "indexByName": {},
            "renameByName": renamed,
        },
    }


def _stat_options(color_mode: str) -> Json:
    return {
        "colorMode": color_mode,
        "graphMode": "none",
        "justifyMode": "auto",
        "orientation": "auto",
        "percentChangeColorMode": "standard",
        "showPercentChange": False,
        "textMode": "auto",
        "wideLayout": True,
        "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False},
    }


def _legend() -> Json:
    return {"showLegend": True, "displayMode": "list", "placement": "bottom", "calcs": []}
