"""What is not installed, and what does not come about, is said."""

import os

import pytest

from tests.rig import installed
from tests.rig.installed import REQUIRE_SERVERS, require
from tests.rig.waiting import wait_until


def test_wait_until_gives_up() -> None:
    """A condition that never holds ends in an error that names it."""
    with pytest.raises(TimeoutError, match="a miracle"):
        wait_until(lambda: False, "a miracle", seconds=0.0)


def test_require_looks_where_daemons_live(monkeypatch: pytest.MonkeyPatch) -> None:
    """/usr/sbin is searched though PATH does not name it."""
    expected = require("mosquitto")
    monkeypatch.setenv("PATH", "/nonexistent")

    if not expected.startswith(("/usr/sbin/", "/usr/local/sbin/", "/sbin/")):
        pytest.skip(f"mosquitto is in another place here: {expected}")
    assert require("mosquitto") == expected


def test_require_skips(monkeypatch: pytest.MonkeyPatch) -> None:
    """A missing program skips, and names the Debian package."""
    monkeypatch.delenv(REQUIRE_SERVERS, raising=False)
    without_programs(monkeypatch)

    with pytest.raises(pytest.skip.Exception, match="nginx-light"):
        require("nginx")


def test_require_fails_in_ci(monkeypatch: pytest.MonkeyPatch) -> None:
    """A missing program fails where servers are required, and names the Debian package."""
    monkeypatch.setenv(REQUIRE_SERVERS, "1")
    without_programs(monkeypatch)

    with pytest.raises(pytest.fail.Exception, match="nginx-light"):
        require("nginx")


def without_programs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", os.devnull)
    monkeypatch.setattr(installed, "_SBIN", os.devnull)
