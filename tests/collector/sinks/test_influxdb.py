"""What InfluxDB answers becomes: stored, not now, or not these."""

import json
from collections.abc import Iterator
from contextlib import closing
from urllib.parse import parse_qs, urlsplit

import pytest

from collector.settings import InfluxDbSection
from collector.sinks.influxdb import InfluxDbSink
from collector.sinks.sink import PointsRejectedError, SinkUnavailableError
from contract.points import points
from tests.collector.sinks.stub_influxdb import Answer, StubInfluxDb
from tests.rig.examples import BOOT, START_US, WINDOW_HOUR, window_points


@pytest.fixture
def stub() -> Iterator[StubInfluxDb]:
    with StubInfluxDb().running() as running:
        yield running


@pytest.fixture
def sink(stub: StubInfluxDb) -> Iterator[InfluxDbSink]:
    with closing(sink_for(stub.url)) as opened:
        yield opened


def sink_for(url: str, *, timeout_seconds: float = 5.0) -> InfluxDbSink:
    return InfluxDbSink(
        InfluxDbSection(
            url=url, org="o", bucket="b", token="secret", timeout_seconds=timeout_seconds
        )
    )


def test_points_are_written_with_microseconds(sink: InfluxDbSink, stub: StubInfluxDb) -> None:
    """One request, zipped, with token, organisation, bucket and precision."""
    sink.write(window_points(0, 1))

    (request,) = stub.requests
    query = {name: values[0] for name, values in parse_qs(urlsplit(request.path).query).items()}
    assert query == {"org": "o", "bucket": "b", "precision": "us"}
    assert request.headers["authorization"] == "Token secret"
    assert request.headers["content-encoding"] == "gzip"
    assert [line.split()[-1] for line in request.lines] == [
        str(START_US),
        str(START_US + 1_000_000),
    ]


def test_types_of_fields_are_fixed(sink: InfluxDbSink, stub: StubInfluxDb) -> None:
    """Counts, flags and codes are integers; measured values are floats even when they are whole."""
    sink.write(window_points(7))

    tags, fields, _ = stub.requests[0].lines[0].split()
    values = dict(pair.split("=") for pair in fields.split(","))
    assert tags == "window,model=fan@17,node=press-07"
    assert (values["seq"], values["anomaly"], values["state_code"]) == ("7i", "0i", "3i")
    assert (values["mse"], values["threshold"]) == ("31", "45")
    assert values["boot"] == f'"{BOOT}"'


def test_no_points_are_no_request(sink: InfluxDbSink, stub: StubInfluxDb) -> None:
    """An empty batch does not bother the database."""
    sink.write([])

    assert stub.requests == []


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (400, b'{"code":"invalid","message":"unable to parse"}'),
        (400, b'{"error":"partial write: field type conflict"}'),
        (422, b'{"code":"unprocessable entity","message":"failure writing points"}'),
        (413, b'{"code":"request too large","message":"cannot read data"}'),
        (413, b"<html>413 Request Entity Too Large</html>"),
    ],
)
def test_refused_points_are_to_be_halved(
    sink: InfluxDbSink, stub: StubInfluxDb, status: int, body: bytes
) -> None:
    """The database works and does not want these, or not so many."""
    stub.answer = Answer(status, body)

    with pytest.raises(PointsRejectedError, match=str(status)):
        sink.write(window_points(0, 1))
    assert len(stub.requests) == 1


@pytest.mark.parametrize(
    ("status", "text"),
    [
        (401, "token is not valid"),
        (403, "may not write"),
        (404, "no such organisation or bucket"),
        (429, "overloaded"),
        (500, "broken"),
        (503, "broken"),
        (504, "broken"),
    ],
)
def test_other_failures_are_waited_out(
    sink: InfluxDbSink, stub: StubInfluxDb, status: int, text: str
) -> None:
    """They say nothing about the points; the client does not try by itself."""
    stub.answer = Answer(status, b'{"code":"any","message":"broken"}')

    with pytest.raises(SinkUnavailableError, match=f"{status} .*{text}") as caught:
        sink.write(window_points(0))
    assert len(stub.requests) == 1
    assert caught.value.retry_after_seconds is None
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("status", [400, 422])
def test_refusal_by_something_in_between_is_waited_out(
    sink: InfluxDbSink, stub: StubInfluxDb, status: int
) -> None:
    """A proxy that wants TLS says 400 to everything; no point is to blame for that."""
    stub.answer = Answer(status, b"<html>The plain HTTP request was sent to HTTPS port</html>")

    with pytest.raises(SinkUnavailableError):
        sink.write(window_points(0))


@pytest.mark.parametrize(
    "answer",
    [
        Answer(200, b"<html>Welcome</html>"),
        Answer(302, b"", {"Location": "/login"}),
        Answer(500, b"\xff\xfe"),
        Answer(hang_up=True),
    ],
)
def test_something_that_is_no_influxdb_is_waited_out(
    sink: InfluxDbSink, stub: StubInfluxDb, answer: Answer
) -> None:
    """A login page has stored nothing, however friendly its answer."""
    stub.answer = answer

    with pytest.raises(SinkUnavailableError):
        sink.write(window_points(0))


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("7", 7.0), ("86400", 300.0), ("Fri, 31 Dec 1999 23:59:59 GMT", None), ("-1", None)],
)
def test_retry_after_is_passed_on(
    sink: InfluxDbSink, stub: StubInfluxDb, text: str, seconds: float | None
) -> None:
    """In seconds, within reason."""
    stub.answer = Answer(503, b"{}", {"Retry-After": text})

    with pytest.raises(SinkUnavailableError) as caught:
        sink.write(window_points(0))
    assert caught.value.retry_after_seconds == seconds


