"""Whether the collector is healthy, and who is told so."""

import socket
import urllib.error
import urllib.request

import pytest

from collector.__main__ import main
from collector.commands import EXIT_NOT_DONE
from collector.health_endpoint import HealthAddressError, ask, served
from collector.metrics import Metrics
from contract.errors import EXIT_BAD_INPUT
from tests.rig.ports import free_port

STALL_S = 60.0


def well() -> Metrics:
    metrics = Metrics()
    metrics.disconnected_at = None
    return metrics


def test_whoever_asks_is_told() -> None:
    """With status 200 or 503, and the reason."""
    metrics = well()
    metrics.counts["received"] = 12
    with served("127.0.0.1:0", metrics, stall_seconds=STALL_S) as where:
        assert where is not None
        good = ask(where)
        metrics.disconnected_at = metrics.began_at - 100.0
        with pytest.raises(urllib.error.HTTPError) as caught:
            urllib.request.urlopen(f"http://{where}/health", timeout=5.0)
        with caught.value:
            assert caught.value.code == 503
        bad = ask(where)
        with pytest.raises(urllib.error.HTTPError) as caught:
            urllib.request.urlopen(f"http://{where}/", timeout=5.0)
        with caught.value:
            assert caught.value.code == 404

    assert (good.healthy, good.reason, good.received, good.connected) == (True, None, 12, True)
    assert (bad.healthy, bad.connected) == (False, False)
    assert bad.reason is not None
    assert bad.reason.startswith("no connection to the broker for 1")


def test_nobody_is_told_where_nothing_listens() -> None:
    """Which is not healthy, and no error."""
    found = ask(f"127.0.0.1:{free_port()}")

    assert not found.healthy
    assert found.reason is not None
    assert "refused" in found.reason


def test_address_that_is_taken_is_one_line() -> None:
    """At the start."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        listen = f"127.0.0.1:{other.getsockname()[1]}"
        with (
            pytest.raises(HealthAddressError, match="Address already in use"),
            served(listen, well(), stall_seconds=STALL_S),
        ):
            pass


@pytest.mark.parametrize("listen", ["127.0.0.1:99999", "no-such-host.invalid:8088"])
def test_address_that_is_none_is_one_line(listen: str) -> None:
    """With the name of the setting."""
    with (
        pytest.raises(HealthAddressError, match="health_listen"),
        served(listen, well(), stall_seconds=STALL_S),
    ):
        pass


def test_command_asks_and_its_exit_code_is_the_answer(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """For a container's health check."""
    metrics = well()
    with served("127.0.0.1:0", metrics, stall_seconds=STALL_S) as where:
        assert where is not None
        monkeypatch.setenv("EARSHOT_COLLECTOR_HEALTH_LISTEN", where)
        codes = [main(["health"])]
        metrics.waiting_since = metrics.began_at - 100.0
        codes.append(main(["health"]))
    codes.append(main(["health"]))
    monkeypatch.delenv("EARSHOT_COLLECTOR_HEALTH_LISTEN")
    codes.append(main(["health"]))

    assert codes == [0, EXIT_NOT_DONE, EXIT_NOT_DONE, EXIT_BAD_INPUT]
    first, second, third = capsys.readouterr().out.splitlines()
    assert first == "healthy"
    assert second.startswith("not healthy: messages wait and cannot be stored for 1")
    assert third.startswith("not healthy: no answer from 127.0.0.1:")
