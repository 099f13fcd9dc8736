"""Until when a certificate is good, read from its DER: a node has no library for certificates."""

import datetime as dt
import ssl
from pathlib import Path

_SEQUENCE = 0x30
_VERSION = 0xA0
_UTC_TIME = 0x17
_GENERALIZED_TIME = 0x18
_BEGIN = "-----BEGIN CERTIFICATE-----"
_END = "-----END CERTIFICATE-----"


def first_expiry(file: Path) -> dt.datetime:
    """When the first certificate of a PEM file ends, in UTC.

    Raises:
        OSError: the file cannot be read.
        ValueError: there is no certificate in it.
    """
    text = file.read_text("ascii", errors="replace")
    start = text.find(_BEGIN)
    end = text.find(_END, start)
    if start < 0 or end < 0:
        raise ValueError(f"Expected a certificate in PEM, got none in {file}")
    return expiry(ssl.PEM_cert_to_DER_cert(text[start : end + len(_END)]))


def expiry(der: bytes) -> dt.datetime:
    """When a certificate ends, in UTC (RFC 5280, 4.1: `tbsCertificate.validity.notAfter`).

    Raises:
        ValueError: these bytes are no certificate.
    """
    certificate, _ = _element(der, _SEQUENCE)
    fields, _ = _element(certificate, _SEQUENCE)
    if fields[:1] == bytes([_VERSION]):
        _, fields = _element(fields, _VERSION)
    for _ in ("serial number", "signature", "issuer"):
        _, fields = _element(fields)
    validity, _ = _element(fields, _SEQUENCE)
    _, not_after = _element(validity)
    kind = not_after[:1]
    text, _ = _element(not_after)
    if kind == bytes([_UTC_TIME]):
        # Two digits: 50 to 99 are of the last century.
        text = (b"19" if text[:1] >= b"5" else b"20") + text
    elif kind != bytes([_GENERALIZED_TIME]):
        raise ValueError(f"Expected a time, got an element {kind.hex()}")
    return dt.datetime.strptime(text.decode("ascii"), "%Y%m%d%H%M%SZ").replace(tzinfo=dt.UTC)


def _element(data: bytes, tag: int | None = None) -> tuple[bytes, bytes]:
    """Content of the first DER element, and what follows it."""
    if len(data) < 2 or (tag is not None and data[0] != tag):
        raise ValueError("Expected a certificate, got something else")
    length, start = data[1], 2
    if length & 0x80:
        start = 2 + (length & 0x7F)
        length = int.from_bytes(data[2:start], "big")
    if len(data) < start + length:
        raise ValueError("Expected a whole certificate, got a part of one")
    return data[start : start + length], data[start + length :]
