"""A private certificate authority and the broker's certificate: bytes in, bytes out.

Elliptic keys (P-256), which every TLS library of a Pi has. The authority signs nothing but the
broker's certificate, so one that a node trusts vouches for no other host than it was made for.
"""

import datetime as dt
import ipaddress
from typing import NamedTuple

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from training.errors import EnrolmentError

AUTHORITY_DAYS = 3650
"""Its end is the end of every node's trust: each needs a new file then."""
SERVER_DAYS = 730
"""Renewing it asks nothing of the nodes."""

_BACKDATED = dt.timedelta(days=1)
"""A Pi whose clock is a little behind takes it as well."""
_CRITICAL = True


class Pair(NamedTuple):
    """A certificate and its private key, in PEM."""

    certificate: bytes
    key: bytes


def new_authority(now: dt.datetime) -> Pair:
    """Make a certificate authority of one's own."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"earshot {now:%Y-%m-%d}")])
    identifier = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
    certificate = (
        _started(name, name, key.public_key(), now, days=AUTHORITY_DAYS)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=_CRITICAL)
        .add_extension(_usage(signs_certificates=True), critical=_CRITICAL)
        .add_extension(identifier, critical=not _CRITICAL)
        .sign(key, hashes.SHA256())
    )
    return _pem(certificate, key)


def new_server_certificate(authority: Pair, hosts: tuple[str, ...], now: dt.datetime) -> Pair:
    """Make a certificate for the broker, with a new key.

    Args:
        authority: who signs it.
        hosts: names and addresses under which clients reach it.
        now: from when on it is good, a day before that included.

    Raises:
        EnrolmentError: the authority's key cannot be used, or it has ended.
    """
    issuer = x509.load_pem_x509_certificate(authority.certificate)
    signing = load_pem_private_key(authority.key, None)
    if not isinstance(signing, ec.EllipticCurvePrivateKey):
        raise EnrolmentError("Expected an authority with an elliptic key, got another kind")
    if issuer.not_valid_after_utc <= now:
        raise EnrolmentError(
            f"The authority ended on {issuer.not_valid_after_utc:%Y-%m-%d}: docs/operations.md says"
            " how to make another"
        )
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, hosts[0][:64])])
    names = x509.SubjectAlternativeName([_host(host) for host in hosts])
    issued_by = x509.AuthorityKeyIdentifier.from_issuer_public_key(signing.public_key())
    identifier = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
    usage = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH])
    certificate = (
        _started(name, issuer.subject, key.public_key(), now, days=SERVER_DAYS)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=_CRITICAL)
        .add_extension(_usage(signs_certificates=False), critical=_CRITICAL)
        .add_extension(usage, critical=not _CRITICAL)
        .add_extension(names, critical=not _CRITICAL)
        .add_extension(issued_by, critical=not _CRITICAL)
        .add_extension(identifier, critical=not _CRITICAL)
        .sign(signing, hashes.SHA256())
    )
    return _pem(certificate, key)


def ends(certificate: bytes) -> dt.datetime:
    """Until when a certificate in PEM is good, in UTC."""
    return x509.load_pem_x509_certificate(certificate).not_valid_after_utc


def hosts_of(certificate: bytes) -> tuple[str, ...]:
    """The names and addresses that a certificate in PEM was made for, in their order."""
    extensions = x509.load_pem_x509_certificate(certificate).extensions
    names = extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    return tuple(str(name.value) for name in names)


def _started(
    name: x509.Name,
    issuer: x509.Name,
    key: ec.EllipticCurvePublicKey,
    now: dt.datetime,
    *,
    days: int,
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _BACKDATED)
        .not_valid_after(now + dt.timedelta(days=days))
    )


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _host(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _pem(certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey) -> Pair:
    return Pair(
        certificate.public_bytes(Encoding.PEM),
        key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()),
    )
