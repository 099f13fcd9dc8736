"""The databases of a test's own do what tests of earshot lean on."""

from collections.abc import Iterator

import pytest
from influxdb_client.client.influxdb_client import InfluxDBClient
from influxdb_client.client.write_api import SYNCHRONOUS
from influxdb_client.rest import ApiException

from tests.rig.databases import InfluxDb, QueryError


@pytest.fixture
def client(influxdb: InfluxDb) -> Iterator[InfluxDBClient]:
    with InfluxDBClient(influxdb.url, influxdb.token, org=influxdb.org) as client:
        yield client


def write(client: InfluxDBClient, bucket: str, lines: str) -> None:
    client.write_api(write_options=SYNCHRONOUS).write(bucket, record=lines)


def test_influxdb_stores_what_the_v2_client_writes(
    influxdb: InfluxDb, client: InfluxDBClient
) -> None:
    """Lines written by influxdb-client are read back with their tags, types and time."""
    write(
        client, influxdb.bucket, 'score,node=n1 value=0.5,count=3i,state="on" 1700000000000000000'
    )

    rows = influxdb.query("SELECT * FROM score")

    assert rows == [
        {"time": "2023-11-14T22:13:20Z", "node": "n1", "value": 0.5, "count": 3, "state": "on"}
    ]
    assert client.ping()


def test_influxdb_query_gives_the_tags_of_each_series(
    influxdb: InfluxDb, client: InfluxDBClient
) -> None:
    """A row of a grouped query carries the tags of its group."""
    write(client, influxdb.bucket, "score,node=n1 value=1 1\nscore,node=n2 value=2 1")

    rows = influxdb.query("SELECT max(value) FROM score GROUP BY node")

    assert [(row["node"], row["max"]) for row in rows] == [("n1", 1), ("n2", 2)]


def test_influxdb_begins_with_an_empty_bucket(influxdb: InfluxDb, client: InfluxDBClient) -> None:
    """Nothing of an earlier test is in the bucket, nor of an earlier bucket in a new one."""
    assert influxdb.query("SHOW MEASUREMENTS") == []
    write(client, influxdb.bucket, "score value=1 1")

    influxdb.new_bucket()

    assert influxdb.query("SELECT * FROM score") == []


def test_influxdb_remembers_after_stop(influxdb: InfluxDb, client: InfluxDBClient) -> None:
    """While influxd is stopped the front answers 502; afterwards the data are there again."""
    write(client, influxdb.bucket, "score value=1 1")

    influxdb.stop()
    with pytest.raises(ApiException) as away:
        write(client, influxdb.bucket, "score value=2 2")
    with pytest.raises(QueryError) as unasked:
        influxdb.query("SELECT * FROM score")
    influxdb.start()
    write(client, influxdb.bucket, "score value=3 3")

    assert (away.value.status, unasked.value.status) == (502, 502)
    assert [row["value"] for row in influxdb.query("SELECT value FROM score")] == [1, 3]


def test_influxdb_remembers_after_kill(influxdb: InfluxDb, client: InfluxDBClient) -> None:
    """A point that was acknowledged survives SIGKILL."""
    write(client, influxdb.bucket, "score value=1 1")

    influxdb.kill()
    influxdb.start()

    assert [row["value"] for row in influxdb.query("SELECT value FROM score")] == [1]


def test_influxdb_left_away(influxdb: InfluxDb) -> None:
    """A test may end with influxd killed..."""
    influxdb.kill()

    assert not influxdb.running


def test_influxdb_is_back(influxdb: InfluxDb) -> None:
    """... and the next one finds it running."""
    assert influxdb.running


def test_influxdb_refuses_a_wrong_token(influxdb: InfluxDb) -> None:
    """Another token is answered by 401, and nothing is stored."""
    with (
        InfluxDBClient(influxdb.url, "wrong", org=influxdb.org) as client,
        pytest.raises(ApiException) as refused,
    ):
        write(client, influxdb.bucket, "score value=1 1")

    assert refused.value.status == 401
    assert influxdb.query("SELECT * FROM score") == []


def test_influxdb_refuses_an_unknown_bucket(client: InfluxDBClient) -> None:
    """A bucket that was not made is answered by 404."""
    with pytest.raises(ApiException) as refused:
        write(client, "no_such_bucket", "score value=1 1")

    assert refused.value.status == 404


def test_influxdb_query_says_what_is_wrong(influxdb: InfluxDb) -> None:
    """A statement that does not parse, and one that cannot run, are errors."""
    with pytest.raises(QueryError, match="error parsing query") as unparsed:
        influxdb.query("SELECT FROM")
    with pytest.raises(QueryError, match="undefined function") as unknown:
        influxdb.query("SELECT histogram(value) FROM score")

    assert (unparsed.value.status, unknown.value.status) == (400, 200)
