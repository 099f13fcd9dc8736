"""What a later version may make of a message or a file: keys and words that nobody knows yet."""

import copy
import types
from collections.abc import Iterable, Mapping, Sequence
from enum import Enum
from typing import Any, Union, get_args, get_origin

import msgspec

TOMORROW = "invented_tomorrow"
"""A key and a word of a later version."""

Path = tuple[str | int, ...]


def grown(value: Any) -> Any:
    """The same JSON with a key more in every object, and something deep under it."""
    match value:
        case dict():
            return {
                TOMORROW: {"deep": [1, {"er": None}]},
                **{k: grown(v) for k, v in value.items()},
            }
        case list():
            return [grown(each) for each in value]
    return value


def grown_states(value: Any, paths: Iterable[Path]) -> Any:
    """The same JSON with a word that nobody knows in these places."""
    changed = copy.deepcopy(value)
    for *way, last in paths:
        place = changed
        for step in way:
            place = place[step]
        place[last] = TOMORROW
    return changed


def as_published(written: Any, golden: Any) -> Any:
    """What was written, without the keys that the golden file does not have."""
    if isinstance(golden, dict):
        return {k: as_published(written[k], golden[k]) for k in written if k in golden}
    if isinstance(golden, list):
        return [as_published(w, g) for w, g in zip(written, golden, strict=True)]
    return written


def states_of(value: Any, path: Path = ()) -> list[Path]:
    """Where a message has a state, as the steps to get there in its JSON."""
    if isinstance(value, Enum):
        return [path]
    if isinstance(value, msgspec.Struct):
        inner: Iterable[tuple[str | int, Any]] = msgspec.structs.asdict(value).items()
    elif isinstance(value, tuple | list):
        inner = enumerate(value)
    elif isinstance(value, dict):
        inner = value.items()
    else:
        return []
    return [found for step, each in inner for found in states_of(each, (*path, step))]


def required_but_not_published(
    kind: type[msgspec.Struct], published: Sequence[Mapping[str, Any]]
) -> list[str]:
    """Fields without a default that some published JSON of this kind does not have."""
    assert published, f"nothing of {kind.__name__} was published"
    found = []
    for field in msgspec.structs.fields(kind):
        if field.required and any(field.encode_name not in each for each in published):
            found.append(f"{kind.__name__}.{field.name}")
        values = [each[field.encode_name] for each in published if field.encode_name in each]
        for inner, objects in _structs(field.type, values):
            found += required_but_not_published(inner, objects)
    return found


def _structs(
    annotation: Any, values: Sequence[Any]
) -> Iterable[tuple[type[msgspec.Struct], Sequence[Mapping[str, Any]]]]:
    """The structs that an annotation names, each with the objects that were published of it."""
    if isinstance(annotation, type) and issubclass(annotation, msgspec.Struct):
        objects = [value for value in values if isinstance(value, dict)]
        if objects:
            yield annotation, objects
        return
    origin = get_origin(annotation)
    if origin in (tuple, list):
        values = [each for value in values if isinstance(value, list) for each in value]
    elif origin is dict:
        values = [each for value in values if isinstance(value, dict) for each in value.values()]
    elif (
        origin not in (Union, types.UnionType)
        and origin is not None
        and not hasattr(annotation, "__metadata__")
    ):
        return
    for argument in get_args(annotation):
        yield from _structs(argument, values)
