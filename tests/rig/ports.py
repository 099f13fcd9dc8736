"""Loopback ports for what tests start."""

import itertools
import os
import random
import socket
from typing import Final

HOST: Final = "127.0.0.1"

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


def free_port() -> int:
    """A loopback port that nobody listens on, and that this process was not given lately."""
    return next(port for port in _SHUFFLED_PORTS if is_free(port))


def is_free(port: int) -> bool:
    """Whether a server may listen there."""
    with socket.socket() as probe:
        # As the servers do: connections of a predecessor in TIME_WAIT are no obstacle.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
    return True
