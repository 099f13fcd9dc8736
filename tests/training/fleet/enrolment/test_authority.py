"""Certificates as the openssl program and Python's TLS see them."""

import datetime as dt
import ssl
import subprocess
from pathlib import Path

import pytest

from node.checks.certificate_dates import expiry
from tests.rig.installed import require
from training.errors import EnrolmentError
from training.fleet.enrolment import authority
from training.fleet.enrolment.authority import Pair

NOW = dt.datetime(2026, 11, 30, 12, tzinfo=dt.UTC)
HOSTS = ("broker.example", "10.1.2.3", "fd00::1", "mosquitto")


@pytest.fixture(scope="module")
def ours() -> Pair:
    return authority.new_authority(NOW)


def verify(tmp_path: Path, ca: bytes, leaf: bytes, *options: str) -> str:
    """What openssl says of a certificate for a server."""
    for name, content in (("ca", ca), ("leaf", leaf)):
        (tmp_path / name).write_bytes(content)
    command = [require("openssl"), "verify", "-x509_strict", "-purpose", "sslserver"]
    command += ["-CAfile", str(tmp_path / "ca"), "-attime", f"{NOW.timestamp():.0f}"]
    done = subprocess.run(
        [*command, *options, str(tmp_path / "leaf")], capture_output=True, text=True, check=False
    )
    return done.stdout.strip().splitlines()[-1] if done.returncode == 0 else done.stderr


def test_certificate_is_good_by_strict_rules(tmp_path: Path, ours: Pair) -> None:
    """For each of its names and addresses."""
    leaf = authority.new_server_certificate(ours, HOSTS, NOW).certificate
    good = f"{tmp_path}/leaf: OK"

    for option, host in zip(("-verify_hostname", "-verify_ip", "-verify_ip"), HOSTS, strict=False):
        assert verify(tmp_path, ours.certificate, leaf, option, host) == good
    assert authority.hosts_of(leaf) == HOSTS


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (("-verify_hostname", "elsewhere.example"), "hostname mismatch"),
        (("-verify_ip", "10.1.2.4"), "IP address mismatch"),
        (("-purpose", "sslclient"), "purpose"),
    ],
)
def test_certificate_is_good_for_nothing_else(
    tmp_path: Path, ours: Pair, options: tuple[str, str], reason: str
) -> None:
    """Neither for another host, nor to log in with."""
    leaf = authority.new_server_certificate(ours, HOSTS, NOW).certificate

    assert reason in verify(tmp_path, ours.certificate, leaf, *options)


def test_another_authority_does_not_vouch(tmp_path: Path, ours: Pair) -> None:
    """Each `secrets` makes its own; one made on the same day is not confused with it."""
    leaf = authority.new_server_certificate(ours, HOSTS, NOW).certificate

    assert "error" in verify(tmp_path, authority.new_authority(NOW).certificate, leaf)


def test_a_servers_certificate_signs_nothing(tmp_path: Path, ours: Pair) -> None:
    """Who steals the broker's key cannot make certificates."""
    server = authority.new_server_certificate(ours, HOSTS, NOW)
    forged = authority.new_server_certificate(server, ("elsewhere.example",), NOW).certificate
    chain = server.certificate + ours.certificate

    assert "error" in verify(tmp_path, ours.certificate, forged)
    assert "error" in verify(tmp_path, chain, forged)


def test_ends_are_those_that_a_node_reads(ours: Pair) -> None:
    """`node check` warns by the same date."""
    leaf = authority.new_server_certificate(ours, HOSTS, NOW).certificate

    assert authority.ends(leaf) == NOW + dt.timedelta(days=authority.SERVER_DAYS)
    assert expiry(ssl.PEM_cert_to_DER_cert(leaf.decode())) == authority.ends(leaf)


def test_an_authority_that_has_ended_signs_nothing_more(ours: Pair) -> None:
    """Nodes would refuse what it signs."""
    late = NOW + dt.timedelta(days=authority.AUTHORITY_DAYS + 1)

    with pytest.raises(EnrolmentError, match="ended on 2036"):
        authority.new_server_certificate(ours, HOSTS, late)
