"""Lines are those of influxdb-client, byte for byte."""

import msgspec
from hypothesis import given
from hypothesis import strategies as st
from influxdb_client.client.write.point import Point as ClientPoint

from collector.sinks.line_protocol import line
from contract.points import FieldValue, Point, points
from contract.records import STORED
from tests.rig.examples import EXAMPLES, MADE_BY_COLLECTORS

# Everything that can be sent at all; what the protocol escapes, often.
CHARACTERS = st.one_of(
    st.sampled_from(" ,=\"\\\n\r\t#'µ"), st.characters(exclude_categories=["Cs"])
)
TEXT = st.text(CHARACTERS)
NAMES = st.text(CHARACTERS, min_size=1).filter(lambda text: "\\" not in text)
VALUES = st.one_of(TEXT, st.integers(), st.floats(allow_nan=False, allow_infinity=False))


def by_client(point: Point) -> str:
    made = msgspec.structs.asdict(point)
    return str(ClientPoint.from_dict({**made, "time": point.time_us}).to_line_protocol())


@given(
    NAMES.filter(lambda text: not text.startswith("#")),
    st.dictionaries(NAMES, st.one_of(st.just(""), NAMES), max_size=3),
    st.dictionaries(NAMES, VALUES, min_size=1, max_size=5),
    st.integers(0, 2**53),
)
def test_any_point_is_the_line_of_the_client(
    measurement: str, tags: dict[str, str], fields: dict[str, FieldValue], time_us: int
) -> None:
    """Whatever is in names and texts; the client sorts fields, and we leave them."""
    point = Point(measurement, tags, dict(sorted(fields.items())), time_us)

    assert line(point) == by_client(point)


def test_every_stored_message_is_the_line_of_the_client() -> None:
    """With the fields that it really has."""
    messages = [*(example.message for example in EXAMPLES.values()), *MADE_BY_COLLECTORS.values()]
    stored = [message for message in messages if isinstance(message, STORED)]
    found = [point for message in stored for point in points(message, arrived_us=1)]

    assert {point.measurement for point in found} == {str(kind.KIND) for kind in STORED}
    for point in found:
        fields = dict(sorted(point.fields.items()))
        assert line(Point(point.measurement, point.tags, fields, point.time_us)) == by_client(point)


def test_types_of_fields_are_told_apart() -> None:
    """A whole float has no `i`, an integer has one, and a number in a text is a text."""
    fields: dict[str, FieldValue] = {"f": 45.0, "i": 45, "t": "45", "b": True, "small": 1e-300}

    assert line(Point("m", {}, fields, 7)) == 'm f=45,i=45i,t="45",b=1i,small=1e-300 7'
