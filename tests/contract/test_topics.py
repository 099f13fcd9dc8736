"""Topics: what is built is parsed back, and nothing else is a topic of ours."""

from collections.abc import Callable

import pytest

from contract import topics
from contract.errors import TopicError
from contract.topics import FROM_NODE, Kind, Topic

SHA256 = "0123456789abcdef" * 4
NODE_KINDS = (*FROM_NODE, Kind.RECEIPT, Kind.DESIRED, Kind.RESULT)

FORGED_IDS = [
    "",
    "Press-07",
    "press/07",
    "+",
    "press+",
    "#",
    "press#",
    "-press",
    "a" * 33,
    "prüfstand",
    "press 07",
    "press-07\n",
    "press_07",
    "press.07",
    "$share",
    "press\x00",
    "٣",
]


@pytest.mark.parametrize("kind", NODE_KINDS)
def test_node_topic_is_parsed_back(kind: Kind) -> None:
    """What is built for a node's kind is parsed to the same kind and owner."""
    assert topics.parse(topics.node("press-07", kind)) == Topic(kind, "press-07")


@pytest.mark.parametrize(
    ("topic", "parsed"),
    [
        (topics.desired("group:line-2"), Topic(Kind.DESIRED, "line-2")),
        (topics.desired("all"), Topic(Kind.DESIRED, None)),
        (topics.desired("node:press-07"), Topic(Kind.DESIRED, "press-07")),
        (topics.release("fan@17"), Topic(Kind.RELEASE, "fan@17")),
        (topics.blob(SHA256, 0), Topic(Kind.BLOB, SHA256, chunk=0)),
        (topics.blob(SHA256, 511), Topic(Kind.BLOB, SHA256, chunk=511)),
        (topics.collector_status("main"), Topic(Kind.COLLECTOR_STATUS, "main")),
        (topics.dead_letter(), Topic(Kind.DEAD_LETTER, None)),
        (topics.command("press-07", "calibrate"), Topic(Kind.COMMAND, "press-07", "calibrate")),
    ],
)
def test_other_topic_is_parsed_back(topic: str, parsed: Topic) -> None:
    """What is built for groups, everybody and collectors is parsed to the same."""
    assert topics.parse(topic) == parsed


def test_topics_are_as_released() -> None:
    """Brokers' access lists and dashboards hold these texts: they never change."""
    built = [topics.node("press-07", kind) for kind in NODE_KINDS]

    assert built == [
        "earshot/1/n/press-07/status",
        "earshot/1/n/press-07/birth",
        "earshot/1/n/press-07/window",
        "earshot/1/n/press-07/backlog",
        "earshot/1/n/press-07/state",
        "earshot/1/n/press-07/event",
        "earshot/1/n/press-07/health",
        "earshot/1/n/press-07/update",
        "earshot/1/n/press-07/account",
        "earshot/1/n/press-07/receipt",
        "earshot/1/n/press-07/desired",
        "earshot/1/n/press-07/result",
    ]
    assert topics.desired("group:line-2") == "earshot/1/g/line-2/desired"
    assert topics.desired("all") == "earshot/1/all/desired"
    assert topics.desired("node:press-07") == "earshot/1/n/press-07/desired"
    assert topics.every_desired() == (
        "earshot/1/all/desired",
        "earshot/1/g/+/desired",
        "earshot/1/n/+/desired",
    )
    assert topics.release("fan@17") == "earshot/1/release/fan/17"
    assert topics.every_release() == "earshot/1/release/+/+"
    assert topics.every_release("fan") == "earshot/1/release/fan/+"
    assert topics.blob(SHA256, 3) == f"earshot/1/blob/{SHA256}/3"
    assert topics.every_chunk(SHA256) == f"earshot/1/blob/{SHA256}/+"
    assert topics.every_first_chunk() == "earshot/1/blob/+/0"
    assert topics.collector_status("main") == "earshot/1/collector/main/status"
    assert topics.every_collector_status() == "earshot/1/collector/+/status"
    assert topics.dead_letter() == "earshot/1/deadletter"
    assert topics.check("1f0c", "retained") == "earshot/1/check/1f0c/retained"
    assert topics.every_check() == "earshot/1/check/#"
    assert topics.command("press-07", "calibrate") == "earshot/1/n/press-07/cmd/calibrate"
    assert topics.every_command("press-07") == "earshot/1/n/press-07/cmd/+"


def test_command_that_no_node_knows_has_no_topic() -> None:
    """A verb is one of a short list, so that none can forge a topic."""
    with pytest.raises(TopicError, match="one of calibrate, rollback, got 'reboot/now'"):
        topics.command("press-07", "reboot/now")


