"""A server starts, stops and dies as tests of earshot lean on."""

import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.rig.brokers import Mosquitto
from tests.rig.installed import require
from tests.rig.server import ServerError
from tests.rig.waiting import wait_until


def test_a_server_that_exits_shows_its_log(tmp_path: Path) -> None:
    """A broker that refuses its configuration fails at once, with the reason it logged."""
    with (
        pytest.raises(ServerError, match=r"(?s)exit status 3.*no_such_option"),
        Mosquitto(tmp_path / "m", extra="no_such_option true"),
    ):
        pass


def test_a_server_does_not_share_its_port(tmp_path: Path) -> None:
    """A stranger that listens on the port is not taken for the server."""
    server = Mosquitto(tmp_path / "m")
    with socket.create_server((server.host, server.port)):
        with pytest.raises(ServerError, match="to be free"):
            server.start()

        assert not server.running


def test_stop_reports_a_crash(mosquitto: Mosquitto) -> None:
    """A server that had left by itself does not stop in silence."""
    mosquitto.send_signal(signal.SIGKILL)
    wait_until(lambda: not mosquitto.running, "a dead broker")

    with pytest.raises(ServerError, match="exit status -9"):
        mosquitto.stop()


def test_stop_and_kill_again_do_nothing(mosquitto: Mosquitto) -> None:
    """A stopped server may be stopped and killed again."""
    mosquitto.stop()
    mosquitto.stop()
    mosquitto.kill()

    assert not mosquitto.running


ROOT = Path(__file__).parents[2]


ORPHANS = """
import sys
from pathlib import Path
from tests.rig.brokers import Mosquitto
from tests.rig.databases import InfluxDb
directory = Path(sys.argv[1])
with Mosquitto(directory / "m") as broker, InfluxDb(directory / "i") as database:
    print(broker.port, database.port, database.url.rpartition(":")[2], flush=True)
    sys.stdin.read()
"""


def test_servers_die_with_a_killed_test_run(tmp_path: Path) -> None:
    """SIGKILL of the process that started them leaves no server behind."""
    for program in ("setpriv", "mosquitto", "influxd", "nginx"):
        require(program)
    with subprocess.Popen(
        [sys.executable, "-c", ORPHANS, str(tmp_path)],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as run:
        assert run.stdout is not None
        ports = [int(port) for port in run.stdout.readline().split()]
        were_up = [is_open(port) for port in ports]

        run.kill()

    assert were_up == [True, True, True]
    wait_until(lambda: not any(map(is_open, ports)), "three closed ports")


def is_open(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
