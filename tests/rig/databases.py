"""InfluxDB 1.6.7 behind nginx as the v2 write API.

Not here: InfluxDB 2.x itself. 1.6.7 stores the good lines of a bad batch where 2.x stores none,
and never answers 422, 413 or 429. It takes any organisation.
"""

import http.client
import itertools
import json
from pathlib import Path
from typing import Any, Final, Literal, Self
from urllib.parse import urlencode

from tests.rig.installed import require
from tests.rig.ports import HOST, free_port
from tests.rig.server import Server


class QueryError(Exception):
    """InfluxDB, or the front without it, refused a query."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(f"HTTP {status}: {text}")
        self.status = status


class InfluxDb(Server):
    """InfluxDB 1.6.7, and before it an nginx that speaks as much of the v2 API as a writer needs.

    `url`, `org`, `bucket` and `token` are for influxdb-client. `stop`, `kill` and `start` act on
    the database alone: the front stays and answers 502.
    """

    org: Final = "earshot"
    token: Final = "test-token"

    def __init__(self, directory: Path) -> None:
        (directory / "front").mkdir(parents=True, exist_ok=True)
        config_file = directory / "influxdb.conf"
        port, rpc_port, front_port = free_port(), free_port(), free_port()
        super().__init__(directory, [require("influxd"), "-config", str(config_file)], port=port)
        config_file.write_text(
            _INFLUXD_CONFIG.format(directory=directory, host=HOST, port=port, rpc_port=rpc_port)
        )
        self._front = _Front(
            directory / "front", port=front_port, database=f"{HOST}:{port}", token=self.token
        )
        self._names = (f"bucket_{number}" for number in itertools.count(1))
        self.url = f"http://{HOST}:{front_port}"
        self.bucket = next(self._names)

    def __enter__(self) -> Self:
        try:
            self._front.start()
            self.start()
            self._create_bucket()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()
        self._front.kill()

    def new_bucket(self) -> str:
        """Make an empty bucket and let `bucket` name it; a writer to an old one cannot reach it."""
        self.bucket = next(self._names)
        self._create_bucket()
        return self.bucket

    def query(self, influxql: str, *, bucket: str | None = None) -> list[dict[str, Any]]:
        """Rows of all statements and series: tags and columns by name, `time` in RFC 3339.

        Args:
            influxql: statements.
            bucket: that they are about; None is `bucket`.

        Raises:
            QueryError: InfluxDB refused a statement, or is away (`status` 502).
        """
        status, body = _http(
            self._front.port,
            "POST",
            "/query",
            urlencode({"db": bucket or self.bucket, "q": influxql}),
        )
        if status != http.client.OK:
            raise QueryError(status, body)
        rows: list[dict[str, Any]] = []
        for result in json.loads(body)["results"]:
            if "error" in result:
                raise QueryError(status, result["error"])
            for series in result.get("series", []):
                tags, columns = series.get("tags", {}), series["columns"]
                rows += [tags | dict(zip(columns, row, strict=True)) for row in series["values"]]
        return rows

    def _create_bucket(self) -> None:
        self.query(f'CREATE DATABASE "{self.bucket}"')

    def _answers(self) -> bool:
        return _http(self.port, "GET", "/ping")[0] == http.client.NO_CONTENT


class _Front(Server):
    """nginx with the v2 write API before InfluxDB 1.x, by configuration alone."""

    def __init__(self, directory: Path, *, port: int, database: str, token: str) -> None:
        config_file = directory / "nginx.conf"
        log_file = str(directory / "nginx.log")
        command = [require("nginx"), "-p", str(directory), "-c", str(config_file), "-e", log_file]
        super().__init__(directory, command, port=port)
        config = _NGINX_CONFIG
        for name, value in (("LISTEN", f"{HOST}:{port}"), ("DATABASE", database), ("TOKEN", token)):
            config = config.replace(f"@{name}@", value)
        config_file.write_text(config)

    def _answers(self) -> bool:
        return _http(self.port, "GET", "/health")[0] == http.client.OK


_INFLUXD_CONFIG: Final = """\
reporting-disabled = true
bind-address = "{host}:{rpc_port}"

[meta]
dir = "{directory}/meta"

[data]
dir = "{directory}/data"
wal-dir = "{directory}/wal"
index-version = "tsi1"

[http]
bind-address = "{host}:{port}"

[monitor]
store-enabled = false
"""

# One process: a killed master would leave its workers behind.
# No `us` in the 1.x API: it would be read as ns. A v2 bucket `database/policy` is two arguments.
_NGINX_CONFIG: Final = """\
daemon off;
master_process off;
pid nginx.pid;
error_log nginx.log;
events {}
http {
  access_log access.log;
  client_max_body_size 50m;
  client_body_temp_path client_body;
  proxy_temp_path proxy;
  fastcgi_temp_path fastcgi;
  scgi_temp_path scgi;
  uwsgi_temp_path uwsgi;
  map $arg_precision $v1_precision { us u; "" n; default $arg_precision; }
  map $arg_bucket $v1_db { "~^(?<db>.*?)%2F.+$" $db; default $arg_bucket; }
  map $arg_bucket $v1_rp { "~^.*?%2F(?<rp>.+)$" $rp; default ""; }
  server {
    listen @LISTEN@;
    default_type application/json;
    location = /health {
      return 200 '{"name":"influxdb","message":"ready for queries and writes","status":"pass",\
"checks":[],"version":"1.6.7-v2-front","commit":"none"}';
    }
    location = /ping { proxy_pass http://@DATABASE@; }
    location = /query { proxy_pass http://@DATABASE@; }
    location = /api/v2/write {
      if ($http_authorization != "Token @TOKEN@") {
        return 401 '{"code":"unauthorized","message":"unauthorized access"}';
      }
      proxy_set_header Authorization "";
      proxy_pass http://@DATABASE@/write?db=$v1_db&rp=$v1_rp&precision=$v1_precision;
    }
  }
}
"""


def _http(port: int, method: Literal["GET", "POST"], path: str, form: str = "") -> tuple[int, str]:
    connection = http.client.HTTPConnection(HOST, port, timeout=30.0)
    try:
        headers = {"Content-Type": "application/x-www-form-urlencoded"} if form else {}
        connection.request(method, path, form or None, headers)
        response = connection.getresponse()
        return response.status, response.read().decode()
    finally:
        connection.close()
