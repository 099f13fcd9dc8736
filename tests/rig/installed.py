"""Programs of the operating system that tests start, and what becomes of a test without them."""

import os
import shutil
from typing import Final

import pytest

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
