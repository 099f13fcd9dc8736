"""Pieces of InfluxQL that panels share.

Grafana fills in `$timeFilter` and `$__interval` in its server, `${__to}` (the end of the chosen
time, in milliseconds) and `${node:regex}` in the browser; alert rules know the former alone.
"""

OF_NODES = '"node" =~ /^${node:regex}$/'
"""The nodes that are chosen at the top; an alternation, or one escaped name."""

CHOSEN = f"$timeFilter AND {OF_NODES}"

_UNTIL_END = "time <= ${__to}ms"

NOW = f"time > ${{__to}}ms - 2m AND {_UNTIL_END} AND {OF_NODES}"
"""The last two minutes of the chosen time: any node that is well has sent many windows in it."""

NOW_MINUTELY = f"time > ${{__to}}ms - 3m AND {_UNTIL_END} AND {OF_NODES}"
"""The same, of what a node says each minute."""

LATELY = f"time > ${{__to}}ms - 30d AND {_UNTIL_END}"
"""For what is said only when it changes, and is therefore rarely in the chosen time."""

OF_NODES_LATELY = f"{LATELY} AND {OF_NODES}"

EACH_INTERVAL = "GROUP BY time($__interval)"


def last_per_node(field: str, measurement: str, where: str, *more: str) -> str:
    """A sub-query: the last point of each node, its field as `x`, and more of its fields."""
    columns = ", ".join([f'last("{field}") AS "x"', *more])
    return f'(SELECT {columns} FROM "{measurement}" WHERE {where} GROUP BY "node")'


def nodes_where(last: str, condition: str, name: str) -> str:
    """How many nodes' last points (`last_per_node`) meet a condition. Nothing if none does."""
    return f'SELECT count("x") AS "{name}" FROM {last} WHERE {condition}'


def points_where(last: str, condition: str, points: int) -> str:
    """A sub-query: so many points for each node whose last point meets a condition."""
    counted = f'SELECT count("x") * {points} AS "points" FROM {last}'
    return f'({counted} WHERE {condition} GROUP BY "node")'


def silent_nodes() -> str:
    """A sub-query: `n` is 1 for a node that was heard in the chosen time and is not now, else 0.

    InfluxQL knows neither the present time as a value nor joins: one for each node that was heard,
    less one for each that is heard.
    """
    heard = [
        f'(SELECT count("x") * {sign} AS "n" FROM {last_per_node("seq", "window", when)}'
        ' GROUP BY "node")'
        for sign, when in (("1", CHOSEN), ("-1", NOW))
    ]
    return f'(SELECT sum("n") AS "n" FROM {", ".join(heard)} GROUP BY "node")'
