"""How the vocabulary grows: what may be required, and what tomorrow's messages are today.

The rule is at the top of `contract.messages`. What lies on disks is in `tests/test_upgrades.py`.
"""

import json
from enum import Enum
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import msgspec
import pytest

from contract.desired import Desired
from contract.errors import MessageError, ReleaseError
from contract.messages import TRAVELLING, Backlog, Message, Window, decode, encode
from contract.points import points
from contract.release import Manifest, decode_manifest
from contract.signed_desired import open_desired, sign_desired
from contract.states import CODES, OpenEnum
from tests.rig.examples import EXAMPLES
from tests.rig.grown import (
    TOMORROW,
    as_published,
    grown,
    grown_states,
    required_but_not_published,
    states_of,
)
from tests.rig.signers import SIGNER, TRUSTED

MANIFESTS = sorted((Path(__file__).parents[1] / "data/golden/format-1").glob("*.json"))


def published(kind: type[Message]) -> list[dict[str, Any]]:
    """The golden files of one kind of message."""
    return [
        json.loads(example.golden(name))
        for name, example in EXAMPLES.items()
        if type(example.message) is kind
    ]


def types_in(annotation: Any) -> set[Any]:
    """Every type that an annotation names, and in the structs among them."""
    if isinstance(annotation, type) and issubclass(annotation, msgspec.Struct):
        inner = [
            field.type for field in msgspec.structs.fields(annotation) if field.name != "schema"
        ]
        return {annotation}.union(*map(types_in, inner))
    if get_origin(annotation) is Literal:
        return {annotation}
    arguments = get_args(annotation)
    if not arguments:
        return {annotation}
    return set().union(*map(types_in, arguments))


@pytest.mark.parametrize("kind", TRAVELLING)
def test_nothing_is_required_that_was_not_published(kind: type[Message]) -> None:
    """A field that came later has a default: messages of before have no such key."""
    assert required_but_not_published(kind, published(kind)) == []


def test_field_that_came_later_and_is_required_is_found() -> None:
    """Also in what is nested: it would cost every message of before."""

    class LaterWindow(Window, frozen=True, kw_only=True):
        crest_db: float | None

    class LaterBacklog(Backlog, frozen=True, kw_only=True):
        windows: tuple[LaterWindow, ...]

    found = required_but_not_published(LaterBacklog, published(Backlog))

    assert found == ["LaterWindow.crest_db"]


@pytest.mark.parametrize("kind", TRAVELLING)
def test_nothing_that_was_published_has_gone(kind: type[Message]) -> None:
    """A key that goes away, or changes its name, is a new schema."""
    keys = {key for message in published(kind) for key in message}

    assert keys <= set(kind.__struct_fields__)


def test_order_and_manifest_require_nothing_new() -> None:
    """They lie in retained topics and on disks for years."""
    order = {
        "schema": 1,
        "at_us": 1,
        "to": "all",
        "serial": 1,
        "percent": 100.0,
        "allow_older": False,
        "before": None,
        "wanted": {"release": "fan@1", "manifest_sha256": "0" * 64},
    }

    assert required_but_not_published(Desired, [order]) == []
    assert (
        required_but_not_published(Manifest, [json.loads(p.read_bytes()) for p in MANIFESTS]) == []
    )


def test_every_state_has_a_neutral_member() -> None:
    """No message carries a closed set of words: what a newer sender says must not break it."""
    found = set().union(*(types_in(kind) for kind in TRAVELLING))
    enums = {each for each in found if isinstance(each, type) and issubclass(each, Enum)}

    assert enums == {kind for kind in CODES if issubclass(kind, OpenEnum)}
    assert [each for each in found if get_origin(each) is Literal] == []
    for kind in enums:
        assert kind("what nobody has said yet") is kind["UNKNOWN"]
        assert kind["UNKNOWN"].value == "unknown"


@pytest.mark.parametrize("wrong", [3, None, True, ["normal"], {"normal": 1}])
def test_what_is_no_word_is_no_state(wrong: object) -> None:
    """Only a word can be one of tomorrow's; anything else is malformed, as ever."""
    payload = json.loads(EXAMPLES["window"].golden("window")) | {"state": wrong}

    with pytest.raises(MessageError):
        decode(EXAMPLES["window"].topic, json.dumps(payload).encode())


@pytest.mark.parametrize(
    ("name", "path"),
    [(name, path) for name in EXAMPLES for path in states_of(EXAMPLES[name].message)],
)
def test_unknown_word_in_any_place_keeps_the_message(
    name: str, path: tuple[str | int, ...]
) -> None:
    """One state is unknown, and all the rest is what it was; it can be stored."""
    example = EXAMPLES[name]
    payload = grown_states(json.loads(example.golden(name)), [path])

    message = decode(example.topic, json.dumps(payload).encode())

    expected = json.loads(example.golden(name))
    place: Any = expected
    for step in path[:-1]:
        place = place[step]
    place[path[-1]] = "unknown"
    assert as_published(json.loads(encode(message)), expected) == expected
    for point in points(message, arrived_us=0):
        for key, value in point.fields.items():
            if value == "unknown":
                assert isinstance(point.fields[f"{key}_code"], int)


@pytest.mark.parametrize("name", EXAMPLES)
def test_message_of_tomorrow_is_read_today(name: str) -> None:
    """New keys everywhere, also inside of what is nested, and new words for every state."""
    example = EXAMPLES[name]
    old = json.loads(example.golden(name))
    states = states_of(example.message)
    new = grown(grown_states(old, states))

    message = decode(example.topic, json.dumps(new).encode())

    assert TOMORROW in json.dumps(new)
    assert type(message) is type(example.message)
    if not states:
        assert message == example.message


def test_order_of_tomorrow_is_obeyed_today() -> None:
    """A signed order with keys that this version does not know says what it says."""
    desired = Desired(
        at_us=1, to="all", serial=2, wanted=None, percent=50.0, before=None, allow_older=True
    )
    payload = grown(json.loads(msgspec.json.encode(desired)))
    envelope = SIGNER.sign(json.dumps(payload).encode(), "application/vnd.earshot.desired+json")

    assert open_desired("earshot/1/all/desired", envelope, TRUSTED) == desired
    assert open_desired("earshot/1/all/desired", sign_desired(desired, SIGNER), TRUSTED) == desired


@pytest.mark.parametrize("path", MANIFESTS, ids=lambda path: path.stem)
def test_manifest_of_tomorrow_is_read_today(path: Path) -> None:
    """Keys that this version does not know change nothing of how it scores."""
    text = path.read_bytes()

    assert decode_manifest(json.dumps(grown(json.loads(text))).encode()) == decode_manifest(text)


@pytest.mark.parametrize("key", ["output", "error", "quantisation"])
def test_model_that_cannot_be_honoured_is_refused(key: str) -> None:
    """How a model is to be run is no state: a node that does not know the word must not run it."""
    manifest = json.loads(MANIFESTS[0].read_bytes())
    manifest["models"][0][key] = TOMORROW

    with pytest.raises(ReleaseError, match="Expected a manifest of format 1"):
        decode_manifest(json.dumps(manifest).encode())
