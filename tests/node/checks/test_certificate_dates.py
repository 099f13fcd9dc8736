"""Until when a certificate is good."""

import datetime as dt
import ssl
from pathlib import Path

import pytest

from node.checks.certificate_dates import expiry, first_expiry
from tests.rig.certificates import CertificateAuthority


def test_date_is_that_of_openssl(tmp_path: Path) -> None:
    """The end of a certificate that OpenSSL has made for two days is two days from now."""
    certificate = CertificateAuthority(tmp_path).client("press-07")

    ends = first_expiry(certificate.cert_file)

    left = ends - dt.datetime.now(dt.UTC)
    assert dt.timedelta(days=1, hours=23) < left <= dt.timedelta(days=2)


def test_date_is_that_of_pythons_own_reader(tmp_path: Path) -> None:
    """Python's ssl, which reads only authorities, gives the same date for one."""
    file = CertificateAuthority(tmp_path).ca_file
    context = ssl.create_default_context(cafile=file)
    (told,) = context.get_ca_certs()

    seconds = ssl.cert_time_to_seconds(str(told["notAfter"]))

    assert first_expiry(file) == dt.datetime.fromtimestamp(seconds, dt.UTC)


@pytest.mark.parametrize(
    ("time", "expected"),
    [
        (b"\x17\x0d491231235959Z", dt.datetime(2049, 12, 31, 23, 59, 59, tzinfo=dt.UTC)),
        (b"\x17\x0d500101000000Z", dt.datetime(1950, 1, 1, tzinfo=dt.UTC)),
        (b"\x18\x0f20500101000000Z", dt.datetime(2050, 1, 1, tzinfo=dt.UTC)),
    ],
)
def test_both_forms_of_time_are_read(time: bytes, expected: dt.datetime) -> None:
    """Two digits of a year are of 1950 to 2049, four are what they are."""
    begin = b"\x17\x0d200101000000Z"
    validity = b"\x30" + bytes([len(begin) + len(time)]) + begin + time
    fields = b"\x02\x01\x01" + b"\x30\x00" + b"\x30\x00" + validity
    inner = b"\x30" + bytes([len(fields)]) + fields

    assert expiry(b"\x30" + bytes([len(inner)]) + inner) == expected


@pytest.mark.parametrize("content", [b"", b"\x30", b"\x30\x05\x30\x03\x02\x01\x01", b"nothing"])
def test_what_is_no_certificate_is_refused(content: bytes) -> None:
    """Bytes that end too early, or never were a certificate, are a ValueError."""
    with pytest.raises(ValueError, match="Expected"):
        expiry(content)


def test_file_without_certificate_is_refused(tmp_path: Path) -> None:
    """A key where a certificate should be is told by the file's name."""
    file = tmp_path / "press-07.key"
    file.write_text("-----BEGIN PRIVATE KEY-----\n")

    with pytest.raises(ValueError, match=r"got none in .*press-07\.key"):
        first_expiry(file)
