"""How messages become points of a time series, the same for InfluxDB and SQLite.

A point is identified by measurement, tags and time, all taken from the message itself, so that
storing a message twice changes nothing. Booleans become 0 or 1. Each state is written twice, as
text and as an integer `<name>_code` (InfluxQL can neither average booleans nor group by text). What
is not a count is always a float. Missing values are left out.
"""

import builtins
from collections.abc import Callable, Iterator
from functools import cache
from operator import attrgetter
from typing import Any, get_args, get_origin

import msgspec

from contract.messages import Account, Backlog, Message, Status
from contract.records import stored_fields
from contract.states import CODES, PresenceReason

FieldValue = str | int | float


class Point(msgspec.Struct, frozen=True):
    """One row of a time series."""

    measurement: str
    tags: dict[str, str]
    fields: dict[str, FieldValue]
    time_us: int


def points(message: Message, *, arrived_us: int) -> Iterator[Point]:
    """The points that store a message.

    Args:
        message: any message of the contract.
        arrived_us: when it reached the collector, in microseconds since 1970; used for a last
            will alone, whose own time is that of the connect before.
    """
    if isinstance(message, Backlog):
        for window in message.windows:
            yield _point(window, window.start_us)
    elif isinstance(message, Account):
        # It is one side of a ledger, which a collector makes and stores.
        return
    elif isinstance(message, Status) and message.reason is PresenceReason.LOST:
        yield _point(message, arrived_us)
    else:
        yield _point(message, getattr(message, message.TIME))


@cache
def columns(message: type[Message]) -> dict[str, type[FieldValue]]:
    """Every stored field of a measurement and its type, tags left out, for a table's columns."""
    found: dict[str, type[FieldValue]] = {}
    for name, annotation in stored_fields(message).items():
        if name in message.TAGS:
            continue
        base = _base_type(annotation)
        found[name] = int if base is bool else base if base in (int, float) else str
        if base in CODES:
            found[f"{name}_code"] = int
    return found


def _point(message: Message, time_us: int) -> Point:
    # Looked up once per kind of message: this runs for every window of a fleet.
    read, conversions = _reading(type(message))
    fields = {
        name: convert(value)
        for (name, convert), value in zip(conversions, read(message), strict=True)
        if value is not None
    }
    tags = {name: getattr(message, name) for name in message.TAGS}
    return Point(str(message.KIND), tags, fields, time_us)


_Read = Callable[[Message], tuple[Any, ...]]
_Convert = Callable[[Any], FieldValue]


@cache
def _reading(message: type[Message]) -> tuple[_Read, tuple[tuple[str, _Convert], ...]]:
    """What reads the values of a message's columns, and the name and conversion of each."""
    types = {name: _base_type(annotation) for name, annotation in stored_fields(message).items()}
    conversions: list[tuple[str, _Convert]] = []
    for name, kind in columns(message).items():
        if name not in types:
            conversions.append((name, CODES[types[name.removesuffix("_code")]].index))
        else:
            # A field's type is fixed by its first point: 45 is stored as 45.0 where a float is due.
            conversions.append((name, _text if kind is str else kind))
    names = [name if name in types else name.removesuffix("_code") for name, _ in conversions]
    if len(names) > 1:
        return attrgetter(*names), tuple(conversions)
    # Given one name, `attrgetter` reads no tuple.
    return lambda message: tuple(getattr(message, name) for name in names), tuple(conversions)


def _text(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)


def _base_type(annotation: Any) -> Any:
    """The type below `Annotated[...]` and `... | None`; sequences are stored as text."""
    match get_origin(annotation):
        case None:
            return annotation
        case builtins.tuple:
            return str
    return _base_type(next(a for a in get_args(annotation) if a is not type(None)))
