"""The shared store: an InfluxDB with the v2 write API, through influxdb-client.

Of the client only the request is used: its retries and buffer give up after 180 s and drop the
batch, and when to try again, and what to acknowledge, is the service's business. Points are written
with microseconds; counts are integer fields and everything else that is a number is a float.

Not here: making the bucket, and waiting for a database that is not there yet. It may come later.
"""

import gzip
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

import urllib3
from influxdb_client.client.influxdb_client import InfluxDBClient
from influxdb_client.domain.write_precision import WritePrecision
from influxdb_client.rest import ApiException
from influxdb_client.service.write_service import WriteService

from collector.settings import InfluxDbSection
from collector.sinks.hour_figures import HOUR_US, window_hour
from collector.sinks.line_protocol import line
from collector.sinks.sink import PointsRejectedError, SinkUnavailableError
from contract.points import Point
from contract.ranges import Ranges
from contract.records import WindowHour
from contract.topics import Kind

_OK = 200
_NO_CONTENT = 204
_MEANINGS = {
    401: "the token is not valid",
    403: "the token may not write to this bucket",
    404: "no such organisation or bucket",
    429: "it is overloaded",
}
"""For people; every status but those of `_REJECTIONS` is waited out."""

_READ_MEANINGS = {
    401: "the token is not valid",
    403: "the token may not read this bucket",
    404: "no such bucket, or none with this name for InfluxQL (see `influx v1 dbrp create`)",
}

_SECOND_US = 1_000_000

# One value each, in the order of `window_hour`. Each window has a `seq`.
_HOUR_FIGURES = (
    'SELECT count("seq"), count("score"), sum("anomaly"), mean("score"), max("score"), mean("mse"),'
    ' mean("level_dbfs")'
)

# As many rows as an InfluxDB 1.x gives at once, whatever its settings.
_PAGE_ROWS = 10_000

_INVALID, _TOO_LARGE, _UNPROCESSABLE = 400, 413, 422
_REJECTIONS = frozenset((_INVALID, _TOO_LARGE, _UNPROCESSABLE))

# A database that asks for more than this has lost its clock.
_MAX_RETRY_AFTER_SECONDS = 300.0
_SHOWN_CHARACTERS = 200

# Windows become an eighth of their size at level 1, and a tenth at the client's 9, which takes five
# times as long.
_GZIP_LEVEL = 1


