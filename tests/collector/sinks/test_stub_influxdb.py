"""The stub gives the answers that it is asked for, and keeps what came."""

import gzip
import http.client
from collections.abc import Iterator

import pytest

from tests.collector.sinks.stub_influxdb import Answer, Request, StubInfluxDb


@pytest.fixture
def stub() -> Iterator[StubInfluxDb]:
    with StubInfluxDb().running() as running:
        yield running


def post(stub: StubInfluxDb, body: bytes, **headers: str) -> http.client.HTTPResponse:
    connection = http.client.HTTPConnection(stub.url.removeprefix("http://"), timeout=5.0)
    try:
        connection.request("POST", "/api/v2/write?x=1", body, headers)
        response = connection.getresponse()
        response.read()
        return response
    finally:
        connection.close()


def test_success_has_no_content(stub: StubInfluxDb) -> None:
    """As InfluxDB answers a write."""
    assert post(stub, b"m x=1").status == 204


def test_requests_are_kept_unzipped(stub: StubInfluxDb) -> None:
    """Line by line, with the query."""
    post(stub, gzip.compress(b"m x=1\nm x=2"), **{"Content-Encoding": "gzip"})

    (request,) = stub.requests
    assert isinstance(request, Request)
    assert request.lines == ["m x=1", "m x=2"]
    assert request.path == "/api/v2/write?x=1"


def test_other_answers_come_as_asked(stub: StubInfluxDb) -> None:
    """Status and headers."""
    stub.answer = Answer(429, b"{}", {"Retry-After": "7"})

    response = post(stub, b"m x=1")

    assert (response.status, response.headers["Retry-After"]) == (429, "7")


def test_hanging_up_is_no_answer(stub: StubInfluxDb) -> None:
    """The client sees a closed connection."""
    stub.answer = Answer(hang_up=True)

    with pytest.raises(http.client.RemoteDisconnected):
        post(stub, b"m x=1")
