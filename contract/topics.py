"""Every MQTT topic of earshot, built and parsed in this one place.

The root carries the major version of the contract. A node's id is a topic level of its own and is
also its MQTT user name and client id, so that a broker's ACL patterns can keep nodes apart.
"""

import re
from enum import StrEnum
from functools import lru_cache

import msgspec

from contract.errors import TopicError

ROOT = "earshot/1"

_ID = r"[a-z0-9][a-z0-9-]{0,31}"
NODE_ID_PATTERN = rf"^{_ID}\Z"
"""Lower case letters, digits and hyphens, 1 to 32 of them; also for groups and collectors."""
RELEASE_NAME_PATTERN = rf"^{_ID}\Z"
ADDRESS_PATTERN = rf"^(all|(group|node):{_ID})\Z"
"""Whom an order is for: `all`, `group:line-2` or `node:press-07`."""

_NODE_ID = re.compile(NODE_ID_PATTERN)
_ADDRESS = re.compile(ADDRESS_PATTERN)
_LABEL = re.compile(rf"^({_ID})@([1-9][0-9]{{0,8}})\Z")
_SHA256 = re.compile(r"^[0-9a-f]{64}\Z")
_NUMBER = re.compile(r"^(0|[1-9][0-9]{0,5})\Z")


class Kind(StrEnum):
    """What a topic carries; the value is the topic's last fixed level, and the measurement's name.

    `LEDGER`, `PIPELINE` and `WINDOW_HOUR` have no topic: a collector makes and stores them itself.
    """

    STATUS = "status"
    BIRTH = "birth"
    WINDOW = "window"
    BACKLOG = "backlog"
    STATE = "state"
    EVENT = "event"
    HEALTH = "health"
    UPDATE = "update"
    ACCOUNT = "account"
    RECEIPT = "receipt"
    DESIRED = "desired"
    COMMAND = "cmd"
    RESULT = "result"
    RELEASE = "release"
    BLOB = "blob"
    COLLECTOR_STATUS = "collector"
    DEAD_LETTER = "deadletter"
    LEDGER = "ledger"
    PIPELINE = "pipeline"
    WINDOW_HOUR = "window_hour"


FROM_NODE = (
    Kind.STATUS,
    Kind.BIRTH,
    Kind.WINDOW,
    Kind.BACKLOG,
    Kind.STATE,
    Kind.EVENT,
    Kind.HEALTH,
    Kind.UPDATE,
    Kind.ACCOUNT,
)
"""What a node publishes under its own id, and a collector subscribes to."""

_NODE_KINDS = frozenset((*FROM_NODE, Kind.RECEIPT, Kind.DESIRED, Kind.RESULT))

VERBS = ("calibrate", "rollback")
"""What a node can be told to do."""


TAKES_UPDATES = "update"
"""What the birth of a node says, among its capabilities, that follows signed orders."""


class Topic(msgspec.Struct, frozen=True):
    """A parsed topic: what it carries, and whose it is (None where it belongs to everybody)."""

    kind: Kind
    owner: str | None
    """A node, group or collector; of a release its label, of a blob its SHA-256."""
    verb: str | None = None
    """What a command asks for; None for all other kinds."""
    chunk: int | None = None
    """The number of a blob's chunk; None for all other kinds."""


def node(node_id: str, kind: Kind) -> str:
    """Topic of one node, for example `earshot/1/n/press-07/window`.

    Raises:
        TopicError: the id is not valid, or the kind is not a node's.
    """
    if kind not in _NODE_KINDS:
        raise TopicError(f"Expected a kind that nodes have, got {kind}")
    return f"{ROOT}/n/{checked_id(node_id)}/{kind}"


def command(node_id: str, verb: str) -> str:
    """Topic on which a node is told to do something, for example `calibrate`.

    Raises:
        TopicError: the id is not valid, or no node knows the verb.
    """
    if verb not in VERBS:
        raise TopicError(f"Expected one of {', '.join(VERBS)}, got {verb[:40]!r}")
    return f"{ROOT}/n/{checked_id(node_id)}/{Kind.COMMAND}/{verb}"


def every_command(node_id: str) -> str:
    """Topic filter for all that one node is told to do."""
    return f"{ROOT}/n/{checked_id(node_id)}/{Kind.COMMAND}/+"


def every_node(kind: Kind) -> str:
    """Topic filter for one kind of message from every node."""
    return f"{ROOT}/n/+/{kind}"


def desired(address: str) -> str:
    """Topic of what the nodes at an address should run.

    Args:
        address: `all`, `group:line-2` or `node:press-07`.

    Raises:
        TopicError: it is none of these.
    """
    if not _ADDRESS.fullmatch(address):
        raise TopicError(f"Expected all, group:NAME or node:ID, got {address[:80]!r}")
    kind, _, owner = address.partition(":")
    return f"{ROOT}/all/desired" if kind == "all" else f"{ROOT}/{kind[0]}/{owner}/desired"


