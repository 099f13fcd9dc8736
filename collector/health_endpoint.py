"""`GET /health`: 200 while messages are stored, 503 with the reason while they are not.

    {"healthy":true,"reason":null,"connected":true,"received":1234,...}

For a container's health check and a watchdog; `earshot collector health` asks it.
"""

import logging
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import msgspec

from collector.metrics import Metrics
from contract.errors import EarshotError
from contract.printable import printable

logger = logging.getLogger(__name__)

PATH = "/health"
_ANSWER_SECONDS = 5.0
_ANYWHERE = frozenset(("0.0.0.0", "::"))  # noqa: S104 - what may be listened on, not done here


class HealthAddressError(EarshotError):
    """Nothing can listen, or be asked, there."""


class HealthReport(msgspec.Struct, frozen=True, kw_only=True):
    """What is answered."""

    healthy: bool
    reason: str | None
    uptime_s: float
    connected: bool
    storing: bool
    """Whether the last write has worked."""
    received: int
    stored_points: int
    waiting_messages: int
    waiting_s: float
    """How long the oldest of them has waited."""
    missing_windows: int


def report(metrics: Metrics, *, now_seconds: float, stall_seconds: float) -> HealthReport:
    """How the collector is now."""
    reason = metrics.trouble(now_seconds=now_seconds, stall_seconds=stall_seconds)
    since = metrics.waiting_since
    return HealthReport(
        healthy=reason is None,
        reason=reason,
        uptime_s=round(now_seconds - metrics.began_at, 1),
        connected=metrics.disconnected_at is None,
        storing=metrics.storing,
        received=metrics.counts["received"],
        stored_points=metrics.counts["stored"],
        waiting_messages=metrics.waiting_messages,
        waiting_s=0.0 if since is None else round(now_seconds - since, 1),
        missing_windows=metrics.missing_windows,
    )


@contextmanager
def served(listen: str | None, metrics: Metrics, *, stall_seconds: float) -> Iterator[str | None]:
    """Answer as long as the context lasts.

    Args:
        listen: host and port; None answers nobody.
        metrics: what is told.
        stall_seconds: see `Metrics.trouble`.

    Yields:
        Where, with the port that was chosen for port 0.

    Raises:
        HealthAddressError: nothing can listen there.
    """
    if listen is None:
        yield None
        return

    class Handler(BaseHTTPRequestHandler):
        # Whoever connects and says nothing holds a thread for so long.
        timeout = _ANSWER_SECONDS

        def do_GET(self) -> None:
            if self.path.partition("?")[0] != PATH:
                self.send_error(HTTPStatus.NOT_FOUND)
                return
            found = report(metrics, now_seconds=time.monotonic(), stall_seconds=stall_seconds)
            body = msgspec.json.encode(found) + b"\n"
            healthy = HTTPStatus.OK if found.healthy else HTTPStatus.SERVICE_UNAVAILABLE
            self.send_response(healthy)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base's name
            logger.debug("health: %s", printable(format % args))

    host, port = _split(listen)
    try:
        server = _Server((host, port), Handler)
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or error
        raise HealthAddressError(f"[collector] health_listen: {listen}: {reason}") from error
    where = f"{listen.rpartition(':')[0]}:{server.server_port}"
    logger.info("health is served at http://%s%s", where, PATH)
    thread = threading.Thread(target=server.serve_forever, name="health", daemon=True)
    thread.start()
    try:
        yield where
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def ask(listen: str) -> HealthReport:
    """How the collector that listens there is; not healthy when nobody answers.

    Raises:
        HealthAddressError: nobody can be asked there.
    """
    host, port = _split(listen)
    if port == 0:
        raise HealthAddressError(
            "[collector] health_listen: port 0 is another one at each start; give a port to ask at"
        )
    host = "localhost" if host in _ANYWHERE else f"[{host}]" if ":" in host else host
    # No proxy: it is this machine.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(f"http://{host}:{port}{PATH}", timeout=_ANSWER_SECONDS) as response:
            body = response.read()
    except urllib.error.HTTPError as error:
        with error:
            body = error.read()
    except OSError as error:
        reason = getattr(error, "reason", error)
        return _unhealthy(f"no answer from {listen}: {reason}")
    try:
        return msgspec.json.decode(body, type=HealthReport)
    except msgspec.MsgspecError:
        return _unhealthy(f"{listen}: expected a collector's health, got another answer")


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, address: tuple[str, int], handler: type[BaseHTTPRequestHandler]) -> None:
        if ":" in address[0]:
            import socket

            self.address_family = socket.AF_INET6
        super().__init__(address, handler)

    def handle_error(self, request: object, client_address: object) -> None:
        # Whoever asked has hung up: no trace on standard error for that.
        logger.debug("health: an answer was not heard")


def _split(listen: str) -> tuple[str, int]:
    host, _, port = listen.rpartition(":")
    return host.strip("[]"), int(port)


def _unhealthy(reason: str) -> HealthReport:
    return HealthReport(
        healthy=False,
        reason=reason,
        uptime_s=0.0,
        connected=False,
        storing=False,
        received=0,
        stored_points=0,
        waiting_messages=0,
        waiting_s=0.0,
        missing_windows=0,
    )