class InfluxDbSink:
    """A bucket of an InfluxDB, and if the settings say so another for what is kept for years.

    Raises:
        ValueError: the settings' token or URL cannot be used (`settings.load` has checked them).
    """

    def __init__(self, settings: InfluxDbSection) -> None:
        settings.check_url()
        self._url = settings.url
        self._org = settings.org
        self._bucket = settings.bucket
        self._hourly_bucket = settings.hourly_bucket or settings.bucket
        self._timeout_seconds = settings.timeout_seconds
        self._client = InfluxDBClient(
            settings.url,
            settings.read_token(),
            org=settings.org,
            timeout=round(settings.timeout_seconds * 1000),
            retries=False,
        )
        self._writer = WriteService(self._client.api_client)  # type: ignore[no-untyped-call]

    def write(self, points: Sequence[Point]) -> None:
        """Store points by one request for each bucket.

        Raises:
            SinkUnavailableError: no answer, or one that says nothing about the points.
            PointsRejectedError: the database refuses some of the points, or so many at once.
        """
        hourly = [point for point in points if point.measurement == Kind.WINDOW_HOUR]
        if not hourly:
            self._write(points, self._bucket)
            return
        self._write([p for p in points if p.measurement != Kind.WINDOW_HOUR], self._bucket)
        self._write(hourly, self._hourly_bucket)

    def _write(self, points: Sequence[Point], bucket: str) -> None:
        if not points:
            return
        try:
            body = "\n".join(map(line, points)).encode()
        except UnicodeEncodeError as error:
            raise PointsRejectedError(f"InfluxDB: {error}") from error
        try:
            self._writer.post_write(  # type: ignore[no-untyped-call]
                self._org,
                bucket,
                gzip.compress(body, _GZIP_LEVEL),
                precision=WritePrecision.US,
                content_encoding="gzip",
            )
        except ApiException as error:
            raise self._translated(error, bucket) from error
        except (urllib3.exceptions.HTTPError, OSError, UnicodeDecodeError) as error:
            raise SinkUnavailableError(f"InfluxDB {self._url}: {_shown(str(error))}") from error
        # A web page that welcomes everybody is no database: the client takes any 2xx for success.
        status = self._client.api_client.last_response.status
        if status != _NO_CONTENT:
            raise SinkUnavailableError(
                f"InfluxDB {self._url}: Expected answer {_NO_CONTENT}, got {status};"
                " is this the address of an InfluxDB?"
            )

    def stored_seqs(self, node: str, boot: str) -> Ranges:
        """Numbers of the windows of one boot, by InfluxQL; the token must be allowed to read.

        Raises:
            SinkUnavailableError: no answer, or none to the question.
        """
        where = f"""FROM "window" WHERE "node" = '{node}' AND "boot" = '{boot}'"""
        rows = self._query(f'SELECT count("seq"), min("seq"), max("seq") {where}')
        if not rows:
            return Ranges()
        _, count, lowest, highest = map(int, rows[0])
        if count == highest - lowest + 1:
            return Ranges([(lowest, highest)])
        found = Ranges()
        for offset in range(0, count, _PAGE_ROWS):
            rows = self._query(f'SELECT "seq" {where} LIMIT {_PAGE_ROWS} OFFSET {offset}')
            for _, seq in rows:
                found.add(int(seq), int(seq))
        return found

    def hours(self, node: str, hour_us: int) -> list[WindowHour]:
        """Figures of one hour of a node, for each model, by InfluxQL.

        Raises:
            SinkUnavailableError: no answer, or none to the question.
        """
        begin, end = hour_us // _SECOND_US, (hour_us + HOUR_US) // _SECOND_US
        found = self._series(
            f"""{_HOUR_FIGURES} FROM "window" WHERE "node" = '{node}'"""
            f' AND time >= {begin}s AND time < {end}s GROUP BY "model"'
        )
        return [window_hour(node, hour_us, tags["model"], row[1:]) for tags, (row,) in found]

    def close(self) -> None:
        """Close the connections."""
        self._client.close()  # type: ignore[no-untyped-call]

    def _query(self, influxql: str) -> list[list[Any]]:
        """Rows of one statement about one series, each with its time first."""
        return [row for _, rows in self._series(influxql) for row in rows]

    def _series(self, influxql: str) -> list[tuple[dict[str, str], list[list[Any]]]]:
        """Tags and rows of each series that one statement finds; a row has its time first.

        Not through the client's query API, which speaks Flux alone.
        """
        # A 1.x database with a retention policy is a bucket `database/policy`, as for a write.
        database, _, policy = self._bucket.partition("/")
        options = {"db": database, "q": influxql, "epoch": "us"}
        if policy:
            options["rp"] = policy
        api = self._client.api_client
        try:
            answer = api.rest_client.pool_manager.request(
                "GET",
                f"{self._url.rstrip('/')}/query",
                fields=options,
                headers={"Authorization": api.default_headers["Authorization"]},
                timeout=self._timeout_seconds,
                retries=False,
            )
            if answer.status != _OK:
                raise SinkUnavailableError(
                    f"InfluxDB {self._url}: asked what is stored: {answer.status}"
                    f" {_READ_MEANINGS.get(answer.status, '') or _shown(answer.data.decode())}"
                )
            result = json.loads(answer.data)["results"][0]
            if "error" in result:
                raise SinkUnavailableError(
                    f"InfluxDB {self._url}: asked what is stored: {_shown(str(result['error']))}"
                )
            return [
                (series.get("tags", {}), series["values"]) for series in result.get("series", [])
            ]
        except (urllib3.exceptions.HTTPError, OSError, UnicodeDecodeError) as error:
            raise SinkUnavailableError(f"InfluxDB {self._url}: {_shown(str(error))}") from error
        except (ValueError, LookupError, TypeError) as error:
            raise SinkUnavailableError(
                f"InfluxDB {self._url}: Expected an answer in JSON to a query, got another;"
                " is this the address of an InfluxDB?"
            ) from error

    def _translated(
        self, error: ApiException, bucket: str
    ) -> SinkUnavailableError | PointsRejectedError:
        status, text = error.status, _database_says(error.body)
        # A 400 from something in between (a proxy that wants TLS, say) is not about the points.
        if status in _REJECTIONS and (text is not None or status == _TOO_LARGE):
            return PointsRejectedError(f"InfluxDB {status}: {text or 'request too large'}")
        meaning = _MEANINGS.get(status, "") or _shown(text or str(error.reason))
        return SinkUnavailableError(
            f"InfluxDB {self._url} (organisation {self._org}, bucket {bucket}): {status} {meaning}",
            retry_after_seconds=_retry_after(error),
        )


def _database_says(body: str | None) -> str | None:
    """What InfluxDB's own errors say (`message` in 2.x, `error` in 1.x); None for others'."""
    try:
        answer = json.loads(body or "")
    except ValueError:
        return None
    if not isinstance(answer, dict):
        return None
    text = answer.get("message") or answer.get("error")
    return _shown(str(text)) if text else None


def _retry_after(error: ApiException) -> float | None:
    headers: Mapping[str, str] = error.headers or {}
    text = headers.get("Retry-After", "")
    if not re.fullmatch(r"[0-9]{1,9}", text):
        return None
    return min(float(text), _MAX_RETRY_AFTER_SECONDS)


def _shown(text: str) -> str:
    """One printable line of bounded length."""
    return "".join(c if c.isprintable() else " " for c in text[:_SHOWN_CHARACTERS])
