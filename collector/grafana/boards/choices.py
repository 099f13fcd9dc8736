"""What can be chosen at the top of a page, and the links between pages.

A group is the widest that a node says of where it is: there is no site.
"""

from collector.grafana.panels import Json, page_link, variable

_UIDS = {
    "Fleet": "earshot-fleet",
    "Machine": "earshot-machine",
    "Node": "earshot-node",
    "Rollout": "earshot-rollout",
    "Pipeline": "earshot-pipeline",
}
_OF_ONE_NODE = ("Machine", "Node")

ONE_NODE = variable("node", "Node", 'SHOW TAG VALUES FROM "window" WITH KEY = "node"', many=False)

GROUP = variable(
    "group", "Group", 'SELECT distinct("group_id") FROM "birth"', many=True, everything=".*"
)
"""A group is a field, which no SHOW lists; but a variable may be any query."""

_MATCHES = "=~ /^${group:regex}$/"

NODES_OF_GROUP = variable(
    "node",
    "Node",
    # A node without a group has no group_id to match. Its software's name, which is never a
    # group's, matches "All" alone, and so keeps it in the list.
    'SELECT "name" FROM (SELECT last("software") AS "software", "group_id" AS "group",'
    ' "node" AS "name" FROM "birth" GROUP BY "node")'
    f' WHERE "group" {_MATCHES} OR "software" {_MATCHES}',
    many=True,
)


def links_from(page: str) -> tuple[Json, ...]:
    """To all other pages; the node goes along between those that show one."""
    return tuple(
        page_link(title, uid, keeps_node=page in _OF_ONE_NODE and title in _OF_ONE_NODE)
        for title, uid in _UIDS.items()
        if title != page
    )