@pytest.mark.parametrize(
    "label", ["fan", "fan@", "fan@0", "fan@01", "fan@1/2", "+@1", "@1", "fan@1\n"]
)
def test_label_that_could_forge_a_topic_is_refused(label: str) -> None:
    """A release is a name and a version from 1."""
    with pytest.raises(TopicError):
        topics.release(label)


@pytest.mark.parametrize(
    ("sha256", "chunk"),
    [("+", 0), (SHA256[:-1], 0), (SHA256.upper(), 0), (SHA256, -1), (SHA256, 1_000_000)],
)
def test_chunk_that_could_forge_a_topic_is_refused(sha256: str, chunk: int) -> None:
    """A chunk is a SHA-256 in hex and a number."""
    with pytest.raises(TopicError):
        topics.blob(sha256, chunk)


@pytest.mark.parametrize(
    "topic",
    [
        f"earshot/1/blob/{SHA256}/01",
        f"earshot/1/blob/{SHA256}/+",
        f"earshot/1/blob/{SHA256[:-1]}g/0",
        "earshot/1/release/fan/0",
        "earshot/1/release/fan/x",
        "earshot/1/release/+/1",
    ],
)
def test_topic_of_no_release_or_chunk_is_refused(topic: str) -> None:
    """What could not have been built is not parsed."""
    with pytest.raises(TopicError):
        topics.parse(topic)


@pytest.mark.parametrize("address", ["", "ALL", "all:", "node:", "group:+", "site:x", "node:a/b"])
def test_order_is_for_all_a_group_or_a_node(address: str) -> None:
    """Nobody else has a topic for orders."""
    with pytest.raises(TopicError, match="Expected all, group:NAME or node:ID"):
        topics.desired(address)


@pytest.mark.parametrize("kind", FROM_NODE)
def test_filter_matches_every_node(kind: Kind) -> None:
    """The filter for a kind is a node's topic with `+` for the id."""
    assert topics.every_node(kind) == topics.node("x", kind).replace("/x/", "/+/")


def test_kinds_without_a_node_have_no_node_topic() -> None:
    """A collector's status and a dead letter are no node's."""
    for kind in (Kind.COLLECTOR_STATUS, Kind.DEAD_LETTER):
        with pytest.raises(TopicError, match=f"kind that nodes have, got {kind}"):
            topics.node("press-07", kind)


@pytest.mark.parametrize("text", ["a", "0", "press-07", "a-", "a--b", "a" * 32])
def test_id_may_be_a_level(text: str) -> None:
    """One to 32 lower case letters, digits and hyphens make an id."""
    assert topics.checked_id(text) == text


@pytest.mark.parametrize("text", FORGED_IDS)
def test_id_that_could_forge_a_topic_is_refused(text: str) -> None:
    """An id that is no single plain topic level is refused wherever it is built in or parsed."""
    attempts: list[Callable[[], object]] = [
        lambda: topics.checked_id(text),
        lambda: topics.node(text, Kind.WINDOW),
        lambda: topics.command(text, "calibrate"),
        lambda: topics.every_command(text),
        lambda: topics.desired(f"group:{text}"),
        lambda: topics.collector_status(text),
        lambda: topics.check(text, "x"),
        lambda: topics.check("x", text),
        lambda: topics.parse(f"earshot/1/n/{text}/window"),
        lambda: topics.parse(f"earshot/1/g/{text}/desired"),
        lambda: topics.parse(f"earshot/1/collector/{text}/status"),
    ]

    for attempt in attempts:
        with pytest.raises(TopicError):
            attempt()


@pytest.mark.parametrize(
    "topic",
    [
        "",
        "/",
        "earshot",
        "earshot/1",
        "earshot/2/n/press-07/window",
        "Earshot/1/n/press-07/window",
        "/earshot/1/n/press-07/window",
        "earshot/1/n/press-07/window/",
        "earshot/1/n/press-07/window/1",
        "earshot/1/n/press-07/Window",
        "earshot/1/n/press-07/collector",
        "earshot/1/n/press-07/deadletter",
        "earshot/1/n/press-07/cmd/identify",
        "earshot/1/n/press-07",
        "earshot/1/g/line-2/window",
        "earshot/1/all/window",
        "earshot/1/collector/main",
        "earshot/1/deadletter/x",
        topics.check("1f0c", "retained"),
        "$SYS/broker/version",
        "homeassistant/status",
    ],
)
def test_foreign_topic_is_refused(topic: str) -> None:
    """A topic that is not in the contract is refused."""
    with pytest.raises(TopicError, match=r"Expected a topic of earshot/1, got"):
        topics.parse(topic)


def test_error_shows_little_of_a_long_topic() -> None:
    """A hostile topic does not fill the log."""
    with pytest.raises(TopicError) as error:
        topics.parse("x" * 60_000)

    assert len(str(error.value)) < 150
