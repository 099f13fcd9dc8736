"""Real servers for tests: mosquitto, and InfluxDB 1.6.7 behind nginx as the v2 write API.

A server lives in a directory of its own and on loopback ports of its own. Entering it as a
context manager starts it; leaving kills it, and so does the kernel when the test process dies.
`stop()` is SIGTERM, `kill()` is SIGKILL, and `start()` comes back with the same ports and data.

Not here: InfluxDB 2.x itself. 1.6.7 stores the good lines of a bad batch where 2.x stores none,
and never answers 422, 413 or 429. It takes any organisation.
"""

import http.client
import itertools
import json
import os
import random
import re
import shutil
import signal
import socket
import ssl
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, Self
from urllib.parse import urlencode

import pytest

HOST: Final = "127.0.0.1"
SHIPPED_CONFIGURATION: Final = Path(__file__).parents[2] / "collector" / "broker" / "mosquitto.conf"
"""What earshot ships for its broker, and what tests run theirs with."""
REQUIRE_SERVERS: Final = "EARSHOT_TESTS_REQUIRE_SERVERS"
"""Set to 1 where a missing server is a failure rather than a skip."""

_DEBIAN_PACKAGES: Final = {
    "cc": "gcc libc6-dev",
    "influxd": "influxdb",
    "mosquitto": "mosquitto",
    "mosquitto_passwd": "mosquitto",
    "mosquitto_sub": "mosquitto-clients",
    "nginx": "nginx-light",
    "openssl": "openssl",
    "pacat": "pulseaudio-utils",
    "setpriv": "util-linux",
    "systemctl": "systemd",
    "systemd-analyze": "systemd",
    "unshare": "util-linux",
}
_SBIN: Final = "/usr/local/sbin:/usr/sbin:/sbin"
"""Debian's home of mosquitto and nginx, absent from the PATH of an ordinary user."""

_PORTS: Final = range(20_000, 32_768)
"""Below Linux's ephemeral range (32768-60999). Inside it, a client that redials a stopped server
can be given the server's own port as its source and connect to itself."""


def _own_ports() -> list[int]:
    """Those of this process, at random, so that test runs beside each other seldom meet.

    Parallel workers of one run never meet: each has every so-manyth port. A port is free when it
    is looked at and taken only a moment later, and a stopped server wants its own again.
    """
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    own = _PORTS[worker :: int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))]
    return random.sample(own, len(own))


_SHUFFLED_PORTS: Final = itertools.cycle(_own_ports())

_START_SECONDS: Final = 30.0
_STOP_SECONDS: Final = 20.0
_POLL_SECONDS: Final = 0.01
_LOG_TAIL_LINES: Final = 30


class ServerError(Exception):
    """A server did not do what a test asked of it; the text ends with the tail of its log."""


