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

import urllib3
from influxdb_client.client.influxdb_client import InfluxDBClient
from influxdb_client.domain.write_precision import WritePrecision
from influxdb_client.rest import ApiException
from influxdb_client.service.write_service import WriteService

from collector.settings import InfluxDbSection
from collector.sinks import PointsRejectedError, SinkUnavailableError
from collector.sinks.line_protocol import line
from contract.points import Point

_NO_CONTENT = 204
_MEANINGS = {
    401: "the token is not valid",
    403: "the token may not write to this bucket",
    404: "no such organisation or bucket",
    429: "it is overloaded",
}
"""For people; every status but those of `_REJECTIONS` is waited out."""

_INVALID, _TOO_LARGE, _UNPROCESSABLE = 400, 413, 422
_REJECTIONS = frozenset((_INVALID, _TOO_LARGE, _UNPROCESSABLE))

# A database that asks for more than this has lost its clock.
_MAX_RETRY_AFTER_SECONDS = 300.0
_SHOWN_CHARACTERS = 200

# Windows become an eighth of their size at level 1, and a tenth at the client's 9, which takes five
# times as long.
_GZIP_LEVEL = 1


class InfluxDbSink:
    """A bucket of an InfluxDB.

    Raises:
        ValueError: the settings' token or URL cannot be used (`settings.load` has checked them).
    """

    def __init__(self, settings: InfluxDbSection) -> None:
        settings.check_url()
        self._url = settings.url
        self._org = settings.org
        self._bucket = settings.bucket
        self._client = InfluxDBClient(
            settings.url,
            settings.read_token(),
            org=settings.org,
            timeout=round(settings.timeout_seconds * 1000),
            retries=False,
        )
        self._writer = WriteService(self._client.api_client)  # type: ignore[no-untyped-call]

    def write(self, points: Sequence[Point]) -> None:
        """Store points by one request.

        Raises:
            SinkUnavailableError: no answer, or one that says nothing about the points.
            PointsRejectedError: the database refuses some of the points, or so many at once.
        """
        if not points:
            return
        try:
            body = "\n".join(map(line, points)).encode()
        except UnicodeEncodeError as error:
            raise PointsRejectedError(f"InfluxDB: {error}") from error
        try:
            self._writer.post_write(  # type: ignore[no-untyped-call]
                self._org,
                self._bucket,
                gzip.compress(body, _GZIP_LEVEL),
                precision=WritePrecision.US,
                content_encoding="gzip",
            )
        except ApiException as error:
            raise self._translated(error) from error
        except (urllib3.exceptions.HTTPError, OSError, UnicodeDecodeError) as error:
            raise SinkUnavailableError(f"InfluxDB {self._url}: {_shown(str(error))}") from error
        # A web page that welcomes everybody is no database: the client takes any 2xx for success.
        status = self._client.api_client.last_response.status
        if status != _NO_CONTENT:
            raise SinkUnavailableError(
                f"InfluxDB {self._url}: Expected answer {_NO_CONTENT}, got {status};"
                " is this the address of an InfluxDB?"
            )

    def close(self) -> None:
        """Close the connections."""
        self._client.close()  # type: ignore[no-untyped-call]

    def _translated(self, error: ApiException) -> SinkUnavailableError | PointsRejectedError:
        status, text = error.status, _database_says(error.body)
        # A 400 from something in between (a proxy that wants TLS, say) is not about the points.
        if status in _REJECTIONS and (text is not None or status == _TOO_LARGE):
            return PointsRejectedError(f"InfluxDB {status}: {text or 'request too large'}")
        meaning = _MEANINGS.get(status, "") or _shown(text or str(error.reason))
        return SinkUnavailableError(
            f"InfluxDB {self._url} (organisation {self._org}, bucket {self._bucket}):"
            f" {status} {meaning}",
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