def test_silence_is_waited_out(stub: StubInfluxDb) -> None:
    """After the time-out of one write."""
    stub.answer = Answer(silent=True)

    with (
        closing(sink_for(stub.url, timeout_seconds=0.1)) as sink,
        pytest.raises(SinkUnavailableError, match="timed out"),
    ):
        sink.write(window_points(0))


def test_database_may_come_later() -> None:
    """Opening asks nothing; writing says that nobody is there."""
    with (
        closing(sink_for("http://127.0.0.1:9")) as sink,
        pytest.raises(SinkUnavailableError, match="refused"),
    ):
        sink.write(window_points(0))


def answer_of(*rows: list[int]) -> Answer:
    """What InfluxDB says to a query about one series."""
    series = [{"name": "window", "columns": [], "values": rows}] if rows else []
    return Answer(200, json.dumps({"results": [{"statement_id": 0, "series": series}]}).encode())


def test_stored_windows_without_a_gap_are_one_question(
    sink: InfluxDbSink, stub: StubInfluxDb
) -> None:
    """By InfluxQL, with the token, about the bucket as a database."""
    stub.answer = answer_of([0, 5, 3, 7])

    assert list(sink.stored_seqs("press-07", BOOT)) == [(3, 7)]

    (request,) = stub.requests
    parts = urlsplit(request.path)
    query = {name: values[0] for name, values in parse_qs(parts.query).items()}
    assert parts.path == "/query"
    assert (query["db"], query["epoch"], query.get("rp")) == ("b", "us", None)
    assert query["q"] == (
        'SELECT count("seq"), min("seq"), max("seq") FROM "window"'
        f""" WHERE "node" = 'press-07' AND "boot" = '{BOOT}'"""
    )
    assert request.headers["authorization"] == "Token secret"


def test_nothing_stored_is_no_range(sink: InfluxDbSink, stub: StubInfluxDb) -> None:
    """A database without the measurement gives no series."""
    stub.answer = answer_of()

    assert len(sink.stored_seqs("press-07", BOOT)) == 0


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        (Answer(401, b'{"error":"no"}'), "401 the token is not valid"),
        (Answer(403, b'{"error":"no"}'), "403 the token may not read this bucket"),
        (Answer(404, b'{"error":"no"}'), "404 no such bucket"),
        (Answer(503, b"busy"), "503 busy"),
        (Answer(200, b'{"results":[{"error":"database not found"}]}'), "database not found"),
        (Answer(200, b"<html>Welcome</html>"), "is this the address of an InfluxDB"),
        (Answer(200, b"[]"), "is this the address of an InfluxDB"),
        (Answer(200, b"\xff"), "InfluxDB http"),
        (Answer(302, b"", {"Location": "/login"}), "302"),
        (Answer(hang_up=True), "InfluxDB http"),
    ],
)
def test_question_without_an_answer_is_waited_out(
    sink: InfluxDbSink, stub: StubInfluxDb, answer: Answer, text: str
) -> None:
    """With the reason, and without the token."""
    stub.answer = answer

    with pytest.raises(SinkUnavailableError, match=text) as caught:
        sink.stored_seqs("press-07", BOOT)
    assert "secret" not in str(caught.value)


def test_question_that_is_met_by_silence_is_waited_out(stub: StubInfluxDb) -> None:
    """After the time-out of one request."""
    stub.answer = Answer(silent=True)

    with (
        closing(sink_for(stub.url, timeout_seconds=0.1)) as sink,
        pytest.raises(SinkUnavailableError, match="timed out"),
    ):
        sink.stored_seqs("press-07", BOOT)


def test_hour_is_one_question(sink: InfluxDbSink, stub: StubInfluxDb) -> None:
    """In whole seconds, which every InfluxDB reads; counts of nothing are null, and become 0."""
    rows = [[1_700_000_000_000_000, 2, None, None, None, None, None, -31]]
    series = {"name": "window", "tags": {"model": "fan@17"}, "columns": [], "values": rows}
    stub.answer = Answer(200, json.dumps({"results": [{"series": [series]}]}).encode())

    (hour,) = sink.hours("press-07", 1_699_999_200_000_000)

    (request,) = stub.requests
    query = {n: values[0] for n, values in parse_qs(urlsplit(request.path).query).items()}
    assert query["q"].endswith(
        """ FROM "window" WHERE "node" = 'press-07'"""
        ' AND time >= 1699999200s AND time < 1700002800s GROUP BY "model"'
    )
    assert (hour.model, hour.start_us) == ("fan@17", 1_699_999_200_000_000)
    assert (hour.windows, hour.scored, hour.flagged) == (2, 0, 0)
    assert (hour.score_mean, hour.level_mean_dbfs) == (None, -31.0)


def test_missing_hourly_bucket_is_named(stub: StubInfluxDb) -> None:
    """Windows go on elsewhere: the error has to say which of the two is meant."""
    settings = InfluxDbSection(url=stub.url, bucket="b", hourly_bucket="years", token="secret")
    stub.answer = Answer(404, b'{"code":"not found","message":"bucket"}')
    with (
        closing(InfluxDbSink(settings)) as sink,
        pytest.raises(SinkUnavailableError, match="bucket years"),
    ):
        sink.write(list(points(WINDOW_HOUR, arrived_us=0)))