class QueryError(Exception):
    """InfluxDB, or the front without it, refused a query."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(f"HTTP {status}: {text}")
        self.status = status


def require(program: str) -> str:
    """Path of an executable; without it the test skips, or fails where servers are required."""
    path = shutil.which(program, path=f"{os.environ.get('PATH', os.defpath)}:{_SBIN}")
    if path is not None:
        return path
    package = _DEBIAN_PACKAGES.get(program, program)
    reason = f"{program} is not installed (Debian package: {package})"
    if os.environ.get(REQUIRE_SERVERS) == "1":
        pytest.fail(f"{reason}, and {REQUIRE_SERVERS}=1 forbids to skip", pytrace=False)
    pytest.skip(reason)


def free_port() -> int:
    """A loopback port that nobody listens on, and that this process was not given lately."""
    return next(port for port in _SHUFFLED_PORTS if _is_free(port))


def wait_until(condition: Callable[[], bool], what: str, *, seconds: float = 30.0) -> None:
    """Poll until the condition holds.

    Raises:
        TimeoutError: It did not hold in time; the text says what was awaited.
    """
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"Expected within {seconds:g} s: {what}")
        time.sleep(_POLL_SECONDS)


class Server:
    """One process: a command, a port, a log file, and a question that shows that it answers."""

    def __init__(self, directory: Path, command: list[str], *, port: int) -> None:
        self.host = HOST
        self.port = port
        self.log_file = directory / f"{Path(command[0]).name}.log"
        self._directory = directory
        self._command = [*_dies_with_us(), *command]
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.kill()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    @property
    def running(self) -> bool:
        """False after `stop`, after `kill`, and after a crash."""
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Start and wait for the first answer.

        Call it from a thread that outlives the server: the kernel kills a server when the
        thread that started it ends.

        Raises:
            ServerError: It is running already, its port is taken, it exited, or it is silent.
        """
        if self.running:
            raise self._error("Expected a stopped server, got a running one")
        if not _is_free(self.port):
            # A stranger there would answer the question below in the server's place.
            raise self._error(f"Expected port {self.port} to be free, got a listener")
        with self.log_file.open("ab") as log:
            self._process = subprocess.Popen(
                self._command,
                cwd=self._directory,
                env=_environment(self._directory),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # Ctrl-C is for pytest, whose finalizers stop the server.
            )
        try:
            wait_until(self._has_exited_or_answers, "an answer", seconds=_START_SECONDS)
        except TimeoutError as error:
            self.kill()
            raise self._error(str(error)) from error
        if not self.running:
            status, self._process = self._process.returncode, None
            raise self._error(f"Expected a running server, got exit status {status}")

    def stop(self) -> None:
        """SIGTERM, and wait until it has left in good order; nothing on a stopped server.

        Raises:
            ServerError: It had crashed before, or does not leave.
        """
        process, self._process = self._process, None
        if process is None:
            return
        if process.poll() is not None:
            raise self._error(f"Expected a running server, got exit status {process.returncode}")
        process.terminate()
        try:
            process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired as error:
            process.kill()
            process.wait()
            raise self._error(f"Expected an exit within {_STOP_SECONDS:g} s of SIGTERM") from error

    def kill(self) -> None:
        """SIGKILL, and wait until it is gone; nothing on a stopped server."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait()

    def send_signal(self, number: signal.Signals) -> None:
        """Any other signal, SIGSTOP and SIGCONT among them."""
        if self._process is None or self._process.poll() is not None:
            raise self._error("Expected a running server, got a stopped one")
        self._process.send_signal(number)

    def log(self) -> str:
        """Everything it has logged, over all its starts."""
        return self.log_file.read_text("utf-8", "replace") if self.log_file.exists() else ""

    def _answers(self) -> bool:
        """True once it does its work, not merely once the kernel accepts for it."""
        raise NotImplementedError

    def _has_exited_or_answers(self) -> bool:
        if not self.running:
            return True
        try:
            return self._answers()
        except (OSError, http.client.HTTPException):
            return False

    def _error(self, text: str) -> ServerError:
        tail = "\n".join(self.log().splitlines()[-_LOG_TAIL_LINES:]) or "(empty)"
        return ServerError(f"{self.log_file.stem}: {text}\n{self.log_file}:\n{tail}")


@dataclass(frozen=True, slots=True)
class Certificate:
    """A certificate and its private key, in PEM."""

    cert_file: Path
    key_file: Path


class CertificateAuthority:
    """A private CA in a directory; a second one elsewhere is a foreign CA."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self._directory = directory
        self._openssl = require("openssl")
        # Our own: the system's openssl.cnf adds extensions that differ between distributions.
        self._config_file = directory / "openssl.cnf"
        self._config_file.write_text("[req]\ndistinguished_name = dn\n[dn]\n")
        ca = self._request(
            "ca",
            "earshot test CA",
            "basicConstraints=critical,CA:TRUE",
            "keyUsage=critical,keyCertSign,cRLSign",
        )
        self.ca_file = ca.cert_file
        self._signer = ["-CA", str(ca.cert_file), "-CAkey", str(ca.key_file)]

    def server(self) -> Certificate:
        """For `localhost` and 127.0.0.1."""
        return self._leaf(
            "server", "localhost", "serverAuth", "subjectAltName=DNS:localhost,IP:127.0.0.1"
        )

    def client(self, name: str) -> Certificate:
        """For a client whose user name, the common name, is `name`."""
        return self._leaf(f"client-{name}", name, "clientAuth")

    def client_context(self, name: str) -> ssl.SSLContext:
        """For a client that trusts this CA and shows it a certificate of this name."""
        certificate = self.client(name)
        context = ssl.create_default_context(cafile=self.ca_file)
        context.load_cert_chain(certificate.cert_file, certificate.key_file)
        return context

    def _leaf(self, file: str, name: str, usage: str, *extensions: str) -> Certificate:
        return self._request(
            file,
            name,
            "basicConstraints=critical,CA:FALSE",
            "keyUsage=critical,digitalSignature",
            f"extendedKeyUsage={usage}",
            "authorityKeyIdentifier=keyid",
            *extensions,
            signer=self._signer,
        )

    def _request(
        self, file: str, name: str, *extensions: str, signer: list[str] | None = None
    ) -> Certificate:
        made = Certificate(self._directory / f"{file}.crt", self._directory / f"{file}.key")
        command = [self._openssl, "req", "-x509", "-config", str(self._config_file), "-days", "2"]
        command += ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
        command += ["-subj", f"/CN={name}", "-addext", "subjectKeyIdentifier=hash"]
        command += [part for extension in extensions for part in ("-addext", extension)]
        command += ["-keyout", str(made.key_file), "-out", str(made.cert_file), *(signer or [])]
        _run(command)
        return made