def every_desired() -> tuple[str, ...]:
    """Topic filters for what all nodes, groups and each node should run."""
    return (f"{ROOT}/all/desired", f"{ROOT}/g/+/desired", f"{ROOT}/n/+/desired")


def release(label: str) -> str:
    """Topic of a release's signed manifest, for example `earshot/1/release/fan/17`.

    Raises:
        TopicError: not a label.
    """
    found = _LABEL.fullmatch(label)
    if found is None:
        raise TopicError(f"Expected NAME@VERSION, got {label[:80]!r}")
    return f"{ROOT}/release/{found[1]}/{found[2]}"


def every_release(name: str | None = None) -> str:
    """Topic filter for the manifests of all releases, or of those of one name."""
    return f"{ROOT}/release/{'+' if name is None else checked_id(name)}/+"


def blob(sha256: str, chunk: int) -> str:
    """Topic of one chunk of a file, which its SHA-256 names.

    Raises:
        TopicError: no SHA-256 in hex, or no possible number.
    """
    if not _SHA256.fullmatch(sha256) or not _NUMBER.fullmatch(str(chunk)):
        raise TopicError(f"Expected a SHA-256 and a chunk from 0, got {sha256[:80]!r}, {chunk}")
    return f"{ROOT}/blob/{sha256}/{chunk}"


def every_chunk(sha256: str) -> str:
    """Topic filter for all chunks of one file."""
    return blob(sha256, 0)[:-1] + "+"


def every_first_chunk() -> str:
    """Topic filter for the first chunk of every file that the broker keeps."""
    return f"{ROOT}/blob/+/0"


def collector_status(collector_id: str) -> str:
    """Topic on which a collector says whether it stores."""
    return f"{ROOT}/collector/{checked_id(collector_id)}/status"


def every_collector_status() -> str:
    """Topic filter for what every collector says of itself."""
    return f"{ROOT}/collector/+/status"


def dead_letter() -> str:
    """Topic of messages that could not be stored."""
    return f"{ROOT}/deadletter"


def check(run: str, part: str) -> str:
    """Topic on which a check of the broker talks to itself, for example `earshot/1/check/1f0c/q`.

    It carries no message of this contract, and `parse` does not know it: no program of a fleet
    subscribes there, so that a check disturbs none.

    Args:
        run: of the check, unlike that of any other.
        part: what is checked.

    Raises:
        TopicError: one of them cannot be a topic level.
    """
    return f"{ROOT}/check/{checked_id(run)}/{checked_id(part)}"


def every_check() -> str:
    """Topic filter for all that checks say; for access lists."""
    return f"{ROOT}/check/#"


@lru_cache(maxsize=16_384)
def parse(topic: str) -> Topic:
    """What a topic carries and whose it is; remembered, since few topics carry most messages.

    Raises:
        TopicError: not a topic of this contract.
    """
    match topic.split("/"):
        case ["earshot", "1", "n", owner, kind] if kind in _NODE_KINDS:
            return Topic(Kind(kind), checked_id(owner))
        case ["earshot", "1", "n", owner, Kind.COMMAND, verb] if verb in VERBS:
            return Topic(Kind.COMMAND, checked_id(owner), verb)
        case ["earshot", "1", "collector", owner, "status"]:
            return Topic(Kind.COLLECTOR_STATUS, checked_id(owner))
        case ["earshot", "1", "g", owner, "desired"]:
            return Topic(Kind.DESIRED, checked_id(owner))
        case ["earshot", "1", "all", "desired"]:
            return Topic(Kind.DESIRED, None)
        case ["earshot", "1", "release", name, version] if _LABEL.fullmatch(f"{name}@{version}"):
            return Topic(Kind.RELEASE, f"{name}@{version}")
        case ["earshot", "1", "blob", sha256, chunk] if _SHA256.fullmatch(
            sha256
        ) and _NUMBER.fullmatch(chunk):
            return Topic(Kind.BLOB, sha256, chunk=int(chunk))
        case ["earshot", "1", "deadletter"]:
            return Topic(Kind.DEAD_LETTER, None)
    raise TopicError(f"Expected a topic of {ROOT}, got {topic[:80]!r}")


def checked_id(text: str) -> str:
    """The id itself, when it may be a topic level.

    Raises:
        TopicError: it may not, because it would match or forge other topics.
    """
    if not _NODE_ID.fullmatch(text):
        raise TopicError(
            "Expected an id of 1 to 32 lower case letters, digits or hyphens,"
            f" starting with a letter or digit, got {text[:40]!r}"
        )
    return text