class Mosquitto(Server):
    """A mosquitto broker with persistence.

    Args:
        directory: Its own; made if absent.
        users: Passwords by user name. Without users anybody may connect.
        acl: Text of an ACL file.
        tls: A private CA and a certificate for `localhost` and 127.0.0.1. With users they log in
            by password; without, a client certificate is required and its name is the user.
        extra: Further lines of configuration, after those of the listener; they win.
        shipped: Whether it is set as earshot's own broker is, or as mosquitto is by default.
    """

    def __init__(
        self,
        directory: Path,
        *,
        users: dict[str, str] | None = None,
        acl: str | None = None,
        tls: bool = False,
        extra: str = "",
        shipped: bool = True,
    ) -> None:
        (directory / "data").mkdir(parents=True, exist_ok=True)
        config_file = directory / "mosquitto.conf"
        super().__init__(
            directory, [require("mosquitto"), "-c", str(config_file)], port=free_port()
        )
        self._authority = CertificateAuthority(directory / "certificates") if tls else None
        self._tls = self._authority.client_context("probe") if self._authority else None
        own = {
            "persistence_location": f"{directory}/data/",
            "listener": f"{self.port} {self.host}",
        }
        base = SHIPPED_CONFIGURATION.read_text("utf-8") if shipped else ""
        lines = [_with_own(base, own), "log_type all"]
        if os.geteuid() == 0:
            # Else it turns into user `mosquitto`, who cannot write to a directory of root's.
            lines.append("user root")
        lines += self._identity_lines(users)
        if acl is not None:
            lines.append(f"acl_file {_write_private(directory / 'acl', acl)}")
        config_file.write_text("\n".join([*lines, extra, ""]))

    @property
    def url(self) -> str:
        """`mqtt://` or, with TLS, `mqtts://`."""
        return f"{'mqtts' if self._authority else 'mqtt'}://{self.host}:{self.port}"

    @property
    def ca_file(self) -> Path:
        """The CA that signed its certificate; only with `tls=True`."""
        return self._required_authority.ca_file

    def client_certificate(self, name: str) -> Certificate:
        """A new client certificate for this user name; only with `tls=True`."""
        return self._required_authority.client(name)

    def save(self) -> None:
        """Write to disk now all that the broker has acknowledged, so that a SIGKILL spares it."""
        before = self._saved()
        self.send_signal(signal.SIGUSR1)
        try:
            wait_until(lambda: self._saved() not in {None, before}, "a saved database")
        except TimeoutError as error:
            raise self._error(str(error)) from error

    @property
    def _required_authority(self) -> CertificateAuthority:
        if self._authority is None:
            raise ValueError("Expected Mosquitto(..., tls=True), got a broker without TLS")
        return self._authority

    def _identity_lines(self, users: dict[str, str] | None) -> list[str]:
        lines = []
        if self._authority is not None:
            server = self._authority.server()
            lines += [
                f"cafile {self._authority.ca_file}",
                f"certfile {server.cert_file}",
                f"keyfile {server.key_file}",
            ]
        if users is not None:
            password_file = _write_private(self._directory / "passwords", "")
            for user, password in users.items():
                # One by one: -U, which converts a whole file, cuts a password at its colon.
                _run([require("mosquitto_passwd"), "-b", str(password_file), user, password])
            lines += ["allow_anonymous false", f"password_file {password_file}"]
        elif self._authority is not None:
            lines += ["require_certificate true", "use_identity_as_username true"]
            lines += ["allow_anonymous false"]
        else:
            lines += ["allow_anonymous true"]
        return lines

    def _saved(self) -> tuple[int, int] | None:
        # Each save is a new file renamed over the old one.
        try:
            status = (self._directory / "data" / "mosquitto.db").stat()
        except FileNotFoundError:
            return None
        return status.st_ino, status.st_mtime_ns

    def _answers(self) -> bool:
        connection = socket.create_connection((self.host, self.port), timeout=1.0)
        try:
            if self._tls is not None:
                connection = self._tls.wrap_socket(connection, server_hostname=self.host)
            connection.sendall(_CONNECT)
            return connection.recv(1) == b"\x20"  # CONNACK, be it a refusal.
        finally:
            connection.close()


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


_CONNECT: Final = b"\x10\x0c\x00\x04MQTT\x04\x02\x00\x05\x00\x00"
"""MQTT 3.1.1 CONNECT: clean session, keep-alive 5 s, no client identifier."""

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


def _with_own(configuration: str, own: dict[str, str]) -> str:
    """A mosquitto.conf with these settings in place of its own, or after them where it has none."""
    for name, value in own.items():
        line = f"{name} {value}"
        configuration, count = re.subn(
            rf"^{name} .*$", line.replace("\\", r"\\"), configuration, flags=re.MULTILINE
        )
        configuration += "" if count else f"{line}\n"
    return configuration


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        # As the servers do: connections of a predecessor in TIME_WAIT are no obstacle.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
    return True


def _dies_with_us() -> list[str]:
    # The kernel's PR_SET_PDEATHSIG covers a pytest that dies by SIGKILL. setpriv (util-linux)
    # sets it without a preexec_fn, which can deadlock beside the threads of a client.
    setpriv = shutil.which("setpriv")
    return [setpriv, "--pdeathsig", "KILL", "--"] if setpriv else []


def _environment(directory: Path) -> dict[str, str]:
    # Ours could change the servers: INFLUXDB_* override the configuration, OPENSSL_CONF the TLS.
    return {"HOME": str(directory), "PATH": os.environ.get("PATH", os.defpath), "TZ": "UTC"}


def _write_private(file: Path, text: str) -> Path:
    file.touch(mode=0o600)  # mosquitto warns of passwords and ACLs that others can read.
    file.write_text(text)
    return file


def _run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise ServerError(f"{command} exited with {done.returncode}:\n{done.stderr}")


def _http(port: int, method: Literal["GET", "POST"], path: str, form: str = "") -> tuple[int, str]:
    connection = http.client.HTTPConnection(HOST, port, timeout=30.0)
    try:
        headers = {"Content-Type": "application/x-www-form-urlencoded"} if form else {}
        connection.request(method, path, form or None, headers)
        response = connection.getresponse()
        return response.status, response.read().decode()
    finally:
        connection.close()
